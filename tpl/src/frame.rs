//! Data frames (spec 6): redundancy, and the reserved ones.

use core::fmt;

use bytes::BufMut;

use crate::cursor::Reader;
use crate::error::{EncodeError, UnitError};
use crate::ids::Sequence;
use crate::ip::IpPacket;
use crate::limits::{Carrier, Extent, Limits};
use crate::registry::{
    FIRST_COMPRESSED_LONG, FIRST_COMPRESSED_SHORT, FIRST_EXTENSION, FIRST_REDUNDANCY,
    MAX_REDUNDANCY_ENTRIES,
};
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
        check_mtu(entry.packet.len(), limits)?;
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

fn check_mtu(len: usize, limits: &Limits) -> Result<(), UnitError> {
    let mtu = limits.inner_mtu;
    if len > usize::from(mtu) {
        Err(UnitError::InnerMtu { len, mtu })
    } else {
        Ok(())
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

/// A data frame whose service is not described yet: decoded here, refused above (spec 6).
///
/// ```text
/// |0x1D | index | length, 1 byte  | payload     compressed, short
/// |0x1E | index | length, 2 bytes | payload     compressed, long
/// |0x1F | subtype | length, 2 bytes | value     extension
/// ```
///
/// Ours: payload and value are at most the inner MTU long, since a compressed packet is not longer than
/// the packet, and since an unlimited one would let a stranger make a stream decoder hold 64 KiB.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum ReservedFrame<'a> {
    /// `0x1D`: a compressed packet of at most 255 bytes.
    CompressedShort {
        /// Compression context.
        index: u8,
        /// The compressed packet.
        payload: &'a [u8],
    },
    /// `0x1E`: a compressed packet.
    CompressedLong {
        /// Compression context.
        index: u8,
        /// The compressed packet.
        payload: &'a [u8],
    },
    /// `0x1F`: an extension.
    Extension {
        /// Its kind.
        subtype: u8,
        /// Its value.
        value: &'a [u8],
    },
}

impl<'a> ReservedFrame<'a> {
    /// How long the frame at the front of `bytes` is.
    pub(crate) fn measure(bytes: &[u8], limits: &Limits) -> Result<Extent, UnitError> {
        let mut reader = Reader::new(bytes);
        let first = reader.u8().unwrap_or_default();
        let short = first == FIRST_COMPRESSED_SHORT;
        let header = if short { 3 } else { 4 };
        let announced = reader.u8().and_then(|_index| {
            if short {
                reader.u8().map(usize::from)
            } else {
                reader.u16().map(usize::from)
            }
        });
        let Some(payload) = announced else {
            return Ok(Extent::AtLeast(header));
        };
        check_mtu(payload, limits)?;
        Ok(Extent::of(header + payload, bytes.len()))
    }

    /// Views `bytes`, whose length [`measure`](Self::measure) gave.
    pub(crate) fn framed(bytes: &'a [u8]) -> Result<Self, UnitError> {
        match *bytes {
            [FIRST_COMPRESSED_SHORT, index, _, ref payload @ ..] => {
                Ok(Self::CompressedShort { index, payload })
            }
            [FIRST_COMPRESSED_LONG, index, _, _, ref payload @ ..] => {
                Ok(Self::CompressedLong { index, payload })
            }
            [FIRST_EXTENSION, subtype, _, _, ref value @ ..] => {
                Ok(Self::Extension { subtype, value })
            }
            [first, ..] => Err(UnitError::FirstByte(first)),
            [] => Err(UnitError::FirstByte(0)),
        }
    }

    /// The payload or value.
    #[must_use]
    pub const fn payload(&self) -> &'a [u8] {
        match *self {
            Self::CompressedShort { payload, .. } | Self::CompressedLong { payload, .. } => payload,
            Self::Extension { value, .. } => value,
        }
    }

    /// Appends the frame.
    ///
    /// # Errors
    ///
    /// A payload beyond the inner MTU (or 255 bytes in the short form), no room.
    pub fn encode(&self, limits: &Limits, out: &mut impl BufMut) -> Result<(), EncodeError> {
        let payload = self.payload();
        check_mtu(payload.len(), limits)?;
        let too_long = |mtu| {
            EncodeError::Unit(UnitError::InnerMtu {
                len: payload.len(),
                mtu,
            })
        };
        match *self {
            Self::CompressedShort { index, .. } => {
                let len = u8::try_from(payload.len()).map_err(|_| too_long(u16::from(u8::MAX)))?;
                room::check(3 + payload.len(), out)?;
                out.put_slice(&[FIRST_COMPRESSED_SHORT, index, len]);
            }
            Self::CompressedLong { index: second, .. }
            | Self::Extension {
                subtype: second, ..
            } => {
                let len = u16::try_from(payload.len()).map_err(|_| too_long(u16::MAX))?;
                room::check(4 + payload.len(), out)?;
                let first = match self {
                    Self::Extension { .. } => FIRST_EXTENSION,
                    Self::CompressedShort { .. } | Self::CompressedLong { .. } => {
                        FIRST_COMPRESSED_LONG
                    }
                };
                out.put_slice(&[first, second]);
                out.put_u16(len);
            }
        }
        out.put_slice(payload);
        Ok(())
    }
}

impl fmt::Debug for ReservedFrame<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReservedFrame({self})")
    }
}

/// Kind, number and length; never the payload.
impl fmt::Display for ReservedFrame<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CompressedShort { index, payload } => {
                write!(
                    f,
                    "compressed (short, reserved) index {index}: {} bytes",
                    payload.len()
                )
            }
            Self::CompressedLong { index, payload } => {
                write!(
                    f,
                    "compressed (long, reserved) index {index}: {} bytes",
                    payload.len()
                )
            }
            Self::Extension { subtype, value } => {
                write!(
                    f,
                    "extension (reserved) subtype {subtype}: {} bytes",
                    value.len()
                )
            }
        }
    }
}
