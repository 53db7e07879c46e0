//! Inner addresses: ranges, exclusions, leases and quarantine.
//!
//! An address is found by its distance from the start of its range, so both leasing and the route lookup of
//! every packet are array accesses. An address is in one of three states: free, leased to one owner, or in
//! quarantine after a lease ended (spec 5, "Release"), so that late packets for the former owner do not reach
//! the next one.

mod config;
mod range;
mod table;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use tsc_tpl::Family;

pub use self::config::{
    AddressRange, MAX_RANGE_SIZE, MAX_RANGES, PoolConfig, PoolError, PoolRange,
};
use self::range::Range;
pub(crate) use self::table::AddressTable;
use super::event::SessionId;
use crate::prefix::Prefix;

/// How full a pool is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolStats {
    /// Name from the configuration.
    pub name: String,
    /// Addresses that can be handed out in all.
    pub total: u64,
    /// Leased now.
    pub leased: u64,
    /// Waiting to become free.
    pub quarantined: u64,
}

/// A leased address with the prefix length of its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub address: IpAddr,
    /// Prefix length for TLV 2 or 4.
    pub prefix_len: u8,
    /// Index of the pool that it came from.
    pub pool: usize,
}

/// All pools of one server.
#[derive(Debug)]
pub struct Pools {
    /// Sorted by [`sort_key`](crate::prefix::sort_key) of the first address.
    ranges: Vec<Range>,
    pools: Vec<Pool>,
    /// What becomes of it, for those who only ask.
    table: Arc<AddressTable>,
}

#[derive(Debug)]
struct Pool {
    name: String,
    /// Indices into `Pools::ranges`, in order of configuration.
    ranges: Vec<usize>,
}

impl Pools {
    /// Checks the configuration and builds empty pools. `quarantine` is for pools that set none.
    ///
    /// # Errors
    ///
    /// The first range that cannot be used.
    pub fn new(configs: &[PoolConfig], quarantine: Duration) -> Result<Self, PoolError> {
        let mut ranges = Vec::new();
        for (pool, config) in configs.iter().enumerate() {
            for (order, range) in config.ranges.iter().enumerate() {
                ranges.push((order, Range::new(pool, config, *range, quarantine)?));
            }
        }
        if ranges.len() > MAX_RANGES {
            return Err(PoolError::TooManyRanges);
        }
        ranges.sort_by_key(|(_, range)| (range.family, range.first));
        for ((_, low), (_, high)) in ranges.iter().zip(ranges.iter().skip(1)) {
            if low.family == high.family && high.first - low.first < u128::from(low.size) {
                let pool = configs
                    .get(high.pool)
                    .map(|config| config.name.clone())
                    .unwrap_or_default();
                return Err(PoolError::Overlap {
                    pool,
                    first: high.address(0),
                });
            }
        }
        let pools = configs.iter().enumerate().map(|(index, config)| {
            let mut own: Vec<(usize, usize)> = ranges
                .iter()
                .enumerate()
                .filter(|(_, (_, range))| range.pool == index)
                .map(|(position, (order, _))| (*order, position))
                .collect();
            own.sort_unstable();
            Pool {
                name: config.name.clone(),
                ranges: own.into_iter().map(|(_, position)| position).collect(),
            }
        });
        let pools = pools.collect();
        let ranges: Vec<Range> = ranges.into_iter().map(|(_, range)| range).collect();
        Ok(Self {
            table: Arc::new(AddressTable::new(&ranges)),
            ranges,
            pools,
        })
    }

    /// Who has which address, to be read while this changes.
    pub(crate) fn table(&self) -> Arc<AddressTable> {
        Arc::clone(&self.table)
    }

    /// Whether the pool has a range of this family at all.
    #[must_use]
    pub fn has_family(&self, pool: usize, family: Family) -> bool {
        self.pools.get(pool).is_some_and(|pool| {
            pool.ranges.iter().any(|range| {
                self.ranges
                    .get(*range)
                    .is_some_and(|range| range.family == family)
            })
        })
    }

    /// Leases one address of `family` from `pool` to `owner`; `None` if none is free.
    pub fn lease(
        &mut self,
        now: Instant,
        pool: usize,
        family: Family,
        owner: SessionId,
    ) -> Option<Lease> {
        let pool = self.pools.get(pool)?;
        for index in &pool.ranges {
            let Some(range) = self
                .ranges
                .get_mut(*index)
                .filter(|range| range.family == family)
            else {
                continue;
            };
            range.end_quarantine(now);
            if let Some(offset) = range.lease() {
                self.table.set(*index, offset, Some(owner));
                return Some(Lease {
                    address: range.address(offset),
                    prefix_len: range.prefix_len,
                    pool: range.pool,
                });
            }
        }
        None
    }

    /// Ends a lease; the address becomes free after the quarantine. Harmless for an address not leased.
    pub fn release(&mut self, now: Instant, address: IpAddr) {
        let Some((index, offset)) = self.table.locate(address) else {
            return;
        };
        if self.table.get(index, offset).is_some()
            && let Some(range) = self.ranges.get_mut(index)
        {
            self.table.set(index, offset, None);
            range.release(now, offset);
        }
    }

    /// The owner of a leased address: an array access behind a search of the few ranges.
    #[must_use]
    #[inline]
    pub fn owner(&self, address: IpAddr) -> Option<SessionId> {
        self.table.owner(address)
    }

    /// Whether an address of any pool lies in the prefix.
    #[must_use]
    pub fn overlaps(&self, prefix: &Prefix) -> bool {
        let (family, first, last) = prefix.span();
        // Ranges are disjoint, so the one that begins last before the prefix ends reaches furthest.
        let above = self
            .ranges
            .partition_point(|range| (range.family, range.first) <= (family, last));
        above
            .checked_sub(1)
            .and_then(|index| self.ranges.get(index))
            .is_some_and(|range| {
                range.family == family && range.first + u128::from(range.size - 1) >= first
            })
    }

    /// How full each pool is, in order of configuration.
    #[must_use]
    pub fn stats(&self) -> Vec<PoolStats> {
        let sum = |pool: &Pool, of: fn(&Range) -> u32| {
            pool.ranges
                .iter()
                .filter_map(|range| self.ranges.get(*range))
                .map(|range| u64::from(of(range)))
                .sum()
        };
        let stats = |pool: &Pool| PoolStats {
            name: pool.name.clone(),
            total: sum(pool, |range| range.total),
            leased: sum(pool, |range| range.leased),
            quarantined: sum(pool, |range| range.quarantined),
        };
        self.pools.iter().map(stats).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const QUARANTINE: Duration = Duration::from_secs(30);

    fn range(first: &str, last: &str) -> AddressRange {
        AddressRange {
            first: first.parse().unwrap(),
            last: last.parse().unwrap(),
        }
    }

    fn pool(ranges: &[(&str, &str)], exclusions: &[(&str, &str)]) -> PoolConfig {
        PoolConfig {
            name: "p".to_owned(),
            ranges: ranges
                .iter()
                .map(|(first, last)| PoolRange {
                    range: range(first, last),
                    prefix_len: 24,
                })
                .collect(),
            exclusions: exclusions
                .iter()
                .map(|(first, last)| range(first, last))
                .collect(),
            quarantine: None,
        }
    }

    fn owner(number: u32) -> SessionId {
        SessionId::new(0, (number, number))
    }

    fn leases(pools: &mut Pools, now: Instant, family: Family) -> Vec<String> {
        std::iter::from_fn(|| pools.lease(now, 0, family, owner(1)))
            .map(|lease| lease.address.to_string())
            .collect()
    }

    #[test]
    fn hands_out_all_but_the_excluded_in_order() {
        let config = pool(
            &[
                ("10.0.0.1", "10.0.0.5"),
                ("10.0.1.1", "10.0.1.1"),
                ("fd00::1", "fd00::2"),
            ],
            &[
                ("10.0.0.1", "10.0.0.1"),
                ("10.0.0.3", "10.0.0.4"),
                ("10.0.0.4", "10.0.0.4"),
            ],
        );
        let mut pools = Pools::new(&[config], QUARANTINE).unwrap();
        let now = Instant::now();
        assert_eq!(pools.stats()[0].total, 5);
        assert_eq!(
            leases(&mut pools, now, Family::Ipv4),
            ["10.0.0.2", "10.0.0.5", "10.0.1.1"]
        );
        assert_eq!(
            leases(&mut pools, now, Family::Ipv6),
            ["fd00::1", "fd00::2"]
        );
        assert_eq!(pools.owner("10.0.0.5".parse().unwrap()), Some(owner(1)));
        assert_eq!(pools.owner("10.0.0.3".parse().unwrap()), None);
        assert_eq!(pools.owner("192.0.2.1".parse().unwrap()), None);
    }

    #[test]
    fn a_released_address_waits_out_its_quarantine() {
        let mut pools = Pools::new(&[pool(&[("10.0.0.1", "10.0.0.1")], &[])], QUARANTINE).unwrap();
        let now = Instant::now();
        let lease = pools.lease(now, 0, Family::Ipv4, owner(1)).unwrap();
        pools.release(now, lease.address);
        pools.release(now, lease.address);
        assert_eq!(pools.owner(lease.address), None);
        assert_eq!(
            pools.lease(
                now + QUARANTINE - Duration::from_nanos(1),
                0,
                Family::Ipv4,
                owner(2)
            ),
            None
        );
        assert_eq!(
            pools.lease(now + QUARANTINE, 0, Family::Ipv4, owner(2)),
            Some(lease)
        );
        assert_eq!(pools.owner(lease.address), Some(owner(2)));
    }

    #[test]
    fn useless_ranges_are_refused() {
        let refused =
            |ranges: &[(&str, &str)]| Pools::new(&[pool(ranges, &[])], QUARANTINE).unwrap_err();
        assert!(matches!(
            refused(&[("10.0.0.2", "10.0.0.1")]),
            PoolError::NotARange { .. }
        ));
        assert!(matches!(
            refused(&[("10.0.0.2", "fd00::1")]),
            PoolError::NotARange { .. }
        ));
        assert!(matches!(
            refused(&[("10.0.0.0", "11.0.0.0")]),
            PoolError::TooLarge { .. }
        ));
        assert!(matches!(
            refused(&[("127.0.0.1", "127.0.0.9")]),
            PoolError::NotAssignable { .. }
        ));
        assert!(matches!(
            refused(&[("fe80::1", "fe80::9")]),
            PoolError::NotAssignable { .. }
        ));
        assert!(matches!(
            refused(&[("169.253.255.1", "169.255.0.9")]),
            PoolError::NotAssignable { .. }
        ));
        let overlapping = [("10.0.0.1", "10.0.0.9"), ("10.0.0.9", "10.0.0.12")];
        assert!(matches!(refused(&overlapping), PoolError::Overlap { .. }));
        let two_pools = [
            pool(&[("fd00::1", "fd00::9")], &[]),
            pool(&[("fd00::2", "fd00::3")], &[]),
        ];
        assert!(matches!(
            Pools::new(&two_pools, QUARANTINE),
            Err(PoolError::Overlap { .. })
        ));
    }

    proptest! {
        /// Whatever the order of leases and releases, an address has one owner and rests before its next one.
        #[test]
        fn one_address_one_owner(operations in prop::collection::vec((any::<bool>(), 0usize..8, 0u64..20), 1..200)) {
            let mut pools = Pools::new(&[pool(&[("10.0.0.1", "10.0.0.6")], &[("10.0.0.2", "10.0.0.2")])], QUARANTINE).unwrap();
            let mut now = Instant::now();
            let mut held: Vec<(SessionId, IpAddr)> = Vec::new();
            let mut resting: Vec<(Instant, IpAddr)> = Vec::new();
            for (number, (lease, pick, pause)) in (0..).zip(operations) {
                let owner = owner(number);
                now += Duration::from_secs(pause);
                if lease {
                    if let Some(lease) = pools.lease(now, 0, Family::Ipv4, owner) {
                        prop_assert!(held.iter().all(|(_, address)| *address != lease.address));
                        prop_assert!(resting.iter().all(|(until, address)| *until <= now || *address != lease.address));
                        held.push((owner, lease.address));
                    } else {
                        let resting = resting.iter().filter(|(until, _)| *until > now).count();
                        prop_assert_eq!(held.len() + resting, 5);
                    }
                } else if !held.is_empty() {
                    let (_, address) = held.remove(pick % held.len());
                    pools.release(now, address);
                    resting.push((now + QUARANTINE, address));
                }
                for (owner, address) in &held {
                    prop_assert_eq!(pools.owner(*address), Some(*owner));
                }
            }
        }
    }
}
