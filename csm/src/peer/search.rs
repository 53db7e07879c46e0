//! The end that asked looks for the other: at its candidates, in its order, each begun a moment after the one before (spec 7.4).
//!
//! ```text
//!   clear:      Configuration_Request, without the tag ---> cookie: somebody is there ---> with the cookie and the tag
//!   protected:  handshake ---> the fingerprint that the server told ---> Configuration_Request with the tag
//! ```
//!
//! The tag goes to one address only, the first that has proved itself; to the next if that one does not want it.

use std::net::SocketAddr;
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
    is_clear: bool,
    next_sequence: Sequence,
}

/// A candidate.
#[derive(Debug)]
struct Try {
    address: SocketAddr,
    begins: Instant,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Waiting,
    /// Clear: asked for a cookie.
    Asking(Request<()>),
    /// Protected: the handshake.
    Connecting,
    /// It can be given the tag: with this cookie, if clear.
    Proven(Option<Vec<u8>>),
    Failed,
}

/// The tag is on its way.
#[derive(Debug)]
struct Claim {
    address: SocketAddr,
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
        let wanted = if is_clear {
            Transport::Udp
        } else {
            Transport::Dtls
        };
        let usable = |candidate: &&Candidate| {
            candidate.transport == wanted
                && candidate.address.port() != 0
                && !candidate.address.ip().is_unspecified()
                && !candidate.address.ip().is_multicast()
        };
        let candidates = granted.candidates.iter().filter(usable);
        let mut begins = now;
        let tries = candidates.map(|candidate| {
            let begun = Try {
                address: candidate.address,
                begins,
                stage: Stage::Waiting,
            };
            begins += HEAD_START;
            begun
        });
        Self {
            tries: tries.collect(),
            claim: None,
            until: now + PATIENCE,
            tag: granted.tag.clone(),
            fingerprint: granted.fingerprint,
            is_clear,
            next_sequence: Sequence(random.u32()),
        }
    }

    /// Whether datagrams from there may be an answer.
    pub(super) fn expects(&self, from: SocketAddr) -> bool {
        self.tries.iter().any(|tried| tried.address == from)
    }

    pub(super) const fn is_clear(&self) -> bool {
        self.is_clear
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
                Step::Retransmit(bytes) => out.send(claim.address, bytes, self.is_clear),
                Step::Failed => {
                    let address = claim.address;
                    self.give_up(now, address, out);
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
        let (is_clear, sequence) = (self.is_clear, self.next_sequence);
        let Some(tried) = self.tries.get_mut(place) else {
            return;
        };
        let address = tried.address;
        match &mut tried.stage {
            Stage::Waiting if tried.begins > now => {}
            Stage::Waiting if is_clear => {
                self.next_sequence = sequence.next();
                let Some(bytes) = configuration_request(sequence, true, None, None) else {
                    tried.stage = Stage::Failed;
                    return;
                };
                let answer = CmType::CONFIGURATION_RESPONSE;
                let schedule = Schedule::request(false);
                tried.stage = Stage::Asking(Request::sent(
                    now,
                    (),
                    sequence,
                    answer,
                    bytes.clone(),
                    schedule,
                ));
                out.send(address, bytes, true);
            }
            Stage::Waiting => {
                tried.stage = Stage::Connecting;
                out.actions
                    .push_back(Action::Connect(address, self.fingerprint));
            }
            Stage::Asking(request) => match request.poll(now) {
                Step::Wait => {}
                Step::Retransmit(bytes) => out.send(address, bytes, true),
                Step::Failed => tried.stage = Stage::Failed,
            },
            Stage::Connecting | Stage::Proven(_) | Stage::Failed => {}
        }
    }

    /// The handshake with a candidate is done; false if that is somebody else.
    pub(super) fn connected(
        &mut self,
        now: Instant,
        address: SocketAddr,
        fingerprint: &[u8; 32],
        out: &mut Outbox,
    ) -> bool {
        let is_peer = bool::from(self.fingerprint.ct_eq(fingerprint));
        let tried = self.tries.iter_mut().find(|tried| tried.address == address);
        let Some(tried) = tried.filter(|tried| matches!(tried.stage, Stage::Connecting)) else {
            out.actions.push_back(Action::Disconnect(address));
            return is_peer;
        };
        if is_peer {
            tried.stage = Stage::Proven(None);
            self.claim_next(now, out);
        } else {
            tried.stage = Stage::Failed;
            out.actions.push_back(Action::Disconnect(address));
        }
        is_peer
    }

    /// There is no association with a candidate, or none any more.
    pub(super) fn disconnected(&mut self, now: Instant, address: SocketAddr, out: &mut Outbox) {
        self.give_up(now, address, out);
    }

    fn give_up(&mut self, now: Instant, address: SocketAddr, out: &mut Outbox) {
        if let Some(tried) = self.tries.iter_mut().find(|tried| tried.address == address) {
            tried.stage = Stage::Failed;
        }
        self.claim.take_if(|claim| claim.address == address);
        self.claim_next(now, out);
    }

    /// Gives the tag to the first who has proved himself, unless another has it.
    fn claim_next(&mut self, now: Instant, out: &mut Outbox) {
        if self.claim.is_some() {
            return;
        }
        let proven = self.tries.iter().find_map(|tried| match &tried.stage {
            Stage::Proven(cookie) => Some((tried.address, cookie.clone())),
            Stage::Waiting | Stage::Asking(_) | Stage::Connecting | Stage::Failed => None,
        });
        if let Some((address, cookie)) = proven {
            self.claim(now, address, cookie.as_deref(), 1, out);
        }
    }

    fn claim(
        &mut self,
        now: Instant,
        address: SocketAddr,
        cookie: Option<&[u8]>,
        cookies: u8,
        out: &mut Outbox,
    ) {
        let sequence = self.next_sequence;
        self.next_sequence = sequence.next();
        let tag: Option<&[u8; TAG_LEN]> = self.tag.expose().try_into().ok();
        let Some(bytes) = configuration_request(sequence, self.is_clear, tag, cookie) else {
            return;
        };
        let answer = CmType::CONFIGURATION_RESPONSE;
        let schedule = Schedule::request(false);
        self.claim = Some(Claim {
            address,
            request: Request::sent(now, (), sequence, answer, bytes.clone(), schedule),
            cookies,
        });
        out.send(address, bytes, self.is_clear);
    }

    /// An answer; the tunnel, if it is the one.
    pub(super) fn control(
        &mut self,
        now: Instant,
        from: SocketAddr,
        raw: &ControlMessage<'_>,
        terms: &Terms,
        out: &mut Outbox,
        random: &mut dyn Random,
    ) -> Option<Link> {
        let header = raw.header();
        let claimed = self.claim.as_ref().filter(|claim| {
            claim.address == from && claim.request.matches(header.cm_type, header.sequence)
        });
        if let Some(cookies) = claimed.map(|claim| claim.cookies) {
            return self.answered(now, from, raw, cookies, terms, out, random);
        }
        let asking = self.tries.iter_mut().find(|tried| {
            tried.address == from
                && matches!(&tried.stage, Stage::Asking(request)
                    if request.matches(header.cm_type, header.sequence))
        });
        // What else comes before a cookie nobody says (spec 8.2).
        if let Some(tried) = asking
            && let Ok(message) = raw.parse()
            && message.response_code() == Some(ResponseCode::COOKIE_REQUIRED)
        {
            let cookie = message.cookie().map(|cookie| cookie.expose().to_vec());
            tried.stage = Stage::Proven(cookie);
            self.claim_next(now, out);
        }
        None
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "all that an answer is held against"
    )]
    fn answered(
        &mut self,
        now: Instant,
        from: SocketAddr,
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
                    return Some(Link::claimed(now, from, self.is_clear, tsid, random));
                }
                self.decline(tsid, from, out);
                self.give_up(now, from, out);
            }
            (Ok(answer), Some(ResponseCode::COOKIE_REQUIRED))
                if self.is_clear && cookies < MAX_COOKIES =>
            {
                let cookie = answer.cookie().map(|cookie| cookie.expose().to_vec());
                self.claim(now, from, cookie.as_deref(), cookies + 1, out);
            }
            // Anybody can send that on a clear path, and the other end will not: the claim is repeated until its time is over.
            (Err(_), _) if self.is_clear => {}
            (Ok(_) | Err(_), _) => self.give_up(now, from, out),
        }
        None
    }

    /// Gives back what cannot be used (spec 3.3).
    fn decline(&mut self, tsid: Tsid, from: SocketAddr, out: &mut Outbox) {
        let sequence = self.next_sequence;
        self.next_sequence = sequence.next();
        if let Some(bytes) = wire::release_request(tsid, sequence, None) {
            out.send(from, bytes, self.is_clear);
        }
    }

    fn close_others(&self, kept: SocketAddr, out: &mut Outbox) {
        let others = self.tries.iter().filter(|tried| tried.address != kept);
        let open = others.filter(|tried| {
            matches!(tried.stage, Stage::Connecting | Stage::Proven(_)) && !self.is_clear
        });
        out.actions
            .extend(open.map(|tried| Action::Disconnect(tried.address)));
    }
}
