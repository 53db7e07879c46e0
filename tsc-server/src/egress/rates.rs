//! Data flows: token buckets for the groups of a pool's addresses.

use std::{
    iter,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use super::pools::Place;
use crate::config::{Config, DataFlowConfig};

/// A KB of the vendor's rates: 122,070 KB/s are 1 Gbit/s.
const KB: u64 = 1024;

/// How long a group may send at any speed after a silence: 2 % of what it may send in 10 s.
const BURST: Duration = Duration::from_millis(200);

/// At least so much is let through at once, however low the rate: two packets of the usual size.
const MIN_BURST: u64 = 3000;

/// Groups whose buckets are made at once, and how often that can be: a pool holds at most 2^20 addresses.
const PIECE: usize = 1024;
const PIECES: usize = (1 << 20) / PIECE;

/// The rates of each pool, for all workers of a server.
pub(crate) type AllRates = Arc<[Option<Rates>]>;

/// Those of a configuration.
pub(crate) fn all(config: &Config, start: Instant) -> AllRates {
    let rates = config.pools.iter().map(|pool| {
        let flow = config.data_flow(pool.data_flow.as_deref()?)?;
        Some(Rates::new(flow, start))
    });
    rates.collect()
}

/// The rates of one pool.
#[derive(Debug)]
pub(crate) struct Rates {
    shift: u32,
    upstream: Option<Buckets>,
    downstream: Option<Buckets>,
}

impl Rates {
    fn new(flow: &DataFlowConfig, start: Instant) -> Self {
        Self {
            shift: flow.group_size.max(1).ilog2(),
            upstream: Buckets::new(flow.upstream_rate, start),
            downstream: Buckets::new(flow.downstream_rate, start),
        }
    }

    /// Whether a packet of `len` bytes may come from the address at `place`.
    pub(crate) fn upstream(&self, now: Instant, place: Place, len: usize) -> bool {
        let group = place.offset >> self.shift;
        self.upstream
            .as_ref()
            .is_none_or(|buckets| buckets.admit(now, group, len))
    }

    /// Whether a packet of `len` bytes may go to the address at `place`.
    pub(crate) fn downstream(&self, now: Instant, place: Place, len: usize) -> bool {
        let group = place.offset >> self.shift;
        self.downstream
            .as_ref()
            .is_none_or(|buckets| buckets.admit(now, group, len))
    }
}

/// A token bucket for each group: the generic cell rate algorithm, one number each.
#[derive(Debug)]
struct Buckets {
    /// Bytes a second.
    rate: u64,
    /// Nanoseconds that a group may be ahead of its rate.
    burst: u64,
    start: Instant,
    /// When each group's bucket is full again, in nanoseconds since the start. The tunnels of a group may be on several
    /// workers, which share this. Made in pieces as groups are used.
    full_at: Box<[OnceLock<Box<[AtomicU64]>>]>,
}

impl Buckets {
    /// `None` for a rate of zero, which is none.
    fn new(rate: u32, start: Instant) -> Option<Self> {
        let rate = u64::from(rate) * KB;
        (rate > 0).then(|| Self {
            rate,
            burst: nanoseconds(BURST).max(cost(MIN_BURST, rate)),
            start,
            full_at: iter::repeat_with(OnceLock::new).take(PIECES).collect(),
        })
    }

    /// A packet may go while the bucket is not empty, and may then leave it in debt: so packets of all sizes have the
    /// same chance.
    fn admit(&self, now: Instant, group: u32, len: usize) -> bool {
        let Some(full_at) = self.bucket(group) else {
            return false;
        };
        let now = nanoseconds(now.saturating_duration_since(self.start));
        let cost = cost(u64::try_from(len).unwrap_or(u64::MAX), self.rate);
        let paid = |full_at: u64| {
            let due = full_at.max(now);
            (due - now < self.burst).then(|| due.saturating_add(cost))
        };
        // The number is all there is to agree on.
        full_at.fetch_update(Relaxed, Relaxed, paid).is_ok()
    }

    fn bucket(&self, group: u32) -> Option<&AtomicU64> {
        let index = usize::try_from(group).ok()?;
        let piece = self
            .full_at
            .get(index / PIECE)?
            .get_or_init(|| iter::repeat_with(AtomicU64::default).take(PIECE).collect());
        piece.get(index % PIECE)
    }
}

/// How long `bytes` take at `rate`, in nanoseconds.
const fn cost(bytes: u64, rate: u64) -> u64 {
    bytes.saturating_mul(1_000_000_000) / rate
}

/// Enough for five centuries.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(group_size: u16, upstream_rate: u32, downstream_rate: u32) -> (Rates, Instant) {
        let start = Instant::now();
        let flow = DataFlowConfig {
            name: "flow".to_owned(),
            group_size,
            upstream_rate,
            downstream_rate,
        };
        (Rates::new(&flow, start), start)
    }

    const fn place(offset: u32) -> Place {
        Place { pool: 0, offset }
    }

    /// Bytes that get through in 10 s when `offered` KB/s come in packets of `size`.
    fn through(rate: u32, offered: u64, size: usize) -> u64 {
        let (rates, start) = rates(1, rate, 0);
        let gap = cost(size as u64, offered * KB);
        let (mut at, mut bytes) = (0, 0);
        while at < 10_000_000_000 {
            let now = start + Duration::from_nanos(at);
            if rates.upstream(now, place(0), size) {
                bytes += size as u64;
            }
            at += gap;
        }
        bytes
    }

    #[test]
    fn the_rate_is_met_within_five_percent_over_ten_seconds() {
        for rate in [8, 100, 1000, 12_207, 122_070] {
            for size in [60, 200, 1400] {
                let wanted = u64::from(rate) * KB * 10;
                let got = through(rate, u64::from(rate) * 3, size);
                let off = got.abs_diff(wanted) * 100 / wanted;
                assert!(off < 5, "{rate} KB/s in {size}: {got} instead of {wanted}");
            }
        }
    }

    #[test]
    fn what_is_below_the_rate_passes() {
        for size in [60, 1400] {
            let offered = through(100, 90, size);
            assert!(offered.abs_diff(90 * KB * 10) <= size as u64, "{offered}");
        }
    }

    #[test]
    fn silence_earns_no_more_than_the_burst() {
        let (rates, start) = rates(1, 1000, 0);
        let now = start + Duration::from_secs(3600);
        let packets = (0..10_000)
            .filter(|_| rates.upstream(now, place(0), 1000))
            .count();
        assert_eq!(
            packets, 205,
            "200 ms at 1,024,000 bytes a second, in packets of 1000"
        );
    }

    #[test]
    fn neighbours_share_and_others_do_not() {
        let (rates, now) = rates(4, 10, 20);
        while rates.upstream(now, place(5), 1400) {}
        for shared in 4..8 {
            assert!(!rates.upstream(now, place(shared), 100));
        }
        assert!(rates.upstream(now, place(3), 100) && rates.upstream(now, place(8), 100));
        assert!(
            rates.downstream(now, place(5), 100),
            "each direction by itself"
        );
        let (free, now) = self::rates(4, 0, 0);
        assert!((0..10_000).all(|_| free.upstream(now, place(0), 9000)));
    }
}
