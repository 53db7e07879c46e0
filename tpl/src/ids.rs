//! Identifiers of tunnels and serial numbers.

use core::cmp::Ordering;
use core::fmt;

use crate::registry::MAX_ELEMENT_ID;

/// Tunnel Session ID: names a tunnel at the server that assigned it (spec 3.1, 5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tsid(pub u64);

impl Tsid {
    /// "No tunnel yet": in every Configuration_Request and every refusal of one.
    pub const UNASSIGNED: Self = Self(u64::MAX);

    const RANDOM_BITS: u32 = 54;

    /// A TSID of the server `element_id` (0-1023) with the low 54 bits of `random` (spec 5).
    ///
    /// `None` if the element id is out of range or the result is one of the two values that are
    /// never assigned (zero and all ones): draw again.
    #[must_use]
    pub const fn assign(element_id: u16, random: u64) -> Option<Self> {
        if element_id > MAX_ELEMENT_ID {
            return None;
        }
        let random = random & ((1 << Self::RANDOM_BITS) - 1);
        let tsid = Self(((element_id as u64) << Self::RANDOM_BITS) | random);
        if tsid.is_assignable() {
            Some(tsid)
        } else {
            None
        }
    }

    /// The server's element id: bits 63-54.
    #[must_use]
    pub const fn element_id(self) -> u16 {
        (self.0 >> Self::RANDOM_BITS) as u16
    }

    /// Whether a server may assign this value: not zero, not all ones.
    #[must_use]
    pub const fn is_assignable(self) -> bool {
        self.0 != 0 && self.0 != u64::MAX
    }
}

impl fmt::Debug for Tsid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tsid({self})")
    }
}

/// Sixteen hex digits, or `unassigned`.
impl fmt::Display for Tsid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::UNASSIGNED {
            f.write_str("unassigned")
        } else {
            write!(f, "{:016x}", self.0)
        }
    }
}

/// A 32-bit serial number: of a request (spec 4) or of a packet in a redundancy group (spec 6).
///
/// Compared by RFC 1982, which is not transitive and not total, hence no `Ord`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Sequence(pub u32);

impl Sequence {
    /// The number after this one; 0 follows 2^32-1.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }

    /// Whether this number was given out after `other`; `false` for equal and incomparable ones.
    #[must_use]
    pub const fn is_newer_than(self, other: Self) -> bool {
        let ahead = self.0.wrapping_sub(other.0);
        ahead != 0 && ahead < 1 << 31
    }

    /// RFC 1982 section 3.2; `None` when the two are exactly 2^31 apart, which the RFC leaves undefined.
    #[must_use]
    pub fn compare(self, other: Self) -> Option<Ordering> {
        match self.0.wrapping_sub(other.0) {
            0 => Some(Ordering::Equal),
            0x8000_0000 => None,
            ahead if ahead < 0x8000_0000 => Some(Ordering::Greater),
            _ => Some(Ordering::Less),
        }
    }

    /// How many numbers this one lies behind `newest`; `None` if it is not behind (or incomparable).
    /// Equal numbers are 0 apart.
    #[must_use]
    pub const fn behind(self, newest: Self) -> Option<u32> {
        let behind = newest.0.wrapping_sub(self.0);
        if behind < 1 << 31 { Some(behind) } else { None }
    }
}

impl fmt::Debug for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sequence({})", self.0)
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_numbers_follow_rfc_1982() {
        let max = Sequence(u32::MAX);
        assert_eq!(max.next(), Sequence(0));
        assert!(Sequence(0).is_newer_than(max));
        assert!(!max.is_newer_than(Sequence(0)));
        assert!(!max.is_newer_than(max));
        assert_eq!(Sequence(5).compare(Sequence(5)), Some(Ordering::Equal));
        assert_eq!(Sequence(0).compare(max), Some(Ordering::Greater));
        assert_eq!(max.compare(Sequence(0)), Some(Ordering::Less));
        assert_eq!(Sequence(0).compare(Sequence(1 << 31)), None);
        assert!(!Sequence(0).is_newer_than(Sequence(1 << 31)));
        assert_eq!(max.behind(Sequence(3)), Some(4));
        assert_eq!(Sequence(3).behind(max), None);
        assert_eq!(Sequence(3).behind(Sequence(3)), Some(0));
    }

    #[test]
    fn tsids_carry_the_element_id_and_avoid_the_two_reserved_values() {
        let tsid = Tsid::assign(1023, u64::MAX - 1).expect("assignable");
        assert_eq!(tsid.element_id(), 1023);
        assert_eq!(Tsid::assign(1024, 1), None);
        assert_eq!(Tsid::assign(1023, u64::MAX), None);
        assert_eq!(Tsid::assign(0, 1 << 54), None);
        assert_eq!(Tsid::assign(1, 1 << 54).map(Tsid::element_id), Some(1));
        assert_eq!(Tsid::UNASSIGNED.to_string(), "unassigned");
        assert_eq!(Tsid(0xAB).to_string(), "00000000000000ab");
    }
}
