//! The receiver's end: each sequence once, and what became of the others.

use tsc_tpl::registry::REDUNDANCY_WINDOW;
use tsc_tpl::{ReceptionReport, Sequence};

/// How far behind the newest a sequence that has not come counts as lost. Later than this little is reordered, and at 50 packets
/// a second it is known within a third of a second.
const SETTLED_BEHIND: u32 = 16;

/// Frames that are far ahead and rise, in a row, after which their sender is believed.
const JUMP_AFTER: u8 = 3;

/// Frames that are too old and rise, in a row, after which their sender is believed to have begun anew.
const RESTART_AFTER: u8 = 16;

/// How far a frame may be ahead of the one that it is to confirm.
const NEAR: u32 = 16;

/// 1024 bits.
const WORDS: usize = 16;

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It comes for the first time, and as it was sent first.
    Original,
    /// It comes for the first time, as a copy: the original is lost, or late.
    Recovered,
    /// It has come before.
    Duplicate,
    /// So old that it is not known whether it has come before.
    Outdated,
}

impl Arrival {
    pub(crate) const fn is_new(self) -> bool {
        matches!(self, Self::Original | Self::Recovered)
    }
}

/// The window of one group and direction.
///
/// On plain UDP anybody who can forge the client's address can forge a frame. One that is far ahead must not make all that follows old, so
/// it is believed only when another confirms it; and a sender that was reset behind our back is believed after a while. On streams old
/// frames are what one of them has held up for long, however many they are.
#[derive(Debug)]
pub(crate) struct Window {
    newest: Sequence,
    came: [u64; WORDS],
    original: [u64; WORDS],
    /// The next sequence to be judged.
    unsettled: Sequence,
    /// The last one judged was lost as original.
    in_run: bool,
    reception: ReceptionReport,
    /// The newest of the last frame that was too far ahead, and how many of them have risen in a row.
    ahead: Option<(Sequence, u8)>,
    /// The newest of the last frame that was too old, and how many of them have risen in a row.
    behind: Option<(Sequence, u8)>,
    /// Of a group of streams.
    is_stream: bool,
}

impl Default for Window {
    /// For a group that begins: its first sequence is 1 (spec 6).
    fn default() -> Self {
        Self::after(Sequence(0), false)
    }
}

impl Window {
    /// The same for a group of streams.
    pub(crate) const fn of_streams() -> Self {
        Self::after(Sequence(0), true)
    }

    const fn after(newest: Sequence, is_stream: bool) -> Self {
        Self {
            newest,
            came: [0; WORDS],
            original: [0; WORDS],
            unsettled: newest.next(),
            in_run: false,
            reception: ReceptionReport {
                expected: 0,
                originals: 0,
                delivered: 0,
                runs: 0,
            },
            ahead: None,
            behind: None,
            is_stream,
        }
    }

    /// What is known so far.
    pub(crate) const fn reception(&self) -> ReceptionReport {
        self.reception
    }

    /// Whether a frame with this newest sequence is to be looked at.
    pub(crate) fn believes(&mut self, newest: Sequence) -> bool {
        let ahead = newest.0.wrapping_sub(self.newest.0);
        if newest.is_newer_than(self.newest) {
            if ahead <= REDUNDANCY_WINDOW {
                self.ahead = None;
                self.behind = None;
                return true;
            }
            let risen = match self.ahead {
                Some((last, risen)) if follows(last, newest) => risen + 1,
                _ => 1,
            };
            self.ahead = Some((newest, risen));
            if risen >= JUMP_AFTER {
                self.restart(newest);
            }
            return risen >= JUMP_AFTER;
        }
        if self.newest.0.wrapping_sub(newest.0) < REDUNDANCY_WINDOW {
            self.ahead = None;
            self.behind = None;
            return true;
        }
        let risen = match self.behind {
            Some((last, risen)) if follows(last, newest) => risen.saturating_add(1),
            _ => 1,
        };
        self.behind = Some((newest, risen));
        if risen >= RESTART_AFTER && !self.is_stream {
            self.restart(newest);
            return true;
        }
        false
    }

    /// Begins anew just before this sequence; the counters go on.
    fn restart(&mut self, newest: Sequence) {
        let reception = self.reception;
        *self = Self {
            reception,
            ..Self::after(Sequence(newest.0.wrapping_sub(1)), self.is_stream)
        };
    }

    /// Takes one packet of a frame that is believed. Its older ones are older than its newest by as much as its sender likes, and
    /// on the number circle that can be newer than ours.
    pub(crate) fn take(&mut self, sequence: Sequence, is_original: bool) -> Arrival {
        if sequence.is_newer_than(self.newest) {
            if sequence.0.wrapping_sub(self.newest.0) > REDUNDANCY_WINDOW {
                return Arrival::Outdated;
            }
            self.advance(sequence);
        } else if self.newest.0.wrapping_sub(sequence.0) >= REDUNDANCY_WINDOW {
            return Arrival::Outdated;
        }
        if is_original {
            set(&mut self.original, sequence);
        }
        match (set(&mut self.came, sequence), is_original) {
            (true, _) => Arrival::Duplicate,
            (false, true) => Arrival::Original,
            (false, false) => Arrival::Recovered,
        }
    }

    /// Makes room up to this sequence, at most a window ahead, and judges what is old enough by then.
    fn advance(&mut self, to: Sequence) {
        while self.newest != to {
            self.newest = self.newest.next();
            // Judged before its place is needed: a window is longer than that takes.
            let old = Sequence(self.newest.0.wrapping_sub(SETTLED_BEHIND));
            if old == self.unsettled {
                self.settle(old);
            }
            clear(&mut self.came, self.newest);
            clear(&mut self.original, self.newest);
        }
    }

    fn settle(&mut self, sequence: Sequence) {
        let Self {
            reception, in_run, ..
        } = self;
        reception.expected = reception.expected.wrapping_add(1);
        if has(&self.came, sequence) {
            reception.delivered = reception.delivered.wrapping_add(1);
        }
        if has(&self.original, sequence) {
            reception.originals = reception.originals.wrapping_add(1);
            *in_run = false;
        } else if !std::mem::replace(in_run, true) {
            reception.runs = reception.runs.wrapping_add(1);
        }
        self.unsettled = sequence.next();
    }
}

/// Whether a frame with this newest sequence may be the next after `last`, or one of the next.
const fn follows(last: Sequence, newest: Sequence) -> bool {
    newest.is_newer_than(last) && newest.0.wrapping_sub(last.0) <= NEAR
}

const fn place(sequence: Sequence) -> (usize, u64) {
    let bit = sequence.0 % REDUNDANCY_WINDOW;
    ((bit / 64) as usize, 1 << (bit % 64))
}

fn has(bits: &[u64; WORDS], sequence: Sequence) -> bool {
    let (word, bit) = place(sequence);
    bits.get(word).is_some_and(|word| word & bit != 0)
}

/// Whether it was set before.
fn set(bits: &mut [u64; WORDS], sequence: Sequence) -> bool {
    let (word, bit) = place(sequence);
    bits.get_mut(word).is_some_and(|word| {
        let before = *word & bit != 0;
        *word |= bit;
        before
    })
}

fn clear(bits: &mut [u64; WORDS], sequence: Sequence) {
    let (word, bit) = place(sequence);
    if let Some(word) = bits.get_mut(word) {
        *word &= !bit;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn frame(window: &mut Window, newest: u32, copies: u32) -> Option<Vec<Arrival>> {
        window.believes(Sequence(newest)).then(|| {
            (0..=copies)
                .rev()
                .map(|back| window.take(Sequence(newest.wrapping_sub(back)), back == 0))
                .collect()
        })
    }

    #[test]
    fn a_lost_packet_comes_back_with_the_next_frame_and_once_only() {
        use Arrival::{Duplicate, Original, Recovered};
        let mut window = Window::default();
        assert_eq!(frame(&mut window, 1, 0), Some(vec![Original]));
        assert_eq!(frame(&mut window, 3, 1), Some(vec![Recovered, Original]));
        assert_eq!(
            frame(&mut window, 4, 2),
            Some(vec![Duplicate, Duplicate, Original])
        );
        // The original that was overtaken.
        assert_eq!(frame(&mut window, 2, 1), Some(vec![Duplicate, Duplicate]));
    }

    #[test]
    fn losses_are_counted_by_their_runs() {
        let mut window = Window::default();
        let lost = [10, 20, 21, 22, 30];
        for sequence in 1..=100 {
            if !lost.contains(&sequence) {
                frame(&mut window, sequence, u32::from(sequence > 1));
            }
        }
        let expected = ReceptionReport {
            expected: 84,
            originals: 79,
            // Only the last of a run is in the next frame.
            delivered: 82,
            runs: 3,
        };
        assert_eq!(window.reception(), expected);
    }

    #[test]
    fn what_was_only_late_is_not_lost() {
        let mut window = Window::default();
        for sequence in (1..=100).filter(|sequence| *sequence != 50) {
            frame(&mut window, sequence, u32::from(sequence > 1));
            if sequence == 60 {
                frame(&mut window, 50, 1);
            }
        }
        let reception = window.reception();
        assert_eq!((reception.expected, reception.originals), (84, 84));
        assert_eq!((reception.delivered, reception.runs), (84, 0));
    }

    #[test]
    fn what_a_stream_has_held_up_for_long_is_no_sender_that_begins_anew() {
        let mut window = Window::of_streams();
        for sequence in 1..=3000 {
            assert_eq!(
                frame(&mut window, sequence, 0),
                Some(vec![Arrival::Original])
            );
        }
        // All of it at once, and what goes on beside it.
        for sequence in 500..1500 {
            assert_eq!(frame(&mut window, sequence, 0), None);
        }
        assert_eq!(frame(&mut window, 3000, 0), Some(vec![Arrival::Duplicate]));
        assert_eq!(frame(&mut window, 3001, 0), Some(vec![Arrival::Original]));
    }

    #[test]
    fn one_forged_frame_does_not_make_the_rest_old() {
        let mut window = Window::default();
        for sequence in 1..=10 {
            frame(&mut window, sequence, 0);
        }
        assert_eq!(frame(&mut window, 1_000_000, 0), None);
        assert_eq!(frame(&mut window, 11, 0), Some(vec![Arrival::Original]));
        // Nor do more, if what is in earnest comes between.
        assert_eq!(frame(&mut window, 1_000_001, 0), None);
        assert_eq!(frame(&mut window, 1_000_002, 0), None);
        assert_eq!(frame(&mut window, 11, 0), Some(vec![Arrival::Duplicate]));
        assert_eq!(frame(&mut window, 1_000_003, 0), None);
    }

    /// In a frame they need only fall within half of the number circle.
    #[test]
    fn an_old_packet_of_a_frame_is_not_taken_for_a_new_one() {
        let mut window = Window::default();
        for sequence in 1..=100 {
            frame(&mut window, sequence, 0);
        }
        assert!(window.believes(Sequence(98)));
        let far = Sequence(98_u32.wrapping_sub(0x7FFF_FFFF));
        assert_eq!(window.take(far, false), Arrival::Outdated);
        assert_eq!(frame(&mut window, 101, 0), Some(vec![Arrival::Original]));
    }

    #[test]
    fn a_sender_that_is_far_ahead_or_began_anew_is_believed_in_the_end() {
        let mut window = Window::default();
        frame(&mut window, 1, 0);
        assert_eq!(frame(&mut window, 5_000, 0), None);
        assert_eq!(frame(&mut window, 5_001, 0), None);
        assert_eq!(frame(&mut window, 5_002, 0), Some(vec![Arrival::Original]));
        let believed = (1..40).position(|sequence| frame(&mut window, sequence, 0).is_some());
        assert_eq!(believed, Some(usize::from(RESTART_AFTER) - 1));
        assert_eq!(frame(&mut window, 17, 0), Some(vec![Arrival::Original]));
    }

    #[test]
    fn the_number_circle_has_no_seam() {
        let mut window = Window::after(Sequence(u32::MAX - 50), false);
        for sequence in (0..200).map(|step| (u32::MAX - 49).wrapping_add(step)) {
            assert_eq!(
                frame(&mut window, sequence, 0),
                Some(vec![Arrival::Original])
            );
        }
        let reception = window.reception();
        assert_eq!((reception.expected, reception.delivered), (184, 184));
    }

    proptest! {
        /// Whatever comes in whatever order within a window is passed on exactly once.
        #[test]
        fn each_sequence_is_new_once(start: u32, steps in prop::collection::vec((0_u32..600, 0_u32..9), 1..300)) {
            let mut window = Window::after(Sequence(start), false);
            let mut seen = HashSet::new();
            for (step, copies) in steps {
                let newest = start.wrapping_add(1 + step);
                prop_assert!(window.believes(Sequence(newest)));
                for back in (0..=copies.min(step)).rev() {
                    let sequence = newest.wrapping_sub(back);
                    let arrival = window.take(Sequence(sequence), back == 0);
                    prop_assert_eq!(arrival.is_new(), seen.insert(sequence));
                }
            }
        }

        /// Nothing that anybody sends breaks the counters.
        #[test]
        fn counters_stay_in_order(
            frames in prop::collection::vec((0_u32..5_000, 0_u32..9, any::<u32>()), 1..200),
        ) {
            let mut window = Window::default();
            for (newest, copies, old) in frames {
                if frame(&mut window, newest, copies).is_some() {
                    window.take(Sequence(old), false);
                }
                let ReceptionReport { expected, originals, delivered, runs } = window.reception();
                prop_assert!(originals <= delivered && delivered <= expected);
                prop_assert!(runs <= expected - originals);
            }
        }
    }
}
