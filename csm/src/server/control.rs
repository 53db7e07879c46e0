//! Control messages that come over a binding: who may say what, and what is answered.

use std::time::Instant;

use tsc_tpl::registry::REQUEST_WINDOW;
use tsc_tpl::{CmType, ControlMessage, Header, MessageError, ResponseCode, Sequence};

use super::Server;
use super::arena::Key;
use super::binding::{Attachment, MESSAGE_ERROR_LIMIT};
use super::configure::{Origin, Outcome, Route};
use super::event::{BindingId, CloseReason, DownReason, DropReason, Unbound, Verdict};
use super::session::Life;
use crate::transport::Transport;
use crate::wire;

/// How far behind the request that made a tunnel another one is taken for its late duplicate rather than for a
/// request of a new client behind the same address. Ours: clients start at random, so it is never wrong by more
/// than chance, and a duplicated datagram cannot take a living tunnel's transport away.
const STALE_REQUESTS: u32 = REQUEST_WINDOW;

impl Server {
    pub(super) fn handle_control(
        &mut self,
        now: Instant,
        id: BindingId,
        message: &ControlMessage<'_>,
    ) -> Verdict {
        let Some(binding) = self.bindings.get(id.key()) else {
            return self.drop_unit(DropReason::UnknownBinding);
        };
        match binding.attachment {
            Attachment::Pending { .. } => self.pending_control(now, id, message),
            Attachment::Session(key) => self.session_control(now, id, key, message),
        }
    }

    /// The first messages of a stream or DTLS association.
    fn pending_control(
        &mut self,
        now: Instant,
        id: BindingId,
        message: &ControlMessage<'_>,
    ) -> Verdict {
        let header = message.header();
        let Some(binding) = self.bindings.get(id.key()) else {
            return self.drop_unit(DropReason::UnknownBinding);
        };
        if let Attachment::Pending {
            refused: Some(refused),
            ..
        } = &binding.attachment
            && refused.0 == header.sequence
        {
            let bytes = refused.1.clone();
            self.transmit_over(id, bytes);
            return Verdict::Consumed;
        }
        let origin = Origin {
            interface: binding.interface,
            transport: binding.transport,
            peer: binding.peer,
            route: Route::Connection(id),
            identity: binding.identity.clone(),
        };
        let outcome = match header.cm_type {
            CmType::CONFIGURATION_REQUEST => self.configure(now, &origin, message),
            CmType::CONFIGURATION_RESUME_REQUEST => self.resume(now, &origin, message),
            _ => return self.early_unit(now, id),
        };
        match outcome {
            Outcome::Accepted(_) | Outcome::Refused => Verdict::Consumed,
            Outcome::Ignored => Verdict::Dropped(DropReason::RateLimited),
            Outcome::Malformed(error) => self.message_error(now, id, error),
            Outcome::Elsewhere(shard) => Verdict::Elsewhere(shard),
        }
    }

    fn session_control(
        &mut self,
        now: Instant,
        id: BindingId,
        key: Key,
        message: &ControlMessage<'_>,
    ) -> Verdict {
        let header = message.header();
        if let CmType::CONFIGURATION_REQUEST | CmType::CONFIGURATION_RESUME_REQUEST = header.cm_type
        {
            return self.late_request(now, id, key, message);
        }
        let Some(session) = self.sessions.get_mut(key) else {
            return self.drop_unit(DropReason::UnknownBinding);
        };
        if header.tsid != session.tsid {
            return self.wrong_tsid(now, id, key);
        }
        session.last_activity = now;
        self.wake(key);
        if header.cm_type.response().is_none() {
            if let Some(verdict) = self.peer_response(now, id, key, message) {
                return verdict;
            }
            return self.response(now, key, &header);
        }
        match header.cm_type {
            CmType::KEEPALIVE | CmType::CONFIGURATION_RELEASE_REQUEST => {
                self.idempotent(now, id, key, message)
            }
            CmType::CLIENT_SERVICE_REQUEST | CmType::SERVICE_REQUEST => {
                self.service(now, id, key, message)
            }
            // Known requests are matched above; this one is unknown, and is answered so (spec 3.2).
            _ => {
                if let Err(error) = message.parse() {
                    self.answer_error(id, message, &error);
                }
                self.drop_unit(DropReason::Unexpected)
            }
        }
    }

    /// A Configuration_ or Resume_Request where a tunnel lives already, perhaps the same (spec 4).
    fn late_request(
        &mut self,
        now: Instant,
        id: BindingId,
        key: Key,
        message: &ControlMessage<'_>,
    ) -> Verdict {
        let header = message.header();
        let sequence = header.sequence;
        let Some(session) = self.sessions.get(key) else {
            return self.drop_unit(DropReason::UnknownBinding);
        };
        let configures = header.cm_type == CmType::CONFIGURATION_REQUEST;
        let (answer, repeated) = if configures {
            let repeated = sequence == session.configured_by;
            (CmType::CONFIGURATION_RESPONSE, repeated)
        } else {
            let repeated = header.tsid == session.tsid && session.resumed_by == Some(sequence);
            (CmType::CONFIGURATION_RESUME_RESPONSE, repeated)
        };
        if repeated {
            return self.repeat_answer(now, id, key, sequence, answer);
        }
        // A duplicate of an earlier try must not take the transport away from the tunnel that came of a later. Only
        // plain UDP can lose a transport so; elsewhere it is a rule broken like any other.
        let stale = configures
            && sequence
                .behind(session.configured_by)
                .is_some_and(|behind| behind <= STALE_REQUESTS);
        if stale && self.socket_of(id).is_some() {
            return self.drop_unit(DropReason::Repeat);
        }
        self.strange_request(now, id, message)
    }

    /// On plain UDP another client may have come to the same address: it is treated as a stranger, and has to
    /// prove itself. Everywhere else one transport carries one tunnel.
    fn strange_request(
        &mut self,
        now: Instant,
        id: BindingId,
        message: &ControlMessage<'_>,
    ) -> Verdict {
        if let Some((listener, socket, peer)) = self.socket_of(id) {
            return match self.stranger_request(now, listener, socket, peer, message) {
                Unbound::Answered | Unbound::Bound(_) => Verdict::Consumed,
                Unbound::Dropped(reason) => Verdict::Dropped(reason),
                Unbound::Elsewhere(shard) => Verdict::Elsewhere(shard),
            };
        }
        let bytes = wire::refusal(
            &message.header(),
            ResponseCode::MALFORMED,
            &wire::RefusalDetails::default(),
        );
        if let Some(bytes) = bytes {
            self.transmit_over(id, bytes);
        }
        self.stats.message_errors += 1;
        self.count_message_error(now, id)
            .unwrap_or(Verdict::Dropped(DropReason::Unexpected))
    }

    /// The answer to a repeat of a request, if it is still known.
    fn repeat_answer(
        &mut self,
        now: Instant,
        id: BindingId,
        key: Key,
        sequence: Sequence,
        answer: CmType,
    ) -> Verdict {
        let known = self
            .sessions
            .get(key)
            .and_then(|session| session.inbox.recall(now, sequence, answer));
        match known {
            Some(bytes) => {
                self.transmit_over(id, bytes);
                Verdict::Consumed
            }
            None => self.drop_unit(DropReason::Repeat),
        }
    }

    /// Spec 4, "Wrong TSID".
    fn wrong_tsid(&mut self, now: Instant, id: BindingId, key: Key) -> Verdict {
        self.stats.wrong_tsid += 1;
        let clear_datagrams = self
            .bindings
            .get(id.key())
            .is_some_and(|binding| binding.transport == Transport::Udp);
        if clear_datagrams {
            return Verdict::Dropped(DropReason::WrongTsid);
        }
        self.close_session(now, key, DownReason::WrongTsid);
        Verdict::Close(CloseReason::SessionDown(DownReason::WrongTsid))
    }

    /// An answer to one of our own requests: releases, and Keepalives where the server sends them.
    fn response(&mut self, now: Instant, key: Key, header: &Header) -> Verdict {
        let answered = self
            .sessions
            .get(key)
            .is_some_and(|session| match &session.life {
                Life::Releasing(request) => request.matches(header.cm_type, header.sequence),
                Life::Active | Life::Persistent { .. } => false,
            });
        if answered {
            let reason = DownReason::ReleasedByServer { confirmed: true };
            self.close_session(now, key, reason);
            return Verdict::Close(CloseReason::SessionDown(reason));
        }
        if self.answers_keepalive(key, header.cm_type, header.sequence) {
            return Verdict::Consumed;
        }
        self.drop_unit(if header.cm_type.is_response() {
            DropReason::Unmatched
        } else {
            DropReason::Unexpected
        })
    }

    /// Requests whose repetition does no harm: answered whenever they come (spec 4).
    fn idempotent(
        &mut self,
        now: Instant,
        id: BindingId,
        key: Key,
        message: &ControlMessage<'_>,
    ) -> Verdict {
        if let Err(error) = message.parse() {
            self.answer_error(id, message, &error);
            return self.message_error(now, id, error);
        }
        let header = message.header();
        let keepalive = header.cm_type == CmType::KEEPALIVE;
        let peer = self
            .bindings
            .get(id.key())
            .map(|binding| binding.peer)
            .filter(|_| keepalive);
        let bytes = if keepalive {
            wire::keepalive_response(&header, peer, self.reception(key))
        } else {
            wire::success(&header)
        };
        if let Some(bytes) = bytes {
            self.transmit_over(id, bytes);
        }
        if keepalive {
            return Verdict::Consumed;
        }
        let releasing = self
            .sessions
            .get(key)
            .is_some_and(|session| matches!(session.life, Life::Releasing(_)));
        // A release that crosses ours ends ours too (spec 5).
        let reason = if releasing {
            DownReason::ReleasedByServer { confirmed: true }
        } else {
            DownReason::ReleasedByClient
        };
        self.close_session(now, key, reason);
        Verdict::Close(CloseReason::SessionDown(reason))
    }

    fn answer_error(&mut self, id: BindingId, message: &ControlMessage<'_>, error: &MessageError) {
        if let Some(bytes) = wire::refuse_message(&message.header(), error) {
            self.transmit_over(id, bytes);
        }
    }

    /// A message with wrong content was answered; what becomes of the transport.
    pub(super) fn message_error(
        &mut self,
        now: Instant,
        id: BindingId,
        error: MessageError,
    ) -> Verdict {
        self.stats.message_errors += 1;
        // What a newer client may say in good faith does not count against it.
        let malformed = error.response_code() == ResponseCode::MALFORMED;
        let closed = malformed
            .then(|| self.count_message_error(now, id))
            .flatten();
        closed.unwrap_or(Verdict::Dropped(DropReason::Message(error)))
    }

    /// The 8th on one transport closes it (spec 2).
    fn count_message_error(&mut self, now: Instant, id: BindingId) -> Option<Verdict> {
        let binding = self.bindings.get_mut(id.key())?;
        binding.message_errors = binding.message_errors.saturating_add(1);
        (binding.message_errors >= MESSAGE_ERROR_LIMIT)
            .then(|| self.close_binding(now, id, CloseReason::MessageErrors))
    }
}
