//! Why a transport could not be had, and why it ended.

use std::{io, net::SocketAddr, time::Duration};

use crate::{
    cert::{CertificateError, CredentialError},
    dtls::{Alert, DtlsConfigError, DtlsError},
    proxy::ProxyError,
    resolve::ResolveError,
    stream::StreamError,
    tls::TlsError,
};

/// Why [`connect`](super::connect) failed. With several addresses it is the last one's reason, except that a
/// rejected certificate ends the search.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// TLS or DTLS without security settings.
    #[error("{0} needs security settings")]
    NoSecurity(super::TransportKind),
    /// Our own certificates cannot be used.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    /// Where the server is could not be found out.
    #[error(transparent)]
    Lookup(#[from] ResolveError),
    /// The name could not be resolved.
    #[error("cannot resolve {host}: {source}")]
    Resolve {
        /// The name.
        host: String,
        /// The resolver's report.
        #[source]
        source: io::Error,
    },
    /// The name has no address, or none of the family that the bind address allows.
    #[error("{host} has no usable address")]
    NoAddress {
        /// The name.
        host: String,
    },
    /// Nobody listens there, or a firewall says so.
    #[error("{address} refused the connection")]
    Refused {
        /// The server.
        address: SocketAddr,
    },
    /// There is no route to it.
    #[error("{address} is unreachable")]
    Unreachable {
        /// The server.
        address: SocketAddr,
    },
    /// No connection, or no finished handshake, in time.
    #[error("no answer from {address} within {limit:.1?}")]
    Timeout {
        /// The server.
        address: SocketAddr,
        /// What it was given.
        limit: Duration,
    },
    /// The local address cannot be used.
    #[error("cannot use the local address {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The system's report.
        #[source]
        source: io::Error,
    },
    /// We do not accept the server's certificate. Never worth an automatic retry.
    #[error("server certificate rejected: {0}")]
    Certificate(#[source] CertificateError),
    /// The server does not accept our certificate, or wants one and got none. Never worth an automatic retry.
    #[error("the server refused this client's certificate: alert {0}{hint}", hint = certificate_hint(*.0))]
    ClientCertificate(Alert),
    /// The server ended the handshake by an alert about something else.
    #[error("the server refused the handshake: alert {0}{hint}", hint = .0.hint())]
    Alert(Alert),
    /// The server does not speak the application protocol `tscf`.
    #[error("the server does not speak the application protocol tscf")]
    Alpn,
    /// The TLS handshake failed otherwise.
    #[error("TLS handshake failed: {0}")]
    Tls(#[source] TlsError),
    /// DTLS cannot be used as configured.
    #[error(transparent)]
    DtlsConfig(DtlsConfigError),
    /// The DTLS handshake failed otherwise.
    #[error("DTLS handshake failed: {0}")]
    Dtls(#[source] DtlsError),
    /// The proxy on the way.
    #[error(transparent)]
    Proxy(ProxyError),
    /// A proxy is set for this target, and it cannot carry datagrams. Nothing goes around it: take TCP or TLS, or except the
    /// server from the proxy ([`NoProxy`](crate::proxy::NoProxy)).
    #[error("a proxy is set for this server, and no proxy carries {0}")]
    ProxyNeedsStream(super::TransportKind),
    /// Anything else the operating system reports.
    #[error("cannot connect to {address}: {source}")]
    Io {
        /// The server.
        address: SocketAddr,
        /// The report.
        #[source]
        source: io::Error,
    },
}

impl ConnectError {
    /// Whether another address of the same server may do better.
    pub(super) fn is_about_the_address(&self) -> bool {
        match self {
            Self::Refused { .. }
            | Self::Unreachable { .. }
            | Self::Timeout { .. }
            | Self::Bind { .. }
            | Self::ClientCertificate(_)
            | Self::Alert(_)
            | Self::Alpn
            | Self::Tls(_)
            | Self::Dtls(_)
            | Self::Io { .. } => true,
            Self::NoSecurity(_)
            | Self::Credentials(_)
            | Self::Lookup(_)
            | Self::Resolve { .. }
            | Self::NoAddress { .. }
            | Self::Certificate(_)
            | Self::DtlsConfig(_)
            | Self::Proxy(_)
            | Self::ProxyNeedsStream(_) => false,
        }
    }

    #[allow(clippy::wildcard_enum_match_arm, reason = "a foreign enum that grows")]
    pub(super) fn from_io(address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused { address },
            io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkDown => Self::Unreachable { address },
            _ => Self::Io { address, source },
        }
    }

    pub(super) fn from_stream(address: SocketAddr, error: StreamError) -> Self {
        match error {
            StreamError::Tls(TlsError::Certificate(error)) => Self::Certificate(error),
            StreamError::Tls(TlsError::Alert { alert }) => Self::from_alert(alert),
            StreamError::Tls(TlsError::Alpn) => Self::Alpn,
            StreamError::Tls(error) => Self::Tls(error),
            StreamError::Io(error) => Self::from_io(address, error),
            other @ (StreamError::Closed
            | StreamError::Truncated
            | StreamError::Ended
            | StreamError::BufferTooSmall { .. }) => {
                Self::from_io(address, io::Error::other(other.to_string()))
            }
        }
    }

    /// What an alert from the server means, during the handshake or, with TLS 1.3, right after it.
    #[must_use]
    pub const fn from_alert(alert: Alert) -> Self {
        if alert.is_about_our_certificate() {
            Self::ClientCertificate(alert)
        } else {
            Self::Alert(alert)
        }
    }

    /// `owes_certificate`: the server asked for a certificate and we had none to send.
    pub(super) fn from_dtls(
        address: SocketAddr,
        limit: Duration,
        error: DtlsError,
        owes_certificate: bool,
    ) -> Self {
        match error {
            DtlsError::Certificate(error) => Self::Certificate(error),
            // RFC 5246, 7.4.6: so a server of version 1.2 says that a certificate is required.
            DtlsError::Alert(alert @ Alert::HANDSHAKE_FAILURE) if owes_certificate => {
                Self::ClientCertificate(alert)
            }
            DtlsError::Alert(alert) => Self::from_alert(alert),
            DtlsError::Alpn => Self::Alpn,
            DtlsError::HandshakeTimeout => Self::Timeout { address, limit },
            other @ (DtlsError::Protocol(_)
            | DtlsError::PeerClosed
            | DtlsError::LocalClosed
            | DtlsError::Evicted
            | DtlsError::Replaced
            | DtlsError::Backend(_)) => Self::Dtls(other),
        }
    }
}

fn certificate_hint(alert: Alert) -> &'static str {
    match alert {
        Alert::HANDSHAKE_FAILURE => Alert::CERTIFICATE_REQUIRED.hint(),
        other => other.hint(),
    }
}

/// Why a [`ClientTransport`](super::ClientTransport) ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// A stream ended.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// A DTLS association ended.
    #[error(transparent)]
    Dtls(#[from] DtlsError),
    /// The UDP socket is broken.
    #[error("datagram socket failed: {0}")]
    Io(#[from] io::Error),
    /// It had ended before; its first error was reported then.
    #[error("the transport has ended")]
    Ended,
}

impl TransportError {
    /// Whether the peer ended it in order.
    #[must_use]
    pub fn is_orderly(&self) -> bool {
        matches!(
            self,
            Self::Stream(StreamError::Closed) | Self::Dtls(DtlsError::PeerClosed)
        )
    }
}
