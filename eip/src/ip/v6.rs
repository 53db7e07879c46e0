//! IPv6 header and fragment header (RFC 8200).

use std::net::Ipv6Addr;

use smoltcp::wire::{IPV6_HEADER_LEN, IpProtocol, Ipv6FragmentHeader, Ipv6Packet};

use super::extension::{Start, walk};
use super::{Packet, Pair, Refusal};

/// Length of the fixed header.
pub(crate) const HEADER_LEN: usize = IPV6_HEADER_LEN;

/// Length of the fragment header.
pub(crate) const FRAGMENT_HEADER_LEN: usize = 8;

/// Offset of the next-header field.
pub(super) const NEXT_HEADER_AT: usize = 6;

/// Checks an IPv6 packet with its extension headers.
pub(crate) fn parse(bytes: &[u8]) -> Result<Packet<'_>, Refusal> {
    let view = Ipv6Packet::new_checked(bytes).map_err(|_| Refusal::Malformed)?;
    let bytes = bytes.get(..view.total_len()).ok_or(Refusal::Malformed)?;
    let pair = Pair::V6 {
        source: view.src_addr(),
        destination: view.dst_addr(),
    };
    let start = Start::Packet {
        next_header_at: NEXT_HEADER_AT,
        chain_at: HEADER_LEN,
    };
    let upper = walk(start, view.next_header().into(), view.payload())
        .map_err(|refusal| refusal.at(pair))?;
    Ok(Packet {
        pair,
        traffic_class: view.traffic_class(),
        protocol: upper.protocol,
        protocol_at: upper.protocol_at,
        fragment: upper.fragment,
        payload: upper.payload,
        bytes,
    })
}

/// Header of a packet to be sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) source: Ipv6Addr,
    pub(crate) destination: Ipv6Addr,
    pub(crate) traffic_class: u8,
    pub(crate) hop_limit: u8,
    pub(crate) protocol: u8,
    pub(crate) payload_len: u16,
}

impl Header {
    pub(crate) fn to_bytes(self) -> [u8; HEADER_LEN] {
        let mut view = Ipv6Packet::new_unchecked([0; HEADER_LEN]);
        view.set_version(6);
        view.set_traffic_class(self.traffic_class);
        view.set_flow_label(0);
        view.set_payload_len(self.payload_len);
        view.set_next_header(IpProtocol::from(self.protocol));
        view.set_hop_limit(self.hop_limit);
        view.set_src_addr(self.source);
        view.set_dst_addr(self.destination);
        view.into_inner()
    }
}

/// Fragment header of a packet to be sent. `offset` is in bytes, a multiple of 8.
pub(crate) fn fragment_header(
    next_header: u8,
    identification: u32,
    offset: u16,
    more: bool,
) -> [u8; 8] {
    // smoltcp's view starts after next header and the reserved byte.
    let mut view = Ipv6FragmentHeader::new_unchecked([0; 6]);
    view.set_frag_offset(offset >> 3);
    view.set_more_frags(more);
    view.set_ident(identification);
    let [a, b, c, d, e, f] = view.into_inner();
    [next_header, 0, a, b, c, d, e, f]
}
