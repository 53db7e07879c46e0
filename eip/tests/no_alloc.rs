//! The steady state allocates nothing: sending, receiving, events, answers. And what is allocated
//! stays bounded.
#![allow(unsafe_code, clippy::unwrap_used, clippy::indexing_slicing)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use tsc_eip::{SendOptions, Stack, StackConfig, UdpHandle};

/// Counts what the current thread asks for; the test runner's other threads do not disturb.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static LIVE_BYTES: Cell<isize> = const { Cell::new(0) };
}

fn count(allocations: u64, bytes: isize) {
    // While a thread ends its locals may be gone; nothing is measured then.
    let _ = ALLOCATIONS.try_with(|counter| counter.set(counter.get() + allocations));
    let _ = LIVE_BYTES.try_with(|live| live.set(live.get() + bytes));
}

// SAFETY: every call is passed on unchanged to the system's allocator, which fulfils the contract;
// counting touches only constant-initialised thread locals, which neither allocate nor unwind.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size().cast_signed());
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, -layout.size().cast_signed());
        // SAFETY: the caller keeps the contract of `dealloc`, and `pointer` came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(1, size.cast_signed() - layout.size().cast_signed());
        // SAFETY: the caller keeps the contract of `realloc`, and `pointer` came from `System`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations() -> u64 {
    ALLOCATIONS.with(Cell::get)
}

struct Pair {
    now: Instant,
    alice: Stack,
    bob: Stack,
    caller: UdpHandle,
    server: UdpHandle,
    to: SocketAddr,
}

impl Pair {
    fn new(from: &str, to: &str) -> Self {
        let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
        let mut alice = Stack::new(StackConfig::default(), 1);
        let mut bob = Stack::new(StackConfig::default(), 2);
        alice.set_addresses(&[from]).unwrap();
        bob.set_addresses(&[to]).unwrap();
        Self {
            now: Instant::now(),
            caller: alice.udp_bind(SocketAddr::new(from, 0)).unwrap(),
            server: bob.udp_bind(SocketAddr::new(to, 9)).unwrap(),
            alice,
            bob,
            to: SocketAddr::new(to, 9),
        }
    }

    /// A burst of packets one way, delivered in one turn and read after one event; an echo besides.
    fn turn(&mut self, burst: usize) {
        let payload = [0x5a; 172];
        for _ in 0..burst {
            self.alice
                .udp_send_to(
                    self.now,
                    self.caller,
                    self.to,
                    &payload,
                    &SendOptions::default(),
                )
                .unwrap();
        }
        while let Some(packet) = self.alice.poll_transmit() {
            self.bob.handle_packet(self.now, &packet);
            self.alice.recycle(packet);
        }
        assert!(self.bob.poll_event().is_some());
        let mut buffer = [0; 2048];
        let mut got = 0;
        while let Some(result) = self.bob.udp_recv(self.server, &mut buffer) {
            assert_eq!(result.unwrap().len, payload.len());
            got += 1;
        }
        assert_eq!(got, burst);
        assert!(self.bob.poll_event().is_none());
    }
}

#[test]
fn sending_and_receiving_do_not_allocate_in_the_steady_state() {
    for (from, to) in [("10.0.0.1", "10.0.0.2"), ("2001:db8::1", "2001:db8::2")] {
        let mut pair = Pair::new(from, to);
        for _ in 0..3 {
            pair.turn(100);
        }
        let before = allocations();
        for _ in 0..1000 {
            pair.turn(100);
        }
        assert_eq!(allocations() - before, 0, "{from}");
    }
}

#[test]
fn refusals_and_answers_do_not_allocate_in_the_steady_state() {
    let mut pair = Pair::new("10.0.0.1", "10.0.0.2");
    let closed = SocketAddr::new(pair.to.ip(), 10);
    let turn = |pair: &mut Pair| {
        pair.alice
            .udp_send_to(pair.now, pair.caller, closed, b"x", &SendOptions::default())
            .unwrap();
        let packet = pair.alice.poll_transmit().unwrap();
        pair.bob.handle_packet(pair.now, &packet);
        pair.alice.recycle(packet);
        while let Some(answer) = pair.bob.poll_transmit() {
            pair.alice.handle_packet(pair.now, &answer);
            pair.bob.recycle(answer);
        }
    };
    turn(&mut pair);
    let before = allocations();
    for _ in 0..1000 {
        turn(&mut pair);
    }
    assert_eq!(allocations() - before, 0);
}

/// One IPv4 fragment; all of them first ones or lone later ones, none ever completed.
fn fragment(id: u16, offset: u16, len: usize) -> Vec<u8> {
    let mut packet = vec![0; 20 + len];
    packet[0] = 0x45;
    let total = u16::try_from(packet.len()).unwrap();
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    packet[6..8].copy_from_slice(&(0x2000 | offset).to_be_bytes());
    packet[8..10].copy_from_slice(&[64, 17]);
    packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    let mut sum: u32 = packet[..20]
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    packet[10..12].copy_from_slice(&(!u16::try_from(sum).unwrap()).to_be_bytes());
    packet
}

#[test]
fn memory_under_attack_stays_within_what_the_configuration_says() {
    let before = LIVE_BYTES.with(Cell::get);
    let config = StackConfig {
        receive_total_bytes: 256 * 1024,
        reassembly_bytes: 256 * 1024,
        ..StackConfig::default()
    };
    let mut bob = Stack::new(config, 1);
    bob.set_addresses(&["10.0.0.2".parse().unwrap()]).unwrap();
    let now = Instant::now();
    for port in 1..=100 {
        bob.udp_bind(SocketAddr::new("10.0.0.2".parse().unwrap(), port))
            .unwrap();
    }
    let mut sender = Stack::new(StackConfig::default(), 2);
    sender
        .set_addresses(&["10.0.0.1".parse().unwrap()])
        .unwrap();
    let socket = sender.udp_bind("10.0.0.1:0".parse().unwrap()).unwrap();
    for round in 0..200_u16 {
        for n in 0..200_u16 {
            // A flood of fragments at the far end of datagrams, tiny and large, and datagrams
            // nobody reads.
            bob.handle_packet(now, &fragment(round.wrapping_mul(200) + n, 8000, 8));
            bob.handle_packet(now, &fragment(n, round, 1024));
        }
        for port in 1..=100 {
            let to = SocketAddr::new("10.0.0.2".parse().unwrap(), port);
            sender
                .udp_send_to(now, socket, to, &[1; 900], &SendOptions::default())
                .unwrap();
        }
        while let Some(packet) = sender.poll_transmit() {
            bob.handle_packet(now, &packet);
            sender.recycle(packet);
        }
    }
    drop(sender);
    let held = LIVE_BYTES.with(Cell::get) - before;
    // Receive queues, twice the reassembly bytes as vectors grow by doubling, bookkeeping of 64
    // datagrams of up to 128 fragments and 100 sockets.
    let allowed = 256 * 1024 + 2 * 256 * 1024 + 64 * 128 * 32 + 100 * 1024;
    assert!(held < allowed, "{held} bytes");
    assert!(bob.stats().drops.reassembly_full > 0 && bob.stats().drops.receive_full > 0);
    drop(bob);
    assert_eq!(LIVE_BYTES.with(Cell::get), before, "all given back");
}
