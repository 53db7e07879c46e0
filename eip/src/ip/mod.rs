//! IP headers: bytes to checked values and back.

pub(crate) mod checksum;
mod extension;
mod packet;
pub(crate) mod v4;
pub(crate) mod v6;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(crate) use extension::{Start, UNRECOGNIZED_NEXT_HEADER, upper_layer, walk};
pub(crate) use packet::{Fragment, Packet, ParameterProblem, Refusal};

/// Protocol and next-header numbers that the stack tells apart (IANA, "Assigned Internet Protocol
/// Numbers").
pub(crate) mod protocol {
    pub(crate) const HOP_BY_HOP: u8 = 0;
    pub(crate) const ICMP: u8 = 1;
    pub(crate) const TCP: u8 = 6;
    pub(crate) const UDP: u8 = 17;
    pub(crate) const ROUTING: u8 = 43;
    pub(crate) const FRAGMENT: u8 = 44;
    pub(crate) const ICMPV6: u8 = 58;
    pub(crate) const NO_NEXT_HEADER: u8 = 59;
    pub(crate) const DESTINATION_OPTIONS: u8 = 60;
}

/// Hop limit of packets unless a send option says otherwise (RFC 1700, RFC 8200).
pub(crate) const HOP_LIMIT: u8 = 64;

/// Source and destination of a packet, of one IP version by construction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pair {
    V4 {
        source: Ipv4Addr,
        destination: Ipv4Addr,
    },
    V6 {
        source: Ipv6Addr,
        destination: Ipv6Addr,
    },
}

impl Pair {
    /// `None` if the IP versions differ.
    pub(crate) const fn new(source: IpAddr, destination: IpAddr) -> Option<Self> {
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => Some(Self::V4 {
                source,
                destination,
            }),
            (IpAddr::V6(source), IpAddr::V6(destination)) => Some(Self::V6 {
                source,
                destination,
            }),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
        }
    }

    pub(crate) const fn source(&self) -> IpAddr {
        match *self {
            Self::V4 { source, .. } => IpAddr::V4(source),
            Self::V6 { source, .. } => IpAddr::V6(source),
        }
    }

    pub(crate) const fn destination(&self) -> IpAddr {
        match *self {
            Self::V4 { destination, .. } => IpAddr::V4(destination),
            Self::V6 { destination, .. } => IpAddr::V6(destination),
        }
    }

    /// The pair of an answer.
    pub(crate) const fn reversed(&self) -> Self {
        match *self {
            Self::V4 {
                source,
                destination,
            } => Self::V4 {
                source: destination,
                destination: source,
            },
            Self::V6 {
                source,
                destination,
            } => Self::V6 {
                source: destination,
                destination: source,
            },
        }
    }

    /// The ICMP of this IP version.
    pub(crate) const fn icmp(&self) -> u8 {
        match self {
            Self::V4 { .. } => protocol::ICMP,
            Self::V6 { .. } => protocol::ICMPV6,
        }
    }
}

/// Differentiated services code point of a packet (RFC 2474), 6 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dscp(u8);

impl Dscp {
    /// Best effort, the default.
    pub const BEST_EFFORT: Self = Self(0);
    /// Expedited forwarding: audio (RFC 4594).
    pub const EF: Self = Self(46);
    /// Class selector 5: call signalling (RFC 4594).
    pub const CS5: Self = Self(40);
    /// Assured forwarding 41: interactive video (RFC 4594).
    pub const AF41: Self = Self(34);

    /// A code point from its number; `None` above 63.
    #[must_use]
    pub const fn new(value: u8) -> Option<Self> {
        if value < 64 { Some(Self(value)) } else { None }
    }

    /// The number, 0 to 63.
    #[must_use]
    pub const fn value(self) -> u8 {
        self.0
    }

    /// The upper six bits of the IPv4 type of service or the IPv6 traffic class; ECN is Not-ECT.
    pub(crate) const fn traffic_class(self) -> u8 {
        self.0 << 2
    }

    pub(crate) const fn from_traffic_class(traffic_class: u8) -> Self {
        Self(traffic_class >> 2)
    }
}
