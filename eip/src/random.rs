//! Unpredictable numbers from one seed.

use siphasher::sip::SipHasher24;

use crate::ip::Pair;

/// A keyed pseudo-random function. Ports (RFC 6056) and fragment identifications (RFC 7739) must
/// not be guessable from outside, which a statistical generator would not give; and one seed must
/// replay a run.
#[derive(Debug)]
pub(crate) struct Prf {
    hasher: Keyed,
    counter: u64,
}

struct Keyed(SipHasher24);

impl std::fmt::Debug for Keyed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}

impl Prf {
    /// `domain` keeps the outputs of two functions with one seed apart.
    pub(crate) fn new(seed: u64, domain: u64) -> Self {
        Self {
            hasher: Keyed(SipHasher24::new_with_keys(seed, domain)),
            counter: 0,
        }
    }

    /// The next number of the sequence.
    pub(crate) fn next(&mut self) -> u64 {
        self.counter = self.counter.wrapping_add(1);
        self.hasher.0.hash(&self.counter.to_le_bytes())
    }

    /// A fixed number for each pair of addresses.
    pub(crate) fn of_pair(&self, pair: &Pair) -> u64 {
        match pair {
            Pair::V4 {
                source,
                destination,
            } => {
                let joined = (u64::from(source.to_bits()) << 32) | u64::from(destination.to_bits());
                self.hasher.0.hash(&joined.to_be_bytes())
            }
            Pair::V6 {
                source,
                destination,
            } => {
                let mut joined = [0; 32];
                let (left, right) = joined.split_at_mut(16);
                left.copy_from_slice(&source.octets());
                right.copy_from_slice(&destination.octets());
                self.hasher.0.hash(&joined)
            }
        }
    }
}
