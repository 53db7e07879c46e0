//! What went through, for the summary at the end.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use serde::Serialize;

/// Counters of all listeners together.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections and UDP associations accepted.
    pub accepted: AtomicU64,
    /// Those that came to nothing: bad handshakes, targets that refused.
    pub failed: AtomicU64,
    /// Connections that were reset at once, as their host had too many.
    pub refused: AtomicU64,
    /// Bytes towards the target, of TCP and UDP.
    pub bytes_out: AtomicU64,
    /// Bytes from the target.
    pub bytes_in: AtomicU64,
}

/// The counters at one time; the names are those of `--json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Connections and UDP associations accepted.
    pub accepted: u64,
    /// Those that came to nothing.
    pub failed: u64,
    /// Connections that were reset at once, as their host had too many.
    pub refused: u64,
    /// Bytes towards the targets.
    pub bytes_out: u64,
    /// Bytes from the targets.
    pub bytes_in: u64,
}

/// Adds to a counter.
pub(crate) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

impl Counters {
    /// The counters now.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Summary {
            accepted: read(&self.accepted),
            failed: read(&self.failed),
            refused: read(&self.refused),
            bytes_out: read(&self.bytes_out),
            bytes_in: read(&self.bytes_in),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} connections, {} failed, {} refused, {} bytes out, {} bytes in",
            self.accepted, self.failed, self.refused, self.bytes_out, self.bytes_in
        )
    }
}
