//! What a server is asked: routes, tunnels, transports, counters. Nothing here changes anything. All but routes and pools
//! is of this shard: tunnels of others are unknown.

use std::net::IpAddr;

use tsc_tpl::{ServiceType, Tsid};

use super::Server;
use super::arena::Key;
use super::binding::Attachment;
use super::config::Identity;
use super::event::{BindingId, Destination, SessionId, SessionState, Stats};
use super::pool::{Lease, PoolStats};
use super::session::Session;
use crate::prefix::Prefix;

impl Server {
    /// The tunnel, of any shard, that packets to an inner address go to: the one it is assigned to (an array access behind a search
    /// of the few ranges), else the one it is behind by a granted prefix (a search of the ordered grants, which
    /// overlap neither each other nor a pool).
    #[must_use]
    #[inline]
    pub fn route(&self, destination: IpAddr) -> Option<SessionId> {
        self.common.route(destination)
    }

    /// The key of a tunnel of this shard.
    #[inline]
    pub(super) const fn own(&self, session: SessionId) -> Option<Key> {
        if session.shard() == self.shard {
            Some(session.key())
        } else {
            None
        }
    }

    #[inline]
    fn session(&self, session: SessionId) -> Option<&Session> {
        self.sessions.get(self.own(session)?)
    }

    /// The name of a tunnel of this shard.
    pub(super) const fn session_id(&self, key: Key) -> SessionId {
        SessionId::new(self.shard, key)
    }

    /// Where a tunnel's packets go; `None` while it has no transport: drop them and count.
    #[must_use]
    #[inline]
    pub fn binding_of(&self, session: SessionId) -> Option<BindingId> {
        self.session(session)?.binding
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
            Attachment::Session(key) => Some(self.session_id(key)),
            Attachment::Pending { .. } => None,
        }
    }

    /// The largest inner packet of a tunnel in either direction, in bytes.
    #[must_use]
    pub fn inner_mtu(&self, session: SessionId) -> Option<u16> {
        self.session(session).map(|session| session.inner_mtu)
    }

    /// The state of a tunnel.
    #[must_use]
    pub fn state(&self, session: SessionId) -> Option<SessionState> {
        self.session(session).map(Session::state)
    }

    /// Who a tunnel belongs to, where clients are authenticated.
    #[must_use]
    pub fn identity_of(&self, session: SessionId) -> Option<&Identity> {
        self.session(session)?.identity.as_ref()
    }

    /// The name of a tunnel on the wire.
    #[must_use]
    pub fn tsid_of(&self, session: SessionId) -> Option<Tsid> {
        self.session(session).map(|session| session.tsid)
    }

    /// The main tunnel of a companion, with its own addresses or without.
    #[must_use]
    pub fn main_of(&self, session: SessionId) -> Option<SessionId> {
        let membership = self.session(session)?.main?;
        Some(self.session_id(membership.main))
    }

    /// Index of the interface that a tunnel was configured on.
    #[must_use]
    pub fn interface_of(&self, session: SessionId) -> Option<usize> {
        self.session(session).map(|session| session.interface)
    }

    /// Inner addresses of a tunnel with their pools; at least one while the tunnel exists.
    pub fn assigned_addresses(&self, session: SessionId) -> impl Iterator<Item = Lease> {
        let session = self.session(session);
        session
            .into_iter()
            .flat_map(|session| session.leases.iter().copied())
    }

    /// Index of the pool that a tunnel's first address came from: the pool that the tunnel as a whole goes by.
    #[must_use]
    pub fn pool_of(&self, session: SessionId) -> Option<usize> {
        let lease = self.session(session)?.leases.first()?;
        Some(lease.pool)
    }

    /// Index of the pool that a tunnel's packets with this inner source go by: the one that the address came from,
    /// or [`pool_of`](Self::pool_of) for hosts behind a granted prefix. `None` for what is not the tunnel's.
    #[must_use]
    #[inline]
    pub fn pool_of_source(&self, session: SessionId, source: IpAddr) -> Option<usize> {
        let found = self.session(session)?;
        let lease = found.leases.iter().find(|lease| lease.address == source);
        match lease {
            Some(lease) => Some(lease.pool),
            None if found.owns(source) => self.pool_of(session),
            None => None,
        }
    }

    /// Whether the tunnel's packets may not reach other tunnels: *inter-client-block* was in force when it was configured.
    #[must_use]
    #[inline]
    pub fn is_kept_apart(&self, session: SessionId) -> bool {
        self.session(session)
            .is_some_and(|session| session.offers.inter_client_block)
    }

    /// Whether a service is in force for a tunnel; by either of its values.
    #[must_use]
    pub fn has_service(&self, session: SessionId, service: ServiceType) -> bool {
        let services = self
            .session(session)
            .and_then(|found| found.services.as_ref());
        services.is_some_and(|services| services.active().contains(&service.enable()))
    }

    /// Prefixes that are granted to a tunnel now (spec 7, "STG").
    #[must_use]
    pub fn routed_prefixes(&self, session: SessionId) -> &[Prefix] {
        self.session(session)
            .and_then(|session| session.services.as_ref())
            .map_or(&[], |services| services.routed())
    }

    /// Counters and gauges.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            sessions: self.sessions.len(),
            persistent: self.persistent,
            pending: self.pending,
            kept: self.held,
            overloaded: usize::from(self.load.is_overloaded()),
            draining: usize::from(self.draining),
            ..self.stats
        }
    }

    /// Tunnels of all shards.
    #[must_use]
    pub fn tunnels_in_all(&self) -> usize {
        self.common.tunnels()
    }

    /// How full the pools are, which all shards share.
    #[must_use]
    pub fn pool_stats(&self) -> Vec<PoolStats> {
        self.common.pool_stats()
    }
}
