//! The client's end: one tunnel, from the first attempt to the last.
//!
//! The machine decides where to connect, when to try again, and when to give up; it asks its owner for
//! transports by [`Event::Open`] and names each by an [`Epoch`]. The owner feeds it the units that `tpl` has
//! decoded, and drains [`poll_transmit`](Client::poll_transmit), [`poll_event`](Client::poll_event) and
//! [`poll_timeout`](Client::poll_timeout) after each input. Inner packets that the owner sends do not pass
//! through the machine: [`can_send`](Client::can_send) says where they go, and
//! [`note_sent`](Client::note_sent) tells the machine that some went.

mod answer;
mod binding;
mod config;
mod control;
mod event;
mod family;
mod plan;
mod probe;
mod race;
mod seek;
mod service;
mod tunnel;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tsc_tpl::{CmType, FramingError, IpPacket, Sequence, Unit};

use self::binding::BindingTime;
pub use self::config::{
    AddressWish, ClientConfig, ClientConfigError, Endpoint, MAX_TARGETS, RACE_DELAY, RetryPolicy,
    Target,
};
pub use self::event::{
    AttemptFailure, CloseReason, DownReason, DropReason, Epoch, Event, Fresh, Inbound, Refusal,
    RequestError, RequestId, ServiceOutcome, Stats, SuspendReason, Transmit, TransportFailure,
    TransportLoss,
};
pub use self::family::{ENCRYPTED_TUNNEL, Family, MAX_TUNNELS, Outgoing, RandomSource};
use self::plan::Plan;
pub use self::plan::{MAX_ADDRESSES, MAX_GIVEN_TARGETS};
pub use self::race::{ASK_PATIENCE, HEAD_START, MAX_RACING, URGENT};
use self::race::{Attempt, Seeker, Why};
pub use self::service::{
    Direct, Encryption, MAX_DIRECT_PACKET, MAX_PEERS, PathId, PeerEvent, PeerGuest, PeerStatus,
    PeerTransmit, Placement, Redundancy, RedundancyStatus, TunnelTransport,
};
pub use self::tunnel::PROBE_AFTER;
use self::tunnel::{Asked, Link, Tunnel};
use crate::assignment::Assignment;
use crate::companion::Claim;
use crate::random::{BoxedRandom, Random};
pub use crate::redundancy::{MAX_WAYS, Spread};
use crate::transaction::{Request, Schedule, Step};
pub use crate::transport::BadUnit;
use crate::transport::Transport;
use crate::wire;

/// Most messages that wait for [`Client::poll_transmit`]; further ones are dropped, as a network would drop
/// them. Owners drain after each input and never come near.
pub const MAX_QUEUED_TRANSMITS: usize = 64;
/// Most addresses of configured servers that are remembered for judging redirects.
pub const MAX_KNOWN_HOSTS: usize = 256;

/// The client's end of one tunnel.
pub struct Client {
    config: ClientConfig,
    /// Of a companion: what it is.
    claim: Option<Claim>,
    random: BoxedRandom,
    state: State,
    plan: Plan,
    known_hosts: Vec<IpAddr>,
    /// There is no network to try anything on.
    paused: bool,
    background: bool,
    next_epoch: u32,
    /// Of our requests; random start, kept across resume (spec 4).
    next_sequence: Sequence,
    next_request: u32,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
    /// For the paths of peer tunnels.
    peer_transmits: VecDeque<PeerTransmit>,
    stats: Stats,
}

#[derive(Debug)]
enum State {
    Idle,
    /// No tunnel yet.
    Connecting(Seeker),
    /// The tunnel exists, bound or looking for a transport.
    Up(Box<Tunnel>),
    Down,
}

impl Client {
    /// Checks the configuration and makes a client that does nothing yet.
    ///
    /// # Errors
    ///
    /// The first thing in the configuration that cannot be used.
    pub fn new(config: ClientConfig, random: BoxedRandom) -> Result<Self, ClientConfigError> {
        Self::with_claim(config, None, random)
    }

    fn with_claim(
        config: ClientConfig,
        claim: Option<Claim>,
        mut random: BoxedRandom,
    ) -> Result<Self, ClientConfigError> {
        config.check()?;
        let mut known_hosts = config.known_hosts.clone();
        known_hosts.truncate(MAX_KNOWN_HOSTS);
        Ok(Self {
            plan: Plan::new(&config.targets, config.retry, config.lookup),
            known_hosts,
            paused: false,
            background: false,
            state: State::Idle,
            next_epoch: 0,
            next_sequence: Sequence(random.u32()),
            next_request: 0,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            peer_transmits: VecDeque::new(),
            stats: Stats::default(),
            random,
            config,
            claim,
        })
    }

    /// Begins to connect. Harmless when called again.
    pub fn start(&mut self, now: Instant) {
        if matches!(self.state, State::Idle) {
            let deadline = now + self.config.connect_timeout;
            let mut seeker = Seeker::new(Why::First, now, deadline);
            if let Some(first) = self.config.first {
                seeker.head_start = true;
                self.plan.begin(Some(first));
            }
            self.state = State::Connecting(seeker);
            self.look_further(now);
        }
    }

    /// Reports where a configured target is, as [`Event::Resolve`] asks: at these addresses, in order of preference; the first
    /// [`MAX_ADDRESSES`] are tried. Redirects on clear transports are followed to them only, unless the configuration says
    /// otherwise. None at all is a failure.
    pub fn resolved(&mut self, now: Instant, target: Target, addresses: &[SocketAddr]) {
        let hosts: Vec<IpAddr> = addresses.iter().map(SocketAddr::ip).collect();
        self.learn_hosts(&hosts);
        let ways: Vec<_> = addresses.iter().copied().map(Some).collect();
        self.target_found(now, target, &ways);
    }

    /// Reports that whoever opens transports to a target finds it by its name, as a proxy does: there is one way.
    pub fn resolved_by_name(&mut self, now: Instant, target: Target) {
        self.target_found(now, target, &[None]);
    }

    /// Reports that it could not be found out where a configured target is.
    pub fn not_resolved(&mut self, now: Instant, target: Target, failure: TransportFailure) {
        self.target_not_found(now, target, failure);
    }

    /// Reports that configured servers are at these addresses, where the owner looks for them itself. Redirects on clear
    /// transports are followed to them only, unless the configuration says otherwise.
    pub fn learn_hosts(&mut self, addresses: &[IpAddr]) {
        for address in addresses.iter().map(IpAddr::to_canonical) {
            if self.known_hosts.len() < MAX_KNOWN_HOSTS && !self.known_hosts.contains(&address) {
                self.known_hosts.push(address);
            }
        }
    }

    /// Reports that the transport asked for is open: its handshake is done, bytes can be sent.
    pub fn transport_opened(&mut self, now: Instant, epoch: Epoch) {
        self.attempt_opened(now, epoch);
    }

    /// Reports that the transport asked for could not be opened.
    pub fn transport_failed(&mut self, now: Instant, epoch: Epoch, failure: TransportFailure) {
        self.attempt_failed(now, epoch, AttemptFailure::Transport(failure), false);
    }

    /// Reports that an open transport is gone.
    pub fn transport_lost(&mut self, now: Instant, epoch: Epoch, why: TransportLoss) {
        if self.attempt(epoch).is_some() {
            self.attempt_failed(now, epoch, AttemptFailure::Lost, false);
        } else if self.link(epoch).is_some() {
            self.lose_link(now, SuspendReason::Lost(why), None);
        }
    }

    /// Feeds one unit that came over a transport.
    pub fn handle_unit<'a>(&mut self, now: Instant, epoch: Epoch, unit: Unit<'a>) -> Inbound<'a> {
        match unit {
            Unit::Ip(packet) => self.handle_packet(now, epoch, packet),
            Unit::Control(message) => self.handle_control(now, epoch, &message),
            Unit::Redundancy(frame) => self.handle_frame(now, epoch, frame),
            Unit::Reserved(_) => self.unexpected_frame(now, epoch),
        }
    }

    /// Reports that a transport delivered something that is no unit: on streams the end of the transport, on
    /// datagram transports one drop.
    pub fn handle_bad_unit(&mut self, now: Instant, epoch: Epoch, bad: BadUnit) {
        if self.attempt(epoch).is_none() && self.link(epoch).is_none() {
            self.stats.stale += 1;
            return;
        }
        self.stats.bad_units += 1;
        if let BadUnit::Framing(error) = bad {
            self.framing_error(now, epoch, error);
        }
    }

    /// The transport that inner packets go to; `None` while there is none: drop and count, or hold back.
    #[must_use]
    #[inline]
    pub fn can_send(&self) -> Option<Epoch> {
        match &self.state {
            State::Up(tunnel) if tunnel.release_until.is_none() => {
                tunnel.link.as_ref().map(|link| link.epoch)
            }
            State::Up(_) | State::Idle | State::Connecting(_) | State::Down => None,
        }
    }

    /// Reports that inner packets were put on the transport. Once for a batch is enough.
    #[inline]
    pub fn note_sent(&mut self, now: Instant) {
        if let State::Up(tunnel) = &mut self.state
            && let Some(link) = &mut tunnel.link
        {
            link.note_sent(now);
        }
    }

    /// Reports that the host's network changed: the binding is checked at once, and waits of our own end.
    pub fn network_changed(&mut self, now: Instant) {
        self.paused = false;
        let under_way = self.seeker().map(Seeker::ways).unwrap_or_default();
        self.plan.end_backoff(&under_way);
        match &mut self.state {
            State::Up(tunnel) => {
                tunnel.upgrade.network_changed(now);
                tunnel.binding_time = BindingTime::default();
                if tunnel.link.is_some() {
                    self.send_keepalive(now);
                }
                self.end_wait(now);
                self.probe_peers(now);
            }
            State::Connecting(_) => self.end_wait(now),
            State::Idle | State::Down => {}
        }
    }

    /// Reports that new transports would go over another network than the tunnel's does: one is looked for, and takes the tunnel
    /// over while the old one still works, if it does.
    ///
    /// `first` is what worked last on that network.
    pub fn relocate(&mut self, now: Instant, first: Option<Target>) {
        self.network_changed(now);
        // Whoever has been asked to move the tunnel may have done it.
        if self.seeker().is_some_and(Seeker::is_asking) {
            return;
        }
        self.stop_looking_beside();
        self.look_beside(now, Why::Move, first);
    }

    /// Says whether anybody uses the application. In the background the client is as silent as the server and the NATs on the way
    /// allow: it has the server send the Keepalives where that offers the service, and is told so by [`Event::Service`]. On the way
    /// back the binding is checked at once.
    pub fn set_background(&mut self, now: Instant, background: bool) {
        if std::mem::replace(&mut self.background, background) == background {
            return;
        }
        self.want_server_keepalive(now, background);
        if !background {
            self.send_keepalive(now);
        }
    }

    /// Reports that the host has no network at all: nothing is tried until [`Self::network_changed`] or [`Self::relocate`].
    pub fn network_gone(&mut self) {
        self.paused = true;
    }

    /// Releases the tunnel. [`Event::Down`] follows when the server has answered, after the last transmission, or
    /// at `deadline`, whichever comes first; at once where there is no tunnel or no transport.
    pub fn release(&mut self, now: Instant, deadline: Instant) {
        let sequence = self.next_sequence;
        match &mut self.state {
            // While it moves the request goes with it.
            State::Up(tunnel)
                if deadline > now
                    && (tunnel.link.is_some()
                        || tunnel.seeker.as_ref().is_some_and(Seeker::is_asking)) =>
            {
                if tunnel.release_until.is_some() {
                    return;
                }
                tunnel.release_until = Some(deadline);
                tunnel.requests.clear();
                let bytes = wire::release_request(tunnel.assignment.tsid, sequence, None);
                let answer = CmType::CONFIGURATION_RELEASE_RESPONSE;
                match bytes {
                    Some(bytes) => self.ask(now, Asked::Release, answer, bytes, Schedule::release),
                    None => self.down(DownReason::Released { confirmed: false }),
                }
            }
            State::Down => {}
            State::Up(_) | State::Idle | State::Connecting(_) => {
                self.down(DownReason::Released { confirmed: false });
            }
        }
    }

    /// What the server assigned, once there is a tunnel.
    #[must_use]
    pub fn assignment(&self) -> Option<&Assignment> {
        match &self.state {
            State::Up(tunnel) => Some(&tunnel.assignment),
            State::Idle | State::Connecting(_) | State::Down => None,
        }
    }

    /// The round trip to the server, smoothed over the Keepalives that were answered on this transport; `None` before one was.
    #[must_use]
    pub fn round_trip(&self) -> Option<Duration> {
        match &self.state {
            State::Up(tunnel) => tunnel.link.as_ref()?.round_trip,
            State::Idle | State::Connecting(_) | State::Down => None,
        }
    }

    /// Next bytes for a transport; call until `None`.
    #[must_use]
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// Next event; call until `None`. One input adds a handful.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due; `None` is never.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Connecting(seeker) => Some(self.seek_due(seeker)),
            State::Up(tunnel) => {
                let seek = tunnel.seeker.as_ref().map(|seeker| self.seek_due(seeker));
                seek.into_iter().chain(tunnel.deadline()).min()
            }
            State::Idle | State::Down => None,
        }
    }

    fn seek_due(&self, seeker: &Seeker) -> Instant {
        if self.paused {
            seeker.due_of_attempts()
        } else {
            seeker.due()
        }
    }

    /// Advances time. Calling it early or twice is harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.seek_timeout(now);
        self.request_timeout(now);
        let State::Up(tunnel) = &mut self.state else {
            return;
        };
        tunnel.inbox.expire(now);
        if tunnel.release_until.is_some_and(|until| until <= now) {
            return self.down(DownReason::Released { confirmed: false });
        }
        let due = tunnel
            .link
            .as_ref()
            .and_then(Link::keepalive_due)
            .is_some_and(|due| due <= now);
        if due && tunnel.release_until.is_none() {
            self.send_keepalive(now);
        }
        self.redundancy_timeout(now);
        self.datagrams_timeout(now);
        self.encryption_timeout(now);
        self.peer_timeout(now);
        self.silence_timeout(now);
        self.look_beside_if_due(now);
    }

    /// Looks for another transport where the one there is does not answer, or is a stream where datagrams are wanted.
    fn look_beside_if_due(&mut self, now: Instant) {
        let State::Up(tunnel) = &self.state else {
            return;
        };
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if is_due(tunnel.doubtful_from()) {
            self.look_beside(now, Why::Doubt, None);
        } else if is_due(tunnel.upgrade_due()) {
            self.look_beside(now, Why::Upgrade, None);
        }
    }

    /// Counters.
    #[must_use]
    pub const fn stats(&self) -> Stats {
        self.stats
    }

    fn handle_packet<'a>(
        &mut self,
        now: Instant,
        epoch: Epoch,
        packet: IpPacket<'a>,
    ) -> Inbound<'a> {
        // Inner packets may overtake the answer to a resume on the new transport (spec 5).
        let State::Up(tunnel) = &mut self.state else {
            return self.drop_unit(DropReason::StaleEpoch);
        };
        if !tunnel.takes_from(epoch) {
            return self.drop_unit(DropReason::StaleEpoch);
        }
        let destination = packet.destination();
        let own = tunnel.owns(destination);
        if !own && !tunnel.services.routes(destination) {
            return self.drop_unit(DropReason::Destination);
        }
        self.stats.delivered += 1;
        self.heard_over(now, epoch);
        if own {
            Inbound::Deliver(packet)
        } else {
            Inbound::Routed(packet)
        }
    }

    /// An authentic unit came over a transport: a sign of life of the one that the tunnel has.
    fn heard_over(&mut self, now: Instant, epoch: Epoch) {
        if self.link(epoch).is_some() {
            self.heard(now);
        }
    }

    /// Spec 6: a frame of a service that is not in force is an error of section 2.
    fn unexpected_frame<'a>(&mut self, now: Instant, epoch: Epoch) -> Inbound<'a> {
        let attempt = self.attempt(epoch).map(Attempt::target);
        let Some(target) = attempt.or_else(|| self.link(epoch).map(|link| link.target)) else {
            return self.drop_unit(DropReason::StaleEpoch);
        };
        self.stats.bad_units += 1;
        if !target.transport.is_stream() {
            return Inbound::Dropped(DropReason::UnexpectedFrame);
        }
        if attempt.is_some() {
            self.attempt_failed(
                now,
                epoch,
                AttemptFailure::Unusable("a data frame before the answer"),
                true,
            );
        } else {
            self.lose_link(
                now,
                SuspendReason::UnexpectedFrame,
                Some(CloseReason::UnexpectedFrame),
            );
        }
        Inbound::Dropped(DropReason::UnexpectedFrame)
    }

    fn framing_error(&mut self, now: Instant, epoch: Epoch, error: FramingError) {
        if self.attempt(epoch).is_some() {
            self.attempt_failed(now, epoch, AttemptFailure::Framing(error), true);
        } else {
            self.lose_link(
                now,
                SuspendReason::Framing(error),
                Some(CloseReason::Framing(error)),
            );
        }
    }

    /// Sends a request of the tunnel, or keeps it for the next transport. `bytes` bear `next_sequence`.
    fn ask(
        &mut self,
        now: Instant,
        what: Asked,
        answer: CmType,
        bytes: Bytes,
        schedule: fn(bool) -> Schedule,
    ) {
        let sequence = self.next_sequence;
        self.next_sequence = sequence.next();
        let State::Up(tunnel) = &mut self.state else {
            return;
        };
        let link = tunnel.link.as_mut();
        let stream = link
            .as_ref()
            .is_none_or(|link| link.target.transport.is_stream());
        tunnel.requests.push(Request::sent(
            now,
            what,
            sequence,
            answer,
            bytes.clone(),
            schedule(stream),
        ));
        if let Some(link) = link {
            link.note_sent(now);
            let epoch = link.epoch;
            self.transmit(epoch, bytes);
        }
    }

    /// Repeats or gives up the tunnel's requests.
    fn request_timeout(&mut self, now: Instant) {
        let State::Up(tunnel) = &mut self.state else {
            return;
        };
        let Some(link) = &mut tunnel.link else {
            return;
        };
        let epoch = link.epoch;
        let mut repeats = Vec::new();
        let mut failed = Vec::new();
        tunnel
            .requests
            .retain_mut(|request| match request.poll(now) {
                Step::Wait => true,
                Step::Retransmit(bytes) => {
                    repeats.push(bytes);
                    true
                }
                Step::Failed => {
                    failed.push(request.what);
                    false
                }
            });
        if !repeats.is_empty() {
            link.note_sent(now);
        }
        for bytes in repeats {
            self.stats.retransmissions += 1;
            self.transmit(epoch, bytes);
        }
        for what in failed {
            match what {
                // The transport lives, only the answer is still owed: ask again.
                Asked::Keepalive if self.link(epoch).is_some_and(|link| link.heard) => {
                    self.send_keepalive(now);
                }
                Asked::Keepalive => {
                    let close = Some(CloseReason::KeepaliveFailure);
                    self.lose_link(now, SuspendReason::KeepaliveFailure, close);
                }
                Asked::Release => self.down(DownReason::Released { confirmed: false }),
                Asked::Service(request, service) => self.service_over(now, request, service, None),
            }
        }
    }

    /// Sends a Keepalive, unless one is on its way.
    fn send_keepalive(&mut self, now: Instant) {
        let sequence = self.next_sequence;
        let State::Up(tunnel) = &mut self.state else {
            return;
        };
        let link = tunnel
            .link
            .as_ref()
            .filter(|_| tunnel.release_until.is_none());
        let Some(transport) = link.map(|link| link.target.transport) else {
            return;
        };
        let silence = silence_on(transport, tunnel, self.background, &mut self.random);
        if tunnel.has_keepalive() {
            return;
        }
        let Some(link) = &mut tunnel.link else {
            return;
        };
        link.silence = silence;
        link.heard = false;
        link.asked_at = Some(now);
        link.idle = link.idle(now);
        let Some(bytes) = wire::keepalive(tunnel.assignment.tsid, sequence) else {
            return;
        };
        tunnel.last_keepalive = Some(sequence);
        self.stats.keepalives += 1;
        self.ask(
            now,
            Asked::Keepalive,
            CmType::KEEPALIVE_RESPONSE,
            bytes,
            Schedule::keepalive,
        );
    }

    fn transmit(&mut self, epoch: Epoch, bytes: Bytes) {
        if self.transmits.len() < MAX_QUEUED_TRANSMITS {
            self.transmits.push_back(Transmit { epoch, bytes });
        }
    }

    fn drop_unit<'a>(&mut self, reason: DropReason) -> Inbound<'a> {
        let counter = match reason {
            DropReason::StaleEpoch => &mut self.stats.stale,
            DropReason::Destination => &mut self.stats.wrong_destination,
            DropReason::WrongTsid => &mut self.stats.wrong_tsid,
            DropReason::Unmatched => &mut self.stats.unmatched,
            DropReason::Message(_) => &mut self.stats.message_errors,
            DropReason::UnexpectedFrame
            | DropReason::FarFrame
            | DropReason::Repeat
            | DropReason::Unexpected => &mut self.stats.other_drops,
        };
        *counter += 1;
        Inbound::Dropped(reason)
    }

    /// The end: closes what is open and says why.
    fn down(&mut self, reason: DownReason) {
        let state = std::mem::replace(&mut self.state, State::Down);
        let (link, seeker) = match state {
            State::Up(tunnel) => {
                self.end_peers(tunnel.services);
                (tunnel.link, tunnel.seeker)
            }
            State::Connecting(seeker) => (None, Some(seeker)),
            State::Idle => (None, None),
            State::Down => return,
        };
        let attempts = seeker.iter().flat_map(|seeker| seeker.attempts.iter());
        let link = link.map(|link| link.epoch);
        for epoch in link
            .into_iter()
            .chain(attempts.map(|attempt| attempt.epoch))
        {
            self.events.push_back(Event::Close {
                epoch,
                reason: CloseReason::TunnelDown,
            });
        }
        tracing::debug!(%reason, "tunnel down");
        self.events.push_back(Event::Down(reason));
    }

    fn link(&self, epoch: Epoch) -> Option<&Link> {
        match &self.state {
            State::Up(tunnel) => tunnel.link.as_ref().filter(|link| link.epoch == epoch),
            State::Idle | State::Connecting(_) | State::Down => None,
        }
    }
}

/// See [`binding::silence`]: what NATs keep of streams is hours. While the server sends the Keepalives silence is for ever, but for
/// a NAT that forgets between two of them.
fn silence_on(
    transport: Transport,
    tunnel: &Tunnel,
    background: bool,
    random: &mut dyn Random,
) -> Option<Duration> {
    let binding = (!transport.is_stream()).then_some(&tunnel.binding_time);
    if let Some(interval) = tunnel.server_keepalive() {
        let between = interval / 2;
        let silence = binding?.silence(between);
        return (silence < between).then_some(silence);
    }
    binding::silence(tunnel.assignment.keepalive, background, binding, random)
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("state", &self.state)
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}
