//! Certificates: what this end presents, whom it trusts, and who the other end turned out to be.
//!
//! ```text
//!   PemSource --> Identity  (our chain and key)  --+--> ClientSecurity --+--> TLS   (rustls)
//!             \-> Roots --> Trust / ClientAuth   --+--> ServerSecurity --+--> DTLS  (any backend)
//!
//!   the peer's chain --> verify_server_chain / verify_client_chain --> PeerIdentity | CertificateError
//! ```
//!
//! [`ClientSecurity`] and [`ServerSecurity`] are checked once, when they are made, and are cheap to clone.
//! TLS and every DTLS backend verify chains through the same two methods, so that a certificate is
//! accepted or refused alike, and for the same stated reason, whatever transport it came over.
//! Verification is on unless [`Trust::DangerousNone`] is written out.

mod der;
mod error;
mod identity;
mod peer;
mod pinned;
#[cfg(feature = "dtls-openssl")]
pub(crate) mod resumption;
mod security;
mod signatures;
mod verifier;

pub use error::{CertificateError, CredentialError};
pub use identity::{Identity, MAX_CHAIN, MAX_PEM_LEN, PemSource};
pub use peer::{MAX_NAMES, PeerIdentity, SubjectName};
pub use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
pub use security::{ALPN, ClientAuth, ClientSecurity, HelloOptions, Roots, ServerSecurity, Trust};
