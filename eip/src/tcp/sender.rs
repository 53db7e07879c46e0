//! Our half: what was written, what of it is on its way, and what is to be sent next.

mod feedback;

use std::time::Instant;

use super::bytes::ByteQueue;
use super::congestion::Cubic;
use super::flight::Flight;
use super::receiver::BLOCKS;
use super::rtt::Rtt;
use super::seq::{Seq, length, span};

/// Payload that each peer takes if it does not say more (RFC 9293, section 3.7.1).
const DEFAULT_MSS: u16 = 536;

/// Least payload believed: with less a peer would make us send headers only.
const MIN_MSS: u16 = 64;

/// Small segments that may be on their way at once, beyond as many as are half full on average: what is written then
/// waits for company, so that what is known of segments takes little memory beside their bytes.
const MAX_SMALL: usize = 256;

/// How the connection came about.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PeerLimits {
    /// Scale of the windows that the peer tells.
    pub(super) shift: u8,
    pub(super) mss: Option<u16>,
    /// The peer acknowledges selectively.
    pub(super) sacks: bool,
}

/// What an acknowledgement says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heard {
    pub(super) seq: Seq,
    pub(super) ack: Seq,
    /// As it stands in the header.
    pub(super) window: u16,
    pub(super) syn: bool,
    /// It came without anything that takes a sequence number.
    pub(super) empty: bool,
    pub(super) blocks: [Option<(u32, u32)>; BLOCKS],
}

/// What is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    Syn,
    /// A segment in flight, by its place, again: so many numbers of it.
    Again(usize, Seq, u32),
    /// So many new bytes, and whether the end follows.
    New(u32, bool),
    /// Nothing, but so that the peer answers.
    Probe,
}

/// Why the congestion window does not grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Recovery {
    /// Something was lost of what lies before the number.
    Fast(Seq),
    /// Nothing was heard; what was sent before the number is taken for lost.
    TimedOut(Seq),
}

#[derive(Debug)]
pub(super) struct Sender {
    initial: Seq,
    /// First number not acknowledged, and first not sent.
    unacknowledged: Seq,
    next: Seq,
    /// Starts with the first byte not acknowledged, which has this number.
    queue: ByteQueue,
    start: Seq,
    flight: Flight,
    /// The end follows what is queued.
    ends: bool,
    /// Largest payload that the peer takes, and that the path carries.
    peer_mss: u32,
    mss: u32,
    shift: u8,
    sacks: bool,
    window: u32,
    largest_window: u32,
    /// The segment that last told the window (RFC 9293's SND.WL1 and WL2).
    told: Option<(Seq, Seq)>,
    rtt: Rtt,
    congestion: Cubic,
    recovery: Option<Recovery>,
    /// Acknowledgements that repeat the last, of a peer that does not acknowledge selectively.
    duplicates: u8,
    /// The end of a tail probe that was sent, and whether it was a repetition.
    tail: Option<(Seq, bool)>,
    /// Its end was acknowledged, but perhaps by what was sent first.
    tail_heard: bool,
    tail_due: bool,
    probe_due: bool,
    /// Unanswered window probes.
    probes: u32,
    retransmit_at: Option<Instant>,
    reorder_at: Option<Instant>,
    tail_at: Option<Instant>,
    persist_at: Option<Instant>,
    last_sent: Option<Instant>,
    pub(super) counters: Counters,
}

/// What was done, to be added to the stack's counters.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    pub(super) repeated: u64,
    pub(super) time_outs: u64,
}

impl Sender {
    pub(super) fn new(initial: Seq) -> Self {
        Self {
            initial,
            unacknowledged: initial,
            next: initial,
            queue: ByteQueue::default(),
            start: initial.plus(1),
            flight: Flight::default(),
            ends: false,
            peer_mss: DEFAULT_MSS.into(),
            mss: DEFAULT_MSS.into(),
            shift: 0,
            sacks: false,
            window: 0,
            largest_window: 0,
            told: None,
            rtt: Rtt::default(),
            congestion: Cubic::new(DEFAULT_MSS.into()),
            recovery: None,
            duplicates: 0,
            tail: None,
            tail_heard: false,
            tail_due: false,
            probe_due: false,
            probes: 0,
            retransmit_at: None,
            reorder_at: None,
            tail_at: None,
            persist_at: None,
            last_sent: None,
            counters: Counters::default(),
        }
    }

    /// Takes what the peer's SYN says; `path` is the payload that the path carries.
    pub(super) fn meet(&mut self, peer: PeerLimits, path: u32) {
        let mss = peer.mss.filter(|mss| *mss > 0).unwrap_or(DEFAULT_MSS);
        self.peer_mss = mss.max(MIN_MSS).into();
        self.shift = peer.shift;
        self.sacks = peer.sacks;
        self.mss = self.peer_mss.min(path);
        self.congestion = Cubic::new(self.mss);
    }

    /// The path carries so much payload.
    pub(super) fn follow_path(&mut self, path: u32) {
        self.mss = self.peer_mss.min(path.max(MIN_MSS.into()));
    }

    /// A router has said that the path carries less than was sent: that is lost, and no congestion.
    pub(super) fn path_shrank(&mut self, now: Instant, path: u32) {
        self.follow_path(path);
        if self.flight.lose_longer(self.mss) {
            self.tail_at = None;
            self.update_timers(now);
        }
    }

    pub(super) const fn initial(&self) -> Seq {
        self.initial
    }

    pub(super) const fn next(&self) -> Seq {
        self.next
    }

    pub(super) const fn unacknowledged(&self) -> Seq {
        self.unacknowledged
    }

    /// Bytes written and not acknowledged.
    pub(super) const fn queued(&self) -> usize {
        self.queue.len()
    }

    /// The SYN was sent by somebody else, a while ago.
    pub(super) const fn has_sent_syn(&mut self) {
        self.next = self.initial.plus(1);
    }

    /// The SYN is to be sent again at once, now as an answer.
    pub(super) fn repeat_syn(&mut self) {
        self.flight.lose_first();
    }

    /// Something that takes a sequence number is not acknowledged.
    pub(super) fn is_flying(&self) -> bool {
        self.unacknowledged != self.next
    }

    pub(super) fn push(&mut self, now: Instant, data: &[u8]) {
        if !self.is_flying()
            && self.queue.len() == 0
            && self
                .last_sent
                .is_some_and(|last| now.saturating_duration_since(last) > self.rtt.time_out())
        {
            self.congestion.on_idle();
        }
        self.queue.push(data);
        // The window may be shut.
        self.update_timers(now);
    }

    /// The end follows what was written.
    pub(super) fn end(&mut self, now: Instant) {
        self.ends = true;
        self.update_timers(now);
    }

    /// Whether the peer has acknowledged our end.
    pub(super) fn end_is_acknowledged(&self) -> bool {
        self.ends && self.unacknowledged.is_after(self.data_end())
    }

    /// Nothing will be sent any more.
    pub(super) fn clear(&mut self) {
        self.queue.clear();
        self.flight.clear();
        self.retransmit_at = None;
        self.reorder_at = None;
        self.tail_at = None;
        self.persist_at = None;
    }

    /// The number after the last byte written, which is the end's.
    fn data_end(&self) -> Seq {
        self.start.plus(length(self.queue.len()))
    }

    /// First number beyond the peer's window.
    fn right(&self) -> Seq {
        self.unacknowledged.plus(self.window)
    }

    /// What is to be sent now, if anything.
    pub(super) fn plan(&self, open: bool, nodelay: bool) -> Option<Plan> {
        if !open {
            let due = self.next == self.initial || self.flight.has_lost();
            return due.then_some(Plan::Syn);
        }
        if let Some((index, start, end)) = self.flight.first_lost() {
            let most = if start == self.data_end() {
                1
            } else {
                self.mss.min(span(start, self.right()))
            };
            let len = end.since(start).min(most);
            if len > 0 {
                let allowed = start == self.unacknowledged
                    || self.flight.flying() + u64::from(len) <= self.congestion.window();
                return allowed.then_some(Plan::Again(index, start, len));
            }
        }
        let new = self.plan_new(nodelay);
        if new.is_some() {
            return new;
        }
        if self.tail_due
            && let Some((index, start, end)) = self.flight.last()
        {
            return Some(Plan::Again(index, start, end.since(start).min(self.mss)));
        }
        self.probe_due.then_some(Plan::Probe)
    }

    fn plan_new(&self, nodelay: bool) -> Option<Plan> {
        let end = self.data_end();
        let waiting = span(self.next, end);
        if waiting == 0 {
            let due = self.ends && self.next == end;
            return due.then_some(Plan::New(0, true));
        }
        let len = waiting.min(self.mss).min(span(self.next, self.right()));
        let last = len == waiting;
        // Small segments only at the end of what was written, or if the peer's window is never large
        // (RFC 9293, section 3.8.6.2.1).
        let worthwhile = len >= self.mss
            || (last && ((nodelay && !self.is_crowded()) || self.ends || !self.is_flying()))
            || len >= self.largest_window / 2
            || self.probe_due;
        let room = self.flight.flying() == 0
            || self.tail_due
            || self.flight.flying() + u64::from(self.mss.min(waiting)) <= self.congestion.window();
        (len > 0 && worthwhile && room).then_some(Plan::New(len, last && self.ends))
    }

    /// Whether so many small segments are on their way that more would be a burden.
    fn is_crowded(&self) -> bool {
        let segments = self.flight.segments();
        let bytes = self.next.since(self.unacknowledged) as usize;
        segments >= MAX_SMALL && bytes < segments * (self.mss as usize / 2)
    }

    /// Whether a plan needs more of the window than the peer allows.
    fn is_shut_out(&self) -> bool {
        self.flight.flying() == 0 && (self.flight.has_lost() || self.queue.len() > 0)
    }

    /// Where the payload of what is planned lies in the stream: its number and length, and whether it ends what was
    /// written.
    pub(super) fn place(&self, plan: Plan) -> (Seq, usize, bool) {
        let (at, len) = match plan {
            Plan::Syn => return (self.initial, 0, false),
            Plan::Probe => return (self.unacknowledged.minus(1), 0, false),
            Plan::New(len, _) => (self.next, len),
            Plan::Again(_, at, len) => (at, len),
        };
        let end = self.data_end();
        (
            at,
            len.min(span(at, end)) as usize,
            !at.plus(len).is_before(end),
        )
    }

    /// Appends `len` bytes from the number `at` on.
    pub(super) fn append(&self, at: Seq, len: usize, into: &mut Vec<u8>) {
        self.queue
            .append_to(span(self.start, at) as usize, len, into);
    }

    /// Whether the end is part of what is planned.
    pub(super) fn has_end(&self, plan: Plan) -> bool {
        match plan {
            Plan::Syn | Plan::Probe => false,
            Plan::New(_, end) => end,
            Plan::Again(_, at, len) => self.ends && at.plus(len).is_after(self.data_end()),
        }
    }

    /// What was planned was sent.
    pub(super) fn sent(&mut self, now: Instant, plan: Plan, open: bool) {
        match plan {
            Plan::Syn if self.next == self.initial => {
                self.next = self.initial.plus(1);
                self.flight.push(now, self.initial, self.next);
            }
            Plan::Syn => {
                self.flight.repeat(now, 0, 1);
                self.counters.repeated += 1;
            }
            Plan::Again(index, _, len) => {
                if self.tail_due && !self.flight.has_lost() {
                    self.tail = Some((self.next, true));
                }
                self.flight.repeat(now, index, len);
                self.counters.repeated += 1;
            }
            Plan::New(len, end) => {
                let first = self.next;
                self.next = first.plus(len + u32::from(end));
                self.flight.push(now, first, self.next);
                if self.tail_due {
                    self.tail = Some((self.next, false));
                }
            }
            Plan::Probe => {
                self.probe_due = false;
                // What was written meanwhile may find the window shut.
                self.update_timers(now);
                return;
            }
        }
        self.tail_due = false;
        self.probe_due = false;
        self.last_sent = Some(now);
        if self.retransmit_at.is_none() {
            self.retransmit_at = Some(now + self.rtt.time_out());
        }
        self.arm_tail(now);
        if open {
            self.update_timers(now);
        }
    }

    /// Has the peer asked whether it is there.
    pub(super) const fn probe(&mut self) {
        self.probe_due = true;
    }
}
