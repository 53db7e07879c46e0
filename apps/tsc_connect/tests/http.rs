//! The HTTP proxy with real clients, from this host's network to this host's network.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    unreachable_pub
)]

mod support;

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tsc_connect::accept::Shared;

use support::{echo, exchange, head, http_proxy, listener, nobody, soon};

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
    let told = head(&mut stream).await;
    assert!(told.starts_with("http/1.1 200 "), "{told}");
    assert!(!told.contains("via:"), "{told}");
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

/// An origin that answers one request with `answer`, and gives back the request's head and `body` bytes more.
fn origin(
    listener: tokio::net::TcpListener,
    body: usize,
    answer: &'static str,
) -> tokio::task::JoinHandle<(String, Vec<u8>)> {
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let told = head(&mut stream).await;
        let mut rest = vec![0; body];
        stream.read_exact(&mut rest).await.unwrap();
        stream.write_all(answer.as_bytes()).await.unwrap();
        (told, rest)
    })
}

#[tokio::test]
async fn requests_and_answers_say_that_they_came_through_us() {
    let shared = Shared::new(16);
    let (proxy, _proxy) = http_proxy(&shared).await;
    for (version, sent, received) in [
        ("1.1", "", "via: 1.1 tsc-connect\r\n"),
        ("1.0", "", "via: 1.0 tsc-connect\r\n"),
        (
            "1.1",
            "Via: 1.0 fred, 1.1 tsc-connect.example (a comment)\r\n",
            "via: 1.0 fred, 1.1 tsc-connect.example (a comment)\r\nvia: 1.1 tsc-connect\r\n",
        ),
    ] {
        let (listener, address) = listener().await;
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nVia: 1.1 origin\r\n\r\nok";
        let served = origin(listener, 0, answer);
        let request = format!(
            "GET http://{address}/ HTTP/{version}\r\nHost: {address}\r\nConnection: close\r\n{sent}\r\n"
        );
        let answer = ask(proxy, &request).await.to_lowercase();
        assert!(
            answer.contains("via: 1.1 origin\r\nvia: 1.1 tsc-connect\r\n"),
            "{answer}"
        );
        let told = soon(served).await.unwrap().0;
        assert!(told.contains(received), "{told}");
    }
}

#[tokio::test]
async fn a_request_that_has_come_through_us_goes_no_further() {
    let shared = Shared::new(16);
    let (proxy, _proxy) = http_proxy(&shared).await;
    let (listener, address) = listener().await;
    for via in [
        "Via: 1.1 tsc-connect",
        "Via: 1.0 fred, HTTP/1.1 TSC-Connect (that is us)",
        "Via: 1.1 fred\r\nVia: 1.1 tsc-connect",
    ] {
        let request = format!(
            "GET http://{address}/ HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{via}\r\n\r\n"
        );
        let answer = ask(proxy, &request).await;
        assert!(answer.starts_with("HTTP/1.1 508 "), "{via}: {answer}");
    }
    // Nobody was asked; and a tunnel of CONNECT is none of this.
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    let request = format!("CONNECT {address} HTTP/1.1\r\nHost: h\r\nVia: 1.1 tsc-connect\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let told = head(&mut stream).await;
    assert!(told.starts_with("http/1.1 200 "), "{told}");
    stream.write_all(b"first").await.unwrap();
    let (mut first, _) = soon(listener.accept()).await.unwrap();
    let mut bytes = [0; 5];
    soon(first.read_exact(&mut bytes)).await.unwrap();
    assert_eq!(&bytes, b"first");
}

#[tokio::test]
async fn bodies_pass_whatever_way_their_length_is_told() {
    let shared = Shared::new(16);
    let (proxy, _proxy) = http_proxy(&shared).await;
    for (sent, forwarded, answered, version, expected) in [
        (
            "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            "3\r\nabc\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            "1.1",
            "2\r\nok\r\n0\r\n\r\n",
        ),
        (
            "Content-Length: 3\r\n\r\nabc",
            "abc",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            "1.0",
            "\r\n\r\nok",
        ),
        (
            "Content-Length: 0\r\n\r\n",
            "",
            "HTTP/1.0 200 OK\r\n\r\nok",
            "1.0",
            "\r\n\r\nok",
        ),
    ] {
        let (listener, address) = listener().await;
        let served = origin(listener, forwarded.len(), answered);
        let request = format!(
            "POST http://{address}/ HTTP/{version}\r\nHost: {address}\r\nConnection: close\r\n{sent}"
        );
        let answer = ask(proxy, &request).await;
        assert!(answer.ends_with(expected), "{answer}");
        let (told, body) = soon(served).await.unwrap();
        assert_eq!(String::from_utf8(body).unwrap(), forwarded, "{told}");
    }
    let summary = shared.counters.summary();
    assert!(
        summary.bytes_out > 200 && summary.bytes_in > 100,
        "{summary}"
    );
}

#[tokio::test]
async fn an_answer_that_breaks_off_does_not_look_whole() {
    let shared = Shared::new(16);
    let (proxy, _proxy) = http_proxy(&shared).await;
    let (listener, address) = listener().await;
    let broken = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = head(&mut stream).await;
        // Its end is the connection's.
        stream
            .write_all(b"HTTP/1.0 200 OK\r\n\r\nhalf of it")
            .await
            .unwrap();
        stream
    });
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    let request = format!("GET http://{address}/ HTTP/1.0\r\nHost: h\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"half of it") {
        answer.push(soon(stream.read_u8()).await.unwrap());
    }
    let origin = soon(broken).await.unwrap();
    origin.set_zero_linger().unwrap();
    drop(origin);
    let end = soon(stream.read_to_end(&mut answer)).await;
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}
