//! Hashes of test data of every length, without hashing all of it for each request.
//!
//! What is served is always a beginning of the same data. So the state of the hash is kept at every [`STEP`]th byte: from
//! the last one before its end, any length is a step away at most. Peers cannot make the server hash more than
//! all of the data once, and a step for a request.

use std::sync::{Arc, PoisonError, RwLock};

use sha2::{Digest, Sha256};

use crate::pattern;

/// Bytes from one state that is kept to the next.
const STEP: u64 = 65_536;

/// See the module.
#[derive(Debug)]
pub(super) struct Hashes {
    /// Longest length.
    limit: u64,
    /// Hashes of the first 0, `STEP`, 2 `STEP` ... bytes that are not finished: 112 bytes each.
    states: RwLock<Vec<Sha256>>,
    /// Held by the one who adds to them.
    growing: tokio::sync::Mutex<()>,
}

impl Hashes {
    /// For lengths up to `limit`.
    pub(super) fn new(limit: u64) -> Self {
        Self {
            limit,
            states: RwLock::new(vec![Sha256::new()]),
            growing: tokio::sync::Mutex::new(()),
        }
    }

    /// The hash of the first `size` bytes of the [`pattern`]; `None` for more than the limit, or while the runtime goes
    /// down.
    pub(super) async fn of(self: &Arc<Self>, size: u64) -> Option<[u8; 32]> {
        if size > self.limit {
            return None;
        }
        if let Some(state) = self.before(size) {
            return Some(finish(state, size));
        }
        let _growing = self.growing.lock().await;
        let this = Arc::clone(self);
        let grown = tokio::task::spawn_blocking(move || this.grow(size));
        grown.await.ok()?;
        Some(finish(self.before(size)?, size))
    }

    /// The last state before the end.
    fn before(&self, size: u64) -> Option<Sha256> {
        let index = usize::try_from(size / STEP).ok()?;
        let states = self.states.read().unwrap_or_else(PoisonError::into_inner);
        states.get(index).cloned()
    }

    fn grow(&self, size: u64) {
        let states = || self.states.read().unwrap_or_else(PoisonError::into_inner);
        let mut at = (states().len() as u64 - 1) * STEP;
        let Some(mut state) = self.before(at) else {
            return;
        };
        while at + STEP <= size {
            pattern::each_piece_of(at..at + STEP, |piece| state.update(piece));
            at += STEP;
            let mut states = self.states.write().unwrap_or_else(PoisonError::into_inner);
            states.push(state.clone());
        }
    }
}

/// The hash, from the last state before the end.
fn finish(mut state: Sha256, size: u64) -> [u8; 32] {
    pattern::each_piece_of(size / STEP * STEP..size, |piece| state.update(piece));
    state.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn hashes_are_those_of_the_data_in_any_order() {
        let hashes = Arc::new(Hashes::new(300_000));
        for size in [
            200_001, 0, 1, 65_535, 65_536, 65_537, 131_072, 300_000, 200_001,
        ] {
            let mut whole = Sha256::new();
            pattern::each_piece(size, |piece| whole.update(piece));
            let whole: [u8; 32] = whole.finalize().into();
            assert_eq!(hashes.of(size).await, Some(whole), "{size}");
        }
        assert_eq!(hashes.of(300_001).await, None);
        let kept = hashes.states.read().unwrap().len();
        assert_eq!(kept, 1 + 300_000 / 65_536, "each state is kept once");
    }

    #[tokio::test]
    async fn many_who_ask_for_the_same_hash_it_once() {
        let hashes = Arc::new(Hashes::new(1_000_000));
        let mut asking = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let hashes = Arc::clone(&hashes);
            asking.spawn(async move { hashes.of(1_000_000).await });
        }
        let all = asking.join_all().await;
        assert!(all.iter().all(|hash| hash.is_some() && hash == &all[0]));
        assert_eq!(hashes.states.read().unwrap().len(), 1 + 1_000_000 / 65_536);
    }
}
