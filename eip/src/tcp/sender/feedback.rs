//! What the peer's acknowledgements and its silence mean to our half.

use std::time::{Duration, Instant};

use super::{Heard, Recovery, Sender};
use crate::tcp::flight::News;
use crate::tcp::rtt::doubled;
use crate::tcp::seq::{Seq, length, span};

/// A single segment may wait so long for its acknowledgement (RFC 8985, section 7.2).
const LATE_ACK: Duration = Duration::from_millis(200);

/// Least wait before a tail probe.
const MIN_TAIL: Duration = Duration::from_millis(10);

impl Sender {
    /// Takes what the peer says of its window (RFC 9293, section 3.10.7.4).
    fn hear_window(&mut self, heard: &Heard) -> bool {
        let newer = self.told.is_none_or(|(seq, ack)| {
            heard.seq.is_after(seq) || (heard.seq == seq && !heard.ack.is_before(ack))
        });
        if !newer || heard.ack.is_before(self.unacknowledged) {
            return false;
        }
        let shift = if heard.syn { 0 } else { self.shift };
        let window = u32::from(heard.window) << shift;
        let changed = window != self.window;
        self.told = Some((heard.seq, heard.ack));
        self.window = window;
        self.largest_window = self.largest_window.max(window);
        changed
    }

    /// Takes an acknowledgement of something that was sent, new or not.
    pub(in crate::tcp) fn hear(&mut self, now: Instant, heard: &Heard) {
        let changed = self.hear_window(heard);
        let flying = self.flight.flying();
        let advanced = heard.ack.is_after(self.unacknowledged);
        let mut news = News::default();
        let mut acked = 0;
        if advanced {
            acked = heard.ack.since(self.unacknowledged);
            news = self.flight.acknowledge(now, heard.ack);
            let bytes = span(self.start, heard.ack).min(length(self.queue.len()));
            self.queue.consume(bytes as usize);
            self.start = self.start.plus(bytes);
            self.unacknowledged = heard.ack;
            self.duplicates = 0;
            self.retransmit_at = None;
        }
        let twice = self.hold(now, heard, &mut news);
        if let Some(rtt) = news.rtt {
            self.rtt.sample(rtt);
        }
        self.finish_tail(heard, twice);
        if self.recovery.is_some_and(|recovery| {
            let (Recovery::Fast(end) | Recovery::TimedOut(end)) = recovery;
            !self.unacknowledged.is_before(end)
        }) {
            self.recovery = None;
        }
        if !self.sacks {
            self.count_duplicate(heard, advanced, changed);
        }
        self.detect(now);
        if advanced && !matches!(self.recovery, Some(Recovery::Fast(_))) {
            let rtt = self.rtt.smoothed().unwrap_or_default();
            self.congestion.on_ack(now, acked.into(), flying, rtt);
        }
        if advanced || news.arrived {
            self.arm_tail(now);
        }
        self.update_timers(now);
    }

    /// Takes selective acknowledgements. Returns whether one is of something that came twice (RFC 2883).
    fn hold(&mut self, now: Instant, heard: &Heard, news: &mut News) -> bool {
        let mut twice = false;
        for (left, right) in heard.blocks.iter().flatten() {
            let (left, right) = (Seq(*left), Seq(*right));
            if !left.is_before(right) || right.is_after(self.next) {
                continue;
            }
            if right.is_after(heard.ack) {
                self.flight.hold(now, left, right, news);
            } else {
                twice = true;
            }
        }
        twice
    }

    /// What became of a tail probe (RFC 8985, section 7.4).
    fn finish_tail(&mut self, heard: &Heard, twice: bool) {
        let Some((end, repeated)) = self.tail else {
            return;
        };
        if self.unacknowledged.is_before(end) {
            return;
        }
        if !repeated || twice {
            self.tail = None;
        } else if heard.ack.is_after(end) {
            // The probe has repaired a loss of which nothing else tells.
            self.tail = None;
            self.reduce();
        } else if heard.empty && heard.ack == end && self.tail_heard {
            self.tail = None;
        }
        self.tail_heard = self.tail.is_some();
    }

    fn reduce(&mut self) {
        if self.recovery.is_none() {
            self.congestion.on_loss();
            self.recovery = Some(Recovery::Fast(self.next));
        }
    }

    /// Without selective acknowledgements: the third that repeats the last tells a loss (RFC 5681), and in recovery each
    /// that does not acknowledge everything tells the next (RFC 6582).
    fn count_duplicate(&mut self, heard: &Heard, advanced: bool, window_changed: bool) {
        let recovering = matches!(self.recovery, Some(Recovery::Fast(_)));
        if advanced {
            if recovering {
                self.flight.lose_first();
            }
        } else if heard.empty
            && heard.ack == self.unacknowledged
            && self.is_flying()
            && !window_changed
        {
            self.duplicates = self.duplicates.saturating_add(1);
            if self.duplicates == 3 && !recovering && self.flight.lose_first() {
                self.reduce();
            }
        }
    }

    fn detect(&mut self, now: Instant) {
        let (lost, again) = self.flight.detect(now, self.recovery.is_some());
        self.reorder_at = again;
        if lost {
            self.reduce();
        }
    }

    /// Once after each acknowledgement, what was sent last is followed by something, so that its loss is told by what
    /// arrives later (RFC 8985, section 7).
    pub(super) fn arm_tail(&mut self, now: Instant) {
        let wanted = self.sacks
            && self.tail.is_none()
            && self.recovery.is_none()
            && self.is_flying()
            && self.flight.is_orderly();
        self.tail_at = self.rtt.smoothed().filter(|_| wanted).map(|rtt| {
            let late = if self.flight.is_single() {
                LATE_ACK
            } else {
                Duration::ZERO
            };
            self.flight.last_sent().unwrap_or(now) + (rtt * 2 + late).max(MIN_TAIL)
        });
    }

    pub(super) fn update_timers(&mut self, now: Instant) {
        if !self.is_flying() {
            self.retransmit_at = None;
            self.tail_at = None;
            self.tail_due = false;
            self.reorder_at = None;
        } else if self.retransmit_at.is_none() {
            self.retransmit_at = Some(now + self.rtt.time_out());
        }
        // What cannot be sent though nothing is on its way waits for the peer's window.
        if self.is_shut_out() && self.plan(true, false).is_none() {
            self.retransmit_at = None;
            if self.persist_at.is_none() {
                self.persist_at = Some(now + doubled(self.rtt.time_out(), self.probes));
            }
        } else if !self.probe_due {
            self.persist_at = None;
            self.probes = 0;
        }
    }

    /// When something is due next.
    pub(in crate::tcp) fn due(&self) -> Option<Instant> {
        [
            self.retransmit_at,
            self.tail_at,
            self.reorder_at,
            self.persist_at,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Does what is due.
    pub(in crate::tcp) fn on_time(&mut self, now: Instant, open: bool) {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if is_due(self.reorder_at) {
            self.detect(now);
        }
        if is_due(self.persist_at) {
            self.probes = self.probes.saturating_add(1);
            self.persist_at = Some(now + doubled(self.rtt.time_out(), self.probes));
            self.probe_due = true;
        }
        if is_due(self.retransmit_at) {
            self.time_out(now);
        } else if is_due(self.tail_at) {
            self.tail_at = None;
            self.tail_due = true;
            self.retransmit_at = Some(now + self.rtt.time_out());
        }
        if open {
            self.update_timers(now);
        }
    }

    fn time_out(&mut self, now: Instant) {
        self.counters.time_outs += 1;
        self.flight.lose_all();
        if !matches!(self.recovery, Some(Recovery::TimedOut(_))) {
            self.congestion.on_time_out();
        }
        self.recovery = Some(Recovery::TimedOut(self.next));
        self.duplicates = 0;
        self.tail = None;
        self.tail_due = false;
        self.tail_at = None;
        self.reorder_at = None;
        self.rtt.back_off();
        self.retransmit_at = Some(now + self.rtt.time_out());
    }
}
