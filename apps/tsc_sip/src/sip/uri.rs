//! SIP URIs (RFC 3261 19.1).

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use super::{Hop, Params, Transport, limits};

/// Port of SIP over UDP when a URI or Via names none.
pub const DEFAULT_PORT: u16 = 5060;

/// Why a text is no URI that this program understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UriError {
    /// There is no scheme, or it has a character that no scheme has.
    #[error("the URI has no scheme")]
    Scheme,
    /// A character that must be escaped, or a broken `%` escape.
    #[error("the URI has a character or an escape that is not allowed")]
    Character,
    /// The host is neither a name nor an address.
    #[error("the URI has no valid host")]
    Host,
    /// The port is no number from 1 to 65535.
    #[error("the URI has no valid port")]
    Port,
    /// A malformed or repeated parameter, or too many.
    #[error("the URI has malformed parameters")]
    Params,
}

/// Host part of a URI or of a Via.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// An address literal.
    Ip(IpAddr),
    /// A domain name in lower case.
    Name(String),
}

impl Host {
    /// The address, if the host is a literal. This program never asks a resolver.
    #[must_use]
    pub const fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Ip(ip) => Some(*ip),
            Self::Name(_) => None,
        }
    }

    /// Splits `host [":" port]`.
    pub(crate) fn parse_with_port(text: &str) -> Result<(Self, Option<u16>), UriError> {
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (v6, after) = rest.split_once(']').ok_or(UriError::Host)?;
            let ip: Ipv6Addr = v6.parse().map_err(|_| UriError::Host)?;
            let port = match after.trim_start() {
                "" => None,
                port => Some(port.strip_prefix(':').ok_or(UriError::Host)?),
            };
            (Self::Ip(ip.into()), port)
        } else {
            let (name, port) = match text.split_once(':') {
                Some((name, port)) => (name.trim_end(), Some(port)),
                None => (text, None),
            };
            (name.parse()?, port)
        };
        let port = match port.map(str::trim) {
            None => None,
            Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => Some(
                port.parse()
                    .ok()
                    .filter(|port| *port != 0)
                    .ok_or(UriError::Port)?,
            ),
            Some(_) => return Err(UriError::Port),
        };
        Ok((host, port))
    }
}

impl FromStr for Host {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        if let Some(v6) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
            return v6.parse().map(Self::Ip).map_err(|_| UriError::Host);
        }
        if let Ok(ip) = text.parse::<std::net::Ipv4Addr>() {
            return Ok(Self::Ip(ip.into()));
        }
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if text.is_empty() || text.len() > 255 || !text.chars().all(good) {
            return Err(UriError::Host);
        }
        Ok(Self::Name(text.to_ascii_lowercase()))
    }
}

impl From<IpAddr> for Host {
    fn from(ip: IpAddr) -> Self {
        Self::Ip(ip)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
            Self::Ip(ip) => ip.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// A `sip:` or `sips:` URI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SipUri {
    /// `sips:`.
    pub secure: bool,
    /// User part (with a password, if somebody wrote one) as it stands on the wire: escapes kept.
    pub user: Option<String>,
    /// Host.
    pub host: Host,
    /// Port, if named.
    pub port: Option<u16>,
    /// Parameters such as `lr` or `transport`.
    pub params: Params,
    /// What stands after `?`, uninterpreted.
    pub headers: Option<String>,
}

impl SipUri {
    /// `sip:user@host:port`; what no user part may hold is escaped.
    #[must_use]
    pub fn new(user: &str, host: impl Into<Host>, port: Option<u16>) -> Self {
        Self {
            secure: false,
            user: (!user.is_empty()).then(|| escape(user)),
            host: host.into(),
            port,
            params: Params::default(),
            headers: None,
        }
    }

    /// `sip:user@address`, the form of a Contact.
    #[must_use]
    pub fn at(user: &str, address: SocketAddr) -> Self {
        Self::new(user, address.ip(), Some(address.port()))
    }

    /// The user part without escapes; empty if there is none.
    #[must_use]
    pub fn user_name(&self) -> String {
        self.user.as_deref().map(unescape).unwrap_or_default()
    }

    /// The same, reached over this transport.
    #[must_use]
    pub fn over(mut self, transport: Transport) -> Self {
        if transport == Transport::Tcp {
            self.params.set("transport", Some("tcp".to_owned()));
        }
        self
    }

    /// Where requests for this URI go and how, if its host is an address literal. Transports that are not known here
    /// count as UDP.
    #[must_use]
    pub fn hop(&self) -> Option<Hop> {
        let transport = match self.params.value("transport") {
            Some(name) if name.eq_ignore_ascii_case("tcp") => Transport::Tcp,
            _ => Transport::Udp,
        };
        Some(Hop::new(transport, self.address()?))
    }

    /// Where requests for this URI go, if its host is an address literal.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        let ip = self.host.ip()?;
        Some(SocketAddr::new(ip, self.port.unwrap_or(DEFAULT_PORT)))
    }
}

impl FromStr for SipUri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let (scheme, rest) = text.split_once(':').ok_or(UriError::Scheme)?;
        let secure = match scheme.to_ascii_lowercase().as_str() {
            "sip" => false,
            "sips" => true,
            _ => return Err(UriError::Scheme),
        };
        let (user, rest) = match rest.split_once('@') {
            Some((user, rest)) => {
                check(user, |c| "-_.!~*'()&=+$,;?/:".contains(c))?;
                if user.is_empty() {
                    return Err(UriError::Character);
                }
                (Some(user.to_owned()), rest)
            }
            None => (None, rest),
        };
        let (rest, headers) = match rest.split_once('?') {
            Some((rest, headers)) => {
                check(headers, |c| "-_.!~*'()[]/?:+$&=".contains(c))?;
                (rest, Some(headers.to_owned()))
            }
            None => (rest, None),
        };
        let mut parts = rest.split(';');
        let host_port = parts.next().unwrap_or_default();
        if host_port.contains([' ', '\t']) {
            return Err(UriError::Host);
        }
        let (host, port) = Host::parse_with_port(host_port)?;
        let mut params = Vec::new();
        for part in parts {
            let good = |c| "-_.!~*'()[]/:&+$".contains(c);
            let (name, value) = match part.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (part, None),
            };
            check(name, good)?;
            check(value.unwrap_or_default(), good)?;
            let name = name.to_ascii_lowercase();
            let twice = params.iter().any(|(other, _)| *other == name);
            if name.is_empty() || value == Some("") || twice || params.len() == limits::PARAMS {
                return Err(UriError::Params);
            }
            params.push((name, value.map(str::to_owned)));
        }
        Ok(Self {
            secure,
            user,
            host,
            port,
            params: Params::from_pairs(params),
            headers,
        })
    }
}

impl fmt::Display for SipUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.secure { "sips:" } else { "sip:" })?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        self.host.fmt(f)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        for (name, value) in self.params.iter() {
            write!(f, ";{name}")?;
            if let Some(value) = value {
                write!(f, "={value}")?;
            }
        }
        if let Some(headers) = &self.headers {
            write!(f, "?{headers}")?;
        }
        Ok(())
    }
}

/// Any URI. Schemes other than SIP's are kept as text, to be refused with 416 where a SIP URI is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Uri {
    /// `sip:` or `sips:`.
    Sip(SipUri),
    /// Another scheme.
    Other(String),
}

impl Uri {
    /// The SIP URI, if it is one.
    #[must_use]
    pub const fn sip(&self) -> Option<&SipUri> {
        match self {
            Self::Sip(uri) => Some(uri),
            Self::Other(_) => None,
        }
    }

    /// User part without escapes; empty if there is none.
    #[must_use]
    pub fn user_name(&self) -> String {
        self.sip().map(SipUri::user_name).unwrap_or_default()
    }
}

impl From<SipUri> for Uri {
    fn from(uri: SipUri) -> Self {
        Self::Sip(uri)
    }
}

impl FromStr for Uri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let scheme = text.split(':').next().unwrap_or_default();
        if scheme.eq_ignore_ascii_case("sip") || scheme.eq_ignore_ascii_case("sips") {
            return text.parse().map(Self::Sip);
        }
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
        let starts = scheme.starts_with(|c: char| c.is_ascii_alphabetic());
        if !starts || !scheme.chars().all(good) || scheme.len() == text.len() {
            return Err(UriError::Scheme);
        }
        let rest = text.get(scheme.len() + 1..).unwrap_or_default();
        if rest.is_empty() {
            return Err(UriError::Host);
        }
        check(rest, |c| "-_.!~*'();/?:@&=+$,[]#".contains(c))?;
        Ok(Self::Other(text.to_owned()))
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sip(uri) => uri.fmt(f),
            Self::Other(text) => f.write_str(text),
        }
    }
}

/// Letters, digits, `allowed` and well-formed escapes only.
fn check(text: &str, allowed: impl Fn(char) -> bool) -> Result<(), UriError> {
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let good = match c {
            '%' => (0..2).all(|_| chars.next().is_some_and(|c| c.is_ascii_hexdigit())),
            c => c.is_ascii_alphanumeric() || allowed(c),
        };
        if !good {
            return Err(UriError::Character);
        }
    }
    Ok(())
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.!~*'()&=+$,;?/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Resolves `%` escapes; bytes that are then no UTF-8 become the replacement character.
fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
        } else if let (Some(high), Some(low)) = (digit(bytes.next()), digit(bytes.next())) {
            out.push(u8::try_from(high * 16 + low).unwrap_or_default());
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_round_trip() {
        for text in [
            "sip:alice@example.com",
            "sips:alice:secret@[2001:db8::1]:5061;transport=udp;lr",
            "sip:192.0.2.1",
            "sip:user;par=u%40example.net@example.com?Route=%3Csip:example.com%3E",
            "tel:+15551234",
        ] {
            assert_eq!(text.parse::<Uri>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn bad_uris_say_why() {
        for (text, error) in [
            ("example.com", UriError::Scheme),
            ("sip:", UriError::Host),
            ("sip:a b@example.com", UriError::Character),
            ("sip:a%2@example.com", UriError::Character),
            ("sip:@example.com", UriError::Character),
            ("sip:a@b@c", UriError::Host),
            ("sip:a@b:0", UriError::Port),
            ("sip:a@b:65536", UriError::Port),
            ("sip:a@b:+5", UriError::Port),
            ("sip:a@b;", UriError::Params),
            ("sip:a@b;lr;LR", UriError::Params),
            ("sip:a@[::1", UriError::Host),
            ("mailto:", UriError::Host),
        ] {
            assert_eq!(text.parse::<Uri>(), Err(error), "{text}");
        }
    }

    #[test]
    fn user_parts_are_escaped_and_compared_without_escapes() {
        let uri = SipUri::new("a b@c", Host::Name("d".into()), None);
        assert_eq!(uri.to_string(), "sip:a%20b%40c@d");
        assert_eq!(uri.user_name(), "a b@c");
        assert_eq!("sip:%61@d".parse::<SipUri>().unwrap().user_name(), "a");
    }
}
