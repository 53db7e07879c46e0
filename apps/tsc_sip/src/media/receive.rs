//! What arrived: loss, duplicates, order and jitter of one source (RFC 3550 appendix A).

use std::time::Instant;

use super::SAMPLE_RATE;

/// Sequence numbers remembered to recognise duplicates: over 20 s of speech.
const WINDOW: u64 = 1024;
/// A jump forward of this many or more is not believed at once (RFC 3550 A.1).
const MAX_DROPOUT: u16 = 3000;
/// A packet this much behind is not believed at once (RFC 3550 A.1), unless it is one of those that are missing: over several streams one
/// of which was stuck, many come seconds late.
const MAX_MISORDER: u16 = 100;

/// Counts of one source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReceiveStats {
    /// Packets expected by their sequence numbers.
    pub expected: u64,
    /// Packets that arrived, each counted once.
    pub received: u64,
    /// Of these, such that came after a packet with a higher sequence number.
    pub reordered: u64,
    /// Further copies.
    pub duplicated: u64,
    /// Packets whose sequence number was not believed.
    pub implausible: u64,
    /// Interarrival jitter in units of the RTP clock.
    pub jitter: u32,
}

impl ReceiveStats {
    /// Expected, but not arrived.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.expected.saturating_sub(self.received)
    }
}

/// What became of one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// New. Play it, `offset` samples after the first packet's (before, if negative).
    New {
        /// Place of its first sample.
        offset: i64,
    },
    /// A copy of one that was here already.
    Duplicate,
    /// Its sequence number is too far away: dropped, unless the next one continues from it.
    Implausible,
}

/// The receiving end of one source. The source is known by signalling, so there is no probation (RFC 3550
/// A.1 has it for sources that appear from nowhere).
#[derive(Debug, Default)]
pub struct Receiver {
    state: Option<State>,
    stats: ReceiveStats,
    /// Expected packets before the last restart of the sequence.
    settled: u64,
    /// As of the last report, for its fraction lost.
    prior: (u64, u64),
}

#[derive(Debug)]
struct State {
    first_arrival: Instant,
    /// Extended sequence numbers; they start one cycle up, so that nothing goes below zero.
    base: u64,
    highest: u64,
    /// One flag for each of the last [`WINDOW`] extended sequence numbers.
    seen: Vec<bool>,
    /// Newest timestamp, and its distance from the first.
    timestamp: (u32, i64),
    /// Transit of the last packet in clock units, and the jitter times 16 (A.8).
    transit: i64,
    jitter: u32,
    /// Where a sequence that jumped would go on.
    restart_at: Option<u16>,
}

impl Receiver {
    /// A receiver to which nothing has come.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one packet.
    pub fn receive(&mut self, now: Instant, sequence: u16, timestamp: u32) -> Received {
        let Some(state) = &mut self.state else {
            self.state = Some(State::new(now, sequence, timestamp));
            self.stats.received = 1;
            return Received::New { offset: 0 };
        };
        let distance = sequence.wrapping_sub(low_bits(state.highest));
        let back = distance.wrapping_neg();
        if distance >= MAX_DROPOUT && back >= MAX_MISORDER && !state.is_missing(back) {
            if state.restart_at != Some(sequence) {
                state.restart_at = Some(sequence.wrapping_add(1));
                self.stats.implausible += 1;
                return Received::Implausible;
            }
            // Two in a row: the sender restarted its sequence.
            self.settled += state.highest - state.base + 1;
            state.base = (1 << 16) + u64::from(sequence);
            state.highest = state.base - 1;
            state.seen.fill(false);
        }
        state.restart_at = None;
        let distance = sequence.wrapping_sub(low_bits(state.highest));
        let extended = if distance < MAX_DROPOUT {
            state.highest + u64::from(distance)
        } else {
            state.highest - u64::from(distance.wrapping_neg())
        };
        if extended <= state.highest {
            if state.flag(extended).is_some_and(|seen| *seen) {
                self.stats.duplicated += 1;
                return Received::Duplicate;
            }
            self.stats.reordered += 1;
        }
        state.advance_to(extended);
        if let Some(seen) = state.flag(extended) {
            *seen = true;
        }
        self.stats.received += 1;
        let offset = state.offset(timestamp);
        state.note_transit(now, offset);
        Received::New { offset }
    }

    /// The counts so far.
    #[must_use]
    pub fn stats(&self) -> ReceiveStats {
        let mut stats = self.stats;
        if let Some(state) = &self.state {
            stats.expected = self.settled + (state.highest - state.base) + 1;
            stats.jitter = state.jitter >> 4;
        }
        stats
    }

    /// Extended highest sequence number for a report, as RFC 3550 counts it (cycles from zero).
    #[must_use]
    pub fn extended_highest(&self) -> u32 {
        let highest = self.state.as_ref().map_or(0, |s| s.highest - (1 << 16));
        u32::try_from(highest & u64::from(u32::MAX)).unwrap_or_default()
    }

    /// Fraction lost since the last call, in 1/256 (A.3).
    pub fn fraction_lost(&mut self) -> u8 {
        let stats = self.stats();
        let expected = stats.expected - self.prior.0;
        let received = stats.received - self.prior.1;
        self.prior = (stats.expected, stats.received);
        match expected.checked_sub(received) {
            Some(lost) if expected > 0 => u8::try_from(lost * 256 / expected).unwrap_or(u8::MAX),
            _ => 0,
        }
    }
}

impl State {
    fn new(now: Instant, sequence: u16, timestamp: u32) -> Self {
        let base = (1 << 16) + u64::from(sequence);
        let mut state = Self {
            first_arrival: now,
            base,
            highest: base,
            seen: vec![false; usize::try_from(WINDOW).unwrap_or_default()],
            timestamp: (timestamp, 0),
            transit: 0,
            jitter: 0,
            restart_at: None,
        };
        if let Some(seen) = state.flag(base) {
            *seen = true;
        }
        state
    }

    fn flag(&mut self, extended: u64) -> Option<&mut bool> {
        let at = usize::try_from(extended % WINDOW).ok()?;
        self.seen.get_mut(at)
    }

    /// Whether the packet so far behind the newest is within the window, and has not come.
    fn is_missing(&mut self, back: u16) -> bool {
        let back = u64::from(back);
        let is_known = back < WINDOW && self.highest - self.base >= back;
        is_known && self.flag(self.highest - back).is_some_and(|seen| !*seen)
    }

    fn advance_to(&mut self, extended: u64) {
        // The first packets may have overtaken each other: the sequence then begins earlier.
        self.base = self.base.min(extended);
        if extended <= self.highest {
            return;
        }
        // What lies further back than the window is overwritten anyway.
        let from = (self.highest + 1).max(extended.saturating_sub(WINDOW - 1));
        for passed in from..=extended {
            if let Some(seen) = self.flag(passed) {
                *seen = false;
            }
        }
        self.highest = extended;
    }

    /// Distance of a timestamp from the first packet's, over wraps.
    fn offset(&mut self, timestamp: u32) -> i64 {
        let (newest, place) = self.timestamp;
        let step = i64::from(timestamp.wrapping_sub(newest).cast_signed());
        let offset = place + step;
        if step > 0 {
            self.timestamp = (timestamp, offset);
        }
        offset
    }

    fn note_transit(&mut self, now: Instant, offset: i64) {
        let since_first = now.duration_since(self.first_arrival).as_micros();
        let arrival = since_first * u128::from(SAMPLE_RATE) / 1_000_000;
        let transit = i64::try_from(arrival)
            .unwrap_or(i64::MAX)
            .saturating_sub(offset);
        let difference = transit.saturating_sub(self.transit).unsigned_abs();
        // One wild timestamp may not spoil the sum for ever: a minute is more than any network does.
        let difference = u32::try_from(difference)
            .unwrap_or(u32::MAX)
            .min(60 * SAMPLE_RATE);
        self.transit = transit;
        self.jitter = (self.jitter + difference).saturating_sub((self.jitter + 8) >> 4);
    }
}

#[allow(clippy::cast_possible_truncation)] // the low bits are what is asked for
const fn low_bits(extended: u64) -> u16 {
    extended as u16
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    struct World {
        receiver: Receiver,
        start: Instant,
    }

    impl World {
        fn new() -> Self {
            let receiver = Receiver::new();
            let start = Instant::now();
            Self { receiver, start }
        }

        /// Packet `n` of a 20 ms stream, arriving at `at` ms.
        fn packet(&mut self, n: u32, at: u64) -> Received {
            let sequence = 65_530u16.wrapping_add(u16::try_from(n % 65_536).unwrap());
            let timestamp = (u32::MAX - 800).wrapping_add(n * 160);
            let now = self.start + Duration::from_millis(at);
            self.receiver.receive(now, sequence, timestamp)
        }
    }

    #[test]
    fn a_perfect_stream_over_both_wraps() {
        let mut world = World::new();
        for n in 0..50 {
            let got = world.packet(n, u64::from(n) * 20);
            let offset = i64::from(n) * 160;
            assert_eq!(got, Received::New { offset });
        }
        let stats = world.receiver.stats();
        assert_eq!((stats.expected, stats.received, stats.lost()), (50, 50, 0));
        assert_eq!((stats.duplicated, stats.reordered, stats.jitter), (0, 0, 0));
        assert_eq!(world.receiver.extended_highest(), 65_530 + 49);
        assert_eq!(world.receiver.fraction_lost(), 0);
    }

    #[test]
    fn loss_duplicates_and_order_are_told_apart() {
        let mut world = World::new();
        for n in [0, 1, 1, 4, 3, 3, 7] {
            world.packet(n, u64::from(n) * 20);
        }
        let stats = world.receiver.stats();
        assert_eq!(stats.expected, 8);
        assert_eq!(stats.received, 5, "0 1 3 4 7");
        assert_eq!(stats.lost(), 3);
        assert_eq!(stats.duplicated, 2);
        assert_eq!(stats.reordered, 1);
        assert_eq!(world.receiver.fraction_lost(), 96, "3 of 8");
        assert_eq!(world.receiver.fraction_lost(), 0, "nothing since");
    }

    #[test]
    fn the_first_packet_may_have_overtaken_others() {
        let mut world = World::new();
        world.packet(2, 40);
        assert_eq!(world.packet(0, 41), Received::New { offset: -320 });
        assert_eq!(world.packet(1, 42), Received::New { offset: -160 });
        let stats = world.receiver.stats();
        assert_eq!((stats.expected, stats.received, stats.reordered), (3, 3, 2));
    }

    /// By hand from RFC 3550 A.8: transit differences in clock units, J += D - (J + 8 >> 4) on J times 16.
    #[test]
    fn jitter_follows_appendix_a8() {
        let mut world = World::new();
        // Arrival deviations 0, 5, 0, 10, 0 ms: D = 40, 40, 80, 80 samples.
        let mut expected = 0u32;
        for (n, (deviation, difference)) in [(0, 0), (5, 40), (0, 40), (10, 80), (0, 80)]
            .into_iter()
            .enumerate()
        {
            let n = u32::try_from(n).unwrap();
            world.packet(n, u64::from(n) * 20 + deviation);
            if n > 0 {
                expected = expected + difference - ((expected + 8) >> 4);
            }
        }
        // 40; 40 + 40 - 3 = 77; 77 + 80 - 5 = 152; 152 + 80 - 10 = 222.
        assert_eq!(expected, 222);
        assert_eq!(world.receiver.stats().jitter, 222 >> 4);
    }

    #[test]
    fn what_comes_seconds_late_fills_its_place_and_is_no_new_beginning() {
        let mut world = World::new();
        for n in (0..10).chain(300..310) {
            world.packet(n, u64::from(n) * 20);
        }
        assert_eq!(world.receiver.stats().lost(), 290);
        // All that was stuck comes at once, while others go on.
        for n in 10..300 {
            let got = world.packet(n, 6_200);
            let offset = i64::from(n) * 160;
            assert_eq!(got, Received::New { offset });
        }
        world.packet(310, 6_200);
        let stats = world.receiver.stats();
        assert_eq!(
            (stats.expected, stats.received, stats.lost()),
            (311, 311, 0)
        );
        assert_eq!((stats.reordered, stats.implausible), (290, 0));
        // A sequence that begins anew among those that have come is one.
        assert_eq!(world.packet(150, 6_240), Received::Implausible);
        assert!(matches!(world.packet(151, 6_260), Received::New { .. }));
    }

    #[test]
    fn a_restarted_sequence_is_believed_with_its_second_packet() {
        let mut world = World::new();
        for n in 0..10 {
            world.packet(n, u64::from(n) * 20);
        }
        assert_eq!(world.packet(20_000, 200), Received::Implausible);
        assert!(matches!(world.packet(10, 201), Received::New { .. }));
        assert_eq!(world.packet(20_000, 220), Received::Implausible);
        assert!(matches!(world.packet(20_001, 240), Received::New { .. }));
        assert!(matches!(world.packet(20_002, 260), Received::New { .. }));
        let stats = world.receiver.stats();
        assert_eq!(
            (stats.expected, stats.received, stats.implausible),
            (13, 13, 2)
        );
    }
}
