//! What the kernel leaves to us: unfinished checksums, and packets longer than the MTU (linux/virtio_net.h).

use super::checksum::Sum;

/// Length of the header that the driver puts in front of each packet.
pub(super) const HEADER: usize = 10;

/// The checksum is to be finished: its field holds the sum of the pseudo-header.
pub(super) const NEEDS_CHECKSUM: u8 = 1;

pub(super) const GSO_NONE: u8 = 0;
pub(super) const GSO_TCP4: u8 = 1;
pub(super) const GSO_TCP6: u8 = 4;
/// Both families.
pub(super) const GSO_UDP: u8 = 5;

/// `struct virtio_net_hdr`, in the machine's byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct VirtioHeader {
    pub(super) flags: u8,
    pub(super) gso: u8,
    /// Headers up to the payload; only a hint.
    pub(super) header_length: u16,
    /// Payload per segment.
    pub(super) segment: u16,
    /// Where the checksum begins to count: the transport header.
    pub(super) start: u16,
    /// Where its field is, from there.
    pub(super) field: u16,
}

impl VirtioHeader {
    pub(super) const fn decode(bytes: [u8; HEADER]) -> Self {
        let [flags, gso, a, b, c, d, e, f, g, h] = bytes;
        Self {
            flags,
            gso,
            header_length: u16::from_ne_bytes([a, b]),
            segment: u16::from_ne_bytes([c, d]),
            start: u16::from_ne_bytes([e, f]),
            field: u16::from_ne_bytes([g, h]),
        }
    }

    pub(super) const fn encode(self) -> [u8; HEADER] {
        let [a, b] = self.header_length.to_ne_bytes();
        let [c, d] = self.segment.to_ne_bytes();
        let [e, f] = self.start.to_ne_bytes();
        let [g, h] = self.field.to_ne_bytes();
        [self.flags, self.gso, a, b, c, d, e, f, g, h]
    }
}

/// Finishes the checksum of a packet that is not to be split; `None` if the header does not fit the packet.
pub(super) fn finish_checksum(header: &VirtioHeader, packet: &mut [u8]) -> Option<()> {
    if header.flags & NEEDS_CHECKSUM == 0 {
        return Some(());
    }
    let start = usize::from(header.start);
    let field = start + usize::from(header.field);
    // The pseudo-header's sum stands in the field and is counted with the rest.
    let sum = Sum::default().add(packet.get(start..)?).checksum();
    put(packet, field, sum.to_be_bytes())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    pub(super) const fn protocol(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// Where its checksum is.
    pub(super) const fn checksum_field(self) -> usize {
        match self {
            Self::Tcp => 16,
            Self::Udp => 6,
        }
    }
}

/// TCP flags, at byte 13 of the header.
const TCP_FLAGS: usize = 13;
pub(super) const FIN: u8 = 0x01;
pub(super) const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// A packet that is being split. It may be continued in the next batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Split {
    transport: Transport,
    v6: bool,
    /// Where the transport header is.
    start: usize,
    /// Where the payload is.
    payload: usize,
    /// Length of the packet.
    end: usize,
    /// Payload per segment.
    segment: usize,
    /// Payload that was given out.
    done: usize,
}

impl Split {
    /// `None` for what is not a packet to be split, or not a packet.
    pub(super) fn new(header: &VirtioHeader, packet: &[u8]) -> Option<Self> {
        let v6 = match packet.first()? >> 4 {
            4 => false,
            6 => true,
            _ => return None,
        };
        let transport = match (header.gso, v6) {
            (GSO_TCP4, false) | (GSO_TCP6, true) => Transport::Tcp,
            (GSO_UDP, _) => Transport::Udp,
            _ => return None,
        };
        let start = usize::from(header.start);
        if start < if v6 { 40 } else { 20 } || header.segment == 0 {
            return None;
        }
        // The header's own length is that of the whole first segment where the kernel forwards.
        let length = match transport {
            Transport::Tcp => usize::from(packet.get(start + 12)? >> 4) * 4,
            Transport::Udp => 8,
        };
        if transport == Transport::Tcp && length < 20 {
            return None;
        }
        let payload = start + length;
        if packet.len() <= payload {
            return None;
        }
        Some(Self {
            transport,
            v6,
            start,
            payload,
            end: packet.len(),
            segment: header.segment.into(),
            done: 0,
        })
    }

    /// Length of the next segment's packet; `None` behind the last.
    pub(super) fn next_len(&self) -> Option<usize> {
        let left = (self.end - self.payload).checked_sub(self.done)?;
        (left > 0).then(|| self.payload + left.min(self.segment))
    }

    /// Writes the next segment of `packet` into `out`, which has [`next_len`](Self::next_len) bytes. `None` if its lengths cannot be
    /// written down in its headers.
    pub(super) fn write(&mut self, packet: &[u8], out: &mut [u8]) -> Option<()> {
        let from = self.payload + self.done;
        let len = out.len().checked_sub(self.payload)?;
        let last = from + len >= self.end;
        let (headers, payload) = out.split_at_mut_checked(self.payload)?;
        headers.copy_from_slice(packet.get(..self.payload)?);
        payload.copy_from_slice(packet.get(from..from + len)?);

        let transport_length = u16::try_from(out.len() - self.start).ok()?;
        let done = u32::try_from(self.done).ok()?;
        if self.v6 {
            put(out, 4, u16::try_from(out.len() - 40).ok()?.to_be_bytes())?;
        } else {
            put(out, 2, u16::try_from(out.len()).ok()?.to_be_bytes())?;
            let number = u16::try_from(self.done / self.segment).ok()?;
            let id = u16::from_be_bytes(take(packet, 4)?).wrapping_add(number);
            put(out, 4, id.to_be_bytes())?;
            put(out, 10, [0, 0])?;
            let sum = Sum::default().add(out.get(..self.start)?).checksum();
            put(out, 10, sum.to_be_bytes())?;
        }
        match self.transport {
            Transport::Tcp => {
                let sequence = u32::from_be_bytes(take(packet, self.start + 4)?);
                let sequence = sequence.wrapping_add(done);
                put(out, self.start + 4, sequence.to_be_bytes())?;
                let flags = out.get_mut(self.start + TCP_FLAGS)?;
                // A reaction to congestion is told once, the end only at the end (RFC 3168, 6.1.2).
                if self.done > 0 {
                    *flags &= !CWR;
                }
                if !last {
                    *flags &= !(FIN | PSH);
                }
            }
            Transport::Udp => put(out, self.start + 4, transport_length.to_be_bytes())?,
        }
        let field = self.start + self.transport.checksum_field();
        put(out, field, [0, 0])?;
        let sum = pseudo_header(out, self.transport, transport_length)?
            .add(out.get(self.start..)?)
            .checksum();
        put(out, field, sum.to_be_bytes())?;
        self.done += len;
        Some(())
    }
}

/// Sum of the pseudo-header (RFC 9293, 3.1; RFC 8200, 8.1) of an IP packet.
pub(super) fn pseudo_header(packet: &[u8], transport: Transport, length: u16) -> Option<Sum> {
    let addresses = match packet.first()? >> 4 {
        4 => packet.get(12..20)?,
        _ => packet.get(8..40)?,
    };
    Some(
        Sum::default()
            .add(addresses)
            .add_number(transport.protocol().into())
            .add_number(length.into()),
    )
}

pub(super) fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) -> Option<()> {
    *bytes.get_mut(at..)?.first_chunk_mut()? = value;
    Some(())
}

pub(super) fn take<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}
