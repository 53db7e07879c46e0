//! The protection of records after the handshake: DTLS 1.2 with AEAD suites (RFC 6347 section 4.1, RFC 5288, RFC 7905).
//!
//! ```text
//! AES-GCM   header 13 | explicit nonce 8 | ciphertext | tag 16        nonce = from key block 4 | explicit 8
//! ChaCha20  header 13 | ciphertext | tag 16                           nonce = from key block 12 xor epoch and sequence
//! associated data:  epoch 2 | sequence 6 | type 1 | version 2 | length of the plaintext 2
//! ```
//!
//! It is the same for every library that makes handshakes, works in place, and allocates nothing.

use std::fmt;
use std::ops::Range;

use ring::aead::{Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::error::Unspecified;

use super::keys::{Suite, TrafficKey};
use super::record::RECORD_HEADER;
use super::{MAX_PLAINTEXT, RECORD_OVERHEAD};

/// The epoch of the first keys; there are no others without renegotiation.
const EPOCH: u64 = 1;
const VERSION: [u8; 2] = [0xFE, 0xFD];
const TAG: usize = 16;
/// Sequence numbers have 48 bits.
const LAST_SEQUENCE: u64 = (1 << 48) - 1;

/// One direction's key, and how its nonces are made.
struct Cipher {
    key: LessSafeKey,
    suite: Suite,
    nonce: [u8; NONCE_LEN],
}

impl Cipher {
    fn new(suite: Suite, key: &TrafficKey) -> Result<Self, Unspecified> {
        Ok(Self {
            key: LessSafeKey::new(UnboundKey::new(suite.algorithm(), &key.key)?),
            suite,
            nonce: *key.nonce,
        })
    }

    /// The nonce of a record. `explicit` is what travels in it, or epoch and sequence number where nothing does.
    fn nonce(&self, explicit: [u8; 8]) -> Nonce {
        let mut nonce = self.nonce;
        if let Some(tail) = nonce.last_chunk_mut::<8>() {
            match self.suite {
                Suite::Aes128Gcm | Suite::Aes256Gcm => *tail = explicit,
                Suite::Chacha20Poly1305 => {
                    for (byte, mask) in tail.iter_mut().zip(explicit) {
                        *byte ^= mask;
                    }
                }
            }
        }
        Nonce::assume_unique_for_key(nonce)
    }
}

fn associated(sequence: u64, content_type: u8, length: u16) -> Aad<[u8; 13]> {
    let [a, b, c, d, e, f, g, h] = (EPOCH << 48 | sequence).to_be_bytes();
    let [major, minor] = VERSION;
    let [high, low] = length.to_be_bytes();
    Aad::from([
        a,
        b,
        c,
        d,
        e,
        f,
        g,
        h,
        content_type,
        major,
        minor,
        high,
        low,
    ])
}

/// The records under the handshake's keys that the library has sent itself: where we go on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sealed {
    /// The first sequence number that is free.
    pub(super) next_sequence: u64,
    /// The first explicit nonce above those in use.
    pub(super) next_nonce: u64,
}

/// Protects what is sent.
pub(super) struct Sealer {
    cipher: Cipher,
    next_sequence: u64,
    /// Explicit nonce of the next record. Counted on from the library's, so that none is used twice under a key
    /// (RFC 5288 section 3 leaves their choice to the sender).
    next_nonce: u64,
}

/// All sequence numbers are used up.
#[derive(Debug)]
pub(super) struct Exhausted;

impl Sealer {
    pub(super) fn new(suite: Suite, key: &TrafficKey, sealed: Sealed) -> Result<Self, Unspecified> {
        Ok(Self {
            cipher: Cipher::new(suite, key)?,
            next_sequence: sealed.next_sequence,
            next_nonce: sealed.next_nonce,
        })
    }

    /// Appends one record with `plaintext`, at most [`MAX_PLAINTEXT`] bytes, to `out`; gives its length.
    pub(super) fn seal(
        &mut self,
        content_type: u8,
        plaintext: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<usize, Exhausted> {
        let sequence = self.next_sequence;
        if sequence > LAST_SEQUENCE || plaintext.len() > MAX_PLAINTEXT {
            return Err(Exhausted);
        }
        self.next_sequence += 1;
        let epoch_and_sequence = (EPOCH << 48 | sequence).to_be_bytes();
        let explicit_length = self.cipher.suite.explicit_nonce();
        let explicit = if explicit_length == 0 {
            epoch_and_sequence
        } else {
            let nonce = self.next_nonce;
            self.next_nonce = nonce.wrapping_add(1);
            nonce.to_be_bytes()
        };
        // No plaintext is longer than 2^14, so that all lengths fit.
        let length = |length: usize| u16::try_from(length).unwrap_or(u16::MAX);
        let start = out.len();
        out.reserve(RECORD_OVERHEAD + plaintext.len());
        out.push(content_type);
        out.extend_from_slice(&VERSION);
        out.extend_from_slice(&epoch_and_sequence);
        let fragment = explicit_length + plaintext.len() + TAG;
        out.extend_from_slice(&length(fragment).to_be_bytes());
        out.extend_from_slice(explicit.get(..explicit_length).unwrap_or_default());
        let body = out.len();
        out.extend_from_slice(plaintext);
        let sealed = self.cipher.key.seal_in_place_separate_tag(
            self.cipher.nonce(explicit),
            associated(sequence, content_type, length(plaintext.len())),
            out.get_mut(body..).unwrap_or_default(),
        );
        match sealed {
            Ok(tag) => {
                out.extend_from_slice(tag.as_ref());
                Ok(out.len() - start)
            }
            // Nothing in the clear may leave.
            Err(Unspecified) => {
                out.truncate(start);
                Err(Exhausted)
            }
        }
    }
}

/// Opens what is received; each record once.
pub(super) struct Opener {
    cipher: Cipher,
    window: Window,
}

impl Opener {
    pub(super) fn new(suite: Suite, key: &TrafficKey) -> Result<Self, Unspecified> {
        Ok(Self {
            cipher: Cipher::new(suite, key)?,
            window: Window::default(),
        })
    }

    /// Opens a whole record in place and tells where its plaintext is. `None`: it is a repetition, too old, or not
    /// the peer's; its bytes are then unspecified.
    pub(super) fn open(&mut self, record: &mut [u8]) -> Option<Range<usize>> {
        let (header, fragment) = record.split_first_chunk_mut::<RECORD_HEADER>()?;
        let &mut [content_type, _, _, e0, e1, s0, s1, s2, s3, s4, s5, l0, l1] = header;
        let epoch_and_sequence = u64::from_be_bytes([e0, e1, s0, s1, s2, s3, s4, s5]);
        let sequence = epoch_and_sequence & LAST_SEQUENCE;
        if epoch_and_sequence >> 48 != EPOCH
            || usize::from(u16::from_be_bytes([l0, l1])) != fragment.len()
            || self.window.has_seen(sequence)
        {
            return None;
        }
        let explicit_length = self.cipher.suite.explicit_nonce();
        let length = fragment.len().checked_sub(explicit_length + TAG)?;
        if length > MAX_PLAINTEXT {
            return None;
        }
        let (explicit, ciphertext) = fragment.split_at_mut_checked(explicit_length)?;
        let explicit = explicit
            .first_chunk()
            .copied()
            .unwrap_or_else(|| epoch_and_sequence.to_be_bytes());
        self.cipher
            .key
            .open_in_place(
                self.cipher.nonce(explicit),
                associated(sequence, content_type, u16::try_from(length).ok()?),
                ciphertext,
            )
            .ok()?;
        self.window.mark(sequence);
        let start = RECORD_HEADER + explicit_length;
        Some(start..start + length)
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer")
            .field("next_sequence", &self.next_sequence)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener").finish_non_exhaustive()
    }
}

/// Which of the newest sequence numbers were received, RFC 6347 section 4.1.2.6. 128 of them: twice the usual, since a
/// path of many queues reorders whole batches.
#[derive(Debug, Default)]
struct Window {
    /// One above the highest that was received.
    top: u64,
    /// Bit n: `top - 1 - n` was received.
    seen: u128,
}

impl Window {
    fn has_seen(&self, sequence: u64) -> bool {
        match self.top.checked_sub(sequence + 1) {
            // Above all.
            None => false,
            Some(age) => age >= 128 || self.seen >> age & 1 == 1,
        }
    }

    fn mark(&mut self, sequence: u64) {
        match self.top.checked_sub(sequence + 1) {
            None => {
                let ahead = sequence + 1 - self.top;
                self.seen = u32::try_from(ahead)
                    .ok()
                    .and_then(|ahead| self.seen.checked_shl(ahead))
                    .unwrap_or(0)
                    | 1;
                self.top = sequence + 1;
            }
            Some(age) => {
                if let Some(bit) = u32::try_from(age)
                    .ok()
                    .and_then(|age| 1_u128.checked_shl(age))
                {
                    self.seen |= bit;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zeroize::Zeroizing;

    use super::*;

    fn key(suite: Suite) -> TrafficKey {
        TrafficKey {
            key: Zeroizing::new(vec![7; suite.algorithm().key_len()]),
            nonce: Zeroizing::new([9; 12]),
        }
    }

    fn pair(suite: Suite) -> (Sealer, Opener) {
        let sealed = Sealed {
            next_sequence: 1,
            next_nonce: u64::MAX,
        };
        let sealer = Sealer::new(suite, &key(suite), sealed).unwrap();
        (sealer, Opener::new(suite, &key(suite)).unwrap())
    }

    const ALL: [Suite; 3] = [Suite::Aes128Gcm, Suite::Aes256Gcm, Suite::Chacha20Poly1305];

    #[test]
    fn what_is_sealed_opens_once() {
        for suite in ALL {
            let (mut sealer, mut opener) = pair(suite);
            for length in [0, 1, 200, MAX_PLAINTEXT] {
                let plaintext: Vec<u8> = (0..length)
                    .map(|i| u8::try_from(i % 251).unwrap())
                    .collect();
                let mut record = b"before".to_vec();
                let added = sealer.seal(23, &plaintext, &mut record).unwrap();
                let mut record = record.split_off(6);
                assert_eq!(record.len(), added);
                assert_eq!(added, 13 + suite.explicit_nonce() + length + 16);
                let mut again = record.clone();
                let range = opener.open(&mut record).unwrap();
                assert_eq!(record[range], plaintext);
                assert_eq!(opener.open(&mut again), None, "a repetition");
            }
        }
    }

    #[test]
    fn explicit_nonces_are_counted_and_wrap() {
        let (mut sealer, _) = pair(Suite::Aes128Gcm);
        let mut records = Vec::new();
        for _ in 0..2 {
            sealer.seal(23, b"", &mut records).unwrap();
        }
        assert_eq!(records[13..21], [0xFF; 8]);
        assert_eq!(records[37 + 13..37 + 21], [0; 8]);
    }

    #[test]
    fn sequence_numbers_end() {
        for suite in ALL {
            let (mut sealer, _) = pair(suite);
            sealer.next_sequence = LAST_SEQUENCE;
            let mut out = Vec::new();
            assert!(sealer.seal(23, b"last", &mut out).is_ok());
            let length = out.len();
            assert!(sealer.seal(23, b"beyond", &mut out).is_err());
            assert_eq!(out.len(), length);
        }
    }

    #[test]
    fn no_bit_may_change() {
        for suite in ALL {
            let (mut sealer, mut opener) = pair(suite);
            let mut record = Vec::new();
            sealer.seal(23, b"plaintext", &mut record).unwrap();
            for index in 0..record.len() * 8 {
                let mut changed = record.clone();
                changed[index / 8] ^= 1 << (index % 8);
                // The version is not looked at: readers of records check it.
                if (8..24).contains(&index) {
                    continue;
                }
                assert_eq!(opener.open(&mut changed), None, "{suite:?}, bit {index}");
            }
            for length in 0..record.len() {
                assert_eq!(opener.open(&mut record[..length].to_vec()), None);
            }
            assert!(
                opener.open(&mut record).is_some(),
                "none of it has done harm"
            );
        }
    }

    proptest! {
        /// Against the obvious: a set of all numbers, and the age of each.
        #[test]
        fn the_window_knows_what_it_has_seen(steps in prop::collection::vec((0..300_u64, any::<bool>()), 1..200)) {
            let mut window = Window::default();
            let mut seen = std::collections::BTreeSet::new();
            let mut base = 0;
            for (step, jumps) in steps {
                if jumps {
                    base += step;
                }
                let sequence = base + step;
                let newest = seen.last().copied();
                let too_old = newest.is_some_and(|newest| newest >= sequence + 128);
                prop_assert_eq!(window.has_seen(sequence), too_old || seen.contains(&sequence));
                if !window.has_seen(sequence) {
                    window.mark(sequence);
                    seen.insert(sequence);
                }
            }
        }
    }
}
