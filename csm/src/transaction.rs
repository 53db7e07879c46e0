//! Requests and answers (spec 4): what a sender repeats and what a receiver remembers.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tsc_tpl::registry::REQUEST_WINDOW;
use tsc_tpl::{CmType, Sequence};

/// Most requests one end may have outstanding (spec 4).
pub const MAX_OUTSTANDING: usize = 4;
/// How long an answer is remembered for repeats of its request (spec 4).
pub const ANSWER_MEMORY: Duration = Duration::from_secs(32);
/// Most answers remembered for one tunnel; a well-behaved peer has [`MAX_OUTSTANDING`] in doubt. A repeat of
/// one that fell out is dropped, as spec 4 asks for repeats that cannot be answered equally.
pub const MAX_ANSWERS: usize = 8;

/// When a request is sent again and when it has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Schedule {
    first_wait: Duration,
    longest_wait: Duration,
    transmissions: u8,
}

impl Schedule {
    const fn new(first_ms: u64, longest_ms: u64, transmissions: u8) -> Self {
        let first_wait = Duration::from_millis(first_ms);
        Self {
            first_wait,
            longest_wait: Duration::from_millis(longest_ms),
            transmissions,
        }
    }

    /// Ordinary requests: 500 ms doubling to 4 s, 7 transmissions; on streams one, and 10 s (spec 4).
    pub(crate) const fn request(stream: bool) -> Self {
        if stream {
            Self::new(10_000, 10_000, 1)
        } else {
            Self::new(500, 4_000, 7)
        }
    }

    /// Keepalives: 3 transmissions, 1 s apart, 5 s on streams (spec 5).
    pub(crate) const fn keepalive(stream: bool) -> Self {
        if stream {
            Self::new(5_000, 5_000, 3)
        } else {
            Self::new(1_000, 1_000, 3)
        }
    }

    /// Releases: done after 3 transmissions (spec 5), spaced as ordinary requests; streams lose nothing.
    pub(crate) const fn release(stream: bool) -> Self {
        if stream {
            Self::new(10_000, 10_000, 1)
        } else {
            Self::new(500, 4_000, 3)
        }
    }

    /// The wait after the `sent`-th transmission (from 1).
    fn wait(self, sent: u8) -> Duration {
        let factor = 1u32
            .checked_shl(u32::from(sent.saturating_sub(1)))
            .unwrap_or(u32::MAX);
        self.first_wait
            .saturating_mul(factor)
            .min(self.longest_wait)
    }
}

/// A request on its way: its bytes and where it stands in its schedule.
#[derive(Debug)]
pub(crate) struct Request<K> {
    /// What its sender wanted.
    pub(crate) what: K,
    pub(crate) sequence: Sequence,
    /// Message type of the answer.
    pub(crate) answer: CmType,
    bytes: Bytes,
    schedule: Schedule,
    sent: u8,
    due: Instant,
}

impl<K> Request<K> {
    /// A request whose first transmission the caller makes now.
    pub(crate) fn sent(
        now: Instant,
        what: K,
        sequence: Sequence,
        answer: CmType,
        bytes: Bytes,
        schedule: Schedule,
    ) -> Self {
        Self {
            what,
            sequence,
            answer,
            bytes,
            schedule,
            sent: 1,
            due: now + schedule.wait(1),
        }
    }

    pub(crate) const fn due(&self) -> Instant {
        self.due
    }

    /// What time asks for.
    pub(crate) fn poll(&mut self, now: Instant) -> Step {
        if now < self.due {
            return Step::Wait;
        }
        if self.sent >= self.schedule.transmissions {
            return Step::Failed;
        }
        self.sent += 1;
        self.due = now + self.schedule.wait(self.sent);
        Step::Retransmit(self.bytes.clone())
    }

    /// Starts over on a new transport, with the same sequence (spec 5, "Epochs").
    pub(crate) fn restart(&mut self, now: Instant, schedule: Schedule) -> Bytes {
        self.schedule = schedule;
        self.sent = 1;
        self.due = now + schedule.wait(1);
        self.bytes.clone()
    }

    /// Whether a message of this type with this sequence answers the request.
    pub(crate) fn matches(&self, answer: CmType, sequence: Sequence) -> bool {
        self.answer == answer && self.sequence == sequence
    }
}

/// Outcome of [`Request::poll`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing is due.
    Wait,
    /// Send these bytes again.
    Retransmit(Bytes),
    /// No answer came.
    Failed,
}

/// What one end of a tunnel knows of the other's requests.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    received: Received,
    answers: Answers,
}

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// First time: execute it, and [`remember`](Inbox::remember) the answer.
    Execute,
    /// Seen before: the answer is the same.
    Repeat(Bytes),
    /// Seen before, and its answer is not known any more; or too far behind the newest to tell.
    Drop,
}

impl Inbox {
    /// Looks a request up by its sequence, and marks it as seen. `answer` is the type of its answer.
    pub(crate) fn admit(&mut self, now: Instant, sequence: Sequence, answer: CmType) -> Admission {
        match self.received.see(sequence) {
            Seen::New => Admission::Execute,
            Seen::Repeat => self
                .recall(now, sequence, answer)
                .map_or(Admission::Drop, Admission::Repeat),
            Seen::TooOld => Admission::Drop,
        }
    }

    /// Marks a sequence as seen, for requests that are told apart by other means.
    pub(crate) fn see(&mut self, sequence: Sequence) {
        self.received.see(sequence);
    }

    /// Keeps an answer for repeats of its request.
    pub(crate) fn remember(
        &mut self,
        now: Instant,
        sequence: Sequence,
        answer: CmType,
        bytes: &[u8],
    ) {
        self.answers.remember(now, sequence, answer, bytes);
    }

    /// The answer of this type to a repeat.
    pub(crate) fn recall(&self, now: Instant, sequence: Sequence, answer: CmType) -> Option<Bytes> {
        self.answers.recall(now, sequence, answer)
    }

    /// Forgets answers that are over.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.answers.expire(now);
    }

    /// When [`expire`](Self::expire) has something to do.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        self.answers.next_expiry()
    }
}

/// What a receiver knows about a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// First time: execute it.
    New,
    /// Seen before: answer as then, or drop.
    Repeat,
    /// Too far behind the newest to tell: drop.
    TooOld,
}

/// The newest sequence and a map of the 32 before it.
#[derive(Clone, Copy, Debug, Default)]
struct Received {
    newest: Option<Sequence>,
    /// Bit `n` stands for `newest - 1 - n`.
    map: u32,
}

impl Received {
    /// Looks a sequence up and marks it as seen.
    fn see(&mut self, sequence: Sequence) -> Seen {
        let Some(newest) = self.newest else {
            self.newest = Some(sequence);
            return Seen::New;
        };
        if sequence.is_newer_than(newest) {
            let ahead = sequence.0.wrapping_sub(newest.0);
            // The old newest takes bit `ahead - 1`.
            let shifted = self.map.checked_shl(ahead).unwrap_or(0);
            self.map = shifted | 1u32.checked_shl(ahead - 1).unwrap_or(0);
            self.newest = Some(sequence);
            return Seen::New;
        }
        let Some(behind) = sequence
            .behind(newest)
            .filter(|behind| *behind <= REQUEST_WINDOW)
        else {
            return Seen::TooOld;
        };
        let Some(place) = behind.checked_sub(1) else {
            return Seen::Repeat;
        };
        let bit = 1 << place;
        if self.map & bit != 0 {
            return Seen::Repeat;
        }
        self.map |= bit;
        Seen::New
    }
}

/// Answers given in the last 32 s. Empty most of the time, then it holds no heap memory.
#[derive(Debug, Default)]
struct Answers {
    entries: VecDeque<Answer>,
}

#[derive(Debug)]
struct Answer {
    sequence: Sequence,
    kind: CmType,
    until: Instant,
    /// A copy: what was sent would keep the larger memory of its own.
    bytes: Box<[u8]>,
}

impl Answers {
    /// Keeps an answer for repeats of its request.
    fn remember(&mut self, now: Instant, sequence: Sequence, kind: CmType, bytes: &[u8]) {
        self.expire(now);
        if self.entries.len() >= MAX_ANSWERS {
            self.entries.pop_front();
        }
        // Nearly all tunnels have one, to their configuration, and a hundred thousand may be configured at a time.
        self.entries.reserve_exact(1);
        self.entries.push_back(Answer {
            sequence,
            kind,
            until: now + ANSWER_MEMORY,
            bytes: bytes.into(),
        });
    }

    /// The answer of type `kind` to a repeat.
    fn recall(&self, now: Instant, sequence: Sequence, kind: CmType) -> Option<Bytes> {
        let wanted = |answer: &&Answer| {
            answer.sequence == sequence && answer.kind == kind && answer.until > now
        };
        self.entries
            .iter()
            .find(wanted)
            .map(|answer| Bytes::copy_from_slice(&answer.bytes))
    }

    /// Forgets what is over.
    fn expire(&mut self, now: Instant) {
        while self
            .entries
            .pop_front_if(|answer| answer.until <= now)
            .is_some()
        {}
        if self.entries.is_empty() {
            self.entries = VecDeque::new();
        }
    }

    /// When [`expire`](Self::expire) has something to do.
    fn next_expiry(&self) -> Option<Instant> {
        self.entries.front().map(|answer| answer.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn transmissions(schedule: Schedule) -> (Vec<u64>, u64) {
        let start = Instant::now();
        let mut request = Request::sent(
            start,
            (),
            Sequence(1),
            CmType::KEEPALIVE_RESPONSE,
            Bytes::new(),
            schedule,
        );
        let mut at = vec![0];
        loop {
            let now = request.due();
            let ms = u64::try_from((now - start).as_millis()).unwrap();
            match request.poll(now) {
                Step::Retransmit(_) => at.push(ms),
                Step::Failed => return (at, ms),
                Step::Wait => panic!("due and nothing to do"),
            }
        }
    }

    #[test]
    fn schedules_are_those_of_the_specification() {
        let datagram = transmissions(Schedule::request(false));
        assert_eq!(
            datagram,
            (vec![0, 500, 1500, 3500, 7500, 11500, 15500], 19500)
        );
        assert_eq!(transmissions(Schedule::request(true)), (vec![0], 10_000));
        assert_eq!(
            transmissions(Schedule::keepalive(false)),
            (vec![0, 1000, 2000], 3000)
        );
        assert_eq!(
            transmissions(Schedule::keepalive(true)),
            (vec![0, 5000, 10_000], 15_000)
        );
        assert_eq!(
            transmissions(Schedule::release(false)),
            (vec![0, 500, 1500], 3500)
        );
    }

    #[test]
    fn answers_last_32_seconds_and_are_bounded() {
        let now = Instant::now();
        let mut answers = Answers::default();
        for n in 0u8..20 {
            answers.remember(
                now,
                Sequence(u32::from(n)),
                CmType::CLIENT_SERVICE_RESPONSE,
                &[n],
            );
        }
        assert_eq!(answers.entries.len(), MAX_ANSWERS);
        assert_eq!(
            answers.recall(now, Sequence(19), CmType::CLIENT_SERVICE_RESPONSE),
            Some(Bytes::from_static(&[19]))
        );
        assert_eq!(
            answers.recall(now, Sequence(0), CmType::CLIENT_SERVICE_RESPONSE),
            None
        );
        assert_eq!(
            answers.recall(
                now + ANSWER_MEMORY,
                Sequence(19),
                CmType::CLIENT_SERVICE_RESPONSE
            ),
            None
        );
        answers.expire(now + ANSWER_MEMORY);
        assert_eq!(
            (answers.next_expiry(), answers.entries.capacity()),
            (None, 0)
        );
    }

    proptest! {
        /// Against a model that remembers everything: nothing is executed twice, and nothing within the
        /// window is refused the first time.
        #[test]
        fn window_equals_a_perfect_memory(start: u32, steps in prop::collection::vec(-40i32..40, 1..200)) {
            let mut received = Received::default();
            let mut seen = BTreeSet::new();
            let mut newest = None;
            let mut at = 0i32;
            for step in steps {
                at += step;
                let sequence = Sequence(start.wrapping_add_signed(at));
                let expected = match newest {
                    Some(newest) if at < newest - 32 => Seen::TooOld,
                    _ if seen.contains(&at) => Seen::Repeat,
                    _ => Seen::New,
                };
                prop_assert_eq!(received.see(sequence), expected, "at {}", at);
                if expected == Seen::New {
                    seen.insert(at);
                }
                newest = newest.max(Some(at));
            }
        }
    }
}
