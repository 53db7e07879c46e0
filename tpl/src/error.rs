//! Why bytes were refused, or could not be made.
//!
//! Nothing here carries peer-controlled text, so every error may be logged and counted by variant.

use crate::registry::{
    CmType, MAX_CONTROL_MESSAGE, MAX_REDUNDANCY_ENTRIES, MAX_TLVS, ResponseCode, TlvType,
};

/// What is wrong with a unit's outermost layer: that it cannot be delimited (spec 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum UnitError {
    /// The first byte announces no unit.
    #[error("first byte {0:#04x} starts no unit")]
    FirstByte(u8),
    /// IPv4 header length nibble below 5.
    #[error("IPv4 header length {0} words is below 5")]
    Ipv4HeaderLength(u8),
    /// IPv4 total length shorter than the header.
    #[error("IPv4 total length {total} is shorter than its header of {header} bytes")]
    Ipv4TotalLength {
        /// Total length field, bytes.
        total: u16,
        /// Header length in bytes.
        header: u16,
    },
    /// An inner packet (or a reserved frame's payload) longer than the inner MTU.
    #[error("inner packet of {len} bytes exceeds the inner MTU of {mtu}")]
    InnerMtu {
        /// Length announced, bytes.
        len: usize,
        /// The limit, bytes.
        mtu: u16,
    },
    /// A control message longer than 4096 bytes (or a probing Keepalive beyond its own limit).
    #[error("control message of at least {0} bytes exceeds the limit of {MAX_CONTROL_MESSAGE}")]
    MessageTooLong(usize),
    /// A control message with more than 64 TLVs.
    #[error("control message of {0} TLVs exceeds the limit of {MAX_TLVS}")]
    TooManyTlvs(u16),
    /// A redundancy frame with no entry, more than 9, or more than 1 on a stream.
    #[error("redundancy frame of {0} entries (1 to {MAX_REDUNDANCY_ENTRIES}, 1 on streams)")]
    RedundancyCount(u8),
    /// The entries of a redundancy frame are not strictly falling in sequence.
    #[error("redundancy sequences are not strictly falling")]
    RedundancyOrder,
    /// An entry of a redundancy frame is not an inner IP packet.
    #[error("redundancy entry starts with {0:#04x}, not an IP packet")]
    RedundancyEntry(u8),
}

/// Why a datagram holds no unit. It is dropped and counted (spec 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum DatagramError {
    /// A datagram of no bytes.
    #[error("empty datagram")]
    Empty,
    /// The unit cannot be delimited.
    #[error(transparent)]
    Unit(#[from] UnitError),
    /// The unit is longer than the datagram.
    #[error("unit of at least {needed} bytes in a datagram of {len}")]
    Truncated {
        /// Bytes that the unit needs, as far as can be told.
        needed: usize,
        /// Bytes there are.
        len: usize,
    },
    /// Bytes follow the unit.
    #[error("{0} bytes after the unit")]
    Trailing(usize),
}

/// Why a stream cannot go on. The transport is closed; the tunnel is only without one (spec 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum FramingError {
    /// The next unit cannot be delimited.
    #[error(transparent)]
    Unit(#[from] UnitError),
    /// The first unit is not a Configuration_Request or Configuration_Resume_Request.
    #[error("the first unit is not a configuration or resume request")]
    WrongFirstUnit,
    /// A unit is still incomplete 30 s after its first byte. Raised by the owner of the clock, who
    /// watches [`StreamDecoder::partial`](crate::StreamDecoder::partial); never by the decoder.
    #[error("a unit stayed incomplete for too long")]
    Stalled,
    /// The stream ended inside a unit.
    #[error("the stream ended inside a unit, after {0} of its bytes")]
    EndInsideUnit(usize),
}

/// Why a TLV's value is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum ValueError {
    /// The value has a length that its type does not allow.
    #[error("length {0} is not allowed")]
    Length(usize),
    /// The value has the right length but breaks a rule.
    #[error("{0}")]
    Content(&'static str),
}

/// Why a well-framed control message is refused: its lengths add up, its content is wrong (spec 2, 3).
///
/// A request is answered [`response_code`](Self::response_code), a response fails its transaction.
/// [`MessageBuilder::refuse`](crate::MessageBuilder::refuse) makes the whole answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// The message type is not known.
    #[error("{0} (not supported)")]
    UnsupportedMessage(CmType),
    /// A TLV that must be understood (high bit clear) is not known.
    #[error("{0} must be understood")]
    UnsupportedTlv(TlvType),
    /// A known TLV that must be understood has no meaning in this message.
    #[error("{0} has no meaning in this message")]
    UnexpectedTlv(TlvType),
    /// A value is refused.
    #[error("{ty}: {error}")]
    Value {
        /// The TLV.
        ty: TlvType,
        /// What is wrong with it.
        error: ValueError,
    },
    /// A TLV that may appear once appears again.
    #[error("{0} appears more than once")]
    Repeated(TlvType),
    /// A TLV that must be there is not.
    #[error("{0} is missing")]
    Missing(TlvType),
    /// The two halves of a pair (1+2, 3+4, 17+22) are not next to each other.
    #[error("{0} stands without its other half")]
    Unpaired(TlvType),
    /// A successful configuration without an inner address.
    #[error("no inner address")]
    MissingAddress,
    /// The header's TSID is not one that this message may carry.
    #[error("the header's TSID does not fit the message")]
    Tsid,
}

impl MessageError {
    /// What a request with this error is answered: `malformed`, `unsupported_tlv` or `unsupported_message`.
    #[must_use]
    pub const fn response_code(&self) -> ResponseCode {
        match self {
            Self::UnsupportedMessage(_) => ResponseCode::UNSUPPORTED_MESSAGE,
            Self::UnsupportedTlv(_) | Self::UnexpectedTlv(_) => ResponseCode::UNSUPPORTED_TLV,
            Self::Value { .. }
            | Self::Repeated(_)
            | Self::Missing(_)
            | Self::Unpaired(_)
            | Self::MissingAddress
            | Self::Tsid => ResponseCode::MALFORMED,
        }
    }

    /// The value of Offending_Type in that answer, if it has one.
    #[must_use]
    pub const fn offending_type(&self) -> Option<TlvType> {
        match self {
            Self::UnsupportedTlv(ty) | Self::UnexpectedTlv(ty) => Some(*ty),
            Self::UnsupportedMessage(_)
            | Self::Value { .. }
            | Self::Repeated(_)
            | Self::Missing(_)
            | Self::Unpaired(_)
            | Self::MissingAddress
            | Self::Tsid => None,
        }
    }
}

/// Why something cannot be encoded: the caller asked for what no decoder would accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The message breaks a rule of its type.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The unit breaks a rule of its framing.
    #[error(transparent)]
    Unit(#[from] UnitError),
    /// A message that does not fit the 1200 bytes of a datagram transport.
    #[error("control message of {0} bytes does not fit a datagram")]
    DatagramTooLong(usize),
    /// The buffer is full. Growable buffers never are.
    #[error("{needed} bytes do not fit the {room} left in the buffer")]
    NoRoom {
        /// Length of the unit.
        needed: usize,
        /// Space there is.
        room: usize,
    },
}
