//! Round-trip times and the retransmission time-out (RFC 6298).

use std::time::Duration;

/// RFC 6298, section 2: the first time-out, and the least. Tail probes and the detection of losses by
/// time are much quicker; this one is for a path that is silent, as an outer stream that stalls.
const MIN_RTO: Duration = Duration::from_secs(1);

/// RFC 6298, section 2.5.
const MAX_RTO: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rtt {
    smoothed: Option<Duration>,
    variation: Duration,
    /// Time-outs in a row.
    backed_off: u32,
}

impl Rtt {
    /// A measurement, of a segment that was sent once.
    pub(super) fn sample(&mut self, rtt: Duration) {
        match self.smoothed {
            None => {
                self.smoothed = Some(rtt);
                self.variation = rtt / 2;
            }
            Some(smoothed) => {
                self.variation = (self.variation * 3 + smoothed.abs_diff(rtt)) / 4;
                self.smoothed = Some((smoothed * 7 + rtt) / 8);
            }
        }
        self.backed_off = 0;
    }

    pub(super) const fn smoothed(&self) -> Option<Duration> {
        self.smoothed
    }

    pub(super) const fn back_off(&mut self) {
        self.backed_off = self.backed_off.saturating_add(1);
    }

    pub(super) fn time_out(&self) -> Duration {
        let rto = self.smoothed.map_or(MIN_RTO, |smoothed| {
            smoothed.saturating_add(self.variation * 4).max(MIN_RTO)
        });
        doubled(rto, self.backed_off)
    }
}

/// `time` doubled `times` times, within reason.
pub(super) fn doubled(time: Duration, times: u32) -> Duration {
    time.saturating_mul(1 << times.min(16)).min(MAX_RTO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_outs_follow_measurements_and_back_off() {
        let mut rtt = Rtt::default();
        assert_eq!(rtt.time_out(), MIN_RTO);
        rtt.sample(Duration::from_millis(50));
        assert_eq!(rtt.time_out(), MIN_RTO);
        rtt.sample(Duration::from_secs(4));
        assert!(rtt.time_out() > Duration::from_secs(4));
        for _ in 0..40 {
            rtt.back_off();
        }
        assert_eq!(rtt.time_out(), MAX_RTO);
        rtt.sample(Duration::from_millis(50));
        assert!(rtt.time_out() < Duration::from_secs(10));
    }
}
