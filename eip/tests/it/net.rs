//! Two stacks joined by a wire in simulated time: delay, rate, loss, duplication, reordering.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tsc_eip::{Event, Stack, TcpHandle, TcpListenHandle, TcpOptions};

use crate::support::*;

/// A deterministic generator (splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// True in `per_mille` of 1000 cases.
    pub(crate) fn hits(&mut self, per_mille: u64) -> bool {
        self.next() % 1000 < per_mille
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }
}

/// One direction.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) delay: Duration,
    /// Random extra delay, which reorders.
    pub(crate) jitter: Duration,
    /// Bits per second; the sender is held back as by a tunnel. `None` is at once.
    pub(crate) rate: Option<u64>,
    pub(crate) loss_per_mille: u64,
    pub(crate) duplicate_per_mille: u64,
    /// Nothing arrives.
    pub(crate) cut: bool,
}

impl Link {
    pub(crate) fn delay(delay: Duration) -> Self {
        Self {
            delay,
            jitter: Duration::ZERO,
            rate: None,
            loss_per_mille: 0,
            duplicate_per_mille: 0,
            cut: false,
        }
    }
}

/// When a packet arrives, a number that keeps ties in order, where it arrives, and the packet.
type Flight = (Instant, u64, usize, Vec<u8>);

pub(crate) struct Net {
    pub(crate) now: Instant,
    pub(crate) stacks: [Stack; 2],
    /// From 0 to 1 and from 1 to 0.
    pub(crate) links: [Link; 2],
    free: [Instant; 2],
    flying: BinaryHeap<Reverse<Flight>>,
    count: u64,
    pub(crate) chance: Chance,
    /// Packets seen on the way, if somebody wants to know.
    pub(crate) trace: Option<Vec<(usize, Vec<u8>)>>,
    pub(crate) carried: [u64; 2],
}

impl Net {
    pub(crate) fn new(one: Stack, other: Stack, link: Link, seed: u64) -> Self {
        let now = Instant::now();
        Self {
            now,
            stacks: [one, other],
            links: [link.clone(), link],
            free: [now; 2],
            flying: BinaryHeap::new(),
            count: 0,
            chance: Chance(seed),
            trace: None,
            carried: [0; 2],
        }
    }

    pub(crate) fn plain() -> Self {
        Self::new(alice(), bob(), Link::delay(Duration::from_millis(10)), 1)
    }

    fn send(&mut self) {
        for from in 0..2 {
            while self.links[from].rate.is_none() || self.free[from] <= self.now {
                let Some(packet) = self.stacks[from].poll_transmit() else {
                    break;
                };
                let link = &self.links[from];
                if let Some(rate) = link.rate {
                    let nanos = packet.len() as u64 * 8 * 1_000_000_000 / rate;
                    self.free[from] = self.free[from].max(self.now) + Duration::from_nanos(nanos);
                }
                self.carried[from] += packet.len() as u64;
                if let Some(trace) = &mut self.trace {
                    trace.push((from, packet.clone()));
                }
                let copies = 1 + u64::from(self.chance.hits(link.duplicate_per_mille));
                let lost = link.cut || self.chance.hits(link.loss_per_mille);
                for _ in 0..copies {
                    if lost {
                        break;
                    }
                    let jitter = self.chance.below(link.jitter.as_micros() as u64 + 1);
                    let leaves = self.free[from].max(self.now);
                    let at = leaves + link.delay + Duration::from_micros(jitter);
                    self.count += 1;
                    self.flying
                        .push(Reverse((at, self.count, 1 - from, packet.clone())));
                }
                self.stacks[from].recycle(packet);
            }
        }
    }

    /// One moment on: returns whether there is anything left to happen.
    pub(crate) fn step(&mut self) -> bool {
        self.send();
        let mut next = self.flying.peek().map(|Reverse((at, ..))| *at);
        for side in 0..2 {
            let waiting = (self.stacks[side].wants_transmit() && self.links[side].rate.is_some())
                .then(|| self.free[side]);
            for at in [self.stacks[side].poll_timeout(), waiting]
                .into_iter()
                .flatten()
            {
                next = Some(next.map_or(at, |next| next.min(at)));
            }
        }
        let Some(next) = next else { return false };
        self.now = self.now.max(next);
        while let Some(Reverse((at, ..))) = self.flying.peek()
            && *at <= self.now
        {
            let Reverse((_, _, to, packet)) = self.flying.pop().unwrap();
            self.stacks[to].handle_packet(self.now, &packet);
        }
        for stack in &mut self.stacks {
            if stack.poll_timeout().is_some_and(|at| at <= self.now) {
                stack.handle_timeout(self.now);
            }
        }
        true
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        let mut steps = 0u64;
        loop {
            self.send();
            let next = self.next_time();
            if next.is_none_or(|at| at > end) {
                self.now = end;
                return;
            }
            self.step();
            steps += 1;
            assert!(steps < 10_000_000, "time stands still");
        }
    }

    fn next_time(&self) -> Option<Instant> {
        let flying = self.flying.peek().map(|Reverse((at, ..))| *at);
        let timers = self.stacks.iter().filter_map(Stack::poll_timeout);
        let free = (0..2)
            .filter(|side| self.stacks[*side].wants_transmit() && self.links[*side].rate.is_some())
            .map(|side| self.free[side]);
        flying.into_iter().chain(timers).chain(free).min()
    }

    /// A connection from stack 0 to stack 1.
    pub(crate) fn connect(
        &mut self,
        server: SocketAddr,
    ) -> (TcpHandle, TcpHandle, TcpListenHandle) {
        let listener = self.stacks[1].tcp_listen(server, 16).unwrap();
        let any = if server.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        };
        let client = self.stacks[0]
            .tcp_connect(self.now, addr(any), server, TcpOptions::default())
            .unwrap();
        for _ in 0..100_000 {
            if let Some((peer, _)) = self.stacks[1].tcp_accept(listener) {
                events(&mut self.stacks[0]);
                events(&mut self.stacks[1]);
                return (client, peer, listener);
            }
            assert!(self.step(), "the connection does not open");
        }
        panic!("the connection does not open");
    }

    pub(crate) fn events(&mut self, side: usize) -> Vec<Event> {
        events(&mut self.stacks[side])
    }

    /// Everything that can be read now; true at the end of data.
    pub(crate) fn read(&mut self, side: usize, handle: TcpHandle) -> (Vec<u8>, bool) {
        let mut buffer = vec![0; 65_536];
        let mut all = Vec::new();
        loop {
            match self.stacks[side].tcp_recv(self.now, handle, &mut buffer) {
                Ok(Some(0)) => return (all, true),
                Ok(Some(n)) => all.extend_from_slice(&buffer[..n]),
                Ok(None) | Err(_) => return (all, false),
            }
        }
    }
}

/// Bytes of which each position is told from its neighbours.
pub(crate) fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut chance = Chance(seed);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend(chance.next().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
