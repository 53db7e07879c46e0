//! A search for a transport: attempts that run beside each other, begun one after the other (after RFC 8305).
//!
//! ```text
//!            delay            delay
//!   way 1 ---------+------------+---------> open ----> ready ----> asking ----> the tunnel's transport
//!                  way 2 ------ | -------> open ----> ready          |
//!                               way 3 ---> fails: the next at once   '--> the others are closed
//! ```
//!
//! Only one attempt asks at a time: a request makes a tunnel at the server, or moves one. Another that is ready asks when that one
//! has failed, or has had no answer for one and a half times the time that it took to open, within [`ASK_PATIENCE`].

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::config::Target;
use super::event::{AttemptFailure, Epoch, TransportFailure};
use super::plan::{Filter, Way};
use crate::transaction::Request;

/// Most attempts that are under way at a time.
pub const MAX_RACING: usize = 8;
/// How long an attempt that asks is waited for while another is ready to ask, at least and at most.
pub const ASK_PATIENCE: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(50)..=Duration::from_millis(500);
/// The same while a tunnel is moved: two that have asked cross each other.
const RESUME_PATIENCE: Duration = Duration::from_millis(250);
/// How long a clear way that works waits for protected ones that the application prefers.
const PROTECTED_PATIENCE: Duration = Duration::from_secs(1);
/// Attempts that may fail at once on this host, in a row, before the search slows down.
const LOCAL_FAILURES: u8 = 8;
/// How far ahead of all others the target that worked last begins.
pub const HEAD_START: Duration = Duration::from_millis(250);
/// For so long after a loss what is silent is tried again every second: whoever comes out of a tunnel wants to go on talking.
pub const URGENT: Duration = Duration::from_secs(90);
/// The least and the greatest time between two attempts of a way that is silent.
const AGAIN: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(16);

/// Why a transport is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// There is no tunnel yet.
    First,
    /// The tunnel has none.
    Lost,
    /// The one it has does not answer.
    Doubt,
    /// The one it has goes over a network that is not the best any more.
    Move,
    /// The one it has is a stream, and datagrams suit it better.
    Upgrade,
}

/// A search for a transport.
#[derive(Debug)]
pub(super) struct Seeker {
    pub(super) why: Why,
    pub(super) began: Instant,
    /// When the search is given up.
    pub(super) deadline: Instant,
    /// Before this no other attempt begins, whatever there is to try.
    pub(super) not_before: Instant,
    /// When there may be another to begin.
    pub(super) wake: Instant,
    /// At most [`MAX_RACING`].
    pub(super) attempts: Vec<Attempt>,
    /// The first way gets a [`HEAD_START`].
    pub(super) head_start: bool,
    /// How the attempt failed that tells most, or the last one of these.
    pub(super) last: Option<AttemptFailure>,
    /// Redirects followed in a row.
    pub(super) redirects: u8,
    /// Attempts in a row that failed at once on this host.
    pub(super) local_failures: u8,
}

/// One attempt at a transport.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) epoch: Epoch,
    pub(super) way: Way,
    pub(super) began: Instant,
    pub(super) until: Instant,
    pub(super) stage: Stage,
    /// The target's place in the application's list.
    pub(super) order: usize,
    /// Cookies asked for so far.
    pub(super) cookies: u8,
    /// The cookie to ask with.
    pub(super) cookie: Option<Bytes>,
    /// Of the proof that was sent last.
    pub(super) counter: u32,
    /// Plain UDP: an answer that may be anyone's. How the attempt has failed if no other comes.
    pub(super) doubtful: Option<AttemptFailure>,
    /// The request, once one was sent.
    pub(super) request: Option<Request<()>>,
}

/// How far an attempt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The owner opens the transport.
    Opening,
    /// Plain UDP: a request that can do nothing yet was sent for a cookie.
    Knocking,
    /// The way works; it waits for its turn to ask.
    Ready,
    /// The request was sent.
    Asking(Instant),
}

impl Attempt {
    pub(super) fn new(epoch: Epoch, way: Way, order: usize, now: Instant, until: Instant) -> Self {
        Self {
            epoch,
            way,
            order,
            began: now,
            until,
            stage: Stage::Opening,
            cookies: 0,
            cookie: None,
            counter: 0,
            doubtful: None,
            request: None,
        }
    }

    pub(super) const fn target(&self) -> Target {
        self.way.target
    }

    const fn is_protected(&self) -> bool {
        self.way.target.transport.is_protected()
    }

    /// Whether nothing was heard on this way.
    pub(super) const fn is_silent(&self) -> bool {
        matches!(self.stage, Stage::Opening | Stage::Knocking)
    }

    fn due(&self) -> Instant {
        self.request
            .as_ref()
            .map_or(self.until, |request| request.due().min(self.until))
    }
}

impl Seeker {
    pub(super) const fn new(why: Why, now: Instant, deadline: Instant) -> Self {
        Self {
            why,
            began: now,
            deadline,
            not_before: now,
            wake: now,
            attempts: Vec::new(),
            head_start: false,
            last: None,
            redirects: 0,
            local_failures: 0,
        }
    }

    /// Lets another attempt begin at once.
    pub(super) const fn hurry(&mut self, now: Instant) {
        self.put_off(now);
    }

    /// Lets no other attempt begin before `at`.
    pub(super) const fn put_off(&mut self, at: Instant) {
        self.not_before = at;
        self.wake = at;
    }

    /// When what is under way has to be looked at.
    pub(super) fn due_of_attempts(&self) -> Instant {
        let attempts = self.attempts.iter().map(Attempt::due);
        attempts
            .chain(self.ask_due())
            .fold(self.deadline, Instant::min)
    }

    /// When the search has to be looked at.
    pub(super) fn due(&self) -> Instant {
        self.due_of_attempts().min(self.wake)
    }

    pub(super) fn attempt(&self, epoch: Epoch) -> Option<&Attempt> {
        self.attempts.iter().find(|attempt| attempt.epoch == epoch)
    }

    pub(super) fn attempt_mut(&mut self, epoch: Epoch) -> Option<&mut Attempt> {
        self.attempts
            .iter_mut()
            .find(|attempt| attempt.epoch == epoch)
    }

    /// Takes an attempt out.
    pub(super) fn remove(&mut self, epoch: Epoch) -> Option<Attempt> {
        let place = self
            .attempts
            .iter()
            .position(|attempt| attempt.epoch == epoch)?;
        Some(self.attempts.remove(place))
    }

    pub(super) fn is_trying(&self, target: Target) -> bool {
        self.attempts
            .iter()
            .any(|attempt| attempt.target() == target)
    }

    pub(super) fn ways(&self) -> Vec<Way> {
        self.attempts.iter().map(|attempt| attempt.way).collect()
    }

    pub(super) fn is_asking(&self) -> bool {
        self.attempts
            .iter()
            .any(|attempt| matches!(attempt.stage, Stage::Asking(_)))
    }

    /// The attempt whose turn it is to ask, if it is somebody's.
    pub(super) fn next_to_ask(&self, now: Instant) -> Option<Epoch> {
        if self.ask_due().is_some_and(|due| due > now) {
            return None;
        }
        self.ready().map(|attempt| attempt.epoch)
    }

    /// The first that is ready; a protected one if there is one.
    fn ready(&self) -> Option<&Attempt> {
        let ready = || {
            self.attempts
                .iter()
                .filter(|attempt| attempt.stage == Stage::Ready)
        };
        ready()
            .find(|attempt| attempt.is_protected())
            .or_else(|| ready().next())
    }

    /// Until when a clear attempt that is ready leaves it to protected ones that the application would rather have: whoever is on
    /// the way could make it the first by delaying the others.
    fn protected_until(&self, ready: &Attempt) -> Option<Instant> {
        if ready.is_protected() {
            return None;
        }
        let preferred = self.attempts.iter().filter(|attempt| {
            attempt.is_protected() && attempt.stage == Stage::Opening && attempt.order < ready.order
        });
        preferred
            .map(|attempt| attempt.began + PROTECTED_PATIENCE)
            .max()
    }

    /// When the attempt that is ready need not wait any more for the one that asks.
    fn ask_due(&self) -> Option<Instant> {
        let ready = self.ready()?;
        let least = if self.why == Why::First {
            *ASK_PATIENCE.start()
        } else {
            RESUME_PATIENCE
        };
        let until = |attempt: &Attempt| match attempt.stage {
            // A round trip or two, and half as much again for the server.
            Stage::Asking(since) => {
                let opened_in = since.saturating_duration_since(attempt.began);
                Some(since + (opened_in * 3 / 2).clamp(least, *ASK_PATIENCE.end()))
            }
            Stage::Opening | Stage::Knocking | Stage::Ready => None,
        };
        let last = self.attempts.iter().filter_map(until).max();
        let due = last.unwrap_or(self.began);
        Some(
            self.protected_until(ready)
                .map_or(due, |until| until.max(due)),
        )
    }

    /// A way that has been silent for long and may be tried once more beside itself, as the first packet of an attempt may be
    /// lost and its next is a long time off; or when there will be one.
    pub(super) fn silent_way(&self, now: Instant) -> Option<(Instant, Way)> {
        let last = self.attempts.iter().map(|attempt| attempt.began).max()?;
        let due = last + self.again(now);
        let silent = self.attempts.iter().filter(|attempt| attempt.is_silent());
        let mut ways: Vec<(Way, Instant)> = Vec::new();
        for attempt in silent {
            match ways.iter_mut().find(|(way, _)| *way == attempt.way) {
                Some((_, began)) => *began = attempt.began.max(*began),
                None => ways.push((attempt.way, attempt.began)),
            }
        }
        let (way, _) = ways.into_iter().min_by_key(|(_, began)| *began)?;
        Some((due, way))
    }

    /// How long a way may be silent until it is tried again beside itself.
    fn again(&self, now: Instant) -> Duration {
        let elapsed = now.saturating_duration_since(self.began);
        let wait = match self.why {
            Why::Lost | Why::Doubt if elapsed < URGENT => Duration::ZERO,
            Why::Lost | Why::Doubt => elapsed / 8,
            Why::First | Why::Move | Why::Upgrade => elapsed / 2,
        };
        wait.clamp(*AGAIN.start(), *AGAIN.end())
    }

    /// The bound of waits of our own while it is urgent: a network that is gone answers at once.
    pub(super) fn longest_wait(&self, now: Instant, failure: &AttemptFailure) -> Option<Duration> {
        let local = matches!(
            failure,
            AttemptFailure::Transport(TransportFailure::Unreachable | TransportFailure::Resolve)
                | AttemptFailure::NoAnswer
        );
        let urgent = matches!(self.why, Why::Lost | Why::Doubt)
            && now.saturating_duration_since(self.began) < URGENT;
        (local && urgent).then_some(*AGAIN.start())
    }

    /// Of those under way that are silent the one that has been so for longest, if there is no room for another. Each has its time.
    pub(super) fn to_replace(&self, now: Instant) -> Replace {
        if self.attempts.len() < MAX_RACING {
            return Replace::Nobody;
        }
        let silent = self.attempts.iter().filter(|attempt| attempt.is_silent());
        let Some(oldest) = silent.min_by_key(|attempt| attempt.began) else {
            return Replace::NotBefore(self.deadline);
        };
        let due = oldest.began + *AGAIN.start();
        if due <= now {
            Replace::Attempt(oldest.epoch)
        } else {
            Replace::NotBefore(due)
        }
    }

    /// An attempt has failed: another may follow at once, unless all that follow fail as soon as they begin.
    pub(super) fn go_on(&mut self, now: Instant, failure: &AttemptFailure) {
        let local = AttemptFailure::Transport(TransportFailure::Unreachable);
        if *failure == local {
            self.local_failures = self.local_failures.saturating_add(1);
        } else {
            self.local_failures = 0;
        }
        if self.local_failures > LOCAL_FAILURES {
            self.put_off(now + *AGAIN.start());
        } else {
            self.hurry(now);
        }
    }

    /// Keeps the failure that tells an application most.
    pub(super) fn note_failure(&mut self, failure: AttemptFailure) {
        if self
            .last
            .as_ref()
            .is_none_or(|last| weight(last) <= weight(&failure))
        {
            self.last = Some(failure);
        }
    }

    pub(super) const fn filter(&self, protected: bool) -> Filter {
        Filter {
            protected,
            datagrams: matches!(self.why, Why::Upgrade),
        }
    }
}

/// Who makes room for another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replace {
    Nobody,
    Attempt(Epoch),
    /// There will be somebody then.
    NotBefore(Instant),
}

/// What a server or a proxy says tells more than silence.
const fn weight(failure: &AttemptFailure) -> u8 {
    match failure {
        AttemptFailure::NoAnswer
        | AttemptFailure::Transport(TransportFailure::Unreachable | TransportFailure::Resolve) => 0,
        AttemptFailure::Transport(TransportFailure::Refused | TransportFailure::Unsupported) => 1,
        AttemptFailure::Lost | AttemptFailure::Transport(TransportFailure::Handshake) => 2,
        AttemptFailure::BadAnswer(_)
        | AttemptFailure::Unusable(_)
        | AttemptFailure::Framing(_)
        | AttemptFailure::TooManyRedirects
        | AttemptFailure::ForbiddenRedirect
        | AttemptFailure::Transport(TransportFailure::Proxy | TransportFailure::ProxyTrouble) => 3,
        AttemptFailure::Transport(
            TransportFailure::Certificate | TransportFailure::ClientCertificate,
        ) => 4,
        AttemptFailure::Refused(_) => 5,
    }
}
