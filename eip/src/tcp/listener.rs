//! Listeners and the connections that are not open yet.
//!
//! A connection that is only half open is a kept SYN and a number, not a socket: whoever floods a
//! listener with SYNs makes it remember a few hundred small entries, of which the oldest goes
//! first.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::aged::Aged;
use super::connection::Windows;
use super::segment::{Reply, Segment, Tuple};
use super::seq::Seq;
use crate::slots::Key;

/// Waits between repetitions of an answer to a SYN; after the last the peer is given up.
const REPETITIONS: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(16),
];

/// A repeated SYN is answered again, but not more often than this.
const ANSWER_INTERVAL: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(super) struct Listener {
    pub(super) local: SocketAddr,
    pub(super) backlog: usize,
    pub(super) half_open: Aged<HalfOpen>,
    /// Open connections that wait to be accepted, at most `backlog`.
    pub(super) queue: VecDeque<Key>,
    /// The owner was told and has not accepted everything yet.
    pub(super) told: bool,
}

impl Listener {
    pub(super) fn new(local: SocketAddr, backlog: usize, half_open: usize) -> Self {
        Self {
            local,
            backlog,
            half_open: Aged::new(half_open),
            queue: VecDeque::new(),
            told: false,
        }
    }
}

/// A connection whose peer has sent a SYN and got an answer.
#[derive(Debug)]
pub(super) struct HalfOpen {
    pub(super) tuple: Tuple,
    /// The SYN, without data.
    pub(super) syn: Vec<u8>,
    /// Our initial sequence number.
    pub(super) sequence: Seq,
    /// The peer's initial sequence number.
    pub(super) peer_sequence: Seq,
    pub(super) windows: Windows,
    peer_scales: bool,
    peer_sacks: bool,
    repeated: usize,
    answered: Instant,
    /// The entry in the queue of deadlines.
    pub(super) armed: Instant,
}

/// What a half-open connection makes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The peer has acknowledged our answer.
    Open,
    /// Answer the SYN again.
    Answer,
    /// It is not about this attempt: forget it and look at the segment anew.
    Restart,
    Remove,
    /// An acknowledgement of something else.
    Reset,
    Ignore,
}

impl HalfOpen {
    pub(super) fn new(now: Instant, syn: &Segment<'_>, sequence: Seq, windows: Windows) -> Self {
        Self {
            tuple: syn.tuple,
            syn: syn.to_kept_packet(),
            sequence,
            peer_sequence: syn.seq(),
            windows,
            peer_scales: syn.window_scale().is_some(),
            peer_sacks: syn.permits_sack(),
            repeated: 0,
            answered: now,
            armed: now + REPETITIONS.first().copied().unwrap_or_default(),
        }
    }

    pub(super) fn answer(&self, mss: u16) -> Reply {
        Reply {
            syn: true,
            seq: self.sequence,
            ack: Some(self.peer_sequence.plus(1)),
            window: self.windows.first,
            mss: Some(mss),
            window_scale: self.peer_scales.then_some(self.windows.shift),
            sack: self.peer_sacks,
            ..Reply::default()
        }
    }

    /// Judges a segment (RFC 9293, section 3.10.7.4; RFC 5961).
    pub(super) fn step(&mut self, now: Instant, segment: &Segment<'_>) -> Step {
        let expected = self.peer_sequence.plus(1);
        if segment.is_rst() {
            return if segment.seq() == expected {
                Step::Remove
            } else {
                Step::Ignore
            };
        }
        if segment.is_request() {
            if segment.seq() != self.peer_sequence {
                return Step::Restart;
            }
            if now < self.answered + ANSWER_INTERVAL {
                return Step::Ignore;
            }
            self.answered = now;
            return Step::Answer;
        }
        match segment.ack() {
            None => Step::Ignore,
            Some(ack) if ack != self.sequence.plus(1) => Step::Reset,
            Some(_) if segment.is_syn() => Step::Ignore,
            // Data may overtake the acknowledgement, but lie in the window of 64 KiB at most.
            Some(_) if segment.seq().since(expected) <= u32::from(u16::MAX) => Step::Open,
            Some(_) => Step::Ignore,
        }
    }

    /// The next repetition of the answer, or `None` to give up.
    pub(super) fn repeat(&mut self, now: Instant) -> Option<Instant> {
        self.repeated += 1;
        self.armed = now + *REPETITIONS.get(self.repeated)?;
        self.answered = now;
        Some(self.armed)
    }
}
