//! Waits that double.

use std::time::Duration;

/// How long to wait next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// Between two tries of what a network does not let through, or may not any more.
    pub(crate) const NETWORK: Self = Self::new(Duration::from_secs(5), Duration::from_secs(600));

    pub(crate) const fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            next: first,
        }
    }

    /// The next wait; the one after it is twice as long.
    pub(crate) fn next(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.longest);
        wait
    }

    /// Begins anew.
    pub(crate) const fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_begin_anew() {
        let second = Duration::from_secs(1);
        let mut backoff = Backoff::new(second, second * 5);
        let mut waits = || {
            [
                backoff.next(),
                backoff.next(),
                backoff.next(),
                backoff.next(),
            ]
        };
        assert_eq!(waits(), [1, 2, 4, 5].map(|times| second * times));
        backoff.reset();
        assert_eq!(backoff.next(), second);
    }
}
