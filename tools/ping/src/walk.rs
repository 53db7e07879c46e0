//! The way to one server.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{net::TcpStream, time::timeout};
use tsc_cli::stop::Stop;
use tsc_osaa::{
    client::{ClientTransport, Host, TransportKind, connect},
    resolve::{Candidate, Source, resolve},
    socket::StreamOptions,
    stream::StreamTransport,
};

use crate::{
    certificate,
    link::Link,
    look, measure,
    problem::{Kind, Problem},
    proxy,
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
    address: SocketAddr,
    kind: TransportKind,
    /// Whether what the tunnel can do is measured, too.
    thorough: bool,
}

/// Takes all steps for one URL.
pub(crate) async fn walk(
    target: &Target,
    settings: &Settings,
    stop: &Stop,
    report: &mut Report,
) -> io::Result<()> {
    let start = Instant::now();
    let kind = target.transport;
    let found = resolve(&target.host, target.port, kind, &settings.resolve).await;
    let candidates = match found {
        Ok(candidates) => candidates,
        Err(error) => {
            return report.step(StepName::Resolve, &target.host, start, Err(error.into()));
        }
    };
    let good = describe(&candidates, target.port.is_some());
    report.step(StepName::Resolve, &target.host, start, Ok(good))?;
    let has_proxy = settings.proxy.is_some() && kind.is_stream();
    let mut worked = None;
    for candidate in &candidates {
        if is_stopped(stop).await {
            return Ok(());
        }
        let address = candidate.address;
        if worked.is_none() {
            let way = Way {
                host: &target.host,
                address,
                kind,
                thorough: true,
            };
            if visit(&way, settings, stop, report).await? {
                report.set_possible();
                worked = Some(address);
            }
        } else if kind.is_stream() && !has_proxy {
            // Whether it could be reached, too.
            drop(tcp(address, settings, report).await?);
        }
    }
    let besides = match kind {
        TransportKind::Tcp => TransportKind::Udp,
        TransportKind::Tls => TransportKind::Dtls,
        TransportKind::Udp | TransportKind::Dtls => return Ok(()),
    };
    let first = candidates.first().map(|candidate| candidate.address);
    if !settings.only
        && !is_stopped(stop).await
        && let Some(address) = worked.or(first)
    {
        report.besides(besides)?;
        let way = Way {
            host: &target.host,
            address,
            kind: besides,
            thorough: false,
        };
        visit(&way, settings, stop, report).await?;
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
            report.step(StepName::Configure, way.address, start, Ok(good))?;
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
                problem = look::at_stream(problem, way.host, way.address, way.kind, settings).await;
            }
            report.step(StepName::Configure, way.address, start, Err(problem))?;
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
    report.step(StepName::Release, way.address, start, released)?;
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
        report.step(StepName::Keepalive, way.address, start, result)?;
    } else {
        report.skip(StepName::Keepalive, way.address, "not asked for")?;
    }
    if way.kind.is_stream() {
        return report.skip(StepName::Mtu, way.address, "on streams TCP sees to that");
    }
    if settings.mtu == 0 {
        return report.skip(StepName::Mtu, way.address, "not asked for");
    }
    if !alive {
        return report.skip(StepName::Mtu, way.address, "nothing gets through");
    }
    let start = Instant::now();
    let result = measure::mtu(link, tunnel, &trips, settings).await;
    report.step(StepName::Mtu, way.address, start, result)
}

async fn tcp(
    address: SocketAddr,
    settings: &Settings,
    report: &mut Report,
) -> io::Result<Option<TcpStream>> {
    let start = Instant::now();
    let result = match timeout(settings.timeout, TcpStream::connect(address)).await {
        Ok(result) => result.map_err(Problem::from),
        Err(_) => Err(Problem::timeout(settings.timeout)),
    };
    let (stream, told) = match result {
        Ok(stream) => (Some(stream), Ok(Good::new("connected"))),
        Err(problem) => (None, Err(problem)),
    };
    report.step(StepName::Tcp, address, start, told)?;
    Ok(stream)
}

/// To the server, or to the first address of the proxy that takes us, and from there to the server.
async fn connected(
    way: &Way<'_>,
    settings: &Settings,
    report: &mut Report,
) -> io::Result<Option<TcpStream>> {
    let Some(through) = &settings.proxy else {
        return tcp(way.address, settings, report).await;
    };
    let start = Instant::now();
    let port = Some(through.port);
    let found = resolve(&through.host, port, TransportKind::Tcp, &settings.resolve).await;
    let candidates = match found {
        Ok(candidates) => candidates,
        Err(error) => {
            report.step(StepName::Proxy, through, start, Err(error.into()))?;
            return Ok(None);
        }
    };
    for candidate in candidates {
        let Some(mut stream) = tcp(candidate.address, settings, report).await? else {
            continue;
        };
        let start = Instant::now();
        let until = settings.deadline();
        let result = proxy::connect(&mut stream, way.address, until).await;
        let is_ok = result.is_ok();
        let told = result.map(|line| Good::new(format!("connects to {} ({line})", way.address)));
        report.step(StepName::Proxy, through, start, told)?;
        return Ok(is_ok.then_some(stream));
    }
    Ok(None)
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
                report.step(StepName::Configure, way.address, Instant::now(), told)?;
                Ok(None)
            }
        };
    };
    let start = Instant::now();
    let name = settings.name_of(way.host);
    let handshake = StreamTransport::tls_client(socket, security, name, &options);
    let result = match timeout(settings.timeout, handshake).await {
        Ok(result) => result.map_err(Problem::from),
        Err(_) => Err(Problem::timeout(settings.timeout)),
    };
    let stream = match result {
        Ok(stream) => stream,
        Err(problem) => {
            let problem = look::at_stream(problem, way.host, way.address, way.kind, settings).await;
            let problem = with_certificate(problem, way, settings).await;
            report.step(StepName::Tls, way.address, start, Err(problem))?;
            return Ok(None);
        }
    };
    let mut good = Good::new("done");
    if let Some(info) = stream.tls_info() {
        let alpn = if info.alpn { "tscf" } else { "not offered" };
        good = Good::new(format!("{}, {}, ALPN {alpn}", info.version, info.cipher))
            .with("version", info.version)
            .with("cipher", info.cipher)
            .with("alpn", info.alpn);
        if let Some(peer) = &info.peer {
            let mut certificate = certificate::describe(peer);
            good.more.append(&mut certificate.more);
            good.lines.append(&mut certificate.lines);
        }
    }
    report.step(StepName::Tls, way.address, start, Ok(good))?;
    Ok(Some(ClientTransport::Stream(stream)))
}

/// Shows the certificate that was refused. Through a proxy another server might be asked.
async fn with_certificate(problem: Problem, way: &Way<'_>, settings: &Settings) -> Problem {
    let is_about_it = matches!(
        problem.kind,
        Kind::CertificateName
            | Kind::CertificateExpired
            | Kind::CertificateNotYetValid
            | Kind::CertificateIssuer
            | Kind::Certificate
    );
    if !is_about_it || settings.proxy.is_some() {
        return problem;
    }
    let peer = look::certificate(way.host, way.address, way.kind, settings).await;
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
    let start = Instant::now();
    let mut target = settings.dtls_target(way.host, way.address);
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
            report.step(step, way.address, start, Err(problem))?;
            return Ok(None);
        }
    };
    if let ClientTransport::Datagram(datagram) = &transport
        && let Some(info) = datagram.dtls_info()
    {
        let alpn = if info.alpn { "tscf" } else { "not offered" };
        let cipher = info.cipher.unwrap_or("cipher suite not told");
        let mut good = Good::new(format!("DTLSv1.2, {cipher}, ALPN {alpn}"))
            .with("cipher", info.cipher)
            .with("alpn", info.alpn);
        if let Some(peer) = &info.peer {
            let mut certificate = certificate::describe(peer);
            good.more.append(&mut certificate.more);
            good.lines.append(&mut certificate.lines);
        }
        report.step(StepName::Dtls, way.address, start, Ok(good))?;
    }
    Ok(Some(transport))
}
