//! TCP over a path that loses: goodput at 100 Mbit/s and a round trip of 50 ms, in simulated time.

use std::time::Duration;

use crate::net::*;
use crate::support::*;
use crate::tcp_flow::transfer;

const SERVER: &str = "10.0.0.2:80";

fn path(loss_per_mille: u64) -> Link {
    let mut link = Link::delay(Duration::from_millis(25));
    link.rate = Some(100_000_000);
    link.loss_per_mille = loss_per_mille;
    link
}

/// Mbit/s of `len` bytes.
fn goodput(loss_per_mille: u64, len: usize, seed: u64) -> f64 {
    let mut net = Net::new(alice(), bob(), path(0), seed);
    let (client, server, _) = net.connect(addr(SERVER));
    net.links = [path(loss_per_mille), path(loss_per_mille)];
    let data = pattern(len, seed);
    let start = net.now;
    let got = transfer(&mut net, client, server, &data, Duration::from_secs(3600));
    assert!(got == data);
    len as f64 * 8.0 / (net.now - start).as_secs_f64() / 1e6
}

/// Congestion control, not recovery, is what remains of the cost: after each loss CUBIC goes on with 7 tenths.
#[test]
fn goodput_on_a_lossy_path() {
    for (loss, len, least) in [
        (0, 10_000_000, 70.0),
        (1, 8_000_000, 12.0),
        (10, 3_000_000, 3.0),
    ] {
        let mut rates: Vec<_> = (0..3).map(|seed| goodput(loss, len, seed)).collect();
        rates.sort_by(f64::total_cmp);
        println!("loss {loss} per mille: {rates:.1?} Mbit/s");
        assert!(
            rates[1] >= least,
            "loss {loss} per mille: {rates:.1?} Mbit/s"
        );
    }
}

/// Everything that is under way in `cut` is lost in the middle of a transfer.
fn pause_after_a_burst(cut: Duration) -> Duration {
    let mut net = Net::new(alice(), bob(), path(0), 1);
    let (client, server, _) = net.connect(addr(SERVER));
    let data = pattern(3_000_000, 1);
    assert!(transfer(&mut net, client, server, &data, Duration::from_secs(60)) == data);
    let start = net.now;
    let (mut sent, mut got) = (0, 0);
    let mut buffer = vec![0; 1 << 20];
    let (mut last, mut longest) = (start, Duration::ZERO);
    while got < data.len() {
        let since = net.now - start;
        net.links[0].cut =
            since >= Duration::from_millis(60) && since < Duration::from_millis(60) + cut;
        sent += net.stacks[0]
            .tcp_send(net.now, client, &data[sent..])
            .unwrap();
        while let Ok(Some(n)) = net.stacks[1].tcp_recv(net.now, server, &mut buffer) {
            got += n;
            longest = longest.max(net.now - last);
            last = net.now;
        }
        assert!(net.step());
        assert!(net.now - start < Duration::from_secs(300));
    }
    println!(
        "burst of {cut:?}: {:?} in all, longest pause {longest:?}",
        net.now - start
    );
    longest
}

#[test]
fn a_burst_costs_no_timeout() {
    for cut in [1, 5, 20, 60] {
        let pause = pause_after_a_burst(Duration::from_millis(cut));
        // The path's own pause, a round trip to learn of the loss and one to repair it, and a tail probe's patience.
        assert!(pause <= Duration::from_millis(cut + 150), "{pause:?}");
    }
}

/// The last segment of an exchange is lost, after which nothing comes that would tell of it.
#[test]
fn a_lost_tail_costs_no_timeout() {
    let mut net = Net::new(alice(), bob(), path(0), 1);
    let (client, server, _) = net.connect(addr(SERVER));
    let data = pattern(5000, 1);
    assert!(transfer(&mut net, client, server, &data, Duration::from_secs(60)) == data);
    net.run(Duration::from_millis(200));
    net.stacks[0].tcp_send(net.now, client, &data).unwrap();
    // Of four segments the last two are lost.
    let packets = transmits(&mut net.stacks[0]);
    assert_eq!(packets.len(), 4);
    for packet in &packets[..2] {
        net.stacks[1].handle_packet(net.now, packet);
    }
    net.run(Duration::from_millis(400));
    assert!(net.read(1, server).0 == data);
    let stats = net.stacks[0].stats().tcp;
    assert_eq!(stats.retransmission_timeouts, 0);
    assert!(stats.retransmissions <= 3, "{stats:?}");
}

/// A path that carries nothing for a while is asked at growing intervals, and used again when it does.
#[test]
fn an_outage_is_survived() {
    let mut net = Net::new(alice(), bob(), path(0), 1);
    let (client, server, _) = net.connect(addr(SERVER));
    let data = pattern(200_000, 1);
    assert_eq!(
        net.stacks[0].tcp_send(net.now, client, &data),
        Ok(data.len())
    );
    net.run(Duration::from_millis(60));
    let mut got = net.read(1, server).0;
    net.links[0].cut = true;
    net.run(Duration::from_secs(100));
    let stats = net.stacks[0].stats().tcp;
    assert!(
        (5..=8).contains(&stats.retransmission_timeouts),
        "{stats:?}"
    );
    net.links[0].cut = false;
    net.run(Duration::from_secs(62));
    got.extend(net.read(1, server).0);
    assert!(got == data);
}

/// Data that flow the other way do not keep the peer from hearing what is missing.
#[test]
fn losses_in_both_directions_cost_no_timeout() {
    let mut net = Net::new(alice(), bob(), path(0), 1);
    let (client, server, _) = net.connect(addr(SERVER));
    let handles = [client, server];
    let data = [pattern(8_000_000, 1), pattern(8_000_000, 2)];
    let (mut sent, mut got) = ([0, 0], [Vec::new(), Vec::new()]);
    let start = net.now;
    let mut bursts = 0;
    while got[0].len() < data[1].len() || got[1].len() < data[0].len() {
        // Every 337 ms, which is no multiple of the round trip, both directions lose what is sent in 3 ms.
        let phase = (net.now - start).as_millis() % 337;
        let cut = (60..63).contains(&phase);
        bursts += u32::from(cut && !net.links[0].cut);
        for link in &mut net.links {
            link.cut = cut;
        }
        for side in 0..2 {
            let now = net.now;
            sent[side] += net.stacks[side]
                .tcp_send(now, handles[side], &data[side][sent[side]..])
                .unwrap();
            let more = net.read(side, handles[side]).0;
            got[side].extend(more);
        }
        assert!(net.step());
        assert!(
            net.now - start < Duration::from_secs(60),
            "{:?}",
            [got[0].len(), got[1].len()]
        );
    }
    println!("{bursts} bursts, {:?}", net.now - start);
    assert!(got[0] == data[1] && got[1] == data[0]);
    assert!(bursts >= 2, "{bursts}");
    for stack in &net.stacks {
        let stats = stack.stats().tcp;
        assert!(stats.retransmissions > 10, "{stats:?}");
        assert_eq!(stats.retransmission_timeouts, 0, "{stats:?}");
    }
}

/// A packet of a SYN without the permission to acknowledge selectively.
fn without_sack(mut packet: Vec<u8>) -> Vec<u8> {
    let at = (40..packet.len())
        .find(|at| packet[*at..].starts_with(&[4, 2]))
        .unwrap();
    packet[at..at + 2].fill(1);
    packet[36..38].fill(0);
    let len = (packet.len() - 20) as u16;
    let [high, low] = len.to_be_bytes();
    let sum = checksum(&[&packet[12..20], &[0, 6, high, low], &packet[20..]]);
    packet[36..38].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// Duplicate acknowledgements are what is left then.
#[test]
fn a_peer_without_selective_acknowledgements_is_served_too() {
    let mut net = Net::new(alice(), bob(), path(0), 1);
    let server = addr(SERVER);
    let listener = net.stacks[1].tcp_listen(server, 1).unwrap();
    let any = addr("0.0.0.0:0");
    let client = net.stacks[0]
        .tcp_connect(net.now, any, server, tsc_eip::TcpOptions::default())
        .unwrap();
    let syn = transmits(&mut net.stacks[0]).remove(0);
    net.stacks[1].handle_packet(net.now, &without_sack(syn));
    net.run(Duration::from_millis(100));
    let (peer, _) = net.stacks[1].tcp_accept(listener).unwrap();
    let data = pattern(3_000_000, 1);
    let start = net.now;
    let (mut sent, mut got) = (0, Vec::new());
    while got.len() < data.len() {
        // One in five hundred is lost, of data only.
        net.links[0].loss_per_mille = 2;
        sent += net.stacks[0]
            .tcp_send(net.now, client, &data[sent..])
            .unwrap();
        got.extend(net.read(1, peer).0);
        assert!(net.step());
    }
    assert!(got == data);
    let stats = net.stacks[0].stats().tcp;
    assert!(stats.retransmissions >= 3, "{stats:?}");
    assert!(
        stats.retransmission_timeouts < stats.retransmissions,
        "{stats:?}"
    );
    assert!(net.now - start < Duration::from_secs(30));
}

/// However often the owner asks for probes, time goes on.
#[test]
fn keep_alive_without_an_interval_ends_a_connection_and_nothing_else() {
    let mut net = Net::plain();
    let (client, _, _) = net.connect(addr(SERVER));
    let options = tsc_eip::TcpOptions {
        keep_alive: Some(Duration::ZERO),
        ..tsc_eip::TcpOptions::default()
    };
    net.stacks[0].tcp_set_options(net.now, client, options);
    net.run(Duration::from_secs(1));
    let failed = tsc_eip::Event::TcpFailed(client, tsc_eip::TcpError::TimedOut);
    assert_eq!(net.events(0), [failed]);
}
