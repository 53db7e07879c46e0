//! How much redundancy the network needs.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tsc_tpl::ReceptionReport;

use super::MAX_COPIES;

/// Lost packets that may remain, of all.
const TARGET: f64 = 0.005;

/// A factor is raised by the figures of this time, and lowered by those of the longer one.
const SHORT: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_secs(10);

/// Until a sequence is judged, and told.
const SETTLES: Duration = Duration::from_secs(2);

/// Fewer packets say nothing.
const FEWEST: u32 = 20;

/// Reports that are remembered: two a second are usual.
const MAX_REPORTS: usize = 32;

/// The factor for one direction. See `docs/services.md`.
#[derive(Debug, Default)]
pub(crate) struct Adaptive {
    /// Oldest first.
    reports: VecDeque<(Instant, ReceptionReport)>,
    factor: u8,
    changed: Option<Instant>,
    raised: Option<Instant>,
}

impl Adaptive {
    /// The smallest factor that the network allows, [`MAX_COPIES`] at most.
    pub(crate) const fn factor(&self) -> u8 {
        self.factor
    }

    /// Whether anything has been heard at all.
    pub(crate) fn is_told(&self) -> bool {
        !self.reports.is_empty()
    }

    /// The counters are these now.
    pub(crate) fn report(&mut self, now: Instant, report: ReceptionReport) {
        if let Some((_, last)) = self.reports.back()
            && report.expected.wrapping_sub(last.expected) > u32::MAX / 2
        {
            // Another group counts.
            self.reports.clear();
        }
        if self.reports.len() >= MAX_REPORTS {
            self.reports.pop_front();
        }
        self.reports.push_back((now, report));
        let Some(short) = self.losses(now, SHORT) else {
            return;
        };
        // What the factor of now leaves is known once it has been in force for as long as the figures cover.
        let is_tried = self.changed.is_none_or(|at| at + SHORT + SETTLES <= now);
        let leaves_more = is_tried && short.left > TARGET * short.expected;
        let tried = if leaves_more { self.factor + 1 } else { 0 };
        let needed = short.factor(TARGET).max(tried.min(MAX_COPIES));
        if needed > self.factor {
            self.raised = Some(now);
            return self.change(now, needed);
        }
        let settled = self.raised.is_none_or(|at| at + LONG <= now);
        if self.factor > 0
            && settled
            && let Some(long) = self.losses(now, LONG)
        {
            let enough = short.factor(TARGET / 2.0).max(long.factor(TARGET / 2.0));
            if enough < self.factor {
                self.change(now, enough);
            }
        }
    }

    fn change(&mut self, now: Instant, factor: u8) {
        self.factor = factor;
        self.changed = Some(now);
    }

    /// What was lost within the last so long, or a little longer.
    fn losses(&self, now: Instant, time: Duration) -> Option<Losses> {
        let (_, last) = self.reports.back()?;
        let old_enough = |(at, _): &&(Instant, ReceptionReport)| *at + time <= now;
        let (_, first) = self.reports.iter().rev().find(old_enough).or_else(|| {
            // Of a group that has just begun there is no more.
            let first = self.reports.front()?;
            (time == SHORT && first.1.expected < FEWEST).then_some(first)
        })?;
        let expected = last.expected.wrapping_sub(first.expected);
        let originals = last.originals.wrapping_sub(first.originals);
        let delivered = last.delivered.wrapping_sub(first.delivered);
        let lost = expected.checked_sub(originals)?;
        let left = expected.checked_sub(delivered)?;
        (expected >= FEWEST).then(|| Losses {
            expected: expected.into(),
            lost: lost.into(),
            left: left.into(),
            runs: last.runs.wrapping_sub(first.runs).into(),
        })
    }
}

/// Of some time.
#[derive(Clone, Copy, Debug)]
struct Losses {
    expected: f64,
    /// Of those, lost as originals.
    lost: f64,
    /// Of those, not even recovered.
    left: f64,
    runs: f64,
}

impl Losses {
    /// The smallest factor that leaves `target` at most.
    fn factor(&self, target: f64) -> u8 {
        (0..MAX_COPIES)
            .find(|factor| self.residual(*factor) <= target)
            .unwrap_or(MAX_COPIES)
    }

    /// Of a packet and the next `factor` ones, all are lost: after Gilbert, the one after a lost packet is lost as the mean
    /// length of a burst says, but not less often than any other.
    fn residual(&self, factor: u8) -> f64 {
        let loss = self.lost / self.expected;
        let again = if self.lost > 0.0 {
            (1.0 - self.runs / self.lost).max(loss)
        } else {
            0.0
        };
        loss * again.powi(factor.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A network that loses so much, in bursts of this mean length, at 50 packets a second: the factor after each second.
    struct Network {
        adaptive: Adaptive,
        now: Instant,
        report: ReceptionReport,
    }

    impl Network {
        fn new() -> Self {
            Self {
                adaptive: Adaptive::default(),
                now: Instant::now(),
                report: ReceptionReport::default(),
            }
        }

        fn second(&mut self, lost: u32, runs: u32) -> u8 {
            self.now += Duration::from_secs(1);
            self.report.expected += 50;
            self.report.originals += 50 - lost;
            self.report.delivered += 50 - lost + lost.min(u32::from(self.adaptive.factor()) * runs);
            self.report.runs += runs;
            self.adaptive.report(self.now, self.report);
            self.adaptive.factor()
        }
    }

    #[test]
    fn a_clean_network_needs_none() {
        let mut network = Network::new();
        assert!((0..60).all(|_| network.second(0, 0) == 0));
    }

    #[test]
    fn five_percent_need_one_and_ten_percent_two() {
        for (lost, factor) in [(1, 1), (2, 1), (5, 2), (10, 2)] {
            let mut network = Network::new();
            for _ in 0..3 {
                network.second(lost, lost);
            }
            assert_eq!(network.second(lost, lost), factor, "{lost} of 50");
        }
    }

    #[test]
    fn bursts_need_more() {
        let mut network = Network::new();
        for _ in 0..3 {
            network.second(2, 1);
        }
        assert_eq!(network.second(2, 1), 2);
    }

    #[test]
    fn it_is_given_back_when_the_network_has_been_clean_for_a_while() {
        let mut network = Network::new();
        for _ in 0..5 {
            network.second(5, 5);
        }
        let seconds = (0..60).position(|_| network.second(0, 0) == 0).unwrap();
        assert!((9..=12).contains(&seconds), "after {seconds} s");
    }

    #[test]
    fn it_does_not_swing() {
        let mut network = Network::new();
        let factors: Vec<u8> = (0..120)
            .map(|second| network.second(u32::from(second % 4 == 0), u32::from(second % 4 == 0)))
            .collect();
        let changes = factors.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert!(changes <= 3, "{factors:?}");
    }

    #[test]
    fn counters_that_begin_anew_are_not_compared() {
        let mut network = Network::new();
        for _ in 0..5 {
            network.second(0, 0);
        }
        network.report = ReceptionReport::default();
        assert_eq!(network.second(0, 0), 0);
        assert_eq!(network.second(0, 0), 0);
    }
}
