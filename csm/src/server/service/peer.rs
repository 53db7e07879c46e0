//! Peer tunnels: the server brings two of its clients together, and has no part in what they say then (spec 7).
//!
//! ```text
//!   A's shard                                      B's shard
//!   ask: checks of A -----------Relayed::Ask-----> checks of B, A's candidates --- Client_Service_Request ---> B
//!   answer, remembered <--------Relayed::Answer--- B's candidates <--------------- Client_Service_Response --- B
//!   partner of B                                   partner of A
//!   A ends -------------------------Relayed::End-> --- Service_Request 20 ---> B
//! ```
//!
//! *Attack*: a client asks again and again, asks in another's name, or names addresses that are not its own so that others send there.
//! *Mechanism*: each client may ask, and be asked, so often; the source is checked as that of any packet; a candidate passes only if
//! it is the address that the client is seen at, and private ones only between clients that are seen at the same. Who is asked is
//! told nothing by anybody but this server. *Limit*: clients behind one NAT can name each other's ports.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use tsc_tpl::{
    CmType, ControlMessage, Header, Message, MessageError, ResponseCode, Sequence, ServiceType,
    StunKind, StunMessage,
};

use super::super::Server;
use super::super::arena::Key;
use super::super::event::{BindingId, Event, SessionId, Shard, Verdict};
use super::super::session::{Life, Session};
use super::{Answer, Served, Services};
use crate::peer::{self, Allowance, Candidate, Granted, Invitation, Reach};
use crate::service::ServiceGrant;
use crate::transaction::{Request, Schedule, Step};
use crate::wire;

const ENABLE: ServiceType = ServiceType::ENABLE_PEER;

/// How long the one who is asked may take (spec 7.2).
const PATIENCE: Duration = Duration::from_secs(5);
/// Requests of one client that wait for their peers. It may have four requests of any kind outstanding (spec 4).
const MAX_ASKED: usize = 3;
/// Requests that wait at one client; with a Keepalive and the news of an end that makes four (spec 4).
const MAX_FORWARDED: usize = 2;
/// Peer tunnels of one client that the server remembers, to tell of their end; asking for more is answered `no_resources`.
pub const MAX_PARTNERS: usize = 16;
/// How often one client may ask, and be asked: so many at once, and one more each second.
const BURST: u32 = 16;
const EACH: Duration = Duration::from_secs(1);

/// The service of one tunnel. Kept until the tunnel ends, so that allowances are not renewed by ending it.
#[derive(Debug)]
pub(super) struct Peers {
    asked: Vec<Asked>,
    forwarded: Vec<Forwarded>,
    /// At most [`MAX_PARTNERS`].
    partners: Vec<Partner>,
    /// Partners whose end this client is still to be told; at most as many.
    ends: VecDeque<Partner>,
    telling: Option<(Request<()>, Partner)>,
    asks: Allowance,
    is_asked: Allowance,
}

/// A request of this tunnel's client.
#[derive(Debug)]
struct Asked {
    header: Header,
    until: Instant,
    partner: Partner,
}

/// A request of another client, at this one.
#[derive(Debug)]
struct Forwarded {
    request: Request<()>,
    until: Instant,
    ticket: Sequence,
    partner: Partner,
    asker: Seen,
}

/// Another tunnel, and the inner addresses of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Partner {
    session: SessionId,
    /// Of this tunnel.
    own: IpAddr,
    /// Of the other.
    peer: IpAddr,
}

/// What the server sees of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    outer: IpAddr,
    /// Its tunnel is: then the peer tunnel has to be (spec 5, "No downgrade").
    protected: bool,
}

/// What one shard has for another about peer tunnels: hand it to [`Server::handle_relayed`] of the shard that it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relayed {
    to: SessionId,
    from: SessionId,
    what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Ask {
        ticket: Sequence,
        invitation: Box<Invitation>,
        asker: Seen,
    },
    Answer {
        ticket: Sequence,
        answer: Result<Box<Granted>, ResponseCode>,
    },
    /// The addresses are the receiver's and the sender's.
    End { own: IpAddr, peer: IpAddr },
}

impl Relayed {
    /// The shard that it is for.
    #[must_use]
    pub const fn shard(&self) -> Shard {
        self.to.shard()
    }
}

impl Peers {
    fn new() -> Self {
        Self {
            asked: Vec::new(),
            forwarded: Vec::new(),
            partners: Vec::new(),
            ends: VecDeque::new(),
            telling: None,
            asks: Allowance::new(BURST, EACH),
            is_asked: Allowance::new(BURST, EACH),
        }
    }

    pub(super) fn is_in_force(&self) -> bool {
        !self.partners.is_empty()
    }

    pub(super) fn deadline(&self, is_bound: bool) -> Option<Instant> {
        let asked = self.asked.iter().map(|asked| asked.until);
        let forwarded = self.forwarded.iter().map(|forwarded| {
            let due = forwarded.request.due();
            if is_bound {
                due.min(forwarded.until)
            } else {
                forwarded.until
            }
        });
        let telling = self.telling.as_ref().filter(|_| is_bound);
        let telling = telling.map(|(request, _)| request.due());
        asked.chain(forwarded).chain(telling).min()
    }

    /// What there is to be told of.
    pub(super) fn grants(&self) -> impl Iterator<Item = ServiceGrant> + use<> {
        let partners = self.partners.clone();
        partners.into_iter().map(Partner::grant)
    }
}

impl Partner {
    const fn grant(self) -> ServiceGrant {
        ServiceGrant::Peer {
            own: self.own,
            peer: self.peer,
        }
    }
}

impl Services {
    fn peers(&mut self) -> &mut Peers {
        self.peers.get_or_insert_with(|| Box::new(Peers::new()))
    }
}

impl Session {
    fn peers(&mut self) -> Option<&mut Peers> {
        self.services.as_mut()?.peers.as_deref_mut()
    }
}

impl Server {
    /// Answers a STUN Binding request from anywhere, where the interface offers peer tunnels: with nothing kept, as often as
    /// strangers are answered at all, and never longer than the request and 32 bytes (spec 7). `None` is no answer.
    pub fn answer_stun(
        &mut self,
        now: Instant,
        interface: usize,
        from: std::net::SocketAddr,
        datagram: &[u8],
    ) -> Option<bytes::Bytes> {
        let offers = self
            .config
            .interfaces
            .get(interface)
            .is_some_and(|interface| interface.offers(ENABLE));
        let request = StunMessage::decode(datagram)
            .ok()
            .filter(|message| offers && message.kind == StunKind::Request);
        let Some(request) = request else {
            self.stats.strangers += 1;
            return None;
        };
        if !self.stateless_allowed(now) {
            return None;
        }
        self.stats.stun += 1;
        Some(request.success(from).encode().into())
    }

    /// A client asks for a peer tunnel: forwarded, and answered when the other has answered.
    pub(super) fn ask_peer(
        &mut self,
        now: Instant,
        key: Key,
        request: &Message<'_>,
    ) -> Result<(), ResponseCode> {
        self.stats.peer_requests += 1;
        let id = self.session_id(key);
        let invitation = Invitation::read(request).ok_or(ResponseCode::MALFORMED)?;
        let asker = self.seen(key).ok_or(ResponseCode::PEER_UNAVAILABLE)?;
        let (own, peer) = (invitation.own.ip(), invitation.peer.ip());
        let to = self.common.owner(peer);
        let session = self
            .sessions
            .get_mut(key)
            .ok_or(ResponseCode::PEER_UNAVAILABLE)?;
        if !session.leases.iter().any(|lease| lease.address == own) {
            return Err(ResponseCode::NOT_AUTHORIZED);
        }
        let peers = session.services.get_or_insert_default().peers();
        if !peers.asks.take(now) || peers.asked.len() >= MAX_ASKED {
            return Err(ResponseCode::BUSY);
        }
        if peers.partners.len() >= MAX_PARTNERS {
            return Err(ResponseCode::NO_RESOURCES);
        }
        let to = to
            .filter(|to| *to != id && own.is_ipv4() == peer.is_ipv4())
            .ok_or(ResponseCode::PEER_UNAVAILABLE)?;
        let ticket = request.header().sequence;
        peers.asked.push(Asked {
            header: request.header(),
            until: now + PATIENCE,
            partner: Partner {
                session: to,
                own,
                peer,
            },
        });
        self.relay(
            now,
            Relayed {
                to,
                from: id,
                what: What::Ask {
                    ticket,
                    invitation: Box::new(invitation),
                    asker,
                },
            },
        );
        self.arm_session(key);
        Ok(())
    }

    /// How the server sees a client; `None` while it has no transport.
    fn seen(&self, key: Key) -> Option<Seen> {
        let session = self.sessions.get(key)?;
        let binding = self.bindings.get(session.binding?.key())?;
        Some(Seen {
            outer: binding.peer.ip().to_canonical(),
            protected: session.protected,
        })
    }

    fn relay(&mut self, now: Instant, relayed: Relayed) {
        if relayed.to.shard() == self.shard {
            self.handle_relayed(now, relayed);
        } else {
            self.events.push_back(Event::Relay(relayed));
        }
    }

    /// Takes what another shard has relayed. What is for a tunnel that has ended meanwhile is answered, too.
    pub fn handle_relayed(&mut self, now: Instant, relayed: Relayed) {
        let Relayed { to, from, what } = relayed;
        let key = self.own(to).filter(|key| self.sessions.get(*key).is_some());
        match what {
            What::Ask {
                ticket,
                invitation,
                asker,
            } => {
                let forwarded = key
                    .ok_or(ResponseCode::PEER_UNAVAILABLE)
                    .and_then(|key| self.forward_ask(now, key, from, ticket, *invitation, asker));
                if let Err(code) = forwarded {
                    self.reply(now, to, from, ticket, Err(code));
                }
            }
            What::Answer { ticket, answer } => {
                let is_granted = answer.is_ok();
                let taken = key.and_then(|key| self.take_answer(now, key, ticket, answer));
                // Whom the other end takes for its partner is gone, or has been answered otherwise.
                if taken.is_none() && is_granted {
                    self.relay_ends(now, to, from);
                }
            }
            What::End { own, peer } => {
                let partner = Partner {
                    session: from,
                    own,
                    peer,
                };
                if let Some(key) = key {
                    self.partner_ended(now, key, partner);
                }
            }
        }
    }

    fn reply(
        &mut self,
        now: Instant,
        from: SessionId,
        to: SessionId,
        ticket: Sequence,
        answer: Result<Box<Granted>, ResponseCode>,
    ) {
        let what = What::Answer { ticket, answer };
        self.relay(now, Relayed { to, from, what });
    }

    /// Tells `to` that all it has with `from` is over: the addresses are for it to know.
    fn relay_ends(&mut self, now: Instant, from: SessionId, to: SessionId) {
        let any = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
        let what = What::End {
            own: any,
            peer: any,
        };
        self.relay(now, Relayed { to, from, what });
    }

    /// Asks this tunnel's client whether it wants the other.
    fn forward_ask(
        &mut self,
        now: Instant,
        key: Key,
        from: SessionId,
        ticket: Sequence,
        mut invitation: Invitation,
        asker: Seen,
    ) -> Result<(), ResponseCode> {
        let unavailable = ResponseCode::PEER_UNAVAILABLE;
        let seen = self.seen(key).ok_or(unavailable)?;
        let session = self.sessions.get_mut(key).ok_or(unavailable)?;
        let interface = self.config.interfaces.get(session.interface);
        let may = interface.is_some_and(|interface| interface.offers(ENABLE));
        let is_there = matches!(session.life, Life::Active | Life::Persistent { .. });
        if !may || !is_there || !session.confirmed || !session.takes_peers {
            return Err(unavailable);
        }
        let found = invitation.candidates.len();
        invitation
            .candidates
            .retain(|candidate| passes(candidate, asker.outer, seen.outer));
        let struck = found - invitation.candidates.len();
        self.stats.peer_struck += u64::try_from(struck).unwrap_or_default();
        if invitation.candidates.is_empty() {
            return Err(unavailable);
        }
        let (tsid, sequence) = (session.tsid, session.next_sequence);
        let binding = session.binding.ok_or(unavailable)?;
        let is_stream = self
            .bindings
            .get(binding.key())
            .ok_or(unavailable)?
            .transport
            .is_stream();
        let partner = Partner {
            session: from,
            own: invitation.peer.ip(),
            peer: invitation.own.ip(),
        };
        let peers = session.services.get_or_insert_default().peers();
        if !peers.is_asked.take(now) || peers.forwarded.len() >= MAX_FORWARDED {
            return Err(ResponseCode::BUSY);
        }
        if peers.partners.len() >= MAX_PARTNERS {
            return Err(unavailable);
        }
        let bytes = peer::ask(tsid, sequence, &invitation).ok_or(unavailable)?;
        let answer = CmType::CLIENT_SERVICE_RESPONSE;
        let schedule = Schedule::request(is_stream);
        peers.forwarded.push(Forwarded {
            request: Request::sent(now, (), sequence, answer, bytes.clone(), schedule),
            until: now + PATIENCE,
            ticket,
            partner,
            asker,
        });
        session.next_sequence = sequence.next();
        self.transmit_over(binding, bytes);
        self.arm_session(key);
        Ok(())
    }

    /// A response of a client to something that peer tunnels had us ask; `None` if it is to something else.
    pub(in super::super) fn peer_response(
        &mut self,
        now: Instant,
        id: BindingId,
        key: Key,
        message: &ControlMessage<'_>,
    ) -> Option<Verdict> {
        let header = message.header();
        let peers = self.sessions.get_mut(key)?.peers()?;
        let told = peers
            .telling
            .take_if(|(request, _)| request.matches(header.cm_type, header.sequence));
        if told.is_some() {
            self.tell_end(now, key);
            return Some(Verdict::Consumed);
        }
        let place = peers
            .forwarded
            .iter()
            .position(|forwarded| forwarded.request.matches(header.cm_type, header.sequence))?;
        let forwarded = peers.forwarded.swap_remove(place);
        let parsed = message.parse();
        let answer = self.judge(key, &forwarded, &parsed);
        let own = self.session_id(key);
        let partner = forwarded.partner;
        if answer.is_ok() {
            self.add_partner(key, partner);
        }
        self.reply(now, own, partner.session, forwarded.ticket, answer);
        self.arm_session(key);
        Some(match parsed {
            Ok(_) => Verdict::Consumed,
            Err(error) => self.message_error(now, id, error),
        })
    }

    /// What the one who has asked is told of an answer.
    fn judge(
        &mut self,
        key: Key,
        forwarded: &Forwarded,
        answer: &Result<Message<'_>, MessageError>,
    ) -> Result<Box<Granted>, ResponseCode> {
        let unavailable = ResponseCode::PEER_UNAVAILABLE;
        let answer = answer.as_ref().map_err(|_| unavailable)?;
        match answer.response_code() {
            Some(ResponseCode::SUCCESS) => {}
            // Its own request, to the same peer, stands (spec 7.5).
            Some(ResponseCode::BUSY) => return Err(ResponseCode::BUSY),
            _ => return Err(unavailable),
        }
        let is_peer = answer.service_type() == Some(ENABLE);
        let mut granted = Granted::read(answer)
            .filter(|_| is_peer)
            .ok_or(unavailable)?;
        let seen = self.seen(key).ok_or(unavailable)?;
        let must_be_protected = seen.protected || forwarded.asker.protected;
        let found = granted.candidates.len();
        granted.candidates.retain(|candidate| {
            passes(candidate, seen.outer, forwarded.asker.outer)
                && (candidate.transport.is_protected() || !must_be_protected)
        });
        let struck = found - granted.candidates.len();
        self.stats.peer_struck += u64::try_from(struck).unwrap_or_default();
        if granted.candidates.is_empty() {
            return Err(unavailable);
        }
        Ok(Box::new(granted))
    }

    /// Gives the client that has asked its answer; `None` if it does not wait for one any more.
    fn take_answer(
        &mut self,
        now: Instant,
        key: Key,
        ticket: Sequence,
        answer: Result<Box<Granted>, ResponseCode>,
    ) -> Option<()> {
        let peers = self.sessions.get_mut(key)?.peers()?;
        let place = peers
            .asked
            .iter()
            .position(|asked| asked.header.sequence == ticket)?;
        let asked = peers.asked.swap_remove(place);
        let bytes = match &answer {
            Ok(granted) => {
                self.stats.peer_granted += 1;
                self.add_partner(key, asked.partner);
                peer::answer(&asked.header, granted)
            }
            Err(code) => self.peer_refusal(&asked.header, *code),
        };
        self.answer_ask(now, key, &asked.header, bytes);
        Some(())
    }

    pub(super) fn peer_refusal(
        &mut self,
        request: &Header,
        code: ResponseCode,
    ) -> Option<bytes::Bytes> {
        self.stats.peer_refused += 1;
        let is_busy = matches!(code, ResponseCode::BUSY | ResponseCode::NO_RESOURCES);
        let retry_after = is_busy.then_some(self.config.limits.retry_after);
        peer::refusal(request, code, retry_after)
    }

    fn answer_ask(
        &mut self,
        now: Instant,
        key: Key,
        request: &Header,
        bytes: Option<bytes::Bytes>,
    ) {
        let answer = request.cm_type.response();
        if let Some(((session, bytes), answer)) = self.sessions.get_mut(key).zip(bytes).zip(answer)
        {
            session
                .inbox
                .remember(now, request.sequence, answer, &bytes);
            if let Some(binding) = session.binding {
                self.transmit_over(binding, bytes);
            }
        }
        self.arm_session(key);
    }

    fn add_partner(&mut self, key: Key, partner: Partner) {
        let session = self.session_id(key);
        let Some(peers) = self.sessions.get_mut(key).and_then(Session::peers) else {
            return;
        };
        // Not to be told of the end of what begins anew.
        peers.ends.retain(|ended| *ended != partner);
        peers.telling.take_if(|(_, ended)| *ended == partner);
        if peers.partners.contains(&partner) || peers.partners.len() >= MAX_PARTNERS {
            return;
        }
        peers.partners.push(partner);
        let grant = partner.grant();
        self.events
            .push_back(Event::ServiceGranted { session, grant });
    }

    /// A client does not want a peer tunnel any more, or has lost it. Not to have it is no error.
    pub(super) fn disable_peer(&mut self, now: Instant, key: Key, request: &Message<'_>) -> Served {
        let mut named = request.flows();
        let (Some(flow), None) = (named.next(), named.next()) else {
            return Err(ResponseCode::MALFORMED);
        };
        let (own, peer) = (flow.source.ip(), flow.destination.ip());
        let session = self
            .sessions
            .get_mut(key)
            .ok_or(ResponseCode::SERVICE_UNAVAILABLE)?;
        if !session.leases.iter().any(|lease| lease.address == own) {
            return Err(ResponseCode::NOT_AUTHORIZED);
        }
        let Some(peers) = session.peers() else {
            return Ok(Answer::default());
        };
        let is_meant = |partner: &mut Partner| partner.own == own && partner.peer == peer;
        let ended: Vec<Partner> = peers.partners.extract_if(.., is_meant).collect();
        let id = self.session_id(key);
        for partner in ended {
            let grant = partner.grant();
            self.events
                .push_back(Event::ServiceEnded { session: id, grant });
            self.relay_end(now, id, partner);
        }
        Ok(Answer::default())
    }

    fn relay_end(&mut self, now: Instant, from: SessionId, partner: Partner) {
        let what = What::End {
            own: partner.peer,
            peer: partner.own,
        };
        let to = partner.session;
        self.relay(now, Relayed { to, from, what });
    }

    /// The other end has gone, or wants no peer tunnel any more: this client is told, so that it need not find out.
    fn partner_ended(&mut self, now: Instant, key: Key, ended: Partner) {
        let session = self.session_id(key);
        let Some(peers) = self.sessions.get_mut(key).and_then(Session::peers) else {
            return;
        };
        let is_meant = |partner: &mut Partner| {
            partner.session == ended.session
                && (ended.own.is_unspecified()
                    || (partner.own == ended.own && partner.peer == ended.peer))
        };
        let gone: Vec<Partner> = peers.partners.extract_if(.., is_meant).collect();
        for partner in gone {
            if peers.ends.len() < MAX_PARTNERS {
                peers.ends.push_back(partner);
            }
            let grant = partner.grant();
            self.events
                .push_back(Event::ServiceEnded { session, grant });
        }
        self.tell_end(now, key);
    }

    /// Service_Request 20, one at a time.
    fn tell_end(&mut self, now: Instant, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let (tsid, sequence) = (session.tsid, session.next_sequence);
        let is_released = matches!(session.life, Life::Releasing(_));
        let binding = session.binding;
        let Some(peers) = session.peers().filter(|peers| peers.telling.is_none()) else {
            return;
        };
        let Some(partner) = peers.ends.pop_front() else {
            return self.arm_session(key);
        };
        let is_stream = binding
            .and_then(|binding| self.bindings.get(binding.key()))
            .is_some_and(|binding| binding.transport.is_stream());
        let bytes = wire::peer_ended(tsid, sequence, partner.own, partner.peer);
        let Some(bytes) = bytes.filter(|_| !is_released) else {
            return;
        };
        let answer = CmType::SERVICE_RESPONSE;
        let schedule = Schedule::request(is_stream);
        let request = Request::sent(now, (), sequence, answer, bytes.clone(), schedule);
        peers.telling = Some((request, partner));
        session.next_sequence = sequence.next();
        if let Some(binding) = binding {
            self.transmit_over(binding, bytes);
        }
        self.arm_session(key);
    }

    /// The tunnel has another transport: what waits for an answer is repeated on it (spec 5, "Epochs").
    pub(in super::super) fn peers_rebound(&mut self, now: Instant, key: Key, is_stream: bool) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let Some((binding, peers)) = session.binding.zip(session.peers()) else {
            return;
        };
        let forwarded = peers.forwarded.iter_mut();
        let requests = forwarded
            .map(|forwarded| &mut forwarded.request)
            .chain(peers.telling.as_mut().map(|(request, _)| request));
        let schedule = Schedule::request(is_stream);
        let repeats: Vec<_> = requests
            .map(|request| request.restart(now, schedule))
            .collect();
        for bytes in repeats {
            self.transmit_over(binding, bytes);
        }
    }

    /// Repeats and gives up what is due.
    pub(in super::super) fn peers_timeout(&mut self, now: Instant, key: Key) {
        let own = self.session_id(key);
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let binding = session.binding;
        let Some(peers) = session.peers() else {
            return;
        };
        let over: Vec<Asked> = peers
            .asked
            .extract_if(.., |asked| asked.until <= now)
            .collect();
        let late: Vec<Forwarded> = peers
            .forwarded
            .extract_if(.., |forwarded| forwarded.until <= now)
            .collect();
        let mut repeats = Vec::new();
        for forwarded in &mut peers.forwarded {
            if let Step::Retransmit(bytes) = forwarded.request.poll(now) {
                repeats.push(bytes);
            }
        }
        let mut has_failed = false;
        if let Some((telling, _)) = &mut peers.telling {
            match telling.poll(now) {
                Step::Wait => {}
                Step::Retransmit(bytes) => repeats.push(bytes),
                Step::Failed => has_failed = true,
            }
        }
        if has_failed {
            peers.telling = None;
        }
        if let Some(binding) = binding {
            for bytes in repeats {
                self.stats.retransmissions += 1;
                self.transmit_over(binding, bytes);
            }
        }
        for asked in over {
            let bytes = self.peer_refusal(&asked.header, ResponseCode::PEER_UNAVAILABLE);
            self.answer_ask(now, key, &asked.header, bytes);
        }
        for forwarded in late {
            let answer = Err(ResponseCode::PEER_UNAVAILABLE);
            self.reply(
                now,
                own,
                forwarded.partner.session,
                forwarded.ticket,
                answer,
            );
        }
        if has_failed {
            self.tell_end(now, key);
        }
    }

    /// The tunnel is over: its partners are told, and those who wait for its answer.
    pub(super) fn end_peers(&mut self, now: Instant, session: SessionId, peers: &Peers) {
        for forwarded in &peers.forwarded {
            let answer = Err(ResponseCode::PEER_UNAVAILABLE);
            let asker = forwarded.partner.session;
            self.reply(now, session, asker, forwarded.ticket, answer);
        }
        for partner in &peers.partners {
            self.relay_end(now, session, *partner);
        }
    }
}

/// Whether a client that is seen at `outer` may be found at a candidate by one that is seen at `other`.
fn passes(candidate: &Candidate, outer: IpAddr, other: IpAddr) -> bool {
    let address = candidate.address.ip();
    candidate.address.port() != 0
        && match Reach::of(address) {
            Reach::Nobody => false,
            Reach::Private => address == outer || outer == other,
            Reach::Public => address == outer,
        }
}
