//! Rate limit for answers that anybody can provoke (RFC 4443, section 2.4 f; RFC 1812, section
//! 4.3.2.8).

use std::time::{Duration, Instant};

/// Token bucket as a single time (generic cell rate algorithm): `per_second` answers, up to as many
/// in a burst.
#[derive(Debug)]
pub(crate) struct RateLimit {
    /// Time one answer costs; `None` allows none.
    cost: Option<Duration>,
    /// When the bucket will be full again.
    full_at: Option<Instant>,
}

const BURST: Duration = Duration::from_secs(1);

impl RateLimit {
    pub(crate) fn new(per_second: u32) -> Self {
        Self {
            cost: BURST.checked_div(per_second),
            full_at: None,
        }
    }

    /// Takes one answer from the bucket.
    pub(crate) fn allow(&mut self, now: Instant) -> bool {
        let Some(cost) = self.cost else {
            return false;
        };
        let full_at = self.full_at.map_or(now, |full_at| full_at.max(now)) + cost;
        let allowed = full_at.saturating_duration_since(now) <= BURST;
        if allowed {
            self.full_at = Some(full_at);
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let mut limit = RateLimit::new(10);
        let start = Instant::now();
        assert_eq!((0..50).filter(|_| limit.allow(start)).count(), 10);
        let half = start + Duration::from_millis(500);
        assert_eq!((0..50).filter(|_| limit.allow(half)).count(), 5);
        let later = start + Duration::from_secs(60);
        assert_eq!((0..50).filter(|_| limit.allow(later)).count(), 10);
    }

    #[test]
    fn zero_allows_nothing_and_time_may_stand_still_or_go_back() {
        assert!(!RateLimit::new(0).allow(Instant::now()));
        let mut limit = RateLimit::new(1);
        let now = Instant::now() + Duration::from_secs(10);
        assert!(limit.allow(now));
        assert!(!limit.allow(now.checked_sub(Duration::from_secs(5)).unwrap()));
    }
}
