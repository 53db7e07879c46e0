//! Services (spec 7): one transaction path for both directions, and a module for each service.
//!
//! A module adds its verbs, its part of [`Services`], and its values to [`Client::service_granted`]; what a resume
//! leaves of it is said in [`Client::services_resumed`].

mod ddt;
mod dtte;
mod flows;
mod keepalive;
mod peer;
mod redundancy;
mod retries;
mod stg;

use std::net::IpAddr;
use std::time::Instant;

use bytes::Bytes;
use tsc_tpl::{CmType, ControlMessage, Message, MessageError, ResponseCode, ServiceType, Tlv};

pub(super) use self::ddt::Choice;
use self::ddt::Datagrams;
pub use self::ddt::TunnelTransport;
use self::dtte::Encrypted;
pub use self::dtte::{Encryption, Placement};
use self::keepalive::ServerKeepalive;
pub use self::peer::{
    Direct, MAX_DIRECT_PACKET, MAX_PEERS, PathId, PeerEvent, PeerGuest, PeerStatus, PeerTransmit,
};
use self::peer::{Peers, Reply};
use self::redundancy::Sockets;
pub use self::redundancy::{Redundancy, RedundancyStatus};
use self::stg::Stg;
use super::event::{
    DropReason, Epoch, Event, Inbound, Refusal, RequestError, RequestId, ServiceOutcome,
};
use super::tunnel::{Asked, Tunnel};
use super::{Client, State};
use crate::service::ServiceGrant;
use crate::transaction::{Admission, Schedule};
use crate::wire;

/// Services of one tunnel, in force or asked for.
#[derive(Debug, Default)]
pub(super) struct Services {
    stg: Stg,
    keepalive: ServerKeepalive,
    redundancy: Sockets,
    datagrams: Datagrams,
    encrypted: Encrypted,
    peer: Peers,
}

impl Services {
    /// Whether packets to this address come for hosts behind this client.
    pub(super) fn routes(&self, destination: IpAddr) -> bool {
        self.stg.routes(destination)
    }

    /// When a service has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let deadlines = [
            self.redundancy.deadline(),
            self.datagrams.deadline(),
            self.encrypted.deadline(),
            self.peer.deadline(),
        ];
        deadlines.into_iter().flatten().min()
    }
}

impl Tunnel {
    /// Whether a request to begin or end this service waits for its answer.
    fn is_asking_for(&self, service: ServiceType) -> bool {
        self.requests.iter().any(|request| match request.what {
            Asked::Service(_, asked) => asked.enable() == service.enable(),
            Asked::Keepalive | Asked::Release => false,
        })
    }
}

impl Client {
    /// Asks the server to begin or end a service for which this machine has no verb of its own; the outcome comes as
    /// [`Event::Service`]. Without a transport the request waits for the next one.
    ///
    /// # Errors
    ///
    /// There is no tunnel, too many requests are outstanding, or the service is one of sockets, which have verbs of their own.
    pub fn request_service(
        &mut self,
        now: Instant,
        service: ServiceType,
    ) -> Result<RequestId, RequestError> {
        match service {
            ServiceType::ENABLE_STG => self.request_routed_prefixes(now, &[]),
            ServiceType::DISABLE_STG => self.release_routed_prefixes(now, &[]),
            ServiceType::ENABLE_SERVER_KEEPALIVE | ServiceType::DISABLE_SERVER_KEEPALIVE => {
                self.request_server_keepalive(now, service)
            }
            ServiceType::ENABLE_REDUNDANCY
            | ServiceType::DISABLE_REDUNDANCY
            | ServiceType::ENABLE_DDT
            | ServiceType::DISABLE_DDT
            | ServiceType::ENABLE_DTTE
            | ServiceType::DISABLE_DTTE
            | ServiceType::ENABLE_PEER
            | ServiceType::DISABLE_PEER => Err(RequestError::OfSockets),
            _ => self.ask_service(now, service, []),
        }
    }

    fn ask_service<'a>(
        &mut self,
        now: Instant,
        service: ServiceType,
        details: impl IntoIterator<Item = Tlv<'a>>,
    ) -> Result<RequestId, RequestError> {
        let sequence = self.next_sequence;
        let tunnel = self.open_tunnel()?;
        if !tunnel.has_room() {
            return Err(RequestError::TooMany);
        }
        let bytes = wire::service_request(tunnel.assignment.tsid, sequence, service, details)
            .ok_or(RequestError::NotUp)?;
        let id = RequestId(self.next_request);
        self.next_request = self.next_request.wrapping_add(1);
        self.ask(
            now,
            Asked::Service(id, service),
            CmType::CLIENT_SERVICE_RESPONSE,
            bytes,
            Schedule::request,
        );
        Ok(id)
    }

    /// The tunnel, while services can be asked for.
    fn open_tunnel(&mut self) -> Result<&mut Tunnel, RequestError> {
        match &mut self.state {
            State::Up(tunnel) if tunnel.release_until.is_none() => Ok(tunnel),
            State::Up(_) | State::Idle | State::Connecting(_) | State::Down => {
                Err(RequestError::NotUp)
            }
        }
    }

    /// A request of ours is over: with the server's answer, or without any.
    pub(super) fn service_over(
        &mut self,
        now: Instant,
        request: RequestId,
        service: ServiceType,
        answer: Option<Result<&Message<'_>, &MessageError>>,
    ) {
        if service.enable() == ServiceType::ENABLE_PEER {
            self.peer_over(now, request, answer);
            return self.settle_services(now);
        }
        let outcome = match answer {
            None => ServiceOutcome::NoAnswer,
            // A response with wrong content fails its transaction (spec 2).
            Some(Err(_)) => ServiceOutcome::Unusable,
            Some(Ok(answer)) => match answer.response_code() {
                Some(ResponseCode::SUCCESS) if answer.service_type() != Some(service) => {
                    ServiceOutcome::Unusable
                }
                Some(ResponseCode::SUCCESS) if !service.is_enable() => ServiceOutcome::Ended,
                Some(ResponseCode::SUCCESS) => self.service_granted(now, service, answer),
                code => ServiceOutcome::Refused(Refusal::read(
                    code.unwrap_or(ResponseCode::MALFORMED),
                    answer,
                )),
            },
        };
        if service.enable() == ServiceType::ENABLE_SERVER_KEEPALIVE
            && let State::Up(tunnel) = &mut self.state
        {
            tunnel.services.keepalive.asked(service, &outcome);
            self.renew_silence();
        }
        match service.enable() {
            ServiceType::ENABLE_REDUNDANCY => self.redundancy_over(now, &outcome),
            ServiceType::ENABLE_DDT => self.datagrams_over(&outcome),
            ServiceType::ENABLE_DTTE => self.encryption_over(&outcome),
            _ => self.events.push_back(Event::Service {
                request,
                service,
                outcome,
            }),
        }
        self.settle_services(now);
    }

    /// A request is over: there may be room for another.
    fn settle_services(&mut self, now: Instant) {
        self.settle_keepalive(now);
        self.settle_redundancy(now);
        self.settle_datagrams(now);
        self.settle_encryption(now);
        self.settle_peers(now);
    }

    fn service_granted(
        &mut self,
        now: Instant,
        service: ServiceType,
        answer: &Message<'_>,
    ) -> ServiceOutcome {
        let State::Up(tunnel) = &mut self.state else {
            return ServiceOutcome::NoAnswer;
        };
        let link = tunnel.link.as_ref();
        let is_stream = link.is_some_and(|link| link.target.transport.is_stream());
        match service {
            ServiceType::ENABLE_STG => tunnel.services.stg.granted(answer),
            ServiceType::ENABLE_SERVER_KEEPALIVE => tunnel.services.keepalive.granted(answer),
            ServiceType::ENABLE_REDUNDANCY => tunnel.services.redundancy.granted(is_stream, answer),
            ServiceType::ENABLE_DDT => tunnel.services.datagrams.granted(now, answer),
            ServiceType::ENABLE_DTTE => tunnel.services.encrypted.granted(now, answer),
            _ => ServiceOutcome::Granted(ServiceGrant::Other(service)),
        }
    }

    /// After a resume only what the server lists is in force (spec 5, "Resume").
    pub(super) fn services_resumed(&mut self, now: Instant) {
        let State::Up(tunnel) = &mut self.state else {
            return;
        };
        let active = &tunnel.assignment.active_services;
        if !active.contains(&ServiceType::ENABLE_STG)
            && let Some(grant) = tunnel.services.stg.end()
        {
            self.events.push_back(Event::ServiceEnded(grant));
        }
        self.keepalive_resumed(now);
        self.redundancy_resumed(now);
        self.datagrams_resumed(now);
        self.encryption_resumed(now);
        self.peers_resumed(now);
    }

    /// A request of the server for a service: executed once, and answered to every repeat (spec 4). Those that are not built
    /// are refused in the way that their type asks for.
    pub(super) fn service_request<'a>(
        &mut self,
        now: Instant,
        epoch: Epoch,
        raw: &ControlMessage<'a>,
    ) -> Inbound<'a> {
        let header = raw.header();
        let State::Up(tunnel) = &mut self.state else {
            return self.drop_unit(DropReason::StaleEpoch);
        };
        let Some(answer) = header.cm_type.response() else {
            return self.drop_unit(DropReason::Unexpected);
        };
        match tunnel.inbox.admit(now, header.sequence, answer) {
            Admission::Execute => {}
            Admission::Repeat(bytes) => {
                self.transmit(epoch, bytes);
                return Inbound::Consumed;
            }
            Admission::Drop => return self.drop_unit(DropReason::Repeat),
        }
        let parsed = raw.parse();
        let bytes = match &parsed {
            Ok(request) => match self.peer_request(now, epoch, request) {
                Some(Reply::Later) => None,
                Some(Reply::Now(bytes)) => bytes,
                None => refuse(request),
            },
            Err(error) => wire::refuse_message(&header, error),
        };
        if let (Some(bytes), State::Up(tunnel)) = (bytes, &mut self.state) {
            tunnel.inbox.remember(now, header.sequence, answer, &bytes);
            self.transmit(epoch, bytes);
        }
        match parsed {
            Ok(_) => Inbound::Consumed,
            Err(error) => self.message_error(now, error),
        }
    }
}

/// For services that are not built.
fn refuse(request: &Message<'_>) -> Option<Bytes> {
    let known = request.service_type().is_some_and(ServiceType::is_known);
    let code = if known {
        ResponseCode::SERVICE_UNAVAILABLE
    } else {
        ResponseCode::UNSUPPORTED_SERVICE
    };
    wire::service_refusal(request, code, None)
}
