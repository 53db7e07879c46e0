//! Dynamic tunnel traffic encryption: which sockets of a clear tunnel want a protected one, and where they are (spec 7, "DTTE").
//!
//! ```text
//!   wish --request--> grant with the right to a companion --> the family claims it --> confirmed: sockets move there
//!    ^                                                                                    |
//!    '-- over: asked for again after a rest <-- or resumed: as if nothing had been <-- lost: 5 s later sockets that may go back
//! ```
//!
//! The companion has inner addresses of its own, so that each move changes the socket's address: there are as few as possible, and
//! none for what may pass by itself. Where a socket is, is told by [`Event::SocketPlaced`]; nothing but that address decides which
//! tunnel carries a packet.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tsc_tpl::{Message, ServiceType};

use super::super::event::{Event, RequestError, ServiceOutcome};
use super::super::{Client, State};
use super::flows::{self, Flows, Wish, is_available};
use super::retries::Retries;
use crate::companion::{CompanionRole, Offer};
use crate::flow::{FlowKey, InnerTransport};
use crate::service::ServiceGrant;

const ENABLE: ServiceType = ServiceType::ENABLE_DTTE;

/// How long a companion may be without a transport before sockets that prefer it go back to the main tunnel.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest that it must then work before they return.
const LONGEST_PROOF: Duration = Duration::from_secs(60);
/// The last socket has gone: its last words, and packets on their way to it, have this time.
const LINGER: Duration = Duration::from_secs(10);

/// Whether a socket's packets are to be encrypted between this host and the server (`tsc_so_tunnel_transport_encryption` of the
/// patent). On a tunnel over TLS or DTLS all are, whatever the level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Encryption {
    /// As the tunnel is.
    #[default]
    Default,
    /// They need not be: the socket is on the main tunnel.
    Unencrypted,
    /// They must be: where there is no encrypted tunnel, nothing is sent.
    Only,
    /// They are where that can be had, and else go over the main tunnel as it is.
    Preferred,
}

impl Encryption {
    /// Whether an encrypted tunnel is of use.
    #[must_use]
    pub const fn is_wanted(self) -> bool {
        matches!(self, Self::Only | Self::Preferred)
    }
}

/// What a socket wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Level {
    encryption: Encryption,
    /// Its peer knows it by the address that it has.
    connected: bool,
}

impl Wish for Level {
    fn is_wanted(self) -> bool {
        self.encryption.is_wanted()
    }
}

/// Where a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// On the main tunnel, with an address of that.
    Main,
    /// On the encrypted companion, with an address of that: [`Family::companion`](super::super::family::Family::companion).
    Encrypted,
    /// Nowhere: it must not send, and nothing that comes is its own.
    Nowhere,
}

/// What the owner was told of a socket.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    placement: Option<Placement>,
    enabled: bool,
}

type Flow = flows::Flow<Level, Told>;

/// The service of one tunnel.
#[derive(Debug)]
pub(super) struct Encrypted {
    flows: Flows<Level, Told>,
    path: Path,
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
    /// It was granted, and has not worked yet.
    Opening,
    /// It works.
    Works {
        since: Instant,
        /// Until when it is on proof, with only those sockets that have nowhere else to go.
        proves: Option<Instant>,
        /// When it ends; set while no socket wants it.
        ends: Option<Instant>,
    },
    /// It has worked, and looks for another transport, or may have to.
    Lost {
        /// Until when sockets wait for it that could go back.
        patient: Option<Instant>,
    },
}

impl Default for Encrypted {
    fn default() -> Self {
        Self {
            flows: Flows::new(ENABLE),
            path: Path::None { rests: None },
            offer: None,
            retries: Retries::new(LONGEST_PROOF),
        }
    }
}

/// What is connected stays where that was done (spec 7).
fn is_fixed(flow: &Flow) -> bool {
    let is_connected = flow.wish.connected || flow.key.transport == InnerTransport::Tcp;
    let stays = match flow.status.placement {
        Some(Placement::Main) => flow.wish.encryption != Encryption::Only,
        Some(Placement::Encrypted) => true,
        Some(Placement::Nowhere) | None => false,
    };
    is_connected && stays
}

/// Where the socket is, and what is told with it.
const fn placed(flow: &Flow, enabled: Option<bool>) -> Event {
    Event::SocketPlaced {
        key: flow.key,
        local: flow.local,
        placement: flow.status.placement,
        enabled,
    }
}

/// Whether the companion is of use to it.
fn needs(flow: &Flow) -> bool {
    let stays = is_fixed(flow) && flow.status.placement == Some(Placement::Main);
    flow.is_wanted() && !stays
}

impl Path {
    /// Whether a socket of this level has its address, while the server has granted that.
    const fn holds(self, level: Encryption) -> bool {
        match self {
            Self::None { .. } | Self::Opening => false,
            Self::Works { proves: None, .. } | Self::Lost { patient: Some(_) } => true,
            Self::Works { .. } | Self::Lost { patient: None } => matches!(level, Encryption::Only),
        }
    }

    /// Whether it may still come to work without a rest.
    const fn is_open(self) -> bool {
        matches!(self, Self::None { rests: None } | Self::Opening)
    }

    /// Where the socket is to be; `None` for a connection of which that is not decided yet.
    fn placement(self, flow: &Flow, protected: bool) -> Option<Placement> {
        if is_fixed(flow) {
            return flow.status.placement;
        }
        if protected || !flow.is_wanted() {
            return Some(Placement::Main);
        }
        let granted = flow.granted().is_some();
        if granted && self.holds(flow.wish.encryption) {
            return Some(Placement::Encrypted);
        }
        let may_come = self.is_open() || (!granted && self.holds(flow.wish.encryption));
        let is_connection = flow.key.transport == InnerTransport::Tcp;
        match flow.wish.encryption {
            _ if is_connection && may_come && !flow.is_refused() => None,
            Encryption::Only => Some(Placement::Nowhere),
            Encryption::Default | Encryption::Unencrypted | Encryption::Preferred => {
                Some(Placement::Main)
            }
        }
    }

    /// How much of the service a socket is to have: all that there is, or nothing.
    fn wanted(self, flow: &Flow, first: Option<FlowKey>, protected: bool) -> Option<u8> {
        let may = match self {
            _ if protected => false,
            // One asks, and the others when there is a companion.
            // What is still held was granted with a companion that is gone: it ends first.
            Self::None { rests: None } => first == Some(flow.key) && flow.granted().is_none(),
            Self::None { rests: Some(_) } => false,
            // The server takes a request for a companion that it has not heard of as the wish for another.
            Self::Opening | Self::Lost { .. } => flow.granted().is_some(),
            Self::Works { .. } => true,
        };
        (may && needs(flow)).then_some(0)
    }
}

impl Encrypted {
    /// Tells of what is not as it was told last. `answered` is the socket that the server has just answered about, and whether it
    /// offers the service.
    fn news(&mut self, protected: bool, answered: Option<(FlowKey, bool)>) -> Vec<Event> {
        let path = self.path;
        let is_open = path.is_open();
        let has_failed = matches!(path, Path::None { rests: Some(_) });
        let mut events = Vec::new();
        for flow in self.flows.iter_mut() {
            let placement = path.placement(flow, protected);
            let moves = placement.is_some() && flow.status.placement != placement;
            flow.status.placement = placement.or(flow.status.placement);
            if !flow.is_wanted() {
                flow.status.enabled = false;
                events.extend(moves.then(|| placed(flow, None)));
                continue;
            }
            let enabled = protected || placement == Some(Placement::Encrypted);
            let answer = answered.filter(|(key, _)| *key == flow.key);
            // Until a companion has come up or failed there is nothing to tell.
            let is_told = flow.is_refused() || has_failed || (answer.is_some() && !is_open);
            let tells = enabled != flow.status.enabled || (flow.untold && (enabled || is_told));
            if moves || tells {
                events.push(placed(flow, tells.then_some(enabled)));
            }
            if tells {
                flow.status.enabled = enabled;
                flow.untold = false;
                events.push(Event::SocketService {
                    service: ENABLE,
                    available: answer.is_none_or(|(_, available)| available),
                    enabled,
                    local: flow.local,
                });
            }
        }
        events
    }

    /// Grants one companion's worth: what the server offers to be claimed.
    pub(super) fn granted(&mut self, now: Instant, answer: &Message<'_>) -> ServiceOutcome {
        let Some((flow, Some(_))) = self.flows.asking() else {
            return ServiceOutcome::Unusable;
        };
        let offered = Offer::read(answer, CompanionRole::Dtte).next();
        match (offered, self.path) {
            (Some(offer), _) => {
                self.offer = Some(offer);
                self.path = Path::Opening;
                self.addresses_gone();
                // What was granted with the one before is not with this one.
                self.flows.renew(|other| other.key != flow);
            }
            // It has one of ours that we do not.
            (None, Path::None { .. }) => {
                let until = self.retries.rest_from_foreign(now);
                self.rest(until);
            }
            (None, Path::Opening | Path::Works { .. } | Path::Lost { .. }) => {}
        }
        ServiceOutcome::Granted(ServiceGrant::Dtte(flow))
    }

    /// The companion's addresses are gone, and whatever comes has others.
    fn addresses_gone(&mut self) {
        for flow in self.flows.iter_mut() {
            if flow.status.placement != Some(Placement::Encrypted) {
                continue;
            }
            if flow.key.transport == InnerTransport::Tcp {
                // The connection ends with its address.
                flow.wish.encryption = Encryption::Default;
            } else {
                flow.status.placement = None;
            }
        }
    }

    /// Does without a companion until something else may be tried.
    fn rest(&mut self, until: Instant) {
        self.path = Path::None { rests: Some(until) };
        self.offer = None;
    }

    /// When there is something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.path {
            Path::None { rests } => rests,
            Path::Works { proves, ends, .. } => proves.into_iter().chain(ends).min(),
            Path::Lost { patient } => patient,
            Path::Opening => None,
        }
    }

    /// Ends what is over; true if something was.
    fn timeout(&mut self, now: Instant) -> bool {
        let is_over = |at: &mut Instant| *at <= now;
        match &mut self.path {
            Path::None { rests } => rests.take_if(is_over).is_some(),
            Path::Lost { patient } => patient.take_if(is_over).is_some(),
            Path::Works { proves, ends, .. } => {
                let proved = proves.take_if(is_over).is_some();
                let ended = ends.is_some_and(|at| at <= now);
                if ended {
                    self.path = Path::None { rests: None };
                    self.retries.forget();
                }
                proved || ended
            }
            Path::Opening => false,
        }
    }

    /// Ends the companion in a while if no socket wants it, and at once if it does not work.
    fn keep_for(&mut self, now: Instant, is_wanted: bool) {
        match &mut self.path {
            Path::Works { ends, .. } if is_wanted => *ends = None,
            Path::Works { ends, .. } => {
                ends.get_or_insert(now + LINGER);
            }
            Path::None { .. } | Path::Opening | Path::Lost { .. } if !is_wanted => {
                self.path = Path::None { rests: None };
                self.offer = None;
                self.retries.forget();
            }
            Path::None { .. } | Path::Opening | Path::Lost { .. } => {}
        }
    }
}

impl Client {
    /// Sets whether the packets of the socket at `local` are to be encrypted; one that is `connected` keeps the address that it has. The
    /// server is asked as soon as it can be;
    /// [`Event::SocketPlaced`] tells where the socket is, and [`Event::SocketService`] what came of the wish.
    pub(in super::super) fn set_encryption(
        &mut self,
        now: Instant,
        key: FlowKey,
        local: SocketAddr,
        encryption: Encryption,
        connected: bool,
    ) -> Result<(), RequestError> {
        let wish = Level {
            encryption,
            connected,
        };
        let encrypted = &mut self.open_tunnel()?.services.encrypted;
        encrypted.flows.wish(key, local, wish)?;
        self.settle_encryption(now);
        Ok(())
    }

    /// Asks for what is wanted and not so.
    pub(super) fn settle_encryption(&mut self, now: Instant) {
        let Ok(tunnel) = self.open_tunnel() else {
            return;
        };
        let protected = tunnel.protected;
        let encrypted = &mut tunnel.services.encrypted;
        let is_wanted = !protected && encrypted.flows.iter().any(needs);
        encrypted.keep_for(now, is_wanted);
        let events = encrypted.news(protected, None);
        let may_ask = |flow: &&Flow| needs(flow) && !flow.is_refused();
        let first = encrypted.flows.iter().find(may_ask).map(|flow| flow.key);
        let path = encrypted.path;
        let next = encrypted
            .flows
            .next(|flow| path.wanted(flow, first, protected));
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
            tunnel.services.encrypted.flows.begun(next);
        }
    }

    /// A request is over.
    pub(super) fn encryption_over(&mut self, outcome: &ServiceOutcome) {
        let State::Up(tunnel) = &mut self.state else {
            return;
        };
        let protected = tunnel.protected;
        let encrypted = &mut tunnel.services.encrypted;
        let granted = matches!(outcome, ServiceOutcome::Granted(_)).then_some(0);
        let Some(over) = encrypted.flows.over(outcome, granted) else {
            return;
        };
        let answered = over.asked.map(|_| (over.key, is_available(outcome)));
        let events = encrypted.news(protected, answered);
        self.events.extend(events);
    }

    /// After a resume it is in force if the server lists it; else it is asked for anew (spec 5, "Resume").
    pub(super) fn encryption_resumed(&mut self, now: Instant) {
        let State::Up(tunnel) = &mut self.state else {
            return;
        };
        let is_active = tunnel.assignment.active_services.contains(&ENABLE);
        let encrypted = &mut tunnel.services.encrypted;
        encrypted.flows.resumed(is_active);
        if !is_active {
            encrypted.path = Path::None { rests: None };
            encrypted.offer = None;
            encrypted.addresses_gone();
        }
        self.settle_encryption(now);
    }

    /// Ends rests, proofs and patience.
    pub(in super::super) fn encryption_timeout(&mut self, now: Instant) {
        if let State::Up(tunnel) = &mut self.state
            && tunnel.services.encrypted.timeout(now)
        {
            self.settle_encryption(now);
        }
    }

    /// A companion to be claimed.
    pub(in super::super) fn take_encrypted_offer(&mut self) -> Option<Offer> {
        match &mut self.state {
            State::Up(tunnel) => tunnel.services.encrypted.offer.take(),
            State::Idle | State::Connecting(_) | State::Down => None,
        }
    }

    /// Whether the companion is still needed.
    pub(in super::super) fn needs_encryption(&self) -> bool {
        match &self.state {
            State::Up(tunnel) => !matches!(tunnel.services.encrypted.path, Path::None { .. }),
            State::Idle | State::Connecting(_) | State::Down => false,
        }
    }

    /// The companion works, or does not for now.
    pub(in super::super) fn encryption_works(&mut self, now: Instant, works: bool) {
        let State::Up(tunnel) = &mut self.state else {
            return;
        };
        let encrypted = &mut tunnel.services.encrypted;
        let begins = |proves| Path::Works {
            since: now,
            proves,
            ends: None,
        };
        encrypted.path = match (encrypted.path, works) {
            (Path::Opening | Path::Lost { patient: Some(_) }, true) => begins(None),
            (Path::Lost { patient: None }, true) => begins(Some(encrypted.retries.prove(now))),
            (Path::Works { since, .. }, false) => {
                encrypted.retries.failed(now, since);
                Path::Lost {
                    patient: Some(now + PATIENCE),
                }
            }
            (same, _) => return encrypted.path = same,
        };
        self.settle_encryption(now);
    }

    /// The companion is over, or could not be had.
    pub(in super::super) fn encryption_ended(&mut self, now: Instant) {
        let State::Up(tunnel) = &mut self.state else {
            return;
        };
        let protected = tunnel.protected;
        let encrypted = &mut tunnel.services.encrypted;
        if let Path::Works { since, .. } = encrypted.path {
            encrypted.retries.failed(now, since);
        }
        let until = encrypted.retries.rest(now);
        encrypted.rest(until);
        encrypted.addresses_gone();
        let waiting = encrypted.flows.iter().find(|flow| flow.granted().is_some());
        let answered = waiting.map(|flow| (flow.key, true));
        let events = encrypted.news(protected, answered);
        self.events.extend(events);
        self.settle_encryption(now);
    }

    /// Whether all that the tunnel carries is encrypted, whatever it is resumed on.
    pub(in super::super) fn is_protected(&self) -> bool {
        match &self.state {
            State::Up(tunnel) => tunnel.protected,
            State::Idle | State::Connecting(_) | State::Down => false,
        }
    }

    /// Whether this socket has an address of the companion.
    #[inline]
    pub(in super::super) fn is_encrypted(&self, key: FlowKey) -> bool {
        let State::Up(tunnel) = &self.state else {
            return false;
        };
        let flow = tunnel.services.encrypted.flows.find(key);
        flow.is_some_and(|flow| flow.status.placement == Some(Placement::Encrypted))
    }
}
