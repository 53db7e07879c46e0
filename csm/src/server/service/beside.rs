//! Sockets that have a companion of their own kind beside the main tunnel: DDT and DTTE (spec 7).
//!
//! Both are asked for and ended socket by socket, and both companions end a while after their last socket. What the companion
//! carries is each service's own: with DDT what [`Server::ddt_carrier`](super::super::Server::ddt_carrier) says; with DTTE what has
//! its addresses, as with any tunnel.

use std::time::{Duration, Instant};

use tsc_tpl::{Message, ResponseCode, ServerEndpoint, ServiceType};

use super::super::Server;
use super::super::arena::Key;
use super::super::event::Event;
use super::{Answer, Served, Services};
use crate::companion::CompanionRole;
use crate::flow::FlowKey;
use crate::service::ServiceGrant;

/// A companion that no socket has is ended after this long: one that has gone back to the main tunnel may return.
const UNUSED_FOR: Duration = Duration::from_secs(30);

/// The two services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Ddt,
    Dtte,
}

/// One of them, of one tunnel.
#[derive(Debug)]
pub(super) struct Beside {
    kind: Kind,
    /// Sockets that have it; at most [`MAX_FLOWS`](crate::MAX_FLOWS).
    flows: Vec<FlowKey>,
    /// When the companion ends; set while no socket has it.
    until: Option<Instant>,
}

impl Kind {
    const ALL: [Self; 2] = [Self::Ddt, Self::Dtte];

    const fn role(self) -> CompanionRole {
        match self {
            Self::Ddt => CompanionRole::Ddt,
            Self::Dtte => CompanionRole::Dtte,
        }
    }

    /// The service of this companion.
    const fn of(role: CompanionRole) -> Option<Self> {
        match role {
            CompanionRole::Ddt => Some(Self::Ddt),
            CompanionRole::Dtte => Some(Self::Dtte),
            CompanionRole::Redundancy(_) => None,
        }
    }

    const fn grant(self, flow: FlowKey) -> ServiceGrant {
        match self {
            Self::Ddt => ServiceGrant::Ddt(flow),
            Self::Dtte => ServiceGrant::Dtte(flow),
        }
    }
}

impl Beside {
    const fn new(kind: Kind) -> Self {
        Self {
            kind,
            flows: Vec::new(),
            until: None,
        }
    }

    pub(super) fn has(&self, flow: FlowKey) -> bool {
        self.flows.contains(&flow)
    }

    pub(super) fn flows(&self) -> impl Iterator<Item = FlowKey> {
        self.flows.iter().copied()
    }

    pub(super) const fn deadline(&self) -> Option<Instant> {
        self.until
    }

    /// The service, by the value that enables it, if it is in force.
    pub(super) const fn active(&self) -> Option<ServiceType> {
        match self.kind {
            _ if self.flows.is_empty() => None,
            Kind::Ddt => Some(ServiceType::ENABLE_DDT),
            Kind::Dtte => Some(ServiceType::ENABLE_DTTE),
        }
    }

    pub(super) fn grants(self) -> impl Iterator<Item = ServiceGrant> {
        let kind = self.kind;
        self.flows.into_iter().map(move |flow| kind.grant(flow))
    }
}

impl Services {
    /// Both services, as far as sockets have them.
    pub(super) fn beside(&self) -> impl Iterator<Item = &Beside> {
        self.ddt.iter().chain(&self.dtte)
    }

    const fn beside_mut(&mut self, kind: Kind) -> &mut Option<Beside> {
        match kind {
            Kind::Ddt => &mut self.ddt,
            Kind::Dtte => &mut self.dtte,
        }
    }
}

impl Server {
    /// A socket wants the companion of this role: reserves it if it is the first.
    pub(super) fn enable_beside(
        &mut self,
        now: Instant,
        key: Key,
        request: &Message<'_>,
        kind: Kind,
    ) -> Served {
        let flow = self.own_flow(key, request)?;
        let session = self
            .sessions
            .get(key)
            .ok_or(ResponseCode::SERVICE_UNAVAILABLE)?;
        let id = session.id;
        if kind == Kind::Dtte && session.protected {
            // It is what is asked for.
            return Err(ResponseCode::SERVICE_UNAVAILABLE);
        }
        if !self.has_room_for(key, flow) {
            return Err(ResponseCode::NO_RESOURCES);
        }
        let binding = session.binding.and_then(|id| self.bindings.get(id.key()));
        let wanted = binding.and_then(|binding| {
            self.companion_endpoint(
                kind.role(),
                binding.interface,
                binding.local,
                binding.transport,
            )
        });
        let (transport, endpoint) = wanted.ok_or(ResponseCode::SERVICE_UNAVAILABLE)?;
        let offer = self.reserve(now, key, kind.role(), transport)?;
        let session = self
            .sessions
            .get_mut(key)
            .ok_or(ResponseCode::SERVICE_UNAVAILABLE)?;
        let services = session.services.get_or_insert_default();
        let beside = services
            .beside_mut(kind)
            .get_or_insert_with(|| Beside::new(kind));
        beside.until = None;
        if !beside.has(flow) {
            beside.flows.push(flow);
            let grant = kind.grant(flow);
            self.events
                .push_back(Event::ServiceGranted { session: id, grant });
        }
        let endpoint = endpoint.filter(|_| offer.is_some());
        Ok(Answer {
            endpoint: endpoint.map(|addr| ServerEndpoint {
                transport: transport.code(),
                addr,
            }),
            offers: offer.into_iter().collect(),
            ..Answer::default()
        })
    }

    /// Not to have it is no error, so that a client can always come to rest.
    pub(super) fn disable_beside(
        &mut self,
        now: Instant,
        key: Key,
        request: &Message<'_>,
        kind: Kind,
    ) -> Served {
        let flow = self.own_flow(key, request)?;
        let id = self.session_id(key);
        let Some(beside) = self.beside(key, kind) else {
            return Ok(Answer::default());
        };
        let Some(place) = beside.flows.iter().position(|had| *had == flow) else {
            return Ok(Answer::default());
        };
        beside.flows.swap_remove(place);
        if beside.flows.is_empty() {
            beside.until = Some(now + UNUSED_FOR);
        }
        let grant = kind.grant(flow);
        self.events
            .push_back(Event::ServiceEnded { session: id, grant });
        Ok(Answer::default())
    }

    fn beside(&mut self, key: Key, kind: Kind) -> Option<&mut Beside> {
        let services = self.sessions.get_mut(key)?.services.as_mut()?;
        services.beside_mut(kind).as_mut()
    }

    /// Ends companions that no socket has had for a while.
    pub(in super::super) fn beside_timeout(&mut self, now: Instant, key: Key) {
        for kind in Kind::ALL {
            let is_over = |beside: &mut Beside| beside.until.is_some_and(|until| until <= now);
            if self.beside(key, kind).is_some_and(is_over) {
                self.end_beside(now, key, kind);
            }
        }
    }

    /// The tunnel has another transport: there are datagrams beside streams only. What is encrypted has addresses of its own,
    /// which must not change because of that.
    pub(in super::super) fn beside_rebound(&mut self, now: Instant, key: Key) {
        let binding = self.sessions.get(key).and_then(|session| session.binding);
        let transport = binding
            .and_then(|id| self.bindings.get(id.key()))
            .map(|binding| binding.transport);
        let kind = Kind::Ddt;
        if transport
            .and_then(|main| kind.role().transport(main))
            .is_none()
        {
            self.end_beside(now, key, kind);
        }
    }

    /// Ends the service, and the companion.
    fn end_beside(&mut self, now: Instant, key: Key, kind: Kind) {
        let role = kind.role();
        self.role_ended(key, role);
        self.end_companion(now, key, role);
        self.drop_empty_services(key);
    }

    /// The companion is over: its sockets are the main tunnel's again. Further streams leave nobody without a tunnel.
    pub(in super::super) fn role_ended(&mut self, key: Key, role: CompanionRole) {
        let id = self.session_id(key);
        let services = self.sessions.get_mut(key);
        let services = services.and_then(|session| session.services.as_mut());
        let beside = services
            .zip(Kind::of(role))
            .and_then(|(services, kind)| services.beside_mut(kind).take());
        if let Some(beside) = beside {
            let ended = |grant| Event::ServiceEnded { session: id, grant };
            self.events.extend(beside.grants().map(ended));
        }
    }
}
