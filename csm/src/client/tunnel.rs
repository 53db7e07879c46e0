//! A tunnel that was configured: its bindings, requests and clocks.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use tsc_tpl::{Sequence, ServiceType};

use super::config::Target;
use super::event::{AttemptFailure, Epoch, RequestId, SuspendReason};
use super::service::Services;
use crate::assignment::Assignment;
use crate::random::Random;
use crate::secret::Key32;
use crate::transaction::{Inbox, MAX_OUTSTANDING, Request};

/// Having sent and heard nothing for this long, the client asks (spec 5).
pub const PROBE_AFTER: Duration = Duration::from_secs(5);

/// The client's side of a tunnel.
#[derive(Debug)]
pub(super) struct Tunnel {
    pub(super) assignment: Assignment,
    pub(super) resume_key: Key32,
    /// Of the last proof.
    pub(super) resume_counter: u32,
    /// Configured on a protected transport: no proof goes over a clear one (spec 5).
    pub(super) protected: bool,
    pub(super) services: Services,
    /// The server's requests.
    pub(super) inbox: Inbox,
    /// Ours; at most [`MAX_OUTSTANDING`].
    pub(super) requests: Vec<Request<Asked>>,
    /// Answers to this one are expected even after another unit has served as its answer.
    pub(super) last_keepalive: Option<Sequence>,
    /// Whether the server has shown that it heard something of us since the configuration. Until then only an
    /// answer to a Keepalive is one: what else comes may have been sent before, and the server closes a tunnel
    /// that it does not hear of.
    pub(super) confirmed: bool,
    /// The binding.
    pub(super) link: Option<Link>,
    /// Looking for the next one. Beside a link only while that still works.
    pub(super) seeker: Option<Seeker>,
    /// Why there is no link; of the last loss.
    pub(super) cause: SuspendReason,
    /// A release was asked for; until when its answer is awaited.
    pub(super) release_until: Option<Instant>,
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Keepalive,
    Release,
    Service(RequestId, ServiceType),
}

/// A transport that carries the tunnel.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) epoch: Epoch,
    pub(super) target: Target,
    /// The last thing sent, data or control.
    pub(super) last_sent: Instant,
    /// The first thing sent since the last thing heard.
    pub(super) unanswered_since: Option<Instant>,
    /// Something came since the last Keepalive was begun.
    pub(super) heard: bool,
    /// How long to stay silent: half the interval, less a random tenth; `None` is for ever.
    pub(super) silence: Option<Duration>,
    pub(super) message_errors: u8,
}

/// A search for a transport.
#[derive(Debug)]
pub(super) struct Seeker {
    /// When the search is given up.
    pub(super) deadline: Instant,
    pub(super) phase: Phase,
    /// How the last attempt failed.
    pub(super) last: Option<AttemptFailure>,
    /// Redirects followed in a row.
    pub(super) redirects: u8,
}

#[derive(Debug)]
pub(super) enum Phase {
    Waiting { until: Instant },
    Trying(Box<Attempt>),
}

/// One attempt at a transport.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) epoch: Epoch,
    pub(super) target: Target,
    pub(super) until: Instant,
    /// Cookies asked for so far.
    pub(super) cookies: u8,
    /// Plain UDP: an answer that may be anyone's. How the attempt has failed if no other comes.
    pub(super) doubtful: Option<AttemptFailure>,
    /// The request, once the transport is open.
    pub(super) request: Option<Request<()>>,
}

impl Tunnel {
    pub(super) fn owns(&self, destination: IpAddr) -> bool {
        self.assignment
            .addresses
            .iter()
            .any(|inner| inner.address == destination)
    }

    pub(super) fn has_keepalive(&self) -> bool {
        self.requests
            .iter()
            .any(|request| request.what == Asked::Keepalive)
    }

    /// Room for one more service request; one place is kept for the keepalive.
    pub(super) fn has_room(&self) -> bool {
        let others = self
            .requests
            .iter()
            .filter(|request| request.what != Asked::Keepalive)
            .count();
        others + 1 < MAX_OUTSTANDING
    }

    /// When something is due, if nothing happens before.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let seeker = self.seeker.as_ref().map(Seeker::due);
        // Requests wait with the link: they are repeated on the next one.
        let requests = self
            .link
            .as_ref()
            .and_then(|_| self.requests.iter().map(Request::due).min());
        let link = self
            .link
            .as_ref()
            .filter(|_| !self.has_keepalive() && self.release_until.is_none());
        let link = link.and_then(Link::keepalive_due);
        [
            seeker,
            requests,
            link,
            self.release_until,
            self.inbox.next_expiry(),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}

impl Link {
    pub(super) fn new(
        now: Instant,
        epoch: Epoch,
        target: Target,
        interval: Duration,
        random: &mut dyn Random,
    ) -> Self {
        Self {
            epoch,
            target,
            last_sent: now,
            unanswered_since: None,
            heard: false,
            silence: silence(interval, random),
            message_errors: 0,
        }
    }

    pub(super) fn note_sent(&mut self, now: Instant) {
        self.last_sent = now;
        self.unanswered_since.get_or_insert(now);
    }

    /// When a keepalive is due: after half the interval without sending, or 5 s after something was sent and
    /// nothing heard.
    pub(super) fn keepalive_due(&self) -> Option<Instant> {
        let regular = self.silence.map(|silence| self.last_sent + silence);
        let probe = self.unanswered_since.map(|since| since + PROBE_AFTER);
        [regular, probe].into_iter().flatten().min()
    }
}

impl Seeker {
    /// When the search has to be looked at.
    fn due(&self) -> Instant {
        let phase = match &self.phase {
            Phase::Waiting { until } => *until,
            Phase::Trying(attempt) => attempt
                .request
                .as_ref()
                .map_or(attempt.until, |request| request.due().min(attempt.until)),
        };
        phase.min(self.deadline)
    }

    pub(super) fn deadline(&self) -> Instant {
        self.due()
    }

    pub(super) fn attempt(&self) -> Option<&Attempt> {
        match &self.phase {
            Phase::Waiting { .. } => None,
            Phase::Trying(attempt) => Some(attempt),
        }
    }

    pub(super) fn attempt_mut(&mut self) -> Option<&mut Attempt> {
        match &mut self.phase {
            Phase::Waiting { .. } => None,
            Phase::Trying(attempt) => Some(attempt),
        }
    }
}

/// Half the interval, less a random 0-10 % (spec 5); zero is none.
pub(super) fn silence(interval: Duration, random: &mut dyn Random) -> Option<Duration> {
    let half = interval / 2;
    (!half.is_zero()).then(|| half - random.up_to(half / 10))
}
