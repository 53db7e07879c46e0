//! How long a client may be silent: as long as the server allows, unless a NAT on the way forgets sooner.

use std::time::Duration;

use crate::random::Random;

/// Silence that every NAT is taken to survive.
const LEAST: Duration = Duration::from_secs(5);
/// The binding time is known well enough when it is known to this.
const PRECISION: Duration = Duration::from_secs(2);

/// Silences that were survived after which it is asked anew whether a longer one would be.
const ASK_AGAIN: u16 = 120;

/// What is known of the binding time of the NATs on the way, found by how it went: RFC 4787 demands two minutes for UDP, and half of
/// the NATs in the field keep less, down to some ten seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BindingTime {
    /// The longest silence that was survived.
    good: Duration,
    /// The shortest that was not, twice: once may have been an outage.
    bad: Option<Duration>,
    /// The shortest that was not, once.
    suspect: Option<Duration>,
    /// How often one was survived since.
    survived: u16,
}

impl Default for BindingTime {
    fn default() -> Self {
        Self {
            good: LEAST,
            bad: None,
            suspect: None,
            survived: 0,
        }
    }
}

impl BindingTime {
    /// The binding was as before after so long without a packet of ours or of the server's.
    pub(super) fn survived(&mut self, silence: Duration) {
        self.good = self.good.max(silence);
        if self.suspect.is_some_and(|suspect| suspect <= self.good) {
            self.suspect = None;
        }
        self.survived = self.survived.saturating_add(1);
        // NATs change their mind under load.
        if self.survived >= ASK_AGAIN {
            self.survived = 0;
            self.bad = self.bad.map(|bad| bad * 3 / 2);
        }
    }

    /// It was gone, or another.
    pub(super) fn broke(&mut self, silence: Duration) {
        if silence <= LEAST {
            return;
        }
        self.survived = 0;
        let Some(suspect) = self.suspect.filter(|suspect| silence >= *suspect / 2) else {
            self.suspect = Some(silence);
            return;
        };
        self.suspect = None;
        let broke = suspect.min(silence);
        self.bad = Some(self.bad.map_or(broke, |bad| bad.min(broke)));
        if self.good >= broke {
            self.good = LEAST;
        }
    }

    /// How long to be silent next, at most `most`.
    pub(super) fn silence(&self, most: Duration) -> Duration {
        let Some(bad) = self.bad else {
            return most;
        };
        let known = bad.saturating_sub(self.good) <= PRECISION;
        let next = if known {
            self.good * 9 / 10
        } else {
            (self.good + bad) / 2
        };
        next.max(LEAST).min(most)
    }
}

/// How long a client is silent at most between `interval`s of the server; `None` is for ever. Half of it in the foreground (spec 5);
/// in the background nine tenths, so that a Keepalive and two more still arrive in time. Less a random tenth.
pub(super) fn silence(
    interval: Duration,
    background: bool,
    binding: Option<&BindingTime>,
    random: &mut dyn Random,
) -> Option<Duration> {
    let most = if background {
        interval * 9 / 10
    } else {
        interval / 2
    };
    if most.is_zero() {
        return None;
    }
    let most = most - random.up_to(most / 10);
    Some(binding.map_or(most, |binding| binding.silence(most)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::tests::Seeded;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_binding_time_of_a_nat_is_found_and_kept() {
        for nat in [7u32, 10, 18, 30, 44, 60, 120] {
            let nat = nat * SECOND;
            let (mut binding, mut losses) = (BindingTime::default(), 0);
            let most = 25 * SECOND;
            for _ in 0..100 {
                let silence = binding.silence(most);
                assert!(silence <= most);
                if silence < nat {
                    binding.survived(silence);
                } else {
                    losses += 1;
                    binding.broke(silence);
                }
            }
            let silence = binding.silence(most);
            assert!(silence < nat, "{nat:?}: {silence:?}");
            assert!(silence >= (nat * 6 / 10).min(most), "{nat:?}: {silence:?}");
            assert!(losses <= 14, "{nat:?}: {losses} losses");
        }
    }

    #[test]
    fn a_loss_after_a_moment_says_nothing_about_a_nat() {
        let mut binding = BindingTime::default();
        binding.broke(SECOND);
        assert_eq!(binding, BindingTime::default());
    }

    #[test]
    fn an_outage_is_not_taken_for_a_nat() {
        let mut binding = BindingTime::default();
        let most = 25 * SECOND;
        for _ in 0..10 {
            binding.broke(24 * SECOND);
            assert_eq!(binding.silence(most), most);
            binding.survived(24 * SECOND);
        }
    }

    #[test]
    fn the_background_is_more_silent_but_never_too_silent() {
        let random = &mut Seeded(1);
        let interval = 50 * SECOND;
        for _ in 0..100 {
            let silent = |background, random: &mut Seeded| {
                silence(interval, background, None, random).unwrap()
            };
            let (fore, back) = (silent(false, random), silent(true, random));
            assert!(fore > 22 * SECOND && fore <= 25 * SECOND);
            assert!(back > 40 * SECOND && back <= 45 * SECOND);
        }
        assert_eq!(silence(Duration::ZERO, true, None, random), None);
    }
}
