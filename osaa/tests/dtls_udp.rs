//! Every pair of DTLS backends over real UDP sockets.
#![cfg(any(
    feature = "dtls-openssl",
    feature = "dtls-dimpl",
    feature = "dtls-webrtc"
))]
#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    clippy::indexing_slicing
)]

mod dtls_common;

use std::time::Instant;

use dtls_common::Pair;
use dtls_common::pki::{self, PKI, SERVER_NAME};
use dtls_common::udp::{EchoServer, Seen, UdpClient};
use tsc_osaa::cert::ClientAuth;
use tsc_osaa::dtls::{
    DtlsClientConfig, DtlsEndpointEvent, DtlsEndpointLimits, DtlsError, DtlsOptions,
    DtlsServerConfig, DtlsServerEndpoint,
};

for_all_pairs!(echo_over_sockets, many_clients_over_one_socket);

async fn server(pair: Pair) -> EchoServer {
    let security = pki::server_security(&PKI.server, ClientAuth::Required(PKI.ca.roots()));
    let config = DtlsServerConfig::new(pair.server, &security, &DtlsOptions::default()).unwrap();
    let limits = DtlsEndpointLimits::default();
    EchoServer::start(DtlsServerEndpoint::new(&config, limits, &[3; 32])).await
}

async fn client(pair: Pair, server: &EchoServer) -> UdpClient {
    let security = pki::client_security(Some(&PKI.client));
    let config = DtlsClientConfig::new(pair.client, &security, &DtlsOptions::default()).unwrap();
    let name = SERVER_NAME.try_into().unwrap();
    let session = config.connect(Instant::now(), &name).unwrap();
    let mut client = UdpClient::start(session, server.address).await;
    let seen = client.next().await;
    assert!(matches!(seen, Seen::Connected(_)), "{seen:?}");
    client
}

async fn echo_over_sockets(pair: Pair) {
    let mut server = server(pair).await;
    let mut client = client(pair, &server).await;
    let DtlsEndpointEvent::Connected { info, peer, .. } = server.event().await else {
        panic!("not connected");
    };
    assert_eq!(peer, client.socket.local_addr().unwrap());
    assert_eq!(info.peer.unwrap().common_name(), Some("client"));
    for length in [1, 2, 20, 200, 576, 1_200, 1_400] {
        let data: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
        client.session.send(&data).unwrap();
        match client.next().await {
            Seen::Data(echo) => assert_eq!(echo, data),
            other => panic!("{other:?}"),
        }
    }
    // The server ends: the client is told.
    server.stop().await;
    let seen = client.next().await;
    assert!(
        matches!(seen, Seen::Closed(DtlsError::PeerClosed)),
        "{seen:?}"
    );
}

async fn many_clients_over_one_socket(pair: Pair) {
    let mut server = server(pair).await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(client(pair, &server).await);
    }
    for (index, client) in clients.iter_mut().enumerate() {
        client
            .session
            .send(format!("client {index}").as_bytes())
            .unwrap();
        client.flush().await;
    }
    for (index, client) in clients.iter_mut().enumerate() {
        match client.next().await {
            Seen::Data(echo) => assert_eq!(echo, format!("client {index}").into_bytes()),
            other => panic!("{other:?}"),
        }
    }
    for client in &mut clients {
        client.session.close(Instant::now());
        let seen = client.next().await;
        assert!(
            matches!(seen, Seen::Closed(DtlsError::LocalClosed)),
            "{seen:?}"
        );
    }
    let mut closed = 0;
    while closed < 10 {
        if let DtlsEndpointEvent::Closed { error, .. } = server.event().await {
            assert!(matches!(error, DtlsError::PeerClosed), "{error:?}");
            closed += 1;
        }
    }
    server.stop().await;
}
