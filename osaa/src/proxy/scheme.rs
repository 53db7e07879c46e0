//! Ways to authenticate.

use std::fmt;

/// A way to authenticate to a proxy, the preferred ones first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum AuthScheme {
    /// SPNEGO (RFC 4559): Kerberos, or else NTLM.
    Negotiate,
    /// NTLM version 2. Authenticates the connection.
    Ntlm,
    /// A hash of the password (RFC 7616).
    Digest,
    /// The password (RFC 7617).
    Basic,
}

impl AuthScheme {
    /// All, in the order in which they are tried.
    pub const ALL: [Self; 4] = [Self::Negotiate, Self::Ntlm, Self::Digest, Self::Basic];

    /// Its name in HTTP.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Negotiate => "Negotiate",
            Self::Ntlm => "NTLM",
            Self::Digest => "Digest",
            Self::Basic => "Basic",
        }
    }
}

impl fmt::Display for AuthScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
