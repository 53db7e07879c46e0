//! A received packet whose headers hold what they promise.

use super::{Pair, v4, v6};

/// A view of an IP packet after its headers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet<'a> {
    pub(crate) pair: Pair,
    /// IPv4 type of service, IPv6 traffic class.
    pub(crate) traffic_class: u8,
    /// Protocol of `payload`. For an IPv6 fragment: what its fragment header names, which may be a
    /// further extension header.
    pub(crate) protocol: u8,
    /// Offset of the byte that named `protocol`, for the pointer of an ICMPv6 parameter problem.
    pub(crate) protocol_at: usize,
    /// Set if the packet is a piece of a datagram.
    pub(crate) fragment: Option<Fragment>,
    pub(crate) payload: &'a [u8],
    /// The whole packet without trailing bytes, for quoting.
    pub(crate) bytes: &'a [u8],
}

/// Which piece of which datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fragment {
    pub(crate) identification: u32,
    /// Where the payload belongs, in bytes; a multiple of 8.
    pub(crate) offset: usize,
    /// Whether more follow.
    pub(crate) more: bool,
}

/// Why a packet's headers were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Not an IP packet, or lengths that contradict each other.
    Malformed,
    /// IPv4 header checksum.
    Checksum,
    /// IPv6 headers that RFC 8200 wants answered with a parameter problem.
    Parameter(ParameterProblem),
}

/// Content of an ICMPv6 parameter problem (RFC 4443, section 3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ParameterProblem {
    pub(crate) pair: Pair,
    pub(crate) code: u8,
    /// Offset in the packet of what was not understood.
    pub(crate) pointer: usize,
}

impl<'a> Packet<'a> {
    /// Checks the IP header, and the chain of extension headers up to a fragment header or the
    /// upper layer.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, Refusal> {
        match bytes.first().map(|first| first >> 4) {
            Some(4) => v4::parse(bytes),
            Some(6) => v6::parse(bytes),
            Some(_) | None => Err(Refusal::Malformed),
        }
    }
}
