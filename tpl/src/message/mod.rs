//! Control messages that were parsed, and the builder for those to be sent.

mod builder;
mod rules;
mod view;

use core::fmt;

pub use self::builder::MessageBuilder;
pub use self::view::{AssignedAddress, Flow};
use crate::control::{ControlMessage, Header};
use crate::error::MessageError;
use crate::ids::{Sequence, Tsid};
use crate::registry::CmType;
use crate::tlv::Tlv;

/// A valid control message of a known type: every value is typed, every rule of section 3.6 holds.
///
/// Ignored TLVs (unknown ones and, see [`tlvs`](Self::tlvs), known ones without meaning here) are kept in
/// place, so that encoding the TLVs again gives the bytes that were received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    header: Header,
    tlvs: Vec<Tlv<'a>>,
}

impl<'a> Message<'a> {
    pub(crate) fn parse(control: &ControlMessage<'a>) -> Result<Self, MessageError> {
        let header = control.header();
        if !header.cm_type.is_known() {
            return Err(MessageError::UnsupportedMessage(header.cm_type));
        }
        // The count was held against the limit of 64 when the message was framed.
        let mut tlvs = Vec::with_capacity(usize::from(header.tlv_count));
        for raw in control.raw_tlvs() {
            tlvs.push(raw.decode()?);
        }
        rules::check(&header, &tlvs)?;
        Ok(Self { header, tlvs })
    }

    /// The header.
    #[must_use]
    pub const fn header(&self) -> Header {
        self.header
    }

    /// Its kind.
    #[must_use]
    pub const fn cm_type(&self) -> CmType {
        self.header.cm_type
    }

    /// The tunnel it is about.
    #[must_use]
    pub const fn tsid(&self) -> Tsid {
        self.header.tsid
    }

    /// Its transaction.
    #[must_use]
    pub const fn sequence(&self) -> Sequence {
        self.header.sequence
    }

    /// All TLVs in wire order. Known TLVs with the high bit set may be here without a meaning for this
    /// message (a Reason_Text in a Keepalive); everything else is listed for it in section 3.6.
    #[must_use]
    pub fn tlvs(&self) -> &[Tlv<'a>] {
        &self.tlvs
    }
}

/// One line: header and TLVs. Secrets are hidden, peer-chosen text is escaped.
impl fmt::Display for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.header.fmt(f)?;
        for (index, tlv) in self.tlvs.iter().enumerate() {
            write!(f, "{}{tlv}", if index == 0 { ": " } else { ", " })?;
        }
        Ok(())
    }
}
