//! Whose addresses are ours: which pool an inner address belongs to.

use std::net::IpAddr;

use crate::config::{AddressRange, PoolConfig};

/// Where an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Index of the pool in the configuration.
    pub(crate) pool: usize,
    /// Its position among the pool's addresses, excluded ones included.
    pub(crate) offset: u32,
}

/// The addresses of all pools that can be handed out, in order. Bounded by the configuration.
#[derive(Debug, Default)]
pub(crate) struct PoolTable {
    v4: Vec<Segment>,
    v6: Vec<Segment>,
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    first: u128,
    last: u128,
    place: Place,
}

impl PoolTable {
    pub(crate) fn new(pools: &[PoolConfig]) -> Self {
        let mut table = Self::default();
        for (index, pool) in pools.iter().enumerate() {
            // Pools hold at most 2^20 addresses.
            let mut base = 0_u32;
            for range in &pool.ranges {
                table.add(index, base, range, &pool.exclude);
                base = base.saturating_add(u32::try_from(range.size()).unwrap_or(u32::MAX));
            }
        }
        table.v4.sort_unstable_by_key(|segment| segment.first);
        table.v6.sort_unstable_by_key(|segment| segment.first);
        table
    }

    /// Adds the pieces of `range` between exclusions.
    fn add(&mut self, pool: usize, base: u32, range: &AddressRange, exclude: &[AddressRange]) {
        let segments = if range.is_ipv6() {
            &mut self.v6
        } else {
            &mut self.v4
        };
        let (start, end) = (bits(range.first()), bits(range.last()));
        let mut holes: Vec<_> = exclude
            .iter()
            .filter_map(|hole| range.intersection(hole))
            .map(|hole| (bits(hole.first()), bits(hole.last())))
            .collect();
        holes.sort_unstable();
        let mut push = |first: u128, last: u128| {
            let offset = base.saturating_add(u32::try_from(first - start).unwrap_or(u32::MAX));
            let place = Place { pool, offset };
            segments.push(Segment { first, last, place });
        };
        let mut first = start;
        for (from, to) in holes {
            if from > first {
                push(first, from - 1);
            }
            // No range ends at the last address of a family: those cannot be assigned.
            first = first.max(to.saturating_add(1));
        }
        if first <= end {
            push(first, end);
        }
    }

    /// The pool of an address: a search of the few ranges.
    pub(crate) fn find(&self, address: IpAddr) -> Option<Place> {
        let segments = if address.is_ipv6() {
            &self.v6
        } else {
            &self.v4
        };
        let bits = bits(address);
        let behind = segments.partition_point(|segment| segment.first <= bits);
        let segment = segments.get(behind.checked_sub(1)?)?;
        if bits > segment.last {
            return None;
        }
        let distance = u32::try_from(bits - segment.first).ok()?;
        Some(Place {
            offset: segment.place.offset.saturating_add(distance),
            ..segment.place
        })
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Egress;

    fn pool(ranges: &[&str], exclude: &[&str]) -> PoolConfig {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        PoolConfig {
            name: "pool".to_owned(),
            ranges: parse(ranges),
            exclude: parse(exclude),
            prefix_len_v4: 32,
            prefix_len_v6: 128,
            quarantine: Duration::ZERO,
            egress: Egress::Switch,
            policies: Vec::new(),
            data_flow: None,
        }
    }

    #[test]
    fn addresses_have_a_place_and_exclusions_have_none() {
        let table = PoolTable::new(&[
            pool(
                &["10.0.0.0-10.0.0.9", "fd00::1-fd00::f", "10.0.2.0-10.0.2.1"],
                &[
                    "10.0.0.0",
                    "10.0.0.4-10.0.0.5",
                    "10.0.0.5-10.0.0.6",
                    "10.0.2.1",
                ],
            ),
            pool(&["10.0.1.0-10.0.1.0"], &[]),
        ]);
        let find = |text: &str| {
            let place = table.find(text.parse().unwrap());
            place.map(|place| (place.pool, place.offset))
        };
        assert_eq!(find("10.0.0.0"), None);
        assert_eq!(find("10.0.0.1"), Some((0, 1)));
        assert_eq!(find("10.0.0.3"), Some((0, 3)));
        for excluded in ["10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.2.1"] {
            assert_eq!(find(excluded), None);
        }
        assert_eq!(find("10.0.0.7"), Some((0, 7)));
        assert_eq!(find("10.0.0.9"), Some((0, 9)));
        assert_eq!(find("10.0.0.10"), None);
        assert_eq!(find("10.0.1.0"), Some((1, 0)));
        assert_eq!(find("10.0.2.0"), Some((0, 25)));
        assert_eq!(find("fd00::1"), Some((0, 10)));
        assert_eq!(find("fd00::f"), Some((0, 24)));
        assert_eq!(find("fd00::10"), None);
        assert_eq!(find("9.255.255.255"), None);
        assert_eq!(find("::a00:1"), None, "families are apart");
    }
}
