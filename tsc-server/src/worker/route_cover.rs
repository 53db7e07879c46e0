//! Routes for address ranges, and the host's other routes for their addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv4Subnets, Ipv6Net, Ipv6Subnets};
use tsc_osaa::tun::HostRoute;

use crate::{
    config::{AddressRange, Config, Egress, PolicyEgress, PoolConfig},
    server::TunStartError,
};

/// The pools whose packets may leave by the TUN device.
pub(super) fn tun_pools(config: &Config) -> impl Iterator<Item = &PoolConfig> {
    let by_policy = |name: &String| {
        let policy = config.policy(name);
        policy.is_some_and(|policy| policy.egress == Some(PolicyEgress::Tun))
    };
    let uses =
        move |pool: &&PoolConfig| pool.egress == Egress::Tun || pool.policies.iter().any(by_policy);
    config.pools.iter().filter(uses)
}

/// Refuses `routes` of the host, all within those to the device, that have an address which a tunnel may have: packets for it would
/// not come to the server. What pools exclude may be anywhere.
pub(super) fn check_routes(config: &Config, routes: &[HostRoute]) -> Result<(), TunStartError> {
    let pools = tun_pools(config).flat_map(|pool| {
        let owner = format!("pool \"{}\"", pool.name);
        let ranges = pool.ranges.iter();
        ranges.map(move |range| (owner.clone(), *range, pool.exclude.as_slice()))
    });
    let gateways = config
        .interfaces
        .iter()
        .flat_map(|interface| &interface.routed);
    let gateways = gateways.flat_map(|routed| {
        let owner = format!("the prefixes of gateway \"{}\"", routed.identity);
        let ranges = routed.prefixes.iter().filter_map(whole);
        ranges.map(move |range| (owner.clone(), range, &[][..]))
    });
    for (owner, range, exclude) in pools.chain(gateways) {
        for route in routes {
            let shared = whole(&route.prefix).and_then(|all| all.intersection(&range));
            if let Some(address) = shared.and_then(|shared| first_beside(&shared, exclude)) {
                return Err(TunStartError::RouteTaken {
                    address,
                    owner,
                    prefix: route.prefix,
                    interface: route.interface.clone(),
                });
            }
        }
    }
    Ok(())
}

/// All addresses of a network.
fn whole(network: &IpNet) -> Option<AddressRange> {
    AddressRange::new(network.network(), network.broadcast()).ok()
}

/// The first address of `range` that is in none of `exclude`.
fn first_beside(range: &AddressRange, exclude: &[AddressRange]) -> Option<IpAddr> {
    let mut address = range.first();
    // Each round leaves at least one of them behind.
    while let Some(excluded) = exclude.iter().find(|other| other.contains(address)) {
        address = match excluded.last() {
            IpAddr::V4(last) => Ipv4Addr::from_bits(last.to_bits().checked_add(1)?).into(),
            IpAddr::V6(last) => Ipv6Addr::from_bits(last.to_bits().checked_add(1)?).into(),
        };
    }
    range.contains(address).then_some(address)
}

/// The networks that hold the addresses of a range. Of a range that was written as a network, which lacks the network's
/// own address and its broadcast address, it is that network: one route instead of many.
pub(super) fn cover(range: &AddressRange) -> Vec<IpNet> {
    match (range.first(), range.last()) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            let wider = |first: u32, last: u32| {
                let (first, last) = (first.checked_sub(1)?, last.checked_add(1)?);
                let bits = (first ^ last).count_ones();
                let net = Ipv4Net::new(Ipv4Addr::from_bits(first), 32 - u8::try_from(bits).ok()?);
                net.ok().filter(|net| {
                    net.network().to_bits() == first && net.broadcast().to_bits() == last
                })
            };
            match wider(first.to_bits(), last.to_bits()) {
                Some(net) => vec![net.into()],
                None => Ipv4Subnets::new(first, last, 0).map(IpNet::from).collect(),
            }
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            let start = Ipv6Addr::from_bits(first.to_bits().saturating_sub(1));
            let bits = (start.to_bits() ^ last.to_bits()).count_ones();
            let len = u8::try_from(128_u32.saturating_sub(bits)).unwrap_or(128);
            let net = Ipv6Net::new(start, len).ok();
            match net.filter(|net| net.network() == start && net.broadcast() == last && len < 127) {
                Some(net) => vec![net.into()],
                None => Ipv6Subnets::new(first, last, 0).map(IpNet::from).collect(),
            }
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_beside_the_excluded_is_found_wherever_it_is() {
        let range = |text: &str| text.parse::<AddressRange>().unwrap();
        for (all, exclude, first) in [
            ("10.0.0.4-10.0.0.9", vec![], Some("10.0.0.4")),
            (
                "10.0.0.4-10.0.0.9",
                vec!["10.0.0.6-10.0.0.9"],
                Some("10.0.0.4"),
            ),
            (
                "10.0.0.4-10.0.0.9",
                vec!["10.0.0.7-10.0.0.8", "10.0.0.1-10.0.0.6"],
                Some("10.0.0.9"),
            ),
            (
                "10.0.0.4-10.0.0.9",
                vec!["10.0.0.6-10.0.0.20", "10.0.0.1-10.0.0.5"],
                None,
            ),
            (
                "255.255.255.254-255.255.255.255",
                vec!["255.255.255.0-255.255.255.255"],
                None,
            ),
            ("fd64::1-fd64::2", vec!["fd64::1"], Some("fd64::2")),
        ] {
            let exclude: Vec<_> = exclude.into_iter().map(range).collect();
            let found = first_beside(&range(all), &exclude);
            assert_eq!(
                found,
                first.map(|text| text.parse().unwrap()),
                "{all} {exclude:?}"
            );
        }
    }

    #[test]
    fn networks_stay_networks_and_ranges_are_covered_exactly() {
        for (range, routes) in [
            ("10.64.0.0/16", "10.64.0.0/16"),
            ("10.0.0.4/30", "10.0.0.4/30"),
            ("10.0.0.7", "10.0.0.7/32"),
            ("10.0.0.4/31", "10.0.0.4/31"),
            ("10.0.0.10-10.0.0.12", "10.0.0.10/31 10.0.0.12/32"),
            ("10.0.0.0-10.0.0.255", "10.0.0.0/24"),
            ("fd64::/112", "fd64::/112"),
            ("fd64::5", "fd64::5/128"),
            ("fd64::1-fd64::2", "fd64::1/128 fd64::2/128"),
            ("fd64::/127", "fd64::/127"),
        ] {
            let nets = cover(&range.parse().unwrap());
            let text: Vec<_> = nets.iter().map(ToString::to_string).collect();
            assert_eq!(text.join(" "), routes, "{range}");
        }
    }
}
