//! Speech where a packet is missing: its last pitch period again, fading away, in the manner of G.711 appendix I.
//!
//! The appendix delays everything by 3.75 ms, so as to blend the last period into what was already heard. Here nothing is
//! delayed: the period is made such that its end leads to its beginning, and only the return to real speech is blended.

use std::collections::VecDeque;

/// Pitch periods that are looked for: 200 Hz to 66 Hz at 8 kHz.
const SHORTEST: usize = 40;
const LONGEST: usize = 120;
/// What two pieces of speech are compared over: 20 ms.
const COMPARED: usize = 160;
/// Speech that is remembered: enough to compare with the longest period before.
const HISTORY: usize = COMPARED + LONGEST;
/// Samples at full strength, and after how many there is silence: 10 ms and 60 ms.
const FULL: usize = 80;
const FADED: usize = 480;
/// Samples over which concealed speech turns into real one: 4 ms.
const BLEND: usize = 32;

/// Follows what is heard, and goes on with it where it ends.
#[derive(Clone, Debug, Default)]
pub(super) struct Concealer {
    history: VecDeque<i16>,
    /// The period that is repeated, while something is missing.
    period: Vec<i16>,
    /// Samples of this gap so far.
    concealed: usize,
}

impl Concealer {
    /// Speech that arrived; as it is, but for the first samples after a gap.
    pub(super) fn real(&mut self, samples: &[i16], out: &mut Vec<i16>) {
        let begin = out.len();
        out.extend_from_slice(samples);
        if self.concealed > 0 {
            for (at, sample) in out.iter_mut().skip(begin).take(BLEND).enumerate() {
                let before = self.synthetic();
                self.concealed += 1;
                *sample = blend(before, *sample, at + 1, BLEND + 1);
            }
            self.concealed = 0;
        }
        self.remember(out.get(begin..).unwrap_or_default());
    }

    /// So many samples in place of what is missing.
    pub(super) fn conceal(&mut self, samples: usize, out: &mut Vec<i16>) {
        if self.concealed == 0 {
            self.period = self.last_period();
        }
        for _ in 0..samples {
            out.push(self.synthetic());
            self.concealed = self.concealed.saturating_add(1);
        }
    }

    fn remember(&mut self, samples: &[i16]) {
        self.history.extend(samples);
        let surplus = self.history.len().saturating_sub(HISTORY);
        self.history.drain(..surplus);
    }

    /// The next sample of the repeated period.
    fn synthetic(&self) -> i16 {
        let Some(left) = FADED.checked_sub(self.concealed).filter(|left| *left > 0) else {
            return 0;
        };
        let at = self.concealed.checked_rem(self.period.len());
        let sample = at.and_then(|at| self.period.get(at)).copied().unwrap_or(0);
        let left = left.min(FADED - FULL);
        blend(0, sample, left, FADED - FULL)
    }

    /// The last pitch period, made such that it can follow itself.
    fn last_period(&self) -> Vec<i16> {
        let speech: Vec<i16> = self.history.iter().copied().collect();
        if speech.len() < HISTORY {
            return Vec::new();
        }
        let back = |samples: usize| speech.get(speech.len() - samples..).unwrap_or_default();
        let newest = back(COMPARED);
        let likeness = |lag: &usize| correlation(newest, back(COMPARED + lag));
        let pitch = (SHORTEST..=LONGEST)
            .max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
            .unwrap_or(LONGEST);
        let mut period = back(pitch).to_vec();
        // Its last quarter turns into what was before its first sample.
        let quarter = pitch / 4;
        let before = back(pitch + quarter);
        for (at, (sample, earlier)) in period
            .iter_mut()
            .skip(pitch - quarter)
            .zip(before)
            .enumerate()
        {
            *sample = blend(*sample, *earlier, at + 1, quarter);
        }
        period
    }
}

/// How alike the shorter one and the beginning of the other are: -1 to 1.
fn correlation(newest: &[i16], earlier: &[i16]) -> f64 {
    let (mut both, mut one, mut other) = (0.0, 1.0, 1.0);
    for (a, b) in newest.iter().zip(earlier) {
        let (a, b) = (f64::from(*a), f64::from(*b));
        both += a * b;
        one += a * a;
        other += b * b;
    }
    both / (one * other).sqrt()
}

/// Between two samples: `part` of `whole` is the second's.
fn blend(first: i16, second: i16, part: usize, whole: usize) -> i16 {
    let [part, whole] = [part, whole].map(|n| i64::try_from(n).unwrap_or(i64::MAX));
    let sum = i64::from(first) * (whole - part) + i64::from(second) * part;
    // Between two samples there is no value that is not one.
    i16::try_from(sum / whole.max(1)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A voice of 100 Hz: its fundamental and two harmonics.
    #[expect(clippy::cast_possible_truncation, reason = "at most 10,500")]
    fn voice(range: std::ops::Range<usize>) -> Vec<i16> {
        let sample = |n: usize| {
            let phase = n as f64 * std::f64::consts::TAU / 80.0;
            (6000.0 * phase.sin() + 3000.0 * (2.0 * phase).sin() + 1500.0 * (3.0 * phase).cos())
                as i16
        };
        range.map(sample).collect()
    }

    #[test]
    fn speech_without_a_gap_stays_as_it_is() {
        let (mut concealer, mut out) = (Concealer::default(), Vec::new());
        let speech = voice(0..1600);
        for packet in speech.chunks(160) {
            concealer.real(packet, &mut out);
        }
        assert_eq!(out, speech);
    }

    #[test]
    fn a_short_gap_in_a_steady_voice_is_hardly_heard() {
        let (mut concealer, mut out) = (Concealer::default(), Vec::new());
        let speech = voice(0..1600);
        concealer.real(&speech[..800], &mut out);
        concealer.conceal(80, &mut out);
        concealer.real(&speech[880..], &mut out);
        assert_eq!(out.len(), speech.len());
        let furthest = out
            .iter()
            .zip(&speech)
            .map(|(a, b)| (a - b).unsigned_abs())
            .max();
        assert!(furthest < Some(700), "{furthest:?} of 10,000");
        assert_eq!(out[912..], speech[912..], "real again");
    }

    #[test]
    fn a_long_gap_fades_into_silence_and_nothing_is_made_of_nothing() {
        let (mut concealer, mut out) = (Concealer::default(), Vec::new());
        concealer.conceal(160, &mut out);
        assert_eq!(out, [0; 160], "nothing was heard before");
        out.clear();
        concealer.real(&voice(0..800), &mut out);
        out.clear();
        concealer.conceal(2000, &mut out);
        let loudest =
            |range: std::ops::Range<usize>| out[range].iter().map(|s| s.unsigned_abs()).max();
        assert!(loudest(0..80) > loudest(240..320) && loudest(240..320) > loudest(400..480));
        assert_eq!(loudest(480..2000), Some(0));
    }
}
