//! Looking for a transport: attempts, waits, and giving up.

use std::time::Instant;

use tsc_tpl::CmType;

use super::config::Target;
use super::event::{
    AttemptFailure, CloseReason, DownReason, Epoch, Event, SuspendReason, TransportLoss,
};
use super::plan::Pick;
use super::tunnel::{Asked, Attempt, Phase, Seeker};
use super::{Client, State};
use crate::random::Random as _;
use crate::transaction::{Request, Schedule, Step};
use crate::wire::{self, Claim};

/// A lost tunnel of a server that keeps it for ever is given up after this long.
const ENDLESS_RESUME: std::time::Duration = std::time::Duration::from_secs(3600);
/// After an orderly close by the server the first attempt waits up to this long (spec 5).
const AFTER_CLOSE: std::time::Duration = std::time::Duration::from_secs(2);

impl Seeker {
    pub(super) const fn new(start: Instant, deadline: Instant) -> Self {
        Self {
            deadline,
            phase: Phase::Waiting { until: start },
            last: None,
            redirects: 0,
        }
    }
}

impl Client {
    pub(super) fn seeker(&self) -> Option<&Seeker> {
        match &self.state {
            State::Connecting(seeker) => Some(seeker),
            State::Up(tunnel) => tunnel.seeker.as_ref(),
            State::Idle | State::Down => None,
        }
    }

    pub(super) fn seeker_mut(&mut self) -> Option<&mut Seeker> {
        match &mut self.state {
            State::Connecting(seeker) => Some(seeker),
            State::Up(tunnel) => tunnel.seeker.as_mut(),
            State::Idle | State::Down => None,
        }
    }

    pub(super) fn attempt(&self, epoch: Epoch) -> Option<&Attempt> {
        self.seeker()?
            .attempt()
            .filter(|attempt| attempt.epoch == epoch)
    }

    /// Tries the next target, or waits for one, or gives up.
    pub(super) fn next_attempt(&mut self, now: Instant) {
        let (resuming, protected_only) = match &self.state {
            State::Up(tunnel) => (true, tunnel.protected),
            State::Idle | State::Connecting(_) | State::Down => (false, false),
        };
        // A server that is down comes back for those who had a tunnel; a first tunnel hears at once that there is none.
        let pick = if !resuming && self.plan.is_refused() {
            Pick::Nothing
        } else {
            self.plan.pick(now, protected_only)
        };
        let attempt_timeout = self.config.attempt_timeout;
        let epoch = Epoch(self.next_epoch);
        let Some(seeker) = self.seeker_mut() else {
            return;
        };
        match pick {
            Pick::Now(target) if now < seeker.deadline => {
                let until = now + attempt_timeout;
                seeker.phase = Phase::Trying(Box::new(Attempt {
                    epoch,
                    target,
                    until,
                    cookies: 0,
                    doubtful: None,
                    request: None,
                }));
                self.next_epoch = self.next_epoch.wrapping_add(1);
                self.stats.attempts += 1;
                self.events.push_back(Event::Open { epoch, target });
            }
            Pick::At(until) if until < seeker.deadline => seeker.phase = Phase::Waiting { until },
            // For a first tunnel, waiting beyond the end would only put off saying so; for a lost one, a change of
            // the network may still come.
            Pick::At(until) if resuming => seeker.phase = Phase::Waiting { until },
            Pick::Now(_) | Pick::At(_) | Pick::Nothing => self.give_up(),
        }
    }

    /// The network changed: a wait of our own is over.
    pub(super) fn end_wait(&mut self, now: Instant) {
        if let Some(Seeker {
            phase: Phase::Waiting { .. },
            ..
        }) = self.seeker()
        {
            self.next_attempt(now);
        }
    }

    pub(super) fn seek_timeout(&mut self, now: Instant) {
        let Some(seeker) = self.seeker_mut() else {
            return;
        };
        let over = seeker.deadline <= now;
        match &mut seeker.phase {
            Phase::Waiting { .. } if over => self.give_up(),
            Phase::Waiting { until } => {
                if *until <= now {
                    self.next_attempt(now);
                }
            }
            Phase::Trying(attempt) => {
                let epoch = attempt.epoch;
                let step = attempt
                    .request
                    .as_mut()
                    .map_or(Step::Wait, |request| request.poll(now));
                let failed = over || attempt.until <= now || step == Step::Failed;
                if failed {
                    let failure = attempt.doubtful.take();
                    let failure = failure.unwrap_or(AttemptFailure::NoAnswer);
                    self.attempt_failed(now, failure, true);
                } else if let Step::Retransmit(bytes) = step {
                    self.stats.retransmissions += 1;
                    self.transmit(epoch, bytes);
                }
            }
        }
    }

    /// The attempt under way has failed; `close` asks the owner to close its transport.
    pub(super) fn attempt_failed(&mut self, now: Instant, failure: AttemptFailure, close: bool) {
        let Some((epoch, target)) = self.abandon_attempt(now, close) else {
            return;
        };
        tracing::debug!(?target, %failure, "attempt failed");
        self.plan.failed(now, target, &failure, &mut self.random);
        self.events.push_back(Event::AttemptFailed {
            epoch,
            target,
            failure: failure.clone(),
        });
        if let Some(seeker) = self.seeker_mut() {
            seeker.last = Some(failure);
        }
        self.next_attempt(now);
    }

    /// Ends the attempt under way without a verdict on its target.
    pub(super) fn abandon_attempt(&mut self, now: Instant, close: bool) -> Option<(Epoch, Target)> {
        let seeker = self.seeker_mut()?;
        let attempt = seeker.attempt()?;
        let (epoch, target) = (attempt.epoch, attempt.target);
        seeker.phase = Phase::Waiting { until: now };
        if close {
            self.events.push_back(Event::Close {
                epoch,
                reason: CloseReason::AttemptFailed,
            });
        }
        Some((epoch, target))
    }

    /// Sends the request of the attempt under way: the first, or another with a cookie, which is a new transaction
    /// with a new proof.
    pub(super) fn send_request(&mut self, now: Instant, cookie: Option<&[u8]>) {
        let sequence = self.next_sequence;
        let Some((epoch, transport)) = self
            .seeker()
            .and_then(Seeker::attempt)
            .map(|attempt| (attempt.epoch, attempt.target.transport))
        else {
            return;
        };
        let (bytes, answer) = match &mut self.state {
            State::Up(tunnel) => {
                tunnel.resume_counter = tunnel.resume_counter.wrapping_add(1);
                let claim = Claim {
                    tsid: tunnel.assignment.tsid,
                    key: &tunnel.resume_key,
                    counter: tunnel.resume_counter,
                };
                let bytes = wire::resume_request(&self.config, transport, sequence, &claim, cookie);
                (bytes, CmType::CONFIGURATION_RESUME_RESPONSE)
            }
            State::Idle | State::Connecting(_) | State::Down => {
                let bytes = wire::configuration_request(&self.config, transport, sequence, cookie);
                (bytes, CmType::CONFIGURATION_RESPONSE)
            }
        };
        self.next_sequence = sequence.next();
        let Some(bytes) = bytes else {
            return self.attempt_failed(
                now,
                AttemptFailure::Unusable("the request cannot be encoded"),
                true,
            );
        };
        let schedule = Schedule::request(transport.is_stream());
        if let Some(attempt) = self.seeker_mut().and_then(Seeker::attempt_mut) {
            attempt.request = Some(Request::sent(
                now,
                (),
                sequence,
                answer,
                bytes.clone(),
                schedule,
            ));
        }
        self.transmit(epoch, bytes);
    }

    /// The tunnel has lost its transport; `close` asks the owner to close what is left of it.
    pub(super) fn lose_link(
        &mut self,
        now: Instant,
        cause: SuspendReason,
        close: Option<CloseReason>,
    ) {
        let resume_timeout = self.config.resume_timeout;
        let State::Up(tunnel) = &mut self.state else {
            return;
        };
        let Some(link) = tunnel.link.take() else {
            return;
        };
        if let Some(reason) = close {
            self.events.push_back(Event::Close {
                epoch: link.epoch,
                reason,
            });
        }
        if tunnel.release_until.is_some() {
            return self.down(DownReason::Released { confirmed: false });
        }
        tunnel.cause = cause;
        tunnel
            .requests
            .retain(|request| request.what != Asked::Keepalive);
        self.events.push_back(Event::Suspended(cause));
        if tunnel.seeker.is_some() {
            return;
        }
        let persistence = tunnel.assignment.persistence;
        let kept = if persistence.is_zero() {
            ENDLESS_RESUME
        } else {
            persistence
        };
        let time = resume_timeout.unwrap_or(kept);
        let mut seeker = Seeker::new(now, now + time);
        self.plan.begin(Some(link.target));
        if cause == SuspendReason::Lost(TransportLoss::ClosedByServer) {
            seeker.phase = Phase::Waiting {
                until: now + self.random.up_to(AFTER_CLOSE),
            };
            tunnel.seeker = Some(seeker);
        } else {
            tunnel.seeker = Some(seeker);
            self.next_attempt(now);
        }
    }

    fn give_up(&mut self) {
        let reason = match &mut self.state {
            State::Connecting(seeker) => {
                DownReason::CannotConnect(seeker.last.take().unwrap_or(AttemptFailure::NoAnswer))
            }
            State::Up(tunnel) => DownReason::Lost {
                cause: tunnel.cause,
                last: tunnel.seeker.as_mut().and_then(|seeker| seeker.last.take()),
            },
            State::Idle | State::Down => return,
        };
        self.down(reason);
    }
}
