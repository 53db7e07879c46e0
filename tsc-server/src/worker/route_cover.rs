//! Routes for address ranges.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv4Subnets, Ipv6Net, Ipv6Subnets};

use crate::config::AddressRange;

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
