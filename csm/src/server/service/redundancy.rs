//! Redundancy, by copies in datagrams or over further streams: what the server grants, takes and sends (spec 6, 7).
//!
//! *Attack*: a tunnel asks for redundancy for many sockets, or floods frames, to make the server hold packets; on plain UDP
//! anybody sends frames in its name. *Mechanism*: 64 flow keys, 12 KiB of packets a tunnel and [`MAX_HELD`] in all, freed
//! after a second; a frame is looked at only from the transport of a tunnel that was granted them, each of its packets like any
//! other, and one that is far from all before only when others confirm it.

use std::net::SocketAddr;
use std::time::Instant;

use tsc_tpl::{
    IpPacket, Message, ReceptionReport, RedundancyFactor, RedundancyFrame, RedundancyMethod,
    ResponseCode, ServerEndpoint, Tlv,
};

use super::super::Server;
use super::super::arena::Key;
use super::super::event::{BindingId, DropReason, Event, Fresh, MAX_WAYS, Spread, Stats, Verdict};
use super::super::family::Offer;
use super::super::session::{Life, Session};
use super::{Answer, Served};
use crate::companion::CompanionRole;
use crate::flow::FlowKey;
use crate::redundancy::{Arrival, MAX_COPIES, STRAGGLERS, Sender, Window};
use crate::service::ServiceGrant;
use crate::transport::Transport;

/// Bytes of packets that all tunnels of a worker together keep for being repeated. Beyond that none are kept.
pub const MAX_HELD: usize = 64 << 20;

/// What there is instead of copies on streams.
const STREAM_METHODS: [RedundancyMethod; 2] =
    [RedundancyMethod::FAN_OUT, RedundancyMethod::LOAD_BALANCE];

/// The service of one tunnel; from the first grant until [`STRAGGLERS`] after the last end.
#[derive(Debug)]
pub(super) struct Redundancy {
    /// At most [`MAX_FLOWS`](crate::MAX_FLOWS).
    flows: Vec<Granted>,
    /// The tunnel was on a stream when the service began, so that there are further ones instead of copies.
    is_stream: bool,
    sender: Sender,
    window: Window,
    /// Set while nothing is granted.
    until: Option<Instant>,
}

/// What a socket was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Granted {
    flow: FlowKey,
    copies: u8,
    method: RedundancyMethod,
}

impl From<Granted> for ServiceGrant {
    fn from(granted: Granted) -> Self {
        let Granted {
            flow,
            copies,
            method,
        } = granted;
        Self::Redundancy {
            flow,
            copies,
            method,
        }
    }
}

impl Redundancy {
    fn new(is_stream: bool) -> Self {
        Self {
            flows: Vec::new(),
            is_stream,
            sender: if is_stream {
                Sender::of_streams()
            } else {
                Sender::default()
            },
            window: if is_stream {
                Window::of_streams()
            } else {
                Window::default()
            },
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

    pub(super) fn flows(&self) -> impl Iterator<Item = FlowKey> {
        self.flows.iter().map(|granted| granted.flow)
    }

    /// What there is to be told of.
    pub(super) fn grants(&self) -> impl Iterator<Item = ServiceGrant> + use<> {
        self.flows.clone().into_iter().map(ServiceGrant::from)
    }

    fn find(&self, flow: FlowKey) -> Option<Granted> {
        let mut flows = self.flows.iter();
        flows.find(|granted| granted.flow == flow).copied()
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

    pub(super) fn enable_redundancy(
        &mut self,
        now: Instant,
        key: Key,
        request: &Message<'_>,
    ) -> Served {
        let id = self.session_id(key);
        let flow = self.own_flow(key, request)?;
        let wanted = request
            .redundancy_factor()
            .ok_or(ResponseCode::MALFORMED)?
            .value();
        let wanted = wanted.min(MAX_COPIES);
        if !self.has_room_for(key, flow) {
            return Err(ResponseCode::NO_RESOURCES);
        }
        let (granted, offered) = if self.has_datagrams(key) {
            let granted = Granted {
                flow,
                copies: wanted,
                method: RedundancyMethod::COPIES,
            };
            (granted, Answer::default())
        } else {
            let method = request.redundancy_method();
            let method = method.filter(|method| STREAM_METHODS.contains(method));
            let method = method.ok_or(ResponseCode::SERVICE_UNAVAILABLE)?;
            let (copies, offered) = self.reserve_streams(now, key, wanted)?;
            let granted = Granted {
                flow,
                copies,
                method,
            };
            (granted, offered)
        };
        let is_stream = granted.method != RedundancyMethod::COPIES;
        let session = self
            .sessions
            .get_mut(key)
            .ok_or(ResponseCode::SERVICE_UNAVAILABLE)?;
        let services = session.services.get_or_insert_default();
        let redundancy = &mut services.redundancy;
        let redundancy = redundancy.get_or_insert_with(|| Redundancy::new(is_stream));
        if !redundancy.is_in_force() {
            self.held -= redundancy.held();
            *redundancy = Redundancy::new(is_stream);
        }
        let found = redundancy.flows.iter_mut().find(|had| had.flow == flow);
        let is_news = if let Some(had) = found {
            std::mem::replace(had, granted) != granted
        } else {
            redundancy.flows.push(granted);
            true
        };
        if is_news {
            self.events.push_back(Event::ServiceGranted {
                session: id,
                grant: granted.into(),
            });
        }
        let factor = RedundancyFactor::new(granted.copies).map_err(|_| ResponseCode::MALFORMED)?;
        Ok(Answer {
            tlvs: vec![
                Tlv::RedundancyFactor(factor),
                Tlv::RedundancyMethod(granted.method),
            ],
            ..offered
        })
    }

    /// Reserves further streams beside a stream: how many there are, and those that can be claimed.
    fn reserve_streams(
        &mut self,
        now: Instant,
        key: Key,
        wanted: u8,
    ) -> Result<(u8, Answer), ResponseCode> {
        let session = self
            .sessions
            .get(key)
            .filter(|session| session.main.is_none())
            .ok_or(ResponseCode::SERVICE_UNAVAILABLE)?;
        let binding = session.binding.and_then(|id| self.bindings.get(id.key()));
        let binding = binding.ok_or(ResponseCode::SERVICE_UNAVAILABLE)?;
        let transport = binding.transport;
        let first = CompanionRole::Redundancy(0);
        let (_, endpoint) = self
            .companion_endpoint(first, binding.interface, binding.local, transport)
            .ok_or(ResponseCode::SERVICE_UNAVAILABLE)?;
        let mut offers = Vec::new();
        for number in 0..wanted {
            match self.reserve(now, key, CompanionRole::Redundancy(number), transport) {
                Ok(offer) => offers.extend(offer),
                Err(error) if number == 0 => return Err(error),
                Err(_) => return Ok((number, answer(transport, endpoint, offers))),
            }
        }
        Ok((wanted, answer(transport, endpoint, offers)))
    }

    /// The transports for a packet to this socket of a tunnel that has further streams.
    #[inline]
    pub(super) fn stream_ways(
        &self,
        main: &Session,
        flow: FlowKey,
    ) -> Option<([Option<BindingId>; MAX_WAYS], Spread)> {
        let services = main.services.as_ref()?;
        let redundancy = services
            .redundancy
            .as_ref()
            .filter(|found| found.is_stream)?;
        let granted = redundancy.find(flow)?;
        let mut ways = [None; MAX_WAYS];
        let companions = (0..MAX_COPIES).filter_map(|number| {
            let key = services.family.claimed(CompanionRole::Redundancy(number))?;
            let companion = self.sessions.get(key)?;
            companion.binding.filter(|_| companion.carries())
        });
        // The client numbers them as it likes.
        let companions = companions.take(usize::from(granted.copies));
        let bindings = main.binding.into_iter().chain(companions);
        for (way, binding) in ways.iter_mut().zip(bindings) {
            *way = Some(binding);
        }
        let spread = if granted.method == RedundancyMethod::LOAD_BALANCE {
            Spread::One
        } else {
            Spread::All
        };
        Some((ways, spread))
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
            return Ok(Answer::default());
        };
        let Some(place) = redundancy.flows.iter().position(|had| had.flow == flow) else {
            return Ok(Answer::default());
        };
        let ended = redundancy.flows.swap_remove(place);
        if !redundancy.is_in_force() {
            redundancy.until = Some(now + STRAGGLERS);
        }
        self.events.push_back(Event::ServiceEnded {
            session: id,
            grant: ended.into(),
        });
        Ok(Answer::default())
    }

    /// Takes a redundancy frame: which of its packets are to be passed on.
    pub(in super::super) fn handle_frame(
        &mut self,
        now: Instant,
        id: BindingId,
        key: Key,
        frame: &RedundancyFrame<'_>,
    ) -> Verdict {
        // All streams of a family are one group.
        let group = self.sessions.get(key).and_then(|session| session.main);
        let group = group.filter(|of| matches!(of.role, CompanionRole::Redundancy(_)));
        let group = group.map_or(key, |of| of.main);
        let Self {
            sessions, stats, ..
        } = self;
        let Some(session) = sessions.get_mut(group) else {
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
        // Of streams that are ending while datagrams have begun.
        if group != key && !redundancy.is_stream {
            return self.drop_unit(DropReason::UnexpectedFrame);
        }
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
        let sender = session.sender();
        let Some(session) = sessions.get_mut(key) else {
            return self.drop_unit(DropReason::UnknownBinding);
        };
        session.last_activity = now;
        if !(session.confirmed && matches!(session.life, Life::Active)) {
            self.wake(key);
        }
        Verdict::ForwardFrame(sender, fresh)
    }

    /// Writes the frame of a packet to a socket of the tunnel, if that has redundancy.
    pub(super) fn write_frame(
        &mut self,
        now: Instant,
        key: Key,
        flow: FlowKey,
        packet: &IpPacket<'_>,
        out: &mut Vec<u8>,
    ) -> bool {
        let room = MAX_HELD.saturating_sub(self.held);
        let Some(session) = self.sessions.get_mut(key) else {
            return false;
        };
        let Some(redundancy) = session.redundancy() else {
            return false;
        };
        let Some(granted) = redundancy.find(flow) else {
            return false;
        };
        let copies = if redundancy.is_stream {
            0
        } else {
            granted.copies
        };
        let before = redundancy.held();
        let was_due = redundancy.sender.expires();
        let framed = redundancy.sender.frame(now, packet, copies, room, out);
        let is_due = redundancy.sender.expires();
        self.held = self.held + redundancy.held() - before;
        if was_due.is_none() && is_due.is_some() {
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
            self.end_redundancy(now, key);
        }
    }

    /// Ends the service, and its streams.
    fn end_redundancy(&mut self, now: Instant, key: Key) {
        let id = self.session_id(key);
        let services = self.sessions.get_mut(key);
        let services = services.and_then(|session| session.services.as_mut());
        if let Some(redundancy) = services.and_then(|services| services.redundancy.take()) {
            self.held -= redundancy.held();
            let ended = |grant| Event::ServiceEnded { session: id, grant };
            self.events.extend(redundancy.grants().map(ended));
            for number in (0..MAX_COPIES).filter(|_| redundancy.is_stream) {
                self.end_companion(now, key, CompanionRole::Redundancy(number));
            }
        }
        self.drop_empty_services(key);
    }

    /// The tunnel has another transport: copies are for datagrams, and further streams are beside streams.
    pub(in super::super) fn redundancy_rebound(&mut self, now: Instant, key: Key) {
        let is_stream = !self.has_datagrams(key);
        let redundancy = self.sessions.get_mut(key).and_then(Session::redundancy);
        if redundancy.is_some_and(|redundancy| redundancy.is_stream != is_stream) {
            self.end_redundancy(now, key);
        }
    }
}

/// What is answered of streams that can be claimed.
fn answer(transport: Transport, endpoint: Option<SocketAddr>, offers: Vec<Offer>) -> Answer {
    let endpoint = endpoint.filter(|_| !offers.is_empty());
    Answer {
        endpoint: endpoint.map(|addr| ServerEndpoint {
            transport: transport.code(),
            addr,
        }),
        offers,
        ..Answer::default()
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
