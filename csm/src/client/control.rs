//! Control messages on the transport that carries the tunnel.

use std::time::{Duration, Instant};

use tsc_tpl::{CmType, ControlMessage, Message, MessageError, ResponseCode, Tsid};

use super::event::{CloseReason, DownReason, DropReason, Epoch, Inbound, SuspendReason};
use super::race::Why;
use super::tunnel::Asked;
use super::{Client, State};
use crate::server::MESSAGE_ERROR_LIMIT;
use crate::transport::Transport;
use crate::wire;

impl Client {
    pub(super) fn handle_control<'a>(
        &mut self,
        now: Instant,
        epoch: Epoch,
        message: &ControlMessage<'a>,
    ) -> Inbound<'a> {
        if self.attempt(epoch).is_some() {
            return self.attempt_control(now, epoch, message);
        }
        let Some(transport) = self.link(epoch).map(|link| link.target.transport) else {
            return self.drop_unit(DropReason::StaleEpoch);
        };
        let header = message.header();
        let State::Up(tunnel) = &self.state else {
            return self.drop_unit(DropReason::StaleEpoch);
        };
        if header.tsid != tunnel.assignment.tsid {
            // A late refusal of an earlier request bears no TSID of ours, as it must.
            if header.cm_type == CmType::CONFIGURATION_RESPONSE && header.tsid == Tsid::UNASSIGNED {
                return self.drop_unit(DropReason::Unmatched);
            }
            return self.wrong_tsid(transport);
        }
        if header.cm_type.response().is_none() {
            return self.handle_response(now, transport, message);
        }
        self.heard(now);
        match header.cm_type {
            CmType::KEEPALIVE | CmType::CONFIGURATION_RELEASE_REQUEST => {
                self.idempotent(now, epoch, message)
            }
            CmType::SERVICE_REQUEST | CmType::CLIENT_SERVICE_REQUEST => {
                self.service_request(now, epoch, message)
            }
            // Requests that only a server answers.
            CmType::CONFIGURATION_REQUEST | CmType::CONFIGURATION_RESUME_REQUEST => {
                self.drop_unit(DropReason::Unexpected)
            }
            _ => {
                if let Err(error) = message.parse()
                    && let Some(bytes) = wire::refuse_message(&header, &error)
                {
                    self.transmit(epoch, bytes);
                }
                self.drop_unit(DropReason::Unexpected)
            }
        }
    }

    /// An authentic unit came over the binding: whatever was asked of the transport is answered (spec 5).
    pub(super) fn heard(&mut self, now: Instant) {
        if let State::Up(tunnel) = &mut self.state {
            if let Some(link) = &mut tunnel.link {
                link.note_heard(now);
            }
            if tunnel.confirmed && !tunnel.requests.is_empty() {
                tunnel
                    .requests
                    .retain(|request| request.what != Asked::Keepalive);
            }
            // Unless the server has been asked to move it: then it may have moved.
            if let Some(seeker) = &tunnel.seeker
                && seeker.why == Why::Doubt
                && !seeker.is_asking()
            {
                self.stop_looking_beside();
            }
        }
    }

    /// Spec 4, "Wrong TSID".
    fn wrong_tsid<'a>(&mut self, transport: Transport) -> Inbound<'a> {
        let dropped = self.drop_unit(DropReason::WrongTsid);
        if transport != Transport::Udp {
            self.down(DownReason::WrongTsid);
        }
        dropped
    }

    fn handle_response<'a>(
        &mut self,
        now: Instant,
        transport: Transport,
        raw: &ControlMessage<'a>,
    ) -> Inbound<'a> {
        let header = raw.header();
        let State::Up(tunnel) = &mut self.state else {
            return self.drop_unit(DropReason::StaleEpoch);
        };
        let place = tunnel
            .requests
            .iter()
            .position(|request| request.matches(header.cm_type, header.sequence));
        let asked = place.map(|place| tunnel.requests.swap_remove(place).what);
        if asked == Some(Asked::Keepalive)
            && let Some(link) = &mut tunnel.link
        {
            link.note_round_trip(now);
        }
        let keepalive = header.cm_type == CmType::KEEPALIVE_RESPONSE
            && tunnel.last_keepalive == Some(header.sequence);
        let is_report = header.cm_type == CmType::KEEPALIVE_RESPONSE
            && tunnel.last_report == Some(header.sequence);
        let is_probe = header.cm_type == CmType::KEEPALIVE_RESPONSE
            && tunnel.probes.answered(now, header.sequence);
        let parsed = raw.parse();
        let code = parsed.as_ref().ok().and_then(Message::response_code);
        if (is_report || is_probe) && code != Some(ResponseCode::UNKNOWN_TUNNEL) {
            if is_report {
                tunnel.last_report = None;
            }
            self.heard(now);
            if let Ok(message) = &parsed {
                self.redundancy_reported(now, message.reception_report());
            }
            return Inbound::Consumed;
        }
        let keepalive = keepalive || is_report || is_probe;
        if asked.is_none() && !keepalive {
            self.heard(now);
            return self.drop_unit(DropReason::Unmatched);
        }
        tunnel.confirmed = true;
        if keepalive && code == Some(ResponseCode::UNKNOWN_TUNNEL) && transport == Transport::Udp {
            if let State::Up(tunnel) = &mut self.state {
                let idle = tunnel
                    .link
                    .as_ref()
                    .map_or(Duration::ZERO, |link| link.idle);
                tunnel.binding_time.broke(idle);
            }
            self.lose_link(
                now,
                SuspendReason::UnknownTunnel,
                Some(CloseReason::UnknownTunnel),
            );
            return Inbound::Consumed;
        }
        self.heard(now);
        match asked {
            Some(Asked::Service(request, service)) => {
                self.service_over(now, request, service, Some(parsed.as_ref()));
            }
            Some(Asked::Release) => self.down(DownReason::Released { confirmed: true }),
            Some(Asked::Keepalive) | None => {
                let seen = parsed
                    .as_ref()
                    .ok()
                    .and_then(|message| message.nat_info().next());
                if let (State::Up(tunnel), Some(seen)) = (&mut self.state, seen) {
                    let before = tunnel.assignment.nat_view.replace(seen);
                    let idle = tunnel
                        .link
                        .as_ref()
                        .map_or(Duration::ZERO, |link| link.idle);
                    match before {
                        Some(before) if before != seen => tunnel.binding_time.broke(idle),
                        _ => tunnel.binding_time.survived(idle),
                    }
                }
                if let Ok(message) = &parsed {
                    self.redundancy_reported(now, message.reception_report());
                }
            }
        }
        match parsed {
            Ok(_) => Inbound::Consumed,
            Err(error) => self.message_error(now, error),
        }
    }

    fn idempotent<'a>(
        &mut self,
        now: Instant,
        epoch: Epoch,
        raw: &ControlMessage<'a>,
    ) -> Inbound<'a> {
        let header = raw.header();
        let message = match raw.parse() {
            Ok(message) => message,
            Err(error) => {
                if let Some(bytes) = wire::refuse_message(&header, &error) {
                    self.transmit(epoch, bytes);
                }
                return self.message_error(now, error);
            }
        };
        if let Some(bytes) = wire::success(&header) {
            self.transmit(epoch, bytes);
        }
        if header.cm_type == CmType::CONFIGURATION_RELEASE_REQUEST {
            let releasing =
                matches!(&self.state, State::Up(tunnel) if tunnel.release_until.is_some());
            let text = message.reason_text().map(|text| text.as_str().to_owned());
            // A release that crosses ours ends ours too (spec 5).
            self.down(if releasing {
                DownReason::Released { confirmed: true }
            } else {
                DownReason::ReleasedByServer { text }
            });
        }
        Inbound::Consumed
    }

    /// A message with wrong content; the 8th on one transport closes it (spec 2).
    pub(super) fn message_error<'a>(&mut self, now: Instant, error: MessageError) -> Inbound<'a> {
        let dropped = self.drop_unit(DropReason::Message(error));
        // What a newer server may say in good faith does not count against it.
        if error.response_code() != ResponseCode::MALFORMED {
            return dropped;
        }
        let State::Up(tunnel) = &mut self.state else {
            return dropped;
        };
        let Some(link) = &mut tunnel.link else {
            return dropped;
        };
        link.message_errors = link.message_errors.saturating_add(1);
        if link.message_errors >= MESSAGE_ERROR_LIMIT {
            self.lose_link(
                now,
                SuspendReason::MessageErrors,
                Some(CloseReason::MessageErrors),
            );
        }
        dropped
    }
}
