//! Free list of packet buffers.

/// Buffers with more room than this are not kept: they come from packets that the stack sent to
/// itself.
const MAX_KEPT_CAPACITY: usize = 2 * crate::config::MAX_MTU as usize;

/// At most `limit` empty buffers, each with room for a packet of the MTU.
#[derive(Debug)]
pub(crate) struct Pool {
    free: Vec<Vec<u8>>,
    limit: usize,
}

impl Pool {
    pub(crate) const fn new(limit: usize) -> Self {
        Self {
            free: Vec::new(),
            limit,
        }
    }

    /// An empty buffer with room for `len` bytes.
    pub(crate) fn take(&mut self, len: usize) -> Vec<u8> {
        match self.free.pop() {
            Some(mut buffer) => {
                buffer.reserve(len);
                buffer
            }
            None => Vec::with_capacity(len),
        }
    }

    /// Keeps `buffer` for later, if there is room and it is of a useful size.
    pub(crate) fn put(&mut self, mut buffer: Vec<u8>) {
        if self.free.len() < self.limit && (1..=MAX_KEPT_CAPACITY).contains(&buffer.capacity()) {
            buffer.clear();
            self.free.push(buffer);
        }
    }

    pub(crate) const fn len(&self) -> usize {
        self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_at_most_the_limit_and_no_giants() {
        let mut pool = Pool::new(2);
        for _ in 0..3 {
            pool.put(vec![1, 2, 3]);
        }
        assert_eq!(pool.len(), 2);
        assert!(pool.take(10).is_empty());
        assert_eq!(pool.len(), 1);
        pool.put(Vec::with_capacity(MAX_KEPT_CAPACITY + 1));
        pool.put(Vec::new());
        assert_eq!(pool.len(), 1);
    }
}
