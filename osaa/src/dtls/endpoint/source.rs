//! Bounding what one source prefix may cost (spec 8.3).

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Source prefix: IPv4 /32, IPv6 /64.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Prefix {
    is_v6: bool,
    bits: u64,
}

impl From<IpAddr> for Prefix {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self {
                is_v6: false,
                bits: u64::from(address.to_bits()),
            },
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Self {
                    is_v6: true,
                    bits: u64::from_be_bytes([a, b, c, d, e, f, g, h]),
                }
            }
        }
    }
}

/// Counts something per prefix; holds entries only for counts above zero.
#[derive(Default)]
pub(super) struct PrefixCounts(HashMap<Prefix, usize>);

impl PrefixCounts {
    pub(super) fn of(&self, prefix: Prefix) -> usize {
        self.0.get(&prefix).copied().unwrap_or(0)
    }

    pub(super) fn add(&mut self, prefix: Prefix) {
        *self.0.entry(prefix).or_insert(0) += 1;
    }

    pub(super) fn remove(&mut self, prefix: Prefix) {
        if let Entry::Occupied(mut entry) = self.0.entry(prefix) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

/// Token buckets in a table of fixed size, found by a keyed hash: memory does not grow with the number of
/// sources, and nobody can choose whose bucket to share.
pub(super) struct RateLimiter {
    hasher: RandomState,
    buckets: Box<[Bucket]>,
    interval: Duration,
    burst: u32,
}

#[derive(Clone)]
struct Bucket {
    tokens: u32,
    filled: Option<Instant>,
}

impl RateLimiter {
    const BUCKETS: usize = 4_096;

    /// `per_second` events and a burst of twice that, at least one.
    pub(super) fn new(per_second: u32) -> Self {
        let per_second = per_second.max(1);
        let burst = per_second.saturating_mul(2);
        Self {
            hasher: RandomState::new(),
            buckets: vec![
                Bucket {
                    tokens: burst,
                    filled: None,
                };
                Self::BUCKETS
            ]
            .into(),
            interval: Duration::from_secs(1) / per_second,
            burst,
        }
    }

    pub(super) fn admit(&mut self, now: Instant, prefix: Prefix) -> bool {
        let count = u64::try_from(self.buckets.len()).unwrap_or(1).max(1);
        let index = usize::try_from(self.hasher.hash_one(prefix) % count).unwrap_or(0);
        let Some(bucket) = self.buckets.get_mut(index) else {
            return false;
        };
        let filled = *bucket.filled.get_or_insert(now);
        let gained =
            now.saturating_duration_since(filled).as_nanos() / self.interval.as_nanos().max(1);
        match u32::try_from(gained) {
            Ok(gained) if gained < self.burst => {
                bucket.tokens = bucket.tokens.saturating_add(gained).min(self.burst);
                bucket.filled = Some(filled + self.interval * gained);
            }
            _ => {
                bucket.tokens = self.burst;
                bucket.filled = Some(now);
            }
        }
        let Some(left) = bucket.tokens.checked_sub(1) else {
            return false;
        };
        bucket.tokens = left;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_empties_and_fills_at_its_rate() {
        let mut limiter = RateLimiter::new(10);
        let now = Instant::now();
        let source = Prefix::from(IpAddr::from([192, 0, 2, 1]));
        let admitted = (0..100).filter(|_| limiter.admit(now, source)).count();
        assert_eq!(admitted, 20);
        let later = now + Duration::from_millis(350);
        let admitted = (0..100).filter(|_| limiter.admit(later, source)).count();
        assert_eq!(admitted, 3);
        // The rest of the interval was not lost.
        assert!(limiter.admit(now + Duration::from_millis(400), source));
        assert!(!limiter.admit(now + Duration::from_millis(400), source));
        let much_later = now + Duration::from_secs(3_600);
        let admitted = (0..100)
            .filter(|_| limiter.admit(much_later, source))
            .count();
        assert_eq!(admitted, 20);
    }

    #[test]
    fn prefixes_are_addresses_and_slash_64s() {
        let of = |text: &str| Prefix::from(text.parse::<IpAddr>().unwrap());
        assert!(of("2001:db8::1") == of("2001:db8::ffff:1"));
        assert!(of("2001:db8::1") != of("2001:db8:0:1::1"));
        assert!(of("192.0.2.1") != of("192.0.2.2"));
        assert!(of("::ffff:192.0.2.1") == of("192.0.2.1"));
        assert!(of("::192.0.2.1") != of("192.0.2.1"));
    }

    #[test]
    fn counts_leave_no_entry_at_zero() {
        let mut counts = PrefixCounts::default();
        let source = Prefix::from(IpAddr::from([192, 0, 2, 1]));
        counts.add(source);
        counts.add(source);
        counts.remove(source);
        assert_eq!(counts.of(source), 1);
        counts.remove(source);
        assert_eq!(counts.of(source), 0);
        assert!(counts.0.is_empty());
    }
}
