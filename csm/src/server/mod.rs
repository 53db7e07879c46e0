//! The server's end: all tunnels of one worker in one object.
//!
//! The owner feeds it units that `tpl` has decoded, tells it when transports come and go, and drains
//! [`poll_transmit`](Server::poll_transmit), [`poll_event`](Server::poll_event) and
//! [`poll_timeout`](Server::poll_timeout) after each input or batch of inputs. Streams and DTLS associations
//! are announced with [`open_binding`](Server::open_binding); on plain UDP the owner looks each source address
//! up with [`lookup`](Server::lookup) and gives datagrams of strangers to
//! [`handle_unbound`](Server::handle_unbound).
//!
//! The way of a packet, [`handle_unit`](Server::handle_unit) with [`Unit::Ip`], is two slab accesses, a
//! comparison of the source and one store: no allocation, no hash, no timer.

mod arena;
mod binding;
mod common;
mod config;
mod configure;
mod control;
pub(crate) mod cookie;
mod deadline;
mod drain;
mod event;
mod family;
mod life;
mod load;
mod offers;
pub mod pool;
mod query;
mod rate;
mod resume;
mod routes;
mod service;
mod session;
mod unbound;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tsc_tpl::{FramingError, IpPacket, RedundancyFrame, Tsid, Unit, UnitError};

use self::arena::{Arena, Key};
use self::binding::{Attachment, Binding};
pub use self::binding::{CONFIGURATION_TIME, MESSAGE_ERROR_LIMIT};
use self::common::Common;
pub use self::config::{
    AuthPolicy, Identity, InterfaceConfig, Limits, MAX_ADDRESSES, MAX_LISTED,
    MAX_ROUTED_IDENTITIES, RedirectPolicy, RoutedPrefixError, ServerConfig, ServerConfigError,
    TokenVerifier, TunnelTimers,
};
use self::cookie::CookieJar;
pub use self::cookie::{COOKIE_LEN, CookieConfig, CookieKey, SLOT as COOKIE_SLOT};
use self::deadline::DeadlineQueue;
pub use self::event::{
    BindingId, BindingInfo, BindingLoss, CloseReason, Destination, DownReason, DropReason, Event,
    Fresh, ListenerId, MAX_WAYS, MovedBinding, OpenError, Outgoing, SessionId, SessionState, Shard,
    Spread, Stats, Transmit, Unbound, Verdict,
};
pub use self::family::MAX_COMPANIONS;
use self::life::Stop;
use self::load::LoadMeter;
pub use self::load::{ADMIT_EVERY, WINDOW as LOAD_WINDOW, WINDOWS as BUSY_WINDOWS, Work};
use self::offers::Editions;
pub(crate) use self::offers::Offers;
use self::pool::Pools;
use self::rate::{KeyedHash, SourcePrefix};
pub use self::service::{MAX_HELD, MAX_PARTNERS, Relayed};
pub use self::session::UNCONFIRMED_TIME;
use self::session::{Life, Session};
use crate::assignment::Alternate;
use crate::random::BoxedRandom;
use crate::secret::Key32;
pub use crate::transport::BadUnit;

/// Most answers that wait for [`Server::poll_transmit`]; further ones are dropped and counted, as a network
/// would drop them. Owners drain after each batch of inputs and never come near.
pub const MAX_QUEUED_TRANSMITS: usize = 8_192;
/// Most deadlines handled in one call of [`Server::handle_timeout`]; the rest follows in the next.
pub const TIMEOUTS_PER_TURN: usize = 256;

/// Most shards of one server.
pub const MAX_SHARDS: usize = 64;

/// All tunnels of one worker: a server, or a shard of one.
pub struct Server {
    config: ServerConfig,
    /// By interface.
    offers: Vec<Editions>,
    shard: Shard,
    shards: Shard,
    common: Arc<Common>,
    random: BoxedRandom,
    sessions: Arena<Session>,
    bindings: Arena<Binding>,
    /// By name on the wire. Bounded by `Limits::tunnels`.
    directory: BTreeMap<Tsid, Key>,
    /// Plain UDP: by socket and source. Only looked up, never iterated. One entry per UDP binding.
    addresses: HashMap<(ListenerId, SocketAddr), BindingId, KeyedHash>,
    listeners: Vec<Listener>,
    /// Reserved companions, by name: whose. At most [`MAX_COMPANIONS`](family::MAX_COMPANIONS) for each tunnel.
    reserved: BTreeMap<Tsid, Key>,
    persistent: usize,
    pending: usize,
    jar: CookieJar,
    /// Takes part in the proof of resumes for tunnels that do not exist, so that all take the same time.
    decoy_key: Key32,
    deadlines: DeadlineQueue<Waiting>,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
    stop: Option<Stop>,
    /// Bytes of packets that are kept for being repeated, at most [`MAX_HELD`].
    held: usize,
    /// Newcomers are sent away.
    draining: bool,
    load: LoadMeter,
    stats: Stats,
}

/// A plain UDP socket.
#[derive(Clone, Copy, Debug)]
struct Listener {
    interface: usize,
    local: SocketAddr,
}

/// What the deadline queue holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Waiting {
    Session(Key),
    Binding(Key),
}

impl BindingId {
    const fn key(self) -> Key {
        (self.index, self.generation)
    }

    const fn from_key((index, generation): Key) -> Self {
        Self { index, generation }
    }
}

impl Server {
    /// Checks the configuration and makes a server without tunnels.
    ///
    /// # Errors
    ///
    /// The first thing in the configuration that cannot be used.
    pub fn new(
        config: ServerConfig,
        now: Instant,
        random: BoxedRandom,
    ) -> Result<Self, ServerConfigError> {
        let mut shards = Self::sharded(config, now, vec![random])?;
        shards.pop().ok_or(ServerConfigError::Shards)
    }

    /// A server in several shards, one for each generator: each has tunnels and transports of its own and is driven by
    /// its own worker. They share addresses, granted prefixes and limits, so a client meets one server. A tunnel stays in
    /// the shard that configured it, which its TSID tells; see [`Verdict::Elsewhere`].
    ///
    /// # Errors
    ///
    /// The first thing in the configuration that cannot be used; or there are no shards, or more than [`MAX_SHARDS`].
    pub fn sharded(
        mut config: ServerConfig,
        now: Instant,
        mut randoms: Vec<BoxedRandom>,
    ) -> Result<Vec<Self>, ServerConfigError> {
        config.check()?;
        let pools = Pools::new(&config.pools, config.quarantine)?;
        config.check_routed_prefixes(&pools)?;
        let shards = Shard::try_from(randoms.len())
            .ok()
            .filter(|shards| usize::from(*shards) <= MAX_SHARDS);
        let (Some(shards), Some(first)) = (shards, randoms.first_mut()) else {
            return Err(ServerConfigError::Shards);
        };
        let hash = KeyedHash::new(first);
        config.cookie.get_or_insert_with(|| CookieConfig {
            current: CookieKey {
                id: 0,
                key: Key32::random(first),
            },
            previous: None,
            unix_seconds: 0,
        });
        let common = Arc::new(Common::new(&config, pools, now, &hash));
        let shard = |(shard, random)| Self::shard(&config, &common, now, random, shard, shards);
        (0..)
            .zip(randoms)
            .map(shard)
            .collect::<Option<_>>()
            .ok_or(ServerConfigError::Shards)
    }

    fn shard(
        config: &ServerConfig,
        common: &Arc<Common>,
        now: Instant,
        mut random: BoxedRandom,
        shard: Shard,
        shards: Shard,
    ) -> Option<Self> {
        Some(Self {
            offers: config.interfaces.iter().map(Editions::of).collect(),
            shard,
            shards,
            common: Arc::clone(common),
            sessions: Arena::new(),
            bindings: Arena::new(),
            directory: BTreeMap::new(),
            addresses: HashMap::with_hasher(KeyedHash::new(&mut random)),
            listeners: Vec::new(),
            reserved: BTreeMap::new(),
            persistent: 0,
            pending: 0,
            jar: CookieJar::new(config.cookie.clone()?, now),
            decoy_key: Key32::random(&mut random),
            deadlines: DeadlineQueue::new(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            stop: None,
            held: 0,
            draining: false,
            load: LoadMeter::new(),
            stats: Stats::default(),
            random,
            config: config.clone(),
        })
    }

    /// The number of this shard.
    #[must_use]
    pub const fn shard_number(&self) -> Shard {
        self.shard
    }

    /// Announces where an interface listens, so that companions can be opened there: as
    /// [`InterfaceConfig::endpoints`], for an owner that knows later.
    pub fn add_endpoint(&mut self, interface: usize, endpoint: Alternate) {
        if let Some(interface) = self.config.interfaces.get_mut(interface) {
            interface.endpoints.push(endpoint);
        }
    }

    /// Announces a plain UDP socket of an interface. `local` takes part in the cookies, so all workers and nodes
    /// that share cookie keys must give the same one. `None` if there is no such interface, or 65,536 sockets.
    pub fn add_listener(&mut self, interface: usize, local: SocketAddr) -> Option<ListenerId> {
        self.config.interfaces.get(interface)?;
        let id = u16::try_from(self.listeners.len()).ok().map(ListenerId)?;
        self.listeners.push(Listener { interface, local });
        Some(id)
    }

    /// Announces a stream or DTLS association that was accepted.
    ///
    /// It has the interface's configuration time to configure or resume a tunnel; then an [`Event::CloseBinding`] ends it.
    ///
    /// # Errors
    ///
    /// The transport is not taken, and nothing is kept of it: close it.
    pub fn open_binding(
        &mut self,
        now: Instant,
        info: BindingInfo,
    ) -> Result<BindingId, OpenError> {
        if !info.transport.is_stream() && !info.transport.is_protected() {
            return Err(OpenError::NotAConnection);
        }
        let Some(interface) = self.config.interfaces.get(info.interface) else {
            return Err(OpenError::UnknownInterface);
        };
        let until = now + interface.configuration_time;
        if self.stop.is_some() {
            return Err(OpenError::Stopping);
        }
        let prefix = SourcePrefix::of(info.peer.ip());
        let admitted = self
            .common
            .open_pending(now, &self.config, info.interface, prefix);
        if let Err(error) = admitted {
            if error == OpenError::RateLimited {
                self.stats.rate_limited += 1;
            }
            return Err(error);
        }
        self.insert_pending(info, until)
    }

    /// Forgets a stream or DTLS association without closing it: it goes where [`Verdict::Elsewhere`] says. `None` if it
    /// carries a tunnel, or is gone.
    pub fn hand_over(&mut self, binding: BindingId) -> Option<MovedBinding> {
        let found = self.bindings.get(binding.key())?;
        let Attachment::Pending { until, .. } = found.attachment else {
            return None;
        };
        let info = BindingInfo {
            interface: found.interface,
            transport: found.transport,
            peer: found.peer,
            local: found.local,
            identity: found.identity.clone(),
        };
        self.remove_binding(binding);
        Some(MovedBinding { info, until })
    }

    /// Announces a stream or DTLS association that another shard has [handed over](Self::hand_over). It was admitted
    /// there, and its time goes on.
    ///
    /// # Errors
    ///
    /// As [`Self::open_binding`], limits and rates apart.
    pub fn open_moved(&mut self, moved: MovedBinding) -> Result<BindingId, OpenError> {
        if self.stop.is_some() {
            return Err(OpenError::Stopping);
        }
        let MovedBinding { info, until } = moved;
        if self.config.interfaces.get(info.interface).is_none() {
            return Err(OpenError::UnknownInterface);
        }
        self.common.moved_pending(SourcePrefix::of(info.peer.ip()));
        self.insert_pending(info, until)
    }

    /// Keeps a transport that was counted as pending.
    fn insert_pending(
        &mut self,
        info: BindingInfo,
        until: Instant,
    ) -> Result<BindingId, OpenError> {
        let prefix = SourcePrefix::of(info.peer.ip());
        let make = |_| Binding {
            interface: info.interface,
            transport: info.transport,
            peer: info.peer,
            local: info.local,
            listener: None,
            identity: info.identity,
            message_errors: 0,
            attachment: Attachment::Pending {
                armed: None,
                until,
                refused: None,
            },
        };
        let Some(key) = self.bindings.insert_with(make) else {
            self.common.no_longer_pending(prefix);
            return Err(OpenError::TooManyPending);
        };
        self.pending += 1;
        self.arm_binding(key);
        Ok(BindingId::from_key(key))
    }

    /// The binding of an outer address on a plain UDP socket: one keyed hash lookup.
    #[must_use]
    #[inline]
    pub fn lookup(&self, listener: ListenerId, peer: SocketAddr) -> Option<BindingId> {
        self.addresses.get(&(listener, peer)).copied()
    }

    /// Feeds one unit that came over a binding.
    #[inline]
    pub fn handle_unit(&mut self, now: Instant, binding: BindingId, unit: &Unit<'_>) -> Verdict {
        match unit {
            Unit::Ip(packet) => self.handle_packet(now, binding, packet),
            Unit::Control(message) => self.handle_control(now, binding, message),
            Unit::Redundancy(frame) => self.handle_redundancy(now, binding, frame),
            Unit::Reserved(_) => self.unexpected_frame(now, binding),
        }
    }

    /// Reports that a binding delivered something that is no unit: on streams the end of the transport, on
    /// datagram transports one drop. A framing error is always answered with [`Verdict::Close`], also for a
    /// binding that is gone already: the stream cannot go on.
    pub fn handle_bad_unit(&mut self, now: Instant, binding: BindingId, bad: BadUnit) -> Verdict {
        let known = self.bindings.get(binding.key()).is_some();
        self.stats.bad_units += 1;
        match bad {
            BadUnit::Datagram(error) => Verdict::Dropped(DropReason::Datagram(error)),
            BadUnit::Framing(error) if known => {
                self.close_binding(now, binding, CloseReason::Framing(error))
            }
            BadUnit::Framing(error) => Verdict::Close(CloseReason::Framing(error)),
        }
    }

    /// Reports that a transport is gone. Harmless for a binding that is gone already.
    pub fn binding_lost(&mut self, now: Instant, binding: BindingId, why: BindingLoss) {
        tracing::debug!(?binding, ?why, "transport lost");
        if let Some(session) = self.remove_binding(binding) {
            self.session_unbound(now, session);
        }
    }

    /// Next bytes for a transport; call until `None`.
    #[must_use]
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// Next event; call until `None`. One input adds a handful; one turn of timeouts a handful for each deadline.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    #[inline]
    fn handle_packet(&mut self, now: Instant, id: BindingId, packet: &IpPacket<'_>) -> Verdict {
        let Some(binding) = self.bindings.get(id.key()) else {
            return self.drop_unit(DropReason::UnknownBinding);
        };
        let Attachment::Session(key) = binding.attachment else {
            return self.early_unit(now, id);
        };
        let Some(session) = self.sessions.get_mut(key) else {
            return self.drop_unit(DropReason::UnknownBinding);
        };
        if !session.owns(packet.source()) {
            self.stats.wrong_source += 1;
            return Verdict::Dropped(DropReason::Source);
        }
        let mtu = session.inner_mtu;
        if packet.len() > usize::from(mtu) {
            return self.oversized_packet(now, id, packet.len(), mtu);
        }
        session.last_activity = now;
        let sender = session.sender();
        if !(session.confirmed && matches!(session.life, Life::Active)) {
            self.wake(key);
        }
        self.stats.forwarded += 1;
        Verdict::Forward(sender)
    }

    fn handle_redundancy(
        &mut self,
        now: Instant,
        id: BindingId,
        frame: &RedundancyFrame<'_>,
    ) -> Verdict {
        match self.bindings.get(id.key()).map(|found| &found.attachment) {
            None => self.drop_unit(DropReason::UnknownBinding),
            Some(Attachment::Pending { .. }) => self.early_unit(now, id),
            Some(Attachment::Session(key)) => {
                let key = *key;
                self.handle_frame(now, id, key, frame)
            }
        }
    }

    /// The decoder knows the interface's inner MTU; this tunnel was granted a smaller one (spec 2, 7).
    #[cold]
    fn oversized_packet(&mut self, now: Instant, id: BindingId, len: usize, mtu: u16) -> Verdict {
        let stream = self
            .bindings
            .get(id.key())
            .is_some_and(|binding| binding.transport.is_stream());
        let error = UnitError::InnerMtu { len, mtu };
        let bad = if stream {
            BadUnit::Framing(error.into())
        } else {
            BadUnit::Datagram(error.into())
        };
        self.handle_bad_unit(now, id, bad)
    }

    /// A unit that may not come before the request: it ends a stream (spec 2); datagrams can be out of order.
    fn early_unit(&mut self, now: Instant, id: BindingId) -> Verdict {
        let stream = self
            .bindings
            .get(id.key())
            .is_some_and(|binding| binding.transport.is_stream());
        if stream {
            self.stats.bad_units += 1;
            return self.close_binding(now, id, CloseReason::Framing(FramingError::WrongFirstUnit));
        }
        self.drop_unit(DropReason::NotConfigured)
    }

    /// Spec 6: a frame of a service that is not in force is an error of section 2.
    fn unexpected_frame(&mut self, now: Instant, id: BindingId) -> Verdict {
        let Some(binding) = self.bindings.get(id.key()) else {
            return self.drop_unit(DropReason::UnknownBinding);
        };
        self.stats.bad_units += 1;
        if binding.transport.is_stream() {
            return self.close_binding(now, id, CloseReason::UnexpectedFrame);
        }
        Verdict::Dropped(DropReason::UnexpectedFrame)
    }

    fn drop_unit(&mut self, reason: DropReason) -> Verdict {
        self.stats.other_drops += 1;
        Verdict::Dropped(reason)
    }

    fn transmit_over(&mut self, binding: BindingId, bytes: Bytes) {
        if let Some(to) = self.destination_of(binding) {
            self.transmit(to, bytes);
        }
    }

    fn transmit(&mut self, to: Destination, bytes: Bytes) {
        if self.transmits.len() >= MAX_QUEUED_TRANSMITS {
            self.stats.transmit_overflow += 1;
            return;
        }
        self.transmits.push_back(Transmit { to, bytes });
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("config", &self.config)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
