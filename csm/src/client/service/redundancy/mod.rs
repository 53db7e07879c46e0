//! Redundancy by copies: what sockets want, what is in force, and how much of it the network needs (spec 6, 7).
//!
//! What is wanted and what is granted stand side by side, and the difference is asked for, one request at a time: see
//! `docs/services.md`.

mod frames;

use std::net::SocketAddr;
use std::time::Instant;

use tsc_tpl::{
    Message, ReceptionReport, RedundancyFactor, RedundancyMethod, ResponseCode, ServiceType, Tlv,
};

use self::frames::Group;
use super::super::event::{Event, Refusal, RequestError, ServiceOutcome};
use super::super::{Client, State};
use crate::flow::{FlowKey, MAX_FLOWS};
use crate::redundancy::{MAX_COPIES, STRAGGLERS};
use crate::service::ServiceGrant;

const ENABLE: ServiceType = ServiceType::ENABLE_REDUNDANCY;

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
    /// At most [`MAX_FLOWS`] that want it, and as many of which the server is still to be told that they do not any more.
    flows: Vec<Flow>,
    asking: Option<Asking>,
    group: Option<Box<Group>>,
}

/// The request under way.
#[derive(Clone, Copy, Debug)]
struct Asking {
    key: FlowKey,
    /// For so many copies; `None` ends the service.
    asked: Option<u8>,
    /// The tunnel was resumed since. The answer may be the stored one of the transport before (spec 4), of what is not so any
    /// more.
    is_old: bool,
}

/// A socket that wants it, or wanted it until now.
#[derive(Debug)]
struct Flow {
    key: FlowKey,
    local: SocketAddr,
    wish: Redundancy,
    held: Held,
    /// The server has said no: it is not asked again before something changes.
    refused: bool,
    /// The application has changed its wish, and was not told of what came of it.
    untold: bool,
    status: RedundancyStatus,
}

/// What the server holds for a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    Nothing,
    Granted {
        copies: u8,
        /// With the request.
        asked: u8,
    },
    /// The last request was not answered, or not usably: there may be a grant or not. It is ended first, until that is answered:
    /// what begins anew begins with other sequences.
    Unknown,
}

impl Flow {
    fn new(key: FlowKey, local: SocketAddr, wish: Redundancy) -> Self {
        Self {
            key,
            local,
            wish,
            held: Held::Nothing,
            refused: false,
            untold: true,
            status: RedundancyStatus::default(),
        }
    }

    fn is_wanted(&self) -> bool {
        self.wish != Redundancy::Off
    }

    const fn granted(&self) -> Option<u8> {
        match self.held {
            Held::Granted { copies, .. } => Some(copies),
            Held::Nothing | Held::Unknown => None,
        }
    }

    /// Copies that the server was asked for, and grants at most.
    const fn asked(&self) -> Option<u8> {
        match self.held {
            Held::Granted { asked, .. } => Some(asked),
            Held::Nothing | Held::Unknown => None,
        }
    }

    fn event(&self, available: bool, enabled: bool) -> Event {
        Event::SocketService {
            service: ENABLE,
            available,
            enabled,
            local: self.local,
        }
    }
}

impl Sockets {
    fn find(&mut self, key: FlowKey) -> Option<&mut Flow> {
        self.flows.iter_mut().find(|flow| flow.key == key)
    }

    /// Whether the server holds the service for any socket, or may.
    fn is_in_force(&self) -> bool {
        self.flows.iter().any(|flow| flow.held != Held::Nothing)
    }

    /// Copies that the server should send of this socket's packets; `None` is no service.
    fn wanted(&self, flow: &Flow) -> Option<u8> {
        match flow.wish {
            Redundancy::Off => None,
            Redundancy::Copies(copies) => Some(copies.min(MAX_COPIES)),
            Redundancy::Adaptive { most } => {
                let group = self.group.as_ref();
                Some(group.map_or(0, |group| group.downlink_copies(most)))
            }
        }
    }

    /// The next request: whose, and for how many copies. Forgets sockets that want nothing and have nothing.
    fn next(&mut self) -> Option<(FlowKey, SocketAddr, Option<u8>)> {
        if self.asking.is_some() {
            return None;
        }
        self.flows
            .retain(|flow| flow.is_wanted() || flow.held != Held::Nothing);
        // What ends makes room for what begins.
        let ends = |flow: &&Flow| {
            flow.held == Held::Unknown || (flow.held != Held::Nothing && !flow.is_wanted())
        };
        if let Some(flow) = self.flows.iter().find(ends) {
            return Some((flow.key, flow.local, None));
        }
        self.flows.iter().find_map(|flow| {
            let wanted = self.wanted(flow);
            (wanted != flow.asked() && !flow.refused).then_some((flow.key, flow.local, wanted))
        })
    }

    /// Takes the wish of a socket.
    fn wish(
        &mut self,
        key: FlowKey,
        local: SocketAddr,
        wish: Redundancy,
    ) -> Result<(), RequestError> {
        let wanted = self.flows.iter().filter(|flow| flow.is_wanted()).count();
        let known = self.flows.len();
        let begins =
            wish != Redundancy::Off && !self.find(key).is_some_and(|flow| flow.is_wanted());
        if begins && (wanted >= MAX_FLOWS || known >= 2 * MAX_FLOWS) {
            return Err(RequestError::TooManySockets);
        }
        match self.find(key) {
            Some(flow) => {
                if begins {
                    // Another socket with the same port.
                    flow.status = RedundancyStatus::default();
                }
                flow.untold |= flow.wish != wish;
                flow.wish = wish;
                flow.local = local;
                flow.refused = false;
            }
            None if wish == Redundancy::Off => {}
            None => self.flows.push(Flow::new(key, local, wish)),
        }
        Ok(())
    }

    /// What the server grants of what was asked. Less than that is a limit of the server's.
    pub(super) fn granted(&self, answer: &Message<'_>) -> ServiceOutcome {
        let copies = answer.redundancy_factor().map(RedundancyFactor::value);
        let is_copies = answer.redundancy_method() == Some(RedundancyMethod::COPIES);
        match (self.asking, copies) {
            (
                Some(Asking {
                    key,
                    asked: Some(asked),
                    ..
                }),
                Some(copies),
            ) if copies <= asked && is_copies => {
                ServiceOutcome::Granted(ServiceGrant::Redundancy { flow: key, copies })
            }
            _ => ServiceOutcome::Unusable,
        }
    }

    /// The request under way is over: what the application is to be told, if anything.
    fn over(&mut self, now: Instant, outcome: &ServiceOutcome) -> Option<Event> {
        let Asking { key, asked, is_old } = self.asking.take()?;
        let flow = self.find(key)?;
        let had = flow.granted().is_some();
        flow.held = match (outcome, asked) {
            (_, _) if is_old => Held::Unknown,
            (ServiceOutcome::Granted(ServiceGrant::Redundancy { copies, .. }), Some(asked)) => {
                Held::Granted {
                    copies: *copies,
                    asked,
                }
            }
            (ServiceOutcome::Ended, _) => Held::Nothing,
            // What was not to be had at all.
            (ServiceOutcome::Refused(_), Some(_)) if !had => {
                flow.refused = true;
                Held::Nothing
            }
            // Whoever does not know the service holds none.
            (ServiceOutcome::Refused(_), None) => Held::Nothing,
            _ => Held::Unknown,
        };
        let granted = flow.granted();
        let is_settled = flow.held != Held::Unknown;
        let is_news = granted.is_some() != had || (flow.untold && is_settled && asked.is_some());
        let event = (flow.is_wanted() && is_news).then(|| {
            flow.untold &= !is_settled;
            flow.event(is_available(outcome), granted.is_some())
        });
        if let Some(group) = &mut self.group {
            if let (Some(copies), Some(asked)) = (granted, asked) {
                group.limit(copies, asked);
            }
            group.until = None;
        }
        if !self.is_in_force()
            && let Some(group) = &mut self.group
        {
            group.until = Some(now + STRAGGLERS);
        }
        event
    }

    /// What is told of wishes that are fulfilled without asking the server for anything.
    fn fulfilled(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        for place in 0..self.flows.len() {
            let is_so = self.flows.get(place).is_some_and(|flow| {
                flow.untold && flow.granted().is_some() && flow.asked() == self.wanted(flow)
            });
            if is_so && let Some(flow) = self.flows.get_mut(place) {
                flow.untold = false;
                events.push(flow.event(true, true));
            }
        }
        events
    }

    /// The tunnel has another transport, on which the service is in force or not.
    fn resumed(&mut self, is_active: bool) -> Vec<Event> {
        if let Some(asking) = &mut self.asking {
            asking.is_old = !is_active;
        }
        let mut events = Vec::new();
        for flow in &mut self.flows {
            flow.refused = false;
            if is_active {
                continue;
            }
            if flow.granted().is_some() && flow.is_wanted() {
                events.push(flow.event(true, false));
                // And what comes of asking again.
                flow.untold = true;
            }
            flow.held = Held::Nothing;
        }
        if !is_active && self.asking.is_none() {
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
    /// There is no tunnel, or [`MAX_FLOWS`] sockets want this.
    pub fn set_redundancy(
        &mut self,
        now: Instant,
        key: FlowKey,
        local: SocketAddr,
        wish: Redundancy,
    ) -> Result<(), RequestError> {
        self.open_tunnel()?
            .services
            .redundancy
            .wish(key, local, wish)?;
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
        let flow = flows
            .iter()
            .find(|flow| flow.key == key && flow.is_wanted())?;
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
        let sockets = &mut tunnel.services.redundancy;
        let next = sockets.next();
        let fulfilled = sockets.fulfilled();
        self.events.extend(fulfilled);
        let Some((key, local, asked)) = next else {
            return;
        };
        let method = if is_stream {
            RedundancyMethod::FAN_OUT
        } else {
            RedundancyMethod::COPIES
        };
        let factor = asked.and_then(|copies| RedundancyFactor::new(copies).ok());
        let details = [
            Some(key.tlv(local)),
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
        sockets.asking = Some(Asking {
            key,
            asked,
            is_old: false,
        });
        // Frames may come before the answer.
        if asked.is_some() && !sockets.is_in_force() {
            sockets.group = Some(Group::new());
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
