//! The async shell of a SIP port: one task owns the UDP socket, the TCP connections and the [`TransactionLayer`], handles
//! talk to it.
//!
//! A program that asks writes
//! `endpoint.request(register, server).await?.final_response().await?`;
//! a program that is asked reads [`Incoming`] events.

mod streams;

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};

use crate::{
    net::{InnerNet, InnerSocket, is_fatal, is_refusal, is_unreachable},
    random::Random,
    sip::{Hop, Request, Response, StatusCode, Transport, limits},
    transaction::{ClientId, Event, Limits, ServerId, Timers, TransactionError, TransactionLayer},
};

use streams::{StreamEvent, Streams};

/// Commands that may wait for the task; senders then wait too.
const COMMANDS: usize = 256;
/// Events that may wait for their reader. When it is full, new requests get 503.
const INCOMING: usize = 256;
/// Responses to one request that may wait for their reader; further provisional ones are dropped.
const RESPONSES: usize = 16;

/// Why a request brought no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// Nobody answered within 64 T1 (32 s with default timers).
    #[error("no answer")]
    Timeout,
    /// The network says that nobody can be reached there.
    #[error("the peer cannot be reached")]
    Unreachable,
    /// The socket or the network below it is gone.
    #[error("the SIP socket is closed")]
    Closed,
    /// The layer refused.
    #[error(transparent)]
    Transaction(#[from] TransactionError),
}

#[derive(Debug)]
enum Command {
    Request {
        request: Box<Request>,
        to: Hop,
        responses: mpsc::Sender<Reply>,
        done: oneshot::Sender<Result<ClientId, TransactionError>>,
    },
    Acknowledge {
        id: ClientId,
        ack: Box<Request>,
        to: Hop,
        done: oneshot::Sender<Result<(), TransactionError>>,
    },
    Cancel {
        id: ClientId,
        done: oneshot::Sender<Result<(), TransactionError>>,
    },
    Respond {
        id: ServerId,
        response: Box<Response>,
        done: oneshot::Sender<Result<(), TransactionError>>,
    },
    Unreachable {
        peer: SocketAddr,
        done: oneshot::Sender<Result<(), TransactionError>>,
    },
    Close {
        closed: oneshot::Sender<()>,
    },
}

type Reply = Result<Response, RequestError>;

/// A handle to the task that owns the socket. The task ends when the last handle is gone.
#[derive(Clone, Debug)]
pub struct Endpoint {
    commands: mpsc::Sender<Command>,
    local: SocketAddr,
}

/// What comes from outside.
#[derive(Debug)]
pub enum Incoming {
    /// A request to be answered.
    Request(IncomingRequest),
    /// The caller gave up: answer that INVITE with 487.
    Cancelled(ServerId),
    /// The ACK for our 2xx came.
    Acknowledged(ServerId),
    /// The ACK for our 2xx never came: end the call.
    AckMissing(ServerId),
    /// Three copies of a request to this address, or more, and nothing has come back. Whoever finds out that nobody is there
    /// says so by [`Endpoint::unreachable`].
    Unanswered(SocketAddr),
}

/// A request together with the means to answer it.
#[derive(Debug)]
pub struct IncomingRequest {
    /// Its transaction.
    pub id: ServerId,
    /// The request.
    pub request: Box<Request>,
    /// Where it came from.
    pub from: Hop,
    endpoint: Endpoint,
}

impl IncomingRequest {
    /// Sends a response.
    ///
    /// # Errors
    ///
    /// The transaction is over or has its final response, or the socket is closed.
    pub async fn respond(&self, response: Response) -> Result<(), RequestError> {
        let (id, response) = (self.id, Box::new(response));
        self.endpoint
            .command(|done| Command::Respond { id, response, done })
            .await
    }
}

/// Reader of [`Incoming`] events.
#[derive(Debug)]
pub struct IncomingEvents(mpsc::Receiver<Incoming>);

impl IncomingEvents {
    /// The next event; `None` when the socket is closed. Cancel-safe.
    pub async fn recv(&mut self) -> Option<Incoming> {
        self.0.recv().await
    }
}

/// A request on its way.
#[derive(Debug)]
pub struct PendingRequest {
    id: ClientId,
    responses: mpsc::Receiver<Reply>,
    endpoint: Endpoint,
}

impl PendingRequest {
    /// The next response, provisional or final. Cancel-safe.
    ///
    /// # Errors
    ///
    /// See [`RequestError`]; none follows.
    pub async fn response(&mut self) -> Result<Response, RequestError> {
        self.responses
            .recv()
            .await
            .unwrap_or(Err(RequestError::Closed))
    }

    /// The final response.
    ///
    /// # Errors
    ///
    /// See [`RequestError`].
    pub async fn final_response(&mut self) -> Result<Response, RequestError> {
        loop {
            let response = self.response().await?;
            if !response.status.is_provisional() {
                return Ok(response);
            }
        }
    }

    /// Cancels an INVITE. Its final response still follows, 487 if the CANCEL was in time.
    ///
    /// # Errors
    ///
    /// It is no INVITE, is over, or the socket is closed.
    pub async fn cancel(&self) -> Result<(), RequestError> {
        let id = self.id;
        self.endpoint
            .command(|done| Command::Cancel { id, done })
            .await
    }

    /// Sends the ACK for a 2xx, and again whenever the 2xx comes again.
    ///
    /// # Errors
    ///
    /// There was no 2xx, or the socket is closed.
    pub async fn acknowledge(&self, ack: Request, to: impl Into<Hop>) -> Result<(), RequestError> {
        let (id, ack, to) = (self.id, Box::new(ack), to.into());
        self.endpoint
            .command(|done| Command::Acknowledge { id, ack, to, done })
            .await
    }
}

impl Endpoint {
    /// Takes a socket and a listener with the same port number and starts their task: messages go and come over UDP and
    /// TCP. Connections are opened as they are needed and used again.
    ///
    /// # Errors
    ///
    /// The socket does not know its address.
    pub fn start_with_streams<N: InnerNet>(
        net: Arc<N>,
        (socket, listener): (N::Socket, N::Listener),
        timers: Timers,
        limits: Limits,
        random: Box<dyn Random>,
    ) -> io::Result<(Self, IncomingEvents)> {
        let streams = Streams::new(net, listener);
        Self::run(socket, streams, timers, limits, random)
    }

    /// Takes a UDP socket and starts its task. What is to go over TCP fails.
    ///
    /// # Errors
    ///
    /// The socket does not know its address.
    pub fn start<S: InnerSocket>(
        socket: S,
        timers: Timers,
        limits: Limits,
        random: Box<dyn Random>,
    ) -> io::Result<(Self, IncomingEvents)> {
        Self::run(socket, Streams::none(), timers, limits, random)
    }

    fn run<S: InnerSocket>(
        socket: S,
        streams: Streams,
        timers: Timers,
        limits: Limits,
        random: Box<dyn Random>,
    ) -> io::Result<(Self, IncomingEvents)> {
        let local = socket.local_addr()?;
        let (commands, command_receiver) = mpsc::channel(COMMANDS);
        let (incoming, events) = mpsc::channel(INCOMING);
        let driver = Driver {
            layer: TransactionLayer::new(local, timers, limits, random),
            socket,
            streams,
            waiting: HashMap::new(),
            incoming,
            endpoint: commands.downgrade(),
            local,
        };
        tokio::spawn(async move {
            let closed = driver.run(command_receiver).await;
            // With the driver all that it had is gone.
            drop(closed);
        });
        Ok((Self { commands, local }, IncomingEvents(events)))
    }

    /// Address of the socket, and of the listener if there is one.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Sends a request and repeats it until it is answered.
    ///
    /// # Errors
    ///
    /// The layer refuses it, or the socket is closed.
    pub async fn request(
        &self,
        request: Request,
        to: impl Into<Hop>,
    ) -> Result<PendingRequest, RequestError> {
        let (sender, responses) = mpsc::channel(RESPONSES);
        let (request, to) = (Box::new(request), to.into());
        let id = self
            .command(|done| Command::Request {
                request,
                to,
                responses: sender,
                done,
            })
            .await?;
        Ok(PendingRequest {
            id,
            responses,
            endpoint: self.clone(),
        })
    }

    /// Ends the requests to `peer` that have had no response: they fail with [`RequestError::Unreachable`].
    ///
    /// # Errors
    ///
    /// The socket is closed.
    pub async fn unreachable(&self, peer: SocketAddr) -> Result<(), RequestError> {
        self.command(|done| Command::Unreachable { peer, done })
            .await
    }

    /// Closes the sockets, also for all other handles, and waits until that is done: after it nothing of the task uses the
    /// network any more. What waits on connections is still written, if that does not take long.
    pub async fn close(self) {
        let (closed, done) = oneshot::channel();
        if self.commands.send(Command::Close { closed }).await.is_ok() {
            // The end of it is that nobody can send any more.
            let _ = done.await;
        }
    }

    async fn command<T>(
        &self,
        make: impl FnOnce(oneshot::Sender<Result<T, TransactionError>>) -> Command,
    ) -> Result<T, RequestError> {
        let (done, result) = oneshot::channel();
        let closed = |_| RequestError::Closed;
        self.commands
            .send(make(done))
            .await
            .map_err(|_| RequestError::Closed)?;
        Ok(result.await.map_err(closed)??)
    }
}

struct Driver<S> {
    layer: TransactionLayer,
    socket: S,
    streams: Streams,
    waiting: HashMap<ClientId, mpsc::Sender<Reply>>,
    incoming: mpsc::Sender<Incoming>,
    /// Weak, so that the task does not keep itself alive.
    endpoint: mpsc::WeakSender<Command>,
    local: SocketAddr,
}

impl<S: InnerSocket> Driver<S> {
    /// Runs until it is to close, or all handles or the network are gone. Gives what is to be dropped when nothing of it is left.
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) -> Option<oneshot::Sender<()>> {
        // One byte more than the limit, so that the reader can see that a datagram is too long.
        let mut buffer = vec![0; limits::MESSAGE + 1];
        loop {
            self.drain().await;
            let deadline = self.layer.poll_timeout();
            tokio::select! {
                received = self.socket.recv_from(&mut buffer) => match received {
                    Ok((length, from)) => {
                        let datagram = buffer.get(..length).unwrap_or_default();
                        if let Err(error) = self.layer.handle_datagram(Instant::now(), from, datagram) {
                            tracing::debug!(%from, %error, "not SIP");
                        }
                    }
                    Err(error) if is_fatal(&error) => {
                        tracing::debug!(%error, "SIP socket closed");
                        return None;
                    }
                    Err(error) => {
                        tracing::debug!(%error, "SIP socket");
                        tokio::task::yield_now().await;
                    }
                },
                event = self.streams.next_event() => self.handle_stream(event),
                command = commands.recv() => {
                    let closed = match command {
                        Some(Command::Close { closed }) => Some(closed),
                        Some(command) => {
                            self.handle_command(command);
                            continue;
                        }
                        None => None,
                    };
                    self.streams.close().await;
                    return closed;
                }
                () = sleep_until(deadline) => self.layer.handle_timeout(Instant::now()),
            }
        }
    }

    async fn drain(&mut self) {
        loop {
            while let Some(event) = self.layer.poll_event() {
                self.handle_event(event);
            }
            let Some(transmit) = self.layer.poll_transmit() else {
                return;
            };
            let to = transmit.to;
            if to.transport == Transport::Tcp {
                if let Err(error) = self.streams.send(to.address, transmit.payload) {
                    tracing::debug!(%to, %error, "SIP not sent");
                    self.layer.handle_unreachable(to);
                }
                continue;
            }
            if let Err(error) = self.socket.send_to(&transmit.payload, to.address).await {
                tracing::debug!(%to, %error, "SIP not sent");
                // Anything else counts as lost on the way: it will be repeated.
                if is_unreachable(&error) {
                    self.layer.handle_unreachable(to);
                } else if is_refusal(&error) {
                    self.layer.handle_transport_error(transmit.of);
                }
            }
        }
    }

    fn handle_stream(&mut self, event: StreamEvent) {
        match event {
            StreamEvent::Message { from, message } => {
                let now = Instant::now();
                self.layer.handle_message(now, Hop::tcp(from), *message);
            }
            // What was not answered on it will not be.
            StreamEvent::Lost { peers } => {
                for peer in peers {
                    self.layer.handle_unreachable(Hop::tcp(peer));
                }
            }
        }
    }

    fn handle_command(&mut self, command: Command) {
        let now = Instant::now();
        // Who asked may have gone meanwhile: then nobody reads the result.
        match command {
            Command::Request {
                request,
                to,
                responses,
                done,
            } => {
                let result = self.layer.request(now, *request, to);
                if let Ok(id) = result {
                    self.waiting.insert(id, responses);
                }
                let _ = done.send(result);
            }
            Command::Acknowledge { id, ack, to, done } => {
                let _ = done.send(self.layer.acknowledge(id, *ack, to));
            }
            Command::Cancel { id, done } => {
                let _ = done.send(self.layer.cancel(now, id));
            }
            Command::Respond { id, response, done } => {
                let _ = done.send(self.layer.respond(now, id, &response));
            }
            Command::Unreachable { peer, done } => {
                self.layer.handle_unreachable(peer);
                let _ = done.send(Ok(()));
            }
            // It ends the loop, and so is dealt with there.
            Command::Close { .. } => {}
        }
    }

    fn handle_event(&mut self, event: Event) {
        let incoming = match event {
            Event::Response { id, response } => {
                let is_final = !response.status.is_provisional();
                let sender = if is_final {
                    self.waiting.remove(&id)
                } else {
                    self.waiting.get(&id).cloned()
                };
                if let Some(sender) = sender {
                    // Sixteen unread provisional responses: the reader does not care for more. A final one
                    // always has a place, because the channel is then read to its end.
                    forward(&sender, Ok(*response));
                }
                return;
            }
            Event::Timeout { id } => return self.fail(id, RequestError::Timeout),
            Event::Unreachable { id } => return self.fail(id, RequestError::Unreachable),
            Event::Unanswered { to } => Incoming::Unanswered(to),
            Event::Request { id, request, from } => {
                let Some(commands) = self.endpoint.upgrade() else {
                    return;
                };
                Incoming::Request(IncomingRequest {
                    id,
                    request,
                    from,
                    endpoint: Endpoint {
                        commands,
                        local: self.local,
                    },
                })
            }
            Event::Cancelled { id } => Incoming::Cancelled(id),
            Event::Acknowledged { id, .. } => Incoming::Acknowledged(id),
            Event::AckMissing { id } => Incoming::AckMissing(id),
        };
        if let Err(error) = self.incoming.try_send(incoming) {
            tracing::debug!("nobody reads SIP requests fast enough");
            if let Incoming::Request(refused) = error.into_inner() {
                let busy = refused
                    .request
                    .response(StatusCode::SERVICE_UNAVAILABLE, "overload");
                // Fails only for a transaction that is over.
                let _ = self.layer.respond(Instant::now(), refused.id, &busy);
            }
        }
    }
}

impl<S> Driver<S> {
    fn fail(&mut self, id: ClientId, error: RequestError) {
        // A CANCEL has nobody who waits for it.
        if let Some(sender) = self.waiting.remove(&id) {
            forward(&sender, Err(error));
        }
    }
}

fn forward(sender: &mpsc::Sender<Reply>, reply: Reply) {
    if sender.try_send(reply).is_err() {
        tracing::debug!("response not read");
    }
}

pub(crate) async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// How long a BYE may wait for its answer where the peer is probably gone, or the program is to end: three copies of it
/// at the default timers. A peer that is gone must not hold up the report.
pub const GOODBYE: Duration = Duration::from_secs(2);

/// How long an endpoint stays after its last call, so that a peer whose copy of our last response was lost can
/// get it again.
pub const LINGER: Duration = Duration::from_millis(200);
