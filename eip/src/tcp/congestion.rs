//! CUBIC (RFC 9438), in bytes and whole numbers.

use std::time::{Duration, Instant};

/// Segments of the initial window (RFC 6928).
const INITIAL_SEGMENTS: u64 = 10;

/// Multiplicative decrease, in tenths.
const BETA: u64 = 7;

/// Beyond this a window is not the bound of anything.
const MAX_WINDOW: u64 = 1 << 31;

#[derive(Clone, Copy, Debug)]
pub(super) struct Cubic {
    window: u64,
    threshold: u64,
    segment: u64,
    /// The window before the last reduction.
    plateau: u64,
    /// The growth since the last reduction.
    epoch: Option<Epoch>,
}

#[derive(Clone, Copy, Debug)]
struct Epoch {
    start: Instant,
    /// Milliseconds until the plateau is reached.
    climb: u64,
    /// What Reno would have.
    friendly: u64,
    /// The window that it leads to first, slowly near it.
    plateau: u64,
}

impl Cubic {
    pub(super) fn new(segment: u32) -> Self {
        let segment = u64::from(segment);
        Self {
            window: segment * INITIAL_SEGMENTS,
            threshold: MAX_WINDOW,
            segment,
            plateau: 0,
            epoch: None,
        }
    }

    /// Bytes that may be on their way.
    pub(super) const fn window(&self) -> u64 {
        self.window
    }

    /// New data were acknowledged, outside of recovery, while `flying` bytes were on their way.
    pub(super) fn on_ack(&mut self, now: Instant, acked: u64, flying: u64, rtt: Duration) {
        let starting = self.window < self.threshold;
        // A window that is not used says nothing about the path (RFC 7661).
        let used = if starting {
            flying.saturating_mul(2)
        } else {
            flying.saturating_add(3 * self.segment)
        };
        if used < self.window {
            return;
        }
        if starting {
            self.window = (self.window + acked).min(self.threshold);
        } else {
            self.avoid(now, acked, rtt);
        }
        self.window = self.window.min(MAX_WINDOW);
    }

    fn avoid(&mut self, now: Instant, acked: u64, rtt: Duration) {
        let window = self.window.max(1);
        let segment = self.segment.max(1);
        let plateau = self.plateau.max(window);
        let epoch = self.epoch.get_or_insert_with(|| Epoch {
            start: now,
            climb: cube_root((plateau - window) * 2_500_000_000 / segment),
            friendly: window,
            plateau,
        });
        let time = now.saturating_duration_since(epoch.start) + rtt;
        let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        // W(t) = 0.4 (t - K)^3 + W_max, in segments and seconds.
        let since = i128::from(time) - i128::from(epoch.climb);
        let since = since.clamp(-1_000_000, 1_000_000);
        let rise = since * since * since * i128::from(segment) / 2_500_000_000;
        let target = u64::try_from(i128::from(epoch.plateau) + rise).unwrap_or(0);
        // Reno's growth with the same decrease: 3 (1 - beta) / (1 + beta) of a segment a round trip.
        let reno = segment * acked / window;
        epoch.friendly += if epoch.friendly < epoch.plateau {
            reno * 9 / 17
        } else {
            reno
        };
        if target < epoch.friendly {
            self.window = window.max(epoch.friendly);
        } else {
            let target = target.clamp(window, window + window / 2);
            self.window += (target - window) * acked / window;
        }
    }

    /// Something was lost.
    pub(super) fn on_loss(&mut self) {
        self.plateau = if self.window < self.plateau {
            // Make room for others (fast convergence).
            self.window * (10 + BETA) / 20
        } else {
            self.window
        };
        self.threshold = (self.window * BETA / 10).max(2 * self.segment);
        self.window = self.threshold;
        self.epoch = None;
    }

    /// Nothing was heard for long.
    pub(super) fn on_time_out(&mut self) {
        self.on_loss();
        self.window = self.segment;
    }

    /// After silence nothing is known of the path (RFC 5681, section 4.1).
    pub(super) fn on_idle(&mut self) {
        self.window = self.window.min(self.segment * INITIAL_SEGMENTS);
        self.epoch = None;
    }
}

/// The largest number whose cube is not larger.
fn cube_root(number: u64) -> u64 {
    let (mut low, mut high) = (0u64, 2_642_245);
    while low < high {
        let middle = (low + high).div_ceil(2);
        if middle.pow(3) <= number {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(50);

    #[test]
    fn roots() {
        for (number, root) in [
            (0, 0),
            (7, 1),
            (8, 2),
            (26, 2),
            (27, 3),
            (u64::MAX, 2_642_245),
        ] {
            assert_eq!(cube_root(number), root);
        }
    }

    #[test]
    fn a_window_doubles_then_falls_and_climbs_back_to_its_plateau() {
        let mut now = Instant::now();
        let mut cubic = Cubic::new(1400);
        assert_eq!(cubic.window(), 14_000);
        for _ in 0..5 {
            let window = cubic.window();
            cubic.on_ack(now, window, window, RTT);
            assert_eq!(cubic.window(), 2 * window);
            now += RTT;
        }
        let before = cubic.window();
        cubic.on_loss();
        assert_eq!(cubic.window(), before * 7 / 10);
        let mut last = cubic.window();
        let start = now;
        while cubic.window() < before {
            now += RTT;
            let window = cubic.window();
            for _ in 0..10 {
                cubic.on_ack(now, window / 10, window, RTT);
            }
            assert!(cubic.window() >= last);
            last = cubic.window();
            assert!(now - start < Duration::from_secs(20), "{last} of {before}");
        }
        cubic.on_time_out();
        assert_eq!(cubic.window(), 1400);
    }

    #[test]
    fn a_window_that_is_not_used_does_not_grow() {
        let mut cubic = Cubic::new(1400);
        let window = cubic.window();
        cubic.on_ack(Instant::now(), 1000, 1000, RTT);
        assert_eq!(cubic.window(), window);
    }
}
