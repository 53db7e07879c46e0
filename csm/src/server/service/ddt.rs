//! Dynamic datagram tunnels: what goes to which sockets over a datagram companion (spec 7, "DDT").
//!
//! A packet is looked up by its flow key alone; nothing is learnt from where the client's packets come.

use std::time::{Duration, Instant};

use tsc_tpl::{Message, ResponseCode, ServerEndpoint};

use super::super::Server;
use super::super::arena::Key;
use super::super::event::Event;
use super::super::session::Session;
use super::{Answer, Served};
use crate::companion::CompanionRole;
use crate::flow::FlowKey;
use crate::service::ServiceGrant;

const ROLE: CompanionRole = CompanionRole::Ddt;

/// A companion that no socket has is ended after this long: one that has fallen back to the stream may return.
const UNUSED_FOR: Duration = Duration::from_secs(30);

/// The service of one tunnel.
#[derive(Debug, Default)]
pub(super) struct Ddt {
    /// Sockets that have it; at most [`MAX_FLOWS`](crate::MAX_FLOWS).
    flows: Vec<FlowKey>,
    /// When the companion ends; set while no socket has it.
    until: Option<Instant>,
}

impl Ddt {
    pub(super) const fn is_in_force(&self) -> bool {
        !self.flows.is_empty()
    }

    pub(super) fn flows(&self) -> impl Iterator<Item = FlowKey> {
        self.flows.iter().copied()
    }

    pub(super) const fn deadline(&self) -> Option<Instant> {
        self.until
    }

    pub(super) fn grants(self) -> impl Iterator<Item = ServiceGrant> {
        self.flows.into_iter().map(ServiceGrant::Ddt)
    }
}

impl Server {
    pub(super) fn enable_ddt(&mut self, now: Instant, key: Key, request: &Message<'_>) -> Served {
        let flow = self.own_flow(key, request)?;
        let session = self
            .sessions
            .get(key)
            .ok_or(ResponseCode::SERVICE_UNAVAILABLE)?;
        let id = session.id;
        if !self.has_room_for(key, flow) {
            return Err(ResponseCode::NO_RESOURCES);
        }
        let binding = session.binding.and_then(|id| self.bindings.get(id.key()));
        let wanted = binding.and_then(|binding| {
            let transport = ROLE.transport(binding.transport)?;
            let at = self.companion_endpoint(binding.interface, binding.local, transport)?;
            Some((transport, at))
        });
        let (transport, endpoint) = wanted.ok_or(ResponseCode::SERVICE_UNAVAILABLE)?;
        let offer = self.reserve(now, key, ROLE, transport)?;
        let session = self
            .sessions
            .get_mut(key)
            .ok_or(ResponseCode::SERVICE_UNAVAILABLE)?;
        let services = session.services.get_or_insert_default();
        let ddt = services.ddt.get_or_insert_default();
        ddt.until = None;
        if !ddt.flows.contains(&flow) {
            ddt.flows.push(flow);
            let grant = ServiceGrant::Ddt(flow);
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
    pub(super) fn disable_ddt(&mut self, now: Instant, key: Key, request: &Message<'_>) -> Served {
        let flow = self.own_flow(key, request)?;
        let id = self.session_id(key);
        let Some(ddt) = self.ddt(key) else {
            return Ok(Answer::default());
        };
        let Some(place) = ddt.flows.iter().position(|had| *had == flow) else {
            return Ok(Answer::default());
        };
        ddt.flows.swap_remove(place);
        if ddt.flows.is_empty() {
            ddt.until = Some(now + UNUSED_FOR);
        }
        let grant = ServiceGrant::Ddt(flow);
        self.events
            .push_back(Event::ServiceEnded { session: id, grant });
        Ok(Answer::default())
    }

    fn ddt(&mut self, key: Key) -> Option<&mut Ddt> {
        let services = self.sessions.get_mut(key)?.services.as_mut()?;
        services.ddt.as_mut()
    }

    /// The companion that carries a packet of `len` bytes to this socket of `main`, while it can.
    #[inline]
    pub(super) fn ddt_carrier(&self, main: &Session, flow: FlowKey, len: usize) -> Option<Key> {
        let services = main.services.as_ref()?;
        if !services.ddt.as_ref()?.flows.contains(&flow) {
            return None;
        }
        let key = services.family.claimed(ROLE)?;
        let companion = self.sessions.get(key)?;
        let can = companion.carries() && len <= usize::from(companion.inner_mtu);
        can.then_some(key)
    }

    /// Ends a companion that no socket has had for a while.
    pub(in super::super) fn ddt_timeout(&mut self, now: Instant, key: Key) {
        let is_over = |ddt: &Ddt| ddt.until.is_some_and(|until| until <= now);
        if self.ddt(key).is_some_and(|ddt| is_over(ddt)) {
            self.end_ddt(now, key);
        }
    }

    /// The tunnel has another transport: there are datagrams beside streams only.
    pub(in super::super) fn ddt_rebound(&mut self, now: Instant, key: Key) {
        let binding = self.sessions.get(key).and_then(|session| session.binding);
        let transport = binding
            .and_then(|id| self.bindings.get(id.key()))
            .map(|binding| binding.transport);
        if transport.and_then(|main| ROLE.transport(main)).is_none() {
            self.end_ddt(now, key);
        }
    }

    /// Ends the service, and the companion.
    fn end_ddt(&mut self, now: Instant, key: Key) {
        self.role_ended(key, ROLE);
        self.end_companion(now, key, ROLE);
        self.drop_empty_services(key);
    }

    /// The companion is over: its sockets are the main tunnel's again. Further streams leave nobody without a tunnel.
    pub(in super::super) fn role_ended(&mut self, key: Key, role: CompanionRole) {
        if role != ROLE {
            return;
        }
        let id = self.session_id(key);
        let services = self.sessions.get_mut(key);
        let services = services.and_then(|session| session.services.as_mut());
        let Some(ddt) = services.and_then(|services| services.ddt.take()) else {
            return;
        };
        let ended = |grant| Event::ServiceEnded { session: id, grant };
        self.events.extend(ddt.grants().map(ended));
    }
}
