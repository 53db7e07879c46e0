//! Receive queue of one socket: a ring of payload bytes and a ring of descriptions.
//!
//! Payloads lie back to back, so a queue takes the memory of its bytes, not of its packets'
//! buffers, and an established socket receives without allocating.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

/// Memory of all queues of a stack, in bytes of allocated capacity.
#[derive(Debug)]
pub(crate) struct Budget {
    held: usize,
    limit: usize,
}

impl Budget {
    pub(crate) const fn new(limit: usize) -> Self {
        Self { held: 0, limit }
    }

    pub(crate) const fn held(&self) -> usize {
        self.held
    }

    fn take(&mut self, bytes: usize) -> bool {
        match self.held.checked_add(bytes) {
            Some(held) if held <= self.limit => {
                self.held = held;
                true
            }
            Some(_) | None => false,
        }
    }

    const fn give(&mut self, bytes: usize) {
        self.held = self.held.saturating_sub(bytes);
    }
}

/// Limits of one queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueLimits {
    pub(crate) packets: usize,
    pub(crate) bytes: usize,
}

/// A datagram's description; its payload is in the byte ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) from: SocketAddr,
    pub(crate) to: IpAddr,
    pub(crate) traffic_class: u8,
    pub(crate) len: usize,
}

/// Smallest allocations: a few signalling messages, or a talk spurt's first packets.
const MIN_BYTES: usize = 1024;
const MIN_METAS: usize = 4;

/// Datagrams in order of arrival.
#[derive(Debug, Default)]
pub(crate) struct ReceiveQueue {
    metas: VecDeque<Meta>,
    bytes: VecDeque<u8>,
    /// What is booked in the budget. `VecDeque` may allocate more than was asked, but does not do
    /// so for [`VecDeque::reserve_exact`] in practice.
    booked: usize,
}

/// What became of a datagram given to [`ReceiveQueue::push`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pushed {
    pub(crate) accepted: bool,
    /// Datagrams dropped, the given one included if it was not accepted.
    pub(crate) dropped: u64,
}

impl ReceiveQueue {
    pub(crate) fn is_empty(&self) -> bool {
        self.metas.is_empty()
    }

    /// Appends a datagram; old ones make room. `meta.len` is the length of `payload`.
    pub(crate) fn push(
        &mut self,
        meta: Meta,
        payload: &[u8],
        limits: QueueLimits,
        budget: &mut Budget,
    ) -> Pushed {
        let mut dropped = 0;
        if payload.len() > limits.bytes {
            return Pushed {
                accepted: false,
                dropped: 1,
            };
        }
        loop {
            let fits = self.metas.len() < limits.packets
                && self.bytes.len() + payload.len() <= limits.bytes;
            if fits && self.reserve(payload.len(), limits, budget) {
                break;
            }
            dropped += 1;
            if self.pop().is_none() {
                return Pushed {
                    accepted: false,
                    dropped,
                };
            }
        }
        self.metas.push_back(meta);
        self.bytes.extend(payload);
        Pushed {
            accepted: true,
            dropped,
        }
    }

    /// Copies the oldest datagram's payload to the front of `buffer`; what does not fit is left
    /// out.
    pub(crate) fn peek(&self, buffer: &mut [u8]) -> Option<Meta> {
        let meta = *self.metas.front()?;
        let wanted = meta.len.min(buffer.len());
        let (left, right) = self.bytes.as_slices();
        let from_left = wanted.min(left.len());
        copy_front(buffer, left, from_left);
        if let Some(rest) = buffer.get_mut(from_left..) {
            copy_front(rest, right, wanted.saturating_sub(from_left));
        }
        Some(meta)
    }

    /// Removes the oldest datagram.
    pub(crate) fn pop(&mut self) -> Option<Meta> {
        let meta = self.metas.pop_front()?;
        self.bytes.drain(..meta.len.min(self.bytes.len()));
        Some(meta)
    }

    /// Gives memory back if the queue is empty and memory is short: a queue that once was long must
    /// not keep others from growing.
    pub(crate) fn relax(&mut self, budget: &mut Budget) {
        if self.metas.is_empty() && budget.held > budget.limit / 2 {
            self.release(budget);
        }
    }

    /// Drops everything and gives all memory back.
    pub(crate) fn release(&mut self, budget: &mut Budget) {
        self.metas = VecDeque::new();
        self.bytes = VecDeque::new();
        budget.give(self.booked);
        self.booked = 0;
    }

    /// Makes room for one more datagram of `len` bytes. Grows by doubling, within the limits.
    fn reserve(&mut self, len: usize, limits: QueueLimits, budget: &mut Budget) -> bool {
        let needed = self.bytes.len().saturating_add(len);
        if needed > self.bytes.capacity() {
            let target = needed
                .next_power_of_two()
                .max(MIN_BYTES)
                .min(limits.bytes)
                .max(needed);
            if !self.book(target.saturating_sub(self.bytes.capacity()), budget) {
                return false;
            }
            self.bytes
                .reserve_exact(target.saturating_sub(self.bytes.len()));
        }
        if self.metas.len() == self.metas.capacity() {
            let target = (self.metas.len() * 2).max(MIN_METAS).min(limits.packets);
            let more = target.saturating_sub(self.metas.capacity());
            if !self.book(more.saturating_mul(size_of::<Meta>()), budget) {
                return false;
            }
            self.metas.reserve_exact(more);
        }
        true
    }

    fn book(&mut self, bytes: usize, budget: &mut Budget) -> bool {
        let taken = budget.take(bytes);
        if taken {
            self.booked = self.booked.saturating_add(bytes);
        }
        taken
    }
}

/// Copies the first `len` bytes, or as many as both sides have.
fn copy_front(to: &mut [u8], from: &[u8], len: usize) {
    let len = len.min(to.len()).min(from.len());
    if let (Some(to), Some(from)) = (to.get_mut(..len), from.get(..len)) {
        to.copy_from_slice(from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: QueueLimits = QueueLimits {
        packets: 3,
        bytes: 4096,
    };

    fn meta(len: usize) -> Meta {
        Meta {
            from: SocketAddr::from(([10, 0, 0, 1], 1)),
            to: IpAddr::from([10, 0, 0, 2]),
            traffic_class: 0,
            len,
        }
    }

    fn push(queue: &mut ReceiveQueue, payload: &[u8], budget: &mut Budget) -> Pushed {
        queue.push(meta(payload.len()), payload, LIMITS, budget)
    }

    fn take(queue: &mut ReceiveQueue) -> Option<Vec<u8>> {
        let mut buffer = [0; 8192];
        let meta = queue.peek(&mut buffer)?;
        queue.pop();
        Some(buffer[..meta.len].to_vec())
    }

    #[test]
    fn a_full_queue_drops_the_oldest() {
        let (mut queue, mut budget) = (ReceiveQueue::default(), Budget::new(1 << 20));
        for byte in 1..=3 {
            assert_eq!(push(&mut queue, &[byte], &mut budget).dropped, 0);
        }
        assert_eq!(push(&mut queue, &[4], &mut budget).dropped, 1);
        assert_eq!(push(&mut queue, &[5; 4095], &mut budget).dropped, 2);
        assert_eq!(take(&mut queue), Some(vec![4]));
        assert_eq!(take(&mut queue), Some(vec![5; 4095]));
        assert_eq!(take(&mut queue), None);
    }

    #[test]
    fn a_datagram_larger_than_the_queue_leaves_the_others() {
        let (mut queue, mut budget) = (ReceiveQueue::default(), Budget::new(1 << 20));
        push(&mut queue, &[1], &mut budget);
        let refused = Pushed {
            accepted: false,
            dropped: 1,
        };
        assert_eq!(push(&mut queue, &[0; 4097], &mut budget), refused);
        assert_eq!(take(&mut queue), Some(vec![1]));
    }

    #[test]
    fn the_common_budget_is_kept_and_given_back() {
        let mut budget = Budget::new(3000);
        let (mut first, mut second) = (ReceiveQueue::default(), ReceiveQueue::default());
        assert!(push(&mut first, &[1; 1000], &mut budget).accepted);
        assert!(push(&mut second, &[1; 1000], &mut budget).accepted);
        // Doubling does not fit: the socket's own oldest makes room.
        let squeezed = push(&mut first, &[2; 1000], &mut budget);
        assert_eq!((squeezed.accepted, squeezed.dropped), (true, 1));
        let mut third = ReceiveQueue::default();
        assert!(
            !push(&mut third, &[1; 1000], &mut budget).accepted,
            "nothing to drop"
        );
        assert!(budget.held() <= 3000);
        assert_eq!(take(&mut first), Some(vec![2; 1000]));
        first.relax(&mut budget);
        assert!(
            push(&mut third, &[1; 1000], &mut budget).accepted,
            "an empty queue made room"
        );
        for queue in [&mut first, &mut second, &mut third] {
            queue.release(&mut budget);
        }
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn payloads_survive_the_ring_wrapping_around() {
        let (mut queue, mut budget) = (ReceiveQueue::default(), Budget::new(1 << 20));
        let mut expected = VecDeque::new();
        for round in 0..=255u8 {
            let payload = vec![round; (usize::from(round) * 37) % 700];
            push(&mut queue, &payload, &mut budget);
            expected.push_back(payload);
            if expected.len() == 3 {
                assert_eq!(take(&mut queue), expected.pop_front());
            }
        }
    }

    #[test]
    fn a_short_buffer_gets_the_front_and_empty_payloads_count() {
        let (mut queue, mut budget) = (ReceiveQueue::default(), Budget::new(1 << 20));
        push(&mut queue, b"abcdef", &mut budget);
        push(&mut queue, b"", &mut budget);
        let mut buffer = [0; 3];
        assert_eq!(queue.peek(&mut buffer).map(|meta| meta.len), Some(6));
        assert_eq!(&buffer, b"abc");
        queue.pop();
        assert_eq!(queue.pop().map(|meta| meta.len), Some(0));
        assert!(queue.is_empty());
    }
}
