//! Contiguous ranges of inner addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;

/// A contiguous range of addresses of one family, both ends included.
///
/// Only [`AddressRange::new`] and parsing make one, so `first <= last` and the families agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressRange {
    first: IpAddr,
    last: IpAddr,
}

impl AddressRange {
    /// The range from `first` to `last`, both included.
    ///
    /// # Errors
    ///
    /// When the families differ or `last` lies before `first`.
    pub fn new(first: IpAddr, last: IpAddr) -> Result<Self, RangeError> {
        if first.is_ipv4() != last.is_ipv4() {
            return Err(RangeError::MixedFamilies);
        }
        if last < first {
            return Err(RangeError::Reversed);
        }
        Ok(Self { first, last })
    }

    /// The lowest address.
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// The highest address.
    pub fn last(&self) -> IpAddr {
        self.last
    }

    /// Whether this is a range of IPv6 addresses.
    pub fn is_ipv6(&self) -> bool {
        self.first.is_ipv6()
    }

    /// How many addresses it holds; saturates at `u128::MAX` for the whole of IPv6.
    pub fn size(&self) -> u128 {
        (bits(self.last) - bits(self.first)).saturating_add(1)
    }

    /// Whether `address` lies inside.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.first.is_ipv4() && (self.first..=self.last).contains(&address)
    }

    /// The addresses that this range and `other` share.
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        if self.is_ipv6() != other.is_ipv6() {
            return None;
        }
        Self::new(self.first.max(other.first), self.last.min(other.last)).ok()
    }

    /// The addresses of a network that hosts may use: without the network and broadcast addresses of
    /// IPv4 networks up to /30, and without the subnet-router anycast address of IPv6 ones up to /126
    /// (RFC 4291, 2.6.1).
    pub fn hosts_of(network: IpNet) -> Self {
        match network {
            IpNet::V4(net) if net.prefix_len() <= 30 => Self {
                first: Ipv4Addr::from_bits(net.network().to_bits() + 1).into(),
                last: Ipv4Addr::from_bits(net.broadcast().to_bits() - 1).into(),
            },
            IpNet::V6(net) if net.prefix_len() <= 126 => Self {
                first: Ipv6Addr::from_bits(net.network().to_bits() + 1).into(),
                last: net.broadcast().into(),
            },
            IpNet::V4(_) | IpNet::V6(_) => Self {
                first: network.network(),
                last: network.broadcast(),
            },
        }
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// Prints `FIRST-LAST`, or one address when the range holds only one. Parses back to the same range.
impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.first)?;
        if self.last != self.first {
            write!(f, "-{}", self.last)?;
        }
        Ok(())
    }
}

/// Reads `FIRST-LAST` (taken as it stands), `NETWORK/LENGTH` (its [host addresses](Self::hosts_of))
/// or one address.
impl FromStr for AddressRange {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        if let Some((first, last)) = text.split_once('-') {
            return Self::new(address(first)?, address(last)?);
        }
        if !text.contains('/') {
            let only = address(text)?;
            return Self::new(only, only);
        }
        let network: IpNet = text.trim().parse().map_err(|_| RangeError::Syntax)?;
        if network.trunc().addr() != network.addr() {
            return Err(RangeError::HostBits(network.trunc()));
        }
        Ok(Self::hosts_of(network))
    }
}

fn address(text: &str) -> Result<IpAddr, RangeError> {
    text.trim().parse().map_err(|_| RangeError::Syntax)
}

/// Why a text or a pair of addresses is no range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RangeError {
    /// None of the accepted forms.
    #[error("is no FIRST-LAST, NETWORK/LENGTH or single address")]
    Syntax,
    /// One end is IPv4, the other IPv6.
    #[error("mixes IPv4 and IPv6")]
    MixedFamilies,
    /// The last address lies before the first.
    #[error("ends before it begins")]
    Reversed,
    /// A network was written with bits set behind its length; probably a typing error.
    #[error("has bits set behind the prefix length; the network is {0}")]
    HostBits(IpNet),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> AddressRange {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_yields_its_hosts() {
        assert_eq!(range("10.0.0.0/24"), range("10.0.0.1-10.0.0.254"));
        assert_eq!(range("10.0.0.4/30").size(), 2);
        assert_eq!(range("10.0.0.4/31").size(), 2);
        assert_eq!(range("10.0.0.4/32"), range("10.0.0.4"));
        assert_eq!(range("fd00::/120"), range("fd00::1-fd00::ff"));
        assert_eq!(range("::/0").size(), u128::MAX);
        assert_eq!(range("0.0.0.0/0").size(), (1 << 32) - 2);
    }

    #[test]
    fn nonsense_is_refused_by_reason() {
        let parse = |text: &str| text.parse::<AddressRange>();
        assert_eq!(parse("10.0.0.9-10.0.0.1"), Err(RangeError::Reversed));
        assert_eq!(parse("10.0.0.1-fd00::1"), Err(RangeError::MixedFamilies));
        assert_eq!(parse("10.0.0.1/33"), Err(RangeError::Syntax));
        assert_eq!(parse(""), Err(RangeError::Syntax));
        assert_eq!(
            parse("10.0.0.9/24"),
            Err(RangeError::HostBits("10.0.0.0/24".parse().unwrap()))
        );
    }

    #[test]
    fn families_never_meet() {
        assert_eq!(range("0.0.0.0/0").intersection(&range("::/0")), None);
        assert!(!range("::/0").contains("10.0.0.1".parse().unwrap()));
        assert_eq!(
            range("10.0.0.1-10.0.0.9").intersection(&range("10.0.0.9-10.0.1.1")),
            Some(range("10.0.0.9"))
        );
    }
}
