//! One shape for four transports: connecting, failing to, and echoing. DTLS by every backend of this build.
#![cfg(any(
    feature = "dtls-openssl",
    feature = "dtls-dimpl",
    feature = "dtls-webrtc"
))]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::wildcard_enum_match_arm
)]

mod common;

use std::{
    future::poll_fn,
    io::IoSlice,
    net::SocketAddr,
    task::{Context, Waker},
    time::{Duration, Instant},
};

use common::{Ca, Wish, bounded, client, server};
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::mpsc,
};
use tsc_osaa::{
    cert::{CertificateError, ClientAuth, ClientSecurity, Identity, ServerName, ServerSecurity},
    client::{
        ClientTransport, ConnectError, ConnectOptions, RECV_BUFFER, Target, TransportError,
        TransportKind, connect,
    },
    datagram::{DatagramOptions, DatagramSocket, RecvBatch, SendBatch},
    dtls::{
        DtlsBackendKind, DtlsEndpointEvent, DtlsEndpointLimits, DtlsOptions, DtlsServerConfig,
        DtlsServerEndpoint,
    },
    listener::{ListenerConfig, ListenerEvent, StreamListener},
    socket::{Dscp, OuterDscp},
    stream::StreamError,
    tls::TlsError,
};

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// An address that no other test uses, so that a port given back there stays free.
fn private() -> SocketAddr {
    "127.0.0.77:0".parse().unwrap()
}

fn target(kind: TransportKind, address: SocketAddr) -> Target {
    Target::new(kind, address.ip(), address.port())
}

/// A stream server that echoes; its address, and the identities of the clients it accepts.
fn stream_echo(security: Option<ServerSecurity>) -> (SocketAddr, mpsc::Receiver<Option<String>>) {
    let mut config = ListenerConfig::default();
    config.plain = security.is_none();
    config.tls = security;
    let mut listener = StreamListener::bind(loopback(), config).unwrap();
    let address = listener.local_addr();
    let (seen, identities) = mpsc::channel(16);
    tokio::spawn(async move {
        loop {
            let ListenerEvent::Ready(mut stream) = listener.accept().await else {
                continue;
            };
            let identity = stream.peer_identity().map(|peer| peer.identity());
            drop(seen.try_send(identity));
            tokio::spawn(async move {
                let mut buffer = vec![0; RECV_BUFFER];
                while let Ok(n) = stream.recv(&mut buffer).await {
                    stream.send(&[IoSlice::new(&buffer[..n])]).await.unwrap();
                }
                stream.close(Duration::from_secs(5)).await;
            });
        }
    });
    (address, identities)
}

/// A UDP server that echoes.
fn udp_echo() -> SocketAddr {
    let mut socket = DatagramSocket::bind(loopback(), &DatagramOptions::default()).unwrap();
    let address = socket.local_addr();
    tokio::spawn(async move {
        let (mut inbox, mut outbox) = (RecvBatch::new(8), SendBatch::new(1 << 20));
        loop {
            poll_fn(|cx| socket.poll_recv(cx, &mut inbox))
                .await
                .unwrap();
            for datagram in inbox.datagrams() {
                assert!(outbox.push(datagram.peer, None, datagram.bytes));
            }
            poll_fn(|cx| socket.poll_send(cx, &mut outbox))
                .await
                .unwrap();
        }
    });
    address
}

/// A DTLS server that echoes; its address, and the identities of the clients it accepts.
fn dtls_echo(security: &ServerSecurity) -> (SocketAddr, mpsc::Receiver<Option<String>>) {
    dtls_echo_by(DtlsBackendKind::preferred().unwrap(), security)
}

fn dtls_echo_by(
    backend: DtlsBackendKind,
    security: &ServerSecurity,
) -> (SocketAddr, mpsc::Receiver<Option<String>>) {
    let config = DtlsServerConfig::new(backend, security, &DtlsOptions::default()).unwrap();
    let mut endpoint = DtlsServerEndpoint::new(&config, DtlsEndpointLimits::default(), &[9; 32]);
    let mut socket = DatagramSocket::bind(loopback(), &DatagramOptions::default()).unwrap();
    let address = socket.local_addr();
    let (seen, identities) = mpsc::channel(16);
    tokio::spawn(async move {
        let (mut inbox, mut outbox) = (RecvBatch::new(8), SendBatch::new(1 << 20));
        let mut buffer = vec![0; RECV_BUFFER];
        loop {
            let received = poll_fn(|cx| {
                endpoint.set_waker(cx.waker());
                socket.poll_recv(cx, &mut inbox)
            });
            // Retransmissions are the client's here; the pause only lets background work be seen.
            let pause = Duration::from_millis(20);
            let mut readable = Vec::new();
            if let Ok(received) = tokio::time::timeout(pause, received).await {
                received.unwrap();
                for datagram in inbox.datagrams() {
                    readable.extend(endpoint.handle_datagram(
                        Instant::now(),
                        datagram.peer,
                        datagram.bytes,
                    ));
                }
            }
            endpoint.handle_timeout(Instant::now());
            while let Some(event) = endpoint.poll_event() {
                match event {
                    DtlsEndpointEvent::Connected { key, info, .. } => {
                        drop(seen.try_send(info.peer.map(|peer| peer.identity())));
                        readable.push(key);
                    }
                    DtlsEndpointEvent::Readable { key } => readable.push(key),
                    _ => {}
                }
            }
            for key in readable {
                while let Some(n) = endpoint.recv(key, &mut buffer) {
                    endpoint.send(key, &buffer[..n]).unwrap();
                }
            }
            let mut datagram = Vec::new();
            while let Some(transmit) = endpoint.poll_transmit(&mut datagram) {
                assert!(outbox.push(transmit.peer, None, &datagram));
                datagram.clear();
            }
            poll_fn(|cx| socket.poll_send(cx, &mut outbox))
                .await
                .unwrap();
        }
    });
    (address, identities)
}

/// Sends units of several sizes and gets them back: as bytes on streams, one by one on datagrams.
async fn echo(transport: &mut ClientTransport) {
    let units: Vec<Vec<u8>> = [200usize, 200, 1, 1200, 172]
        .into_iter()
        .enumerate()
        // The first byte is what a plain connection is known by.
        .map(|(n, len)| vec![0x10 + u8::try_from(n).unwrap(); len])
        .collect();
    let slices: Vec<IoSlice<'_>> = units.iter().map(|u| IoSlice::new(u)).collect();
    transport.send(&slices).await.unwrap();
    let mut buffer = vec![0; RECV_BUFFER];
    let mut heard = Vec::new();
    let mut pieces = Vec::new();
    while heard.len() < units.concat().len() {
        let n = transport.recv(&mut buffer).await.unwrap();
        pieces.push(buffer[..n].to_vec());
        heard.extend_from_slice(&buffer[..n]);
    }
    assert_eq!(heard, units.concat());
    if !transport.kind().is_stream() {
        assert_eq!(pieces, units);
    }
}

#[tokio::test]
async fn all_four_transports_echo() {
    bounded(async {
        let ca = Ca::new("root");
        let security = ca.client_security();
        let (tcp, _tcp) = stream_echo(None);
        let (tls, _tls) = stream_echo(Some(ca.server_security()));
        let (dtls, _dtls) = dtls_echo(&ca.server_security());
        let servers = [
            (TransportKind::Tcp, tcp),
            (TransportKind::Tls, tls),
            (TransportKind::Udp, udp_echo()),
            (TransportKind::Dtls, dtls),
        ];
        for (kind, address) in servers {
            let target = target(kind, address);
            let options = ConnectOptions::default();
            let mut transport = connect(&target, Some(&security), &options).await.unwrap();
            assert_eq!(transport.kind(), kind);
            assert_eq!(transport.peer_addr(), address);
            assert_eq!(
                transport
                    .peer_identity()
                    .and_then(|peer| peer.common_name()),
                kind.is_protected().then_some("server")
            );
            echo(&mut transport).await;
            for marking in [
                OuterDscp::Set(Dscp::new(46).unwrap()),
                OuterDscp::Copy,
                OuterDscp::Off,
            ] {
                transport.set_outer_dscp(marking).unwrap();
                echo(&mut transport).await;
            }
            echo(&mut transport).await;
            transport.close(Duration::from_secs(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn clients_are_known_by_their_certificates_over_tls_and_dtls() {
    bounded(async {
        let ca = Ca::new("root");
        let alice = ca.client_with(ca.identity(&client()));
        let (tls, mut at_tls) = stream_echo(Some(ca.mutual_server()));
        let (dtls, mut at_dtls) = dtls_echo(&ca.mutual_server());
        let options = ConnectOptions::default();
        for (kind, address, seen) in [
            (TransportKind::Tls, tls, &mut at_tls),
            (TransportKind::Dtls, dtls, &mut at_dtls),
        ] {
            let target = target(kind, address);
            let mut transport = connect(&target, Some(&alice), &options).await.unwrap();
            echo(&mut transport).await;
            assert_eq!(
                seen.recv().await.unwrap().as_deref(),
                Some(r"CN=alice,O=Open\, Inc.")
            );
        }
    })
    .await;
}

/// The same mistake is the same error over TLS and DTLS.
#[tokio::test]
async fn wrong_servers_are_refused_alike_over_tls_and_dtls() {
    bounded(async {
        let ca = Ca::new("root");
        let secured = |identity: Identity| ServerSecurity::new(identity, ClientAuth::None).unwrap();
        let expired = secured(ca.identity(&Wish {
            years: (2000, 2001),
            ..server()
        }));
        let renamed = secured(ca.identity(&Wish {
            sans: &["elsewhere.example"],
            ..server()
        }));
        let stranger = Ca::new("other").server_security();
        let check = async |security: &ServerSecurity| {
            let (tls, _tls) = stream_echo(Some(security.clone()));
            let (dtls, _dtls) = dtls_echo(security);
            let mut errors = Vec::new();
            for (kind, address) in [(TransportKind::Tls, tls), (TransportKind::Dtls, dtls)] {
                let target = target(kind, address);
                let client = ca.client_security();
                match connect(&target, Some(&client), &ConnectOptions::default()).await {
                    Err(ConnectError::Certificate(error)) => errors.push(error),
                    other => panic!("{kind}: {other:?}"),
                }
            }
            assert_eq!(errors[0], errors[1]);
            errors.remove(0)
        };
        assert!(matches!(
            check(&expired).await,
            CertificateError::Expired {
                not_after: 978_307_200
            }
        ));
        assert!(matches!(
            check(&renamed).await,
            CertificateError::NameMismatch { .. }
        ));
        assert_eq!(check(&stranger).await, CertificateError::UnknownIssuer);
    })
    .await;
}

#[tokio::test]
async fn every_backend_echoes_with_every_backend() {
    bounded(async {
        let ca = Ca::new("root");
        let alice = ca.client_with(ca.identity(&client()));
        let available = || {
            DtlsBackendKind::ALL
                .into_iter()
                .filter(|b| b.is_available())
        };
        for at_server in available() {
            let (address, mut seen) = dtls_echo_by(at_server, &ca.mutual_server());
            for at_client in available() {
                let mut options = ConnectOptions::default();
                options.dtls_backend = Some(at_client);
                let target = target(TransportKind::Dtls, address);
                let mut transport = connect(&target, Some(&alice), &options).await.unwrap();
                echo(&mut transport).await;
                assert!(seen.recv().await.unwrap().is_some());
                transport.close(Duration::from_secs(5)).await;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_redirected_client_still_demands_the_first_name() {
    bounded(async {
        let ca = Ca::new("root");
        let only_name = ca.identity(&Wish {
            sans: &["tsc.example.com"],
            ..server()
        });
        let server = ServerSecurity::new(only_name, ClientAuth::None).unwrap();
        let (address, _seen) = stream_echo(Some(server));
        let security = ca.client_security();
        let options = ConnectOptions::default();
        let by_address = target(TransportKind::Tls, address);
        assert!(matches!(
            connect(&by_address, Some(&security), &options).await,
            Err(ConnectError::Certificate(
                CertificateError::NameMismatch { .. }
            ))
        ));
        let name = ServerName::try_from("tsc.example.com").unwrap();
        let redirected = by_address.with_server_name(name);
        let mut transport = connect(&redirected, Some(&security), &options)
            .await
            .unwrap();
        echo(&mut transport).await;
    })
    .await;
}

#[tokio::test]
async fn names_are_resolved_and_every_address_is_tried() {
    bounded(async {
        // "localhost" is ::1 and 127.0.0.1 on most systems, in either order; only one of them listens.
        let (address, _seen) = stream_echo(None);
        let localhost = "localhost".parse::<tsc_osaa::client::Host>().unwrap();
        let target = Target::new(TransportKind::Tcp, localhost, address.port());
        let mut transport = connect(&target, None, &ConnectOptions::default())
            .await
            .unwrap();
        assert_eq!(transport.peer_addr(), address);
        echo(&mut transport).await;
    })
    .await;
}

#[tokio::test]
async fn failures_to_connect_say_what_failed() {
    bounded(async {
        let ca = Ca::new("root");
        let security = ca.client_security();
        let mut options = ConnectOptions::default();
        let gone = {
            let listener = TcpListener::bind(private()).await.unwrap();
            listener.local_addr().unwrap()
        };
        let result = connect(&target(TransportKind::Tcp, gone), None, &options).await;
        assert!(matches!(result, Err(ConnectError::Refused { address }) if address == gone));

        let result = connect(&target(TransportKind::Tls, gone), None, &options).await;
        assert!(matches!(
            result,
            Err(ConnectError::NoSecurity(TransportKind::Tls))
        ));

        let nobody = "does-not-exist.invalid"
            .parse::<tsc_osaa::client::Host>()
            .unwrap();
        let result = connect(&Target::new(TransportKind::Tcp, nobody, 1), None, &options).await;
        assert!(
            matches!(result, Err(ConnectError::Resolve { .. })),
            "{result:?}"
        );

        // A server that accepts and says nothing, by TLS and by DTLS.
        options.timeout = Duration::from_millis(700);
        let listener = TcpListener::bind(loopback()).await.unwrap();
        let silent = listener.local_addr().unwrap();
        let result = connect(
            &target(TransportKind::Tls, silent),
            Some(&security),
            &options,
        )
        .await;
        assert!(
            matches!(result, Err(ConnectError::Timeout { .. })),
            "{result:?}"
        );
        let silent = UdpSocket::bind(private()).await.unwrap();
        let address = silent.local_addr().unwrap();
        let result = connect(
            &target(TransportKind::Dtls, address),
            Some(&security),
            &options,
        )
        .await;
        assert!(
            matches!(result, Err(ConnectError::Timeout { .. })),
            "{result:?}"
        );

        // Nobody at all behind a DTLS port: known before the deadline.
        options.timeout = Duration::from_secs(15);
        drop(silent);
        let result = connect(
            &target(TransportKind::Dtls, address),
            Some(&security),
            &options,
        )
        .await;
        assert!(
            matches!(result, Err(ConnectError::Refused { .. })),
            "{result:?}"
        );

        options.bind = Some("192.0.2.1:0".parse().unwrap());
        for kind in [TransportKind::Tcp, TransportKind::Udp] {
            let result = connect(&target(kind, gone), None, &options).await;
            assert!(
                matches!(result, Err(ConnectError::Bind { .. })),
                "{result:?}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn the_local_address_can_be_chosen() {
    bounded(async {
        let mut options = ConnectOptions::default();
        options.bind = Some("127.0.0.9:0".parse().unwrap());
        let (tcp, _seen) = stream_echo(None);
        for (kind, address) in [(TransportKind::Tcp, tcp), (TransportKind::Udp, udp_echo())] {
            let mut transport = connect(&target(kind, address), None, &options)
                .await
                .unwrap();
            assert_eq!(transport.local_addr().ip().to_string(), "127.0.0.9");
            echo(&mut transport).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_udp_transport_survives_a_server_that_is_not_there_yet() {
    bounded(async {
        let server = UdpSocket::bind(private()).await.unwrap();
        let address = server.local_addr().unwrap();
        drop(server);
        let target = target(TransportKind::Udp, address);
        let mut transport = connect(&target, None, &ConnectOptions::default())
            .await
            .unwrap();
        for _ in 0..3 {
            transport.send(&[IoSlice::new(b"anybody?")]).await.unwrap();
        }
        // The errors that came back are no end of the transport.
        let mut buffer = vec![0; RECV_BUFFER];
        let mut cx = Context::from_waker(Waker::noop());
        assert!(transport.poll_recv(&mut cx, &mut buffer).is_pending());
        assert!(transport.is_refused());
        let server = UdpSocket::bind(address).await.unwrap();
        transport.send(&[IoSlice::new(b"hello")]).await.unwrap();
        let (n, client) = server.recv_from(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..n], b"hello");
        server.send_to(b"here I am", client).await.unwrap();
        let n = transport.recv(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..n], b"here I am");
        assert!(!transport.is_refused());
        let ClientTransport::Datagram(datagram) = &transport else {
            panic!("UDP is a datagram transport");
        };
        assert!(datagram.stats().refused > 0);
    })
    .await;
}

#[tokio::test]
async fn oversized_units_are_dropped_and_counted_not_fatal() {
    bounded(async {
        let ca = Ca::new("root");
        let security = ca.client_security();
        let (dtls, _seen) = dtls_echo(&ca.server_security());
        let oversized = vec![0; 70_000];
        for (kind, address) in [
            (TransportKind::Udp, udp_echo()),
            (TransportKind::Dtls, dtls),
        ] {
            let target = target(kind, address);
            let options = ConnectOptions::default();
            let mut transport = connect(&target, Some(&security), &options).await.unwrap();
            transport.send(&[IoSlice::new(&oversized)]).await.unwrap();
            echo(&mut transport).await;
            let ClientTransport::Datagram(datagram) = &transport else {
                panic!("{kind} is a datagram transport");
            };
            assert_eq!(datagram.too_long(), 1);
        }
    })
    .await;
}

#[tokio::test]
async fn the_servers_end_is_seen_as_an_orderly_end() {
    bounded(async {
        let listener = TcpListener::bind(loopback()).await.unwrap();
        let target = target(TransportKind::Tcp, listener.local_addr().unwrap());
        let mut transport = connect(&target, None, &ConnectOptions::default())
            .await
            .unwrap();
        drop(listener.accept().await.unwrap());
        let mut buffer = vec![0; RECV_BUFFER];
        let error: TransportError = transport.recv(&mut buffer).await.unwrap_err();
        assert!(error.is_orderly(), "{error}");
    })
    .await;
}

/// A client that presents nothing to a server that wants a certificate learns it, over both.
#[tokio::test]
async fn a_client_without_a_certificate_is_told_over_tls_and_dtls() {
    bounded(async {
        let ca = Ca::new("root");
        let nobody: ClientSecurity = ca.client_security();
        let (tls, _tls) = stream_echo(Some(ca.mutual_server()));
        let (dtls, _dtls) = dtls_echo(&ca.mutual_server());
        for (kind, address) in [(TransportKind::Tls, tls), (TransportKind::Dtls, dtls)] {
            let target = target(kind, address);
            let error = match connect(&target, Some(&nobody), &ConnectOptions::default()).await {
                Err(error) => error,
                // TLS 1.3: the handshake of the client is over before the server judges.
                Ok(mut transport) => {
                    let mut buffer = vec![0; RECV_BUFFER];
                    match transport.recv(&mut buffer).await.unwrap_err() {
                        TransportError::Stream(StreamError::Tls(TlsError::Alert { alert })) => {
                            ConnectError::from_alert(alert)
                        }
                        other => panic!("{kind}: {other}"),
                    }
                }
            };
            assert!(
                matches!(error, ConnectError::ClientCertificate(_)),
                "{kind}: {error:?}"
            );
            let text = error.to_string();
            assert!(
                text.starts_with("the server refused this client's certificate: alert ")
                    && text.ends_with(" (it requires a certificate from us)"),
                "{kind}: {text}"
            );
        }
    })
    .await;
}
