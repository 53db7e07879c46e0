//! TCP in motion: throughput, loss, windows, silence, path MTU.

use std::time::Duration;

use proptest::prelude::*;
use tsc_eip::{Event, StackConfig, TcpError, TcpHandle, TcpOptions, TcpState};

use crate::net::*;
use crate::support::*;

const SERVER: &str = "10.0.0.2:80";

/// Sends `data` from 0 to 1, the reader taking everything at once; returns what arrived.
pub(crate) fn transfer(
    net: &mut Net,
    client: TcpHandle,
    server: TcpHandle,
    data: &[u8],
    limit: Duration,
) -> Vec<u8> {
    let deadline = net.now + limit;
    let mut sent = 0;
    let mut got = Vec::with_capacity(data.len());
    let mut buffer = vec![0; 256 * 1024];
    while got.len() < data.len() {
        let now = net.now;
        if sent < data.len() {
            sent += net.stacks[0].tcp_send(now, client, &data[sent..]).unwrap();
        }
        while let Ok(Some(n)) = net.stacks[1].tcp_recv(now, server, &mut buffer) {
            got.extend_from_slice(&buffer[..n]);
        }
        assert!(net.step(), "stalled at {} of {}", got.len(), data.len());
        assert!(
            net.now < deadline,
            "{} of {} in time",
            got.len(),
            data.len()
        );
    }
    got
}

#[test]
fn a_hundred_megabits_at_fifty_milliseconds() {
    let mut link = Link::delay(Duration::from_millis(25));
    link.rate = Some(100_000_000);
    for server_address in [addr(SERVER), addr("[2001:db8::2]:80")] {
        let mut net = Net::new(alice(), bob(), link.clone(), 1);
        let (client, server, _) = net.connect(server_address);
        let data = pattern(20_000_000, 1);
        let start = net.now;
        let got = transfer(&mut net, client, server, &data, Duration::from_secs(60));
        assert!(got == data);
        let seconds = (net.now - start).as_secs_f64();
        let rate = data.len() as f64 * 8.0 / seconds;
        println!("{:.1} Mbit/s", rate / 1e6);
        assert!(rate >= 80e6, "{:.1} Mbit/s", rate / 1e6);
    }
}

/// With the default configuration, and beside ten thousand connections that were opened before.
#[test]
fn the_last_of_ten_thousand_connections_is_as_fast_as_the_first() {
    let mut net = Net::new(alice(), bob(), Link::delay(Duration::from_millis(25)), 1);
    let server = addr(SERVER);
    let listener = net.stacks[1].tcp_listen(server, 100).unwrap();
    let mut idle = 0;
    while idle < 10_000 {
        for _ in 0..100 {
            let any = addr("0.0.0.0:0");
            net.stacks[0]
                .tcp_connect(net.now, any, server, TcpOptions::default())
                .unwrap();
        }
        net.run(Duration::from_millis(200));
        net.events(0);
        net.events(1);
        while net.stacks[1].tcp_accept(listener).is_some() {
            idle += 1;
        }
    }
    assert!(net.stacks[1].tcp_listener_close(net.now, listener));
    for link in &mut net.links {
        link.rate = Some(100_000_000);
    }
    let (client, peer, _) = net.connect(server);
    let data = pattern(30_000_000, 1);
    let start = net.now;
    let got = transfer(&mut net, client, peer, &data, Duration::from_secs(60));
    assert!(got == data);
    let rate = data.len() as f64 * 8.0 / (net.now - start).as_secs_f64();
    println!("{:.1} Mbit/s", rate / 1e6);
    // What remains are headers and the start.
    assert!(rate >= 80e6, "{:.1} Mbit/s", rate / 1e6);
    let gauges = net.stacks[1].stats().gauges;
    assert_eq!(gauges.tcp_connections, 10_001);
    assert_eq!(gauges.tcp_buffer_bytes, 10_001 * 32 * 1024);
}

#[test]
fn loss_reordering_and_duplication_only_cost_time() {
    for seed in 0..6 {
        let mut link = Link::delay(Duration::from_millis(10));
        link.rate = Some(20_000_000);
        link.jitter = Duration::from_millis(3);
        link.loss_per_mille = 5 * seed;
        link.duplicate_per_mille = 20;
        let mut net = Net::new(alice(), bob(), link, seed);
        let (client, server, _) = net.connect(addr(SERVER));
        let data = pattern(2_000_000, seed);
        let start = net.now;
        let got = transfer(&mut net, client, server, &data, Duration::from_secs(1200));
        println!("loss {} per mille: {:?}", 5 * seed, net.now - start);
        assert!(got == data);
    }
}

#[test]
fn a_reader_that_stops_shuts_the_window_and_opens_it_again() {
    let config = StackConfig {
        tcp_buffer_bytes: 64 * 1024,
        ..StackConfig::default()
    };
    let mut net = Net::new(
        host(config.clone(), 1, &[A4.into()]),
        host(config, 2, &[B4.into()]),
        Link::delay(Duration::from_millis(10)),
        1,
    );
    let (client, server, _) = net.connect(addr(SERVER));
    let data = pattern(400_000, 2);
    let mut sent = 0;
    while sent < 2 * 64 * 1024 {
        let n = net.stacks[0]
            .tcp_send(net.now, client, &data[sent..])
            .unwrap();
        sent += n;
        if n == 0 {
            net.run(Duration::from_millis(50));
        }
    }
    // An hour of nothing: the sender probes, the reader's memory is what it is.
    net.trace = Some(Vec::new());
    net.run(Duration::from_secs(3600));
    let probes = net.trace.take().unwrap();
    assert!(
        (10..2000).contains(&probes.len()),
        "{} packets",
        probes.len()
    );
    assert_eq!(net.stacks[1].tcp_queued(server), Some((0, 64 * 1024)));
    assert_eq!(net.stacks[0].tcp_queued(client), Some((64 * 1024, 0)));
    assert_eq!(net.stacks[0].tcp_send(net.now, client, b"x"), Ok(0));
    net.events(0);
    // The reader goes on in small steps; what it gets is what was sent.
    let mut got = Vec::new();
    let mut buffer = [0; 100];
    let mut writable = false;
    let trace_start = net.carried;
    while got.len() < data.len() {
        let now = net.now;
        sent += net.stacks[0].tcp_send(now, client, &data[sent..]).unwrap();
        while let Ok(Some(n)) = net.stacks[1].tcp_recv(now, server, &mut buffer) {
            got.extend_from_slice(&buffer[..n]);
        }
        writable |= net.events(0).contains(&Event::TcpWritable(client));
        net.run(Duration::from_millis(20));
    }
    assert!(got == data && writable);
    let overhead = (net.carried[0] - trace_start[0]) as f64 / (data.len() - 2 * 64 * 1024) as f64;
    assert!(overhead < 1.3, "no silly windows: {overhead}");
}

/// One byte at a time from a full buffer must not be advertised one byte at a time.
#[test]
fn a_trickling_reader_causes_no_silly_windows() {
    let config = StackConfig {
        tcp_buffer_bytes: 16 * 1024,
        ..StackConfig::default()
    };
    let mut net = Net::new(
        host(config.clone(), 1, &[A4.into()]),
        host(config, 2, &[B4.into()]),
        Link::delay(Duration::from_millis(1)),
        1,
    );
    let (client, server, _) = net.connect(addr(SERVER));
    let data = pattern(32 * 1024, 2);
    let mut sent = 0;
    while sent < data.len() {
        sent += net.stacks[0]
            .tcp_send(net.now, client, &data[sent..])
            .unwrap();
        net.run(Duration::from_millis(10));
    }
    let before = net.stacks[1].stats().tcp.segments_out;
    let mut buffer = [0; 16];
    for _ in 0..1024 {
        assert_eq!(
            net.stacks[1].tcp_recv(net.now, server, &mut buffer),
            Ok(Some(16))
        );
        net.run(Duration::from_millis(2));
    }
    // 16 KiB were freed: at most a few dozen window updates and acknowledgements.
    let after = net.stacks[1].stats().tcp.segments_out;
    assert!(after - before < 60, "{} segments", after - before);
}

#[test]
fn small_writes_are_gathered_only_if_asked() {
    for nodelay in [true, false] {
        let mut net = Net::plain();
        let (client, server, _) = net.connect(addr(SERVER));
        let options = TcpOptions {
            nodelay,
            ..TcpOptions::default()
        };
        assert!(net.stacks[0].tcp_set_options(net.now, client, options));
        assert_eq!(net.stacks[0].tcp_options(client), Some(options));
        net.trace = Some(Vec::new());
        for _ in 0..10 {
            net.stacks[0].tcp_send(net.now, client, b"word").unwrap();
            net.run(Duration::from_micros(100));
        }
        net.run(Duration::from_secs(1));
        assert_eq!(net.read(1, server).0.len(), 40);
        let trace = net.trace.take().unwrap();
        let data = trace
            .iter()
            .filter(|(from, packet)| *from == 0 && packet.len() > 40)
            .count();
        assert_eq!(data, if nodelay { 10 } else { 2 });
    }
}

#[test]
fn a_peer_that_vanishes_is_given_up() {
    // While something waits for it.
    let mut net = Net::plain();
    let (client, server, _) = net.connect(addr(SERVER));
    net.links[0].cut = true;
    net.stacks[0]
        .tcp_send(net.now, client, b"anybody there?")
        .unwrap();
    net.run(Duration::from_secs(299));
    assert_eq!(net.events(0), []);
    net.run(Duration::from_secs(2));
    assert_eq!(
        net.events(0),
        [Event::TcpFailed(client, TcpError::TimedOut)]
    );
    assert_eq!(net.stacks[0].stats().tcp.timed_out, 1);
    // In silence nobody notices, unless probes are asked for.
    net.run(Duration::from_secs(100_000));
    assert_eq!(net.stacks[1].tcp_state(server), Some(TcpState::Established));
    let options = TcpOptions {
        keep_alive: Some(Duration::from_secs(30)),
        ..TcpOptions::default()
    };
    net.stacks[1].tcp_set_options(net.now, server, options);
    net.links[1].cut = true;
    net.run(Duration::from_secs(119));
    assert_eq!(net.stacks[1].tcp_state(server), Some(TcpState::Established));
    net.run(Duration::from_secs(2));
    assert_eq!(
        net.events(1),
        [Event::TcpFailed(server, TcpError::TimedOut)]
    );
}

#[test]
fn keep_alive_keeps_alive() {
    let mut net = Net::plain();
    let (client, server, _) = net.connect(addr(SERVER));
    let options = TcpOptions {
        keep_alive: Some(Duration::from_secs(30)),
        ..TcpOptions::default()
    };
    net.stacks[0].tcp_set_options(net.now, client, options);
    let before = net.carried[0];
    net.run(Duration::from_secs(3600));
    assert_eq!(net.events(0), []);
    assert_eq!(net.read(1, server), (Vec::new(), false));
    let probes = (net.carried[0] - before) / 41;
    assert!((100..140).contains(&probes), "{probes} probes");
}

#[test]
fn an_attempt_that_nobody_answers_times_out() {
    let mut net = Net::plain();
    net.links[0].cut = true;
    let client = net.stacks[0]
        .tcp_connect(
            net.now,
            addr("0.0.0.0:0"),
            addr(SERVER),
            TcpOptions::default(),
        )
        .unwrap();
    net.trace = Some(Vec::new());
    net.run(Duration::from_secs(74));
    assert_eq!(net.events(0), []);
    net.run(Duration::from_secs(2));
    assert_eq!(
        net.events(0),
        [Event::TcpFailed(client, TcpError::TimedOut)]
    );
    let syns = net.trace.take().unwrap().len();
    assert!((5..=8).contains(&syns), "{syns} SYNs in 75 s");
}

#[test]
fn a_closed_connection_to_a_vanished_peer_ends() {
    let mut net = Net::plain();
    let (client, _, _) = net.connect(addr(SERVER));
    net.stacks[0].tcp_send(net.now, client, b"unheard").unwrap();
    net.links[0].cut = true;
    net.stacks[0].tcp_close(net.now, client);
    net.run(Duration::from_secs(61));
    assert_eq!(net.stacks[0].stats().gauges.tcp_connections, 0);
    // The peer acknowledges everything but never shuts down its end.
    let mut net = Net::plain();
    let (client, _, _) = net.connect(addr(SERVER));
    net.stacks[0].tcp_close(net.now, client);
    net.run(Duration::from_secs(30));
    assert_eq!(net.stacks[0].stats().gauges.tcp_connections, 1);
    net.run(Duration::from_secs(31));
    assert_eq!(net.stacks[0].stats().gauges.tcp_connections, 0);
}

#[test]
fn segments_follow_the_mtu() {
    for (server_address, headers) in [(SERVER, 40), ("[2001:db8::2]:80", 60)] {
        let mut net = Net::plain();
        net.stacks[0].set_mtu(1400);
        net.stacks[1].set_mtu(1300);
        net.trace = Some(Vec::new());
        let (client, server, _) = net.connect(addr(server_address));
        let data = pattern(50_000, 5);
        assert!(transfer(&mut net, client, server, &data, Duration::from_secs(10)) == data);
        let trace = net.trace.take().unwrap();
        // The SYNs say what each end takes; data obey the smaller.
        let mss = |packet: &[u8]| {
            let options = &packet[headers..];
            assert_eq!(&options[..2], [2, 4], "MSS comes first");
            usize::from(options[2]) << 8 | usize::from(options[3])
        };
        assert_eq!(mss(&trace[0].1), 1400 - headers);
        let answer = trace.iter().find(|(from, _)| *from == 1).unwrap();
        assert_eq!(mss(&answer.1), 1300 - headers);
        assert_eq!(
            trace.iter().map(|(_, packet)| packet.len()).max(),
            Some(1300)
        );
        // Lowered while open: packets made from then on are smaller.
        let lower = if headers == 40 { 700 } else { 1280 };
        net.stacks[0].set_mtu(lower);
        net.trace = Some(Vec::new());
        assert!(transfer(&mut net, client, server, &data, Duration::from_secs(10)) == data);
        let largest = net
            .trace
            .take()
            .unwrap()
            .iter()
            .map(|(_, packet)| packet.len())
            .max();
        assert_eq!(largest, Some(usize::from(lower)));
    }
}

#[test]
fn a_router_that_says_too_big_is_obeyed() {
    let mut net = Net::plain();
    let (client, server, _) = net.connect(addr(SERVER));
    let data = pattern(30_000, 6);
    net.links[0].cut = true;
    net.trace = Some(Vec::new());
    assert_eq!(
        net.stacks[0].tcp_send(net.now, client, &data),
        Ok(data.len())
    );
    net.run(Duration::from_millis(1));
    let big = net.trace.take().unwrap().swap_remove(0).1;
    assert_eq!(big.len(), 1400);
    let from: std::net::IpAddr = [192, 0, 2, 1].into();
    let error = |quote: &[u8]| {
        let message = icmp(from, A4.into(), [3, 4, 0, 0, 0, 0, 2, 0xbc], quote);
        packet(from, A4.into(), ICMP, None, &message)
    };
    // Nobody who has not seen a segment can lower the path MTU: its number must fit.
    let mut forged = big[..28].to_vec();
    forged[24] ^= 0x40;
    net.stacks[0].handle_packet(net.now, &error(&forged));
    assert_eq!(net.stacks[0].path_mtu(net.now, B4.into()), 1400);
    net.stacks[0].handle_packet(net.now, &error(&big[..28]));
    assert_eq!(net.stacks[0].path_mtu(net.now, B4.into()), 700);
    net.links[0].cut = false;
    net.trace = Some(Vec::new());
    // What was on its way goes again at once: no time-out of a second, and no smaller congestion window.
    net.run(Duration::from_millis(100));
    assert!(net.read(1, server).0 == data);
    assert_eq!(net.stacks[0].stats().tcp.retransmission_timeouts, 0);
    let largest = net
        .trace
        .take()
        .unwrap()
        .iter()
        .map(|(_, packet)| packet.len())
        .max();
    assert_eq!(largest, Some(700));
}

#[test]
fn unreachable_ends_an_attempt_but_not_a_connection() {
    let mut net = Net::plain();
    let options = TcpOptions::default();
    for (code, error) in [
        (3, TcpError::Refused),
        (1, TcpError::Unreachable),
        (13, TcpError::Prohibited),
    ] {
        let client = net.stacks[0]
            .tcp_connect(net.now, addr("0.0.0.0:0"), addr(SERVER), options)
            .unwrap();
        let syn = net.stacks[0].poll_transmit().unwrap();
        let report = |quote: &[u8]| {
            packet(
                B4.into(),
                A4.into(),
                ICMP,
                None,
                &icmp(B4.into(), A4.into(), [3, code, 0, 0, 0, 0, 0, 0], quote),
            )
        };
        let mut forged = syn[..28].to_vec();
        forged[25] ^= 1;
        net.stacks[0].handle_packet(net.now, &report(&forged));
        assert_eq!(net.events(0), [], "another segment's number");
        net.stacks[0].handle_packet(net.now, &report(&syn[..28]));
        assert_eq!(net.events(0), [Event::TcpFailed(client, error)]);
        net.stacks[0].tcp_close(net.now, client);
    }
    let (client, server, _) = net.connect(addr(SERVER));
    net.links[0].cut = true;
    net.trace = Some(Vec::new());
    net.stacks[0].tcp_send(net.now, client, b"data").unwrap();
    net.run(Duration::from_millis(1));
    let segment = net.trace.take().unwrap().pop().unwrap().1;
    let message = icmp(
        B4.into(),
        A4.into(),
        [3, 3, 0, 0, 0, 0, 0, 0],
        &segment[..28],
    );
    net.stacks[0].handle_packet(net.now, &packet(B4.into(), A4.into(), ICMP, None, &message));
    assert_eq!(net.events(0), []);
    net.links[0].cut = false;
    net.run(Duration::from_secs(5));
    assert_eq!(net.read(1, server).0, b"data");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever the network does, and in whatever order the ends are shut down, each end reads
    /// exactly what the other wrote.
    #[test]
    fn streams_arrive_intact(
        seed in any::<u64>(),
        loss in 0u64..80,
        duplicate in 0u64..100,
        jitter in 0u64..30,
        lengths in [0usize..120_000, 0usize..120_000],
        chunk in 1usize..5000,
        buffer in prop_oneof![Just(16 * 1024usize), Just(1024 * 1024)],
        pauses in 0u64..20,
        v6 in any::<bool>(),
    ) {
        let config = StackConfig { tcp_buffer_bytes: buffer, ..StackConfig::default() };
        let mut link = Link::delay(Duration::from_millis(5));
        link.jitter = Duration::from_millis(jitter);
        link.loss_per_mille = loss;
        link.duplicate_per_mille = duplicate;
        let mut net = Net::new(
            host(config.clone(), seed, &[A4.into(), A6.into()]),
            host(config, !seed, &[B4.into(), B6.into()]),
            link,
            seed,
        );
        let (client, server, _) = net.connect(addr(if v6 { "[2001:db8::2]:80" } else { SERVER }));
        let handles = [client, server];
        let data = [pattern(lengths[0], seed), pattern(lengths[1], !seed)];
        let (mut sent, mut shut, mut done) = ([0, 0], [false, false], [false, false]);
        let mut got = [Vec::new(), Vec::new()];
        let mut chance = Chance(seed);
        let deadline = net.now + Duration::from_secs(7200);
        while !(done[0] && done[1]) {
            prop_assert!(net.now < deadline, "{:?} of {:?}", [got[0].len(), got[1].len()], lengths);
            for side in 0..2 {
                let now = net.now;
                if chance.hits(pauses * 50) {
                    continue;
                }
                if sent[side] < data[side].len() {
                    let end = data[side].len().min(sent[side] + chunk);
                    sent[side] += net.stacks[side]
                        .tcp_send(now, handles[side], &data[side][sent[side]..end])
                        .unwrap();
                } else if !shut[side] {
                    net.stacks[side].tcp_shutdown(now, handles[side]).unwrap();
                    shut[side] = true;
                }
                let mut small = vec![0; chunk];
                match net.stacks[side].tcp_recv(now, handles[side], &mut small) {
                    Ok(Some(0)) => done[side] = true,
                    Ok(Some(n)) => got[side].extend_from_slice(&small[..n]),
                    Ok(None) => {}
                    Err(error) => prop_assert!(false, "{error}"),
                }
            }
            net.run(Duration::from_millis(1 + chance.below(20)));
        }
        prop_assert!(got[0] == data[1] && got[1] == data[0]);
        for (stack, handle) in net.stacks.iter_mut().zip(handles) {
            stack.tcp_close(net.now, handle);
        }
        net.run(Duration::from_secs(200));
        for stack in &net.stacks {
            prop_assert_eq!(stack.stats().gauges.tcp_connections, 0);
            prop_assert_eq!(stack.stats().gauges.tcp_time_waits, 0);
            prop_assert_eq!(stack.stats().gauges.tcp_buffer_bytes, 0);
            prop_assert_eq!(stack.poll_timeout(), None);
            prop_assert!(!stack.wants_transmit());
        }
    }
}
