//! MSRP URIs (RFC 4975 section 6 and 9).

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use super::limits;
use crate::sip::Host;

/// Why a text is no MSRP URI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MsrpUriError {
    /// Neither `msrp://` nor `msrps://`.
    #[error("the URI is not of MSRP")]
    Scheme,
    /// No valid host, or no valid port.
    #[error("the URI has no valid host and port")]
    Authority,
    /// No session, or with characters that it must not have.
    #[error("the URI names no session")]
    Session,
    /// No transport, or malformed parameters.
    #[error("the URI names no transport, or has malformed parameters")]
    Transport,
    /// No URI in a path, or more than [`limits::PATH`].
    #[error("the path is empty or too long")]
    Path,
}

/// Names one end of a session, and where it is reached.
///
/// User information is read and dropped: it means nothing for the comparison of URIs (6.1).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MsrpUri {
    /// `msrps`: over TLS.
    pub secure: bool,
    /// Host.
    pub host: Host,
    /// Port, if named.
    pub port: Option<u16>,
    /// The session. Case matters.
    pub session: String,
    /// Transport in lower case; `tcp`.
    pub transport: String,
    /// Further parameters with their semicolons.
    pub params: String,
}

impl MsrpUri {
    /// The URI of a session over TCP.
    #[must_use]
    pub fn tcp(address: SocketAddr, session: &str) -> Self {
        Self {
            secure: false,
            host: address.ip().into(),
            port: Some(address.port()),
            session: session.to_owned(),
            transport: "tcp".to_owned(),
            params: String::new(),
        }
    }

    /// Where to connect to; `None` if the host is a name, the port is missing, or it is not TCP in the clear.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        let plain = !self.secure && self.transport == "tcp";
        let ip: IpAddr = self.host.ip().filter(|_| plain)?;
        Some(SocketAddr::new(ip, self.port?))
    }

    /// Whether both name the same end of the same session (6.1).
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let key = |u: &Self| (u.secure, u.port, u.host.clone());
        key(self) == key(other)
            && self.session == other.session
            && self.transport == other.transport
    }
}

impl FromStr for MsrpUri {
    type Err = MsrpUriError;

    fn from_str(text: &str) -> Result<Self, MsrpUriError> {
        let (scheme, rest) = text.split_once("://").ok_or(MsrpUriError::Scheme)?;
        let secure = match scheme.to_ascii_lowercase().as_str() {
            "msrp" => false,
            "msrps" => true,
            _ => return Err(MsrpUriError::Scheme),
        };
        let (address, params) = rest.split_once(';').ok_or(MsrpUriError::Transport)?;
        let (authority, session) = address.split_once('/').ok_or(MsrpUriError::Session)?;
        let authority = authority
            .rsplit_once('@')
            .map_or(authority, |(_, host)| host);
        if authority.contains([' ', '\t']) {
            return Err(MsrpUriError::Authority);
        }
        let (host, port) = Host::parse_with_port(authority).map_err(|_| MsrpUriError::Authority)?;
        let unreserved = |c: char| c.is_ascii_alphanumeric() || "-._~+=/".contains(c);
        if session.is_empty() || !session.chars().all(unreserved) {
            return Err(MsrpUriError::Session);
        }
        let (transport, params) = match params.find(';') {
            Some(at) => params.split_at(at),
            None => (params, ""),
        };
        let good = |c: char| c.is_ascii_alphanumeric() || "-._~!*'%+;=:[]".contains(c);
        if transport.is_empty()
            || !transport.chars().all(|c| c.is_ascii_alphanumeric())
            || !params.chars().all(good)
        {
            return Err(MsrpUriError::Transport);
        }
        Ok(Self {
            secure,
            host,
            port,
            session: session.to_owned(),
            transport: transport.to_ascii_lowercase(),
            params: params.to_owned(),
        })
    }
}

impl fmt::Display for MsrpUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.secure { "msrps://" } else { "msrp://" })?;
        self.host.fmt(f)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        write!(f, "/{};{}{}", self.session, self.transport, self.params)
    }
}

/// Reads a path: URIs with a space between them, the next hop first.
///
/// # Errors
///
/// What is wrong with it.
pub fn parse_path(text: &str) -> Result<Vec<MsrpUri>, MsrpUriError> {
    let path: Vec<MsrpUri> = text
        .split(' ')
        .take(limits::PATH + 1)
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    if path.len() > limits::PATH {
        return Err(MsrpUriError::Path);
    }
    Ok(path)
}

/// Writes a path.
pub(super) struct Path<'a>(pub(super) &'a [MsrpUri]);

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, uri) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str(" ")?;
            }
            uri.fmt(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_round_trip() {
        for text in [
            "msrp://192.0.2.1:7654/jshA7weztas;tcp",
            "msrps://[2001:db8::1]:9/a+b=/c;tcp;x=1;y",
            "msrp://example.com/s;tcp",
        ] {
            assert_eq!(text.parse::<MsrpUri>().unwrap().to_string(), text);
        }
        let with_user: MsrpUri = "MSRP://bob@Example.com:1/s;TCP".parse().unwrap();
        assert_eq!(with_user.to_string(), "msrp://example.com:1/s;tcp");
        assert_eq!(with_user.address(), None);
    }

    #[test]
    fn bad_uris_say_why() {
        for (text, error) in [
            ("http://a/b;tcp", MsrpUriError::Scheme),
            ("msrp:a", MsrpUriError::Scheme),
            ("msrp://a:b/c;tcp", MsrpUriError::Authority),
            ("msrp:///c;tcp", MsrpUriError::Authority),
            ("msrp://a/;tcp", MsrpUriError::Session),
            ("msrp://a;tcp", MsrpUriError::Session),
            ("msrp://a/b", MsrpUriError::Transport),
            ("msrp://a/b;", MsrpUriError::Transport),
            ("msrp://a/b;t-p", MsrpUriError::Transport),
        ] {
            assert_eq!(text.parse::<MsrpUri>(), Err(error), "{text}");
        }
        let long = vec!["msrp://a/b;tcp"; limits::PATH + 1].join(" ");
        assert_eq!(parse_path(&long), Err(MsrpUriError::Path));
        assert!(parse_path("").is_err());
    }

    #[test]
    fn sessions_compare_by_what_names_them() {
        let uri = |text: &str| text.parse::<MsrpUri>().unwrap();
        let one = uri("msrp://a.example:1/S;tcp");
        assert!(one.is_same(&uri("msrp://u@A.EXAMPLE:1/S;tcp;x")));
        assert!(!one.is_same(&uri("msrp://a.example:1/s;tcp")));
        assert!(!one.is_same(&uri("msrp://a.example:2/S;tcp")));
        assert!(!one.is_same(&uri("msrps://a.example:1/S;tcp")));
    }
}
