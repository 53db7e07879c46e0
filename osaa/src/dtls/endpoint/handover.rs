//! Associations that go from one endpoint to another: a tunnel lives at one worker, and its datagrams may come in at others.

use std::fmt;
use std::net::SocketAddr;

use super::{AssociationKey, DtlsEndpointEvent, DtlsServerEndpoint};
use crate::dtls::{DtlsError, DtlsSession, DtlsState};

/// A connected association on its way from one endpoint to another.
pub struct DetachedAssociation {
    peer: SocketAddr,
    random: [u8; 32],
    session: Box<dyn DtlsSession>,
}

impl DetachedAssociation {
    /// Its peer.
    #[must_use]
    pub const fn peer(&self) -> SocketAddr {
        self.peer
    }
}

impl fmt::Debug for DetachedAssociation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DetachedAssociation")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

impl DtlsServerEndpoint {
    /// Takes a connected association out, for the endpoint of another worker; `None` when the key is not valid (any more),
    /// or its handshake has not finished. What it has received and to send goes with it; no event tells of it.
    pub fn detach(&mut self, key: AssociationKey) -> Option<DetachedAssociation> {
        let association = self.table.get(key)?;
        if association.session.state() != DtlsState::Connected {
            return None;
        }
        let association = self.table.remove(key)?;
        Some(DetachedAssociation {
            peer: association.peer,
            random: association.random,
            session: association.session,
        })
    }

    /// Puts in an association that another endpoint of the same configuration has [given](Self::detach). `None`, and it
    /// is gone, when there is no room for it.
    pub fn attach(&mut self, association: DetachedAssociation) -> Option<AssociationKey> {
        let DetachedAssociation {
            peer,
            random,
            session,
        } = association;
        if self.table.len() >= self.limits.associations {
            self.stats.table_full += 1;
            return None;
        }
        if let Some(pending) = self.table.peer(peer).pending {
            self.give_up(pending, DtlsError::Replaced);
        }
        let key = self.table.insert(peer, random, session)?;
        if let Some(old) = self.table.promote(key) {
            self.stats.replaced += 1;
            self.table.remove(old);
            self.events.push_back(DtlsEndpointEvent::Closed {
                key: old,
                peer,
                error: DtlsError::Replaced,
            });
        }
        if let Some(association) = self.table.get_mut(key) {
            association.session.set_waker(&self.ready.waker(key));
        }
        self.settle(key);
        Some(key)
    }
}
