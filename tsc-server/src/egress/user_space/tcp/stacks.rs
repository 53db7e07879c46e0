//! A stack for each tunnel with TCP: so that MTU, bounds and floods of one are not another's.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use tsc_eip::{Stack, StackConfig, TcpHandle};

use super::super::count;
use super::super::ports::Random;
use crate::config::UserSpaceConfig;

/// Buffers of a connection, each way: the window for 100 Mbit/s at a round trip of 50 ms. Reserved, and taken as used.
const BUFFER: usize = 640 * 1024;

/// Smallest buffers of a connection, both together (see [`StackConfig::tcp_buffer_bytes`]).
const LEAST_BUFFERS: usize = 32 * 1024;

/// Bytes reserved for the buffers of all connections. Beyond, there are no new ones.
const TOTAL_BYTES: usize = 1024 * 1024 * 1024;

/// Bytes that one tunnel may reserve while there is plenty.
const TUNNEL_BYTES: usize = 96 * 1024 * 1024;

/// Of what is left, the part that one more tunnel may reserve at most.
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
    reserved: usize,
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
    pub(super) fn new(config: &UserSpaceConfig, seed: u64) -> Self {
        Self {
            stacks: Vec::new(),
            deadlines: BTreeSet::new(),
            touched: VecDeque::new(),
            reserved: 0,
            connections: count(config.tcp_connections_per_tunnel),
            incoming_timeout: config.tcp_connect_timeout + GRACE,
            random: Random::new(seed),
        }
    }

    pub(super) fn get_mut(&mut self, tunnel: usize) -> Option<&mut Inner> {
        self.stacks.get_mut(tunnel)?.as_deref_mut()
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
        let spare = TOTAL_BYTES.saturating_sub(self.reserved);
        let least = self.connections.saturating_mul(LEAST_BUFFERS);
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
            tcp_total_bytes: (spare / SHARE).min(TUNNEL_BYTES).max(least),
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

    /// Whether the buffers of all connections have all that they may.
    pub(super) const fn is_full(&self) -> bool {
        self.reserved >= TOTAL_BYTES
    }

    pub(super) const fn reserved(&self) -> usize {
        self.reserved
    }

    /// Has the stack of a tunnel looked at.
    pub(super) fn touch(&mut self, tunnel: usize) {
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
        let reserved = std::mem::replace(&mut inner.reserved, gauges.tcp_buffer_bytes);
        self.reserved = self.reserved - reserved + gauges.tcp_buffer_bytes;
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
        self.reserved -= inner.reserved;
        if let Some(due) = inner.deadline {
            self.deadlines.remove(&(due, tunnel));
        }
    }
}
