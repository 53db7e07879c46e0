//! The way to one server.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{net::TcpStream, time::timeout};
use tsc_cli::stop::Stop;
use tsc_osaa::{
    cert::PeerIdentity,
    client::{ClientTransport, Host, TransportKind, connect},
    proxy,
    resolve::{Candidate, DEFAULT_PORT, Source, resolve},
    socket::StreamOptions,
    stream::{Socket, StreamTransport},
};

use crate::{
    certificate,
    link::Link,
    look, measure,
    problem::{Kind, Problem},
    report::{Good, Report, StepName},
    settings::Settings,
    target::Target,
    tunnel,
};

/// Longest wait for the orderly end of a transport.
const CLOSE: Duration = Duration::from_secs(1);

/// Where a way leads.
struct Way<'a> {
    host: &'a Host,
    port: u16,
    /// `None` where a proxy looks the name up.
    address: Option<SocketAddr>,
    kind: TransportKind,
    /// Whether what the tunnel can do is measured, too.
    thorough: bool,
}

impl<'a> Way<'a> {
    /// Without a proxy.
    const fn to(host: &'a Host, address: SocketAddr, kind: TransportKind) -> Self {
        Self {
            host,
            port: address.port(),
            address: Some(address),
            kind,
            thorough: false,
        }
    }

    /// The address, or what the proxy is asked for.
    fn subject(&self) -> String {
        match (self.address, self.host) {
            (Some(address), _) => address.to_string(),
            (None, Host::Address(ip)) => SocketAddr::new(*ip, self.port).to_string(),
            (None, Host::Name(name)) => format!("{}:{}", name.as_ref(), self.port),
        }
    }
}

/// Takes all steps for one URL.
pub(crate) async fn walk(
    target: &Target,
    settings: &Settings,
    stop: &Stop,
    report: &mut Report,
) -> io::Result<()> {
    let kind = target.transport;
    let first = if settings.proxy.is_some() && kind.is_stream() {
        through_proxy(target, settings, stop, report).await?;
        None
    } else {
        let candidates = look_up(target, kind, settings, report).await?;
        each(target, &candidates, settings, stop, report).await?
    };
    let besides = match kind {
        TransportKind::Tcp => TransportKind::Udp,
        TransportKind::Tls => TransportKind::Dtls,
        TransportKind::Udp | TransportKind::Dtls => return Ok(()),
    };
    let has_proxy = settings.proxy.is_some();
    if settings.only || (first.is_none() && !has_proxy) || is_stopped(stop).await {
        return Ok(());
    }
    report.besides(besides)?;
    // Proxies are for streams only.
    let first = match first {
        Some(address) => Some(address),
        None => {
            let candidates = look_up(target, besides, settings, report).await?;
            candidates.first().map(|candidate| candidate.address)
        }
    };
    if let Some(address) = first {
        let way = Way::to(&target.host, address, besides);
        visit(&way, settings, stop, report).await?;
    }
    Ok(())
}

/// The addresses, if there are any.
async fn look_up(
    target: &Target,
    kind: TransportKind,
    settings: &Settings,
    report: &mut Report,
) -> io::Result<Vec<Candidate>> {
    let start = Instant::now();
    let found = resolve(&target.host, target.port, kind, &settings.resolve).await;
    let (candidates, told) = match found {
        Ok(candidates) => {
            let good = describe(&candidates, target.port.is_some());
            (candidates, Ok(good))
        }
        Err(error) => (Vec::new(), Err(error.into())),
    };
    report.step(StepName::Resolve, &target.host, start, told)?;
    Ok(candidates)
}

/// The whole way to the first address that leads to a tunnel; on streams the others are only connected to. Returns the address
/// that worked, or else the first.
async fn each(
    target: &Target,
    candidates: &[Candidate],
    settings: &Settings,
    stop: &Stop,
    report: &mut Report,
) -> io::Result<Option<SocketAddr>> {
    let mut worked = None;
    for candidate in candidates {
        if is_stopped(stop).await {
            break;
        }
        let address = candidate.address;
        if worked.is_none() {
            let way = Way {
                thorough: true,
                ..Way::to(&target.host, address, target.transport)
            };
            if visit(&way, settings, stop, report).await? {
                report.set_possible();
                worked = Some(address);
            }
        } else if target.transport.is_stream() {
            drop(tcp(address, settings, report).await?);
        }
    }
    let first = candidates.first().map(|candidate| candidate.address);
    Ok(worked.or(first))
}

/// The proxy looks the name up: where there are proxies, the DNS often knows the inside only.
async fn through_proxy(
    target: &Target,
    settings: &Settings,
    stop: &Stop,
    report: &mut Report,
) -> io::Result<()> {
    report.skip(
        StepName::Resolve,
        &target.host,
        "left to the proxy, without SRV records",
    )?;
    let way = Way {
        host: &target.host,
        port: target.port.unwrap_or(DEFAULT_PORT),
        address: None,
        kind: target.transport,
        thorough: true,
    };
    if visit(&way, settings, stop, report).await? {
        report.set_possible();
    }
    Ok(())
}

fn describe(candidates: &[Candidate], has_port: bool) -> Good {
    let addresses: Vec<String> = candidates
        .iter()
        .map(|candidate| candidate.address.to_string())
        .collect();
    let srv = candidates
        .iter()
        .any(|candidate| matches!(candidate.source, Source::Srv(_)));
    let how = if srv {
        " (by SRV records)"
    } else if has_port {
        ""
    } else {
        " (default port)"
    };
    Good::new(format!("{}{how}", addresses.join(", ")))
        .with("addresses", addresses)
        .with("srv", srv)
}

/// Whether the end was asked for.
pub(crate) async fn is_stopped(stop: &Stop) -> bool {
    tokio::select! {
        biased;
        () = stop.stopped() => true,
        () = std::future::ready(()) => false,
    }
}

/// Walks to one address; true if there was a tunnel.
async fn visit(
    way: &Way<'_>,
    settings: &Settings,
    stop: &Stop,
    report: &mut Report,
) -> io::Result<bool> {
    let transport = match way.kind {
        TransportKind::Tcp | TransportKind::Tls => stream(way, settings, report).await?,
        TransportKind::Udp | TransportKind::Dtls => datagram(way, settings, report).await?,
    };
    let Some(transport) = transport else {
        return Ok(false);
    };
    let mut link = Link::new(transport);
    let start = Instant::now();
    let tunnel = match tunnel::configure(&mut link, settings).await {
        Ok((tunnel, good)) => {
            report.step(StepName::Configure, way.subject(), start, Ok(good))?;
            tunnel
        }
        Err(mut problem) => {
            if link.is_http() {
                problem = Problem {
                    kind: Kind::Http,
                    text: "what answers is an HTTP server".to_owned(),
                    ..problem
                };
            } else if way.kind == TransportKind::Tcp {
                problem = second_look(problem, way, settings).await;
            }
            report.step(StepName::Configure, way.subject(), start, Err(problem))?;
            link.close(settings.timeout.min(CLOSE)).await;
            return Ok(false);
        }
    };
    // Whoever interrupts us still has the tunnel given back.
    let told = tokio::select! {
        told = examine(way, &mut link, &tunnel, settings, report) => told,
        () = stop.stopped() => Ok(()),
    };
    let start = Instant::now();
    let released = tunnel::release(&mut link, &tunnel, settings).await;
    link.close(settings.timeout.min(CLOSE)).await;
    told?;
    report.step(StepName::Release, way.subject(), start, released)?;
    Ok(true)
}

async fn examine(
    way: &Way<'_>,
    link: &mut Link,
    tunnel: &tunnel::Tunnel,
    settings: &Settings,
    report: &mut Report,
) -> io::Result<()> {
    if !way.thorough {
        return Ok(());
    }
    let start = Instant::now();
    let (trips, result) = if settings.count > 0 {
        measure::keepalive(link, tunnel, settings).await
    } else {
        measure::nothing()
    };
    let alive = result.is_ok();
    if settings.count > 0 {
        report.step(StepName::Keepalive, way.subject(), start, result)?;
    } else {
        report.skip(StepName::Keepalive, way.subject(), "not asked for")?;
    }
    if way.kind.is_stream() {
        return report.skip(StepName::Mtu, way.subject(), "on streams TCP sees to that");
    }
    if settings.mtu == 0 {
        return report.skip(StepName::Mtu, way.subject(), "not asked for");
    }
    if !alive {
        return report.skip(StepName::Mtu, way.subject(), "nothing gets through");
    }
    let start = Instant::now();
    let result = measure::mtu(link, tunnel, &trips, settings).await;
    report.step(StepName::Mtu, way.subject(), start, result)
}

async fn tcp(
    address: SocketAddr,
    settings: &Settings,
    report: &mut Report,
) -> io::Result<Option<TcpStream>> {
    let start = Instant::now();
    let result = in_time(settings, TcpStream::connect(address)).await;
    let (stream, told) = told(result, || Good::new("connected"));
    report.step(StepName::Tcp, address, start, told)?;
    Ok(stream)
}

/// What comes of it within the time of a step.
async fn in_time<T, E: Into<Problem>>(
    settings: &Settings,
    what: impl Future<Output = Result<T, E>>,
) -> Result<T, Problem> {
    match timeout(settings.timeout, what).await {
        Ok(result) => result.map_err(Into::into),
        Err(_) => Err(Problem::timeout(settings.timeout)),
    }
}

/// What to go on with, and what to report.
fn told<T>(
    result: Result<T, Problem>,
    good: impl FnOnce() -> Good,
) -> (Option<T>, Result<Good, Problem>) {
    match result {
        Ok(it) => (Some(it), Ok(good())),
        Err(problem) => (None, Err(problem)),
    }
}

/// To the server, or through the proxy.
async fn connected(
    way: &Way<'_>,
    settings: &Settings,
    report: &mut Report,
) -> io::Result<Option<Socket>> {
    if let Some(address) = way.address {
        let connected = tcp(address, settings, report).await?;
        return Ok(connected.map(Socket::from));
    }
    let Some(proxy) = &settings.proxy else {
        return Ok(None);
    };
    let start = Instant::now();
    let opened = proxy::connect(proxy, way.host, way.port, None, settings.timeout).await;
    let (socket, told) = told(opened.map_err(Problem::from), || {
        Good::new(format!("connects to {}", way.subject()))
    });
    report.step(StepName::Proxy, proxy, start, told)?;
    Ok(socket)
}

async fn stream(
    way: &Way<'_>,
    settings: &Settings,
    report: &mut Report,
) -> io::Result<Option<ClientTransport>> {
    let Some(socket) = connected(way, settings, report).await? else {
        return Ok(None);
    };
    let options = StreamOptions::client();
    let security = settings.security.as_ref();
    let Some(security) = security.filter(|_| way.kind == TransportKind::Tls) else {
        return match StreamTransport::plain(socket, &options) {
            Ok(stream) => Ok(Some(ClientTransport::Stream(stream))),
            Err(error) => {
                let told = Err(error.into());
                report.step(StepName::Configure, way.subject(), Instant::now(), told)?;
                Ok(None)
            }
        };
    };
    let start = Instant::now();
    let name = settings.name_of(way.host);
    let handshake = StreamTransport::tls_client(socket, security, name, &options);
    let stream = match in_time(settings, handshake).await {
        Ok(stream) => stream,
        Err(problem) => {
            let problem = second_look(problem, way, settings).await;
            let problem = with_certificate(problem, way, settings).await;
            report.step(StepName::Tls, way.subject(), start, Err(problem))?;
            return Ok(None);
        }
    };
    let good = stream.tls_info().map_or_else(
        || Good::new("done"),
        |info| {
            agreed(
                info.version,
                Some(info.cipher),
                info.alpn,
                info.peer.as_deref(),
            )
        },
    );
    report.step(StepName::Tls, way.subject(), start, Ok(good))?;
    Ok(Some(ClientTransport::Stream(stream)))
}

/// What a handshake agreed on, and with whom.
fn agreed(version: &str, cipher: Option<&str>, alpn: bool, peer: Option<&PeerIdentity>) -> Good {
    let named = cipher.unwrap_or("cipher suite not told");
    let offer = if alpn { "tscf" } else { "not offered" };
    let mut good = Good::new(format!("{version}, {named}, ALPN {offer}"))
        .with("version", version)
        .with("cipher", cipher)
        .with("alpn", alpn);
    if let Some(peer) = peer {
        let mut certificate = certificate::describe(peer);
        good.more.append(&mut certificate.more);
        good.lines.append(&mut certificate.lines);
    }
    good
}

/// Only of a server that was reached directly: through a proxy another one might be asked.
async fn second_look(problem: Problem, way: &Way<'_>, settings: &Settings) -> Problem {
    match way.address {
        Some(address) => look::at_stream(problem, way.host, address, way.kind, settings).await,
        None => problem,
    }
}

/// Shows the certificate that was refused.
async fn with_certificate(problem: Problem, way: &Way<'_>, settings: &Settings) -> Problem {
    let is_about_it = matches!(
        problem.kind,
        Kind::CertificateName
            | Kind::CertificateExpired
            | Kind::CertificateNotYetValid
            | Kind::CertificateIssuer
            | Kind::Certificate
    );
    let Some(address) = way.address.filter(|_| is_about_it) else {
        return problem;
    };
    let peer = look::certificate(way.host, address, way.kind, settings).await;
    match peer.map(|peer| certificate::describe(&peer)) {
        Some(shown) => Problem {
            more: shown.more,
            lines: shown.lines,
            ..problem
        },
        None => problem,
    }
}

async fn datagram(
    way: &Way<'_>,
    settings: &Settings,
    report: &mut Report,
) -> io::Result<Option<ClientTransport>> {
    let Some(address) = way.address else {
        return Ok(None);
    };
    let start = Instant::now();
    let mut target = settings.dtls_target(way.host, address);
    target.transport = way.kind;
    let result = connect(&target, settings.security.as_ref(), &settings.connect).await;
    let transport = match result {
        Ok(transport) => transport,
        Err(error) => {
            let problem = with_certificate(error.into(), way, settings).await;
            let step = if way.kind == TransportKind::Dtls {
                StepName::Dtls
            } else {
                StepName::Configure
            };
            report.step(step, way.subject(), start, Err(problem))?;
            return Ok(None);
        }
    };
    if let ClientTransport::Datagram(datagram) = &transport
        && let Some(info) = datagram.dtls_info()
    {
        let good = agreed("DTLSv1.2", info.cipher, info.alpn, info.peer.as_ref());
        report.step(StepName::Dtls, way.subject(), start, Ok(good))?;
    }
    Ok(Some(transport))
}
