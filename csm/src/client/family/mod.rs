//! A main tunnel with its companions: one machine for the owner, whatever it is made of (spec 7, "Companions").
//!
//! ```text
//!              .-- main tunnel --- requests for services, offers of companions
//!   owner -- Family
//!              '-- companion: a tunnel of its own, made by a claim; resumes alone
//! ```
//!
//! Transports are named by epochs as with one tunnel; the highest bits of an epoch say whose it is. Only where a packet goes is
//! asked for each: [`Family::outgoing`].

mod peers;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tsc_tpl::{IpPacket, Limits, RedundancyFrame, ServiceType, Unit};

use super::config::{ClientConfig, ClientConfigError, Endpoint, Target};
use super::event::{
    DownReason, DropReason, Epoch, Event, Inbound, RequestError, RequestId, Stats, Transmit,
    TransportFailure, TransportLoss,
};
use super::service::{Redundancy, RedundancyStatus, TunnelTransport};
use super::{BadUnit, Client, State};
use crate::assignment::Assignment;
use crate::companion::{Claim, CompanionRole, Offer};
use crate::flow::{FlowKey, MAX_FLOWS};
use crate::prefix::Prefix;
use crate::random::BoxedRandom;
use crate::redundancy::{MAX_WAYS, Spread};

/// Where machines get their randomness: each has a source of its own.
pub type RandomSource = Box<dyn FnMut() -> BoxedRandom + Send>;

/// A companion that does not come up in this time is not to be had.
const CLAIM_TIME: Duration = Duration::from_secs(10);

/// Bits of an epoch below those that say whose it is.
const EPOCH_BITS: u32 = 28;

const EPOCH_MASK: u32 = (1 << EPOCH_BITS) - 1;

/// Most tunnels of a family, the main one included.
pub const MAX_TUNNELS: usize = 4;

/// The companions by their place.
const ROLES: [CompanionRole; MAX_TUNNELS - 1] = [
    CompanionRole::Ddt,
    CompanionRole::Redundancy(0),
    CompanionRole::Redundancy(1),
];
const DDT: usize = 0;

impl Epoch {
    /// The place of its tunnel in the family: 0 is the main tunnel, and all are less than [`MAX_TUNNELS`].
    #[must_use]
    pub const fn tunnel(self) -> usize {
        (self.0 >> EPOCH_BITS) as usize % MAX_TUNNELS
    }
}

/// Where a packet of the inner stack goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outgoing {
    ways: [Option<Epoch>; MAX_WAYS],
    /// In the frame that was written, and not as it is.
    pub framed: bool,
    /// Over all of its ways, or over one of them: the owner's choice, by its queues; the first of those that are alike.
    pub spread: Spread,
}

impl Outgoing {
    const fn over(epoch: Epoch, framed: bool) -> Self {
        Self {
            ways: [Some(epoch), None, None],
            framed,
            spread: Spread::All,
        }
    }

    /// The transports, at least one and at most [`MAX_WAYS`].
    pub fn epochs(&self) -> impl Iterator<Item = Epoch> + use<> {
        self.ways.into_iter().flatten()
    }
}

/// A companion, and what the main tunnel was told of it.
#[derive(Debug)]
struct Companion {
    client: Client,
    worked: bool,
}

impl Companion {
    /// Epochs that it has used, and those before it.
    const fn attempts(&self) -> u32 {
        self.client.next_epoch & EPOCH_MASK
    }
}

/// See the module.
pub struct Family {
    main: Client,
    /// By the places of [`ROLES`].
    companions: [Option<Box<Companion>>; MAX_TUNNELS - 1],
    /// Attempts of companions so far.
    next_epoch: u32,
    random: RandomSource,
    /// What sockets want of redundancy, which is asked for where their packets go; at most [`MAX_FLOWS`].
    redundancy: Vec<(FlowKey, SocketAddr, Redundancy)>,
    events: VecDeque<Event>,
    /// When packets came that may have changed something.
    unsettled: Option<Instant>,
    /// Those of companions that are gone, and of companions that have sent their last.
    transmits: VecDeque<Transmit>,
}

impl Family {
    /// As [`Client::new`].
    ///
    /// # Errors
    ///
    /// The first thing in the configuration that cannot be used.
    pub fn new(config: ClientConfig, mut random: RandomSource) -> Result<Self, ClientConfigError> {
        Ok(Self {
            main: Client::new(config, random())?,
            companions: Default::default(),
            next_epoch: 0,
            random,
            redundancy: Vec::new(),
            events: VecDeque::new(),
            unsettled: None,
            transmits: VecDeque::new(),
        })
    }

    /// The tunnel of a transport; `None` if that is gone.
    fn tunnel(&mut self, epoch: Epoch) -> Option<&mut Client> {
        match epoch.tunnel().checked_sub(1) {
            None => Some(&mut self.main),
            Some(place) => {
                let companion = self.companions.get_mut(place)?.as_mut()?;
                Some(&mut companion.client)
            }
        }
    }

    fn ddt(&self) -> Option<&Companion> {
        self.companions.get(DDT)?.as_deref()
    }

    /// The companions there are.
    fn companions_mut(&mut self) -> impl Iterator<Item = &mut Companion> {
        self.companions
            .iter_mut()
            .flatten()
            .map(|companion| &mut **companion)
    }

    /// As [`Client::start`].
    pub fn start(&mut self, now: Instant) {
        self.main.start(now);
        self.settle(now);
    }

    /// As [`Client::resolved`].
    pub fn resolved(&mut self, now: Instant, target: Target, addresses: &[SocketAddr]) {
        self.main.resolved(now, target, addresses);
        self.settle(now);
    }

    /// As [`Client::resolved_by_name`].
    pub fn resolved_by_name(&mut self, now: Instant, target: Target) {
        self.main.resolved_by_name(now, target);
        self.settle(now);
    }

    /// As [`Client::not_resolved`].
    pub fn not_resolved(&mut self, now: Instant, target: Target, failure: TransportFailure) {
        self.main.not_resolved(now, target, failure);
        self.settle(now);
    }

    /// As [`Client::learn_hosts`].
    pub fn learn_hosts(&mut self, addresses: &[IpAddr]) {
        self.main.learn_hosts(addresses);
    }

    /// As [`Client::transport_opened`].
    pub fn transport_opened(&mut self, now: Instant, epoch: Epoch) {
        if let Some(tunnel) = self.tunnel(epoch) {
            tunnel.transport_opened(now, epoch);
        }
        self.settle(now);
    }

    /// As [`Client::transport_failed`].
    pub fn transport_failed(&mut self, now: Instant, epoch: Epoch, failure: TransportFailure) {
        if let Some(tunnel) = self.tunnel(epoch) {
            tunnel.transport_failed(now, epoch, failure);
        }
        self.settle(now);
    }

    /// As [`Client::transport_lost`].
    pub fn transport_lost(&mut self, now: Instant, epoch: Epoch, why: TransportLoss) {
        if let Some(tunnel) = self.tunnel(epoch) {
            tunnel.transport_lost(now, epoch, why);
        }
        self.settle(now);
    }

    /// As [`Client::handle_unit`].
    pub fn handle_unit<'a>(&mut self, now: Instant, epoch: Epoch, unit: Unit<'a>) -> Inbound<'a> {
        // Packets change next to nothing: that has time until the owner asks.
        let is_packet = matches!(unit, Unit::Ip(_) | Unit::Redundancy(_));
        let is_stream = epoch.tunnel() > DDT + 1;
        let inbound = if let Unit::Redundancy(frame) = unit
            && is_stream
            && self.main.takes_frames()
        {
            self.stream_frame(now, epoch, frame)
        } else {
            match self.tunnel(epoch) {
                Some(tunnel) => tunnel.handle_unit(now, epoch, unit),
                // Of a companion that is gone.
                None => self.main.handle_unit(now, epoch, unit),
            }
        };
        if is_packet {
            self.unsettled = Some(now);
        } else {
            self.settle(now);
        }
        inbound
    }

    /// A frame of the main tunnel's group that has come over a further stream.
    fn stream_frame<'a>(
        &mut self,
        now: Instant,
        epoch: Epoch,
        frame: RedundancyFrame<'a>,
    ) -> Inbound<'a> {
        match self.tunnel(epoch) {
            Some(tunnel) if tunnel.can_send() == Some(epoch) => tunnel.heard_stream(now, epoch),
            Some(tunnel) => return tunnel.drop_unit(DropReason::StaleEpoch),
            None => return self.main.drop_unit(DropReason::StaleEpoch),
        }
        self.main.handle_stream_frame(now, frame)
    }

    /// As [`Client::handle_bad_unit`].
    pub fn handle_bad_unit(&mut self, now: Instant, epoch: Epoch, bad: BadUnit) {
        if let Some(tunnel) = self.tunnel(epoch) {
            tunnel.handle_bad_unit(now, epoch, bad);
        }
        self.settle(now);
    }

    /// As [`Client::can_send`]: of the main tunnel.
    #[must_use]
    #[inline]
    pub fn can_send(&self) -> Option<Epoch> {
        self.main.can_send()
    }

    /// Where a packet of the inner stack goes, and in what: where it travels in a redundancy frame, that is written to `frame`,
    /// which is empty. `None` while there is no transport for it: hold it back, or drop it.
    #[inline]
    pub fn outgoing(
        &mut self,
        now: Instant,
        packet: &[u8],
        frame: &mut Vec<u8>,
    ) -> Option<Outgoing> {
        if self.is_divided()
            && let Some(key) = self.own_flow(packet)
        {
            if let Some(epoch) = self.beside_stream(key, packet.len())
                && let Some(companion) = self.companions.get_mut(DDT).and_then(Option::as_mut)
            {
                let framed = companion.client.frame(now, packet, frame);
                return Some(Outgoing::over(epoch, framed));
            }
            if let Some((ways, spread)) = self.stream_ways(key)
                && let Some(first) = ways.into_iter().flatten().next()
            {
                // What is not framed would not be known for a copy.
                return Some(if self.main.frame(now, packet, frame) {
                    Outgoing {
                        ways,
                        framed: true,
                        spread,
                    }
                } else {
                    Outgoing::over(first, false)
                });
            }
        }
        let epoch = self.main.can_send()?;
        let framed = self.main.frame(now, packet, frame);
        Some(Outgoing::over(epoch, framed))
    }

    /// The socket of ours that a packet is from.
    fn own_flow(&self, packet: &[u8]) -> Option<FlowKey> {
        let packet = IpPacket::decode(packet, &Limits::WIDEST).ok()?;
        let source = packet.source();
        let mut own = self.main.assignment()?.addresses.iter();
        own.any(|inner| inner.address == source)
            .then(|| FlowKey::of_source(&packet))?
    }

    /// The datagram companion's transport, if it is that which carries a packet of this socket.
    fn beside_stream(&self, key: FlowKey, len: usize) -> Option<Epoch> {
        let companion = self.ddt().filter(|companion| companion.worked)?;
        let fits = len <= usize::from(companion.client.assignment()?.inner_mtu);
        let epoch = companion.client.can_send()?;
        (fits && self.main.is_on_companion(key)).then_some(epoch)
    }

    /// The transports for packets of a socket that has further streams: for a choice of one, the fastest first.
    fn stream_ways(&self, key: FlowKey) -> Option<([Option<Epoch>; MAX_WAYS], Spread)> {
        let (streams, is_each) = self.main.streams_of(key)?;
        let further = self.companions.iter().skip(DDT + 1).flatten();
        let further = further.take(usize::from(streams));
        let works = further.filter(|companion| companion.worked);
        let tunnels = std::iter::once(&self.main).chain(works.map(|companion| &companion.client));
        let mut ways = [(None, Duration::MAX); MAX_WAYS];
        let open = tunnels.filter_map(|tunnel| {
            let delay = tunnel.round_trip().unwrap_or_default();
            Some((Some(tunnel.can_send()?), delay))
        });
        for (way, found) in ways.iter_mut().zip(open) {
            *way = found;
        }
        let spread = if is_each {
            Spread::All
        } else {
            ways.sort_by_key(|(_, delay)| *delay);
            Spread::One
        };
        Some((ways.map(|(way, _)| way), spread))
    }

    /// The transport of the tunnel in this place of the family, as [`Self::can_send`].
    #[must_use]
    pub fn transport(&self, tunnel: usize) -> Option<Epoch> {
        match tunnel.checked_sub(1) {
            None => self.main.can_send(),
            Some(place) => self.companions.get(place)?.as_ref()?.client.can_send(),
        }
    }

    /// Whether the packet has another way than the main tunnel.
    #[must_use]
    #[inline]
    pub fn is_beside(&self, packet: &[u8]) -> bool {
        self.is_divided()
            && self.own_flow(packet).is_some_and(|key| {
                let main = self.main.can_send();
                let is_other = |way: Option<Epoch>| way.is_some() && way != main;
                let streams = self.stream_ways(key);
                self.beside_stream(key, packet.len()).is_some()
                    || streams.is_some_and(|(ways, _)| ways.into_iter().any(is_other))
            })
    }

    /// Whether any packet may.
    #[must_use]
    #[inline]
    pub fn is_divided(&self) -> bool {
        let mut companions = self.companions.iter().flatten();
        companions.any(|companion| companion.worked)
    }

    /// As [`Client::note_sent`].
    #[inline]
    pub fn note_sent(&mut self, now: Instant, epoch: Epoch) {
        if let Some(tunnel) = self.tunnel(epoch) {
            tunnel.note_sent(now);
        }
    }

    /// As [`Client::network_changed`].
    pub fn network_changed(&mut self, now: Instant) {
        self.main.network_changed(now);
        for companion in self.companions_mut() {
            companion.client.network_changed(now);
        }
        self.settle(now);
    }

    /// As [`Client::relocate`].
    pub fn relocate(&mut self, now: Instant, first: Option<Target>) {
        self.main.relocate(now, first);
        for companion in self.companions_mut() {
            companion.client.relocate(now, None);
        }
        self.settle(now);
    }

    /// As [`Client::set_background`].
    pub fn set_background(&mut self, now: Instant, background: bool) {
        self.main.set_background(now, background);
        for companion in self.companions_mut() {
            companion.client.set_background(now, background);
        }
        self.settle(now);
    }

    /// As [`Client::network_gone`].
    pub fn network_gone(&mut self) {
        self.main.network_gone();
        for companion in self.companions_mut() {
            companion.client.network_gone();
        }
    }

    /// As [`Client::release`]: the main tunnel, and with it all others.
    pub fn release(&mut self, now: Instant, deadline: Instant) {
        self.main.release(now, deadline);
        self.settle(now);
    }

    /// As [`Client::assignment`].
    #[must_use]
    pub fn assignment(&self) -> Option<&Assignment> {
        self.main.assignment()
    }

    /// As [`Client::round_trip`]: of the main tunnel.
    #[must_use]
    pub fn round_trip(&self) -> Option<Duration> {
        self.main.round_trip()
    }

    /// What a companion was assigned, while there is one.
    #[must_use]
    pub fn companion(&self, role: CompanionRole) -> Option<&Assignment> {
        let place = ROLES.iter().position(|known| *known == role)?;
        self.companions.get(place)?.as_ref()?.client.assignment()
    }

    /// As [`Client::poll_transmit`].
    #[must_use]
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        if let Some(transmit) = self.main.poll_transmit() {
            return Some(transmit);
        }
        let last = self.transmits.pop_front();
        last.or_else(|| {
            let mut companions = self.companions_mut();
            companions.find_map(|companion| companion.client.poll_transmit())
        })
    }

    /// As [`Client::poll_event`].
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        if self.events.is_empty()
            && let Some(now) = self.unsettled.take()
        {
            self.settle(now);
        }
        self.events.pop_front()
    }

    /// As [`Client::poll_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let companions = self.companions.iter().flatten();
        let companions = companions.filter_map(|companion| companion.client.poll_timeout());
        self.main.poll_timeout().into_iter().chain(companions).min()
    }

    /// As [`Client::handle_timeout`].
    pub fn handle_timeout(&mut self, now: Instant) {
        // As the server does not close it either (spec 5).
        if self.is_divided() {
            self.main.stay(now);
        }
        self.main.handle_timeout(now);
        for companion in self.companions_mut() {
            companion.client.handle_timeout(now);
        }
        self.settle(now);
    }

    /// As [`Client::stats`]: of the main tunnel.
    #[must_use]
    pub const fn stats(&self) -> Stats {
        self.main.stats()
    }

    /// As [`Client::server_keepalive`].
    #[must_use]
    pub fn server_keepalive(&self) -> Option<Duration> {
        self.main.server_keepalive()
    }

    /// As [`Client::request_service`].
    ///
    /// # Errors
    ///
    /// Those of the main tunnel.
    pub fn request_service(
        &mut self,
        now: Instant,
        service: ServiceType,
    ) -> Result<RequestId, RequestError> {
        let result = self.main.request_service(now, service);
        self.settle(now);
        result
    }

    /// As [`Client::request_routed_prefixes`].
    ///
    /// # Errors
    ///
    /// Those of the main tunnel.
    pub fn request_routed_prefixes(
        &mut self,
        now: Instant,
        prefixes: &[Prefix],
    ) -> Result<RequestId, RequestError> {
        let result = self.main.request_routed_prefixes(now, prefixes);
        self.settle(now);
        result
    }

    /// As [`Client::release_routed_prefixes`].
    ///
    /// # Errors
    ///
    /// Those of the main tunnel.
    pub fn release_routed_prefixes(
        &mut self,
        now: Instant,
        prefixes: &[Prefix],
    ) -> Result<RequestId, RequestError> {
        let result = self.main.release_routed_prefixes(now, prefixes);
        self.settle(now);
        result
    }

    /// As [`Client::routed_prefixes`].
    #[must_use]
    pub fn routed_prefixes(&self) -> &[Prefix] {
        self.main.routed_prefixes()
    }

    /// Sets which tunnel is to carry the datagrams of the socket at `local`, where there are two. The server is asked as soon as it
    /// can be; [`Event::SocketService`] tells what came of it.
    ///
    /// # Errors
    ///
    /// There is no tunnel, or [`MAX_FLOWS`] sockets want this.
    pub fn set_tunnel_transport(
        &mut self,
        now: Instant,
        key: FlowKey,
        local: SocketAddr,
        wish: TunnelTransport,
    ) -> Result<(), RequestError> {
        let result = self.main.set_tunnel_transport(now, key, local, wish);
        self.settle(now);
        result
    }

    /// As [`Client::set_redundancy`], on whichever tunnel carries the socket's packets.
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
        self.main.assignment().ok_or(RequestError::NotUp)?;
        let known = self.redundancy.iter().position(|(had, ..)| *had == key);
        if let Some(place) = known {
            self.redundancy.swap_remove(place);
        }
        if wish == Redundancy::Off {
            self.main.set_redundancy(now, key, local, wish)?;
            if let Some(companion) = self.companions.get_mut(DDT).and_then(Option::as_mut) {
                // Without effect where it is not up.
                let _ = companion.client.set_redundancy(now, key, local, wish);
            }
        } else if self.redundancy.len() >= MAX_FLOWS {
            return Err(RequestError::TooManySockets);
        } else {
            self.redundancy.push((key, local, wish));
            let ddt = self.companions.get_mut(DDT).and_then(Option::as_mut);
            match ddt.filter(|_| self.main.is_on_companion(key)) {
                Some(companion) => companion.client.set_redundancy(now, key, local, wish)?,
                None => self.main.set_redundancy(now, key, local, wish)?,
            }
        }
        self.settle(now);
        Ok(())
    }

    /// As [`Client::redundancy`], of the tunnel that carries the socket's packets.
    #[must_use]
    pub fn redundancy(&self, key: FlowKey) -> Option<RedundancyStatus> {
        match self.ddt() {
            Some(companion) if self.main.is_on_companion(key) => companion.client.redundancy(key),
            _ => self.main.redundancy(key),
        }
    }

    /// Carries out what one member of the family wants of another, and gathers what they tell.
    fn settle(&mut self, now: Instant) {
        let mut down = None;
        loop {
            self.companion_events(now);
            let before = self.events.len();
            while let Some(event) = self.main.poll_event() {
                if let Event::Down(_) = event {
                    down = Some(event);
                } else {
                    self.events.push_back(event);
                }
            }
            if down.is_some() {
                break;
            }
            if let Some(offer) = self.main.take_offer() {
                self.claim(now, DDT, offer);
            } else if let Some((place, offer)) = self.take_stream_offer() {
                self.claim(now, place, offer);
            } else if let Some(place) = self.unneeded() {
                self.end_companion(now, place);
            } else if self.events.len() == before {
                break;
            }
        }
        let streams = self.companions.iter().skip(DDT + 1).flatten().count();
        if down.is_none() && usize::from(self.main.wanted_streams()) > streams {
            // The server may hold one that this end does not.
            self.main.stream_over(now);
        }
        if let Some(down) = down {
            // Its companions end with it, and there is nobody left to tell.
            for mut companion in self.companions.iter_mut().filter_map(Option::take) {
                companion.client.abandon();
                self.events.extend(last_words(&mut companion.client).0);
            }
            self.events.push_back(down);
        }
    }

    /// A further stream that the server offers, and a place for it.
    fn take_stream_offer(&mut self) -> Option<(usize, Offer)> {
        let offer = self.main.take_stream_offer()?;
        let free = |place: &usize| matches!(self.companions.get(*place), Some(None));
        let place = (DDT + 1..ROLES.len()).find(free)?;
        let role = *ROLES.get(place)?;
        Some((place, Offer { role, ..offer }))
    }

    /// A companion that no socket needs any more.
    fn unneeded(&self) -> Option<usize> {
        let streams = usize::from(self.main.wanted_streams());
        let is_needed = |place: usize| match place.checked_sub(DDT + 1) {
            None => self.main.needs_companion(),
            Some(number) => number < streams,
        };
        let mut places = self.companions.iter().enumerate();
        let unneeded = places.find(|(place, found)| found.is_some() && !is_needed(*place));
        unneeded.map(|(place, _)| place)
    }

    /// Gathers what the companions tell, and tells the main tunnel what they are worth.
    fn companion_events(&mut self, now: Instant) {
        for place in 0..ROLES.len() {
            self.events_of(now, place);
        }
        self.move_redundancy(now);
    }

    fn events_of(&mut self, now: Instant, place: usize) {
        let Some(slot) = self.companions.get_mut(place) else {
            return;
        };
        let Some(companion) = slot else {
            return;
        };
        let mut over = false;
        while let Some(event) = companion.client.poll_event() {
            if let Event::Open { .. } | Event::Close { .. } | Event::SocketService { .. } = event {
                self.events.push_back(event);
            } else {
                tracing::debug!(?event, "companion");
                over |= matches!(event, Event::Down(_));
            }
        }
        if over {
            let last = std::iter::from_fn(|| companion.client.poll_transmit());
            self.transmits.extend(last);
            self.next_epoch = self.next_epoch.max(companion.attempts());
            *slot = None;
            return if place == DDT {
                self.main.companion_over(now);
            } else {
                self.main.stream_over(now);
            };
        }
        let works = companion.client.is_working();
        if std::mem::replace(&mut companion.worked, works) != works {
            if place == DDT {
                self.main.companion_works(now, works);
            } else if works {
                self.main.stream_works();
            }
        }
    }

    /// Asks for redundancy where the sockets' packets go now.
    fn move_redundancy(&mut self, now: Instant) {
        for (key, local, wish) in &self.redundancy {
            let (key, local, wish) = (*key, *local, *wish);
            let is_moved = self.main.is_on_companion(key);
            let (main, beside) = if is_moved {
                (Redundancy::Off, wish)
            } else {
                (wish, Redundancy::Off)
            };
            if self.main.wanted_redundancy(key) != main {
                // There was room for it when it was asked for.
                let _ = self.main.set_redundancy(now, key, local, main);
            }
            if let Some(Some(companion)) = self.companions.get_mut(DDT)
                && companion.client.wanted_redundancy(key) != beside
            {
                let _ = companion.client.set_redundancy(now, key, local, beside);
            }
        }
    }

    /// Begins the companion that the server offers.
    fn claim(&mut self, now: Instant, place: usize, offer: Offer) {
        self.end_companion(now, place);
        let client = self.companion_client(&offer);
        let Some(mut client) = client else {
            tracing::debug!(role = %offer.role, "no way to the companion that was offered");
            return if place == DDT {
                self.main.companion_over(now);
            } else {
                self.main.stream_over(now);
            };
        };
        let tunnel = u32::try_from(place + 1).unwrap_or_default();
        client.next_epoch = (tunnel << EPOCH_BITS) | (self.next_epoch & EPOCH_MASK);
        client.background = self.main.background;
        client.start(now);
        if let Some(slot) = self.companions.get_mut(place) {
            *slot = Some(Box::new(Companion {
                client,
                worked: false,
            }));
        }
    }

    fn companion_client(&mut self, offer: &Offer) -> Option<Client> {
        let Offer {
            role,
            reservation,
            endpoint,
        } = offer;
        let State::Up(tunnel) = &self.main.state else {
            return None;
        };
        let link = tunnel.link.as_ref()?;
        let transport = role.transport(link.target.transport)?;
        let origin = link.target.endpoint.origin();
        let endpoint = match (endpoint, link.address) {
            (Some((told, address)), _) if *told == transport => Endpoint::Address {
                address: *address,
                origin,
            },
            (Some(_), _) => return None,
            (None, Some(address)) => Endpoint::Address { address, origin },
            // The owner knows, unless there is a proxy on the way that knows.
            (None, None) if !self.main.config.lookup => Endpoint::Configured(origin),
            (None, None) => return None,
        };
        let config = ClientConfig {
            targets: vec![Target {
                transport,
                endpoint,
            }],
            addresses: Vec::new(),
            inner_mtu: None,
            supported_services: Vec::new(),
            first: None,
            lookup: false,
            upgrade: false,
            attempt_timeout: CLAIM_TIME,
            connect_timeout: CLAIM_TIME,
            known_hosts: Vec::new(),
            ..self.main.config.clone()
        };
        let claim = Claim {
            reservation: reservation.clone(),
            addresses: tunnel.assignment.addresses.clone(),
        };
        let client = Client::with_claim(config, Some(claim), (self.random)());
        client
            .inspect_err(|error| tracing::debug!(%error, "companion"))
            .ok()
    }

    /// Ends the companion: it says goodbye once, and its transports are closed.
    fn end_companion(&mut self, now: Instant, place: usize) {
        let companion = self.companions.get_mut(place).and_then(Option::take);
        let Some(mut companion) = companion else {
            return;
        };
        self.next_epoch = self.next_epoch.max(companion.attempts());
        companion.client.release(now, now + CLAIM_TIME);
        companion.client.abandon();
        let (events, transmits) = last_words(&mut companion.client);
        self.events.extend(events);
        self.transmits.extend(transmits);
    }
}

/// What is to be done for a tunnel that is over.
fn last_words(client: &mut Client) -> (Vec<Event>, Vec<Transmit>) {
    let transmits = std::iter::from_fn(|| client.poll_transmit()).collect();
    let is_close = |event: &Event| matches!(event, Event::Close { .. });
    let events = std::iter::from_fn(|| client.poll_event()).filter(is_close);
    (events.collect(), transmits)
}

impl Client {
    /// Whether the tunnel has a transport that carries it, as far as can be told.
    fn is_working(&self) -> bool {
        let State::Up(tunnel) = &self.state else {
            return false;
        };
        let link = tunnel.link.as_ref().filter(|_| tunnel.confirmed);
        link.is_some_and(|link| !link.is_doubtful())
    }

    /// A tunnel that is lost is not given up yet.
    fn stay(&mut self, now: Instant) {
        let kept = self.kept_for();
        if let State::Up(tunnel) = &mut self.state
            && let Some(seeker) = tunnel.seeker.as_mut().filter(|_| tunnel.link.is_none())
        {
            seeker.deadline = seeker.deadline.max(now + kept);
        }
    }

    /// Ends the tunnel without waiting for anybody.
    fn abandon(&mut self) {
        self.down(DownReason::Released { confirmed: false });
    }
}

impl std::fmt::Debug for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Family")
            .field("main", &self.main)
            .field("companions", &self.companions)
            .finish_non_exhaustive()
    }
}
