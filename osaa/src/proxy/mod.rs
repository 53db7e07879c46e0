//! HTTP proxies on the way to a server: CONNECT (RFC 9110, 9.3.6).
//!
//! [`connect`] opens a TCP connection to a [`Proxy`], under TLS if it is an `https://` one, asks for a tunnel to a host and
//! port, answers the proxy's questions (407), and gives the stream. The host's name is resolved by the proxy.
//!
//! ```text
//!   client                               proxy                          server
//!   CONNECT sbc.example.com:443  ------>
//!                                <------ 407, Negotiate, NTLM, Digest, Basic
//!   Proxy-Authorization: ...     ------>          ------ TCP ------>
//!                                <------ 200
//!   <============== the tunnel's own TCP or TLS stream =============>
//! ```
//!
//! Of the schemes that a proxy offers the first that works is taken, in this order: Negotiate (SPNEGO: Kerberos, else NTLM),
//! NTLM (v2), Digest, Basic. One that fails before the password was put to the test, such as Kerberos without a key server,
//! gives way to the next. Refused credentials are final: a proxy that counts wrong passwords would count each scheme. Basic
//! is used under TLS only, unless [`Proxy::allow_basic_in_clear`] says otherwise. Negotiate and NTLM take the feature
//! `proxy-negotiate`.
//!
//! A proxy carries streams only. [`ProxySettings`] says which targets are reached through it;
//! [`client::connect`](crate::client::connect) refuses UDP and DTLS to those
//! ([`ConnectError::ProxyNeedsStream`](crate::client::ConnectError::ProxyNeedsStream)) rather than going around the proxy.
//!
//! What a proxy can make us do is bounded: [`MAX_ROUNDS`] requests, heads of [`MAX_HEAD`] bytes, bodies of [`MAX_BODY`] bytes
//! (the connection is given up for a new one beyond that), and the caller's time limit for everything. Nothing is tried
//! again after the error that [`connect`] returns; [`ProxyError::is_final`] says whether it is worth it.
//!
//! Passwords and tokens are wiped after use and not logged.

mod challenge;
mod config;
mod connect;
mod credentials;
mod dialogue;
mod digest;
mod environment;
mod error;
mod head;
#[cfg(feature = "proxy-negotiate")]
mod kdc;
mod leg;
mod mechanism;
#[cfg(feature = "proxy-negotiate")]
mod negotiate;
mod scheme;

pub use challenge::{Challenge, ChallengeData, MAX_CHALLENGES, parse_challenges};
pub use config::{ParseProxyError, Proxy, ProxyScheme};
pub use connect::connect;
pub use credentials::{CredentialRequest, CredentialSource, Credentials, CredentialsError};
pub use dialogue::{MAX_CREDENTIALS, MAX_ROUNDS};
pub use environment::{MAX_EXCEPTIONS, NoProxy, ProxySettings};
pub use error::{ProxyError, SchemeFailure, SchemeFailures};
pub use head::{Body, Chunks, Head, HeadError, MAX_HEAD, parse_head};
pub use leg::MAX_BODY;
pub use scheme::AuthScheme;
