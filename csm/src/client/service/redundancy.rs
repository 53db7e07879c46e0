//! Redundancy by copies: what sockets want, what is in force, and how much of it the network needs (spec 6, 7).
//!
//! What is wanted and what is granted stand side by side, and the difference is asked for, one request at a time: see
//! `docs/services.md`.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tsc_tpl::{
    IpPacket, Limits, Message, ReceptionReport, RedundancyFactor, RedundancyFrame,
    RedundancyMethod, ResponseCode, ServiceType, Tlv,
};

use super::super::event::{
    DropReason, Epoch, Event, Fresh, Inbound, Refusal, RequestError, ServiceOutcome,
};
use super::super::tunnel::Tunnel;
use super::super::{Client, State};
use crate::flow::{FlowKey, MAX_FLOWS};
use crate::redundancy::{Adaptive, Arrival, MAX_COPIES, Sender, Window};
use crate::service::ServiceGrant;

const ENABLE: ServiceType = ServiceType::ENABLE_REDUNDANCY;

/// Between two looks at the other end's figures while media passes.
const REPORT_EVERY: Duration = Duration::from_millis(500);

/// For so long after the end of the service frames of before are still taken (spec 6).
const STRAGGLERS: Duration = Duration::from_secs(32);

/// How a socket's packets are protected against loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Redundancy {
    /// They are not.
    #[default]
    Off,
    /// Each is repeated so often, [`MAX_COPIES`] times at most, in the datagrams that follow it.
    Copies(u8),
    /// As often as the losses of the network make it necessary, and not at all without any.
    Adaptive {
        /// At most so often.
        most: u8,
    },
}

/// What redundancy does for a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RedundancyStatus {
    /// Copies of each packet that the server has granted, and sends; `None` while the service is not in force.
    pub granted: Option<u8>,
    /// Copies of each packet that this end sends now.
    pub sending: u8,
    /// Packets sent in frames.
    pub sent: u64,
    /// Copies that were to be sent of them.
    pub copies: u64,
    /// Packets received, each once.
    pub received: u64,
    /// Of those, the ones that only a copy has brought.
    pub recovered: u64,
    /// Copies received of packets that had come before.
    pub duplicates: u64,
    /// What has become of the packets of all sockets of the tunnel that have redundancy: from the server to here.
    pub downlink: ReceptionReport,
    /// The same from here to the server, as the server has told last.
    pub uplink: Option<ReceptionReport>,
}

/// The service of one tunnel.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    /// At most [`MAX_FLOWS`].
    flows: Vec<Flow>,
    /// The one that a request is under way for.
    asking: Option<FlowKey>,
    group: Option<Box<Group>>,
}

/// A socket that wants it, or wanted it until now.
#[derive(Debug)]
struct Flow {
    key: FlowKey,
    local: SocketAddr,
    wish: Redundancy,
    granted: Option<u8>,
    /// With the last request.
    asked: u8,
    /// The last request led to nothing: it is not repeated before something changes.
    refused: bool,
    /// The last request was not answered: the server may hold the service or not. It is ended first, as what begins anew begins
    /// with other sequences.
    unsure: bool,
    status: RedundancyStatus,
}

/// The frames of the tunnel: one sequence for each direction.
#[derive(Debug)]
struct Group {
    sender: Sender,
    window: Window,
    /// For the server's direction, and for this end's.
    down: Adaptive,
    up: Adaptive,
    uplink: Option<ReceptionReport>,
    /// The server grants no more than this.
    most: u8,
    /// When to ask for the other end's figures next.
    report_at: Option<Instant>,
    /// Nothing is granted any more; until when frames of before are taken.
    until: Option<Instant>,
}

impl Group {
    fn new() -> Box<Self> {
        Box::new(Self {
            sender: Sender::default(),
            window: Window::default(),
            down: Adaptive::default(),
            up: Adaptive::default(),
            uplink: None,
            most: MAX_COPIES,
            report_at: None,
            until: None,
        })
    }

    /// Copies of a packet that this end sends. A server that does not tell what it lost is believed to lose as much.
    fn copies(&self, flow: &Flow) -> u8 {
        let Some(granted) = flow.granted else {
            return 0;
        };
        match flow.wish {
            Redundancy::Off | Redundancy::Copies(_) => granted,
            Redundancy::Adaptive { most } => {
                let told = if self.up.is_told() {
                    &self.up
                } else {
                    &self.down
                };
                told.factor().min(most).min(self.most)
            }
        }
    }
}

impl Sockets {
    fn find(&mut self, key: FlowKey) -> Option<&mut Flow> {
        self.flows.iter_mut().find(|flow| flow.key == key)
    }

    fn is_in_force(&self) -> bool {
        self.flows.iter().any(|flow| flow.granted.is_some())
    }

    /// Copies that the server should send of this socket's packets; `None` is no service.
    fn wanted(&self, flow: &Flow) -> Option<u8> {
        match flow.wish {
            Redundancy::Off => None,
            Redundancy::Copies(copies) => Some(copies.min(MAX_COPIES)),
            Redundancy::Adaptive { most } => {
                let group = self.group.as_ref();
                let needed = group.map_or(0, |group| group.down.factor().min(group.most));
                Some(needed.min(most))
            }
        }
    }

    /// The next request: whose, and for how many copies. Forgets sockets that want nothing and have nothing.
    fn next(&mut self) -> Option<(FlowKey, SocketAddr, Option<u8>)> {
        if self.asking.is_some() {
            return None;
        }
        self.flows
            .retain(|flow| flow.wish != Redundancy::Off || flow.granted.is_some() || flow.unsure);
        self.flows.iter().find_map(|flow| {
            let wanted = self.wanted(flow).filter(|_| !flow.unsure);
            let had = flow.granted.map(|_| flow.asked);
            let differs = wanted != had || flow.unsure;
            (differs && !flow.refused).then_some((flow.key, flow.local, wanted))
        })
    }

    /// When there is something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let group = self.group.as_ref()?;
        [group.report_at, group.until, group.sender.expires()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Media passes: figures are wanted soon, if any socket goes by them.
    fn note_media(&mut self, now: Instant) {
        let adapts = |flow: &Flow| matches!(flow.wish, Redundancy::Adaptive { .. });
        if let Some(group) = &mut self.group
            && group.report_at.is_none()
            && self.flows.iter().any(adapts)
        {
            group.report_at = Some(now + REPORT_EVERY);
        }
    }
}

impl Client {
    /// Sets how the packets of the socket at `local` are protected against loss. The server is asked as soon as it can be, and
    /// again after a resume; [`Event::SocketService`] tells what is in force.
    ///
    /// # Errors
    ///
    /// There is no tunnel, or [`MAX_FLOWS`] sockets want this.
    pub fn set_redundancy(
        &mut self,
        now: Instant,
        key: FlowKey,
        local: SocketAddr,
        wish: Redundancy,
    ) -> Result<(), RequestError> {
        let sockets = &mut self.open_tunnel()?.services.redundancy;
        if let Some(flow) = sockets.find(key) {
            flow.wish = wish;
            flow.local = local;
            flow.refused = false;
        } else if wish != Redundancy::Off {
            if sockets.flows.len() >= MAX_FLOWS {
                return Err(RequestError::TooManySockets);
            }
            sockets.flows.push(Flow {
                key,
                local,
                wish,
                granted: None,
                asked: 0,
                refused: false,
                unsure: false,
                status: RedundancyStatus::default(),
            });
        }
        self.settle_redundancy(now);
        Ok(())
    }

    /// What redundancy does for a socket; `None` if it was not asked for.
    #[must_use]
    pub fn redundancy(&self, key: FlowKey) -> Option<RedundancyStatus> {
        let State::Up(tunnel) = &self.state else {
            return None;
        };
        let sockets = &tunnel.services.redundancy;
        let flow = sockets.flows.iter().find(|flow| flow.key == key)?;
        let group = sockets.group.as_ref();
        Some(RedundancyStatus {
            granted: flow.granted,
            sending: group.map_or(0, |group| group.copies(flow)),
            downlink: group
                .map(|group| group.window.reception())
                .unwrap_or_default(),
            uplink: group.and_then(|group| group.uplink),
            ..flow.status
        })
    }

    /// Asks for what is wanted and not so. Requests follow one another; where there is no room for one it is settled when another
    /// is over.
    pub(super) fn settle_redundancy(&mut self, now: Instant) {
        let Ok(tunnel) = self.open_tunnel() else {
            return;
        };
        let Some((key, local, wanted)) = tunnel.services.redundancy.next() else {
            return;
        };
        let is_stream = tunnel
            .link
            .as_ref()
            .is_some_and(|link| link.target.transport.is_stream());
        let method = if is_stream {
            RedundancyMethod::FAN_OUT
        } else {
            RedundancyMethod::COPIES
        };
        let factor = wanted.and_then(|copies| RedundancyFactor::new(copies).ok());
        let details = [Some(key.tlv(local)), factor.map(Tlv::RedundancyFactor)];
        let method = factor.map(|_| Tlv::RedundancyMethod(method));
        let service = if factor.is_some() {
            ENABLE
        } else {
            ENABLE.disable()
        };
        let details = details.into_iter().flatten().chain(method);
        if self.ask_service(now, service, details).is_err() {
            return;
        }
        let Ok(tunnel) = self.open_tunnel() else {
            return;
        };
        let sockets = &mut tunnel.services.redundancy;
        sockets.asking = Some(key);
        if let Some(copies) = wanted {
            // Frames may come before the answer.
            if !sockets.is_in_force() {
                sockets.group = Some(Group::new());
            }
            if let Some(flow) = sockets.find(key) {
                flow.asked = copies;
            }
        }
    }

    /// A request is over.
    pub(super) fn redundancy_over(
        &mut self,
        now: Instant,
        service: ServiceType,
        outcome: &ServiceOutcome,
    ) {
        let State::Up(tunnel) = &mut self.state else {
            return;
        };
        let sockets = &mut tunnel.services.redundancy;
        let Some(key) = sockets.asking.take() else {
            return;
        };
        let Some(flow) = sockets.find(key) else {
            return;
        };
        let had = flow.granted.is_some();
        let (asked, local) = (flow.asked, flow.local);
        flow.granted = match outcome {
            ServiceOutcome::Granted(ServiceGrant::Redundancy { copies, .. }) => Some(*copies),
            _ => None,
        };
        let is_unanswered = matches!(outcome, ServiceOutcome::NoAnswer | ServiceOutcome::Unusable);
        let is_given_up = flow.wish == Redundancy::Off && !service.is_enable();
        flow.unsure = is_unanswered && !is_given_up;
        flow.refused = flow.granted.is_none() && (service.is_enable() || is_unanswered);
        let granted = flow.granted;
        let is_wanted = flow.wish != Redundancy::Off;
        if let Some(group) = &mut sockets.group
            && let Some(copies) = granted.filter(|copies| *copies < asked)
        {
            group.most = group.most.min(copies);
        }
        if !sockets.is_in_force()
            && let Some(group) = &mut sockets.group
        {
            group.until = Some(now + STRAGGLERS);
        }
        let is_news = if granted.is_some() {
            !had
        } else {
            had || service.is_enable()
        };
        if is_wanted && is_news {
            self.events.push_back(Event::SocketService {
                service: ENABLE,
                available: is_available(outcome),
                enabled: granted.is_some(),
                local,
            });
        }
    }

    /// After a resume it is in force if the server lists it and the transport is of the kind that it was granted on; else it is
    /// asked for anew (spec 5, "Resume").
    pub(super) fn redundancy_resumed(&mut self, now: Instant) {
        let State::Up(tunnel) = &mut self.state else {
            return;
        };
        let is_active = tunnel.assignment.active_services.contains(&ENABLE);
        let sockets = &mut tunnel.services.redundancy;
        for flow in &mut sockets.flows {
            flow.refused = false;
            flow.unsure &= is_active;
            if !is_active && flow.granted.take().is_some() && flow.wish != Redundancy::Off {
                self.events.push_back(Event::SocketService {
                    service: ENABLE,
                    available: true,
                    enabled: false,
                    local: flow.local,
                });
            }
        }
        if !is_active && sockets.asking.is_none() {
            sockets.group = None;
        }
        self.settle_redundancy(now);
    }

    /// Writes the frame that an inner packet travels in to `frame`, which is empty. False, and nothing written, if it travels as it
    /// is.
    #[inline]
    pub fn frame(&mut self, now: Instant, packet: &[u8], frame: &mut Vec<u8>) -> bool {
        match &mut self.state {
            State::Up(tunnel) => tunnel.services.redundancy.frame(now, packet, frame),
            State::Idle | State::Connecting(_) | State::Down => false,
        }
    }

    /// Takes a redundancy frame.
    pub(in super::super) fn handle_frame<'a>(
        &mut self,
        now: Instant,
        epoch: Epoch,
        frame: RedundancyFrame<'a>,
    ) -> Inbound<'a> {
        // Frames may overtake the answer to a resume as packets do.
        let State::Up(tunnel) = &mut self.state else {
            return self.drop_unit(DropReason::StaleEpoch);
        };
        if !tunnel.takes_from(epoch) {
            return self.drop_unit(DropReason::StaleEpoch);
        }
        let Tunnel {
            services,
            assignment,
            ..
        } = &mut **tunnel;
        let sockets = &mut services.redundancy;
        let Some(group) = &mut sockets.group else {
            return self.unexpected_frame(now, epoch);
        };
        let Some(newest) = frame.entries().next() else {
            return self.unexpected_frame(now, epoch);
        };
        if !group.window.believes(newest.sequence) {
            return self.drop_unit(DropReason::FarFrame);
        }
        let (mut fresh, mut foreign) = (Fresh::default(), 0);
        let places = (0_u16..u16::from(frame.count())).rev();
        for (place, entry) in places.zip(frame.entries().rev()) {
            let destination = entry.packet.destination();
            let is_own = |inner: &crate::InnerAddress| inner.address == destination;
            if !assignment.addresses.iter().any(is_own) {
                foreign += 1;
                continue;
            }
            let arrival = group.window.take(entry.sequence, place == 0);
            if arrival.is_new() {
                fresh.add(place);
                self.stats.delivered += 1;
            }
            let key = FlowKey::of_destination(&entry.packet);
            if let Some(flow) = sockets.flows.iter_mut().find(|flow| Some(flow.key) == key) {
                flow.status.count(arrival);
            }
        }
        sockets.note_media(now);
        self.stats.wrong_destination += foreign;
        self.heard_over(now, epoch);
        if fresh == Fresh::default() && foreign == u64::from(frame.count()) {
            return Inbound::Dropped(DropReason::Destination);
        }
        Inbound::DeliverFrame(frame, fresh)
    }

    /// What the answer to a Keepalive says of this end's direction.
    pub(in super::super) fn redundancy_reported(
        &mut self,
        now: Instant,
        report: Option<ReceptionReport>,
    ) {
        if let State::Up(tunnel) = &mut self.state
            && let Some(group) = &mut tunnel.services.redundancy.group
        {
            if let Some(report) = report {
                group.uplink = Some(report);
                group.up.report(now, report);
            }
            self.settle_redundancy(now);
        }
    }

    /// Does what is due; true if the server is to be asked for its figures.
    pub(in super::super) fn redundancy_timeout(&mut self, now: Instant) -> bool {
        let State::Up(tunnel) = &mut self.state else {
            return false;
        };
        let sockets = &mut tunnel.services.redundancy;
        let Some(group) = &mut sockets.group else {
            return false;
        };
        group.sender.expire(now);
        let asks = group.report_at.take_if(|at| *at <= now).is_some();
        if asks {
            group.down.report(now, group.window.reception());
        }
        if group.until.is_some_and(|until| until <= now) {
            sockets.group = None;
        }
        if asks {
            self.settle_redundancy(now);
        }
        asks
    }
}

impl Sockets {
    fn frame(&mut self, now: Instant, packet: &[u8], out: &mut Vec<u8>) -> bool {
        let Some(group) = &mut self.group else {
            return false;
        };
        let Ok(packet) = IpPacket::decode(packet, &Limits::WIDEST) else {
            return false;
        };
        let key = FlowKey::of_source(&packet);
        let Some(flow) = self
            .flows
            .iter_mut()
            .find(|flow| Some(flow.key) == key && flow.granted.is_some())
        else {
            return false;
        };
        let copies = group.copies(flow);
        let framed = group.sender.frame(now, &packet, copies, usize::MAX, out);
        if framed {
            flow.status.sent += 1;
            flow.status.copies += u64::from(copies);
            self.note_media(now);
        }
        framed
    }

    /// What the server grants of what was asked. Less than that is a limit of the server's.
    pub(super) fn granted(&self, answer: &Message<'_>) -> ServiceOutcome {
        let asked = self.asking.and_then(|key| {
            let flow = self.flows.iter().find(|flow| flow.key == key)?;
            Some((key, flow.asked))
        });
        let copies = answer.redundancy_factor().map(RedundancyFactor::value);
        let method = answer.redundancy_method();
        match (asked, copies) {
            (Some((flow, asked)), Some(copies))
                if copies <= asked && method == Some(RedundancyMethod::COPIES) =>
            {
                ServiceOutcome::Granted(ServiceGrant::Redundancy { flow, copies })
            }
            _ => ServiceOutcome::Unusable,
        }
    }
}

impl RedundancyStatus {
    const fn count(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Original => self.received += 1,
            Arrival::Recovered => {
                self.received += 1;
                self.recovered += 1;
            }
            Arrival::Duplicate => self.duplicates += 1,
            Arrival::Outdated => {}
        }
    }
}

/// Whether the server offers the service, as far as an answer tells.
fn is_available(outcome: &ServiceOutcome) -> bool {
    let ServiceOutcome::Refused(Refusal { code, .. }) = outcome else {
        return matches!(outcome, ServiceOutcome::Granted(_) | ServiceOutcome::Ended);
    };
    !matches!(
        *code,
        ResponseCode::SERVICE_UNAVAILABLE
            | ResponseCode::UNSUPPORTED_SERVICE
            | ResponseCode::UNSUPPORTED_MESSAGE
            | ResponseCode::UNSUPPORTED_TLV
    )
}
