//! Each DTLS backend against the `openssl` command, an implementation that is not ours.
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

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Stdio;
use std::time::Instant;

use dtls_common::pki::{self, Leaf, PKI, Purpose, SERVER_NAME};
use dtls_common::udp::{EchoServer, PATIENCE, Seen, UdpClient};
use tempfile::NamedTempFile;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tsc_osaa::cert::{CertificateError, ClientAuth};
use tsc_osaa::dtls::{
    DtlsBackendKind, DtlsClientConfig, DtlsEndpointEvent, DtlsEndpointLimits, DtlsError,
    DtlsOptions, DtlsServerConfig, DtlsServerEndpoint,
};

macro_rules! for_each_backend {
    ($($name:ident),* $(,)?) => {
        #[cfg(feature = "dtls-openssl")]
        mod openssl {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(tsc_osaa::dtls::DtlsBackendKind::OpenSsl).await;
                }
            )*
        }
        #[cfg(feature = "dtls-dimpl")]
        mod dimpl {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(tsc_osaa::dtls::DtlsBackendKind::Dimpl).await;
                }
            )*
        }
        #[cfg(feature = "dtls-webrtc")]
        mod webrtc {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(tsc_osaa::dtls::DtlsBackendKind::WebRtc).await;
                }
            )*
        }
    };
}

for_each_backend!(
    s_client_echoes,
    s_client_with_certificate,
    s_client_without_required_certificate,
    s_client_of_another_protocol_is_refused,
    s_server_with_ecdsa,
    s_server_with_rsa,
    s_server_asks_for_a_certificate,
    s_server_of_unknown_issuer_is_refused,
);

// Our server, the command as client.

async fn s_client_echoes(kind: DtlsBackendKind) {
    let mut server = our_server(kind, ClientAuth::None).await;
    let mut peer = Peer::client(server.address, &[]);
    assert!(matches!(
        server.event().await,
        DtlsEndpointEvent::Connected { .. }
    ));
    peer.type_line("hello from the command").await;
    peer.until_line("hello from the command").await;
    // The end of its input makes it close.
    drop(peer.stdin.take());
    match server.event().await {
        DtlsEndpointEvent::Closed { error, .. } => {
            assert!(matches!(error, DtlsError::PeerClosed), "{error:?}");
        }
        other => panic!("{other:?}"),
    }
    server.stop().await;
}

async fn s_client_with_certificate(kind: DtlsBackendKind) {
    let mut server = our_server(kind, ClientAuth::Required(PKI.ca.roots())).await;
    let files = Files::new(&PKI.client);
    let mut peer = Peer::client(server.address, &files.arguments());
    match server.event().await {
        DtlsEndpointEvent::Connected { info, .. } => {
            assert_eq!(info.peer.unwrap().common_name(), Some("client"));
            assert_eq!(info.alpn, kind == DtlsBackendKind::OpenSsl);
        }
        other => panic!("{other:?}"),
    }
    peer.type_line("with certificate").await;
    peer.until_line("with certificate").await;
    server.stop().await;
}

async fn s_client_without_required_certificate(kind: DtlsBackendKind) {
    let mut server = our_server(kind, ClientAuth::Required(PKI.ca.roots())).await;
    let _peer = Peer::client(server.address, &[]);
    match server.event().await {
        DtlsEndpointEvent::HandshakeFailed { error, .. } => assert!(
            matches!(error, DtlsError::Certificate(CertificateError::Missing)),
            "{error:?}"
        ),
        other => panic!("{other:?}"),
    }
    server.stop().await;
}

async fn s_client_of_another_protocol_is_refused(kind: DtlsBackendKind) {
    let server = our_server(kind, ClientAuth::None).await;
    let mut peer = Peer::client_with_alpn(server.address, "h2", &[]);
    let status = tokio::time::timeout(PATIENCE, peer.child.wait())
        .await
        .unwrap()
        .unwrap();
    assert!(!status.success());
    server.stop().await;
}

// Our client, the command as server.

async fn s_server_with_ecdsa(kind: DtlsBackendKind) {
    talk_to_s_server(kind, &PKI.server).await;
}

async fn s_server_with_rsa(kind: DtlsBackendKind) {
    let leaf = pki::rsa_leaf(Purpose::Server);
    if kind == DtlsBackendKind::Dimpl {
        // The two have no cipher suite in common, and the command says so.
        let (_peer, address) = Peer::server(&Files::new(&leaf).arguments()).await;
        let mut client = our_client(kind, None, address).await;
        let seen = client.next().await;
        assert!(
            matches!(seen, Seen::Closed(DtlsError::Alert(_))),
            "{seen:?}"
        );
        return;
    }
    talk_to_s_server(kind, &leaf).await;
}

async fn talk_to_s_server(kind: DtlsBackendKind, leaf: &Leaf) {
    let files = Files::new(leaf);
    let (mut peer, address) = Peer::server(&files.arguments()).await;
    let mut client = our_client(kind, None, address).await;
    let seen = client.next().await;
    assert!(matches!(seen, Seen::Connected(_)), "{seen:?}");
    client.session.send(b"hello from us\n").unwrap();
    client.drive_while(peer.until_line("hello from us")).await;
    peer.type_line("hello from the command").await;
    match client.next().await {
        Seen::Data(data) => assert_eq!(data, b"hello from the command\n"),
        other => panic!("{other:?}"),
    }
    // The command takes our close_notify for what it is.
    client.session.close(Instant::now());
    let seen = client.next().await;
    assert!(
        matches!(seen, Seen::Closed(DtlsError::LocalClosed)),
        "{seen:?}"
    );
    peer.until_line("DONE").await;
}

async fn s_server_asks_for_a_certificate(kind: DtlsBackendKind) {
    let files = Files::new(&PKI.server);
    let mut arguments = files.arguments();
    arguments.extend(["-Verify".to_owned(), "1".to_owned()]);
    arguments.extend(["-verify_return_error".to_owned(), "-CAfile".to_owned()]);
    arguments.push(files.path(&files.roots));

    let (mut peer, address) = Peer::server(&arguments).await;
    let mut client = our_client(kind, Some(&PKI.client), address).await;
    let seen = client.next().await;
    assert!(matches!(seen, Seen::Connected(_)), "{seen:?}");
    client.session.send(b"known\n").unwrap();
    client.drive_while(peer.until_line("known")).await;
    drop(peer);

    let (_peer, address) = Peer::server(&arguments).await;
    let mut client = our_client(kind, None, address).await;
    let seen = client.next().await;
    assert!(
        matches!(seen, Seen::Closed(DtlsError::Alert(_))),
        "{seen:?}"
    );
}

async fn s_server_of_unknown_issuer_is_refused(kind: DtlsBackendKind) {
    let files = Files::new(&PKI.unknown_issuer(Purpose::Server));
    let (_peer, address) = Peer::server(&files.arguments()).await;
    let mut client = our_client(kind, None, address).await;
    let seen = client.next().await;
    assert!(
        matches!(
            seen,
            Seen::Closed(DtlsError::Certificate(CertificateError::UnknownIssuer))
        ),
        "{seen:?}"
    );
}

#[cfg(feature = "dtls-openssl")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s_client_resumes() {
    let mut server = our_server(DtlsBackendKind::OpenSsl, ClientAuth::None).await;
    let session = NamedTempFile::new().unwrap();
    let path = session.path().to_str().unwrap().to_owned();
    for (option, expected) in [("-sess_out", false), ("-sess_in", true)] {
        let mut peer = Peer::client(server.address, &[option.to_owned(), path.clone()]);
        match server.event().await {
            DtlsEndpointEvent::Connected { info, .. } => assert_eq!(info.resumed, expected),
            other => panic!("{other:?}"),
        }
        peer.type_line("hello from the command").await;
        peer.until_line("hello from the command").await;
        // It ends, so that the file is written.
        drop(peer.stdin.take());
        let closed = server.event().await;
        assert!(
            matches!(closed, DtlsEndpointEvent::Closed { .. }),
            "{closed:?}"
        );
    }
    server.stop().await;
}

#[cfg(feature = "dtls-openssl")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s_server_is_resumed() {
    let files = Files::new(&PKI.server);
    let (mut peer, address) = Peer::server(&files.arguments()).await;
    let security = pki::client_security(None);
    let kind = DtlsBackendKind::OpenSsl;
    let config = DtlsClientConfig::new(kind, &security, &DtlsOptions::default()).unwrap();
    // The command hears one address only from the first client on.
    let socket = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let mut socket = socket.unwrap();
    socket.connect(address).await.unwrap();
    for (text, expected) in [("first", false), ("second", true), ("third", true)] {
        let name = SERVER_NAME.try_into().unwrap();
        let mut client = UdpClient::on(socket, config.connect(Instant::now(), &name).unwrap());
        match client.next().await {
            Seen::Connected(info) => {
                assert_eq!(info.resumed, expected, "{text}");
                assert_eq!(info.peer.unwrap().common_name(), Some("server"));
            }
            other => panic!("{other:?}"),
        }
        client.session.send(format!("{text}\n").as_bytes()).unwrap();
        client.drive_while(peer.until_line(text)).await;
        client.session.close(Instant::now());
        let seen = client.next().await;
        assert!(
            matches!(seen, Seen::Closed(DtlsError::LocalClosed)),
            "{seen:?}"
        );
        peer.until_line("DONE").await;
        socket = client.socket;
    }
}

async fn our_server(kind: DtlsBackendKind, client_auth: ClientAuth) -> EchoServer {
    let security = pki::server_security(&PKI.server, client_auth);
    let config = DtlsServerConfig::new(kind, &security, &DtlsOptions::default()).unwrap();
    let limits = DtlsEndpointLimits::default();
    EchoServer::start(DtlsServerEndpoint::new(&config, limits, &[5; 32])).await
}

async fn our_client(
    kind: DtlsBackendKind,
    identity: Option<&Leaf>,
    server: SocketAddr,
) -> UdpClient {
    let security = pki::client_security(identity);
    let config = DtlsClientConfig::new(kind, &security, &DtlsOptions::default()).unwrap();
    let name = SERVER_NAME.try_into().unwrap();
    let session = config.connect(Instant::now(), &name).unwrap();
    UdpClient::start(session, server).await
}

/// PEM files that live as long as this does.
struct Files {
    chain: NamedTempFile,
    key: NamedTempFile,
    roots: NamedTempFile,
}

impl Files {
    fn new(leaf: &Leaf) -> Self {
        let file = |text: &str| {
            let mut file = NamedTempFile::new().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            file
        };
        Self {
            chain: file(&leaf.chain),
            key: file(&leaf.key),
            roots: file(&PKI.ca.pem),
        }
    }

    fn path(&self, file: &NamedTempFile) -> String {
        file.path().to_str().unwrap().to_owned()
    }

    fn arguments(&self) -> Vec<String> {
        vec![
            "-cert".to_owned(),
            self.path(&self.chain),
            "-key".to_owned(),
            self.path(&self.key),
        ]
    }
}

/// The command; killed when dropped.
struct Peer {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Peer {
    fn client(server: SocketAddr, arguments: &[String]) -> Self {
        Self::client_with_alpn(server, "tscf", arguments)
    }

    fn client_with_alpn(server: SocketAddr, alpn: &str, arguments: &[String]) -> Self {
        let mut command = Command::new("openssl");
        command
            .args(["s_client", "-dtls1_2", "-connect", &server.to_string()])
            .args([
                "-alpn",
                alpn,
                "-servername",
                SERVER_NAME,
                "-quiet",
                "-no_ign_eof",
            ])
            .args(arguments);
        Self::spawn(command)
    }

    /// Starts a server and waits until it listens.
    async fn server(arguments: &[String]) -> (Self, SocketAddr) {
        // The command takes no port 0 for DTLS and does not tell its port, so the system is asked for a free one.
        let probe = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = probe.local_addr().unwrap();
        drop(probe);
        let mut command = Command::new("openssl");
        command
            .args(["s_server", "-dtls1_2", "-listen"])
            .args(["-accept", &address.to_string()])
            .args(["-alpn", "tscf"])
            .args(arguments);
        let mut peer = Self::spawn(command);
        peer.until_line("ACCEPT").await;
        (peer, address)
    }

    fn spawn(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self {
            stdin: child.stdin.take(),
            lines: BufReader::new(child.stdout.take().unwrap()).lines(),
            child,
        }
    }

    async fn type_line(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        // In one write, as the command sends what each read gives it.
        let line = format!("{line}\n");
        stdin.write_all(line.as_bytes()).await.unwrap();
        stdin.flush().await.unwrap();
    }

    async fn until_line(&mut self, wanted: &str) {
        let mut seen = Vec::new();
        let search = async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                if line.contains(wanted) {
                    return true;
                }
                seen.push(line);
            }
            false
        };
        let found = tokio::time::timeout(PATIENCE, search).await;
        assert!(matches!(found, Ok(true)), "no {wanted:?} in {seen:#?}");
    }
}
