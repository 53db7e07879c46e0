//! Log lines that strangers can cause, kept from filling the disk.

use std::time::{Duration, Instant};

/// Refusals logged at `info` per minute; the rest are only counted (and logged at `debug`).
pub const LOGGED_PER_MINUTE: u32 = 20;

/// Allows [`LOGGED_PER_MINUTE`] and remembers how many it did not.
#[derive(Debug)]
pub(super) struct LogLimit {
    window: Instant,
    logged: u32,
    suppressed: u64,
}

impl LogLimit {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            window: now,
            logged: 0,
            suppressed: 0,
        }
    }

    /// `Some(n)` if a line may be written; `n` were suppressed since the last window.
    pub(super) fn allow(&mut self, now: Instant) -> Option<u64> {
        let mut missed = 0;
        if now.saturating_duration_since(self.window) >= Duration::from_secs(60) {
            missed = self.suppressed;
            *self = Self::new(now);
        }
        if self.logged < LOGGED_PER_MINUTE {
            self.logged += 1;
            Some(missed)
        } else {
            self.suppressed += 1;
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_logged_in_part_and_counted() {
        let start = Instant::now();
        let mut limit = LogLimit::new(start);
        let logged = (0..100).filter(|_| limit.allow(start).is_some()).count();
        assert_eq!(logged, 20);
        let later = start + Duration::from_secs(60);
        assert_eq!(limit.allow(later), Some(80));
        assert_eq!(limit.allow(later), Some(0));
    }
}
