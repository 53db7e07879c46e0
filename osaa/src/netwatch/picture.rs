//! What is known of the network, and how two such pictures differ. No system calls.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::IpAddr,
};

use sha2::{Digest as _, Sha256};

use super::{Change, Happening, MAX_ADDRESSES, MAX_LINKS, MAX_ROUTES, NetworkId};

/// Everything that matters, and nothing else.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Picture {
    /// Names of the interfaces that are up, without loopback.
    links: BTreeMap<u32, String>,
    addresses: BTreeSet<Address>,
    defaults: BTreeSet<DefaultRoute>,
    /// Sum of the hashes of all narrower routes: their order does not matter, their number takes no room.
    routes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Address {
    pub(super) ip: IpAddr,
    pub(super) prefix: u8,
    pub(super) interface: u32,
}

/// IPv4 sorts before IPv6, and the preferred route before others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct DefaultRoute {
    pub(super) is_ipv6: bool,
    pub(super) metric: u32,
    pub(super) interface: u32,
    pub(super) gateway: Option<IpAddr>,
}

impl Picture {
    /// An interface that is up. To be called before what depends on it.
    pub(super) fn link(&mut self, index: u32, name: String) {
        if self.links.len() < MAX_LINKS {
            self.links.insert(index, name);
        }
    }

    pub(super) fn address(&mut self, address: Address) {
        if self.addresses.len() < MAX_ADDRESSES
            && matters(address.ip)
            && self.links.contains_key(&address.interface)
        {
            self.addresses.insert(address);
        }
    }

    pub(super) fn default_route(&mut self, route: DefaultRoute) {
        if self.defaults.len() < MAX_ROUTES && self.links.contains_key(&route.interface) {
            self.defaults.insert(route);
        }
    }

    /// A narrower route.
    pub(super) fn route(&mut self, destination: IpAddr, prefix: u8, by: DefaultRoute) {
        if matters(destination) && self.links.contains_key(&by.interface) {
            let mut hasher = DefaultHasher::new();
            (destination, prefix, by).hash(&mut hasher);
            self.routes = self.routes.wrapping_add(hasher.finish());
        }
    }

    /// What has happened between `before` and this.
    pub(super) fn since(&self, before: &Self, missed: bool) -> Change {
        let mut what = Vec::new();
        let (old, new) = (before.ips(), self.ips());
        what.extend(old.difference(&new).copied().map(Happening::AddressGone));
        let gone = |index: &&u32| !self.links.contains_key(index);
        what.extend(
            before
                .links
                .keys()
                .filter(gone)
                .copied()
                .map(Happening::LinkDown),
        );
        what.extend(new.difference(&old).copied().map(Happening::AddressNew));
        let come = |index: &&u32| !before.links.contains_key(index);
        what.extend(
            self.links
                .keys()
                .filter(come)
                .copied()
                .map(Happening::LinkUp),
        );
        if self.defaults != before.defaults {
            what.push(Happening::DefaultRouteChanged);
        }
        if self.routes != before.routes {
            what.push(Happening::RouteChanged);
        }
        if missed {
            what.push(Happening::Missed);
        }
        let usable = |is_ipv6| {
            let has_address = new.iter().any(|ip| ip.is_ipv6() == is_ipv6);
            has_address && self.defaults.iter().any(|route| route.is_ipv6 == is_ipv6)
        };
        Change {
            has_default_route_v4: usable(false),
            has_default_route_v6: usable(true),
            network: self.network(),
            what,
        }
    }

    fn ips(&self) -> BTreeSet<IpAddr> {
        self.addresses.iter().map(|address| address.ip).collect()
    }

    /// By the preferred default route, IPv4's if there is one: its prefixes change less often.
    pub(super) fn network(&self) -> Option<NetworkId> {
        let route = self.defaults.first()?;
        let here = || {
            self.addresses.iter().filter(|address| {
                address.interface == route.interface && address.ip.is_ipv6() == route.is_ipv6
            })
        };
        let around = |address: &&Address| {
            route
                .gateway
                .is_some_and(|gateway| network(gateway, address.prefix) == network_of(address))
        };
        let own = here().find(around).or_else(|| here().next());
        let name = self.links.get(&route.interface)?;
        let mut hash = Sha256::new();
        // What has no fixed length is ended by what no name contains.
        hash.update(b"opentsc network 1\0");
        hash.update(name.as_bytes());
        hash.update(b"\0");
        let gateway = route.gateway.map(|ip| ip.to_string()).unwrap_or_default();
        hash.update(gateway.as_bytes());
        hash.update(b"\0");
        if let Some(own) = own {
            hash.update(format!("{}/{}", network_of(own), own.prefix));
        }
        let digest = hash.finalize();
        let id = digest.first_chunk::<16>()?;
        Some(NetworkId::from_bytes(*id))
    }
}

/// Link-local addresses lead to no server, and IPv6 has one on each interface, always.
fn matters(ip: IpAddr) -> bool {
    let local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(local || ip.is_loopback() || ip.is_multicast() || ip.is_unspecified())
}

fn network_of(address: &Address) -> IpAddr {
    network(address.ip, address.prefix)
}

fn network(ip: IpAddr, prefix: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32u32.saturating_sub(prefix.into()));
            IpAddr::V4((ip.to_bits() & mask.unwrap_or(0)).into())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128u32.saturating_sub(prefix.into()));
            IpAddr::V6((ip.to_bits() & mask.unwrap_or(0)).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn address(text: &str, prefix: u8, interface: u32) -> Address {
        Address {
            ip: ip(text),
            prefix,
            interface,
        }
    }

    fn default_by(gateway: &str, metric: u32, interface: u32) -> DefaultRoute {
        DefaultRoute {
            is_ipv6: ip(gateway).is_ipv6(),
            metric,
            interface,
            gateway: Some(ip(gateway)),
        }
    }

    fn home() -> Picture {
        let mut picture = Picture::default();
        picture.link(2, "eth0".to_owned());
        picture.link(3, "wlan0".to_owned());
        picture.address(address("192.0.2.7", 24, 2));
        picture.address(address("198.51.100.7", 25, 3));
        picture.default_route(default_by("192.0.2.1", 100, 2));
        picture.default_route(default_by("198.51.100.1", 600, 3));
        picture
    }

    #[test]
    fn equal_pictures_differ_in_nothing() {
        let change = home().since(&home(), false);
        assert_eq!(change.what, []);
        assert!(change.has_default_route_v4 && !change.has_default_route_v6);
        assert!(change.is_online() && !change.gained());
    }

    #[test]
    fn a_link_that_goes_takes_its_addresses_along() {
        let mut after = Picture::default();
        after.link(3, "wlan0".to_owned());
        // The kernel leaves IPv4 addresses where they are.
        after.address(address("192.0.2.7", 24, 2));
        after.address(address("198.51.100.7", 25, 3));
        after.default_route(default_by("192.0.2.1", 100, 2));
        after.default_route(default_by("198.51.100.1", 600, 3));
        let change = after.since(&home(), false);
        let expected = [
            Happening::AddressGone(ip("192.0.2.7")),
            Happening::LinkDown(2),
            Happening::DefaultRouteChanged,
        ];
        assert_eq!(change.what, expected);
        assert!(change.lost(ip("192.0.2.7")) && !change.lost(ip("198.51.100.7")));
        assert!(change.is_online());
        assert_ne!(change.network, home().network());
    }

    #[test]
    fn an_address_on_two_interfaces_is_lost_with_the_second() {
        let mut both = home();
        both.address(address("192.0.2.7", 24, 3));
        assert_eq!(home().since(&both, false).what, []);
    }

    #[test]
    fn what_leads_nowhere_does_not_matter() {
        let mut noisy = home();
        for text in ["fe80::1", "169.254.1.1", "127.0.0.2", "::1", "ff02::1"] {
            noisy.address(address(text, 64, 2));
            noisy.route(ip(text), 64, default_by("192.0.2.1", 0, 2));
        }
        // Loopback and what is down are no links here.
        noisy.address(address("203.0.113.1", 32, 1));
        noisy.route(ip("203.0.113.0"), 24, default_by("192.0.2.1", 0, 1));
        assert_eq!(noisy, home());
    }

    #[test]
    fn routes_are_compared_in_any_order() {
        let [mut a, mut b] = [home(), home()];
        let by = default_by("192.0.2.1", 0, 2);
        let routes = [("203.0.113.0", 24), ("10.0.0.0", 8)];
        for (to, prefix) in routes {
            a.route(ip(to), prefix, by);
        }
        for (to, prefix) in routes.into_iter().rev() {
            b.route(ip(to), prefix, by);
        }
        assert_eq!(a, b);
        assert_eq!(home().since(&a, false).what, [Happening::RouteChanged]);
    }

    #[test]
    fn a_network_is_known_again_by_another_address() {
        let id = home().network().unwrap();
        let mut again = Picture::default();
        again.link(9, "eth0".to_owned());
        again.address(address("192.0.2.99", 24, 9));
        again.default_route(default_by("192.0.2.1", 20, 9));
        assert_eq!(again.network(), Some(id));
        again.default_route(default_by("192.0.2.2", 10, 9));
        assert_ne!(again.network(), Some(id));
        assert_eq!(Picture::default().network(), None);
        assert_eq!(NetworkId::from_bytes(id.to_bytes()), id);
        assert_eq!(id.to_string().len(), 32);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut picture = home();
        for number in 0..2000 {
            picture.link(number, String::new());
            picture.address(address("203.0.113.1", 32, number));
            picture.default_route(default_by("192.0.2.1", number, 2));
        }
        assert_eq!(picture.links.len(), MAX_LINKS);
        assert_eq!(picture.addresses.len(), MAX_ADDRESSES);
        assert_eq!(picture.defaults.len(), MAX_ROUTES);
    }

    #[test]
    fn missed_notifications_are_a_change() {
        let change = home().since(&home(), true);
        assert_eq!(change.what, [Happening::Missed]);
        assert!(change.gained());
    }
}
