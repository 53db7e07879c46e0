//! A server that listens on all addresses of its host answers from the one that it was reached at.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use tokio::time::timeout;
use tsc_demo::lab::{Lab, LabOptions};
use tsc_tapi::{DtlsBackendKind, Server, Transport, Tunnel};

const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_come_from_the_address_that_the_client_used() {
    let lab = Lab::start(&LabOptions {
        address: "0.0.0.0".to_owned(),
        ..LabOptions::default()
    })
    .unwrap();
    // The system's own choice for a peer on loopback would be 127.0.0.1, which the client's connected socket ignores.
    for transport in [Transport::Udp, Transport::Dtls, Transport::Tls] {
        let port = lab.server.address(transport).unwrap().port();
        let tunnel = Tunnel::builder(Server::new(transport, "127.0.0.2", port))
            .trust(lab.trust())
            .server_name("localhost")
            .dtls_backend(DtlsBackendKind::OpenSsl)
            .connect_timeout(Duration::from_secs(5));
        let tunnel = timeout(LIMIT, tunnel.connect()).await.expect("in time");
        let tunnel = tunnel.unwrap_or_else(|error| panic!("{transport}: {error}"));
        timeout(LIMIT, tunnel.close(LIMIT))
            .await
            .expect("in time")
            .unwrap();
    }
}
