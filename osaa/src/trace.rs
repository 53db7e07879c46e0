//! Capture files: inner packets, control messages and outer packets as pcapng, for Wireshark.
//!
//! A [`CaptureWriter`] owns a thread that writes; [`Capture`] handles copy packets into a bounded queue and never wait: what
//! does not fit is dropped and counted. The file has two interfaces, or three, with nanosecond timestamps and directions:
//!
//! | interface | link type | contents |
//! | --- | --- | --- |
//! | `inner` | 101 (RAW) | inner IP packets |
//! | `control` | 147 (USER0) | control messages and data frames, as units |
//! | `outer` | 101 (RAW) | only with [`CaptureOptions::outer`]: what went over the wire, in IP packets made up around it |
//!
//! What goes over the wire is told by the sockets of those transports that were given a [`Tap`]: below TLS and DTLS, above the
//! operating system. Of a datagram that is the datagram; of a stream what each call read or wrote, in segments whose
//! numbers count its bytes. A capture that may ([`CaptureOptions::insecure_decryption_secrets`]) also takes the secrets of their
//! handshakes, as decryption-secrets blocks before what they decrypt.
//!
//! **A capture holds the plaintext of protected tunnels, with their resume keys and tokens**, as far as [`CaptureOptions::redact`] leaves
//! them. The file is readable by its owner only, and nothing is captured unless asked for.

mod files;
mod openings;
mod outer;
mod secrets;
mod tap;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, TryRecvError, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tracing::warn;
use zeroize::Zeroizing;

use self::{files::Files, secrets::Live};
pub(crate) use self::{
    secrets::ConnectionSecrets,
    tap::{DatagramTap, StreamTap},
};
pub use self::{secrets::MAX_LIVE_CONNECTIONS, tap::Tap};

/// Packets that wait for the writer, at most.
const QUEUE_PACKETS: usize = 4096;

/// Bytes that wait for the writer, at most.
const QUEUE_BYTES: usize = 8 * 1024 * 1024;

/// Default bound of a capture file, in bytes.
pub const DEFAULT_FILE_LIMIT: u64 = 1 << 30;

/// Most files of a [`Ring`].
pub const MAX_FILES: u16 = 1000;

/// How a capture is written.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct CaptureOptions {
    /// Bound of a file, in bytes. Default: [`DEFAULT_FILE_LIMIT`].
    pub limit: u64,
    /// What follows a file that is full; without one, nothing: packets are dropped. Default: `None`.
    pub ring: Option<Ring>,
    /// Makes new files only: one that is there, or a link, is neither written nor taken into the ring, but an error. Default: `false`.
    pub fresh: bool,
    /// Takes away what must not be written of a packet, in the thread that writes: it may shorten it and change what is left.
    /// Default: `None`.
    pub redact: Option<fn(Interface, &mut Vec<u8>)>,
    /// Whether there is a third interface, with outer packets. Default: false.
    pub outer: bool,
    /// **Whether the file gets the secrets with which everything that these connections carry, and have carried, can be read**, by whoever
    /// recorded them, wherever. Refused together with `redact`, which it would undo. Default: false.
    pub insecure_decryption_secrets: bool,
}

impl Default for CaptureOptions {
    fn default() -> Self {
        Self {
            limit: DEFAULT_FILE_LIMIT,
            ring: None,
            fresh: false,
            redact: None,
            outer: false,
            insecure_decryption_secrets: false,
        }
    }
}

/// Several files, of which the newest has the capture's name, those before it that name with `.1`, `.2` and so on. The oldest is deleted
/// when one more is begun, which only a packet does. A file of that name from before is taken into the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ring {
    /// How many, 2 to [`MAX_FILES`]; what is beyond counts as the nearest of these.
    pub files: u16,
    /// Begins a file at the latest so long after the first packet of the one before.
    pub period: Option<Duration>,
}

impl Ring {
    /// How many are kept besides the newest.
    fn before(&self) -> u16 {
        self.files.clamp(2, MAX_FILES).saturating_sub(1)
    }
}

/// What is captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interface {
    /// Inner IP packets.
    Inner,
    /// Control messages and data frames.
    Control,
    /// Outer packets.
    Outer,
}

/// Which way it went, as this end sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Received.
    Inbound,
    /// Sent.
    Outbound,
}

/// Why there is no (complete) capture file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// The file cannot be created.
    #[error("cannot create the capture file {path}: {source}")]
    Create {
        /// The file.
        path: PathBuf,
        /// The system's report.
        #[source]
        source: io::Error,
    },
    /// A capture that leaves things out would hold the secrets to read them elsewhere.
    #[error("a redacted capture cannot hold decryption secrets")]
    SecretsInRedacted,
    /// The file could not be written; what came before is in it.
    #[error("cannot write the capture file {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's report.
        #[source]
        source: io::Error,
    },
}

/// What became of what was captured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CaptureStats {
    /// Packets in the file.
    pub written: u64,
    /// Packets lost: the queue was full, the file too long or not writable.
    pub dropped: u64,
}

/// A capture file being written. Dropping it ends it as [`Self::close`] does, without a report.
#[derive(Debug)]
pub struct CaptureWriter {
    capture: Capture,
    path: PathBuf,
    thread: Option<JoinHandle<io::Result<()>>>,
}

/// Captures into a [`CaptureWriter`]'s file; cheap to clone, for each task one.
#[derive(Clone)]
pub struct Capture(Arc<Inner>);

struct Inner {
    queue: SyncSender<Order>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    queued_bytes: AtomicUsize,
    written: AtomicU64,
    dropped: AtomicU64,
    closed: AtomicBool,
    failed: AtomicBool,
    outer: bool,
    /// `None` where secrets are not wanted.
    live: Option<Live>,
}

impl Shared {
    /// Nobody asks for them any more.
    fn forget_secrets(&self) {
        if let Some(live) = &self.live {
            live.end();
        }
    }
}

enum Order {
    Packet(Packet),
    /// A line of secrets.
    Secret(Zeroizing<Vec<u8>>),
    Close,
}

#[derive(Clone)]
struct Packet {
    interface: Interface,
    direction: Direction,
    /// Since 1970.
    at: Duration,
    bytes: Box<[u8]>,
}

impl CaptureWriter {
    /// Creates (or empties) the file and starts the thread.
    ///
    /// # Errors
    /// The options contradict each other, or the file cannot be created or written.
    pub fn create(path: &Path, options: CaptureOptions) -> Result<Self, CaptureError> {
        if options.insecure_decryption_secrets && options.redact.is_some() {
            return Err(CaptureError::SecretsInRedacted);
        }
        let fail = |source| CaptureError::Create {
            path: path.to_owned(),
            source,
        };
        let files = Files::create(path, options).map_err(fail)?;
        let (queue, orders) = sync_channel(QUEUE_PACKETS);
        let shared = Arc::new(Shared {
            outer: options.outer,
            live: options
                .insecure_decryption_secrets
                .then(|| Live::new(options.ring.is_some())),
            ..Shared::default()
        });
        let writer = Writer {
            files,
            shared: Arc::clone(&shared),
        };
        let thread = thread::Builder::new()
            .name("capture".to_owned())
            .spawn(move || writer.run(&orders))
            .map_err(fail)?;
        Ok(Self {
            capture: Capture(Arc::new(Inner { queue, shared })),
            path: path.to_owned(),
            thread: Some(thread),
        })
    }

    /// A handle to capture with.
    #[must_use]
    pub fn handle(&self) -> Capture {
        self.capture.clone()
    }

    /// What became of the packets so far.
    #[must_use]
    pub fn stats(&self) -> CaptureStats {
        self.capture.stats()
    }

    /// Whether the file cannot be written any more, for example as the disk is full: everything is dropped from then on.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.capture.0.shared.failed.load(Ordering::Relaxed)
    }

    /// Writes what waits and closes the file; handles capture nothing from then on. Blocks for as long as the disk
    /// takes for [8 MiB](self) at most.
    ///
    /// # Errors
    /// Something could not be written.
    pub fn close(mut self) -> Result<CaptureStats, CaptureError> {
        self.finish()?;
        Ok(self.stats())
    }

    fn finish(&mut self) -> Result<(), CaptureError> {
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        self.capture.0.shared.closed.store(true, Ordering::Release);
        // Waits for room; if the thread is gone there is nothing to close.
        let _gone = self.capture.0.queue.send(Order::Close);
        let result = thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the writer panicked")));
        self.capture.0.shared.forget_secrets();
        result.map_err(|source| CaptureError::Write {
            path: self.path.clone(),
            source,
        })
    }
}

impl Drop for CaptureWriter {
    fn drop(&mut self) {
        if let Err(error) = self.finish() {
            warn!(event = "capture-incomplete", %error);
        }
    }
}

impl Capture {
    /// Captures `bytes` with the time of now. Copies them, never waits.
    pub fn record(&self, interface: Interface, direction: Direction, bytes: &[u8]) {
        self.put(Packet::now(interface, direction, bytes.into()));
    }

    /// Whether outer packets are wanted.
    #[must_use]
    pub fn has_outer(&self) -> bool {
        self.0.shared.outer
    }

    /// Whether secrets are wanted.
    #[must_use]
    pub fn has_secrets(&self) -> bool {
        self.0.shared.live.is_some()
    }

    /// The same for a packet of an earlier moment.
    fn put(&self, packet: Packet) {
        if packet.interface == Interface::Outer && !self.has_outer() {
            return;
        }
        let len = packet.bytes.len();
        if !self.offer(Order::Packet(packet), len) {
            self.0.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes a line of secrets, before whatever is captured from now on.
    fn put_secret(&self, line: Zeroizing<Vec<u8>>) {
        let len = line.len();
        if !self.offer(Order::Secret(line), len) {
            self.0.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn offer(&self, order: Order, len: usize) -> bool {
        if self.0.shared.closed.load(Ordering::Acquire) {
            return false;
        }
        let queued = &self.0.shared.queued_bytes;
        let before = queued.fetch_add(len, Ordering::Relaxed);
        let fits =
            before.saturating_add(len) <= QUEUE_BYTES && self.0.queue.try_send(order).is_ok();
        if !fits {
            queued.fetch_sub(len, Ordering::Relaxed);
        }
        fits
    }

    /// What became of the packets so far, of all handles.
    #[must_use]
    pub fn stats(&self) -> CaptureStats {
        CaptureStats {
            written: self.0.shared.written.load(Ordering::Relaxed),
            dropped: self.0.shared.dropped.load(Ordering::Relaxed),
        }
    }
}

impl fmt::Debug for Capture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Capture")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl Packet {
    fn now(interface: Interface, direction: Direction, bytes: Box<[u8]>) -> Self {
        Self {
            interface,
            direction,
            at: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default(),
            bytes,
        }
    }
}

/// Tells of a defect of the thread.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.failed.store(true, Ordering::Relaxed);
        }
    }
}

/// The thread.
struct Writer {
    files: Files,
    shared: Arc<Shared>,
}

impl Writer {
    fn run(mut self, orders: &Receiver<Order>) -> io::Result<()> {
        let _ending = Ending(Arc::clone(&self.shared));
        // The first error ends the file. It is told at once, as the end may be days away.
        let shared = Arc::clone(&self.shared);
        let note = |result: io::Result<()>| {
            result.inspect_err(|error| {
                shared.failed.store(true, Ordering::Relaxed);
                shared.forget_secrets();
                warn!(event = "capture-failed", %error, "cannot write the capture file, capturing stops");
            })
        };
        let mut result = Ok(());
        loop {
            // Flushed whenever there is nothing to do, so that the file can be watched while it grows.
            let order = match orders.try_recv() {
                Ok(order) => Ok(order),
                Err(TryRecvError::Empty) => {
                    if result.is_ok() {
                        result = note(self.files.flush());
                    }
                    orders.recv()
                }
                Err(TryRecvError::Disconnected) => break,
            };
            let packet = match order {
                Ok(Order::Packet(packet)) => packet,
                Ok(Order::Secret(line)) => {
                    let queued = &self.shared.queued_bytes;
                    queued.fetch_sub(line.len(), Ordering::Relaxed);
                    if result.is_ok() {
                        result = note(self.files.write_secrets(&line));
                    }
                    continue;
                }
                Ok(Order::Close) | Err(_) => break,
            };
            let len = packet.bytes.len();
            self.shared.queued_bytes.fetch_sub(len, Ordering::Relaxed);
            let live = self.shared.live.as_ref();
            let written = match result {
                Ok(()) => self.files.write(packet, live).unwrap_or_else(|error| {
                    result = note(Err(error));
                    false
                }),
                Err(_) => false,
            };
            let counter = if written {
                &self.shared.written
            } else {
                &self.shared.dropped
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
        result.and_then(|()| note(self.files.flush()))
    }
}
