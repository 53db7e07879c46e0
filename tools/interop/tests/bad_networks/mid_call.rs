//! What happens in the middle of a call, and that the call survives it.

use std::{
    fs,
    time::{Duration, Instant},
};

use tsc_interop::{
    Authentication, Egress, Lab, Namespace, PROXY, Squid, Wire, WireOptions, address, isolated,
    isolated_cases, isolated_within,
};
use tsc_tapi::{DownReason, Notification, proxy::Proxy};

use crate::{
    LIMIT, ROUND_TRIP, TRANSPORTS, block_on, builder, close, lab,
    media::{Call, echo, source},
    paths::only_the_proxy,
    soon, url,
};

#[test]
fn a_call_survives_a_proxy_that_is_restarted() {
    isolated(
        "mid_call::a_call_survives_a_proxy_that_is_restarted",
        || {
            let (lab, _wire) = lab(ROUND_TRIP, Egress::UserSpace);
            let squid = Squid::new(&[Authentication::None]);
            only_the_proxy();
            let proxy: Proxy = format!("http://localhost:{}", PROXY.port())
                .parse()
                .unwrap();
            block_on(async {
                let ((echo, _echo), (source, _source)) = (echo(), source());
                let builder = builder(&lab, &[url("tls", address::EDGE_V4, 443)]).proxy(proxy);
                let tunnel = soon(builder.connect()).await.unwrap();
                let call = Call::begin(tunnel, echo, source).await;
                drop(squid);
                let _squid = Squid::new(&[Authentication::None]);
                let good = Instant::now();
                let back = call.heard.since(good + ROUND_TRIP).await;
                eprintln!("through a proxy: heard {:?} after it was back", back - good);
                assert!(back - good < Duration::from_secs(3), "{:?}", back - good);
                call.end().await;
            });
        },
    );
}

/// Waits until half a second's media has come back in each call.
async fn talk_on(calls: &[Call]) {
    for call in calls {
        call.heard.more(25).await;
    }
}

/// A call over each transport; `change` happens to all of them, and says since when the network was as good as before.
async fn in_the_middle(
    lab: &Lab,
    most: Duration,
    change: impl AsyncFnOnce(&[Call]) -> (Instant, Instant),
) {
    let ((echo, _echo), (source, _source)) = (echo(), source());
    let mut calls = Vec::new();
    for transport in TRANSPORTS {
        let server = url(transport, address::EDGE_V4, 4567);
        let tunnel = soon(builder(lab, &[server]).connect()).await.unwrap();
        calls.push(Call::begin(tunnel, echo, source).await);
    }
    talk_on(&calls).await;
    let (begun, good) = change(&calls).await;
    for (call, transport) in calls.iter().zip(TRANSPORTS) {
        let back = call.heard.since(good + ROUND_TRIP).await;
        let late = back - good;
        eprintln!(
            "{transport}: heard {late:?} after the network was good, the longest gap {:?}",
            call.heard.gap(begun)
        );
        assert!(late < most, "{transport}: {late:?}");
    }
    for (call, transport) in calls.into_iter().zip(TRANSPORTS) {
        let share = call.end().await;
        eprintln!("{transport}: {:.1} % of the media came back", share * 100.0);
    }
}

#[test]
fn a_call_survives_another_address() {
    isolated("mid_call::a_call_survives_another_address", || {
        let (lab, _wire) = lab(ROUND_TRIP, Egress::UserSpace);
        block_on(in_the_middle(&lab, Duration::from_secs(2), async |_| {
            let begun = Instant::now();
            Namespace::Access.run("ip address del 192.0.2.2/24 dev outer");
            Namespace::Access.run("ip address add 192.0.2.3/24 dev outer");
            (begun, Instant::now())
        }));
    });
}

#[test]
fn a_call_moves_to_a_better_network_before_the_old_one_is_gone() {
    isolated(
        "mid_call::a_call_moves_to_a_better_network_before_the_old_one_is_gone",
        || {
            let (lab, _wire) = lab(ROUND_TRIP, Egress::UserSpace);
            let _second = Wire::new("second", WireOptions::round_trip(ROUND_TRIP));
            for (namespace, host) in [(Namespace::Access, 2), (Namespace::Edge, 1)] {
                namespace.run(&format!("ip address add 203.0.113.{host}/24 dev second"));
                namespace.run("ip link set second up");
            }
            block_on(async {
                let ((echo, _echo), (source, _source)) = (echo(), source());
                let mut calls = Vec::new();
                for transport in TRANSPORTS {
                    let server = url(transport, address::EDGE_V4, 4567);
                    let tunnel = soon(builder(&lab, &[server]).connect()).await.unwrap();
                    calls.push(Call::begin(tunnel, echo, source).await);
                }
                talk_on(&calls).await;
                let mut notifications: Vec<_> = calls
                    .iter()
                    .map(|call| call.tunnel.notifications())
                    .collect();
                let begun = Instant::now();
                Namespace::Access.run("ip route add 192.0.2.1/32 via 203.0.113.1");
                for (notifications, transport) in notifications.iter_mut().zip(TRANSPORTS) {
                    loop {
                        match soon(notifications.recv()).await.unwrap() {
                            Notification::Resumed(_) => break,
                            Notification::Suspended(reason) => {
                                panic!("{transport}: without a transport: {reason:?}")
                            }
                            _ => {}
                        }
                    }
                }
                talk_on(&calls).await;
                for (call, transport) in calls.into_iter().zip(TRANSPORTS) {
                    let gap = call.heard.gap(begun);
                    eprintln!("{transport}: the longest gap of a move is {gap:?}");
                    assert!(
                        gap < Duration::from_millis(300) + ROUND_TRIP,
                        "{transport}: {gap:?}"
                    );
                    let share = call.end().await;
                    assert!(share > 0.9, "{transport}: {share}");
                }
            });
        },
    );
}

/// Of tunnels that are all the way over DTLS: 3 for the handshake and 1 for the tunnel, then 2 and 1.
#[test]
fn a_resume_over_dtls_waits_for_one_answer_less_than_the_first_connection() {
    isolated(
        "mid_call::a_resume_over_dtls_waits_for_one_answer_less_than_the_first_connection",
        || {
            // Long enough for a machine that has much to do.
            const SLOW: Duration = Duration::from_millis(200);
            let (lab, _wire) = lab(SLOW, Egress::UserSpace);
            block_on(async {
                let builder = builder(&lab, &[url("dtls", address::EDGE_V4, 4567)]);
                let mut notifications = builder.notifications();
                let begun = Instant::now();
                let tunnel = soon(builder.connect()).await.unwrap();
                let first = begun.elapsed();
                let mut resumes = Vec::new();
                for (old, new) in [(2, 3), (3, 2), (2, 3), (3, 2), (2, 3)] {
                    Namespace::Access.run(&format!("ip address del 192.0.2.{old}/24 dev outer"));
                    Namespace::Access.run(&format!("ip address add 192.0.2.{new}/24 dev outer"));
                    let mut lost = None;
                    resumes.push(loop {
                        match soon(notifications.recv()).await.unwrap() {
                            Notification::Suspended(_) => lost = Some(Instant::now()),
                            Notification::Resumed(_) => break lost.unwrap().elapsed(),
                            _ => {}
                        }
                    });
                }
                resumes.sort();
                let resume = resumes[resumes.len() / 2];
                eprintln!("dtls: {first:?} to a tunnel, then resumed in {resume:?}");
                assert!(first >= 4 * SLOW, "{first:?}");
                assert!(resume >= 3 * SLOW, "{resume:?}");
                assert!(resume < 4 * SLOW, "{resume:?}");
                close(tunnel).await;
            });
        },
    );
}

fn outage(time: Duration) {
    let (lab, wire) = lab(ROUND_TRIP, Egress::UserSpace);
    block_on(in_the_middle(&lab, Duration::from_secs(3), async |_| {
        let begun = Instant::now();
        wire.set(|rules| rules.cut = true);
        tokio::time::sleep(time).await;
        wire.set(|rules| rules.cut = false);
        (begun, Instant::now())
    }));
}

#[test]
fn a_call_survives_outages() {
    isolated_cases(
        "mid_call::a_call_survives_outages",
        &[
            ("5 s", || outage(Duration::from_secs(5))),
            ("60 s", || outage(Duration::from_secs(60))),
        ],
    );
}

#[test]
fn a_call_survives_a_nat_that_forgets() {
    isolated("mid_call::a_call_survives_a_nat_that_forgets", || {
        let (lab, _wire) = lab(ROUND_TRIP, Egress::UserSpace);
        // What is in another zone is another connection to the NAT.
        let nat = |zone: u8| {
            let ports = u16::from(zone) * 10_000;
            let rules = format!(
                "table ip nat {{}}\ndelete table ip nat\ntable ip nat {{
                   chain zone {{
                     type filter hook output priority -300
                     ip daddr 192.0.2.1 ct zone set {zone}
                   }}
                   chain back {{
                     type filter hook prerouting priority -300
                     ip saddr 192.0.2.1 ct zone set {zone}
                   }}
                   chain out {{
                     type nat hook postrouting priority 100
                     oifname outer meta l4proto {{ tcp, udp }} masquerade to :{ports}-{}
                   }}
                 }}\n",
                ports + 999
            );
            fs::write("/run/nat.nft", rules).unwrap();
            Namespace::Access.run("nft -f /run/nat.nft");
        };
        nat(1);
        block_on(in_the_middle(&lab, Duration::from_secs(9), async |_| {
            let begun = Instant::now();
            nat(2);
            (begun, Instant::now())
        }));
    });
}

#[test]
fn a_server_that_forgot_everything_is_told_and_a_new_tunnel_is_there_at_once() {
    isolated_within(
        LIMIT,
        "mid_call::a_server_that_forgot_everything_is_told_and_a_new_tunnel_is_there_at_once",
        || {
            let (mut lab, _wire) = lab(Duration::from_millis(10), Egress::UserSpace);
            block_on(async {
                for transport in TRANSPORTS {
                    let server = url(transport, address::EDGE_V4, 4567);
                    let tunnel = soon(builder(&lab, std::slice::from_ref(&server)).connect())
                        .await
                        .unwrap();
                    lab.restart_server();
                    tunnel.network_changed();
                    let reason = soon(tunnel.closed()).await;
                    assert!(
                        matches!(reason, DownReason::ResumeRejected { .. }),
                        "{transport}: {reason}"
                    );
                    let tunnel = soon(builder(&lab, &[server]).connect()).await.unwrap();
                    close(tunnel).await;
                }
            });
        },
    );
}
