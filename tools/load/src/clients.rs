//! Clients made ready: protocol by transport, opened at a rate, and joined by calls.

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use tsc_csm::Transport;
use tsc_osaa::cert::{ALPN, ClientSecurity, PemSource, Roots, Trust};
use tsc_osaa::dtls::{DtlsBackendKind, DtlsClientConfig, DtlsOptions};

use crate::clock::monotonic_ns;
use crate::engine::{Dialect, Engine, Protocol, Security};
use crate::pacing::Schedule;
use crate::traffic::FarEnd;

/// What tunnels over a transport need.
///
/// # Errors
///
/// Certificates cannot be used, or there is no DTLS in this build.
pub fn protocol(
    transport: Transport,
    server: SocketAddr,
    name: Option<&str>,
    authority: &str,
) -> anyhow::Result<Protocol> {
    let alpn = vec![ALPN.to_vec()];
    Ok(Protocol {
        security: security(transport, server, name, authority, alpn)?,
        dialect: Dialect::Tunnel,
    })
}

/// What a transport needs. With TLS the clients offer the protocols of `alpn`.
///
/// # Errors
///
/// As [`protocol`].
pub fn security(
    transport: Transport,
    server: SocketAddr,
    name: Option<&str>,
    authority: &str,
    alpn: Vec<Vec<u8>>,
) -> anyhow::Result<Security> {
    let server_name = match name {
        Some(name) => ServerName::try_from(name.to_owned())?,
        None => ServerName::from(server.ip()),
    };
    Ok(match transport {
        Transport::Tcp => Security::Tcp,
        Transport::Udp => Security::Udp,
        Transport::Tls => Security::Tls(tls(authority, alpn)?, server_name),
        Transport::Dtls => {
            let roots = Roots::from_pem(&PemSource::Memory(authority.as_bytes().to_vec()))?;
            let security = ClientSecurity::new(Trust::Roots(roots), None)?;
            let backend = DtlsBackendKind::preferred().context("this build has no DTLS")?;
            let options = DtlsOptions {
                handshake_timeout: Duration::from_secs(60),
                // Else all but the first would be the same client that comes again.
                resumption: false,
                ..DtlsOptions::default()
            };
            let config = DtlsClientConfig::new(backend, &security, &options)?;
            Security::Dtls(config, server_name)
        }
    })
}

/// As `osaa` sets its clients up, but each is a new one: no resumption.
fn tls(authority: &str, alpn: Vec<Vec<u8>>) -> anyhow::Result<Arc<rustls::ClientConfig>> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn;
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// How clients are opened.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    /// How many; the first ones.
    pub clients: u32,
    /// Clients a second, at most.
    pub per_second: u64,
    /// Set-ups in progress at the same time, at most.
    pub parallel: u64,
    /// All of it may take so long.
    pub limit: Duration,
}

/// Opens clients; how long it took.
///
/// # Errors
///
/// Some did not come up; why the last of them did not.
pub fn open(
    engine: &mut Engine,
    opening: &Opening,
    mut progress: impl FnMut(u64),
) -> anyhow::Result<Duration> {
    let begun = monotonic_ns();
    let limit = u64::try_from(opening.limit.as_nanos()).unwrap_or(u64::MAX);
    let mut schedule = Schedule::new(begun, opening.per_second, 0);
    let all = opening.clients.min(engine.members());
    let mut next = 0;
    loop {
        let counters = engine.counters();
        let (up, down) = (counters.up, counters.down);
        if up >= u64::from(all) {
            return Ok(Duration::from_nanos(monotonic_ns() - begun));
        }
        if down > 0 || monotonic_ns() - begun > limit {
            let reason = engine.last_failure().unwrap_or("no failure was told");
            bail!("{up} of {all} clients came up, {down} were given up; last: {reason}");
        }
        while next < all
            && u64::from(next) < up + opening.parallel
            && schedule.take(monotonic_ns()).is_some()
        {
            engine.start(next);
            next += 1;
        }
        engine.turn(Some(Duration::from_millis(1)))?;
        progress(up);
    }
}

/// Lets all that the set-ups have left behind happen: confirmations and their answers.
///
/// # Errors
///
/// What the system says.
pub fn settle(engine: &mut Engine, time: Duration) -> io::Result<()> {
    let until = monotonic_ns() + u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    while monotonic_ns() < until {
        engine.turn(Some(Duration::from_millis(1)))?;
    }
    Ok(())
}

/// Calls between the first `members` tunnels: call `n` is made by tunnel `n` (counted around) and answered by its neighbour, so that all
/// tunnels carry the same. With `trunk` all calls go from tunnel 0 to tunnel 1.
///
/// # Errors
///
/// There are not two tunnels, or one has no IPv4 address.
pub fn call_each_other(
    engine: &mut Engine,
    members: u32,
    calls: u32,
    trunk: bool,
) -> anyhow::Result<()> {
    let pairs = if trunk { 1 } else { members / 2 };
    if pairs == 0 {
        bail!("calls between tunnels need at least two tunnels");
    }
    for call in 0..calls {
        let caller = if trunk { 0 } else { call % (pairs * 2) };
        let callee = caller ^ 1;
        let (Some(from), Some(to)) = (engine.address(caller), engine.address(callee)) else {
            bail!("tunnels {caller} and {callee} have no inner IPv4 addresses");
        };
        engine.traffic.add_call(caller, from, callee, to);
    }
    Ok(())
}

/// Calls from each of the first `members` tunnels to `fan` others, in such an order that one packet of each of a
/// tunnel's calls makes a train. That is cheap for the client. The callees of a train, and of trains near it, are far apart,
/// so the server has to send each packet on by itself: with many tunnels it hardly ever has two for one tunnel at a time.
///
/// # Errors
///
/// There are not two tunnels, or one has no IPv4 address.
pub fn call_around(engine: &mut Engine, members: u32, fan: u32) -> anyhow::Result<()> {
    if members < 2 {
        bail!("calls between tunnels need at least two tunnels");
    }
    let others = members - 1;
    let stride = (others / fan.max(1)).max(1);
    for caller in 0..members {
        for step in 0..fan {
            // Never to itself.
            let callee = (caller + 1 + (step * stride) % others) % members;
            let (Some(from), Some(to)) = (engine.address(caller), engine.address(callee)) else {
                bail!("tunnels {caller} and {callee} have no inner IPv4 addresses");
            };
            engine.traffic.add_call(caller, from, callee, to);
        }
    }
    Ok(())
}

/// Calls from tunnels to a reflector in the core.
///
/// # Errors
///
/// A tunnel has no IPv4 address.
pub fn call_core(engine: &mut Engine, calls: u32, reflector: SocketAddrV4) -> anyhow::Result<()> {
    for call in 0..calls {
        let caller = call % engine.members().max(1);
        let Some(from) = engine.address(caller) else {
            bail!("tunnel {caller} has no inner IPv4 address");
        };
        engine
            .traffic
            .add_flow(caller, from, FarEnd::Reflector(reflector), reflector);
    }
    Ok(())
}

/// The IPv4 form of a reflector's address.
///
/// # Errors
///
/// It is none.
pub fn ipv4(address: SocketAddr) -> anyhow::Result<SocketAddrV4> {
    match (address.ip(), address.port()) {
        (IpAddr::V4(ip), port) => Ok(SocketAddrV4::new(ip, port)),
        (IpAddr::V6(_), _) => bail!("{address} is no IPv4 address"),
    }
}
