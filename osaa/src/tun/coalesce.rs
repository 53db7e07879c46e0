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
