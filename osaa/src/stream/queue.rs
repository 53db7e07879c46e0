//! What waits for a stream, in the order in which it will be sent.

use std::{
    cell::RefCell,
    collections::VecDeque,
    io::IoSlice,
    time::{Duration, Instant},
};

use bytes::BytesMut;

use super::{QueueError, UnitClass, codel::Codel};

/// Most bytes of control messages that wait for one stream.
pub(super) const CONTROL_LIMIT: usize = 64 * 1024;

/// For so many bytes one byte goes to each class behind that waits, so that none stands still.
const SHARE: usize = 8;

/// Most bytes that a class can be owed so.
const OWED: usize = 16 * 1024;

/// Where lanes stand in [`SendQueue::lanes`].
const CONTROL: usize = 0;
const SIGNALLING: usize = 1;
const MEDIA: usize = 2;
const BULK: usize = 3;

/// Memory of queues without content that a thread keeps for reuse.
const SPARE_BYTES: usize = 1024 * 1024;

/// How much may wait, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct QueueLimits {
    /// Of bulk data, and of media; a quarter of it of signalling.
    pub(super) bytes: usize,
    /// Of media.
    pub(super) time: Duration,
}

/// Units that were dropped because others, or they themselves, had waited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueDrops {
    /// Media older than [`media_time`](crate::socket::StreamOptions::media_time), and bulk data that gave way so that a
    /// queue that stands for long becomes shorter.
    pub late: u64,
    /// For want of room.
    pub full: u64,
}

impl QueueDrops {
    /// Adds other ones.
    pub const fn add(&mut self, other: Self) {
        self.late = self.late.saturating_add(other.late);
        self.full = self.full.saturating_add(other.full);
    }
}

/// See the module. One that is empty is given back ([`Self::give_back`]), so that idle streams hold none.
#[derive(Debug)]
pub(super) struct SendQueue {
    control: Lane,
    signalling: Lane,
    media: Lane,
    bulk: Lane,
    codel: Codel,
    /// Times of units count from here.
    begun: Instant,
    drops: QueueDrops,
}

/// The units of one class. Its memory grows by doubling and holds what was sent until that is more than what waits: it is
/// at most four times the limit of what waits.
#[derive(Debug, Default)]
struct Lane {
    /// Sent ones up to `head`, then those of `units`.
    bytes: Vec<u8>,
    head: usize,
    units: VecDeque<Waiting>,
    /// Bytes that may go before those of the other lanes, see [`SHARE`].
    owed: usize,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    len: u32,
    /// Milliseconds after [`SendQueue::begun`].
    since: u32,
}

/// What is to be sent next: whole units from the front of lanes, in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Offer {
    /// Bytes of lanes; a lane that is named twice goes on where it was.
    parts: [(usize, usize); PARTS],
}

/// Control messages; what is owed to media and bulk data; signalling, media and bulk data.
const PARTS: usize = 6;

impl Offer {
    pub(super) fn len(&self) -> usize {
        self.parts.iter().map(|(_, len)| len).sum()
    }
}

thread_local! {
    static SPARE: RefCell<Spare> = const { RefCell::new(Spare { queues: Vec::new(), bytes: 0 }) };
}

/// At most [`SPARE_BYTES`].
struct Spare {
    #[expect(clippy::vec_box, reason = "they come and go in their boxes")]
    queues: Vec<Box<SendQueue>>,
    bytes: usize,
}

impl SendQueue {
    /// An empty one, with memory of one that was given back if there is one.
    pub(super) fn take(now: Instant) -> Box<Self> {
        let spare = SPARE.try_with(|spare| {
            let mut spare = spare.try_borrow_mut().ok()?;
            let queue = spare.queues.pop()?;
            spare.bytes = spare.bytes.saturating_sub(queue.memory());
            Some(queue)
        });
        if let Ok(Some(mut queue)) = spare {
            queue.begun = now;
            return queue;
        }
        Box::new(Self {
            control: Lane::default(),
            signalling: Lane::default(),
            media: Lane::default(),
            bulk: Lane::default(),
            codel: Codel::default(),
            begun: now,
            drops: QueueDrops::default(),
        })
    }

    /// Keeps the memory for the next one of this thread, within a bound.
    pub(super) fn give_back(mut self: Box<Self>) {
        for lane in self.lanes_mut() {
            lane.clear();
        }
        self.codel = Codel::default();
        self.drops = QueueDrops::default();
        // A thread that ends keeps nothing.
        let _ended = SPARE.try_with(|spare| {
            if let Ok(mut spare) = spare.try_borrow_mut()
                && spare.bytes.saturating_add(self.memory()) <= SPARE_BYTES
            {
                spare.bytes = spare.bytes.saturating_add(self.memory());
                spare.queues.push(self);
            }
        });
    }

    fn memory(&self) -> usize {
        let lanes = self.lanes().into_iter().map(Lane::memory).sum::<usize>();
        size_of::<Self>().saturating_add(lanes)
    }

    const fn lanes(&self) -> [&Lane; 4] {
        [&self.control, &self.signalling, &self.media, &self.bulk]
    }

    const fn lanes_mut(&mut self) -> [&mut Lane; 4] {
        [
            &mut self.control,
            &mut self.signalling,
            &mut self.media,
            &mut self.bulk,
        ]
    }

    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.lanes().into_iter().map(Lane::len).sum()
    }

    /// Nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.lanes().into_iter().all(Lane::is_empty)
    }

    /// What was dropped since the last call.
    pub(super) const fn take_drops(&mut self) -> QueueDrops {
        std::mem::replace(&mut self.drops, QueueDrops { late: 0, full: 0 })
    }

    /// Takes a unit. Media always fits, at the cost of older media.
    pub(super) fn push(
        &mut self,
        now: Instant,
        class: UnitClass,
        unit: &[u8],
        limits: &QueueLimits,
    ) -> Result<(), QueueError> {
        let since = self.millis(now);
        let limit = match class {
            UnitClass::Control => CONTROL_LIMIT,
            UnitClass::Signalling => limits.bytes / 4,
            UnitClass::RealTime | UnitClass::Bulk => limits.bytes,
        };
        let len = unit.len();
        if len > limit {
            return Err(QueueError::TooLong { len, limit });
        }
        let lane = match class {
            UnitClass::Control => &mut self.control,
            UnitClass::Signalling => &mut self.signalling,
            UnitClass::RealTime => &mut self.media,
            UnitClass::Bulk => &mut self.bulk,
        };
        if class == UnitClass::RealTime {
            self.drops.late += lane.drop_older(since, limits.time);
            while lane.len() + len > limit && lane.drop_first() {
                self.drops.full += 1;
            }
        } else if lane.len() + len > limit {
            return Err(QueueError::Full);
        }
        lane.push(unit, since);
        Ok(())
    }

    /// What to send next, about `room` bytes but at least one unit; empty if nothing waits. Drops what is too old.
    pub(super) fn offer(&mut self, now: Instant, room: usize, limits: &QueueLimits) -> Offer {
        let since = self.millis(now);
        self.drops.late += self.media.drop_older(since, limits.time);
        while let Some(first) = self.bulk.units.front()
            && self.codel.drops(
                Duration::from_millis(since.into()),
                Duration::from_millis(since.saturating_sub(first.since).into()),
                self.bulk.units.len() == 1,
            )
        {
            self.bulk.drop_first();
            self.drops.late += 1;
        }
        self.take_parts(room)
    }

    fn take_parts(&self, room: usize) -> Offer {
        let mut offer = Offer::default();
        let mut taken = [0; 4];
        let (mut left, mut is_first) = (room, true);
        let lanes = self.lanes();
        let plan = [
            (CONTROL, false),
            (MEDIA, true),
            (BULK, true),
            (SIGNALLING, false),
            (MEDIA, false),
            (BULK, false),
        ];
        for ((index, is_owed), part) in plan.into_iter().zip(&mut offer.parts) {
            let (Some(lane), Some(taken)) = (lanes.get(index), taken.get_mut(index)) else {
                continue;
            };
            let room = if is_owed { left.min(lane.owed) } else { left };
            // The first unit of all goes whatever its length.
            let len = lane.front(*taken, room, is_first && !is_owed);
            is_first &= len == 0;
            *part = (index, len);
            *taken += len;
            left = left.saturating_sub(len);
        }
        offer
    }

    /// The bytes of an offer.
    pub(super) fn slices(&self, offer: &Offer) -> [IoSlice<'_>; PARTS] {
        let mut slices = [IoSlice::new(&[]); PARTS];
        let mut starts = self.lanes().map(|lane| lane.head);
        for (slice, (index, len)) in slices.iter_mut().zip(offer.parts) {
            let (Some(lane), Some(start)) =
                (self.lanes().get(index).copied(), starts.get_mut(index))
            else {
                continue;
            };
            let end = start.saturating_add(len);
            *slice = IoSlice::new(lane.bytes.get(*start..end).unwrap_or_default());
            *start = end;
        }
        slices
    }

    /// Forgets the first `written` bytes of an offer, and the rest of a unit that they end in: that comes next, before
    /// everything else, and goes to `rest`.
    pub(super) fn advance(&mut self, offer: &Offer, written: usize, rest: &mut BytesMut) {
        let mut left = written;
        for (index, len) in offer.parts.into_iter().filter(|(_, len)| *len > 0) {
            let sent = left.min(len);
            left -= sent;
            for (behind, lane) in self.lanes_mut().into_iter().enumerate() {
                if behind == index {
                    lane.advance(sent, rest);
                    lane.owed = lane.owed.saturating_sub(sent);
                } else if behind > index {
                    lane.owed = (lane.owed + sent.div_ceil(SHARE)).min(OWED);
                }
                if lane.is_empty() {
                    lane.owed = 0;
                }
            }
            if sent < len {
                return;
            }
        }
    }

    fn millis(&self, now: Instant) -> u32 {
        let millis = now.saturating_duration_since(self.begun).as_millis();
        u32::try_from(millis).unwrap_or(u32::MAX)
    }
}

impl Lane {
    const fn len(&self) -> usize {
        self.bytes.len() - self.head
    }

    fn is_empty(&self) -> bool {
        self.units.is_empty()
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.head = 0;
        self.units.clear();
        self.owed = 0;
    }

    fn memory(&self) -> usize {
        let units = self.units.capacity().saturating_mul(size_of::<Waiting>());
        self.bytes.capacity().saturating_add(units)
    }

    fn push(&mut self, unit: &[u8], since: u32) {
        // Moves each byte at most once for each time that the lane is sent.
        if self.head > 0
            && self.head >= self.len()
            && self.bytes.capacity() - self.bytes.len() < unit.len()
        {
            self.bytes.drain(..self.head);
            self.head = 0;
        }
        self.bytes.extend_from_slice(unit);
        let len = u32::try_from(unit.len()).unwrap_or(u32::MAX);
        self.units.push_back(Waiting { len, since });
    }

    fn drop_first(&mut self) -> bool {
        let Some(first) = self.units.pop_front() else {
            return false;
        };
        self.skip(first.len as usize);
        true
    }

    fn drop_older(&mut self, now: u32, age: Duration) -> u64 {
        let mut dropped = 0;
        while let Some(first) = self.units.front()
            && u128::from(now.saturating_sub(first.since)) > age.as_millis()
        {
            self.drop_first();
            dropped += 1;
        }
        dropped
    }

    /// Length of the units behind the first `skipped` bytes that fit `room`; of the first one in any case if
    /// `at_least_one`.
    fn front(&self, skipped: usize, room: usize, at_least_one: bool) -> usize {
        let waiting = self.len().saturating_sub(skipped);
        if waiting <= room {
            return waiting;
        }
        let (mut before, mut len) = (0, 0);
        for unit in &self.units {
            if before < skipped {
                before += unit.len as usize;
                continue;
            }
            let end = len + unit.len as usize;
            if end > room && (len > 0 || !at_least_one) {
                break;
            }
            len = end;
        }
        len
    }

    fn advance(&mut self, written: usize, rest: &mut BytesMut) {
        let mut left = written;
        while left > 0
            && let Some(first) = self.units.pop_front()
        {
            let len = first.len as usize;
            if len > left {
                let unsent = self.bytes.get(self.head + left..self.head + len);
                rest.extend_from_slice(unsent.unwrap_or_default());
            }
            self.skip(len);
            left = left.saturating_sub(len);
        }
    }

    fn skip(&mut self, len: usize) {
        self.head += len;
        if self.head >= self.bytes.len() {
            self.bytes.clear();
            self.head = 0;
        }
    }
}

#[cfg(test)]
mod tests;
