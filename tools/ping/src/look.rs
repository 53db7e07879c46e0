//! A second look at a server that does not behave: what is it, if not what it should be?

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tsc_osaa::{
    cert::{ClientSecurity, PeerIdentity, Trust},
    client::{ClientTransport, ConnectOptions, Host, TransportKind, connect},
    socket::StreamOptions,
    stream::StreamTransport,
};

use crate::{
    problem::{Kind, Problem},
    settings::Settings,
};

/// How much longer than the step that failed a look may take at most.
const MOST: Duration = Duration::from_secs(3);

/// Bytes of an answer that are read.
const ANSWER: usize = 2048;

/// Completes what is known about a failure on a stream: an HTTP server, or TLS where none was expected.
pub(crate) async fn at_stream(
    problem: Problem,
    host: &Host,
    address: SocketAddr,
    kind: TransportKind,
    settings: &Settings,
) -> Problem {
    let is_mute = matches!(
        problem.kind,
        Kind::NotTls | Kind::NotTscf | Kind::Closed | Kind::Timeout | Kind::Tls
    );
    if !is_mute {
        return problem;
    }
    let limit = settings.timeout.min(MOST);
    if let Some(line) = timeout(limit, http(host, address)).await.ok().flatten() {
        return Problem {
            kind: Kind::Http,
            text: format!("{}; an HTTP server is there ({line})", problem.text),
            ..problem
        };
    }
    if kind == TransportKind::Tcp
        && let Some(_peer) = certificate(host, address, TransportKind::Tls, settings).await
    {
        return Problem {
            kind: Kind::SpeaksTls,
            text: format!("{}; the port speaks TLS", problem.text),
            ..problem
        };
    }
    problem
}

/// The first line of an HTTP server's answer, with where it sends us.
async fn http(host: &Host, address: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    while answer.len() < ANSWER && !answer.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut chunk = [0; 512];
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => break,
            Ok(len) => answer.extend_from_slice(chunk.get(..len).unwrap_or_default()),
        }
    }
    if !answer.starts_with(b"HTTP/") {
        return None;
    }
    let text = String::from_utf8_lossy(&answer);
    let mut line = printable(text.lines().next().unwrap_or_default());
    let header = |line: &&str| {
        line.get(..9)
            .is_some_and(|name| name.eq_ignore_ascii_case("location:"))
    };
    if let Some(location) = text.lines().find(header) {
        line += &format!(", {}", printable(location));
    }
    Some(line)
}

/// What a stranger sent, without what a terminal would obey.
fn printable(text: &str) -> String {
    text.chars()
        .filter(|char| !char.is_control())
        .take(200)
        .collect()
}

/// The certificate that a server shows, whatever it is worth. Nothing is sent to the server but the handshake.
pub(crate) async fn certificate(
    host: &Host,
    address: SocketAddr,
    kind: TransportKind,
    settings: &Settings,
) -> Option<Arc<PeerIdentity>> {
    let security = ClientSecurity::new(Trust::DangerousNone, None).ok()?;
    let limit = settings.timeout.min(MOST);
    let name = settings.name_of(host);
    if kind.is_stream() {
        let look = async {
            let stream = TcpStream::connect(address).await.ok()?;
            let options = StreamOptions::client();
            let stream = StreamTransport::tls_client(stream, &security, name, &options).await;
            stream.ok()?.peer_identity().cloned()
        };
        return timeout(limit, look).await.ok().flatten();
    }
    let mut options: ConnectOptions = settings.connect.clone();
    options.timeout = limit;
    let target = settings.dtls_target(host, address);
    let transport = connect(&target, Some(&security), &options).await.ok()?;
    let peer = transport.peer_identity().cloned().map(Arc::new);
    if let datagram @ ClientTransport::Datagram(_) = transport {
        datagram.close(limit).await;
    }
    peer
}
