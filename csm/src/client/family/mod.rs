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

mod judge;
mod members;
mod peers;
mod route;

use self::judge::Judge;
pub use self::route::Outgoing;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tsc_tpl::{RedundancyFrame, ServiceType, Unit};

use super::config::{ClientConfig, ClientConfigError, Target};
use super::event::{
    DropReason, Epoch, Event, Inbound, RequestError, RequestId, Stats, Transmit, TransportFailure,
    TransportLoss,
};
use super::service::{Encryption, Redundancy, RedundancyStatus, TunnelTransport};
use super::{BadUnit, Client};
use crate::assignment::Assignment;
use crate::companion::CompanionRole;
use crate::flow::{FlowKey, MAX_FLOWS};
use crate::prefix::Prefix;
use crate::random::BoxedRandom;

/// Where machines get their randomness: each has a source of its own.
pub type RandomSource = Box<dyn FnMut() -> BoxedRandom + Send>;

/// Bits of an epoch below those that say whose it is.
const EPOCH_BITS: u32 = 28;

const EPOCH_MASK: u32 = (1 << EPOCH_BITS) - 1;

/// Most tunnels of a family, the main one included.
pub const MAX_TUNNELS: usize = 5;

/// The place in a family of its encrypted companion, as of [`Epoch::tunnel`].
pub const ENCRYPTED_TUNNEL: usize = DTTE + 1;

/// Addresses of encrypted companions that are remembered.
const MAX_FOREIGN: usize = 64;

/// The companions by their place.
const ROLES: [CompanionRole; MAX_TUNNELS - 1] = [
    CompanionRole::Ddt,
    CompanionRole::Redundancy(0),
    CompanionRole::Redundancy(1),
    CompanionRole::Dtte,
];
const DDT: usize = 0;
/// Of the further streams for redundancy.
const STREAMS: std::ops::Range<usize> = 1..3;
const DTTE: usize = 3;

impl Epoch {
    /// The place of its tunnel in the family: 0 is the main tunnel, and all are less than [`MAX_TUNNELS`].
    #[must_use]
    pub const fn tunnel(self) -> usize {
        (self.0 >> EPOCH_BITS) as usize % MAX_TUNNELS
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
    /// Addresses of encrypted companions that there are, or were; the last [`MAX_FOREIGN`]. Since there was one no packet with an address that is
    /// not the main tunnel's may go over that.
    foreign: VecDeque<IpAddr>,
    /// The addresses of the encrypted companion that the owner was told of.
    encrypted: Vec<IpAddr>,
    /// What sockets want of redundancy, which is asked for where their packets go; at most [`MAX_FLOWS`].
    redundancy: Vec<(FlowKey, SocketAddr, Redundancy)>,
    /// While sockets leave it to this end which tunnel carries them.
    judge: Option<Box<Judge>>,
    /// Packets of all tunnels so far, in both directions.
    passed: u64,
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
            foreign: VecDeque::new(),
            encrypted: Vec::new(),
            redundancy: Vec::new(),
            judge: None,
            passed: 0,
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

    /// The further streams that there are.
    fn streams(&self) -> impl Iterator<Item = &Companion> {
        let streams = self.companions.get(STREAMS).unwrap_or_default();
        streams.iter().flatten().map(|companion| &**companion)
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
        self.passed = self.passed.wrapping_add(u64::from(is_packet));
        let place = epoch.tunnel().checked_sub(1);
        let is_stream = place.is_some_and(|place| STREAMS.contains(&place));
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
        // No host behind this client has an address of an encrypted companion, whatever prefix a clear path has granted.
        if let Inbound::Routed(packet) = &inbound
            && self.foreign.contains(&packet.destination())
        {
            return self.main.drop_unit(DropReason::Destination);
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
            Some(tunnel) if tunnel.can_send() == Some(epoch) => tunnel.heard_over(now, epoch),
            Some(tunnel) => return tunnel.drop_unit(DropReason::StaleEpoch),
            None => return self.main.drop_unit(DropReason::StaleEpoch),
        }
        self.main.pass_frame(now, frame)
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
        self.judge_network_changed(now);
        self.settle(now);
    }

    /// As [`Client::relocate`].
    pub fn relocate(&mut self, now: Instant, first: Option<Target>) {
        self.main.relocate(now, first);
        for companion in self.companions_mut() {
            companion.client.relocate(now, None);
        }
        self.judge_network_changed(now);
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

    /// Whether the main tunnel was configured on a protected transport, and so will never be on a clear one.
    #[must_use]
    pub fn is_protected(&self) -> bool {
        self.main.is_protected()
    }

    /// As [`Client::round_trip`]: of the tunnel that has this transport, or of the main tunnel as long as nothing is known of it.
    #[must_use]
    pub fn round_trip(&self, epoch: Epoch) -> Option<Duration> {
        let place = epoch.tunnel().checked_sub(1);
        let companion = place.and_then(|place| self.companions.get(place)?.as_deref());
        let own = companion.and_then(|companion| companion.client.round_trip());
        own.or_else(|| self.main.round_trip())
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
        let own = [self.main.poll_timeout(), self.judge_deadline()];
        own.into_iter().flatten().chain(companions).min()
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
        self.judge_timeout(now);
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

    /// Sets whether the packets of the socket at `local` are to be encrypted. The server is asked as soon as it can be;
    /// [`Event::SocketPlaced`] tells where the socket is, and [`Event::SocketService`] what came of it. One that is `connected` stays
    /// where it is then, as all TCP sockets do once they are anywhere.
    ///
    /// # Errors
    ///
    /// There is no tunnel, or [`MAX_FLOWS`] sockets want this.
    pub fn set_encryption(
        &mut self,
        now: Instant,
        key: FlowKey,
        local: SocketAddr,
        wish: Encryption,
        connected: bool,
    ) -> Result<(), RequestError> {
        let result = self.main.set_encryption(now, key, local, wish, connected);
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
        if wish != Redundancy::Off && known.is_none() && self.redundancy.len() >= MAX_FLOWS {
            return Err(RequestError::TooManySockets);
        }
        if let Some(place) = known {
            self.redundancy.swap_remove(place);
        }
        if wish != Redundancy::Off {
            self.redundancy.push((key, local, wish));
        }
        self.place_redundancy(now, key, local, wish)?;
        self.settle(now);
        Ok(())
    }

    /// As [`Client::redundancy`], of the tunnel that carries the socket's packets.
    #[must_use]
    pub fn redundancy(&self, key: FlowKey) -> Option<RedundancyStatus> {
        let place = self.carrier(key);
        let companion = place.and_then(|place| self.companions.get(place)?.as_deref());
        companion
            .map_or(&self.main, |companion| &companion.client)
            .redundancy(key)
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
