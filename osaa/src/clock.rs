//! Clocks of the operating system that the standard library does not have.

use std::time::Duration;

/// How long the host has been asleep since it was started: the difference between the clocks that go on meanwhile and those that
/// do not ([`std::time::Instant`] does not). Zero where that is not known.
#[must_use]
pub fn time_asleep() -> Duration {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        use nix::time::{ClockId, clock_gettime};

        let read = |clock: ClockId| clock_gettime(clock).map(Duration::from).unwrap_or_default();
        // In this order the difference is never too small.
        let awake = read(ClockId::CLOCK_MONOTONIC);
        read(ClockId::CLOCK_BOOTTIME).saturating_sub(awake)
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    Duration::ZERO
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_awake_does_not_fall_asleep() {
        let before = time_asleep();
        assert!(time_asleep().saturating_sub(before) < Duration::from_secs(1));
    }
}
