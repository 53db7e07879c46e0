//! The streams that wait for their turn, and how far their peers may run ahead.
//!
//! The system's receive buffers take 64 KiB of each stream at first, and megabytes once it has tuned them. A worker that is
//! offered more than it can do reads the streams in turns, and all that comes to it is as old as those buffers are deep:
//! many seconds, also after the overload. To read and drop it would be at the cost of what can be forwarded. So the worker
//! makes the buffers as small as brings the wait down to [`TARGET`], if it can: the peers hold back, and do what only a
//! sender can, which is to let signalling pass and to drop media that is too old (`tsc_osaa::stream`). All streams
//! have the same, so none gets ahead of the others. Below [`LEAST`] it does not go: what is cut off from what is under way
//! has to be sent again, and little at a time costs more of the processor than is left.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use super::ready::Token;

/// How long a stream may wait for its turn: half of what media may wait at the sender, by default.
const TARGET: Duration = Duration::from_millis(100);

/// Time between changes.
const INTERVAL: Duration = Duration::from_millis(50);

/// The least that may wait: what Linux begins with (tcp_rmem).
const LEAST: u32 = 64 * 1024;

/// Not limited any more.
const MOST: u32 = 1 << 20;

/// See the module.
#[derive(Debug)]
pub(super) struct Backlog {
    /// And since when. Bounded by the number of streams, as each is listed once.
    streams: VecDeque<(Instant, Arc<Token>)>,
    now: Instant,
    /// See [`Self::limit`].
    limit: Option<u32>,
    was_behind: bool,
    seen: Seen,
}

/// What was seen since the last change.
#[derive(Debug)]
struct Seen {
    since: Instant,
    /// The longest that a stream has waited.
    waited: Duration,
    /// What was read.
    bytes: u128,
}

impl Backlog {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            streams: VecDeque::new(),
            now,
            limit: None,
            was_behind: false,
            seen: Seen::new(now),
        }
    }

    /// A turn begins. Then [`Self::push`] what is ready, and [`Self::adapt`].
    pub(super) const fn begin_turn(&mut self, now: Instant) {
        self.now = now;
    }

    /// Adapts the limit to what was seen, a few times a second.
    pub(super) fn adapt(&mut self) {
        let seen = &self.seen;
        let time = self.now.saturating_duration_since(seen.since);
        if time < INTERVAL {
            return;
        }
        let behind = seen.waited > TARGET && !self.streams.is_empty();
        // Once may be a pause of the process.
        if behind && self.was_behind {
            // What is read in that time, in equal parts; in steps, so that it does not change for nothing.
            let all = seen.bytes * TARGET.as_micros() / time.as_micros();
            let each = all / self.streams.len() as u128;
            let each = u32::try_from(each).unwrap_or(MOST).clamp(LEAST, MOST);
            self.limit = Some(1 << each.ilog2());
        } else if seen.waited < TARGET / 2 {
            let more = self.limit.map(|limit| limit.saturating_mul(2));
            self.limit = more.filter(|limit| *limit < MOST);
        }
        self.was_behind = behind;
        self.seen = Seen::new(self.now);
    }

    /// A stream has something to read.
    pub(super) fn push(&mut self, token: Arc<Token>) {
        self.streams.push_back((self.now, token));
    }

    /// The stream whose turn it is.
    pub(super) fn pop(&mut self) -> Option<Arc<Token>> {
        let (since, token) = self.streams.pop_front()?;
        let waited = self.now.saturating_duration_since(since);
        self.seen.waited = self.seen.waited.max(waited);
        Some(token)
    }

    /// So much was read of it.
    pub(super) const fn read(&mut self, bytes: usize) {
        self.seen.bytes += bytes as u128;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// How many bytes of a stream may wait in the system; `None` leaves it to the system.
    pub(super) const fn limit(&self) -> Option<u32> {
        self.limit
    }
}

impl Seen {
    const fn new(since: Instant) -> Self {
        Self {
            since,
            waited: Duration::ZERO,
            bytes: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::ready::ReadyList, *};

    const STREAMS: usize = 50;
    /// What the worker takes of a stream in one turn at most.
    const VISIT: usize = 256 * 1024;
    const TURN: Duration = Duration::from_millis(10);

    /// A worker and streams that always have as much to read as they may send ahead, or `most`.
    struct Peers {
        backlog: Backlog,
        tokens: Vec<Arc<Token>>,
        now: Instant,
    }

    impl Peers {
        fn new() -> Self {
            let now = Instant::now();
            let list = Arc::new(ReadyList::default());
            Self {
                backlog: Backlog::new(now),
                tokens: (0..STREAMS).map(|index| list.token(index)).collect(),
                now,
            }
        }

        /// Turns for so long that take so many bytes each; the longest wait in the last second.
        fn run(&mut self, time: Duration, per_turn: usize, most: usize) -> Duration {
            let end = self.now + time;
            let mut longest = Duration::ZERO;
            while self.now < end {
                self.now += TURN;
                self.backlog.begin_turn(self.now);
                if self.backlog.is_empty() {
                    for token in &self.tokens {
                        self.backlog.push(Arc::clone(token));
                    }
                }
                self.backlog.adapt();
                let mut left = per_turn;
                while left > 0
                    && let Some(token) = self.backlog.pop()
                {
                    let limit = self.backlog.limit().map_or(most, |limit| limit as usize);
                    let bytes = limit.min(most).min(VISIT).min(left);
                    left -= bytes;
                    self.backlog.read(bytes);
                    token.take();
                    self.backlog.push(token);
                    if self.now + Duration::from_secs(1) > end {
                        longest = longest.max(self.backlog.seen.waited);
                    }
                }
            }
            longest
        }
    }

    #[test]
    fn streams_wait_no_longer_than_media_may_however_much_they_have() {
        let mut peers = Peers::new();
        // 100 MB a second: all that may be read of each in a turn would wait 130 ms, and what is in the buffers longer.
        let wait = peers.run(Duration::from_secs(20), 1 << 20, 6 << 20);
        assert!(wait <= TARGET * 3 / 2, "{wait:?}");
        let limit = peers.backlog.limit().unwrap();
        assert!(limit > LEAST && (limit as usize) < VISIT, "{limit}");
        assert!(limit.is_power_of_two(), "{limit}");
    }

    #[test]
    fn no_limit_is_less_than_what_the_system_begins_with() {
        let mut peers = Peers::new();
        let wait = peers.run(Duration::from_secs(20), 100 << 10, 6 << 20);
        assert!(wait > TARGET, "{wait:?}");
        assert_eq!(peers.backlog.limit(), Some(LEAST));
    }

    #[test]
    fn a_worker_that_keeps_up_leaves_buffers_to_the_system() {
        let mut peers = Peers::new();
        // Bytes that are read at once, as many as they are.
        peers.run(Duration::from_secs(5), STREAMS * 20_000, 20_000);
        assert_eq!(peers.backlog.limit(), None);
    }

    #[test]
    fn a_single_pause_limits_nothing() {
        let mut peers = Peers::new();
        peers.run(Duration::from_secs(1), STREAMS * 20_000 / 2, 20_000);
        peers.now += Duration::from_secs(2);
        for _ in 0..100 {
            peers.run(TURN, STREAMS * 20_000, 20_000);
            assert_eq!(peers.backlog.limit(), None);
        }
    }

    #[test]
    fn once_it_keeps_up_again_buffers_are_given_back() {
        let mut peers = Peers::new();
        peers.run(Duration::from_secs(5), 1 << 20, 6 << 20);
        assert!(peers.backlog.limit().is_some());
        peers.run(Duration::from_secs(1), STREAMS * 20_000, 20_000);
        assert_eq!(peers.backlog.limit(), None);
    }
}
