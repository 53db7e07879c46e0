//! The packet quoted in an ICMP error: which datagram of ours was it?

use std::net::SocketAddr;

use smoltcp::wire::{
    IPV4_HEADER_LEN, IPV6_HEADER_LEN, Ipv4Packet, Ipv6Packet, UDP_HEADER_LEN, UdpPacket,
};

use crate::ip::{Pair, protocol};

/// A datagram that the stack is said to have sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quoted {
    pub(crate) local: SocketAddr,
    pub(crate) peer: SocketAddr,
    /// Length of the quoted packet when it was sent, in bytes.
    pub(crate) packet_len: usize,
}

impl Quoted {
    /// Reads the front of a packet that may be cut short, which is why smoltcp's checked views do
    /// not serve. `None` unless it is UDP with both ports, as the stack writes it: IPv6 without
    /// extension headers except a first fragment's.
    pub(crate) fn parse(quote: &[u8]) -> Option<Self> {
        match quote.first()? >> 4 {
            4 => Self::parse_v4(quote),
            6 => Self::parse_v6(quote),
            _ => None,
        }
    }

    fn parse_v4(quote: &[u8]) -> Option<Self> {
        quote.get(..IPV4_HEADER_LEN)?;
        let view = Ipv4Packet::new_unchecked(quote);
        if view.frag_offset() != 0 || u8::from(view.next_header()) != protocol::UDP {
            return None;
        }
        let pair = Pair::V4 {
            source: view.src_addr(),
            destination: view.dst_addr(),
        };
        let udp = quote.get(usize::from(view.header_len())..)?;
        Self::with_ports(&pair, udp, usize::from(view.total_len()))
    }

    fn parse_v6(quote: &[u8]) -> Option<Self> {
        let (header, rest) = quote.split_at_checked(IPV6_HEADER_LEN)?;
        let view = Ipv6Packet::new_unchecked(header);
        let pair = Pair::V6 {
            source: view.src_addr(),
            destination: view.dst_addr(),
        };
        let udp = match u8::from(view.next_header()) {
            protocol::UDP => rest,
            protocol::FRAGMENT => match rest {
                // Next header UDP, reserved, offset zero.
                [protocol::UDP, _, 0, flags, _, _, _, _, udp @ ..] if flags & 0xf8 == 0 => udp,
                _ => return None,
            },
            _ => return None,
        };
        Self::with_ports(&pair, udp, view.total_len())
    }

    fn with_ports(pair: &Pair, udp: &[u8], packet_len: usize) -> Option<Self> {
        let view = UdpPacket::new_unchecked(udp.get(..UDP_HEADER_LEN)?);
        Some(Self {
            local: SocketAddr::new(pair.source(), view.src_port()),
            peer: SocketAddr::new(pair.destination(), view.dst_port()),
            packet_len,
        })
    }
}
