//! Memory of connections: who gets how much.

/// Smallest buffer of a connection in bytes, for each direction.
pub(super) const MIN_BUFFER: usize = 16 * 1024;

/// Largest buffer of a connection in bytes: what window scaling can express is 1 GiB.
pub(super) const MAX_BUFFER: usize = 64 * 1024 * 1024;

/// One connection gets at most this part of what is to spare.
const SHARE: usize = 64;

/// Bytes of all send and receive buffers. smoltcp's buffers cannot grow, so a connection's size is
/// settled when it opens: while memory is plenty it gets the configured size, then less and less,
/// and never so much that those who may still come would not get the smallest.
#[derive(Debug)]
pub(super) struct Budget {
    total: usize,
    used: usize,
    each: usize,
    connections: usize,
}

impl Budget {
    pub(super) fn new(total: usize, each: usize, connections: usize) -> Self {
        Self {
            total,
            used: 0,
            each: each.clamp(MIN_BUFFER, MAX_BUFFER),
            connections,
        }
    }

    pub(super) const fn used(&self) -> usize {
        self.used
    }

    /// Bytes for each direction of the next connection, with `open` of them there.
    pub(super) fn size(&self, open: usize) -> usize {
        let reserve = self.connections.saturating_sub(open) * (2 * MIN_BUFFER);
        let spare = self.total.saturating_sub(self.used).saturating_sub(reserve);
        (spare / SHARE / 2).clamp(MIN_BUFFER, self.each)
    }

    /// Whether there is room for two buffers of `size`.
    pub(super) const fn fits(&self, size: usize) -> bool {
        self.used.saturating_add(size.saturating_mul(2)) <= self.total
    }

    /// Whether there was room for two buffers of `size`.
    pub(super) const fn take(&mut self, size: usize) -> bool {
        let fits = self.fits(size);
        if fits {
            self.used = self.used.saturating_add(size.saturating_mul(2));
        }
        fits
    }

    pub(super) fn release(&mut self, size: usize) {
        self.used = self.used.saturating_sub(size.saturating_mul(2));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_connections_get_less_and_all_fit() {
        let count = 16_384;
        let mut budget = Budget::new(1 << 30, 1 << 20, count);
        assert_eq!(budget.size(0), 1 << 20);
        let mut last = usize::MAX;
        for open in 0..count {
            let size = budget.size(open);
            assert!(size <= last && size >= MIN_BUFFER);
            assert!(budget.take(size), "{open}");
            last = size;
        }
        assert!(budget.used() <= 1 << 30);
        budget.release(last);
        assert!(budget.take(last));
    }

    #[test]
    fn a_spent_budget_refuses() {
        let mut budget = Budget::new(3 * MIN_BUFFER, MIN_BUFFER, 10);
        assert!(budget.take(budget.size(0)));
        assert!(!budget.take(budget.size(1)));
    }
}
