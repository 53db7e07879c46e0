//! Getting there through a proxy, which resolves the target's name and tries its addresses.

use std::time::Instant;

use tokio::time::timeout;

use super::{ClientTransport, ConnectError, ConnectOptions, Target, TransportKind};
use crate::{
    cert::ClientSecurity,
    proxy::{self, Proxy, ProxyError},
    stream::StreamTransport,
};

/// Errors that come with an address have the proxy's.
pub(super) async fn connect(
    proxy: &Proxy,
    target: &Target,
    security: Option<&ClientSecurity>,
    options: &ConnectOptions,
) -> Result<ClientTransport, ConnectError> {
    let kind = target.transport;
    if !kind.is_stream() {
        return Err(ConnectError::ProxyNeedsStream(kind));
    }
    let limit = options.timeout;
    let end = Instant::now() + limit;
    let socket = proxy::connect(proxy, &target.host, target.port, options.bind, limit)
        .await
        .map_err(ConnectError::Proxy)?;
    let address = socket
        .peer_addr()
        .map_err(|error| ConnectError::Proxy(ProxyError::Io(error)))?;
    let stream = match (kind, security) {
        (TransportKind::Tls, Some(security)) => {
            let name = target.verified_name();
            let handshake = StreamTransport::tls_client(socket, security, name, &options.stream);
            timeout(end.saturating_duration_since(Instant::now()), handshake)
                .await
                .map_err(|_| ConnectError::Timeout { address, limit })?
                .map_err(|error| ConnectError::from_stream(address, error))?
        }
        (TransportKind::Tcp, _) => StreamTransport::plain(socket, &options.stream)
            .map_err(|error| ConnectError::from_io(address, error))?,
        (TransportKind::Tls | TransportKind::Udp | TransportKind::Dtls, _) => {
            return Err(ConnectError::NoSecurity(kind));
        }
    };
    Ok(ClientTransport::Stream(stream))
}
