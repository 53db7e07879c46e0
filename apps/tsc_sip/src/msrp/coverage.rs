//! Which bytes of a message there are.

use super::limits;

/// A message came in more pieces than [`limits::GAPS`] allow to be apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many gaps")]
pub struct TooManyGaps;

/// A set of bytes, kept as ranges that neither overlap nor touch, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage(Vec<(u64, u64)>);

impl Coverage {
    /// Adds the bytes from `start` (included) to `end` (excluded).
    ///
    /// # Errors
    ///
    /// [`TooManyGaps`]: nothing was added.
    pub fn add(&mut self, start: u64, end: u64) -> Result<(), TooManyGaps> {
        if start >= end {
            return Ok(());
        }
        // What overlaps or touches is merged.
        let first = self.0.partition_point(|(_, e)| *e < start);
        let after = self.0.partition_point(|(s, _)| *s <= end);
        let merged = self.0.get(first..after).unwrap_or_default();
        let low = merged.first().map_or(start, |(s, _)| start.min(*s));
        let high = merged.last().map_or(end, |(_, e)| end.max(*e));
        if merged.is_empty() && self.0.len() >= limits::GAPS {
            return Err(TooManyGaps);
        }
        self.0.splice(first..after, [(low, high)]);
        Ok(())
    }

    /// How many bytes there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.iter().map(|(start, end)| end - start).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all of the first `total` bytes are there.
    #[must_use]
    pub fn is_complete(&self, total: u64) -> bool {
        total == 0 || self.0.first().is_some_and(|(s, e)| *s == 0 && *e >= total)
    }
}
