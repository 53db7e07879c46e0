//! Bounded work for strangers: source prefixes and rate limits (spec 8.3).

use std::hash::{BuildHasher, Hasher};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use siphasher::sip::SipHasher13;

use crate::random::Random;

/// What limits are counted by: an IPv4 address, or the /64 of an IPv6 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SourcePrefix(u128);

impl SourcePrefix {
    pub(crate) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            // ::ffff:0:0/96 is no /64 of IPv6, so the two families cannot meet.
            IpAddr::V4(v4) => Self(v4.to_ipv6_mapped().to_bits()),
            IpAddr::V6(v6) => Self(v6.to_bits() >> 64 << 64),
        }
    }
}

/// A keyed hasher: a stranger who chooses addresses cannot choose collisions.
#[derive(Clone, Debug)]
pub(crate) struct KeyedHash(u64, u64);

impl KeyedHash {
    pub(crate) fn new(random: &mut dyn Random) -> Self {
        Self(random.u64(), random.u64())
    }
}

impl BuildHasher for KeyedHash {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.0, self.1)
    }
}

/// Events per second for each source prefix, in memory of fixed size.
///
/// Prefixes share [`BUCKETS`](Self::BUCKETS) buckets by a keyed hash, so a flood from one source costs another
/// its allowance with a chance of 1 in 4,096, and no number of sources makes the table grow.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    hash: KeyedHash,
    start: Instant,
    /// Time that one event takes from the allowance.
    cost: Duration,
    /// How far the allowance may be used in advance.
    burst: Duration,
    /// For each bucket the time, since `start`, at which its allowance is whole again (GCRA).
    buckets: Box<[Duration]>,
}

impl RateLimiter {
    const BUCKETS: u16 = 4096;

    /// `rate` events per second with bursts of `burst`; a rate of zero is no limit.
    pub(crate) fn new(now: Instant, rate: u32, burst: u32, hash: KeyedHash) -> Self {
        let cost = Duration::from_secs(1).checked_div(rate).unwrap_or_default();
        Self {
            hash,
            start: now,
            cost,
            burst: cost.saturating_mul(burst.max(1)),
            buckets: vec![Duration::ZERO; usize::from(Self::BUCKETS)].into(),
        }
    }

    /// Whether one more event of `prefix` is within its allowance; counts it if so.
    pub(crate) fn admit(&mut self, now: Instant, prefix: SourcePrefix) -> bool {
        let mut hasher = self.hash.build_hasher();
        hasher.write_u128(prefix.0);
        let index = hasher.finish() % u64::from(Self::BUCKETS);
        let Some(bucket) = usize::try_from(index)
            .ok()
            .and_then(|index| self.buckets.get_mut(index))
        else {
            return false;
        };
        let now = now.saturating_duration_since(self.start);
        let next = (*bucket).max(now) + self.cost;
        if next > now + self.burst {
            return false;
        }
        *bucket = next;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::tests::Seeded;

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let now = Instant::now();
        let mut limiter = RateLimiter::new(now, 10, 5, KeyedHash::new(&mut Seeded(1)));
        let source = SourcePrefix::of("192.0.2.1".parse().unwrap());
        let other = SourcePrefix::of("192.0.2.2".parse().unwrap());
        assert_eq!((0..20).filter(|_| limiter.admit(now, source)).count(), 5);
        assert!(
            limiter.admit(now, other),
            "another source has its own allowance"
        );
        let later = now + Duration::from_secs(1);
        assert_eq!((0..20).filter(|_| limiter.admit(later, source)).count(), 5);
        let soon = later + Duration::from_millis(100);
        assert_eq!((0..20).filter(|_| limiter.admit(soon, source)).count(), 1);
    }

    #[test]
    fn zero_is_no_limit() {
        let now = Instant::now();
        let mut limiter = RateLimiter::new(now, 0, 0, KeyedHash::new(&mut Seeded(1)));
        assert!((0..1000).all(|_| limiter.admit(now, SourcePrefix::of("::1".parse().unwrap()))));
    }

    #[test]
    fn prefixes_are_32_and_64_bits() {
        let of = |text: &str| SourcePrefix::of(text.parse().unwrap());
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("2001:db8:0:1::1"), of("2001:db8:0:1:ffff::2"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
    }
}
