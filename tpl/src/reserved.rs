//! Data frames whose services are not described yet (spec 6): decoded here, refused above.

use core::fmt;

use bytes::BufMut;

use crate::cursor::Reader;
use crate::error::{EncodeError, UnitError};
use crate::limits::{Extent, Limits};
use crate::registry::{FIRST_COMPRESSED_LONG, FIRST_COMPRESSED_SHORT, FIRST_EXTENSION};
use crate::room;

/// Which of the reserved frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReservedKind {
    /// `0x1D`: a compressed packet of at most 255 bytes.
    CompressedShort,
    /// `0x1E`: a compressed packet.
    CompressedLong,
    /// `0x1F`: an extension.
    Extension,
}

impl ReservedKind {
    const fn of(first: u8) -> Option<Self> {
        match first {
            FIRST_COMPRESSED_SHORT => Some(Self::CompressedShort),
            FIRST_COMPRESSED_LONG => Some(Self::CompressedLong),
            FIRST_EXTENSION => Some(Self::Extension),
            _ => None,
        }
    }

    /// The frame's first byte.
    #[must_use]
    pub const fn first_byte(self) -> u8 {
        match self {
            Self::CompressedShort => FIRST_COMPRESSED_SHORT,
            Self::CompressedLong => FIRST_COMPRESSED_LONG,
            Self::Extension => FIRST_EXTENSION,
        }
    }

    const fn header_len(self) -> usize {
        match self {
            Self::CompressedShort => 3,
            Self::CompressedLong | Self::Extension => 4,
        }
    }

    const fn max_payload(self) -> u16 {
        match self {
            Self::CompressedShort => u8::MAX as u16,
            Self::CompressedLong | Self::Extension => u16::MAX,
        }
    }
}

/// A reserved data frame, borrowed.
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
pub struct ReservedFrame<'a> {
    bytes: &'a [u8],
    kind: ReservedKind,
    index: u8,
}

impl<'a> ReservedFrame<'a> {
    /// How long the frame at the front of `bytes` is.
    pub(crate) fn measure(bytes: &[u8], limits: &Limits) -> Result<Extent, UnitError> {
        let mut reader = Reader::new(bytes);
        let first = reader.u8().unwrap_or_default();
        let kind = ReservedKind::of(first).ok_or(UnitError::FirstByte(first))?;
        let payload = reader.u8().and_then(|_index| match kind {
            ReservedKind::CompressedShort => reader.u8().map(usize::from),
            ReservedKind::CompressedLong | ReservedKind::Extension => reader.u16().map(usize::from),
        });
        let Some(payload) = payload else {
            return Ok(Extent::AtLeast(kind.header_len()));
        };
        limits.check(payload)?;
        Ok(Extent::of(kind.header_len() + payload, bytes.len()))
    }

    /// Views `bytes`, whose length [`measure`](Self::measure) gave.
    pub(crate) fn framed(bytes: &'a [u8]) -> Result<Self, UnitError> {
        let mut reader = Reader::new(bytes);
        let first = reader.u8().unwrap_or_default();
        match (ReservedKind::of(first), reader.u8()) {
            (Some(kind), Some(index)) => Ok(Self { bytes, kind, index }),
            (None, _) | (_, None) => Err(UnitError::FirstByte(first)),
        }
    }

    /// The whole frame.
    #[must_use]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Which frame it is.
    #[must_use]
    pub const fn kind(&self) -> ReservedKind {
        self.kind
    }

    /// The compression index; the subtype of an extension.
    #[must_use]
    pub const fn index(&self) -> u8 {
        self.index
    }

    /// The compressed packet; the value of an extension.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.bytes.get(self.kind.header_len()..).unwrap_or_default()
    }

    /// Appends a frame.
    ///
    /// # Errors
    ///
    /// A payload beyond the inner MTU, or beyond 255 bytes in the short form; no room.
    pub fn encode(
        kind: ReservedKind,
        index: u8,
        payload: &[u8],
        limits: &Limits,
        out: &mut impl BufMut,
    ) -> Result<(), EncodeError> {
        let limits = Limits::new(limits.inner_mtu.min(kind.max_payload()));
        limits.check(payload.len())?;
        room::check(kind.header_len() + payload.len(), out)?;
        // The limit has made sure that the length fits its field.
        let [high, low] = u16::try_from(payload.len())
            .unwrap_or(u16::MAX)
            .to_be_bytes();
        out.put_slice(&[kind.first_byte(), index]);
        match kind {
            ReservedKind::CompressedShort => out.put_u8(low),
            ReservedKind::CompressedLong | ReservedKind::Extension => out.put_slice(&[high, low]),
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
        f.write_str(match self.kind {
            ReservedKind::CompressedShort => "compressed (short, reserved) index",
            ReservedKind::CompressedLong => "compressed (long, reserved) index",
            ReservedKind::Extension => "extension (reserved) subtype",
        })?;
        write!(f, " {}: {} bytes", self.index, self.payload().len())
    }
}
