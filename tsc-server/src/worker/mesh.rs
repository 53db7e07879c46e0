//! Between the workers of one server.
//!
//! ```text
//!   worker 0 --- crossing (packets, datagrams) ---> inbox of worker 1 (bounded) --- bell ---> worker 1 wakes
//!            <-- the emptied crossing, to be filled again ---
//! ```
//!
//! What a turn has for another worker is collected in one *crossing*, which is one message, and at most one wake-up.
//! Crossings come back empty, so in the steady state nothing is allocated. Nobody waits for a worker that is behind: what
//! its inbox does not take is dropped and counted, as by a network; only notices, which are few, are tried again.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    ops::Range,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    task::Waker,
};

use tsc_csm::server::{MovedBinding, Relayed, SessionId, Shard};
use tsc_osaa::{dtls::DetachedAssociation, stream::DetachedStream};

use super::{
    batch::{BATCH_PACKETS, Sender},
    ready::{ReadyList, Token},
};

/// Messages that wait for one worker.
pub(super) const INBOX: usize = 256;

/// Bytes beyond which a crossing leaves before its turn is over.
const CROSSING_BYTES: usize = 256 * 1024;

/// Notices that wait for room in an inbox. More than that are lost with the oldest: its peer has to resume again.
const NOTICES: usize = 65_536;

/// Packets and datagrams of one turn for one worker.
#[derive(Debug, Default)]
pub(super) struct Crossing {
    from: Shard,
    bytes: Vec<u8>,
    items: Vec<(Item, Range<usize>)>,
}

/// What is in a crossing.
#[derive(Clone, Copy, Debug)]
pub(super) enum Item {
    /// An inner packet for one of the receiver's tunnels, which decides by its own limits what becomes of it.
    Packet { to: SessionId, sender: Sender },
    /// A datagram that came to a socket of this port: to that of the worker `via`.
    Datagram {
        port: usize,
        peer: SocketAddr,
        local: Option<IpAddr>,
        via: Shard,
    },
}

/// A message to another worker.
#[derive(Debug)]
pub(super) enum Parcel {
    Crossing(Box<Crossing>),
    Stream(Box<MovingStream>),
    Association(Box<MovingAssociation>),
    /// What clients of two workers have to say to each other before they have a tunnel of their own.
    Brokered(Box<Relayed>),
    /// What has become of an address of this port.
    Peer {
        port: usize,
        peer: SocketAddr,
        from: Shard,
        news: News,
    },
}

/// What a worker tells another of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// It has a tunnel at the sender: its datagrams, which arrive at the receiver, go there from now on.
    Came,
    /// It has none there any more.
    Left,
    /// Its datagrams, which have gone from the sender to the receiver, go elsewhere now.
    Taken,
}

/// A stream that resumes a tunnel of the receiver.
#[derive(Debug)]
pub(super) struct MovingStream {
    pub(super) moved: MovedBinding,
    /// Index of the listener it came from.
    pub(super) listener: usize,
    pub(super) stream: DetachedStream,
    /// What was read from it: the request, and whatever came with it.
    pub(super) bytes: Vec<u8>,
}

/// An association that resumes a tunnel of the receiver.
#[derive(Debug)]
pub(super) struct MovingAssociation {
    pub(super) moved: MovedBinding,
    /// The worker that its datagrams arrive at.
    pub(super) via: Shard,
    /// Index of the port.
    pub(super) port: usize,
    pub(super) association: DetachedAssociation,
    /// The request.
    pub(super) unit: Vec<u8>,
}

/// A worker's end.
#[derive(Debug)]
pub(crate) struct Mesh {
    own: Shard,
    inbox: Receiver<Parcel>,
    emptied: Receiver<Box<Crossing>>,
    /// Whom the neighbours wake.
    list: Arc<ReadyList>,
    /// By shard; none for the own.
    neighbours: Vec<Option<Neighbour>>,
    /// Notices that did not fit an inbox, at most [`NOTICES`].
    notices: VecDeque<(Shard, Parcel)>,
    crossed: u64,
    moved: u64,
    /// Packets, datagrams and transports that were dropped because a worker was behind.
    dropped: u64,
}

#[derive(Debug)]
struct Neighbour {
    outbox: SyncSender<Parcel>,
    emptied: SyncSender<Box<Crossing>>,
    bell: Arc<Token>,
    filling: Option<Box<Crossing>>,
}

impl Mesh {
    /// The ends of `workers` workers, in order.
    pub(crate) fn connect(workers: Shard) -> Vec<Self> {
        let (mut ends, mut doors) = (Vec::new(), Vec::new());
        for _ in 0..workers {
            let (outbox, inbox) = sync_channel(INBOX);
            let (give, emptied) = sync_channel(INBOX);
            let list = Arc::new(ReadyList::default());
            doors.push((outbox, give, list.token(0)));
            ends.push((inbox, emptied, list));
        }
        let end = |(own, (inbox, emptied, list))| Self {
            own,
            inbox,
            emptied,
            list,
            neighbours: (0..)
                .zip(&doors)
                .map(|(shard, (outbox, emptied, bell))| {
                    (shard != own).then(|| Neighbour {
                        outbox: outbox.clone(),
                        emptied: emptied.clone(),
                        bell: Arc::clone(bell),
                        filling: None,
                    })
                })
                .collect(),
            notices: VecDeque::new(),
            crossed: 0,
            moved: 0,
            dropped: 0,
        };
        (0..).zip(ends).map(end).collect()
    }

    /// Packets and datagrams for others so far, those that were dropped included.
    pub(super) const fn crossed(&self) -> u64 {
        self.crossed
    }

    /// Transports that went to others so far.
    pub(super) const fn moved(&self) -> u64 {
        self.moved
    }

    /// What was dropped so far.
    pub(super) const fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Puts a packet or datagram into the crossing to `shard`.
    pub(super) fn push(&mut self, shard: Shard, item: Item, bytes: &[u8]) {
        let Some(Some(neighbour)) = self.neighbours.get_mut(usize::from(shard)) else {
            self.dropped += 1;
            return;
        };
        self.crossed += 1;
        let own = self.own;
        let crossing = neighbour.filling.get_or_insert_with(|| {
            let mut crossing = self.emptied.try_recv().unwrap_or_default();
            crossing.from = own;
            crossing
        });
        let start = crossing.bytes.len();
        crossing.bytes.extend_from_slice(bytes);
        crossing.items.push((item, start..crossing.bytes.len()));
        if crossing.items.len() >= BATCH_PACKETS || crossing.bytes.len() >= CROSSING_BYTES {
            self.dropped += neighbour.flush();
        }
    }

    /// Hands a transport over; false if the other worker is behind, or gone: the transport is closed.
    pub(super) fn move_to(&mut self, shard: Shard, transport: Parcel) -> bool {
        let sent = match self.neighbours.get_mut(usize::from(shard)) {
            Some(Some(neighbour)) => neighbour.send(transport).is_ok(),
            _ => false,
        };
        if sent {
            self.moved += 1;
        } else {
            self.dropped += 1;
        }
        sent
    }

    /// Tells another worker something that it must know; now, or as soon as it takes it.
    pub(super) fn notify(&mut self, shard: Shard, notice: Parcel) {
        if let Parcel::Peer {
            news: News::Came, ..
        } = notice
        {
            self.moved += 1;
        }
        if self.notices.len() >= NOTICES {
            self.notices.pop_front();
            self.dropped += 1;
        }
        self.notices.push_back((shard, notice));
    }

    /// Sends what the turn has for others. True if there is more to be said than they take: come back.
    pub(super) fn flush(&mut self) -> bool {
        for neighbour in self.neighbours.iter_mut().flatten() {
            self.dropped += neighbour.flush();
        }
        while let Some((shard, notice)) = self.notices.pop_front() {
            let Some(Some(neighbour)) = self.neighbours.get_mut(usize::from(shard)) else {
                continue;
            };
            if let Err(TrySendError::Full(notice)) = neighbour.send(notice) {
                self.notices.push_front((shard, notice));
                return true;
            }
        }
        false
    }

    /// Wakes all others.
    pub(super) fn ring(&self) {
        for neighbour in self.neighbours.iter().flatten() {
            neighbour.bell.mark();
        }
    }

    /// Arms `worker` for what comes from now on; then [`Self::next`] until `None`.
    pub(super) fn arm(&mut self, worker: &Waker) {
        self.list.take(worker, |bell| {
            bell.take();
        });
    }

    pub(super) fn next(&self) -> Option<Parcel> {
        self.inbox.try_recv().ok()
    }

    /// Gives a crossing back to whom it came from.
    pub(super) fn give_back(&self, mut crossing: Box<Crossing>) {
        crossing.clear();
        if let Some(Some(neighbour)) = self.neighbours.get(usize::from(crossing.from)) {
            // If it has enough of them, this one goes.
            let _ = neighbour.emptied.try_send(crossing);
        }
    }
}

impl Neighbour {
    /// Gives the number of things that were dropped.
    fn flush(&mut self) -> u64 {
        let Some(crossing) = self.filling.take_if(|crossing| !crossing.items.is_empty()) else {
            return 0;
        };
        let Err(TrySendError::Full(parcel) | TrySendError::Disconnected(parcel)) =
            self.send(Parcel::Crossing(crossing))
        else {
            return 0;
        };
        let Parcel::Crossing(mut crossing) = parcel else {
            return 0;
        };
        let count = crossing.items.len();
        crossing.clear();
        // Its memory is good for the next turn.
        self.filling = Some(crossing);
        u64::try_from(count).unwrap_or(u64::MAX)
    }

    fn send(&self, parcel: Parcel) -> Result<(), TrySendError<Parcel>> {
        self.outbox.try_send(parcel)?;
        self.bell.mark();
        Ok(())
    }
}

impl Crossing {
    fn clear(&mut self) {
        self.bytes.clear();
        self.items.clear();
    }

    /// In the order of the turn; the bytes may be changed, to be opened in place.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (Item, &mut [u8])> {
        let mut rest = self.bytes.as_mut_slice();
        self.items.iter().filter_map(move |(item, range)| {
            let (bytes, others) = std::mem::take(&mut rest).split_at_mut_checked(range.len())?;
            rest = others;
            Some((*item, bytes))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        task::Wake,
    };

    use super::*;

    #[derive(Default)]
    struct Counter(AtomicUsize);

    impl Wake for Counter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9);

    fn datagram(port: usize) -> Item {
        Item::Datagram {
            port,
            peer: PEER,
            local: None,
            via: 0,
        }
    }

    fn two() -> (Mesh, Mesh) {
        let mut ends = Mesh::connect(2);
        let second = ends.pop().unwrap();
        (ends.pop().unwrap(), second)
    }

    fn contents(crossing: &mut Crossing) -> Vec<Vec<u8>> {
        crossing
            .iter_mut()
            .map(|(_, bytes)| bytes.to_vec())
            .collect()
    }

    #[test]
    fn a_turn_is_one_message_and_one_wake_up_and_its_memory_comes_back() {
        let (mut near, mut far) = two();
        let counter = Arc::new(Counter::default());
        far.arm(&Waker::from(Arc::clone(&counter)));
        for byte in 0..100 {
            near.push(1, datagram(0), &[byte; 200]);
        }
        assert!(far.next().is_none(), "the turn is not over");
        assert!(!near.flush());
        assert_eq!(counter.0.load(Ordering::Relaxed), 1);
        let Some(Parcel::Crossing(mut crossing)) = far.next() else {
            panic!("nothing came")
        };
        assert!(far.next().is_none());
        assert_eq!(crossing.from, 0);
        let expected: Vec<_> = (0..100).map(|byte| vec![byte; 200]).collect();
        assert_eq!(contents(&mut crossing), expected);
        let memory = crossing.bytes.as_ptr();
        far.give_back(crossing);
        near.push(1, datagram(0), b"again");
        near.flush();
        let Some(Parcel::Crossing(mut crossing)) = far.next() else {
            panic!("nothing came")
        };
        assert_eq!(crossing.bytes.as_ptr(), memory);
        assert_eq!(contents(&mut crossing), [b"again"]);
    }

    #[test]
    fn a_worker_that_is_behind_costs_packets_but_no_notices_and_no_memory() {
        let (mut near, far) = two();
        for _ in 0..INBOX {
            near.push(1, datagram(0), b"x");
            assert!(!near.flush());
        }
        for _ in 0..10 {
            near.push(1, datagram(0), b"x");
            near.push(1, datagram(0), b"x");
            near.flush();
        }
        assert_eq!(near.dropped(), 20);
        let notice = || Parcel::Peer {
            port: 3,
            peer: PEER,
            from: 0,
            news: News::Came,
        };
        near.notify(1, notice());
        assert!(near.flush(), "there is no room yet");
        assert!(near.flush());
        for _ in 0..INBOX {
            assert!(matches!(far.next(), Some(Parcel::Crossing(_))));
        }
        assert!(!near.flush());
        assert!(matches!(far.next(), Some(Parcel::Peer { port: 3, .. })));
        assert!(far.next().is_none());
    }

    #[test]
    fn long_turns_leave_in_pieces() {
        let (mut near, far) = two();
        for _ in 0..=BATCH_PACKETS {
            near.push(1, datagram(0), b"x");
        }
        assert!(far.next().is_some());
        for _ in 0..40 {
            near.push(1, datagram(0), &[0; 9000]);
        }
        assert!(far.next().is_some());
        assert!(far.next().is_none());
    }

    #[test]
    fn a_worker_that_has_ended_takes_nothing() {
        let (mut near, far) = two();
        drop(far);
        near.push(1, datagram(0), b"x");
        assert!(!near.flush());
        let notice = Parcel::Peer {
            port: 0,
            peer: PEER,
            from: 0,
            news: News::Left,
        };
        near.notify(1, notice);
        assert!(!near.flush(), "nobody is left to be told");
        assert_eq!(near.dropped(), 1);
    }
}
