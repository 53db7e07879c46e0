//! Identifications of datagrams that may be fragmented.

use crate::ip::Pair;
use crate::random::Prf;

/// Counters; destinations share them, so that memory does not grow with the number of destinations.
const COUNTERS: usize = 64;

/// RFC 7739, section 5.3: a secret offset for each pair of addresses plus a counter shared by few
/// pairs. Values of one pair do not repeat before the counter wraps, and say nothing about those of
/// other pairs.
#[derive(Debug)]
pub(crate) struct Identification {
    prf: Prf,
    counters: [u32; COUNTERS],
}

impl Identification {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            prf: Prf::new(seed, 2),
            counters: [0; COUNTERS],
        }
    }

    /// The next identification for a datagram between `pair`. IPv4 uses the lower 16 bits.
    pub(crate) fn next(&mut self, pair: &Pair) -> u32 {
        let [a, b, c, d, .., bucket] = self.prf.of_pair(pair).to_le_bytes();
        let offset = u32::from_le_bytes([a, b, c, d]);
        let Some(counter) = self.counters.get_mut(usize::from(bucket) % COUNTERS) else {
            return offset;
        };
        *counter = counter.wrapping_add(1);
        offset.wrapping_add(*counter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::net::Ipv4Addr;

    #[test]
    fn a_pair_repeats_no_16_bit_value_before_all_were_used() {
        let mut identification = Identification::new(7);
        let pair = Pair::V4 {
            source: Ipv4Addr::new(10, 0, 0, 1),
            destination: Ipv4Addr::new(10, 0, 0, 2),
        };
        let seen: BTreeSet<u32> = (0..65_536)
            .map(|_| identification.next(&pair) & 0xffff)
            .collect();
        assert_eq!(seen.len(), 65_536);
    }

    #[test]
    fn seeds_and_pairs_start_at_different_values() {
        let first = |seed, last| {
            Identification::new(seed).next(&Pair::V4 {
                source: Ipv4Addr::new(10, 0, 0, 1),
                destination: Ipv4Addr::new(10, 0, 0, last),
            })
        };
        assert_ne!(first(1, 2), first(2, 2));
        assert_ne!(first(1, 2), first(1, 3));
        assert_eq!(first(1, 2), first(1, 2));
    }
}
