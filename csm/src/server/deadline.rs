//! One deadline queue for everything that waits in a server.
//!
//! Entries are armed lazily: a data packet only writes the time of last activity, and the entry that was armed
//! for an earlier deadline is moved when it comes up. So each object has at most one entry, and the path of a
//! packet never touches the queue.

use std::collections::BTreeSet;
use std::time::Instant;

/// The queue: objects by the time at which they want to be looked at.
#[derive(Debug)]
pub(crate) struct DeadlineQueue<K> {
    entries: BTreeSet<(Instant, K)>,
}

impl<K: Ord + Copy> DeadlineQueue<K> {
    pub(crate) const fn new() -> Self {
        Self {
            entries: BTreeSet::new(),
        }
    }

    /// Replaces the entry of `key`, armed for `armed`, by one for `wanted`; writes `armed`.
    ///
    /// An entry that is early enough is left alone: it comes up, and is then moved. That is what keeps the
    /// common case, a deadline that moves further away, free of work.
    pub(crate) fn arm(&mut self, key: K, armed: &mut Option<Instant>, wanted: Option<Instant>) {
        match (*armed, wanted) {
            (Some(at), Some(wanted)) if at <= wanted => return,
            (Some(at), _) => {
                self.entries.remove(&(at, key));
            }
            (None, _) => {}
        }
        if let Some(at) = wanted {
            self.entries.insert((at, key));
        }
        *armed = wanted;
    }

    /// Takes out the first entry that is due. The caller clears the object's `armed` and arms it again.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<K> {
        let (at, key) = *self.entries.first()?;
        if at > now {
            return None;
        }
        self.entries.pop_first();
        Some(key)
    }

    /// When the first entry is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.entries.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn one_entry_per_key_moved_only_when_it_must_be_earlier() {
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let mut queue = DeadlineQueue::new();
        let mut armed = None;
        queue.arm(1, &mut armed, Some(at(10)));
        queue.arm(1, &mut armed, Some(at(20)));
        assert_eq!(
            (queue.next(), queue.entries.len()),
            (Some(at(10)), 1),
            "later deadlines do not touch the queue"
        );
        queue.arm(1, &mut armed, Some(at(5)));
        assert_eq!((queue.next(), queue.entries.len()), (Some(at(5)), 1));
        assert_eq!(queue.pop_due(at(4)), None);
        assert_eq!(queue.pop_due(at(5)), Some(1));
        armed = None;
        queue.arm(1, &mut armed, None);
        assert_eq!(queue.next(), None);
    }
}
