//! Sequence numbers (RFC 9293, section 3.4). smoltcp's panic when a difference is negative.

/// A sequence number; comparisons hold for numbers less than 2 GiB apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seq(pub(super) u32);

impl Seq {
    /// Modulo 2^32.
    pub(super) const fn plus(self, count: u32) -> Self {
        Self(self.0.wrapping_add(count))
    }

    /// Modulo 2^32.
    pub(super) const fn minus(self, count: u32) -> Self {
        Self(self.0.wrapping_sub(count))
    }

    /// How far `self` lies after `earlier`, modulo 2^32.
    pub(super) const fn since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    pub(super) const fn is_before(self, other: Self) -> bool {
        self.since(other) > 1 << 31
    }

    pub(super) const fn is_after(self, other: Self) -> bool {
        other.is_before(self)
    }

    pub(super) const fn max(self, other: Self) -> Self {
        if self.is_before(other) { other } else { self }
    }
}

/// How far `to` lies after `from`, if it does.
pub(super) const fn span(from: Seq, to: Seq) -> u32 {
    if to.is_after(from) { to.since(from) } else { 0 }
}

/// Lengths of buffers and segments, all far below 4 GiB.
pub(super) fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_holds_across_the_wrap() {
        let (before, after) = (Seq(u32::MAX - 1), Seq(3));
        assert!(before.is_before(after) && after.is_after(before));
        assert!(!before.is_before(before) && !before.is_after(before));
        assert_eq!(before.plus(5), after);
        assert_eq!(after.since(before), 5);
        assert_eq!(before.max(after), after);
    }
}
