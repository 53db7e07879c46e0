//! The buffers that batches live in.

use std::{
    array, fmt,
    io::IoSliceMut,
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
};

use quinn_udp::RecvMeta;

use crate::socket::Dscp;

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

    /// Whether all buffers are filled.
    pub(super) const fn is_full(&self) -> bool {
        self.filled >= self.bytes.len() / SLOT
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

/// Datagrams to be sent, in one piece of memory. Bounded by the size it was made with.
///
/// Datagrams of one length to one peer form *runs*, which cost the kernel little more than one datagram (GSO). With many
/// peers their datagrams come interleaved, so a run is found by its peer and need not lie together; those of one peer keep
/// their order, those of different peers need none.
pub struct SendBatch {
    bytes: Vec<u8>,
    limit: usize,
    datagrams: Vec<Waiting>,
    runs: Vec<Run>,
    /// The last run of a peer, by a hash of it; what collides begins a new run.
    last_runs: Box<[u32; LAST_RUNS]>,
    /// Runs before this one were sent.
    sent: usize,
    /// Datagrams that were sent, of all runs.
    gone: usize,
}

/// Entries of the table of last runs: a worker's busy peers of a turn.
pub(crate) const LAST_RUNS: usize = 1024;

/// Most datagrams of one run, and bytes: what one call of GSO takes. The bytes are IPv4's longest packet less its headers.
pub(super) const RUN_DATAGRAMS: usize = 64;
const RUN_BYTES: usize = 65_507;

#[derive(Debug, Clone, Copy)]
struct Waiting {
    start: usize,
    len: usize,
    /// The next of its run.
    next: Option<NonZeroU32>,
}

/// Datagrams to one peer: all of one length, but for the last, which may be shorter.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub(super) peer: SocketAddr,
    pub(super) source: Option<IpAddr>,
    pub(super) mark: Option<Dscp>,
    /// Length of all but the last.
    pub(super) segment: usize,
    pub(super) count: usize,
    bytes: usize,
    first: usize,
    last: usize,
}

impl Run {
    fn takes(
        &self,
        peer: SocketAddr,
        source: Option<IpAddr>,
        mark: Option<Dscp>,
        len: usize,
    ) -> bool {
        (self.peer, self.source, self.mark) == (peer, source, mark)
            && (1..=self.segment).contains(&len)
            // The last one was not shorter.
            && self.bytes == self.segment * self.count
            && self.count < RUN_DATAGRAMS
            && self.bytes + len <= RUN_BYTES
    }
}

impl SendBatch {
    /// Room for `limit` bytes of payload and one datagram per 64 of them.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            bytes: Vec::new(),
            limit,
            datagrams: Vec::new(),
            runs: Vec::new(),
            last_runs: Box::new([0; LAST_RUNS]),
            sent: 0,
            gone: 0,
        }
    }

    /// Appends a datagram; false if it does not fit, then nothing was taken. Equal lengths to one peer travel best.
    /// `source` is our address to send from, for wildcard sockets.
    #[must_use]
    pub fn push(&mut self, peer: SocketAddr, source: Option<IpAddr>, payload: &[u8]) -> bool {
        self.push_marked(peer, source, None, payload)
    }

    /// As [`Self::push`], with a mark of its own instead of the socket's (on Linux; elsewhere as the socket is marked). Only
    /// what is marked alike travels together.
    #[must_use]
    pub fn push_marked(
        &mut self,
        peer: SocketAddr,
        source: Option<IpAddr>,
        mark: Option<Dscp>,
        payload: &[u8],
    ) -> bool {
        if self.is_full(payload.len()) {
            return false;
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(payload);
        self.add(peer, source, mark, start)
    }

    /// As [`push_marked`](Self::push_marked), with a datagram of at most `longest` bytes that `write` appends to the buffer: so it is
    /// made where it leaves from. `write` may append nothing, and then nothing is sent. `None` if there is no room for
    /// `longest` bytes, then `write` was not called.
    pub fn push_with<R>(
        &mut self,
        peer: SocketAddr,
        source: Option<IpAddr>,
        mark: Option<Dscp>,
        longest: usize,
        write: impl FnOnce(&mut Vec<u8>) -> R,
    ) -> Option<R> {
        if self.is_full(longest) {
            return None;
        }
        let start = self.bytes.len();
        let result = write(&mut self.bytes);
        if self.bytes.len() > start {
            self.add(peer, source, mark, start);
        }
        Some(result)
    }

    /// Takes the bytes from `start` to the end for a datagram; always true.
    fn add(
        &mut self,
        peer: SocketAddr,
        source: Option<IpAddr>,
        mark: Option<Dscp>,
        start: usize,
    ) -> bool {
        let len = self.bytes.len().saturating_sub(start);
        let index = self.datagrams.len();
        self.datagrams.push(Waiting {
            start,
            len,
            next: None,
        });
        let number = u32::try_from(index).ok().and_then(NonZeroU32::new);
        let Some(slot) = self.last_runs.get_mut(slot_of(peer)) else {
            return true;
        };
        let last = usize::try_from(*slot).unwrap_or(usize::MAX);
        // Runs that were sent, in part or whole, take nothing any more; neither do those of batches before.
        let open = (last >= self.sent)
            .then(|| self.runs.get_mut(last))
            .flatten();
        match open.filter(|run| run.takes(peer, source, mark, len) && contiguous(run, index)) {
            Some(run) => {
                if let Some(before) = self.datagrams.get_mut(run.last) {
                    before.next = number;
                }
                run.last = index;
                run.count += 1;
                run.bytes += len;
            }
            None => {
                *slot = u32::try_from(self.runs.len()).unwrap_or(u32::MAX);
                self.runs.push(Run {
                    peer,
                    source,
                    mark,
                    segment: len,
                    count: 1,
                    bytes: len,
                    first: index,
                    last: index,
                });
            }
        }
        true
    }

    /// Whether a datagram of `len` bytes would not fit.
    #[must_use]
    pub fn is_full(&self, len: usize) -> bool {
        len > self.limit.saturating_sub(self.bytes.len()) || self.datagrams.len() > self.limit / 64
    }

    /// Whether everything was sent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sent >= self.runs.len()
    }

    /// Datagrams that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.datagrams.len().saturating_sub(self.gone)
    }

    /// Forgets what waits.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.datagrams.clear();
        self.runs.clear();
        self.sent = 0;
        self.gone = 0;
    }

    /// The runs that wait, in order.
    pub(super) fn runs(&self) -> &[Run] {
        self.runs.get(self.sent..).unwrap_or_default()
    }

    /// The bytes of a run: pieces that lie together, each one datagram or several.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(super) fn pieces(&self, run: &Run) -> impl Iterator<Item = &[u8]> {
        let mut next = Some(run.first);
        std::iter::from_fn(move || {
            let mut datagram = self.datagrams.get(next?)?;
            let start = datagram.start;
            loop {
                let end = datagram.start + datagram.len;
                next = datagram
                    .next
                    .and_then(|next| usize::try_from(next.get()).ok());
                match next.and_then(|next| self.datagrams.get(next)) {
                    Some(follows) if follows.start == end => datagram = follows,
                    Some(_) | None => return self.bytes.get(start..end),
                }
            }
        })
    }

    /// All datagrams of the first `runs` runs.
    pub(super) fn datagrams(&self, runs: usize) -> impl Iterator<Item = (Run, &[u8])> {
        self.runs().iter().take(runs).flat_map(|run| {
            let first = self.datagrams.get(run.first);
            std::iter::successors(first, |datagram| {
                let next = usize::try_from(datagram.next?.get()).ok()?;
                self.datagrams.get(next)
            })
            .filter_map(|datagram| {
                let bytes = self
                    .bytes
                    .get(datagram.start..datagram.start + datagram.len)?;
                Some((*run, bytes))
            })
        })
    }

    /// The first datagram of the first run.
    pub(super) fn first(&self) -> Option<(Run, &[u8])> {
        let run = *self.runs().first()?;
        let datagram = self.datagrams.get(run.first)?;
        let bytes = self
            .bytes
            .get(datagram.start..datagram.start + datagram.len)?;
        Some((run, bytes))
    }

    /// The bytes of the first run, where runs lie together.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    pub(super) fn first_run(&self) -> Option<(Run, &[u8])> {
        let run = *self.runs().first()?;
        let start = self.datagrams.get(run.first)?.start;
        Some((run, self.bytes.get(start..start + run.bytes)?))
    }

    /// Drops the first `count` runs; gives the number of their datagrams.
    pub(super) fn advance(&mut self, count: usize) -> usize {
        let gone = self.runs().iter().take(count).map(|run| run.count).sum();
        self.sent += count;
        self.gone += gone;
        self.clear_if_empty();
        gone
    }

    /// Drops the first datagram of the first run.
    pub(super) fn advance_one(&mut self) {
        let sent = self.sent;
        let Some(run) = self.runs.get_mut(sent) else {
            return;
        };
        let next = self.datagrams.get(run.first).and_then(|first| {
            let next = usize::try_from(first.next?.get()).ok()?;
            Some((next, first.len))
        });
        match next {
            Some((next, len)) => {
                run.first = next;
                run.count -= 1;
                run.bytes -= len;
                self.gone += 1;
            }
            None => {
                self.advance(1);
            }
        }
    }

    fn clear_if_empty(&mut self) {
        if self.is_empty() {
            self.clear();
        }
    }
}

/// Whether a run can take the datagram with this index: on systems without scattered sending only if it follows the last.
const fn contiguous(run: &Run, index: usize) -> bool {
    cfg!(any(target_os = "linux", target_os = "android")) || run.last + 1 == index
}

/// Where in the table of last runs a peer is.
#[inline]
pub(crate) const fn slot_of(peer: SocketAddr) -> usize {
    /// Odd, with bits everywhere: neighbouring addresses and ports get far apart.
    const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;
    let (address, port) = match peer {
        SocketAddr::V4(peer) => (peer.ip().to_bits() as u64, peer.port()),
        SocketAddr::V6(peer) => {
            let [a, b, c, d, e, f, g, h] = peer.ip().segments();
            // Of the network and of the host, what differs most.
            let mixed = [a ^ b ^ e, c ^ f, d ^ g, h];
            let [a, b, c, d] = mixed;
            let high = (a as u64) << 16 | b as u64;
            let low = (c as u64) << 16 | d as u64;
            (high << 32 | low, peer.port())
        }
    };
    let mixed = (address ^ ((port as u64) << 40)).wrapping_mul(SPREAD);
    (mixed >> 54) as usize % LAST_RUNS
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

    /// Each run: peer, number of datagrams, and their bytes.
    fn runs(batch: &SendBatch) -> Vec<(u16, usize, Vec<u8>)> {
        let bytes = |run| batch.pieces(run).flatten().copied().collect();
        let all = batch.runs().iter();
        all.map(|run| (run.peer.port(), run.count, bytes(run)))
            .collect()
    }

    #[test]
    fn runs_join_equal_datagrams_to_one_peer() {
        let mut batch = SendBatch::new(10_000);
        for (port, len) in [(1, 200), (1, 200), (1, 100), (1, 200), (2, 200)] {
            assert!(batch.push(peer(port), None, &vec![7; len]));
        }
        // A shorter one ends a run, a longer one cannot join it.
        let expected = [
            (1, 3, vec![7; 500]),
            (1, 1, vec![7; 200]),
            (2, 1, vec![7; 200]),
        ];
        assert_eq!(runs(&batch), expected);
        assert_eq!(batch.len(), 5);
        assert_eq!(batch.advance(1), 3);
        assert_eq!(batch.len(), 2);
        assert_eq!(batch.advance(2), 2);
        assert!(batch.is_empty());
    }

    #[test]
    fn datagrams_are_made_in_place() {
        let mut batch = SendBatch::new(300);
        let write = |bytes: &mut Vec<u8>| bytes.extend_from_slice(&[7; 100]);
        assert!(batch.push_with(peer(1), None, None, 137, write).is_some());
        assert!(batch.push_with(peer(1), None, None, 137, |_| ()).is_some());
        assert!(batch.push_with(peer(1), None, None, 137, write).is_some());
        assert!(
            batch.push_with(peer(1), None, None, 137, write).is_none(),
            "no room"
        );
        assert_eq!(runs(&batch), [(1, 2, vec![7; 200])]);
    }

    #[test]
    fn peers_that_alternate_have_runs_too() {
        let mut batch = SendBatch::new(100_000);
        for number in 0..40 {
            assert!(batch.push(peer(u16::from(number % 4)), None, &[number; 100]));
        }
        let expected = |port: u8| {
            let bytes = (0..10).flat_map(|round| vec![4 * round + port; 100]);
            (u16::from(port), 10, bytes.collect::<Vec<u8>>())
        };
        assert_eq!(runs(&batch), [0, 1, 2, 3].map(expected));
        // One by one, in the order of each peer.
        let mut heard = Vec::new();
        while let Some((run, bytes)) = batch.first() {
            heard.push((run.peer.port(), bytes.to_vec()));
            batch.advance_one();
        }
        let expected: Vec<_> = (0..40_u8)
            .map(|n| (n / 10, 4 * (n % 10) + n / 10))
            .map(|(port, number)| (u16::from(port), vec![number; 100]))
            .collect();
        assert_eq!(heard, expected);
        assert!(batch.is_empty());
    }

    #[test]
    fn what_is_marked_differently_travels_apart_and_in_order() {
        let mut batch = SendBatch::new(10_000);
        let marks = [None, Dscp::new(46), Dscp::new(46), Dscp::new(24)];
        for (number, mark) in (0..).zip(marks) {
            assert!(batch.push_marked(peer(1), None, mark, &[number; 10]));
        }
        let marked: Vec<_> = batch
            .runs()
            .iter()
            .map(|run| (run.mark, run.count))
            .collect();
        assert_eq!(marked, [(None, 1), (marks[1], 2), (marks[3], 1)]);
    }

    #[test]
    fn what_was_sent_in_part_takes_nothing_more() {
        let mut batch = SendBatch::new(10_000);
        assert!(batch.push(peer(1), None, &[1; 100]));
        assert!(batch.push(peer(2), None, &[2; 100]));
        batch.advance(1);
        assert!(batch.push(peer(1), None, &[3; 100]));
        assert!(batch.push(peer(2), None, &[4; 100]));
        let expected = [(2, 2, [[2; 100], [4; 100]].concat()), (1, 1, vec![3; 100])];
        assert_eq!(runs(&batch), expected);
    }

    #[test]
    fn a_run_is_no_longer_than_one_call_takes() {
        let mut batch = SendBatch::new(1 << 20);
        for _ in 0..100 {
            assert!(batch.push(peer(1), None, &[0; 200]));
        }
        assert_eq!(
            runs(&batch)
                .iter()
                .map(|(_, count, _)| *count)
                .collect::<Vec<_>>(),
            [64, 36]
        );
        batch.clear();
        for _ in 0..10 {
            assert!(batch.push(peer(1), None, &[0; 9000]));
        }
        assert_eq!(
            runs(&batch)
                .iter()
                .map(|(_, count, _)| *count)
                .collect::<Vec<_>>(),
            [7, 3]
        );
        // Another source is another run.
        assert!(batch.push(peer(1), Some(IpAddr::from([127, 0, 0, 1])), &[0; 9000]));
        assert_eq!(batch.runs().len(), 3);
    }

    #[test]
    fn a_full_batch_takes_nothing() {
        let mut batch = SendBatch::new(1000);
        assert!(batch.push(peer(1), None, &[0; 900]));
        assert!(!batch.push(peer(1), None, &[0; 101]));
        assert!(batch.push(peer(1), None, &[0; 100]));
        batch.advance(1);
        assert!(batch.is_empty());
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
