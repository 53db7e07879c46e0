//! The stack's own addresses, and which addresses a host may talk to.

use std::net::{IpAddr, Ipv4Addr};

use crate::error::AddressError;

/// Addresses a stack may hold at a time.
pub const MAX_ADDRESSES: usize = 16;

/// Own addresses in order of preference. Looking one up is a scan over at most [`MAX_ADDRESSES`]
/// entries.
#[derive(Debug, Default)]
pub(crate) struct Addresses(Vec<IpAddr>);

impl Addresses {
    pub(crate) fn replace(&mut self, addresses: &[IpAddr]) -> Result<(), AddressError> {
        if addresses.len() > MAX_ADDRESSES {
            return Err(AddressError::TooMany);
        }
        if let Some(bad) = addresses.iter().find(|address| !is_unicast(**address)) {
            return Err(AddressError::NotUnicast(*bad));
        }
        self.0.clear();
        self.0.extend_from_slice(addresses);
        Ok(())
    }

    pub(crate) fn as_slice(&self) -> &[IpAddr] {
        &self.0
    }

    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }

    /// The address to send from: the destination itself if it is ours, else the first of its
    /// family.
    pub(crate) fn source_for(&self, destination: IpAddr) -> Option<IpAddr> {
        if self.contains(destination) {
            return Some(destination);
        }
        self.0
            .iter()
            .copied()
            .find(|own| own.is_ipv4() == destination.is_ipv4())
    }
}

/// Whether packets to and from `address` may travel in a tunnel: section 8 of the specification
/// drops link-local, multicast and broadcast; loopback, unspecified, reserved and IPv4-mapped
/// addresses never belong on a wire.
pub(crate) fn is_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            // 0/8 is "this network", 240/4 is reserved and holds the limited broadcast address.
            let [first, ..] = v4.octets();
            first != 0
                && first < 240
                && !v4.is_loopback()
                && !v4.is_multicast()
                && !v4.is_link_local()
        }
        IpAddr::V6(v6) => {
            !v6.is_unspecified()
                && !v6.is_loopback()
                && !v6.is_multicast()
                && !v6.is_unicast_link_local()
                && v6.to_ipv4_mapped().is_none()
        }
    }
}

/// The wildcard address of `address`'s family.
pub(crate) fn is_any(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4 == Ipv4Addr::UNSPECIFIED,
        IpAddr::V6(v6) => v6.is_unspecified(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn what_no_host_may_use_is_no_unicast_address() {
        for bad in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "169.254.1.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "ff02::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(!is_unicast(ip(bad)), "{bad}");
        }
        for good in ["10.0.0.1", "198.51.100.7", "2001:db8::1", "fd00::1"] {
            assert!(is_unicast(ip(good)), "{good}");
        }
    }

    #[test]
    fn source_is_the_own_destination_or_the_first_of_the_family() {
        let mut own = Addresses::default();
        own.replace(&[ip("10.0.0.1"), ip("10.0.0.2"), ip("2001:db8::1")])
            .unwrap();
        assert_eq!(own.source_for(ip("10.0.0.2")), Some(ip("10.0.0.2")));
        assert_eq!(own.source_for(ip("10.9.9.9")), Some(ip("10.0.0.1")));
        assert_eq!(own.source_for(ip("2001:db8::9")), Some(ip("2001:db8::1")));
        own.replace(&[ip("10.0.0.1")]).unwrap();
        assert_eq!(own.source_for(ip("2001:db8::9")), None);
    }

    #[test]
    fn a_refused_list_leaves_the_old_one() {
        let mut own = Addresses::default();
        own.replace(&[ip("10.0.0.1")]).unwrap();
        assert_eq!(
            own.replace(&[ip("10.0.0.1"); MAX_ADDRESSES + 1]),
            Err(AddressError::TooMany)
        );
        assert_eq!(
            own.replace(&[ip("10.0.0.2"), ip("ff02::1")]),
            Err(AddressError::NotUnicast(ip("ff02::1")))
        );
        assert_eq!(own.as_slice(), [ip("10.0.0.1")]);
    }
}
