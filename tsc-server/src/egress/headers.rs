//! Where the parts of an inner packet are that policies look at and rewrite. Reads cut packets too, as ICMP errors quote
//! them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const HEADER_V4: usize = 20;
const HEADER_V6: usize = 40;
const FRAGMENT_HEADER: usize = 8;
/// Most extension headers that are walked: work for each packet stays bounded. As in `tsc_tpl`.
const MAX_EXTENSIONS: usize = 8;

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const DCCP: u8 = 33;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const SCTP: u8 = 132;
pub(crate) const UDP_LITE: u8 = 136;

/// Whether a packet is all of what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Whole,
    /// The first fragment: the one with the upper layer's header.
    First,
    /// Another fragment.
    Later,
}

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Headers {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// Of the upper layer, behind extension headers.
    pub(crate) protocol: u8,
    /// Where the upper layer's header begins; for a later fragment, its data.
    pub(crate) upper: usize,
    pub(crate) part: Part,
    /// Identification of a fragment's packet; 0 for whole ones.
    pub(crate) identification: u32,
}

impl Headers {
    /// `None` for what has no IP header, or extension headers that cannot be walked.
    pub(crate) fn of(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => Self::v4(packet.first_chunk()?),
            6 => Self::v6(packet.first_chunk()?, packet),
            _ => None,
        }
    }

    fn v4(header: &[u8; HEADER_V4]) -> Option<Self> {
        let [
            first,
            _,
            _,
            _,
            id_high,
            id_low,
            flags,
            offset,
            _,
            protocol,
            _,
            _,
            s0,
            s1,
            s2,
            s3,
            d0,
            d1,
            d2,
            d3,
        ] = *header;
        let upper = usize::from(first & 0x0F) * 4;
        if upper < HEADER_V4 {
            return None;
        }
        let part = part(flags & 0x1F != 0 || offset != 0, flags & 0x20 != 0);
        Some(Self {
            source: Ipv4Addr::new(s0, s1, s2, s3).into(),
            destination: Ipv4Addr::new(d0, d1, d2, d3).into(),
            protocol,
            upper,
            part,
            identification: match part {
                Part::Whole => 0,
                Part::First | Part::Later => u16::from_be_bytes([id_high, id_low]).into(),
            },
        })
    }

    fn v6(header: &[u8; HEADER_V6], packet: &[u8]) -> Option<Self> {
        let address = |at: usize| {
            let octets = header.get(at..)?.first_chunk::<16>()?;
            Some(IpAddr::from(Ipv6Addr::from(*octets)))
        };
        let [_, _, _, _, _, _, mut next, ..] = *header;
        let mut headers = Self {
            source: address(8)?,
            destination: address(24)?,
            protocol: next,
            upper: HEADER_V6,
            part: Part::Whole,
            identification: 0,
        };
        for _ in 0..=MAX_EXTENSIONS {
            headers.protocol = next;
            let rest = packet.get(headers.upper..)?;
            let len = match next {
                // Hop-by-hop, routing, destination options, mobility, HIP, Shim6.
                0 | 43 | 60 | 135 | 139 | 140 => 8 + usize::from(*rest.get(1)?) * 8,
                // Authentication.
                51 => 8 + usize::from(*rest.get(1)?) * 4,
                44 => {
                    let &[following, _, high, low, a, b, c, d] = rest.first_chunk()?;
                    headers.part = part(high != 0 || low & 0xF8 != 0, low & 1 != 0);
                    next = following;
                    headers.upper += FRAGMENT_HEADER;
                    match headers.part {
                        Part::Whole => {}
                        Part::First => headers.identification = u32::from_be_bytes([a, b, c, d]),
                        Part::Later => {
                            headers.identification = u32::from_be_bytes([a, b, c, d]);
                            headers.protocol = following;
                            return Some(headers);
                        }
                    }
                    continue;
                }
                _ => return Some(headers),
            };
            next = *rest.first()?;
            headers.upper += len;
        }
        None
    }

    /// Source and destination port; `None` where there are none, or where they cannot be seen.
    pub(crate) fn ports(&self, packet: &[u8]) -> Option<(u16, u16)> {
        if !self.has_ports() || self.part == Part::Later {
            return None;
        }
        let &[a, b, c, d] = packet.get(self.upper..)?.first_chunk()?;
        Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
    }

    /// Whether the upper layer begins with two ports.
    pub(crate) const fn has_ports(&self) -> bool {
        matches!(self.protocol, TCP | UDP | DCCP | SCTP | UDP_LITE)
    }

    /// The upper layer's checksum over a pseudo-header with the addresses, by where it is: none of SCTP and ICMPv4.
    pub(crate) fn checksum(&self) -> Option<usize> {
        let at = match self.protocol {
            TCP => 16,
            UDP | UDP_LITE | DCCP => 6,
            ICMPV6 => 2,
            _ => return None,
        };
        Some(self.upper + at)
    }

    /// Where the packet begins that an ICMP error quotes; `None` if this is no ICMP error.
    pub(crate) fn quote(&self, packet: &[u8]) -> Option<usize> {
        if self.part != Part::Whole {
            return None;
        }
        let kind = *packet.get(self.upper)?;
        let is_error = match self.protocol {
            // Unreachable, source quench, time exceeded, parameter problem.
            ICMP => matches!(kind, 3 | 4 | 11 | 12),
            ICMPV6 => kind < 128,
            _ => false,
        };
        is_error.then_some(self.upper + 8)
    }
}

const fn part(has_offset: bool, has_more: bool) -> Part {
    match (has_offset, has_more) {
        (false, false) => Part::Whole,
        (false, true) => Part::First,
        (true, _) => Part::Later,
    }
}
