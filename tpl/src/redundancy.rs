//! Redundancy frames (spec 6).

use core::fmt;

use bytes::BufMut;

use crate::cursor::Reader;
use crate::error::{EncodeError, UnitError};
use crate::ids::Sequence;
use crate::ip::IpPacket;
use crate::limits::{Carrier, Extent, Limits};
use crate::registry::{FIRST_REDUNDANCY, MAX_REDUNDANCY_ENTRIES};
use crate::room;

const REDUNDANCY_HEADER: usize = 2;
const SEQUENCE_LEN: usize = 4;
/// The shortest entry: a sequence and an IPv4 header.
const MIN_ENTRY: usize = SEQUENCE_LEN + 20;

/// One packet of a redundancy frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RedundancyEntry<'a> {
    /// Its place in the group's order.
    pub sequence: Sequence,
    /// The packet.
    pub packet: IpPacket<'a>,
}

impl RedundancyEntry<'_> {
    /// Bytes that this entry takes in a frame.
    #[must_use]
    pub const fn encoded_len(&self) -> usize {
        SEQUENCE_LEN + self.packet.len()
    }
}

/// A redundancy frame, borrowed: 1 to 9 packets, newest first, with strictly falling sequences.
///
/// ```text
/// |0x1C | count | sequence, 4 bytes | IP packet | sequence | IP packet | ...
/// ```
///
/// Strictly falling means: each sequence is older than the one before it *and* than the first, so
/// that a frame cannot run around the number circle.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RedundancyFrame<'a> {
    bytes: &'a [u8],
    count: u8,
}

impl<'a> RedundancyFrame<'a> {
    /// How long the frame at the front of `bytes` is; checks everything that a frame promises.
    pub(crate) fn measure(
        bytes: &[u8],
        limits: &Limits,
        carrier: Carrier,
    ) -> Result<Extent, UnitError> {
        let mut reader = Reader::new(bytes);
        let (Some(_), Some(count)) = (reader.u8(), reader.u8()) else {
            return Ok(Extent::AtLeast(REDUNDANCY_HEADER + MIN_ENTRY));
        };
        check_count(usize::from(count), carrier)?;
        let mut order = FallingSequences::default();
        for _ in 0..count {
            let at = bytes.len() - reader.remaining();
            let Some(sequence) = reader.u32() else {
                return Ok(Extent::AtLeast(at + MIN_ENTRY));
            };
            order.check(Sequence(sequence))?;
            let packet = match IpPacket::measure(reader.rest(), limits) {
                Err(UnitError::FirstByte(first)) => return Err(UnitError::RedundancyEntry(first)),
                other => other?,
            };
            match packet {
                Extent::AtLeast(len) => return Ok(Extent::AtLeast(at + SEQUENCE_LEN + len)),
                Extent::Complete(len) => reader.take(len),
            };
        }
        Ok(Extent::Complete(bytes.len() - reader.remaining()))
    }

    /// Views `bytes`, whose length [`measure`](Self::measure) gave.
    pub(crate) fn framed(bytes: &'a [u8]) -> Result<Self, UnitError> {
        let count = bytes.get(1).copied().ok_or(UnitError::RedundancyCount(0))?;
        Ok(Self { bytes, count })
    }

    /// The whole frame.
    #[must_use]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Number of packets, 1 to 9.
    #[must_use]
    pub const fn count(&self) -> u8 {
        self.count
    }

    /// The packets as they stand: newest first. Reverse it to pass them on oldest first (spec 6).
    #[must_use]
    pub const fn entries(&self) -> RedundancyEntries<'a> {
        RedundancyEntries {
            frame: *self,
            front: 0,
            back: self.count,
        }
    }

    fn entry(&self, index: u8) -> Option<RedundancyEntry<'a>> {
        let mut reader = Reader::new(self.bytes.get(REDUNDANCY_HEADER..)?);
        // At most 9 steps; keeping offsets instead would make every view larger.
        for at in 0..=index {
            let sequence = Sequence(reader.u32()?);
            // The limits were checked when the frame was measured.
            let Ok(Extent::Complete(len)) =
                IpPacket::measure(reader.rest(), &Limits::new(u16::MAX))
            else {
                return None;
            };
            let packet = reader.take(len)?;
            if at == index {
                return Some(RedundancyEntry {
                    sequence,
                    packet: IpPacket::framed(packet).ok()?,
                });
            }
        }
        None
    }

    /// Bytes that a frame of these entries takes.
    #[must_use]
    pub fn encoded_len(entries: &[RedundancyEntry<'_>]) -> usize {
        REDUNDANCY_HEADER
            + entries
                .iter()
                .map(RedundancyEntry::encoded_len)
                .sum::<usize>()
    }

    /// Appends a frame for a datagram transport: 1 to 9 entries, newest first.
    ///
    /// # Errors
    ///
    /// Too few or too many entries, not strictly falling, a packet beyond the inner MTU, no room.
    pub fn encode_datagram(
        entries: &[RedundancyEntry<'_>],
        limits: &Limits,
        out: &mut impl BufMut,
    ) -> Result<(), EncodeError> {
        encode(entries, limits, Carrier::Datagram, out)
    }

    /// Appends a frame for a stream transport: exactly one entry.
    ///
    /// # Errors
    ///
    /// A packet beyond the inner MTU, no room.
    pub fn encode_stream(
        entry: &RedundancyEntry<'_>,
        limits: &Limits,
        out: &mut impl BufMut,
    ) -> Result<(), EncodeError> {
        encode(core::slice::from_ref(entry), limits, Carrier::Stream, out)
    }
}

fn encode(
    entries: &[RedundancyEntry<'_>],
    limits: &Limits,
    carrier: Carrier,
    out: &mut impl BufMut,
) -> Result<(), EncodeError> {
    check_count(entries.len(), carrier)?;
    let mut order = FallingSequences::default();
    for entry in entries {
        order.check(entry.sequence)?;
        limits.check(entry.packet.len())?;
    }
    room::check(RedundancyFrame::encoded_len(entries), out)?;
    out.put_u8(FIRST_REDUNDANCY);
    out.put_u8(saturate(entries.len()));
    for entry in entries {
        out.put_u32(entry.sequence.0);
        out.put_slice(entry.packet.as_bytes());
    }
    Ok(())
}

fn check_count(count: usize, carrier: Carrier) -> Result<(), UnitError> {
    let most = match carrier {
        Carrier::Stream => 1,
        Carrier::Datagram => MAX_REDUNDANCY_ENTRIES,
    };
    if (1..=most).contains(&count) {
        Ok(())
    } else {
        Err(UnitError::RedundancyCount(saturate(count)))
    }
}

fn saturate(count: usize) -> u8 {
    u8::try_from(count).unwrap_or(u8::MAX)
}

/// Checks that sequences fall strictly, within half of the number circle below the first.
#[derive(Default)]
struct FallingSequences {
    newest_and_last: Option<(Sequence, u32)>,
}

impl FallingSequences {
    fn check(&mut self, sequence: Sequence) -> Result<(), UnitError> {
        let (newest, distance) = match self.newest_and_last {
            None => (sequence, 0),
            Some((newest, last)) => match sequence.behind(newest) {
                Some(distance) if distance > last => (newest, distance),
                Some(_) | None => return Err(UnitError::RedundancyOrder),
            },
        };
        self.newest_and_last = Some((newest, distance));
        Ok(())
    }
}

/// The entries of a [`RedundancyFrame`], from either end.
#[derive(Clone, Debug)]
pub struct RedundancyEntries<'a> {
    frame: RedundancyFrame<'a>,
    front: u8,
    back: u8,
}

impl<'a> Iterator for RedundancyEntries<'a> {
    type Item = RedundancyEntry<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.front >= self.back {
            return None;
        }
        let entry = self.frame.entry(self.front);
        self.front += 1;
        entry
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::from(self.back - self.front);
        (left, Some(left))
    }
}

impl DoubleEndedIterator for RedundancyEntries<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        if self.front >= self.back {
            return None;
        }
        self.back -= 1;
        self.frame.entry(self.back)
    }
}

impl ExactSizeIterator for RedundancyEntries<'_> {}

impl fmt::Debug for RedundancyFrame<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedundancyFrame({self})")
    }
}

/// `redundancy 7: IPv4 …, 6: IPv4 …`
impl fmt::Display for RedundancyFrame<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("redundancy")?;
        for (index, entry) in self.entries().enumerate() {
            let separator = if index == 0 { "" } else { "," };
            write!(f, "{separator} {}: {}", entry.sequence, entry.packet)?;
        }
        Ok(())
    }
}
