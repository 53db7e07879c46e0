//! Looking for the next packet for a while before the worker sleeps.
//!
//! A thread that sleeps is woken some tens of microseconds after a packet has come: that is most of the time that a packet takes
//! through an idle server. An answer often comes sooner. So a worker may look again and again for a bounded time after
//! each packet, as `net.core.busy_poll` has the kernel do. That uses up to all of a processor at rates where nearly none
//! is needed, so it is off by default.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

/// The most that a look which finds nothing takes. What takes longer was work of another kind.
const LOOK: Duration = Duration::from_micros(10);

/// See the module.
#[derive(Debug)]
pub(super) struct BusyPoll {
    limit: Duration,
    /// Until when it goes on.
    until: Option<Instant>,
    /// The last turn was to be followed by a look.
    looks: bool,
    idled: Duration,
}

impl BusyPoll {
    /// Goes on for `limit` after each packet; zero is never.
    pub(super) const fn new(limit: Duration) -> Self {
        Self {
            limit,
            until: None,
            looks: false,
            idled: Duration::ZERO,
        }
    }

    /// A turn has ended that has taken so many packets: whether another is to follow, just to look.
    pub(super) fn looks_again(&mut self, turn: Range<Instant>, packets: usize) -> bool {
        if self.limit.is_zero() {
            return false;
        }
        if packets > 0 {
            self.until = Some(turn.end + self.limit);
        } else if self.looks {
            self.idled += turn.end.saturating_duration_since(turn.start).min(LOOK);
        }
        self.looks = self.until.is_some_and(|until| turn.end < until);
        self.looks
    }

    /// Time spent in vain since the last call. Less than it was: what lies between turns may have been work.
    pub(super) const fn take_idled(&mut self) -> Duration {
        std::mem::replace(&mut self.idled, Duration::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn us(us: u64) -> Duration {
        Duration::from_micros(us)
    }

    #[test]
    fn it_looks_for_its_time_after_each_packet() {
        let start = Instant::now();
        let mut poll = BusyPoll::new(us(50));
        let turn = |from, to| start + us(from)..start + us(to);
        assert!(!poll.looks_again(turn(0, 2), 0), "nothing has come yet");
        assert!(poll.looks_again(turn(10, 12), 1));
        assert!(poll.looks_again(turn(13, 15), 0));
        assert!(poll.looks_again(turn(40, 42), 2), "from here again");
        assert!(poll.looks_again(turn(80, 91), 0));
        assert!(!poll.looks_again(turn(91, 92), 0));
        assert!(
            !poll.looks_again(turn(500, 502), 0),
            "woken by something else"
        );
        // The turns that found nothing and followed another, of the long one a part.
        assert_eq!(poll.take_idled(), us(2 + 10 + 1));
        assert_eq!(poll.take_idled(), Duration::ZERO);
    }

    #[test]
    fn work_is_not_taken_for_looking() {
        let start = Instant::now();
        let mut poll = BusyPoll::new(us(1000));
        for number in 0..100 {
            let begun = start + us(number * 100);
            poll.looks_again(begun..begun + us(99), 100);
        }
        assert_eq!(poll.take_idled(), Duration::ZERO);
    }

    #[test]
    fn it_is_off_when_its_time_is_zero() {
        let start = Instant::now();
        let mut poll = BusyPoll::new(Duration::ZERO);
        assert!(!poll.looks_again(start..start, 10));
        assert_eq!(poll.take_idled(), Duration::ZERO);
    }
}
