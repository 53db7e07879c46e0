//! Control messages without their secrets.

use tsc_tpl::{Limits, TlvType, Unit, registry};

/// Overwrites the values of secret and of unknown TLVs with zeros; false for what is no control message.
pub(crate) fn redact(message: &mut [u8]) -> bool {
    let Ok(Unit::Control(control)) = Unit::decode_datagram(message, &Limits::WIDEST) else {
        return false;
    };
    let mut place = registry::HEADER_LEN;
    let mut secrets = Vec::new();
    for tlv in control.raw_tlvs() {
        place += registry::TLV_HEADER_LEN;
        let end = place + tlv.value.len();
        if is_secret(tlv.ty) {
            secrets.push(place..end);
        }
        place = end;
    }
    for secret in secrets {
        if let Some(value) = message.get_mut(secret) {
            value.fill(0);
        }
    }
    true
}

fn is_secret(ty: TlvType) -> bool {
    let private = !ty.is_known() && ty != TlvType::RECEPTION_REPORT;
    private
        || matches!(
            ty,
            TlvType::TUNNEL_TAG
                | TlvType::RESUME_KEY
                | TlvType::COOKIE
                | TlvType::AUTH_TOKEN
                | TlvType::RESUME_PROOF
        )
}
