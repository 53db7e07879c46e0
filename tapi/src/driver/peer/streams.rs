//! The streams of a path: those that this end makes to candidates, over TCP or TLS, and those that come to its TCP port.

use std::{
    fmt,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tsc_csm::{
    Candidate, Transport,
    client::{PathId, PeerGuest},
};
use tsc_osaa::{
    cert::{ClientAuth, ClientSecurity, Identity, ServerSecurity, Trust},
    client::{ClientTransport, ConnectError, ConnectOptions, Target, connect},
    listener::{Admission, ListenerConfig, ListenerEvent, StreamListener},
    socket::StreamOptions,
    stream::StreamTransport,
};
use tsc_tpl::{Limits, StreamDecoder};

use super::{Hands, deliver};
use crate::driver::connect::kind;

/// The search is over by then (spec 7.4).
const PATIENCE: Duration = Duration::from_secs(5);
/// For one connection of this end. The system sends three SYNs in it at most: an address may be a third party's.
const ATTEMPT: Duration = Duration::from_millis(2500);
/// Connections that come at a time, until they are ready: from each of the other end's ways here.
const HALF_OPEN: usize = 4;
/// Connections that the system keeps until they are taken.
const BACKLOG: u16 = 8;
/// Connections that are taken for one path; then nobody is to come any more. One would do.
const MAX_TAKEN: usize = 16;
/// Streams that are ready and not yet closed by the control plane, which has less use for them.
const MAX_STREAMS: usize = 8;
/// Connections, and refusals, in one turn.
const ACCEPTS_PER_TURN: usize = 8;
/// Reads of one stream in one turn.
const READS_PER_TURN: usize = 8;

/// See the module.
#[derive(Default)]
pub(super) struct PeerStreams {
    listener: Option<StreamListener>,
    /// At most [`MAX_TAKEN`].
    taken: usize,
    /// At most [`tsc_csm::MAX_CANDIDATES`].
    openings: Vec<Opening>,
    /// At most [`MAX_STREAMS`].
    open: Vec<PeerStream>,
}

struct Opening {
    to: Candidate,
    future: Pin<Box<dyn Future<Output = Result<ClientTransport, ConnectError>> + Send>>,
}

struct PeerStream {
    with: Candidate,
    stream: StreamTransport,
    decoder: StreamDecoder,
}

impl PeerStreams {
    /// Opens a TCP port for whoever is to come.
    pub(super) fn listen(
        &mut self,
        address: SocketAddr,
        identity: &Identity,
        guest: &PeerGuest,
    ) -> Option<u16> {
        let hosts = guest.hosts.clone();
        let admission = move |from: SocketAddr| hosts.contains(&from.ip().to_canonical());
        let mut config = ListenerConfig::default();
        config.handshake_timeout = PATIENCE;
        config.max_handshakes = HALF_OPEN;
        config.max_handshakes_per_source = HALF_OPEN;
        config.backlog = BACKLOG;
        config.stream = StreamOptions::client();
        config.admission = Some(Admission::new(admission));
        match guest.fingerprint {
            Some(fingerprint) => {
                let client = ClientAuth::Fingerprint(fingerprint);
                let security = ServerSecurity::new(identity.clone(), client);
                config.tls = security
                    .inspect_err(|error| tracing::warn!(%error, "no peer tunnels over TLS"))
                    .ok();
            }
            None => config.plain = true,
        }
        // Without a port the other end has fewer ways here.
        let listener = StreamListener::bind(address, config)
            .inspect_err(|error| tracing::debug!(%error, "no TCP port for a peer tunnel"))
            .ok()?;
        let port = listener.local_addr().port();
        self.listener = Some(listener);
        Some(port)
    }

    /// Nobody is to come any more.
    pub(super) fn stop_listening(&mut self) {
        self.listener = None;
    }

    /// Begins a connection to a candidate; false if that is not possible.
    pub(super) fn connect(
        &mut self,
        identity: &Identity,
        to: Candidate,
        fingerprint: [u8; 32],
    ) -> bool {
        let protected = to.transport.is_protected();
        let security = protected.then(|| {
            let trust = Trust::Fingerprint(fingerprint);
            ClientSecurity::new(trust, Some(identity.clone()))
        });
        let security = match security.transpose() {
            Ok(security) => security,
            Err(error) => {
                tracing::warn!(%error, "no peer tunnels over TLS");
                return false;
            }
        };
        let target = Target::new(kind(to.transport), to.address.ip(), to.address.port());
        let mut options = ConnectOptions::default();
        options.timeout = ATTEMPT;
        let future = Box::pin(async move { connect(&target, security.as_ref(), &options).await });
        self.openings.retain(|opening| opening.to != to);
        self.openings.push(Opening { to, future });
        true
    }

    /// Takes a stream out, or stops making it. What it was given is sent when it is closed.
    pub(super) fn disconnect(&mut self, from: Candidate) -> Option<StreamTransport> {
        self.openings.retain(|opening| opening.to != from);
        let place = self.open.iter().position(|open| open.with == from)?;
        Some(self.open.swap_remove(place).stream)
    }

    /// All of them, to be closed.
    pub(super) fn into_streams(self) -> impl Iterator<Item = StreamTransport> {
        self.open.into_iter().map(|open| open.stream)
    }

    /// Queues a unit. What finds no room is lost, as on any network.
    pub(super) fn send(&mut self, to: Candidate, unit: &[u8]) {
        if let Some(open) = self.open.iter_mut().find(|open| open.with == to) {
            let _queued = open.stream.queue(unit);
        }
    }

    pub(super) fn flush(&mut self, cx: &mut Context<'_>) {
        for open in &mut self.open {
            // A broken stream shows when receiving; one that is full wakes us.
            let _flushed = open.stream.poll_flush(cx);
        }
    }

    /// Takes what has come and has been made, and what has arrived; true if there was anything.
    pub(super) fn turn(
        &mut self,
        cx: &mut Context<'_>,
        path: PathId,
        hands: &mut Hands<'_>,
        buffer: &mut [u8],
    ) -> bool {
        let mut progress = self.accept(cx, path, hands);
        progress |= self.poll_openings(cx, path, hands);
        let mut index = 0;
        while let Some(open) = self.open.get_mut(index) {
            match open.receive(cx, path, hands, buffer) {
                Poll::Pending => index += 1,
                Poll::Ready(true) => {
                    progress = true;
                    index += 1;
                }
                Poll::Ready(false) => {
                    progress = true;
                    let with = self.open.swap_remove(index).with;
                    hands.client.peer_disconnected(hands.now, path, with);
                }
            }
        }
        progress
    }

    fn accept(&mut self, cx: &mut Context<'_>, path: PathId, hands: &mut Hands<'_>) -> bool {
        for accepted in 0..ACCEPTS_PER_TURN {
            let event = self
                .listener
                .as_mut()
                .map(|listener| listener.poll_accept(cx));
            match event {
                Some(Poll::Ready(ListenerEvent::Ready(stream))) => {
                    self.taken += 1;
                    if self.taken >= MAX_TAKEN {
                        self.stop_listening();
                    }
                    self.came(path, stream, hands);
                }
                // Refusals and failures are logged by the listener.
                Some(Poll::Ready(_)) => {}
                Some(Poll::Pending) | None => return accepted > 0,
            }
        }
        true
    }

    fn came(&mut self, path: PathId, stream: StreamTransport, hands: &mut Hands<'_>) {
        let peer = stream.peer_addr();
        let with = Candidate {
            transport: if stream.tls_info().is_some() {
                Transport::Tls
            } else {
                Transport::Tcp
            },
            address: SocketAddr::new(peer.ip().to_canonical(), peer.port()),
        };
        if self.open.len() < MAX_STREAMS && hands.client.peer_admits(path, with) {
            let decoder = StreamDecoder::expecting_request(Limits::WIDEST);
            self.add(path, with, stream, decoder, hands);
        }
    }

    fn add(
        &mut self,
        path: PathId,
        with: Candidate,
        stream: StreamTransport,
        decoder: StreamDecoder,
        hands: &mut Hands<'_>,
    ) {
        let identity = stream.peer_identity();
        let fingerprint = identity.map(|identity| *identity.fingerprint());
        self.open.push(PeerStream {
            with,
            stream,
            decoder,
        });
        let client = &mut hands.client;
        client.peer_connected(hands.now, path, with, fingerprint.as_ref());
    }

    fn poll_openings(&mut self, cx: &mut Context<'_>, path: PathId, hands: &mut Hands<'_>) -> bool {
        let mut progress = false;
        let mut index = 0;
        while let Some(opening) = self.openings.get_mut(index) {
            let Poll::Ready(result) = opening.future.as_mut().poll(cx) else {
                index += 1;
                continue;
            };
            progress = true;
            let to = self.openings.swap_remove(index).to;
            match result {
                Ok(ClientTransport::Stream(stream)) => {
                    let decoder = StreamDecoder::new(Limits::WIDEST);
                    self.add(path, to, stream, decoder, hands);
                }
                Ok(_) => hands.client.peer_disconnected(hands.now, path, to),
                Err(error) => {
                    let Candidate { transport, address } = to;
                    tracing::debug!(%transport, %address, %error, "no stream to a peer");
                    hands.client.peer_disconnected(hands.now, path, to);
                }
            }
        }
        progress
    }
}

impl PeerStream {
    /// Reads what has arrived; `false` when the stream is over.
    fn receive(
        &mut self,
        cx: &mut Context<'_>,
        path: PathId,
        hands: &mut Hands<'_>,
        buffer: &mut [u8],
    ) -> Poll<bool> {
        for read in 0..READS_PER_TURN {
            let len = match self.stream.poll_recv(cx, buffer) {
                Poll::Pending if read == 0 => return Poll::Pending,
                Poll::Pending => break,
                Poll::Ready(Ok(len)) => len,
                Poll::Ready(Err(error)) => {
                    tracing::debug!(address = %self.with.address, %error, "stream to a peer ended");
                    return Poll::Ready(false);
                }
            };
            let mut feed = self.decoder.feed(buffer.get(..len).unwrap_or_default());
            loop {
                match feed.next() {
                    Ok(Some(unit)) => {
                        let client = &mut hands.client;
                        let inbound = client.peer_unit(hands.now, path, self.with, unit);
                        deliver(inbound, hands);
                    }
                    Ok(None) => break,
                    Err(error) => {
                        tracing::debug!(address = %self.with.address, %error, "a peer's stream cannot go on");
                        return Poll::Ready(false);
                    }
                }
            }
        }
        Poll::Ready(true)
    }
}

impl fmt::Debug for PeerStreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerStreams")
            .field("listens", &self.listener.is_some())
            .field("openings", &self.openings.len())
            .field("open", &self.open.len())
            .finish()
    }
}
