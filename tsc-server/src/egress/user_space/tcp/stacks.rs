//! A stack for each tunnel with TCP: so that MTU, bounds and floods of one are not another's.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use tsc_eip::{Stack, StackConfig, TcpHandle};

use super::super::count;
use super::super::ports::Random;
use crate::config::UserSpaceConfig;

/// Most that a connection holds, each way: the window for 100 Mbit/s at a round trip of 50 ms.
const BUFFER: usize = 640 * 1024;

/// What is guaranteed to a connection, both ways together (see [`StackConfig::tcp_total_bytes`]).
const LEAST_BUFFERS: usize = 32 * 1024;

/// Bytes that all connections hold, or that are guaranteed to them. Beyond, there are no new ones.
const TOTAL_BYTES: usize = 1024 * 1024 * 1024;

/// Bytes that one tunnel's connections may hold while there is plenty.
const TUNNEL_BYTES: usize = 96 * 1024 * 1024;

/// Of what is left, the part that a tunnel may take more than it has. What it may is looked at whenever it does
/// something, so that all together never exceed the total.
const SHARE: usize = 8;

/// Closed connections of a tunnel whose addresses stay taken.
const TIME_WAITS: usize = 256;

/// The request of a tunnel outlives the host's attempt by this.
const GRACE: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug)]
pub(super) struct Stacks {
    /// By tunnel.
    stacks: Vec<Option<Box<Inner>>>,
    deadlines: BTreeSet<(Instant, usize)>,
    /// Tunnels whose stack has to be looked at, at most once each.
    touched: VecDeque<usize>,
    /// What is held, or guaranteed, and the most of it.
    reserved: usize,
    total: usize,
    connections: usize,
    incoming_timeout: Duration,
    random: Random,
}

/// What a tunnel has of TCP.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) stack: Stack,
    /// Its connections, those that the host is still opening included.
    pub(super) held: BTreeSet<usize>,
    /// Those that the stack knows.
    pub(super) handles: BTreeMap<TcpHandle, usize>,
    deadline: Option<Instant>,
    reserved: usize,
    touched: bool,
}

impl Stacks {
    /// Of one of so many workers, which share the total evenly.
    pub(super) fn new(config: &UserSpaceConfig, workers: usize, seed: u64) -> Self {
        Self {
            stacks: Vec::new(),
            deadlines: BTreeSet::new(),
            touched: VecDeque::new(),
            reserved: 0,
            total: TOTAL_BYTES / workers.max(1),
            connections: count(config.tcp_connections_per_tunnel),
            incoming_timeout: config.tcp_connect_timeout + GRACE,
            random: Random::new(seed),
        }
    }

    pub(super) fn get_mut(&mut self, tunnel: usize) -> Option<&mut Inner> {
        let inner = self.stacks.get_mut(tunnel)?.as_deref_mut()?;
        let spare = self.total.saturating_sub(self.reserved);
        let more = (spare / SHARE).max(spare.min(LEAST_BUFFERS));
        let allowed = inner.reserved.saturating_add(more).min(TUNNEL_BYTES);
        inner.stack.set_tcp_total_bytes(allowed);
        Some(inner)
    }

    /// Takes account of what the connections of a tunnel hold now.
    fn account(&mut self, tunnel: usize) {
        let Some(Some(inner)) = self.stacks.get_mut(tunnel) else {
            return;
        };
        let now = inner.stack.stats().gauges.tcp_buffer_bytes;
        let before = std::mem::replace(&mut inner.reserved, now);
        self.reserved = self.reserved.saturating_sub(before).saturating_add(now);
    }

    /// The stack of a tunnel, made if there is none.
    pub(super) fn get_or_open(&mut self, tunnel: usize, mtu: u16) -> Option<&mut Inner> {
        if tunnel >= self.stacks.len() {
            self.stacks.resize_with(tunnel + 1, || None);
        }
        if self.get_mut(tunnel).is_none() {
            let inner = self.open(mtu);
            *self.stacks.get_mut(tunnel)? = Some(Box::new(inner));
        }
        let inner = self.get_mut(tunnel)?;
        if inner.stack.mtu() != mtu {
            inner.stack.set_mtu(mtu);
        }
        Some(inner)
    }

    fn open(&mut self, mtu: u16) -> Inner {
        let config = StackConfig {
            mtu,
            transparent: true,
            sockets: 0,
            reassembly_datagrams: 0,
            path_mtus: 16,
            pool_buffers: 64,
            transmit_packets: 256,
            // Those that nobody holds any more and that still deliver are besides.
            tcp_connections: self.connections.saturating_mul(2),
            tcp_listeners: 0,
            tcp_incoming: self.connections.max(1),
            tcp_incoming_timeout: self.incoming_timeout,
            tcp_time_waits: TIME_WAITS,
            tcp_buffer_bytes: BUFFER,
            // Until it is looked at.
            tcp_total_bytes: 0,
            ..StackConfig::default()
        };
        Inner {
            stack: Stack::new(config, self.random.next()),
            held: BTreeSet::new(),
            handles: BTreeMap::new(),
            deadline: None,
            reserved: 0,
            touched: false,
        }
    }

    /// Whether there is no memory for another connection.
    pub(super) const fn is_full(&self) -> bool {
        self.reserved.saturating_add(LEAST_BUFFERS) > self.total
    }

    pub(super) const fn reserved(&self) -> usize {
        self.reserved
    }

    /// Something was done with the stack of a tunnel: it is to be looked at.
    pub(super) fn touch(&mut self, tunnel: usize) {
        self.account(tunnel);
        if let Some(Some(inner)) = self.stacks.get_mut(tunnel)
            && !std::mem::replace(&mut inner.touched, true)
        {
            self.touched.push_back(tunnel);
        }
    }

    pub(super) fn touched(&self) -> usize {
        self.touched.len()
    }

    pub(super) fn next_touched(&mut self) -> Option<usize> {
        self.touched.pop_front()
    }

    /// Gives the packets of a stack that was touched, at most `most`, and returns how many. It is touched again if there
    /// may be more, and closed if it has nothing left to do.
    pub(super) fn transmit(
        &mut self,
        tunnel: usize,
        most: usize,
        mut give: impl FnMut(&[u8]),
    ) -> usize {
        let Some(inner) = self.get_mut(tunnel) else {
            return 0;
        };
        inner.touched = false;
        let mut given = 0;
        while given < most
            && let Some(packet) = inner.stack.poll_transmit()
        {
            give(&packet);
            inner.stack.recycle(packet);
            given += 1;
        }
        let gauges = inner.stack.stats().gauges;
        let due = inner.stack.poll_timeout();
        let idle = inner.held.is_empty()
            && gauges.tcp_connections == 0
            && gauges.tcp_incoming == 0
            && gauges.tcp_time_waits == 0;
        let before = std::mem::replace(&mut inner.deadline, due);
        self.account(tunnel);
        if before != due {
            if let Some(before) = before {
                self.deadlines.remove(&(before, tunnel));
            }
            self.deadlines.extend(due.map(|due| (due, tunnel)));
        }
        if given == most {
            self.touch(tunnel);
        } else if idle {
            self.close(tunnel);
        }
        given
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(due, _)| *due)
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(due, tunnel)) = self.deadlines.first().filter(|(due, _)| *due <= now) {
            self.deadlines.remove(&(due, tunnel));
            if let Some(inner) = self.get_mut(tunnel) {
                // Set again when its packets are out.
                inner.deadline = None;
                inner.stack.handle_timeout(now);
                self.touch(tunnel);
            }
        }
    }

    /// Forgets the stack of a tunnel.
    pub(super) fn close(&mut self, tunnel: usize) {
        let Some(inner) = self.stacks.get_mut(tunnel).and_then(Option::take) else {
            return;
        };
        self.reserved = self.reserved.saturating_sub(inner.reserved);
        if let Some(due) = inner.deadline {
            self.deadlines.remove(&(due, tunnel));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};

    use tsc_eip::{Event, TcpOptions};

    use super::*;

    const CORE: &str = "198.51.100.7:80";

    /// Both ends of a tunnel's connections.
    struct Pair {
        client: Stack,
        handles: Vec<TcpHandle>,
    }

    impl Pair {
        fn new() -> Self {
            let mut client = Stack::new(StackConfig::default(), 1);
            client
                .set_addresses(&[IpAddr::from([10, 0, 0, 1])])
                .unwrap();
            Self {
                client,
                handles: Vec::new(),
            }
        }

        /// Moves packets until there are none; the server's side accepts, and reads nothing.
        fn pump(&mut self, now: Instant, stacks: &mut Stacks, tunnel: usize) {
            loop {
                let mut moved = false;
                while let Some(packet) = self.client.poll_transmit() {
                    let inner = stacks.get_or_open(tunnel, 1400).unwrap();
                    inner.stack.handle_packet(now, &packet);
                    while let Some(event) = inner.stack.poll_event() {
                        if let Event::TcpIncoming(incoming) = event {
                            let _full = inner.stack.tcp_incoming_accept(
                                now,
                                incoming.id,
                                TcpOptions::default(),
                            );
                        }
                    }
                    stacks.touch(tunnel);
                    assert!(stacks.reserved() <= stacks.total, "{}", stacks.reserved());
                    moved = true;
                }
                let client = &mut self.client;
                stacks.transmit(tunnel, usize::MAX, |packet| {
                    client.handle_packet(now, packet);
                    moved = true;
                });
                while client.poll_event().is_some() {}
                if !moved {
                    return;
                }
            }
        }

        fn connect(&mut self, now: Instant) {
            let any: SocketAddr = "0.0.0.0:0".parse().unwrap();
            let to = CORE.parse().unwrap();
            let handle = self.client.tcp_connect(now, any, to, TcpOptions::default());
            self.handles.push(handle.unwrap());
        }
    }

    fn stacks(total: usize) -> Stacks {
        Stacks {
            total,
            ..Stacks::new(&UserSpaceConfig::default(), 1, 1)
        }
    }

    /// What a client can bring to a server that does not read.
    fn fill(now: Instant, pair: &mut Pair, stacks: &mut Stacks, tunnel: usize) -> usize {
        let handle = *pair.handles.last().unwrap();
        let mut sent = 0;
        for _ in 0..400 {
            sent += pair
                .client
                .tcp_send(now, handle, &[7; 64 * 1024])
                .unwrap_or(0);
            pair.pump(now, stacks, tunnel);
        }
        sent - pair.client.tcp_queued(handle).unwrap().0
    }

    #[test]
    fn the_last_connection_has_the_whole_window_beside_idle_ones() {
        let now = Instant::now();
        let mut stacks = stacks(TOTAL_BYTES);
        let mut pairs: Vec<Pair> = (0..40).map(|_| Pair::new()).collect();
        for (tunnel, pair) in pairs.iter_mut().enumerate() {
            for _ in 0..50 {
                pair.connect(now);
                pair.pump(now, &mut stacks, tunnel);
            }
        }
        assert_eq!(stacks.reserved(), 40 * 50 * LEAST_BUFFERS);
        let (tunnel, pair) = (39, pairs.last_mut().unwrap());
        let held = fill(now, pair, &mut stacks, tunnel);
        assert!(held > BUFFER - 2 * 1400, "{held}");
    }

    #[test]
    fn those_who_fill_their_buffers_never_hold_more_than_the_total() {
        let now = Instant::now();
        let mut stacks = stacks(4 << 20);
        let mut pairs: Vec<Pair> = (0..20).map(|_| Pair::new()).collect();
        let mut held = Vec::new();
        for (tunnel, pair) in pairs.iter_mut().enumerate() {
            pair.connect(now);
            pair.pump(now, &mut stacks, tunnel);
            held.push(fill(now, pair, &mut stacks, tunnel));
        }
        assert!(held.iter().all(|held| *held >= 16 * 1024), "{held:?}");
        assert!(stacks.reserved() <= 4 << 20);
        for tunnel in 0..20 {
            stacks.close(tunnel);
        }
        assert_eq!(stacks.reserved(), 0);
    }
}
