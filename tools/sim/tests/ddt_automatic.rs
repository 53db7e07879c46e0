//! Dynamic datagram tunnels that are used as long as they are better: measured on both, moved with hysteresis.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm
)]

mod common;

use std::time::Duration;

use common::call::{Call, MS};
use common::ddt::{PAIRS, is_in_force, offering, told};
use common::services::companions;
use common::tunnel::SECOND;
use tsc_csm::client::{Redundancy, TunnelTransport};
use tsc_csm::{FlowKey, InnerTransport, Transport};
use tsc_sim::{Fate, Firewall, Leg, LinkConfig, Rng, client_config, packet};
use tsc_tpl::ServiceType;

/// Packets of a second of speech.
const SPEECH: u32 = 50;

const SLOW: LinkConfig = LinkConfig {
    delay: Duration::from_millis(320),
    ..LinkConfig::CLEAN
};

/// A call whose socket leaves the choice to its end of the tunnel.
fn automatic(pair: (Transport, Transport), seed: u64) -> Call {
    let (stream, datagrams) = pair;
    let mut call = Call::with(seed, offering(), client_config(&[stream]), datagrams);
    call.want(TunnelTransport::Automatic);
    call
}

/// What the network does to streams, and what to datagrams.
fn network(call: &mut Call, streams: LinkConfig, datagrams: LinkConfig) {
    let path = call.world.path(call.near);
    path.set(streams);
    path.set_datagrams(Some(datagrams));
}

/// Talks until the datagrams are in force or not; how many seconds that took.
#[track_caller]
fn talk_until(call: &mut Call, wanted: bool, limit: u32) -> u32 {
    for second in 0..limit {
        if is_in_force(&call.world, call.near) == wanted {
            return second;
        }
        call.talk(SPEECH);
    }
    panic!("not in {limit} s: {:?}", told(&call.world, call.near));
}

/// A call with a packet each 100 ms, for tests that take long.
fn chat(call: &mut Call, seconds: u32) {
    for _ in 0..seconds * 10 {
        call.talk(1);
        call.world.run(MS * 80);
    }
}

/// Of speech that goes both ways now, how much goes beside the stream.
fn share_beside(call: &mut Call) -> (u64, u64) {
    call.world.run(SECOND);
    let before = call.beside();
    call.talk(SPEECH);
    call.world.run(SECOND * 2);
    let after = call.beside();
    (after.0 - before.0, after.1 - before.1)
}

/// Of a companion that was better than a bad stream.
fn beside(pair: (Transport, Transport), seed: u64) -> Call {
    let mut call = automatic(pair, seed);
    network(&mut call, LinkConfig::lossy(0.05), LinkConfig::CLEAN);
    talk_until(&mut call, true, 30);
    call
}

#[test]
fn on_a_clean_network_everything_stays_on_the_stream_without_a_companion() {
    for pair in PAIRS {
        let mut call = automatic(pair, 17);
        call.talk(SPEECH * 120);
        assert_eq!(told(&call.world, call.near), []);
        assert_eq!(call.world.server_stats(call.server).sessions, 2);
        // Four a second, and only while media passes.
        let probes = call.world.client_stats(call.near).probes;
        assert!((400..=121 * 4).contains(&probes), "{probes}");
        call.world.run(SECOND * 600);
        let after = call.world.client_stats(call.near).probes;
        assert!(after <= probes + 24, "{probes} {after}");
        call.assert_complete();
    }
}

#[test]
fn a_far_server_is_no_reason_to_move() {
    let mut call = automatic(PAIRS[0], 17);
    network(&mut call, SLOW, SLOW);
    call.talk(SPEECH * 60);
    assert_eq!(told(&call.world, call.near), []);
    assert_eq!(companions(&call.world, call.server, call.near), 0);
}

#[test]
fn a_stream_that_stalls_is_left_in_both_directions_and_not_returned_to() {
    for pair in PAIRS {
        for (loss, datagrams, limit) in [
            (0.05, LinkConfig::CLEAN, 8),
            // The same network for both: what a loss costs is more on the stream. It takes longer to be sure.
            (0.05, LinkConfig::lossy(0.05), 20),
            (0.2, LinkConfig::lossy(0.05), 8),
        ] {
            let mut call = automatic(pair, 17);
            call.talk(SPEECH * 10);
            network(&mut call, LinkConfig::lossy(loss), datagrams);
            let took = talk_until(&mut call, true, 30);
            assert!(took <= limit, "{took} s at {loss}");
            call.talk(SPEECH * 120);
            assert_eq!(told(&call.world, call.near), [(true, true)], "{loss}");
            let path = call.world.path(call.near);
            path.set(LinkConfig::CLEAN);
            path.set_datagrams(None);
            assert_eq!(share_beside(&mut call), (50, 50));
        }
    }
}

#[test]
fn a_companion_is_used_by_nobody_before_it_has_proven_itself() {
    let slower = LinkConfig {
        delay: MS * 600,
        ..SLOW
    };
    for datagrams in [LinkConfig::lossy(0.3), slower] {
        let mut call = automatic(PAIRS[1], 17);
        network(&mut call, LinkConfig::lossy(0.05), datagrams);
        let mut was_there = 0;
        for _ in 0..60 {
            call.talk(SPEECH);
            let is_there = companions(&call.world, call.server, call.near);
            was_there += u32::try_from(is_there).unwrap();
        }
        assert_eq!(told(&call.world, call.near), []);
        assert_eq!(call.beside(), (0, 0));
        // Tried for 20 s at most, and then not for 30 s; the goodbye may be lost, and then the server keeps it that long.
        assert!((10..=50).contains(&was_there), "{was_there} s of 60");
        call.world.path(call.near).set_datagrams(None);
        call.world.path(call.near).set(LinkConfig::CLEAN);
        call.assert_complete();
    }
}

#[test]
fn a_companion_that_becomes_worse_than_the_stream_is_left() {
    for pair in PAIRS {
        for datagrams in [LinkConfig::lossy(0.2), SLOW] {
            let mut call = beside(pair, 17);
            network(&mut call, LinkConfig::CLEAN, datagrams);
            let took = talk_until(&mut call, false, 60);
            // What the stream was like before counts for ten seconds, and a move stands as long.
            assert!(took <= 20, "{took} s");
            assert_eq!(told(&call.world, call.near), [(true, true), (true, false)]);
            assert_eq!(share_beside(&mut call), (0, 0));
            call.talk(SPEECH * 30);
            assert_eq!(companions(&call.world, call.server, call.near), 0);
        }
    }
}

#[test]
fn quality_that_alternates_moves_media_no_more_often_than_is_documented() {
    for seed in 0..4 {
        let mut call = automatic(PAIRS[usize::try_from(seed % 2).unwrap()], seed);
        let bad = [LinkConfig::lossy(0.3), LinkConfig::lossy(0.1)];
        let bad = bad[usize::try_from(seed / 2 % 2).unwrap()];
        let turn = [11, 14, 17, 23][usize::try_from(seed).unwrap()];
        let mut moves = Vec::new();
        for number in 0..20 * 60 / turn {
            if number % 2 == 0 {
                network(&mut call, bad, LinkConfig::CLEAN);
            } else {
                network(&mut call, LinkConfig::CLEAN, bad);
            }
            chat(&mut call, turn);
            moves.push(told(&call.world, call.near).len());
        }
        let ten_minutes = usize::try_from(600 / turn).unwrap();
        // Two at a time, if the companion fails as soon as it is used: at 0, 20, 100, 420, 740 and 1060 s.
        let last = *moves.last().unwrap();
        assert!(moves[ten_minutes - 1] <= 8, "seed {seed}: {moves:?}");
        assert!((3..=12).contains(&last), "seed {seed}: {moves:?}");
    }
}

#[test]
fn where_datagrams_do_not_pass_they_are_tried_ever_more_seldom() {
    let mut call = automatic(PAIRS[1], 17);
    network(&mut call, LinkConfig::lossy(0.05), LinkConfig::CLEAN);
    call.world.path(call.near).firewall = Firewall::STREAMS_ONLY;
    let mut tries = Vec::new();
    for _ in 0..4 {
        let before = call.world.attempts(call.near).len();
        call.talk(SPEECH * 150);
        tries.push(call.world.attempts(call.near).len() - before);
    }
    assert_eq!(told(&call.world, call.near), []);
    assert!(tries[0] <= 20 && tries[3] <= tries[0] / 2, "{tries:?}");
    // Another network is another matter.
    call.world.path(call.near).firewall = Firewall::OPEN;
    call.world.network_changed(call.near);
    let took = talk_until(&mut call, true, 30);
    assert!(took <= 15, "{took} s");
}

#[test]
fn datagrams_that_end_in_the_middle_of_a_call_cost_a_second() {
    for pair in PAIRS {
        let mut call = beside(pair, 17);
        network(&mut call, LinkConfig::CLEAN, LinkConfig::CLEAN);
        call.talk(SPEECH * 20);
        let (sent, came) = (call.sent, call.came(call.near).len());
        call.world.path(call.near).firewall = Firewall::STREAMS_ONLY;
        call.talk(SPEECH * 60);
        call.world.run(SECOND);
        let lost = usize::try_from(call.sent - sent).unwrap() - (call.came(call.near).len() - came);
        assert!(lost <= 50, "{lost} packets of 20 ms lost");
        assert_eq!(told(&call.world, call.near), [(true, true), (true, false)]);
    }
}

#[test]
fn without_the_service_it_is_told_once_and_nothing_more_is_measured() {
    let mut config = offering();
    config.interfaces[0].services = vec![ServiceType::ENABLE_REDUNDANCY];
    let mut call = Call::with(1, config, client_config(&[Transport::Tcp]), Transport::Udp);
    call.want(TunnelTransport::Automatic);
    call.world.path(call.near).set(LinkConfig::lossy(0.05));
    call.talk(SPEECH * 30);
    assert_eq!(told(&call.world, call.near), [(false, false)]);
    let probes = call.world.client_stats(call.near).probes;
    call.talk(SPEECH * 30);
    assert_eq!(call.world.client_stats(call.near).probes, probes);
}

#[test]
fn every_datagram_of_the_move_may_be_lost_late_or_come_twice() {
    let fates = [Fate::Lose, Fate::Late(SECOND * 3), Fate::Twice(SECOND * 3)];
    for (number, fate) in fates.into_iter().enumerate() {
        for nth in 0..16 {
            let pair = PAIRS[nth % 2];
            let mut call = automatic(pair, 100 + u64::try_from(nth).unwrap());
            network(&mut call, LinkConfig::lossy(0.1), LinkConfig::CLEAN);
            let (near, mut seen) = (call.near, 0);
            call.world.meddle(move |leg, _| {
                let is_its = leg == Leg::Up(near) || leg == Leg::Down(near);
                seen += usize::from(is_its);
                if is_its && seen == nth + 1 {
                    fate
                } else {
                    Fate::Pass
                }
            });
            let took = talk_until(&mut call, true, 60);
            assert!(took <= 30, "fate {number}, datagram {nth}: {took} s");
            call.talk(SPEECH * 5);
            assert_eq!(told(&call.world, call.near), [(true, true)]);
            assert_eq!(companions(&call.world, call.server, call.near), 1);
            network(&mut call, LinkConfig::CLEAN, LinkConfig::CLEAN);
            assert_eq!(share_beside(&mut call), (50, 50), "{number} {nth}");
        }
    }
}

/// The requests go over the stream, which loses nothing, but breaks and is late.
#[test]
fn a_stream_that_breaks_at_any_time_of_the_move_ends_with_both_ends_agreed() {
    for step in 0..40 {
        let mut call = automatic(PAIRS[step % 2], 3);
        network(&mut call, LinkConfig::lossy(0.1), LinkConfig::CLEAN);
        call.talk(SPEECH * 2);
        for _ in 0..step * 4 {
            call.talk(1);
            call.world.run(MS * 13);
        }
        call.world.break_transport(call.near);
        talk_until(&mut call, true, 60);
        network(&mut call, LinkConfig::CLEAN, LinkConfig::CLEAN);
        assert_eq!(share_beside(&mut call), (50, 50), "{step}");
        assert_eq!(companions(&call.world, call.server, call.near), 1);
    }
}

#[test]
fn what_the_application_says_overrides_what_was_measured() {
    let mut call = beside(PAIRS[0], 17);
    network(&mut call, LinkConfig::CLEAN, LinkConfig::CLEAN);
    call.want(TunnelTransport::Main);
    call.talk(SPEECH);
    assert_eq!(companions(&call.world, call.server, call.near), 0);
    call.want(TunnelTransport::Datagram);
    call.talk(SPEECH * 2);
    assert_eq!(share_beside(&mut call), (50, 50));
    // Whatever is measured.
    network(&mut call, LinkConfig::CLEAN, LinkConfig::lossy(0.2));
    call.talk(SPEECH * 60);
    assert!(is_in_force(&call.world, call.near));
    let probes = call.world.client_stats(call.near).probes;
    call.talk(SPEECH * 10);
    assert_eq!(call.world.client_stats(call.near).probes, probes);
    // Left to this end it begins on the stream.
    call.want(TunnelTransport::Automatic);
    call.talk(SPEECH * 2);
    assert!(!is_in_force(&call.world, call.near));
    network(&mut call, LinkConfig::lossy(0.05), LinkConfig::CLEAN);
    talk_until(&mut call, true, 30);
    // A companion that both want is not tried first, and stays for the one that always wants it.
    let other = FlowKey {
        transport: InnerTransport::Udp,
        port: 4000,
    };
    let datagram = TunnelTransport::Datagram;
    call.world
        .set_tunnel_transport_of(call.near, other, datagram)
        .unwrap();
    network(&mut call, LinkConfig::CLEAN, LinkConfig::lossy(0.2));
    call.talk(SPEECH * 60);
    network(&mut call, LinkConfig::CLEAN, LinkConfig::CLEAN);
    assert_eq!(share_beside(&mut call), (0, 0));
    assert_eq!(companions(&call.world, call.server, call.near), 1);
}

#[test]
fn changing_ones_mind_without_end_comes_to_rest_with_the_last_word() {
    let wishes = [
        TunnelTransport::Automatic,
        TunnelTransport::Datagram,
        TunnelTransport::Automatic,
        TunnelTransport::Main,
    ];
    for seed in 0..10 {
        let mut call = automatic(PAIRS[0], seed);
        network(&mut call, LinkConfig::lossy(0.05), LinkConfig::CLEAN);
        for turn in 0..200 {
            call.want(wishes[turn % wishes.len()]);
            call.talk(u32::try_from(seed + 1).unwrap());
        }
        call.want(TunnelTransport::Main);
        call.world.run(SECOND * 60);
        assert_eq!(companions(&call.world, call.server, call.near), 0);
        call.want(TunnelTransport::Automatic);
        talk_until(&mut call, true, 60);
        assert_eq!(companions(&call.world, call.server, call.near), 1);
    }
}

#[test]
fn the_companion_is_given_back_when_media_is_over() {
    let mut call = beside(PAIRS[1], 17);
    // On hold.
    call.world.run(SECOND * 20);
    assert!(is_in_force(&call.world, call.near));
    assert_eq!(share_beside(&mut call), (50, 50));
    call.world.run(SECOND * 40);
    assert!(!is_in_force(&call.world, call.near));
    assert_eq!(companions(&call.world, call.server, call.near), 0);
    // What was measured then says nothing about now.
    network(&mut call, LinkConfig::CLEAN, LinkConfig::CLEAN);
    call.talk(SPEECH * 60);
    assert!(!is_in_force(&call.world, call.near));
    network(&mut call, LinkConfig::lossy(0.05), LinkConfig::CLEAN);
    talk_until(&mut call, true, 30);
}

#[test]
fn losses_that_redundancy_mends_are_no_reason_to_leave() {
    let mut call = automatic(PAIRS[1], 17);
    call.world
        .set_redundancy_of(call.near, packet::FLOW, Redundancy::Copies(2))
        .unwrap();
    network(&mut call, LinkConfig::lossy(0.3), LinkConfig::CLEAN);
    talk_until(&mut call, true, 60);
    network(&mut call, LinkConfig::CLEAN, LinkConfig::lossy(0.1));
    call.talk(SPEECH * 60);
    assert!(is_in_force(&call.world, call.near));
    assert_eq!(call.world.redundancy(call.near).unwrap().granted, Some(2));
}

/// Any order of wishes, networks, firewalls and lost transports: afterwards both ends agree, and everything is heard.
#[test]
fn whatever_happens_both_ends_agree_in_the_end() {
    for seed in 0..40 {
        let mut chance = Rng::new(seed);
        let pair = PAIRS[usize::try_from(seed % 2).unwrap()];
        let mut call = automatic(pair, seed);
        let (mut wish, mut heard) = (TunnelTransport::Automatic, 0);
        for _ in 0..30 {
            match chance.below(10) {
                0 | 1 => {
                    let wishes = [
                        TunnelTransport::Automatic,
                        TunnelTransport::Automatic,
                        TunnelTransport::Datagram,
                        TunnelTransport::Main,
                    ];
                    let next = wishes[usize::try_from(chance.below(4)).unwrap()];
                    if std::mem::replace(&mut wish, next) != next {
                        heard = told(&call.world, call.near).len();
                        call.want(wish);
                    }
                }
                2..5 => {
                    let mut link = || LinkConfig {
                        jitter: MS * u32::try_from(chance.below(60)).unwrap(),
                        reorder: 0.02,
                        duplicate: 0.02,
                        ..LinkConfig::lossy(
                            f64::from(u32::try_from(chance.below(30)).unwrap()) / 100.0,
                        )
                    };
                    let (streams, datagrams) = (link(), link());
                    network(&mut call, streams, datagrams);
                }
                5 => {
                    call.world.path(call.near).firewall = if chance.chance(0.5) {
                        Firewall::OPEN
                    } else {
                        Firewall::STREAMS_ONLY
                    };
                }
                6 => call.world.break_transport(call.near),
                7 => call.world.break_tunnel(call.near, 1),
                8 => call.world.network_changed(call.near),
                _ => call
                    .world
                    .run(MS * u32::try_from(chance.below(40_000)).unwrap()),
            }
            call.talk(u32::try_from(chance.below(150)).unwrap());
        }
        call.world.path(call.near).firewall = Firewall::OPEN;
        network(&mut call, LinkConfig::CLEAN, LinkConfig::CLEAN);
        call.world.network_changed(call.near);
        call.world.run(SECOND * 60);
        // Nothing is on the companion that should not be, and nothing goes where nobody takes it.
        let is_beside = wish == TunnelTransport::Datagram;
        let since = told(&call.world, call.near).split_off(heard);
        let is_told = since.last() == Some(&(true, true)) && wish != TunnelTransport::Main;
        assert_eq!(is_told, is_beside, "seed {seed}: {since:?}");
        let before = (call.came(call.near).len(), call.came(call.far).len());
        let beside = u64::from(is_beside) * 50;
        assert_eq!(share_beside(&mut call), (beside, beside), "seed {seed}");
        let after = (call.came(call.near).len(), call.came(call.far).len());
        assert_eq!(
            (after.0 - before.0, after.1 - before.1),
            (50, 50),
            "seed {seed}"
        );
        let has = companions(&call.world, call.server, call.near);
        assert_eq!(has, usize::from(is_beside), "seed {seed}");
        assert_eq!(call.world.server_stats(call.server).sessions, 2 + has);
    }
}
