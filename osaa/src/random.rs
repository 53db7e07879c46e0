//! Randomness of the operating system.

use std::fmt;

use zeroize::Zeroizing;

/// The operating system's cryptographic generator (`getrandom(2)` and its like): for keys, tags, cookies, TSIDs and jitter.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsRandom;

impl OsRandom {
    /// Fills `buf`.
    ///
    /// # Errors
    /// The system has no generator, as can happen in a broken sandbox.
    pub fn try_fill(self, buf: &mut [u8]) -> Result<(), RandomError> {
        getrandom::fill(buf).map_err(RandomError)
    }

    /// Fills `buf`, or ends the process: without randomness every key would be a guess, and no caller has a better
    /// answer. Call [`Self::try_fill`] once at the start to fail with a message instead.
    pub fn fill(self, buf: &mut [u8]) {
        if let Err(error) = self.try_fill(buf) {
            tracing::error!(%error, "no randomness, aborting");
            std::process::abort();
        }
    }
}

/// The operating system's generator, asked for a block at a time: one system call serves some hundred draws. For one owner on one
/// thread, in a process that does not fork: a copy of the block would give both processes the same bytes.
pub struct BlockRandom {
    block: Zeroizing<[u8; BLOCK]>,
    /// Bytes that were given away, and wiped.
    used: usize,
}

/// Bytes drawn at once.
const BLOCK: usize = 4096;

impl BlockRandom {
    /// Nothing is drawn yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            block: Zeroizing::new([0; BLOCK]),
            used: BLOCK,
        }
    }

    /// Fills `buf`, or ends the process, as [`OsRandom::fill`] does. What was given away is not kept.
    pub fn fill(&mut self, buf: &mut [u8]) {
        if buf.len() > BLOCK / 4 {
            return OsRandom.fill(buf);
        }
        if buf.len() > BLOCK - self.used {
            OsRandom.fill(self.block.as_mut_slice());
            self.used = 0;
        }
        let unused = self.block.iter_mut().skip(self.used);
        for (byte, drawn) in buf.iter_mut().zip(unused) {
            *byte = std::mem::take(drawn);
        }
        self.used += buf.len();
    }
}

impl Default for BlockRandom {
    fn default() -> Self {
        Self::new()
    }
}

/// What will be drawn is not shown.
impl fmt::Debug for BlockRandom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockRandom").finish_non_exhaustive()
    }
}

/// The operating system gives no random bytes.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the operating system gives no random bytes: {0}")]
pub struct RandomError(#[source] getrandom::Error);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_draws_differ() {
        let (mut a, mut b) = ([0; 32], [0; 32]);
        OsRandom.fill(&mut a);
        OsRandom.try_fill(&mut b).unwrap();
        assert_ne!(a, b);
        assert_ne!(a, [0; 32]);
    }

    #[test]
    fn draws_of_blocks_differ_and_leave_nothing_behind() {
        let mut random = BlockRandom::new();
        let mut seen = std::collections::HashSet::new();
        for _ in 0..3 * BLOCK / 24 {
            let mut drawn = [0; 24];
            random.fill(&mut drawn);
            assert!(seen.insert(drawn), "drawn twice");
            assert!(random.block.iter().take(random.used).all(|&byte| byte == 0));
        }
        assert!(!seen.contains(&[0; 24]));
    }

    #[test]
    fn draws_of_any_size_are_filled() {
        let mut random = BlockRandom::new();
        for len in [0, 1, BLOCK / 4, BLOCK / 4 + 1, BLOCK, 3 * BLOCK, 7] {
            let mut drawn = vec![0; len];
            random.fill(&mut drawn);
            let zeros = drawn.iter().filter(|&&byte| byte == 0).count();
            assert!(zeros <= 1 + len / 64, "{zeros} of {len}");
        }
    }
}
