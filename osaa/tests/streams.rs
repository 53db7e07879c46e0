//! TCP and TLS streams on loopback.
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
    task::{Context, Poll, Waker},
    time::Duration,
};

use common::{Ca, Wish, bounded, client, server};
use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tsc_osaa::{
    cert::{CertificateError, ClientAuth, ClientSecurity, ServerName, ServerSecurity, Trust},
    socket::{Dscp, StreamOptions},
    stream::{MIN_RECV_BUFFER, QueueError, RECV_BUFFER, StreamError, StreamTransport},
    tls::TlsError,
};

fn localhost() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

/// Both ends of a TCP connection.
async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

async fn plain_pair(options: &StreamOptions) -> (StreamTransport, StreamTransport) {
    let (near, far) = sockets().await;
    (
        StreamTransport::plain(near, options).unwrap(),
        StreamTransport::plain(far, options).unwrap(),
    )
}

type Ends = (
    Result<StreamTransport, StreamError>,
    Result<StreamTransport, StreamError>,
);

/// Client and server result of one handshake.
async fn handshake(client: &ClientSecurity, server: &ServerSecurity) -> Ends {
    handshake_for(client, server, localhost()).await
}

async fn handshake_for(
    client: &ClientSecurity,
    server: &ServerSecurity,
    name: ServerName<'static>,
) -> Ends {
    let (near, far) = sockets().await;
    let (c, s) = (StreamOptions::client(), StreamOptions::server());
    tokio::join!(
        StreamTransport::tls_client(near, client, name, &c),
        StreamTransport::tls_server(far, server, &s),
    )
}

async fn tls_pair() -> (StreamTransport, StreamTransport) {
    let ca = Ca::new("root");
    let (client, server) = handshake(&ca.client_security(), &ca.server_security()).await;
    (client.unwrap(), server.unwrap())
}

fn tls_error(result: Result<StreamTransport, StreamError>) -> TlsError {
    match result.map(drop) {
        Err(StreamError::Tls(error)) => error,
        other => panic!("a TLS error was expected, not {other:?}"),
    }
}

/// Reads `len` bytes, through one buffer as a worker does.
async fn read_exactly(stream: &mut StreamTransport, len: usize) -> Vec<u8> {
    let mut buffer = vec![0; RECV_BUFFER];
    let mut all = Vec::new();
    while all.len() < len {
        let n = stream.recv(&mut buffer).await.unwrap();
        assert!(n > 0);
        all.extend_from_slice(&buffer[..n]);
    }
    all
}

/// Moves a stream to a runtime of its own, on a thread of its own, and echoes one message there.
fn echo_elsewhere(stream: StreamTransport) -> std::thread::JoinHandle<()> {
    let detached = stream.detach().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(bounded(async {
            let mut stream = detached.attach().unwrap();
            let heard = read_exactly(&mut stream, 6).await;
            stream.send(&[IoSlice::new(&heard)]).await.unwrap();
        }));
    })
}

#[tokio::test]
async fn a_stream_moves_to_another_runtime_with_all_that_is_under_way() {
    bounded(async {
        for tls in [false, true] {
            let (mut near, mut far) = if tls {
                tls_pair().await
            } else {
                plain_pair(&StreamOptions::server()).await
            };
            // Sent before the move in either direction: nothing of it is lost.
            near.send(&[IoSlice::new(b"before")]).await.unwrap();
            far.queue(b"queued, ").unwrap();
            let thread = echo_elsewhere(far);
            assert_eq!(read_exactly(&mut near, 14).await, b"queued, before");
            thread.join().unwrap();
        }
    })
    .await;
}

async fn echo_works(mut near: StreamTransport, mut far: StreamTransport) {
    near.send(&[IoSlice::new(b"one, "), IoSlice::new(b"two")])
        .await
        .unwrap();
    let heard = read_exactly(&mut far, 8).await;
    assert_eq!(heard, b"one, two");
    far.queue(&heard).unwrap();
    assert_eq!(far.unsent(), 8);
    far.flush().await.unwrap();
    assert_eq!(far.unsent(), 0);
    assert_eq!(read_exactly(&mut near, 8).await, b"one, two");
}

/// Ends `near` in order and sees `far` notice, answer, and end too.
async fn orderly_end(mut near: StreamTransport, mut far: StreamTransport) {
    let mut buffer = vec![0; RECV_BUFFER];
    near.queue(b"last").unwrap();
    poll_fn(|cx| near.poll_shutdown(cx)).await.unwrap();
    assert_eq!(near.queue(b"x"), Err(QueueError::Ended));
    assert_eq!(read_exactly(&mut far, 4).await, b"last");
    assert!(matches!(
        far.recv(&mut buffer).await,
        Err(StreamError::Closed)
    ));
    // Half-closed: the other direction lives on.
    far.send(&[IoSlice::new(b"answer")]).await.unwrap();
    far.close(Duration::from_secs(5)).await;
    assert_eq!(read_exactly(&mut near, 6).await, b"answer");
    assert!(matches!(
        near.recv(&mut buffer).await,
        Err(StreamError::Closed)
    ));
}

#[tokio::test]
async fn plain_echo_and_orderly_end() {
    bounded(async {
        let options = StreamOptions::client();
        let (near, far) = plain_pair(&options).await;
        assert!(near.tls_info().is_none());
        assert_eq!(near.local_addr(), far.peer_addr());
        echo_works(near, far).await;
        let (near, far) = plain_pair(&options).await;
        orderly_end(near, far).await;
    })
    .await;
}

#[tokio::test]
async fn tls_echo_and_orderly_end() {
    bounded(async {
        let (near, far) = tls_pair().await;
        let info = near.tls_info().unwrap();
        assert!(info.alpn && far.tls_info().unwrap().alpn);
        assert_eq!(info.version, "TLSv1.3");
        assert_eq!(near.peer_identity().unwrap().common_name(), Some("server"));
        assert!(far.peer_identity().is_none());
        echo_works(near, far).await;
        let (near, far) = tls_pair().await;
        orderly_end(near, far).await;
    })
    .await;
}

#[tokio::test]
async fn ipv6_and_address_names_work() {
    bounded(async {
        let ca = Ca::new("root");
        for name in ["127.0.0.1", "::1"] {
            let name = ServerName::try_from(name).unwrap();
            let (c, s) = handshake_for(&ca.client_security(), &ca.server_security(), name).await;
            echo_works(c.unwrap(), s.unwrap()).await;
        }
        let listener = TcpListener::bind("[::1]:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        let mut options = StreamOptions::client();
        options.dscp = Dscp::new(46);
        let near = StreamTransport::plain(near.unwrap(), &options).unwrap();
        let far = StreamTransport::plain(far.unwrap().0, &options).unwrap();
        near.set_dscp(Dscp::new(34).unwrap()).unwrap();
        echo_works(near, far).await;
    })
    .await;
}

#[tokio::test]
async fn both_ends_are_authenticated_by_mutual_tls() {
    bounded(async {
        let ca = Ca::new("root");
        let alice = ca.client_with(ca.identity(&client()));
        let (near, far) = handshake(&alice, &ca.mutual_server()).await;
        let (near, far) = (near.unwrap(), far.unwrap());
        assert_eq!(
            far.peer_identity().unwrap().identity(),
            r"CN=alice,O=Open\, Inc."
        );
        echo_works(near, far).await;
    })
    .await;
}

#[tokio::test]
async fn the_next_connection_resumes_the_session_unless_clients_show_who_they_are() {
    bounded(async {
        let ca = Ca::new("root");
        let alice = ca.client_with(ca.identity(&client()));
        let (open, mutual) = (ca.server_security(), ca.mutual_server());
        for (server, resumed) in [
            (&open, false),
            (&open, true),
            (&open, true),
            (&mutual, false),
            (&mutual, false),
        ] {
            let (near, far) = handshake(&alice, server).await;
            let (mut near, mut far) = (near.unwrap(), far.unwrap());
            assert_eq!(near.tls_info().unwrap().resumed, resumed);
            assert_eq!(far.tls_info().unwrap().resumed, resumed);
            // The ticket comes before the first bytes of the server.
            far.send(&[IoSlice::new(b"hello")]).await.unwrap();
            assert_eq!(read_exactly(&mut near, 5).await, b"hello");
        }
        // Not with others: neither as another client, nor at another server.
        let (near, _far) = handshake(&ca.client_with(ca.identity(&client())), &open).await;
        assert!(!near.unwrap().tls_info().unwrap().resumed);
        let (near, _far) = handshake(&alice, &ca.server_security()).await;
        assert!(!near.unwrap().tls_info().unwrap().resumed);
    })
    .await;
}

/// What a client meets whose server refuses its certificate: with TLS 1.3 at its first receive.
async fn refused_client(ca: &Ca, security: &ClientSecurity) -> (TlsError, TlsError) {
    let (near, far) = handshake(security, &ca.mutual_server()).await;
    let at_server = tls_error(far);
    let at_client = match near {
        Err(StreamError::Tls(error)) => error,
        Err(other) => panic!("{other}"),
        Ok(mut near) => {
            let mut buffer = vec![0; RECV_BUFFER];
            match near.recv(&mut buffer).await {
                Err(StreamError::Tls(error)) => error,
                other => panic!("{other:?}"),
            }
        }
    };
    (at_server, at_client)
}

#[tokio::test]
async fn a_client_without_or_with_a_wrong_certificate_is_refused_and_told() {
    bounded(async {
        let ca = Ca::new("root");
        let (at_server, at_client) = refused_client(&ca, &ca.client_security()).await;
        assert_eq!(at_server, TlsError::Certificate(CertificateError::Missing));
        assert!(
            at_client
                .to_string()
                .contains("requires a certificate from us"),
            "{at_client}"
        );

        let stranger = ca.client_with(Ca::new("other").identity(&client()));
        let (at_server, at_client) = refused_client(&ca, &stranger).await;
        assert_eq!(
            at_server,
            TlsError::Certificate(CertificateError::UnknownIssuer)
        );
        assert!(
            at_client
                .to_string()
                .contains("does not trust the issuer of our certificate"),
            "{at_client}"
        );

        let old = Wish {
            years: (2000, 2001),
            ..client()
        };
        let expired = ca.client_with(ca.identity(&old));
        let (at_server, at_client) = refused_client(&ca, &expired).await;
        assert!(matches!(
            at_server,
            TlsError::Certificate(CertificateError::Expired { .. })
        ));
        assert!(at_client.to_string().contains("expired"), "{at_client}");
    })
    .await;
}

#[tokio::test]
async fn a_wrong_server_is_refused_and_told() {
    bounded(async {
        let ca = Ca::new("root");
        let server_with =
            |wish: &Wish| ServerSecurity::new(ca.identity(wish), ClientAuth::None).unwrap();
        let check = async |server: ServerSecurity, client: ClientSecurity| {
            let (near, far) = handshake(&client, &server).await;
            let at_server = tls_error(far);
            assert!(matches!(at_server, TlsError::Alert { .. }), "{at_server:?}");
            match tls_error(near) {
                TlsError::Certificate(error) => error,
                other => panic!("{other:?}"),
            }
        };
        let expired = server_with(&Wish {
            years: (2000, 2001),
            ..server()
        });
        assert!(matches!(
            check(expired, ca.client_security()).await,
            CertificateError::Expired { .. }
        ));
        let renamed = server_with(&Wish {
            sans: &["elsewhere.example"],
            ..server()
        });
        assert!(matches!(
            check(renamed, ca.client_security()).await,
            CertificateError::NameMismatch { .. }
        ));
        let stranger = Ca::new("other").server_security();
        assert_eq!(
            check(stranger.clone(), ca.client_security()).await,
            CertificateError::UnknownIssuer
        );
        // The same server passes when nothing is verified.
        let dangerous = ClientSecurity::new(Trust::DangerousNone, None).unwrap();
        let (near, far) = handshake(&dangerous, &stranger).await;
        echo_works(near.unwrap(), far.unwrap()).await;
    })
    .await;
}

#[tokio::test]
async fn many_units_arrive_whole_and_in_order_through_small_buffers() {
    bounded(async {
        for is_tls in [false, true] {
            let (mut near, mut far) = if is_tls {
                tls_pair().await
            } else {
                plain_pair(&StreamOptions::client()).await
            };
            let unit = |n: u32| n.to_be_bytes().repeat(1 + (n % 300) as usize);
            let total = 4000u32;
            let sender = async {
                for first in (0..total).step_by(40) {
                    let units: Vec<Vec<u8>> = (first..first + 40).map(unit).collect();
                    let slices: Vec<IoSlice<'_>> = units.iter().map(|u| IoSlice::new(u)).collect();
                    near.send(&slices).await.unwrap();
                }
                near.close(Duration::from_secs(10)).await;
            };
            let receiver = async {
                let mut buffer = vec![0; MIN_RECV_BUFFER];
                let mut all = Vec::new();
                loop {
                    match far.recv(&mut buffer).await {
                        Ok(n) => all.extend_from_slice(&buffer[..n]),
                        Err(StreamError::Closed) => break all,
                        Err(error) => panic!("{error}"),
                    }
                }
            };
            let ((), all) = tokio::join!(sender, receiver);
            let expected: Vec<u8> = (0..total).flat_map(unit).collect();
            assert!(all == expected, "tls {is_tls}: {} bytes", all.len());
        }
    })
    .await;
}

#[tokio::test]
async fn a_peer_that_does_not_read_fills_bounded_buffers_only() {
    bounded(async {
        for is_tls in [false, true] {
            let (mut near, mut far) = if is_tls {
                tls_pair().await
            } else {
                plain_pair(&StreamOptions::client()).await
            };
            let unit = [7; 1000];
            let mut sent = 0usize;
            // Until both our buffer and the kernel's are full.
            let mut cx = Context::from_waker(Waker::noop());
            loop {
                match near.queue(&unit) {
                    Ok(()) => sent += 1,
                    Err(QueueError::Full) => {
                        if near.poll_flush(&mut cx).is_pending() {
                            match near.queue(&unit) {
                                Ok(()) => sent += 1,
                                Err(error) => break assert_eq!(error, QueueError::Full),
                            }
                        }
                    }
                    Err(error) => panic!("{error}"),
                }
                assert!(sent < 100_000, "something must fill up");
            }
            assert!(near.unsent() <= 2 * 64 * 1024 + 4096, "{}", near.unsent());
            let units: Vec<IoSlice<'_>> = (0..3).map(|_| IoSlice::new(&unit)).collect();
            assert_eq!(near.send_vectored(&units).unwrap(), 0);
            // Once the peer reads, everything taken arrives.
            let reader = read_exactly(&mut far, sent * unit.len());
            let (flushed, all) = tokio::join!(near.flush(), reader);
            flushed.unwrap();
            assert_eq!(all.len(), sent * unit.len());
            assert!(all.iter().all(|byte| *byte == 7));
        }
    })
    .await;
}

#[tokio::test]
async fn units_longer_than_the_buffer_are_refused_with_a_reason() {
    let (mut near, _far) = plain_pair(&StreamOptions::client()).await;
    let unit = vec![0; 64 * 1024 + 1];
    assert_eq!(
        near.queue(&unit),
        Err(QueueError::TooLong {
            len: 65_537,
            limit: 65_536
        })
    );
    // Through the vectored path too, once something waits.
    near.queue(b"x").unwrap();
    assert!(near.send_vectored(&[IoSlice::new(&unit)]).is_err());
    let mut small = [0; 100];
    assert!(matches!(
        near.recv(&mut small).await,
        Err(StreamError::BufferTooSmall { len: 100 })
    ));
}

#[tokio::test]
async fn a_cut_off_tls_connection_is_not_an_orderly_end() {
    bounded(async {
        let (near, mut far) = tls_pair().await;
        drop(near);
        let mut buffer = vec![0; RECV_BUFFER];
        let error = far.recv(&mut buffer).await.unwrap_err();
        assert!(
            matches!(error, StreamError::Truncated | StreamError::Io(_)),
            "{error}"
        );
        assert!(matches!(
            far.recv(&mut buffer).await,
            Err(StreamError::Ended)
        ));
        assert!(matches!(far.flush().await, Err(StreamError::Ended)));
        assert_eq!(far.queue(b"x"), Err(QueueError::Ended));
    })
    .await;
}

/// Passes bytes on between two connections, changing the `at`-th byte towards the server after `skip` bytes.
async fn relay_with_a_flipped_bit(to: SocketAddr, flip_at: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (near, _) = listener.accept().await.unwrap();
        let far = TcpStream::connect(to).await.unwrap();
        let (mut near_read, mut near_write) = near.into_split();
        let (mut far_read, mut far_write) = far.into_split();
        let back = tokio::spawn(async move {
            drop(tokio::io::copy(&mut far_read, &mut near_write).await);
        });
        let mut seen = 0;
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = near_read.read(&mut buffer).await {
            if (seen..seen + n).contains(&flip_at) {
                buffer[flip_at - seen] ^= 1;
            }
            seen += n;
            if far_write.write_all(&buffer[..n]).await.is_err() {
                break;
            }
        }
        drop(far_write);
        drop(back.await);
    });
    address
}

#[tokio::test]
async fn changed_bytes_end_a_tls_connection() {
    bounded(async {
        let ca = Ca::new("root");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let relay = relay_with_a_flipped_bit(listener.local_addr().unwrap(), 3000).await;
        let near = TcpStream::connect(relay).await.unwrap();
        let far = listener.accept().await.unwrap().0;
        let (c, s) = (StreamOptions::client(), StreamOptions::server());
        let (client, server) = (ca.client_security(), ca.server_security());
        let (near, far) = tokio::join!(
            StreamTransport::tls_client(near, &client, localhost(), &c),
            StreamTransport::tls_server(far, &server, &s),
        );
        let (mut near, mut far) = (near.unwrap(), far.unwrap());
        near.send(&[IoSlice::new(&[1; 5000])]).await.unwrap();
        let mut buffer = vec![0; RECV_BUFFER];
        let error = far.recv(&mut buffer).await.unwrap_err();
        assert!(
            matches!(error, StreamError::Tls(TlsError::Protocol(_))),
            "{error}"
        );
        // The peer is told by an alert.
        let error = near.recv(&mut buffer).await.unwrap_err();
        assert!(
            matches!(error, StreamError::Tls(TlsError::Alert { .. })),
            "{error}"
        );
    })
    .await;
}

#[tokio::test]
async fn garbage_is_not_tls() {
    bounded(async {
        let ca = Ca::new("root");
        for garbage in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            &[0x16, 3, 1, 0xff, 0xff, 0, 0],
        ] {
            let (mut near, far) = sockets().await;
            near.write_all(garbage).await.unwrap();
            near.shutdown().await.unwrap();
            let result =
                StreamTransport::tls_server(far, &ca.server_security(), &StreamOptions::server())
                    .await;
            let error = tls_error(result);
            assert!(
                matches!(
                    error,
                    TlsError::NotTls | TlsError::Protocol(_) | TlsError::ClosedInHandshake
                ),
                "{error:?}"
            );
        }
    })
    .await;
}

/// A ClientHello that promises more than is buffered from a stranger.
#[tokio::test]
async fn the_input_of_an_unfinished_handshake_is_bounded() {
    bounded(async {
        let ca = Ca::new("root");
        let (mut near, far) = sockets().await;
        let flood = tokio::spawn(async move {
            // Handshake records of one 60,000-byte ClientHello.
            let mut message = vec![1, 0, 0xea, 0x60];
            message.extend(vec![0; 60_000]);
            for part in message.chunks(16_000) {
                let mut record = vec![0x16, 3, 1];
                record.extend(u16::try_from(part.len()).unwrap().to_be_bytes());
                record.extend(part);
                if near.write_all(&record).await.is_err() {
                    break;
                }
            }
            near
        });
        let result =
            StreamTransport::tls_server(far, &ca.server_security(), &StreamOptions::server()).await;
        assert_eq!(
            tls_error(result),
            TlsError::HandshakeTooLarge { limit: 32 * 1024 }
        );
        drop(flood.await.unwrap());
    })
    .await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Whatever the sizes of units and of what the network delivers at once, the bytes are the same.
    #[test]
    fn bytes_survive_any_fragmentation(
        units in prop::collection::vec(1usize..20_000, 1..12),
        is_tls in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(bounded(async {
            let (mut near, mut far) = if is_tls {
                tls_pair().await
            } else {
                plain_pair(&StreamOptions::client()).await
            };
            let units: Vec<Vec<u8>> = units
                .iter()
                .enumerate()
                .map(|(n, len)| vec![u8::try_from(n).unwrap(); *len])
                .collect();
            let expected = units.concat();
            let slices: Vec<IoSlice<'_>> = units.iter().map(|u| IoSlice::new(u)).collect();
            let (sent, heard) =
                tokio::join!(near.send(&slices), read_exactly(&mut far, expected.len()));
            sent.unwrap();
            assert!(heard == expected);
            assert!(matches!(
                poll_once(&mut far),
                Poll::Pending
            ));
        }));
    }
}

fn poll_once(stream: &mut StreamTransport) -> Poll<Result<usize, StreamError>> {
    let mut buffer = vec![0; MIN_RECV_BUFFER];
    stream.poll_recv(&mut Context::from_waker(Waker::noop()), &mut buffer)
}

/// Bytes that a peer can send to one who does not read.
fn sent_unread(peer: &TcpStream) -> usize {
    let mut sent = 0;
    loop {
        match peer.try_write(&[0; 1024]) {
            Ok(len) => sent += len,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return sent,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn a_reader_decides_how_far_its_peer_may_run_ahead() {
    const LIMIT: u32 = 16 << 10;
    let (peer, reader) = sockets().await;
    let socket = socket2::SockRef::from(&reader).try_clone().unwrap();
    let before = socket.recv_buffer_size().unwrap();
    let mut reader = StreamTransport::plain(reader, &StreamOptions::server()).unwrap();
    reader.limit_unread(None).unwrap();
    assert_eq!(socket.recv_buffer_size().unwrap(), before, "left alone");
    let mut buffer = vec![0; RECV_BUFFER];
    for limit in [Some(LIMIT), None] {
        reader.limit_unread(limit).unwrap();
        assert_eq!(reader.unread_limit(), limit);
        let room = socket.recv_buffer_size().unwrap();
        match limit {
            // Linux doubles it, for its own book-keeping.
            Some(limit) => assert!(room <= 2 * limit as usize && room < before, "{room}"),
            None => assert!(room >= before, "{room}"),
        }
        // What does not fit waits at the peer, and nothing is lost.
        bounded(peer.writable()).await.unwrap();
        let mut left = sent_unread(&peer);
        assert!(left > 0);
        while left > 0 {
            let read = bounded(poll_fn(|cx| reader.poll_recv(cx, &mut buffer))).await;
            left -= read.unwrap();
        }
    }
}
