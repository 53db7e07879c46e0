//! A queue in which each slot stands at most once.

use std::collections::VecDeque;

use crate::slots::Key;

/// Slots in the order in which they were put in. An entry whose value is gone serves the next value
/// of the slot, so that the queue is never longer than there are slots.
#[derive(Debug, Default)]
pub(super) struct Turns {
    queue: VecDeque<usize>,
    queued: Vec<bool>,
}

impl Turns {
    pub(super) fn push(&mut self, key: Key) {
        let index = key.index();
        if self.queued.len() <= index {
            self.queued.resize(index + 1, false);
        }
        if let Some(queued) = self.queued.get_mut(index)
            && !*queued
        {
            *queued = true;
            self.queue.push_back(index);
        }
    }

    /// The slot whose turn it is.
    pub(super) fn front(&self) -> Option<usize> {
        self.queue.front().copied()
    }

    pub(super) fn pop(&mut self) -> Option<usize> {
        let index = self.queue.pop_front()?;
        self.unmark(index);
        Some(index)
    }

    /// The first slot that is `wanted`, whoever waits before it.
    pub(super) fn take(&mut self, wanted: impl Fn(usize) -> bool) -> Option<usize> {
        let place = self.queue.iter().position(|index| wanted(*index))?;
        let index = self.queue.remove(place)?;
        self.unmark(index);
        Some(index)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    fn unmark(&mut self, index: usize) {
        if let Some(queued) = self.queued.get_mut(index) {
            *queued = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slots::Slots;

    #[test]
    fn a_slot_stands_in_the_queue_once() {
        let mut slots = Slots::new(2);
        let (first, second) = (slots.insert(()).unwrap(), slots.insert(()).unwrap());
        let mut turns = Turns::default();
        for _ in 0..3 {
            turns.push(second);
            turns.push(first);
        }
        assert_eq!(turns.pop(), Some(second.index()));
        turns.push(second);
        assert_eq!(turns.pop(), Some(first.index()));
        assert_eq!(turns.pop(), Some(second.index()));
        assert!(turns.is_empty());
    }
}
