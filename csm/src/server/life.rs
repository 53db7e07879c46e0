//! Time, states and ends: what happens to tunnels and transports when nobody sends.

use std::time::Instant;

use tsc_tpl::CmType;

use super::arena::Key;
use super::binding::Attachment;
use super::event::{BindingId, CloseReason, DownReason, Event, SessionId, SessionState, Verdict};
use super::rate::SourcePrefix;
use super::session::{Due, Life};
use super::{Server, TIMEOUTS_PER_TURN, Waiting};
use crate::transaction::{Request, Schedule, Step};
use crate::wire;

/// A graceful stop under way: releases go out in batches.
#[derive(Debug)]
pub(super) struct Stop {
    /// Next slot of the sessions to be released.
    cursor: u32,
    /// When the next batch is due; `None` when all were released.
    due: Option<Instant>,
    text: Option<String>,
}

impl Server {
    /// When [`handle_timeout`](Self::handle_timeout) is due; `None` is never.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        [
            self.deadlines.next(),
            self.stop.as_ref().and_then(|stop| stop.due),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Advances time. Calling it early or twice is harmless; it handles at most [`TIMEOUTS_PER_TURN`] deadlines.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.release_batch(now);
        for _ in 0..TIMEOUTS_PER_TURN {
            match self.deadlines.pop_due(now) {
                Some(Waiting::Session(key)) => self.session_timeout(now, key),
                Some(Waiting::Binding(key)) => self.binding_timeout(now, key),
                None => return,
            }
        }
    }

    /// Releases one tunnel, with an explanation for people (at most 128 bytes of it are sent). It is over when
    /// the client has answered, or after the last transmission; a [`Event::SessionDown`] says so.
    pub fn release(&mut self, now: Instant, session: SessionId, text: Option<&str>) {
        let Some(key) = self.own(session) else {
            return;
        };
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        if matches!(session.life, Life::Releasing(_)) {
            return;
        }
        let binding = session
            .binding
            .and_then(|id| Some((id, self.bindings.get(id.key())?.transport)));
        let Some((binding, transport)) = binding else {
            return self.close_session(now, key, DownReason::ReleasedByServer { confirmed: false });
        };
        let sequence = session.next_sequence;
        session.next_sequence = sequence.next();
        let Some(bytes) = wire::release_request(session.tsid, sequence, text) else {
            return self.close_session(now, key, DownReason::ReleasedByServer { confirmed: false });
        };
        let schedule = Schedule::release(transport.is_stream());
        let answer = CmType::CONFIGURATION_RELEASE_RESPONSE;
        let request = Request::sent(now, (), sequence, answer, bytes.clone(), schedule);
        let was_persistent = matches!(session.life, Life::Persistent { .. });
        session.life = Life::Releasing(Box::new(request));
        if was_persistent {
            self.persistent -= 1;
        }
        self.transmit_over(binding, bytes);
        self.events.push_back(Event::StateChanged {
            session: self.session_id(key),
            state: SessionState::Releasing,
        });
        self.arm_session(key);
    }

    /// Begins a graceful stop: every tunnel is released, in batches driven by
    /// [`handle_timeout`](Self::handle_timeout); new requests are answered `busy`. The stop is complete when
    /// [`Stats::sessions`](super::Stats::sessions) is 0, at the latest 10 s after the last batch.
    pub fn release_all(&mut self, now: Instant, text: Option<&str>) {
        if self.stop.is_none() {
            self.stop = Some(Stop {
                cursor: 0,
                due: Some(now),
                text: text.map(str::to_owned),
            });
        }
    }

    fn release_batch(&mut self, now: Instant) {
        let end = self.sessions.end();
        let Some(stop) = self
            .stop
            .as_mut()
            .filter(|stop| stop.due.is_some_and(|due| due <= now))
        else {
            return;
        };
        let first = stop.cursor;
        let last =
            end.min(first.saturating_add(u32::try_from(TIMEOUTS_PER_TURN).unwrap_or(u32::MAX)));
        stop.cursor = last;
        stop.due = (last < end).then_some(now);
        let text = stop.text.take();
        for index in first..last {
            if let Some(key) = self.sessions.key_at(index) {
                self.release(now, self.session_id(key), text.as_deref());
            }
        }
        if let Some(stop) = &mut self.stop {
            stop.text = text;
        }
    }

    pub(super) fn arm_session(&mut self, key: Key) {
        if let Some(session) = self.sessions.get_mut(key) {
            let deadline = session.deadline();
            self.deadlines
                .arm(Waiting::Session(key), &mut session.armed, deadline);
        }
    }

    pub(super) fn arm_binding(&mut self, key: Key) {
        if let Some(binding) = self.bindings.get_mut(key)
            && let Attachment::Pending { armed, until, .. } = &mut binding.attachment
        {
            self.deadlines
                .arm(Waiting::Binding(key), armed, Some(*until));
        }
    }

    /// An authentic unit came for a tunnel that is not simply active.
    pub(super) fn wake(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        session.confirmed = true;
        if matches!(session.life, Life::Persistent { .. }) {
            session.life = Life::Active;
            self.persistent -= 1;
            let session = self.session_id(key);
            self.events.push_back(Event::StateChanged {
                session,
                state: SessionState::Active,
            });
        }
        self.arm_session(key);
    }

    fn session_timeout(&mut self, now: Instant, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        session.armed = None;
        session.inbox.expire(now);
        if session.services.is_some() {
            self.lapse(now, key);
            self.beside_timeout(now, key);
            self.redundancy_timeout(now, key);
            self.peers_timeout(now, key);
            if !self.keepalive_timeout(now, key) {
                return self.arm_session(key);
            }
        }
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        match session.due(now) {
            Due::Nothing => {}
            Due::Idle => self.make_persistent(now, key),
            Due::Expired => {
                if !self.outlives(now, key) {
                    return self.close_session(now, key, DownReason::Expired);
                }
            }
            Due::Unconfirmed => return self.close_session(now, key, DownReason::Unconfirmed),
            Due::Release => {
                let Life::Releasing(request) = &mut session.life else {
                    return;
                };
                match (request.poll(now), session.binding) {
                    (Step::Wait, _) => {}
                    (Step::Retransmit(bytes), Some(binding)) => {
                        self.stats.retransmissions += 1;
                        self.transmit_over(binding, bytes);
                    }
                    (Step::Failed | Step::Retransmit(_), _) => {
                        let reason = DownReason::ReleasedByServer { confirmed: false };
                        return self.close_session(now, key, reason);
                    }
                }
            }
        }
        self.arm_session(key);
    }

    fn binding_timeout(&mut self, now: Instant, key: Key) {
        let Some(binding) = self.bindings.get_mut(key) else {
            return;
        };
        if let Attachment::Pending { armed, until, .. } = &mut binding.attachment {
            *armed = None;
            if *until <= now {
                let _ = self.close_binding(
                    now,
                    BindingId::from_key(key),
                    CloseReason::ConfigurationTimeout,
                );
            } else {
                self.arm_binding(key);
            }
        }
    }

    /// Whether a tunnel that is idle stays, as one of its companions is not (spec 5).
    fn outlives(&mut self, now: Instant, key: Key) -> bool {
        let heard = self.family_activity(key);
        let Some(session) = self.sessions.get_mut(key) else {
            return false;
        };
        let persistence = session.timers().persistence;
        match (&mut session.life, heard) {
            (Life::Persistent { since }, Some(heard)) if heard + persistence > now => {
                *since = heard;
                true
            }
            _ => false,
        }
    }

    fn make_persistent(&mut self, now: Instant, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        if matches!(session.life, Life::Active) {
            session.life = Life::Persistent { since: now };
            self.persistent += 1;
            let session = self.session_id(key);
            self.events.push_back(Event::StateChanged {
                session,
                state: SessionState::Persistent,
            });
        }
    }

    /// The tunnel's transport is gone.
    pub(super) fn session_unbound(&mut self, now: Instant, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        session.binding = None;
        if !session.confirmed {
            self.reserve_again(now, key);
            return self.close_session(now, key, DownReason::Unconfirmed);
        }
        match &mut session.life {
            // Nobody is left to answer the release.
            Life::Releasing(_) => {
                self.close_session(now, key, DownReason::ReleasedByServer { confirmed: false });
            }
            Life::Active => {
                self.make_persistent(now, key);
                self.arm_session(key);
            }
            // Idle already; losing the transport does not extend its time.
            Life::Persistent { .. } => {}
        }
    }

    /// Ends a tunnel: its addresses rest, its transport is closed, nothing remains.
    pub(super) fn close_session(&mut self, now: Instant, key: Key, reason: DownReason) {
        let Some(mut session) = self.sessions.remove(key) else {
            return;
        };
        self.deadlines
            .arm(Waiting::Session(key), &mut session.armed, None);
        self.directory.remove(&session.tsid);
        match session.main {
            Some(membership) => self.companion_closed(now, &session, membership, reason),
            None => self
                .common
                .give_back(now, session.account(), &session.leases),
        }
        if matches!(session.life, Life::Persistent { .. }) {
            self.persistent -= 1;
        }
        tracing::debug!(tsid = %session.tsid, ?reason, "tunnel closed");
        if let Some(services) = session.services.take() {
            self.end_services(now, &session, *services);
        }
        if session.has_own_addresses() {
            self.events.push_back(Event::SessionDown {
                session: session.id,
                tsid: session.tsid,
                reason,
            });
        }
        if let Some(binding) = session.binding {
            self.remove_binding(binding);
            let reason = CloseReason::SessionDown(reason);
            self.events
                .push_back(Event::CloseBinding { binding, reason });
        }
    }

    /// Closes a transport from this side; its tunnel is only without one.
    pub(super) fn close_binding(
        &mut self,
        now: Instant,
        id: BindingId,
        reason: CloseReason,
    ) -> Verdict {
        let session = self.remove_binding(id);
        self.events.push_back(Event::CloseBinding {
            binding: id,
            reason,
        });
        if let Some(session) = session {
            self.session_unbound(now, session);
        }
        Verdict::Close(reason)
    }

    /// Forgets a transport; gives the tunnel it carried.
    pub(super) fn remove_binding(&mut self, id: BindingId) -> Option<Key> {
        let mut binding = self.bindings.remove(id.key())?;
        if let Some(listener) = binding.listener {
            let entry = (listener, binding.peer);
            if self.addresses.get(&entry) == Some(&id) {
                self.addresses.remove(&entry);
            }
        }
        match &mut binding.attachment {
            Attachment::Session(key) => Some(*key),
            Attachment::Pending { armed, .. } => {
                self.deadlines.arm(Waiting::Binding(id.key()), armed, None);
                self.no_longer_pending(SourcePrefix::of(binding.peer.ip()));
                None
            }
        }
    }

    pub(super) fn no_longer_pending(&mut self, prefix: SourcePrefix) {
        self.pending = self.pending.saturating_sub(1);
        self.common.no_longer_pending(prefix);
    }
}
