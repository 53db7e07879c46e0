//! From a captured frame to what a tunnel's transport carries.

use std::net::SocketAddr;

use tsc_tpl::{DatagramError, IpPacket, Limits};

const UDP: u8 = 17;
const TCP: u8 = 6;

/// What the packets of a link type are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// One unit each: LINKTYPE_USER0, as our captures use it.
    Unit,
    /// IP packets, inner or outer.
    Ip,
    /// IP packets in frames, hence outer.
    Framed(Frame),
}

/// How a frame says what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Loopback,
    Ethernet,
    LinuxCooked,
    LinuxCooked2,
}

impl Link {
    /// By the registered number; `None` for one that is not understood.
    pub(crate) const fn from_type(link_type: u16) -> Option<Self> {
        Some(match link_type {
            147 => Self::Unit,
            101 | 228 | 229 => Self::Ip,
            0 => Self::Framed(Frame::Loopback),
            1 => Self::Framed(Frame::Ethernet),
            113 => Self::Framed(Frame::LinuxCooked),
            276 => Self::Framed(Frame::LinuxCooked2),
            _ => return None,
        })
    }
}

impl Frame {
    /// The IP packet in a frame; `None` for other contents.
    pub(crate) fn ip(self, frame: &[u8]) -> Option<&[u8]> {
        let (mut ether_type, mut rest) = match self {
            // A protocol family in the byte order of whoever captured; the packet tells its version itself.
            Self::Loopback => return frame.get(4..),
            Self::Ethernet => (frame.get(12..14)?, frame.get(14..)?),
            Self::LinuxCooked => (frame.get(14..16)?, frame.get(16..)?),
            Self::LinuxCooked2 => (frame.get(0..2)?, frame.get(20..)?),
        };
        // VLAN tags, at most two: 802.1Q and 802.1ad.
        for _ in 0..2 {
            if matches!(ether_type, [0x81, 0x00] | [0x88, 0xA8]) {
                (ether_type, rest) = (rest.get(2..4)?, rest.get(4..)?);
            }
        }
        matches!(ether_type, [0x08, 0x00] | [0x86, 0xDD]).then_some(rest)
    }
}

/// What an outer packet carries.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outer<'a> {
    Udp {
        source: SocketAddr,
        destination: SocketAddr,
        payload: &'a [u8],
    },
    Tcp(Segment<'a>),
    /// A fragment of a datagram on a port we cannot see.
    Fragment,
    /// Of no interest.
    Other,
    /// No IP packet, or one that is cut short.
    Damaged,
}

/// One TCP segment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Segment<'a> {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    /// Of its first byte, SYN included.
    pub(crate) sequence: u32,
    pub(crate) syn: bool,
    pub(crate) payload: &'a [u8],
}

/// Looks into an outer IP packet, behind which a frame may have padding.
pub(crate) fn dissect(bytes: &[u8]) -> Outer<'_> {
    let limits = Limits::new(u16::MAX);
    let packet = match IpPacket::decode(bytes, &limits) {
        Err(DatagramError::Trailing(padding)) => {
            let exact = bytes.get(..bytes.len() - padding).unwrap_or_default();
            IpPacket::decode(exact, &limits)
        }
        other => other,
    };
    let Ok(packet) = packet else {
        return Outer::Damaged;
    };
    if packet.is_fragment() {
        return Outer::Fragment;
    }
    let (Some((from, to)), Some(payload)) = (packet.ports(), packet.payload()) else {
        return Outer::Other;
    };
    let source = SocketAddr::new(packet.source(), from);
    let destination = SocketAddr::new(packet.destination(), to);
    match packet.protocol() {
        UDP => match udp(payload) {
            Some(payload) => Outer::Udp {
                source,
                destination,
                payload,
            },
            None => Outer::Damaged,
        },
        TCP => match tcp(payload) {
            Some((sequence, syn, payload)) => Outer::Tcp(Segment {
                source,
                destination,
                sequence,
                syn,
                payload,
            }),
            None => Outer::Damaged,
        },
        _ => Outer::Other,
    }
}

fn udp(datagram: &[u8]) -> Option<&[u8]> {
    let length = u16::from_be_bytes(*datagram.get(4..)?.first_chunk()?);
    datagram.get(8..length.into())
}

fn tcp(segment: &[u8]) -> Option<(u32, bool, &[u8])> {
    let sequence = u32::from_be_bytes(*segment.get(4..)?.first_chunk()?);
    let [offset, flags] = *segment.get(12..)?.first_chunk()?;
    let header = usize::from(offset >> 4) * 4;
    if header < 20 {
        return None;
    }
    Some((sequence, flags & 0x02 != 0, segment.get(header..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UDP_PACKET: [u8; 30] = [
        0x45, 0, 0, 30, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2, 0x13, 0xC4, 0x9C,
        0x40, 0, 10, 0, 0, 0xAA, 0xBB,
    ];

    #[test]
    fn udp_with_and_without_padding() {
        let expected = Outer::Udp {
            source: "192.0.2.1:5060".parse().expect("an address"),
            destination: "192.0.2.2:40000".parse().expect("an address"),
            payload: &[0xAA, 0xBB],
        };
        assert_eq!(dissect(&UDP_PACKET), expected);
        assert_eq!(dissect(&[&UDP_PACKET[..], &[0; 16]].concat()), expected);
        assert_eq!(dissect(&UDP_PACKET[..29]), Outer::Damaged);
    }

    #[test]
    fn frames_with_and_without_vlan_tags() {
        let ethernet = |tags: &[u8]| [&[0; 12][..], tags, &[0x08, 0x00], &UDP_PACKET].concat();
        for tags in [
            &[][..],
            &[0x81, 0, 0, 1],
            &[0x88, 0xA8, 0, 1, 0x81, 0, 0, 2],
        ] {
            assert_eq!(Frame::Ethernet.ip(&ethernet(tags)), Some(&UDP_PACKET[..]));
        }
        let arp = [&[0; 12][..], &[0x08, 0x06], &[0; 28]].concat();
        assert_eq!(Frame::Ethernet.ip(&arp), None);
        let cooked = [&[0; 14][..], &[0x08, 0x00], &UDP_PACKET].concat();
        assert_eq!(Frame::LinuxCooked.ip(&cooked), Some(&UDP_PACKET[..]));
        let cooked2 = [&[0x08, 0x00][..], &[0; 18], &UDP_PACKET].concat();
        assert_eq!(Frame::LinuxCooked2.ip(&cooked2), Some(&UDP_PACKET[..]));
        assert_eq!(
            Frame::Loopback.ip(&[&[2, 0, 0, 0][..], &UDP_PACKET].concat()),
            Some(&UDP_PACKET[..])
        );
    }
}
