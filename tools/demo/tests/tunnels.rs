//! Tunnels end to end: the real client, the real server, real sockets, every transport.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use std::{net::SocketAddr, time::Duration};

use tokio::time::timeout;
use tsc_demo::lab::{Lab, LabOptions};
use tsc_tapi::{DtlsBackendKind, Transport, Tunnel};

/// Nothing here takes longer unless it hangs.
const LIMIT: Duration = Duration::from_secs(20);

/// Every transport, DTLS by each back end.
fn legs() -> Vec<(Transport, DtlsBackendKind)> {
    let mut legs: Vec<_> = Transport::ALL
        .into_iter()
        .map(|transport| (transport, DtlsBackendKind::OpenSsl))
        .collect();
    legs.push((Transport::Dtls, DtlsBackendKind::Dimpl));
    legs.push((Transport::Dtls, DtlsBackendKind::WebRtc));
    legs
}

async fn open(lab: &Lab, transport: Transport, backend: DtlsBackendKind) -> Tunnel {
    let connecting = lab.tunnel(transport, backend).unwrap().connect();
    timeout(LIMIT, connecting)
        .await
        .expect("in time")
        .unwrap_or_else(|error| panic!("{transport} {backend}: {error}"))
}

fn inner(tunnel: &Tunnel, port: u16) -> SocketAddr {
    (tunnel.config().ipv4().unwrap(), port).into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_pass_between_tunnels_of_every_transport() {
    let lab = Lab::start(&LabOptions::default()).unwrap();
    for (left, left_backend) in legs() {
        for (right, right_backend) in legs() {
            let a = open(&lab, left, left_backend).await;
            let b = open(&lab, right, right_backend).await;
            let from = a.bind_udp(inner(&a, 0)).unwrap();
            let to = b.bind_udp(inner(&b, 4000)).unwrap();
            let mut buffer = vec![0; 4000];
            for size in [0, 1, 172, 1372, 3000] {
                let payload: Vec<u8> = (0..size).map(|i| u8::try_from(i % 251).unwrap()).collect();
                from.send_to(&payload, inner(&b, 4000)).await.unwrap();
                let (len, sender) = timeout(LIMIT, to.recv_from(&mut buffer))
                    .await
                    .expect("in time")
                    .unwrap();
                assert_eq!(buffer[..len], payload, "{left} to {right}, {size} bytes");
                assert_eq!(sender, from.local_addr().unwrap());
                to.send_to(&buffer[..len], sender).await.unwrap();
                let (len, _) = timeout(LIMIT, from.recv_from(&mut buffer))
                    .await
                    .expect("in time")
                    .unwrap();
                assert_eq!(len, size, "{right} to {left}, {size} bytes");
            }
            a.close(LIMIT).await.unwrap();
            b.close(LIMIT).await.unwrap();
        }
    }
    let report = lab.server.stop().unwrap();
    assert_eq!(report.sessions.sessions, 0);
    let pairs = u64::try_from(legs().len() * legs().len()).unwrap();
    assert_eq!(report.sessions.configured, 2 * pairs);
    assert_eq!(report.counters.no_route, 0);
}
