//! A bounded queue of datagrams in one buffer, which costs no memory while it is empty.

use std::cell::RefCell;

use super::QUEUE_LIMIT;

/// Datagrams one after the other, each behind its length in two bytes.
///
/// Buffers of emptied queues are kept per thread and used again, so that a busy worker does not allocate per
/// datagram and an idle association holds no buffer.
#[derive(Default)]
pub(super) struct DatagramQueue {
    bytes: Vec<u8>,
    head: usize,
}

impl DatagramQueue {
    /// Appends a datagram. False, and nothing done, when it does not fit the bound.
    pub(super) fn push(&mut self, datagram: &[u8]) -> bool {
        let Ok(length) = u16::try_from(datagram.len()) else {
            return false;
        };
        if !self.has_room(datagram.len()) {
            return false;
        }
        if self.bytes.capacity() == 0 {
            self.bytes = spare::take();
        }
        self.bytes.extend_from_slice(&length.to_be_bytes());
        self.bytes.extend_from_slice(datagram);
        true
    }

    /// Appends the datagram, of at most `longest` bytes, that `write` appends to the buffer. `None` from it takes back what
    /// it has written. False, and nothing done, then, and when the datagram does not fit the bound.
    #[cfg(feature = "_dtls-records")]
    pub(super) fn push_with(
        &mut self,
        longest: usize,
        write: impl FnOnce(&mut Vec<u8>) -> Option<()>,
    ) -> bool {
        if !self.has_room(longest) {
            return false;
        }
        if self.bytes.capacity() == 0 {
            self.bytes = spare::take();
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0]);
        let written = write(&mut self.bytes).and_then(|()| {
            let length = self.bytes.len().checked_sub(start + 2)?;
            let length = u16::try_from(length).ok()?.to_be_bytes();
            self.bytes
                .get_mut(start..start + 2)?
                .copy_from_slice(&length);
            Some(())
        });
        if written.is_none() {
            self.bytes.truncate(start);
            if start == 0 {
                self.clear();
            }
        }
        written.is_some()
    }

    /// Whether a datagram of that length fits the bound.
    pub(super) fn has_room(&self, length: usize) -> bool {
        self.bytes.len() + 2 + length <= QUEUE_LIMIT
    }

    /// Gives the next datagram to `take` and removes it.
    pub(super) fn pop<R>(&mut self, take: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let rest = self.bytes.get(self.head..)?;
        let (length, rest) = rest.split_first_chunk()?;
        let length = usize::from(u16::from_be_bytes(*length));
        let result = take(rest.get(..length)?);
        self.head += 2 + length;
        if self.head >= self.bytes.len() {
            self.clear();
        }
        Some(result)
    }

    /// Bytes that wait, lengths included.
    #[cfg(feature = "_dtls-records")]
    pub(super) fn waiting(&self) -> usize {
        self.bytes.len().saturating_sub(self.head)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.head = 0;
        spare::give(std::mem::take(&mut self.bytes));
    }
}

/// Buffers of the thread that wait to be used again.
mod spare {
    use super::RefCell;

    /// Buffers kept per thread; each is at most [`LARGEST`] bytes.
    const COUNT: usize = 16;
    const LARGEST: usize = 32 * 1024;
    const FIRST: usize = 2 * 1024;

    thread_local! {
        static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    }

    pub(super) fn take() -> Vec<u8> {
        SPARE
            .try_with(|spare| spare.borrow_mut().pop())
            .ok()
            .flatten()
            .unwrap_or_else(|| Vec::with_capacity(FIRST))
    }

    pub(super) fn give(mut buffer: Vec<u8>) {
        if buffer.capacity() == 0 || buffer.capacity() > LARGEST {
            return;
        }
        buffer.clear();
        // The thread may be ending; then the buffer is simply freed.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < COUNT {
                spare.push(buffer);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_order_and_boundaries() {
        let mut queue = DatagramQueue::default();
        assert!(queue.push(b"one") && queue.push(b"") && queue.push(&[7; 1_500]));
        assert_eq!(queue.pop(<[u8]>::to_vec), Some(b"one".to_vec()));
        assert!(queue.push(b"four"));
        assert_eq!(queue.pop(<[u8]>::len), Some(0));
        assert_eq!(queue.pop(<[u8]>::len), Some(1_500));
        assert_eq!(queue.pop(<[u8]>::to_vec), Some(b"four".to_vec()));
        assert_eq!(queue.pop(<[u8]>::len), None);
        assert_eq!(queue.bytes.capacity(), 0, "an empty queue holds no buffer");
    }

    #[cfg(feature = "_dtls-records")]
    #[test]
    fn takes_back_what_was_not_meant() {
        let mut queue = DatagramQueue::default();
        let mut write = |text: &[u8], meant: bool| {
            queue.push_with(text.len(), |bytes| {
                bytes.extend_from_slice(text);
                meant.then_some(())
            })
        };
        assert!(!write(b"first", false));
        assert!(write(b"second", true) && !write(b"third", false) && write(b"", true));
        assert_eq!(queue.pop(<[u8]>::to_vec), Some(b"second".to_vec()));
        assert_eq!(queue.pop(<[u8]>::to_vec), Some(Vec::new()));
        assert!(queue.is_empty());
        assert!(!queue.push_with(QUEUE_LIMIT, |_| Some(())));
    }

    #[test]
    fn is_bounded() {
        let mut queue = DatagramQueue::default();
        let datagram = vec![0; 1_200];
        let taken = (0..10_000).filter(|_| queue.push(&datagram)).count();
        assert_eq!(taken, QUEUE_LIMIT / 1_202);
        assert!(!queue.push(&vec![0; 70_000]));
    }
}
