//! The buffers that batches live in.

use std::{
    array, fmt,
    io::IoSliceMut,
    net::{IpAddr, SocketAddr},
};

use quinn_udp::RecvMeta;

/// Most buffers of one [`RecvBatch`]: what one system call fills.
pub const MAX_SLOTS: usize = quinn_udp::BATCH_SIZE;

/// Length of a buffer: the longest train of datagrams that the kernel coalesces.
const SLOT: usize = 65_536;

/// Datagrams received at once. One serves all sockets of a worker. Memory that was never used is not resident:
/// the operating system gives pages out at the first write.
pub struct RecvBatch {
    bytes: Vec<u8>,
    metas: Box<[RecvMeta; MAX_SLOTS]>,
    filled: usize,
}

impl RecvBatch {
    /// `slots` buffers of 64 KiB: 1 to [`MAX_SLOTS`], values outside count as the nearest.
    #[must_use]
    pub fn new(slots: usize) -> Self {
        Self {
            bytes: vec![0; slots.clamp(1, MAX_SLOTS) * SLOT],
            metas: Box::new([RecvMeta::default(); MAX_SLOTS]),
            filled: 0,
        }
    }

    /// The datagrams in order of arrival; their bytes may be changed, to be opened in place. Empty ones are left out.
    pub fn datagrams(&mut self) -> impl Iterator<Item = Datagram<'_>> {
        self.bytes
            .chunks_exact_mut(SLOT)
            .zip(self.metas.iter())
            .take(self.filled)
            .flat_map(|(slot, meta)| {
                let bytes = slot.get_mut(..meta.len).unwrap_or_default();
                bytes.chunks_mut(meta.stride.max(1)).map(|bytes| Datagram {
                    peer: meta.addr,
                    local_ip: meta.dst_ip,
                    bytes,
                })
            })
    }

    /// The `index`-th part of the `slot`-th buffer, for readers that take datagrams one by one; `None` behind the last.
    pub(crate) fn datagram(&mut self, slot: usize, index: usize) -> Option<&mut [u8]> {
        if slot >= self.filled {
            return None;
        }
        let meta = self.metas.get(slot)?;
        let bytes = self.bytes.chunks_exact_mut(SLOT).nth(slot)?;
        bytes
            .get_mut(..meta.len)?
            .chunks_mut(meta.stride.max(1))
            .nth(index)
    }

    /// Whether `slot` holds anything, an empty datagram included.
    pub(crate) fn is_filled(&self, slot: usize) -> bool {
        slot < self.filled
    }

    pub(super) fn clear(&mut self) {
        self.filled = 0;
    }

    /// Lets `receive` fill the buffers; returns the number of datagrams.
    pub(super) fn fill<E>(
        &mut self,
        receive: impl FnOnce(&mut [IoSliceMut<'_>], &mut [RecvMeta]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        self.filled = 0;
        let slots = self.bytes.len() / SLOT;
        let mut chunks = self.bytes.chunks_exact_mut(SLOT);
        let mut buffers: [IoSliceMut<'_>; MAX_SLOTS] =
            array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
        let buffers = buffers.get_mut(..slots).unwrap_or_default();
        let filled = receive(buffers, &mut *self.metas)?;
        self.filled = filled.min(slots);
        Ok(self
            .metas
            .iter()
            .take(self.filled)
            .map(|meta| meta.len.div_ceil(meta.stride.max(1)))
            .sum())
    }
}

impl fmt::Debug for RecvBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecvBatch")
            .field("slots", &(self.bytes.len() / SLOT))
            .field("filled", &self.filled)
            .finish_non_exhaustive()
    }
}

/// One received datagram.
#[derive(Debug)]
pub struct Datagram<'a> {
    /// Who sent it, by its source address.
    pub peer: SocketAddr,
    /// The local address it was sent to; answers should come from there when the socket is bound to a wildcard.
    pub local_ip: Option<IpAddr>,
    /// Its payload.
    pub bytes: &'a mut [u8],
}

/// Datagrams to be sent, in order, in one piece of memory. Bounded by the size it was made with.
pub struct SendBatch {
    bytes: Vec<u8>,
    limit: usize,
    entries: Vec<Entry>,
    /// Entries and bytes before these were sent.
    sent: usize,
    sent_bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) peer: SocketAddr,
    pub(super) source: Option<IpAddr>,
    pub(super) len: usize,
}

impl SendBatch {
    /// Room for `limit` bytes of payload and one datagram per 64 of them.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            bytes: Vec::new(),
            limit,
            entries: Vec::new(),
            sent: 0,
            sent_bytes: 0,
        }
    }

    /// Appends a datagram; false if it does not fit, then nothing was taken. Equal lengths to one peer in a
    /// row travel best. `source` is our address to send from, for wildcard sockets.
    #[must_use]
    pub fn push(&mut self, peer: SocketAddr, source: Option<IpAddr>, payload: &[u8]) -> bool {
        if self.is_full(payload.len()) {
            return false;
        }
        self.bytes.extend_from_slice(payload);
        self.entries.push(Entry {
            peer,
            source,
            len: payload.len(),
        });
        true
    }

    /// Whether a datagram of `len` bytes would not fit.
    #[must_use]
    pub fn is_full(&self, len: usize) -> bool {
        len > self.limit.saturating_sub(self.bytes.len()) || self.entries.len() > self.limit / 64
    }

    /// Whether everything was sent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sent >= self.entries.len()
    }

    /// Datagrams that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len().saturating_sub(self.sent)
    }

    /// Forgets what waits.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.entries.clear();
        self.sent = 0;
        self.sent_bytes = 0;
    }

    /// The next datagrams that may leave in one call: to one peer, of one length (the last may be shorter), at most
    /// `most` of them and 64 KiB. Their number, description, and bytes.
    pub(super) fn run(&self, most: usize) -> Option<(usize, Entry, &[u8])> {
        /// Payload of one GSO call: IPv4's longest packet less its headers.
        const LONGEST: usize = 65_507;
        let waiting = self.entries.get(self.sent..)?;
        let first = *waiting.first()?;
        let (mut count, mut bytes) = (1, first.len);
        for next in waiting.iter().skip(1) {
            if count >= most
                || (next.peer, next.source) != (first.peer, first.source)
                || next.len > first.len
                || next.len == 0
                || bytes + next.len > LONGEST
            {
                break;
            }
            count += 1;
            bytes += next.len;
            if next.len < first.len {
                break;
            }
        }
        let end = self.sent_bytes.checked_add(bytes)?;
        Some((count, first, self.bytes.get(self.sent_bytes..end)?))
    }

    /// Drops the first `count` datagrams.
    pub(super) fn advance(&mut self, count: usize) {
        let gone = self.entries.iter().skip(self.sent).take(count);
        self.sent_bytes += gone.map(|entry| entry.len).sum::<usize>();
        self.sent += count;
        if self.is_empty() {
            self.clear();
        }
    }
}

impl fmt::Debug for SendBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendBatch")
            .field("waiting", &self.len())
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    #[test]
    fn runs_join_equal_datagrams_to_one_peer() {
        let mut batch = SendBatch::new(10_000);
        for (port, len) in [(1, 200), (1, 200), (1, 100), (1, 200), (2, 200)] {
            assert!(batch.push(peer(port), None, &vec![0; len]));
        }
        let mut runs = Vec::new();
        while let Some((count, entry, bytes)) = batch.run(64) {
            runs.push((entry.peer.port(), count, bytes.len()));
            batch.advance(count);
        }
        // A shorter one ends a run, a longer one cannot join it.
        assert_eq!(runs, [(1, 3, 500), (1, 1, 200), (2, 1, 200)]);
        assert!(batch.is_empty());
    }

    #[test]
    fn a_full_batch_takes_nothing() {
        let mut batch = SendBatch::new(1000);
        assert!(batch.push(peer(1), None, &[0; 900]));
        assert!(!batch.push(peer(1), None, &[0; 101]));
        assert!(batch.push(peer(1), None, &[0; 100]));
        batch.advance(2);
        assert!(batch.push(peer(1), None, &[0; 1000]));
    }

    #[test]
    fn the_number_of_empty_datagrams_is_bounded_too() {
        let mut batch = SendBatch::new(640);
        let taken = (0..1000)
            .take_while(|_| batch.push(peer(1), None, &[]))
            .count();
        assert_eq!(taken, 11);
    }
}
