//! The worker's TCP and TLS connections.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use slab::Slab;
use tokio::task::JoinSet;
use tsc_csm::server::BindingId;
use tsc_osaa::stream::{QueueDrops, QueueError, StreamError, StreamTransport};
use tsc_tpl::StreamDecoder;

use super::ready::{ReadyList, Token};

/// A unit must be complete this long after its first byte (spec 2).
const UNIT_TIME: Duration = Duration::from_secs(30);

/// Bytes that wait for all streams of a worker, from which on each may have only [`GUARANTEED`].
const TOTAL: usize = 128 << 20;

/// Bytes that may wait for one stream whatever waits for others.
const GUARANTEED: usize = 64 * 1024;

/// Entries for streams that are gone which may wait for their time beyond the number of streams.
const STALE_WATCHES: usize = 64;

/// Streams that may be sending the rest of their queues at a time; beyond it a closed stream is dropped at once.
const MAX_CLOSING: usize = 4096;

/// How long a stream that is closed may take to send what is queued.
const CLOSE_TIME: Duration = Duration::from_secs(2);

/// One connection.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) transport: StreamTransport,
    pub(super) decoder: StreamDecoder,
    pub(super) binding: BindingId,
    /// Index of the listener it came from.
    pub(super) listener: usize,
    token: Arc<Token>,
    /// The waker made of the token.
    waker: Waker,
    /// Ordinal of the incomplete unit that a stall deadline watches.
    watched: Option<u64>,
    /// On the list of streams to be flushed.
    dirty: bool,
    /// Bytes, when it had its turn.
    last_read: u32,
    /// What waits in it, as counted in [`Streams::waiting`]: reading can change it too (alerts and key updates of TLS, a queue
    /// dropped with its connection).
    counted: usize,
}

/// All connections, found by slot.
#[derive(Debug)]
pub(super) struct Streams {
    slots: Slab<Stream>,
    ready: Arc<ReadyList>,
    /// Streams with output queued in this turn; each at most once.
    dirty: Vec<usize>,
    /// Bytes that wait for all streams.
    waiting: usize,
    drops: QueueDrops,
    /// When incomplete units are too old, in order. At most one for each stream, and some of streams that are gone:
    /// never more than twice as many as there are streams, and a few.
    stalls: VecDeque<(Instant, usize, BindingId)>,
    /// Streams that send the rest of their queues, at most [`MAX_CLOSING`]; each ends within [`CLOSE_TIME`].
    closing: JoinSet<()>,
}

impl Streams {
    pub(super) fn new() -> Self {
        Self {
            slots: Slab::new(),
            ready: Arc::default(),
            dirty: Vec::new(),
            waiting: 0,
            drops: QueueDrops::default(),
            stalls: VecDeque::new(),
            closing: JoinSet::new(),
        }
    }

    /// The slot that the next stream will get.
    pub(super) fn vacant(&self) -> usize {
        self.slots.vacant_key()
    }

    pub(super) fn insert(
        &mut self,
        transport: StreamTransport,
        decoder: StreamDecoder,
        binding: BindingId,
        listener: usize,
    ) {
        let entry = self.slots.vacant_entry();
        let token = self.ready.token(entry.key());
        // What it has sent already made no noise.
        token.mark();
        let counted = transport.unsent();
        self.waiting += counted;
        entry.insert(Stream {
            transport,
            decoder,
            binding,
            listener,
            waker: Waker::from(Arc::clone(&token)),
            token,
            watched: None,
            dirty: false,
            last_read: 0,
            counted,
        });
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The other end of a connection.
    pub(super) fn peer(&self, slot: usize) -> Option<SocketAddr> {
        Some(self.get(slot)?.transport.peer_addr())
    }

    pub(super) fn get(&self, slot: usize) -> Option<&Stream> {
        self.slots.get(slot)
    }

    pub(super) fn take_ready(&self, worker: &Waker, each: impl FnMut(Arc<Token>)) {
        self.ready.take(worker, each);
    }

    /// How much of a stream may wait in the system. One that has less is left alone.
    pub(super) fn limit_unread(&mut self, slot: usize, bytes: Option<u32>) {
        if let Some(stream) = self.slots.get_mut(slot)
            && (stream.transport.unread_limit().is_some()
                || bytes.is_some_and(|bytes| stream.last_read > bytes))
        {
            // What fails here is a connection that is gone, as the next read says.
            let _ = stream.transport.limit_unread(bytes);
        }
    }

    /// So many bytes of a stream were read in this turn.
    pub(super) fn was_read(&mut self, slot: usize, bytes: usize) {
        if let Some(stream) = self.slots.get_mut(slot) {
            stream.last_read = u32::try_from(bytes).unwrap_or(u32::MAX);
        }
    }

    pub(super) fn get_mut(&mut self, slot: usize) -> Option<&mut Stream> {
        self.slots.get_mut(slot)
    }

    /// Queues an inner packet; false when there is no room in its class.
    pub(super) fn queue_packet(&mut self, now: Instant, slot: usize, packet: &[u8]) -> bool {
        if self.try_queue(now, slot, packet) {
            return true;
        }
        // The bursts of a turn may be longer than the queue.
        self.flush_one(slot);
        self.try_queue(now, slot, packet)
    }

    fn try_queue(&mut self, now: Instant, slot: usize, packet: &[u8]) -> bool {
        let Some(stream) = self.slots.get_mut(slot) else {
            return false;
        };
        if self.waiting > TOTAL && stream.counted > GUARANTEED {
            return false;
        }
        let taken = stream.transport.queue_at(now, packet).is_ok();
        // Also when it was not taken: older packets may have made room.
        stream.queued(slot, &mut self.waiting, &mut self.dirty);
        taken
    }

    /// Bytes that wait on a stream.
    pub(super) fn waiting_on(&self, slot: usize) -> usize {
        self.slots.get(slot).map_or(0, |stream| stream.counted)
    }

    /// Queues a control message.
    pub(super) fn queue(&mut self, slot: usize, bytes: &[u8]) -> Result<(), QueueError> {
        let stream = self.slots.get_mut(slot).ok_or(QueueError::Ended)?;
        stream.transport.queue(bytes)?;
        stream.queued(slot, &mut self.waiting, &mut self.dirty);
        Ok(())
    }

    /// Reads from a stream into `buffer`; its readiness lists it for the worker.
    pub(super) fn poll_recv(
        &mut self,
        slot: usize,
        buffer: &mut [u8],
    ) -> Option<(BindingId, Poll<Result<usize, StreamError>>)> {
        let stream = self.slots.get_mut(slot)?;
        let read = stream.poll_recv(buffer);
        stream.recount(&mut self.waiting);
        Some((stream.binding, read))
    }

    /// Sends what was queued in this turn. What a socket does not take waits for its waker, which lists the stream as
    /// ready.
    pub(super) fn flush(&mut self) {
        while self.closing.try_join_next().is_some() {}
        let mut dirty = std::mem::take(&mut self.dirty);
        for slot in dirty.drain(..) {
            if let Some(stream) = self.slots.get_mut(slot) {
                stream.dirty = false;
                self.flush_one(slot);
            }
        }
        self.dirty = dirty;
    }

    /// Sends what is queued for a stream, as far as the socket takes it. An error shows when the stream is read next.
    pub(super) fn flush_one(&mut self, slot: usize) {
        let Some(stream) = self.slots.get_mut(slot) else {
            return;
        };
        if stream.counted == 0 {
            return;
        }
        let result = stream
            .transport
            .poll_flush(&mut Context::from_waker(&stream.waker));
        if let Poll::Ready(Err(_)) = result {
            stream.token.mark();
        }
        self.drops.add(stream.transport.take_drops());
        stream.recount(&mut self.waiting);
    }

    /// Packets that were queued and dropped, since the last call.
    pub(super) const fn take_drops(&mut self) -> QueueDrops {
        std::mem::replace(&mut self.drops, QueueDrops { late: 0, full: 0 })
    }

    /// Forgets a stream, which goes on elsewhere.
    pub(super) fn take(&mut self, slot: usize) -> Option<Stream> {
        let stream = self.slots.try_remove(slot)?;
        self.waiting -= stream.counted;
        Some(stream)
    }

    /// Forgets a stream; what is queued is still sent, in the background and for a bounded time.
    pub(super) fn close(&mut self, slot: usize) {
        if let Some(stream) = self.take(slot)
            && self.closing.len() < MAX_CLOSING
        {
            self.closing.spawn(stream.transport.close(CLOSE_TIME));
        }
    }

    /// What still has to be sent by streams that were closed.
    pub(super) fn take_closing(&mut self) -> JoinSet<()> {
        std::mem::take(&mut self.closing)
    }

    /// Watches the unit that the stream in `slot` has begun, if any.
    pub(super) fn watch(&mut self, slot: usize, now: Instant) {
        if let Some(stream) = self.slots.get_mut(slot)
            && stream.watched.is_none()
            && let Some(unit) = stream.decoder.partial()
        {
            stream.watched = Some(unit);
            let binding = stream.binding;
            if self.stalls.len() >= 2 * self.slots.len() + STALE_WATCHES {
                let slots = &self.slots;
                self.stalls.retain(|(_, slot, binding)| {
                    slots
                        .get(*slot)
                        .is_some_and(|stream| stream.binding == *binding)
                });
            }
            self.stalls.push_back((now + UNIT_TIME, slot, binding));
        }
    }

    /// When the oldest watched unit is due.
    pub(super) fn next_stall(&self) -> Option<Instant> {
        self.stalls.front().map(|(due, ..)| *due)
    }

    /// A binding whose unit is still incomplete after its time; call until `None`.
    pub(super) fn pop_stalled(&mut self, now: Instant) -> Option<BindingId> {
        while self.stalls.front().is_some_and(|(due, ..)| *due <= now) {
            let (_, slot, binding) = self.stalls.pop_front()?;
            let Some(stream) = self
                .slots
                .get_mut(slot)
                .filter(|stream| stream.binding == binding)
            else {
                continue;
            };
            let watched = stream.watched.take();
            if watched.is_some() && stream.decoder.partial() == watched {
                return Some(binding);
            }
            // Another unit is under way by now: it is watched from here, so it gets at most twice the time.
            self.watch(slot, now);
        }
        None
    }
}

impl Stream {
    /// Counts anew what waits in it, in what waits for all.
    fn recount(&mut self, waiting: &mut usize) {
        let before = std::mem::replace(&mut self.counted, self.transport.unsent());
        *waiting = *waiting + self.counted - before;
    }

    /// Something may wait in it that did not before: it is listed for [`Streams::flush`].
    fn queued(&mut self, slot: usize, waiting: &mut usize, dirty: &mut Vec<usize>) {
        self.recount(waiting);
        if !std::mem::replace(&mut self.dirty, true) {
            dirty.push(slot);
        }
    }

    fn poll_recv(&mut self, buffer: &mut [u8]) -> Poll<Result<usize, StreamError>> {
        self.transport
            .poll_recv(&mut Context::from_waker(&self.waker), buffer)
    }

    /// Lists the stream again, for input that was left unread in this turn.
    pub(super) fn mark(&self) {
        self.token.mark();
    }
}

#[cfg(test)]
mod tests {
    use socket2::SockRef;
    use tokio::{
        net::{TcpListener, TcpStream},
        time::timeout,
    };
    use tsc_osaa::{socket::StreamOptions, stream::RECV_BUFFER};
    use tsc_tpl::Limits;

    use super::{super::way::tests::same_slot, *};

    /// A connection that is one of `streams`, and its other end, which reads nothing.
    async fn unread(streams: &mut Streams) -> (usize, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (far, near) = tokio::join!(TcpStream::connect(address), listener.accept());
        let options = StreamOptions::server();
        let transport = StreamTransport::plain(near.unwrap().0, &options).unwrap();
        let slot = streams.vacant();
        let decoder = StreamDecoder::new(Limits::WIDEST);
        streams.insert(transport, decoder, same_slot().0, 0);
        (slot, far.unwrap())
    }

    /// Control messages until the queue takes no more.
    fn fill(streams: &mut Streams, slot: usize) {
        let message = [0x1C; 1000];
        loop {
            if streams.queue(slot, &message).is_err() {
                streams.flush();
                if streams.queue(slot, &message).is_err() {
                    return;
                }
            }
        }
    }

    /// What waits for a connection that breaks goes with it, and makes room for the others.
    #[tokio::test]
    async fn nothing_waits_for_streams_that_are_gone() {
        let mut streams = Streams::new();
        let (slot, far) = unread(&mut streams).await;
        let (other, _far) = unread(&mut streams).await;
        fill(&mut streams, slot);
        streams.queue(other, &[0x1C; 100]).unwrap();
        let waits = streams.get(slot).unwrap().transport.unsent();
        assert!(waits > 0);
        assert_eq!(streams.waiting, waits + 100);
        // A reset, which is found out by reading.
        SockRef::from(&far)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop(far);
        let mut buffer = vec![0; RECV_BUFFER];
        let read = std::future::poll_fn(|cx| {
            let stream = streams.get_mut(slot).unwrap();
            stream.waker = cx.waker().clone();
            streams.poll_recv(slot, &mut buffer).unwrap().1
        });
        timeout(Duration::from_secs(10), read)
            .await
            .unwrap()
            .unwrap_err();
        streams.take(slot);
        assert_eq!(streams.waiting, 100);
        streams.close(other);
        assert_eq!(streams.waiting, 0);
    }

    /// Streams with little to read are left alone, as the system does not tune those any more that had a limit.
    #[tokio::test]
    async fn only_what_fills_its_buffer_gets_a_smaller_one() {
        let mut streams = Streams::new();
        let (busy, _far) = unread(&mut streams).await;
        let (quiet, _other) = unread(&mut streams).await;
        streams.was_read(busy, 200_000);
        streams.was_read(quiet, 2_000);
        let limits = |streams: &Streams| {
            [busy, quiet].map(|slot| streams.get(slot).unwrap().transport.unread_limit())
        };
        for slot in [busy, quiet] {
            streams.limit_unread(slot, Some(65_536));
        }
        assert_eq!(limits(&streams), [Some(65_536), None]);
        // Then it has no more than that to read; with the limit it is wider, and gone.
        streams.was_read(busy, 60_000);
        for limit in [Some(131_072), None] {
            for slot in [busy, quiet] {
                streams.limit_unread(slot, limit);
            }
            assert_eq!(limits(&streams), [limit, None]);
        }
    }
}
