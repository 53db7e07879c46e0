//! Why a TLS connection failed, by whose decision.

use rustls::{AlertDescription, Error, InvalidMessage};

use crate::{cert::CertificateError, dtls::Alert};

/// Why a TLS handshake or connection failed. Every variant is final for the connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// We do not accept the peer's certificate.
    #[error("peer's certificate rejected: {0}")]
    Certificate(#[source] CertificateError),
    /// The peer ended the connection by a fatal alert. With TLS 1.3 a client learns only after its handshake that
    /// the server refuses its certificate.
    #[error("refused by the peer: alert {alert}{}", alert.hint())]
    Alert {
        /// What the peer sent.
        alert: Alert,
    },
    /// The peer offered or chose only application protocols other than `tscf` (spec 8.4).
    #[error("the peer does not speak the application protocol tscf")]
    Alpn,
    /// What the peer sent is not TLS at all.
    #[error("the peer does not speak TLS")]
    NotTls,
    /// No common version, cipher suite, group or signature scheme. The text names what is missing.
    #[error("no common TLS parameters: {0}")]
    Incompatible(String),
    /// The peer's handshake is longer than we buffer before it is authenticated.
    #[error("the peer's handshake exceeds {limit} bytes")]
    HandshakeTooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The connection ended in the middle of the handshake.
    #[error("the connection was closed during the TLS handshake")]
    ClosedInHandshake,
    /// The peer violated the protocol, or the data was changed on its way.
    #[error("TLS protocol failure: {0}")]
    Protocol(String),
    /// The library failed in itself.
    #[error("TLS library failure: {0}")]
    Library(String),
}

impl TlsError {
    /// `role` is the peer's: "server" or "client".
    #[allow(clippy::wildcard_enum_match_arm, reason = "a foreign enum that grows")]
    pub(crate) fn from_rustls(error: Error, role: &'static str) -> Self {
        match error {
            Error::InvalidCertificate(error) => {
                Self::Certificate(CertificateError::from_certificate(error, role))
            }
            Error::NoCertificatesPresented => Self::Certificate(CertificateError::Missing),
            Error::AlertReceived(AlertDescription::NoApplicationProtocol)
            | Error::NoApplicationProtocol => Self::Alpn,
            Error::AlertReceived(alert) => Self::Alert {
                alert: Alert(u8::from(alert)),
            },
            Error::PeerIncompatible(why) => Self::Incompatible(format!("{why:?}")),
            Error::PeerMisbehaved(rustls::PeerMisbehaved::SelectedUnofferedApplicationProtocol) => {
                Self::Alpn
            }
            Error::InvalidMessage(
                InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
            ) => Self::NotTls,
            Error::FailedToGetCurrentTime
            | Error::FailedToGetRandomBytes
            | Error::General(_)
            | Error::EncryptError
            | Error::HandshakeNotComplete => Self::Library(error.to_string()),
            other => Self::Protocol(other.to_string()),
        }
    }
}
