//! Proxies and forwards with real clients, from this host's network to this host's network: no tunnel is needed to see
//! that they do what their protocols say.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use std::{future::Future, io::ErrorKind, net::SocketAddr, sync::Arc, time::Duration};

use fast_socks5::{
    ReplyError, SocksError,
    client::{Config, Socks5Datagram, Socks5Stream},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    task::{AbortHandle, JoinHandle},
    time::timeout,
};
use tsc_connect::{
    accept::{Shared, serve},
    forward, http,
    net::HostNet,
    socks, udp,
};

/// Nothing here takes longer unless it hangs.
const LIMIT: Duration = Duration::from_secs(20);

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(LIMIT, what).await.expect("in time")
}

/// Ends what it stands for.
struct Running(AbortHandle);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn running(task: JoinHandle<()>) -> Running {
    Running(task.abort_handle())
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Sends back what comes, with `>` in front of each connection's answer.
async fn echo() -> (SocketAddr, Running) {
    let (listener, address) = listener().await;
    let task = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                write.write_all(b">").await.unwrap();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
    (address, running(task))
}

async fn udp_echo() -> (SocketAddr, Running) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut buffer = [0; 2000];
        loop {
            let (len, from) = socket.recv_from(&mut buffer).await.unwrap();
            socket.send_to(&buffer[..len], from).await.unwrap();
        }
    });
    (address, running(task))
}

/// An address where nobody listens.
async fn nobody() -> SocketAddr {
    listener().await.1
}

async fn socks_proxy(shared: &Shared) -> (SocketAddr, Running) {
    let (listener, address) = listener().await;
    let shared = shared.clone();
    let counters = Arc::clone(&shared.counters);
    let task = tokio::spawn(serve(listener, shared, "socks", move |stream, _| {
        socks::serve(stream, HostNet, Arc::clone(&counters))
    }));
    (address, running(task))
}

async fn http_proxy(shared: &Shared) -> (SocketAddr, Running) {
    let (listener, address) = listener().await;
    let shared = shared.clone();
    let counters = Arc::clone(&shared.counters);
    let task = tokio::spawn(serve(listener, shared, "http", move |stream, _| {
        http::serve(stream, HostNet, Arc::clone(&counters))
    }));
    (address, running(task))
}

/// Says something, ends the sending side, and reads all that comes back.
async fn exchange(
    stream: &mut (impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin),
    text: &[u8],
) -> Vec<u8> {
    stream.write_all(text).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    soon(stream.read_to_end(&mut answer)).await.unwrap();
    answer
}

#[tokio::test]
async fn socks_connects_to_addresses_and_names_and_keeps_half_closes() {
    let shared = Shared::new(16);
    let (proxy, _proxy) = socks_proxy(&shared).await;
    let (target, _target) = echo().await;
    for host in ["127.0.0.1", "localhost"] {
        let connect =
            Socks5Stream::connect(proxy, host.to_owned(), target.port(), Config::default());
        let mut stream = soon(connect).await.unwrap();
        assert_eq!(exchange(&mut stream, b"hello").await, b">hello", "{host}");
    }
    let summary = soon(async {
        loop {
            let summary = shared.counters.summary();
            if summary.bytes_in == 12 {
                break summary;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(
        (summary.accepted, summary.failed, summary.bytes_out),
        (2, 0, 10)
    );
}

#[tokio::test]
async fn socks_says_why_a_target_cannot_be_reached() {
    let shared = Shared::new(16);
    let (proxy, _proxy) = socks_proxy(&shared).await;
    let nobody = nobody().await;
    let refused = Socks5Stream::connect(
        proxy,
        nobody.ip().to_string(),
        nobody.port(),
        Config::default(),
    );
    assert!(matches!(
        soon(refused).await,
        Err(SocksError::ReplyError(ReplyError::ConnectionRefused))
    ));
    let unknown = Socks5Stream::connect(proxy, "no such name".to_owned(), 80, Config::default());
    assert!(matches!(
        soon(unknown).await,
        Err(SocksError::ReplyError(ReplyError::AddressTypeNotSupported))
    ));
    // A client that speaks something else is hung up on, and harms nobody.
    let mut wrong = TcpStream::connect(proxy).await.unwrap();
    wrong.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    // What it did not read resets the connection; either is an end.
    let end = soon(wrong.read_u8()).await.unwrap_err().kind();
    assert!(
        matches!(end, ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset),
        "{end}"
    );
    let (target, _target) = echo().await;
    let right = Socks5Stream::connect(
        proxy,
        "127.0.0.1".to_owned(),
        target.port(),
        Config::default(),
    );
    assert_eq!(exchange(&mut soon(right).await.unwrap(), b"x").await, b">x");
    assert_eq!(shared.counters.summary().failed, 3);
}

#[tokio::test]
async fn socks_takes_datagrams_to_many_targets_and_says_who_answers() {
    let shared = Shared::new(16);
    let (proxy, _proxy) = socks_proxy(&shared).await;
    let (one, _one) = udp_echo().await;
    let (two, _two) = udp_echo().await;
    let control = TcpStream::connect(proxy).await.unwrap();
    let association = soon(Socks5Datagram::bind(control, "127.0.0.1:0"))
        .await
        .unwrap();
    let mut buffer = [0; 2000];
    for target in [one, two, one] {
        for payload in [&b"datagram"[..], &[7; 1400], b""] {
            association.send_to(payload, target).await.unwrap();
            let (len, from) = soon(association.recv_from(&mut buffer)).await.unwrap();
            assert_eq!(&buffer[..len], payload);
            let fast_socks5::util::target_addr::TargetAddr::Ip(from) = from else {
                panic!("{from:?}")
            };
            assert_eq!(from, target);
        }
    }
    // Names are resolved where the target is.
    association
        .send_to(b"by name", ("localhost", two.port()))
        .await
        .unwrap();
    let (len, _) = soon(association.recv_from(&mut buffer)).await.unwrap();
    assert_eq!(&buffer[..len], b"by name");
}

async fn ask(proxy: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    soon(stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn http_connect_opens_a_stream_or_says_why_not() {
    let shared = Shared::new(16);
    let (proxy, _proxy) = http_proxy(&shared).await;
    let (target, _target) = echo().await;
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon(stream.read_u8()).await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 200 "), "{head:?}");
    assert_eq!(exchange(&mut stream, b"through").await, b">through");

    let nobody = nobody().await;
    let close = "Connection: close\r\n";
    let refused = ask(
        proxy,
        &format!("CONNECT {nobody} HTTP/1.1\r\nHost: {nobody}\r\n{close}\r\n"),
    )
    .await;
    assert!(refused.starts_with("HTTP/1.1 502 "), "{refused}");
    assert!(refused.contains(&nobody.to_string()), "{refused}");
    let origin_form = ask(proxy, &format!("GET / HTTP/1.1\r\nHost: h\r\n{close}\r\n")).await;
    assert!(origin_form.starts_with("HTTP/1.1 400 "), "{origin_form}");
    let garbage = ask(proxy, "\u{5}\u{1}\u{0} \r\n\r\n").await;
    assert!(
        garbage.is_empty() || garbage.starts_with("HTTP/1.1 400 "),
        "{garbage}"
    );
}

#[tokio::test]
async fn plain_requests_reach_the_origin_in_its_form_without_what_concerns_the_proxy() {
    let shared = Shared::new(16);
    let (proxy, _proxy) = http_proxy(&shared).await;
    let (origin, address) = listener().await;
    let served = tokio::spawn(async move {
        let (mut stream, _) = origin.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        stream
            .write_all(
                b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nKeep-Alive: timeout=5\r\n\r\nhello",
            )
            .await
            .unwrap();
        String::from_utf8(head).unwrap()
    });
    let answer = ask(
        proxy,
        &format!(
            "GET http://{address}/a?b=c HTTP/1.1\r\nHost: wrong\r\nConnection: close, x-hop\r\nX-Hop: 1\r\n\
             Proxy-Authorization: Basic eDp5\r\nX-End: 2\r\n\r\n"
        ),
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("hello"), "{answer}");
    let head = soon(served).await.unwrap().to_lowercase();
    assert!(head.starts_with("get /a?b=c http/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("host: {address}\r\n")), "{head}");
    assert!(head.contains("x-end: 2\r\n"), "{head}");
    for gone in ["x-hop", "proxy-authorization", "wrong"] {
        assert!(!head.contains(gone), "{gone} in {head}");
    }
}

#[tokio::test]
async fn forwards_carry_streams_and_datagrams() {
    let shared = Shared::new(16);
    let (target, _target) = echo().await;
    let (listener, address) = listener().await;
    let forwarded = forward::forward(listener, HostNet, target.into(), shared.clone());
    let _tcp = running(tokio::spawn(forwarded));
    let big = vec![7; 1_000_000];
    let (read, mut write) = TcpStream::connect(address).await.unwrap().into_split();
    let sent = big.clone();
    let sender = tokio::spawn(async move {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut answer = Vec::new();
    let mut read = read;
    soon(read.read_to_end(&mut answer)).await.unwrap();
    soon(sender).await.unwrap();
    assert_eq!(answer.len(), big.len() + 1);
    assert_eq!(answer[1..], big);

    let (target, _target) = udp_echo().await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let counters = Arc::clone(&shared.counters);
    let _udp = running(tokio::spawn(async move {
        udp::forward(socket, HostNet, target.into(), counters)
            .await
            .unwrap();
    }));
    let mut buffer = [0; 2000];
    // Each peer has its own answers.
    for round in 0..3_u8 {
        let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        peer.send_to(&[round; 100], address).await.unwrap();
        let (len, from) = soon(peer.recv_from(&mut buffer)).await.unwrap();
        assert_eq!((&buffer[..len], from), (&[round; 100][..], address));
    }
}

#[tokio::test]
async fn more_peers_than_a_forward_remembers_push_out_the_silent_ones() {
    let shared = Shared::new(16);
    let (target, _target) = udp_echo().await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let counters = Arc::clone(&shared.counters);
    let _udp = running(tokio::spawn(async move {
        udp::forward(socket, HostNet, target.into(), counters)
            .await
            .unwrap();
    }));
    let mut buffer = [0; 2000];
    let mut peers = Vec::new();
    for _ in 0..udp::PEERS + 10 {
        let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        peer.send_to(b"one", address).await.unwrap();
        soon(peer.recv_from(&mut buffer)).await.unwrap();
        peers.push(peer);
    }
    // One that was pushed out comes back as a new one; the latest is still known.
    for (peer, known) in [(peers.last().unwrap(), true), (&peers[0], false)] {
        let before = shared.counters.summary().accepted;
        peer.send_to(b"two", address).await.unwrap();
        soon(peer.recv_from(&mut buffer)).await.unwrap();
        assert_eq!(shared.counters.summary().accepted == before, known);
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_one_to_end() {
    let shared = Shared::new(1);
    // A listener to which nobody comes takes nothing from the others.
    let (_, _idle) = http_proxy(&shared).await;
    let (proxy, _proxy) = socks_proxy(&shared).await;
    let (target, _target) = echo().await;
    let connect = || {
        Socks5Stream::connect(
            proxy,
            "127.0.0.1".to_owned(),
            target.port(),
            Config::default(),
        )
    };
    let mut first = soon(connect()).await.unwrap();
    let mut first_answer = [0; 1];
    soon(first.read_exact(&mut first_answer)).await.unwrap();
    let second = tokio::spawn(connect());
    assert_eq!(exchange(&mut first, b"done").await, b"done");
    drop(first);
    assert_eq!(
        exchange(&mut soon(second).await.unwrap().unwrap(), b"x").await,
        b">x"
    );
    assert_eq!(shared.counters.summary().accepted, 2);
}
