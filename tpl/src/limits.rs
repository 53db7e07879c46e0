//! What a decoder is told about its tunnel.

use crate::error::UnitError;
use crate::registry::{DEFAULT_INNER_MTU, MAX_INNER_MTU};

/// Limits of one tunnel that the wire format itself does not fix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest inner packet in bytes: `Inner_MTU` of the tunnel (spec 7). Also bounds the payload of
    /// reserved frames, so that it bounds what a stream decoder ever holds (besides a control message).
    pub inner_mtu: u16,
}

impl Limits {
    /// The widest limits the protocol allows: what a client uses until it is told its inner MTU.
    pub const WIDEST: Self = Self {
        inner_mtu: MAX_INNER_MTU,
    };

    /// Limits for a tunnel with this inner MTU in bytes.
    #[must_use]
    pub const fn new(inner_mtu: u16) -> Self {
        Self { inner_mtu }
    }

    /// Holds the length of an inner packet against the inner MTU.
    pub(crate) fn check(&self, len: usize) -> Result<(), UnitError> {
        let mtu = self.inner_mtu;
        if len > usize::from(mtu) {
            Err(UnitError::InnerMtu { len, mtu })
        } else {
            Ok(())
        }
    }
}

/// The default inner MTU, 1400 bytes.
impl Default for Limits {
    fn default() -> Self {
        Self::new(DEFAULT_INNER_MTU)
    }
}

/// What carries the units: some rules of section 2 and 6 differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carrier {
    /// TCP or TLS.
    Stream,
    /// UDP or DTLS.
    Datagram,
}

/// How much of a unit is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// All of it: its length.
    Complete(usize),
    /// Not all: it is at least this long, which is more than there is.
    AtLeast(usize),
}

impl Extent {
    /// A unit of `len` bytes of which `have` are there.
    pub(crate) const fn of(len: usize, have: usize) -> Self {
        if have >= len {
            Self::Complete(len)
        } else {
            Self::AtLeast(len)
        }
    }
}
