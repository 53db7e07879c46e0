//! Redundancy by copies: what the server grants, takes and sends (spec 6, 7).
//!
//! *Attack*: a tunnel asks for redundancy for many sockets, or floods frames, to make the server hold packets; on plain UDP
//! anybody sends frames in its name. *Mechanism*: 64 flow keys, 12 KiB of packets a tunnel and [`MAX_HELD`] in all, freed
//! after a second; a frame is looked at only from the transport of a tunnel that was granted them, each of its packets like any
//! other, and one that is far from all before only when others confirm it.

use std::time::Instant;

use tsc_tpl::{
    IpPacket, Limits, Message, ReceptionReport, RedundancyFactor, RedundancyFrame,
    RedundancyMethod, ResponseCode, Tlv,
};

use super::super::Server;
use super::super::arena::Key;
use super::super::event::{
    BindingId, DropReason, Event, Fresh, Outgoing, SessionId, Stats, Verdict,
};
use super::super::session::{Life, Session};
use super::Served;
use crate::flow::{FlowKey, MAX_FLOWS};
use crate::redundancy::{Arrival, MAX_COPIES, STRAGGLERS, Sender, Window};
use crate::service::ServiceGrant;

/// Bytes of packets that all tunnels of a worker together keep for being repeated. Beyond that none are kept.
pub const MAX_HELD: usize = 64 << 20;

/// The service of one tunnel; from the first grant until [`STRAGGLERS`] after the last end.
#[derive(Debug)]
pub(super) struct Redundancy {
    /// Granted: the socket, and how often its packets are repeated. At most [`MAX_FLOWS`].
    flows: Vec<(FlowKey, u8)>,
    sender: Sender,
    window: Window,
    /// Set while nothing is granted.
    until: Option<Instant>,
}

impl Redundancy {
    fn new() -> Self {
        Self {
            flows: Vec::new(),
            sender: Sender::default(),
            window: Window::default(),
            until: None,
        }
    }

    pub(super) const fn is_in_force(&self) -> bool {
        !self.flows.is_empty()
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        [self.sender.expires(), self.until]
            .into_iter()
            .flatten()
            .min()
    }

    /// What there is to be told of.
    pub(super) fn grants(&self) -> impl Iterator<Item = ServiceGrant> + use<> {
        let flows = self.flows.clone();
        let grant = |(flow, copies)| ServiceGrant::Redundancy { flow, copies };
        flows.into_iter().map(grant)
    }

    fn copies(&self, flow: FlowKey) -> Option<u8> {
        let found = self.flows.iter().find(|(granted, _)| *granted == flow);
        found.map(|(_, copies)| *copies)
    }

    /// Bytes of packets that are kept.
    pub(super) const fn held(&self) -> usize {
        self.sender.held()
    }
}

impl Session {
    fn redundancy(&mut self) -> Option<&mut Redundancy> {
        self.services.as_mut()?.redundancy.as_mut()
    }
}

impl Server {
    /// Whether a tunnel has datagrams, as copies need them.
    fn has_datagrams(&self, key: Key) -> bool {
        let session = self.sessions.get(key);
        session
            .and_then(|session| self.bindings.get(session.binding?.key()))
            .is_some_and(|binding| !binding.transport.is_stream())
    }

    pub(super) fn enable_redundancy(&mut self, key: Key, request: &Message<'_>) -> Served {
        let id = self.session_id(key);
        let flow = self.own_flow(key, request)?;
        let wanted = request
            .redundancy_factor()
            .ok_or(ResponseCode::MALFORMED)?
            .value();
        let copies = wanted.min(MAX_COPIES);
        // Companions are not built yet.
        if !self.has_datagrams(key) {
            return Err(ResponseCode::SERVICE_UNAVAILABLE);
        }
        let session = self
            .sessions
            .get_mut(key)
            .ok_or(ResponseCode::SERVICE_UNAVAILABLE)?;
        let services = session.services.get_or_insert_default();
        let redundancy = services.redundancy.get_or_insert_with(Redundancy::new);
        if !redundancy.is_in_force() {
            self.held -= redundancy.held();
            *redundancy = Redundancy::new();
        }
        let room = redundancy.flows.len() < MAX_FLOWS;
        let found = redundancy.flows.iter_mut().find(|(had, _)| *had == flow);
        let is_news = if let Some((_, had)) = found {
            std::mem::replace(had, copies) != copies
        } else if room {
            redundancy.flows.push((flow, copies));
            true
        } else {
            return Err(ResponseCode::NO_RESOURCES);
        };
        if is_news {
            let grant = ServiceGrant::Redundancy { flow, copies };
            self.events
                .push_back(Event::ServiceGranted { session: id, grant });
        }
        let factor = RedundancyFactor::new(copies).map_err(|_| ResponseCode::MALFORMED)?;
        Ok(vec![
            Tlv::RedundancyFactor(factor),
            Tlv::RedundancyMethod(RedundancyMethod::COPIES),
        ])
    }

    /// Not to have it is no error, so that a client can always come to rest.
    pub(super) fn disable_redundancy(
        &mut self,
        now: Instant,
        key: Key,
        request: &Message<'_>,
    ) -> Served {
        let flow = self.own_flow(key, request)?;
        let id = self.session_id(key);
        let Some(redundancy) = self.sessions.get_mut(key).and_then(Session::redundancy) else {
            return Ok(Vec::new());
        };
        let Some(place) = redundancy.flows.iter().position(|(had, _)| *had == flow) else {
            return Ok(Vec::new());
        };
        let (flow, copies) = redundancy.flows.swap_remove(place);
        if !redundancy.is_in_force() {
            redundancy.until = Some(now + STRAGGLERS);
        }
        let grant = ServiceGrant::Redundancy { flow, copies };
        self.events
            .push_back(Event::ServiceEnded { session: id, grant });
        Ok(Vec::new())
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

    /// Takes a redundancy frame: which of its packets are to be passed on.
    pub(in super::super) fn handle_frame(
        &mut self,
        now: Instant,
        id: BindingId,
        key: Key,
        frame: &RedundancyFrame<'_>,
    ) -> Verdict {
        let Self {
            sessions, stats, ..
        } = self;
        let Some(session) = sessions.get_mut(key) else {
            return self.drop_unit(DropReason::UnknownBinding);
        };
        let Some(newest) = frame.entries().next() else {
            return self.unexpected_frame(now, id);
        };
        let mtu = usize::from(session.inner_mtu);
        let (mut owned, mut foreign, mut oversized) = (0_u16, 0_u64, 0_u64);
        for (place, entry) in frame.entries().enumerate() {
            if !session.owns(entry.packet.source()) {
                foreign += 1;
            } else if entry.packet.len() > mtu {
                oversized += 1;
            } else {
                owned |= 1 << place;
            }
        }
        let Some(redundancy) = session.redundancy() else {
            return self.unexpected_frame(now, id);
        };
        stats.frames += 1;
        stats.wrong_source += foreign;
        stats.bad_units += oversized;
        // On plain UDP the inner source is a part of what makes it authentic (spec 5): nothing else moves the window.
        if owned & 1 == 0 {
            return Verdict::Dropped(DropReason::Source);
        }
        if !redundancy.window.believes(newest.sequence) {
            stats.outdated += 1;
            return Verdict::Dropped(DropReason::FarFrame);
        }
        let mut fresh = Fresh::default();
        let places = (0_u16..u16::from(frame.count())).rev();
        for (place, entry) in places.zip(frame.entries().rev()) {
            if owned & 1 << place == 0 {
                continue;
            }
            let arrival = redundancy.window.take(entry.sequence, place == 0);
            count(stats, arrival);
            if arrival.is_new() {
                fresh.add(place);
                stats.forwarded += 1;
            }
        }
        session.last_activity = now;
        let session_id = session.id;
        if !(session.confirmed && matches!(session.life, Life::Active)) {
            self.wake(key);
        }
        Verdict::ForwardFrame(session_id, fresh)
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
        let found = self.sessions.get_mut(key)?;
        let binding = found.binding?;
        let framed = found.services.is_some() && self.write_frame(now, key, packet, frame);
        Some(Outgoing { binding, framed })
    }

    fn write_frame(&mut self, now: Instant, key: Key, packet: &[u8], out: &mut Vec<u8>) -> bool {
        let Some(session) = self.sessions.get_mut(key) else {
            return false;
        };
        let leases = &session.leases;
        let Some(redundancy) = session
            .services
            .as_mut()
            .and_then(|services| services.redundancy.as_mut())
            .filter(|redundancy| redundancy.is_in_force())
        else {
            return false;
        };
        let Ok(packet) = IpPacket::decode(packet, &Limits::WIDEST) else {
            return false;
        };
        // Hosts behind the client have no sockets of its own.
        let destination = packet.destination();
        let copies = FlowKey::of_destination(&packet)
            .filter(|_| leases.iter().any(|lease| lease.address == destination))
            .and_then(|flow| redundancy.copies(flow));
        let Some(copies) = copies else {
            return false;
        };
        let room = MAX_HELD.saturating_sub(self.held);
        let before = redundancy.held();
        let was_due = redundancy.sender.expires();
        let framed = redundancy.sender.frame(now, &packet, copies, room, out);
        self.held = self.held + redundancy.held() - before;
        if was_due.is_none() && redundancy.sender.expires().is_some() {
            self.arm_session(key);
        }
        framed
    }

    /// For the answer to a Keepalive.
    pub(in super::super) fn reception(&self, key: Key) -> Option<ReceptionReport> {
        let redundancy = self
            .sessions
            .get(key)?
            .services
            .as_ref()?
            .redundancy
            .as_ref()
            .filter(|redundancy| redundancy.is_in_force())?;
        Some(redundancy.window.reception())
    }

    /// Forgets what is not needed any more.
    pub(in super::super) fn redundancy_timeout(&mut self, now: Instant, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let Some(services) = &mut session.services else {
            return;
        };
        let Some(redundancy) = &mut services.redundancy else {
            return;
        };
        let before = redundancy.held();
        redundancy.sender.expire(now);
        self.held = self.held + redundancy.held() - before;
        if redundancy.until.is_some_and(|until| until <= now) {
            self.held -= redundancy.held();
            services.redundancy = None;
            if services.is_empty() {
                session.services = None;
            }
        }
    }

    /// The tunnel has another transport: copies in the datagram are for datagrams.
    pub(in super::super) fn redundancy_rebound(&mut self, key: Key) {
        let id = self.session_id(key);
        if self.has_datagrams(key) {
            return;
        }
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let Some(services) = &mut session.services else {
            return;
        };
        if let Some(redundancy) = services.redundancy.take() {
            self.held -= redundancy.held();
            let ended = |grant| Event::ServiceEnded { session: id, grant };
            self.events.extend(redundancy.grants().map(ended));
        }
        if services.is_empty() {
            session.services = None;
        }
    }
}

const fn count(stats: &mut Stats, arrival: Arrival) {
    match arrival {
        Arrival::Original => {}
        Arrival::Recovered => stats.recovered += 1,
        Arrival::Duplicate => stats.duplicates += 1,
        Arrival::Outdated => stats.outdated += 1,
    }
}
