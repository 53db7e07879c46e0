//! Getting there.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use socket2::Type;
use tokio::{
    net::{TcpSocket, TcpStream, lookup_host},
    time::timeout,
};
use tracing::debug;

use super::{
    ClientTransport, ConnectError, DatagramTransport, Host, Target, TransportKind,
    datagram::HandshakeError, proxied,
};
use crate::{
    cert::ClientSecurity,
    datagram::{DatagramOptions, DatagramSocket},
    dtls::{DtlsBackendKind, DtlsClientConfig, DtlsConfigError, DtlsOptions},
    proxy::ProxySettings,
    socket::{PortSharing, StreamOptions, bound},
    stream::StreamTransport,
};

/// Most addresses of one name that are tried.
pub const MAX_ADDRESSES: usize = 8;

/// How [`connect`] goes about it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ConnectOptions {
    /// For everything: resolution, all addresses, handshakes. Default 15 s.
    pub timeout: Duration,
    /// For one address while others remain; the last one gets all that is left. Default 5 s.
    pub attempt_timeout: Duration,
    /// Local address to connect from; only server addresses of its family are tried. Port 0 lets the system choose.
    pub bind: Option<SocketAddr>,
    /// The way to targets over TCP and TLS leads through a proxy; UDP and DTLS are refused where one applies. Default:
    /// none.
    pub proxy: ProxySettings,
    /// For TCP and TLS.
    pub stream: StreamOptions,
    /// For UDP and DTLS.
    pub datagram: DatagramOptions,
    /// The DTLS library; `None` is the preferred one of this build.
    pub dtls_backend: Option<DtlsBackendKind>,
    /// For DTLS. The handshake timeout is lowered to what is left.
    pub dtls: DtlsOptions,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(15),
            attempt_timeout: Duration::from_secs(5),
            bind: None,
            proxy: ProxySettings::direct(),
            stream: StreamOptions::client(),
            datagram: DatagramOptions::client(),
            dtls_backend: None,
            dtls: DtlsOptions::default(),
        }
    }
}

/// Connects to a target. A UDP transport is ready at once, as no packet has been sent; whether anybody
/// listens shows later ([`ClientTransport::is_refused`]). The future may be dropped at any time.
///
/// # Errors
/// Why it was not possible, for the last address tried.
pub async fn connect(
    target: &Target,
    security: Option<&ClientSecurity>,
    options: &ConnectOptions,
) -> Result<ClientTransport, ConnectError> {
    let kind = target.transport;
    if kind.is_protected() && security.is_none() {
        return Err(ConnectError::NoSecurity(kind));
    }
    if let Some(proxy) = options.proxy.for_target(&target.host, target.port) {
        return proxied::connect(proxy, target, security, options).await;
    }
    let start = Instant::now();
    let left = || options.timeout.saturating_sub(start.elapsed());
    let addresses = resolve(target, options).await?;
    let mut failure = ConnectError::NoAddress {
        host: target.host.to_string(),
    };
    for (tried, address) in addresses.iter().enumerate() {
        let is_last = tried + 1 == addresses.len();
        let limit = if is_last {
            left()
        } else {
            left().min(options.attempt_timeout)
        };
        let attempt = attempt(target, *address, security, options, limit);
        let timed_out = ConnectError::Timeout {
            address: *address,
            limit,
        };
        match timeout(limit, attempt).await.unwrap_or(Err(timed_out)) {
            Ok(transport) => return Ok(transport),
            Err(error) => {
                debug!(%target, %address, %error, "cannot connect");
                let go_on = error.is_about_the_address() && !left().is_zero();
                failure = error;
                if !go_on {
                    break;
                }
            }
        }
    }
    Err(failure)
}

async fn resolve(
    target: &Target,
    options: &ConnectOptions,
) -> Result<Vec<SocketAddr>, ConnectError> {
    let name = match &target.host {
        Host::Address(address) => return Ok(vec![SocketAddr::new(*address, target.port)]),
        Host::Name(name) => name.as_ref(),
    };
    let fail = |source| ConnectError::Resolve {
        host: name.to_owned(),
        source,
    };
    let found = timeout(options.timeout, lookup_host((name, target.port)))
        .await
        .map_err(|_| fail(io::ErrorKind::TimedOut.into()))?
        .map_err(fail)?;
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for address in found {
        let fits = options
            .bind
            .is_none_or(|bind| bind.is_ipv4() == address.is_ipv4());
        if fits && addresses.len() < MAX_ADDRESSES && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

async fn attempt(
    target: &Target,
    address: SocketAddr,
    security: Option<&ClientSecurity>,
    options: &ConnectOptions,
    limit: Duration,
) -> Result<ClientTransport, ConnectError> {
    match (target.transport, security) {
        (TransportKind::Tcp, _) => {
            let socket = connect_tcp(address, options).await?;
            let stream = StreamTransport::plain(socket, &options.stream)
                .map_err(|e| ConnectError::from_io(address, e))?;
            Ok(ClientTransport::Stream(stream))
        }
        (TransportKind::Tls, Some(security)) => {
            let socket = connect_tcp(address, options).await?;
            let name = target.verified_name();
            StreamTransport::tls_client(socket, security, name, &options.stream)
                .await
                .map(ClientTransport::Stream)
                .map_err(|e| ConnectError::from_stream(address, e))
        }
        (TransportKind::Udp, _) => {
            let socket = connect_udp(address, options)?;
            let datagram = DatagramTransport::plain(socket, address);
            Ok(ClientTransport::Datagram(Box::new(datagram)))
        }
        (TransportKind::Dtls, Some(security)) => {
            connect_dtls(target, address, security, options, limit).await
        }
        (kind @ (TransportKind::Tls | TransportKind::Dtls), None) => {
            Err(ConnectError::NoSecurity(kind))
        }
    }
}

async fn connect_tcp(
    address: SocketAddr,
    options: &ConnectOptions,
) -> Result<TcpStream, ConnectError> {
    let fail = |e| ConnectError::from_io(address, e);
    let socket = match options.bind {
        Some(local) => {
            let socket = bound(Type::STREAM, local, PortSharing::Alone).map_err(|source| {
                ConnectError::Bind {
                    address: local,
                    source,
                }
            })?;
            TcpSocket::from_std_stream(socket.into())
        }
        None if address.is_ipv4() => TcpSocket::new_v4().map_err(fail)?,
        None => TcpSocket::new_v6().map_err(fail)?,
    };
    socket.connect(address).await.map_err(fail)
}

fn connect_udp(
    address: SocketAddr,
    options: &ConnectOptions,
) -> Result<DatagramSocket, ConnectError> {
    DatagramSocket::connect(address, options.bind, &options.datagram).map_err(
        |source| match options.bind {
            Some(local)
                if matches!(
                    source.kind(),
                    io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable
                ) =>
            {
                ConnectError::Bind {
                    address: local,
                    source,
                }
            }
            _ => ConnectError::from_io(address, source),
        },
    )
}

async fn connect_dtls(
    target: &Target,
    address: SocketAddr,
    security: &ClientSecurity,
    options: &ConnectOptions,
    limit: Duration,
) -> Result<ClientTransport, ConnectError> {
    let backend = options
        .dtls_backend
        .or_else(DtlsBackendKind::preferred)
        .ok_or(ConnectError::DtlsConfig(DtlsConfigError::Unavailable(
            DtlsBackendKind::OpenSsl,
        )))?;
    let mut settings = options.dtls.clone();
    settings.handshake_timeout = settings.handshake_timeout.min(limit);
    let session = DtlsClientConfig::new(backend, security, &settings)
        .and_then(|config| config.connect(Instant::now(), &target.verified_name()))
        .map_err(ConnectError::DtlsConfig)?;
    let socket = connect_udp(address, options)?;
    DatagramTransport::dtls(socket, address, session)
        .await
        .map(|datagram| ClientTransport::Datagram(Box::new(datagram)))
        .map_err(|error| match error {
            HandshakeError::Dtls {
                error,
                certificate_asked,
            } => {
                let owes_certificate = certificate_asked && security.identity().is_none();
                ConnectError::from_dtls(address, limit, error, owes_certificate)
            }
            HandshakeError::Refused => ConnectError::Refused { address },
            HandshakeError::Io(error) => ConnectError::from_io(address, error),
        })
}
