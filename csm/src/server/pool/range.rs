//! One range: which of its addresses are free or resting, and how many are leased.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use tsc_tpl::Family;

use super::config::{AddressRange, MAX_RANGE_SIZE, PoolConfig, PoolError, PoolRange};
use crate::prefix::{from_number, sort_key, unassignable_in};

/// Consecutive addresses of one pool.
#[derive(Debug)]
pub(super) struct Range {
    /// Index of the pool.
    pub(super) pool: usize,
    pub(super) family: Family,
    pub(super) first: u128,
    pub(super) size: u32,
    pub(super) prefix_len: u8,
    /// Inclusive offsets, sorted.
    excluded: Vec<(u32, u32)>,
    pub(super) total: u32,
    pub(super) leased: u32,
    pub(super) quarantined: u32,
    /// Offsets that were leased before and are free again, oldest first.
    free: VecDeque<u32>,
    /// Every offset from here on was never leased.
    fresh: u32,
    quarantine_time: Duration,
    /// Offsets in quarantine, in order of time, as the time is one for all. Bounded by the number of addresses.
    quarantine: VecDeque<(Instant, u32)>,
}

impl Range {
    /// Checks and makes a range of `pool`, which has this index; `quarantine` is for pools that set none.
    pub(super) fn new(
        index: usize,
        pool: &PoolConfig,
        config: PoolRange,
        quarantine: Duration,
    ) -> Result<Self, PoolError> {
        let quarantine_time = pool.quarantine.unwrap_or(quarantine);
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
        if let Some(address) = unassignable_in((family, low, high)) {
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
            pool: index,
            family,
            first: low,
            size,
            prefix_len: config.prefix_len,
            total: size - skipped,
            excluded,
            leased: 0,
            quarantined: 0,
            free: VecDeque::new(),
            fresh: 0,
            quarantine_time,
            quarantine: VecDeque::new(),
        })
    }

    /// Work is bounded by the releases of the past, each paid for once.
    pub(super) fn end_quarantine(&mut self, now: Instant) {
        while let Some((_, offset)) = self.quarantine.pop_front_if(|(until, _)| *until <= now) {
            self.quarantined -= 1;
            self.free.push_back(offset);
        }
    }

    /// Leases the offset that has been free for longest, or was never leased.
    pub(super) fn lease(&mut self) -> Option<u32> {
        let offset = self.free.pop_front().or_else(|| self.next_fresh())?;
        self.leased += 1;
        Some(offset)
    }

    /// Ends the lease of an offset, which rests from now on.
    pub(super) fn release(&mut self, now: Instant, offset: u32) {
        self.leased -= 1;
        self.quarantined += 1;
        self.quarantine
            .push_back((now + self.quarantine_time, offset));
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

    pub(super) fn address(&self, offset: u32) -> IpAddr {
        from_number(self.family, self.first + u128::from(offset))
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
