//! A table that forgets what was not used for a while, without a timer and without a list: two generations of entries,
//! of which the older is dropped as a whole.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

/// How much a table remembers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// An unused entry lives at least this long, and at most twice as long, while there is room.
    pub(crate) idle: Duration,
    /// Entries of a generation; there are two. A full one is closed early.
    pub(crate) entries: usize,
    /// Entries that one tunnel may add to a generation, so that it cannot push out those of others by itself.
    pub(crate) per_tunnel: u32,
}

/// See the module. The hash is keyed: strangers choose the keys.
#[derive(Debug)]
pub(crate) struct Generations<K, V> {
    bounds: Bounds,
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    /// When the young generation began.
    since: Option<Instant>,
    /// What each tunnel has added to the young generation, by its slot.
    added: Vec<u32>,
}

impl<K: Eq + Hash, V: Copy + PartialEq> Generations<K, V> {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            young: HashMap::new(),
            old: HashMap::new(),
            since: None,
            added: Vec::new(),
        }
    }

    /// Whether nothing is remembered.
    pub(crate) fn is_empty(&self) -> bool {
        self.young.is_empty() && self.old.is_empty()
    }

    /// Remembers, in place of what was there. False if the tunnel has added too much of late.
    #[must_use]
    pub(crate) fn insert(&mut self, now: Instant, tunnel: usize, key: K, value: V) -> bool {
        self.turn(now);
        if let Some(known) = self.young.get_mut(&key) {
            *known = value;
            return true;
        }
        if self.young.len() >= self.bounds.entries {
            self.next(now);
        }
        if tunnel >= self.added.len() {
            self.added.resize(tunnel + 1, 0);
        }
        let Some(added) = self.added.get_mut(tunnel) else {
            return false;
        };
        // What is only used again is no addition.
        if !self.old.contains_key(&key) {
            if *added >= self.bounds.per_tunnel {
                return false;
            }
            *added += 1;
        }
        self.young.insert(key, value);
        true
    }

    /// What is remembered; it counts as used.
    pub(crate) fn find(&mut self, now: Instant, key: K) -> Option<V> {
        self.turn(now);
        if let Some(value) = self.young.get(&key) {
            return Some(*value);
        }
        let value = *self.old.get(&key)?;
        if self.young.len() < self.bounds.entries {
            self.young.insert(key, value);
        }
        Some(value)
    }

    /// Begins another generation when it is time.
    fn turn(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        let age = now.saturating_duration_since(since);
        if age >= self.bounds.idle {
            self.next(now);
            if age >= self.bounds.idle * 2 {
                self.old.clear();
            }
        }
    }

    fn next(&mut self, now: Instant) {
        std::mem::swap(&mut self.young, &mut self.old);
        self.young.clear();
        self.added.clear();
        self.since = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        idle: Duration::from_secs(10),
        entries: 4,
        per_tunnel: 3,
    };

    #[test]
    fn what_is_used_stays_and_what_is_not_goes() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut table = Generations::new(BOUNDS);
        assert!(table.insert(at(0), 0, 'a', 1));
        assert!(table.insert(at(0), 0, 'b', 2));
        for second in 1..100 {
            assert_eq!(table.find(at(second), 'a'), Some(1), "second {second}");
        }
        assert_eq!(table.find(at(100), 'b'), None);
        assert_eq!(table.find(at(108), 'a'), Some(1));
        assert_eq!(
            table.find(at(200), 'a'),
            None,
            "idle for longer than twice the time"
        );
        assert!(table.is_empty());
    }

    #[test]
    fn an_entry_lives_for_the_idle_time_at_least() {
        let start = Instant::now();
        for offset in 0..20 {
            let at = |seconds| start + Duration::from_secs(seconds);
            let mut table = Generations::new(BOUNDS);
            assert!(table.insert(at(0), 0, 'x', 0));
            assert!(table.insert(at(offset), 0, 'a', 1));
            assert_eq!(table.find(at(offset + 9), 'a'), Some(1), "offset {offset}");
        }
    }

    #[test]
    fn no_tunnel_adds_without_end_and_the_table_is_bounded() {
        let now = Instant::now();
        let mut table = Generations::new(BOUNDS);
        let mut added = 0;
        for key in 0..100 {
            added += usize::from(table.insert(now, 7, key, ()));
        }
        assert_eq!(added, 3);
        assert!(table.insert(now, 7, 1, ()), "known already");
        assert!(table.insert(now, 8, 500, ()));
        for tunnel in 10..100 {
            assert!(table.insert(now, tunnel, 1000 + tunnel, ()));
            assert!(table.young.len() <= 4 && table.old.len() <= 4);
        }
    }
}
