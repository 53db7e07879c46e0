//! Unpredictable numbers, handed in: branches, tags, nonces and RTP's random starts.

/// A source of random bits.
///
/// The protocol parts never reach for the operating system themselves, so a test owns chance.
pub trait Random: Send {
    /// The next 64 bits.
    fn bits(&mut self) -> u64;

    /// Sixteen hexadecimal digits, for a tag, a branch or a Call-ID.
    fn token(&mut self) -> String {
        format!("{:016x}", self.bits())
    }

    /// A value from 0 (included) to 1 (excluded).
    fn fraction(&mut self) -> f64 {
        // 53 bits are what an f64 holds exactly.
        #[allow(clippy::cast_precision_loss)]
        let value = (self.bits() >> 11) as f64;
        value / 9_007_199_254_740_992.0
    }

    /// A random `u32`.
    fn word(&mut self) -> u32 {
        u32::try_from(self.bits() >> 32).unwrap_or_default()
    }
}

/// The operating system's generator.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsRandom;

impl Random for OsRandom {
    fn bits(&mut self) -> u64 {
        // A system without randomness cannot make tags that nobody guesses: going on would be wrong.
        #[allow(clippy::expect_used)]
        getrandom::u64().expect("the operating system gives random numbers")
    }
}

/// A small seeded generator (SplitMix64) for tests and for spreading timers. Not for secrets.
#[derive(Clone, Debug)]
pub struct SeededRandom(u64);

impl SeededRandom {
    /// Equal seeds give equal numbers.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }
}

impl Random for SeededRandom {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
