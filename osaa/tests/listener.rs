//! One port for plain and TLS connections, and what strangers do to it.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::wildcard_enum_match_arm
)]

mod common;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use common::{Ca, bounded};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tsc_osaa::{
    cert::{CertificateError, ServerName},
    listener::{Admission, ListenerConfig, ListenerEvent, RefusalReason, StreamListener},
    socket::{BindError, PortSharing, StreamOptions},
    stream::{RECV_BUFFER, StreamTransport},
    tls::TlsError,
};

#[tokio::test]
async fn listeners_of_one_process_share_a_port_that_others_may_not() {
    bounded(async {
        let config = |sharing| {
            let mut config = ListenerConfig::default();
            config.plain = true;
            config.sharing = sharing;
            config
        };
        let mut one = StreamListener::bind(any(), config(PortSharing::First)).unwrap();
        let address = one.local_addr();
        for sharing in [PortSharing::Alone, PortSharing::First] {
            let error = StreamListener::bind(address, config(sharing)).unwrap_err();
            assert!(matches!(error, BindError::InUse { .. }), "{error}");
        }
        let mut two = StreamListener::bind(address, config(PortSharing::Another)).unwrap();
        let mut heard = [0, 0];
        for _ in 0..64 {
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(&[0x10]).await.unwrap();
            let accepted = std::future::poll_fn(|cx| {
                for (index, listener) in [&mut one, &mut two].into_iter().enumerate() {
                    if let Poll::Ready(ListenerEvent::Ready(_)) = listener.poll_accept(cx) {
                        return Poll::Ready(index);
                    }
                }
                Poll::Pending
            });
            heard[accepted.await] += 1;
        }
        assert!(heard.iter().all(|count| *count > 0), "{heard:?}");
    })
    .await;
}

fn any() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn both(ca: &Ca) -> ListenerConfig {
    let mut config = ListenerConfig::default();
    config.plain = true;
    config.tls = Some(ca.server_security());
    config
}

async fn ready(listener: &mut StreamListener) -> StreamTransport {
    match listener.accept().await {
        ListenerEvent::Ready(stream) => stream,
        other => panic!("a connection was expected, not {other:?}"),
    }
}

async fn refused(listener: &mut StreamListener) -> RefusalReason {
    match listener.accept().await {
        ListenerEvent::Refused(refusal) => refusal.reason,
        other => panic!("a refusal was expected, not {other:?}"),
    }
}

async fn tls_client(address: SocketAddr, ca: &Ca) -> StreamTransport {
    let socket = TcpStream::connect(address).await.unwrap();
    StreamTransport::tls_client(
        socket,
        &ca.client_security(),
        ServerName::try_from("localhost").unwrap(),
        &StreamOptions::client(),
    )
    .await
    .unwrap()
}

#[tokio::test]
async fn one_port_serves_plain_and_tls_by_the_first_byte() {
    bounded(async {
        let ca = Ca::new("root");
        let mut listener = StreamListener::bind(any(), both(&ca)).unwrap();
        let address = listener.local_addr();
        let mut buffer = vec![0; RECV_BUFFER];

        let mut plain = TcpStream::connect(address).await.unwrap();
        plain.write_all(&[0x10, 1, 2, 3]).await.unwrap();
        let mut stream = ready(&mut listener).await;
        assert!(stream.tls_info().is_none());
        // The byte that was looked at is still there.
        let n = stream.recv(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..n], [0x10, 1, 2, 3]);

        let (mut client, mut stream) = tokio::join!(tls_client(address, &ca), ready(&mut listener));
        assert!(stream.tls_info().is_some());
        client.queue(b"hello").unwrap();
        client.flush().await.unwrap();
        let n = stream.recv(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..n], b"hello");

        let stats = listener.stats();
        assert_eq!((stats.accepted, stats.plain, stats.tls), (2, 1, 1));
        assert_eq!(listener.handshakes(), 0);
    })
    .await;
}

#[tokio::test]
async fn what_begins_wrongly_is_refused_with_its_reason() {
    bounded(async {
        let ca = Ca::new("root");
        let mut tls_only = ListenerConfig::default();
        tls_only.tls = Some(ca.server_security());
        let mut plain_only = ListenerConfig::default();
        plain_only.plain = true;
        let mut tls_only = StreamListener::bind(any(), tls_only).unwrap();
        let mut plain_only = StreamListener::bind(any(), plain_only).unwrap();

        let say = async |listener: &mut StreamListener, bytes: &[u8]| {
            let mut socket = TcpStream::connect(listener.local_addr()).await.unwrap();
            socket.write_all(bytes).await.unwrap();
            let reason = refused(listener).await;
            // The connection is closed, not left open.
            let mut rest = Vec::new();
            let _reset = socket.read_to_end(&mut rest).await;
            reason
        };
        assert!(matches!(
            say(&mut tls_only, b"GET / HTTP/1.1").await,
            RefusalReason::FirstByte(b'G')
        ));
        assert!(matches!(
            say(&mut tls_only, &[0x10]).await,
            RefusalReason::PlainDisabled
        ));
        assert!(matches!(
            say(&mut plain_only, &[0x16]).await,
            RefusalReason::TlsDisabled
        ));
        assert_eq!(tls_only.stats().wrong_protocol, 2);

        let socket = TcpStream::connect(tls_only.local_addr()).await.unwrap();
        drop(socket);
        assert!(matches!(
            refused(&mut tls_only).await,
            RefusalReason::Silent
        ));
        // A handshake record that holds no handshake.
        let mut record = vec![0x16, 3, 1, 0, 4];
        record.extend([9, 9, 9, 9]);
        assert!(matches!(
            say(&mut tls_only, &record).await,
            RefusalReason::Tls(_) | RefusalReason::Io(_)
        ));
    })
    .await;
}

#[tokio::test]
async fn a_bad_client_certificate_is_refused_beside_a_good_connection() {
    bounded(async {
        let ca = Ca::new("root");
        let mut config = ListenerConfig::default();
        config.tls = Some(ca.mutual_server());
        let mut listener = StreamListener::bind(any(), config).unwrap();
        let address = listener.local_addr();
        // Without a certificate; with TLS 1.3 the client's own handshake succeeds.
        let (_client, reason) = tokio::join!(tls_client(address, &ca), refused(&mut listener));
        assert!(matches!(
            reason,
            RefusalReason::Tls(TlsError::Certificate(CertificateError::Missing))
        ));
        assert_eq!(listener.stats().tls_failed, 1);
    })
    .await;
}

#[tokio::test]
async fn slow_handshakes_do_not_delay_others_and_end_at_the_deadline() {
    bounded(async {
        let ca = Ca::new("root");
        let mut config = both(&ca);
        // Long enough for one good handshake on a busy machine.
        config.handshake_timeout = Duration::from_secs(3);
        let mut listener = StreamListener::bind(any(), config).unwrap();
        let address = listener.local_addr();
        // Silent ones, and ones that stop in the middle of a ClientHello.
        let mut slow = Vec::new();
        for n in 0..20 {
            let mut socket = TcpStream::connect(address).await.unwrap();
            if n % 2 == 0 {
                socket.write_all(&[0x16, 3, 1, 1, 0, 1]).await.unwrap();
            }
            slow.push(socket);
        }
        let (_client, stream) = tokio::join!(tls_client(address, &ca), ready(&mut listener));
        assert!(stream.tls_info().is_some());
        assert_eq!(listener.handshakes(), 20);
        for _ in 0..20 {
            assert!(matches!(
                refused(&mut listener).await,
                RefusalReason::Timeout
            ));
        }
        assert_eq!(listener.stats().timeout, 20);
        assert_eq!(listener.handshakes(), 0);
        // They were closed.
        for mut socket in slow {
            let mut rest = [0; 1];
            assert!(matches!(socket.read(&mut rest).await, Ok(0) | Err(_)));
        }
    })
    .await;
}

#[tokio::test]
async fn too_many_unfinished_connections_evict_the_oldest() {
    bounded(async {
        let ca = Ca::new("root");
        let mut config = both(&ca);
        config.max_handshakes = 3;
        let mut listener = StreamListener::bind(any(), config).unwrap();
        let address = listener.local_addr();
        let mut silent = Vec::new();
        for _ in 0..5 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let mut evicted = Vec::new();
        for _ in 0..2 {
            match listener.accept().await {
                ListenerEvent::Refused(refusal) => {
                    assert!(matches!(refusal.reason, RefusalReason::Evicted));
                    evicted.push(refusal.peer);
                }
                other => panic!("{other:?}"),
            }
        }
        let oldest: Vec<_> = silent[..2]
            .iter()
            .map(|s| s.local_addr().unwrap())
            .collect();
        assert_eq!(evicted, oldest);
        assert_eq!(listener.handshakes(), 3);
        // Whoever is quick still gets in.
        let (_client, stream) = tokio::join!(tls_client(address, &ca), async {
            loop {
                if let ListenerEvent::Ready(stream) = listener.accept().await {
                    break stream;
                }
            }
        });
        assert!(stream.tls_info().is_some());
        assert_eq!(listener.stats().evicted, 3);
    })
    .await;
}

#[tokio::test]
async fn one_source_cannot_take_all_places() {
    bounded(async {
        let ca = Ca::new("root");
        let mut config = both(&ca);
        config.max_handshakes_per_source = 2;
        let mut listener = StreamListener::bind(any(), config).unwrap();
        let address = listener.local_addr();
        let mut silent = Vec::new();
        for _ in 0..3 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        assert!(matches!(
            refused(&mut listener).await,
            RefusalReason::SourceLimit
        ));
        // A place is free again when one of them ends.
        drop(silent.remove(0));
        assert!(matches!(
            refused(&mut listener).await,
            RefusalReason::Silent
        ));
        let (_client, stream) = tokio::join!(tls_client(address, &ca), ready(&mut listener));
        assert!(stream.tls_info().is_some());
    })
    .await;
}

#[tokio::test]
async fn the_admission_hook_has_the_first_word() {
    bounded(async {
        let ca = Ca::new("root");
        let asked = Arc::new(AtomicUsize::new(0));
        let mut config = both(&ca);
        let counter = Arc::clone(&asked);
        config.admission = Some(Admission::new(move |_| {
            counter.fetch_add(1, Ordering::Relaxed) > 0
        }));
        let mut listener = StreamListener::bind(any(), config).unwrap();
        let address = listener.local_addr();
        let _first = TcpStream::connect(address).await.unwrap();
        assert!(matches!(
            refused(&mut listener).await,
            RefusalReason::NotAdmitted
        ));
        let (_client, _stream) = tokio::join!(tls_client(address, &ca), ready(&mut listener));
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    })
    .await;
}

#[tokio::test]
async fn addresses_that_cannot_be_used_say_why() {
    let ca = Ca::new("root");
    let first = StreamListener::bind(any(), both(&ca)).unwrap();
    let error = StreamListener::bind(first.local_addr(), both(&ca)).unwrap_err();
    assert!(matches!(error, BindError::InUse { address } if address == first.local_addr()));
    assert!(error.to_string().ends_with("is already in use"));

    let nobody: SocketAddr = "192.0.2.1:0".parse().unwrap();
    assert!(matches!(
        StreamListener::bind(nobody, both(&ca)).unwrap_err(),
        BindError::NotLocal { .. }
    ));
    assert!(matches!(
        StreamListener::bind(any(), ListenerConfig::default()).unwrap_err(),
        BindError::NothingEnabled { .. }
    ));
    // Both families on one port; another program may have the IPv4 one, so several are tried.
    let pairs = (0..10).any(|_| {
        let v6 = SocketAddr::new("::".parse().unwrap(), 0);
        let v6 = StreamListener::bind(v6, both(&ca)).unwrap();
        let v4 = SocketAddr::new("0.0.0.0".parse().unwrap(), v6.local_addr().port());
        StreamListener::bind(v4, both(&ca)).is_ok()
    });
    assert!(pairs);
}

/// Garbage of every first byte, while a connection beside it loses nothing.
#[tokio::test]
async fn a_connection_beside_garbage_loses_nothing() {
    bounded(async {
        let ca = Ca::new("root");
        let mut listener = StreamListener::bind(any(), both(&ca)).unwrap();
        let address = listener.local_addr();
        let (mut client, mut stream) = tokio::join!(tls_client(address, &ca), ready(&mut listener));
        let mut buffer = vec![0; RECV_BUFFER];
        for byte in 0..=u8::MAX {
            let mut socket = TcpStream::connect(address).await.unwrap();
            // Refused at once, unless it could become a handshake; then its end ends it.
            drop(socket.write_all(&[byte; 50]).await);
            drop(socket);
            match listener.accept().await {
                ListenerEvent::Refused(_) => assert_ne!(byte, 0x10),
                ListenerEvent::Ready(plain) => assert!(byte == 0x10 && plain.tls_info().is_none()),
                other => panic!("{other:?}"),
            }
            client.queue(&[byte; 100]).unwrap();
            client.flush().await.unwrap();
            let n = stream.recv(&mut buffer).await.unwrap();
            assert_eq!(&buffer[..n], [byte; 100]);
        }
        let stats = listener.stats();
        assert_eq!((stats.accepted, stats.plain, stats.tls), (257, 1, 1));
    })
    .await;
}
