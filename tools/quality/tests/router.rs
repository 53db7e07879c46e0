//! The bad network, in virtual time.
#![allow(clippy::indexing_slicing)]

use std::time::{Duration, Instant};

use tsc_quality::{
    matrix::Network,
    router::{CLEAN, Direction, Way},
};

const PACKETS: u64 = 50_000;

/// A UDP packet of 128 bytes from port 40001 to port 4567, or back.
fn packet(way: Way) -> Vec<u8> {
    let mut packet = vec![0; 128];
    packet[0] = 0x45;
    packet[9] = 17;
    let (from, to) = match way {
        Way::Up => (40_001u16, 4567u16),
        Way::Down => (4567, 40_001),
    };
    packet[20..22].copy_from_slice(&from.to_be_bytes());
    packet[22..24].copy_from_slice(&to.to_be_bytes());
    packet
}

fn network(loss_percent: u32, burst: u32) -> Network {
    Network {
        loss_percent,
        burst,
        delay_ms: 50,
    }
}

/// Which packets arrive after the clean beginning.
fn fates(way: Way, network: Network, seed: u64) -> Vec<bool> {
    let mut direction = Direction::new(way, network, seed);
    let now = Instant::now();
    let packet = packet(way);
    let mut arrives = || direction.packet(now, &packet).is_some();
    assert!((0..CLEAN).all(|_| arrives()), "the beginning is clean");
    (0..PACKETS).map(|_| arrives()).collect()
}

fn lost(fates: &[bool]) -> f64 {
    fates.iter().filter(|arrives| !**arrives).count() as f64 / fates.len() as f64
}

fn mean_burst(fates: &[bool]) -> f64 {
    let lost = fates.chunk_by(|a, b| a == b).filter(|run| !run[0]);
    let lengths: Vec<usize> = lost.map(<[bool]>::len).collect();
    lengths.iter().sum::<usize>() as f64 / lengths.len() as f64
}

/// Within five standard deviations, so that any seed will do.
fn assert_near(found: f64, wanted: f64, spread: f64) {
    assert!(
        (found - wanted).abs() < 5.0 * spread,
        "{found} is not {wanted}"
    );
}

#[test]
fn losses_are_as_many_and_as_long_as_asked() {
    for seed in [1, 2, 99] {
        for (percent, burst) in [(1, 1), (10, 1), (20, 1), (5, 3), (20, 3)] {
            let fates = fates(Way::Up, network(percent, burst), seed);
            let share = f64::from(percent) / 100.0;
            let length = f64::from(burst);
            let variance = share * (1.0 - share) / PACKETS as f64;
            assert_near(
                lost(&fates),
                share,
                (variance * (2.0 * length - 1.0)).sqrt(),
            );
            // Independent losses follow each other by chance.
            let length = if burst == 1 {
                1.0 / (1.0 - share)
            } else {
                length
            };
            let bursts = PACKETS as f64 * share / length;
            let spread = ((length - 1.0) * length / bursts).sqrt();
            assert_near(mean_burst(&fates), length, spread.max(0.003));
        }
    }
}

#[test]
fn each_direction_has_losses_of_its_own_which_the_seed_repeats() {
    let network = network(10, 1);
    let up = fates(Way::Up, network, 7);
    assert_eq!(up, fates(Way::Up, network, 7));
    assert_ne!(up, fates(Way::Down, network, 7));
    assert_ne!(up, fates(Way::Up, network, 8));
}

#[test]
fn packets_are_delayed_and_counted_by_the_port_of_the_caller() {
    for way in [Way::Up, Way::Down] {
        let mut direction = Direction::new(way, network(0, 1), 1);
        let now = Instant::now();
        for _ in 0..3 {
            let due = direction.packet(now, &packet(way));
            assert_eq!(due, Some(now + Duration::from_millis(50)));
        }
        direction.packet(now, &[0x45]);
        let passed = direction.passed();
        assert_eq!(
            (passed.packets, passed.bytes, passed.lost),
            (4, 3 * 128 + 1, 0)
        );
        let flow = passed.flows["udp 40001"];
        assert_eq!((flow.packets, flow.bytes), (3, 3 * 128));
        assert_eq!(passed.flows.len(), 2, "what is no packet is counted too");
    }
}

#[test]
fn flows_without_number_are_counted_together() {
    let mut direction = Direction::new(Way::Up, network(0, 1), 1);
    let mut packet = packet(Way::Up);
    for port in 0..1000u16 {
        packet[20..22].copy_from_slice(&port.to_be_bytes());
        direction.packet(Instant::now(), &packet);
    }
    let flows = &direction.passed().flows;
    assert_eq!(flows.len(), 65);
    assert_eq!(flows.values().map(|flow| flow.packets).sum::<u64>(), 1000);
}
