//! The bad network: a wire for each cell, between a TUN device in its namespace and one in the server's.
//!
//! ```text
//!   caller's namespace: TUN --> lost? --> queue of (due, packet) --> TUN: the server's namespace
//!                           <--             the same back        <--
//! ```
//!
//! What is lost, and when the rest arrives, is [`tsc_sim`]'s [`Link`], the model that the state machines are tested with: each direction
//! has its own, with a seed. The first [`CLEAN`] packets each way are never lost: opening a tunnel and setting up a call is not what is
//! measured, and takes fewer than half of them.

use std::{
    collections::{BTreeMap, VecDeque},
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tsc_osaa::tun::{TunBatch, TunConfig, TunDevice, TunQueue};
use tsc_sim::{Link, LinkConfig, Rng};

use crate::{matrix::Network, netns::Netns};

/// Packets each way at the beginning that are not lost.
pub const CLEAN: u64 = 100;
/// Packets on the way in each direction; more are dropped, as a router does.
const QUEUE: usize = 10_000;
/// Flows that are counted by themselves; the others together.
const FLOWS: usize = 64;

/// What passed in one direction. Bytes are those of IP packets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Passed {
    /// Packets that were sent into the wire.
    pub packets: u64,
    /// Their bytes: what the sender spent.
    pub bytes: u64,
    /// Of these packets, such that were lost.
    pub lost: u64,
    /// Greatest delay beyond the wire's, in microseconds: this host had other things to do.
    pub late_us: u64,
    /// The same packets by flow: `udp 40001` is the transport and the caller's port.
    pub flows: BTreeMap<String, Flow>,
}

/// What passed of one flow in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the caller to the server.
    Up,
    /// From the server to the caller.
    Down,
}

/// One direction of a wire, without devices: which packets are lost, and when the others arrive.
#[derive(Debug)]
pub struct Direction {
    way: Way,
    link: Link,
    loss: f64,
    passed: Passed,
}

impl Direction {
    /// One direction of this network.
    #[must_use]
    pub fn new(way: Way, network: Network, seed: u64) -> Self {
        let mut rng = Rng::new(network.seed(seed));
        let rng = match way {
            Way::Up => rng.fork(),
            Way::Down => {
                let _up = rng.fork();
                rng.fork()
            }
        };
        let config = LinkConfig {
            delay: network.delay(),
            burst: f64::from(network.burst),
            ..LinkConfig::lossy(0.0)
        };
        Self {
            way,
            link: Link::new(config, rng),
            loss: network.loss(),
            passed: Passed::default(),
        }
    }

    /// A packet was sent: when it arrives, if it does.
    pub fn packet(&mut self, now: Instant, packet: &[u8]) -> Option<Instant> {
        let bytes = u64::try_from(packet.len()).unwrap_or(u64::MAX);
        self.passed.packets += 1;
        self.passed.bytes += bytes;
        self.note_flow(flow(packet, self.way), bytes);
        if self.passed.packets > CLEAN {
            self.link.config.loss = self.loss;
        }
        let due = self.link.datagram(now, packet.len()).into_iter().next();
        self.passed.lost += u64::from(due.is_none());
        due
    }

    /// What passed so far.
    #[must_use]
    pub const fn passed(&self) -> &Passed {
        &self.passed
    }

    fn note_flow(&mut self, name: String, bytes: u64) {
        let flows = &mut self.passed.flows;
        let is_known = flows.len() < FLOWS || flows.contains_key(&name);
        let name = if is_known { name } else { "others".to_owned() };
        let flow = flows.entry(name).or_default();
        flow.packets += 1;
        flow.bytes += bytes;
    }
}

/// The transport of an IPv4 packet and its port at the caller's end.
fn flow(packet: &[u8], way: Way) -> String {
    let header = usize::from(packet.first().copied().unwrap_or(0) & 15) * 4;
    let ports = header
        + match way {
            Way::Up => 0,
            Way::Down => 2,
        };
    let port = packet
        .get(ports..ports + 2)
        .and_then(|port| port.try_into().ok())
        .map_or(0, u16::from_be_bytes);
    match packet.get(9) {
        Some(6) => format!("tcp {port}"),
        Some(17) => format!("udp {port}"),
        Some(other) => format!("protocol {other}"),
        None => "short".to_owned(),
    }
}

/// A wire. Cut when dropped.
#[derive(Debug)]
pub struct Wire {
    directions: [Arc<Mutex<Direction>>; 2],
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Where a wire ends.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// In which network.
    pub namespace: &'a Netns,
    /// The address there, which the other end reaches through the wire.
    pub address: Ipv4Addr,
    /// Whether the address is the device's, or belongs to something else in there.
    pub is_own: bool,
}

impl Wire {
    /// Lays a wire between the caller's end and the server's; at each it is a device of this name.
    ///
    /// # Errors
    ///
    /// A device or the thread cannot be made.
    pub fn lay(
        name: &str,
        [caller, server]: [End<'_>; 2],
        network: Network,
        seed: u64,
    ) -> anyhow::Result<Self> {
        let device = |end: End<'_>, other: End<'_>| {
            let mut config = TunConfig::default();
            config.name = Some(name.to_owned());
            // Packets as they are on a real wire.
            config.offload = false;
            if end.is_own {
                config
                    .addresses
                    .push(format!("{}/32", end.address).parse()?);
            }
            config.routes.push(format!("{}/32", other.address).parse()?);
            let device = end.namespace.enter(|| TunDevice::create(&config))??;
            anyhow::Ok(device)
        };
        let devices = [device(caller, server)?, device(server, caller)?];
        let directions = [Way::Up, Way::Down]
            .map(|way| Arc::new(Mutex::new(Direction::new(way, network, seed))));
        let (stop, stopped) = oneshot::channel();
        let shared = directions.clone();
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || carry(devices, &shared, stopped))
            .context("a thread")?;
        Ok(Self {
            directions,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// What passed so far, from the caller and to it.
    #[must_use]
    pub fn passed(&self) -> [Passed; 2] {
        let passed = |direction: &Arc<Mutex<Direction>>| {
            direction
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .passed
                .clone()
        };
        let [up, down] = &self.directions;
        [passed(up), passed(down)]
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

fn carry(
    devices: [TunDevice; 2],
    directions: &[Arc<Mutex<Direction>>; 2],
    stopped: oneshot::Receiver<()>,
) {
    // Without a runtime nothing passes, which is what the cell then tells.
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    else {
        return;
    };
    let [up, down] = directions;
    runtime.block_on(async {
        let [caller, server] = devices.map(|device| device.into_queues().into_iter().next());
        let (Some(caller), Some(server)) = (caller, server) else {
            return;
        };
        let (Ok(to_caller), Ok(to_server)) = (caller.sender(), server.sender()) else {
            return;
        };
        tokio::select! {
            () = pass(caller, to_server, up) => {}
            () = pass(server, to_caller, down) => {}
            _ = stopped => {}
        }
    });
}

/// Carries packets one way until a device is gone.
async fn pass(mut from: TunQueue, mut to: TunQueue, direction: &Mutex<Direction>) {
    let direction = || direction.lock().unwrap_or_else(PoisonError::into_inner);
    let mut way: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    let mut batch = TunBatch::default();
    loop {
        let due = way.front().map(|(due, _)| *due);
        let arrival = async {
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            read = from.recv(&mut batch) => {
                if read.is_err() {
                    return;
                }
                let now = Instant::now();
                for packet in batch.iter() {
                    let due = direction().packet(now, packet);
                    if let Some(due) = due.filter(|_| way.len() < QUEUE) {
                        way.push_back((due, packet.to_vec()));
                    }
                }
            }
            () = arrival => {
                let now = Instant::now();
                let mut late = Duration::ZERO;
                let mut out = TunBatch::default();
                while let Some((due, packet)) = way.front()
                    && *due <= now
                    && out.push(packet)
                {
                    late = late.max(now - *due);
                    way.pop_front();
                }
                if to.try_send(&out).is_err() {
                    return;
                }
                let passed = &mut direction().passed;
                passed.late_us = passed.late_us.max(u64::try_from(late.as_micros()).unwrap_or(u64::MAX));
            }
        }
    }
}
