//! What a server is asked: routes, tunnels, transports, counters. Nothing here changes anything.

use std::net::IpAddr;

use super::Server;
use super::binding::Attachment;
use super::config::Identity;
use super::event::{BindingId, Destination, SessionId, SessionState, Stats};
use super::pool::{Lease, PoolStats};
use super::session::Session;
use crate::prefix::Prefix;

impl Server {
    /// The tunnel that packets to an inner address go to: the one it is assigned to (an array access behind a search
    /// of the few ranges), else the one it is behind by a granted prefix (a search of the ordered grants, which
    /// overlap neither each other nor a pool).
    #[must_use]
    #[inline]
    pub fn route(&self, destination: IpAddr) -> Option<SessionId> {
        let key = match self.pools.owner(destination) {
            Some(index) => self.sessions.key_at(index)?,
            None => self.routes.find(destination)?,
        };
        Some(SessionId::from_key(key))
    }

    /// Where a tunnel's packets go; `None` while it has no transport: drop them and count.
    #[must_use]
    #[inline]
    pub fn binding_of(&self, session: SessionId) -> Option<BindingId> {
        self.sessions.get(session.key())?.binding
    }

    /// How bytes reach a binding: by its connection, or by its address on plain UDP.
    #[must_use]
    #[inline]
    pub fn destination_of(&self, binding: BindingId) -> Option<Destination> {
        let found = self.bindings.get(binding.key())?;
        Some(match found.listener {
            Some(listener) => Destination::Udp {
                listener,
                peer: found.peer,
            },
            None => Destination::Connection(binding),
        })
    }

    /// The tunnel of a binding, if it carries one.
    #[must_use]
    pub fn session_of(&self, binding: BindingId) -> Option<SessionId> {
        match self.bindings.get(binding.key())?.attachment {
            Attachment::Session(key) => Some(SessionId::from_key(key)),
            Attachment::Pending { .. } => None,
        }
    }

    /// The largest inner packet of a tunnel in either direction, in bytes.
    #[must_use]
    pub fn inner_mtu(&self, session: SessionId) -> Option<u16> {
        self.sessions
            .get(session.key())
            .map(|session| session.inner_mtu)
    }

    /// The state of a tunnel.
    #[must_use]
    pub fn state(&self, session: SessionId) -> Option<SessionState> {
        self.sessions.get(session.key()).map(Session::state)
    }

    /// Who a tunnel belongs to, where clients are authenticated.
    #[must_use]
    pub fn identity_of(&self, session: SessionId) -> Option<&Identity> {
        self.sessions.get(session.key())?.identity.as_ref()
    }

    /// Index of the interface that a tunnel was configured on.
    #[must_use]
    pub fn interface_of(&self, session: SessionId) -> Option<usize> {
        self.sessions
            .get(session.key())
            .map(|session| session.interface)
    }

    /// Inner addresses of a tunnel with their pools; at least one while the tunnel exists.
    pub fn assigned_addresses(&self, session: SessionId) -> impl Iterator<Item = Lease> {
        let session = self.sessions.get(session.key());
        session
            .into_iter()
            .flat_map(|session| session.leases.iter().copied())
    }

    /// Index of the pool that a tunnel's first address came from: the pool that the tunnel as a whole goes by.
    #[must_use]
    pub fn pool_of(&self, session: SessionId) -> Option<usize> {
        let lease = self.sessions.get(session.key())?.leases.first()?;
        Some(lease.pool)
    }

    /// Index of the pool that a tunnel's packets with this inner source go by: the one that the address came from,
    /// or [`pool_of`](Self::pool_of) for hosts behind a granted prefix. `None` for what is not the tunnel's.
    #[must_use]
    #[inline]
    pub fn pool_of_source(&self, session: SessionId, source: IpAddr) -> Option<usize> {
        let found = self.sessions.get(session.key())?;
        let lease = found.leases.iter().find(|lease| lease.address == source);
        match lease {
            Some(lease) => Some(lease.pool),
            None if found.owns(source) => self.pool_of(session),
            None => None,
        }
    }

    /// Prefixes that are granted to a tunnel now (spec 7, "STG").
    #[must_use]
    pub fn routed_prefixes(&self, session: SessionId) -> &[Prefix] {
        self.sessions
            .get(session.key())
            .and_then(|session| session.services.as_ref())
            .map_or(&[], |services| services.routed())
    }

    /// Counters and gauges.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            sessions: self.sessions.len(),
            persistent: self.counts.persistent,
            pending: self.counts.pending,
            ..self.stats
        }
    }

    /// How full the pools are.
    #[must_use]
    pub fn pool_stats(&self) -> Vec<PoolStats> {
        self.pools.stats()
    }
}
