//! Why there is no way through a proxy.

use std::{fmt, io, net::SocketAddr, time::Duration};

use super::{AuthScheme, CredentialsError};
use crate::{
    cert::{CertificateError, CredentialError},
    tls::TlsError,
};

/// Why [`connect`](super::connect()) failed. Texts of the proxy's are cut to 128 printable characters.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// The proxy's name could not be resolved.
    #[error("cannot resolve the proxy {host}: {source}")]
    Resolve {
        /// The name.
        host: String,
        /// The resolver's report.
        #[source]
        source: io::Error,
    },
    /// The proxy's name has no address, or none of the family that the bind address allows.
    #[error("the proxy {host} has no usable address")]
    NoAddress {
        /// The name.
        host: String,
    },
    /// No TCP connection to the proxy.
    #[error("cannot connect to the proxy {address}: {source}")]
    Connect {
        /// The last address that was tried.
        address: SocketAddr,
        /// The system's report.
        #[source]
        source: io::Error,
    },
    /// We do not accept the proxy's certificate.
    #[error("the proxy's certificate was rejected: {0}")]
    Certificate(#[source] CertificateError),
    /// The trust for the proxy's certificate cannot be used.
    #[error("no trust for the proxy's certificate: {0}")]
    Trust(#[source] CredentialError),
    /// The TLS handshake with the proxy failed otherwise.
    #[error("TLS handshake with the proxy failed: {0}")]
    Tls(#[source] TlsError),
    /// The proxy wants to know who this is, and there are no credentials.
    #[error("the proxy wants credentials (it offers {offered}), and there are none")]
    AuthenticationRequired {
        /// What it offers.
        offered: String,
    },
    /// The proxy, or the domain's key server, does not accept the credentials. They are not tried again by other schemes:
    /// each try counts where accounts are locked after some.
    #[error("the proxy refused the credentials ({scheme})")]
    CredentialsRefused {
        /// By which scheme they were presented.
        scheme: AuthScheme,
    },
    /// The credentials could not be had.
    #[error("no credentials for the proxy: {0}")]
    Credentials(#[source] CredentialsError),
    /// The proxy offers nothing that can be used. The reasons are by scheme.
    #[error("nothing that the proxy offers ({offered}) can be used: {reasons}")]
    NoUsableScheme {
        /// What it offers.
        offered: String,
        /// Why not, for each that is known.
        reasons: SchemeFailures,
    },
    /// The proxy does not connect us.
    #[error("the proxy refused: {status} {reason}{hint}", hint = status_hint(*.status))]
    Refused {
        /// The status code.
        status: u16,
        /// What the proxy calls it.
        reason: String,
    },
    /// Not the proxy answered but a page for people: a network that wants a login, or no proxy at all.
    #[error(
        "a web page came instead of a tunnel ({status}{}): the network may want a login",
        location.as_ref().map(|to| format!(", redirect to {to}")).unwrap_or_default()
    )]
    Portal {
        /// The status code.
        status: u16,
        /// Where it leads.
        location: Option<String>,
    },
    /// What answers is no HTTP proxy.
    #[error("what answers at the proxy's address does not speak HTTP")]
    Garbage,
    /// The head of an answer is longer than [`MAX_HEAD`](super::MAX_HEAD).
    #[error("the proxy's answer is longer than {} bytes", super::MAX_HEAD)]
    TooLong,
    /// The proxy says that the tunnel is open, and sends something: it is the client that speaks first.
    #[error("the proxy sent bytes into the tunnel before anything was sent")]
    UnexpectedData,
    /// The proxy ended the connection instead of answering.
    #[error("the proxy cut the connection")]
    Cut,
    /// The connection to the proxy failed.
    #[error("the connection to the proxy failed: {0}")]
    Io(#[source] io::Error),
    /// The dialogue did not come to an end within [`MAX_ROUNDS`](super::MAX_ROUNDS) requests.
    #[error("the proxy asked for credentials {} times", super::MAX_ROUNDS)]
    TooManyRounds,
    /// It took too long.
    #[error("no tunnel through the proxy within {limit:.1?}")]
    Timeout {
        /// How long it was given.
        limit: Duration,
    },
}

impl ProxyError {
    /// Whether it is about who this is: credentials that are missing, refused, or of no use to what the proxy offers.
    #[must_use]
    pub const fn is_authentication(&self) -> bool {
        matches!(
            self,
            Self::AuthenticationRequired { .. }
                | Self::CredentialsRefused { .. }
                | Self::Credentials(_)
                | Self::NoUsableScheme { .. }
        )
    }

    /// Whether trying again by itself is pointless, or harmful (accounts are locked after wrong passwords): somebody has to
    /// change something. All else may pass: an overloaded proxy, a server that is down, a network that wants a login.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        match self {
            Self::Certificate(_)
            | Self::Trust(_)
            | Self::AuthenticationRequired { .. }
            | Self::CredentialsRefused { .. }
            | Self::Credentials(_) => true,
            Self::NoUsableScheme { reasons, .. } => !reasons.may_pass(),
            // Of the client's errors only 408, 425 and 429 are about time. A proxy that means "never" says 501 or 505.
            Self::Refused { status, .. } => {
                matches!(*status, 400..=407 | 409..=424 | 426..=428 | 430..=499 | 501 | 505)
            }
            Self::Resolve { .. }
            | Self::NoAddress { .. }
            | Self::Connect { .. }
            | Self::Tls(_)
            | Self::Portal { .. }
            | Self::Garbage
            | Self::TooLong
            | Self::UnexpectedData
            | Self::Cut
            | Self::Io(_)
            | Self::TooManyRounds
            | Self::Timeout { .. } => false,
        }
    }
}

const fn status_hint(status: u16) -> &'static str {
    match status {
        403 => " (it does not allow this host or port)",
        405 | 501 => " (it has no tunnels)",
        502 | 503 => " (it cannot reach the server, or is overloaded)",
        504 => " (the server does not answer it)",
        _ => "",
    }
}

/// Why an offered scheme was not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SchemeFailure {
    /// It would send the password to whoever is on the way to the proxy; see
    /// [`Proxy::allow_basic_in_clear`](super::Proxy::allow_basic_in_clear).
    #[error("the password would be sent in clear, which is not allowed")]
    InClear,
    /// [`Proxy::with_schemes`](super::Proxy::with_schemes) leaves it out.
    #[error("switched off")]
    SwitchedOff,
    /// This build lacks the feature `proxy-negotiate`.
    #[error("this build has no support for it (feature proxy-negotiate)")]
    NotBuilt,
    /// What the proxy sent with it cannot be used.
    #[error("unusable challenge: {0}")]
    Challenge(String),
    /// The user's name cannot be sent by it.
    #[error("the user's name has a colon")]
    UserName,
    /// The proxy does not keep the connection, which this scheme authenticates.
    #[error("the proxy closed the connection in the middle of it")]
    NotKept,
    /// The key servers do not answer, or their clock differs.
    #[error("{0}")]
    Passing(String),
    /// It failed at our end.
    #[error("{0}")]
    Mechanism(String),
}

/// Reasons by scheme.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SchemeFailures(pub(super) Vec<(AuthScheme, SchemeFailure)>);

impl SchemeFailures {
    /// Scheme by scheme, in the order in which they were looked at.
    pub fn iter(&self) -> impl Iterator<Item = &(AuthScheme, SchemeFailure)> {
        self.0.iter()
    }

    const fn may_pass(&self) -> bool {
        let mut rest = self.0.as_slice();
        while let [(_, failure), more @ ..] = rest {
            if matches!(failure, SchemeFailure::Passing(_) | SchemeFailure::NotKept) {
                return true;
            }
            rest = more;
        }
        false
    }
}

impl fmt::Display for SchemeFailures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("no known scheme");
        }
        for (index, (scheme, failure)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "; " };
            write!(f, "{comma}{scheme}: {failure}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_has_to_change_is_final_and_what_may_pass_is_not() {
        let refused = |status| ProxyError::Refused {
            status,
            reason: String::new(),
        };
        for status in [400, 403, 404, 405, 501] {
            assert!(refused(status).is_final(), "{status}");
        }
        for status in [408, 429, 500, 502, 503, 504, 599] {
            assert!(!refused(status).is_final(), "{status}");
        }
        let scheme = AuthScheme::Digest;
        assert!(ProxyError::CredentialsRefused { scheme }.is_final());
        assert!(!ProxyError::Cut.is_final());
        let none = |failure| ProxyError::NoUsableScheme {
            offered: String::new(),
            reasons: SchemeFailures(vec![(scheme, failure)]),
        };
        assert!(none(SchemeFailure::InClear).is_final());
        assert!(!none(SchemeFailure::Passing(String::new())).is_final());
    }
}
