//! smoltcp's TCP, one socket at a time.
//!
//! smoltcp drives a *set* of sockets through an interface and looks at each of them for each
//! packet. Here every connection is a set of one, and all sets share one interface, which holds no
//! state of theirs: the clock, the MTU and the generator behind the initial sequence number.

use std::fmt;
use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{
    Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken,
};
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer};
use smoltcp::time::Instant as SmolInstant;
use smoltcp::wire::{HardwareAddress, IpEndpoint, IpListenEndpoint};

use super::TcpOptions;
use super::segment::Tuple;
use super::sent::Sent;
use super::seq::Seq;
use crate::egress::Egress;

/// What smoltcp's clock shows at the first call. It takes instants near zero for "at once".
const EPOCH_MICROS: i64 = 1_000_000_000;

/// One connection's share of smoltcp.
pub(super) struct Group {
    sockets: SocketSet<'static>,
    handle: SocketHandle,
}

impl Group {
    /// A socket with `capacity` bytes for each direction.
    pub(super) fn new(capacity: usize, options: &TcpOptions) -> Self {
        let buffer = || SocketBuffer::new(vec![0; capacity]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.set_congestion_control(CongestionControl::Cubic);
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        let mut group = Self { sockets, handle };
        group.set_options(options);
        group
    }

    pub(super) fn set_options(&mut self, options: &TcpOptions) {
        let socket = self.socket_mut();
        socket.set_nagle_enabled(!options.nodelay);
        let interval = options
            .keep_alive
            .map(|interval| smoltcp::time::Duration::from_micros(micros(interval)));
        if socket.keep_alive() != interval {
            socket.set_keep_alive(interval);
        }
    }

    pub(super) fn socket(&self) -> &Socket<'static> {
        self.sockets.get(self.handle)
    }

    pub(super) fn socket_mut(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    /// Makes the socket wait for a SYN, which must come next.
    pub(super) fn listen(&mut self, tuple: &Tuple) -> bool {
        let endpoint = IpListenEndpoint::from(IpEndpoint::from(tuple.local));
        self.socket_mut().listen(endpoint).is_ok()
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Group")
            .field(&self.socket().state())
            .finish()
    }
}

/// The interface that all groups share.
pub(super) struct Engine {
    interface: Interface,
    mtu: u16,
    epoch: Option<Instant>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("mtu", &self.mtu)
            .finish_non_exhaustive()
    }
}

impl Engine {
    pub(super) fn new(mtu: u16) -> Self {
        Self {
            interface: interface(mtu, 0),
            mtu,
            epoch: None,
        }
    }

    /// Starts the generator anew: the next connection's initial sequence number comes from `seed`
    /// alone. smoltcp's generator is a statistical one, so that a few numbers would tell the next;
    /// a fresh secret for each keeps them apart (RFC 6528).
    fn reseed(&mut self, seed: u64) {
        self.interface = interface(self.mtu, seed);
    }

    /// The initial sequence number that a connection started with `seed` will have.
    pub(super) fn initial_sequence(
        &mut self,
        now: Instant,
        seed: u64,
        tuple: &Tuple,
        egress: &mut Egress,
    ) -> Option<Seq> {
        let mut group = Group::new(0, &TcpOptions::default());
        self.connect(&mut group, seed, tuple)?;
        let packet = self.transmit(now, &mut group, tuple, egress)?;
        let sent = Sent::parse(&packet);
        egress.recycle(packet);
        sent.map(|syn| syn.start)
    }

    /// Starts an active open.
    pub(super) fn connect(&mut self, group: &mut Group, seed: u64, tuple: &Tuple) -> Option<()> {
        self.reseed(seed);
        let context = self.interface.context();
        let socket = group.sockets.get_mut::<Socket<'_>>(group.handle);
        socket
            .connect(
                context,
                IpEndpoint::from(tuple.remote),
                IpListenEndpoint::from(IpEndpoint::from(tuple.local)),
            )
            .ok()
    }

    /// Gives the SYN to a listening group, whose initial sequence number then follows from `seed`.
    pub(super) fn request(
        &mut self,
        now: Instant,
        group: &mut Group,
        seed: u64,
        packet: &[u8],
        egress: &mut Egress,
    ) {
        self.reseed(seed);
        if let Some(answer) = self.receive(now, group, packet, egress) {
            egress.recycle(answer);
        }
    }

    /// One packet in; an answer may come out at once.
    pub(super) fn receive(
        &mut self,
        now: Instant,
        group: &mut Group,
        packet: &[u8],
        egress: &mut Egress,
    ) -> Option<Vec<u8>> {
        let now = self.time(now);
        let mut wire = Wire {
            mtu: self.mtu,
            input: Some(packet),
            output: None,
            egress: Some(egress),
        };
        self.interface
            .poll_ingress_single(now, &mut wire, &mut group.sockets);
        wire.output
    }

    /// At most one packet out, no larger than the path to the peer carries.
    pub(super) fn transmit(
        &mut self,
        now: Instant,
        group: &mut Group,
        tuple: &Tuple,
        egress: &mut Egress,
    ) -> Option<Vec<u8>> {
        self.follow_path(now, tuple, egress);
        let now = self.time(now);
        let mut wire = Wire {
            mtu: self.mtu,
            input: None,
            output: None,
            egress: Some(egress),
        };
        match self
            .interface
            .poll_egress(now, &mut wire, &mut group.sockets)
        {
            PollResult::None | PollResult::SocketStateChanged => wire.output,
        }
    }

    /// When [`transmit`](Self::transmit) has something to do: `now` is at once.
    pub(super) fn poll_at(&mut self, now: Instant, group: &Group) -> Option<Instant> {
        let time = self.time(now);
        let at = self.interface.poll_at(time, &group.sockets)?;
        let since = u64::try_from(at.total_micros().saturating_sub(EPOCH_MICROS)).unwrap_or(0);
        let epoch = self.epoch.unwrap_or(now);
        Some(epoch.checked_add(Duration::from_micros(since))?.max(now))
    }

    /// The interface's MTU is fixed when it is made, and it is cheap to make.
    fn follow_path(&mut self, now: Instant, tuple: &Tuple, egress: &mut Egress) {
        let mtu = egress.path_mtu(now, tuple.remote.ip());
        if mtu != self.mtu {
            self.mtu = mtu;
            self.interface = interface(mtu, 0);
        }
    }

    fn time(&mut self, now: Instant) -> SmolInstant {
        let epoch = *self.epoch.get_or_insert(now);
        let since = i64::try_from(now.saturating_duration_since(epoch).as_micros());
        SmolInstant::from_micros(since.unwrap_or(i64::MAX / 2).saturating_add(EPOCH_MICROS))
    }
}

fn micros(duration: Duration) -> u64 {
    // Keeps sums of instants and durations far from overflow.
    u64::try_from(duration.as_micros())
        .unwrap_or(u64::MAX)
        .min(1 << 50)
}

fn interface(mtu: u16, seed: u64) -> Interface {
    let mut config = Config::new(HardwareAddress::Ip);
    config.random_seed = seed;
    let mut wire = Wire {
        mtu,
        input: None,
        output: None,
        egress: None,
    };
    let mut interface = Interface::new(config, &mut wire, SmolInstant::from_micros(EPOCH_MICROS));
    // Whose address a packet bears was judged before; a connection outlives the address's absence.
    interface.set_any_ip(true);
    interface
}

/// The device that smoltcp sees: room for one packet each way.
struct Wire<'a> {
    mtu: u16,
    input: Option<&'a [u8]>,
    output: Option<Vec<u8>>,
    egress: Option<&'a mut Egress>,
}

impl Device for Wire<'_> {
    type RxToken<'t>
        = Incoming<'t>
    where
        Self: 't;
    type TxToken<'t>
        = Outgoing<'t>
    where
        Self: 't;

    fn receive(&mut self, _: SmolInstant) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        let input = self.input.take()?;
        let egress = self.egress.as_deref_mut()?;
        let outgoing = Outgoing {
            slot: &mut self.output,
            egress,
        };
        Some((Incoming(input), outgoing))
    }

    fn transmit(&mut self, _: SmolInstant) -> Option<Self::TxToken<'_>> {
        if self.output.is_some() {
            return None;
        }
        Some(Outgoing {
            slot: &mut self.output,
            egress: self.egress.as_deref_mut()?,
        })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut checksum = ChecksumCapabilities::default();
        // Verified before, and not repaired in packets that we have rewritten.
        checksum.ipv4 = Checksum::Tx;
        checksum.tcp = Checksum::Tx;
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = usize::from(self.mtu);
        capabilities.checksum = checksum;
        capabilities
    }
}

struct Incoming<'a>(&'a [u8]);

impl RxToken for Incoming<'_> {
    fn consume<R, F>(self, f: F) -> R
    where
        F: FnOnce(&[u8]) -> R,
    {
        f(self.0)
    }
}

struct Outgoing<'a> {
    slot: &'a mut Option<Vec<u8>>,
    egress: &'a mut Egress,
}

impl TxToken for Outgoing<'_> {
    fn consume<R, F>(self, len: usize, f: F) -> R
    where
        F: FnOnce(&mut [u8]) -> R,
    {
        let mut packet = self.egress.buffer(len);
        packet.resize(len, 0);
        let result = f(&mut packet);
        *self.slot = Some(packet);
        result
    }
}
