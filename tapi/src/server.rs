//! Where a tunnel may be opened: server, port and transport.

use std::{fmt, str::FromStr};

use tsc_csm::Transport;
pub use tsc_osaa::resolve::DEFAULT_PORT;

/// One way to reach a tunnel server: a host, a port and the outer transport.
///
/// Written as a URL: `tls://sbc.example.com:443`, `udp://192.0.2.1:4567`, `dtls://[2001:db8::1]:4567`.
/// Where the port is left out the domain's SRV records are asked for host and port (`_tscf._tcp`, `_tscfs._tcp` for TLS,
/// `_tscf._udp`, `_tscfs._udp` for DTLS; feature `srv`); without any it is [`DEFAULT_PORT`] of the host itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    transport: Transport,
    host: String,
    port: Option<u16>,
}

impl Server {
    /// A server by transport, host name or address literal (IPv6 without brackets), and port.
    pub fn new(transport: Transport, host: impl Into<String>, port: u16) -> Self {
        Self {
            transport,
            host: host.into(),
            port: Some(port),
        }
    }

    /// A server whose port is found by its domain's SRV records.
    pub fn of_domain(transport: Transport, domain: impl Into<String>) -> Self {
        Self {
            transport,
            host: domain.into(),
            port: None,
        }
    }

    /// The outer transport.
    #[must_use]
    pub const fn transport(&self) -> Transport {
        self.transport
    }

    /// Host name or address literal. It is also the name that the server's certificate must carry,
    /// unless the builder says otherwise.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port; `None` is left to SRV records.
    #[must_use]
    pub const fn port(&self) -> Option<u16> {
        self.port
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.transport;
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]", self.host)?;
        } else {
            write!(f, "{scheme}://{}", self.host)?;
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// Why a text is no server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseServerError {
    /// There is no `scheme://`, or the scheme is none of the four transports.
    #[error("'{0}' does not start with tcp://, tls://, udp:// or dtls://")]
    Scheme(String),
    /// The host is empty, or holds a character that no host name or address has.
    #[error("'{0}' has no valid host")]
    Host(String),
    /// The port is not a number from 1 to 65535.
    #[error("'{0}' has no valid port")]
    Port(String),
}

impl FromStr for Server {
    type Err = ParseServerError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| ParseServerError::Scheme(text.to_owned()))?;
        let transport = match scheme.to_ascii_lowercase().as_str() {
            "tcp" => Transport::Tcp,
            "tls" => Transport::Tls,
            "udp" => Transport::Udp,
            "dtls" => Transport::Dtls,
            _ => return Err(ParseServerError::Scheme(text.to_owned())),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = if let Some(bracketed) = rest.strip_prefix('[') {
            let (host, after) = bracketed
                .split_once(']')
                .ok_or_else(|| ParseServerError::Host(text.to_owned()))?;
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                return Err(ParseServerError::Host(text.to_owned()));
            }
            match after {
                "" => (host, None),
                _ => (
                    host,
                    Some(
                        after
                            .strip_prefix(':')
                            .ok_or_else(|| ParseServerError::Port(text.to_owned()))?,
                    ),
                ),
            }
        } else {
            match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            }
        };
        let is_host_char = |c: char| c.is_ascii_alphanumeric() || ".-_:%".contains(c);
        if host.is_empty() || !host.chars().all(is_host_char) {
            return Err(ParseServerError::Host(text.to_owned()));
        }
        let parse = |port: &str| {
            let port = port.parse().ok().filter(|port| *port != 0);
            port.ok_or_else(|| ParseServerError::Port(text.to_owned()))
        };
        Ok(Self {
            transport,
            host: host.to_owned(),
            port: port.map(parse).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_round_trip() {
        for url in [
            "tcp://192.0.2.1:4567",
            "tls://sbc.example.com:443",
            "udp://localhost:1",
            "dtls://[2001:db8::1]:65535",
            "tls://example.com",
            "udp://[::1]",
        ] {
            assert_eq!(url.parse::<Server>().unwrap().to_string(), url);
        }
        assert_eq!(
            "TLS://host/".parse::<Server>().unwrap(),
            Server::of_domain(Transport::Tls, "host")
        );
    }

    #[test]
    fn what_is_no_server_says_why() {
        let scheme = |t: &str| ParseServerError::Scheme(t.to_owned());
        let host = |t: &str| ParseServerError::Host(t.to_owned());
        let port = |t: &str| ParseServerError::Port(t.to_owned());
        for (text, error) in [
            ("host:1", scheme("host:1")),
            ("http://host:1", scheme("http://host:1")),
            ("tls://:1", host("tls://:1")),
            ("tls://a b:1", host("tls://a b:1")),
            ("tls://[zz]:1", host("tls://[zz]:1")),
            ("tls://[::1", host("tls://[::1")),
            ("tls://host:0", port("tls://host:0")),
            ("tls://host:65536", port("tls://host:65536")),
            ("tls://host:x", port("tls://host:x")),
            ("tls://[::1]4", port("tls://[::1]4")),
        ] {
            assert_eq!(text.parse::<Server>(), Err(error), "{text}");
        }
    }
}
