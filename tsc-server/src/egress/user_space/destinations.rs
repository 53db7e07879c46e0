//! Where tunnels may go.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use ipnet::IpNet;

use crate::config::UserSpaceConfig;

/// DNS, and DNS over TLS: the ports at which name servers are reached whatever their address.
const NAME_PORTS: [u16; 2] = [53, 853];

/// No hosts elsewhere: this host, this link, groups, and what has no meaning (RFC 6890).
const SPECIAL: [&str; 9] = [
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/4",
    // With the broadcast address.
    "240.0.0.0/4",
    "::/128",
    "::1/128",
    "fe80::/10",
    "ff00::/8",
];

/// What may be said about a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// It may be reached.
    Allowed,
    /// It may not.
    Denied,
    /// It is an IPv4 address in IPv6 clothes.
    Translation,
}

/// See the module. Each list is walked for new destinations only: a mapping remembers the last one that it may reach.
#[derive(Debug)]
pub(super) struct Destinations {
    allow: Vec<IpNet>,
    deny: Vec<IpNet>,
    own: Vec<SocketAddr>,
}

impl Destinations {
    pub(super) fn new(config: &UserSpaceConfig, own: &[SocketAddr]) -> Self {
        let special = SPECIAL.iter().filter_map(|net| net.parse().ok());
        Self {
            allow: config.allow.clone(),
            deny: config.deny.iter().copied().chain(special).collect(),
            own: own.to_vec(),
        }
    }

    /// Whether a tunnel that was assigned these name servers may send to `destination`.
    pub(super) fn judge(&self, destination: SocketAddr, name_servers: &[IpAddr]) -> Judgement {
        let address = destination.ip();
        if is_mapped(address) {
            return Judgement::Translation;
        }
        let port = destination.port();
        let is_name_server = NAME_PORTS.contains(&port) && name_servers.contains(&address);
        let within = |nets: &[IpNet]| nets.iter().any(|net| net.contains(&address));
        // A tunnel inside a tunnel is open only where the very address is, not a network around it.
        let allowed = port != 0
            && (self.allow.contains(&IpNet::from(address)) || !self.is_own(destination))
            && (is_name_server || within(&self.allow) || !within(&self.deny));
        if allowed {
            Judgement::Allowed
        } else {
            Judgement::Denied
        }
    }

    /// Whether a listener of this server is there.
    fn is_own(&self, destination: SocketAddr) -> bool {
        let address = destination.ip();
        self.own.iter().any(|own| {
            own.port() == destination.port()
                && own.is_ipv4() == destination.is_ipv4()
                && (own.ip() == address || own.ip().is_unspecified() && is_local(address))
        })
    }
}

/// `::ffff:0:0/96`: a socket would send IPv4, past the rules for IPv4.
fn is_mapped(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.to_ipv4_mapped().is_some(),
    }
}

/// Whether the address is one of this host's. Only such addresses can be bound; a host that is set up to bind others,
/// too, counts as having them all. When in doubt, yes.
fn is_local(address: IpAddr) -> bool {
    if address.is_loopback() || address == IpAddr::V4(Ipv4Addr::UNSPECIFIED) {
        return true;
    }
    match UdpSocket::bind(SocketAddr::new(address, 0)) {
        Ok(_) => true,
        Err(error) => error.kind() != std::io::ErrorKind::AddrNotAvailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(config: &UserSpaceConfig, to: &str) -> Judgement {
        let own = ["0.0.0.0:443", "192.0.2.7:5061", "[::]:443"].map(|own| own.parse().unwrap());
        let servers = ["127.0.0.53", "192.0.2.9"].map(|server| server.parse().unwrap());
        Destinations::new(config, &own).judge(to.parse().unwrap(), &servers)
    }

    #[test]
    fn what_is_no_host_elsewhere_is_denied() {
        let config = UserSpaceConfig::default();
        for to in [
            "127.0.0.1:80",
            "127.9.9.9:80",
            "0.0.0.0:80",
            "0.1.2.3:80",
            "169.254.169.254:80",
            "224.0.0.251:5353",
            "255.255.255.255:67",
            "240.0.0.1:80",
            "[::]:80",
            "[::1]:80",
            "[fe80::1]:80",
            "[ff02::1]:80",
            "192.0.2.1:0",
        ] {
            assert_eq!(judge(&config, to), Judgement::Denied, "{to}");
        }
        for to in ["192.0.2.1:80", "10.0.0.1:5060", "[2001:db8::1]:443"] {
            assert_eq!(judge(&config, to), Judgement::Allowed, "{to}");
        }
        assert_eq!(
            judge(&config, "[::ffff:127.0.0.1]:80"),
            Judgement::Translation
        );
    }

    #[test]
    fn lists_open_and_close() {
        let config = UserSpaceConfig {
            allow: vec!["127.0.0.0/8".parse().unwrap()],
            deny: vec![
                "192.0.2.0/24".parse().unwrap(),
                "127.0.0.9/32".parse().unwrap(),
            ],
            ..UserSpaceConfig::default()
        };
        assert_eq!(judge(&config, "127.0.0.1:80"), Judgement::Allowed);
        assert_eq!(judge(&config, "127.0.0.9:80"), Judgement::Allowed);
        assert_eq!(judge(&config, "192.0.2.1:80"), Judgement::Denied);
        assert_eq!(judge(&config, "[::1]:80"), Judgement::Denied);
    }

    #[test]
    fn name_servers_are_reached_at_their_ports_only() {
        let config = UserSpaceConfig {
            deny: vec!["192.0.2.0/24".parse().unwrap()],
            ..UserSpaceConfig::default()
        };
        assert_eq!(judge(&config, "127.0.0.53:53"), Judgement::Allowed);
        assert_eq!(judge(&config, "192.0.2.9:853"), Judgement::Allowed);
        assert_eq!(judge(&config, "127.0.0.53:22"), Judgement::Denied);
        assert_eq!(judge(&config, "192.0.2.10:53"), Judgement::Denied);
    }

    #[test]
    fn the_servers_own_ports_stay_closed_even_on_an_open_network() {
        let config = UserSpaceConfig {
            allow: vec![
                "127.0.0.0/8".parse().unwrap(),
                "192.0.2.0/24".parse().unwrap(),
                "::/0".parse().unwrap(),
                "127.0.0.2/32".parse().unwrap(),
            ],
            ..UserSpaceConfig::default()
        };
        assert_eq!(judge(&config, "127.0.0.1:443"), Judgement::Denied);
        assert_eq!(judge(&config, "[::1]:443"), Judgement::Denied);
        assert_eq!(judge(&config, "[::1]:444"), Judgement::Allowed);
        // Unless they are named.
        assert_eq!(judge(&config, "127.0.0.2:443"), Judgement::Allowed);
        assert_eq!(judge(&config, "192.0.2.7:5061"), Judgement::Denied);
        assert_eq!(judge(&config, "192.0.2.8:5061"), Judgement::Allowed);
        // Another host's port of the same number (documentation addresses are nobody's).
        assert_eq!(judge(&config, "203.0.113.77:443"), Judgement::Allowed);
    }
}
