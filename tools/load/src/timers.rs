//! Deadlines of all clients: a heap of times, looked at lazily.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Which client wants to be called when.
#[derive(Debug, Default)]
pub(crate) struct Timers(BinaryHeap<Reverse<(u64, u32)>>);

impl Timers {
    /// Notes a deadline. Earlier ones of the same client stay, and find it not due.
    pub(crate) fn set(&mut self, at_ns: u64, member: u32) {
        self.0.push(Reverse((at_ns, member)));
    }

    /// A client whose time has come.
    pub(crate) fn due(&mut self, now_ns: u64) -> Option<u32> {
        let Reverse((at, member)) = *self.0.peek()?;
        if at > now_ns {
            return None;
        }
        self.0.pop();
        Some(member)
    }

    /// When the next deadline is.
    pub(crate) fn next_ns(&self) -> Option<u64> {
        self.0.peek().map(|Reverse((at, _))| *at)
    }
}
