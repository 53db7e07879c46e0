//! Tables that all peers share, so that none of them can fill them for the others.
//!
//! A table has places in all and places for one source address. When a newcomer finds no place, one that is taken is vacated:
//!
//! - if its source has all of its own, the idlest of those;
//! - if the table is full, the idlest of the source that has most.
//!
//! A place that was used less than [`Bounds::busy`] ago is vacated only for a source that has fewer. So a peer that fills a
//! table displaces itself: one that keeps to itself is served beside it, and keeps its place while it uses it.
//!
//! A source is an address as it is, not a prefix: inside tunnels, neighbours in a prefix are different clients. Who has
//! many addresses (a gateway with a routed prefix) has many shares; then the idlest place of all goes first.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    hash::Hash,
    net::IpAddr,
    time::{Duration, Instant},
};

/// How large a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Places in all.
    pub total: usize,
    /// Places of one source address.
    pub per_source: usize,
    /// How long a place counts as busy after it was used.
    pub busy: Duration,
}

/// What becomes of a newcomer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission<K> {
    /// It has a place.
    Free,
    /// It has the place of this one, which is no longer in the table.
    Instead(K),
    /// There is none that it may have.
    Refused,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    source: IpAddr,
    used: Instant,
}

/// Who has the places of a table. Sans-IO; every step costs the logarithm of the places.
#[derive(Debug)]
pub struct Shares<K> {
    bounds: Bounds,
    places: HashMap<K, Place>,
    /// Places of each source, the idlest first; none is empty.
    sources: HashMap<IpAddr, BTreeSet<(Instant, K)>>,
    /// Sources by their number of places, and among equals the one with the idlest place last.
    ranks: BTreeSet<(usize, Reverse<Instant>, IpAddr)>,
}

impl<K: Copy + Ord + Hash> Shares<K> {
    /// An empty table.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            places: HashMap::new(),
            sources: HashMap::new(),
            ranks: BTreeSet::new(),
        }
    }

    /// Places that are taken.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether no place is taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Takes a place for `key`, which has none, on behalf of `source`.
    pub fn take(&mut self, now: Instant, source: IpAddr, key: K) -> Admission<K> {
        self.take_of(now, source, key, self.bounds.total)
    }

    /// The same while the table has no more than `total` places.
    pub fn take_of(&mut self, now: Instant, source: IpAddr, key: K, total: usize) -> Admission<K> {
        let source = source.to_canonical();
        let own = self.sources.get(&source).map_or(0, BTreeSet::len);
        let idle = |used: Instant| {
            let idle = now.checked_duration_since(used);
            idle.is_some_and(|idle| idle >= self.bounds.busy)
        };
        let victim = if own >= self.bounds.per_source {
            match self.idlest(source) {
                Some((used, key)) if idle(used) => Some(key),
                _ => return Admission::Refused,
            }
        } else if self.places.len() >= total.min(self.bounds.total) {
            let Some(&(most, _, holder)) = self.ranks.last() else {
                return Admission::Refused;
            };
            // With the place that it asks for, the newcomer's source may itself be the one that has most.
            let holder = if own + 1 > most { source } else { holder };
            match self.idlest(holder) {
                Some((used, key)) if idle(used) || most > own + 1 => Some(key),
                _ => return Admission::Refused,
            }
        } else {
            None
        };
        if let Some(victim) = victim {
            self.leave(victim);
        }
        let place = Place { source, used: now };
        if let Some(old) = self.places.insert(key, place) {
            // It had one after all.
            self.change(old.source, |places| places.remove(&(old.used, key)));
        }
        self.change(source, |places| places.insert((now, key)));
        victim.map_or(Admission::Free, Admission::Instead)
    }

    /// Notes that a place is used, or will be until a time to come.
    pub fn touch(&mut self, now: Instant, key: K) {
        let Some(place) = self.places.get_mut(&key) else {
            return;
        };
        let (source, before) = (place.source, place.used);
        place.used = now;
        self.change(source, |places| {
            places.remove(&(before, key)) && places.insert((now, key))
        });
    }

    /// Gives a place up; whether there was one.
    pub fn leave(&mut self, key: K) -> bool {
        let Some(place) = self.places.remove(&key) else {
            return false;
        };
        self.change(place.source, |places| places.remove(&(place.used, key)))
    }

    fn idlest(&self, source: IpAddr) -> Option<(Instant, K)> {
        self.sources.get(&source)?.first().copied()
    }

    /// Changes the places of a source, and its rank with them.
    fn change(
        &mut self,
        source: IpAddr,
        change: impl FnOnce(&mut BTreeSet<(Instant, K)>) -> bool,
    ) -> bool {
        let rank = |places: &BTreeSet<(Instant, K)>| {
            let (used, _) = places.first()?;
            Some((places.len(), Reverse(*used), source))
        };
        let places = self.sources.entry(source).or_default();
        if let Some(rank) = rank(places) {
            self.ranks.remove(&rank);
        }
        let changed = change(places);
        match rank(places) {
            Some(rank) => {
                self.ranks.insert(rank);
            }
            None => {
                self.sources.remove(&source);
            }
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BUSY: Duration = Duration::from_secs(1);

    fn table(total: usize, per_source: usize) -> Shares<u32> {
        Shares::new(Bounds {
            total,
            per_source,
            busy: BUSY,
        })
    }

    fn source(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[test]
    fn a_source_with_all_of_its_places_loses_its_own_idlest() {
        let (mut table, mut now) = (table(10, 2), Instant::now());
        assert_eq!(table.take(now, source(1), 1), Admission::Free);
        now += BUSY;
        assert_eq!(table.take(now, source(1), 2), Admission::Free);
        table.touch(now, 1);
        assert_eq!(table.take(now, source(1), 3), Admission::Refused, "busy");
        assert_eq!(table.take(now, source(2), 3), Admission::Free);
        now += BUSY / 2;
        table.touch(now, 1);
        now += BUSY / 2;
        assert_eq!(table.take(now, source(1), 4), Admission::Instead(2));
    }

    #[test]
    fn in_a_full_table_whoever_has_most_makes_room_however_busy() {
        let (mut table, now) = (table(4, 3), Instant::now());
        for key in 1..=3 {
            assert_eq!(table.take(now, source(1), key), Admission::Free);
        }
        assert_eq!(table.take(now, source(2), 4), Admission::Free);
        assert_eq!(table.take(now, source(3), 5), Admission::Instead(1));
        // Two, one and one: who would have as many as the first may not take what is busy.
        assert_eq!(table.take(now, source(3), 6), Admission::Refused);
        assert_eq!(table.take(now, source(1), 6), Admission::Refused);
        assert_eq!(table.take(now, source(4), 6), Admission::Instead(2));
        // One each: the idlest of all goes, if it is idle.
        assert_eq!(table.take(now, source(5), 7), Admission::Refused);
        let later = now + BUSY;
        table.touch(later, 3);
        table.touch(later, 4);
        table.touch(later, 6);
        assert_eq!(table.take(later, source(5), 7), Admission::Instead(5));
    }

    #[test]
    fn mapped_addresses_are_the_same_source() {
        let (mut table, now) = (table(10, 1), Instant::now());
        let mapped = "::ffff:10.0.0.1".parse().unwrap();
        assert_eq!(table.take(now, source(1), 1), Admission::Free);
        assert_eq!(table.take(now, mapped, 2), Admission::Refused);
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Take(u8, u32),
        Touch(u32),
        Leave(u32),
        Wait(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..5_u8, 0..20_u32).prop_map(|(source, key)| Step::Take(source, key)),
            1 => (0..20_u32).prop_map(Step::Touch),
            1 => (0..20_u32).prop_map(Step::Leave),
            1 => (0..1500_u64).prop_map(Step::Wait),
        ];
        proptest::collection::vec(step, 0..200)
    }

    proptest! {
        #[test]
        fn bounds_hold_and_the_lists_agree(steps in steps()) {
            let (mut table, mut now) = (table(8, 4), Instant::now());
            for step in steps {
                match step {
                    Step::Take(from, key) => {
                        let before = table.sources.get(&source(from)).map_or(0, BTreeSet::len);
                        let free = table.len() < 8 && before < 4;
                        let new = !table.places.contains_key(&key);
                        let taken = table.take(now, source(from), key);
                        prop_assert!(!free || taken == Admission::Free);
                        prop_assert!(!new || before > 0 || taken != Admission::Free || free);
                    }
                    Step::Touch(key) => table.touch(now, key),
                    Step::Leave(key) => {
                        table.leave(key);
                    }
                    Step::Wait(millis) => now += Duration::from_millis(millis),
                }
                prop_assert!(table.len() <= 8);
                prop_assert_eq!(table.len(), table.sources.values().map(BTreeSet::len).sum::<usize>());
                prop_assert_eq!(table.sources.len(), table.ranks.len());
                for (address, places) in &table.sources {
                    prop_assert!(!places.is_empty() && places.len() <= 4);
                    let rank = (places.len(), Reverse(places.first().unwrap().0), *address);
                    prop_assert!(table.ranks.contains(&rank));
                    for (used, key) in places {
                        let place = table.places.get(key).unwrap();
                        prop_assert_eq!((place.source, place.used), (*address, *used));
                    }
                }
            }
        }
    }
}
