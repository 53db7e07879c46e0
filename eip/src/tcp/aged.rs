//! A bounded table whose oldest entry makes room for a new one.

use std::collections::BTreeMap;

use crate::slots::{Key, Slots};

/// At most `limit` values in order of age.
#[derive(Debug)]
pub(super) struct Aged<T> {
    slots: Slots<(u64, T)>,
    order: BTreeMap<u64, Key>,
    next: u64,
    limit: usize,
}

impl<T> Aged<T> {
    pub(super) const fn new(limit: usize) -> Self {
        Self {
            slots: Slots::new(limit),
            order: BTreeMap::new(),
            next: 0,
            limit,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The oldest value, if the table is full.
    pub(super) fn evict(&mut self) -> Option<(Key, T)> {
        if self.slots.len() < self.limit {
            return None;
        }
        self.pop()
    }

    /// `None` if the table is full.
    pub(super) fn insert(&mut self, value: T) -> Option<Key> {
        let age = self.next;
        let key = self.slots.insert((age, value))?;
        self.next = self.next.wrapping_add(1);
        self.order.insert(age, key);
        Some(key)
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<T> {
        let (age, value) = self.slots.remove(key)?;
        self.order.remove(&age);
        Some(value)
    }

    pub(super) fn get(&self, key: Key) -> Option<&T> {
        self.slots.get(key).map(|(_, value)| value)
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.slots.get_mut(key).map(|(_, value)| value)
    }

    /// Takes the oldest value out.
    pub(super) fn pop(&mut self) -> Option<(Key, T)> {
        let (_, key) = self.order.pop_first()?;
        self.slots.remove(key).map(|(_, value)| (key, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_makes_room() {
        let mut aged = Aged::new(2);
        let first = aged.insert('a').unwrap();
        let second = aged.insert('b').unwrap();
        assert_eq!(aged.insert('c'), None);
        assert_eq!(aged.evict(), Some((first, 'a')));
        assert_eq!(aged.get(first), None);
        let third = aged.insert('c').unwrap();
        assert_eq!(aged.remove(second), Some('b'));
        assert_eq!(aged.evict(), None, "there is room");
        assert_eq!(aged.pop(), Some((third, 'c')));
        assert_eq!(aged.len(), 0);
    }
}
