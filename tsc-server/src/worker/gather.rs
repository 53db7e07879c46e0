//! Letting packets gather: under load a worker rests a moment between its turns.
//!
//! A packet that is read, sent and woken for alone costs the system several times what it costs in company: datagrams to one
//! peer leave as one train (GSO), units for one stream in one write, and one wake-up serves all. With many tunnels a turn has
//! more than one packet of each only if it has hundreds in all. So beyond a rate that keeps a worker busy it waits until
//! that many should have come, as network cards do with their interrupts. Below that rate, where there is nothing to
//! gain, every packet is served at once.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use super::batch::BATCH_PACKETS;

/// Packets a second from which on a worker rests, at first for next to nothing.
const FROM_RATE: f64 = 30_000.0;

/// Packets a second from which on it rests as long as it may.
const FULL_RATE: f64 = 60_000.0;

/// How long the rate is measured before it is believed.
const WINDOW: Duration = Duration::from_millis(4);

/// Bytes of a socket's receive buffer to each packet that may gather: the system's book-keeping for the largest that are usual, and
/// nearly as much again for packets that come in bursts.
pub(super) const BUFFER_EACH: usize = 4096;

/// See the module.
#[derive(Debug)]
pub(super) struct Gather {
    limit: Duration,
    /// Most packets to wait for.
    packets: f64,
    /// Packets a second, in the last whole window.
    rate: f64,
    since: Instant,
    taken: usize,
}

impl Gather {
    /// Rests for `limit` at most. What gathers must fit wherever packets wait: so many may.
    pub(super) fn new(now: Instant, limit: Duration, fits: usize) -> Self {
        let packets = u32::try_from(fits.min(BATCH_PACKETS)).unwrap_or(u32::MAX);
        Self {
            limit,
            packets: packets.into(),
            rate: 0.0,
            since: now,
            taken: 0,
        }
    }

    /// A turn has ended that has taken so many packets: how long to rest before the next.
    pub(super) fn rest(&mut self, turn: Range<Instant>, packets: usize) -> Duration {
        let now = turn.end;
        self.taken += packets;
        let window = now.saturating_duration_since(self.since);
        if window >= WINDOW {
            let taken = u32::try_from(self.taken).unwrap_or(u32::MAX);
            self.rate = f64::from(taken) / window.as_secs_f64();
            self.since = now;
            self.taken = 0;
        }
        let share = (self.rate - FROM_RATE) / (FULL_RATE - FROM_RATE);
        // A turn that found nothing was the last of its burst.
        if share <= 0.0 || packets == 0 {
            return Duration::ZERO;
        }
        let until_full = Duration::from_secs_f64(self.packets / self.rate);
        let interval = self.limit.mul_f64(share.min(1.0)).min(until_full);
        interval.saturating_sub(now.saturating_duration_since(turn.start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(1);

    /// Packets that come evenly, for a worker that takes 2 us for each and wakes when one is there: the times
    /// between its turns at the end, and the longest rest.
    fn turns(gather: &mut Gather, start: Instant, rate: f64) -> (Duration, Duration) {
        let end = start + Duration::from_millis(100);
        let each = Duration::from_secs_f64(1.0 / rate);
        let (mut now, mut next, mut longest) = (start, start + each, Duration::ZERO);
        let mut between = Duration::ZERO;
        while now < end {
            let before = now;
            now = now.max(next);
            let begun = now;
            let mut packets = 0;
            while next <= now && packets < BATCH_PACKETS {
                next += each;
                packets += 1;
            }
            now += Duration::from_micros(2) * u32::try_from(packets).unwrap();
            let rest = gather.rest(begun..now, packets);
            longest = longest.max(rest);
            now += rest;
            between = now - before;
        }
        (between, longest)
    }

    fn gather(start: Instant, buffer: usize) -> Gather {
        Gather::new(start, LIMIT, buffer / BUFFER_EACH)
    }

    #[test]
    fn at_moderate_rates_nothing_waits() {
        let start = Instant::now();
        for rate in [50.0, 5_000.0, 29_000.0] {
            let (_, rest) = turns(&mut gather(start, 8 << 20), start, rate);
            assert_eq!(rest, Duration::ZERO, "{rate}");
        }
    }

    #[test]
    fn the_more_come_the_longer_it_rests_but_never_longer_than_it_may() {
        let start = Instant::now();
        let rest = |rate| turns(&mut gather(start, 8 << 20), start, rate);
        let (between, some) = rest(45_000.0);
        assert!(!some.is_zero() && some < LIMIT && between < LIMIT);
        let (between, most) = rest(200_000.0);
        assert!(most <= LIMIT && between <= LIMIT, "{between:?}");
        assert!(between > LIMIT / 2, "{between:?}");
    }

    #[test]
    fn a_busy_worker_does_not_rest() {
        let start = Instant::now();
        let mut gather = gather(start, 8 << 20);
        let mut now = start;
        for _ in 0..20 {
            let begun = now;
            now += Duration::from_millis(2);
            assert_eq!(gather.rest(begun..now, BATCH_PACKETS), Duration::ZERO);
        }
    }

    #[test]
    fn what_gathers_fits_the_receive_buffer() {
        let start = Instant::now();
        let rate = 200_000.0;
        let (between, _) = turns(&mut gather(start, 208 << 10), start, rate);
        let gathered = between.as_secs_f64() * rate;
        assert!((30.0..60.0).contains(&gathered), "{gathered}");
    }

    #[test]
    fn after_a_burst_it_is_awake_at_once() {
        let start = Instant::now();
        let mut gather = gather(start, 8 << 20);
        turns(&mut gather, start, 200_000.0);
        let later = start + Duration::from_secs(1);
        assert_eq!(gather.rest(later..later, 0), Duration::ZERO);
        assert_eq!(gather.rest(later..later, 1), Duration::ZERO);
    }

    #[test]
    fn it_can_be_switched_off() {
        let start = Instant::now();
        let mut gather = Gather::new(start, Duration::ZERO, BATCH_PACKETS);
        let (_, rest) = turns(&mut gather, start, 200_000.0);
        assert_eq!(rest, Duration::ZERO);
    }
}
