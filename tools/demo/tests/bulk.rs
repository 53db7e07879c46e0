//! Much data at once: a fast inner TCP connection does not overflow what the server queues for a tunnel.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation
)]

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};
use tsc_demo::lab::{Lab, LabOptions};
use tsc_tapi::{DtlsBackendKind, Transport, Tunnel};

/// Nothing here takes longer unless it hangs.
const LIMIT: Duration = Duration::from_secs(60);
const SIZE: usize = 20_000_000;

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(LIMIT, what).await.expect("in time")
}

async fn open(lab: &Lab, transport: Transport) -> Tunnel {
    let builder = lab.tunnel(transport, DtlsBackendKind::OpenSsl).unwrap();
    soon(builder.connect()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bursts_longer_than_a_tunnels_queue_are_sent_rather_than_dropped() {
    for transport in Transport::ALL {
        let lab = Lab::start(&LabOptions::default()).unwrap();
        let near = open(&lab, transport).await;
        let far = open(&lab, transport).await;
        let to = SocketAddr::new(far.config().ipv4().unwrap(), 80);
        let listener = far.bind_tcp(to).unwrap();
        let receiving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut received = Vec::with_capacity(SIZE);
            stream.read_to_end(&mut received).await.unwrap();
            received
        };
        let sent: Vec<u8> = (0..SIZE).map(|at| (at / 7 % 251) as u8).collect();
        let sending = async {
            let mut stream = near.connect_tcp(to).await.unwrap();
            stream.write_all(&sent).await.unwrap();
            stream.shutdown().await.unwrap();
            stream
        };
        let (received, _stream) = soon(async { tokio::join!(receiving, sending) }).await;
        assert!(received == sent, "{transport}");
        let counters = lab.server.stop().unwrap().counters;
        // The window of one connection fits the buffers of a host that reads. One in a thousand is for a host that was
        // busy elsewhere.
        assert!(
            counters.queue_full * 1000 <= counters.switched,
            "{transport}: {counters:?}"
        );
    }
}
