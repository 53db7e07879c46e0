//! The end that was asked waits for the other: it opens its NAT, and acts as the server of one tunnel (spec 7.3, 7.4).
//!
//! *Attack*: strangers talk to the socket, claim the tunnel, or make it answer a third party. *Mechanism*: nothing is looked at that
//! does not come from a host of the one who asked, as the server has let it pass; in clear nothing is kept but a connection, and nothing but
//! a cookie is said before that came back (spec 8.2), under protection nothing before the fingerprint that the server told; then the tag,
//! which 16 random bytes are, once. *Limit*: on a clear path whoever can read it can claim it.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use subtle::ConstantTimeEq;
use tsc_tpl::registry::{MIN_UNAUTHENTICATED_REQUEST, PROTOCOL_REVISION};
use tsc_tpl::{CmType, ControlMessage, Header, ResponseCode, StunKind, StunMessage, TlvType, Tsid};

use super::candidate::Candidate;
use super::link::{KEEPALIVE, Link};
use super::message::{Configured, Granted, Invitation, configuration_response};
use super::path::{Action, Outbox, PathEnd, Terms};
use super::search::is_peer;
use super::unproven::MOST_UNANSWERED;
use crate::random::Random;
use crate::secret::{Key32, Secret};
use crate::server::cookie::CookieJar;
use crate::server::{CookieConfig, CookieKey};
use crate::transport::Transport;
use crate::wire::{self, RefusalDetails};

/// How long the other end may take: its 5 s, the answer's way through the server, and some more.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two STUN indications (spec 7.3).
const BETWEEN: Duration = Duration::from_millis(200);
/// Refusals that are said; further ones are only counted.
const MOST_REFUSALS: u8 = 8;
/// Associations and streams at a time: one for each of the other end's ways here.
const MOST_CONNECTED: usize = 4;

/// See the module.
#[derive(Debug)]
pub(super) struct Listen {
    local: SocketAddr,
    tag: Secret,
    fingerprint: [u8; 32],
    is_clear: bool,
    /// Of the one who asked.
    candidates: Vec<Candidate>,
    /// STUN indications to each so far.
    rounds: u8,
    due: Instant,
    until: Instant,
    jar: CookieJar,
    connected: Vec<Candidate>,
    refusals: u8,
}

/// What became of a request.
#[derive(Debug)]
pub(super) enum Claimed {
    /// It has the tunnel.
    Granted(Box<Link>),
    /// It was answered otherwise, or not at all.
    No,
    /// With a wrong tag.
    Forged,
}

impl Listen {
    pub(super) fn new(
        now: Instant,
        local: SocketAddr,
        asked: &Invitation,
        granted: &Granted,
        is_clear: bool,
        random: &mut dyn Random,
    ) -> Self {
        let current = CookieKey {
            id: 0,
            key: Key32::random(random),
        };
        let cookies = CookieConfig {
            current,
            previous: None,
            unix_seconds: 0,
        };
        Self {
            local,
            tag: granted.tag.clone(),
            fingerprint: asked.fingerprint,
            is_clear,
            candidates: asked
                .candidates
                .iter()
                .filter(|candidate| candidate.address.port() != 0)
                .copied()
                .collect(),
            rounds: 0,
            due: now,
            until: now + PATIENCE,
            jar: CookieJar::new(cookies, now),
            connected: Vec::new(),
            refusals: 0,
        }
    }

    /// Whether that may come from the one who asked: a NAT may have given it another port towards here.
    pub(super) fn expects(&self, from: Candidate) -> bool {
        from.transport.is_protected() != self.is_clear && self.knows(from.address.ip())
    }

    fn knows(&self, host: IpAddr) -> bool {
        let mut candidates = self.candidates.iter();
        candidates.any(|candidate| candidate.address.ip() == host)
    }

    pub(super) fn due(&self) -> Instant {
        if self.rounds < MOST_UNANSWERED {
            self.due.min(self.until)
        } else {
            self.until
        }
    }

    pub(super) fn timeout(
        &mut self,
        now: Instant,
        out: &mut Outbox,
        random: &mut dyn Random,
    ) -> Option<PathEnd> {
        if self.until <= now {
            return Some(PathEnd::NotClaimed);
        }
        if self.rounds < MOST_UNANSWERED && self.due <= now {
            self.rounds += 1;
            self.due = now + BETWEEN;
            let candidates = self.candidates.iter();
            for candidate in candidates.filter(|candidate| !candidate.transport.is_stream()) {
                let mut transaction = [0; 12];
                random.fill(&mut transaction);
                let indication = StunMessage::new(StunKind::Indication, transaction);
                let to = Candidate::udp(candidate.address);
                out.send(to, indication.encode().into());
            }
        }
        None
    }

    /// There is an association or a stream; false if that is somebody else, or one too many.
    pub(super) fn connected(
        &mut self,
        with: Candidate,
        fingerprint: Option<&[u8; 32]>,
        out: &mut Outbox,
    ) -> bool {
        let is_peer = self.expects(with) && is_peer(with, &self.fingerprint, fingerprint);
        let has_room = self.connected.len() < MOST_CONNECTED || self.connected.contains(&with);
        if !is_peer || !has_room {
            out.actions.push_back(Action::Disconnect(with));
        } else if !self.connected.contains(&with) {
            self.connected.push(with);
        }
        is_peer && has_room
    }

    pub(super) fn disconnected(&mut self, with: Candidate) {
        self.connected.retain(|other| *other != with);
    }

    /// A message from an address that is [expected](Self::expects).
    pub(super) fn control(
        &mut self,
        now: Instant,
        from: Candidate,
        raw: &ControlMessage<'_>,
        terms: &Terms,
        out: &mut Outbox,
        random: &mut dyn Random,
    ) -> Claimed {
        let header = raw.header();
        if header.cm_type != CmType::CONFIGURATION_REQUEST {
            return Claimed::No;
        }
        if from.transport != Transport::Udp && !self.connected.contains(&from) {
            return Claimed::No;
        }
        if self.is_clear {
            if raw.as_bytes().len() < MIN_UNAUTHENTICATED_REQUEST {
                return Claimed::No;
            }
            let cookie = raw.raw_value(TlvType::COOKIE);
            let proved =
                cookie.is_some_and(|cookie| self.jar.verify(now, self.local, from.address, cookie));
            if !proved {
                self.require_cookie(now, from, raw, out);
                return Claimed::No;
            }
        }
        let request = match raw.parse() {
            Ok(request) => request,
            Err(error) => {
                let bytes = wire::refuse_message(&header, &error);
                self.refuse(from, bytes, out);
                return Claimed::No;
            }
        };
        if request.protocol_revision() < Some(PROTOCOL_REVISION) {
            self.refuse_with(from, &header, ResponseCode::UNSUPPORTED_VERSION, out);
            return Claimed::No;
        }
        let has_tag = request.companions().next().is_none()
            && request
                .tunnel_tag()
                .is_some_and(|tag| bool::from(tag.expose().ct_eq(self.tag.expose())));
        if !has_tag {
            self.refuse_with(from, &header, ResponseCode::NOT_AUTHORIZED, out);
            return Claimed::Forged;
        }
        self.grant(now, from, &header, terms, out, random)
            .map_or(Claimed::No, |link| Claimed::Granted(Box::new(link)))
    }

    fn grant(
        &self,
        now: Instant,
        from: Candidate,
        header: &Header,
        terms: &Terms,
        out: &mut Outbox,
        random: &mut dyn Random,
    ) -> Option<Link> {
        // Element 0: valid for this pair only.
        let tsid = Tsid::assign(0, random.u64())?;
        let given = Configured {
            tsid,
            inner: terms.peer,
            keepalive: KEEPALIVE,
            inner_mtu: terms.inner_mtu,
            resume_key: &Key32::random(random),
            seen: from.address,
        };
        let bytes = configuration_response(header, &given)?;
        let others = self.connected.iter().filter(|other| **other != from);
        out.actions
            .extend(others.map(|other| Action::Disconnect(*other)));
        out.push(from, bytes.clone());
        let answer = (header.sequence, bytes);
        Some(Link::granted(now, from, tsid, answer, random))
    }

    fn require_cookie(
        &self,
        now: Instant,
        from: Candidate,
        raw: &ControlMessage<'_>,
        out: &mut Outbox,
    ) {
        let cookie = self.jar.make(now, self.local, from.address);
        let details = RefusalDetails {
            cookie: Some(&cookie),
            ..RefusalDetails::default()
        };
        let answer = wire::refusal(&raw.header(), ResponseCode::COOKIE_REQUIRED, &details);
        if let Some(bytes) = answer.filter(|answer| answer.len() <= raw.as_bytes().len()) {
            out.send(from, bytes);
        }
    }

    fn refuse_with(
        &mut self,
        from: Candidate,
        header: &Header,
        code: ResponseCode,
        out: &mut Outbox,
    ) {
        let bytes = wire::refusal(header, code, &RefusalDetails::default());
        self.refuse(from, bytes, out);
    }

    fn refuse(&mut self, from: Candidate, bytes: Option<bytes::Bytes>, out: &mut Outbox) {
        if self.refusals >= MOST_REFUSALS {
            return;
        }
        self.refusals += 1;
        if let Some(bytes) = bytes {
            out.send(from, bytes);
        }
    }
}
