//! Inner addresses: ranges, exclusions, leases and quarantine.
//!
//! An address is found by its distance from the start of its range, so both leasing and the route lookup of
//! every packet are array accesses. An address is in one of three states: free, leased to one owner, or in
//! quarantine after a lease ended (spec 5, "Release"), so that late packets for the former owner do not reach
//! the next one.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

pub use tsc_tpl::Family;

/// Most addresses of one range. A larger IPv6 prefix is written as a range inside it.
pub const MAX_RANGE_SIZE: u32 = 1 << 24;
/// Most ranges of all pools together.
pub const MAX_RANGES: usize = 4096;

/// The lowest link-local IPv4 address (RFC 3927).
const LINK_LOCAL_IPV4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 0, 0));

/// An inclusive range of addresses of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    /// The lowest address.
    pub first: IpAddr,
    /// The highest address, at most [`MAX_RANGE_SIZE`] - 1 above `first`.
    pub last: IpAddr,
}

/// Addresses that are handed out together with one prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolRange {
    /// The addresses.
    pub range: AddressRange,
    /// The prefix length told to clients (TLV 2 or 4). It widens no check (spec 8.1).
    pub prefix_len: u8,
}

/// One address pool, as `tscf-address-pool` describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolConfig {
    /// For logs and statistics.
    pub name: String,
    /// Where addresses come from, in this order.
    pub ranges: Vec<PoolRange>,
    /// Addresses inside the ranges that are never handed out.
    pub exclusions: Vec<AddressRange>,
    /// How long an address rests after its tunnel closed; `None` takes the server's.
    pub quarantine: Option<Duration>,
}

/// Why the pools cannot be used as configured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// First above last, or of different families.
    #[error("pool {pool}: {first} - {last} is not a range")]
    NotARange {
        /// Name of the pool.
        pool: String,
        /// As configured.
        first: IpAddr,
        /// As configured.
        last: IpAddr,
    },
    /// More than [`MAX_RANGE_SIZE`] addresses.
    #[error("pool {pool}: the range from {first} has more than {MAX_RANGE_SIZE} addresses")]
    TooLarge {
        /// Name of the pool.
        pool: String,
        /// Start of the range.
        first: IpAddr,
    },
    /// More than 32 or 128.
    #[error("pool {pool}: prefix length {prefix_len} does not exist for {first}")]
    PrefixLength {
        /// Name of the pool.
        pool: String,
        /// Start of the range.
        first: IpAddr,
        /// As configured.
        prefix_len: u8,
    },
    /// Loopback, link-local, multicast, broadcast and unspecified addresses cannot be assigned (spec 8.1).
    #[error("pool {pool}: {address} cannot be assigned to a client")]
    NotAssignable {
        /// Name of the pool.
        pool: String,
        /// The offending address.
        address: IpAddr,
    },
    /// Two ranges share an address, so one could be given to two tunnels.
    #[error("pool {pool}: the range from {first} overlaps another range")]
    Overlap {
        /// Name of the pool.
        pool: String,
        /// Start of the range that comes second.
        first: IpAddr,
    },
    /// More than [`MAX_RANGES`].
    #[error("more than {MAX_RANGES} address ranges")]
    TooManyRanges,
}

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
}

/// All pools of one server.
#[derive(Debug)]
pub struct Pools {
    /// Sorted by [`sort_key`] of the first address.
    ranges: Vec<Range>,
    pools: Vec<Pool>,
}

#[derive(Debug)]
struct Pool {
    name: String,
    /// Indices into `Pools::ranges`, in order of configuration.
    ranges: Vec<usize>,
}

#[derive(Debug)]
struct Range {
    family: Family,
    first: u128,
    size: u32,
    prefix_len: u8,
    /// Inclusive offsets, sorted.
    excluded: Vec<(u32, u32)>,
    total: u32,
    leased: u32,
    quarantined: u32,
    /// `slots[offset]`; grows up to the highest offset ever leased.
    slots: Vec<Slot>,
    /// Offsets that were leased before and are free again, oldest first.
    free: VecDeque<u32>,
    /// Every offset from here on was never leased.
    fresh: u32,
    quarantine_time: Duration,
    /// Offsets in quarantine, in order of time, as the time is one for all. Bounded by the number of addresses.
    quarantine: VecDeque<(Instant, u32)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Free,
    Leased(u32),
    Quarantined,
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
                ranges.push((
                    pool,
                    order,
                    Range::new(config, *range, config.quarantine.unwrap_or(quarantine))?,
                ));
            }
        }
        if ranges.len() > MAX_RANGES {
            return Err(PoolError::TooManyRanges);
        }
        ranges.sort_by_key(|(_, _, range)| (range.family, range.first));
        for ((_, _, low), (pool, _, high)) in ranges.iter().zip(ranges.iter().skip(1)) {
            if low.family == high.family && high.first - low.first < u128::from(low.size) {
                let pool = configs
                    .get(*pool)
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
                .filter(|(_, (pool, _, _))| *pool == index)
                .map(|(position, (_, order, _))| (*order, position))
                .collect();
            own.sort_unstable();
            Pool {
                name: config.name.clone(),
                ranges: own.into_iter().map(|(_, position)| position).collect(),
            }
        });
        let pools = pools.collect();
        let ranges = ranges.into_iter().map(|(_, _, range)| range).collect();
        Ok(Self { ranges, pools })
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
        owner: u32,
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
            if let Some(address) = range.lease(owner) {
                return Some(Lease {
                    address,
                    prefix_len: range.prefix_len,
                });
            }
        }
        None
    }

    /// Ends a lease; the address becomes free after the quarantine. Harmless for an address not leased.
    pub fn release(&mut self, now: Instant, address: IpAddr) {
        let Some((range, offset)) = self.locate(address) else {
            return;
        };
        let Some(range) = self.ranges.get_mut(range) else {
            return;
        };
        if let Some(slot @ Slot::Leased(_)) = range.slots.get_mut(offset as usize) {
            *slot = Slot::Quarantined;
            range.leased -= 1;
            range.quarantined += 1;
            range
                .quarantine
                .push_back((now + range.quarantine_time, offset));
        }
    }

    /// The owner of a leased address: an array access behind a search of the few ranges.
    #[must_use]
    #[inline]
    pub fn owner(&self, address: IpAddr) -> Option<u32> {
        let (range, offset) = self.locate(address)?;
        match self.ranges.get(range)?.slots.get(offset as usize)? {
            Slot::Leased(owner) => Some(*owner),
            Slot::Free | Slot::Quarantined => None,
        }
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

    #[inline]
    fn locate(&self, address: IpAddr) -> Option<(usize, u32)> {
        let (family, number) = sort_key(address);
        let above = self
            .ranges
            .partition_point(|range| (range.family, range.first) <= (family, number));
        let index = above.checked_sub(1)?;
        let range = self
            .ranges
            .get(index)
            .filter(|range| range.family == family)?;
        let offset = u32::try_from(number.checked_sub(range.first)?).ok()?;
        (offset < range.size).then_some((index, offset))
    }
}

impl Range {
    fn new(
        pool: &PoolConfig,
        config: PoolRange,
        quarantine_time: Duration,
    ) -> Result<Self, PoolError> {
        let (exclusions, pool) = (&pool.exclusions, pool.name.as_str());
        let AddressRange { first, last } = config.range;
        let (family, low) = sort_key(first);
        let (last_family, high) = sort_key(last);
        if family != last_family || low > high {
            return Err(PoolError::NotARange {
                pool: pool.to_owned(),
                first,
                last,
            });
        }
        let size = u32::try_from(high - low)
            .ok()
            .and_then(|distance| distance.checked_add(1));
        let Some(size) = size.filter(|size| *size <= MAX_RANGE_SIZE) else {
            return Err(PoolError::TooLarge {
                pool: pool.to_owned(),
                first,
            });
        };
        let bits = if family == Family::Ipv4 { 32 } else { 128 };
        if config.prefix_len > bits {
            let prefix_len = config.prefix_len;
            return Err(PoolError::PrefixLength {
                pool: pool.to_owned(),
                first,
                prefix_len,
            });
        }
        // The unassignable blocks are at least as large as a range may be, or end at the edge of the number space,
        // so looking at both ends finds every range that touches one; 169.254.0.0/16 alone can lie inside.
        let (_, link_local) = sort_key(LINK_LOCAL_IPV4);
        let inside = (family == Family::Ipv4 && (low..=high).contains(&link_local))
            .then_some(LINK_LOCAL_IPV4);
        if let Some(address) = [first, last]
            .into_iter()
            .find(|address| !is_assignable(*address))
            .or(inside)
        {
            return Err(PoolError::NotAssignable {
                pool: pool.to_owned(),
                address,
            });
        }
        let mut excluded = Vec::new();
        for exclusion in exclusions {
            let (from_family, from) = sort_key(exclusion.first);
            let (to_family, to) = sort_key(exclusion.last);
            if from_family != to_family || from > to {
                let AddressRange { first, last } = *exclusion;
                return Err(PoolError::NotARange {
                    pool: pool.to_owned(),
                    first,
                    last,
                });
            }
            if from_family == family && from <= high && to >= low {
                let offset =
                    |number: u128| u32::try_from(number.clamp(low, high) - low).unwrap_or(u32::MAX);
                excluded.push((offset(from), offset(to)));
            }
        }
        excluded.sort_unstable();
        let excluded = merge(&excluded);
        let skipped: u32 = excluded.iter().map(|(from, to)| to - from + 1).sum();
        Ok(Self {
            family,
            first: low,
            size,
            prefix_len: config.prefix_len,
            total: size - skipped,
            excluded,
            leased: 0,
            quarantined: 0,
            slots: Vec::new(),
            free: VecDeque::new(),
            fresh: 0,
            quarantine_time,
            quarantine: VecDeque::new(),
        })
    }

    /// Work is bounded by the releases of the past, each paid for once.
    fn end_quarantine(&mut self, now: Instant) {
        while let Some((_, offset)) = self.quarantine.pop_front_if(|(until, _)| *until <= now) {
            if let Some(slot @ Slot::Quarantined) = self.slots.get_mut(offset as usize) {
                *slot = Slot::Free;
                self.quarantined -= 1;
                self.free.push_back(offset);
            }
        }
    }

    fn lease(&mut self, owner: u32) -> Option<IpAddr> {
        let offset = self.free.pop_front().or_else(|| self.next_fresh())?;
        let index = offset as usize;
        if self.slots.len() <= index {
            self.slots.resize(index + 1, Slot::Free);
        }
        let slot = self.slots.get_mut(index)?;
        debug_assert_eq!(*slot, Slot::Free);
        *slot = Slot::Leased(owner);
        self.leased += 1;
        Some(self.address(offset))
    }

    fn next_fresh(&mut self) -> Option<u32> {
        let mut offset = self.fresh;
        let next = self.excluded.partition_point(|(_, to)| *to < offset);
        for (from, to) in self.excluded.iter().skip(next) {
            if offset < *from {
                break;
            }
            offset = to + 1;
        }
        if offset >= self.size {
            self.fresh = self.size;
            return None;
        }
        self.fresh = offset + 1;
        Some(offset)
    }

    fn address(&self, offset: u32) -> IpAddr {
        let number = self.first + u128::from(offset);
        match self.family {
            Family::Ipv4 => IpAddr::V4(Ipv4Addr::from_bits(
                u32::try_from(number).unwrap_or(u32::MAX),
            )),
            Family::Ipv6 => IpAddr::V6(Ipv6Addr::from_bits(number)),
        }
    }
}

/// Merges sorted inclusive ranges that touch or overlap.
fn merge(ranges: &[(u32, u32)]) -> Vec<(u32, u32)> {
    let mut merged: Vec<(u32, u32)> = Vec::new();
    for (from, to) in ranges {
        match merged.last_mut() {
            Some((_, end)) if *from <= end.saturating_add(1) => *end = (*end).max(*to),
            _ => merged.push((*from, *to)),
        }
    }
    merged
}

#[inline]
fn sort_key(address: IpAddr) -> (Family, u128) {
    match address {
        IpAddr::V4(address) => (Family::Ipv4, u128::from(address.to_bits())),
        IpAddr::V6(address) => (Family::Ipv6, address.to_bits()),
    }
}

/// Whether an address can be a tunnel's inner address: unicast and of more than link scope (spec 8.1).
pub(crate) fn is_assignable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [a, b, ..] = address.octets();
            !(a == 0 || a == 127 || a >= 224 || (a == 169 && b == 254))
        }
        IpAddr::V6(address) => {
            let [a, ..] = address.segments();
            // ::/8 holds unspecified, loopback and the embedded IPv4 addresses, which are no inner addresses.
            !(a >> 8 == 0 || a >> 8 == 0xFF || a & 0xFFC0 == 0xFE80)
        }
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

    fn leases(pools: &mut Pools, now: Instant, family: Family) -> Vec<String> {
        std::iter::from_fn(|| pools.lease(now, 0, family, 1))
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
        assert_eq!(pools.owner("10.0.0.5".parse().unwrap()), Some(1));
        assert_eq!(pools.owner("10.0.0.3".parse().unwrap()), None);
        assert_eq!(pools.owner("192.0.2.1".parse().unwrap()), None);
    }

    #[test]
    fn a_released_address_waits_out_its_quarantine() {
        let mut pools = Pools::new(&[pool(&[("10.0.0.1", "10.0.0.1")], &[])], QUARANTINE).unwrap();
        let now = Instant::now();
        let lease = pools.lease(now, 0, Family::Ipv4, 1).unwrap();
        pools.release(now, lease.address);
        pools.release(now, lease.address);
        assert_eq!(pools.owner(lease.address), None);
        assert_eq!(
            pools.lease(
                now + QUARANTINE - Duration::from_nanos(1),
                0,
                Family::Ipv4,
                2
            ),
            None
        );
        assert_eq!(
            pools.lease(now + QUARANTINE, 0, Family::Ipv4, 2),
            Some(lease)
        );
        assert_eq!(pools.owner(lease.address), Some(2));
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
            let mut held: Vec<(u32, IpAddr)> = Vec::new();
            let mut resting: Vec<(Instant, IpAddr)> = Vec::new();
            for (owner, (lease, pick, pause)) in (0..).zip(operations) {
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
