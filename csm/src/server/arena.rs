//! Slots with generations: an index that outlives its object finds nothing.

use slab::Slab;

/// A slab whose keys carry a generation.
#[derive(Debug)]
pub(crate) struct Arena<T> {
    slots: Slab<(u32, T)>,
    generation: u32,
}

/// Index and generation of an object.
pub(crate) type Key = (u32, u32);

impl<T> Arena<T> {
    pub(crate) const fn new() -> Self {
        Self {
            slots: Slab::new(),
            generation: 0,
        }
    }

    /// Puts in what `make` builds from its own key; `None` if there are 2^32 objects.
    pub(crate) fn insert_with(&mut self, make: impl FnOnce(Key) -> T) -> Option<Key> {
        let entry = self.slots.vacant_entry();
        let index = u32::try_from(entry.key()).ok()?;
        self.generation = self.generation.wrapping_add(1);
        let key = (index, self.generation);
        entry.insert((self.generation, make(key)));
        Some(key)
    }

    /// The key that the next object will have.
    pub(crate) fn vacant_key(&self) -> Option<Key> {
        let index = u32::try_from(self.slots.vacant_key()).ok()?;
        Some((index, self.generation.wrapping_add(1)))
    }

    #[inline]
    pub(crate) fn get(&self, (index, generation): Key) -> Option<&T> {
        let (found, value) = self.slots.get(index as usize)?;
        (*found == generation).then_some(value)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, (index, generation): Key) -> Option<&mut T> {
        let (found, value) = self.slots.get_mut(index as usize)?;
        (*found == generation).then_some(value)
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        self.get(key)?;
        self.slots
            .try_remove(key.0 as usize)
            .map(|(_, value)| value)
    }

    /// The key of the object in slot `index` now.
    #[inline]
    pub(crate) fn key_at(&self, index: u32) -> Option<Key> {
        self.slots
            .get(index as usize)
            .map(|(generation, _)| (index, *generation))
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// One above the highest index in use, or more: the end for a cursor over all slots.
    pub(crate) fn end(&self) -> u32 {
        u32::try_from(self.slots.capacity()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_key_finds_nothing() {
        let mut arena = Arena::new();
        let first = arena.insert_with(|_| 'a').unwrap();
        assert_eq!(arena.remove(first), Some('a'));
        let second = arena.insert_with(|_| 'b').unwrap();
        assert_eq!(first.0, second.0);
        assert_eq!(arena.get(first), None);
        assert_eq!(arena.remove(first), None);
        assert_eq!(arena.get_mut(second), Some(&mut 'b'));
        assert_eq!(arena.key_at(second.0), Some(second));
    }
}
