//! Making control messages.

use bytes::BufMut;

use super::rules;
use crate::control::Header;
use crate::error::{EncodeError, MessageError, UnitError};
use crate::ids::{Sequence, Tsid};
use crate::registry::{
    CmType, FIRST_CONTROL, HEADER_LEN, MAX_CONTROL_MESSAGE, MAX_DATAGRAM_MESSAGE,
    MAX_PROBE_KEEPALIVE, MAX_TLVS, ResponseCode, TLV_HEADER_LEN,
};
use crate::room;
use crate::tlv::{Padding, Tlv};

/// Builds a control message. What it encodes, [`ControlMessage::parse`](crate::ControlMessage::parse)
/// accepts, with one exception: the answer to an unknown request
/// ([`refuse`](Self::refuse)) has a type that only the asker knows. Every decoder frames it.
///
/// ```
/// use tsc_tpl::{CmType, MessageBuilder, Sequence, Tlv, Tsid, registry};
///
/// let mut bytes = Vec::new();
/// MessageBuilder::new(CmType::CONFIGURATION_REQUEST, Tsid::UNASSIGNED, Sequence(7))
///     .tlv(Tlv::ProtocolRevision(registry::PROTOCOL_REVISION))
///     .pad_to(registry::MIN_UNAUTHENTICATED_REQUEST)
///     .encode_datagram(&mut bytes)?;
/// assert_eq!(bytes.len(), 128);
/// # Ok::<(), tsc_tpl::EncodeError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageBuilder<'a> {
    cm_type: CmType,
    tsid: Tsid,
    sequence: Sequence,
    tlvs: Vec<Tlv<'a>>,
}

impl<'a> MessageBuilder<'a> {
    /// A message without TLVs.
    #[must_use]
    pub const fn new(cm_type: CmType, tsid: Tsid, sequence: Sequence) -> Self {
        Self {
            cm_type,
            tsid,
            sequence,
            tlvs: Vec::new(),
        }
    }

    /// The response to `request` with `code`: next type, the request's sequence and TSID, the code as its
    /// first TLV. `None` if a message of that type is not answered.
    ///
    /// A granted configuration still needs its TSID: [`tsid`](Self::tsid).
    #[must_use]
    pub fn response(request: &Header, code: ResponseCode) -> Option<Self> {
        let cm_type = request.cm_type.response()?;
        // Whatever a stranger's Configuration_Request carried, a refusal of it carries all ones (spec 3.1).
        let tsid = if cm_type == CmType::CONFIGURATION_RESPONSE {
            Tsid::UNASSIGNED
        } else {
            request.tsid
        };
        Some(Self::new(cm_type, tsid, request.sequence).tlv(Tlv::ResponseCode(code)))
    }

    /// The answer to a request that framed but did not parse: `malformed`, `unsupported_tlv` with
    /// Offending_Type, or `unsupported_message` (spec 2, 3.2, 3.3). `None` if it is not to be answered.
    #[must_use]
    pub fn refuse(request: &Header, error: &MessageError) -> Option<Self> {
        let response = Self::response(request, error.response_code())?;
        Some(match error.offending_type() {
            Some(ty) => response.tlv(Tlv::OffendingType(ty)),
            None => response,
        })
    }

    /// Adds a TLV at the end.
    #[must_use]
    pub fn tlv(mut self, tlv: Tlv<'a>) -> Self {
        self.tlvs.push(tlv);
        self
    }

    /// Adds TLVs at the end.
    #[must_use]
    pub fn tlvs(mut self, tlvs: impl IntoIterator<Item = Tlv<'a>>) -> Self {
        self.tlvs.extend(tlvs);
        self
    }

    /// Sets the header's TSID.
    #[must_use]
    pub const fn tsid(mut self, tsid: Tsid) -> Self {
        self.tsid = tsid;
        self
    }

    /// Adds Padding so that the message is at least `len` bytes long: exactly that if it is now shorter
    /// by the 4 bytes of the TLV's header or more. No Padding if it is long enough; never more than one
    /// Padding holds.
    #[must_use]
    pub fn pad_to(self, len: usize) -> Self {
        let now = self.encoded_len();
        if now >= len {
            return self;
        }
        let zeros = len.saturating_sub(now + TLV_HEADER_LEN);
        self.tlv(Tlv::Padding(Padding::saturating(zeros)))
    }

    /// The header as it will be written. More TLVs than its field can count show as its largest value.
    #[must_use]
    pub fn header(&self) -> Header {
        let tlv_count = u16::try_from(self.tlvs.len()).unwrap_or(u16::MAX);
        Header {
            cm_type: self.cm_type,
            tlv_count,
            tsid: self.tsid,
            sequence: self.sequence,
        }
    }

    /// The TLVs so far.
    #[must_use]
    pub fn tlv_list(&self) -> &[Tlv<'a>] {
        &self.tlvs
    }

    /// Length of the message in bytes.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        HEADER_LEN + self.tlvs.iter().map(Tlv::encoded_len).sum::<usize>()
    }

    /// Appends the message, as any transport may carry it: at most 4096 bytes.
    ///
    /// # Errors
    ///
    /// A rule of sections 2 or 3 is broken, or the buffer has no room; nothing was written.
    pub fn encode(&self, out: &mut impl BufMut) -> Result<(), EncodeError> {
        let len = self.check()?;
        if len > MAX_CONTROL_MESSAGE {
            return Err(UnitError::MessageTooLong(len).into());
        }
        self.write(len, out)
    }

    /// Appends the message for a datagram transport: at most 1200 bytes, and a Keepalive with Padding (a
    /// path MTU probe) as long as its Padding may be (spec 3.3).
    ///
    /// # Errors
    ///
    /// As [`encode`](Self::encode), and [`EncodeError::DatagramTooLong`].
    pub fn encode_datagram(&self, out: &mut impl BufMut) -> Result<(), EncodeError> {
        let len = self.check()?;
        let limit = if self.cm_type == CmType::KEEPALIVE {
            MAX_PROBE_KEEPALIVE
        } else {
            MAX_DATAGRAM_MESSAGE
        };
        if len > limit {
            return Err(EncodeError::DatagramTooLong(len));
        }
        self.write(len, out)
    }

    /// Checks everything but the length, which it returns.
    fn check(&self) -> Result<usize, EncodeError> {
        let tlv_count = self.tlv_count()?;
        let header = Header {
            cm_type: self.cm_type,
            tlv_count,
            tsid: self.tsid,
            sequence: self.sequence,
        };
        match rules::check(&header, &self.tlvs) {
            // The one message of an unknown type that has a meaning: the answer to an unknown request.
            Err(MessageError::UnsupportedMessage(_)) if self.answers_unknown() => {}
            other => other?,
        }
        Ok(self.encoded_len())
    }

    fn tlv_count(&self) -> Result<u16, UnitError> {
        let count = self.header().tlv_count;
        if self.tlvs.len() <= MAX_TLVS {
            Ok(count)
        } else {
            Err(UnitError::TooManyTlvs(count))
        }
    }

    fn answers_unknown(&self) -> bool {
        let request = CmType(self.cm_type.0.wrapping_sub(1));
        request.response() == Some(self.cm_type)
            && self.tlvs.first() == Some(&Tlv::ResponseCode(ResponseCode::UNSUPPORTED_MESSAGE))
            && self.tlvs.len() == 1
    }

    fn write(&self, len: usize, out: &mut impl BufMut) -> Result<(), EncodeError> {
        room::check(len, out)?;
        out.put_slice(&[FIRST_CONTROL, self.cm_type.0]);
        out.put_u16(self.tlv_count()?);
        out.put_u64(self.tsid.0);
        out.put_u32(self.sequence.0);
        self.tlvs.iter().try_for_each(|tlv| tlv.encode(out))
    }
}
