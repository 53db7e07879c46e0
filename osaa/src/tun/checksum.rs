//! The Internet checksum (RFC 1071).

/// Sums that were not folded yet.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sum(u64);

impl Sum {
    /// Adds bytes; all but the last call must add an even number of them.
    pub(super) fn add(mut self, bytes: &[u8]) -> Self {
        let (words, rest) = bytes.as_chunks::<4>();
        let total = words
            .iter()
            .map(|word| u64::from(u32::from_be_bytes(*word)))
            .sum::<u64>();
        self.0 = self.0.wrapping_add(total);
        let mut last = [0; 4];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        self.0 = self.0.wrapping_add(u32::from_be_bytes(last).into());
        self
    }

    /// Adds a number, such as a length or a protocol in the pseudo-header.
    pub(super) const fn add_number(mut self, number: u32) -> Self {
        self.0 = self.0.wrapping_add(number as u64);
        self
    }

    /// The sum, not yet inverted.
    #[allow(clippy::cast_possible_truncation, reason = "folded into 16 bits")]
    pub(super) const fn fold(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xFFFF {
            sum = (sum & 0xFFFF) + (sum >> 16);
        }
        sum as u16
    }

    /// The checksum. Zero becomes 0xFFFF, its other form: in UDP zero means "none" (RFC 768).
    pub(super) const fn checksum(self) -> u16 {
        match !self.fold() {
            0 => 0xFFFF,
            sum => sum,
        }
    }

    /// Whether what was summed, checksum included, is intact.
    pub(super) const fn holds(self) -> bool {
        self.fold() == 0xFFFF
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_1071_example_in_any_cut() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::default().add(&bytes).fold(), 0xddf2);
        for cut in [0, 2, 4, 6, 8] {
            let (head, tail) = bytes.split_at(cut);
            assert_eq!(Sum::default().add(head).add(tail).fold(), 0xddf2);
        }
        assert_eq!(Sum::default().add(&[0x12]).fold(), 0x1200);
        assert_eq!(
            Sum::default().add(&[0, 0, 0, 0, 0x12, 0x34, 0x56]).fold(),
            0x6834
        );
        assert_eq!(Sum::default().add(&[0xFF, 0xFF]).checksum(), 0xFFFF);
        assert!(Sum::default().add(&[0x12, 0x34, 0xED, 0xCB]).holds());
    }
}
