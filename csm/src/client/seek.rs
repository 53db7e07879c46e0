//! Looking for a transport: attempts, waits, and giving up.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tsc_tpl::CmType;

use super::config::Target;
use super::event::{
    AttemptFailure, CloseReason, DownReason, Epoch, Event, SuspendReason, TransportFailure,
    TransportLoss,
};
use super::plan::{Pick, Trial, Way};
use super::race::{Attempt, HEAD_START, Replace, Seeker, Stage, Why};
use super::tunnel::Asked;
use super::{Client, State};
use crate::random::Random as _;
use crate::transaction::{Request, Schedule, Step};
use crate::transport::Transport;
use crate::wire::{self, Proof};

/// A lost tunnel of a server that keeps it for ever is given up after this long.
const ENDLESS_RESUME: Duration = Duration::from_secs(3600);
/// After an orderly close by the server the first attempt waits up to this long (spec 5).
const AFTER_CLOSE: Duration = Duration::from_secs(2);
/// How long a resume that was asked for beside the one that was answered first is waited for.
const LATER: Duration = Duration::from_secs(5);

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
        self.seeker()?.attempt(epoch)
    }

    pub(super) fn attempt_mut(&mut self, epoch: Epoch) -> Option<&mut Attempt> {
        self.seeker_mut()?.attempt_mut(epoch)
    }

    /// Begins the attempts that are due, or gives up where nothing is left to try.
    pub(super) fn look_further(&mut self, now: Instant) {
        loop {
            let (protected, bound) = match &self.state {
                State::Up(tunnel) => (tunnel.protected, tunnel.link.is_some()),
                State::Idle | State::Connecting(_) | State::Down => (false, false),
            };
            let Some(seeker) = self.seeker() else {
                return;
            };
            if seeker.wake > now || self.paused {
                return;
            }
            let (why, deadline) = (seeker.why, seeker.deadline);
            let filter = seeker.filter(protected);
            let ways = seeker.ways();
            let silent = seeker.silent_way(now);
            for target in self.plan.lookups(now, filter) {
                self.events.push_back(Event::Resolve { target });
            }
            // A server that is down comes back for those who had a tunnel; a first tunnel hears at once that there is none.
            let over = why == Why::First && ways.is_empty() && self.plan.is_refused();
            let pick = if over {
                Pick::Nothing
            } else {
                self.plan.pick(now, filter, &ways)
            };
            let wake = match (pick, silent) {
                (Pick::Now(way), _) if now < deadline => {
                    if let Err(due) = self.begin_attempt(now, way, true) {
                        return self.sleep_until(due.min(deadline));
                    }
                    continue;
                }
                (_, Some((due, way))) if due <= now && now < deadline => {
                    if let Err(due) = self.begin_attempt(now, way, false) {
                        return self.sleep_until(due.min(deadline));
                    }
                    continue;
                }
                (Pick::At(until), Some((due, _))) => until.min(due),
                (_, Some((due, _))) => due,
                // For a first tunnel, waiting beyond the end would only put off saying so; for a lost one, a change of the
                // network may still come.
                (Pick::At(until), None)
                    if until < deadline
                        || why == Why::Lost
                        || !ways.is_empty()
                        || self.plan.is_looking_up() =>
                {
                    if why == Why::Upgrade && ways.is_empty() {
                        return self.give_up(now);
                    }
                    until
                }
                (Pick::Wait, None) => deadline,
                // Another network may come, and the server keeps the tunnel.
                (Pick::Barred, None) if why == Why::Lost => deadline,
                (Pick::Now(_) | Pick::At(_) | Pick::Barred | Pick::Nothing, None) => {
                    if !ways.is_empty() && now < deadline {
                        deadline
                    } else {
                        debug_assert!(!bound || why != Why::First, "a tunnel was had");
                        return self.give_up(now);
                    }
                }
            };
            return self.sleep_until(wake.min(deadline));
        }
    }

    fn sleep_until(&mut self, wake: Instant) {
        if let Some(seeker) = self.seeker_mut() {
            seeker.wake = wake;
        }
    }

    /// Asks the owner for one more transport, or says when there will be room for it. `fresh` is a way that is not under way yet.
    fn begin_attempt(&mut self, now: Instant, way: Way, fresh: bool) -> Result<(), Instant> {
        let replaced = match self.seeker().map(|seeker| seeker.to_replace(now)) {
            Some(Replace::Nobody) => None,
            Some(Replace::Attempt(epoch)) => Some(epoch),
            Some(Replace::NotBefore(due)) => return Err(due),
            None => return Ok(()),
        };
        let order = self.plan.order(way.target);
        if let Some(epoch) = replaced {
            self.abandon_attempt(epoch);
        }
        let (delay, until) = (self.config.race_delay, now + self.config.attempt_timeout);
        let epoch = Epoch(self.next_epoch);
        let Some(seeker) = self.seeker_mut() else {
            return Ok(());
        };
        let delay = if std::mem::take(&mut seeker.head_start) {
            delay.max(HEAD_START)
        } else {
            delay
        };
        seeker.put_off(now + delay);
        seeker
            .attempts
            .push(Attempt::new(epoch, way, order, now, until));
        if fresh {
            self.plan.begun(way);
        } else {
            self.plan.is_silent(now, way.target);
        }
        self.next_epoch = self.next_epoch.wrapping_add(1);
        self.stats.attempts += 1;
        let Way { target, address } = way;
        self.events.push_back(Event::Open {
            epoch,
            target,
            address,
        });
        Ok(())
    }

    /// Where a target is, which the owner was asked for.
    pub(super) fn target_found(
        &mut self,
        now: Instant,
        target: Target,
        ways: &[Option<SocketAddr>],
    ) {
        if ways.is_empty() {
            return self.target_not_found(now, target, TransportFailure::Resolve);
        }
        self.plan.found(target, ways);
        self.wake_up(now);
    }

    pub(super) fn target_not_found(
        &mut self,
        now: Instant,
        target: Target,
        failure: TransportFailure,
    ) {
        // Where it was before is better than nothing.
        if !self.plan.not_found(target) {
            let failure = AttemptFailure::Transport(failure);
            self.count_failure(now, None, target, failure);
        }
        self.wake_up(now);
    }

    /// There may be something to try that there was not.
    fn wake_up(&mut self, now: Instant) {
        if let Some(seeker) = self.seeker_mut() {
            seeker.wake = seeker.wake.min(seeker.not_before.max(now));
        }
        self.look_further(now);
    }

    /// The network changed: waits of our own are over.
    pub(super) fn end_wait(&mut self, now: Instant) {
        if let Some(seeker) = self.seeker_mut() {
            seeker.hurry(now);
            seeker.began = now;
            self.look_further(now);
        }
    }

    pub(super) fn seek_timeout(&mut self, now: Instant) {
        let Some(seeker) = self.seeker() else {
            return;
        };
        if seeker.deadline <= now {
            return self.give_up(now);
        }
        let epochs: Vec<Epoch> = seeker
            .attempts
            .iter()
            .map(|attempt| attempt.epoch)
            .collect();
        for epoch in epochs {
            let Some(attempt) = self.attempt_mut(epoch) else {
                continue;
            };
            let step = attempt
                .request
                .as_mut()
                .map_or(Step::Wait, |request| request.poll(now));
            if attempt.until <= now || step == Step::Failed {
                let failure = attempt.doubtful.take();
                self.attempt_failed(
                    now,
                    epoch,
                    failure.unwrap_or(AttemptFailure::NoAnswer),
                    true,
                );
            } else if let Step::Retransmit(bytes) = step {
                self.stats.retransmissions += 1;
                self.transmit(epoch, bytes);
            }
        }
        self.ask_next(now);
        self.look_further(now);
    }

    /// An attempt has failed; `close` asks the owner to close its transport.
    pub(super) fn attempt_failed(
        &mut self,
        now: Instant,
        epoch: Epoch,
        failure: AttemptFailure,
        close: bool,
    ) {
        let Some(attempt) = self.take_attempt(epoch, close) else {
            return;
        };
        self.tell_loss();
        self.count_failure(now, Some(epoch), attempt.target(), failure.clone());
        if let Some(seeker) = self.seeker_mut() {
            seeker.go_on(now, &failure);
        }
        self.ask_next(now);
        self.look_further(now);
    }

    fn count_failure(
        &mut self,
        now: Instant,
        epoch: Option<Epoch>,
        target: Target,
        failure: AttemptFailure,
    ) {
        tracing::debug!(?target, %failure, "attempt failed");
        let Some(seeker) = self.seeker_mut() else {
            return;
        };
        let trial = Trial {
            others_under_way: seeker.is_trying(target),
            longest: seeker.longest_wait(now, &failure),
        };
        seeker.note_failure(failure.clone());
        self.plan
            .failed(now, target, &failure, trial, &mut self.random);
        self.events.push_back(Event::AttemptFailed {
            epoch,
            target,
            failure,
        });
        // Others at a host that asked for patience would only be told the same.
        let forbidden: Vec<Epoch> = self
            .seeker()
            .map(|seeker| seeker.attempts.iter())
            .into_iter()
            .flatten()
            .filter(|attempt| self.plan.is_told_to_wait(attempt.target()))
            .map(|attempt| attempt.epoch)
            .collect();
        for epoch in forbidden {
            self.abandon_attempt(epoch);
        }
    }

    /// The transport that was closed was not closed for another.
    pub(super) fn tell_loss(&mut self) {
        if let State::Up(tunnel) = &mut self.state
            && let Some(cause) = tunnel.untold.take()
        {
            self.events.push_back(Event::Suspended(cause));
        }
    }

    /// Ends an attempt without a verdict on its target.
    pub(super) fn abandon_attempt(&mut self, epoch: Epoch) {
        let Some(attempt) = self.take_attempt(epoch, true) else {
            return;
        };
        let target = attempt.target();
        if self
            .seeker()
            .is_some_and(|seeker| !seeker.is_trying(target))
        {
            self.plan.abandoned(target);
        }
    }

    fn take_attempt(&mut self, epoch: Epoch, close: bool) -> Option<Attempt> {
        let attempt = self.seeker_mut()?.remove(epoch)?;
        if close {
            self.events.push_back(Event::Close {
                epoch,
                reason: CloseReason::AttemptFailed,
            });
        }
        Some(attempt)
    }

    /// After a resume: all other attempts end, but those that have asked later. The server may take them too, and the last counts.
    pub(super) fn keep_later(&mut self, now: Instant, seeker: Option<Seeker>, winner: Epoch) {
        let Some(mut seeker) = seeker else {
            return;
        };
        let counter = seeker.attempt(winner).map(|attempt| attempt.counter);
        let is_later = |attempt: &Attempt| {
            matches!(attempt.stage, Stage::Asking(_)) && Some(attempt.counter) > counter
        };
        let (later, others): (Vec<_>, Vec<_>) = std::mem::take(&mut seeker.attempts)
            .into_iter()
            .partition(is_later);
        seeker.attempts = others;
        self.close_others(Some(seeker), Some(winner));
        if let State::Up(tunnel) = &mut self.state
            && !later.is_empty()
        {
            let mut seeker = Seeker::new(Why::Move, now, now + LATER);
            seeker.put_off(now + LATER);
            seeker.attempts = later;
            tunnel.seeker = Some(seeker);
        }
    }

    /// Ends all attempts but the one that won.
    pub(super) fn close_others(&mut self, seeker: Option<Seeker>, winner: Option<Epoch>) {
        let attempts = seeker.map(|seeker| seeker.attempts).unwrap_or_default();
        for attempt in attempts {
            if Some(attempt.epoch) != winner {
                self.events.push_back(Event::Close {
                    epoch: attempt.epoch,
                    reason: CloseReason::NotNeeded,
                });
            }
        }
    }

    /// A transport is open: on plain UDP a cookie is asked for, else it is the attempt's turn, or will be.
    pub(super) fn attempt_opened(&mut self, now: Instant, epoch: Epoch) {
        let Some(attempt) = self
            .attempt_mut(epoch)
            .filter(|attempt| attempt.stage == Stage::Opening)
        else {
            return;
        };
        if attempt.target().transport == Transport::Udp {
            attempt.stage = Stage::Knocking;
            self.send_request(now, epoch);
        } else {
            attempt.stage = Stage::Ready;
            self.ask_next(now);
        }
    }

    /// Lets the attempt ask whose turn it is.
    pub(super) fn ask_next(&mut self, now: Instant) {
        if let Some(epoch) = self.seeker().and_then(|seeker| seeker.next_to_ask(now)) {
            if let Some(attempt) = self.attempt_mut(epoch) {
                attempt.stage = Stage::Asking(now);
            }
            self.send_request(now, epoch);
        }
    }

    /// Sends the request of an attempt: the first, or another with a cookie, which is a new transaction with a new proof.
    fn send_request(&mut self, now: Instant, epoch: Epoch) {
        let sequence = self.next_sequence;
        let Some(attempt) = self.attempt(epoch) else {
            return;
        };
        let transport = attempt.target().transport;
        let cookie = attempt.cookie.clone();
        let cookie = cookie.as_deref();
        let mut counter = 0;
        let (bytes, answer) = match &mut self.state {
            State::Up(tunnel) => {
                tunnel.resume_counter = tunnel.resume_counter.wrapping_add(1);
                counter = tunnel.resume_counter;
                let proof = Proof {
                    tsid: tunnel.assignment.tsid,
                    key: &tunnel.resume_key,
                    counter,
                };
                let bytes = wire::resume_request(&self.config, transport, sequence, &proof, cookie);
                (bytes, CmType::CONFIGURATION_RESUME_RESPONSE)
            }
            State::Idle | State::Connecting(_) | State::Down => {
                let claim = self.claim.as_ref().map(|claim| &claim.reservation);
                let config = &self.config;
                let bytes = wire::configuration_request(config, claim, transport, sequence, cookie);
                (bytes, CmType::CONFIGURATION_RESPONSE)
            }
        };
        self.next_sequence = sequence.next();
        let Some(bytes) = bytes else {
            let failure = AttemptFailure::Unusable("the request cannot be encoded");
            return self.attempt_failed(now, epoch, failure, true);
        };
        let schedule = Schedule::request(transport.is_stream());
        if let Some(attempt) = self.attempt_mut(epoch) {
            attempt.counter = counter;
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

    /// How long a tunnel that is lost is not given up: the server keeps it as long.
    pub(super) fn kept_for(&self) -> Duration {
        let persistence = self.assignment().map(|assignment| assignment.persistence);
        let kept = persistence.filter(|persistence| !persistence.is_zero());
        let resume_timeout = self.config.resume_timeout;
        resume_timeout.or(kept).unwrap_or(ENDLESS_RESUME)
    }

    /// The tunnel has lost its transport; `close` asks the owner to close what is left of it.
    pub(super) fn lose_link(
        &mut self,
        now: Instant,
        cause: SuspendReason,
        close: Option<CloseReason>,
    ) {
        let time = self.kept_for();
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
        let is_moving = tunnel.seeker.as_ref().is_some_and(Seeker::is_asking);
        if tunnel.release_until.is_some() && !is_moving {
            return self.down(DownReason::Released { confirmed: false });
        }
        if !link.target.transport.is_stream() {
            tunnel.upgrade.failed(now);
        }
        tunnel.cause = cause;
        tunnel
            .requests
            .retain(|request| request.what != Asked::Keepalive);
        // The server closes the old transport when it accepts another, and that may be heard before its answer.
        if is_moving && cause == SuspendReason::Lost(TransportLoss::ClosedByServer) {
            tunnel.untold = Some(cause);
        } else {
            self.events.push_back(Event::Suspended(cause));
        }
        if let Some(seeker) = &mut tunnel.seeker {
            // What is under way is what is needed now.
            seeker.why = Why::Lost;
            seeker.deadline = now + time;
            seeker.hurry(now);
            return self.look_further(now);
        }
        let mut seeker = Seeker::new(Why::Lost, now, now + time);
        seeker.head_start = true;
        self.plan.begin(Some(link.target));
        if cause == SuspendReason::Lost(TransportLoss::ClosedByServer) {
            seeker.put_off(now + self.random.up_to(AFTER_CLOSE));
        }
        tunnel.seeker = Some(seeker);
        self.look_further(now);
    }

    /// Looks for another transport beside the one that the tunnel has.
    pub(super) fn look_beside(&mut self, now: Instant, why: Why, first: Option<Target>) {
        let time = self.config.attempt_timeout;
        let State::Up(tunnel) = &mut self.state else {
            return;
        };
        if tunnel.link.is_none() || tunnel.release_until.is_some() {
            return;
        }
        match &tunnel.seeker {
            // Whether the transport works is more urgent.
            Some(seeker)
                if seeker.why == Why::Upgrade && why == Why::Doubt && !seeker.is_asking() =>
            {
                let upgrade = tunnel.seeker.take();
                self.close_others(upgrade, None);
                return self.look_beside(now, why, first);
            }
            Some(_) => return,
            None => {}
        }
        if why == Why::Doubt
            && let Some(link) = &mut tunnel.link
        {
            link.doubted = link.asked_at;
        }
        let Some(link) = &tunnel.link else {
            return;
        };
        let first = first.or_else(|| (why != Why::Upgrade).then_some(link.target));
        let mut seeker = Seeker::new(why, now, now + time);
        seeker.head_start = first.is_some();
        tunnel.seeker = Some(seeker);
        self.plan.begin(first);
        self.look_further(now);
    }

    /// The transport in doubt has been heard, or the search beside it is over: what is open beside it is closed.
    pub(super) fn stop_looking_beside(&mut self) {
        if let State::Up(tunnel) = &mut self.state
            && tunnel.link.is_some()
        {
            let seeker = tunnel.seeker.take();
            self.close_others(seeker, None);
        }
    }

    fn give_up(&mut self, now: Instant) {
        let reason = match &mut self.state {
            State::Connecting(seeker) => {
                DownReason::CannotConnect(seeker.last.take().unwrap_or(AttemptFailure::NoAnswer))
            }
            State::Up(tunnel) if tunnel.link.is_some() => {
                if tunnel
                    .seeker
                    .as_ref()
                    .is_some_and(|seeker| seeker.why == Why::Upgrade)
                {
                    tunnel.upgrade.failed(now);
                }
                return self.stop_looking_beside();
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
