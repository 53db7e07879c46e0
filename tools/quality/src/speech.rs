//! What is said: ten seconds in a loop, two voices with pauses.
//!
//! They are the two samples of the SIP programs one after the other (`apps/tsc_sip/assets`): sentences by espeak-ng, made by a
//! script that is committed with them. Output of espeak-ng is not a work derived from it, so they have the licence of
//! this project. P.862 asks for eight to twelve seconds, with pauses, of more than one talker.

use std::path::Path;

use tsc_sip::media::{Audio, SAMPLE_RATE, WavError};

/// Seconds of one round.
pub const SECONDS: u32 = 10;

/// One round.
#[must_use]
pub fn round() -> Audio {
    let mut samples = Audio::speech().samples().to_vec();
    samples.extend_from_slice(Audio::reply().samples());
    Audio::from_samples(samples)
}

/// Writes one round.
///
/// # Errors
///
/// What the file system says.
pub fn write(path: &Path) -> Result<(), WavError> {
    round().save(path)
}

/// Which rounds of a recording of so many samples are judged: whole ones, spread evenly, not the first, in which the call
/// is set up and the network not yet bad.
#[must_use]
pub fn rounds(samples: u64, most: u64) -> Vec<u64> {
    let whole = samples / u64::from(SECONDS * SAMPLE_RATE);
    let there = whole.saturating_sub(1);
    let wanted = there.min(most);
    (0..wanted).map(|n| 1 + n * there / wanted).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_has_the_length_that_is_counted_with() {
        assert_eq!(
            round().samples().len(),
            usize::try_from(SECONDS * SAMPLE_RATE).unwrap()
        );
    }

    #[test]
    fn rounds_are_whole_and_spread_and_not_the_first() {
        let of = |seconds: u64| rounds(seconds * 8000, 4);
        assert_eq!(of(120), [1, 3, 6, 9]);
        assert_eq!(of(35), [1, 2]);
        assert_eq!(of(19), [0; 0]);
        assert_eq!(of(20), [1]);
    }
}
