//! One UDP socket of a client, from its opening to the end of the tunnel that it has carried, if it came to one.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tsc_tpl::{FirstByte, IpPacket, Limits, StunMessage, Unit};

use super::gather::Gather;
use super::link::{Link, Taken};
use super::listen::{Claimed, Listen};
use super::message::{Granted, Invitation};
use super::search::Search;
use super::unproven::Unproven;
use crate::random::Random;

/// Most that waits for the owner. It drains after each input, and one input adds a few.
const MAX_ACTIONS: usize = 64;

/// Both ends of the tunnel, by their inner addresses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) own: IpAddr,
    pub(crate) peer: IpAddr,
    /// Of our main tunnel.
    pub(crate) inner_mtu: u16,
}

/// What the owner is to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Send a datagram as it is.
    Datagram(SocketAddr, Bytes),
    /// Send a unit over the association with this address.
    Sealed(SocketAddr, Bytes),
    /// Begin a handshake with this address, for whoever has this certificate.
    Connect(SocketAddr, [u8; 32]),
    /// Close the association with this address, or stop making it.
    Disconnect(SocketAddr),
}

/// What has become of the path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// By which addresses it may be reached.
    Gathered(Vec<SocketAddr>),
    /// The tunnel is up, with the other end at this address.
    Up(SocketAddr),
    Ended(PathEnd),
}

/// Why a peer tunnel is over, or did not come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathEnd {
    /// The other end was found at none of its addresses within 5 s.
    #[error("the peer was found at none of its addresses")]
    NoPath,
    /// The other end, which had asked, did not come.
    #[error("the peer did not come")]
    NotClaimed,
    /// Nothing comes any more.
    #[error("the peer does not answer any more")]
    Silent,
    /// The other end does not want it any more.
    #[error("released by the peer")]
    Released,
    /// The other end broke the protocol's rules.
    #[error("the peer broke the protocol's rules")]
    Protocol,
    /// The socket, or the association, is gone.
    #[error("the socket failed")]
    Transport,
    /// The server says that the other end is gone, or does not want it any more.
    #[error("ended by the server")]
    ByServer,

    /// Nobody uses it any more.
    #[error("not used any more")]
    Unused,
    /// The main tunnel is over.
    #[error("the main tunnel is over")]
    MainDown,
}

/// What goes out, and how much of it where nothing has come from.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pub(super) actions: VecDeque<Action>,
    unproven: Unproven,
}

impl Outbox {
    /// To an address that may be anybody's; a datagram too many is left out.
    pub(super) fn send(&mut self, to: SocketAddr, bytes: Bytes, is_clear: bool) {
        if !is_clear || self.unproven.may_send(to) {
            self.push(to, bytes, is_clear);
        }
    }

    /// To the other end itself.
    pub(super) fn push(&mut self, to: SocketAddr, bytes: Bytes, is_clear: bool) {
        if self.actions.len() < MAX_ACTIONS {
            self.actions.push_back(if is_clear {
                Action::Datagram(to, bytes)
            } else {
                Action::Sealed(to, bytes)
            });
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Path {
    terms: Terms,
    phase: Phase,
    local: Option<SocketAddr>,
    out: Outbox,
    news: VecDeque<News>,
    /// What came and was not the other end's: from elsewhere, with another tag, fingerprint or inner address, or nothing at all.
    refused: u64,
}

#[derive(Debug)]
enum Phase {
    Opening,
    Gathering(Gather),
    Gathered,
    Searching(Search),
    Listening(Box<Listen>),
    Up(Link),
    Ended,
}

impl Path {
    pub(crate) fn new(terms: Terms) -> Self {
        Self {
            terms,
            phase: Phase::Opening,
            local: None,
            out: Outbox::default(),
            news: VecDeque::new(),
            refused: 0,
        }
    }

    /// The socket is there: its own address, and that of the STUN server, if one is known.
    pub(crate) fn opened(
        &mut self,
        now: Instant,
        local: SocketAddr,
        stun: Option<SocketAddr>,
        random: &mut dyn Random,
    ) {
        if !matches!(self.phase, Phase::Opening) {
            return;
        }
        self.local = Some(local);
        let Some(server) = stun else {
            return self.gathered(None);
        };
        let mut transaction = [0; 12];
        random.fill(&mut transaction);
        self.phase = Phase::Gathering(Gather::new(now, server, transaction));
        self.timeout(now, random);
    }

    fn gathered(&mut self, seen: Option<SocketAddr>) {
        self.phase = Phase::Gathered;
        let mut found: Vec<_> = self.local.into_iter().collect();
        found.extend(seen.filter(|seen| Some(*seen) != self.local));
        self.news.push_back(News::Gathered(found));
    }

    /// Looks for the other end, which has answered.
    pub(crate) fn search(
        &mut self,
        now: Instant,
        granted: &Granted,
        is_clear: bool,
        random: &mut dyn Random,
    ) {
        if matches!(self.phase, Phase::Gathered) {
            self.phase = Phase::Searching(Search::new(now, granted, is_clear, random));
            self.timeout(now, random);
        }
    }

    /// Waits for the other end, which has asked.
    pub(crate) fn listen(
        &mut self,
        now: Instant,
        asked: &Invitation,
        granted: &Granted,
        is_clear: bool,
        random: &mut dyn Random,
    ) {
        if let (Phase::Gathered, Some(local)) = (&self.phase, self.local) {
            let listen = Listen::new(now, local, asked, granted, is_clear, random);
            self.phase = Phase::Listening(Box::new(listen));
            self.timeout(now, random);
        }
    }

    /// Whether a datagram under protection that came from there is to be looked at.
    pub(crate) fn admits(&mut self, from: SocketAddr) -> bool {
        let admitted = match &self.phase {
            Phase::Searching(search) => search.expects(from),
            Phase::Listening(listen) => !listen.is_clear() && listen.expects(from.ip()),
            Phase::Up(link) => link.address == from,
            Phase::Opening | Phase::Gathering(_) | Phase::Gathered | Phase::Ended => false,
        };
        if admitted {
            self.out.unproven.heard(from);
        } else {
            self.refused += 1;
        }
        admitted
    }

    /// Whether a datagram of a handshake may go there; it is counted as sent.
    pub(crate) fn may_send(&mut self, to: SocketAddr) -> bool {
        let is_peer = self.link().is_some_and(|link| link.address == to);
        is_peer || self.out.unproven.may_send(to)
    }

    /// A handshake with this address is done, and this is the other's certificate.
    pub(crate) fn connected(&mut self, now: Instant, address: SocketAddr, fingerprint: &[u8; 32]) {
        let is_peer = match &mut self.phase {
            Phase::Searching(search) => search.connected(now, address, fingerprint, &mut self.out),
            Phase::Listening(listen) => listen.connected(address, fingerprint, &mut self.out),
            Phase::Up(link) if link.address == address => true,
            Phase::Opening
            | Phase::Gathering(_)
            | Phase::Gathered
            | Phase::Up(_)
            | Phase::Ended => {
                self.out.actions.push_back(Action::Disconnect(address));
                true
            }
        };
        self.refused += u64::from(!is_peer);
    }

    /// The association with this address is gone, or was not made.
    pub(crate) fn disconnected(&mut self, now: Instant, address: SocketAddr) {
        match &mut self.phase {
            Phase::Searching(search) => search.disconnected(now, address, &mut self.out),
            Phase::Listening(listen) => listen.disconnected(address),
            Phase::Up(link) if link.address == address => self.end(PathEnd::Transport),
            Phase::Opening
            | Phase::Gathering(_)
            | Phase::Gathered
            | Phase::Up(_)
            | Phase::Ended => {}
        }
    }

    /// Feeds a datagram that came as it is; gives the inner packet in it, if it is for this client.
    pub(crate) fn datagram<'a>(
        &mut self,
        now: Instant,
        from: SocketAddr,
        bytes: &'a [u8],
        random: &mut dyn Random,
    ) -> Option<IpPacket<'a>> {
        let first = FirstByte::classify(*bytes.first()?);
        if first != FirstByte::Stun {
            return self.unit(now, from, bytes, true, random);
        }
        match (&self.phase, StunMessage::decode(bytes)) {
            (Phase::Gathering(gather), Ok(message)) => match gather.seen(from, &message) {
                Some(seen) => {
                    self.out.unproven.heard(from);
                    self.gathered(Some(seen));
                }
                None => self.refused += 1,
            },
            // The other end opens its NAT; and a late answer of the server.
            (_, Ok(_)) => {}
            (_, Err(_)) => self.refused += 1,
        }
        None
    }

    /// Feeds a unit: `is_clear` as a datagram, else from the association with this address.
    pub(crate) fn unit<'a>(
        &mut self,
        now: Instant,
        from: SocketAddr,
        bytes: &'a [u8],
        is_clear: bool,
        random: &mut dyn Random,
    ) -> Option<IpPacket<'a>> {
        let Ok(unit) = Unit::decode_datagram(bytes, &Limits::WIDEST) else {
            self.refused += 1;
            return None;
        };
        let terms = self.terms;
        match (&mut self.phase, unit) {
            (Phase::Up(link), unit) if link.address == from && link.is_clear() == is_clear => {
                let taken = match &unit {
                    Unit::Ip(packet) => link.packet(now, &terms, packet),
                    Unit::Control(message) => link.control(now, message, &mut self.out),
                    Unit::Redundancy(_) | Unit::Reserved(_) => Taken::Dropped,
                };
                match (taken, unit) {
                    (Taken::Packet, Unit::Ip(packet)) => return Some(packet),
                    (Taken::End(why), _) => self.end(why),
                    (Taken::Dropped, _) => self.refused += 1,
                    (Taken::Packet | Taken::Used, _) => {}
                }
            }
            (Phase::Searching(search), Unit::Control(message)) if search.expects(from) => {
                self.out.unproven.heard(from);
                if is_clear == search.is_clear()
                    && let Some(link) =
                        search.control(now, from, &message, &terms, &mut self.out, random)
                {
                    self.up(now, link);
                }
            }
            (Phase::Listening(listen), Unit::Control(message)) if listen.expects(from.ip()) => {
                self.out.unproven.heard(from);
                if is_clear == listen.is_clear() {
                    match listen.control(now, from, &message, &terms, &mut self.out, random) {
                        Claimed::Granted(link) => self.up(now, *link),
                        Claimed::No => {}
                        Claimed::Forged => self.refused += 1,
                    }
                }
            }
            _ => self.refused += 1,
        }
        None
    }

    fn up(&mut self, now: Instant, mut link: Link) {
        let address = link.address;
        if link.is_confirmed() {
            // The other end waits for a sign of life before it sends anything (spec 5, "Unconfirmed").
            link.probe(now, &mut self.out);
        }
        self.phase = Phase::Up(link);
        self.news.push_back(News::Up(address));
    }

    fn end(&mut self, why: PathEnd) {
        self.phase = Phase::Ended;
        self.news.push_back(News::Ended(why));
    }

    /// Ends it from this side; nobody is told but the other end.
    pub(crate) fn close(&mut self) {
        if let Phase::Up(link) = &self.phase {
            link.release(&mut self.out);
        }
        self.phase = Phase::Ended;
        self.news.clear();
    }

    /// Asks the other end whether it is there, as after a change of the network.
    pub(crate) fn probe(&mut self, now: Instant) {
        if let Phase::Up(link) = &mut self.phase {
            link.probe(now, &mut self.out);
        }
    }

    const fn link(&self) -> Option<&Link> {
        if let Phase::Up(link) = &self.phase {
            Some(link)
        } else {
            None
        }
    }

    /// Where packets for the other end go; `None` while they go over the server.
    pub(crate) fn usable(&self, now: Instant) -> Option<(SocketAddr, bool)> {
        let link = self.link().filter(|link| link.is_usable(now))?;
        Some((link.address, link.is_clear()))
    }

    /// A packet goes this way.
    pub(crate) fn note_packet(&mut self, now: Instant) {
        if let Phase::Up(link) = &mut self.phase {
            link.note_packet(now);
        }
    }

    /// When the last packet has gone or come this way.
    pub(crate) fn last_packet(&self) -> Option<Instant> {
        self.link().map(|link| link.last_packet)
    }

    pub(crate) fn round_trip(&self) -> Option<Duration> {
        self.link().and_then(Link::round_trip)
    }

    /// What came and was not taken.
    pub(crate) const fn refused(&self) -> u64 {
        self.refused
    }

    pub(crate) fn due(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Gathering(gather) => Some(gather.due()),
            Phase::Searching(search) => Some(search.due()),
            Phase::Listening(listen) => Some(listen.due()),
            Phase::Up(link) => link.due(),
            Phase::Opening | Phase::Gathered | Phase::Ended => None,
        }
    }

    /// Does what is due.
    pub(crate) fn timeout(&mut self, now: Instant, random: &mut dyn Random) {
        if self.due().is_none_or(|due| due > now) {
            return;
        }
        let out = &mut self.out;
        let ended = match &mut self.phase {
            Phase::Gathering(gather) => {
                match gather.next(now) {
                    Some((to, bytes)) => out.send(to, bytes, true),
                    None => self.gathered(None),
                }
                None
            }
            Phase::Searching(search) => search.timeout(now, out),
            Phase::Listening(listen) => listen.timeout(now, out, random),
            Phase::Up(link) => link.timeout(now, out),
            Phase::Opening | Phase::Gathered | Phase::Ended => None,
        };
        if let Some(why) = ended {
            self.end(why);
        }
    }

    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        self.out.actions.pop_front()
    }

    pub(crate) fn poll_news(&mut self) -> Option<News> {
        self.news.pop_front()
    }
}
