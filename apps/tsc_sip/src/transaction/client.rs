//! One client transaction: INVITE (RFC 3261 17.1.1, RFC 6026 8.4) or not (17.1.2).

use std::time::{Duration, Instant};

use super::{ClientId, Event, Output, Timers, TransactionError};
use crate::sip::{Hop, Method, Request, Response, StatusCode};

#[derive(Debug)]
enum State {
    /// Sent, nothing came back: Calling (timers A and B) or Trying (E and F).
    Sent {
        /// Never, over a transport that loses nothing.
        resend_at: Option<Instant>,
        interval: Duration,
        /// Sent more than once.
        repeated: bool,
        give_up_at: Instant,
    },
    /// A provisional response came. A request that is no INVITE goes on at T2 and still has its timer F;
    /// an INVITE waits as long as its user wants.
    Proceeding {
        resend_at: Option<Instant>,
        give_up_at: Option<Instant>,
    },
    /// A final response came (for an INVITE: a refusal); repetitions are absorbed (timers D and K).
    Completed {
        until: Instant,
        ack: Option<Vec<u8>>,
    },
    /// A 2xx to an INVITE came; its repetitions get the ACK again (timer M).
    Accepted {
        until: Instant,
        ack: Option<(Hop, Vec<u8>)>,
        to_tag: Option<String>,
    },
    Terminated,
}

#[derive(Debug)]
pub(super) struct ClientTransaction {
    id: ClientId,
    request: Request,
    wire: Vec<u8>,
    to: Hop,
    timers: Timers,
    state: State,
    /// CANCEL was asked for before a provisional response had come (9.1).
    cancel_pending: bool,
}

impl ClientTransaction {
    /// Sends the request.
    pub(super) fn start(
        now: Instant,
        id: ClientId,
        request: Request,
        to: Hop,
        timers: Timers,
        out: &mut Output,
    ) -> Self {
        let wire = request.encode();
        out.send(id, to, wire.clone());
        Self {
            id,
            request,
            wire,
            to,
            timers,
            state: State::Sent {
                resend_at: (!to.transport.is_reliable()).then(|| now + timers.t1),
                interval: timers.t1,
                repeated: false,
                give_up_at: now + timers.give_up(),
            },
            cancel_pending: false,
        }
    }

    fn is_invite(&self) -> bool {
        self.request.method == Method::Invite
    }

    pub(super) const fn request(&self) -> &Request {
        &self.request
    }

    pub(super) const fn is_over(&self) -> bool {
        matches!(self.state, State::Terminated)
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Sent {
                resend_at,
                give_up_at,
                ..
            } => Some(resend_at.map_or(*give_up_at, |at| at.min(*give_up_at))),
            State::Proceeding {
                resend_at,
                give_up_at,
            } => match (resend_at, give_up_at) {
                (Some(a), Some(b)) => Some(*a.min(b)),
                (a, b) => a.or(*b),
            },
            State::Completed { until, .. } | State::Accepted { until, .. } => Some(*until),
            State::Terminated => None,
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, out: &mut Output) {
        let is_invite = self.is_invite();
        match &mut self.state {
            State::Sent { give_up_at, .. } if *give_up_at <= now => self.fail(out),
            State::Sent {
                resend_at: Some(resend_at),
                interval,
                repeated,
                ..
            } if *resend_at <= now => {
                // Timer A doubles without end, timer E up to T2.
                *interval *= 2;
                if !is_invite {
                    *interval = (*interval).min(self.timers.t2);
                }
                *resend_at = now + *interval;
                out.resend(self.id, self.to, self.wire.clone());
                // One copy may well be lost.
                if std::mem::replace(repeated, true) {
                    out.events.push_back(Event::Unanswered {
                        to: self.to.address,
                    });
                }
            }
            State::Proceeding {
                give_up_at: Some(at),
                ..
            } if *at <= now => self.fail(out),
            State::Proceeding {
                resend_at: Some(at),
                ..
            } if *at <= now => {
                *at = now + self.timers.t2;
                out.resend(self.id, self.to, self.wire.clone());
            }
            State::Completed { until, .. } | State::Accepted { until, .. } if *until <= now => {
                self.state = State::Terminated;
            }
            State::Sent { .. }
            | State::Proceeding { .. }
            | State::Completed { .. }
            | State::Accepted { .. }
            | State::Terminated => {}
        }
    }

    fn fail(&mut self, out: &mut Output) {
        self.state = State::Terminated;
        out.events.push_back(Event::Timeout { id: self.id });
    }

    /// The network says that there is no way to the peer. Believed only while nothing has come back.
    pub(super) fn handle_unreachable(&mut self, out: &mut Output) {
        if let State::Sent { .. } = self.state {
            self.state = State::Terminated;
            out.events.push_back(Event::Unreachable { id: self.id });
        }
    }

    /// The request, or an ACK, could not be sent. Without its final response the transaction ends (17.1.4).
    pub(super) fn handle_transport_error(&mut self, out: &mut Output) {
        if let State::Sent { .. } | State::Proceeding { .. } = self.state {
            self.state = State::Terminated;
            out.events.push_back(Event::Unreachable { id: self.id });
        }
    }

    /// Returns whether a CANCEL that waited for a provisional response is due now.
    pub(super) fn handle_response(
        &mut self,
        now: Instant,
        response: Response,
        out: &mut Output,
    ) -> bool {
        let is_invite = self.is_invite();
        // Timers D and K wait for repetitions, which a reliable transport does not bring (17.1.1.2).
        let linger = |time: Duration| match self.to.transport.is_reliable() {
            true => now,
            false => now + time,
        };
        match &mut self.state {
            State::Sent { .. } | State::Proceeding { .. } => {
                if response.status.is_provisional() {
                    self.provisional(now);
                    self.report(response, out);
                    return std::mem::take(&mut self.cancel_pending);
                }
                self.state = if !is_invite {
                    State::Completed {
                        until: linger(self.timers.t4),
                        ack: None,
                    }
                } else if response.status.is_success() {
                    State::Accepted {
                        until: now + self.timers.give_up(),
                        ack: None,
                        to_tag: response.head.to.tag().map(str::to_owned),
                    }
                } else {
                    let ack = ack_for_refusal(&self.request, &response).encode();
                    out.send(self.id, self.to, ack.clone());
                    State::Completed {
                        until: linger(self.timers.d()),
                        ack: Some(ack),
                    }
                };
                self.report(response, out);
            }
            State::Completed { ack, .. } => {
                out.stats.absorbed += 1;
                if let (Some(ack), false) = (ack, response.status.is_provisional()) {
                    out.resend(self.id, self.to, ack.clone());
                }
            }
            State::Accepted { ack, to_tag, .. } if response.status.is_success() => {
                if response.head.to.tag() != to_tag.as_deref() {
                    // Another branch of a forked INVITE: the user has to end that dialog (13.2.2.4).
                    self.report(response, out);
                } else {
                    out.stats.absorbed += 1;
                    if let Some((to, ack)) = ack {
                        out.resend(self.id, *to, ack.clone());
                    }
                }
            }
            State::Accepted { .. } | State::Terminated => out.stats.absorbed += 1,
        }
        false
    }

    fn provisional(&mut self, now: Instant) {
        if self.is_invite() {
            self.state = State::Proceeding {
                resend_at: None,
                give_up_at: None,
            };
        } else if let State::Sent { give_up_at, .. } = self.state {
            self.state = State::Proceeding {
                resend_at: (!self.to.transport.is_reliable()).then(|| now + self.timers.t2),
                give_up_at: Some(give_up_at),
            };
        }
    }

    fn report(&self, response: Response, out: &mut Output) {
        out.events.push_back(Event::Response {
            id: self.id,
            response: Box::new(response),
        });
    }

    /// Sends the ACK for a 2xx and keeps it for repetitions.
    pub(super) fn acknowledge(
        &mut self,
        request: &Request,
        to: Hop,
        out: &mut Output,
    ) -> Result<(), TransactionError> {
        let State::Accepted { ack, to_tag, .. } = &mut self.state else {
            return Err(TransactionError::State);
        };
        let wire = request.encode();
        if request.head.to.tag() == to_tag.as_deref() {
            *ack = Some((to, wire.clone()));
        }
        out.send(self.id, to, wire);
        Ok(())
    }

    /// The CANCEL to send now, or `None` if it has to wait for a provisional response or comes too late.
    pub(super) fn cancel(&mut self) -> Result<Option<Request>, TransactionError> {
        if !self.is_invite() {
            return Err(TransactionError::State);
        }
        match &self.state {
            State::Sent { .. } => {
                self.cancel_pending = true;
                Ok(None)
            }
            State::Proceeding { .. } => Ok(Some(self.cancel_request())),
            // The final response was faster: nothing to cancel (9.1).
            State::Completed { .. } | State::Accepted { .. } | State::Terminated => Ok(None),
        }
    }

    /// CANCEL: the same Request-URI, Call-ID, To, From, CSeq number, Route and single Via (9.1).
    pub(super) fn cancel_request(&self) -> Request {
        derived(&self.request, Method::Cancel)
    }

    pub(super) const fn destination(&self) -> Hop {
        self.to
    }

    /// An INVITE that was cancelled and still got no final response ends after 64 T1 (9.1).
    pub(super) fn limit(&mut self, now: Instant) {
        if let State::Proceeding { give_up_at, .. } = &mut self.state {
            give_up_at.get_or_insert(now + self.timers.give_up());
        }
    }
}

/// ACK for a response from 300 on: To of the response, the INVITE's own top Via (17.1.1.3).
fn ack_for_refusal(invite: &Request, response: &Response) -> Request {
    debug_assert!(response.status > StatusCode::OK);
    let mut ack = derived(invite, Method::Ack);
    ack.head.to = response.head.to.clone();
    ack
}

fn derived(invite: &Request, method: Method) -> Request {
    let mut request = Request::new(
        method,
        invite.uri.clone(),
        invite.head.from.clone(),
        invite.head.to.clone(),
        &invite.head.call_id,
        invite.head.cseq.number,
    );
    request.head.via = invite.head.via.iter().take(1).cloned().collect();
    request.head.route = invite.head.route.clone();
    request
}
