//! Randomness, handed in by the owner of a machine.

use std::time::Duration;

/// A source of random bytes.
///
/// `osaa` implements it with the operating system's generator, which is what every deployment must use:
/// TSIDs, resume keys, cookie keys and first sequence numbers come from here (spec 8.6). Tests implement it
/// with a seed, so that a failing run can be replayed.
pub trait Random {
    /// Fills the whole of `buf`. Must not fail and must not block for long.
    fn fill(&mut self, buf: &mut [u8]);

    /// A uniform 32-bit value.
    fn u32(&mut self) -> u32 {
        let mut bytes = [0; 4];
        self.fill(&mut bytes);
        u32::from_be_bytes(bytes)
    }

    /// A uniform 64-bit value.
    fn u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_be_bytes(bytes)
    }

    /// A duration chosen uniformly from `[0, limit)`; zero if `limit` is zero.
    ///
    /// The bias of the reduction is below 2^-32 for any limit this protocol uses, which is harmless for
    /// jitter, the only use.
    fn up_to(&mut self, limit: Duration) -> Duration {
        let nanos = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        if nanos == 0 {
            return Duration::ZERO;
        }
        Duration::from_nanos(self.u64() % nanos)
    }
}

impl<R: Random + ?Sized> Random for Box<R> {
    fn fill(&mut self, buf: &mut [u8]) {
        (**self).fill(buf);
    }
}

/// The random source as the machines hold it.
pub type BoxedRandom = Box<dyn Random + Send>;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// xorshift64*: small, seeded, good enough for tests.
    pub(crate) struct Seeded(pub(crate) u64);

    impl Random for Seeded {
        fn fill(&mut self, buf: &mut [u8]) {
            for byte in buf {
                self.0 ^= self.0 >> 12;
                self.0 ^= self.0 << 25;
                self.0 ^= self.0 >> 27;
                *byte = (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 56) as u8;
            }
        }
    }

    #[test]
    fn jitter_stays_below_its_limit() {
        let mut random = Seeded(7);
        let limit = Duration::from_millis(3);
        assert!((0..1000).all(|_| random.up_to(limit) < limit));
        assert_eq!(random.up_to(Duration::ZERO), Duration::ZERO);
    }
}
