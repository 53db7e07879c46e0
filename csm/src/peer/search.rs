//! The end that asked looks for the other: at its candidates, in its order, each begun a moment after the one before (spec 7.4).
//!
//! ```text
//!   UDP:        Configuration_Request, without the tag ---> cookie: somebody is there ---> with the cookie and the tag
//!   TCP:        connection ---> the same
//!   DTLS, TLS:  handshake ---> the fingerprint that the server told ---> Configuration_Request with the tag
//! ```
//!
//! The tag goes to one address only, the first that has proved itself; to the next if that one does not want it. Before, nothing is said
//! that the other end has chosen: who names a third party's port makes no more of it than a request that is not understood there. Streams
//! are begun when datagrams have had time to get through: on a stream what is lost holds up what follows.

use std::time::{Duration, Instant};

use subtle::ConstantTimeEq;
use tsc_tpl::{CmType, ControlMessage, Message, ResponseCode, Sequence, Tsid};

use super::candidate::Candidate;
use super::link::{Link, gives_only};
use super::message::{Granted, TAG_LEN, configuration_request};
use super::path::{Action, Outbox, PathEnd, Terms};
use crate::random::Random;
use crate::secret::Secret;
use crate::transaction::{Request, Schedule, Step};
use crate::transport::Transport;
use crate::wire;

/// For all of it (spec 7.4).
const PATIENCE: Duration = Duration::from_secs(5);
/// Between the beginnings of two candidates.
const HEAD_START: Duration = Duration::from_millis(100);
/// Between those of the last for datagrams and the first for streams: a third transmission fits in.
const STREAM_DELAY: Duration = Duration::from_secs(2);
/// Ports that the system chooses are above.
const FIRST_FREE_PORT: u16 = 1024;
/// Cookies asked for at one address: the first may cross the change of a slot.
const MAX_COOKIES: u8 = 3;

/// See the module.
#[derive(Debug)]
pub(super) struct Search {
    tries: Vec<Try>,
    claim: Option<Claim>,
    until: Instant,
    tag: Secret,
    fingerprint: [u8; 32],
    next_sequence: Sequence,
}

/// A candidate.
#[derive(Debug)]
struct Try {
    at: Candidate,
    begins: Instant,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Waiting,
    /// All but UDP: the connection, the handshake.
    Connecting,
    /// In clear: asked for a cookie.
    Asking(Request<()>),
    /// It can be given the tag: in clear with this cookie.
    Proven(Option<Vec<u8>>),
    Failed,
}

/// The tag is on its way.
#[derive(Debug)]
struct Claim {
    at: Candidate,
    request: Request<()>,
    cookies: u8,
}

impl Search {
    pub(super) fn new(
        now: Instant,
        granted: &Granted,
        is_clear: bool,
        random: &mut dyn Random,
    ) -> Self {
        let usable = |candidate: &&Candidate| {
            candidate.transport.is_protected() != is_clear
                && candidate.address.port() != 0
                && (!candidate.transport.is_stream() || candidate.address.port() >= FIRST_FREE_PORT)
                && !candidate.address.ip().is_unspecified()
                && !candidate.address.ip().is_multicast()
        };
        let candidates = granted.candidates.iter().filter(usable);
        let (streams, datagrams): (Vec<Candidate>, Vec<Candidate>) =
            candidates.partition(|candidate| candidate.transport.is_stream());
        let mut tries: Vec<Try> = Vec::new();
        let mut begins = now;
        for at in datagrams.into_iter().chain(streams) {
            let before = tries.last().map(|tried| tried.at.transport);
            if at.transport.is_stream() && before.is_some_and(|before| !before.is_stream()) {
                begins += STREAM_DELAY - HEAD_START;
            }
            if tries.iter().all(|tried| tried.at != at) {
                let stage = Stage::Waiting;
                tries.push(Try { at, begins, stage });
                begins += HEAD_START;
            }
        }
        Self {
            tries,
            claim: None,
            until: now + PATIENCE,
            tag: granted.tag.clone(),
            fingerprint: granted.fingerprint,
            next_sequence: Sequence(random.u32()),
        }
    }

    /// Whether what comes from there may be an answer.
    pub(super) fn expects(&self, from: Candidate) -> bool {
        self.tries.iter().any(|tried| tried.at == from)
    }

    pub(super) fn due(&self) -> Instant {
        if self.is_hopeless() {
            return self.until - PATIENCE;
        }
        let tries = self.tries.iter().filter_map(|tried| match &tried.stage {
            Stage::Waiting => Some(tried.begins),
            Stage::Asking(request) => Some(request.due()),
            Stage::Connecting | Stage::Proven(_) | Stage::Failed => None,
        });
        let claim = self.claim.as_ref().map(|claim| claim.request.due());
        tries
            .chain(claim)
            .min()
            .map_or(self.until, |due| due.min(self.until))
    }

    pub(super) fn timeout(&mut self, now: Instant, out: &mut Outbox) -> Option<PathEnd> {
        if self.until <= now || self.is_hopeless() {
            return Some(PathEnd::NoPath);
        }
        for place in 0..self.tries.len() {
            self.advance(now, place, out);
        }
        if let Some(claim) = &mut self.claim {
            match claim.request.poll(now) {
                Step::Wait => {}
                Step::Retransmit(bytes) => out.send(claim.at, bytes),
                Step::Failed => {
                    let at = claim.at;
                    self.reject(now, at, out);
                }
            }
        }
        None
    }

    fn is_hopeless(&self) -> bool {
        let failed = |tried: &Try| matches!(tried.stage, Stage::Failed);
        self.tries.iter().all(failed)
    }

    fn advance(&mut self, now: Instant, place: usize, out: &mut Outbox) {
        let sequence = self.next_sequence;
        let Some(tried) = self.tries.get_mut(place) else {
            return;
        };
        let at = tried.at;
        match &mut tried.stage {
            Stage::Waiting if tried.begins > now => {}
            Stage::Waiting if at.transport == Transport::Udp => {
                self.next_sequence = sequence.next();
                tried.ask(now, sequence, out);
            }
            Stage::Waiting => {
                tried.stage = Stage::Connecting;
                out.actions.push_back(Action::Connect(at, self.fingerprint));
            }
            Stage::Asking(request) => match request.poll(now) {
                Step::Wait => {}
                Step::Retransmit(bytes) => out.send(at, bytes),
                Step::Failed => tried.stage = Stage::Failed,
            },
            Stage::Connecting | Stage::Proven(_) | Stage::Failed => {}
        }
    }

    /// There is an association or a stream with a candidate; false if that is somebody else.
    pub(super) fn connected(
        &mut self,
        now: Instant,
        with: Candidate,
        fingerprint: Option<&[u8; 32]>,
        out: &mut Outbox,
    ) -> bool {
        let is_peer = is_peer(with, &self.fingerprint, fingerprint);
        let tried = self.tries.iter_mut().find(|tried| tried.at == with);
        let Some(tried) = tried.filter(|tried| matches!(tried.stage, Stage::Connecting)) else {
            out.actions.push_back(Action::Disconnect(with));
            return is_peer;
        };
        if with.transport == Transport::Tcp {
            let sequence = self.next_sequence;
            self.next_sequence = sequence.next();
            tried.ask(now, sequence, out);
        } else if is_peer {
            tried.stage = Stage::Proven(None);
            self.claim_next(now, out);
        } else {
            tried.stage = Stage::Failed;
            out.actions.push_back(Action::Disconnect(with));
        }
        is_peer
    }

    /// There is nothing with a candidate, or nothing any more.
    pub(super) fn disconnected(&mut self, now: Instant, with: Candidate, out: &mut Outbox) {
        self.give_up(now, with, out);
    }

    /// It is not the one, or does not want the tag.
    fn reject(&mut self, now: Instant, at: Candidate, out: &mut Outbox) {
        if at.transport != Transport::Udp {
            out.actions.push_back(Action::Disconnect(at));
        }
        self.give_up(now, at, out);
    }

    fn give_up(&mut self, now: Instant, at: Candidate, out: &mut Outbox) {
        if let Some(tried) = self.tries.iter_mut().find(|tried| tried.at == at) {
            tried.stage = Stage::Failed;
        }
        self.claim.take_if(|claim| claim.at == at);
        self.claim_next(now, out);
    }

    /// Gives the tag to the first who has proved himself, unless another has it.
    fn claim_next(&mut self, now: Instant, out: &mut Outbox) {
        if self.claim.is_some() {
            return;
        }
        let proven = self.tries.iter().find_map(|tried| match &tried.stage {
            Stage::Proven(cookie) => Some((tried.at, cookie.clone())),
            Stage::Waiting | Stage::Asking(_) | Stage::Connecting | Stage::Failed => None,
        });
        if let Some((at, cookie)) = proven {
            self.claim(now, at, cookie.as_deref(), 1, out);
        }
    }

    fn claim(
        &mut self,
        now: Instant,
        at: Candidate,
        cookie: Option<&[u8]>,
        cookies: u8,
        out: &mut Outbox,
    ) {
        let sequence = self.next_sequence;
        self.next_sequence = sequence.next();
        let tag: Option<&[u8; TAG_LEN]> = self.tag.expose().try_into().ok();
        let is_clear = !at.transport.is_protected();
        let Some(bytes) = configuration_request(sequence, is_clear, tag, cookie) else {
            return;
        };
        let answer = CmType::CONFIGURATION_RESPONSE;
        let schedule = Schedule::request(at.transport.is_stream());
        self.claim = Some(Claim {
            at,
            request: Request::sent(now, (), sequence, answer, bytes.clone(), schedule),
            cookies,
        });
        out.send(at, bytes);
    }

    /// An answer; the tunnel, if it is the one.
    pub(super) fn control(
        &mut self,
        now: Instant,
        from: Candidate,
        raw: &ControlMessage<'_>,
        terms: &Terms,
        out: &mut Outbox,
        random: &mut dyn Random,
    ) -> Option<Link> {
        let header = raw.header();
        let claimed = self.claim.as_ref().filter(|claim| {
            claim.at == from && claim.request.matches(header.cm_type, header.sequence)
        });
        if let Some(cookies) = claimed.map(|claim| claim.cookies) {
            return self.answered(now, from, raw, cookies, terms, out, random);
        }
        let asking = self.tries.iter_mut().find(|tried| {
            tried.at == from
                && matches!(&tried.stage, Stage::Asking(request)
                    if request.matches(header.cm_type, header.sequence))
        });
        let (tried, message) = (asking?, raw.parse().ok()?);
        // What else comes before a cookie nobody says (spec 8.2); on a stream none need be asked for.
        let is_tcp = from.transport == Transport::Tcp;
        let cookie = match message.response_code() {
            Some(ResponseCode::COOKIE_REQUIRED) => message.cookie(),
            Some(ResponseCode::NOT_AUTHORIZED) if is_tcp => None,
            _ => return None,
        };
        tried.stage = Stage::Proven(cookie.map(|cookie| cookie.expose().to_vec()));
        self.claim_next(now, out);
        None
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "all that an answer is held against"
    )]
    fn answered(
        &mut self,
        now: Instant,
        from: Candidate,
        raw: &ControlMessage<'_>,
        cookies: u8,
        terms: &Terms,
        out: &mut Outbox,
        random: &mut dyn Random,
    ) -> Option<Link> {
        let parsed = raw.parse();
        let code = parsed.as_ref().ok().and_then(Message::response_code);
        match (&parsed, code) {
            (Ok(answer), Some(ResponseCode::SUCCESS)) => {
                let tsid = answer.tsid();
                let is_right = tsid.element_id() == 0
                    && tsid.is_assignable()
                    && answer.protocol_revision() == Some(tsc_tpl::registry::PROTOCOL_REVISION)
                    && gives_only(answer.addresses(), terms.own);
                if is_right {
                    self.close_others(from, out);
                    return Some(Link::claimed(now, from, tsid, random));
                }
                self.decline(tsid, from, out);
                self.reject(now, from, out);
            }
            (Ok(answer), Some(ResponseCode::COOKIE_REQUIRED))
                if !from.transport.is_protected() && cookies < MAX_COOKIES =>
            {
                let cookie = answer.cookie().map(|cookie| cookie.expose().to_vec());
                self.claim(now, from, cookie.as_deref(), cookies + 1, out);
            }
            // Anybody can send that over UDP, and the other end will not: the claim is repeated until its time is over.
            (Err(_), _) if from.transport == Transport::Udp => {}
            (Ok(_) | Err(_), _) => self.reject(now, from, out),
        }
        None
    }

    /// Gives back what cannot be used (spec 3.3).
    fn decline(&mut self, tsid: Tsid, from: Candidate, out: &mut Outbox) {
        let sequence = self.next_sequence;
        self.next_sequence = sequence.next();
        if let Some(bytes) = wire::release_request(tsid, sequence, None) {
            out.send(from, bytes);
        }
    }

    fn close_others(&self, kept: Candidate, out: &mut Outbox) {
        let others = self.tries.iter().filter(|tried| tried.at != kept);
        let open = others.filter(|tried| {
            !matches!(tried.stage, Stage::Waiting | Stage::Failed)
                && tried.at.transport != Transport::Udp
        });
        out.actions
            .extend(open.map(|tried| Action::Disconnect(tried.at)));
    }
}

impl Try {
    /// Asks for a cookie, without the tag.
    fn ask(&mut self, now: Instant, sequence: Sequence, out: &mut Outbox) {
        let Some(bytes) = configuration_request(sequence, true, None, None) else {
            self.stage = Stage::Failed;
            return;
        };
        let answer = CmType::CONFIGURATION_RESPONSE;
        let schedule = Schedule::request(self.at.transport.is_stream());
        let request = Request::sent(now, (), sequence, answer, bytes.clone(), schedule);
        self.stage = Stage::Asking(request);
        out.send(self.at, bytes);
    }
}

/// Whether whoever is there is the one that the server has named: by the certificate, or, in clear, as far as can be told.
pub(super) fn is_peer(with: Candidate, named: &[u8; 32], shown: Option<&[u8; 32]>) -> bool {
    if with.transport.is_protected() {
        shown.is_some_and(|shown| bool::from(named.ct_eq(shown)))
    } else {
        true
    }
}
