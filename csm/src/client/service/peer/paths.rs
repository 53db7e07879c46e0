//! The paths of all pairs: what the owner reports of their sockets, and what comes of it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tsc_tpl::{IpPacket, Unit};

use super::super::super::event::{DropReason, Event, Inbound};
use super::super::super::{Client, MAX_QUEUED_TRANSMITS, State};
use super::MAX_PAIRS;
use super::event::{PathId, PeerEvent, PeerStatus, PeerTransmit};
use super::pair::{Pair, Slot};
use crate::peer::{Action, Candidate, News, Path, PathEnd};
use crate::random::Random;

impl Client {
    /// Reports that the UDP socket is open that was asked for by [`PeerEvent::Open`]: at this address of this host, not *any*; at which
    /// address the server answers STUN, if that is known; and the TCP port for whoever is to come, if there is one.
    pub fn peer_opened(
        &mut self,
        now: Instant,
        path: PathId,
        local: SocketAddr,
        stun: Option<SocketAddr>,
        listener: Option<u16>,
    ) {
        self.with_path(now, path, |found, random| {
            found.opened(now, local, stun, listener, random);
        });
    }

    /// Reports that a path's socket could not be opened, or is broken.
    pub fn peer_failed(&mut self, now: Instant, path: PathId) {
        self.path_ended(now, path, PathEnd::Transport);
        self.settle_peers(now);
    }

    /// Whether a datagram of a handshake or of an association, or a stream that has come, is to be looked at.
    pub fn peer_admits(&mut self, path: PathId, from: Candidate) -> bool {
        let State::Up(tunnel) = &mut self.state else {
            return false;
        };
        let found = tunnel.services.peer.path(path);
        found.is_some_and(|path| path.admits(from))
    }

    /// Whether a datagram of a handshake may be sent to this address. It is counted as sent: an address from which nothing has come
    /// gets [`MOST_UNANSWERED`](crate::MOST_UNANSWERED).
    pub fn peer_may_send(&mut self, path: PathId, to: SocketAddr) -> bool {
        let State::Up(tunnel) = &mut self.state else {
            return false;
        };
        let found = tunnel.services.peer.path(path);
        found.is_some_and(|path| path.may_send(to))
    }

    /// Reports that there is an association or a stream, made by this end or by the other, and the fingerprint of the other's
    /// certificate, if it has shown one.
    pub fn peer_connected(
        &mut self,
        now: Instant,
        path: PathId,
        with: Candidate,
        fingerprint: Option<&[u8; 32]>,
    ) {
        self.with_path(now, path, |found, _| {
            found.connected(now, with, fingerprint);
        });
    }

    /// Reports that an association or a stream has ended, or did not come about. Without effect for one that was not wanted any more.
    pub fn peer_disconnected(&mut self, now: Instant, path: PathId, with: Candidate) {
        self.with_path(now, path, |found, _| found.disconnected(now, with));
    }

    /// Feeds a datagram that came to a path's socket and is not of a handshake: as it is, or what an association has made of it.
    pub fn peer_datagram<'a>(
        &mut self,
        now: Instant,
        path: PathId,
        from: Candidate,
        bytes: &'a [u8],
    ) -> Inbound<'a> {
        let mut packet = None;
        self.with_path(now, path, |found, random| {
            packet = found.datagram(now, from, bytes, random);
        });
        self.peer_packet(packet)
    }

    /// Feeds a unit of a stream.
    pub fn peer_unit<'a>(
        &mut self,
        now: Instant,
        path: PathId,
        from: Candidate,
        unit: Unit<'a>,
    ) -> Inbound<'a> {
        let mut packet = None;
        self.with_path(now, path, |found, random| {
            packet = found.unit(now, from, unit, random);
        });
        self.peer_packet(packet)
    }

    fn peer_packet<'a>(&mut self, packet: Option<IpPacket<'a>>) -> Inbound<'a> {
        let Some(packet) = packet else {
            return Inbound::Consumed;
        };
        // An address that a resume has taken away is not ours any more.
        let is_own = match &self.state {
            State::Up(tunnel) => tunnel.owns(packet.destination()),
            State::Idle | State::Connecting(_) | State::Down => false,
        };
        if !is_own {
            return self.drop_unit(DropReason::Destination);
        }
        self.stats.delivered += 1;
        Inbound::Deliver(packet)
    }

    /// Next bytes for a path; call until `None`, before [`Self::poll_event`].
    #[must_use]
    pub fn poll_peer_transmit(&mut self) -> Option<PeerTransmit> {
        self.peer_transmits.pop_front()
    }

    /// How long a packet takes over a peer tunnel and back, by the Keepalives that were answered.
    #[must_use]
    pub fn peer_round_trip(&self, path: PathId) -> Option<Duration> {
        let State::Up(tunnel) = &self.state else {
            return None;
        };
        let ups = tunnel.services.peer.pairs.iter();
        let mut ups = ups.filter_map(|pair| pair.up.as_ref());
        ups.find(|up| up.id == path)?.path.round_trip()
    }

    /// The peer tunnels that are up.
    #[must_use]
    pub fn peers(&self, now: Instant) -> Vec<PeerStatus> {
        let State::Up(tunnel) = &self.state else {
            return Vec::new();
        };
        let pairs = tunnel.services.peer.pairs.iter();
        pairs.filter_map(|pair| pair.status(now)).collect()
    }

    /// What came to the sockets of peer tunnels that exist, and was not taken.
    #[must_use]
    pub fn peers_refused(&self) -> u64 {
        let State::Up(tunnel) = &self.state else {
            return 0;
        };
        let paths = tunnel.services.peer.pairs.iter().flat_map(Pair::paths);
        paths.map(Path::refused).sum()
    }

    pub(super) fn with_path(
        &mut self,
        now: Instant,
        path: PathId,
        work: impl FnOnce(&mut Path, &mut dyn Random),
    ) {
        let Self { state, random, .. } = self;
        if let State::Up(tunnel) = state
            && let Some(found) = tunnel.services.peer.path(path)
        {
            work(found, random);
            self.drain_path(now, path);
            self.settle_peers(now);
        }
    }

    pub(super) fn peer_event(&mut self, event: PeerEvent) {
        self.events.push_back(Event::Peer(event));
    }

    /// Carries out what a path wants, and takes what it tells.
    pub(super) fn drain_path(&mut self, now: Instant, id: PathId) {
        self.drain_actions(id);
        loop {
            let State::Up(tunnel) = &mut self.state else {
                return;
            };
            let news = tunnel.services.peer.path(id).and_then(Path::poll_news);
            match news {
                None => return,
                Some(News::Gathered(found)) => self.gathered(now, id, &found),
                Some(News::Up(outer)) => self.path_up(id, outer),
                Some(News::Ended(why)) => return self.path_ended(now, id, why),
            }
            self.drain_actions(id);
        }
    }

    fn drain_actions(&mut self, id: PathId) {
        let Self {
            state,
            events,
            peer_transmits,
            ..
        } = self;
        let State::Up(tunnel) = state else { return };
        let Some(path) = tunnel.services.peer.path(id) else {
            return;
        };
        drain_into(id, path, events, peer_transmits);
    }

    /// A tunnel is there: what there was before goes.
    fn path_up(&mut self, id: PathId, outer: Candidate) {
        let State::Up(tunnel) = &mut self.state else {
            return;
        };
        let Some(pair) = tunnel.services.peer.pair_of(id) else {
            return;
        };
        let (own, peer) = (pair.own, pair.peer);
        let is_invited = pair.is_invited;
        let old = pair.came_up(id);
        tracing::debug!(%own, %peer, address = %outer.address, transport = %outer.transport, "peer tunnel up");
        if let Some(old) = old {
            self.close_path(old);
        }
        if is_invited {
            self.peer_event(PeerEvent::StopListening { path: id });
        }
        self.peer_event(PeerEvent::Up {
            own,
            peer,
            path: id,
            outer,
        });
        self.tell_users(own, peer);
    }

    /// A tunnel is over, or did not come about: packets go over the server, and it is tried again after a rest.
    pub(super) fn path_ended(&mut self, now: Instant, id: PathId, why: PathEnd) {
        let State::Up(tunnel) = &mut self.state else {
            return;
        };
        let peers = &mut tunnel.services.peer;
        let Some(pair) = peers.pair_of(id) else {
            return;
        };
        let (own, peer) = (pair.own, pair.peer);
        let was_up = pair.up.as_ref().is_some_and(|up| up.id == id);
        let was_known = was_up || pair.is_known_to_server(id);
        let Some(mut slot) = pair.take(id) else {
            return;
        };
        // Another takes its place: for the server nothing ends.
        let has_other = pair.is_active();
        if !has_other && (was_up || !pair.takes_turn()) {
            pair.rest(now, why);
        }
        tracing::debug!(%own, %peer, %why, "peer tunnel over");
        // The other end may not know, and the server counts on being told.
        let is_told = why == PathEnd::ByServer || has_other;
        if was_known && !is_told && peers.ends.len() < MAX_PAIRS {
            peers.ends.push_back((own, peer));
        }
        slot.path.close();
        self.drop_path(slot);
        if was_up {
            self.peer_event(PeerEvent::Down { own, peer, why });
        }
        self.tell_users(own, peer);
    }

    /// Says goodbye, and closes the socket.
    pub(super) fn close_path(&mut self, mut slot: Slot) {
        slot.path.close();
        self.drop_path(slot);
    }

    fn drop_path(&mut self, mut slot: Slot) {
        let id = slot.id;
        drain_into(
            id,
            &mut slot.path,
            &mut self.events,
            &mut self.peer_transmits,
        );
        self.peer_event(PeerEvent::Close { path: id });
    }
}

fn drain_into(
    id: PathId,
    path: &mut Path,
    events: &mut VecDeque<Event>,
    transmits: &mut VecDeque<PeerTransmit>,
) {
    while let Some(action) = path.poll_action() {
        match action {
            Action::Send(to, bytes) if transmits.len() < MAX_QUEUED_TRANSMITS => {
                let path = id;
                transmits.push_back(PeerTransmit { path, to, bytes });
            }
            Action::Send(..) => {}
            Action::Connect(to, fingerprint) => {
                events.push_back(Event::Peer(PeerEvent::Connect {
                    path: id,
                    to,
                    fingerprint,
                }));
            }
            Action::Disconnect(from) => {
                events.push_back(Event::Peer(PeerEvent::Disconnect { path: id, from }));
            }
        }
    }
}
