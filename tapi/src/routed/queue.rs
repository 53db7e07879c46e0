//! A bounded queue of packets.

use std::{collections::VecDeque, time::Instant};

/// Packets that wait in each direction at a [`PacketSocket`](super::PacketSocket). Beyond it the oldest is dropped and
/// counted, as a router's queue that favours fresh packets.
pub const MAX_ROUTED_PACKETS: usize = 1024;
/// Free buffers kept.
const POOL: usize = 128;

/// Packets, oldest first; at most [`MAX_ROUTED_PACKETS`].
#[derive(Debug, Default)]
pub(super) struct PacketQueue {
    packets: VecDeque<(Instant, Vec<u8>)>,
    /// At most [`POOL`].
    free: Vec<Vec<u8>>,
}

impl PacketQueue {
    /// Appends a copy; true if the oldest was dropped for it.
    pub(super) fn push(&mut self, now: Instant, packet: &[u8]) -> bool {
        let dropped = if self.packets.len() >= MAX_ROUTED_PACKETS {
            self.pop()
        } else {
            None
        };
        let full = dropped.is_some();
        let mut buffer = dropped.or_else(|| self.free.pop()).unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(packet);
        self.packets.push_back((now, buffer));
        full
    }

    pub(super) fn pop(&mut self) -> Option<Vec<u8>> {
        self.packets.pop_front().map(|(_, packet)| packet)
    }

    /// Drops packets queued before `limit` that are `stale`; returns how many.
    pub(super) fn discard(&mut self, limit: Instant, stale: impl Fn(&[u8]) -> bool) -> usize {
        let before = self.packets.len();
        self.packets
            .retain(|(queued, packet)| *queued >= limit || !stale(packet));
        before - self.packets.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Keeps a buffer for later; gives it back if there are enough.
    pub(super) fn recycle(&mut self, buffer: Vec<u8>) -> Option<Vec<u8>> {
        if self.free.len() < POOL {
            self.free.push(buffer);
            None
        } else {
            Some(buffer)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_oldest_goes_when_it_is_full_and_buffers_come_back() {
        let (mut queue, now) = (PacketQueue::default(), Instant::now());
        for number in 0..MAX_ROUTED_PACKETS {
            assert!(!queue.push(now, &number.to_be_bytes()));
        }
        assert!(queue.push(now, b"last"));
        assert_eq!(queue.pop().as_deref(), Some(&1_usize.to_be_bytes()[..]));
        let mut last = None;
        while let Some(packet) = queue.pop() {
            last = Some(packet.clone());
            queue.recycle(packet);
        }
        assert_eq!(last.as_deref(), Some(&b"last"[..]));
        assert_eq!(queue.free.len(), POOL);
    }

    #[test]
    fn what_is_late_and_stale_is_dropped() {
        let (mut queue, now) = (PacketQueue::default(), Instant::now());
        let later = now + Duration::from_millis(1);
        for (at, packet) in [(now, b"media"), (now, b"other"), (later, b"media")] {
            queue.push(at, packet);
        }
        assert_eq!(queue.discard(later, |packet| packet == b"media"), 1);
        assert_eq!(queue.pop().as_deref(), Some(&b"other"[..]));
        assert_eq!(queue.pop().as_deref(), Some(&b"media"[..]));
    }
}
