//! The packet quoted in an ICMP error: which datagram of ours was it?

use std::net::SocketAddr;

use smoltcp::wire::{IPV4_HEADER_LEN, IPV6_HEADER_LEN, Ipv4Packet, Ipv6Packet};

use crate::ip::{Pair, protocol};

/// A datagram or segment that the stack is said to have sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quoted {
    pub(crate) local: SocketAddr,
    pub(crate) peer: SocketAddr,
    /// Length of the quoted packet when it was sent, in bytes.
    pub(crate) packet_len: usize,
    /// Of a TCP segment its sequence number; a UDP datagram has none.
    pub(crate) sequence: Option<u32>,
}

impl Quoted {
    /// Reads the front of a packet that may be cut short, which is why smoltcp's checked views do
    /// not serve. `None` unless it is UDP with both ports or TCP with ports and sequence number, as
    /// the stack writes it: IPv6 without extension headers except a first fragment's.
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
        if view.frag_offset() != 0 {
            return None;
        }
        let upper = u8::from(view.next_header());
        let pair = Pair::V4 {
            source: view.src_addr(),
            destination: view.dst_addr(),
        };
        let front = quote.get(usize::from(view.header_len())..)?;
        Self::with_ports(&pair, upper, front, usize::from(view.total_len()))
    }

    fn parse_v6(quote: &[u8]) -> Option<Self> {
        let (header, rest) = quote.split_at_checked(IPV6_HEADER_LEN)?;
        let view = Ipv6Packet::new_unchecked(header);
        let pair = Pair::V6 {
            source: view.src_addr(),
            destination: view.dst_addr(),
        };
        let (upper, front) = match u8::from(view.next_header()) {
            protocol::FRAGMENT => match rest {
                // Next header, reserved, offset zero.
                [upper, _, 0, flags, _, _, _, _, front @ ..] if flags & 0xf8 == 0 => {
                    (*upper, front)
                }
                _ => return None,
            },
            upper => (upper, rest),
        };
        Self::with_ports(&pair, upper, front, view.total_len())
    }

    /// `front` is the first 8 bytes at least of the upper layer's header: RFC 792 asks for no more.
    fn with_ports(pair: &Pair, upper: u8, front: &[u8], packet_len: usize) -> Option<Self> {
        let [a, b, c, d, rest @ ..] = front.first_chunk::<8>()?;
        let sequence = match upper {
            protocol::UDP => None,
            protocol::TCP => Some(u32::from_be_bytes(*rest)),
            _ => return None,
        };
        Some(Self {
            local: SocketAddr::new(pair.source(), u16::from_be_bytes([*a, *b])),
            peer: SocketAddr::new(pair.destination(), u16::from_be_bytes([*c, *d])),
            packet_len,
            sequence,
        })
    }
}
