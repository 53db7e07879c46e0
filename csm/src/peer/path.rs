//! One UDP socket of a client, and the streams beside it, from its opening to the end of the tunnel that they have carried, if it came
//! to one.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tsc_tpl::{FirstByte, IpPacket, Limits, StunMessage, Unit};

use super::candidate::Candidate;
use super::gather::Gather;
use super::link::{Link, Taken};
use super::listen::{Claimed, Listen};
use super::message::{Granted, Invitation};
use super::search::Search;
use super::unproven::Unproven;
use crate::random::Random;
use crate::transport::Transport;

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
    /// Send a datagram as it is, or a unit over the association or the stream.
    Send(Candidate, Bytes),
    /// Make an association or a stream, under protection with whoever has this certificate.
    Connect(Candidate, [u8; 32]),
    /// Close it, or stop making it.
    Disconnect(Candidate),
}

/// What has become of the path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// By which addresses it may be reached.
    Gathered(Found),
    /// The tunnel is up, with the other end at this address.
    Up(Candidate),
    Ended(PathEnd),
}

/// By which addresses a path may be reached.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// For datagrams: of this host, and as the server sees it.
    pub(crate) datagrams: Vec<SocketAddr>,
    /// For streams: of this host.
    pub(crate) streams: Option<SocketAddr>,
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
    pub(super) fn send(&mut self, to: Candidate, bytes: Bytes) {
        if to.transport != Transport::Udp || self.unproven.may_send(to.address) {
            self.push(to, bytes);
        }
    }

    /// To the other end itself.
    pub(super) fn push(&mut self, to: Candidate, bytes: Bytes) {
        if self.actions.len() < MAX_ACTIONS {
            self.actions.push_back(Action::Send(to, bytes));
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Path {
    terms: Terms,
    phase: Phase,
    local: Option<SocketAddr>,
    /// Where streams are taken.
    listener: Option<SocketAddr>,
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
            listener: None,
            out: Outbox::default(),
            news: VecDeque::new(),
            refused: 0,
        }
    }

    /// The socket is there: its own address, that of the STUN server, if one is known, and the port where streams are taken, if they
    /// are.
    pub(crate) fn opened(
        &mut self,
        now: Instant,
        local: SocketAddr,
        stun: Option<SocketAddr>,
        listener: Option<u16>,
        random: &mut dyn Random,
    ) {
        if !matches!(self.phase, Phase::Opening) {
            return;
        }
        self.local = Some(local);
        self.listener = listener.map(|port| SocketAddr::new(local.ip(), port));
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
        let mut datagrams: Vec<_> = self.local.into_iter().collect();
        datagrams.extend(seen.filter(|seen| Some(*seen) != self.local));
        let streams = self.listener;
        let found = Found { datagrams, streams };
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

    /// Whether something is to be looked at: a datagram under protection that came from there, or a stream.
    pub(crate) fn admits(&mut self, from: Candidate) -> bool {
        let admitted = match &self.phase {
            Phase::Searching(search) => search.expects(from),
            Phase::Listening(listen) => listen.expects(from),
            Phase::Up(link) => link.at == from,
            Phase::Opening | Phase::Gathering(_) | Phase::Gathered | Phase::Ended => false,
        };
        if !admitted {
            self.refused += 1;
        } else if !from.transport.is_stream() {
            self.out.unproven.heard(from.address);
        }
        admitted
    }

    /// Whether a datagram of a handshake may go there; it is counted as sent.
    pub(crate) fn may_send(&mut self, to: SocketAddr) -> bool {
        let is_peer = self.link().is_some_and(|link| link.at.address == to);
        is_peer || self.out.unproven.may_send(to)
    }

    /// There is an association or a stream now, and this is the other's certificate, if it has shown one.
    pub(crate) fn connected(
        &mut self,
        now: Instant,
        with: Candidate,
        fingerprint: Option<&[u8; 32]>,
    ) {
        let is_peer = match &mut self.phase {
            Phase::Searching(search) => search.connected(now, with, fingerprint, &mut self.out),
            Phase::Listening(listen) => listen.connected(with, fingerprint, &mut self.out),
            Phase::Up(link) if link.at == with => true,
            Phase::Opening
            | Phase::Gathering(_)
            | Phase::Gathered
            | Phase::Up(_)
            | Phase::Ended => {
                self.out.actions.push_back(Action::Disconnect(with));
                true
            }
        };
        self.refused += u64::from(!is_peer);
    }

    /// The association or the stream is gone, or was not made.
    pub(crate) fn disconnected(&mut self, now: Instant, with: Candidate) {
        match &mut self.phase {
            Phase::Searching(search) => search.disconnected(now, with, &mut self.out),
            Phase::Listening(listen) => listen.disconnected(with),
            Phase::Up(link) if link.at == with => self.end(PathEnd::Transport),
            Phase::Opening
            | Phase::Gathering(_)
            | Phase::Gathered
            | Phase::Up(_)
            | Phase::Ended => {}
        }
    }

    /// Feeds a datagram: as it came, or out of the association; gives the inner packet in it, if it is for this client.
    pub(crate) fn datagram<'a>(
        &mut self,
        now: Instant,
        from: Candidate,
        bytes: &'a [u8],
        random: &mut dyn Random,
    ) -> Option<IpPacket<'a>> {
        let is_clear = from.transport == Transport::Udp;
        if is_clear && FirstByte::classify(*bytes.first()?) == FirstByte::Stun {
            self.stun(from.address, bytes);
            return None;
        }
        match Unit::decode_datagram(bytes, &Limits::WIDEST) {
            Ok(unit) => self.unit(now, from, unit, random),
            Err(_) => {
                self.refused += 1;
                None
            }
        }
    }

    fn stun(&mut self, from: SocketAddr, bytes: &[u8]) {
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
    }

    /// Feeds a unit: of a datagram, an association, or a stream.
    pub(crate) fn unit<'a>(
        &mut self,
        now: Instant,
        from: Candidate,
        unit: Unit<'a>,
        random: &mut dyn Random,
    ) -> Option<IpPacket<'a>> {
        let terms = self.terms;
        let is_datagram = !from.transport.is_stream();
        match (&mut self.phase, unit) {
            (Phase::Up(link), unit) if link.at == from => {
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
                if is_datagram {
                    self.out.unproven.heard(from.address);
                }
                if let Some(link) =
                    search.control(now, from, &message, &terms, &mut self.out, random)
                {
                    self.up(link);
                }
            }
            (Phase::Listening(listen), Unit::Control(message)) if listen.expects(from) => {
                if is_datagram {
                    self.out.unproven.heard(from.address);
                }
                match listen.control(now, from, &message, &terms, &mut self.out, random) {
                    Claimed::Granted(link) => self.up(*link),
                    Claimed::No => {}
                    Claimed::Forged => self.refused += 1,
                }
            }
            _ => self.refused += 1,
        }
        None
    }

    fn up(&mut self, link: Link) {
        self.news.push_back(News::Up(link.at));
        self.phase = Phase::Up(link);
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
    pub(crate) fn usable(&self, now: Instant) -> Option<Candidate> {
        let link = self.link().filter(|link| link.is_usable(now))?;
        Some(link.at)
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
                    Some((to, bytes)) => out.send(Candidate::udp(to), bytes),
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
