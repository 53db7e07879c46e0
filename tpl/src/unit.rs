//! Units: what a tunnel carries (spec 2).

use core::fmt;

use crate::control::ControlMessage;
use crate::error::{DatagramError, UnitError};
use crate::ip::IpPacket;
use crate::limits::{Carrier, Extent, Limits};
use crate::redundancy::RedundancyFrame;
use crate::registry::FirstByte;
use crate::reserved::ReservedFrame;

/// One unit, borrowed from the bytes it was decoded from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit<'a> {
    /// A control message, framed but not interpreted.
    Control(ControlMessage<'a>),
    /// An inner IP packet.
    Ip(IpPacket<'a>),
    /// A redundancy frame.
    Redundancy(RedundancyFrame<'a>),
    /// A frame of a service that is not described yet. To be refused.
    Reserved(ReservedFrame<'a>),
}

impl<'a> Unit<'a> {
    /// Decodes a datagram: exactly one unit.
    ///
    /// Ours: a control message on a datagram transport is *sent* within 1200 bytes (spec 3.3), but
    /// accepted up to the general limit of 4096 bytes: what arrived whole did no harm. Only a Keepalive
    /// may be longer, up to a full Padding, since it probes the path.
    ///
    /// # Errors
    ///
    /// The datagram is to be dropped and counted.
    pub fn decode_datagram(datagram: &'a [u8], limits: &Limits) -> Result<Self, DatagramError> {
        let Some(&first) = datagram.first() else {
            return Err(DatagramError::Empty);
        };
        match Self::measure(first, datagram, limits, Carrier::Datagram)? {
            Extent::AtLeast(needed) => Err(DatagramError::Truncated {
                needed,
                len: datagram.len(),
            }),
            Extent::Complete(len) if len < datagram.len() => {
                Err(DatagramError::Trailing(datagram.len() - len))
            }
            Extent::Complete(_) => Ok(Self::framed(datagram)?),
        }
    }

    /// The unit as it stands on the wire.
    #[must_use]
    pub const fn as_bytes(&self) -> &'a [u8] {
        match self {
            Self::Control(message) => message.as_bytes(),
            Self::Ip(packet) => packet.as_bytes(),
            Self::Redundancy(frame) => frame.as_bytes(),
            Self::Reserved(frame) => frame.as_bytes(),
        }
    }

    /// How long the unit at the front of `bytes`, which begin with `first`, is.
    pub(crate) fn measure(
        first: u8,
        bytes: &[u8],
        limits: &Limits,
        carrier: Carrier,
    ) -> Result<Extent, UnitError> {
        match FirstByte::classify(first) {
            FirstByte::Ipv4 | FirstByte::Ipv6 => IpPacket::measure(bytes, limits),
            FirstByte::Control => ControlMessage::measure(bytes, carrier),
            FirstByte::Redundancy => RedundancyFrame::measure(bytes, limits, carrier),
            FirstByte::Reserved => ReservedFrame::measure(bytes, limits),
            FirstByte::Stun | FirstByte::Dtls | FirstByte::Invalid => {
                Err(UnitError::FirstByte(first))
            }
        }
    }

    /// Views `bytes`, whose length [`measure`](Self::measure) gave.
    pub(crate) fn framed(bytes: &'a [u8]) -> Result<Self, UnitError> {
        let first = bytes.first().copied().unwrap_or_default();
        match FirstByte::classify(first) {
            FirstByte::Ipv4 | FirstByte::Ipv6 => IpPacket::framed(bytes).map(Self::Ip),
            FirstByte::Control => ControlMessage::framed(bytes).map(Self::Control),
            FirstByte::Redundancy => RedundancyFrame::framed(bytes).map(Self::Redundancy),
            FirstByte::Reserved => ReservedFrame::framed(bytes).map(Self::Reserved),
            FirstByte::Stun | FirstByte::Dtls | FirstByte::Invalid => {
                Err(UnitError::FirstByte(first))
            }
        }
    }
}

/// One line for people. Neither secrets nor inner payloads are shown.
impl fmt::Display for Unit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Control(message) => message.fmt(f),
            Self::Ip(packet) => packet.fmt(f),
            Self::Redundancy(frame) => frame.fmt(f),
            Self::Reserved(frame) => frame.fmt(f),
        }
    }
}
