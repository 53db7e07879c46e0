//! The peer's half: its sequence space, what has arrived of it, and what we say about that.

use std::time::{Duration, Instant};

use super::bytes::ByteQueue;
use super::seq::{Seq, length, span};

/// How long an acknowledgement waits for company (RFC 9293, section 3.8.6.3: less than 500 ms).
const ACK_DELAY: Duration = Duration::from_millis(10);

/// Pieces of data that wait for what comes before them. More are dropped as by the network.
const MAX_RANGES: usize = 64;

/// Payload of a segment of an ordinary MTU: the least step by which it is worth opening the window.
const STEP: u32 = 1460;

/// Blocks in a selective acknowledgement (RFC 2018, section 3: four at most; smoltcp writes three).
pub(super) const BLOCKS: usize = 3;

#[derive(Debug)]
pub(super) struct Receiver {
    /// Starts with the first byte that was not read.
    queue: ByteQueue,
    /// The next sequence number expected.
    next: Seq,
    /// What lies beyond it, in order and with gaps between.
    ranges: Vec<(Seq, Seq)>,
    /// The start of the range that has grown last.
    newest: Seq,
    /// Where the stream ends, once known.
    end: Option<Seq>,
    /// The end was reached.
    finished: bool,
    /// Scale of the windows that we tell.
    shift: u8,
    /// First sequence number beyond the window. It never moves back.
    edge: Seq,
    /// The same as the peer may understand it, since windows are told in units.
    told: Seq,
    /// The acknowledgement that the peer has.
    acknowledged: Seq,
    ack_at: Option<Instant>,
    ack_now: bool,
    /// What has come twice (RFC 2883).
    twice: Option<(Seq, Seq)>,
    /// The longest segment that has come.
    longest: u32,
}

impl Receiver {
    /// `next` follows the peer's SYN; `window` bytes were told, or will be.
    pub(super) fn new(next: Seq, shift: u8, window: u16) -> Self {
        let edge = next.plus(u32::from(window));
        Self {
            queue: ByteQueue::default(),
            next,
            ranges: Vec::new(),
            newest: next,
            end: None,
            finished: false,
            shift,
            edge,
            told: edge,
            acknowledged: next,
            ack_at: None,
            ack_now: false,
            twice: None,
            longest: 0,
        }
    }

    pub(super) const fn next(&self) -> Seq {
        self.next
    }

    /// The first number beyond what the peer may send.
    pub(super) const fn limit(&self) -> Seq {
        self.told
    }

    /// Bytes to be read.
    pub(super) const fn readable(&self) -> usize {
        self.queue.len()
    }

    /// Bytes of memory, those with gaps before them and the gaps included.
    pub(super) const fn held(&self) -> usize {
        self.queue.extent()
    }

    /// The peer has shut down its end, and everything before has arrived.
    pub(super) const fn is_finished(&self) -> bool {
        self.finished
    }

    pub(super) fn peek(&self, buffer: &mut [u8]) -> usize {
        self.queue.copy_to(0, buffer)
    }

    pub(super) fn read(&mut self, buffer: &mut [u8]) -> usize {
        let count = self.queue.copy_to(0, buffer);
        self.queue.consume(count);
        count
    }

    /// Whether a segment's numbers overlap the window (RFC 9293, section 3.10.7.4).
    pub(super) fn accepts(&self, start: Seq, len: u32) -> bool {
        let (left, right) = (self.next, self.told.max(self.next));
        let inside = |seq: Seq| !seq.is_before(left) && seq.is_before(right);
        if len == 0 {
            // What acknowledges while the window is full comes from its right edge.
            inside(start) || start == left || start == right
        } else {
            let end = start.plus(len);
            inside(start) || (start.is_before(left) && end.is_after(left) && left != right)
                // A FIN alone takes no room.
                || (len == 1 && start == left)
        }
    }

    /// Takes what is new of a segment and lies within the window and the first `most` bytes from the
    /// first unread. Of two copies the first counts.
    pub(super) fn take(
        &mut self,
        now: Instant,
        start: Seq,
        payload: &[u8],
        fin: bool,
        most: usize,
    ) {
        let whole_end = start.plus(length(payload.len()));
        self.longest = self.longest.max(length(payload.len()));
        if !payload.is_empty() && start.is_before(self.next) {
            self.twice = Some((
                start,
                if whole_end.is_before(self.next) {
                    whole_end
                } else {
                    self.next
                },
            ));
            self.ack_now = true;
        }
        let orderly = self.ranges.is_empty();
        let before = self.next;
        let (start, data) = self.cut(start, payload, most);
        let stored = data.is_empty() || self.store(start, data);
        let uncut = stored && start.plus(length(data.len())) == whole_end;
        if fin
            && (uncut || whole_end == self.next)
            && self.end.is_none()
            && !whole_end.is_before(self.next)
            // An end before what is here already is none.
            && self.ranges.last().is_none_or(|(_, right)| !right.is_after(whole_end))
        {
            self.end = Some(whole_end);
        }
        if self.end == Some(self.next) && !self.finished {
            self.finished = true;
            self.next = self.next.plus(1);
            self.ack_now = true;
        }
        if self.next != before && orderly && stored {
            if self.next.since(self.acknowledged) > self.longest {
                self.ack_now = true;
            } else if self.ack_at.is_none() {
                self.ack_at = Some(now + ACK_DELAY);
            }
        } else if !payload.is_empty() {
            // Out of order, or a gap was filled (RFC 5681, section 4.2), or there was no room.
            self.ack_now = true;
        }
    }

    /// A segment outside of the window: what of it is here already is told, and where we are.
    pub(super) fn repeated(&mut self, start: Seq, len: u32) {
        self.ack_now = true;
        if len > 0 && !start.plus(len).is_after(self.next) {
            self.twice = Some((start, start.plus(len)));
        }
    }

    /// What of the data is new and may be stored.
    fn cut<'a>(&self, start: Seq, payload: &'a [u8], most: usize) -> (Seq, &'a [u8]) {
        let old = if start.is_before(self.next) {
            self.next.since(start)
        } else {
            0
        };
        let data = payload.get(old as usize..).unwrap_or_default();
        let start = start.plus(old);
        let room = length(most.saturating_sub(self.queue.len()));
        let mut right = self.told;
        if right.is_after(self.next.plus(room)) {
            right = self.next.plus(room);
        }
        if let Some(end) = self.end
            && right.is_after(end)
        {
            right = end;
        }
        let fits = if right.is_after(start) {
            right.since(start)
        } else {
            0
        };
        (start, data.get(..fits as usize).unwrap_or(data))
    }

    /// Returns whether there was room for another range.
    fn store(&mut self, start: Seq, data: &[u8]) -> bool {
        let end = start.plus(length(data.len()));
        if start == self.next && self.ranges.is_empty() {
            self.queue.push(data);
            self.next = end;
            return true;
        }
        // Ranges that overlap or touch become one with it.
        let first = self
            .ranges
            .partition_point(|(_, right)| right.is_before(start));
        let after = self.ranges.partition_point(|(left, _)| !left.is_after(end));
        if first == after && start != self.next && self.ranges.len() >= MAX_RANGES {
            return false;
        }
        let (base, next) = (self.queue.len(), self.next);
        let mut write = |from: Seq, to: Seq| {
            let piece = from.since(start) as usize..to.since(start) as usize;
            let offset = base + from.since(next) as usize;
            self.queue
                .write(offset, data.get(piece).unwrap_or_default());
        };
        let (mut at, mut left, mut right) = (start, start, end);
        for (from, to) in self.ranges.drain(first..after) {
            if from.is_after(at) {
                write(at, from);
            }
            at = at.max(to);
            left = if from.is_before(left) { from } else { left };
            right = right.max(to);
        }
        if at.is_before(end) {
            write(at, end);
        }
        if left == self.next {
            self.queue.extend(right.since(left) as usize);
            self.next = right;
        } else {
            self.ranges.insert(first, (left, right));
            self.newest = left;
        }
        true
    }

    /// Moves the window's edge so that the peer may fill up `offer` bytes, if that is worth telling;
    /// it never comes back (RFC 9293, section 3.8.6.2.2).
    pub(super) fn open_window(&mut self, offer: usize) {
        self.edge = self.opened(offer);
    }

    /// Where the edge comes to lie: no farther than the peer can be told.
    fn opened(&self, offer: usize) -> Seq {
        let room = length(offer.saturating_sub(self.queue.len()));
        let wanted = self.next.plus(room.min(u32::from(u16::MAX) << self.shift));
        if wanted.is_after(self.edge) && wanted.since(self.edge) >= step(offer) {
            wanted
        } else {
            self.edge
        }
    }

    /// Whether the peer should hear of a larger window at once: one that is at least twice as large as what it was
    /// told. The edge may have moved since. A peer that has sent nothing yet is told when it does.
    pub(super) fn news_of_window(&self, offer: usize) -> bool {
        let edge = self.opened(offer);
        let now = span(self.next, self.told);
        let then = span(self.next, edge);
        !self.finished && self.longest > 0 && edge.is_after(self.told) && then / 2 >= now
    }

    /// Whether an acknowledgement is due.
    pub(super) fn ack_due(&self, now: Instant) -> bool {
        self.ack_now || self.ack_at.is_some_and(|at| at <= now)
    }

    /// Whether an acknowledgement is due that has more to say than a number.
    pub(super) fn has_report(&self) -> bool {
        self.ack_now && (self.twice.is_some() || !self.ranges.is_empty())
    }

    pub(super) const fn ack_at(&self) -> Option<Instant> {
        self.ack_at
    }

    pub(super) const fn ack_soon(&mut self) {
        self.ack_now = true;
    }

    /// What a segment says that is sent now, in an acknowledgement and a window field.
    pub(super) fn tell(&mut self) -> (Seq, u16) {
        let window = self.window();
        self.told = self
            .told
            .max(self.next.plus(u32::from(window) << self.shift));
        self.acknowledged = self.next;
        self.ack_now = false;
        self.ack_at = None;
        (self.next, window)
    }

    /// In units of the scale, rounded up: rounded down it would shrink.
    pub(super) fn window(&self) -> u16 {
        let unit = 1u32 << self.shift;
        u16::try_from(span(self.next, self.edge).div_ceil(unit)).unwrap_or(u16::MAX)
    }

    /// What of the data beyond the next byte is here, the newest first, after what has come twice.
    pub(super) fn blocks(&mut self) -> [Option<(u32, u32)>; BLOCKS] {
        let mut blocks = [None; BLOCKS];
        let newest = self.newest;
        let twice = self.twice.take();
        let first = self.ranges.iter().filter(|(left, _)| *left == newest);
        let rest = self.ranges.iter().filter(|(left, _)| *left != newest);
        let all = twice.iter().chain(first).chain(rest);
        for (block, (left, right)) in blocks.iter_mut().zip(all) {
            *block = Some((left.0, right.0));
        }
        blocks
    }
}

fn step(offer: usize) -> u32 {
    length(offer / 2).min(STEP)
}

/// The smallest scale that expresses a window of `bytes`.
pub(super) fn window_shift(bytes: usize) -> u8 {
    let bits = usize::BITS - bytes.leading_zeros();
    u8::try_from(bits.saturating_sub(16)).unwrap_or(14).min(14)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receiver() -> Receiver {
        Receiver::new(Seq(100), 0, 10_000)
    }

    fn read(receiver: &mut Receiver) -> Vec<u8> {
        let mut all = vec![0; 20_000];
        let count = receiver.read(&mut all);
        all.truncate(count);
        all
    }

    #[test]
    fn pieces_in_any_order_make_one_stream() {
        let now = Instant::now();
        let data: Vec<u8> = (0..200).collect();
        let mut receiver = receiver();
        for step in [7u32, 3, 11, 1, 5, 13, 17, 19, 23, 29] {
            for n in 0..40 {
                let at = (n * step * 37) % 190;
                let piece = &data[at as usize..at as usize + 10];
                receiver.take(now, Seq(100 + at), piece, false, 10_000);
            }
        }
        receiver.take(now, Seq(100), &data, true, 10_000);
        assert_eq!(receiver.next(), Seq(301));
        assert!(receiver.is_finished() && receiver.ranges.is_empty());
        assert_eq!(read(&mut receiver), data);
        assert_eq!(receiver.held(), 0);
    }

    #[test]
    fn what_is_held_is_told_newest_first() {
        let now = Instant::now();
        let mut receiver = receiver();
        for at in [110, 130, 120, 150] {
            receiver.take(now, Seq(at), &[1; 5], false, 10_000);
        }
        assert!(receiver.ack_due(now));
        let blocks = receiver.blocks();
        assert_eq!(
            blocks,
            [Some((150, 155)), Some((110, 115)), Some((120, 125))]
        );
        receiver.take(now, Seq(100), &[1; 15], false, 10_000);
        receiver.take(now, Seq(98), &[1; 10], false, 10_000);
        assert_eq!(receiver.blocks()[0], Some((98, 108)), "came twice");
    }

    #[test]
    fn ranges_memory_and_window_are_bounds() {
        let now = Instant::now();
        let mut receiver = receiver();
        for n in 0..200 {
            receiver.take(now, Seq(102 + 2 * n), &[1], false, 10_000);
        }
        assert_eq!(receiver.ranges.len(), MAX_RANGES);
        let mut receiver = self::receiver();
        receiver.take(now, Seq(100), &[1; 50], false, 20);
        assert_eq!(receiver.readable(), 20);
        receiver.take(now, Seq(120), &[1; 20_000], true, 100_000);
        assert_eq!(receiver.readable(), 10_000);
        assert!(!receiver.is_finished(), "the end was cut off");
        assert!(!receiver.accepts(Seq(10_100), 1000));
        assert!(receiver.accepts(Seq(10_100), 0));
    }

    #[test]
    fn the_window_opens_by_steps_and_never_shrinks() {
        let now = Instant::now();
        let mut receiver = Receiver::new(Seq(0), 5, 60_000);
        for n in 0..60_000u32 {
            receiver.take(now, Seq(n), &[1], false, 60_000);
            receiver.open_window(60_000);
            let (next, window) = receiver.tell();
            assert_eq!(next, Seq(n + 1));
            // No less than was decided, and by rounding up no more than a unit beyond.
            let right = next.plus(u32::from(window) << 5);
            assert!(!right.is_before(Seq(60_000)) && right.since(Seq(60_000)) < 32);
        }
        assert_eq!(receiver.window(), 0);
        for _ in 0..1459 {
            receiver.read(&mut [0]);
            receiver.open_window(60_000);
            assert_eq!(receiver.window(), 0);
            assert!(!receiver.news_of_window(60_000));
        }
        receiver.read(&mut [0]);
        assert!(receiver.news_of_window(60_000));
        receiver.open_window(60_000);
        assert_eq!(receiver.window(), 46);
    }

    #[test]
    fn an_end_before_what_is_here_is_none() {
        let now = Instant::now();
        let mut receiver = receiver();
        receiver.take(now, Seq(110), &[2; 10], false, 10_000);
        receiver.take(now, Seq(100), &[1; 5], true, 10_000);
        receiver.take(now, Seq(105), &[1; 5], false, 10_000);
        assert!(!receiver.is_finished());
        assert_eq!(receiver.readable(), 20);
        receiver.take(now, Seq(120), &[], true, 10_000);
        assert!(receiver.is_finished());
        assert_eq!(receiver.next(), Seq(121));
    }

    #[test]
    fn no_more_is_opened_than_can_be_told() {
        let now = Instant::now();
        let mut receiver = Receiver::new(Seq(0), 0, u16::MAX);
        for n in 0..1000 {
            receiver.take(now, Seq(n * 100), &[1; 100], false, 1 << 20);
            receiver.read(&mut [0; 100]);
            receiver.open_window(1 << 20);
            let _ = receiver.tell();
            assert!(
                !receiver.news_of_window(1 << 20),
                "it would be told for ever"
            );
        }
        assert!(receiver.window() > 60_000);
    }

    #[test]
    fn an_edge_that_moved_unheard_is_news() {
        let now = Instant::now();
        let mut receiver = receiver();
        receiver.take(now, Seq(100), &[1; 10_000], false, 10_000);
        let _ = receiver.tell();
        read(&mut receiver);
        receiver.open_window(10_000);
        assert!(receiver.news_of_window(10_000));
        let _ = receiver.tell();
        assert!(!receiver.news_of_window(10_000));
    }
}
