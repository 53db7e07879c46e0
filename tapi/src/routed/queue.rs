//! A bounded queue of packets.

use std::collections::VecDeque;

/// Packets that wait in each direction at a [`PacketSocket`](super::PacketSocket). Beyond it the oldest is dropped and
/// counted, as a router's queue that favours fresh packets.
pub const MAX_ROUTED_PACKETS: usize = 1024;
/// Free buffers kept.
const POOL: usize = 128;

/// Packets, oldest first; at most [`MAX_ROUTED_PACKETS`].
#[derive(Debug, Default)]
pub(super) struct PacketQueue {
    packets: VecDeque<Vec<u8>>,
    /// At most [`POOL`].
    free: Vec<Vec<u8>>,
}

impl PacketQueue {
    /// Appends a copy; true if the oldest was dropped for it.
    pub(super) fn push(&mut self, packet: &[u8]) -> bool {
        let dropped = if self.packets.len() >= MAX_ROUTED_PACKETS {
            self.packets.pop_front()
        } else {
            None
        };
        let full = dropped.is_some();
        let mut buffer = dropped.or_else(|| self.free.pop()).unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(packet);
        self.packets.push_back(buffer);
        full
    }

    pub(super) fn pop(&mut self) -> Option<Vec<u8>> {
        self.packets.pop_front()
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
    use super::*;

    #[test]
    fn the_oldest_goes_when_it_is_full_and_buffers_come_back() {
        let mut queue = PacketQueue::default();
        for number in 0..MAX_ROUTED_PACKETS {
            assert!(!queue.push(&number.to_be_bytes()));
        }
        assert!(queue.push(b"last"));
        assert_eq!(queue.pop().as_deref(), Some(&1_usize.to_be_bytes()[..]));
        let mut last = None;
        while let Some(packet) = queue.pop() {
            last = Some(packet.clone());
            queue.recycle(packet);
        }
        assert_eq!(last.as_deref(), Some(&b"last"[..]));
        assert_eq!(queue.free.len(), POOL);
    }
}
