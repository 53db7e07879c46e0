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

/// See the module.
#[derive(Debug)]
pub(super) struct BusyPoll {
    limit: Duration,
    /// Until when it goes on.
    until: Option<Instant>,
    /// The end of the last turn, if another followed at once for no other reason.
    since: Option<Instant>,
    idled: Duration,
}

impl BusyPoll {
    /// Goes on for `limit` after each packet; zero is never.
    pub(super) const fn new(limit: Duration) -> Self {
        Self {
            limit,
            until: None,
            since: None,
            idled: Duration::ZERO,
        }
    }

    /// A turn has ended that has taken so many packets, with nothing left to do: whether the next is to follow at once.
    pub(super) fn goes_on(&mut self, turn: Range<Instant>, packets: usize) -> bool {
        if self.limit.is_zero() {
            return false;
        }
        if packets > 0 {
            self.until = Some(turn.end + self.limit);
        }
        let before = self.since.take();
        if let Some(since) = before {
            // A turn that found something was none of it.
            let end = if packets > 0 { turn.start } else { turn.end };
            self.idled += end.saturating_duration_since(since);
        }
        if self.until.is_some_and(|until| turn.end < until) {
            self.since = Some(turn.end);
        }
        self.since.is_some()
    }

    /// Time spent in vain since the last call.
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
    fn it_goes_on_for_its_time_after_each_packet() {
        let start = Instant::now();
        let mut poll = BusyPoll::new(us(50));
        let turn = |from, to| start + us(from)..start + us(to);
        assert!(!poll.goes_on(turn(0, 2), 0), "nothing has come yet");
        assert!(poll.goes_on(turn(10, 12), 1));
        assert!(poll.goes_on(turn(13, 15), 0));
        assert!(poll.goes_on(turn(40, 42), 2), "from here again");
        assert!(poll.goes_on(turn(80, 91), 0));
        assert!(!poll.goes_on(turn(91, 92), 0));
        assert!(!poll.goes_on(turn(500, 502), 0), "woken by something else");
        // All but the turn that found something.
        assert_eq!(poll.take_idled(), us(28 + 50));
        assert_eq!(poll.take_idled(), Duration::ZERO);
    }

    #[test]
    fn it_is_off_when_its_time_is_zero() {
        let start = Instant::now();
        let mut poll = BusyPoll::new(Duration::ZERO);
        assert!(!poll.goes_on(start..start, 10));
        assert_eq!(poll.take_idled(), Duration::ZERO);
    }
}
