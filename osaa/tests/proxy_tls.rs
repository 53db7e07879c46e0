//! Transports through a proxy that is reached over TLS: TLS within TLS, and clear streams within TLS.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use std::{future::poll_fn, io::IoSlice, net::SocketAddr, sync::Arc, task::Poll};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;
use tsc_osaa::{
    cert::{ServerSecurity, Trust},
    client::{self, ClientTransport, ConnectError, ConnectOptions, Host, Target, TransportKind},
    proxy::{Proxy, ProxyError, ProxyScheme, ProxySettings},
    socket::StreamOptions,
    stream::{RECV_BUFFER, StreamError, StreamTransport},
};

mod common;
use common::{Ca, bounded, server};

/// A proxy under TLS that connects everybody to `target`, and hangs up without close_notify.
async fn proxy(ca: &Ca, target: SocketAddr) -> (SocketAddr, JoinHandle<()>) {
    let (certificate, key) = ca.issue(&server());
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_no_client_auth()
    .with_single_cert(
        vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
        PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
    )
    .unwrap();
    // A client that offered only the tunnel's protocol would be refused.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // A client that does not trust us goes away.
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            assert!(head.starts_with(b"CONNECT server.example.com:4567 "));
            let mut far = TcpStream::connect(target).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            stream.flush().await.unwrap();
            // However it ends.
            let _ = copy_bidirectional(&mut stream, &mut far).await;
        }
    });
    (address, task)
}

/// Sends everything back, then ends in order.
async fn echo(mut stream: StreamTransport) {
    let mut buf = vec![0; RECV_BUFFER];
    loop {
        match stream.recv(&mut buf).await {
            Ok(len) => stream.send(&[IoSlice::new(&buf[..len])]).await.unwrap(),
            Err(StreamError::Closed) => break,
            Err(error) => panic!("{error}"),
        }
    }
    stream.close(std::time::Duration::from_secs(5)).await;
}

async fn far_end(security: Option<ServerSecurity>) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let options = StreamOptions::server();
        let stream = match security {
            Some(security) => StreamTransport::tls_server(socket, &security, &options)
                .await
                .unwrap(),
            None => StreamTransport::plain(socket, &options).unwrap(),
        };
        echo(stream).await;
    });
    (address, task)
}

/// More than all buffers on the way hold goes there and back, however much of it waits at a time.
async fn exchange(transport: ClientTransport) {
    const UNIT: usize = 1200;
    const UNITS: usize = 3000;
    let ClientTransport::Stream(mut stream) = transport else {
        panic!("no stream");
    };
    assert!(stream.is_proxied());
    // The first byte makes a unit a control message, of which none is dropped.
    let byte = |at: usize| match at % UNIT {
        0 => 0,
        _ => u8::try_from(at / UNIT % 251).unwrap(),
    };
    let unit = |n: usize| -> Vec<u8> { (n * UNIT..(n + 1) * UNIT).map(byte).collect() };
    let mut buf = vec![0; RECV_BUFFER];
    let (mut sent, mut heard) = (0, 0);
    while heard < UNITS * UNIT {
        let read = poll_fn(|cx| {
            while sent < UNITS && stream.queue(&unit(sent)).is_ok() {
                sent += 1;
            }
            let _flushed = stream.poll_flush(cx).map(Result::unwrap);
            match stream.poll_recv(cx, &mut buf) {
                Poll::Ready(read) => Poll::Ready(read.unwrap()),
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
        assert!(
            buf[..read]
                .iter()
                .enumerate()
                .all(|(n, got)| *got == byte(heard + n))
        );
        heard += read;
    }
    assert_eq!((stream.unsent(), heard), (0, UNITS * UNIT));
    // Ends in order, in both directions.
    poll_fn(|cx| stream.poll_shutdown(cx)).await.unwrap();
    let end = stream.recv(&mut buf).await;
    assert!(matches!(end, Err(StreamError::Closed)), "{end:?}");
}

#[tokio::test]
async fn tls_and_clear_streams_through_tls() {
    let (ca, proxy_ca) = (Ca::new("server"), Ca::new("proxy"));
    for kind in [TransportKind::Tcp, TransportKind::Tls] {
        let security = (kind == TransportKind::Tls).then(|| ca.server_security());
        let (address, far) = far_end(security).await;
        let (at, task) = proxy(&proxy_ca, address).await;
        let way = Proxy::new(ProxyScheme::Https, at.ip(), at.port());
        let way = way.with_trust(Trust::Roots(proxy_ca.roots())).unwrap();
        let mut options = ConnectOptions::default();
        options.proxy = ProxySettings::from(way);
        let host: Host = "server.example.com".parse().unwrap();
        let localhost: Host = "localhost".parse().unwrap();
        let target = Target::new(kind, host, 4567).with_server_name(localhost.server_name());
        let security = ca.client_security();
        let transport = bounded(client::connect(&target, Some(&security), &options)).await;
        let transport = transport.unwrap();
        assert_eq!((transport.kind(), transport.peer_addr()), (kind, at));
        bounded(exchange(transport)).await;
        bounded(far).await.unwrap();
        task.abort();
    }
}

#[tokio::test]
async fn the_proxys_certificate_is_verified_apart_from_the_servers() {
    let (ca, proxy_ca) = (Ca::new("server"), Ca::new("proxy"));
    let (at, task) = proxy(&proxy_ca, "127.0.0.1:1".parse().unwrap()).await;
    let way = Proxy::new(ProxyScheme::Https, at.ip(), at.port());
    let way = way.with_trust(Trust::Roots(ca.roots())).unwrap();
    let mut options = ConnectOptions::default();
    options.proxy = ProxySettings::from(way);
    let host: Host = "server.example.com".parse().unwrap();
    let target = Target::new(TransportKind::Tls, host, 4567);
    let security = ca.client_security();
    let error = bounded(client::connect(&target, Some(&security), &options)).await;
    let Err(ConnectError::Proxy(error)) = error else {
        panic!("{error:?}");
    };
    assert!(
        matches!(error, ProxyError::Certificate(_)) && error.is_final(),
        "{error:?}"
    );
    task.abort();
}
