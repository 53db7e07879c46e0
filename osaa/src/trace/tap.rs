//! What sockets tell a capture.
//!
//! A socket that has no tap pays one branch, and one with a tap that nobody listens to one relaxed load more.
//!
//! Wireshark wants the secrets of a connection before the packets that they decrypt, but they come of those packets. So where
//! secrets are wanted too, what was received is held back until its reader is back at the socket, with the time of its arrival.

use std::{
    fmt,
    io::IoSlice,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU8, Ordering},
    },
};

use super::{
    Capture, ConnectionSecrets, Direction, Interface, Packet,
    outer::{self, Flow, MAX_SEGMENT, Mark},
};

/// What the captures of the moment want.
const OUTER: u8 = 1;
const SECRETS: u8 = 2;
/// What its owner captures.
const INSIDE: u8 = 4;

/// Where transports tell what goes over the wire, to be given to them with their options, and their owner what it makes of it. It has
/// captures to write to, or none for the time being. Cheap to clone: all clones are one tap.
#[derive(Clone, Default)]
pub struct Tap(Arc<Inner>);

#[derive(Default)]
struct Inner {
    wants: AtomicU8,
    captures: RwLock<Arc<[Capture]>>,
}

impl Tap {
    /// One that writes nowhere yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes to these captures and no others from now on, to each as far as it wants it. Of connections that are there already a capture
    /// gets packets, but neither a beginning nor secrets.
    pub fn set(&self, captures: &[Capture]) {
        let mut place = self
            .0
            .captures
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *place = captures.into();
        let wants = captures.iter().map(|capture| {
            let outer = if capture.has_outer() { OUTER } else { 0 };
            let secrets = if capture.has_secrets() { SECRETS } else { 0 };
            INSIDE | outer | secrets
        });
        let wants = wants.fold(0, |all, wants| all | wants);
        self.0.wants.store(wants, Ordering::Release);
    }

    /// Whether there is a capture.
    #[inline]
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.wants(INSIDE)
    }

    /// As [`Capture::record`], if there is a capture.
    #[inline]
    pub fn record(&self, interface: Interface, direction: Direction, bytes: &[u8]) {
        if self.is_on() {
            for capture in self.captures().iter() {
                capture.record(interface, direction, bytes);
            }
        }
    }

    #[inline]
    fn wants(&self, what: u8) -> bool {
        self.0.wants.load(Ordering::Relaxed) & what != 0
    }

    fn captures(&self) -> Arc<[Capture]> {
        let captures = self.0.captures.read();
        Arc::clone(&captures.unwrap_or_else(PoisonError::into_inner))
    }

    /// Where the secrets of a connection that begins now go, if they are wanted.
    pub(crate) fn secrets(&self) -> Option<Arc<ConnectionSecrets>> {
        if !self.wants(SECRETS) {
            return None;
        }
        ConnectionSecrets::new(&self.captures())
    }
}

/// The same tap.
impl PartialEq for Tap {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Tap {}

impl fmt::Debug for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tap")
            .field("outer", &self.wants(OUTER))
            .field("secrets", &self.wants(SECRETS))
            .finish()
    }
}

/// What was received and is held back, and for whom; as much as one call receives.
#[derive(Default)]
struct Held(Vec<(Arc<[Capture]>, Packet)>);

impl Held {
    /// Hands over what the reader has seen by now.
    #[inline]
    fn release(&mut self) {
        if !self.0.is_empty() {
            for (captures, packet) in std::mem::take(&mut self.0) {
                put(&captures, packet);
            }
        }
    }

    fn put(&mut self, tap: &Tap, direction: Direction, bytes: Box<[u8]>) {
        let packet = Packet::now(Interface::Outer, direction, bytes);
        let captures = tap.captures();
        if direction == Direction::Inbound && tap.wants(SECRETS) {
            self.0.push((captures, packet));
            return;
        }
        // Whatever is sent comes of what was received.
        self.release();
        put(&captures, packet);
    }
}

/// To each that has outer packets; the last, mostly the only one, gets the packet itself.
fn put(captures: &[Capture], packet: Packet) {
    let mut takers = captures.iter().filter(|capture| capture.has_outer());
    let Some(mut next) = takers.next() else {
        return;
    };
    for later in takers {
        next.put(packet.clone());
        next = later;
    }
    next.put(packet);
}

/// Of one TCP connection.
pub(crate) struct StreamTap {
    tap: Tap,
    flow: Flow,
    held: Held,
    ended: [bool; 2],
}

impl StreamTap {
    /// Of a connection that `opener` has just opened, as this end sees it.
    pub(crate) fn new(tap: &Tap, opener: Direction, local: SocketAddr, peer: SocketAddr) -> Self {
        let mut this = Self {
            tap: tap.clone(),
            flow: Flow::new(local, peer),
            held: Held::default(),
            ended: [false; 2],
        };
        if tap.wants(OUTER) {
            let answerer = match opener {
                Direction::Inbound => Direction::Outbound,
                Direction::Outbound => Direction::Inbound,
            };
            this.put(opener, Mark::Open, &[]);
            this.put(answerer, Mark::Accept, &[]);
            this.put(opener, Mark::Acknowledge, &[]);
        }
        this
    }

    /// Its reader is back.
    #[inline]
    pub(crate) fn release(&mut self) {
        self.held.release();
    }

    #[inline]
    pub(crate) fn received(&mut self, bytes: &[u8]) {
        if self.tap.wants(OUTER) {
            self.data(Direction::Inbound, bytes);
        }
    }

    /// Of `slices` the first `written` bytes.
    #[inline]
    pub(crate) fn sent(&mut self, slices: &[IoSlice<'_>], written: usize) {
        if self.tap.wants(OUTER) {
            let mut left = written;
            for slice in slices {
                let taken = slice.get(..left.min(slice.len())).unwrap_or_default();
                left = left.saturating_sub(taken.len());
                self.data(Direction::Outbound, taken);
            }
        }
    }

    /// This direction is over.
    pub(crate) fn ended(&mut self, direction: Direction) {
        let [inbound, outbound] = &mut self.ended;
        let ended = match direction {
            Direction::Inbound => inbound,
            Direction::Outbound => outbound,
        };
        if self.tap.wants(OUTER) && !std::mem::replace(ended, true) {
            self.put(direction, Mark::End, &[]);
        }
    }

    fn data(&mut self, direction: Direction, bytes: &[u8]) {
        for piece in bytes.chunks(MAX_SEGMENT) {
            self.put(direction, Mark::Data, piece);
        }
    }

    fn put(&mut self, direction: Direction, mark: Mark, payload: &[u8]) {
        let segment = self.flow.segment(direction, mark, payload);
        self.held.put(&self.tap, direction, segment);
    }
}

impl Drop for StreamTap {
    fn drop(&mut self) {
        self.release();
    }
}

/// Of one UDP socket.
pub(crate) struct DatagramTap {
    tap: Tap,
    local: SocketAddr,
    held: Held,
}

impl DatagramTap {
    pub(crate) fn new(tap: &Tap, local: SocketAddr) -> Self {
        Self {
            tap: tap.clone(),
            local,
            held: Held::default(),
        }
    }

    /// Its reader is back.
    #[inline]
    pub(crate) fn release(&mut self) {
        self.held.release();
    }

    /// Whether anybody wants to know.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.tap.wants(OUTER)
    }

    /// `local` is where it arrived, or leaves from, if that is known and not the socket's address.
    pub(crate) fn put(
        &mut self,
        direction: Direction,
        local: Option<IpAddr>,
        peer: SocketAddr,
        payload: &[u8],
    ) {
        let local = SocketAddr::new(local.unwrap_or_else(|| self.local.ip()), self.local.port());
        let packet = match direction {
            Direction::Inbound => outer::datagram(peer, local, payload),
            Direction::Outbound => outer::datagram(local, peer, payload),
        };
        self.held.put(&self.tap, direction, packet);
    }
}

impl Drop for DatagramTap {
    fn drop(&mut self) {
        self.release();
    }
}
