//! What a tunnel makes of a proxy that says no.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};
use tsc_tapi::{
    Coded, ConnectError, ErrorCode, TransportConnectError, Tunnel,
    proxy::{Credentials, Proxy, ProxyError, ProxyScheme},
};

/// A proxy that says the same to every request, and the number of requests.
async fn stubborn(answer: &'static str) -> (Proxy, Arc<AtomicUsize>, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let task = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while let Ok(byte) = stream.read_u8().await {
                head.push(byte);
                if head.ends_with(b"\r\n\r\n") {
                    count.fetch_add(1, Ordering::SeqCst);
                    head.clear();
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            }
        }
    });
    let proxy = Proxy::new(ProxyScheme::Http, address.ip(), address.port());
    (proxy, asked, task)
}

/// What comes of a tunnel that has `limit`.
async fn failure(proxy: Proxy, limit: Duration) -> ProxyError {
    let error = Tunnel::builder("tcp://server.example.com".parse().unwrap())
        .proxy(proxy)
        .connect_timeout(limit)
        .connect()
        .await
        .unwrap_err();
    let code = error.code();
    let authentication = error.is_proxy_authentication();
    assert_eq!(authentication, code == ErrorCode::Authenticate);
    let ConnectError::Transport {
        source: TransportConnectError::Proxy(error),
        ..
    } = error
    else {
        panic!("{error}");
    };
    error
}

#[tokio::test]
async fn wrong_credentials_end_the_attempts_at_once() {
    let answer = "HTTP/1.1 407 Who\r\nProxy-Authenticate: Digest realm=a, nonce=b\r\nContent-Length: 0\r\n\r\n";
    let (proxy, asked, task) = stubborn(answer).await;
    let start = Instant::now();
    let proxy = proxy.with_credentials(Credentials::new("alice", "wrong"));
    let error = failure(proxy, Duration::from_secs(60)).await;
    assert!(
        matches!(error, ProxyError::CredentialsRefused { .. }),
        "{error}"
    );
    assert!(error.is_authentication());
    // Without them, and with them.
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    assert!(start.elapsed() < Duration::from_secs(30));
    task.abort();
}

#[tokio::test]
async fn an_overloaded_proxy_is_asked_again_after_pauses() {
    let (proxy, asked, task) = stubborn("HTTP/1.1 503 Later\r\nContent-Length: 0\r\n\r\n").await;
    let limit = Duration::from_secs(5);
    let error = failure(proxy, limit).await;
    assert!(
        matches!(error, ProxyError::Refused { status: 503, .. }),
        "{error}"
    );
    let asked = asked.load(Ordering::SeqCst);
    assert!((2..=10).contains(&asked), "{asked} requests in {limit:?}");
    task.abort();
}
