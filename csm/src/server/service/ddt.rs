//! Dynamic datagram tunnels: what goes to which sockets over a datagram companion (spec 7, "DDT").
//!
//! A packet is looked up by its flow key alone; nothing is learnt from where the client's packets come. Which sockets these are is
//! [`beside`](super::beside)'s.

use super::super::Server;
use super::super::arena::Key;
use super::super::session::Session;
use crate::companion::CompanionRole;
use crate::flow::FlowKey;

impl Server {
    /// The companion that carries a packet of `len` bytes to this socket of `main`, while it can.
    #[inline]
    pub(super) fn ddt_carrier(&self, main: &Session, flow: FlowKey, len: usize) -> Option<Key> {
        let services = main.services.as_ref()?;
        if !services.ddt.as_ref()?.has(flow) {
            return None;
        }
        let key = services.family.claimed(CompanionRole::Ddt)?;
        let companion = self.sessions.get(key)?;
        let can = companion.carries() && len <= usize::from(companion.inner_mtu);
        can.then_some(key)
    }
}
