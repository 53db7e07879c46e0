//! When a queue that does not empty drops a packet to tell its senders: CoDel (RFC 8289).

use std::time::Duration;

/// What a packet may wait while nobody needs to be told. More than the 5 ms of a router: a worker, and the process at
/// the other end, may be off the processor for as long.
const TARGET: Duration = Duration::from_millis(20);

/// How long packets may wait longer before the first is dropped: the round trip of most paths.
const INTERVAL: Duration = Duration::from_millis(100);

/// See the module. Times are durations since any one moment.
#[derive(Debug, Default)]
pub(super) struct Codel {
    /// When the wait will have been too long for an [`INTERVAL`].
    late_at: Option<Duration>,
    /// When the next packet is dropped, while packets are, and for some time after.
    next: Option<Duration>,
    dropping: bool,
    /// Drops since it began.
    count: u32,
    /// [`Self::count`] when it began last.
    begun_with: u32,
}

impl Codel {
    /// Whether the packet at the front, which has waited for `wait`, is to be dropped. To be asked about each
    /// packet that follows one that is.
    pub(super) fn drops(&mut self, now: Duration, wait: Duration, is_last: bool) -> bool {
        let is_late = self.is_late(now, wait, is_last);
        if !is_late {
            self.dropping = false;
            return false;
        }
        if self.dropping {
            let Some(next) = self.next.filter(|next| *next <= now) else {
                return false;
            };
            self.count = self.count.saturating_add(1);
            self.next = Some(next + pause(self.count));
            return true;
        }
        self.dropping = true;
        // Soon after the last time: go on at the rate that was right then (RFC 8289, 5.4).
        let drops = self.count.saturating_sub(self.begun_with);
        let is_recent = self.next.is_some_and(|next| now < next + 16 * INTERVAL);
        self.count = if is_recent && drops > 1 { drops } else { 1 };
        self.begun_with = self.count;
        self.next = Some(now + pause(self.count));
        true
    }

    fn is_late(&mut self, now: Duration, wait: Duration, is_last: bool) -> bool {
        if wait < TARGET || is_last {
            self.late_at = None;
            return false;
        }
        *self.late_at.get_or_insert(now + INTERVAL) <= now
    }
}

/// Drops come faster as the root of their number, to which the rate of a TCP flow responds in proportion.
fn pause(count: u32) -> Duration {
    INTERVAL.div_f64(f64::from(count.max(1)).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Packets come to the front each millisecond, each having waited for `wait`; when they are dropped.
    fn run(codel: &mut Codel, from: u64, to: u64, wait: Duration) -> Vec<u64> {
        let mut dropped = Vec::new();
        for at in from..to {
            while codel.drops(ms(at), wait, false) {
                dropped.push(at);
            }
        }
        dropped
    }

    #[test]
    fn bursts_pass_and_standing_queues_lose_one_packet_an_interval_then_more() {
        let mut codel = Codel::default();
        assert!(run(&mut codel, 0, 1000, ms(19)).is_empty());
        assert!(run(&mut codel, 1000, 1100, ms(90)).is_empty(), "a burst");
        // It ended, so that the next begins anew.
        assert!(!codel.drops(ms(1100), ms(1), false));
        let dropped = run(&mut codel, 1101, 2000, ms(50));
        assert_eq!(dropped.first(), Some(&1201));
        let gaps: Vec<_> = dropped.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps[0] >= 70 && gaps[0] <= 101, "{gaps:?}");
        assert!(
            gaps.windows(2).all(|pair| pair[1] <= pair[0] + 1),
            "{gaps:?}"
        );
        assert!(dropped.len() < 30, "{dropped:?}");
    }

    #[test]
    fn it_goes_on_where_it_was_when_the_queue_is_back_soon() {
        let mut codel = Codel::default();
        let first = run(&mut codel, 0, 1000, ms(50)).len();
        assert!(!codel.drops(ms(1000), ms(1), false));
        let second = run(&mut codel, 1001, 2000, ms(50)).len();
        assert!(second > first, "{first} {second}");
    }

    #[test]
    fn the_last_packet_stays() {
        let mut codel = Codel::default();
        for at in 0..1000 {
            assert!(!codel.drops(ms(at), ms(500), true));
        }
    }
}
