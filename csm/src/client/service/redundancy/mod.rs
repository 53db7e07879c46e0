//! Redundancy by copies: what sockets want, what is in force, and how much of it the network needs (spec 6, 7).

mod frames;
mod streams;

use std::net::SocketAddr;
use std::time::Instant;

use tsc_tpl::{Message, ReceptionReport, RedundancyFactor, RedundancyMethod, ServiceType, Tlv};

use self::frames::Group;
use self::streams::Streams;
use super::super::event::{Event, RequestError, ServiceOutcome};
use super::super::{Client, State};
use super::flows::{self, Flows, Wish, is_available};
use crate::flow::FlowKey;
use crate::redundancy::{MAX_COPIES, STRAGGLERS};
use crate::service::ServiceGrant;

const ENABLE: ServiceType = ServiceType::ENABLE_REDUNDANCY;

/// How a socket's packets are protected against loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Redundancy {
    /// They are not.
    #[default]
    Off,
    /// Each is repeated so often, [`MAX_COPIES`] times at most: in the datagrams that follow it, or, where the tunnel is a stream, over
    /// as many further streams (*fan-out*).
    Copies(u8),
    /// Where the tunnel is a stream each goes over one of it and so many further ones, whichever is fastest (*load balance*). Over
    /// datagrams there is nothing to choose from.
    Balanced(u8),
    /// As often as the losses of the network make it necessary, and not at all without any. Over datagrams.
    Adaptive {
        /// At most so often.
        most: u8,
    },
}

/// What redundancy does for a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RedundancyStatus {
    /// Copies of each packet that the server has granted, and sends, or further streams; `None` while the service is not in force.
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

impl Wish for Redundancy {
    fn is_wanted(self) -> bool {
        self != Self::Off
    }
}

/// A socket.
type Flow = flows::Flow<Redundancy, RedundancyStatus>;

/// The service of one tunnel.
#[derive(Debug)]
pub(super) struct Sockets {
    flows: Flows<Redundancy, RedundancyStatus>,
    group: Option<Box<Group>>,
    streams: Streams,
}

impl Default for Sockets {
    fn default() -> Self {
        Self {
            flows: Flows::new(ENABLE),
            group: None,
            streams: Streams::default(),
        }
    }
}

/// What the server should do for this socket's packets; `None` is no service.
fn wanted(group: Option<&Group>, is_stream: bool, flow: &Flow) -> Option<u8> {
    match flow.wish {
        Redundancy::Off => None,
        Redundancy::Copies(copies) => Some(copies.min(MAX_COPIES)),
        Redundancy::Balanced(streams) if is_stream => Some(streams.min(MAX_COPIES)),
        Redundancy::Adaptive { most } if !is_stream => {
            Some(group.map_or(0, |group| group.downlink_copies(most)))
        }
        Redundancy::Balanced(_) | Redundancy::Adaptive { .. } => None,
    }
}

/// How packets of a socket are to be multiplied.
const fn method(is_stream: bool, wish: Redundancy) -> RedundancyMethod {
    if matches!(wish, Redundancy::Balanced(_)) {
        RedundancyMethod::LOAD_BALANCE
    } else if is_stream {
        RedundancyMethod::FAN_OUT
    } else {
        RedundancyMethod::COPIES
    }
}

impl Sockets {
    /// What the server grants of what was asked. Less than that is a limit of the server's.
    pub(super) fn granted(&mut self, is_stream: bool, answer: &Message<'_>) -> ServiceOutcome {
        let copies = answer.redundancy_factor().map(RedundancyFactor::value);
        let (Some((flow, Some(asked))), Some(copies)) = (self.flows.asking(), copies) else {
            return ServiceOutcome::Unusable;
        };
        let wish = self.flows.find(flow).map(|flow| flow.wish);
        let method = method(is_stream, wish.unwrap_or_default());
        if copies > asked || answer.redundancy_method() != Some(method) {
            return ServiceOutcome::Unusable;
        }
        self.streams.offered(answer);
        ServiceOutcome::Granted(ServiceGrant::Redundancy {
            flow,
            copies,
            method,
        })
    }

    /// The request under way is over: what the application is to be told, if anything.
    fn over(&mut self, now: Instant, outcome: &ServiceOutcome) -> Option<Event> {
        let copies =
            if let ServiceOutcome::Granted(ServiceGrant::Redundancy { copies, .. }) = outcome {
                Some(*copies)
            } else {
                None
            };
        let over = self.flows.over(outcome, copies)?;
        let granted = over.granted.is_some();
        let flow = self.flows.find_mut(over.key)?;
        let untold = flow.untold && over.is_settled && over.asked.is_some();
        let is_news = flow.is_wanted() && (granted != over.had || untold);
        if is_news {
            flow.untold &= !over.is_settled;
        }
        let flow = self.flows.find(over.key).filter(|_| is_news);
        let event = flow.map(|flow| self.flows.event(flow, is_available(outcome), granted));
        if let Some(group) = &mut self.group {
            if let (Some(copies), Some(asked)) = (over.granted, over.asked) {
                group.limit(copies, asked);
            }
            group.until = None;
        }
        if !self.flows.is_in_force()
            && let Some(group) = &mut self.group
        {
            group.until = Some(now + STRAGGLERS);
        }
        event
    }

    /// The tunnel has another transport, on which the service is in force or not.
    fn resumed(&mut self, is_active: bool) -> Vec<Event> {
        let mut events = Vec::new();
        if !is_active {
            let ended = |flow: &&Flow| flow.granted().is_some() && flow.is_wanted();
            let ends = self.flows.iter().filter(ended);
            events.extend(ends.map(|flow| self.flows.event(flow, true, false)));
            for flow in self.flows.iter_mut() {
                // And what comes of asking again.
                flow.untold |= flow.granted().is_some() && flow.is_wanted();
            }
        }
        self.flows.resumed(is_active);
        if !is_active {
            self.streams = Streams::default();
        }
        if !is_active && self.flows.asking().is_none() {
            self.group = None;
        }
        events
    }
}

impl Client {
    /// Sets how the packets of the socket at `local` are protected against loss. The server is asked as soon as it can be, and
    /// again after a resume; [`Event::SocketService`] tells what came of it.
    ///
    /// # Errors
    ///
    /// There is no tunnel, or [`MAX_FLOWS`](crate::MAX_FLOWS) sockets want this.
    pub fn set_redundancy(
        &mut self,
        now: Instant,
        key: FlowKey,
        local: SocketAddr,
        wish: Redundancy,
    ) -> Result<(), RequestError> {
        let sockets = &mut self.open_tunnel()?.services.redundancy;
        let had = sockets.flows.find(key).map(|flow| flow.wish);
        sockets.flows.wish(key, local, wish)?;
        if had.is_some_and(|had| method(true, had) != method(true, wish)) {
            sockets
                .flows
                .renew(|flow| flow.key == key && flow.is_wanted());
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
        let Sockets { flows, group, .. } = &tunnel.services.redundancy;
        let flow = flows.find(key).filter(|flow| flow.is_wanted())?;
        Some(RedundancyStatus {
            granted: flow.granted(),
            sending: group.as_ref().map_or(0, |group| group.copies(flow)),
            downlink: group
                .as_ref()
                .map(|group| group.downlink())
                .unwrap_or_default(),
            uplink: group.as_ref().and_then(|group| group.uplink()),
            ..flow.status
        })
    }

    /// What a socket wants, as this tunnel knows.
    pub(in super::super::super) fn wanted_redundancy(&self, key: FlowKey) -> Redundancy {
        let State::Up(tunnel) = &self.state else {
            return Redundancy::Off;
        };
        let flow = tunnel.services.redundancy.flows.find(key);
        flow.map_or(Redundancy::Off, |flow| flow.wish)
    }

    /// Asks for what is wanted and not so. Requests follow one another; where there is no room for one it is settled when another
    /// is over.
    pub(super) fn settle_redundancy(&mut self, now: Instant) {
        let Ok(tunnel) = self.open_tunnel() else {
            return;
        };
        let is_stream = tunnel
            .link
            .as_ref()
            .is_some_and(|link| link.target.transport.is_stream());
        let is_offered = tunnel.assignment.services.contains(&ENABLE);
        let sockets = &mut tunnel.services.redundancy;
        let Sockets { flows, group, .. } = sockets;
        let wanted = |flow: &Flow| wanted(group.as_deref(), is_stream, flow);
        let next = flows.next(wanted);
        let mut events = flows.fulfilled(wanted);
        // What this transport cannot do is not asked for.
        let cannot = |flow: &&mut Flow| flow.untold && flow.is_wanted() && wanted(flow).is_none();
        for flow in flows.iter_mut().filter(cannot) {
            flow.untold = false;
            events.push(Event::SocketService {
                service: ENABLE,
                available: is_offered,
                enabled: false,
                local: flow.local,
            });
        }
        let wish = next.and_then(|next| flows.find(next.key));
        let method = method(is_stream, wish.map_or(Redundancy::Off, |flow| flow.wish));
        self.events.extend(events);
        let Some(next) = next else {
            return;
        };
        let factor = next
            .asked
            .and_then(|copies| RedundancyFactor::new(copies).ok());
        let details = [
            Some(next.key.tlv(next.local)),
            factor.map(Tlv::RedundancyFactor),
            factor.map(|_| Tlv::RedundancyMethod(method)),
        ];
        let service = if factor.is_some() {
            ENABLE
        } else {
            ENABLE.disable()
        };
        if self
            .ask_service(now, service, details.into_iter().flatten())
            .is_err()
        {
            return;
        }
        let Ok(tunnel) = self.open_tunnel() else {
            return;
        };
        let sockets = &mut tunnel.services.redundancy;
        sockets.flows.begun(next);
        // Frames may come before the answer.
        if next.asked.is_some() && !sockets.flows.is_in_force() {
            sockets.group = Some(Group::new(is_stream));
        }
    }

    /// A request is over.
    pub(super) fn redundancy_over(&mut self, now: Instant, outcome: &ServiceOutcome) {
        if let State::Up(tunnel) = &mut self.state
            && let Some(event) = tunnel.services.redundancy.over(now, outcome)
        {
            self.events.push_back(event);
        }
    }

    /// After a resume it is in force if the server lists it; else it is asked for anew (spec 5, "Resume").
    pub(super) fn redundancy_resumed(&mut self, now: Instant) {
        let State::Up(tunnel) = &mut self.state else {
            return;
        };
        let is_active = tunnel.assignment.active_services.contains(&ENABLE);
        let events = tunnel.services.redundancy.resumed(is_active);
        self.events.extend(events);
        self.settle_redundancy(now);
    }
}
