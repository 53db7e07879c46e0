//! One server transaction: INVITE (RFC 3261 17.2.1, RFC 6026 8.7) or not (17.2.2).

use std::time::{Duration, Instant};

use super::{Event, Output, ServerId, Timers, TransactionError};
use crate::sip::{Hop, Method, Request, Response, StatusCode};

/// A user that never answers keeps its transaction this long at most. Ours: the RFC trusts the user.
const FORGOTTEN: Duration = Duration::from_secs(300);

#[derive(Debug)]
enum State {
    /// No final response yet; the last provisional one is sent again when the request is repeated.
    Proceeding {
        last: Option<Vec<u8>>,
        forgotten_at: Instant,
    },
    /// Final response sent. For a refused INVITE: repeated (timer G) until its ACK or timer H.
    /// For others: kept for repetitions of the request (timer J).
    Completed {
        wire: Vec<u8>,
        resend: Option<(Instant, Duration)>,
        until: Instant,
    },
    /// The ACK for a refusal came; its repetitions are absorbed (timer I).
    Confirmed {
        until: Instant,
    },
    /// A 2xx to an INVITE was sent: repeated until its ACK, all repetitions absorbed (timer L).
    Accepted {
        wire: Vec<u8>,
        resend: Option<(Instant, Duration)>,
        until: Instant,
    },
    Terminated,
}

#[derive(Debug)]
pub(super) struct ServerTransaction {
    id: ServerId,
    is_invite: bool,
    reply_to: Hop,
    timers: Timers,
    state: State,
}

impl ServerTransaction {
    /// Reports the request; an INVITE is answered with 100 at once.
    pub(super) fn start(
        now: Instant,
        id: ServerId,
        request: Request,
        source: Hop,
        timers: Timers,
        out: &mut Output,
    ) -> Self {
        let is_invite = request.method == Method::Invite;
        let via = request.head.via.first();
        // Over a stream the answer takes the connection that the request came by (18.2.2).
        let reply_to = match source.transport.is_reliable() {
            true => source,
            false => via
                .and_then(|v| v.response_address())
                .map_or(source, Hop::from),
        };
        let last = is_invite.then(|| request.response(StatusCode::TRYING, "").encode());
        if let Some(trying) = &last {
            out.send(id, reply_to, trying.clone());
        }
        out.events.push_back(Event::Request {
            id,
            request: Box::new(request),
            from: source,
        });
        Self {
            id,
            is_invite,
            reply_to,
            timers,
            state: State::Proceeding {
                last,
                forgotten_at: now + FORGOTTEN,
            },
        }
    }

    /// When something that waits only for repetitions is over (timers I and J).
    fn linger(&self, now: Instant, time: Duration) -> Instant {
        match self.reply_to.transport.is_reliable() {
            true => now,
            false => now + time,
        }
    }

    pub(super) const fn is_over(&self) -> bool {
        matches!(self.state, State::Terminated)
    }

    pub(super) const fn reply_to(&self) -> Hop {
        self.reply_to
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Proceeding { forgotten_at, .. } => Some(*forgotten_at),
            State::Completed { resend, until, .. } | State::Accepted { resend, until, .. } => {
                Some(resend.map_or(*until, |(at, _)| at.min(*until)))
            }
            State::Confirmed { until } => Some(*until),
            State::Terminated => None,
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, out: &mut Output) {
        match &mut self.state {
            State::Proceeding { forgotten_at, .. } if *forgotten_at <= now => {
                self.state = State::Terminated;
            }
            State::Completed { resend, until, .. } | State::Accepted { resend, until, .. }
                if *until <= now =>
            {
                if resend.is_some() {
                    out.events.push_back(Event::AckMissing { id: self.id });
                }
                self.state = State::Terminated;
            }
            State::Completed { wire, resend, .. } | State::Accepted { wire, resend, .. } => {
                if let Some((at, interval)) = resend
                    && *at <= now
                {
                    *interval = (*interval * 2).min(self.timers.t2);
                    *at = now + *interval;
                    out.resend(self.id, self.reply_to, wire.clone());
                }
            }
            State::Confirmed { until } if *until <= now => self.state = State::Terminated,
            State::Proceeding { .. } | State::Confirmed { .. } | State::Terminated => {}
        }
    }

    /// A response could not be sent: nobody can be told anything, so it is over (17.2.4). A provisional one need not
    /// arrive.
    pub(super) fn handle_transport_error(&mut self, out: &mut Output) {
        match &self.state {
            State::Completed { resend, .. } | State::Accepted { resend, .. } => {
                if resend.is_some() {
                    out.events.push_back(Event::AckMissing { id: self.id });
                }
                self.state = State::Terminated;
            }
            State::Proceeding { .. } | State::Confirmed { .. } | State::Terminated => {}
        }
    }

    /// The same request again.
    pub(super) fn handle_repetition(&mut self, out: &mut Output) {
        out.stats.absorbed += 1;
        match &self.state {
            State::Proceeding {
                last: Some(wire), ..
            }
            | State::Completed { wire, .. } => out.resend(self.id, self.reply_to, wire.clone()),
            // RFC 6026 8.7: repetitions of an accepted INVITE are absorbed; the 2xx repeats by itself.
            State::Proceeding { last: None, .. }
            | State::Accepted { .. }
            | State::Confirmed { .. }
            | State::Terminated => {}
        }
    }

    /// An ACK with this transaction's branch: it belongs to a refusal.
    pub(super) fn handle_ack(&mut self, now: Instant, out: &mut Output) {
        match self.state {
            State::Completed { .. } if self.is_invite => {
                self.state = State::Confirmed {
                    until: self.linger(now, self.timers.t4),
                };
            }
            State::Completed { .. }
            | State::Proceeding { .. }
            | State::Confirmed { .. }
            | State::Accepted { .. }
            | State::Terminated => out.stats.absorbed += 1,
        }
    }

    /// An ACK for the 2xx, matched by its dialog.
    pub(super) fn handle_ack_of_success(&mut self, ack: Request, out: &mut Output) {
        match &mut self.state {
            State::Accepted { resend, .. } if resend.is_some() => {
                *resend = None;
                out.events.push_back(Event::Acknowledged {
                    id: self.id,
                    ack: Box::new(ack),
                });
            }
            State::Accepted { .. }
            | State::Proceeding { .. }
            | State::Completed { .. }
            | State::Confirmed { .. }
            | State::Terminated => out.stats.absorbed += 1,
        }
    }

    /// A CANCEL came. Its own answer is given elsewhere.
    pub(super) fn handle_cancel(&self, out: &mut Output) {
        if let (true, State::Proceeding { .. }) = (self.is_invite, &self.state) {
            out.events.push_back(Event::Cancelled { id: self.id });
        }
    }

    pub(super) fn respond(
        &mut self,
        now: Instant,
        response: &Response,
        out: &mut Output,
    ) -> Result<(), TransactionError> {
        let State::Proceeding { last, .. } = &mut self.state else {
            return Err(TransactionError::State);
        };
        let wire = response.encode();
        out.send(self.id, self.reply_to, wire.clone());
        if response.status.is_provisional() {
            *last = Some(wire);
            return Ok(());
        }
        let until = match self.is_invite {
            true => now + self.timers.give_up(),
            false => self.linger(now, self.timers.give_up()),
        };
        // A 2xx is repeated in any case: a hop further on may be over UDP (13.3.1.4).
        let is_accepted = self.is_invite && response.status.is_success();
        let resend = (self.is_invite && (is_accepted || !self.reply_to.transport.is_reliable()))
            .then(|| (now + self.timers.t1, self.timers.t1));
        self.state = if is_accepted {
            State::Accepted {
                wire,
                resend,
                until,
            }
        } else {
            State::Completed {
                wire,
                resend,
                until,
            }
        };
        Ok(())
    }
}
