//! How good the way of a tunnel is for media: Keepalives that are sent for nothing else, and what their answers tell.
//!
//! Nothing is read from packets, and nothing from the kernel: what a lost segment costs a stream, and what waits in front of it, is
//! the time that the answers take. See `docs/services.md`.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tsc_tpl::Sequence;

use super::event::Epoch;
use super::{Client, State};
use crate::wire;

/// How often a way is measured, while it is.
pub(super) const PROBE_EVERY: Duration = Duration::from_millis(250);
/// Whatever takes longer is lost to media.
const LOST_AFTER: Duration = Duration::from_secs(2);
/// Answers that are judged: those of ten seconds.
const WINDOW: usize = 40;
/// With fewer nothing is said.
const LEAST: usize = 8;
/// Longest time that a receiver waits for what is late.
const PLAYOUT: Duration = Duration::from_millis(250);

/// What the network is worth without any fault (G.107, with its default values).
const FAULTLESS: f64 = 93.2;
/// How well loss is concealed: G.711 with its appendix I (`Bpl`, G.113).
const ROBUSTNESS: f64 = 25.1;

/// What speech would be worth over this way: rating factors (R) of the E-model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rating {
    /// As it is.
    pub(super) points: f64,
    /// As far as so few measurements can tell: as if one more had failed.
    pub(super) cautious: f64,
    /// If nothing were late or lost: no other kind of transport makes more of the same path.
    pub(super) best: f64,
}

/// The measurements of one way.
#[derive(Debug, Default)]
pub(super) struct Probes {
    /// The transport that they are of.
    epoch: Option<Epoch>,
    /// Those that are on the way; no more than fit in [`LOST_AFTER`].
    pending: VecDeque<(Sequence, Instant)>,
    /// How long the answers took, and where none came; at most [`WINDOW`].
    answers: VecDeque<Option<Duration>>,
}

impl Probes {
    fn sent(&mut self, now: Instant, epoch: Epoch, sequence: Sequence) {
        if self.epoch.replace(epoch) != Some(epoch) {
            self.pending.clear();
            self.answers.clear();
        }
        self.expire(now);
        self.pending.push_back((sequence, now));
    }

    fn expire(&mut self, now: Instant) {
        let is_lost = |(_, sent): &(Sequence, Instant)| now >= *sent + LOST_AFTER;
        while self.pending.pop_front_if(|probe| is_lost(probe)).is_some() {
            self.note(None);
        }
    }

    fn note(&mut self, answer: Option<Duration>) {
        if self.answers.len() >= WINDOW {
            self.answers.pop_front();
        }
        self.answers.push_back(answer);
    }

    /// Takes an answer; false if it is to none of these.
    pub(super) fn answered(&mut self, now: Instant, sequence: Sequence) -> bool {
        let mut pending = self.pending.iter();
        let Some(place) = pending.position(|(of, _)| *of == sequence) else {
            return false;
        };
        if let Some((_, sent)) = self.pending.remove(place) {
            let took = now.saturating_duration_since(sent);
            self.note(Some(took).filter(|took| *took < LOST_AFTER));
        }
        true
    }

    /// What is known of this way, where each packet travels so many times more than once.
    fn rating(&self, now: Instant, copies: u8) -> Option<Rating> {
        let base = self.answers.iter().flatten().min().copied();
        let base = base.unwrap_or_default();
        let late_by = |took: Duration| took.saturating_sub(base);
        // What is still on the way is known to be as late as that.
        let waits = self.pending.iter().map(|(_, sent)| {
            let waits = now.saturating_duration_since(*sent);
            late_by(waits)
        });
        let came = self.answers.iter().flatten().map(|took| late_by(*took));
        let came: Vec<Duration> = came.collect();
        let lost = self.answers.len() - came.len();
        let points = |playout: Duration, more: usize| {
            let late = came.iter().filter(|late| **late > playout).count();
            let waiting = waits.clone().filter(|late| *late > playout).count();
            let known = self.answers.len() + waiting;
            let missed = ratio(lost + late + waiting + more, known + more);
            // Of the two directions.
            let missed = 1.0 - (1.0 - missed).sqrt();
            let missed = missed.powi(i32::from(copies) + 1);
            (known >= LEAST).then(|| worth(base / 2 + playout, missed))
        };
        // A receiver finds out how long it pays to wait.
        let most = |more: usize| {
            let playouts = came.iter().copied().filter(|late| *late <= PLAYOUT);
            let tried = playouts.chain([Duration::ZERO]);
            let tried = tried.filter_map(|playout| points(playout, more));
            tried.max_by(f64::total_cmp)
        };
        Some(Rating {
            points: most(0)?,
            cautious: most(1)?,
            best: worth(base / 2, 0.0),
        })
    }
}

/// The rating factor of a one-way delay and a share of packets that are not played: the E-model, simplified as by Cole and Rosenbluth.
fn worth(delay: Duration, missed: f64) -> f64 {
    let millis = delay.as_secs_f64() * 1000.0;
    let by_delay = 0.024 * millis + 0.11 * (millis - 177.3).max(0.0);
    let percent = missed * 100.0;
    let by_loss = 95.0 * percent / (percent + ROBUSTNESS);
    (FAULTLESS - by_delay - by_loss).max(0.0)
}

#[expect(clippy::cast_precision_loss, reason = "a few dozen of them")]
fn ratio(part: usize, of: usize) -> f64 {
    if of == 0 {
        0.0
    } else {
        part as f64 / of as f64
    }
}

impl Client {
    /// Sends a Keepalive for whose answer nothing waits: lost or not, it says nothing about whether the transport lives.
    pub(super) fn send_aside(&mut self) -> Option<(Epoch, Sequence)> {
        let sequence = self.next_sequence;
        let State::Up(tunnel) = &self.state else {
            return None;
        };
        let link = tunnel.link.as_ref();
        let epoch = link.filter(|_| tunnel.release_until.is_none())?.epoch;
        let bytes = wire::keepalive(tunnel.assignment.tsid, sequence)?;
        self.next_sequence = sequence.next();
        self.transmit(epoch, bytes);
        Some((epoch, sequence))
    }

    /// Measures once more how good the way of this tunnel is.
    pub(super) fn probe(&mut self, now: Instant) {
        let sent = self.send_aside();
        if let (Some((epoch, sequence)), State::Up(tunnel)) = (sent, &mut self.state) {
            tunnel.probes.sent(now, epoch, sequence);
            self.stats.probes += 1;
        }
    }

    /// What was measured is old.
    pub(super) fn forget_probes(&mut self) {
        if let State::Up(tunnel) = &mut self.state {
            tunnel.probes = Probes::default();
        }
    }

    /// How good the way of this tunnel is; `None` before enough is known, and without a transport.
    pub(super) fn rating(&self, now: Instant, copies: u8) -> Option<Rating> {
        let State::Up(tunnel) = &self.state else {
            return None;
        };
        let link = tunnel.link.as_ref()?;
        let probes = &tunnel.probes;
        (probes.epoch == Some(link.epoch))
            .then(|| probes.rating(now, copies))
            .flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Twenty seconds of a way on which answers take so long, or do not come.
    fn rating(copies: u8, took: impl Fn(u32) -> Option<u32>) -> Rating {
        let begin = Instant::now();
        let mut probes = Probes::default();
        let mut answers = Vec::new();
        for number in 0..=80 {
            let now = begin + PROBE_EVERY * number;
            answers.retain(|(at, sequence)| {
                let comes = *at <= now;
                if comes {
                    assert!(probes.answered(*at, *sequence));
                }
                !comes
            });
            if number == 80 {
                break;
            }
            let sequence = Sequence(number);
            probes.sent(now, Epoch(1), sequence);
            answers.extend(took(number).map(|took| (now + MS * took, sequence)));
            assert!(probes.pending.len() <= 9 && probes.answers.len() <= WINDOW);
        }
        probes.rating(begin + PROBE_EVERY * 80, copies).unwrap()
    }

    fn assert_between(value: f64, least: f64, most: f64) {
        assert!((least..most).contains(&value), "{value}");
    }

    #[test]
    fn a_clean_way_is_as_good_as_its_delay() {
        let near = rating(0, |_| Some(40));
        assert_eq!(near.points.to_bits(), near.best.to_bits());
        assert_between(near.points, 92.0, 93.0);
        let far = rating(0, |_| Some(700));
        assert_eq!(far.points.to_bits(), far.best.to_bits());
        assert_between(far.points, 60.0, 70.0);
    }

    #[test]
    fn a_little_jitter_costs_little_and_stalls_cost_much() {
        let shaky = rating(0, |number| Some(40 + number * 7 % 40));
        assert_between(shaky.best - shaky.points, 0.1, 2.0);
        let stalls = |number: u32| Some(if number.is_multiple_of(5) { 440 } else { 40 });
        assert_between(rating(0, stalls).points, 60.0, 75.0);
    }

    #[test]
    fn losses_cost_what_redundancy_does_not_mend() {
        let lossy = |number: u32| (!number.is_multiple_of(5)).then_some(40);
        assert_between(rating(0, lossy).points, 60.0, 70.0);
        assert_between(rating(1, lossy).points, 85.0, 91.0);
        assert_between(rating(2, lossy).points, 91.0, 93.0);
    }

    #[test]
    fn silence_is_worth_nothing_before_it_counts_as_lost() {
        let dead = rating(0, |number| (number < 74).then_some(40));
        assert_between(dead.best - dead.points, 20.0, 60.0);
        assert_between(rating(0, |_| None).points, 0.0, 20.0);
    }

    #[test]
    fn little_says_nothing_and_another_transport_is_another_way() {
        let begin = Instant::now();
        let mut probes = Probes::default();
        for number in 0..7 {
            probes.sent(begin, Epoch(1), Sequence(number));
            assert!(probes.answered(begin + MS, Sequence(number)));
            assert!(!probes.answered(begin + MS, Sequence(number)), "once");
        }
        assert_eq!(probes.rating(begin, 0), None);
        probes.sent(begin, Epoch(1), Sequence(7));
        assert!(probes.answered(begin + MS, Sequence(7)));
        assert!(probes.rating(begin, 0).is_some());
        probes.sent(begin, Epoch(2), Sequence(8));
        assert_eq!(probes.rating(begin, 0), None);
    }
}
