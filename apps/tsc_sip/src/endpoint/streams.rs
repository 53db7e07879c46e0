//! The TCP connections of a SIP port: opened when something is to be sent, used again for what follows and for what the
//! other side wants to send, kept alive, closed when nothing moves.

use std::{
    collections::HashMap,
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf},
    sync::mpsc,
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::{
    net::{BoxStream, InnerListener, InnerNet, Seats, is_fatal},
    shares::{Admission, Bounds, Shares},
    sip::{
        Message,
        stream::{Frame, PING, PONG, StreamFramer},
    },
};

/// Connections that we open. More are not.
const OPENED: usize = 256;
/// Connections that others open, and those of one address of theirs; see [`shares`](crate::shares).
const ACCEPTED: usize = 512;
const ACCEPTED_PER_SOURCE: usize = 64;
/// Aliases in all, and of one address. The one that was named longest ago goes.
const ALIASES: Bounds = Bounds {
    total: 512,
    per_source: 16,
    busy: Duration::ZERO,
};
/// Bytes of messages that may wait for a connection; if it does not take them, it has failed.
const QUEUE: usize = 1 << 20;
/// Events of all connections that may wait; then nothing is read.
const EVENTS: usize = 256;
/// How long opening a connection may take, and a message from its first byte to its last, read or written, and the first
/// message of a connection that was accepted: as long as a transaction.
const PATIENCE: Duration = Duration::from_secs(32);
/// How long the last messages may take.
const CLOSE: Duration = Duration::from_secs(1);
/// How often the one who opened a connection shows that it is needed (RFC 5626 4.4.1: 95 to 120 s).
const KEEPALIVE: Duration = Duration::from_secs(100);
/// How long a peer that has answered before may take to answer a ping (RFC 5626 4.4.1).
const PONG_TIME: Duration = Duration::from_secs(10);
/// After how much silence a connection that was accepted is closed.
const IDLE: Duration = Duration::from_secs(300);

/// What the connections have to tell.
pub(super) enum StreamEvent {
    /// A message came.
    Message {
        /// The other end of its connection.
        from: SocketAddr,
        /// The message.
        message: Box<Message>,
    },
    /// A connection is closed, or could not be opened.
    Lost {
        /// Its other end, and the aliases of that.
        peers: Vec<SocketAddr>,
    },
}

type Connect = Pin<Box<dyn Future<Output = io::Result<BoxStream>> + Send>>;
type Connector = Box<dyn Fn(SocketAddr) -> Connect + Send>;

enum Note {
    Accepted(BoxStream, SocketAddr),
    Message(SocketAddr, Box<Message>),
}

/// Messages on their way to a connection's task.
struct Queue {
    /// Which of the connections to a peer, one after the other, it is.
    id: u64,
    /// Whether we opened it.
    ours: bool,
    messages: mpsc::UnboundedSender<Vec<u8>>,
    /// Bytes of them, no more than [`QUEUE`].
    bytes: Arc<AtomicUsize>,
}

/// The other end of a [`Queue`].
struct Queued {
    messages: mpsc::UnboundedReceiver<Vec<u8>>,
    bytes: Arc<AtomicUsize>,
}

impl Queue {
    fn new(id: u64, ours: bool) -> (Self, Queued) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let bytes = Arc::<AtomicUsize>::default();
        let queue = Self {
            id,
            ours,
            messages: sender,
            bytes: Arc::clone(&bytes),
        };
        let messages = receiver;
        (queue, Queued { messages, bytes })
    }

    fn push(&self, message: Vec<u8>) -> io::Result<()> {
        let length = message.len();
        if self.bytes.fetch_add(length, Relaxed) + length > QUEUE {
            self.bytes.fetch_sub(length, Relaxed);
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the connection takes nothing",
            ));
        }
        // Its end will be noticed.
        let closed = |_| io::ErrorKind::BrokenPipe.into();
        self.messages.send(message).map_err(closed)
    }
}

impl Queued {
    async fn pop(&mut self) -> Option<Vec<u8>> {
        let message = self.messages.recv().await?;
        self.bytes.fetch_sub(message.len(), Relaxed);
        Some(message)
    }
}

/// See the module.
pub(super) struct Streams {
    connector: Option<Connector>,
    /// Connections by their other end.
    open: HashMap<SocketAddr, Queue>,
    /// Addresses at which peers want to be reached by the connection that they opened (RFC 5923), and that connection.
    aliases: HashMap<SocketAddr, SocketAddr>,
    alias_shares: Shares<SocketAddr>,
    seats: Seats,
    next_id: u64,
    tasks: JoinSet<(SocketAddr, u64)>,
    listener: Option<tokio::task::AbortHandle>,
    notes: mpsc::Receiver<Note>,
    sender: mpsc::Sender<Note>,
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streams")
            .field("open", &self.open.len())
            .finish_non_exhaustive()
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        if let Some(listener) = &self.listener {
            listener.abort();
        }
    }
}

impl Streams {
    /// No connections at all.
    pub(super) fn none() -> Self {
        let (sender, notes) = mpsc::channel(EVENTS);
        Self {
            connector: None,
            open: HashMap::new(),
            aliases: HashMap::new(),
            alias_shares: Shares::new(ALIASES),
            seats: Seats::new(ACCEPTED, ACCEPTED_PER_SOURCE),
            next_id: 0,
            tasks: JoinSet::new(),
            listener: None,
            notes,
            sender,
        }
    }

    /// Connections that come by `listener` and are opened in `net`.
    pub(super) fn new<N: InnerNet>(net: Arc<N>, listener: N::Listener) -> Self {
        let mut streams = Self::none();
        streams.connector = Some(Box::new(move |peer| {
            let net = Arc::clone(&net);
            Box::pin(async move {
                let stream = net.connect_tcp(peer).await?;
                Ok(Box::new(stream) as BoxStream)
            })
        }));
        let task = tokio::spawn(accept(listener, streams.sender.clone()));
        streams.listener = Some(task.abort_handle());
        streams
    }

    /// Sends a message to a peer, on a connection that there is or a new one.
    pub(super) fn send(&mut self, to: SocketAddr, message: Vec<u8>) -> io::Result<()> {
        let key = match self.aliases.get(&to) {
            Some(alias) if !self.open.contains_key(&to) => *alias,
            _ => to,
        };
        // One that has just ended is replaced.
        if let Some(queue) = self
            .open
            .get(&key)
            .filter(|queue| !queue.messages.is_closed())
        {
            return queue.push(message);
        }
        let id = self.new_id();
        let connector = self.connector.as_ref();
        let connector = connector.ok_or(io::ErrorKind::Unsupported)?;
        if self.open.values().filter(|queue| queue.ours).count() >= OPENED {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let (queue, messages) = Queue::new(id, true);
        queue.push(message)?;
        self.open.insert(to, queue);
        let (connect, sender) = (connector(to), self.sender.clone());
        self.tasks.spawn(async move {
            match timeout(PATIENCE, connect).await {
                Ok(Ok(stream)) => {
                    Connection::new(to, true, sender)
                        .run(stream, messages)
                        .await;
                }
                Ok(Err(error)) => tracing::debug!(peer = %to, %error, "no SIP connection"),
                Err(_) => tracing::debug!(peer = %to, "no SIP connection: no answer"),
            }
            (to, id)
        });
        Ok(())
    }

    const fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Closes all connections, after what waits on them is written, if that does not take long.
    pub(super) async fn close(&mut self) {
        self.open.clear();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(CLOSE, all).await.is_err() {
            tracing::debug!("SIP connections broken off");
        }
    }

    /// What happens next. Cancel-safe.
    pub(super) async fn next_event(&mut self) -> StreamEvent {
        loop {
            tokio::select! {
                // We hold a sender: there is always another note.
                Some(note) = self.notes.recv() => match note {
                    Note::Accepted(stream, peer) => self.accepted(stream, peer),
                    Note::Message(from, message) => {
                        self.note_alias(from, &message);
                        return StreamEvent::Message { from, message };
                    }
                },
                Some(done) = self.tasks.join_next() => {
                    let Ok((peer, id)) = done else { continue };
                    if self.open.get(&peer).is_some_and(|queue| queue.id != id) {
                        // There is a new one already.
                        continue;
                    }
                    self.open.remove(&peer);
                    let mut peers = vec![peer];
                    let aliases = self.aliases.extract_if(|_, connection| *connection == peer);
                    for (alias, _) in aliases {
                        self.alias_shares.leave(alias);
                        peers.push(alias);
                    }
                    return StreamEvent::Lost { peers };
                }
            }
        }
    }

    fn accepted(&mut self, stream: BoxStream, peer: SocketAddr) {
        let queue = self.open.get(&peer);
        if queue.is_some_and(|queue| !queue.messages.is_closed()) {
            tracing::debug!(%peer, "SIP connection refused: there is one already");
            return;
        }
        let Some(mut seat) = self.seats.take(peer.ip()) else {
            tracing::debug!(%peer, "SIP connection refused: there are too many");
            return;
        };
        let id = self.new_id();
        let (queue, messages) = Queue::new(id, false);
        self.open.insert(peer, queue);
        let connection = Connection::new(peer, false, self.sender.clone());
        self.tasks.spawn(async move {
            let stream: BoxStream = Box::new(seat.watch(stream, PATIENCE));
            tokio::select! {
                () = connection.run(stream, messages) => {}
                () = seat.evicted() => tracing::debug!(%peer, "SIP connection makes room for another"),
            }
            (peer, id)
        });
    }

    /// A request says by its Via that requests to its sender may come by this connection. Believed for ports of the address
    /// that the connection comes from, which is not shared between clients of a tunnel server.
    fn note_alias(&mut self, from: SocketAddr, message: &Message) {
        let Message::Request(request) = message else {
            return;
        };
        if let Some(via) = request.head.via.first()
            && via.params.has("alias")
            && via.host.ip() == Some(from.ip())
            && let Some(port) = via.port
        {
            let (alias, now) = (SocketAddr::new(from.ip(), port), std::time::Instant::now());
            if self.aliases.contains_key(&alias) {
                self.alias_shares.touch(now, alias);
            } else {
                match self.alias_shares.take(now, from.ip(), alias) {
                    Admission::Free => {}
                    Admission::Instead(other) => drop(self.aliases.remove(&other)),
                    Admission::Refused => return,
                }
            }
            self.aliases.insert(alias, from);
        }
    }
}

async fn accept<L: InnerListener>(listener: L, notes: mpsc::Sender<Note>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let note = Note::Accepted(Box::new(stream), peer);
                if notes.send(note).await.is_err() {
                    return;
                }
            }
            Err(error) if is_fatal(&error) => {
                tracing::debug!(%error, "SIP listener closed");
                return;
            }
            Err(error) => {
                tracing::debug!(%error, "SIP listener");
                tokio::task::yield_now().await;
            }
        }
    }
}

/// One connection's task.
struct Connection {
    peer: SocketAddr,
    /// Whether we opened it, and have to keep it alive.
    ours: bool,
    notes: mpsc::Sender<Note>,
}

/// Why a connection is closed.
#[derive(Debug, thiserror::Error)]
enum Closed {
    #[error("closed by the peer")]
    ByPeer,
    #[error("nothing moves")]
    Idle,
    #[error("a message does not end")]
    Unfinished,
    #[error("the peer does not answer keepalives")]
    NoPong,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Framing(#[from] crate::sip::stream::FramingError),
}

impl Connection {
    const fn new(peer: SocketAddr, ours: bool, notes: mpsc::Sender<Note>) -> Self {
        Self { peer, ours, notes }
    }

    async fn run(self, stream: BoxStream, messages: Queued) {
        let peer = self.peer;
        let (reader, writer) = tokio::io::split(stream);
        // Answers to pings; a peer that asks faster than it reads gets fewer.
        let (pongs, pong_queue) = mpsc::channel(1);
        let (alive, pinged) = tokio::sync::watch::channel(Life::default());
        let closed = tokio::select! {
            closed = self.read(reader, pongs, alive) => closed,
            closed = self.write(writer, messages, pong_queue, pinged) => closed,
        };
        if let Err(error) = closed {
            tracing::debug!(%peer, %error, "SIP connection closed");
        }
    }

    async fn read(
        &self,
        mut reader: ReadHalf<BoxStream>,
        pongs: mpsc::Sender<()>,
        alive: tokio::sync::watch::Sender<Life>,
    ) -> Result<(), Closed> {
        let mut framer = StreamFramer::default();
        let mut buffer = vec![0; 4096];
        // Whoever connects has something to say.
        let mut silence = PATIENCE;
        let mut begun: Option<Instant> = None;
        loop {
            let now = Instant::now();
            let idle = (!self.ours).then(|| (now + silence, Closed::Idle));
            let unfinished = begun.map(|at| (at + PATIENCE, Closed::Unfinished));
            let first = idle.into_iter().chain(unfinished).min_by_key(|(at, _)| *at);
            let length = tokio::select! {
                read = reader.read(&mut buffer) => read?,
                closed = give_up(first) => return Err(closed),
            };
            if length == 0 {
                return Err(Closed::ByPeer);
            }
            alive.send_modify(|life| life.heard = Some(Instant::now()));
            framer.push(buffer.get(..length).unwrap_or_default());
            while let Some(frame) = framer.next_frame()? {
                match frame {
                    Frame::Message(message) => {
                        silence = IDLE;
                        let note = Note::Message(self.peer, message);
                        if self.notes.send(note).await.is_err() {
                            return Ok(());
                        }
                    }
                    Frame::Malformed(error) => {
                        tracing::debug!(peer = %self.peer, %error, "not SIP");
                    }
                    // One answer that waits is enough.
                    Frame::Ping => drop(pongs.try_send(())),
                    Frame::Pong => alive.send_modify(|life| life.answers = true),
                }
                begun = None;
            }
            if framer.is_empty() {
                begun = None;
            } else {
                begun.get_or_insert_with(Instant::now);
            }
        }
    }

    async fn write(
        &self,
        mut writer: WriteHalf<BoxStream>,
        mut messages: Queued,
        mut pongs: mpsc::Receiver<()>,
        alive: tokio::sync::watch::Receiver<Life>,
    ) -> Result<(), Closed> {
        let mut ping_at = Instant::now() + KEEPALIVE;
        let mut pinged_at: Option<Instant> = None;
        loop {
            let bytes = tokio::select! {
                message = messages.pop() => match message {
                    Some(message) => message,
                    None => return Ok(writer.shutdown().await?),
                },
                Some(()) = pongs.recv() => PONG.to_vec(),
                () = tokio::time::sleep_until(ping_at), if self.ours => {
                    let life = *alive.borrow();
                    if let Some(at) = pinged_at.take() {
                        // Servers without RFC 5626 never answer; one that has, has to.
                        if life.answers && life.heard.is_none_or(|heard| heard < at) {
                            return Err(Closed::NoPong);
                        }
                        ping_at = at + KEEPALIVE;
                        continue;
                    }
                    let now = Instant::now();
                    pinged_at = Some(now);
                    ping_at = now + PONG_TIME;
                    PING.to_vec()
                }
            };
            timeout(PATIENCE, writer.write_all(&bytes))
                .await
                .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        }
    }
}

async fn give_up(at: Option<(Instant, Closed)>) -> Closed {
    match at {
        Some((at, closed)) => {
            tokio::time::sleep_until(at).await;
            closed
        }
        None => std::future::pending().await,
    }
}

/// What the reader knows of the other side.
#[derive(Clone, Copy, Debug, Default)]
struct Life {
    /// When something came last.
    heard: Option<Instant>,
    /// Whether it answers pings.
    answers: bool,
}
