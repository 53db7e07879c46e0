//! A queue of bytes that holds no more memory than it has bytes, in blocks.

use std::collections::VecDeque;

/// Bytes of a block. A queue has at most two that are not full.
const BLOCK: usize = 4096;

/// Bytes in order, of which some beyond the end may be known already.
#[derive(Debug, Default)]
pub(super) struct ByteQueue {
    /// Blocks without bytes are absent.
    blocks: VecDeque<Option<Box<[u8; BLOCK]>>>,
    /// Where the first byte stands in the first block.
    head: usize,
    len: usize,
    /// From the first byte to the last that is known.
    extent: usize,
}

impl ByteQueue {
    /// Bytes in order.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// From the first byte to the last that is known; no block lies beyond.
    pub(super) const fn extent(&self) -> usize {
        self.extent
    }

    pub(super) fn push(&mut self, data: &[u8]) {
        self.write(self.len, data);
        self.extend(data.len());
    }

    /// Writes at `offset` from the first byte, which may be beyond the end.
    pub(super) fn write(&mut self, offset: usize, data: &[u8]) {
        self.extent = self.extent.max(offset.saturating_add(data.len()));
        let mut at = self.head.saturating_add(offset);
        let mut rest = data;
        while !rest.is_empty() {
            let (index, start) = (at / BLOCK, at % BLOCK);
            if self.blocks.len() <= index {
                self.blocks.resize_with(index + 1, || None);
            }
            let (piece, later) = rest.split_at(rest.len().min(BLOCK - start));
            if let Some(slot) = self.blocks.get_mut(index) {
                let block = slot.get_or_insert_with(|| Box::new([0; BLOCK]));
                if let Some(room) = block.get_mut(start..start + piece.len()) {
                    room.copy_from_slice(piece);
                }
            }
            at += piece.len();
            rest = later;
        }
    }

    /// Takes `count` bytes, written before, to those in order.
    pub(super) fn extend(&mut self, count: usize) {
        self.len = self.len.saturating_add(count).min(self.extent);
    }

    /// Drops the first bytes.
    pub(super) fn consume(&mut self, count: usize) {
        let count = count.min(self.len);
        self.len -= count;
        self.extent -= count;
        self.head += count;
        if self.extent == 0 {
            return self.clear();
        }
        while self.head >= BLOCK {
            self.blocks.pop_front();
            self.head -= BLOCK;
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Copies bytes from `offset` on; returns how many there were.
    pub(super) fn copy_to(&self, offset: usize, into: &mut [u8]) -> usize {
        let mut copied = 0;
        let count = into.len();
        self.pieces(offset, count, |piece| {
            if let Some(room) = into.get_mut(copied..copied + piece.len()) {
                room.copy_from_slice(piece);
            }
            copied += piece.len();
        });
        copied
    }

    /// Appends up to `count` bytes from `offset` on.
    pub(super) fn append_to(&self, offset: usize, count: usize, into: &mut Vec<u8>) {
        self.pieces(offset, count, |piece| into.extend_from_slice(piece));
    }

    fn pieces(&self, offset: usize, count: usize, mut give: impl FnMut(&[u8])) {
        let end = self.len.min(offset.saturating_add(count));
        let mut offset = offset;
        while offset < end {
            let at = self.head + offset;
            let start = at % BLOCK;
            let len = (BLOCK - start).min(end - offset);
            match self.blocks.get(at / BLOCK) {
                Some(Some(block)) => give(block.get(start..start + len).unwrap_or_default()),
                // What is in order was written.
                Some(None) | None => return,
            }
            offset += len;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(queue: &ByteQueue) -> usize {
        queue.blocks.iter().flatten().count()
    }

    #[test]
    fn bytes_come_out_as_they_went_in() {
        let mut queue = ByteQueue::default();
        let data: Vec<u8> = (0..50_000u32).map(|n| (n % 251) as u8).collect();
        let (mut written, mut read) = (0, 0);
        for step in [1usize, 4096, 4095, 4097, 9000, 3, 12_000, 16_000]
            .into_iter()
            .cycle()
        {
            let end = data.len().min(written + step);
            queue.push(&data[written..end]);
            written = end;
            let mut buffer = vec![0; step * 2 / 3 + 1];
            let count = queue.copy_to(0, &mut buffer);
            assert_eq!(buffer[..count], data[read..read + count]);
            let mut tail = Vec::new();
            queue.append_to(count / 2, count, &mut tail);
            assert!(tail.starts_with(&data[read + count / 2..read + count]));
            queue.consume(count);
            read += count;
            assert_eq!(queue.len(), written - read);
            assert!(held(&queue) <= queue.len().div_ceil(BLOCK) + 1);
            if read == data.len() {
                break;
            }
        }
        assert_eq!(held(&queue), 0, "an empty queue holds nothing");
    }

    #[test]
    fn what_lies_beyond_a_gap_waits() {
        let mut queue = ByteQueue::default();
        queue.push(b"ab");
        queue.write(10_000, b"z");
        assert_eq!((queue.len(), queue.extent()), (2, 10_001));
        assert_eq!(held(&queue), 2, "the gap takes no memory");
        queue.consume(2);
        queue.write(0, &[7; 9998]);
        queue.extend(9999);
        let mut all = vec![0; 20_000];
        assert_eq!(queue.copy_to(0, &mut all), 9999);
        assert_eq!((all[9997], all[9998]), (7, b'z'));
    }
}
