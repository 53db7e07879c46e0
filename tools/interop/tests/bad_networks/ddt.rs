//! Datagrams beside a stream, over a network that loses packets and one that ends to let datagrams through.

use std::time::{Duration, Instant};

use tsc_interop::{Egress, Namespace, address, isolated};
use tsc_tapi::{Notification, Notifications, Service, TunnelTransport};

use crate::{
    ROUND_TRIP, block_on, builder, lab,
    media::{Call, echo, source},
    soon, url,
};

const STREAMS: [&str; 2] = ["tcp", "tls"];

/// Waits until DDT is in force, or is not any more.
async fn until(notifications: &mut Notifications, wanted: bool) {
    loop {
        if let Notification::Service {
            service: Service::Ddt,
            available,
            enabled,
            ..
        } = soon(notifications.recv()).await.unwrap()
        {
            assert!(available);
            if enabled == wanted {
                return;
            }
        }
    }
}

#[test]
fn media_beside_a_stream_does_not_wait_for_what_the_network_lost() {
    isolated(
        "ddt::media_beside_a_stream_does_not_wait_for_what_the_network_lost",
        || {
            let (lab, wire) = lab(Duration::from_millis(100), Egress::UserSpace);
            block_on(async {
                let ((echo, _echo), (source, _source)) = (echo(), source());
                for stream in STREAMS {
                    let server = url(stream, address::EDGE_V4, 4567);
                    let mut gaps = Vec::new();
                    for transport in [TunnelTransport::Main, TunnelTransport::Datagram] {
                        let builder = builder(&lab, std::slice::from_ref(&server));
                        let tunnel = soon(builder.connect()).await.unwrap();
                        let mut notifications = tunnel.notifications();
                        let call = Call::over(tunnel, transport, echo, source).await;
                        if transport == TunnelTransport::Datagram {
                            until(&mut notifications, true).await;
                        }
                        wire.set(|rules| rules.loss = 0.05);
                        let begun = Instant::now();
                        call.heard.more(300).await;
                        gaps.push(call.heard.gap(begun));
                        wire.set(|rules| rules.loss = 0.0);
                        call.end().await;
                    }
                    eprintln!("{stream}: longest gaps on the stream and beside it: {gaps:?}");
                    // A packet that is lost on a stream costs a round trip or more; here the next one is 20 ms away.
                    assert!(gaps[1] < Duration::from_millis(200), "{gaps:?}");
                    assert!(gaps[1] < gaps[0], "{gaps:?}");
                }
            });
        },
    );
}

#[test]
fn datagrams_that_end_in_the_middle_of_a_call_cost_a_second_and_come_back() {
    isolated(
        "ddt::datagrams_that_end_in_the_middle_of_a_call_cost_a_second_and_come_back",
        || {
            let (lab, _wire) = lab(ROUND_TRIP, Egress::UserSpace);
            block_on(async {
                let ((echo, _echo), (source, _source)) = (echo(), source());
                for stream in STREAMS {
                    let server = url(stream, address::EDGE_V4, 4567);
                    let tunnel = soon(builder(&lab, &[server]).connect()).await.unwrap();
                    let mut notifications = tunnel.notifications();
                    let datagram = TunnelTransport::Datagram;
                    let call = Call::over(tunnel, datagram, echo, source).await;
                    until(&mut notifications, true).await;
                    // Long enough to count as a call.
                    call.heard.more(200).await;
                    let begun = Instant::now();
                    Namespace::Access.run("nft add table inet wall");
                    for hook in ["input", "output"] {
                        Namespace::Access.run(&format!(
                            "nft add chain inet wall {hook} {{ type filter hook {hook} priority 0 ; policy accept ; }}"
                        ));
                        Namespace::Access.run(&format!(
                            "nft add rule inet wall {hook} meta l4proto udp drop"
                        ));
                    }
                    until(&mut notifications, false).await;
                    call.heard.more(100).await;
                    let gap = call.heard.gap(begun);
                    eprintln!("{stream}: the longest gap is {gap:?}");
                    assert!(gap < Duration::from_millis(1_500), "{gap:?}");
                    Namespace::Access.run("nft delete table inet wall");
                    let begun = Instant::now();
                    until(&mut notifications, true).await;
                    call.heard.more(50).await;
                    let gap = call.heard.gap(begun);
                    assert!(gap < Duration::from_millis(200) + ROUND_TRIP, "{gap:?}");
                    let share = call.end().await;
                    eprintln!("{stream}: {:.1} % of the media came back", share * 100.0);
                }
            });
        },
    );
}

/// Has the kernel lose so many in a hundred packets of the tunnels over a protocol, where they arrive; 0 ends that.
fn lose(protocol: &str, percent: u32) {
    let table = format!("{protocol}_loss");
    for (end, port) in [(Namespace::Access, "sport"), (Namespace::Edge, "dport")] {
        end.run(&format!("nft add table inet {table}"));
        end.run(&format!("nft delete table inet {table}"));
        if percent == 0 {
            continue;
        }
        end.run(&format!("nft add table inet {table}"));
        end.run(&format!(
            "nft add chain inet {table} arrival {{ type filter hook input priority 0 ; policy accept ; }}"
        ));
        end.run(&format!(
            "nft add rule inet {table} arrival {protocol} {port} 4567 numgen random mod 100 < {percent} drop"
        ));
    }
}

#[test]
fn media_goes_by_whichever_tunnel_the_network_treats_better() {
    isolated(
        "ddt::media_goes_by_whichever_tunnel_the_network_treats_better",
        || {
            let (lab, _wire) = lab(ROUND_TRIP, Egress::UserSpace);
            block_on(async {
                let ((echo, _echo), (source, _source)) = (echo(), source());
                for stream in STREAMS {
                    let server = url(stream, address::EDGE_V4, 4567);
                    let tunnel = soon(builder(&lab, &[server]).connect()).await.unwrap();
                    let mut notifications = tunnel.notifications();
                    let automatic = TunnelTransport::Automatic;
                    let call = Call::over(tunnel, automatic, echo, source).await;
                    call.heard.more(300).await;
                    let told = async { until(&mut notifications, true).await };
                    let is_told = tokio::time::timeout(Duration::ZERO, told).await.is_ok();
                    assert!(!is_told, "{stream}: a good stream is left");
                    lose("tcp", 8);
                    let begun = Instant::now();
                    until(&mut notifications, true).await;
                    let took = begun.elapsed();
                    let begun = Instant::now();
                    call.heard.more(100).await;
                    let gap = call.heard.gap(begun);
                    assert!(gap < Duration::from_millis(200), "{gap:?}");
                    eprintln!("{stream}: beside it after {took:?}, then gaps of {gap:?}");
                    lose("tcp", 0);
                    lose("udp", 25);
                    let begun = Instant::now();
                    until(&mut notifications, false).await;
                    eprintln!("{stream}: on it again after {:?}", begun.elapsed());
                    lose("udp", 0);
                    call.end().await;
                }
            });
        },
    );
}
