//! Coalesced events: at most one per slot waits, and the next comes only after the socket was read
//! empty.

use std::collections::VecDeque;

/// Which slots have something to tell. At most as long as there are slots.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    queue: VecDeque<usize>,
    flags: Vec<Flags>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Flags {
    /// The slot is in the queue.
    queued: bool,
    /// The owner was told and has not read everything yet.
    told: bool,
}

impl Signals {
    /// A new socket has taken slot `index`. An entry of its predecessor may still be queued; it
    /// then serves the new one.
    pub(crate) fn reset(&mut self, index: usize) {
        if self.flags.len() <= index {
            self.flags.resize(index + 1, Flags::default());
        }
        self.drained(index);
    }

    /// Something waits at slot `index`.
    pub(crate) fn raise(&mut self, index: usize) {
        let Some(flags) = self.flags.get_mut(index) else {
            return;
        };
        if !flags.queued && !flags.told {
            flags.queued = true;
            self.queue.push_back(index);
        }
    }

    /// Everything at slot `index` was read.
    pub(crate) fn drained(&mut self, index: usize) {
        if let Some(flags) = self.flags.get_mut(index) {
            flags.told = false;
        }
    }

    /// The next slot for which `ready` holds; others had been read before their event was taken.
    pub(crate) fn poll(&mut self, ready: impl Fn(usize) -> bool) -> Option<usize> {
        while let Some(index) = self.queue.pop_front() {
            let Some(flags) = self.flags.get_mut(index) else {
                continue;
            };
            flags.queued = false;
            if ready(index) {
                flags.told = true;
                return Some(index);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_event_until_the_slot_was_drained() {
        let mut signals = Signals::default();
        signals.reset(0);
        signals.raise(0);
        signals.raise(0);
        assert_eq!(signals.poll(|_| true), Some(0));
        signals.raise(0);
        assert_eq!(signals.poll(|_| true), None, "not read yet");
        signals.drained(0);
        signals.raise(0);
        assert_eq!(signals.poll(|_| true), Some(0));
    }

    #[test]
    fn an_event_overtaken_by_reading_is_not_given() {
        let mut signals = Signals::default();
        signals.reset(0);
        signals.raise(0);
        signals.drained(0);
        assert_eq!(signals.poll(|_| false), None);
        signals.raise(0);
        assert_eq!(signals.poll(|_| true), Some(0));
    }

    #[test]
    fn a_reused_slot_is_queued_once() {
        let mut signals = Signals::default();
        for _ in 0..100 {
            signals.reset(0);
            signals.raise(0);
        }
        assert_eq!(signals.queue.len(), 1);
    }
}
