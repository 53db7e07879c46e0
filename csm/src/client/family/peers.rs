//! Peer tunnels of the family: they are the main tunnel's.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tsc_tpl::Unit;

use super::super::event::{Inbound, RequestError};
use super::super::service::{Direct, PathId, PeerStatus, PeerTransmit};
use super::Family;
use crate::flow::FlowKey;
use crate::peer::Candidate;

impl Family {
    /// As [`Client::set_peer`](super::super::Client::set_peer).
    ///
    /// # Errors
    ///
    /// Those of the main tunnel.
    pub fn set_peer(
        &mut self,
        now: Instant,
        key: FlowKey,
        local: SocketAddr,
        wanted: bool,
    ) -> Result<(), RequestError> {
        let result = self.main.set_peer(now, key, local, wanted);
        self.settle(now);
        result
    }

    /// As [`Client::direct`](super::super::Client::direct), before [`Self::outgoing`] is asked.
    #[inline]
    pub fn direct(&mut self, now: Instant, packet: &[u8]) -> Option<Direct> {
        self.unsettled = Some(now);
        self.main.direct(now, packet)
    }

    /// As [`Client::peer_opened`](super::super::Client::peer_opened).
    pub fn peer_opened(
        &mut self,
        now: Instant,
        path: PathId,
        local: SocketAddr,
        stun: Option<SocketAddr>,
        listener: Option<u16>,
    ) {
        self.main.peer_opened(now, path, local, stun, listener);
        self.settle(now);
    }

    /// As [`Client::peer_failed`](super::super::Client::peer_failed).
    pub fn peer_failed(&mut self, now: Instant, path: PathId) {
        self.main.peer_failed(now, path);
        self.settle(now);
    }

    /// As [`Client::peer_admits`](super::super::Client::peer_admits).
    pub fn peer_admits(&mut self, path: PathId, from: Candidate) -> bool {
        self.main.peer_admits(path, from)
    }

    /// As [`Client::peer_may_send`](super::super::Client::peer_may_send).
    pub fn peer_may_send(&mut self, path: PathId, to: SocketAddr) -> bool {
        self.main.peer_may_send(path, to)
    }

    /// As [`Client::peer_connected`](super::super::Client::peer_connected).
    pub fn peer_connected(
        &mut self,
        now: Instant,
        path: PathId,
        with: Candidate,
        fingerprint: Option<&[u8; 32]>,
    ) {
        self.main.peer_connected(now, path, with, fingerprint);
        self.settle(now);
    }

    /// As [`Client::peer_disconnected`](super::super::Client::peer_disconnected).
    pub fn peer_disconnected(&mut self, now: Instant, path: PathId, with: Candidate) {
        self.main.peer_disconnected(now, path, with);
        self.settle(now);
    }

    /// As [`Client::peer_datagram`](super::super::Client::peer_datagram).
    pub fn peer_datagram<'a>(
        &mut self,
        now: Instant,
        path: PathId,
        from: Candidate,
        bytes: &'a [u8],
    ) -> Inbound<'a> {
        self.unsettled = Some(now);
        self.main.peer_datagram(now, path, from, bytes)
    }

    /// As [`Client::peer_unit`](super::super::Client::peer_unit).
    pub fn peer_unit<'a>(
        &mut self,
        now: Instant,
        path: PathId,
        from: Candidate,
        unit: Unit<'a>,
    ) -> Inbound<'a> {
        self.unsettled = Some(now);
        self.main.peer_unit(now, path, from, unit)
    }

    /// As [`Client::poll_peer_transmit`](super::super::Client::poll_peer_transmit).
    #[must_use]
    pub fn poll_peer_transmit(&mut self) -> Option<PeerTransmit> {
        self.main.poll_peer_transmit()
    }

    /// As [`Client::peer_round_trip`](super::super::Client::peer_round_trip), or that of the main tunnel as long as nothing is known.
    #[must_use]
    pub fn peer_round_trip(&self, path: PathId) -> Option<Duration> {
        let own = self.main.peer_round_trip(path);
        own.or_else(|| self.main.round_trip())
    }

    /// As [`Client::peers`](super::super::Client::peers).
    #[must_use]
    pub fn peers(&self, now: Instant) -> Vec<PeerStatus> {
        self.main.peers(now)
    }

    /// As [`Client::peers_refused`](super::super::Client::peers_refused).
    #[must_use]
    pub fn peers_refused(&self) -> u64 {
        self.main.peers_refused()
    }
}
