//! A tunnel that was configured: its bindings, requests and clocks.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tsc_tpl::{Sequence, ServiceType};

use super::binding::BindingTime;
use super::config::{Endpoint, Target};
use super::event::{Epoch, RequestId, SuspendReason};
use super::plan::Way;
use super::probe::Probes;
use super::race::{Seeker, Why};
use super::service::Services;
use crate::assignment::Assignment;
use crate::backoff::Backoff;
use crate::secret::Key32;
use crate::transaction::{Inbox, MAX_OUTSTANDING, Request};

/// Having sent and heard nothing for this long, the client asks (spec 5).
pub const PROBE_AFTER: Duration = Duration::from_secs(5);

/// Datagrams that came steadily and do not any more are asked for sooner: a NAT may have forgotten a call.
pub(super) const LIVELY_PROBE_AFTER: Duration = Duration::from_millis(400);
/// Units that come this often on average are a call.
const LIVELY: Duration = Duration::from_millis(100);

/// A Keepalive that is not answered for this long, or for two round trips, puts the transport in doubt: others are opened beside
/// it, so that a resume need not begin by that when the transport turns out to be lost.
pub(super) const DOUBT_AFTER: Duration = Duration::from_millis(500);
/// The same for datagrams that came steadily.
const LIVELY_DOUBT_AFTER: Duration = Duration::from_millis(250);

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
    /// The last Keepalive that only asked for the server's figures: its answer is no news about the transport.
    pub(super) last_report: Option<Sequence>,
    /// Those that measure the way.
    pub(super) probes: Probes,
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
    /// The loss of a transport that may turn out to be a move.
    pub(super) untold: Option<SuspendReason>,
    /// Of the NATs on the way.
    pub(super) binding_time: BindingTime,
    /// When to move from a stream to datagrams.
    pub(super) upgrade: Upgrade,
    /// A release was asked for; until when its answer is awaited.
    pub(super) release_until: Option<Instant>,
}

/// When to try datagrams for a tunnel that has a stream.
#[derive(Debug)]
pub(super) struct Upgrade {
    /// `None`: it is not wanted.
    at: Option<Instant>,
    /// Between two tries.
    wait: Backoff,
}

impl Upgrade {
    pub(super) fn new(now: Instant, wanted: bool) -> Self {
        Self {
            at: wanted.then_some(now),
            wait: Backoff::NETWORK,
        }
    }

    const fn due(&self) -> Option<Instant> {
        self.at
    }

    /// Datagrams do not pass, or passed and then did not.
    pub(super) fn failed(&mut self, now: Instant) {
        if let Some(at) = &mut self.at {
            *at = now + self.wait.next();
        }
    }

    /// What did not pass on one network may on another.
    pub(super) fn network_changed(&mut self, now: Instant) {
        if let Some(at) = &mut self.at {
            *at = now;
            self.wait.reset();
        }
    }
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
    /// Where that is, if this end knows.
    pub(super) address: Option<SocketAddr>,
    /// The last thing sent, data or control.
    pub(super) last_sent: Instant,
    /// The last thing that came.
    last_heard: Instant,
    /// Between two units that came, smoothed.
    beat: Duration,
    /// Units came steadily until the last one.
    lively: bool,
    /// How long nothing had passed in either direction when the last Keepalive was begun.
    pub(super) idle: Duration,
    /// The first thing sent since the last thing heard.
    pub(super) unanswered_since: Option<Instant>,
    /// Something came since the last Keepalive was begun.
    pub(super) heard: bool,
    /// When the last Keepalive was begun.
    pub(super) asked_at: Option<Instant>,
    /// The Keepalive whose want of an answer was followed up.
    pub(super) doubted: Option<Instant>,
    /// How long answers to Keepalives take, smoothed.
    pub(super) round_trip: Option<Duration>,
    /// How long to stay silent: half the interval, less a random tenth; `None` is for ever, as while the server sends the
    /// Keepalives.
    pub(super) silence: Option<Duration>,
    pub(super) message_errors: u8,
}

impl Tunnel {
    pub(super) fn owns(&self, destination: IpAddr) -> bool {
        self.assignment
            .addresses
            .iter()
            .any(|inner| inner.address == destination)
    }

    /// Whether data that comes over this transport is the tunnel's.
    pub(super) fn takes_from(&self, epoch: Epoch) -> bool {
        let bound = self.link.as_ref().is_some_and(|link| link.epoch == epoch);
        let seeker = self.seeker.as_ref();
        bound || seeker.is_some_and(|seeker| seeker.attempt(epoch).is_some())
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

    /// From when on the transport is in doubt, unless another is looked for already.
    pub(super) fn doubtful_from(&self) -> Option<Instant> {
        let may = match &self.seeker {
            None => self.release_until.is_none(),
            Some(seeker) => seeker.why == Why::Upgrade && !seeker.is_asking(),
        };
        let link = self.link.as_ref().filter(|_| may)?;
        link.doubtful_from().filter(|_| self.has_keepalive())
    }

    /// When datagrams are to be tried in place of the stream.
    pub(super) fn upgrade_due(&self) -> Option<Instant> {
        let link = self.link.as_ref().filter(|_| self.may_look_beside())?;
        link.target
            .transport
            .is_stream()
            .then(|| self.upgrade.due())
            .flatten()
    }

    fn may_look_beside(&self) -> bool {
        self.seeker.is_none() && self.release_until.is_none()
    }

    /// When something is due, if nothing happens before.
    pub(super) fn deadline(&self) -> Option<Instant> {
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
            requests,
            link,
            self.doubtful_from(),
            self.upgrade_due(),
            self.silent_from(),
            self.services.deadline(),
            self.release_until,
            self.inbox.next_expiry(),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}

impl Link {
    pub(super) fn new(now: Instant, epoch: Epoch, way: Way, silence: Option<Duration>) -> Self {
        let Way { target, address } = way;
        let address = match target.endpoint {
            Endpoint::Address { address, .. } => Some(address),
            Endpoint::Configured(_) => address,
        };
        Self {
            epoch,
            target,
            address,
            last_sent: now,
            unanswered_since: None,
            heard: false,
            asked_at: None,
            doubted: None,
            round_trip: None,
            last_heard: now,
            beat: PROBE_AFTER,
            lively: false,
            idle: Duration::ZERO,
            silence,
            message_errors: 0,
        }
    }

    pub(super) fn note_sent(&mut self, now: Instant) {
        self.last_sent = now;
        self.unanswered_since.get_or_insert(now);
    }

    /// Notes that something came.
    pub(super) fn note_heard(&mut self, now: Instant) {
        let pause = now.saturating_duration_since(self.last_heard);
        self.beat = (self.beat * 15 + pause) / 16;
        self.lively = self.beat < LIVELY && !self.target.transport.is_stream();
        self.last_heard = now;
        self.unanswered_since = None;
        self.heard = true;
    }

    pub(super) const fn last_heard(&self) -> Instant {
        self.last_heard
    }

    /// How long nothing has passed in either direction.
    pub(super) fn idle(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.last_sent.max(self.last_heard))
    }

    /// Notes how long an answer took.
    pub(super) fn note_round_trip(&mut self, now: Instant) {
        let Some(asked_at) = self.asked_at else {
            return;
        };
        let sample = now.saturating_duration_since(asked_at);
        self.round_trip = Some(
            self.round_trip
                .map_or(sample, |smoothed| (smoothed * 7 + sample) / 8),
        );
    }

    /// Whether it was asked and has not answered in its time.
    pub(super) fn is_doubtful(&self) -> bool {
        !self.heard && self.doubted.is_some() && self.doubted == self.asked_at
    }

    /// When a Keepalive that nothing has answered so far puts the transport in doubt.
    pub(super) fn doubtful_from(&self) -> Option<Instant> {
        let least = if self.lively {
            LIVELY_DOUBT_AFTER
        } else {
            DOUBT_AFTER
        };
        let patience = self.round_trip.unwrap_or(DOUBT_AFTER) * 2;
        self.asked_at
            .filter(|_| !self.heard && self.doubted != self.asked_at)
            .map(|asked_at| asked_at + patience.max(least))
    }

    /// When a keepalive is due: after half the interval without sending, or 5 s after something was sent and
    /// nothing heard.
    pub(super) fn keepalive_due(&self) -> Option<Instant> {
        let regular = self.silence.map(|silence| self.last_sent + silence);
        let patience = if self.lively {
            LIVELY_PROBE_AFTER
        } else {
            PROBE_AFTER
        };
        let probe = self.unanswered_since.map(|since| since + patience);
        [regular, probe].into_iter().flatten().min()
    }
}
