//! One check that all encoders share.

use bytes::BufMut;

use crate::error::EncodeError;

/// Fails before anything is written if `needed` bytes do not fit; `BufMut` would panic half-way.
pub(crate) fn check(needed: usize, out: &impl BufMut) -> Result<(), EncodeError> {
    let room = out.remaining_mut();
    if needed > room {
        Err(EncodeError::NoRoom { needed, room })
    } else {
        Ok(())
    }
}
