//! A packet costs a client no memory on its way: from a socket through the driver to the server, and back to a socket.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../../../tsc-server/tests/counting/mod.rs"]
mod counting;

use std::time::Duration;

use counting::allocations;
use tokio::time::timeout;
use tsc_demo::lab::{Lab, LabOptions};
use tsc_tapi::{DtlsBackendKind, Transport, Tunnel, UdpSocket};

const LIMIT: Duration = Duration::from_secs(60);

/// Packets sent in a row, before the driver gets its turn.
const BURST: u64 = 64;

const ROUNDS: u64 = 200;

/// Allocations of a burst, there and back: it takes 4, and some more where the machine is so slow that it comes in several
/// batches. One for each packet would be [`BURST`].
const MOST: u64 = 16;

async fn open(lab: &Lab, transport: Transport) -> (Tunnel, UdpSocket) {
    let builder = lab.tunnel(transport, DtlsBackendKind::OpenSsl).unwrap();
    let tunnel = timeout(LIMIT, builder.connect()).await.unwrap().unwrap();
    let local = (tunnel.config().ipv4().unwrap(), 4000).into();
    let socket = tunnel.bind_udp(local).unwrap();
    (tunnel, socket)
}

/// Bursts from one socket to the other; what that cost this thread, on which both clients run, and how many packets
/// arrived.
async fn rounds(from: &UdpSocket, to: &UdpSocket, rounds: u64) -> (u64, u64) {
    let peer = to.local_addr().unwrap();
    let mut buffer = [0; 2000];
    let before = allocations();
    let mut arrived = 0;
    for _ in 0..rounds {
        for _ in 0..BURST {
            from.send_to(&[7; 172], peer).await.unwrap();
        }
        for _ in 0..BURST {
            // What a busy machine drops is not waited for, as it does not come any more.
            let received = to.recv_from(&mut buffer);
            if timeout(Duration::from_secs(5), received).await.is_err() {
                break;
            }
            arrived += 1;
        }
    }
    (allocations() - before, arrived)
}

#[test]
fn packets_of_a_burst_share_what_memory_it_takes() {
    let lab = Lab::start(&LabOptions::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        for transport in [Transport::Udp, Transport::Dtls] {
            let (a, from) = open(&lab, transport).await;
            let (b, to) = open(&lab, transport).await;
            rounds(&from, &to, 20).await;
            let (spent, arrived) = rounds(&from, &to, ROUNDS).await;
            assert!(arrived > ROUNDS * BURST / 2, "{transport}: {arrived}");
            assert!(
                spent < ROUNDS * MOST,
                "{transport}: {spent} allocations for {arrived} packets"
            );
            drop((a, b));
        }
    });
}
