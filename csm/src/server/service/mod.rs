//! Services that clients ask for (spec 7): one transaction path, and a module for each service.
//!
//! A module adds its two values to [`Server::serve`] and its state to [`Services`], and says there what is in force
//! after a resume and what ends with the tunnel.

mod beside;
mod ddt;
mod keepalive;
mod peer;
mod redundancy;
mod stg;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use tsc_tpl::{
    ControlMessage, IpPacket, Limits, Message, ResponseCode, ServerEndpoint, ServiceType, Tlv,
    TunnelTag,
};

use self::beside::{Beside, Kind};
use self::keepalive::ServerKeepalive;
use self::peer::Peers;
pub use self::peer::{MAX_PARTNERS, Relayed};
pub use self::redundancy::MAX_HELD;
use self::redundancy::Redundancy;
use super::Server;
use super::arena::Key;
use super::config::TunnelTimers;
use super::event::{BindingId, DropReason, Event, Outgoing, SessionId, Verdict};
use super::family::{Family, Offer};
use super::session::Session;
use crate::flow::{FlowKey, MAX_FLOWS};
use crate::prefix::Prefix;
use crate::service::ServiceGrant;
use crate::transaction::Admission;
use crate::wire;

/// Services in force for one tunnel. On the heap, as most tunnels have none.
#[derive(Debug, Default)]
pub(super) struct Services {
    /// STG; at most [`MAX_ROUTED_PREFIXES`](crate::MAX_ROUTED_PREFIXES), as no more are configured.
    routed: Vec<Prefix>,
    keepalive: Option<ServerKeepalive>,
    redundancy: Option<Redundancy>,
    ddt: Option<Beside>,
    dtte: Option<Beside>,
    pub(super) family: Family,
    peers: Option<Box<Peers>>,
}

/// What a service answers: its success, or why not.
type Served = Result<Answer, ResponseCode>;

/// What a success carries.
#[derive(Debug, Default)]
struct Answer {
    tlvs: Vec<Tlv<'static>>,
    /// Companions to be claimed.
    offers: Vec<Offer>,
    /// Where they are opened, if not at the same address and port.
    endpoint: Option<ServerEndpoint>,
}

impl From<Vec<Tlv<'static>>> for Answer {
    fn from(tlvs: Vec<Tlv<'static>>) -> Self {
        Self {
            tlvs,
            ..Self::default()
        }
    }
}

impl Answer {
    fn tlvs(&self) -> impl Iterator<Item = Tlv<'_>> {
        let offers = self.offers.iter().flat_map(|offer| {
            [
                Tlv::TunnelSessionId(offer.tsid),
                Tlv::TunnelTag(TunnelTag::new(offer.tag.expose())),
            ]
        });
        let endpoint = self.endpoint.map(Tlv::CompanionEndpoint);
        self.tlvs.iter().cloned().chain(offers).chain(endpoint)
    }
}

impl Services {
    const fn is_empty(&self) -> bool {
        let Self {
            routed,
            keepalive,
            redundancy,
            ddt,
            dtte,
            family,
            peers,
        } = self;
        routed.is_empty()
            && keepalive.is_none()
            && redundancy.is_none()
            && ddt.is_none()
            && dtte.is_none()
            && family.is_empty()
            && peers.is_none()
    }

    /// The sockets that have a service.
    fn flows(&self) -> impl Iterator<Item = FlowKey> {
        let redundancy = self.redundancy.iter().flat_map(Redundancy::flows);
        redundancy.chain(self.beside().flat_map(Beside::flows))
    }

    /// For Active_Services: what stays in force over a resume.
    pub(super) fn active(&self) -> Vec<ServiceType> {
        let stg = (!self.routed.is_empty()).then_some(ServiceType::ENABLE_STG);
        let keepalive = self.keepalive.as_ref();
        let keepalive = keepalive.map(|_| ServiceType::ENABLE_SERVER_KEEPALIVE);
        let redundancy = self.redundancy.as_ref();
        let redundancy = redundancy
            .filter(|redundancy| redundancy.is_in_force())
            .map(|_| ServiceType::ENABLE_REDUNDANCY);
        let peers = self.peers.as_ref();
        let peers = peers
            .filter(|peers| peers.is_in_force())
            .map(|_| ServiceType::ENABLE_PEER);
        [stg, keepalive, redundancy, peers]
            .into_iter()
            .flatten()
            .chain(self.beside().filter_map(Beside::active))
            .collect()
    }

    pub(super) fn routed(&self) -> &[Prefix] {
        &self.routed
    }

    /// Whether a service gives the tunnel this source beside its own addresses (spec 8.1).
    #[inline]
    pub(super) fn owns(&self, source: IpAddr) -> bool {
        self.routed.iter().any(|prefix| prefix.has_host(source))
    }

    /// When a service has something to do.
    pub(super) fn deadline(&self, is_bound: bool) -> Option<Instant> {
        let keepalive = self.keepalive.as_ref().filter(|_| is_bound);
        let keepalive = keepalive.and_then(ServerKeepalive::deadline);
        let redundancy = self.redundancy.as_ref().and_then(Redundancy::deadline);
        let beside = self.beside().filter_map(Beside::deadline).min();
        let peers = self.peers.as_ref();
        let peers = peers.and_then(|peers| peers.deadline(is_bound));
        let family = self.family.deadline();
        [keepalive, redundancy, beside, peers, family]
            .into_iter()
            .flatten()
            .min()
    }

    /// What there is to be told of when all of it ends with a tunnel of these timers.
    fn grants(self, timers: TunnelTimers) -> impl Iterator<Item = ServiceGrant> {
        let routed = (!self.routed.is_empty()).then_some(ServiceGrant::RoutedPrefixes(self.routed));
        let keepalive = self
            .keepalive
            .map(|_| ServerKeepalive::grant(timers.keepalive));
        let redundancy = self.redundancy.into_iter();
        let redundancy = redundancy.flat_map(|redundancy| redundancy.grants());
        let beside = self.ddt.into_iter().chain(self.dtte);
        let beside = beside.flat_map(Beside::grants);
        let peers = self.peers.into_iter();
        let peers = peers.flat_map(|peers| peers.grants());
        let pairs = routed.into_iter().chain(keepalive);
        pairs.chain(redundancy).chain(beside).chain(peers)
    }
}

impl Server {
    /// Whether one more socket may have a service: a main tunnel and its companions together name 64 at most (spec 7).
    fn has_room_for(&self, key: Key, flow: FlowKey) -> bool {
        let services = |key: Key| self.sessions.get(key)?.services.as_ref();
        let membership = self.sessions.get(key).and_then(|session| session.main);
        let main = services(membership.map_or(key, |membership| membership.main));
        let companions = main.into_iter().flat_map(|main| main.family.all_claimed());
        let companions = companions.filter_map(services);
        let all = main.into_iter().chain(companions);
        let known: BTreeSet<FlowKey> = all.flat_map(|services| services.flows()).collect();
        known.len() < MAX_FLOWS || known.contains(&flow)
    }

    /// A request for a service, or to end one: executed once, and answered to every repeat (spec 4).
    pub(super) fn service(
        &mut self,
        now: Instant,
        id: BindingId,
        key: Key,
        message: &ControlMessage<'_>,
    ) -> Verdict {
        let header = message.header();
        let Some(answer) = header.cm_type.response() else {
            return self.drop_unit(DropReason::Unexpected);
        };
        let Some(session) = self.sessions.get_mut(key) else {
            return self.drop_unit(DropReason::UnknownBinding);
        };
        match session.inbox.admit(now, header.sequence, answer) {
            Admission::Execute => {}
            Admission::Repeat(bytes) => {
                self.transmit_over(id, bytes);
                return Verdict::Consumed;
            }
            Admission::Drop => return self.drop_unit(DropReason::Repeat),
        }
        let parsed = message.parse();
        let bytes = match &parsed {
            // The answer is the other client's.
            Ok(request) if self.is_peer_request(key, request) => {
                match self.ask_peer(now, key, request) {
                    Ok(()) => return Verdict::Consumed,
                    Err(code) => self.peer_refusal(&header, code),
                }
            }
            Ok(request) => match self.serve(now, key, request) {
                Ok(granted) => wire::service_success(request, granted.tlvs()),
                Err(code) => {
                    let busy = matches!(code, ResponseCode::BUSY | ResponseCode::NO_RESOURCES);
                    let retry_after = busy.then_some(self.config.limits.retry_after);
                    wire::service_refusal(request, code, retry_after)
                }
            },
            Err(error) => wire::refuse_message(&header, error),
        };
        if let Some((session, bytes)) = self.sessions.get_mut(key).zip(bytes) {
            session.inbox.remember(now, header.sequence, answer, &bytes);
            self.transmit_over(id, bytes);
            self.arm_session(key);
        }
        match parsed {
            Ok(_) => Verdict::Consumed,
            Err(error) => self.message_error(now, id, error),
        }
    }

    /// Whether this tunnel may have a service. A companion has no routes, no companions and no peers of its own.
    fn is_assigned(&self, key: Key, service: ServiceType) -> bool {
        let of_main = matches!(
            service.enable(),
            ServiceType::ENABLE_STG
                | ServiceType::ENABLE_DDT
                | ServiceType::ENABLE_DTTE
                | ServiceType::ENABLE_PEER
        );
        let session = self.sessions.get(key);
        session
            .filter(|session| session.main.is_none() || !of_main)
            .is_some_and(|session| session.offers.has(service))
    }

    fn is_peer_request(&self, key: Key, request: &Message<'_>) -> bool {
        request.service_type() == Some(ServiceType::ENABLE_PEER)
            && self.is_assigned(key, ServiceType::ENABLE_PEER)
    }

    fn serve(&mut self, now: Instant, key: Key, request: &Message<'_>) -> Served {
        let service = request.service_type().ok_or(ResponseCode::MALFORMED)?;
        if !service.is_known() {
            return Err(ResponseCode::UNSUPPORTED_SERVICE);
        }
        if !self.is_assigned(key, service) {
            return Err(ResponseCode::SERVICE_UNAVAILABLE);
        }
        match service {
            ServiceType::ENABLE_STG => self.enable_stg(key, request),
            ServiceType::DISABLE_STG => Ok(self.disable_stg(key, request).into()),
            ServiceType::ENABLE_SERVER_KEEPALIVE => self.enable_keepalive(now, key),
            ServiceType::DISABLE_SERVER_KEEPALIVE => {
                self.disable_keepalive(key);
                Ok(Answer::default())
            }
            ServiceType::ENABLE_REDUNDANCY => self.enable_redundancy(now, key, request),
            ServiceType::DISABLE_REDUNDANCY => self.disable_redundancy(now, key, request),
            ServiceType::ENABLE_DDT => self.enable_beside(now, key, request, Kind::Ddt),
            ServiceType::DISABLE_DDT => self.disable_beside(now, key, request, Kind::Ddt),
            ServiceType::ENABLE_DTTE => self.enable_beside(now, key, request, Kind::Dtte),
            ServiceType::DISABLE_DTTE => self.disable_beside(now, key, request, Kind::Dtte),
            ServiceType::DISABLE_PEER => self.disable_peer(now, key, request),
            // Assigned, but not described yet (spec 3.5) or not built.
            _ => Err(ResponseCode::SERVICE_UNAVAILABLE),
        }
    }

    /// Frees the memory of services that are all over.
    pub(super) fn drop_empty_services(&mut self, key: Key) {
        if let Some(session) = self.sessions.get_mut(key)
            && session
                .services
                .as_ref()
                .is_some_and(|services| services.is_empty())
        {
            session.services = None;
        }
    }

    /// The socket that a request names, which must have an address of the tunnel itself.
    fn own_flow(&self, key: Key, request: &Message<'_>) -> Result<FlowKey, ResponseCode> {
        let mut named = request.flows();
        let (Some(flow), None) = (named.next(), named.next()) else {
            return Err(ResponseCode::MALFORMED);
        };
        let address = flow.source.ip();
        let is_own = self
            .sessions
            .get(key)
            .is_some_and(|session| session.leases.iter().any(|lease| lease.address == address));
        let flow = FlowKey::read(&flow).ok_or(ResponseCode::MALFORMED)?;
        if is_own {
            Ok(flow)
        } else {
            Err(ResponseCode::NOT_AUTHORIZED)
        }
    }

    /// Where a packet for a tunnel goes, and in what. `frame` is empty; where the packet travels in a redundancy frame, that is
    /// written to it. `None` while the tunnel has no transport: drop it and count.
    #[inline]
    pub fn outgoing(
        &mut self,
        now: Instant,
        session: SessionId,
        packet: &[u8],
        frame: &mut Vec<u8>,
    ) -> Option<Outgoing> {
        let key = self.own(session)?;
        let found = self.sessions.get(key)?;
        if found.services.is_none() {
            return Some(Outgoing::over(found.binding?, false));
        }
        self.outgoing_by_services(now, key, packet, frame)
    }

    fn outgoing_by_services(
        &mut self,
        now: Instant,
        key: Key,
        packet: &[u8],
        frame: &mut Vec<u8>,
    ) -> Option<Outgoing> {
        let session = self.sessions.get(key)?;
        let parsed = IpPacket::decode(packet, &Limits::WIDEST).ok();
        // Hosts behind the client have no sockets of its own.
        let flow = parsed.as_ref().and_then(|packet| {
            let destination = packet.destination();
            let mut leases = session.leases.iter();
            FlowKey::of_destination(packet)
                .filter(|_| leases.any(|lease| lease.address == destination))
        });
        let (Some(packet), Some(flow)) = (parsed, flow) else {
            return Some(Outgoing::over(session.binding?, false));
        };
        let carrier = self.ddt_carrier(session, flow, packet.len());
        if carrier.is_none()
            && let Some((ways, spread)) = self.stream_ways(session, flow)
            && let Some(first) = ways.into_iter().flatten().next()
        {
            let framed = self.write_frame(now, key, flow, &packet, frame);
            // What is not framed would not be known for a copy.
            return Some(if framed {
                Outgoing::spread(ways, spread)
            } else {
                Outgoing::over(first, false)
            });
        }
        let carrier = carrier.unwrap_or(key);
        let binding = self.sessions.get(carrier)?.binding?;
        let framed = self.write_frame(now, carrier, flow, &packet, frame);
        Some(Outgoing::over(binding, framed))
    }

    /// The tunnel is over, and all that its services gave it.
    pub(super) fn end_services(&mut self, now: Instant, session: &Session, mut services: Services) {
        if !services.routed.is_empty() {
            self.common.take_back(&services.routed, session.id);
        }
        self.held -= services.redundancy.as_ref().map_or(0, Redundancy::held);
        self.end_family(now, session, std::mem::take(&mut services.family));
        let session_id = session.id;
        if let Some(peers) = &services.peers {
            self.end_peers(now, session_id, peers);
        }
        for grant in services.grants(session.timers()) {
            self.events.push_back(Event::ServiceEnded {
                session: session_id,
                grant,
            });
        }
    }
}
