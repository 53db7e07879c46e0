//! The one task of a tunnel: joins the control plane (`csm`), the inner stack (`eip`) and the transports (`osaa`).
//!
//! ```text
//!   transports --units--> csm::client --inner packets--> stack --> sockets
//!   transports <--control-- csm::client                  stack <-- sockets
//!        ^------------------ packets of a turn ------------'
//! ```
//!
//! It does what the control plane tells it (`Open`, `Close`), and decides nothing itself. A turn moves whole batches: a
//! stream gets the packets of a turn in one write.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "enums of other crates that may grow"
)]

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    io::IoSlice,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    sync::{oneshot, watch},
    task::JoinSet,
    time::Sleep,
};
use tsc_csm::{
    Assignment, Random, Transport,
    client::{
        AttemptFailure, BadUnit, Client, DownReason, Endpoint, Epoch, Event, Inbound, Target,
        TransportFailure, TransportLoss,
    },
};
use tsc_eip::{Stack, StackConfig};
use tsc_osaa::{
    cert::ClientSecurity,
    client::{self as transport, ClientTransport, ConnectOptions, RECV_BUFFER, TransportError},
    random::OsRandom,
    socket::Dscp,
    stream::StreamError,
    tls::TlsError,
    trace::{Capture, CaptureWriter, DEFAULT_FILE_LIMIT, Direction, Interface},
};
use tsc_tpl::{Limits, StreamDecoder, Unit};

use crate::{
    TunnelConfig,
    builder::{LONGEST_TIME, TunnelBuilder},
    error::ConnectError,
    notification::Notification,
    server::Server,
    shared::{Command, Shared},
};

/// Packets that a turn takes from the stack at a time.
const BATCH: usize = 64;
/// Reads of one transport in one turn.
const READS_PER_TURN: usize = 32;
/// Turns before other tasks of the runtime get theirs.
const TURNS_PER_POLL: usize = 16;
/// How long a transport may take to end in order.
const CLOSE_TIME: Duration = Duration::from_secs(1);
/// Control messages that wait for one transport. Beyond it they are dropped, as a network would drop them: a server
/// that asks without reading our answers must not fill our memory.
const CONTROL_BACKLOG: usize = 64;

type Opened = Result<ClientTransport, transport::ConnectError>;
/// Who waits for the tunnel to come up.
type WhenUp = oneshot::Sender<Result<watch::Receiver<Arc<TunnelConfig>>, ConnectError>>;

/// The operating system's generator, as the machines want it.
struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&mut self, buf: &mut [u8]) {
        OsRandom.fill(buf);
    }
}

/// A transport that is being opened.
struct Opening {
    epoch: Epoch,
    server: Server,
    /// The application named this server, not another server.
    configured: bool,
    future: Pin<Box<dyn Future<Output = Opened> + Send>>,
}

/// A transport that is open. There are two while a tunnel moves.
struct Link {
    epoch: Epoch,
    server: Server,
    transport: ClientTransport,
    decoder: StreamDecoder,
    /// Control messages that wait for the transport; at most [`CONTROL_BACKLOG`].
    control: VecDeque<Bytes>,
}

/// See the module.
pub(crate) struct Driver {
    client: Client,
    shared: Arc<Shared>,
    servers: Vec<Server>,
    server_name: Option<String>,
    security: Option<ClientSecurity>,
    options: ConnectOptions,
    openings: Vec<Opening>,
    links: Vec<Link>,
    closing: JoinSet<()>,
    /// Inner packets on their way to the transport; at most [`BATCH`].
    outbox: VecDeque<Vec<u8>>,
    limits: Limits,
    buffer: Vec<u8>,
    timer: Pin<Box<Sleep>>,
    capture: Option<(CaptureWriter, Capture)>,
    /// Why the last attempt at a transport failed, in detail.
    last_failure: Option<(Server, transport::ConnectError)>,
    when_up: Option<WhenUp>,
    config: Option<watch::Sender<Arc<TunnelConfig>>>,
    down: Option<DownReason>,
    /// When the application wants a release to be over.
    release_by: Option<Instant>,
}

/// However the task ends, also by a runtime that shuts down or a panic: nobody waits for it for ever.
impl Drop for Driver {
    fn drop(&mut self) {
        self.shared.end(DownReason::Released { confirmed: false });
    }
}

impl Driver {
    /// Checks the parameters. Nothing is sent before [`Driver::run`].
    pub(crate) fn new(
        builder: TunnelBuilder,
        when_up: WhenUp,
    ) -> Result<(Self, Arc<Shared>), ConnectError> {
        let mut random = SystemRandom;
        let seed = random.u64();
        let client = Client::new(builder.csm, Box::new(random))?;
        for server in &builder.servers {
            let name = builder
                .server_name
                .as_deref()
                .unwrap_or_else(|| server.host());
            if name.parse::<transport::Host>().is_err() {
                return Err(ConnectError::ServerName(name.to_owned()));
            }
        }
        let protected = builder
            .servers
            .iter()
            .any(|server| server.transport().is_protected());
        let security = if protected {
            Some(ClientSecurity::new(builder.trust, builder.identity)?)
        } else {
            None
        };
        let capture = match builder.trace {
            None => None,
            Some(path) => {
                let writer = CaptureWriter::create(&path, DEFAULT_FILE_LIMIT)?;
                let handle = writer.handle();
                Some((writer, handle))
            }
        };
        let mut options = ConnectOptions::default();
        options.dtls_backend = builder.dtls_backend;
        let stack = Stack::new(StackConfig::default(), seed);
        let shared = Shared::new(stack, builder.notifications);
        let driver = Self {
            client,
            shared: Arc::clone(&shared),
            servers: builder.servers,
            server_name: builder.server_name,
            security,
            options,
            openings: Vec::new(),
            links: Vec::new(),
            closing: JoinSet::new(),
            outbox: VecDeque::new(),
            limits: Limits::WIDEST,
            buffer: vec![0; RECV_BUFFER],
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            capture,
            last_failure: None,
            when_up: Some(when_up),
            config: None,
            down: None,
            release_by: None,
        };
        Ok((driver, shared))
    }

    /// Drives the tunnel to its end.
    pub(crate) async fn run(mut self) {
        self.client.start(Instant::now());
        let reason = poll_fn(|cx| self.poll(cx)).await;
        self.shared.end_sockets(&reason);
        // Whoever waits for the end may end the process: first say goodbye properly.
        self.close_all().await;
        if let Some((writer, _)) = self.capture.take()
            && let Ok(Err(error)) = tokio::task::spawn_blocking(|| writer.close()).await
        {
            tracing::warn!(%error, "capture file incomplete");
        }
        if let Some(when_up) = self.when_up.take() {
            // Nobody to tell if the application gave up.
            drop(when_up.send(Err(self.connect_error(&reason))));
        }
        self.shared.end(reason);
    }

    /// Waits for the transports that are ending, at most until the application's deadline.
    async fn close_all(&mut self) {
        let mut closing = std::mem::take(&mut self.closing);
        let limit = self.release_by.map_or(LONGEST_TIME, |by| {
            by.saturating_duration_since(Instant::now())
        });
        let all = async { while closing.join_next().await.is_some() {} };
        // Each ends within a time of its own; what is left after the deadline is dropped.
        drop(tokio::time::timeout(limit, all).await);
    }

    fn connect_error(&mut self, reason: &DownReason) -> ConnectError {
        match reason {
            DownReason::CannotConnect(AttemptFailure::Transport(failure)) => {
                match self.last_failure.take() {
                    Some((server, source)) => ConnectError::Transport { server, source },
                    None => ConnectError::NotConfigured(AttemptFailure::Transport(*failure)),
                }
            }
            DownReason::CannotConnect(AttemptFailure::Refused(refusal)) => {
                ConnectError::Refused(refusal.clone())
            }
            DownReason::CannotConnect(failure) => ConnectError::NotConfigured(failure.clone()),
            other => ConnectError::Ended(other.clone()),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<DownReason> {
        for _ in 0..TURNS_PER_POLL {
            let now = Instant::now();
            self.take_commands(now);
            self.client.handle_timeout(now);
            let mut progress = self.poll_openings(cx, now);
            progress |= self.receive(cx, now);
            progress |= self.take_events(now);
            progress |= self.send(cx, now);
            if let Some(reason) = self.down.take() {
                return Poll::Ready(reason);
            }
            if !progress && !self.arm(cx, now) && self.shared.lock().sleep(cx.waker()) {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn take_commands(&mut self, now: Instant) {
        let commands = {
            let mut state = self.shared.lock();
            state.take_commands()
        };
        for command in commands {
            match command {
                Command::Release(deadline) => {
                    let by = now + deadline.min(LONGEST_TIME);
                    self.release_by.get_or_insert(by);
                    self.client.release(now, by);
                }
                Command::NetworkChanged => self.client.network_changed(now),
            }
        }
    }

    /// Arms the timer; true if something is due already.
    fn arm(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let stack = self.shared.lock().stack_timeout(now);
        let Some(due) = [self.client.poll_timeout(), stack]
            .into_iter()
            .flatten()
            .min()
        else {
            return false;
        };
        let due = tokio::time::Instant::from_std(due);
        if self.timer.deadline() != due {
            self.timer.as_mut().reset(due);
        }
        self.timer.as_mut().poll(cx).is_ready()
    }

    fn take_events(&mut self, now: Instant) -> bool {
        let mut progress = false;
        while let Some(event) = self.client.poll_event() {
            progress = true;
            match event {
                Event::Open { epoch, target } => self.open(now, epoch, target),
                Event::Close { epoch, reason } => {
                    tracing::debug!(?epoch, ?reason, "closing transport");
                    self.close(epoch);
                }
                Event::Configured(assignment) => self.configured(*assignment),
                Event::Suspended(reason) => {
                    tracing::info!(?reason, "tunnel suspended");
                    self.notify(Notification::Suspended(reason));
                }
                Event::Resumed(assignment) => {
                    let config = self.assign(*assignment);
                    tracing::info!(tunnel = config.tunnel_id, transport = %config.transport, "tunnel resumed");
                    if let Some(sender) = &self.config {
                        sender.send_replace(Arc::clone(&config));
                    }
                    self.notify(Notification::Resumed(config));
                }
                Event::Down(reason) => {
                    tracing::info!(%reason, "tunnel down");
                    let epochs: Vec<Epoch> = self.links.iter().map(|link| link.epoch).collect();
                    for epoch in epochs {
                        self.close(epoch);
                    }
                    self.openings.clear();
                    self.down = Some(reason);
                }
                // Services are asked for by socket options, of which there are none yet.
                other => tracing::debug!(event = ?other, "ignored"),
            }
        }
        progress
    }

    fn notify(&self, notification: Notification) {
        self.shared.notify(notification);
    }

    fn configured(&mut self, assignment: Assignment) {
        let config = self.assign(assignment);
        tracing::info!(tunnel = config.tunnel_id, transport = %config.transport, addresses = ?config.addresses, "tunnel up");
        let (sender, receiver) = watch::channel(Arc::clone(&config));
        self.config = Some(sender);
        self.notify(Notification::Up(config));
        if let Some(when_up) = self.when_up.take() {
            drop(when_up.send(Ok(receiver)));
        }
    }

    /// Puts an assignment in force.
    fn assign(&mut self, assignment: Assignment) -> Arc<TunnelConfig> {
        let config = Arc::new(TunnelConfig::from(assignment));
        self.limits = Limits::new(config.inner_mtu);
        let mtu = usize::from(config.inner_mtu);
        self.outbox.retain(|packet| packet.len() <= mtu);
        let addresses: Vec<_> = config.addresses.iter().map(|inner| inner.address).collect();
        let mut state = self.shared.lock();
        state.stack.set_mtu(config.inner_mtu);
        if let Err(error) = state.stack.set_addresses(&addresses) {
            // The control plane has checked them; the stack is stricter only about their number.
            tracing::warn!(%error, "inner addresses refused by the stack");
        }
        drop(state);
        for link in &mut self.links {
            link.decoder.set_limits(self.limits);
            if let Some(dscp) = config.dscp.and_then(Dscp::new)
                && let Err(error) = link.transport.set_dscp(dscp)
            {
                tracing::debug!(%error, "outer packets cannot be marked");
            }
        }
        config
    }

    fn open(&mut self, now: Instant, epoch: Epoch, target: Target) {
        let Some(server) = self.server(target) else {
            return self
                .client
                .transport_failed(now, epoch, TransportFailure::Unsupported);
        };
        self.notify(Notification::Connecting(server.clone()));
        let future = self.connect(&server, target.endpoint.origin());
        self.openings.push(Opening {
            epoch,
            server,
            configured: matches!(target.endpoint, Endpoint::Configured(_)),
            future,
        });
    }

    /// Where a target is.
    fn server(&self, target: Target) -> Option<Server> {
        match target.endpoint {
            Endpoint::Configured(index) => self.servers.get(index).cloned(),
            Endpoint::Address { address, .. } => Some(Server::new(
                target.transport,
                address.ip().to_string(),
                address.port(),
            )),
        }
    }

    fn connect(
        &self,
        server: &Server,
        origin: usize,
    ) -> Pin<Box<dyn Future<Output = Opened> + Send>> {
        let kind = kind(server.transport());
        let origin = self.servers.get(origin).unwrap_or(server);
        let name = self.server_name.as_deref().unwrap_or_else(|| origin.host());
        // Names were checked when the driver was made; a redirect brings addresses.
        let target = match (
            server.host().parse::<transport::Host>(),
            name.parse::<transport::Host>(),
        ) {
            (Ok(host), Ok(name)) => transport::Target::new(kind, host, server.port())
                .with_server_name(name.server_name()),
            _ => {
                let host = server.host().to_owned();
                return Box::pin(async { Err(transport::ConnectError::NoAddress { host }) });
            }
        };
        let security = self.security.clone();
        let options = self.options.clone();
        Box::pin(async move { transport::connect(&target, security.as_ref(), &options).await })
    }

    fn poll_openings(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let mut progress = false;
        let mut index = 0;
        while let Some(opening) = self.openings.get_mut(index) {
            let Poll::Ready(result) = opening.future.as_mut().poll(cx) else {
                index += 1;
                continue;
            };
            progress = true;
            let Opening {
                epoch,
                server,
                configured,
                ..
            } = self.openings.swap_remove(index);
            match result {
                Ok(transport) => {
                    // Where a redirect led is no host that the application named.
                    if configured {
                        self.client.resolved(&[transport.peer_addr().ip()]);
                    }
                    self.links.push(Link {
                        epoch,
                        server,
                        transport,
                        decoder: StreamDecoder::new(self.limits),
                        control: VecDeque::new(),
                    });
                    self.client.transport_opened(now, epoch);
                }
                Err(error) => {
                    tracing::debug!(%server, %error, "transport failed");
                    self.notify(Notification::AttemptFailed {
                        server: server.clone(),
                        reason: error.to_string(),
                    });
                    self.client.transport_failed(now, epoch, failure(&error));
                    self.last_failure = Some((server, error));
                }
            }
        }
        progress
    }

    /// Reads what has arrived on all transports.
    fn receive(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let mut progress = false;
        let mut index = 0;
        let mut buffer = std::mem::take(&mut self.buffer);
        while index < self.links.len() {
            for _ in 0..READS_PER_TURN {
                let Some(link) = self.links.get_mut(index) else {
                    break;
                };
                match link.transport.poll_recv(cx, &mut buffer) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(len)) => {
                        progress = true;
                        self.handle_bytes(now, index, buffer.get(..len).unwrap_or_default());
                    }
                    Poll::Ready(Err(error)) => {
                        progress = true;
                        self.lost(now, index, &error);
                        break;
                    }
                }
            }
            index += 1;
        }
        self.buffer = buffer;
        if progress {
            self.shared.lock().wake_readers();
        }
        progress
    }

    fn lost(&mut self, now: Instant, index: usize, error: &TransportError) {
        let link = self.links.swap_remove(index);
        tracing::debug!(epoch = ?link.epoch, %error, "transport lost");
        if let TransportError::Stream(StreamError::Tls(TlsError::Alert { alert })) = error {
            // With TLS 1.3 a server that refuses our certificate says so after our handshake is done.
            self.last_failure = Some((link.server, transport::ConnectError::Alert(*alert)));
            self.client
                .transport_failed(now, link.epoch, TransportFailure::Handshake);
        }
        let why = if error.is_orderly() {
            TransportLoss::ClosedByServer
        } else {
            TransportLoss::Failed
        };
        // Without effect if the attempt has failed already.
        self.client.transport_lost(now, link.epoch, why);
    }

    /// Hands in what one read gave: some of a stream, or one datagram.
    fn handle_bytes(&mut self, now: Instant, index: usize, bytes: &[u8]) {
        let Some(link) = self.links.get_mut(index) else {
            return;
        };
        let epoch = link.epoch;
        let capture = self.capture.as_ref().map(|(_, capture)| capture);
        let mut state = self.shared.lock();
        let mut deliver = |client: &mut Client, unit: Unit<'_>| {
            trace(capture, &unit, Direction::Inbound);
            if let Inbound::Deliver(packet) = client.handle_unit(now, epoch, unit) {
                state.stack.handle_packet(now, packet.as_bytes());
            }
        };
        let bad = if link.transport.kind().is_stream() {
            let mut feed = link.decoder.feed(bytes);
            loop {
                match feed.next() {
                    Ok(Some(unit)) => deliver(&mut self.client, unit),
                    Ok(None) => break None,
                    Err(error) => break Some(BadUnit::Framing(error)),
                }
            }
        } else {
            match Unit::decode_datagram(bytes, &self.limits) {
                Ok(unit) => {
                    deliver(&mut self.client, unit);
                    None
                }
                Err(error) => Some(BadUnit::Datagram(error)),
            }
        };
        drop(state);
        if let Some(bad) = bad {
            self.client.handle_bad_unit(now, epoch, bad);
        }
    }

    /// Sends what the control plane and the sockets have for the transports; true if something left.
    fn send(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        self.take_control();
        let mut progress = false;
        let mut index = 0;
        let packets_to = self.client.can_send();
        while let Some(link) = self.links.get_mut(index) {
            let capture = self.capture.as_ref().map(|(_, capture)| capture);
            let sent = link.send_control(cx, capture).and_then(|control| {
                let packets = if packets_to == Some(link.epoch) && link.control.is_empty() {
                    send_packets(
                        link,
                        &self.shared,
                        &mut self.outbox,
                        self.limits,
                        cx,
                        capture,
                    )?
                } else {
                    false
                };
                if let Poll::Ready(Err(error)) = link.transport.poll_flush(cx) {
                    return Err(error);
                }
                Ok((control, packets))
            });
            match sent {
                Ok((control, packets)) => {
                    progress |= control || packets;
                    if packets {
                        self.client.note_sent(now);
                    }
                    index += 1;
                }
                Err(error) => {
                    progress = true;
                    self.lost(now, index, &error);
                }
            }
        }
        progress
    }

    /// Moves control messages to the transports they are for.
    fn take_control(&mut self) {
        while let Some(transmit) = self.client.poll_transmit() {
            if let Some(link) = self
                .links
                .iter_mut()
                .find(|link| link.epoch == transmit.epoch && link.control.len() < CONTROL_BACKLOG)
            {
                link.control.push_back(transmit.bytes);
            }
        }
    }

    /// Ends a transport in the background, behind what is queued for it.
    fn close(&mut self, epoch: Epoch) {
        self.take_control();
        self.openings.retain(|opening| opening.epoch != epoch);
        let Some(index) = self.links.iter().position(|link| link.epoch == epoch) else {
            return;
        };
        let Link {
            mut transport,
            control,
            ..
        } = self.links.swap_remove(index);
        if let Some((_, capture)) = &self.capture {
            for message in &control {
                capture.record(Interface::Control, Direction::Outbound, message);
            }
        }
        self.closing.spawn(async move {
            let units: Vec<IoSlice<'_>> = control.iter().map(|bytes| IoSlice::new(bytes)).collect();
            // The end of a transport is nobody's error.
            drop(tokio::time::timeout(CLOSE_TIME, transport.send(&units)).await);
            transport.close(CLOSE_TIME).await;
        });
        while self.closing.try_join_next().is_some() {}
    }
}

impl Link {
    fn send_control(
        &mut self,
        cx: &mut Context<'_>,
        capture: Option<&Capture>,
    ) -> Result<bool, TransportError> {
        let mut progress = false;
        while !self.control.is_empty() {
            let units: Vec<IoSlice<'_>> = self
                .control
                .iter()
                .map(|bytes| IoSlice::new(bytes))
                .collect();
            let Poll::Ready(taken) = self.transport.poll_send_batch(cx, &units) else {
                break;
            };
            let taken = taken?;
            for bytes in self.control.drain(..taken) {
                progress = true;
                if let Some(capture) = capture {
                    capture.record(Interface::Control, Direction::Outbound, &bytes);
                }
            }
        }
        Ok(progress)
    }
}

/// Sends inner packets until there are none or the transport takes no more.
fn send_packets(
    link: &mut Link,
    shared: &Shared,
    outbox: &mut VecDeque<Vec<u8>>,
    limits: Limits,
    cx: &mut Context<'_>,
    capture: Option<&Capture>,
) -> Result<bool, TransportError> {
    let mut progress = false;
    let mut sent: Vec<Vec<u8>> = Vec::new();
    loop {
        {
            let mut state = shared.lock();
            for buffer in sent.drain(..) {
                state.stack.recycle(buffer);
            }
            refill(outbox, &mut state.stack, limits);
        }
        if outbox.is_empty() {
            return Ok(progress);
        }
        let mut units = [IoSlice::new(&[]); BATCH];
        for (unit, packet) in units.iter_mut().zip(outbox.iter()) {
            *unit = IoSlice::new(packet);
        }
        let units = units.get(..outbox.len()).unwrap_or_default();
        let Poll::Ready(taken) = link.transport.poll_send_batch(cx, units) else {
            return Ok(progress);
        };
        let taken = taken?;
        progress |= taken > 0;
        if let Some(capture) = capture {
            for packet in outbox.iter().take(taken) {
                capture.record(Interface::Inner, Direction::Outbound, packet);
            }
        }
        sent.extend(outbox.drain(..taken));
    }
}

/// Takes packets from the stack. One that was made before a resume lowered the inner MTU does not go out: on a stream
/// it would end the transport (spec 2).
fn refill(outbox: &mut VecDeque<Vec<u8>>, stack: &mut Stack, limits: Limits) {
    while outbox.len() < BATCH
        && let Some(packet) = stack.poll_transmit()
    {
        if packet.len() <= usize::from(limits.inner_mtu) {
            outbox.push_back(packet);
        } else {
            stack.recycle(packet);
        }
    }
}

fn trace(capture: Option<&Capture>, unit: &Unit<'_>, direction: Direction) {
    let Some(capture) = capture else { return };
    match unit {
        Unit::Ip(packet) => capture.record(Interface::Inner, direction, packet.as_bytes()),
        Unit::Control(message) => capture.record(Interface::Control, direction, message.as_bytes()),
        Unit::Redundancy(_) | Unit::Reserved(_) => {}
    }
}

/// What the control plane wants to know of a failure; the details are kept for people.
fn failure(error: &transport::ConnectError) -> TransportFailure {
    use transport::ConnectError;
    match error {
        ConnectError::Resolve { .. } | ConnectError::NoAddress { .. } => TransportFailure::Resolve,
        ConnectError::Certificate(_) => TransportFailure::Certificate,
        ConnectError::NoSecurity(_) | ConnectError::DtlsConfig(_) => TransportFailure::Unsupported,
        ConnectError::Alert(_)
        | ConnectError::Alpn
        | ConnectError::Tls(_)
        | ConnectError::Dtls(_) => TransportFailure::Handshake,
        _ => TransportFailure::Unreachable,
    }
}

const fn kind(transport: Transport) -> transport::TransportKind {
    match transport {
        Transport::Tcp => transport::TransportKind::Tcp,
        Transport::Tls => transport::TransportKind::Tls,
        Transport::Udp => transport::TransportKind::Udp,
        Transport::Dtls => transport::TransportKind::Dtls,
    }
}

#[cfg(test)]
mod tests {
    use tsc_eip::SendOptions;

    use super::*;

    #[test]
    fn packets_made_for_a_larger_inner_mtu_do_not_leave() {
        let mut stack = Stack::new(StackConfig::default(), 1);
        stack.set_mtu(1400);
        stack.set_addresses(&["10.0.0.1".parse().unwrap()]).unwrap();
        let socket = stack.udp_bind("10.0.0.1:4000".parse().unwrap()).unwrap();
        let peer = "10.0.0.2:5000".parse().unwrap();
        for size in [1300, 100] {
            let payload = vec![0; size];
            stack
                .udp_send_to(
                    Instant::now(),
                    socket,
                    peer,
                    &payload,
                    &SendOptions::default(),
                )
                .unwrap();
        }
        let mut outbox = VecDeque::new();
        refill(&mut outbox, &mut stack, Limits::new(1280));
        assert_eq!(outbox.iter().map(Vec::len).collect::<Vec<_>>(), [128]);
    }
}
