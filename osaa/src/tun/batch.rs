//! The buffer that packets travel in.

use std::fmt;

/// Default size of a [`TunBatch`] in bytes: two of the largest packets, or 87 of 1500 bytes.
pub const DEFAULT_BATCH: usize = 128 * 1024;

/// Least size of a [`TunBatch`]: the longest IP packet (IPv6, RFC 8200) fits.
pub const MIN_BATCH: usize = 40 + 65_535;

/// IP packets in order, in one piece of memory that is reused. Bounded: what does not fit is not taken.
pub struct TunBatch {
    bytes: Box<[u8]>,
    /// Where each packet ends, which is where the next starts.
    ends: Vec<usize>,
}

impl TunBatch {
    /// Room for `limit` bytes (at least [`MIN_BATCH`]) and one packet per 64 of them. All memory is taken here.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        let limit = limit.max(MIN_BATCH);
        Self {
            bytes: vec![0; limit].into_boxed_slice(),
            ends: Vec::with_capacity(limit / 64),
        }
    }

    /// Appends a packet; false if it does not fit, then nothing was taken.
    #[must_use]
    pub fn push(&mut self, packet: &[u8]) -> bool {
        let Some(room) = self.spare().get_mut(..packet.len()) else {
            return false;
        };
        room.copy_from_slice(packet);
        self.commit(packet.len());
        true
    }

    /// Number of packets.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no packet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Whether a packet of `len` bytes would not fit.
    #[must_use]
    pub fn is_full(&self, len: usize) -> bool {
        self.ends.len() >= self.bytes.len() / 64 || len > self.bytes.len() - self.used()
    }

    /// Forgets the packets.
    pub fn clear(&mut self) {
        self.ends.clear();
    }

    /// The packets in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> + Clone {
        let mut start = 0;
        self.ends.iter().map(move |end| {
            let packet = self.bytes.get(start..*end).unwrap_or_default();
            start = *end;
            packet
        })
    }

    /// The packets in order, to be changed in place.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        let mut rest = &mut *self.bytes;
        let mut start = 0;
        self.ends.iter().map(move |end| {
            let (packet, behind) = std::mem::take(&mut rest)
                .split_at_mut_checked(end - start)
                .unwrap_or_default();
            rest = behind;
            start = *end;
            packet
        })
    }

    fn used(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// The memory behind the last packet; empty if no more packets may be added.
    pub(super) fn spare(&mut self) -> &mut [u8] {
        if self.is_full(0) {
            return &mut [];
        }
        let used = self.used();
        self.bytes.get_mut(used..).unwrap_or_default()
    }

    /// Makes the first `len` bytes of [`spare`](Self::spare) a packet.
    pub(super) fn commit(&mut self, len: usize) {
        let end = self.used().saturating_add(len).min(self.bytes.len());
        self.ends.push(end);
    }
}

impl Default for TunBatch {
    fn default() -> Self {
        Self::new(DEFAULT_BATCH)
    }
}

impl fmt::Debug for TunBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunBatch")
            .field("packets", &self.ends.len())
            .field("used", &self.used())
            .field("limit", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::*;

    #[test]
    fn packets_come_back_in_order_and_can_be_changed() {
        let mut batch = TunBatch::default();
        for len in [1_usize, 1500, 0, 40] {
            assert!(batch.push(&vec![u8::try_from(len % 256).unwrap(); len]));
        }
        for packet in batch.iter_mut() {
            if let Some(first) = packet.first_mut() {
                *first = 0xEE;
            }
        }
        let lengths: Vec<_> = batch.iter().map(<[u8]>::len).collect();
        assert_eq!(lengths, [1, 1500, 0, 40]);
        assert!(
            batch
                .iter()
                .all(|packet| packet.first().is_none_or(|byte| *byte == 0xEE))
        );
        assert_eq!(batch.iter().nth(1).unwrap()[1], 220);
        batch.clear();
        assert!(batch.is_empty() && batch.iter().next().is_none());
    }

    #[test]
    fn bounds_hold_in_bytes_and_in_packets() {
        let mut batch = TunBatch::new(0);
        assert!(batch.push(&vec![1; MIN_BATCH]), "the longest packet fits");
        assert!(!batch.push(&[1]), "and nothing behind it");
        batch.clear();
        let most = MIN_BATCH / 64;
        assert_eq!((0..2 * most).filter(|_| batch.push(&[1])).count(), most);
        assert_eq!(batch.len(), most);
    }
}
