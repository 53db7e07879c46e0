//! Proxies on loopback that say what a test wants them to say, and clients that go through them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use std::{
    io::IoSlice,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tsc_osaa::{
    client::{self, ConnectError, ConnectOptions, Host, Target, TransportKind},
    proxy::{
        self, AuthScheme, CredentialSource, Credentials, NoProxy, Proxy, ProxyError, ProxyScheme,
        ProxySettings,
    },
    stream::Socket,
    trace::{CaptureOptions, CaptureWriter, Tap},
};

mod common;
use common::bounded;

const OK: &str = "HTTP/1.1 200 Connection established\r\n\r\n";
const DENIED: &str =
    "HTTP/1.1 407 Who\r\nProxy-Authenticate: Basic realm=\"here\"\r\nContent-Length: 3\r\n\r\nWho";

/// What a scripted proxy does with a connection after each request.
#[derive(Clone, Debug)]
enum Act {
    /// Answers, and keeps the connection.
    Say(String),
    /// Answers and closes.
    Last(String),
    /// Closes without an answer.
    Cut,
    /// Never answers.
    Silence,
    /// Answers byte by byte.
    Slowly(String),
}

fn say(text: impl Into<String>) -> Act {
    Act::Say(text.into())
}

/// A proxy that follows a script, one act for each request whatever the connection, and then echoes.
struct Scripted {
    proxy: Proxy,
    requests: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Scripted {
    async fn new(acts: impl IntoIterator<Item = Act>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let connections = Arc::new(AtomicUsize::new(0));
        let (heard, count) = (Arc::clone(&requests), Arc::clone(&connections));
        let mut acts: Vec<Act> = acts.into_iter().collect();
        acts.reverse();
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                while let Some(request) = request(&mut stream).await {
                    heard.lock().unwrap().push(request);
                    match acts.pop().unwrap_or(Act::Cut) {
                        Act::Say(text) => {
                            stream.write_all(text.as_bytes()).await.unwrap();
                            if text.starts_with("HTTP/1.1 200") {
                                echo(&mut stream).await;
                            }
                        }
                        Act::Slowly(text) => {
                            for byte in text.as_bytes() {
                                stream.write_all(&[*byte]).await.unwrap();
                                tokio::task::yield_now().await;
                            }
                            echo(&mut stream).await;
                        }
                        Act::Last(text) => {
                            // A client that has had enough may be gone.
                            let _ = stream.write_all(text.as_bytes()).await;
                            break;
                        }
                        Act::Cut => break,
                        Act::Silence => std::future::pending().await,
                    }
                }
            }
        });
        let proxy = Proxy::new(ProxyScheme::Http, address.ip(), address.port());
        Self {
            proxy,
            requests,
            connections,
            task,
        }
    }

    async fn connect(&self) -> Result<Socket, ProxyError> {
        connect(&self.proxy, Duration::from_secs(10)).await
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn with(mut self, change: impl FnOnce(Proxy) -> Proxy) -> Self {
        self.proxy = change(self.proxy.clone());
        self
    }

    fn with_password(self, password: &str) -> Self {
        let credentials = Credentials::new("alice", password);
        self.with(|proxy| {
            proxy
                .with_credentials(credentials)
                .allow_basic_in_clear(true)
        })
    }
}

/// The head of a request; `None` when the client has closed.
async fn request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(bytes).unwrap())
}

async fn echo(stream: &mut TcpStream) {
    let (mut read, mut write) = stream.split();
    let _ = tokio::io::copy(&mut read, &mut write).await;
}

async fn connect(proxy: &Proxy, limit: Duration) -> Result<Socket, ProxyError> {
    let host: Host = "server.example.com".parse().unwrap();
    bounded(proxy::connect(proxy, &host, 443, None, limit)).await
}

/// The stream carries bytes both ways.
async fn check(mut socket: Socket) {
    assert!(socket.is_proxied());
    socket.write_all(b"hello").await.unwrap();
    let mut heard = [0; 5];
    bounded(socket.read_exact(&mut heard)).await.unwrap();
    assert_eq!(&heard, b"hello");
}

fn authorization(request: &str) -> Option<&str> {
    let mut lines = request.lines();
    lines.find_map(|line| line.strip_prefix("Proxy-Authorization: "))
}

#[tokio::test]
async fn a_tunnel_without_authentication() {
    let proxy = Scripted::new([say(OK)]).await;
    check(proxy.connect().await.unwrap()).await;
    let request = &proxy.requests()[0];
    assert!(
        request.starts_with(
            "CONNECT server.example.com:443 HTTP/1.1\r\nHost: server.example.com:443\r\n"
        ),
        "{request}"
    );
}

#[tokio::test]
async fn addresses_of_ipv6_have_brackets() {
    let proxy = Scripted::new([say(OK)]).await;
    let host: Host = "2001:db8::1".parse().unwrap();
    let limit = Duration::from_secs(10);
    let socket = bounded(proxy::connect(&proxy.proxy, &host, 1, None, limit)).await;
    check(socket.unwrap()).await;
    assert!(
        proxy.requests()[0]
            .starts_with("CONNECT [2001:db8::1]:1 HTTP/1.1\r\nHost: [2001:db8::1]:1\r\n")
    );
}

#[tokio::test]
async fn answers_may_come_in_pieces_and_after_interim_ones() {
    let proxy = Scripted::new([Act::Slowly(format!("HTTP/1.1 100 Continue\r\n\r\n{OK}"))]).await;
    check(proxy.connect().await.unwrap()).await;
}

#[tokio::test]
async fn basic_on_a_connection_that_is_kept() {
    let chunked = "HTTP/1.1 407 Who\r\nProxy-Authenticate: Basic realm=x\r\n\
                   Transfer-Encoding: chunked\r\n\r\n3\r\nWho\r\n0\r\n\r\n";
    for denied in [DENIED, chunked] {
        let proxy = Scripted::new([say(denied), say(OK)])
            .await
            .with_password("secret");
        check(proxy.connect().await.unwrap()).await;
        assert_eq!(proxy.connections(), 1);
        let requests = proxy.requests();
        assert_eq!(authorization(&requests[0]), None);
        let expected = format!("Basic {}", STANDARD.encode("alice:secret"));
        assert_eq!(authorization(&requests[1]), Some(expected.as_str()));
    }
}

#[tokio::test]
async fn basic_when_the_connection_is_closed() {
    let until_close = "HTTP/1.0 407 Who\r\nProxy-Authenticate: Basic realm=x\r\n\r\nWho are you?";
    let too_long =
        "HTTP/1.1 407 Who\r\nProxy-Authenticate: Basic realm=x\r\nContent-Length: 70000\r\n\r\n";
    for denied in [
        Act::Last(DENIED.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")),
        Act::Last(until_close.to_owned()),
        Act::Last(too_long.to_owned()),
        // It says that it keeps the connection, and does not: a matter of chance who is first.
        Act::Last(DENIED.to_owned()),
    ] {
        let proxy = Scripted::new([denied, say(OK)])
            .await
            .with_password("secret");
        check(proxy.connect().await.unwrap()).await;
        assert_eq!((proxy.connections(), proxy.requests().len()), (2, 2));
    }
}

#[tokio::test]
async fn wrong_passwords_are_tried_once() {
    let all = "HTTP/1.1 407 Who\r\nProxy-Authenticate: Digest realm=a, nonce=b, qop=\"auth\"\r\n\
               Proxy-Authenticate: Basic realm=a\r\nContent-Length: 0\r\n\r\n";
    for (denied, scheme) in [(DENIED, AuthScheme::Basic), (all, AuthScheme::Digest)] {
        let proxy = Scripted::new(vec![say(denied); 20])
            .await
            .with_password("wrong");
        let error = proxy.connect().await.unwrap_err();
        assert!(
            matches!(error, ProxyError::CredentialsRefused { scheme: by } if by == scheme),
            "{error}"
        );
        assert!(error.is_final());
        assert_eq!(proxy.requests().len(), 2);
        assert!(!format!("{error:?} {error}").contains("wrong"));
    }
}

#[tokio::test]
async fn without_credentials_nothing_is_tried() {
    let proxy = Scripted::new(vec![say(DENIED); 20]).await;
    let error = proxy.connect().await.unwrap_err();
    let ProxyError::AuthenticationRequired { offered } = &error else {
        panic!("{error}");
    };
    assert_eq!(offered, "Basic");
    assert!(error.is_final());
    assert_eq!(proxy.requests().len(), 1);
}

#[tokio::test]
async fn basic_in_clear_takes_permission() {
    let proxy = Scripted::new(vec![say(DENIED); 20]).await;
    let credentials = Credentials::new("alice", "secret");
    let proxy = proxy.with(|proxy| proxy.with_credentials(credentials));
    let error = proxy.connect().await.unwrap_err();
    assert!(matches!(error, ProxyError::NoUsableScheme { .. }) && error.is_final());
    assert!(
        error
            .to_string()
            .contains("Basic: the password would be sent in clear"),
        "{error}"
    );
    assert_eq!(proxy.requests().len(), 1);
}

#[tokio::test]
async fn unknown_schemes_are_named() {
    let denied = "HTTP/1.1 407 Who\r\nProxy-Authenticate: Hawk, Bearer realm=\"x\"\r\nContent-Length: 0\r\n\r\n";
    let proxy = Scripted::new([say(denied)]).await.with_password("secret");
    let error = proxy.connect().await.unwrap_err();
    assert!(
        matches!(error, ProxyError::NoUsableScheme { offered, .. } if offered == "Hawk, Bearer")
    );
}

/// What a Digest answer says of itself.
fn field(request: &str, name: &str) -> String {
    let digest = authorization(request).unwrap();
    let (_, rest) = digest.split_once(&format!("{name}=")).unwrap();
    rest.trim_start_matches('"')
        .split(['"', ','])
        .next()
        .unwrap()
        .to_owned()
}

#[tokio::test]
async fn digest_takes_the_strongest_and_follows_stale_nonces() {
    let denied = |nonce: &str, more: &str| {
        say(format!(
            "HTTP/1.1 407 Who\r\nProxy-Authenticate: Digest realm=a, nonce=old, algorithm=MD5\r\n\
             Proxy-Authenticate: Digest realm=\"a\", nonce=\"{nonce}\", algorithm=SHA-256, qop=\"auth\"{more}\r\n\
             Content-Length: 0\r\n\r\n"
        ))
    };
    let proxy = Scripted::new([denied("n1", ""), denied("n2", ", stale=true"), say(OK)]).await;
    // Digest is no clear text.
    let credentials = Credentials::new("alice", "secret");
    let proxy = proxy.with(|proxy| proxy.with_credentials(credentials));
    check(proxy.connect().await.unwrap()).await;
    let requests = proxy.requests();
    assert_eq!(requests.len(), 3);
    for (request, nonce) in requests[1..].iter().zip(["n1", "n2"]) {
        let mut prompt = digest_auth::WwwAuthenticateHeader::parse(&format!(
            "Digest realm=\"a\", nonce=\"{nonce}\", algorithm=SHA-256, qop=\"auth\""
        ))
        .unwrap();
        let mut context = digest_auth::AuthContext::new_with_method(
            "alice",
            "secret",
            "server.example.com:443",
            Option::<&[u8]>::None,
            digest_auth::HttpMethod::CONNECT,
        );
        context.set_custom_cnonce(field(request, "cnonce"));
        let expected = prompt.respond(&context).unwrap().response;
        assert_eq!(field(request, "response"), expected);
    }
    assert_ne!(field(&requests[1], "cnonce"), field(&requests[2], "cnonce"));
}

#[tokio::test]
async fn a_proxy_whose_nonces_are_always_stale_is_given_up() {
    let stale = "HTTP/1.1 407 Who\r\nProxy-Authenticate: Digest realm=a, nonce=b, stale=true\r\nContent-Length: 0\r\n\r\n";
    let proxy = Scripted::new(vec![say(stale); 20])
        .await
        .with_password("secret");
    let error = proxy.connect().await.unwrap_err();
    assert!(
        matches!(error, ProxyError::NoUsableScheme { .. }),
        "{error}"
    );
    assert_eq!(proxy.requests().len(), 4);
}

#[tokio::test]
async fn a_callback_may_know_better_but_is_not_asked_for_ever() {
    let asked: Arc<Mutex<Vec<_>>> = Arc::default();
    let source = |passwords: &'static [&'static str]| {
        let asked = Arc::clone(&asked);
        asked.lock().unwrap().clear();
        CredentialSource::callback(move |request| {
            let mut asked = asked.lock().unwrap();
            let password = passwords.get(asked.len());
            asked.push((request.scheme, request.realm.clone(), request.refused));
            password.map(|password| Credentials::new("alice", *password))
        })
    };
    let with = |proxy: Scripted, passwords| {
        proxy.with(|proxy| {
            proxy
                .with_credentials(source(passwords))
                .allow_basic_in_clear(true)
        })
    };

    let proxy = Scripted::new([say(DENIED), say(DENIED), say(OK)]).await;
    let proxy = with(proxy, &["wrong", "secret"]);
    check(proxy.connect().await.unwrap()).await;
    let realm = Some("here".to_owned());
    let expected = [
        (AuthScheme::Basic, realm.clone(), false),
        (AuthScheme::Basic, realm, true),
    ];
    assert_eq!(*asked.lock().unwrap(), expected);

    let proxy = with(
        Scripted::new(vec![say(DENIED); 20]).await,
        &["a", "b", "c", "d", "e"],
    );
    let error = proxy.connect().await.unwrap_err();
    assert!(
        matches!(error, ProxyError::CredentialsRefused { .. }),
        "{error}"
    );
    assert_eq!(asked.lock().unwrap().len(), proxy::MAX_CREDENTIALS);

    let proxy = with(Scripted::new(vec![say(DENIED); 20]).await, &[]);
    let error = proxy.connect().await.unwrap_err();
    assert!(
        matches!(error, ProxyError::AuthenticationRequired { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn refusals_carry_their_status() {
    for (status, is_final) in [
        (403, true),
        (405, true),
        (502, false),
        (503, false),
        (504, false),
    ] {
        let text = format!("HTTP/1.1 {status} Some\treason\r\nContent-Length: 0\r\n\r\n");
        let error = Scripted::new([say(text)])
            .await
            .connect()
            .await
            .unwrap_err();
        let ProxyError::Refused {
            status: told,
            reason,
        } = &error
        else {
            panic!("{error}");
        };
        assert_eq!((*told, reason.as_str()), (status, "Some?reason"));
        assert_eq!(error.is_final(), is_final, "{error}");
    }
}

#[tokio::test]
async fn captive_portals_are_told_from_proxies() {
    for page in [
        "HTTP/1.1 302 Found\r\nLocation: http://login.example/\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 511 Network Authentication Required\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>",
        "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n",
    ] {
        let error = Scripted::new([say(page)])
            .await
            .connect()
            .await
            .unwrap_err();
        assert!(matches!(error, ProxyError::Portal { .. }), "{error}");
        // It passes when somebody logs in.
        assert!(!error.is_final());
    }
    let early = Scripted::new([say(format!("{OK}220 smtp.example.com"))]).await;
    let error = early.connect().await.unwrap_err();
    assert!(matches!(error, ProxyError::UnexpectedData), "{error}");
}

#[tokio::test]
async fn lengths_of_an_opened_tunnel_are_ignored() {
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\nTransfer-Encoding: chunked\r\n\r\n";
    check(Scripted::new([say(ok)]).await.connect().await.unwrap()).await;
}

#[tokio::test]
async fn garbage_cuts_and_endless_heads_are_typed() {
    let error = |act| async move { Scripted::new([act]).await.connect().await.unwrap_err() };
    assert!(matches!(
        error(say("SSH-2.0-OpenSSH_9.2\r\n")).await,
        ProxyError::Garbage
    ));
    assert!(matches!(
        error(Act::Last("HTTP/1.1 2".to_owned())).await,
        ProxyError::Cut
    ));
    assert!(matches!(error(Act::Cut).await, ProxyError::Cut));
    let long = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(proxy::MAX_HEAD));
    assert!(matches!(error(Act::Last(long)).await, ProxyError::TooLong));
    let interim = "HTTP/1.1 100 Continue\r\n\r\n".repeat(50);
    assert!(matches!(error(say(interim)).await, ProxyError::Garbage));
}

#[tokio::test]
async fn a_silent_proxy_takes_no_longer_than_the_limit() {
    let proxy = Scripted::new([Act::Silence]).await;
    let limit = Duration::from_millis(300);
    let start = Instant::now();
    let error = connect(&proxy.proxy, limit).await.unwrap_err();
    assert!(matches!(error, ProxyError::Timeout { .. }) && !error.is_final());
    assert!(start.elapsed() >= limit);
}

#[tokio::test]
async fn a_proxy_that_is_not_there() {
    // Bound and not listening: nobody else gets the port.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let proxy = Proxy::new(ProxyScheme::Http, address.ip(), address.port());
    let error = connect(&proxy, Duration::from_secs(5)).await.unwrap_err();
    assert!(matches!(error, ProxyError::Connect { .. }) && !error.is_final());
}

/// A proxy that always cuts kept connections costs a bounded number of requests.
#[tokio::test]
async fn rounds_are_bounded() {
    let source = CredentialSource::callback(|_| Some(Credentials::new("a", "b")));
    let acts = (0..40).map(|n| if n % 2 == 0 { say(DENIED) } else { Act::Cut });
    let proxy = Scripted::new(acts).await;
    let proxy = proxy.with(|proxy| proxy.with_credentials(source).allow_basic_in_clear(true));
    let error = proxy.connect().await.unwrap_err();
    assert!(proxy.requests().len() <= proxy::MAX_ROUNDS, "{error}");
}

#[tokio::test]
async fn transports_go_through_the_proxy_and_datagrams_do_not_go_around_it() {
    let proxy = Scripted::new([say(OK), say(OK)]).await;
    let mut options = ConnectOptions::default();
    options.proxy = ProxySettings::from(proxy.proxy.clone());
    let host: Host = "server.example.com".parse().unwrap();
    let target = |kind| Target::new(kind, host.clone(), 4567);
    let stream = bounded(client::connect(&target(TransportKind::Tcp), None, &options)).await;
    let stream = stream.unwrap();
    assert!(stream.is_proxied());
    assert_eq!(stream.peer_addr().port(), proxy.proxy.port());
    let error = client::connect(&target(TransportKind::Udp), None, &options).await;
    assert!(matches!(
        error,
        Err(ConnectError::ProxyNeedsStream(TransportKind::Udp))
    ));
    assert_eq!(proxy.requests().len(), 1);

    // What is excepted goes directly, whatever the transport.
    let exceptions = NoProxy::new("127.0.0.0/8");
    options.proxy = options.proxy.clone().with_exceptions(exceptions);
    let here = Target::new(
        TransportKind::Tcp,
        Host::Address([127, 0, 0, 1].into()),
        proxy.proxy.port(),
    );
    let direct = bounded(client::connect(&here, None, &options))
        .await
        .unwrap();
    assert!(!direct.is_proxied());
}

#[cfg(feature = "proxy-negotiate")]
mod ntlm {
    use super::*;

    /// What winbindd asked in a real exchange.
    const ASKS: &str = "TlRMTVNTUAACAAAABQAFADgAAAAGgooCJeQwgtxqVh8AAAAAAAAAADgAOAA9AAAABgEAAAAAAA9QUk9YWQIACgBQ\
                        AFIATwBYAFkAAQAKAFAAUgBPAFgAWQAEAAAAAwAEAHYAbQAHAAgACtzuezx63QEAAAAA";

    fn denied(first: &str, more: &str) -> String {
        format!(
            "HTTP/1.1 407 Who\r\nProxy-Authenticate: {first}\r\nProxy-Authenticate: Digest realm=a, nonce=b\r\n\
             Content-Length: 0\r\n{more}\r\n"
        )
    }

    fn kind(request: &str) -> Option<u8> {
        let token = authorization(request)?.strip_prefix("NTLM ")?;
        STANDARD.decode(token).unwrap().get(8).copied()
    }

    #[tokio::test]
    async fn stays_on_its_connection() {
        let asks = say(denied(&format!("NTLM {ASKS}"), ""));
        let proxy = Scripted::new([say(denied("NTLM", "")), asks, say(OK)])
            .await
            .with_password("secret");
        check(proxy.connect().await.unwrap()).await;
        let kinds: Vec<_> = proxy
            .requests()
            .iter()
            .map(|request| kind(request))
            .collect();
        assert_eq!(kinds, [None, Some(1), Some(3)]);
        assert_eq!(proxy.connections(), 1);
        // The first refusal may cost the connection, as nothing has begun.
        let asks = say(denied(&format!("NTLM {ASKS}"), ""));
        let close = Act::Last(denied("NTLM", "Connection: close\r\n"));
        let proxy = Scripted::new([close, asks, say(OK)])
            .await
            .with_password("secret");
        check(proxy.connect().await.unwrap()).await;
        assert_eq!(proxy.connections(), 2);
    }

    #[tokio::test]
    async fn gives_way_where_connections_are_not_kept() {
        let asks = Act::Last(denied(&format!("NTLM {ASKS}"), "Connection: close\r\n"));
        let proxy = Scripted::new([say(denied("NTLM", "")), asks, say(OK)])
            .await
            .with_password("secret");
        check(proxy.connect().await.unwrap()).await;
        let requests = proxy.requests();
        assert!(authorization(&requests[2]).unwrap().starts_with("Digest "));
    }

    #[tokio::test]
    async fn gives_way_to_a_challenge_that_is_none() {
        for bad in ["NTLM !!!!", "NTLM AAAA", "NTLM TlRMTVNTUAACAAAA", "NTLM"] {
            let answers = [say(denied("NTLM", "")), say(denied(bad, "")), say(OK)];
            let proxy = Scripted::new(answers).await.with_password("secret");
            check(proxy.connect().await.unwrap()).await;
            let requests = proxy.requests();
            assert!(
                authorization(&requests[2]).unwrap().starts_with("Digest "),
                "{bad}"
            );
        }
    }

    #[tokio::test]
    async fn proofs_are_given_once() {
        let asks = || say(denied(&format!("NTLM {ASKS}"), ""));
        let proxy = Scripted::new([
            say(denied("NTLM", "")),
            asks(),
            say(denied("NTLM", "")),
            asks(),
            asks(),
        ])
        .await;
        let proxy = proxy.with_password("wrong");
        let error = proxy.connect().await.unwrap_err();
        assert!(
            matches!(
                error,
                ProxyError::CredentialsRefused {
                    scheme: AuthScheme::Ntlm
                }
            ),
            "{error:?}"
        );
        assert_eq!(proxy.requests().len(), 3);
        // A proxy that cuts instead of refusing gets no second one either.
        let proxy =
            Scripted::new([say(denied("NTLM", "")), asks(), Act::Cut, asks(), asks()]).await;
        let proxy = proxy.with_password("wrong");
        let error = proxy.connect().await.unwrap_err();
        assert!(matches!(error, ProxyError::Cut), "{error:?}");
        assert_eq!(proxy.requests().len(), 3);
    }
}

#[tokio::test]
async fn what_is_said_to_the_proxy_is_in_no_capture() {
    let proxy = Scripted::new([say(DENIED), say(OK)])
        .await
        .with_password("secret");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("capture");
    let mut options = CaptureOptions::default();
    options.outer = true;
    let writer = CaptureWriter::create(&path, options).unwrap();
    let tap = Tap::new();
    tap.set(&[writer.handle()]);
    let mut options = ConnectOptions::default();
    options.proxy = proxy.proxy.clone().into();
    options.stream.tap = Some(tap);
    let host: Host = "server.example.com".parse().unwrap();
    let target = Target::new(TransportKind::Tcp, host, 443);
    let mut transport = bounded(client::connect(&target, None, &options))
        .await
        .unwrap();
    let hello = [IoSlice::new(b"hello")];
    bounded(transport.send(&hello)).await.unwrap();
    transport.close(Duration::from_secs(1)).await;
    writer.close().unwrap();
    let capture = std::fs::read(&path).unwrap();
    let has = |text: &str| {
        let mut windows = capture.windows(text.len());
        windows.any(|window| window == text.as_bytes())
    };
    assert!(has("hello"));
    assert_eq!(proxy.requests().len(), 2);
    let password = STANDARD.encode("alice:secret");
    for secret in [
        "CONNECT",
        "authorization",
        "Authorization",
        &password,
        "407",
    ] {
        assert!(!has(secret), "{secret}");
    }
}
