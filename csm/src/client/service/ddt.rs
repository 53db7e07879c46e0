//! Dynamic datagram tunnels: which sockets of a stream tunnel want their datagrams beside it, and when they have them (spec 7).
//!
//! ```text
//!   wish --request--> grant with the right to a companion --> the family claims it --> confirmed: in force
//!                                                                       |
//!    <-- the stream again, and the server is told -- in doubt <---------'--> over: asked for again after a rest
//! ```
//!
//! A grant alone moves nothing: until the companion works, everything stays on the stream. The family (`client/family/`) has
//! the companion; it says here what has become of it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tsc_tpl::{Message, ServiceType};

use super::super::event::{Event, RequestError, ServiceOutcome};
use super::super::{Client, State};
use super::flows::{self, Flows, Next, Wish, is_available};
use super::retries::Retries;
use crate::companion::{CompanionRole, Offer};
use crate::flow::FlowKey;
use crate::service::ServiceGrant;
use crate::transport::Transport;

const ENABLE: ServiceType = ServiceType::ENABLE_DDT;

/// The longest that one which was in doubt must work before sockets return to it. A server keeps it for 30 s without any.
const LONGEST_PROOF: Duration = Duration::from_secs(20);

/// Which tunnel carries a socket's datagrams, where there are two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TunnelTransport {
    /// The main tunnel, whatever that runs over.
    #[default]
    Main,
    /// Datagrams: beside a stream a tunnel over UDP or DTLS (DDT), while there is one that works.
    Datagram,
    /// Whichever of the two is better for media, as measured while media passes: the stream until it is bad, and one over UDP or
    /// DTLS that has turned out to be better.
    Automatic,
}

impl Wish for TunnelTransport {
    fn is_wanted(self) -> bool {
        self != Self::Main
    }
}

/// Which tunnel carries the sockets that leave it to this end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in super::super) enum Choice {
    /// The main tunnel, and they need no other.
    #[default]
    Main,
    /// The main tunnel, beside a companion on trial.
    Trial,
    /// The companion.
    Beside,
}

impl Choice {
    /// Whether there is to be a companion.
    fn seeks(self, wish: TunnelTransport) -> bool {
        match wish {
            TunnelTransport::Main => false,
            TunnelTransport::Datagram => true,
            TunnelTransport::Automatic => self != Self::Main,
        }
    }

    /// Whether it is to carry packets.
    fn moves(self, wish: TunnelTransport) -> bool {
        match wish {
            TunnelTransport::Main => false,
            TunnelTransport::Datagram => true,
            TunnelTransport::Automatic => self == Self::Beside,
        }
    }
}

/// What the application was told of a socket.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    enabled: bool,
}

type Flow = flows::Flow<TunnelTransport, Told>;

/// The service of one tunnel.
#[derive(Debug)]
pub(super) struct Datagrams {
    flows: Flows<TunnelTransport, Told>,
    path: Path,
    choice: Choice,
    /// The main tunnel is over datagrams itself: what sockets want is so.
    on_datagrams: bool,
    /// A companion that the family has not seen yet.
    offer: Option<Offer>,
    retries: Retries,
}

/// The companion, as far as this end has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Path {
    /// There is none.
    None {
        /// Until when none is asked for.
        rests: Option<Instant>,
    },
    /// It was granted, and does not work yet.
    Opening,
    /// It works.
    Works {
        since: Instant,
        /// Until when it is on proof, without sockets.
        proves: Option<Instant>,
    },
    /// It has worked, and may not any more.
    Doubtful,
}

impl Default for Datagrams {
    fn default() -> Self {
        Self {
            flows: Flows::new(ENABLE),
            path: Path::None { rests: None },
            choice: Choice::Main,
            on_datagrams: false,
            offer: None,
            retries: Retries::new(LONGEST_PROOF),
        }
    }
}

impl Datagrams {
    /// Whether sockets may be on the companion.
    const fn is_usable(&self) -> bool {
        matches!(self.path, Path::Works { proves: None, .. })
    }

    /// Whether the companion carries the packets of this socket.
    fn carries(&self, flow: &Flow) -> bool {
        self.is_usable() && self.choice.moves(flow.wish) && flow.granted().is_some()
    }

    /// Whether any socket is to have a companion.
    fn is_sought(&self) -> bool {
        let mut flows = self.flows.iter();
        flows.any(|flow| self.choice.seeks(flow.wish))
    }

    /// Does without a companion until something else may be tried.
    fn rest(&mut self, until: Instant) {
        self.path = Path::None { rests: Some(until) };
        self.offer = None;
    }

    /// When there is something to do.
    pub(super) const fn deadline(&self) -> Option<Instant> {
        match self.path {
            Path::None { rests } => rests,
            Path::Works { proves, .. } => proves,
            Path::Opening | Path::Doubtful => None,
        }
    }

    /// Ends rests and proofs that are over; true if one was.
    fn timeout(&mut self, now: Instant) -> bool {
        let ends = match &mut self.path {
            Path::None { rests } => rests,
            Path::Works { proves, .. } => proves,
            Path::Opening | Path::Doubtful => return false,
        };
        ends.take_if(|at| *at <= now).is_some()
    }

    /// A companion to be claimed. One on trial is not before the server holds it for nobody who is to stay on the stream: it would
    /// use it as soon as it works.
    fn take_offer(&mut self) -> Option<Offer> {
        let choice = self.choice;
        let stays = |flow: &Flow| !choice.moves(flow.wish) && flow.is_held();
        if self.flows.iter().any(stays) {
            return None;
        }
        self.offer.take()
    }

    /// No socket wants a companion.
    fn without_companion(&mut self) {
        if !matches!(self.path, Path::None { .. }) {
            self.path = Path::None { rests: None };
        }
        self.offer = None;
        if !self.flows.iter().any(Flow::is_wanted) {
            // What the network was like is for the next sockets to find out.
            self.path = Path::None { rests: None };
            self.retries.forget();
        }
    }

    /// What is to be asked for next.
    fn next(&mut self, is_stream: bool) -> Option<Next> {
        let (path, choice, is_usable) = (self.path, self.choice, self.is_usable());
        let asks = |flow: &&Flow| choice.seeks(flow.wish) && !flow.is_refused();
        let first = self.flows.iter().find(asks).map(|flow| flow.key);
        self.flows.next(|flow| {
            let moves = choice.moves(flow.wish);
            let is_wanted = match path {
                // One asks, and the others when there is a companion.
                // What is still held was granted with a companion that is gone: it ends first.
                Path::None { rests: None } => {
                    is_stream && first == Some(flow.key) && flow.granted().is_none()
                }
                Path::None { rests: Some(_) } | Path::Doubtful => false,
                // During a trial the server is to use the stream: whoever asked for it gives back what came with the companion.
                Path::Opening => moves && flow.granted().is_some(),
                Path::Works { .. } => moves && is_usable,
            };
            is_wanted.then_some(0)
        })
    }

    /// Grants one companion's worth: what the server offers to be claimed.
    pub(super) fn granted(&mut self, now: Instant, answer: &Message<'_>) -> ServiceOutcome {
        let Some((flow, Some(_))) = self.flows.asking() else {
            return ServiceOutcome::Unusable;
        };
        let offered = Offer::read(answer, CompanionRole::Ddt).next();
        match (offered, self.path) {
            (Some(offer), _) => {
                self.offer = Some(offer);
                self.path = Path::Opening;
                // What was granted with the one before is not with this one.
                self.flows.renew(|other| other.key != flow);
            }
            // It has one of ours that we do not.
            (None, Path::None { .. }) => {
                let until = self.retries.rest_from_foreign(now);
                self.rest(until);
            }
            (None, Path::Opening | Path::Works { .. } | Path::Doubtful) => {}
        }
        ServiceOutcome::Granted(ServiceGrant::Ddt(flow))
    }

    /// Tells of what is not as it was told last. `available` is what an answer has just said of it.
    fn news(&mut self, key: Option<FlowKey>, available: bool) -> Vec<Event> {
        let is_usable = self.is_usable();
        // Until a companion has come up or failed there is nothing to tell.
        let is_open = matches!(self.path, Path::Opening);
        let mut events = Vec::new();
        for flow in self.flows.iter_mut().filter(|flow| flow.is_wanted()) {
            let is_beside = is_usable && self.choice.moves(flow.wish) && flow.granted().is_some();
            let enabled = is_beside || self.on_datagrams;
            let is_answered = key == Some(flow.key) && !is_open;
            let untold = flow.untold && (enabled || is_answered);
            if enabled != flow.status.enabled || untold {
                flow.status.enabled = enabled;
                flow.untold = false;
                events.push(Event::SocketService {
                    service: ENABLE,
                    available,
                    enabled,
                    local: flow.local,
                });
            }
        }
        events
    }
}

impl Client {
    /// Sets which tunnel is to carry the datagrams of the socket at `local`, where there are two. The server is asked as soon as it
    /// can be; [`Event::SocketService`] tells what came of it.
    pub(in super::super) fn set_tunnel_transport(
        &mut self,
        now: Instant,
        key: FlowKey,
        local: SocketAddr,
        wish: TunnelTransport,
    ) -> Result<(), RequestError> {
        let datagrams = &mut self.open_tunnel()?.services.datagrams;
        datagrams.flows.wish(key, local, wish)?;
        self.settle_datagrams(now);
        Ok(())
    }

    /// Asks for what is wanted and not so.
    pub(super) fn settle_datagrams(&mut self, now: Instant) {
        let Ok(tunnel) = self.open_tunnel() else {
            return;
        };
        let link = tunnel.link.as_ref();
        // There is nothing to ask for beside datagrams.
        let main = link.map(|link| link.target.transport);
        let is_stream = main.is_none_or(Transport::is_stream);
        let datagrams = &mut tunnel.services.datagrams;
        if let Some(main) = main {
            datagrams.on_datagrams = !main.is_stream();
        }
        if !datagrams.is_sought() {
            datagrams.without_companion();
        }
        let next = datagrams.next(is_stream);
        let events = datagrams.news(None, true);
        self.events.extend(events);
        let Some(next) = next else {
            return;
        };
        let service = if next.asked.is_some() {
            ENABLE
        } else {
            ENABLE.disable()
        };
        let details = [next.key.tlv(next.local)];
        if self.ask_service(now, service, details).is_ok()
            && let Ok(tunnel) = self.open_tunnel()
        {
            tunnel.services.datagrams.flows.begun(next);
        }
    }

    /// A request is over.
    pub(super) fn datagrams_over(&mut self, outcome: &ServiceOutcome) {
        let State::Up(tunnel) = &mut self.state else {
            return;
        };
        let datagrams = &mut tunnel.services.datagrams;
        let granted = matches!(outcome, ServiceOutcome::Granted(_)).then_some(0);
        let Some(over) = datagrams.flows.over(outcome, granted) else {
            return;
        };
        let key = Some(over.key).filter(|_| over.asked.is_some());
        let events = datagrams.news(key, is_available(outcome));
        self.events.extend(events);
    }

    /// After a resume it is in force if the server lists it; else it is asked for anew (spec 5, "Resume").
    pub(super) fn datagrams_resumed(&mut self, now: Instant) {
        let State::Up(tunnel) = &mut self.state else {
            return;
        };
        let is_active = tunnel.assignment.active_services.contains(&ENABLE);
        let datagrams = &mut tunnel.services.datagrams;
        datagrams.flows.resumed(is_active);
        if !is_active {
            datagrams.path = Path::None { rests: None };
            datagrams.offer = None;
        }
        self.settle_datagrams(now);
    }

    /// Ends rests and proofs.
    pub(in super::super) fn datagrams_timeout(&mut self, now: Instant) {
        if let State::Up(tunnel) = &mut self.state
            && tunnel.services.datagrams.timeout(now)
        {
            self.settle_datagrams(now);
        }
    }

    /// A companion to be claimed.
    pub(in super::super) fn take_offer(&mut self) -> Option<Offer> {
        match &mut self.state {
            State::Up(tunnel) => tunnel.services.datagrams.take_offer(),
            State::Idle | State::Connecting(_) | State::Down => None,
        }
    }

    /// Whether there is a companion that sockets may be on.
    pub(in super::super) fn has_companion(&self) -> bool {
        match &self.state {
            State::Up(tunnel) => tunnel.services.datagrams.is_usable(),
            State::Idle | State::Connecting(_) | State::Down => false,
        }
    }

    /// What did not pass on one network may on another.
    pub(in super::super) fn datagrams_network_changed(&mut self, now: Instant) {
        if let State::Up(tunnel) = &mut self.state {
            let datagrams = &mut tunnel.services.datagrams;
            datagrams.retries.forget();
            if let Path::None { rests } = &mut datagrams.path {
                *rests = None;
            }
            self.settle_datagrams(now);
        }
    }

    /// Whether the companion is still needed.
    pub(in super::super) fn needs_companion(&self) -> bool {
        match &self.state {
            State::Up(tunnel) => {
                let datagrams = &tunnel.services.datagrams;
                datagrams.is_sought() && !matches!(datagrams.path, Path::None { .. })
            }
            State::Idle | State::Connecting(_) | State::Down => false,
        }
    }

    /// The companion works, or does not for now.
    pub(in super::super) fn companion_works(&mut self, now: Instant, works: bool) {
        let State::Up(tunnel) = &mut self.state else {
            return;
        };
        let datagrams = &mut tunnel.services.datagrams;
        datagrams.path = match (datagrams.path, works) {
            (Path::Opening, true) => Path::Works {
                since: now,
                proves: None,
            },
            (Path::Doubtful, true) => {
                let proof = datagrams.retries.prove(now);
                Path::Works {
                    since: now,
                    proves: Some(proof),
                }
            }
            (Path::Works { since, .. }, false) => {
                datagrams.retries.failed(now, since);
                Path::Doubtful
            }
            (same, _) => return datagrams.path = same,
        };
        self.settle_datagrams(now);
    }

    /// The companion is over, or could not be had.
    pub(in super::super) fn companion_over(&mut self, now: Instant) {
        let State::Up(tunnel) = &mut self.state else {
            return;
        };
        let datagrams = &mut tunnel.services.datagrams;
        if let Path::Works { since, .. } = datagrams.path {
            datagrams.retries.failed(now, since);
        }
        let until = datagrams.retries.rest(now);
        datagrams.rest(until);
        let waiting = datagrams.flows.iter().find(|flow| flow.granted().is_some());
        let key = waiting.map(|flow| flow.key);
        let events = datagrams.news(key, true);
        self.events.extend(events);
        self.settle_datagrams(now);
    }

    /// Whether the packets of this socket go over the companion.
    #[inline]
    pub(in super::super) fn is_on_companion(&self, key: FlowKey) -> bool {
        let State::Up(tunnel) = &self.state else {
            return false;
        };
        let datagrams = &tunnel.services.datagrams;
        let flow = datagrams.flows.find(key);
        flow.is_some_and(|flow| datagrams.carries(flow))
    }

    /// The sockets that leave it to this end which tunnel carries them, where there is a choice.
    pub(in super::super) fn undecided(&self) -> impl Iterator<Item = FlowKey> {
        let tunnel = match &self.state {
            State::Up(tunnel) => Some(tunnel),
            State::Idle | State::Connecting(_) | State::Down => None,
        };
        let datagrams = tunnel.map(|tunnel| &tunnel.services.datagrams);
        let datagrams = datagrams.filter(|datagrams| !datagrams.on_datagrams);
        let flows = datagrams
            .into_iter()
            .flat_map(|datagrams| datagrams.flows.iter());
        flows
            .filter(|flow| flow.wish == TunnelTransport::Automatic && !flow.is_refused())
            .map(|flow| flow.key)
    }

    /// Decides which tunnel carries those.
    pub(in super::super) fn choose(&mut self, now: Instant, choice: Choice) {
        if let State::Up(tunnel) = &mut self.state {
            tunnel.services.datagrams.choice = choice;
            self.settle_datagrams(now);
        }
    }
}
