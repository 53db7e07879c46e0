//! Time in nanoseconds of the system's monotonic clock, which all processes of a host share: a reflector's stamps can be
//! compared with the generator's.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// One reading of the clock, in both forms that are needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// CLOCK_MONOTONIC in nanoseconds.
    pub ns: u64,
    /// The same moment for the state machines.
    pub instant: Instant,
}

impl Now {
    /// Reads the clock.
    #[must_use]
    pub fn read() -> Self {
        Self {
            ns: monotonic_ns(),
            instant: Instant::now(),
        }
    }

    /// The moment that lies `ns` nanoseconds of [`Self::ns`] away, now or later; for deadlines.
    #[must_use]
    pub fn instant_of(&self, ns: u64) -> Instant {
        self.instant + Duration::from_nanos(ns.saturating_sub(self.ns))
    }
}

/// CLOCK_MONOTONIC in nanoseconds; 0 if the system has no such clock, which Linux always has.
#[must_use]
pub fn monotonic_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| nanos(&time))
}

/// A time of the system's as nanoseconds; negative ones as 0.
#[must_use]
pub fn nanos(time: &nix::sys::time::TimeSpec) -> u64 {
    let seconds = u64::try_from(time.tv_sec()).unwrap_or_default();
    let rest = u64::try_from(time.tv_nsec()).unwrap_or_default();
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_goes_forward() {
        let first = Now::read();
        let second = Now::read();
        assert!(second.ns >= first.ns && second.instant >= first.instant);
        assert!(first.ns > 0);
        assert_eq!(
            first.instant_of(first.ns + 5),
            first.instant + Duration::from_nanos(5)
        );
    }
}
