//! Services that clients ask for (spec 7): one transaction path, and a module for each service.
//!
//! A module adds its two values to [`Server::serve`] and its state to [`Services`], and says there what is in force
//! after a resume and what ends with the tunnel.

mod keepalive;
mod peer;
mod redundancy;
mod stg;

use std::net::IpAddr;
use std::time::Instant;

use tsc_tpl::{ControlMessage, Message, ResponseCode, ServiceType, Tlv};

use self::keepalive::ServerKeepalive;
use self::peer::Peers;
pub use self::peer::{MAX_PARTNERS, Relayed};
pub use self::redundancy::MAX_HELD;
use self::redundancy::Redundancy;
use super::Server;
use super::arena::Key;
use super::config::TunnelTimers;
use super::event::{BindingId, DropReason, Event, SessionId, Verdict};
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
    peers: Option<Box<Peers>>,
}

/// What a service answers: the TLVs of its success, or why not.
type Served = Result<Vec<Tlv<'static>>, ResponseCode>;

impl Services {
    const fn is_empty(&self) -> bool {
        let Self {
            routed,
            keepalive,
            redundancy,
            peers,
        } = self;
        routed.is_empty() && keepalive.is_none() && redundancy.is_none() && peers.is_none()
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
        stg.into_iter()
            .chain(keepalive)
            .chain(redundancy)
            .chain(peers)
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
        let peers = self.peers.as_ref();
        let peers = peers.and_then(|peers| peers.deadline(is_bound));
        keepalive.into_iter().chain(redundancy).chain(peers).min()
    }

    /// What there is to be told of when all of it ends with a tunnel of these timers.
    fn grants(self, timers: TunnelTimers) -> impl Iterator<Item = ServiceGrant> {
        let routed = (!self.routed.is_empty()).then_some(ServiceGrant::RoutedPrefixes(self.routed));
        let keepalive = self
            .keepalive
            .map(|_| ServerKeepalive::grant(timers.keepalive));
        let redundancy = self.redundancy.into_iter();
        let redundancy = redundancy.flat_map(|redundancy| redundancy.grants());
        let peers = self.peers.into_iter();
        let peers = peers.flat_map(|peers| peers.grants());
        routed
            .into_iter()
            .chain(keepalive)
            .chain(redundancy)
            .chain(peers)
    }
}

impl Server {
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
                Ok(granted) => wire::service_success(request, granted),
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

    fn is_assigned(&self, key: Key, service: ServiceType) -> bool {
        let session = self.sessions.get(key);
        session
            .and_then(|session| self.config.interfaces.get(session.interface))
            .is_some_and(|interface| interface.offers(service))
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
            ServiceType::DISABLE_STG => Ok(self.disable_stg(key, request)),
            ServiceType::ENABLE_SERVER_KEEPALIVE => self.enable_keepalive(now, key),
            ServiceType::DISABLE_SERVER_KEEPALIVE => {
                self.disable_keepalive(key);
                Ok(Vec::new())
            }
            ServiceType::ENABLE_REDUNDANCY => self.enable_redundancy(key, request),
            ServiceType::DISABLE_REDUNDANCY => self.disable_redundancy(now, key, request),
            ServiceType::DISABLE_PEER => self.disable_peer(now, key, request),
            // Assigned, but not described yet (spec 3.5) or not built.
            _ => Err(ResponseCode::SERVICE_UNAVAILABLE),
        }
    }

    /// The tunnel is over, and all that its services gave it.
    pub(super) fn end_services(
        &mut self,
        now: Instant,
        session: SessionId,
        timers: TunnelTimers,
        services: Services,
    ) {
        if !services.routed.is_empty() {
            self.common.take_back(&services.routed, session);
        }
        self.held -= services.redundancy.as_ref().map_or(0, Redundancy::held);
        if let Some(peers) = &services.peers {
            self.end_peers(now, session, peers);
        }
        for grant in services.grants(timers) {
            self.events
                .push_back(Event::ServiceEnded { session, grant });
        }
    }
}
