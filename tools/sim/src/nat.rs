//! A network address translator whose mappings end.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// What a NAT lets in, and how it maps, on the sockets of peer tunnels; towards servers all are alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NatKind {
    /// Whoever sends to a mapping reaches it ("full cone").
    Open,
    /// Whom the host has sent to, by address and port ("port-restricted cone").
    #[default]
    Restricted,
    /// The same, and another mapping for each receiver.
    Symmetric,
}

/// An endpoint-independent NAT (RFC 4787) for datagrams and streams. A datagram mapping that was idle for too long
/// is gone: what comes for it is dropped, and the next packet from inside gets another port, as RFC 4787 allows.
#[derive(Clone, Debug)]
pub struct Nat {
    /// Outer address.
    public: IpAddr,
    /// How long a mapping lives without traffic from inside.
    pub idle: Duration,
    /// What it lets in.
    pub kind: NatKind,
    next_port: u16,
    mappings: BTreeMap<SocketAddr, Mapping>,
    /// Of sockets that talk to many: inside, and for symmetric ones the receiver.
    cones: BTreeMap<(SocketAddr, Option<SocketAddr>), Mapping>,
    /// Whom a mapping, by its port, may be reached by.
    permitted: BTreeSet<(u16, SocketAddr)>,
}

#[derive(Clone, Copy, Debug)]
struct Mapping {
    port: u16,
    last_used: Instant,
}

impl Nat {
    /// A NAT with this outer address.
    #[must_use]
    pub const fn new(public: IpAddr, idle: Duration) -> Self {
        Self {
            public,
            idle,
            kind: NatKind::Restricted,
            next_port: 40_000,
            mappings: BTreeMap::new(),
            cones: BTreeMap::new(),
            permitted: BTreeSet::new(),
        }
    }

    /// The outer address of a packet from `inside`.
    pub fn outbound(&mut self, now: Instant, inside: SocketAddr) -> SocketAddr {
        let live = self
            .mappings
            .get_mut(&inside)
            .filter(|mapping| now - mapping.last_used < self.idle);
        if let Some(mapping) = live {
            mapping.last_used = now;
            return SocketAddr::new(self.public, mapping.port);
        }
        let port = self.next_port;
        self.next_port = self.next_port.checked_add(1).unwrap_or(40_000);
        self.mappings.insert(
            inside,
            Mapping {
                port,
                last_used: now,
            },
        );
        SocketAddr::new(self.public, port)
    }

    /// Whom a packet for `outside` reaches, if a mapping lives.
    #[must_use]
    pub fn inbound(&self, now: Instant, outside: SocketAddr) -> Option<SocketAddr> {
        if outside.ip() != self.public {
            return None;
        }
        let live = |mapping: &Mapping| {
            mapping.port == outside.port() && now - mapping.last_used < self.idle
        };
        self.mappings
            .iter()
            .find(|(_, mapping)| live(mapping))
            .map(|(inside, _)| *inside)
    }

    /// Its outer address.
    #[must_use]
    pub const fn public(&self) -> IpAddr {
        self.public
    }

    /// The outer address of a datagram from `inside` to `to`, of a socket that talks to many.
    pub fn outbound_to(&mut self, now: Instant, inside: SocketAddr, to: SocketAddr) -> SocketAddr {
        let name = (inside, (self.kind == NatKind::Symmetric).then_some(to));
        let idle = self.idle;
        let live = self
            .cones
            .get_mut(&name)
            .filter(|mapping| now - mapping.last_used < idle);
        let port = if let Some(mapping) = live {
            mapping.last_used = now;
            mapping.port
        } else {
            let port = self.next_port;
            self.next_port = self.next_port.checked_add(1).unwrap_or(40_000);
            let last_used = now;
            self.cones.insert(name, Mapping { port, last_used });
            port
        };
        self.permitted.insert((port, to));
        SocketAddr::new(self.public, port)
    }

    /// Whom a datagram from `from` to `outside` reaches among such sockets.
    #[must_use]
    pub fn inbound_from(
        &self,
        now: Instant,
        outside: SocketAddr,
        from: SocketAddr,
    ) -> Option<SocketAddr> {
        if outside.ip() != self.public {
            return None;
        }
        let is_permitted =
            self.kind == NatKind::Open || self.permitted.contains(&(outside.port(), from));
        let live = |mapping: &Mapping| {
            mapping.port == outside.port() && now - mapping.last_used < self.idle
        };
        let found = self.cones.iter().find(|(_, mapping)| live(mapping));
        found
            .filter(|_| is_permitted)
            .map(|((inside, _), _)| *inside)
    }

    /// Forgets all mappings, as a restart does.
    pub fn forget(&mut self) {
        self.mappings.clear();
        self.cones.clear();
        self.permitted.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_mappings_are_replaced_by_others() {
        let now = Instant::now();
        let inside = SocketAddr::from(([192, 168, 0, 2], 5000));
        let mut nat = Nat::new(IpAddr::from([198, 51, 100, 1]), Duration::from_secs(30));
        let first = nat.outbound(now, inside);
        assert_eq!(nat.outbound(now + Duration::from_secs(29), inside), first);
        assert_eq!(
            nat.inbound(now + Duration::from_secs(58), first),
            Some(inside)
        );
        assert_eq!(nat.inbound(now + Duration::from_secs(59), first), None);
        assert_ne!(nat.outbound(now + Duration::from_secs(60), inside), first);
    }
}
