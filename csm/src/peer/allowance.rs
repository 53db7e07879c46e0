//! How often something may be asked for.

use std::time::{Duration, Instant};

/// So many at once, and one more each time that has passed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowance {
    each: Duration,
    most: u32,
    /// When all of it is there again; in the past it is.
    whole_at: Option<Instant>,
}

impl Allowance {
    pub(crate) const fn new(most: u32, each: Duration) -> Self {
        Self {
            each,
            most,
            whole_at: None,
        }
    }

    /// Takes one, if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let whole_at = self.whole_at.map_or(now, |at| at.max(now)) + self.each;
        let allowed = whole_at - now <= self.each * self.most;
        if allowed {
            self.whole_at = Some(whole_at);
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_one_at_a_time() {
        let mut allowance = Allowance::new(3, Duration::from_secs(2));
        let now = Instant::now();
        let taken = (0..5).filter(|_| allowance.take(now)).count();
        assert_eq!(taken, 3);
        assert!(!allowance.take(now + Duration::from_secs(1)));
        assert!(allowance.take(now + Duration::from_secs(2)));
        assert!(!allowance.take(now + Duration::from_secs(3)));
        let later = now + Duration::from_secs(100);
        assert_eq!((0..5).filter(|_| allowance.take(later)).count(), 3);
    }
}
