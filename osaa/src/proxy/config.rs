//! Which proxy, and what it may be told.

use std::{
    fmt,
    net::IpAddr,
    str::FromStr,
    sync::{Arc, OnceLock},
};

use super::{AuthScheme, CredentialSource, Credentials};
use crate::{
    cert::{ClientSecurity, CredentialError, Trust},
    client::Host,
};

/// How a proxy is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProxyScheme {
    /// In clear: everybody on the way to the proxy sees whom we want to reach.
    Http,
    /// Under TLS.
    Https,
}

/// A proxy. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Proxy {
    scheme: ProxyScheme,
    host: Host,
    port: u16,
    credentials: Option<CredentialSource>,
    basic_in_clear: bool,
    schemes: [bool; AuthScheme::ALL.len()],
    kdc: Option<Arc<str>>,
    /// For TLS; made from the system's roots when it is first needed.
    security: Arc<OnceLock<ClientSecurity>>,
}

impl Proxy {
    /// A proxy without credentials.
    #[must_use]
    pub fn new(scheme: ProxyScheme, host: impl Into<Host>, port: u16) -> Self {
        Self {
            scheme,
            host: host.into(),
            port,
            credentials: None,
            basic_in_clear: false,
            schemes: [true; AuthScheme::ALL.len()],
            kdc: None,
            security: Arc::default(),
        }
    }

    /// Presents credentials when the proxy asks for them: [`Credentials`], or a [`CredentialSource`].
    #[must_use]
    pub fn with_credentials(mut self, source: impl Into<CredentialSource>) -> Self {
        self.credentials = Some(source.into());
        self
    }

    /// Whether Basic may be used towards a proxy that is not under TLS, **where anyone on the way can read the password**.
    /// Default: no.
    #[must_use]
    pub const fn allow_basic_in_clear(mut self, allowed: bool) -> Self {
        self.basic_in_clear = allowed;
        self
    }

    /// Uses these schemes only, in their fixed order. Default: all.
    #[must_use]
    pub fn with_schemes(mut self, schemes: impl IntoIterator<Item = AuthScheme>) -> Self {
        let wanted: Vec<AuthScheme> = schemes.into_iter().collect();
        self.schemes = AuthScheme::ALL.map(|scheme| wanted.contains(&scheme));
        self
    }

    /// The Kerberos key server for Negotiate: `host`, `host:port`, or `tcp://host:port`. Default: what the environment variable
    /// `SSPI_KDC_URL` says, or /etc/krb5.conf for the user's realm. Without any of them Negotiate uses NTLM.
    #[must_use]
    pub fn with_kdc(mut self, kdc: impl Into<String>) -> Self {
        self.kdc = Some(kdc.into().into());
        self
    }

    /// Whose certificates are accepted of a proxy under TLS. Default: those below the system's roots.
    ///
    /// # Errors
    /// The system has no roots.
    pub fn with_trust(mut self, trust: Trust) -> Result<Self, CredentialError> {
        self.security = Arc::new(ClientSecurity::new(trust, None)?.into());
        Ok(self)
    }

    /// How it is spoken to.
    #[must_use]
    pub const fn scheme(&self) -> ProxyScheme {
        self.scheme
    }

    /// Its host.
    #[must_use]
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// Its port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    pub(super) const fn credentials(&self) -> Option<&CredentialSource> {
        self.credentials.as_ref()
    }

    /// Whether Basic may be used.
    pub(super) fn basic_is_allowed(&self) -> bool {
        self.basic_in_clear || self.scheme == ProxyScheme::Https
    }

    pub(super) fn allows(&self, scheme: AuthScheme) -> bool {
        AuthScheme::ALL
            .iter()
            .zip(self.schemes)
            .any(|(known, allowed)| *known == scheme && allowed)
    }

    #[cfg(feature = "proxy-negotiate")]
    pub(super) fn kdc(&self) -> Option<&str> {
        self.kdc.as_deref()
    }

    /// The settings for TLS. Reads the system's roots the first time.
    pub(super) fn security(&self) -> Result<&ClientSecurity, CredentialError> {
        if let Some(security) = self.security.get() {
            return Ok(security);
        }
        let security = ClientSecurity::new(Trust::System, None)?;
        Ok(self.security.get_or_init(|| security))
    }
}

impl fmt::Display for Proxy {
    /// `http://host:port`, without credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            ProxyScheme::Http => "http",
            ProxyScheme::Https => "https",
        };
        write!(f, "{scheme}://{}", authority(&self.host, self.port))
    }
}

/// `host:port`, with brackets where they are needed.
pub(super) fn authority(host: &Host, port: u16) -> String {
    match host {
        Host::Address(IpAddr::V6(address)) => format!("[{address}]:{port}"),
        host @ (Host::Address(IpAddr::V4(_)) | Host::Name(_)) => format!("{host}:{port}"),
    }
}

/// Why a text is no proxy. It is not repeated, as there may be a password in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseProxyError {
    /// Neither http nor https; SOCKS is not supported.
    #[error("a proxy's URL begins with http:// or https://")]
    Scheme,
    /// Neither a name nor an address.
    #[error("the proxy's host is neither a DNS name nor an IP address")]
    Host,
    /// Not a number from 1 to 65535.
    #[error("the proxy's port is no number from 1 to 65535")]
    Port,
    /// The user's name or password.
    #[error("the user's name or password in the proxy's URL is not UTF-8, or has a bad % escape")]
    Credentials,
    /// Something stands behind the port.
    #[error("a proxy's URL ends behind the port")]
    Path,
}

impl FromStr for Proxy {
    type Err = ParseProxyError;

    /// `http://[user[:password]@]host[:port]`, or https. User and password may have % escapes. The port is 80 or 443 if it is
    /// missing, the scheme http.
    fn from_str(text: &str) -> Result<Self, ParseProxyError> {
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => {
                (ProxyScheme::Http, rest)
            }
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => {
                (ProxyScheme::Https, rest)
            }
            Some(_) => return Err(ParseProxyError::Scheme),
            None => (ProxyScheme::Http, text),
        };
        // Passwords that were not escaped may hold an @ and a slash.
        let (user, rest) = match rest.rsplit_once('@') {
            Some((user, rest)) => (Some(user), rest),
            None => (None, rest),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#']) {
            return Err(ParseProxyError::Path);
        }
        let (host, port) = split_port(rest).ok_or(ParseProxyError::Port)?;
        let port = port.unwrap_or(match scheme {
            ProxyScheme::Http => 80,
            ProxyScheme::Https => 443,
        });
        let host: Host = host.parse().map_err(|_| ParseProxyError::Host)?;
        let proxy = Self::new(scheme, host, port);
        let Some(user) = user else {
            return Ok(proxy);
        };
        let (user, password) = user.split_once(':').unwrap_or((user, ""));
        let (Some(user), Some(password)) = (unescape(user), unescape(password)) else {
            return Err(ParseProxyError::Credentials);
        };
        Ok(proxy.with_credentials(Credentials::new(user, password)))
    }
}

/// Host, and port if there is one; `None` if the port is none.
pub(super) fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match text.rsplit_once(':') {
        // The last colon of an address.
        Some((host, _)) if host.contains(':') && !host.ends_with(']') => return Some((text, None)),
        Some((host, port)) if !port.ends_with(']') => (host, port),
        Some(_) | None => return Some((text, None)),
    };
    match port.parse() {
        Ok(0) | Err(_) => None,
        Ok(port) => Some((host, Some(port))),
    }
}

fn unescape(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut plain = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                let (high, low) = (digit()?, digit()?);
                u8::try_from(high * 16 + low).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(plain).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_proxies() {
        for (text, shown) in [
            (
                "http://proxy.example.com:3128",
                "http://proxy.example.com:3128",
            ),
            (
                "HTTPS://proxy.example.com/",
                "https://proxy.example.com:443",
            ),
            ("proxy:8080", "http://proxy:8080"),
            ("http://[2001:db8::1]:3128", "http://[2001:db8::1]:3128"),
            ("http://[2001:db8::1]", "http://[2001:db8::1]:80"),
            ("http://u:p%40%3A@192.0.2.1:1", "http://192.0.2.1:1"),
        ] {
            let proxy: Proxy = text.parse().unwrap();
            assert_eq!(proxy.to_string(), shown, "{text}");
        }
        for (text, error) in [
            ("socks5://proxy:1080", ParseProxyError::Scheme),
            ("http://", ParseProxyError::Host),
            ("http://a b:1", ParseProxyError::Host),
            ("http://a:0", ParseProxyError::Port),
            ("http://a:99999", ParseProxyError::Port),
            ("http://a:1/path", ParseProxyError::Path),
            ("http://u:%zz@a:1", ParseProxyError::Credentials),
        ] {
            assert_eq!(text.parse::<Proxy>().unwrap_err(), error, "{text}");
        }
    }

    #[test]
    fn passwords_of_urls_are_not_shown() {
        let proxy: Proxy = "http://alice:p%40ss/@w@proxy:1".parse().unwrap();
        let shown = format!("{proxy} {proxy:?}");
        assert!(
            shown.contains("alice") && !shown.contains("p@ss"),
            "{shown}"
        );
    }
}
