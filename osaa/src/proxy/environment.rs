//! Which targets take which proxy, and what the environment says of it.

use std::{fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;

use super::{ParseProxyError, Proxy, config::split_port};
use crate::client::Host;

/// Most entries of a list of exceptions.
pub const MAX_EXCEPTIONS: usize = 1024;

/// Whether there is a proxy, and which hosts are reached without it. Cheap to clone. The default is none.
#[derive(Clone, Default)]
pub struct ProxySettings(Option<Arc<(Proxy, NoProxy)>>);

impl ProxySettings {
    /// No proxy.
    #[must_use]
    pub fn direct() -> Self {
        Self::default()
    }

    /// What the environment says, by a function such as `|name| std::env::var(name).ok()`: the first of `https_proxy`,
    /// `HTTPS_PROXY`, `all_proxy` and `ALL_PROXY` that is set and not empty, with the exceptions of `no_proxy` or `NO_PROXY`.
    /// `HTTP_PROXY` is not looked at: a tunnel is no plain HTTP. A password in the URL of a proxy in clear is not sent by Basic
    /// unless [`Self::with_proxy`] allows it.
    ///
    /// # Errors
    /// The text is no proxy.
    pub fn from_environment(
        lookup: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ParseProxyError> {
        let first = |names: &[&str]| {
            names
                .iter()
                .find_map(|name| lookup(name).filter(|value| !value.trim().is_empty()))
        };
        let Some(proxy) = first(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]) else {
            return Ok(Self::direct());
        };
        let proxy: Proxy = proxy.trim().parse()?;
        let exceptions = first(&["no_proxy", "NO_PROXY"]).unwrap_or_default();
        Ok(Self::from(proxy).with_exceptions(NoProxy::new(&exceptions)))
    }

    /// Whether there is no proxy at all.
    #[must_use]
    pub const fn is_direct(&self) -> bool {
        self.0.is_none()
    }

    /// Reaches these hosts without the proxy.
    #[must_use]
    pub fn with_exceptions(self, exceptions: NoProxy) -> Self {
        self.with(|(proxy, _)| (proxy, exceptions))
    }

    /// Changes the proxy, if there is one: for credentials, or [`Proxy::allow_basic_in_clear`].
    #[must_use]
    pub fn with_proxy(self, change: impl FnOnce(Proxy) -> Proxy) -> Self {
        self.with(|(proxy, exceptions)| (change(proxy), exceptions))
    }

    fn with(self, change: impl FnOnce((Proxy, NoProxy)) -> (Proxy, NoProxy)) -> Self {
        Self(
            self.0
                .map(|settings| Arc::new(change(Arc::unwrap_or_clone(settings)))),
        )
    }

    /// The proxy for a target; `None` if it is reached directly.
    #[must_use]
    pub fn for_target(&self, host: &Host, port: u16) -> Option<&Proxy> {
        let (proxy, exceptions) = self.0.as_deref()?;
        (!exceptions.holds(host, port)).then_some(proxy)
    }
}

impl From<Proxy> for ProxySettings {
    /// For all targets.
    fn from(proxy: Proxy) -> Self {
        Self(Some(Arc::new((proxy, NoProxy::default()))))
    }
}

impl fmt::Debug for ProxySettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_deref() {
            None => f.write_str("direct"),
            Some((proxy, exceptions)) => f
                .debug_struct("ProxySettings")
                .field("proxy", proxy)
                .field("exceptions", exceptions)
                .finish(),
        }
    }
}

/// Hosts that are reached without a proxy, as `NO_PROXY` lists them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NoProxy(Vec<Exception>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Exception {
    what: What,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    All,
    Network(IpNet),
    /// A name and all below it, in lower case.
    Name(String),
}

impl NoProxy {
    /// Reads a list, separated by commas or blanks: `*`, a name (with or without `.` or `*.` in front; it stands for all below it,
    /// too), an address, or a network such as `10.0.0.0/8`. A port may follow a name or an address. What is none of
    /// these is without effect, as it is elsewhere; so is what comes after [`MAX_EXCEPTIONS`].
    #[must_use]
    pub fn new(list: &str) -> Self {
        let entries = list.split(|c: char| c == ',' || c.is_whitespace());
        Self(
            entries
                .filter(|entry| !entry.is_empty())
                .filter_map(Exception::new)
                .take(MAX_EXCEPTIONS)
                .collect(),
        )
    }

    /// Whether a target is reached without a proxy. Names are not resolved for that.
    #[must_use]
    pub fn holds(&self, host: &Host, port: u16) -> bool {
        self.0.iter().any(|exception| {
            exception.port.is_none_or(|wanted| wanted == port) && exception.what.fits(host)
        })
    }
}

impl Exception {
    fn new(entry: &str) -> Option<Self> {
        if let Ok(network) = entry.parse() {
            let what = What::Network(network);
            return Some(Self { what, port: None });
        }
        let (host, port) = split_port(entry)?;
        let bare = host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(host);
        let what = if host == "*" {
            What::All
        } else if let Ok(address) = bare.parse::<IpAddr>() {
            What::Network(address.to_canonical().into())
        } else {
            let name = host.strip_prefix('*').unwrap_or(host);
            let name = name.trim_matches('.').to_ascii_lowercase();
            if name.is_empty() {
                return None;
            }
            What::Name(name)
        };
        Some(Self { what, port })
    }
}

impl What {
    fn fits(&self, host: &Host) -> bool {
        match (self, host) {
            (Self::All, _) => true,
            (Self::Network(network), Host::Address(address)) => {
                network.contains(&address.to_canonical())
            }
            (Self::Name(wanted), Host::Name(name)) => {
                let name = name.as_ref().trim_end_matches('.').to_ascii_lowercase();
                name.strip_suffix(wanted.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
            (Self::Network(_), Host::Name(_)) | (Self::Name(_), Host::Address(_)) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn holds(list: &str, host: &str, port: u16) -> bool {
        NoProxy::new(list).holds(&host.parse().unwrap(), port)
    }

    #[test]
    fn names_stand_for_all_below_them() {
        for list in [
            "example.com",
            ".example.com",
            "*.Example.COM",
            "a, example.com.",
        ] {
            for host in ["example.com", "a.example.com", "A.B.EXAMPLE.com"] {
                assert!(holds(list, host, 443), "{list} {host}");
            }
            for host in ["badexample.com", "example.com.evil", "com", "192.0.2.1"] {
                assert!(!holds(list, host, 443), "{list} {host}");
            }
        }
    }

    #[test]
    fn addresses_and_networks() {
        let list = "192.0.2.1 10.0.0.0/8,2001:db8::/32,[::1]";
        for host in [
            "192.0.2.1",
            "10.255.0.1",
            "2001:db8:5::1",
            "::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(holds(list, host, 1), "{host}");
        }
        for host in ["192.0.2.2", "11.0.0.1", "2001:db9::1", "::2", "example.com"] {
            assert!(!holds(list, host, 1), "{host}");
        }
    }

    #[test]
    fn ports_narrow() {
        let list = "example.com:443,192.0.2.1:8443,[2001:db8::1]:1,host:x";
        assert!(holds(list, "a.example.com", 443) && !holds(list, "a.example.com", 444));
        assert!(holds(list, "192.0.2.1", 8443) && !holds(list, "192.0.2.1", 443));
        assert!(holds(list, "2001:db8::1", 1) && !holds(list, "2001:db8::1", 2));
        assert!(!holds(list, "host", 443));
    }

    #[test]
    fn a_star_is_everything() {
        assert!(holds("*", "example.com", 1) && holds("a,*", "::1", 1));
        assert!(!holds("", "example.com", 1) && !holds(" , ,.", "example.com", 1));
    }

    fn settings(variables: &[(&str, &str)]) -> ProxySettings {
        let lookup = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        ProxySettings::from_environment(lookup).unwrap()
    }

    #[test]
    fn the_environment_names_a_proxy_and_exceptions() {
        let host: Host = "tsc.example.com".parse().unwrap();
        let proxy = |variables: &[(&str, &str)]| {
            let settings = settings(variables);
            settings.for_target(&host, 443).map(ToString::to_string)
        };
        assert_eq!(proxy(&[("HTTP_PROXY", "http://a:1")]), None);
        assert_eq!(proxy(&[("HTTPS_PROXY", "  ")]), None);
        let both = [("HTTPS_PROXY", "http://a:1"), ("https_proxy", "http://b:1")];
        assert_eq!(proxy(&both).as_deref(), Some("http://b:1"));
        let all = [("ALL_PROXY", "a:1"), ("NO_PROXY", "other")];
        assert_eq!(proxy(&all).as_deref(), Some("http://a:1"));
        let excepted = [("ALL_PROXY", "a:1"), ("no_proxy", "example.com")];
        assert_eq!(proxy(&excepted), None);
        let bad = ProxySettings::from_environment(|_| Some("socks5://a:1".to_owned()));
        assert_eq!(bad.unwrap_err(), ParseProxyError::Scheme);
    }

    proptest! {
        #[test]
        fn any_text_is_a_list(text in ".{0,60}", name in "[a-z]{1,8}(\\.[a-z]{1,8}){0,3}", port: u16) {
            let _ = NoProxy::new(&text).holds(&name.parse().unwrap(), port);
        }

        #[test]
        fn a_name_in_the_list_is_an_exception_with_all_below_it(
            name in "[a-z]{1,8}(\\.[a-z]{1,8}){0,3}", below in "[a-z]{1,8}", others in "[a-z.,*: ]{0,20}",
        ) {
            let list = format!("{others},{name}");
            prop_assert!(holds(&list, &name, 1));
            let below = format!("{below}.{name}");
            prop_assert!(holds(&list, &below, 1));
        }

        #[test]
        fn every_address_of_a_network_is_an_exception(bits: u32, length in 0u8..=32) {
            let address = std::net::Ipv4Addr::from(bits);
            let list = format!("{address}/{length}");
            prop_assert!(holds(&list, &address.to_string(), 1));
        }
    }
}
