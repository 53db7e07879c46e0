//! Which packets of a flow have come: duplicates and reordering. Loss is counted by windows, as sent less received.

/// Packets behind the newest of which it is known whether they came.
const SPAN: u32 = 1024;

/// What a packet is to those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Newer than all before.
    InOrder,
    /// First of its number, after a newer one.
    Reordered,
    /// Its number has come before.
    Duplicate,
    /// So old that it is not known.
    TooOld,
}

/// The numbers of one flow that have come; 136 bytes.
#[derive(Clone, Debug)]
pub struct Sequences {
    newest: Option<u32>,
    seen: [u64; (SPAN / 64) as usize],
}

impl Default for Sequences {
    fn default() -> Self {
        Self {
            newest: None,
            seen: [0; (SPAN / 64) as usize],
        }
    }
}

impl Sequences {
    /// Notes an arrival. Numbers go around (RFC 1982).
    pub fn note(&mut self, sequence: u32) -> Arrival {
        let Some(newest) = self.newest else {
            self.newest = Some(sequence);
            self.mark(sequence);
            return Arrival::InOrder;
        };
        let ahead = sequence.wrapping_sub(newest);
        if ahead != 0 && ahead < 1 << 31 {
            // What is between has not come yet.
            if ahead >= SPAN {
                self.seen = [0; (SPAN / 64) as usize];
            } else {
                for skipped in 1..=ahead {
                    self.clear(newest.wrapping_add(skipped));
                }
            }
            self.newest = Some(sequence);
            self.mark(sequence);
            return Arrival::InOrder;
        }
        if newest.wrapping_sub(sequence) >= SPAN {
            return Arrival::TooOld;
        }
        if self.is_marked(sequence) {
            return Arrival::Duplicate;
        }
        self.mark(sequence);
        Arrival::Reordered
    }

    fn word(&mut self, sequence: u32) -> Option<(&mut u64, u64)> {
        let place = sequence % SPAN;
        let word = self.seen.get_mut((place / 64) as usize)?;
        Some((word, 1 << (place % 64)))
    }

    fn mark(&mut self, sequence: u32) {
        if let Some((word, bit)) = self.word(sequence) {
            *word |= bit;
        }
    }

    fn clear(&mut self, sequence: u32) {
        if let Some((word, bit)) = self.word(sequence) {
            *word &= !bit;
        }
    }

    fn is_marked(&mut self, sequence: u32) -> bool {
        self.word(sequence)
            .is_some_and(|(word, bit)| *word & bit != 0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn run(numbers: &[u32]) -> Vec<Arrival> {
        let mut sequences = Sequences::default();
        numbers
            .iter()
            .map(|number| sequences.note(*number))
            .collect()
    }

    #[test]
    fn order_gaps_and_repeats() {
        use Arrival::{Duplicate, InOrder, Reordered};
        assert_eq!(
            run(&[0, 1, 4, 2, 2, 4, 3, 5]),
            [
                InOrder, InOrder, InOrder, Reordered, Duplicate, Duplicate, Reordered, InOrder
            ]
        );
    }

    #[test]
    fn numbers_go_around() {
        use Arrival::{Duplicate, InOrder, Reordered};
        assert_eq!(
            run(&[u32::MAX - 1, 1, u32::MAX, 0, u32::MAX]),
            [InOrder, InOrder, Reordered, Reordered, Duplicate]
        );
    }

    #[test]
    fn old_ones_are_not_guessed_at() {
        assert_eq!(run(&[0, 5000, 100]).pop(), Some(Arrival::TooOld));
        assert_eq!(run(&[0, 1024, 1]).pop(), Some(Arrival::Reordered));
        assert_eq!(run(&[0, 1025, 1]).pop(), Some(Arrival::TooOld));
    }

    proptest! {
        /// Against the obvious way: a set of all that came.
        #[test]
        fn as_a_set_would_say(numbers in proptest::collection::vec(0u32..1000, 0..400)) {
            let mut sequences = Sequences::default();
            let mut set = HashSet::new();
            for number in numbers {
                let is_new = set.insert(number);
                let arrival = sequences.note(number);
                prop_assert_eq!(arrival == Arrival::Duplicate, !is_new);
            }
        }
    }
}
