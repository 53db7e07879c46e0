//! What a listener hears: a jitter buffer with a deadline, and concealment of what misses it. Sans-IO.
//!
//! ```text
//!   put(now, offset, samples) -> waiting, by timestamp -> every 20 ms the device takes a frame -> rendered
//!                                                            | missing: concealed
//! ```
//!
//! There is no ticker: what the device has taken by now follows from the clock, and is worked out when the next packet
//! comes and at the end. A packet is *late* when its frame has been taken.
//!
//! How long packets wait ([`PlayoutDelay`]) is fixed from the first packet on, or follows the network: of the last ten seconds it
//! covers all packets but one in 500, and is 60 to 200 ms. It is changed where it is hardly heard, by a frame more or
//! less in pauses, or by a frame more where one is missing.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{SAMPLE_RATE, SAMPLES_PER_PACKET, conceal::Concealer};
use crate::sdp::PACKET_TIME;

/// Samples of a frame, as a signed number.
const FRAME: i64 = 160;
/// Samples that wait at most, two seconds: what is further ahead is another beginning.
const AHEAD: usize = 16_000;
/// Packets that the network is judged by: those of ten seconds.
const REMEMBERED: usize = 500;
/// Waiting beyond what was seen, for clocks that are not quite exact.
const MARGIN: Duration = Duration::from_millis(10);
/// Mean amplitude of a pause, of 32,768: some 50 dB below the loudest.
const PAUSE: u64 = 100;

/// How long packets wait for those that come later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlayoutDelay {
    /// So long after the schedule that starts with the first packet.
    Fixed(Duration),
    /// As the network makes it necessary: [`PlayoutDelay::LEAST`] to [`PlayoutDelay::MOST`].
    Adaptive,
}

impl PlayoutDelay {
    /// Shortest that the network can bring about, and the fixed one by default.
    pub const LEAST: Duration = Duration::from_millis(60);
    /// Longest: beyond it people begin to talk at the same time.
    pub const MOST: Duration = Duration::from_millis(200);
}

impl Default for PlayoutDelay {
    fn default() -> Self {
        Self::Fixed(Self::LEAST)
    }
}

/// What the device has taken so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlayoutStats {
    /// Packets that came when their frame had been taken.
    pub late: u64,
    /// Frames with something missing, and how often that began.
    pub concealed: u64,
    /// Gaps: one or more of these frames in a row.
    pub gaps: u64,
    /// Frames in all.
    pub frames: u64,
    /// Mean time from when a packet of the fastest way would have come until it was played.
    pub delay: Duration,
}

/// The receiving end of one call, as it is heard.
#[derive(Debug)]
pub struct Playout {
    delay: PlayoutDelay,
    /// Samples that are kept of what was heard.
    room: usize,
    state: Option<State>,
    concealer: Concealer,
    rendered: Vec<i16>,
    stats: PlayoutStats,
    /// Sum of the delays of all frames.
    delays: Duration,
    in_gap: bool,
}

#[derive(Debug)]
struct State {
    /// Where offset 0 was when the first packet came.
    origin: Instant,
    /// When the device takes the next frame.
    next_at: Instant,
    /// Its first sample, counted from the first packet's.
    cursor: i64,
    begun: bool,
    /// Samples from `cursor` on, as far as they have come.
    waiting: VecDeque<Option<i16>>,
    /// Microseconds that the last packets needed beyond the first one.
    transits: VecDeque<i64>,
}

impl Playout {
    /// Keeps up to `room` samples of what is heard.
    #[must_use]
    pub fn new(delay: PlayoutDelay, room: usize) -> Self {
        Self {
            delay,
            room,
            state: None,
            concealer: Concealer::default(),
            rendered: Vec::new(),
            stats: PlayoutStats::default(),
            delays: Duration::ZERO,
            in_gap: false,
        }
    }

    /// Takes the samples of a packet, `offset` samples after the first packet's first (before, if negative). Returns whether
    /// it is late.
    pub fn put(&mut self, now: Instant, offset: i64, samples: &[i16]) -> bool {
        self.advance(now);
        let first_wait = match self.delay {
            PlayoutDelay::Fixed(delay) => delay,
            PlayoutDelay::Adaptive => PlayoutDelay::LEAST,
        };
        let state = self
            .state
            .get_or_insert_with(|| State::new(now, offset, first_wait));
        state.note_transit(now, offset);
        state.begin_before(now, offset);
        let end = offset.saturating_add(i64::try_from(samples.len()).unwrap_or(i64::MAX));
        if end <= state.cursor {
            self.stats.late += 1;
            return true;
        }
        if end.saturating_sub(state.cursor) > i64::try_from(AHEAD).unwrap_or(i64::MAX) {
            state.begin_anew(now, offset, first_wait);
        }
        state.place(offset, samples);
        false
    }

    /// Plays what is due before `now`.
    fn advance(&mut self, now: Instant) {
        while let Some(state) = &mut self.state
            && state.next_at < now
        {
            state.begun = true;
            if state.waiting.is_empty() && now - state.next_at > duration_of(AHEAD) {
                self.pass(now);
            } else {
                self.frame();
            }
        }
    }

    /// Nothing came for a long time: all frames of it at once.
    fn pass(&mut self, now: Instant) {
        let Some(state) = &mut self.state else {
            return;
        };
        let frames = (now - state.next_at).as_millis() / PACKET_TIME.as_millis();
        let frames = u32::try_from(frames).unwrap_or(u32::MAX);
        state.next_at += PACKET_TIME * frames;
        state.cursor = state.cursor.saturating_add(i64::from(frames) * FRAME);
        self.stats.gaps += u64::from(!self.in_gap);
        self.in_gap = true;
        self.stats.frames += u64::from(frames);
        self.stats.concealed += u64::from(frames);
        self.delays = self
            .delays
            .saturating_add(state.delay().saturating_mul(frames));
        let silence = usize::try_from(frames)
            .unwrap_or(usize::MAX)
            .saturating_mul(SAMPLES_PER_PACKET);
        let length = self.rendered.len().saturating_add(silence).min(self.room);
        self.rendered.resize(length.max(self.rendered.len()), 0);
    }

    /// The device takes a frame.
    fn frame(&mut self) {
        let Some(state) = &mut self.state else {
            return;
        };
        let mut inserted = false;
        if let PlayoutDelay::Adaptive = self.delay {
            let (delay, target) = (state.delay(), state.target());
            if delay + PACKET_TIME <= target && (state.is_missing() || state.is_pause()) {
                inserted = true;
            } else if delay >= target + 2 * PACKET_TIME && state.is_pause() {
                let _skipped = state.take();
            }
        }
        let mut out = Vec::with_capacity(SAMPLES_PER_PACKET);
        if inserted {
            self.concealer.conceal(SAMPLES_PER_PACKET, &mut out);
        } else {
            let mut is_gap = false;
            self.delays = self.delays.saturating_add(state.delay());
            self.stats.frames += 1;
            let frame = state.take();
            for run in frame.chunk_by(|a, b| a.is_some() == b.is_some()) {
                let real: Vec<i16> = run.iter().copied().flatten().collect();
                if real.is_empty() {
                    is_gap = true;
                    self.concealer.conceal(run.len(), &mut out);
                } else {
                    self.concealer.real(&real, &mut out);
                }
            }
            self.stats.concealed += u64::from(is_gap);
            self.stats.gaps += u64::from(is_gap && !self.in_gap);
            self.in_gap = is_gap;
        }
        state.next_at += PACKET_TIME;
        let room = self.room.saturating_sub(self.rendered.len());
        self.rendered.extend(out.into_iter().take(room));
    }

    /// The figures so far.
    #[must_use]
    pub fn stats(&self) -> PlayoutStats {
        let frames = u32::try_from(self.stats.frames).unwrap_or(u32::MAX);
        let delay = self.delays.checked_div(frames).unwrap_or_default();
        PlayoutStats {
            delay,
            ..self.stats
        }
    }

    /// Plays all that waits, and gives what was heard.
    #[must_use]
    pub fn finish(&mut self) -> Vec<i16> {
        while self
            .state
            .as_ref()
            .is_some_and(|state| !state.waiting.is_empty())
        {
            self.frame();
        }
        std::mem::take(&mut self.rendered)
    }
}

impl State {
    fn new(now: Instant, offset: i64, wait: Duration) -> Self {
        Self {
            origin: now,
            next_at: now + wait,
            cursor: offset,
            begun: false,
            waiting: VecDeque::new(),
            transits: VecDeque::new(),
        }
    }

    /// A packet that the first ones had overtaken: if its time has not come, playing begins with it.
    fn begin_before(&mut self, now: Instant, offset: i64) {
        let missing = usize::try_from(self.cursor.saturating_sub(offset)).unwrap_or(0);
        let earlier = self.next_at.checked_sub(duration_of(missing));
        if let Some(at) = earlier.filter(|at| *at >= now)
            && !self.begun
            && missing > 0
        {
            self.next_at = at;
            self.cursor = offset;
            for _ in 0..missing {
                self.waiting.push_front(None);
            }
        }
    }

    /// The other side's clock has jumped.
    fn begin_anew(&mut self, now: Instant, offset: i64, wait: Duration) {
        self.waiting.clear();
        self.transits.clear();
        self.cursor = offset;
        self.next_at = now + wait;
        self.note_transit(now, offset);
    }

    fn place(&mut self, offset: i64, samples: &[i16]) {
        let past = usize::try_from(self.cursor.saturating_sub(offset)).unwrap_or(0);
        let begin = usize::try_from(offset.saturating_sub(self.cursor)).unwrap_or(0);
        let samples = samples.get(past..).unwrap_or_default();
        let end = (begin + samples.len()).min(AHEAD);
        if self.waiting.len() < end {
            self.waiting.resize(end, None);
        }
        for (place, sample) in self.waiting.iter_mut().skip(begin).zip(samples) {
            *place = Some(*sample);
        }
    }

    fn note_transit(&mut self, now: Instant, offset: i64) {
        let since = i64::try_from(now.saturating_duration_since(self.origin).as_micros());
        let transit = since.unwrap_or(i64::MAX).saturating_sub(micros_of(offset));
        if self.transits.len() == REMEMBERED {
            self.transits.pop_front();
        }
        self.transits.push_back(transit);
    }

    /// The fastest way of late.
    fn base(&self) -> i64 {
        self.transits.iter().copied().min().unwrap_or(0)
    }

    /// How long after a packet of the fastest way the next frame is played.
    fn delay(&self) -> Duration {
        let at = i64::try_from(
            self.next_at
                .saturating_duration_since(self.origin)
                .as_micros(),
        );
        let due = micros_of(self.cursor).saturating_add(self.base());
        let delay = at.unwrap_or(i64::MAX).saturating_sub(due);
        Duration::from_micros(u64::try_from(delay).unwrap_or(0))
    }

    /// What covers the last packets, but for one of 500.
    fn target(&self) -> Duration {
        let (mut slowest, mut second) = (i64::MIN, i64::MIN);
        for transit in &self.transits {
            if *transit > slowest {
                second = slowest;
                slowest = *transit;
            } else {
                second = second.max(*transit);
            }
        }
        let spread = u64::try_from(second.saturating_sub(self.base())).unwrap_or(0);
        (Duration::from_micros(spread) + MARGIN).clamp(PlayoutDelay::LEAST, PlayoutDelay::MOST)
    }

    fn next_frame(&self) -> impl Iterator<Item = Option<i16>> {
        self.waiting.iter().copied().take(SAMPLES_PER_PACKET)
    }

    fn is_missing(&self) -> bool {
        self.next_frame().flatten().next().is_none()
    }

    fn is_pause(&self) -> bool {
        let (mut sum, mut count) = (0, 0);
        for sample in self.next_frame().flatten() {
            sum += u64::from(sample.unsigned_abs());
            count += 1;
        }
        count == SAMPLES_PER_PACKET && sum / 160 < PAUSE
    }

    fn take(&mut self) -> Vec<Option<i16>> {
        let there = self.waiting.len().min(SAMPLES_PER_PACKET);
        let mut frame: Vec<_> = self.waiting.drain(..there).collect();
        frame.resize(SAMPLES_PER_PACKET, None);
        self.cursor = self.cursor.saturating_add(FRAME);
        frame
    }
}

fn duration_of(samples: usize) -> Duration {
    let samples = u64::try_from(samples).unwrap_or(u64::MAX);
    Duration::from_micros(samples.saturating_mul(1_000_000 / u64::from(SAMPLE_RATE)))
}

const fn micros_of(samples: i64) -> i64 {
    samples.saturating_mul(125)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIXED: PlayoutDelay = PlayoutDelay::Fixed(Duration::from_millis(60));

    struct World {
        playout: Playout,
        start: Instant,
    }

    impl World {
        fn new(delay: PlayoutDelay) -> Self {
            Self {
                playout: Playout::new(delay, usize::MAX),
                start: Instant::now(),
            }
        }

        /// Packet `n` of a stream whose samples are `loud`, arriving at `at` ms.
        fn packet(&mut self, n: i64, at: u64, loud: i16) -> bool {
            let now = self.start + Duration::from_millis(at);
            self.playout.put(now, n * 160, &[loud; 160])
        }
    }

    #[test]
    fn what_is_in_time_is_heard_as_it_was_sent() {
        let mut world = World::new(FIXED);
        for n in 0..50u8 {
            let at = u64::from(n) * 20 + [0, 59, 7][usize::from(n % 3)];
            assert!(!world.packet(n.into(), at, (n + 1).into()));
        }
        let heard = world.playout.finish();
        let sent: Vec<i16> = (1..=50).flat_map(|n| [n; 160]).collect();
        assert_eq!(heard, sent);
        let stats = world.playout.stats();
        assert_eq!((stats.late, stats.concealed, stats.frames), (0, 0, 50));
        assert_eq!(stats.delay, Duration::from_millis(60));
    }

    #[test]
    fn what_misses_its_frame_is_late_and_concealed() {
        let mut world = World::new(FIXED);
        world.packet(0, 0, 500);
        assert!(!world.packet(1, 80, 500), "at the last moment");
        assert!(world.packet(2, 101, 500));
        // 3 and 4 never come.
        assert!(!world.packet(5, 101, 500));
        let heard = world.playout.finish();
        assert_eq!(heard.len(), 6 * 160, "time goes on");
        let stats = world.playout.stats();
        assert_eq!((stats.late, stats.concealed, stats.gaps), (1, 3, 1));
    }

    #[test]
    fn packets_that_the_first_had_overtaken_are_played_before_it() {
        let mut world = World::new(FIXED);
        world.packet(2, 0, 3);
        assert!(!world.packet(1, 1, 2));
        assert!(!world.packet(0, 2, 1));
        assert!(world.packet(-3, 3, 9), "its time was before");
        let heard = world.playout.finish();
        assert_eq!([heard[0], heard[160], heard[320]], [1, 2, 3]);
    }

    /// A stream that stands still for 150 ms now and then, as over TCP: what came late at first does not after a while.
    #[test]
    fn the_adaptive_delay_follows_the_network_and_comes_back() {
        let mut world = World::new(PlayoutDelay::Adaptive);
        // Half a second of speech, half a second of a pause.
        let loud = |n: u64| if n % 50 < 25 { 5000 } else { 0 };
        let mut late = [0; 4];
        for n in 0..2000u64 {
            let at = n * 20;
            // From the second second to the twentieth, eight packets of each fifty come together with the last of them.
            let stalled = (50..1000).contains(&n) && n % 50 < 8;
            let at = if stalled { n / 50 * 1000 + 150 } else { at };
            let is_late = world.packet(i64::try_from(n).unwrap(), at, loud(n));
            late[usize::try_from(n / 500).unwrap()] += u32::from(is_late);
            if n == 999 {
                let delay = world.playout.state.as_ref().unwrap().delay();
                assert!((150..=200).contains(&delay.as_millis()), "{delay:?}");
            }
        }
        assert!((1..20).contains(&late[0]), "{late:?}");
        assert_eq!(late[1..], [0, 0, 0]);
        let delay = world.playout.state.as_ref().unwrap().delay();
        assert!((60..=100).contains(&delay.as_millis()), "{delay:?}");
        let stats = world.playout.stats();
        assert!(stats.delay > Duration::from_millis(80), "{stats:?}");
    }

    #[test]
    fn the_adaptive_delay_has_an_end() {
        let mut world = World::new(PlayoutDelay::Adaptive);
        let mut late = 0;
        for n in 0..1000u64 {
            // Half a second of nothing every two.
            let at = if n >= 100 && n % 100 < 25 {
                n / 100 * 2000 + 500
            } else {
                n * 20
            };
            late += u32::from(world.packet(i64::try_from(n).unwrap(), at, 0));
            let delay = world.playout.state.as_ref().unwrap().delay();
            assert!(delay < PlayoutDelay::MOST + 2 * PACKET_TIME, "{delay:?}");
        }
        assert!(late > 10 * 10, "{late}: longer than anybody waits");
    }

    #[test]
    fn silence_of_hours_and_jumps_of_the_clock_cost_nothing() {
        let mut world = World::new(PlayoutDelay::Adaptive);
        world.playout.room = 1600;
        world.packet(0, 0, 5);
        world.packet(180_000, 3_600_000, 5);
        assert_eq!(world.playout.stats().late, 0);
        assert!(!world.packet(i64::from(u32::MAX), 3_600_020, 5));
        assert!(!world.packet(i64::from(u32::MAX) + 1, 3_600_040, 5));
        assert!(world.playout.finish().len() <= 1600);
    }
}
