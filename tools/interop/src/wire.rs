//! A wire between two namespaces, with delay, loss and outages.
//!
//! ```text
//!   access: TUN device --read--> a queue of (due, packet) --write--> TUN device: edge
//!                      <-write--                          <--read---
//! ```
//!
//! The kernel of the machine has no `netem`, so a thread of the test is the wire. Delays are those of tokio's timer: milliseconds.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::sched::{CloneFlags, setns};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until},
};
use tsc_osaa::tun::{TunBatch, TunConfig, TunDevice, TunQueue};

use crate::network::Namespace;

/// Packets on the way in each direction; more are dropped, as a router does.
const QUEUE: usize = 10_000;

/// How a wire treats packets; both directions alike.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct WireOptions {
    /// From one end to the other.
    pub delay: Duration,
    /// Share of packets that are lost, 0 to 1: at random, but in each run the same.
    pub loss: f64,
    /// Nothing passes, and nobody is told.
    pub cut: bool,
}

impl WireOptions {
    /// A clean wire with a round trip of `time`.
    #[must_use]
    pub fn round_trip(time: Duration) -> Self {
        Self {
            delay: time / 2,
            ..Self::default()
        }
    }
}

/// Somebody who reads along.
#[derive(Debug, Default)]
struct Tap {
    /// What is looked for, and in how many packets it was.
    searches: Vec<(Vec<u8>, usize)>,
    packets: usize,
}

impl Tap {
    fn read(&mut self, packet: &[u8]) {
        self.packets += 1;
        for (needle, found) in &mut self.searches {
            *found += usize::from(packet.windows(needle.len()).any(|found| found == needle));
        }
    }
}

/// See the module. Cut for good when dropped.
#[derive(Debug)]
pub struct Wire {
    options: Arc<Mutex<WireOptions>>,
    tap: Arc<Mutex<Tap>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Wire {
    /// Lays a wire from the access network to the edge. At each end it is a device of this name, which has no address yet.
    ///
    /// # Panics
    ///
    /// When a device cannot be made.
    #[must_use]
    #[allow(clippy::panic, reason = "a test has no better way to fail")]
    pub fn new(name: &str, options: WireOptions) -> Self {
        let ends = [Namespace::Access, Namespace::Edge].map(|namespace| {
            let mut config = TunConfig::default();
            config.name = Some(name.to_owned());
            config.offload = false;
            match namespace.enter(move || TunDevice::create(&config)) {
                Ok(device) => device,
                Err(error) => panic!("{name}: {error}"),
            }
        });
        let options = Arc::new(Mutex::new(options));
        let (stop, stopped) = oneshot::channel();
        let tap = Arc::<Mutex<Tap>>::default();
        let shared = (Arc::clone(&options), Arc::clone(&tap));
        let thread = thread::spawn(move || carry(ends, &shared.0, &shared.1, stopped));
        Self {
            options,
            tap,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Reads along from now on, and looks for these bytes in every packet, also in those that are lost on the way.
    pub fn look_for(&self, bytes: &[u8]) {
        let mut tap = self.tap.lock().unwrap_or_else(PoisonError::into_inner);
        tap.searches.push((bytes.to_vec(), 0));
    }

    /// In how many packets each was that [`Self::look_for`] has named, and how many packets there were in all.
    #[must_use]
    pub fn found(&self) -> (Vec<usize>, usize) {
        let tap = self.tap.lock().unwrap_or_else(PoisonError::into_inner);
        let found = tap.searches.iter().map(|(_, found)| *found);
        (found.collect(), tap.packets)
    }

    /// Treats packets differently from now on. Those on the way arrive as was meant for them.
    pub fn set(&self, change: impl FnOnce(&mut WireOptions)) {
        change(&mut self.options.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[allow(clippy::expect_used, reason = "a test has no better way to fail")]
fn carry(
    ends: [TunDevice; 2],
    options: &Mutex<WireOptions>,
    tap: &Mutex<Tap>,
    stopped: oneshot::Receiver<()>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let [one, other] = ends.map(|end| end.into_queues().into_iter().next());
        let (Some(one), Some(other)) = (one, other) else {
            return;
        };
        let (Ok(to_one), Ok(to_other)) = (one.sender(), other.sender()) else {
            return;
        };
        tokio::select! {
            () = direction(one, to_other, options, tap, 1) => {}
            () = direction(other, to_one, options, tap, 2) => {}
            _ = stopped => {}
        }
    });
}

/// Carries packets one way until a device is gone.
async fn direction(
    mut from: TunQueue,
    mut to: TunQueue,
    options: &Mutex<WireOptions>,
    tap: &Mutex<Tap>,
    seed: u64,
) {
    let mut way: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    let mut batch = TunBatch::default();
    let mut chance = Chance(seed);
    loop {
        let due = way.front().map(|(due, _)| *due);
        let arrival = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            read = from.recv(&mut batch) => {
                if read.is_err() {
                    return;
                }
                let rules = *options.lock().unwrap_or_else(PoisonError::into_inner);
                let due = Instant::now() + rules.delay;
                for packet in batch.iter() {
                    tap.lock().unwrap_or_else(PoisonError::into_inner).read(packet);
                    let lost = rules.cut || chance.next() < rules.loss;
                    if !lost && way.len() < QUEUE {
                        way.push_back((due, packet.to_vec()));
                    }
                }
            }
            () = arrival => {
                let now = Instant::now();
                let mut out = TunBatch::default();
                while let Some((due, packet)) = way.front()
                    && *due <= now
                    && out.push(packet)
                {
                    way.pop_front();
                }
                if to.try_send(&out).is_err() {
                    return;
                }
            }
        }
    }
}

/// From 0 to 1, the same in each run (xorshift).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let [a, b, c, d, ..] = self.0.to_be_bytes();
        f64::from(u32::from_be_bytes([a, b, c, d])) / f64::from(u32::MAX)
    }
}

impl Namespace {
    /// Does `work` on a thread in here: sockets and devices that it makes stay here, wherever they are used.
    ///
    /// # Panics
    ///
    /// When the namespace cannot be entered, or `work` panics.
    #[allow(clippy::panic, reason = "a test has no better way to fail")]
    pub fn enter<T: Send>(self, work: impl FnOnce() -> T + Send) -> T {
        let done = thread::scope(|scope| {
            let thread = scope.spawn(|| {
                if let Some(path) = self.path() {
                    let entered = File::open(path).and_then(|file| {
                        setns(file, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
                    });
                    if let Err(error) = entered {
                        panic!("{self:?}: {error}");
                    }
                }
                work()
            });
            thread.join()
        });
        match done {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}
