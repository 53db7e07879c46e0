//! When packets are due: an open loop. A packet's time follows from the rate alone, never from what came back, and what
//! could not be sent in time is sent late with its old time on it. So a server that stalls is charged with all that
//! it kept waiting ("coordinated omission" is avoided).

/// A schedule of evenly spaced or bursty packets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    start_ns: u64,
    per_second: u64,
    burst_ns: u64,
    next: u64,
}

impl Schedule {
    /// `per_second` packets from `start_ns` on. With `burst_ns` their times are those of the next multiple of it, counted from
    /// the start: bursts. At rate 0 none is ever due.
    #[must_use]
    pub const fn new(start_ns: u64, per_second: u64, burst_ns: u64) -> Self {
        Self {
            start_ns,
            per_second,
            burst_ns,
            next: 0,
        }
    }

    /// When the next packet is due.
    #[must_use]
    pub fn due_ns(&self) -> u64 {
        if self.per_second == 0 {
            return u64::MAX;
        }
        let exact = u128::from(self.next) * 1_000_000_000 / u128::from(self.per_second);
        let after = u64::try_from(exact).unwrap_or(u64::MAX);
        let after = match self.burst_ns {
            0 => after,
            burst => after.div_ceil(burst).saturating_mul(burst),
        };
        self.start_ns.saturating_add(after)
    }

    /// Takes the next packet if it is due; when it was.
    pub fn take(&mut self, now_ns: u64) -> Option<u64> {
        let due = self.due_ns();
        if due > now_ns {
            return None;
        }
        self.next += 1;
        Some(due)
    }

    /// How many packets were taken.
    #[must_use]
    pub const fn taken(&self) -> u64 {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn packets_are_evenly_spaced() {
        let mut schedule = Schedule::new(1_000, 4, 0);
        assert_eq!(schedule.take(999), None);
        let times: Vec<_> =
            std::iter::from_fn(|| schedule.take(1_000 + 1_000_000_000 - 1)).collect();
        assert_eq!(
            times,
            [1_000, 250_001_000, 500_001_000, 750_001_000],
            "one second, four packets"
        );
    }

    #[test]
    fn bursts_keep_the_rate() {
        let mut schedule = Schedule::new(0, 20_000, 200_000);
        let times: Vec<_> = std::iter::from_fn(|| schedule.take(1_000_000)).collect();
        assert_eq!(times.len(), 21, "50 us apart in 1 ms, and the first");
        assert!(times.iter().all(|time| time % 200_000 == 0));
        assert_eq!(times.iter().filter(|time| **time == 200_000).count(), 4);
    }

    #[test]
    fn a_pause_is_charged_to_what_caused_it() {
        let mut schedule = Schedule::new(0, 1_000, 0);
        while schedule.take(10_000_000).is_some() {}
        // The generator, or what it waits for, stood still for 50 ms: 50 packets are late, by up to 50 ms.
        let late: Vec<_> = std::iter::from_fn(|| schedule.take(60_000_000)).collect();
        assert_eq!(late.len(), 50);
        assert_eq!(late.first(), Some(&11_000_000));
    }

    proptest! {
        #[test]
        fn the_rate_is_exact_over_any_time(rate in 1u64..2_000_000, seconds in 1u64..5) {
            let mut schedule = Schedule::new(7, rate, 0);
            schedule.next = rate * seconds;
            prop_assert_eq!(schedule.due_ns(), 7 + seconds * 1_000_000_000);
        }

        #[test]
        fn no_rate_is_never_due(now: u64) {
            prop_assert_eq!(Schedule::new(0, 0, 0).take(now.min(u64::MAX - 1)), None);
        }
    }
}
