//! Inner prefixes, and what no inner address may be.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use tsc_tpl::{Family, RoutedPrefix, Tlv};

/// Most routed prefixes of one tunnel, and of one identity at an interface (spec 7, "STG"): with more, neither a
/// request nor its answer would fit one datagram for certain.
pub const MAX_ROUTED_PREFIXES: usize = 32;

/// Blocks that hold no inner unicast address of more than link scope (spec 8.1): "this network", loopback,
/// link-local, multicast with all that lies above it up to broadcast; and `::/8` with unspecified, loopback and the
/// embedded IPv4 addresses.
const UNASSIGNABLE: [Prefix; 7] = [
    Prefix::block_v4([0, 0, 0, 0], 8),
    Prefix::block_v4([127, 0, 0, 0], 8),
    Prefix::block_v4([169, 254, 0, 0], 16),
    Prefix::block_v4([224, 0, 0, 0], 3),
    Prefix::block_v6(0, 8),
    Prefix::block_v6(0xFE80, 10),
    Prefix::block_v6(0xFF00, 8),
];

/// A prefix of inner addresses, without host bits: what a gateway may have behind it (TLV 26 and 27).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: IpAddr,
    len: u8,
}

/// Why there is no such [`Prefix`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PrefixError {
    /// More bits than the address has.
    #[error("an address of {bits} bits has no prefix of {len}")]
    Length {
        /// As given.
        len: u8,
        /// 32 or 128.
        bits: u8,
    },
    /// Not `address/length`.
    #[error("a prefix is written as address/length")]
    Syntax,
}

impl Prefix {
    /// The prefix of `len` bits that `address` lies in; its host bits are cleared.
    ///
    /// # Errors
    ///
    /// [`PrefixError::Length`] if the address does not have so many bits.
    pub fn new(address: IpAddr, len: u8) -> Result<Self, PrefixError> {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        if len > bits {
            return Err(PrefixError::Length { len, bits });
        }
        let (family, number) = sort_key(address);
        let first = number & !host_mask(family, len);
        Ok(Self {
            address: from_number(family, first),
            len,
        })
    }

    const fn block_v4([a, b, c, d]: [u8; 4], len: u8) -> Self {
        let address = IpAddr::V4(Ipv4Addr::new(a, b, c, d));
        Self { address, len }
    }

    const fn block_v6(first: u16, len: u8) -> Self {
        let address = IpAddr::V6(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0));
        Self { address, len }
    }

    /// Its lowest address.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// Its length in bits: 0-32 or 0-128.
    #[must_use]
    pub const fn prefix_len(&self) -> u8 {
        self.len
    }

    /// Whether the address lies in it.
    #[must_use]
    #[inline]
    pub fn contains(&self, address: IpAddr) -> bool {
        let (family, first, last) = self.span();
        let (other, number) = sort_key(address);
        family == other && (first..=last).contains(&number)
    }

    /// Whether a host may have the address: it lies in the prefix and is not its IPv4 broadcast address, which no
    /// packet may come from or go to (spec 8.1). Prefixes of 31 and 32 bits have none (RFC 3021).
    #[must_use]
    #[inline]
    pub fn has_host(&self, address: IpAddr) -> bool {
        let (family, _, last) = self.span();
        let broadcast = family == Family::Ipv4 && self.len < 31;
        self.contains(address) && !(broadcast && sort_key(address).1 == last)
    }

    /// Whether any address lies in both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    /// Whether it may be routed to a gateway (spec 7, "STG"): it is not the default, and has nothing in common with
    /// loopback, link-local, multicast and the other blocks that no inner address lies in.
    #[must_use]
    pub fn is_routable(&self) -> bool {
        !UNASSIGNABLE.iter().any(|block| block.overlaps(self))
    }

    /// Family, lowest and highest address.
    #[inline]
    pub(crate) fn span(&self) -> (Family, u128, u128) {
        let (family, first) = sort_key(self.address);
        (family, first, first | host_mask(family, self.len))
    }

    /// As a TLV. The length was checked when the prefix was made, so this does not fail.
    pub(crate) fn tlv(&self) -> Option<Tlv<'static>> {
        match self.address {
            IpAddr::V4(address) => RoutedPrefix::<Ipv4Addr>::new(address, self.len)
                .ok()
                .map(Tlv::RoutedPrefixIpv4),
            IpAddr::V6(address) => RoutedPrefix::<Ipv6Addr>::new(address, self.len)
                .ok()
                .map(Tlv::RoutedPrefixIpv6),
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let (address, len) = text.split_once('/').ok_or(PrefixError::Syntax)?;
        let address = address.parse().map_err(|_| PrefixError::Syntax)?;
        let len = len.parse().map_err(|_| PrefixError::Syntax)?;
        Self::new(address, len)
    }
}

/// Whether an address can be a tunnel's inner address: unicast and of more than link scope (spec 8.1).
pub(crate) fn is_assignable(address: IpAddr) -> bool {
    !UNASSIGNABLE.iter().any(|block| block.contains(address))
}

/// An address of `first..=last` that cannot be a tunnel's, if there is one.
pub(crate) fn unassignable_in((family, first, last): (Family, u128, u128)) -> Option<IpAddr> {
    UNASSIGNABLE.iter().find_map(|block| {
        let (of, low, high) = block.span();
        let common = low.max(first);
        (of == family && common <= high.min(last)).then(|| from_number(family, common))
    })
}

/// Orders addresses by family and number.
#[inline]
pub(crate) fn sort_key(address: IpAddr) -> (Family, u128) {
    match address {
        IpAddr::V4(address) => (Family::Ipv4, u128::from(address.to_bits())),
        IpAddr::V6(address) => (Family::Ipv6, address.to_bits()),
    }
}

/// The address of a number that [`sort_key`] gave.
pub(crate) fn from_number(family: Family, number: u128) -> IpAddr {
    match family {
        Family::Ipv4 => IpAddr::V4(Ipv4Addr::from_bits(
            u32::try_from(number).unwrap_or(u32::MAX),
        )),
        Family::Ipv6 => IpAddr::V6(Ipv6Addr::from_bits(number)),
    }
}

#[inline]
fn host_mask(family: Family, len: u8) -> u128 {
    let bits: u8 = match family {
        Family::Ipv4 => 32,
        Family::Ipv6 => 128,
    };
    let host = u32::from(bits.saturating_sub(len));
    1u128.checked_shl(host).map_or(u128::MAX, |end| end - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn host_bits_are_cleared_and_text_goes_round() {
        assert_eq!(prefix("10.1.2.3/16").to_string(), "10.1.0.0/16");
        assert_eq!(prefix("fd00:1::77/64").to_string(), "fd00:1::/64");
        assert_eq!(prefix("1.2.3.4/32").to_string(), "1.2.3.4/32");
        assert_eq!(prefix("1.2.3.4/0").to_string(), "0.0.0.0/0");
        assert_eq!(prefix("::1/0").to_string(), "::/0");
        for wrong in [
            "10.0.0.0",
            "10.0.0.0/33",
            "::/129",
            "x/3",
            "10.0.0.0/-1",
            "",
        ] {
            assert!(wrong.parse::<Prefix>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn nothing_that_touches_a_special_block_is_routable() {
        for wrong in [
            "0.0.0.0/0",
            "::/0",
            "0.0.0.0/1",
            "128.0.0.0/1",
            "127.1.0.0/16",
            "169.254.7.0/24",
            "169.0.0.0/8",
            "224.0.0.0/4",
            "239.1.1.1/32",
            "255.255.255.255/32",
            "::1/128",
            "::ffff:10.0.0.0/104",
            "fe80::/64",
            "fc00::/6",
            "ff02::/16",
        ] {
            assert!(!prefix(wrong).is_routable(), "{wrong}");
        }
        for right in [
            "10.0.0.0/8",
            "192.168.1.0/24",
            "192.0.2.1/32",
            "fd00::/8",
            "2001:db8::/32",
        ] {
            assert!(prefix(right).is_routable(), "{right}");
        }
    }

    #[test]
    fn a_broadcast_address_is_no_host() {
        let lan = prefix("10.1.2.0/24");
        assert!(lan.has_host("10.1.2.254".parse().unwrap()));
        assert!(!lan.has_host("10.1.2.255".parse().unwrap()));
        assert!(!lan.has_host("10.1.3.1".parse().unwrap()));
        assert!(prefix("10.1.2.254/31").has_host("10.1.2.255".parse().unwrap()));
        assert!(prefix("10.1.2.255/32").has_host("10.1.2.255".parse().unwrap()));
        assert!(prefix("fd00::/64").has_host("fd00::ffff:ffff:ffff:ffff".parse().unwrap()));
        assert!(!lan.has_host("fd00::1".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn membership_and_overlap_equal_comparing_bits(
            one: u32, other: u32, one_len in 0u8..=32, other_len in 0u8..=32, near in 0u32..40,
        ) {
            // Addresses near each other meet more often than random ones.
            let other = if near < 32 { one ^ (1 << near) } else { other };
            let same = |len: u8| len == 0 || one >> (32 - len) == other >> (32 - len);
            let make = |number: u32, len| Prefix::new(Ipv4Addr::from(number).into(), len).unwrap();
            let (low, high) = (make(one, one_len), make(other, other_len));
            prop_assert_eq!(low.contains(Ipv4Addr::from(other).into()), same(one_len));
            prop_assert_eq!(low.overlaps(&high), same(one_len.min(other_len)));
            prop_assert_eq!(low.overlaps(&high), high.overlaps(&low));
            prop_assert_eq!(low.to_string().parse::<Prefix>().unwrap(), low);
        }
    }
}
