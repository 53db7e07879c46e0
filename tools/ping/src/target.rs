//! What is to be examined.

use std::{fmt, str::FromStr};

use tsc_osaa::client::{Host, TransportKind};

/// A server as the user named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) transport: TransportKind,
    pub(crate) host: Host,
    pub(crate) port: Option<u16>,
}

/// Why a text is no target.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ParseTargetError {
    #[error("it does not start with tcp://, tls://, udp:// or dtls://")]
    Scheme,
    #[error("it has no valid host")]
    Host,
    #[error("it has no valid port")]
    Port,
}

impl FromStr for Target {
    type Err = ParseTargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (scheme, rest) = text.split_once("://").ok_or(ParseTargetError::Scheme)?;
        let transport = match scheme.to_ascii_lowercase().as_str() {
            "tcp" => TransportKind::Tcp,
            "tls" => TransportKind::Tls,
            "udp" => TransportKind::Udp,
            "dtls" => TransportKind::Dtls,
            _ => return Err(ParseTargetError::Scheme),
        };
        let (host, port) = host_port(rest.strip_suffix('/').unwrap_or(rest))?;
        Ok(Self {
            transport,
            host,
            port,
        })
    }
}

/// `HOST` or `HOST:PORT`, IPv6 addresses in brackets.
fn host_port(text: &str) -> Result<(Host, Option<u16>), ParseTargetError> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        Some(_) | None => (text, None),
    };
    if host.contains(':') && !host.starts_with('[') {
        return Err(ParseTargetError::Host);
    }
    let port = match port {
        None => None,
        Some(port) => match port.parse() {
            Ok(0) | Err(_) => return Err(ParseTargetError::Port),
            Ok(port) => Some(port),
        },
    };
    let host = host.parse().map_err(|_| ParseTargetError::Host)?;
    Ok((host, port))
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.transport)?;
        match &self.host {
            Host::Address(ip) if ip.is_ipv6() => write!(f, "[{ip}]")?,
            host @ (Host::Address(_) | Host::Name(_)) => write!(f, "{host}")?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_round_trip() {
        for url in [
            "tcp://192.0.2.1:4567",
            "tls://sbc.example.com",
            "udp://[2001:db8::1]",
            "dtls://[2001:db8::1]:65535",
        ] {
            assert_eq!(url.parse::<Target>().unwrap().to_string(), url);
        }
        let url = "TLS://host/".parse::<Target>().unwrap();
        assert_eq!(url.to_string(), "tls://host");
    }

    #[test]
    fn what_is_no_url_is_refused() {
        use ParseTargetError::{Host, Port, Scheme};
        for (url, error) in [
            ("host", Scheme),
            ("http://host", Scheme),
            ("tls://", Host),
            ("tls://a b", Host),
            ("tls://2001:db8::1", Host),
            ("tls://host:0", Port),
            ("tls://host:x", Port),
            ("tls://host:65536", Port),
        ] {
            assert_eq!(url.parse::<Target>(), Err(error), "{url}");
        }
    }
}
