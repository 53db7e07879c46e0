//! Two media sessions in virtual time, with a network of our making between them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tsc_sip::{
    media::{Codec, MediaConfig, MediaReport, MediaSession, Source},
    random::SeededRandom,
    sdp::Agreed,
};

const TICK: Duration = Duration::from_millis(20);

fn address(last: u8, port: u16) -> SocketAddr {
    ([192, 0, 2, last], port).into()
}

fn session(now: Instant, me: u8, source: Source) -> MediaSession {
    let agreed = Agreed {
        codec: Codec::Pcmu,
        remote_rtp: address(3 - me, 4000),
        remote_rtcp: address(3 - me, 4001),
        send: true,
        receive: true,
    };
    let config = MediaConfig::new(source, format!("{me}@x"));
    MediaSession::new(now, agreed, config, &mut SeededRandom::new(me.into()))
}

fn speech(packets: Option<u64>) -> Source {
    let payload: Vec<u8> = (0..4000u32)
        .map(|n| u8::try_from(n % 251).unwrap())
        .collect();
    Source::Play {
        payload: Arc::from(payload),
        packets,
    }
}

/// Runs a call of `seconds`. `fate` says for each of the caller's RTP packets how long it is on its way, if at
/// all; everything else takes `delay`.
fn call(seconds: u64, delay: Duration, fate: impl Fn(u64) -> Option<Duration>) -> [MediaReport; 2] {
    let start = Instant::now();
    let mut sessions = [
        session(start, 1, speech(None)),
        session(start, 2, Source::Echo),
    ];
    // Arrival, receiver, whether RTCP, bytes; kept in order of arrival.
    let mut network: Vec<(Instant, usize, bool, Vec<u8>)> = Vec::new();
    let mut sent = 0;
    let ticks = seconds * 50;
    for tick in 0..ticks + 50 {
        let now = start + TICK * u32::try_from(tick).unwrap();
        network.sort_by_key(|(at, ..)| *at);
        let later = network.partition_point(|(at, ..)| *at <= now);
        for (at, to, is_rtcp, bytes) in network.drain(..later) {
            let from = u8::try_from(2 - to).unwrap();
            match is_rtcp {
                true => sessions[to].handle_rtcp(at, address(from, 4001), &bytes),
                false => sessions[to].handle_rtp(at, address(from, 4000), &bytes),
            }
        }
        for (me, session) in sessions.iter_mut().enumerate() {
            let last = if tick == ticks {
                session.stop(now)
            } else {
                None
            };
            let mut packet = Vec::new();
            if session.tick(&mut packet) {
                let way = if me == 0 { fate(sent) } else { Some(delay) };
                sent += u64::from(me == 0);
                if let Some(way) = way {
                    network.push((now + way, 1 - me, false, packet));
                }
            }
            for report in session.poll_rtcp(now).into_iter().chain(last) {
                network.push((now + delay, 1 - me, true, report));
            }
        }
    }
    sessions.map(|mut session| session.report())
}

#[test]
fn any_sign_of_the_peer_breaks_the_silence() {
    let start = Instant::now();
    let mut peer = session(start, 1, speech(None));
    let mut ours = session(start, 2, Source::Echo);
    assert_eq!(ours.silent_since(), Some(start));
    let mut rtp = Vec::new();
    assert!(peer.tick(&mut rtp));
    let later = start + TICK;
    ours.handle_rtp(later, address(9, 4000), &rtp);
    assert_eq!(ours.silent_since(), Some(start), "a stranger");
    ours.handle_rtp(later, address(1, 4000), &rtp);
    assert_eq!(ours.silent_since(), Some(later));
    let rtcp = peer.poll_rtcp(later).unwrap();
    ours.handle_rtcp(later + TICK, address(1, 4001), &rtcp);
    assert_eq!(ours.silent_since(), Some(later + TICK));

    let on_hold = Agreed {
        receive: false,
        ..*ours.agreed()
    };
    let config = MediaConfig::new(Source::Echo, "2@x");
    let ours = MediaSession::new(start, on_hold, config, &mut SeededRandom::new(2));
    assert_eq!(ours.silent_since(), None, "silence was agreed on");
}

#[test]
fn a_perfect_network_costs_only_its_delay() {
    let delay = Duration::from_millis(40);
    let [caller, callee] = call(20, delay, |_| Some(delay));
    assert_eq!((caller.sent, callee.received), (1000, 1000));
    assert!(caller.played == callee.heard);
    assert!(
        caller.heard.len() > 900 * 160 && caller.played.starts_with(&caller.heard),
        "the echo"
    );
    for report in [caller, callee] {
        assert_eq!(
            (
                report.lost,
                report.late,
                report.duplicated,
                report.reordered
            ),
            (0, 0, 0, 0)
        );
        assert_eq!(report.jitter, Duration::ZERO);
        // Round trip by LSR and DLSR; the units are 1/65536 s.
        let rtt = report.rtt.unwrap().as_secs_f64() * 1000.0;
        assert!((rtt - 80.0).abs() < 0.1, "{rtt}");
        // 40 + 20 + 60 ms one way: just beyond what costs nothing.
        assert!((4.38..4.41).contains(&report.mos), "{}", report.mos);
        assert!(report.bye_received);
        assert_eq!(report.remote.unwrap().lost, 0);
    }
}

#[test]
fn loss_is_counted_also_at_both_ends_of_the_call() {
    let delay = Duration::from_millis(10);
    // The first ten, the last ten and every fifth in between.
    let [caller, callee] = call(10, delay, |n| {
        ((10..490).contains(&n) && n % 5 != 0).then_some(delay)
    });
    assert_eq!(caller.sent, 500);
    assert_eq!(callee.received, 384);
    assert_eq!(
        callee.lost, 116,
        "the sender's last count tells what no sequence number can"
    );
    // 23 % with concealment, scattered: 95 * 23.2 / (23.2 + 25.1) of R, which is 47.6 then.
    assert!((2.4..2.5).contains(&callee.mos), "{}", callee.mos);
    assert!(caller.remote.unwrap().lost > 90);
}

#[test]
fn late_packets_are_counted_and_recorded() {
    let delay = Duration::from_millis(10);
    let [caller, callee] = call(5, delay, |n| {
        Some(if n % 50 == 25 {
            delay + Duration::from_millis(70)
        } else {
            delay
        })
    });
    assert_eq!((callee.received, callee.lost, callee.late), (250, 0, 5));
    assert_eq!(callee.reordered, 5);
    assert!(
        caller.played == callee.heard,
        "recordings hold what arrived"
    );
    assert!(callee.jitter > Duration::from_millis(1));
    assert_eq!(callee.playout_delay, Duration::from_millis(60));
    assert!(callee.rendered.is_empty(), "nobody asked for it");
}

#[test]
fn the_listener_hears_what_came_in_time_and_that_is_recorded_on_request() {
    let start = Instant::now();
    let mut sender = session(start, 1, speech(Some(50)));
    let agreed = *session(start, 2, Source::Echo).agreed();
    let mut config = MediaConfig::new(Source::Echo, "2@x");
    config.render = true;
    let mut receiver = MediaSession::new(start, agreed, config, &mut SeededRandom::new(2));
    for n in 0..50u32 {
        let mut packet = Vec::new();
        assert!(sender.tick(&mut packet));
        // The tenth misses its time by 20 ms, the others do not by as much.
        let way = if n == 10 { 4 } else { 2 * (n % 2) };
        receiver.handle_rtp(start + TICK * (n + way), address(1, 4000), &packet);
    }
    let report = receiver.report();
    assert_eq!((report.received, report.late), (50, 1));
    let arrived = Codec::Pcmu.decode(&report.heard);
    assert_eq!(report.rendered.len(), arrived.len());
    assert_eq!(report.rendered[..1600], arrived[..1600]);
    assert_ne!(
        report.rendered[1600..1760],
        arrived[1600..1760],
        "concealed"
    );
    // After the first 4 ms of what follows.
    assert_eq!(report.rendered[1792..], arrived[1792..]);
}

#[test]
fn what_does_not_belong_to_the_call_is_ignored() {
    let now = Instant::now();
    let mut sender = session(now, 1, speech(Some(3)));
    let mut receiver = session(now, 2, Source::Echo);
    let mut packet = Vec::new();
    assert!(sender.tick(&mut packet));
    receiver.handle_rtp(now, address(9, 4000), &packet);
    receiver.handle_rtp(now, address(1, 4002), &packet);
    receiver.handle_rtp(now, address(1, 4000), &packet[..8]);
    receiver.handle_rtcp(now, address(1, 4001), &packet);
    assert!(!receiver.has_heard());
    receiver.handle_rtp(now, address(1, 4000), &packet);
    assert!(receiver.has_heard());
    // Another source at the same address.
    let mut other = packet.clone();
    other[8] ^= 1;
    receiver.handle_rtp(now, address(1, 4000), &other);
    // A telephone event of our source is part of the sequence, but nothing to hear.
    let mut event = Vec::new();
    assert!(sender.tick(&mut event));
    event[1] = 101;
    receiver.handle_rtp(now + TICK, address(1, 4000), &event);
    let report = receiver.report();
    assert_eq!(
        (report.received, report.ignored, report.heard.len()),
        (2, 6, 160)
    );
}

#[test]
fn a_limited_source_ends_and_its_clock_starts_with_a_marker() {
    let now = Instant::now();
    let mut sender = session(now, 1, speech(Some(2)));
    let packets: Vec<Vec<u8>> = (0..4)
        .filter_map(|_| {
            let mut packet = Vec::new();
            sender.tick(&mut packet).then_some(packet)
        })
        .collect();
    assert_eq!(packets.len(), 2);
    assert!(sender.is_played_out());
    let parsed: Vec<_> = packets
        .iter()
        .map(|p| rtp_types::RtpPacket::parse(p).unwrap())
        .collect();
    assert!(parsed[0].marker_bit() && !parsed[1].marker_bit());
    assert_eq!(
        parsed[1].timestamp(),
        parsed[0].timestamp().wrapping_add(160)
    );
    assert_eq!(
        parsed[1].sequence_number(),
        parsed[0].sequence_number().wrapping_add(1)
    );
}
