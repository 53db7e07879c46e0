//! When a companion that failed is tried again, and how long one must work before it is trusted again (`docs/services.md`).

use std::time::{Duration, Instant};

use crate::backoff::Backoff;

/// The wait where the server still has a companion that this end does not: longer than a server keeps it for nobody.
const FOREIGN_REST: Duration = Duration::from_secs(35);

/// The first proof.
const PROOF: Duration = Duration::from_secs(2);

/// A companion that has worked for so long is as good as one that never failed.
const RELIABLE_AFTER: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug)]
pub(super) struct Retries {
    rest: Backoff,
    proof: Backoff,
}

impl Retries {
    /// Proofs are never longer than this.
    pub(super) const fn new(longest_proof: Duration) -> Self {
        Self {
            rest: Backoff::NETWORK,
            proof: Backoff::new(PROOF, longest_proof),
        }
    }

    /// Until when to do without a companion that could not be had, or was lost.
    pub(super) fn rest(&mut self, now: Instant) -> Instant {
        now + self.rest.next()
    }

    /// The same where the server has one that this end does not.
    pub(super) fn rest_from_foreign(&mut self, now: Instant) -> Instant {
        now + self.rest.next().max(FOREIGN_REST)
    }

    /// Until when one that was in doubt is on proof.
    pub(super) fn prove(&mut self, now: Instant) -> Instant {
        now + self.proof.next()
    }

    /// One that has worked `since` does not any more.
    pub(super) fn failed(&mut self, now: Instant, since: Instant) {
        if now.saturating_duration_since(since) >= RELIABLE_AFTER {
            self.forget();
        }
    }

    /// What was is no sign of what will be.
    pub(super) const fn forget(&mut self) {
        self.rest.reset();
        self.proof.reset();
    }
}
