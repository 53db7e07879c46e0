//! What can go wrong with a DTLS association, by whose fault it is and for which verb.

use std::fmt;

use crate::cert::CertificateError;

use super::DtlsBackendKind;

/// Why a DTLS association ended, or why its handshake did not finish.
///
/// Every variant is final: the session that reported it sends and delivers nothing more, except for
/// the alert that it may still have queued for transmission.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DtlsError {
    /// The handshake was not finished within
    /// [`DtlsOptions::handshake_timeout`](super::DtlsOptions::handshake_timeout): the peer is silent or the
    /// path loses too much.
    #[error("DTLS handshake not finished in time")]
    HandshakeTimeout,
    /// The peer's certificate is not acceptable to us (or is missing). The peer was told by a fatal alert.
    #[error("peer's certificate rejected: {0}")]
    Certificate(#[source] CertificateError),
    /// The peer refused us with a fatal alert, for instance because it does not accept our certificate.
    #[error("refused by the peer: alert {0}{hint}", hint = .0.hint())]
    Alert(Alert),
    /// The peer offered or chose an application protocol other than `tscf` (spec 8.4).
    #[error("peer's application protocol is not tscf")]
    Alpn,
    /// The peer violated the protocol, or has no cipher suite or signature scheme in common with us. The text
    /// is the library's reason and carries nothing chosen by the peer.
    #[error("DTLS protocol failure: {0}")]
    Protocol(String),
    /// The peer closed the association by a close_notify alert.
    #[error("closed by the peer")]
    PeerClosed,
    /// [`DtlsSession::close`](super::DtlsSession::close) was called and is complete.
    #[error("closed by this side")]
    LocalClosed,
    /// Too many handshakes were in progress; this one was the oldest.
    #[error("handshake evicted, too many in progress")]
    Evicted,
    /// A newer handshake from the same peer address took its place: of an association when it had finished, of a
    /// handshake in progress when the peer started over.
    #[error("replaced by a newer handshake from the same peer address")]
    Replaced,
    /// The backend failed in itself, e.g. out of memory or its task was cancelled with the runtime.
    #[error("DTLS backend failure: {0}")]
    Backend(String),
}

/// Why a DTLS configuration, or a session made from it, could not be set up. Always the caller's or the
/// installation's side, never the peer's.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DtlsConfigError {
    /// The backend is not part of this build: enable its cargo feature (`dtls-openssl`, `dtls-dimpl`, `dtls-webrtc`).
    #[error("DTLS backend {0} is not part of this build (cargo feature dtls-{0})")]
    Unavailable(DtlsBackendKind),
    /// The backend cannot use this kind of private key. `webrtc` needs ECDSA P-256 or Ed25519, `dimpl` ECDSA P-256 or P-384.
    #[error("DTLS backend {backend} cannot use this private key: {reason}")]
    UnsupportedKey {
        /// The backend that refused.
        backend: DtlsBackendKind,
        /// What it can use instead.
        reason: &'static str,
    },
    /// The backend cannot do what is configured.
    #[error("DTLS backend {backend} cannot do {what}")]
    Unsupported {
        /// The backend that refused.
        backend: DtlsBackendKind,
        /// What it cannot do.
        what: &'static str,
    },
    /// Certificate or key cannot be parsed by the backend, or do not belong together.
    #[error("certificate or key not usable: {0}")]
    Identity(String),
    /// The backend works with background tasks and was used outside of a tokio runtime.
    #[error("DTLS backend {0} needs a running tokio runtime")]
    NoRuntime(DtlsBackendKind),
    /// An option is out of its range.
    #[error("{option} out of range: {reason}")]
    Option {
        /// Name of the option.
        option: &'static str,
        /// The range.
        reason: &'static str,
    },
    /// The library refused the configuration or could not allocate.
    #[error("DTLS backend: {0}")]
    Backend(String),
}

/// Why a plaintext was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DtlsSendError {
    /// The handshake has not finished yet.
    #[error("DTLS handshake not finished")]
    NotConnected,
    /// The association is closed or closing, or the endpoint does not know the key.
    #[error("DTLS association closed")]
    Closed,
    /// More than [`MAX_PLAINTEXT`](super::MAX_PLAINTEXT) bytes, or none at all.
    #[error("plaintext of {0} bytes does not fit one record")]
    Size(usize),
    /// The session's bounded queue of datagrams is full: the caller does not drain
    /// [`poll_transmit`](super::DtlsSession::poll_transmit). The record is dropped, as a network would.
    #[error("transmit queue full")]
    QueueFull,
}

/// Description of a TLS alert, RFC 5246 section 7.2; unknown numbers are kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Alert(pub u8);

impl Alert {
    /// The sender will send nothing more.
    pub const CLOSE_NOTIFY: Self = Self(0);
    /// An inappropriate message was received.
    pub const UNEXPECTED_MESSAGE: Self = Self(10);
    /// No acceptable set of security parameters.
    pub const HANDSHAKE_FAILURE: Self = Self(40);
    /// No certificate was sent; SSL 3.0's, which some libraries still send.
    pub const NO_CERTIFICATE: Self = Self(41);
    /// The certificate is corrupt, not fit for the purpose or for another name.
    pub const BAD_CERTIFICATE: Self = Self(42);
    /// The certificate is of an unsupported type.
    pub const UNSUPPORTED_CERTIFICATE: Self = Self(43);
    /// The certificate was revoked.
    pub const CERTIFICATE_REVOKED: Self = Self(44);
    /// The certificate is expired or not yet valid.
    pub const CERTIFICATE_EXPIRED: Self = Self(45);
    /// Another problem with the certificate.
    pub const CERTIFICATE_UNKNOWN: Self = Self(46);
    /// The issuer is not trusted.
    pub const UNKNOWN_CA: Self = Self(48);
    /// The certificate is valid, but its holder may not have access.
    pub const ACCESS_DENIED: Self = Self(49);
    /// A message could not be decoded.
    pub const DECODE_ERROR: Self = Self(50);
    /// A cryptographic check of the handshake failed.
    pub const DECRYPT_ERROR: Self = Self(51);
    /// No common protocol version.
    pub const PROTOCOL_VERSION: Self = Self(70);
    /// The offered algorithms are too weak for the peer.
    pub const INSUFFICIENT_SECURITY: Self = Self(71);
    /// The peer failed in itself.
    pub const INTERNAL_ERROR: Self = Self(80);
    /// The name asked for is not served, RFC 6066.
    pub const UNRECOGNIZED_NAME: Self = Self(112);
    /// A certificate is required and none was sent, RFC 8446.
    pub const CERTIFICATE_REQUIRED: Self = Self(116);
    /// No common application protocol, RFC 7301.
    pub const NO_APPLICATION_PROTOCOL: Self = Self(120);

    /// Whether the sender says by it that it does not let our certificate, or us without one, in. Trying again is
    /// then pointless. A `decrypt_error` is among them: of a client's it is a signature that is wrong, mostly that of an
    /// authority which was made anew under its old name.
    #[must_use]
    pub const fn is_about_our_certificate(self) -> bool {
        matches!(
            self,
            Self::NO_CERTIFICATE
                | Self::BAD_CERTIFICATE
                | Self::UNSUPPORTED_CERTIFICATE
                | Self::CERTIFICATE_REVOKED
                | Self::CERTIFICATE_EXPIRED
                | Self::CERTIFICATE_UNKNOWN
                | Self::UNKNOWN_CA
                | Self::ACCESS_DENIED
                | Self::DECRYPT_ERROR
                | Self::CERTIFICATE_REQUIRED
        )
    }

    /// What to look at, for the alerts that mistakes in configurations cause: empty, or text in parentheses with a
    /// space before it.
    pub(crate) const fn hint(self) -> &'static str {
        match self {
            Self::BAD_CERTIFICATE | Self::UNSUPPORTED_CERTIFICATE | Self::CERTIFICATE_UNKNOWN => {
                " (it does not accept our certificate)"
            }
            Self::DECRYPT_ERROR => " (it says the signature of our certificate or key is wrong)",
            Self::CERTIFICATE_REVOKED => " (it says our certificate is revoked)",
            Self::CERTIFICATE_EXPIRED => " (it says our certificate is expired)",
            Self::UNKNOWN_CA => " (it does not trust the issuer of our certificate)",
            Self::ACCESS_DENIED => " (it knows our certificate and does not let us in)",
            Self::NO_CERTIFICATE | Self::CERTIFICATE_REQUIRED => {
                " (it requires a certificate from us)"
            }
            Self::HANDSHAKE_FAILURE | Self::PROTOCOL_VERSION | Self::INSUFFICIENT_SECURITY => {
                " (no common parameters)"
            }
            Self::UNRECOGNIZED_NAME => " (it does not serve the name we asked for)",
            Self(_) => "",
        }
    }

    fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::CLOSE_NOTIFY => "close_notify",
            Self::UNEXPECTED_MESSAGE => "unexpected_message",
            Self::HANDSHAKE_FAILURE => "handshake_failure",
            Self::NO_CERTIFICATE => "no_certificate",
            Self::BAD_CERTIFICATE => "bad_certificate",
            Self::UNSUPPORTED_CERTIFICATE => "unsupported_certificate",
            Self::CERTIFICATE_REVOKED => "certificate_revoked",
            Self::CERTIFICATE_EXPIRED => "certificate_expired",
            Self::CERTIFICATE_UNKNOWN => "certificate_unknown",
            Self::UNKNOWN_CA => "unknown_ca",
            Self::ACCESS_DENIED => "access_denied",
            Self::DECODE_ERROR => "decode_error",
            Self::DECRYPT_ERROR => "decrypt_error",
            Self::PROTOCOL_VERSION => "protocol_version",
            Self::INSUFFICIENT_SECURITY => "insufficient_security",
            Self::INTERNAL_ERROR => "internal_error",
            Self::UNRECOGNIZED_NAME => "unrecognized_name",
            Self::CERTIFICATE_REQUIRED => "certificate_required",
            Self::NO_APPLICATION_PROTOCOL => "no_application_protocol",
            Self(_) => return None,
        })
    }
}

impl fmt::Display for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

impl fmt::Debug for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Alert({self})")
    }
}
