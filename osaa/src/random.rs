//! Randomness of the operating system.

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
}
