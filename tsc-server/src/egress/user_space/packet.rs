//! UDP in inner packets: reading them, and writing those that answer.

use std::net::{IpAddr, SocketAddr};

use tsc_tpl::IpPacket;

use super::ports::Random;
use crate::icmp::checksum;

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
const FRAGMENT: u8 = 44;

pub(super) const HEADER_V4: usize = 20;
pub(super) const HEADER_V6: usize = 40;
const HEADER_FRAGMENT: usize = 8;

/// Length of a UDP header.
pub(super) const HEADER_UDP: usize = 8;

/// Hop count of what comes from the host: its own is not known.
const HOP_LIMIT: u8 = 64;

/// A UDP datagram of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Datagram<'a> {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) payload: &'a [u8],
}

/// Why a packet holds no datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bad {
    /// Cut short, or with an impossible length.
    Malformed,
    /// Wrong, or missing over IPv6 (RFC 8200, section 8.1).
    Checksum,
}

/// Reads the datagram of a whole packet of protocol UDP.
pub(super) fn datagram<'a>(packet: &IpPacket<'a>) -> Result<Datagram<'a>, Bad> {
    let segment = packet.payload().ok_or(Bad::Malformed)?;
    let (header, _) = segment
        .split_first_chunk::<HEADER_UDP>()
        .ok_or(Bad::Malformed)?;
    let [s1, s2, d1, d2, l1, l2, c1, c2] = *header;
    let len = usize::from(u16::from_be_bytes([l1, l2]));
    // What is behind the datagram is padding.
    let segment = segment.get(..len).ok_or(Bad::Malformed)?;
    let payload = segment.get(HEADER_UDP..).ok_or(Bad::Malformed)?;
    let (source, destination) = (packet.source(), packet.destination());
    let sound = if [c1, c2] == [0; 2] {
        source.is_ipv4()
    } else {
        transport_checksum(source, destination, UDP, segment) == [0; 2]
    };
    if !sound {
        return Err(Bad::Checksum);
    }
    Ok(Datagram {
        source: SocketAddr::new(source, u16::from_be_bytes([s1, s2])),
        destination: SocketAddr::new(destination, u16::from_be_bytes([d1, d2])),
        payload,
    })
}

/// Where a whole packet of protocol TCP asks for a connection; `None` if it does not ask.
pub(super) fn requested(packet: &IpPacket<'_>) -> Option<SocketAddr> {
    const RST_SYN_ACK: u8 = 0x16;
    const SYN: u8 = 0x02;
    let &[_, _, high, low, _, _, _, _, _, _, _, _, _, flags] =
        packet.payload()?.first_chunk::<14>()?;
    let port = u16::from_be_bytes([high, low]);
    (flags & RST_SYN_ACK == SYN).then(|| SocketAddr::new(packet.destination(), port))
}

/// Over the pseudo-header and `segment`; 0 if the one inside is right.
fn transport_checksum(from: IpAddr, to: IpAddr, protocol: u8, segment: &[u8]) -> [u8; 2] {
    let [high, low] = u16_of(segment.len());
    let tail = [0, protocol, high, low];
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            checksum(&[&from.octets(), &to.octets(), &tail, segment])
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            checksum(&[&from.octets(), &to.octets(), &tail, segment])
        }
        _ => [0; 2],
    }
}

/// Room for a UDP header in front of a payload of 64 KiB: what a socket reads into, and [`Writer`] sends.
#[derive(Debug)]
pub(super) struct Segment {
    bytes: Vec<u8>,
}

impl Segment {
    pub(super) fn new() -> Self {
        Self {
            bytes: vec![0; HEADER_UDP + usize::from(u16::MAX)],
        }
    }

    /// Where the payload belongs.
    pub(super) fn payload(&mut self) -> &mut [u8] {
        self.bytes.get_mut(HEADER_UDP..).unwrap_or_default()
    }

    /// Writes the header for a payload of `len` bytes; `None` if that is more than a datagram holds.
    fn seal(&mut self, from: SocketAddr, to: SocketAddr, len: usize) -> Option<&[u8]> {
        let total = HEADER_UDP + len;
        let [l1, l2] = u16::try_from(total).ok()?.to_be_bytes();
        let ([s1, s2], [d1, d2]) = (from.port().to_be_bytes(), to.port().to_be_bytes());
        let segment = self.bytes.get_mut(..total)?;
        *segment.first_chunk_mut()? = [s1, s2, d1, d2, l1, l2, 0, 0];
        // RFC 768: 0 is none, and stands for itself as its complement.
        let sum = match transport_checksum(from.ip(), to.ip(), UDP, segment) {
            [0, 0] => [0xFF; 2],
            sum => sum,
        };
        segment.get_mut(6..HEADER_UDP)?.copy_from_slice(&sum);
        Some(segment)
    }
}

/// What a datagram became.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    Whole,
    Fragments,
    /// Nothing: it is longer than a packet, or there is no room for data in `mtu`.
    TooLong,
}

/// Makes packets for tunnels, in one buffer.
#[derive(Debug)]
pub(super) struct Writer {
    packet: Vec<u8>,
    /// Unguessable, and with few repetitions (RFC 7739).
    identification: u32,
    random: Random,
}

impl Writer {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            packet: Vec::new(),
            identification: 0,
            random: Random::new(seed),
        }
    }

    /// Gives `emit` the datagram whose payload is the first `len` bytes of `segment`'s, in packets of at most `mtu`
    /// bytes.
    pub(super) fn datagram(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        segment: &mut Segment,
        len: usize,
        mtu: u16,
        mut emit: impl FnMut(&[u8]),
    ) -> Written {
        let header = if to.is_ipv4() { HEADER_V4 } else { HEADER_V6 };
        let mtu = usize::from(mtu);
        let longest = usize::from(u16::MAX) - HEADER_UDP - if to.is_ipv4() { HEADER_V4 } else { 0 };
        if len > longest || from.is_ipv4() != to.is_ipv4() {
            return Written::TooLong;
        }
        let Some(bytes) = segment.seal(from, to, len) else {
            return Written::TooLong;
        };
        self.identification = self.fresh();
        if header + bytes.len() <= mtu {
            self.packet(from.ip(), to.ip(), None, bytes);
            emit(&self.packet);
            return Written::Whole;
        }
        let overhead = if to.is_ipv4() { 0 } else { HEADER_FRAGMENT };
        let room = mtu.saturating_sub(header + overhead) / 8 * 8;
        if room == 0 {
            return Written::TooLong;
        }
        let pieces = bytes.len().div_ceil(room);
        for (number, piece) in bytes.chunks(room).enumerate() {
            let more = number + 1 < pieces;
            self.packet(from.ip(), to.ip(), Some((number * room, more)), piece);
            emit(&self.packet);
        }
        Written::Fragments
    }

    /// A packet about which the host complains, as far as the host still has it.
    pub(super) fn quoted(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        segment: &mut Segment,
        len: usize,
    ) -> &[u8] {
        self.packet.clear();
        if let Some(bytes) = segment.seal(from, to, len) {
            self.packet(from.ip(), to.ip(), None, bytes);
        }
        &self.packet
    }

    fn fresh(&mut self) -> u32 {
        let [a, b, c, d, ..] = self.random.next().to_be_bytes();
        u32::from_be_bytes([a, b, c, d])
    }

    /// Writes one packet; `part` is its offset in bytes, and whether more follow.
    fn packet(&mut self, from: IpAddr, to: IpAddr, part: Option<(usize, bool)>, data: &[u8]) {
        self.packet.clear();
        match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let [l1, l2] = u16_of(HEADER_V4 + data.len());
                let [_, _, i1, i2] = self.identification.to_be_bytes();
                let (offset, more) = part.unwrap_or_default();
                let [mut f1, f2] = u16_of(offset / 8);
                f1 |= if more { 0x20 } else { 0 };
                let mut header = [0; HEADER_V4];
                // Without DF: what the sender wanted is not known, and the next hop may have to cut it.
                header[..10].copy_from_slice(&[0x45, 0, l1, l2, i1, i2, f1, f2, HOP_LIMIT, UDP]);
                header[12..16].copy_from_slice(&from.octets());
                header[16..].copy_from_slice(&to.octets());
                let sum = checksum(&[&header]);
                header[10..12].copy_from_slice(&sum);
                self.packet.extend_from_slice(&header);
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let extra = if part.is_some() { HEADER_FRAGMENT } else { 0 };
                let next = if part.is_some() { FRAGMENT } else { UDP };
                let [l1, l2] = u16_of(extra + data.len());
                let first = [0x60, 0, 0, 0, l1, l2, next, HOP_LIMIT];
                self.packet.extend_from_slice(&first);
                self.packet.extend_from_slice(&from.octets());
                self.packet.extend_from_slice(&to.octets());
                if let Some((offset, more)) = part {
                    let [o1, o2] = u16_of(offset);
                    let [i1, i2, i3, i4] = self.identification.to_be_bytes();
                    let more = u8::from(more);
                    let header = [UDP, 0, o1, o2 | more, i1, i2, i3, i4];
                    self.packet.extend_from_slice(&header);
                }
            }
            _ => return,
        }
        self.packet.extend_from_slice(data);
    }
}

/// A length or offset; callers have seen that it fits.
pub(super) fn u16_of(value: usize) -> [u8; 2] {
    u16::try_from(value).unwrap_or(u16::MAX).to_be_bytes()
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "test patterns")]
mod tests {
    use proptest::prelude::*;
    use smoltcp::{
        phy::ChecksumCapabilities,
        wire::{IpAddress, Ipv4Packet, Ipv6Packet, UdpPacket, UdpRepr},
    };
    use tsc_tpl::Limits;

    use super::*;

    const LIMITS: Limits = Limits::new(u16::MAX);

    fn written(from: &str, to: &str, payload: &[u8], mtu: u16) -> (Written, Vec<Vec<u8>>) {
        let mut segment = Segment::new();
        segment.payload()[..payload.len()].copy_from_slice(payload);
        let mut packets = Vec::new();
        let written = Writer::new(1).datagram(
            from.parse().unwrap(),
            to.parse().unwrap(),
            &mut segment,
            payload.len(),
            mtu,
            |packet| packets.push(packet.to_vec()),
        );
        (written, packets)
    }

    const ENDS: [(&str, &str); 2] = [
        ("192.0.2.1:53", "10.0.0.9:4711"),
        ("[2001:db8::1]:53", "[fd00::9]:4711"),
    ];

    #[test]
    fn smoltcp_reads_what_we_write() {
        for (from, to) in ENDS {
            let (kind, packets) = written(from, to, b"answer", 1280);
            assert_eq!((kind, packets.len()), (Written::Whole, 1));
            let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
            let payload = if from.is_ipv4() {
                let packet = Ipv4Packet::new_checked(&packets[0]).unwrap();
                assert!(packet.verify_checksum() && !packet.dont_frag());
                packet.payload().to_vec()
            } else {
                Ipv6Packet::new_checked(&packets[0])
                    .unwrap()
                    .payload()
                    .to_vec()
            };
            let udp = UdpPacket::new_checked(&payload).unwrap();
            let repr = UdpRepr::parse(
                &udp,
                &IpAddress::from(from.ip()),
                &IpAddress::from(to.ip()),
                &ChecksumCapabilities::default(),
            )
            .unwrap();
            assert_eq!((repr.src_port, repr.dst_port), (53, 4711));
            assert_eq!(udp.payload(), b"answer");
        }
    }

    #[test]
    fn a_datagram_reads_back_and_a_changed_one_does_not() {
        for (from, to) in ENDS {
            let (_, packets) = written(from, to, b"odd", 1280);
            let mut bytes = packets[0].clone();
            let packet = IpPacket::decode(&bytes, &LIMITS).unwrap();
            let read = datagram(&packet).unwrap();
            assert_eq!(
                (read.source, read.destination),
                (from.parse().unwrap(), to.parse().unwrap())
            );
            assert_eq!(read.payload, b"odd");
            *bytes.last_mut().unwrap() ^= 1;
            let packet = IpPacket::decode(&bytes, &LIMITS).unwrap();
            assert_eq!(datagram(&packet), Err(Bad::Checksum));
        }
    }

    #[test]
    fn no_checksum_is_for_ipv4_only() {
        for (from, to) in ENDS {
            let (_, mut packets) = written(from, to, b"answer", 1280);
            let at = if from.starts_with('[') { 46 } else { 26 };
            packets[0][at..at + 2].fill(0);
            let packet = IpPacket::decode(&packets[0], &LIMITS).unwrap();
            assert_eq!(datagram(&packet).is_ok(), at == 26);
        }
    }

    #[test]
    fn lengths_that_cannot_be() {
        let (_, packets) = written(ENDS[0].0, ENDS[0].1, b"answer", 1280);
        for (len, ok) in [(7_u8, false), (0, false), (15, false), (255, false)] {
            let mut bytes = packets[0].clone();
            bytes[25] = len;
            let packet = IpPacket::decode(&bytes, &LIMITS).unwrap();
            assert_eq!(datagram(&packet), Err(Bad::Malformed), "{len} {ok}");
        }
        let mut short = packets[0][..27].to_vec();
        short[3] = 27;
        let packet = IpPacket::decode(&short, &LIMITS).unwrap();
        assert_eq!(datagram(&packet), Err(Bad::Malformed));
    }

    #[test]
    fn the_longest_datagrams() {
        let payload = vec![7; 65_527];
        let (kind, packets) = written(ENDS[1].0, ENDS[1].1, &payload, 1280);
        assert_eq!(kind, Written::Fragments);
        assert!(packets.len() > 50);
        let (kind, packets) = written(ENDS[0].0, ENDS[0].1, &payload, 1280);
        assert_eq!((kind, packets.len()), (Written::TooLong, 0));
        let (kind, _) = written(ENDS[0].0, ENDS[0].1, &payload[..65_507], 1280);
        assert_eq!(kind, Written::Fragments);
    }

    proptest! {
        /// Fragments fit, and hold the datagram in order.
        #[test]
        fn fragments_are_the_datagram(v6: bool, len in 0_usize..20_000, mtu in 576_u16..9000) {
            let payload: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
            let (from, to) = ENDS[usize::from(v6)];
            let (kind, packets) = written(from, to, &payload, mtu);
            prop_assert_eq!(kind == Written::Whole, packets.len() == 1);
            let mut whole = Vec::new();
            for bytes in &packets {
                prop_assert!(bytes.len() <= usize::from(mtu));
                let packet = IpPacket::decode(bytes, &LIMITS).unwrap();
                prop_assert_eq!(packet.is_fragment(), packets.len() > 1);
                prop_assert_eq!(packet.protocol(), UDP);
                whole.extend_from_slice(packet.payload().unwrap());
            }
            prop_assert_eq!(&whole[8..], &payload[..]);
        }
    }
}
