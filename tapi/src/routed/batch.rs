//! Packets in one piece of memory.

/// Inner IP packets that were received together. It is made once and used for every
/// [`PacketSocket::recv_batch`](super::PacketSocket::recv_batch), so that receiving does not allocate.
#[derive(Debug, Default)]
pub struct PacketBatch {
    bytes: Vec<u8>,
    /// Where each packet ends.
    ends: Vec<usize>,
}

impl PacketBatch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of packets.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The packets, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let ranges = starts.zip(&self.ends);
        ranges.filter_map(|(start, end)| self.bytes.get(start..*end))
    }

    /// Forgets the packets and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// Appends a copy of a packet.
    pub fn push(&mut self, packet: &[u8]) {
        self.bytes.extend_from_slice(packet);
        self.ends.push(self.bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_come_out_as_they_went_in() {
        let mut batch = PacketBatch::new();
        assert_eq!(batch.iter().count(), 0);
        for packet in [&b"one"[..], b"", b"three"] {
            batch.push(packet);
        }
        assert_eq!(batch.len(), 3);
        assert_eq!(
            batch.iter().collect::<Vec<_>>(),
            [&b"one"[..], b"", b"three"]
        );
        batch.clear();
        assert!(batch.is_empty());
    }
}
