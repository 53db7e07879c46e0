//! From a local port to the socket that is bound to it: one hash lookup, however many sockets there
//! are. And the choice of a free port.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use crate::addresses::is_any;
use crate::random::Prf;
use crate::slots::Key;

/// Random tries for an ephemeral port before all are searched in order.
const RANDOM_TRIES: usize = 16;

/// RFC 6056, section 3.3.2 (algorithm 2): random tries, then all ports in order from a random one.
pub(crate) fn ephemeral(
    range: &RangeInclusive<u16>,
    random: &mut Prf,
    mut is_free: impl FnMut(u16) -> bool,
) -> Option<u16> {
    let (first, last) = (*range.start(), *range.end());
    let count = u64::from(last.saturating_sub(first)) + 1;
    let port_at = |n: u64| u16::try_from(u64::from(first) + n % count).unwrap_or(last);
    for _ in 0..RANDOM_TRIES {
        let port = port_at(random.next());
        if is_free(port) {
            return Some(port);
        }
    }
    let start = random.next() % count;
    (start..start + count)
        .map(port_at)
        .find(|port| is_free(*port))
}

/// Bound sockets by IP version and port.
#[derive(Debug, Default)]
pub(crate) struct Demux {
    ports: HashMap<u32, Port, BuildHasherDefault<PortHasher>>,
}

/// Who has a port. A lone socket, the common case, is in the table itself, which spares a cache
/// miss. The list is as short as the stack's own addresses are few; it can hold former ones.
#[derive(Debug)]
enum Port {
    Any(Key),
    One(IpAddr, Key),
    Several(Vec<(IpAddr, Key)>),
}

impl Demux {
    /// Whether nobody has `port` in the IP version of `address`, on whatever address.
    pub(crate) fn is_port_free(&self, address: IpAddr, port: u16) -> bool {
        !self.ports.contains_key(&index(address, port))
    }

    /// Whether a socket may be bound to `local`.
    pub(crate) fn is_free(&self, local: SocketAddr) -> bool {
        match self.ports.get(&index(local.ip(), local.port())) {
            None => true,
            Some(Port::Any(_)) => false,
            Some(Port::One(..) | Port::Several(_)) if is_any(local.ip()) => false,
            Some(Port::One(address, _)) => *address != local.ip(),
            Some(Port::Several(list)) => list.iter().all(|(address, _)| *address != local.ip()),
        }
    }

    /// Enters a socket; the caller has asked [`is_free`](Self::is_free).
    pub(crate) fn insert(&mut self, local: SocketAddr, key: Key) {
        let index = index(local.ip(), local.port());
        let port = if is_any(local.ip()) {
            Port::Any(key)
        } else {
            match self.ports.remove(&index) {
                None | Some(Port::Any(_)) => Port::One(local.ip(), key),
                Some(Port::One(address, first)) => {
                    Port::Several(vec![(address, first), (local.ip(), key)])
                }
                Some(Port::Several(mut list)) => {
                    list.push((local.ip(), key));
                    Port::Several(list)
                }
            }
        };
        self.ports.insert(index, port);
    }

    pub(crate) fn remove(&mut self, local: SocketAddr) {
        let index = index(local.ip(), local.port());
        let empty = match self.ports.get_mut(&index) {
            Some(Port::Several(list)) => {
                list.retain(|(address, _)| *address != local.ip());
                list.is_empty()
            }
            Some(Port::Any(_) | Port::One(..)) => true,
            None => false,
        };
        if empty {
            self.ports.remove(&index);
        }
    }

    /// The socket for packets to `local`.
    pub(crate) fn lookup(&self, local: SocketAddr) -> Option<Key> {
        match self.ports.get(&index(local.ip(), local.port()))? {
            Port::Any(key) => Some(*key),
            Port::One(address, key) => (*address == local.ip()).then_some(*key),
            Port::Several(list) => list
                .iter()
                .find(|(address, _)| *address == local.ip())
                .map(|(_, key)| *key),
        }
    }
}

fn index(address: IpAddr, port: u16) -> u32 {
    (u32::from(address.is_ipv6()) << 16) | u32::from(port)
}

/// Multiplicative hash. Only the application puts keys into the table, so that nobody outside can
/// make them collide.
#[derive(Debug, Default)]
struct PortHasher(u64);

impl Hasher for PortHasher {
    fn finish(&self) -> u64 {
        // The table takes its bits from both ends.
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, value: u32) {
        self.0 = (self.0 ^ u64::from(value)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slots::Slots;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn wildcard_and_specific_exclude_each_other_within_a_family() {
        let mut slots = Slots::new(9);
        let mut demux = Demux::default();
        demux.insert(addr("10.0.0.1:5060"), slots.insert(()).unwrap());
        assert!(!demux.is_free(addr("10.0.0.1:5060")));
        assert!(!demux.is_free(addr("0.0.0.0:5060")));
        assert!(demux.is_free(addr("10.0.0.2:5060")));
        assert!(demux.is_free(addr("[::]:5060")));
        demux.insert(addr("[::]:5060"), slots.insert(()).unwrap());
        assert!(!demux.is_free(addr("[2001:db8::1]:5060")));
        demux.remove(addr("[::]:5060"));
        assert!(demux.is_free(addr("[2001:db8::1]:5060")));
    }

    #[test]
    fn lookup_finds_the_bound_address_only() {
        let mut slots = Slots::new(9);
        let mut demux = Demux::default();
        let one = slots.insert(()).unwrap();
        let two = slots.insert(()).unwrap();
        let any = slots.insert(()).unwrap();
        demux.insert(addr("10.0.0.1:5060"), one);
        demux.insert(addr("10.0.0.2:5060"), two);
        demux.insert(addr("0.0.0.0:5061"), any);
        assert_eq!(demux.lookup(addr("10.0.0.1:5060")), Some(one));
        assert_eq!(demux.lookup(addr("10.0.0.2:5060")), Some(two));
        assert_eq!(demux.lookup(addr("10.0.0.3:5060")), None);
        assert_eq!(demux.lookup(addr("10.0.0.3:5061")), Some(any));
        demux.remove(addr("10.0.0.1:5060"));
        assert_eq!(demux.lookup(addr("10.0.0.1:5060")), None);
        assert_eq!(demux.lookup(addr("10.0.0.2:5060")), Some(two));
        demux.remove(addr("10.0.0.2:5060"));
        assert!(demux.is_port_free(addr("10.0.0.2:5060").ip(), 5060));
    }

    #[test]
    fn consecutive_ports_spread_over_the_table() {
        let mut low = [0u32; 256];
        let mut high = [0u32; 128];
        for port in 0..=u16::MAX {
            let mut hasher = PortHasher::default();
            hasher.write_u32(port.into());
            let hash = hasher.finish();
            low[(hash & 255) as usize] += 1;
            high[(hash >> 57) as usize] += 1;
        }
        assert!(low.iter().all(|n| (128..=512).contains(n)), "{low:?}");
        assert!(high.iter().all(|n| (256..=1024).contains(n)), "{high:?}");
    }
}
