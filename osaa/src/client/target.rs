//! Where to connect.

use std::{fmt, net::IpAddr, str::FromStr};

use rustls_pki_types::{DnsName, ServerName};

/// The four transports of a tunnel (spec 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TransportKind {
    /// Clear stream.
    Tcp,
    /// Protected stream.
    Tls,
    /// Clear datagrams.
    Udp,
    /// Protected datagrams.
    Dtls,
}

impl TransportKind {
    /// TCP and TLS.
    #[must_use]
    pub const fn is_stream(self) -> bool {
        matches!(self, Self::Tcp | Self::Tls)
    }

    /// TLS and DTLS.
    #[must_use]
    pub const fn is_protected(self) -> bool {
        matches!(self, Self::Tls | Self::Dtls)
    }
}

impl fmt::Display for TransportKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Udp => "udp",
            Self::Dtls => "dtls",
        })
    }
}

/// A host by name or by address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// To be resolved; both IPv4 and IPv6 addresses are used.
    Name(DnsName<'static>),
    /// As it is.
    Address(IpAddr),
}

impl Host {
    /// The name that a certificate is checked for, unless another is set.
    #[must_use]
    pub fn server_name(&self) -> ServerName<'static> {
        match self {
            Self::Name(name) => ServerName::DnsName(name.clone()),
            Self::Address(address) => ServerName::IpAddress((*address).into()),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name.as_ref()),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl FromStr for Host {
    type Err = InvalidHost;

    /// An IPv4 address, an IPv6 address with or without brackets, or a DNS name.
    fn from_str(text: &str) -> Result<Self, InvalidHost> {
        let bare = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(text);
        if let Ok(address) = bare.parse() {
            return Ok(Self::Address(address));
        }
        DnsName::try_from(text.to_owned())
            .map(Self::Name)
            .map_err(|_| InvalidHost(text.to_owned()))
    }
}

impl From<IpAddr> for Host {
    fn from(address: IpAddr) -> Self {
        Self::Address(address)
    }
}

/// The text is neither a DNS name nor an IP address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither a DNS name nor an IP address")]
pub struct InvalidHost(String);

/// One way to a server.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Target {
    /// How.
    pub transport: TransportKind,
    /// Whom.
    pub host: Host,
    /// The TCP or UDP port.
    pub port: u16,
    /// For SNI and the certificate instead of `host`: after a redirect these stay those of the server first
    /// configured (spec 5).
    pub server_name: Option<ServerName<'static>>,
}

impl Target {
    /// A target whose certificate must be for `host`.
    #[must_use]
    pub fn new(transport: TransportKind, host: impl Into<Host>, port: u16) -> Self {
        Self {
            transport,
            host: host.into(),
            port,
            server_name: None,
        }
    }

    /// Demands a certificate for `name` whatever the host is called.
    #[must_use]
    pub fn with_server_name(mut self, name: ServerName<'static>) -> Self {
        self.server_name = Some(name);
        self
    }

    /// The name for SNI and verification.
    #[must_use]
    pub fn verified_name(&self) -> ServerName<'static> {
        self.server_name
            .clone()
            .unwrap_or_else(|| self.host.server_name())
    }
}

impl fmt::Display for Target {
    /// `tls://host:port`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(IpAddr::V6(address)) => {
                write!(f, "{}://[{address}]:{}", self.transport, self.port)
            }
            host @ (Host::Name(_) | Host::Address(_)) => {
                write!(f, "{}://{host}:{}", self.transport, self.port)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_or_addresses() {
        for text in ["192.0.2.1", "2001:db8::1", "[2001:db8::1]"] {
            assert!(matches!(text.parse(), Ok(Host::Address(_))), "{text}");
        }
        assert!(matches!("tsc.example.com".parse(), Ok(Host::Name(_))));
        for text in ["", "a b", "[192.0.2.1", "-", "a..b"] {
            assert!(text.parse::<Host>().is_err(), "{text}");
        }
    }

    #[test]
    fn targets_print_as_urls() {
        let host: Host = "2001:db8::1".parse().unwrap();
        let target = Target::new(TransportKind::Dtls, host, 2000);
        assert_eq!(target.to_string(), "dtls://[2001:db8::1]:2000");
    }
}
