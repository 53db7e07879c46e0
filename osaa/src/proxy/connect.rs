//! Getting to a proxy, and through it.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls_pki_types::ServerName;
use socket2::Type;
use tokio::{
    net::{TcpSocket, TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tracing::debug;

use super::{Proxy, ProxyError, ProxyScheme, config::authority, dialogue::Dialogue};
use crate::{
    client::{Host, MAX_ADDRESSES},
    socket::{PortSharing, bound},
    stream::Socket,
    tls::TlsError,
};

/// For one address of a proxy while others remain.
const ATTEMPT: Duration = Duration::from_secs(5);

/// Opens a tunnel through a proxy to `host` and `port`, within `limit` for everything: resolution of the proxy's name, its
/// addresses, TLS, all of the dialogue, and what a [`CredentialSource`](super::CredentialSource) takes. `bind` is the local
/// address; only addresses of the proxy of its family are tried. The future may be dropped at any time.
///
/// # Errors
/// Why there is no tunnel.
pub async fn connect(
    proxy: &Proxy,
    host: &Host,
    port: u16,
    bind: Option<SocketAddr>,
    limit: Duration,
) -> Result<Socket, ProxyError> {
    let opener = Opener {
        proxy,
        bind,
        end: Instant::now() + limit,
    };
    let dialogue = Dialogue::new(proxy, authority(host, port));
    timeout(limit, dialogue.run(&opener))
        .await
        .unwrap_or(Err(ProxyError::Timeout { limit }))
}

/// Makes connections to a proxy.
pub(super) struct Opener<'a> {
    proxy: &'a Proxy,
    bind: Option<SocketAddr>,
    end: Instant,
}

impl Opener<'_> {
    /// A connection, under TLS if the proxy is spoken to so.
    pub(super) async fn open(&self) -> Result<Socket, ProxyError> {
        let socket = self.open_tcp().await?;
        // Requests are small and waited for.
        socket.set_nodelay(true).map_err(ProxyError::Io)?;
        match self.proxy.scheme() {
            ProxyScheme::Http => Ok(Socket::to_proxy(socket)),
            ProxyScheme::Https => self.open_tls(socket).await,
        }
    }

    async fn open_tcp(&self) -> Result<TcpStream, ProxyError> {
        let addresses = self.resolve().await?;
        let mut failure = ProxyError::NoAddress {
            host: self.proxy.host().to_string(),
        };
        for (tried, address) in addresses.iter().enumerate() {
            let left = self.end.saturating_duration_since(Instant::now());
            let limit = if tried + 1 == addresses.len() {
                left
            } else {
                left.min(ATTEMPT)
            };
            let attempt = timeout(limit, self.open_address(*address)).await;
            match attempt.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(socket) => return Ok(socket),
                Err(source) => {
                    debug!(proxy = %self.proxy, %address, %source, "cannot connect to the proxy");
                    failure = ProxyError::Connect {
                        address: *address,
                        source,
                    };
                }
            }
        }
        Err(failure)
    }

    async fn open_address(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let socket = match self.bind {
            Some(local) => {
                let socket = bound(Type::STREAM, local, PortSharing::Alone)?;
                TcpSocket::from_std_stream(socket.into())
            }
            None if address.is_ipv4() => TcpSocket::new_v4()?,
            None => TcpSocket::new_v6()?,
        };
        socket.connect(address).await
    }

    async fn resolve(&self) -> Result<Vec<SocketAddr>, ProxyError> {
        let port = self.proxy.port();
        let name = match self.proxy.host() {
            Host::Address(address) => return Ok(vec![SocketAddr::new(*address, port)]),
            Host::Name(name) => name.as_ref(),
        };
        let found = lookup_host((name, port))
            .await
            .map_err(|source| ProxyError::Resolve {
                host: name.to_owned(),
                source,
            })?;
        let mut addresses = Vec::new();
        for address in found {
            let fits = self
                .bind
                .is_none_or(|bind| bind.is_ipv4() == address.is_ipv4());
            if fits && addresses.len() < MAX_ADDRESSES && !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        Ok(addresses)
    }

    async fn open_tls(&self, socket: TcpStream) -> Result<Socket, ProxyError> {
        let security = self.proxy.security().map_err(ProxyError::Trust)?;
        let mut config = rustls::ClientConfig::clone(security.config());
        // The name of the tunnel's protocol is for the server behind.
        config.alpn_protocols.clear();
        let name: ServerName<'static> = self.proxy.host().server_name();
        let stream = TlsConnector::from(Arc::new(config))
            .connect(name, socket)
            .await
            .map_err(from_handshake)?;
        Ok(Socket::tls(stream))
    }
}

fn from_handshake(error: io::Error) -> ProxyError {
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(inner) => match TlsError::from_rustls(inner.clone(), "server") {
            TlsError::Certificate(error) => ProxyError::Certificate(error),
            other @ (TlsError::Alert { .. }
            | TlsError::Alpn
            | TlsError::NotTls
            | TlsError::Incompatible(_)
            | TlsError::HandshakeTooLarge { .. }
            | TlsError::ClosedInHandshake
            | TlsError::Protocol(_)
            | TlsError::Library(_)) => ProxyError::Tls(other),
        },
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            ProxyError::Tls(TlsError::ClosedInHandshake)
        }
        None => ProxyError::Io(error),
    }
}
