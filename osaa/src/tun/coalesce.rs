//! Joining packets on their way to the kernel: consecutive segments of one connection become one large packet, which
//! passes the host's stack once.
//!
//! Only neighbours in a batch are joined, which needs no table: a tunnel's packets arrive one behind the other. Joined
//! packets leave with "checksum to be finished", so only intact ones may be joined; the others pass as they are and the
//! host's stack refuses them.

use super::{
    checksum::Sum,
    offload::{
        FIN, GSO_TCP4, GSO_TCP6, GSO_UDP, NEEDS_CHECKSUM, PSH, Transport, VirtioHeader,
        pseudo_header, put, take,
    },
};

/// Most packets that are joined.
pub(super) const MOST: usize = 64;

/// Longest joined packet: what IPv4's length field holds.
const LONGEST: usize = 65_535;

/// IPv6, TCP with all options.
const HEADERS: usize = 40 + 60;

const ACK: u8 = 0x10;

/// A packet that others may be joined to.
#[derive(Debug, Clone, Copy)]
struct Candidate<'a> {
    packet: &'a [u8],
    transport: Transport,
    v6: bool,
    /// Where the transport header is.
    start: usize,
    /// Where the payload is.
    payload: usize,
}

impl<'a> Candidate<'a> {
    /// `None` for all that is never joined: fragments, options and extension headers of IP, connections that begin or end,
    /// segments without data, lengths that do not agree.
    fn new(packet: &'a [u8], udp: bool) -> Option<Self> {
        let (v6, start, protocol) = match *packet.first()? {
            0x45 => {
                let length: [u8; 2] = take(packet, 2)?;
                let fragment: [u8; 2] = take(packet, 6)?;
                // All but "don't fragment".
                if usize::from(u16::from_be_bytes(length)) != packet.len()
                    || u16::from_be_bytes(fragment) & !0x4000 != 0
                {
                    return None;
                }
                (false, 20, *packet.get(9)?)
            }
            first if first >> 4 == 6 => {
                let length: [u8; 2] = take(packet, 4)?;
                if usize::from(u16::from_be_bytes(length)) + 40 != packet.len() {
                    return None;
                }
                (true, 40, *packet.get(6)?)
            }
            _ => return None,
        };
        let (transport, length) = match protocol {
            6 => {
                if *packet.get(start + 13)? & !PSH != ACK {
                    return None;
                }
                (
                    Transport::Tcp,
                    usize::from(packet.get(start + 12)? >> 4) * 4,
                )
            }
            17 if udp => {
                let length: [u8; 2] = take(packet, start + 4)?;
                let checksum: [u8; 2] = take(packet, start + 6)?;
                if usize::from(u16::from_be_bytes(length)) != packet.len() - start
                    || checksum == [0, 0]
                {
                    return None;
                }
                (Transport::Udp, 8)
            }
            _ => return None,
        };
        if transport == Transport::Tcp && length < 20 || packet.len() <= start + length {
            return None;
        }
        Some(Self {
            packet,
            transport,
            v6,
            start,
            payload: start + length,
        })
    }

    fn data(&self) -> usize {
        self.packet.len() - self.payload
    }

    fn sequence(&self) -> Option<u32> {
        take(self.packet, self.start + 4).map(u32::from_be_bytes)
    }

    fn pushes(&self) -> bool {
        self.transport == Transport::Tcp
            && self
                .packet
                .get(self.start + 13)
                .is_some_and(|flags| flags & PSH != 0)
    }

    fn is_intact(&self) -> bool {
        let intact = || {
            if !self.v6 && !Sum::default().add(self.packet.get(..20)?).holds() {
                return None;
            }
            let length = u16::try_from(self.packet.len() - self.start).ok()?;
            let sum = pseudo_header(self.packet, self.transport, length)?;
            Some(sum.add(self.packet.get(self.start..)?).holds())
        };
        intact() == Some(true)
    }

    /// Whether the headers say the same, but for lengths, checksums, IPv4's identification, sequence number and PSH.
    fn resembles(&self, other: &Self) -> bool {
        if (self.v6, self.transport, self.payload) != (other.v6, other.transport, other.payload) {
            return false;
        }
        let (mut a, mut b) = ([0; HEADERS], [0; HEADERS]);
        self.essence(&mut a).is_some() && other.essence(&mut b).is_some() && a == b
    }

    /// The headers with all that may differ blanked out.
    fn essence(&self, out: &mut [u8; HEADERS]) -> Option<()> {
        let headers = self.packet.get(..self.payload)?;
        out.get_mut(..self.payload)?.copy_from_slice(headers);
        if self.v6 {
            put(out, 4, [0; 2])?;
        } else {
            put(out, 2, [0; 4])?;
            put(out, 10, [0; 2])?;
        }
        match self.transport {
            Transport::Tcp => {
                put(out, self.start + 4, [0; 4])?;
                put(out, self.start + 16, [0; 2])?;
                *out.get_mut(self.start + 13)? &= !(PSH | FIN);
            }
            Transport::Udp => put(out, self.start + 4, [0; 4])?,
        }
        Some(())
    }
}

/// Neighbours that leave as one packet.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) header: VirtioHeader,
    /// IP and transport headers of the whole.
    headers: [u8; HEADERS],
    /// Length of the headers of every packet.
    pub(super) skip: usize,
    /// Number of packets.
    pub(super) count: usize,
}

impl Run {
    /// The longest run that `packets` begins with; `None` below two packets.
    pub(super) fn new<'a>(mut packets: impl Iterator<Item = &'a [u8]>, udp: bool) -> Option<Self> {
        let first = Candidate::new(packets.next()?, udp)?;
        if first.pushes() {
            return None;
        }
        let (segment, mut data, mut count, mut pushes) = (first.data(), first.data(), 1, false);
        while count < MOST {
            let Some(next) = packets
                .next()
                .and_then(|packet| Candidate::new(packet, udp))
            else {
                break;
            };
            if next.data() > segment
                || first.payload + data + next.data() > LONGEST
                || !first.resembles(&next)
            {
                break;
            }
            if first.transport == Transport::Tcp {
                let expected = first.sequence()?.wrapping_add(u32::try_from(data).ok()?);
                if next.sequence()? != expected {
                    break;
                }
            }
            // Looked at only where it matters: it touches every byte.
            if (count == 1 && !first.is_intact()) || !next.is_intact() {
                break;
            }
            data += next.data();
            count += 1;
            pushes = next.pushes();
            // Only the last may be shorter, and only the last may push.
            if next.data() < segment || pushes {
                break;
            }
        }
        if count < 2 {
            return None;
        }
        first.joined(data, segment, count, pushes)
    }

    /// IP and transport headers of the joined packet.
    pub(super) fn headers(&self) -> &[u8] {
        self.headers.get(..self.skip).unwrap_or_default()
    }
}

impl Candidate<'_> {
    fn joined(&self, data: usize, segment: usize, count: usize, pushes: bool) -> Option<Run> {
        let mut headers = [0; HEADERS];
        let own = self.packet.get(..self.payload)?;
        headers.get_mut(..self.payload)?.copy_from_slice(own);
        let length = self.payload + data;
        let transport_length = u16::try_from(length - self.start).ok()?;
        if self.v6 {
            put(
                &mut headers,
                4,
                u16::try_from(length - 40).ok()?.to_be_bytes(),
            )?;
        } else {
            put(&mut headers, 2, u16::try_from(length).ok()?.to_be_bytes())?;
            put(&mut headers, 10, [0; 2])?;
            let sum = Sum::default().add(headers.get(..20)?).checksum();
            put(&mut headers, 10, sum.to_be_bytes())?;
        }
        match self.transport {
            Transport::Tcp if pushes => *headers.get_mut(self.start + 13)? |= PSH,
            Transport::Tcp => {}
            Transport::Udp => put(&mut headers, self.start + 4, transport_length.to_be_bytes())?,
        }
        // The kernel finishes it.
        let partial = pseudo_header(self.packet, self.transport, transport_length)?.fold();
        let field = self.start + self.transport.checksum_field();
        put(&mut headers, field, partial.to_be_bytes())?;
        let gso = match (self.transport, self.v6) {
            (Transport::Tcp, false) => GSO_TCP4,
            (Transport::Tcp, true) => GSO_TCP6,
            (Transport::Udp, _) => GSO_UDP,
        };
        Some(Run {
            header: VirtioHeader {
                flags: NEEDS_CHECKSUM,
                gso,
                header_length: u16::try_from(self.payload).ok()?,
                segment: u16::try_from(segment).ok()?,
                start: u16::try_from(self.start).ok()?,
                field: u16::try_from(self.transport.checksum_field()).ok()?,
            },
            headers,
            skip: self.payload,
            count,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::cast_possible_truncation
    )]

    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::tun::offload::{Split, finish_checksum};

    /// A run of packets as a sender's offload would cut it.
    #[derive(Debug, Clone)]
    struct Stream {
        v6: bool,
        tcp: bool,
        options: usize,
        segment: usize,
        data: Vec<u8>,
        sequence: u32,
        push: bool,
    }

    impl Stream {
        fn packet(&self, number: usize) -> Vec<u8> {
            let data = self.data.chunks(self.segment).nth(number).unwrap();
            let last = (number + 1) * self.segment >= self.data.len();
            let start = if self.v6 { 40 } else { 20 };
            let header = if self.tcp { 20 + 4 * self.options } else { 8 };
            let mut packet = vec![0x33; start + header];
            packet.extend_from_slice(data);
            let length = packet.len() as u16;
            let protocol = if self.tcp { 6 } else { 17 };
            if self.v6 {
                packet[0] = 0x60;
                put(&mut packet, 4, (length - 40).to_be_bytes()).unwrap();
                packet[6] = protocol;
            } else {
                packet[0] = 0x45;
                put(&mut packet, 2, length.to_be_bytes()).unwrap();
                put(
                    &mut packet,
                    4,
                    (0xFFF0_u16.wrapping_add(number as u16)).to_be_bytes(),
                )
                .unwrap();
                put(&mut packet, 6, [0x40, 0]).unwrap();
                packet[9] = protocol;
                put(&mut packet, 10, [0; 2]).unwrap();
                let sum = Sum::default().add(&packet[..20]).checksum();
                put(&mut packet, 10, sum.to_be_bytes()).unwrap();
            }
            let transport = if self.tcp {
                let sequence = self.sequence.wrapping_add((number * self.segment) as u32);
                put(&mut packet, start + 4, sequence.to_be_bytes()).unwrap();
                packet[start + 12] = ((header / 4) << 4) as u8;
                packet[start + 13] = if last && self.push { ACK | PSH } else { ACK };
                Transport::Tcp
            } else {
                put(
                    &mut packet,
                    start + 4,
                    (length - start as u16).to_be_bytes(),
                )
                .unwrap();
                Transport::Udp
            };
            let field = start + transport.checksum_field();
            put(&mut packet, field, [0; 2]).unwrap();
            let sum = pseudo_header(&packet, transport, length - start as u16).unwrap();
            let sum = sum.add(&packet[start..]).checksum();
            put(&mut packet, field, sum.to_be_bytes()).unwrap();
            packet
        }

        fn packets(&self) -> Vec<Vec<u8>> {
            let count = self.data.len().div_ceil(self.segment);
            (0..count).map(|number| self.packet(number)).collect()
        }
    }

    prop_compose! {
        fn streams()(
            v6: bool,
            tcp: bool,
            options in 0_usize..=10,
            segment in 1_usize..1400,
            fill: u8,
            packets in 1_usize..80,
            short in 0_usize..1400,
            sequence: u32,
            push: bool,
        ) -> Stream {
            let length = (segment * packets).saturating_sub(short % segment);
            let data = (0..length).map(|at| (at as u8).wrapping_mul(31) ^ fill).collect();
            Stream { v6, tcp, options, segment, data, sequence, push }
        }
    }

    fn run(packets: &[Vec<u8>]) -> Option<Run> {
        Run::new(packets.iter().map(Vec::as_slice), true)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn what_was_joined_splits_into_the_same(stream in streams()) {
            let packets = stream.packets();
            let Some(run) = run(&packets) else {
                prop_assert_eq!(packets.len(), 1);
                return Ok(());
            };
            let whole: usize = packets.iter().take(MOST).map(|packet| packet.len() - run.skip).sum();
            if whole + run.skip <= LONGEST {
                prop_assert_eq!(run.count, packets.len().min(MOST));
            }
            let mut joined = run.headers().to_vec();
            for packet in &packets[..run.count] {
                joined.extend_from_slice(&packet[run.skip..]);
            }
            let mut split = Split::new(&run.header, &joined).unwrap();
            for packet in &packets[..run.count] {
                let mut out = vec![0; split.next_len().unwrap()];
                split.write(&joined, &mut out).unwrap();
                prop_assert!(out == *packet);
            }
            prop_assert_eq!(split.next_len(), None);
            // The same packet with its checksum finished is a right one too.
            finish_checksum(&run.header, &mut joined).unwrap();
            prop_assert!(Candidate::new(&joined, true).unwrap().is_intact());
        }

        #[test]
        fn a_changed_packet_is_not_joined(stream in streams(), at: prop::sample::Index, bit in 0_u8..8) {
            let mut packets = stream.packets();
            prop_assume!(packets.len() > 1);
            let at = at.index(packets[1].len());
            packets[1][at] ^= 1 << bit;
            prop_assert!(run(&packets).is_none());
        }

        #[test]
        fn no_input_is_too_strange(
            header: [u8; 10],
            packets in vec(vec(any::<u8>(), 0..200), 0..4),
            first in prop::sample::select(vec![0x45_u8, 0x60]),
        ) {
            let header = VirtioHeader::decode(header);
            for mut packet in packets.clone() {
                if let Some(byte) = packet.first_mut() {
                    *byte = first;
                }
                let _ = run(&[packet.clone(), packet.clone()]);
                if let Some(mut split) = Split::new(&header, &packet) {
                    while let Some(length) = split.next_len() {
                        if split.write(&packet, &mut vec![0; length]).is_none() {
                            break;
                        }
                    }
                }
                let _ = finish_checksum(&header, &mut packet);
            }
        }
    }

    #[test]
    fn only_what_follows_is_joined() {
        let stream = Stream {
            v6: false,
            tcp: true,
            options: 3,
            segment: 100,
            data: vec![7; 500],
            sequence: u32::MAX - 150,
            push: false,
        };
        let packets = stream.packets();
        assert_eq!(
            run(&packets).unwrap().count,
            5,
            "across the wrap of sequence numbers"
        );
        assert!(run(&packets[..1]).is_none());
        assert!(
            run(&[packets[0].clone(), packets[2].clone()]).is_none(),
            "a gap"
        );
        assert!(
            run(&[packets[1].clone(), packets[0].clone()]).is_none(),
            "out of order"
        );
        assert!(
            run(&[packets[0].clone(), packets[0].clone()]).is_none(),
            "twice"
        );
        let mut other = stream.clone();
        other.options = 4;
        assert!(
            run(&[packets[0].clone(), other.packet(1)]).is_none(),
            "other headers"
        );
        let mut pushed = stream.clone();
        pushed.data.truncate(100);
        pushed.push = true;
        assert!(
            run(&[pushed.packet(0), packets[1].clone()]).is_none(),
            "pushed on"
        );
        let mixed = [
            packets[0].clone(),
            packets[1].clone(),
            vec![0x60; 50],
            packets[2].clone(),
        ];
        assert_eq!(run(&mixed).unwrap().count, 2);
        let udp = Stream {
            tcp: false,
            ..stream
        };
        let packets = udp.packets();
        assert!(Run::new(packets.iter().map(Vec::as_slice), false).is_none());
        assert_eq!(run(&packets).unwrap().count, 5);
    }
}
