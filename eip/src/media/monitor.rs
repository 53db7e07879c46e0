//! One socket's stream: loss, bursts and jitter as its packets come, and an estimate of the quality.

use std::time::{Duration, Instant};

use super::{Codec, Impairments};

/// Figures are judged over so long.
pub const WINDOW: Duration = Duration::from_secs(5);

/// Fewer packets in a window say nothing.
const FEWEST: u64 = 50;

/// Packets in a row that make a stream where nobody says that there is one.
const PROBATION: u32 = 4;
/// The same for a stream that takes another's place, and where somebody says so (RFC 3550 A.1).
const TAKE_OVER: u32 = 2;

/// A jump of the sequence by so much or more is not believed at once (RFC 3550 A.1).
const MAX_DROPOUT: u16 = 3000;

/// Sequence numbers remembered to know copies.
const REMEMBERED: u64 = 128;

/// Until the clock of a stream has been measured jitter is not known.
const MEASURE_CLOCK: Duration = Duration::from_secs(1);
/// Clocks that a measured one can be.
const CLOCKS: [u32; 6] = [8_000, 16_000, 32_000, 44_100, 48_000, 90_000];

/// From where on operators call a connection bad.
const BAD_LOSS: f64 = 0.05;
const BAD_JITTER: Duration = Duration::from_millis(30);
const BAD_ROUND_TRIP: Duration = Duration::from_millis(300);
const BAD_MOS: f64 = 2.5;
/// An alarm ends below so much of what raised it; for MOS, so much above it.
const CLEAR_BELOW: f64 = 0.8;
const CLEAR_MOS: f64 = 2.8;

/// Of what a socket is watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MediaWatch {
    /// Nothing.
    #[default]
    Off,
    /// RTP, if it comes: four packets of one stream in a row.
    Detect,
    /// RTP comes.
    Rtp {
        /// Ticks of its timestamps in a second; `None` is that of its static payload type (RFC 3551), else measured.
        clock_rate: Option<u32>,
    },
}

/// How the stream that comes to a socket is.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct MediaQuality {
    /// Its synchronization source.
    pub ssrc: u32,
    /// Payload type of its last packet, 0-127.
    pub payload_type: u8,
    /// Packets since it began, each once.
    pub received: u64,
    /// Packets since it began that are missing.
    pub lost: u64,
    /// Share of the packets of the last [`WINDOW`] that is missing, 0 to 1.
    pub loss: f64,
    /// How many packets are missing in a row, on average in that window; 0 if none.
    pub burst: f64,
    /// Interarrival jitter (RFC 3550 6.4.1); zero until the stream's clock is known.
    pub jitter: Duration,
    /// The tunnel's round trip as of its last Keepalive; not that of what is behind the server.
    pub round_trip: Option<Duration>,
    /// Mean opinion score estimated by G.107, 1 to 4.41: by loss, bursts, codec, half the round trip, and a playout delay of twice
    /// the jitter.
    pub mos: f64,
    /// What is worse than operators accept.
    pub alarms: MediaAlarms,
}

/// What is bad, with some room between the beginning and the end of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MediaAlarms {
    /// Loss of 5 % or more.
    pub loss: bool,
    /// Jitter of 30 ms or more.
    pub jitter: bool,
    /// Round trip of 300 ms or more.
    pub round_trip: bool,
    /// MOS of 2.5 or less.
    pub mos: bool,
}

/// Watches one socket.
#[derive(Debug)]
pub(crate) struct Monitor {
    clock_rate: Option<u32>,
    probation: u32,
    stream: Option<Stream>,
    /// A stream that is not believed yet: SSRC, next sequence, packets in a row.
    candidate: Option<(u32, u16, u32)>,
    quality: Option<MediaQuality>,
    alarms: MediaAlarms,
}

/// What is looked at of a packet.
#[derive(Clone, Copy, Debug)]
struct Header {
    payload_type: u8,
    sequence: u16,
    timestamp: u32,
    ssrc: u32,
}

#[derive(Debug)]
struct Stream {
    ssrc: u32,
    payload_type: u8,
    began: Instant,
    first_timestamp: u32,
    clock_rate: Option<u32>,
    /// Extended sequence numbers of the first and the newest packet, from [`REMEMBERED`] on.
    first: u64,
    highest: u64,
    /// One bit for each of the last ones.
    seen: u128,
    received: u64,
    runs: u64,
    /// Transit of the last packet against the first, and jitter, in seconds.
    transit: Option<f64>,
    jitter: f64,
    window: Window,
}

/// Counters as they were when the window began.
#[derive(Clone, Copy, Debug)]
struct Window {
    since: Instant,
    expected: u64,
    received: u64,
    runs: u64,
}

impl Monitor {
    /// `None` where nothing is to be watched.
    pub(crate) const fn new(watch: MediaWatch) -> Option<Self> {
        let (clock_rate, probation) = match watch {
            MediaWatch::Off => return None,
            MediaWatch::Detect => (None, PROBATION),
            MediaWatch::Rtp { clock_rate } => (clock_rate, TAKE_OVER),
        };
        Some(Self {
            clock_rate,
            probation,
            stream: None,
            candidate: None,
            quality: None,
            alarms: MediaAlarms {
                loss: false,
                jitter: false,
                round_trip: false,
                mos: false,
            },
        })
    }

    /// The last figures; `None` until a window is over.
    pub(crate) const fn quality(&self) -> Option<MediaQuality> {
        self.quality
    }

    /// Looks at a datagram; true if an alarm was raised or has ended.
    pub(crate) fn observe(
        &mut self,
        now: Instant,
        payload: &[u8],
        round_trip: Option<Duration>,
    ) -> bool {
        let Some(header) = Header::parse(payload) else {
            return false;
        };
        let known = match &mut self.stream {
            Some(stream) if stream.ssrc == header.ssrc => stream.take(now, header),
            _ => false,
        };
        if known {
            self.candidate = None;
        } else if !self.believes(header) {
            return false;
        } else {
            self.stream = Some(Stream::new(now, header, self.clock_rate));
            self.candidate = None;
        }
        let Some(stream) = &mut self.stream else {
            return false;
        };
        let Some((loss, burst)) = stream.window_over(now) else {
            return false;
        };
        let quality = stream.quality(loss, burst, round_trip);
        let alarms = self.alarms.of(&quality);
        self.quality = Some(MediaQuality { alarms, ..quality });
        std::mem::replace(&mut self.alarms, alarms) != alarms
    }

    /// Whether enough packets of a stream that is not known have come in a row.
    fn believes(&mut self, header: Header) -> bool {
        let in_row = match self.candidate {
            Some((ssrc, next, in_row)) if (ssrc, next) == (header.ssrc, header.sequence) => {
                in_row + 1
            }
            _ => 1,
        };
        self.candidate = Some((header.ssrc, header.sequence.wrapping_add(1), in_row));
        let needed = match self.stream {
            Some(_) => TAKE_OVER.max(self.probation),
            None => self.probation,
        };
        in_row >= needed
    }
}

impl Header {
    /// Version 2, and no RTCP on the same port (RFC 5761).
    fn parse(payload: &[u8]) -> Option<Self> {
        let [
            first @ 0x80..=0xBF,
            second,
            s0,
            s1,
            t0,
            t1,
            t2,
            t3,
            c0,
            c1,
            c2,
            c3,
            ..,
        ] = payload
        else {
            return None;
        };
        let payload_type = second & 0x7F;
        let header = 12 + usize::from(first & 0x0F) * 4;
        (!(64..=95).contains(&payload_type) && payload.len() >= header).then_some(Self {
            payload_type,
            sequence: u16::from_be_bytes([*s0, *s1]),
            timestamp: u32::from_be_bytes([*t0, *t1, *t2, *t3]),
            ssrc: u32::from_be_bytes([*c0, *c1, *c2, *c3]),
        })
    }
}

impl Stream {
    fn new(now: Instant, header: Header, clock_rate: Option<u32>) -> Self {
        let clock_rate = clock_rate.or_else(|| static_clock(header.payload_type));
        Self {
            ssrc: header.ssrc,
            payload_type: header.payload_type,
            began: now,
            first_timestamp: header.timestamp,
            clock_rate,
            first: REMEMBERED + u64::from(header.sequence),
            highest: REMEMBERED + u64::from(header.sequence),
            seen: 1,
            received: 1,
            runs: 0,
            transit: None,
            jitter: 0.0,
            window: Window {
                since: now,
                expected: 1,
                received: 1,
                runs: 0,
            },
        }
    }

    /// False if its sequence is too far from all before.
    fn take(&mut self, now: Instant, header: Header) -> bool {
        let newest = u16::try_from(self.highest.wrapping_sub(REMEMBERED) & 0xFFFF).unwrap_or(0);
        let ahead = header.sequence.wrapping_sub(newest);
        let behind = ahead.wrapping_neg();
        if ahead != 0 && ahead < MAX_DROPOUT {
            self.highest += u64::from(ahead);
            self.seen = self.seen.checked_shl(u32::from(ahead)).unwrap_or(0) | 1;
            self.received += 1;
            self.runs += u64::from(ahead > 1);
        } else if u64::from(behind) < REMEMBERED {
            let bit = 1_u128 << behind;
            if self.seen & bit == 0 {
                self.seen |= bit;
                self.received += 1;
            }
            // What is out of order says nothing about jitter, nor a copy.
            return true;
        } else {
            return false;
        }
        self.payload_type = header.payload_type;
        self.note_transit(now, header.timestamp);
        true
    }

    /// Jitter after RFC 3550 A.8, in seconds.
    fn note_transit(&mut self, now: Instant, timestamp: u32) {
        let elapsed = now.saturating_duration_since(self.began);
        let ticks = timestamp.wrapping_sub(self.first_timestamp);
        let Some(rate) = self.clock_rate else {
            if elapsed >= MEASURE_CLOCK {
                self.clock_rate = measured_clock(ticks, elapsed);
            }
            return;
        };
        let transit = elapsed.as_secs_f64() - f64::from(ticks) / f64::from(rate);
        if let Some(before) = self.transit.replace(transit) {
            let difference = (transit - before).abs();
            // A clock that was set is no jitter.
            if difference < 1.0 {
                self.jitter += (difference - self.jitter) / 16.0;
            }
        }
        // Timestamps go round after hours, or minutes of video.
        if ticks > u32::MAX / 2 {
            self.began = now;
            self.first_timestamp = timestamp;
            self.transit = None;
        }
    }

    const fn expected(&self) -> u64 {
        self.highest - self.first + 1
    }

    /// Loss and mean burst of the window that is over, if it is and there was enough in it. What came late counts where it came.
    fn window_over(&mut self, now: Instant) -> Option<(f64, f64)> {
        let Window {
            since,
            expected,
            received,
            runs,
        } = self.window;
        if now.saturating_duration_since(since) < WINDOW {
            return None;
        }
        self.window = Window {
            since: now,
            expected: self.expected(),
            received: self.received,
            runs: self.runs,
        };
        let expected = self.expected() - expected;
        let lost = expected.saturating_sub(self.received - received);
        if expected < FEWEST {
            return None;
        }
        let runs = (self.runs - runs).max(1);
        Some((ratio(lost, expected), ratio(lost, runs)))
    }

    fn quality(&self, loss: f64, burst: f64, round_trip: Option<Duration>) -> MediaQuality {
        let jitter = Duration::from_secs_f64(self.jitter);
        // Losses that are independent touch each other too.
        let independent = 1.0 / (1.0 - loss.min(0.99));
        let speech = Impairments {
            delay: round_trip.unwrap_or_default() / 2 + jitter * 2,
            loss,
            burst_ratio: burst / independent,
            codec: Codec::of_payload_type(self.payload_type),
        };
        MediaQuality {
            ssrc: self.ssrc,
            payload_type: self.payload_type,
            received: self.received,
            lost: self.expected().saturating_sub(self.received),
            loss,
            burst,
            jitter,
            round_trip,
            mos: speech.mos(),
            alarms: MediaAlarms::default(),
        }
    }
}

impl MediaAlarms {
    /// Those of these figures, where these are raised already.
    fn of(self, quality: &MediaQuality) -> Self {
        let above = |raised: bool, value: f64, limit: f64| {
            value >= if raised { limit * CLEAR_BELOW } else { limit }
        };
        let round_trip = quality.round_trip.unwrap_or_default();
        Self {
            loss: above(self.loss, quality.loss, BAD_LOSS),
            jitter: above(
                self.jitter,
                quality.jitter.as_secs_f64(),
                BAD_JITTER.as_secs_f64(),
            ),
            round_trip: above(
                self.round_trip,
                round_trip.as_secs_f64(),
                BAD_ROUND_TRIP.as_secs_f64(),
            ),
            mos: quality.mos <= if self.mos { CLEAR_MOS } else { BAD_MOS },
        }
    }
}

/// The clock of a static payload type (RFC 3551, tables 4 and 5).
const fn static_clock(payload_type: u8) -> Option<u32> {
    match payload_type {
        // G.722 has 8000 by an old mistake.
        0 | 3..=5 | 7..=9 | 12 | 13 | 15 | 18 => Some(8_000),
        6 => Some(16_000),
        10 | 11 => Some(44_100),
        14 | 25 | 26 | 28 | 31..=34 => Some(90_000),
        16 => Some(11_025),
        17 => Some(22_050),
        _ => None,
    }
}

/// The clock that so many ticks in this time are nearest to; `None` if none is near.
fn measured_clock(ticks: u32, elapsed: Duration) -> Option<u32> {
    let rate = f64::from(ticks) / elapsed.as_secs_f64();
    CLOCKS
        .into_iter()
        .find(|clock| (rate / f64::from(*clock) - 1.0).abs() < 0.04)
}

#[expect(clippy::cast_precision_loss, reason = "counters of packets")]
fn ratio(part: u64, of: u64) -> f64 {
    part as f64 / of as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PACE: Duration = Duration::from_millis(20);

    /// A stream of speech as the network brings it.
    struct Speech {
        monitor: Monitor,
        began: Instant,
        number: u32,
        ssrc: u32,
        payload_type: u8,
        round_trip: Option<Duration>,
        changes: usize,
    }

    impl Speech {
        fn new(watch: MediaWatch) -> Self {
            Self {
                monitor: Monitor::new(watch).unwrap(),
                began: Instant::now(),
                number: 65_000,
                ssrc: 7,
                payload_type: 0,
                round_trip: None,
                changes: 0,
            }
        }

        fn packet(&self, number: u32) -> Vec<u8> {
            let [_, _, high, low] = number.to_be_bytes();
            let mut packet = vec![0x80, self.payload_type, high, low];
            packet.extend((number.wrapping_mul(160)).to_be_bytes());
            packet.extend(self.ssrc.to_be_bytes());
            packet.extend([0; 160]);
            packet
        }

        /// So many seconds; `comes` tells which packets arrive, and how late.
        fn seconds(&mut self, seconds: u32, comes: impl Fn(u32) -> Option<Duration>) {
            for _ in 0..seconds * 50 {
                self.number += 1;
                if let Some(late) = comes(self.number) {
                    let now = self.began + PACE * (self.number - 65_000) + late;
                    let packet = self.packet(self.number);
                    let changed = self.monitor.observe(now, &packet, self.round_trip);
                    self.changes += usize::from(changed);
                }
            }
        }

        fn quality(&self) -> MediaQuality {
            self.monitor.quality().unwrap()
        }
    }

    const IN_TIME: fn(u32) -> Option<Duration> = |_| Some(Duration::ZERO);
    const RTP: MediaWatch = MediaWatch::Rtp { clock_rate: None };

    #[test]
    fn a_clean_stream_is_as_good_as_it_gets() {
        let mut speech = Speech::new(MediaWatch::Detect);
        speech.seconds(30, IN_TIME);
        let quality = speech.quality();
        assert_eq!((quality.lost, quality.loss, quality.burst), (0, 0.0, 0.0));
        assert!(quality.received > 1_200 && quality.jitter < Duration::from_micros(1));
        assert!((quality.mos - 4.41).abs() < 0.01);
        assert_eq!(
            (quality.alarms, speech.changes),
            (MediaAlarms::default(), 0)
        );
    }

    #[test]
    fn losses_raise_an_alarm_once_and_end_it_once() {
        let mut speech = Speech::new(RTP);
        speech.seconds(10, IN_TIME);
        // Two in a row of twenty.
        let lossy = |number: u32| (number % 20 > 1).then_some(Duration::ZERO);
        speech.seconds(20, lossy);
        let quality = speech.quality();
        assert!((quality.loss - 0.1).abs() < 0.01 && (quality.burst - 2.0).abs() < 0.1);
        assert!(quality.alarms.loss && !quality.alarms.jitter);
        assert!((3.0..3.6).contains(&quality.mos), "{}", quality.mos);
        assert_eq!(speech.changes, 1);
        speech.seconds(20, IN_TIME);
        assert_eq!(
            (speech.quality().alarms, speech.changes),
            (MediaAlarms::default(), 2)
        );
        assert_eq!(speech.quality().lost, 100, "of the whole stream");
    }

    /// Every other packet 15 ms late: each differs from the one before by that.
    fn shaky(number: u32) -> Option<Duration> {
        Some(Duration::from_millis(if number.is_multiple_of(2) {
            15
        } else {
            0
        }))
    }

    #[test]
    fn jitter_follows_rfc_3550() {
        // Of a clock that is told, that is known, and that nobody tells.
        for (payload_type, clock_rate) in [(96, Some(8_000)), (0, None), (111, None)] {
            let mut speech = Speech::new(MediaWatch::Rtp { clock_rate });
            speech.payload_type = payload_type;
            speech.seconds(20, shaky);
            let jitter = speech.quality().jitter;
            assert!((jitter.as_secs_f64() - 0.015).abs() < 0.001, "{jitter:?}");
            assert!(!speech.quality().alarms.jitter);
        }
        let mut speech = Speech::new(RTP);
        speech.seconds(20, |number| shaky(number).map(|late| late * 3));
        assert!(speech.quality().alarms.jitter);
    }

    #[test]
    fn a_long_round_trip_and_what_is_left_of_the_speech_raise_alarms() {
        let mut speech = Speech::new(RTP);
        speech.round_trip = Some(Duration::from_millis(320));
        speech.seconds(1, IN_TIME);
        speech.seconds(14, |number| (number % 2 != 0).then_some(Duration::ZERO));
        let quality = speech.quality();
        assert!(quality.alarms.round_trip && quality.alarms.mos && quality.alarms.loss);
        // A little less is still too much.
        speech.round_trip = Some(Duration::from_millis(250));
        speech.seconds(10, IN_TIME);
        assert!(speech.quality().alarms.round_trip && !speech.quality().alarms.mos);
        speech.round_trip = Some(Duration::from_millis(200));
        speech.seconds(10, IN_TIME);
        assert_eq!(speech.quality().alarms, MediaAlarms::default());
    }

    #[test]
    fn copies_and_disorder_are_no_losses() {
        let mut speech = Speech::new(RTP);
        speech.seconds(3, IN_TIME);
        for _ in 0..500 {
            let first = speech.number + 1;
            for number in [first + 1, first, first, first + 1] {
                let now = speech.began + PACE * (first - 65_000);
                let packet = speech.packet(number);
                speech.monitor.observe(now, &packet, None);
            }
            speech.number += 2;
        }
        // One may be on its way when a window ends.
        let quality = speech.quality();
        assert!(quality.lost <= 1 && quality.loss < 0.01, "{quality:?}");
    }

    #[test]
    fn another_stream_takes_over_and_strangers_do_not() {
        let mut speech = Speech::new(RTP);
        speech.seconds(10, IN_TIME);
        speech.ssrc = 99;
        let stranger = speech.packet(5);
        let now = speech.began + PACE * (speech.number - 65_000);
        speech.monitor.observe(now, &stranger, None);
        speech.ssrc = 7;
        speech.seconds(10, IN_TIME);
        assert_eq!(speech.quality().ssrc, 7);
        speech.ssrc = 99;
        speech.number += 20_000;
        speech.seconds(10, IN_TIME);
        assert_eq!((speech.quality().ssrc, speech.quality().lost), (99, 0));
    }

    #[test]
    fn what_is_not_rtp_is_not_taken_for_it() {
        let mut monitor = Monitor::new(MediaWatch::Detect).unwrap();
        let mut now = Instant::now();
        for text in ["OPTIONS sip:a@b SIP/2.0\r\n\r\n", "", "???"]
            .iter()
            .cycle()
            .take(600)
        {
            now += PACE;
            assert!(!monitor.observe(now, text.as_bytes(), None));
        }
        // RTCP sender reports.
        let report = [0x80, 200, 0, 6, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        assert!(Header::parse(&report).is_none());
        assert!(monitor.stream.is_none() && monitor.quality().is_none());
    }

    proptest! {
        /// Nothing that comes breaks it, and its figures stay figures.
        #[test]
        fn anything_may_come(
            packets in prop::collection::vec((any::<u16>(), any::<u32>(), 0_u32..3, 0_u64..2_000), 1..400),
        ) {
            let mut monitor = Monitor::new(MediaWatch::Detect).unwrap();
            let mut now = Instant::now();
            let mut sequence = 0_u16;
            for (jump, timestamp, ssrc, wait) in packets {
                sequence = if jump < 60_000 { sequence.wrapping_add(1) } else { jump };
                let mut packet = vec![0x80, 0];
                packet.extend(sequence.to_be_bytes());
                packet.extend(timestamp.to_be_bytes());
                packet.extend((ssrc / 2).to_be_bytes());
                now += Duration::from_millis(wait);
                monitor.observe(now, &packet, None);
                if let Some(quality) = monitor.quality() {
                    prop_assert!((0.0..=1.0).contains(&quality.loss));
                    prop_assert!((1.0..=4.5).contains(&quality.mos));
                    prop_assert!(quality.burst >= 0.0 && quality.jitter < Duration::from_secs(2));
                }
            }
        }
    }
}
