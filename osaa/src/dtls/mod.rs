//! DTLS 1.2 without I/O, with handshakes by one of several libraries.
//!
//! ```text
//!  datagrams in/out             DtlsServerEndpoint            by peer address: stateless cookie,
//!  (one UDP socket)  <------->  (many associations)           caps, deadlines, takeover
//!                                     | one each
//!  (connected socket) <------->  DtlsSession (trait)          one association, client or server
//!                              /                    \
//!                        association               webrtc
//!             handshake: openssl | dimpl       tokio tasks over channels
//!             then records of our own
//! ```
//!
//! With OpenSSL and `dimpl` only the handshake is the library's. Then it hands over the keys and goes, and records are sealed
//! and opened here, in place. `docs/dtls.md` compares the libraries.
//!
//! All backends verify certificates by [`crate::cert`], as TLS does, so that the same mistake is the same
//! error over every transport, and keep the rules of the specification: mutual authentication where
//! configured, ALPN `tscf` offered where the library can, its absence accepted, another one refused (spec 8.4).
//!
//! Which backends exist is decided at build time by the features `dtls-openssl`, `dtls-dimpl` and `dtls-webrtc`, which one is
//! used at run time by [`DtlsBackendKind`]. Without any of them all of this still compiles and
//! every use reports [`DtlsConfigError::Unavailable`].
//!
//! | | `openssl` | `dimpl` | `webrtc` |
//! | --- | --- | --- | --- |
//! | own certificates | RSA, ECDSA; clients also Ed25519 | ECDSA P-256, P-384; no intermediate ones | ECDSA P-256, Ed25519 |
//! | peers' certificates | RSA, ECDSA, Ed25519 | ECDSA P-256, P-384 | RSA, ECDSA, Ed25519 |
//! | client certificates | none, optional, required | none, required | none, optional, required |
//! | state before the address is proved | none | none | one session, bounded by caps and rate limits |
//! | ALPN | negotiated | neither sent nor seen | neither sent nor seen |
//! | longest record received | 16 384 bytes | 16 384 bytes | 8 155 bytes |
//! | needs a tokio runtime | no | no | yes |
//!
//! What a library does not see of ALPN the endpoint does: it refuses a foreign offer.

#[cfg(feature = "_dtls-records")]
mod association;
mod config;
mod cookie;
#[cfg(feature = "dtls-dimpl")]
mod dimpl;
mod endpoint;
mod error;
#[cfg(feature = "_dtls-records")]
mod established;
#[cfg(feature = "_dtls")]
mod filter;
#[cfg(feature = "_dtls-records")]
mod handshake;
#[cfg(feature = "_dtls-records")]
mod keys;
mod limits;
#[cfg(feature = "dtls-openssl")]
mod openssl;
#[cfg(feature = "_dtls-records")]
mod protection;
#[cfg(feature = "_dtls")]
mod queue;
mod record;
mod session;
#[cfg(feature = "dtls-webrtc")]
mod webrtc;

use std::fmt;
use std::str::FromStr;

pub use self::config::{DtlsClientConfig, DtlsOptions, DtlsServerConfig};
pub use self::endpoint::{
    AssociationKey, DetachedAssociation, DtlsEndpointEvent, DtlsEndpointStats, DtlsServerEndpoint,
    DtlsTransmit, Opened,
};
pub use self::error::{Alert, DtlsConfigError, DtlsError, DtlsSendError};
pub use self::limits::DtlsEndpointLimits;
pub(crate) use self::record::asks_for_certificate;
pub use self::session::{
    DtlsEvent, DtlsInfo, DtlsSession, DtlsState, MAX_PLAINTEXT, Opening, QUEUE_LIMIT,
    RECORD_OVERHEAD,
};

/// The library that does DTLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DtlsBackendKind {
    /// The system's OpenSSL; cargo feature `dtls-openssl`.
    OpenSsl,
    /// The `dimpl` crate with AWS-LC; cargo feature `dtls-dimpl`.
    Dimpl,
    /// The `webrtc-dtls` crate; cargo feature `dtls-webrtc`.
    WebRtc,
}

impl DtlsBackendKind {
    /// All kinds, whether part of this build or not, the preferred one first.
    pub const ALL: [Self; 3] = [Self::OpenSsl, Self::Dimpl, Self::WebRtc];

    /// Whether this build contains the backend.
    #[must_use]
    pub const fn is_available(self) -> bool {
        match self {
            Self::OpenSsl => cfg!(feature = "dtls-openssl"),
            Self::Dimpl => cfg!(feature = "dtls-dimpl"),
            Self::WebRtc => cfg!(feature = "dtls-webrtc"),
        }
    }

    /// The preferred backend of this build; `None` when DTLS was left out.
    #[must_use]
    pub fn preferred() -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.is_available())
    }

    /// The name used in configuration files: `openssl`, `dimpl` or `webrtc`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OpenSsl => "openssl",
            Self::Dimpl => "dimpl",
            Self::WebRtc => "webrtc",
        }
    }
}

impl fmt::Display for DtlsBackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DtlsBackendKind {
    type Err = UnknownDtlsBackend;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or(UnknownDtlsBackend)
    }
}

/// The name is none of [`DtlsBackendKind::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown DTLS backend, expected openssl, dimpl or webrtc")]
pub struct UnknownDtlsBackend;
