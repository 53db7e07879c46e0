//! Control messages as framed on the wire: lengths add up, nothing else is known yet.

use core::fmt;

use crate::cursor::Reader;
use crate::error::{MessageError, UnitError};
use crate::ids::{Sequence, Tsid};
use crate::limits::{Carrier, Extent};
use crate::message::Message;
use crate::registry::{
    CmType, HEADER_LEN, MAX_CONTROL_MESSAGE, MAX_PROBE_KEEPALIVE, MAX_TLVS, TLV_HEADER_LEN, TlvType,
};
use crate::tlv::Tlv;

/// The header of a control message (spec 3.1).
///
/// ```text
///  0      1        2          4               12        16
/// |0x10 | CM_Type | TLV_Count | TSID, 8 bytes | Sequence | TLVs ...
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Kind of the message.
    pub cm_type: CmType,
    /// TLVs that follow.
    pub tlv_count: u16,
    /// The tunnel it is about.
    pub tsid: Tsid,
    /// Transaction; a response repeats its request's.
    pub sequence: Sequence,
}

impl Header {
    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        reader.u8()?;
        Some(Self {
            cm_type: CmType(reader.u8()?),
            tlv_count: reader.u16()?,
            tsid: Tsid(reader.u64()?),
            sequence: Sequence(reader.u32()?),
        })
    }
}

/// `Keepalive tsid=… seq=…`
impl fmt::Display for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} tsid={} seq={}",
            self.cm_type, self.tsid, self.sequence
        )
    }
}

/// One TLV as it stands on the wire.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RawTlv<'a> {
    /// Its type.
    pub ty: TlvType,
    /// Its value, unchecked.
    pub value: &'a [u8],
}

impl<'a> RawTlv<'a> {
    /// Interprets the value.
    ///
    /// # Errors
    ///
    /// [`MessageError::UnsupportedTlv`] for an unknown type that must be understood,
    /// [`MessageError::Value`] for a known type with a wrong value.
    pub fn decode(&self) -> Result<Tlv<'a>, MessageError> {
        Tlv::decode(self.ty, self.value)
    }
}

/// Shows type and length only: the value may be a secret.
impl fmt::Debug for RawTlv<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RawTlv({:?}, {} bytes)", self.ty, self.value.len())
    }
}

/// A framed control message, borrowed: the header and as many whole TLVs as it says, not interpreted.
///
/// [`parse`](Self::parse) interprets it. The two steps are apart because the answer to a message
/// that frames but does not parse depends on who sent it (spec 2).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ControlMessage<'a> {
    bytes: &'a [u8],
    header: Header,
}

impl<'a> ControlMessage<'a> {
    /// How long the message at the front of `bytes` is. Fails as soon as a limit is certain to be broken.
    pub(crate) fn measure(bytes: &[u8], carrier: Carrier) -> Result<Extent, UnitError> {
        let mut reader = Reader::new(bytes);
        let (Some(_), Some(cm_type), Some(count)) = (reader.u8(), reader.u8(), reader.u16()) else {
            return Ok(Extent::AtLeast(HEADER_LEN));
        };
        if usize::from(count) > MAX_TLVS {
            return Err(UnitError::TooManyTlvs(count));
        }
        let limit = match carrier {
            // Only path MTU probes may be longer, and only where there is a path MTU to probe.
            Carrier::Datagram if CmType(cm_type) == CmType::KEEPALIVE => MAX_PROBE_KEEPALIVE,
            Carrier::Datagram | Carrier::Stream => MAX_CONTROL_MESSAGE,
        };
        let mut len = HEADER_LEN + usize::from(count) * TLV_HEADER_LEN;
        if reader.take(HEADER_LEN - 4).is_none() {
            return Ok(Extent::AtLeast(len));
        }
        for _ in 0..count {
            let (Some(_), Some(value)) = (reader.u16(), reader.u16()) else {
                return Ok(Extent::AtLeast(len));
            };
            len += usize::from(value);
            if len > limit {
                return Err(UnitError::MessageTooLong(len));
            }
            if reader.take(usize::from(value)).is_none() {
                return Ok(Extent::AtLeast(len));
            }
        }
        Ok(Extent::of(len, bytes.len()))
    }

    /// Views `bytes`, whose length [`measure`](Self::measure) gave.
    pub(crate) fn framed(bytes: &'a [u8]) -> Result<Self, UnitError> {
        let header = Header::decode(bytes).ok_or(UnitError::FirstByte(0))?;
        Ok(Self { bytes, header })
    }

    /// The header.
    #[must_use]
    pub const fn header(&self) -> Header {
        self.header
    }

    /// The whole message, header included.
    #[must_use]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The TLVs in wire order, not interpreted.
    pub fn raw_tlvs(&self) -> impl Iterator<Item = RawTlv<'a>> + use<'a> {
        let mut reader = Reader::new(self.bytes.get(HEADER_LEN..).unwrap_or_default());
        core::iter::from_fn(move || {
            let ty = TlvType(reader.u16()?);
            let len = reader.u16()?;
            let value = reader.take(usize::from(len))?;
            Some(RawTlv { ty, value })
        })
    }

    /// The first value of type `ty`, unchecked. For looks at a message that need not be valid, such as
    /// the cookie of a stranger's request (spec 8.2).
    #[must_use]
    pub fn raw_value(&self, ty: TlvType) -> Option<&'a [u8]> {
        self.raw_tlvs()
            .find(|tlv| tlv.ty == ty)
            .map(|tlv| tlv.value)
    }

    /// Interprets the message: types every value and checks the rules of its type (spec 3.2-3.6).
    ///
    /// Allocates one vector of at most 64 TLV views.
    ///
    /// # Errors
    ///
    /// The first rule broken; unknown message types first, then TLV by TLV in wire order, then the
    /// rules of the message as a whole.
    pub fn parse(&self) -> Result<Message<'a>, MessageError> {
        Message::parse(self)
    }
}

impl fmt::Debug for ControlMessage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ControlMessage({self})")
    }
}

/// Header and TLVs, also of a message that does not parse. Secrets are not shown.
impl fmt::Display for ControlMessage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.header.fmt(f)?;
        for (index, raw) in self.raw_tlvs().enumerate() {
            f.write_str(if index == 0 { ": " } else { ", " })?;
            match raw.decode() {
                Ok(tlv) => tlv.fmt(f)?,
                Err(error) => write!(f, "{}=<{} bytes: {error}>", raw.ty, raw.value.len())?,
            }
        }
        Ok(())
    }
}
