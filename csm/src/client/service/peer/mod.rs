//! Peer tunnels: packets between two clients of one server go directly (spec 7, "Peer tunneling").
//!
//! ```text
//!   a marked socket sends to an inner address
//!        | first time
//!        v
//!   Pair: open a socket, gather candidates -> ask the server -> search -> up      (the end that asks)
//!   Pair: open a socket, gather candidates -> answer         -> listen -> up      (the end that is asked)
//!        |                                                         '-> failed, ended: over the server; again after a rest
//!        v
//!   `Client::direct` says for each packet whether it goes this way
//! ```
//!
//! A pair is two inner addresses. It has at most one tunnel, and while that is made anew the old one serves. The end that asks
//! sends the packets of its marked sockets directly; the end that is asked, all UDP packets for the other.

mod asking;
mod event;
mod pair;
mod paths;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tsc_tpl::{IpPacket, Limits, ServiceType};

use self::asking::Asking;
pub(super) use self::asking::Reply;
pub use self::event::{Direct, PathId, PeerEvent, PeerGuest, PeerStatus, PeerTransmit};
use self::pair::{Pair, Stage};
use super::super::event::{Event, RequestError};
use super::super::{Client, State};
use super::Services;
use crate::flow::{FlowKey, InnerTransport, MAX_FLOWS};
use crate::peer::{Allowance, Path, PathEnd, Terms};
use crate::prefix::is_assignable;

const ENABLE: ServiceType = ServiceType::ENABLE_PEER;

/// Most peer tunnels of one client, those that are being made included.
pub const MAX_PEERS: usize = 8;
/// Pairs that are remembered, to let them rest after a failure.
const MAX_PAIRS: usize = 64;
/// Longer inner packets go over the server: so that outer packets stay within what any path takes (spec 7, "MTU").
pub const MAX_DIRECT_PACKET: usize = 1200;
/// A tunnel without a packet for so long is released by the end that has asked for it.
const UNUSED: Duration = Duration::from_secs(60);
/// Rest after a failure, doubled by each further one.
const RESTS: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(600));
/// How often others may ask: so many at once, and one more each time that has passed.
const INVITED: (u32, Duration) = (8, Duration::from_secs(2));

/// The service of one tunnel.
#[derive(Debug)]
pub(super) struct Peers {
    sockets: Vec<Marked>,
    pairs: Vec<Pair>,
    asking: Option<Asking>,
    /// Pairs of which the server is to be told that they are over; at most [`MAX_PAIRS`].
    ends: VecDeque<(IpAddr, IpAddr)>,
    invited: Allowance,
    next_path: u32,
}

/// A socket that wants to reach its peers directly; at most [`MAX_FLOWS`].
#[derive(Debug)]
struct Marked {
    key: FlowKey,
    local: SocketAddr,
    /// What the application was told last: available, enabled.
    told: Option<(bool, bool)>,
}

impl Default for Peers {
    fn default() -> Self {
        Self {
            sockets: Vec::new(),
            pairs: Vec::new(),
            asking: None,
            ends: VecDeque::new(),
            invited: Allowance::new(INVITED.0, INVITED.1),
            next_path: 0,
        }
    }
}

impl Peers {
    /// When a path has something to do, or nobody uses it any more.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let paths = self.pairs.iter().flat_map(Pair::paths);
        let due = paths.filter_map(Path::due);
        let unused = self.pairs.iter().filter_map(Pair::unused_from);
        due.chain(unused).min()
    }

    const fn is_idle(&self) -> bool {
        self.sockets.is_empty() && self.pairs.is_empty()
    }

    fn pair(&mut self, own: IpAddr, peer: IpAddr) -> Option<&mut Pair> {
        self.pairs
            .iter_mut()
            .find(|pair| pair.own == own && pair.peer == peer)
    }

    fn path(&mut self, id: PathId) -> Option<&mut Path> {
        self.pairs.iter_mut().find_map(|pair| pair.path_mut(id))
    }

    fn pair_of(&mut self, id: PathId) -> Option<&mut Pair> {
        self.pairs.iter_mut().find(|pair| pair.has(id))
    }

    fn is_marked(&self, key: FlowKey) -> bool {
        self.sockets.iter().any(|socket| socket.key == key)
    }

    fn active(&self) -> usize {
        let active = self.pairs.iter().filter(|pair| pair.is_active());
        active.count()
    }

    /// Room for one more tunnel; one that only the other end wants goes for one that is asked for here.
    fn has_room(&self) -> bool {
        self.active() < MAX_PEERS
    }

    /// Forgets pairs that have nothing, the one that rests least first where there are too many.
    fn tidy(&mut self, now: Instant) {
        self.pairs.retain(|pair| {
            // Longer than it rests, so that the next failure counts as one more.
            pair.is_active() || pair.rests_until.is_some_and(|until| until + RESTS.1 > now)
        });
        while self.pairs.len() >= MAX_PAIRS {
            let resting = self.pairs.iter().enumerate();
            let first = resting
                .filter(|(_, pair)| !pair.is_active())
                .min_by_key(|(_, pair)| pair.rests_until)
                .map(|(place, _)| place);
            match first {
                Some(place) => drop(self.pairs.swap_remove(place)),
                None => return,
            }
        }
    }
}

impl Client {
    /// Sets whether the packets of the socket at `local` are to reach their receivers without the server, where these are clients
    /// of the same server that can be asked. It is tried for each receiver when the first packet goes there;
    /// [`Event::SocketService`] tells whether there is such a way to any of them.
    ///
    /// # Errors
    ///
    /// There is no tunnel, no certificate ([`ClientConfig::peer_fingerprint`](super::super::ClientConfig::peer_fingerprint)), or
    /// [`MAX_FLOWS`] sockets want this.
    pub fn set_peer(
        &mut self,
        now: Instant,
        key: FlowKey,
        local: SocketAddr,
        wanted: bool,
    ) -> Result<(), RequestError> {
        let has_certificate = self.config.peer_fingerprint.is_some();
        let tunnel = self.open_tunnel()?;
        let is_offered = tunnel.assignment.services.contains(&ENABLE);
        let peers = &mut tunnel.services.peer;
        if !wanted {
            peers.sockets.retain(|socket| socket.key != key);
            for pair in &mut peers.pairs {
                pair.users.retain(|user| *user != key);
            }
            self.end_unused(now);
            return Ok(());
        }
        if !has_certificate {
            return Err(RequestError::NoCertificate);
        }
        let has_room = peers.sockets.len() < MAX_FLOWS;
        match peers.sockets.iter_mut().find(|socket| socket.key == key) {
            Some(socket) => socket.local = local,
            None if has_room => peers.sockets.push(Marked {
                key,
                local,
                told: None,
            }),
            None => return Err(RequestError::TooManySockets),
        }
        if !is_offered {
            self.tell(key, false, false);
        }
        Ok(())
    }

    /// Where a packet of one of this client's sockets goes, if not over the server. Asks for a way where there is none.
    pub fn direct(&mut self, now: Instant, packet: &[u8]) -> Option<Direct> {
        let has_certificate = self.config.peer_fingerprint.is_some();
        let State::Up(tunnel) = &mut self.state else {
            return None;
        };
        let is_ending = tunnel.release_until.is_some();
        let peers = &mut tunnel.services.peer;
        if peers.is_idle() || packet.len() > MAX_DIRECT_PACKET || is_ending {
            return None;
        }
        let packet = IpPacket::decode(packet, &Limits::WIDEST).ok()?;
        let key = FlowKey::of_source(&packet)?;
        let (own, peer) = (packet.source(), packet.destination());
        let is_marked = peers.is_marked(key);
        let found = peers.pair(own, peer);
        if let Some(pair) = found {
            if is_marked {
                pair.add_user(key);
            }
            let is_theirs = pair.is_invited && key.transport == InnerTransport::Udp;
            if (is_marked || is_theirs)
                && let Some(up) = &mut pair.up
                && let Some(to) = up.path.usable(now)
            {
                up.path.note_packet(now);
                return Some(Direct { path: up.id, to });
            }
            let is_at_rest = pair.is_active() || pair.rests_until.is_some_and(|until| until > now);
            if !is_marked || is_at_rest {
                return None;
            }
        }
        let is_offered = tunnel.assignment.services.contains(&ENABLE) && has_certificate;
        let is_other = own != peer && is_assignable(peer) && tunnel.owns(own) && !tunnel.owns(peer);
        if is_marked && is_offered && is_other {
            let (_, port) = packet.ports()?;
            self.begin(now, key, own, SocketAddr::new(peer, port));
        }
        None
    }

    /// Opens a socket for the first step.
    fn begin(&mut self, now: Instant, key: FlowKey, own: IpAddr, peer: SocketAddr) {
        let State::Up(tunnel) = &mut self.state else {
            return;
        };
        let terms = Terms {
            own,
            peer: peer.ip(),
            inner_mtu: tunnel.assignment.inner_mtu,
        };
        let peers = &mut tunnel.services.peer;
        peers.tidy(now);
        // The next packet comes here again.
        if !peers.has_room() || peers.pairs.iter().any(Pair::is_asking) {
            return;
        }
        let id = peers.next_id();
        let place = peers.place(own, peer.ip());
        let Some(pair) = peers.pairs.get_mut(place) else {
            return;
        };
        pair.add_user(key);
        let wanted = Stage::Wanted {
            own: SocketAddr::new(own, key.port),
            peer,
            transport: key.transport,
        };
        pair.set_up(id, Path::new(terms), wanted);
        self.peer_event(PeerEvent::Open {
            path: id,
            guest: None,
        });
    }

    /// Tells a socket's owner what is in force, if that is news.
    fn tell(&mut self, key: FlowKey, available: bool, enabled: bool) {
        let State::Up(tunnel) = &mut self.state else {
            return;
        };
        let sockets = &mut tunnel.services.peer.sockets;
        let Some(socket) = sockets.iter_mut().find(|socket| socket.key == key) else {
            return;
        };
        if socket.told.replace((available, enabled)) == Some((available, enabled)) {
            return;
        }
        let local = socket.local;
        self.events.push_back(Event::SocketService {
            service: ENABLE,
            available,
            enabled,
            local,
        });
    }

    /// Tells the sockets that send from one address to another whether any of their peers is reached directly.
    fn tell_users(&mut self, own: IpAddr, peer: IpAddr) {
        let State::Up(tunnel) = &mut self.state else {
            return;
        };
        let peers = &mut tunnel.services.peer;
        let users = peers.pair(own, peer).map(|pair| pair.users.clone());
        for key in users.unwrap_or_default() {
            let State::Up(tunnel) = &self.state else {
                return;
            };
            let mut pairs = tunnel.services.peer.pairs.iter();
            let enabled = pairs.any(|pair| pair.up.is_some() && pair.users.contains(&key));
            self.tell(key, true, enabled);
        }
    }

    /// Ends what nobody uses any more: no socket of this end, and this end has asked for it.
    fn end_unused(&mut self, now: Instant) {
        let State::Up(tunnel) = &self.state else {
            return;
        };
        let is_unused = |pair: &&Pair| {
            let is_late = pair.unused_from().is_some_and(|from| from <= now);
            let is_wanted = pair.is_invited || !pair.users.is_empty();
            pair.is_active() && (is_late || !is_wanted)
        };
        let pairs = tunnel.services.peer.pairs.iter().filter(is_unused);
        let ids: Vec<PathId> = pairs.flat_map(Pair::ids).collect();
        for id in ids {
            self.path_ended(now, id, PathEnd::Unused);
        }
        self.settle_peers(now);
    }

    pub(in super::super) fn peer_timeout(&mut self, now: Instant) {
        let State::Up(tunnel) = &mut self.state else {
            return;
        };
        let is_due = |path: &Path| path.due().is_some_and(|due| due <= now);
        let pairs = &tunnel.services.peer.pairs;
        let due = pairs.iter().flat_map(|pair| {
            let slots = pair.slots();
            slots.filter(|slot| is_due(&slot.path)).map(|slot| slot.id)
        });
        let due: Vec<PathId> = due.collect();
        for id in due {
            self.with_path(now, id, |path, random| path.timeout(now, random));
        }
        let State::Up(tunnel) = &self.state else {
            return;
        };
        let mut unused = tunnel
            .services
            .peer
            .pairs
            .iter()
            .filter_map(Pair::unused_from);
        if unused.any(|from| from <= now) {
            self.end_unused(now);
        }
    }

    /// The network has changed: the other ends are asked at once.
    pub(in super::super) fn probe_peers(&mut self, now: Instant) {
        let State::Up(tunnel) = &self.state else {
            return;
        };
        let ups = tunnel.services.peer.pairs.iter();
        let ids: Vec<PathId> = ups.filter_map(|pair| Some(pair.up.as_ref()?.id)).collect();
        for id in ids {
            self.with_path(now, id, |path, _| path.probe(now));
        }
    }

    /// The main tunnel is over, and with it all of them.
    pub(in super::super) fn end_peers(&mut self, services: Services) {
        for mut pair in services.peer.pairs {
            let (own, peer) = (pair.own, pair.peer);
            if pair.up.is_some() {
                self.peer_event(PeerEvent::Down {
                    own,
                    peer,
                    why: PathEnd::MainDown,
                });
            }
            for slot in pair.take_all() {
                self.close_path(slot);
            }
        }
    }
}

impl Peers {
    fn next_id(&mut self) -> PathId {
        let id = PathId(self.next_path);
        self.next_path = self.next_path.wrapping_add(1);
        id
    }

    /// Where the pair of these addresses is, made if need be.
    fn place(&mut self, own: IpAddr, peer: IpAddr) -> usize {
        let is_it = |pair: &Pair| pair.own == own && pair.peer == peer;
        if let Some(place) = self.pairs.iter().position(is_it) {
            return place;
        }
        self.pairs.push(Pair::new(own, peer));
        self.pairs.len() - 1
    }
}
