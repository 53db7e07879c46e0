//! From the four numbers that name a connection to what is behind them.

use std::collections::HashMap;
use std::hash::BuildHasher;

use siphasher::sip::SipHasher13;

use super::segment::Tuple;
use crate::slots::Key;

/// What stands behind a tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    Connection(Key),
    /// A half-open connection of a listener.
    HalfOpen(Key, Key),
    Incoming(Key),
    TimeWait(Key),
}

/// One hash lookup, however many connections there are. Peers choose their ports and addresses, so
/// that the hash is keyed.
#[derive(Debug)]
pub(super) struct Table(HashMap<Tuple, Holder, Keyed>);

impl Table {
    pub(super) fn new(key: u64) -> Self {
        Self(HashMap::with_hasher(Keyed(key)))
    }

    pub(super) fn get(&self, tuple: &Tuple) -> Option<Holder> {
        self.0.get(tuple).copied()
    }

    pub(super) fn insert(&mut self, tuple: Tuple, holder: Holder) {
        self.0.insert(tuple, holder);
    }

    pub(super) fn remove(&mut self, tuple: &Tuple) {
        self.0.remove(tuple);
    }
}

struct Keyed(u64);

impl std::fmt::Debug for Keyed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}

impl BuildHasher for Keyed {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.0, 0)
    }
}
