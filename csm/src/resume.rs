//! The proof by which a client takes its tunnel to a new transport (spec 5, "Resume").

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tsc_tpl::Tsid;
use tsc_tpl::registry::RESUME_LABEL;

use crate::secret::Key32;

/// HMAC-SHA-256(key, "tscf resume 1" | TSID | counter | cookie value or nothing).
pub(crate) fn proof(key: &Key32, tsid: Tsid, counter: u32, cookie: &[u8]) -> [u8; 32] {
    mac(key, tsid, counter, cookie)
        .finalize()
        .into_bytes()
        .into()
}

/// Whether `given` is the proof, in constant time.
pub(crate) fn verify(
    key: &Key32,
    tsid: Tsid,
    counter: u32,
    cookie: &[u8],
    given: &[u8; 32],
) -> bool {
    mac(key, tsid, counter, cookie).verify_slice(given).is_ok()
}

fn mac(key: &Key32, tsid: Tsid, counter: u32, cookie: &[u8]) -> Hmac<Sha256> {
    let mut mac = keyed(key);
    mac.update(RESUME_LABEL);
    mac.update(&tsid.0.to_be_bytes());
    mac.update(&counter.to_be_bytes());
    mac.update(cookie);
    mac
}

/// HMAC-SHA-256 with a 32-byte key.
pub(crate) fn keyed(key: &Key32) -> Hmac<Sha256> {
    // The block of SHA-256 is 64 bytes; a shorter key is padded with zeros (RFC 2104), so this cannot fail.
    let mut block = [0; 64];
    let (head, _) = block.split_at_mut(32);
    head.copy_from_slice(key.expose());
    let mac = Hmac::<Sha256>::new(&block.into());
    zeroize::Zeroize::zeroize(&mut block);
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_input_is_covered() {
        let key = Key32::new([7; 32]);
        let base = proof(&key, Tsid(1), 2, b"cookie");
        assert!(verify(&key, Tsid(1), 2, b"cookie", &base));
        assert!(!verify(&Key32::new([8; 32]), Tsid(1), 2, b"cookie", &base));
        assert!(!verify(&key, Tsid(2), 2, b"cookie", &base));
        assert!(!verify(&key, Tsid(1), 3, b"cookie", &base));
        assert!(!verify(&key, Tsid(1), 2, b"", &base));
    }

    #[test]
    fn hmac_matches_rfc_4231_case_1() {
        // RFC 4231 case 1 has a 20-byte key of 0x0b; zero padding to 32 bytes is the same HMAC key.
        let mut key = [0; 32];
        key[..20].fill(0x0b);
        let mut mac = keyed(&Key32::new(key));
        mac.update(b"Hi There");
        let tag: [u8; 32] = mac.finalize().into_bytes().into();
        assert_eq!(tag[..4], [0xb0, 0x34, 0x4c, 0x61]);
        assert_eq!(tag[28..], [0x2e, 0x32, 0xcf, 0xf7]);
    }
}
