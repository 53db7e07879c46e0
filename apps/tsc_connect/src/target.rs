//! Where a connection shall go.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

/// An address or a name, not resolved yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// An address.
    Address(IpAddr),
    /// A name, to be resolved in the network in which it is connected to.
    Name(String),
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Where.
    pub host: Host,
    /// TCP or UDP port, never 0.
    pub port: u16,
}

/// A text that is no target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// No port, or none that can be connected to.
    #[error("no port from 1 to 65535 in {0:?}; write HOST:PORT, an IPv6 address as [ADDRESS]:PORT")]
    Port(String),
    /// Neither an address nor a name.
    #[error("{0:?} is neither an address nor a host name")]
    Host(String),
}

impl Host {
    /// Takes an address (IPv6 with or without brackets) or a name of at most 253 letters, digits, `-`, `_` and `.`.
    ///
    /// # Errors
    ///
    /// [`TargetError::Host`].
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        let bad = || TargetError::Host(text.to_owned());
        if let Some(inside) = text.strip_prefix('[') {
            let address = inside.strip_suffix(']').ok_or_else(bad)?;
            let address: Ipv6Addr = address.parse().map_err(|_| bad())?;
            return Ok(Self::Address(address.into()));
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let letters = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        // A name of digits and dots only would be an address with a slip of the pen.
        let number = text.chars().all(|c| c.is_ascii_digit() || c == '.');
        if text.is_empty() || text.len() > 253 || !text.chars().all(letters) || number {
            return Err(bad());
        }
        Ok(Self::Name(text.to_owned()))
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let no_port = || TargetError::Port(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(no_port)?;
        let port = port.parse().ok().filter(|port| *port != 0);
        Ok(Self {
            port: port.ok_or_else(no_port)?,
            host: Host::parse(host)?,
        })
    }
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        Self {
            host: Host::Address(address.ip()),
            port: address.port(),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(address) => SocketAddr::new(*address, self.port).fmt(f),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_with_ports_are_targets() {
        for text in [
            "192.0.2.1:80",
            "[2001:db8::1]:443",
            "example.com:5060",
            "a_b-c.d:1",
        ] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_cannot_be_connected_to_is_refused() {
        for text in [
            "example.com",
            "example.com:0",
            "example.com:65536",
            "example.com:x",
            "2001:db8::1",
            "[2001:db8::1]",
        ] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
        for text in [
            ":80",
            "[::1:80",
            "exa mple:80",
            "10.0.0.256:80",
            "a/b:80",
            "[10.0.0.1]:80",
        ] {
            let error = text.parse::<Target>().unwrap_err();
            assert!(matches!(error, TargetError::Host(_)), "{text}: {error}");
        }
    }
}
