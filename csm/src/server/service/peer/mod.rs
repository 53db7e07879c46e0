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

mod asking;
mod partners;
mod relay;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tsc_tpl::{ResponseCode, ServiceType, StunKind, StunMessage};

use self::asking::{Asked, Forwarded};
use self::partners::Partner;
pub use self::relay::Relayed;
use super::super::Server;
use super::super::arena::Key;
use super::super::event::SessionId;
use super::super::session::Session;
use super::Services;
use crate::peer::Allowance;
use crate::service::ServiceGrant;
use crate::transaction::{Request, Schedule, Step};

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
        let offers = self.offers.get(interface);
        let is_offered = offers.is_some_and(|offers| offers.any_has(ENABLE));
        let request = StunMessage::decode(datagram)
            .ok()
            .filter(|message| is_offered && message.kind == StunKind::Request);
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
