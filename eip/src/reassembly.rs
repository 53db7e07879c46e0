//! Datagrams from fragments (RFC 791, section 3.2; RFC 8200, section 4.5), within limits.
//!
//! One policy for both IP versions: fragments that overlap or contradict each other spoil their
//! datagram for good (RFC 5722), exact duplicates are ignored, and when memory is short the oldest
//! datagram is given up. Fragments are stored back to back as they come, so a datagram holds as
//! many bytes as were received: a lone fragment with a high offset costs no more than itself.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::config::StackConfig;
use crate::ip::{Fragment, Packet, Pair};

/// Fragments of one datagram: enough for 64 KiB at the smallest MTU, and a bound on what tiny
/// fragments cost.
const MAX_FRAGMENTS: usize = 128;

/// Longest payload that can be put together: the length field of IPv4 counts its header, that of
/// IPv6 does not.
const MAX_PAYLOAD_V4: usize = 65_515;
const MAX_PAYLOAD_V6: usize = 65_535;

/// All datagrams in reassembly.
#[derive(Debug)]
pub(crate) struct Reassembly {
    entries: BTreeMap<Id, Entry>,
    /// Entries in order of age.
    order: BTreeMap<u64, Id>,
    next_age: u64,
    /// Bytes of payload held.
    held: usize,
    /// No entry expires before this.
    next_deadline: Option<Instant>,
    limits: Limits,
    pub(crate) counters: Counters,
}

#[derive(Debug)]
struct Limits {
    datagrams: usize,
    bytes: usize,
    timeout_v4: Duration,
    timeout_v6: Duration,
}

/// What reassembly counts, in datagrams.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    pub(crate) completed: u64,
    pub(crate) refused: u64,
    pub(crate) evicted: u64,
    pub(crate) timed_out: u64,
}

/// What fragments of one datagram have in common. IPv4 counts the protocol in, IPv6 does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Id {
    pair: Pair,
    protocol: Option<u8>,
    identification: u32,
}

impl Id {
    fn of(packet: &Packet<'_>, fragment: Fragment) -> Self {
        Self {
            pair: packet.pair,
            protocol: match packet.pair {
                Pair::V4 { .. } => Some(packet.protocol),
                Pair::V6 { .. } => None,
            },
            identification: fragment.identification,
        }
    }
}

#[derive(Debug)]
struct Entry {
    age: u64,
    deadline: Instant,
    state: State,
}

#[derive(Debug)]
enum State {
    Collecting(Collecting),
    /// Spoilt: the datagram's fragments are dropped until the deadline.
    Refused,
}

#[derive(Debug, Default)]
struct Collecting {
    /// Payloads in order of arrival.
    data: Vec<u8>,
    /// Where they belong, in order of `start`, without overlaps.
    pieces: Vec<Piece>,
    /// Length of the datagram's payload, once the last fragment is known.
    total: Option<usize>,
    first: Option<First>,
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    start: usize,
    len: usize,
    /// Position in `data`.
    at: usize,
}

impl Piece {
    const fn end(&self) -> usize {
        self.start.saturating_add(self.len)
    }

    const fn in_data(&self) -> Range<usize> {
        self.at..self.at.saturating_add(self.len)
    }
}

/// What the first fragment says about the whole datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct First {
    pub(crate) protocol: u8,
    pub(crate) traffic_class: u8,
}

/// What became of a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Stored, ignored as a duplicate, or dropped with its datagram.
    Pending,
    /// The datagram's payload is complete.
    Complete(First),
    /// Its length or place is impossible.
    Malformed,
}

/// What a fragment does to its datagram.
enum Effect {
    Stored,
    Duplicate,
    Spoilt,
}

impl Reassembly {
    pub(crate) const fn new(config: &StackConfig) -> Self {
        Self {
            entries: BTreeMap::new(),
            order: BTreeMap::new(),
            next_age: 0,
            held: 0,
            next_deadline: None,
            limits: Limits {
                datagrams: config.reassembly_datagrams,
                bytes: config.reassembly_bytes,
                timeout_v4: config.reassembly_timeout_v4,
                timeout_v6: config.reassembly_timeout_v6,
            },
            counters: Counters {
                completed: 0,
                refused: 0,
                evicted: 0,
                timed_out: 0,
            },
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) const fn held(&self) -> usize {
        self.held
    }

    /// A time not after the earliest deadline.
    pub(crate) const fn poll_timeout(&self) -> Option<Instant> {
        self.next_deadline
    }

    /// Gives up what has expired.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.next_deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        let expired: Vec<Id> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.deadline <= now)
            .map(|(id, _)| *id)
            .collect();
        for id in expired {
            if matches!(self.remove(id), Some(State::Collecting(_))) {
                self.counters.timed_out += 1;
            }
        }
        self.next_deadline = self.entries.values().map(|entry| entry.deadline).min();
    }

    /// Takes a fragment. On [`Outcome::Complete`], `whole` is the datagram's payload.
    pub(crate) fn add(
        &mut self,
        now: Instant,
        packet: &Packet<'_>,
        fragment: Fragment,
        whole: &mut Vec<u8>,
    ) -> Outcome {
        self.handle_timeout(now);
        let len = packet.payload.len();
        let max = match packet.pair {
            Pair::V4 { .. } => MAX_PAYLOAD_V4,
            Pair::V6 { .. } => MAX_PAYLOAD_V6,
        };
        if len == 0
            || (fragment.more && !len.is_multiple_of(8))
            || fragment.offset.saturating_add(len) > max
        {
            return Outcome::Malformed;
        }
        if len > self.limits.bytes {
            self.counters.evicted += 1;
            return Outcome::Pending;
        }
        let id = Id::of(packet, fragment);
        if !self.entries.contains_key(&id) && !self.open(now, id) {
            return Outcome::Pending;
        }
        // Only what will be stored may push others out.
        match self
            .collecting(id)
            .map(|collecting| collecting.judge(packet, fragment))
        {
            None | Some(Effect::Duplicate) => return Outcome::Pending,
            Some(Effect::Spoilt) => {
                self.spoil(id);
                return Outcome::Pending;
            }
            Some(Effect::Stored) => {}
        }
        if !self.make_room(id, len) {
            return Outcome::Pending;
        }
        let Some(collecting) = self.collecting(id) else {
            return Outcome::Pending;
        };
        collecting.store(packet, fragment);
        let complete = collecting.complete(whole);
        self.held = self.held.saturating_add(len);
        match complete {
            None => Outcome::Pending,
            Some(first) => {
                self.remove(id);
                self.counters.completed += 1;
                Outcome::Complete(first)
            }
        }
    }

    /// The datagram `id`, unless it is spoilt.
    fn collecting(&mut self, id: Id) -> Option<&mut Collecting> {
        match &mut self.entries.get_mut(&id)?.state {
            State::Collecting(collecting) => Some(collecting),
            State::Refused => None,
        }
    }

    /// Spoils the datagram that `packet` is a fragment of, because it is known that nobody can use
    /// it.
    pub(crate) fn refuse(&mut self, now: Instant, packet: &Packet<'_>, fragment: Fragment) {
        self.handle_timeout(now);
        let id = Id::of(packet, fragment);
        if self.entries.contains_key(&id) || self.open(now, id) {
            self.spoil(id);
        }
    }

    /// Starts a datagram, at the cost of the oldest one if there are too many.
    fn open(&mut self, now: Instant, id: Id) -> bool {
        if self.limits.datagrams == 0 {
            self.counters.evicted += 1;
            return false;
        }
        while self.entries.len() >= self.limits.datagrams {
            if self.evict_oldest().is_none() {
                break;
            }
        }
        let timeout = match id.pair {
            Pair::V4 { .. } => self.limits.timeout_v4,
            Pair::V6 { .. } => self.limits.timeout_v6,
        };
        let deadline = now + timeout;
        self.next_deadline = Some(
            self.next_deadline
                .map_or(deadline, |earliest| earliest.min(deadline)),
        );
        let age = self.next_age;
        self.next_age = self.next_age.wrapping_add(1);
        self.order.insert(age, id);
        self.entries.insert(
            id,
            Entry {
                age,
                deadline,
                state: State::Collecting(Collecting::default()),
            },
        );
        true
    }

    /// Gives up old datagrams until `len` more bytes fit; `false` if `id` itself had to go.
    fn make_room(&mut self, id: Id, len: usize) -> bool {
        while self.held.saturating_add(len) > self.limits.bytes {
            match self.evict_oldest() {
                Some(evicted) if evicted == id => return false,
                Some(_) => {}
                None => return false,
            }
        }
        true
    }

    fn evict_oldest(&mut self) -> Option<Id> {
        let (_, id) = self.order.first_key_value()?;
        let id = *id;
        if matches!(self.remove(id), Some(State::Collecting(_))) {
            self.counters.evicted += 1;
        }
        Some(id)
    }

    fn spoil(&mut self, id: Id) {
        if let Some(entry) = self.entries.get_mut(&id)
            && let State::Collecting(collecting) = &entry.state
        {
            self.held = self.held.saturating_sub(collecting.data.len());
            self.counters.refused += 1;
            entry.state = State::Refused;
        }
    }

    fn remove(&mut self, id: Id) -> Option<State> {
        let entry = self.entries.remove(&id)?;
        self.order.remove(&entry.age);
        if let State::Collecting(collecting) = &entry.state {
            self.held = self.held.saturating_sub(collecting.data.len());
        }
        if self.entries.is_empty() {
            self.next_deadline = None;
        }
        Some(entry.state)
    }
}

impl Collecting {
    /// What the fragment would do here.
    fn judge(&self, packet: &Packet<'_>, fragment: Fragment) -> Effect {
        let start = fragment.offset;
        let end = start.saturating_add(packet.payload.len());
        let position = self.position(start);
        let before = position
            .checked_sub(1)
            .and_then(|index| self.pieces.get(index));
        let after = self.pieces.get(position);
        if let Some(same) = after.filter(|piece| piece.start == start && piece.end() == end) {
            let is_last = self.total == Some(end);
            // An exact duplicate, as networks make them, is one in every respect.
            return if self.data.get(same.in_data()) == Some(packet.payload)
                && is_last != fragment.more
            {
                Effect::Duplicate
            } else {
                Effect::Spoilt
            };
        }
        let overlaps = before.is_some_and(|piece| piece.end() > start)
            || after.is_some_and(|piece| piece.start < end);
        let beyond_end = self.total.is_some_and(|total| end > total);
        // A second end, or one before what is there already.
        let wrong_end = !fragment.more
            && (self.total.is_some() || self.pieces.last().is_some_and(|piece| piece.end() > end));
        if overlaps || beyond_end || wrong_end || self.pieces.len() >= MAX_FRAGMENTS {
            Effect::Spoilt
        } else {
            Effect::Stored
        }
    }

    /// Stores a fragment that was judged so.
    fn store(&mut self, packet: &Packet<'_>, fragment: Fragment) {
        let new = Piece {
            start: fragment.offset,
            len: packet.payload.len(),
            at: self.data.len(),
        };
        if !fragment.more {
            self.total = Some(new.end());
        }
        if fragment.offset == 0 {
            self.first = Some(First {
                protocol: packet.protocol,
                traffic_class: packet.traffic_class,
            });
        }
        self.data.extend_from_slice(packet.payload);
        self.pieces.insert(self.position(new.start), new);
    }

    /// Where a piece that starts at `start` belongs.
    fn position(&self, start: usize) -> usize {
        self.pieces.partition_point(|piece| piece.start < start)
    }

    /// Writes the payload in order if nothing is missing. As pieces do not overlap, their bytes
    /// tell.
    fn complete(&self, whole: &mut Vec<u8>) -> Option<First> {
        if self.total != Some(self.data.len()) {
            return None;
        }
        whole.clear();
        whole.reserve_exact(self.data.len());
        for piece in &self.pieces {
            whole.extend_from_slice(self.data.get(piece.in_data()).unwrap_or(&[]));
        }
        self.first
    }
}
