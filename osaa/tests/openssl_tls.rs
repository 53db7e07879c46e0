//! TLS against the `openssl` command, an implementation that shares no code with ours.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::wildcard_enum_match_arm
)]

mod common;

use std::{fs, io::IoSlice, net::SocketAddr, path::Path, process::Stdio, time::Duration};

use common::{Ca, bounded, client, server};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, ChildStderr, ChildStdout, Command},
};
use tsc_osaa::{
    cert::{CertificateError, ServerName, ServerSecurity},
    listener::{ListenerConfig, ListenerEvent, RefusalReason, StreamListener},
    socket::StreamOptions,
    stream::{RECV_BUFFER, StreamError, StreamTransport},
    tls::TlsError,
};

/// Files for the command: `ca.pem`, and `NAME.pem` and `NAME.key` for both wishes.
fn files(ca: &Ca) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    write("ca.pem", &ca.pem);
    for (name, wish) in [("server", server()), ("client", client())] {
        let (certificate, key) = ca.issue(&wish);
        write(&format!("{name}.pem"), &certificate);
        write(&format!("{name}.key"), &key);
    }
    directory
}

/// The command, running.
struct Openssl {
    child: Child,
    stdout: BufReader<ChildStdout>,
    stderr: BufReader<ChildStderr>,
}

impl Openssl {
    fn start(directory: &Path, arguments: &[&str]) -> Self {
        let mut child = Command::new("openssl")
            .args(arguments)
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the openssl command is needed for this test");
        Self {
            stdout: BufReader::new(child.stdout.take().unwrap()),
            stderr: BufReader::new(child.stderr.take().unwrap()),
            child,
        }
    }

    async fn type_in(&mut self, text: &str) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(text.as_bytes()).await.unwrap();
        stdin.flush().await.unwrap();
    }

    fn end_of_input(&mut self) {
        drop(self.child.stdin.take());
    }

    /// The next line on standard output that begins with `start`.
    async fn says(&mut self, start: &str) -> String {
        next_line(&mut self.stdout, start).await
    }

    /// The next line on standard error that contains `part`.
    async fn complains(&mut self, part: &str) -> String {
        next_line(&mut self.stderr, part).await
    }
}

async fn next_line(from: &mut (impl AsyncBufRead + Unpin), part: &str) -> String {
    let mut seen = String::new();
    loop {
        let start = seen.len();
        let n = from.read_line(&mut seen).await.unwrap();
        assert!(n > 0, "no {part:?} in {seen}");
        if seen[start..].contains(part) {
            return seen[start..].trim_end().to_owned();
        }
    }
}

/// A listener with `security`, and `s_client` connected to it with `arguments` more.
fn s_client(
    security: ServerSecurity,
    directory: &Path,
    arguments: &[&str],
) -> (StreamListener, Openssl) {
    let mut config = ListenerConfig::default();
    config.tls = Some(security);
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let listener = StreamListener::bind(any, config).unwrap();
    let address = listener.local_addr().to_string();
    let mut all = vec!["s_client", "-quiet", "-no_ign_eof", "-connect", &address];
    all.extend(["-servername", "localhost", "-CAfile", "ca.pem"]);
    all.extend(["-verify_return_error", "-verify_hostname", "localhost"]);
    all.extend(arguments);
    (listener, Openssl::start(directory, &all))
}

async fn accepted(listener: &mut StreamListener) -> StreamTransport {
    match listener.accept().await {
        ListenerEvent::Ready(stream) => stream,
        other => panic!("{other:?}"),
    }
}

/// Text both ways between a transport and the command's standard streams.
async fn talk(stream: &mut StreamTransport, openssl: &mut Openssl) {
    openssl.type_in("from openssl\n").await;
    assert_eq!(hear(stream, 13).await, b"from openssl\n");
    stream.send(&[IoSlice::new(b"from us\n")]).await.unwrap();
    assert_eq!(openssl.says("from us").await, "from us");
}

async fn hear(stream: &mut StreamTransport, len: usize) -> Vec<u8> {
    let mut buffer = vec![0; RECV_BUFFER];
    let mut heard = Vec::new();
    while heard.len() < len {
        let n = stream.recv(&mut buffer).await.unwrap();
        heard.extend_from_slice(&buffer[..n]);
    }
    heard
}

#[tokio::test]
async fn s_client_talks_to_our_server_in_both_versions() {
    bounded(async {
        let ca = Ca::new("root");
        let directory = files(&ca);
        for (version, name) in [("-tls1_3", "TLSv1.3"), ("-tls1_2", "TLSv1.2")] {
            for (alpn, agreed) in [(&[][..], false), (&["-alpn", "tscf"][..], true)] {
                let arguments = [&[version], alpn].concat();
                let (mut listener, mut openssl) =
                    s_client(ca.server_security(), directory.path(), &arguments);
                let mut stream = accepted(&mut listener).await;
                let info = stream.tls_info().unwrap();
                assert_eq!((info.version, info.alpn), (name, agreed));
                talk(&mut stream, &mut openssl).await;
                // Its end of input becomes close_notify.
                openssl.end_of_input();
                let mut buffer = vec![0; RECV_BUFFER];
                assert!(matches!(
                    stream.recv(&mut buffer).await,
                    Err(StreamError::Closed)
                ));
                stream.close(Duration::from_secs(5)).await;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn another_application_protocol_is_refused() {
    bounded(async {
        let ca = Ca::new("root");
        let directory = files(&ca);
        let (mut listener, mut openssl) = s_client(
            ca.server_security(),
            directory.path(),
            &["-alpn", "http/1.1,h2"],
        );
        let ListenerEvent::Refused(refusal) = listener.accept().await else {
            panic!("ALPN h2 must be refused");
        };
        assert!(matches!(refusal.reason, RefusalReason::Tls(TlsError::Alpn)));
        openssl.complains("no application protocol").await;
        // Among others it is found.
        let (mut listener, _openssl) = s_client(
            ca.server_security(),
            directory.path(),
            &["-alpn", "h2,tscf"],
        );
        assert!(accepted(&mut listener).await.tls_info().unwrap().alpn);
    })
    .await;
}

#[tokio::test]
async fn s_client_is_known_by_its_certificate_or_refused() {
    bounded(async {
        let ca = Ca::new("root");
        let directory = files(&ca);
        for version in ["-tls1_3", "-tls1_2"] {
            let arguments = [version, "-cert", "client.pem", "-key", "client.key"];
            let (mut listener, mut openssl) =
                s_client(ca.mutual_server(), directory.path(), &arguments);
            let mut stream = accepted(&mut listener).await;
            let peer = stream.peer_identity().unwrap();
            assert_eq!(peer.common_name(), Some("alice"));
            talk(&mut stream, &mut openssl).await;

            let (mut listener, _openssl) =
                s_client(ca.mutual_server(), directory.path(), &[version]);
            let ListenerEvent::Refused(refusal) = listener.accept().await else {
                panic!("a certificate is required");
            };
            assert!(matches!(
                refusal.reason,
                RefusalReason::Tls(TlsError::Certificate(CertificateError::Missing))
            ));
        }
    })
    .await;
}

#[tokio::test]
async fn key_updates_of_the_peer_are_followed() {
    bounded(async {
        let ca = Ca::new("root");
        let directory = files(&ca);
        let mut config = ListenerConfig::default();
        config.tls = Some(ca.server_security());
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let mut listener = StreamListener::bind(any, config).unwrap();
        let address = listener.local_addr().to_string();
        // Without -quiet a line "K" or "k" is a command: update keys, with or without a request for ours.
        let arguments = [
            "s_client", "-tls1_3", "-connect", &address, "-CAfile", "ca.pem",
        ];
        let mut openssl = Openssl::start(directory.path(), &arguments);
        let mut stream = accepted(&mut listener).await;
        for (command, text) in [("K\n", "one\n"), ("k\n", "two\n"), ("K\n", "three\n")] {
            openssl.type_in(command).await;
            openssl.complains("KEYUPDATE").await;
            openssl.type_in(text).await;
            assert_eq!(hear(&mut stream, text.len()).await, text.as_bytes());
            stream.send(&[IoSlice::new(text.as_bytes())]).await.unwrap();
            openssl.says(text.trim_end()).await;
        }
    })
    .await;
}

/// `s_server` with `arguments` more, and a connection to it.
async fn s_server(directory: &Path, arguments: &[&str]) -> (Openssl, TcpStream) {
    let mut all = vec!["s_server", "-accept", "127.0.0.1:0", "-naccept", "1"];
    all.extend([
        "-cert",
        "server.pem",
        "-key",
        "server.key",
        "-CAfile",
        "ca.pem",
    ]);
    all.extend(arguments);
    let mut openssl = Openssl::start(directory, &all);
    let line = openssl.says("ACCEPT").await;
    let address = line.strip_prefix("ACCEPT ").unwrap().to_owned();
    (openssl, TcpStream::connect(address).await.unwrap())
}

fn localhost() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

#[tokio::test]
async fn our_client_talks_to_s_server_in_both_versions() {
    bounded(async {
        let ca = Ca::new("root");
        let directory = files(&ca);
        let alice = ca.client_with(ca.identity(&client()));
        for (version, name) in [("-tls1_3", "TLSv1.3"), ("-tls1_2", "TLSv1.2")] {
            for (alpn, agreed) in [(&[][..], false), (&["-alpn", "tscf"][..], true)] {
                let arguments = [&[version, "-Verify", "1", "-verify_return_error"], alpn].concat();
                let (mut openssl, socket) = s_server(directory.path(), &arguments).await;
                let options = StreamOptions::client();
                let mut stream = StreamTransport::tls_client(socket, &alice, localhost(), &options)
                    .await
                    .unwrap();
                let info = stream.tls_info().unwrap();
                assert_eq!((info.version, info.alpn), (name, agreed));
                talk(&mut stream, &mut openssl).await;
                stream.close(Duration::from_secs(5)).await;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn our_client_refuses_a_server_of_another_authority_and_says_so() {
    bounded(async {
        let directory = files(&Ca::new("root"));
        let stranger = Ca::new("other").client_security();
        let (mut openssl, socket) = s_server(directory.path(), &[]).await;
        let options = StreamOptions::client();
        let result = StreamTransport::tls_client(socket, &stranger, localhost(), &options).await;
        assert!(matches!(
            result,
            Err(StreamError::Tls(TlsError::Certificate(
                CertificateError::UnknownIssuer
            )))
        ));
        openssl.complains("alert unknown ca").await;
    })
    .await;
}

#[tokio::test]
async fn our_client_refuses_a_server_that_chooses_another_protocol_or_is_too_old() {
    bounded(async {
        let ca = Ca::new("root");
        let directory = files(&ca);
        let options = StreamOptions::client();
        let security = ca.client_security();
        let (_openssl, socket) = s_server(directory.path(), &["-alpn", "h2"]).await;
        let result = StreamTransport::tls_client(socket, &security, localhost(), &options).await;
        // s_server goes on without ALPN, or refuses: both are its right, neither is h2.
        match result {
            Ok(stream) => assert!(!stream.tls_info().unwrap().alpn),
            Err(error) => assert!(matches!(error, StreamError::Tls(TlsError::Alpn)), "{error}"),
        }
        let old = ["-tls1_1", "-cipher", "DEFAULT:@SECLEVEL=0"];
        let (_openssl, socket) = s_server(directory.path(), &old).await;
        let result = StreamTransport::tls_client(socket, &security, localhost(), &options).await;
        assert!(matches!(
            result,
            Err(StreamError::Tls(
                TlsError::Alert { .. } | TlsError::Incompatible(_)
            ))
        ));
    })
    .await;
}
