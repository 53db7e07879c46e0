//! One queue of deadlines for everything that TCP waits for.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::slots::Key;

/// Who is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    Connection(Key),
    /// A half-open connection of a listener.
    HalfOpen(Key, Key),
    Incoming(Key),
    TimeWait(Key),
}

/// At most one entry for each connection, half-open connection and so on.
#[derive(Debug, Default)]
pub(super) struct Timers(BTreeSet<(Instant, Due)>);

impl Timers {
    pub(super) fn arm(&mut self, at: Instant, due: Due) {
        self.0.insert((at, due));
    }

    pub(super) fn disarm(&mut self, at: Instant, due: Due) {
        self.0.remove(&(at, due));
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.0.first().map(|(at, _)| *at)
    }

    /// The next that is due at `now`.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Due> {
        self.0.first().filter(|(at, _)| *at <= now)?;
        self.0.pop_first().map(|(_, due)| due)
    }
}
