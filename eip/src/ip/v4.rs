//! IPv4 header (RFC 791).

use std::net::Ipv4Addr;

use smoltcp::wire::{IPV4_HEADER_LEN, IpProtocol, Ipv4Packet};

use super::{Fragment, Packet, Pair, Refusal, checksum};

/// Length of the header that the stack writes: no options.
pub(crate) const HEADER_LEN: usize = IPV4_HEADER_LEN;

/// Checks an IPv4 packet. Options are skipped: none of them concerns a host that is the
/// destination.
pub(crate) fn parse(bytes: &[u8]) -> Result<Packet<'_>, Refusal> {
    let view = Ipv4Packet::new_checked(bytes).map_err(|_| Refusal::Malformed)?;
    let header_len = usize::from(view.header_len());
    let (header, _) = bytes
        .split_at_checked(header_len)
        .ok_or(Refusal::Malformed)?;
    if !checksum::verify_header(header) {
        return Err(Refusal::Checksum);
    }
    let bytes = bytes
        .get(..usize::from(view.total_len()))
        .ok_or(Refusal::Malformed)?;
    let fragment = (view.more_frags() || view.frag_offset() != 0).then(|| Fragment {
        identification: u32::from(view.ident()),
        offset: usize::from(view.frag_offset()),
        more: view.more_frags(),
    });
    Ok(Packet {
        pair: Pair::V4 {
            source: view.src_addr(),
            destination: view.dst_addr(),
        },
        traffic_class: (view.dscp() << 2) | view.ecn(),
        protocol: view.next_header().into(),
        protocol_at: 9,
        fragment,
        payload: view.payload(),
        bytes,
    })
}

/// Header of a packet to be sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) source: Ipv4Addr,
    pub(crate) destination: Ipv4Addr,
    pub(crate) traffic_class: u8,
    pub(crate) hop_limit: u8,
    pub(crate) protocol: u8,
    pub(crate) dont_fragment: bool,
    pub(crate) identification: u16,
    /// Offset of the payload in its datagram, in bytes, and whether more follows.
    pub(crate) offset: u16,
    pub(crate) more: bool,
    pub(crate) payload_len: u16,
}

impl Header {
    pub(crate) fn to_bytes(self) -> [u8; HEADER_LEN] {
        let mut view = Ipv4Packet::new_unchecked([0; HEADER_LEN]);
        view.set_version(4);
        view.set_header_len(20);
        view.set_dscp(self.traffic_class >> 2);
        view.set_ecn(self.traffic_class & 3);
        view.set_total_len(self.payload_len.saturating_add(20));
        view.set_ident(self.identification);
        view.set_dont_frag(self.dont_fragment);
        view.set_more_frags(self.more);
        view.set_frag_offset(self.offset);
        view.set_hop_limit(self.hop_limit);
        view.set_next_header(IpProtocol::from(self.protocol));
        view.set_src_addr(self.source);
        view.set_dst_addr(self.destination);
        view.fill_checksum();
        view.into_inner()
    }
}
