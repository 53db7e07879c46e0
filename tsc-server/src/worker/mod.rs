//! The data plane: one future that owns listeners, sessions and send queues of a worker.
//!
//! ```text
//!  streams (shared read buffer) --+                                  +--> stream queues --> one write each
//!  UDP ports (recvmmsg, GRO) -----+--> units --> csm::server --------+--> UDP batches  --> sendmmsg, GSO
//!    '- DTLS endpoints -----------+     |  answers, events           +--> DTLS seal --'
//!                                       '--> batch of packets --route-'
//! ```
//!
//! A turn reads a bounded amount from everything that is ready, forwards, and flushes what it touched: system calls
//! and wake-ups serve batches. Nothing is shared, so nothing is locked. An idle tunnel has no task, no timer of its own
//! and no buffer.

mod batch;
mod counters;
mod open;
mod ports;
mod ready;
mod streams;
mod way;

use std::{
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use tsc_csm::{
    Transport,
    server::{
        BadUnit, BindingId, BindingInfo, BindingLoss, Destination, Event, Identity, Server as Core, Unbound, Verdict,
    },
};
use tsc_osaa::{
    cert::PeerIdentity,
    datagram::RecvBatch,
    dtls::{AssociationKey, DtlsEndpointEvent, DtlsError},
    listener::{ListenerEvent, StreamListener},
    stream::{StreamError, StreamTransport},
    trace::{Capture, CaptureWriter, Direction, Interface as Side},
};
use tsc_tpl::{FramingError, IpPacket, Limits, StreamDecoder, Unit};

pub use self::counters::Counters;
use self::{
    batch::Batch,
    ports::{Kind, Port},
    ready::Token,
    streams::Streams,
    way::{Way, Ways},
};
pub use self::open::Bound;
pub(crate) use self::open::open;

/// Reads of one stream in one turn before the others get theirs.
const READS_PER_STREAM: usize = 4;
/// Batches of one UDP port in one turn before the others get theirs.
const BATCHES_PER_PORT: usize = 4;
/// Connections accepted in one turn.
const ACCEPTS_PER_TURN: usize = 64;
/// Orders that wait for the worker.
pub(crate) const ORDERS: usize = 16;

/// What the rest of the process wants of a worker.
#[derive(Debug)]
pub(crate) enum Order {
    /// Release all tunnels, then end; at the latest after this time.
    Stop(Duration),
    /// Report.
    Report(oneshot::Sender<Report>),
}

/// Figures of one worker.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// Of the session core.
    pub sessions: tsc_csm::server::Stats,
    /// Of the pools.
    pub pools: Vec<tsc_csm::server::pool::PoolStats>,
    /// Of the data plane.
    pub counters: Counters,
    /// TCP and TLS connections open now.
    pub streams: usize,
}

/// A TCP port.
#[derive(Debug)]
struct Listener {
    socket: StreamListener,
    interface: usize,
}

/// What the worker needs to know of an interface for each packet.
#[derive(Clone, Copy, Debug)]
struct Interface {
    limits: Limits,
    inter_client_block: bool,
}

#[derive(Debug)]
enum Phase {
    Running,
    /// Until the sessions are gone, at the latest at this time.
    Stopping(Instant),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Worker {
    core: Core,
    interfaces: Vec<Interface>,
    listeners: Vec<Listener>,
    ports: Vec<Port>,
    streams: Streams,
    ways: Ways,
    batch: Batch,
    counters: Counters,
    /// The file, and the handle that fills it.
    capture: Option<(CaptureWriter, Capture)>,
    orders: mpsc::Receiver<Order>,
    phase: Phase,
    timer: Pin<Box<tokio::time::Sleep>>,
    read_buffer: Vec<u8>,
    receive: RecvBatch,
    /// Reused by each turn.
    ready: Vec<Arc<Token>>,
    /// Something was left undone: come back without waiting.
    again: bool,
}

impl Future for Worker {
    /// The last figures, and the closed streams that have still to send.
    type Output = (Report, JoinSet<()>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        this.again = false;
        let now = Instant::now();
        this.take_orders(cx, now);
        this.accept(cx, now);
        this.read_streams(cx, now);
        this.read_ports(cx, now);
        this.timeouts(now);
        this.settle(cx, now);
        this.flush(cx);
        if this.is_done(now) {
            return Poll::Ready((this.report(), this.streams.take_closing()));
        }
        this.arm(cx, now);
        if this.again {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl Worker {
    fn take_orders(&mut self, cx: &mut Context<'_>, now: Instant) {
        while let Poll::Ready(order) = self.orders.poll_recv(cx) {
            match order {
                Some(Order::Report(to)) => drop(to.send(self.report())),
                Some(Order::Stop(deadline)) => self.stop(now, deadline),
                // The handle is gone, and with it all interest in this server.
                None => {
                    self.stop(now, Duration::ZERO);
                    return;
                }
            }
        }
    }

    fn stop(&mut self, now: Instant, deadline: Duration) {
        if matches!(self.phase, Phase::Running) {
            self.phase = Phase::Stopping(now + deadline);
            self.core.release_all(now, Some("the server is stopping"));
        }
    }

    fn is_done(&self, now: Instant) -> bool {
        match self.phase {
            Phase::Running => false,
            Phase::Stopping(deadline) => deadline <= now || self.core.stats().sessions == 0,
        }
    }

    fn report(&self) -> Report {
        let send_errors = self.ports.iter().map(|port| {
            let stats = port.socket.stats();
            stats.send_errors + stats.too_big + port.unsent
        });
        Report {
            sessions: self.core.stats(),
            pools: self.core.pool_stats(),
            counters: Counters { send_errors: send_errors.sum(), ..self.counters },
            streams: self.streams.len(),
        }
    }

    fn accept(&mut self, cx: &mut Context<'_>, now: Instant) {
        for index in 0..self.listeners.len() {
            for turn in 0..=ACCEPTS_PER_TURN {
                let Some(listener) = self.listeners.get_mut(index) else { break };
                if turn == ACCEPTS_PER_TURN {
                    self.again = true;
                    break;
                }
                match listener.socket.poll_accept(cx) {
                    Poll::Ready(ListenerEvent::Ready(stream)) => self.add_stream(now, index, stream),
                    // Refusals and failures are counted and logged by the listener.
                    Poll::Ready(_) => {}
                    Poll::Pending => break,
                }
            }
        }
    }

    fn add_stream(&mut self, now: Instant, listener: usize, stream: StreamTransport) {
        let Some(interface) = self.listeners.get(listener).map(|listener| listener.interface) else {
            return;
        };
        let tls = stream.tls_info().is_some();
        let info = BindingInfo {
            interface,
            transport: if tls { Transport::Tls } else { Transport::Tcp },
            peer: stream.peer_addr(),
            identity: stream.peer_identity().map(|peer| identity(peer)),
        };
        match self.core.open_binding(now, info) {
            Ok(binding) => {
                let decoder = StreamDecoder::expecting_request(self.limits(interface));
                self.ways.insert(binding, Way::Stream(self.streams.vacant()));
                self.streams.insert(stream, decoder, binding, listener);
            }
            Err(error) => {
                self.counters.not_opened += 1;
                tracing::debug!(peer = %stream.peer_addr(), %error, "connection not taken");
            }
        }
    }

    fn limits(&self, interface: usize) -> Limits {
        self.interfaces.get(interface).map_or(Limits::default(), |interface| interface.limits)
    }

    fn read_streams(&mut self, cx: &mut Context<'_>, now: Instant) {
        let mut ready = std::mem::take(&mut self.ready);
        self.streams.take_ready(cx.waker(), &mut ready);
        let mut buffer = std::mem::take(&mut self.read_buffer);
        for token in ready.drain(..) {
            self.read_stream(cx, now, token.index(), &mut buffer);
        }
        self.read_buffer = buffer;
        self.ready = ready;
    }

    fn read_stream(&mut self, cx: &mut Context<'_>, now: Instant, slot: usize, buffer: &mut [u8]) {
        if let Some(stream) = self.streams.get_mut(slot) {
            // It may have been listed because its socket takes output again.
            stream.flush();
        }
        for _ in 0..READS_PER_STREAM {
            let Some(stream) = self.streams.get_mut(slot) else {
                return;
            };
            let binding = stream.binding;
            match stream.poll_recv(buffer) {
                Poll::Pending => return self.streams.watch(slot, now),
                Poll::Ready(Ok(len)) => {
                    let open = self.decode(now, slot, binding, buffer.get(..len).unwrap_or_default());
                    self.forward(cx);
                    if !open {
                        return;
                    }
                }
                Poll::Ready(Err(error)) => return self.stream_lost(now, slot, binding, &error),
            }
        }
        if let Some(stream) = self.streams.get_mut(slot) {
            stream.mark();
        }
    }

    /// Hands the units of `bytes` in; false when the stream is closed.
    fn decode(&mut self, now: Instant, slot: usize, binding: BindingId, bytes: &[u8]) -> bool {
        let Some(stream) = self.streams.get_mut(slot) else {
            return false;
        };
        let interface = self.listeners.get(stream.listener).map_or(0, |listener| listener.interface);
        let mut feed = stream.decoder.feed(bytes);
        let verdict = loop {
            let unit = match feed.next() {
                Ok(Some(unit)) => unit,
                Ok(None) => return true,
                Err(error) => break self.core.handle_bad_unit(now, binding, BadUnit::Framing(error)),
            };
            trace(self.capture.as_ref(), &unit, Direction::Inbound);
            match self.core.handle_unit(now, binding, &unit) {
                Verdict::Forward(_) => {
                    if let Unit::Ip(packet) = &unit {
                        let interface = self.interfaces.get(interface);
                        route(&self.core, interface, packet, &mut self.batch, &mut self.counters);
                    }
                }
                Verdict::Consumed | Verdict::Dropped(_) => {}
                close @ Verdict::Close(_) => break close,
            }
        };
        // The event that goes with it closes the stream, behind the answers that are still queued.
        tracing::debug!(?binding, ?verdict, "stream ends");
        false
    }

    fn stream_lost(&mut self, now: Instant, slot: usize, binding: BindingId, error: &StreamError) {
        let why = match error {
            StreamError::Closed => BindingLoss::ClosedByClient,
            _ => BindingLoss::Failed,
        };
        tracing::debug!(?binding, %error, "connection ended");
        self.core.binding_lost(now, binding, why);
        self.ways.remove(binding);
        self.streams.close(slot);
    }

    fn read_ports(&mut self, cx: &mut Context<'_>, now: Instant) {
        let mut receive = std::mem::replace(&mut self.receive, RecvBatch::new(1));
        for port in 0..self.ports.len() {
            self.read_port(cx, now, port, &mut receive);
            self.dtls_events(cx, now, port);
        }
        self.receive = receive;
    }

    fn read_port(&mut self, cx: &mut Context<'_>, now: Instant, index: usize, receive: &mut RecvBatch) {
        for turn in 0..=BATCHES_PER_PORT {
            let Some(port) = self.ports.get_mut(index) else { return };
            if turn == BATCHES_PER_PORT {
                self.again = true;
                return;
            }
            match port.socket.poll_recv(cx, receive) {
                Poll::Pending => return,
                Poll::Ready(Err(error)) => {
                    tracing::warn!(local = %port.socket.local_addr(), %error, "UDP port fails");
                    return;
                }
                Poll::Ready(Ok(_)) => {}
            }
            // The binding of the datagram before: one lookup for a run of datagrams from one address.
            let mut run: Option<(SocketAddr, BindingId)> = None;
            for datagram in receive.datagrams() {
                match self.ports.get(index).map(|port| port.classify(datagram.bytes)) {
                    Some(Kind::Plain) => self.plain_datagram(now, index, datagram.peer, datagram.bytes, &mut run),
                    Some(Kind::Dtls) => self.dtls_datagram(cx, now, index, datagram.peer, datagram.bytes),
                    Some(Kind::Foreign) | None => self.counters.foreign_datagrams += 1,
                }
                if self.batch.is_full() {
                    self.forward(cx);
                }
            }
            self.forward(cx);
        }
    }

    fn plain_datagram(
        &mut self,
        now: Instant,
        index: usize,
        peer: SocketAddr,
        bytes: &[u8],
        run: &mut Option<(SocketAddr, BindingId)>,
    ) {
        let Some(port) = self.ports.get(index) else { return };
        let Some(listener) = port.plain else { return };
        let known = match *run {
            Some((last, binding)) if last == peer => Some(binding),
            _ => self.core.lookup(listener, peer),
        };
        let Some(binding) = known else {
            // An address that has a DTLS tunnel keeps its kind (spec 2).
            if port.endpoint_ref().is_some_and(|endpoint| endpoint.find(peer).is_some()) {
                self.counters.foreign_datagrams += 1;
                return;
            }
            if let Unbound::Bound(binding) = self.core.handle_unbound(now, listener, peer, bytes) {
                self.ways.insert(binding, Way::Udp { port: index, peer });
                trace_bytes(self.capture.as_ref(), bytes, Direction::Inbound);
            }
            return;
        };
        *run = Some((peer, binding));
        let interface = port.interface;
        if self.datagram_unit(now, interface, binding, bytes) {
            *run = None;
        }
        // A request on a bound address can have made a new tunnel (spec 4): then the binding is another.
        if let Some(current) = self.core.lookup(listener, peer).filter(|current| *current != binding) {
            self.ways.insert(current, Way::Udp { port: index, peer });
            *run = None;
        }
    }

    fn dtls_datagram(&mut self, cx: &mut Context<'_>, now: Instant, index: usize, peer: SocketAddr, bytes: &[u8]) {
        let Some(port) = self.ports.get_mut(index) else { return };
        let plain = port.plain.and_then(|listener| self.core.lookup(listener, peer));
        let Some(endpoint) = port.endpoint() else { return };
        if plain.is_some() {
            self.counters.foreign_datagrams += 1;
            return;
        }
        if let Some(key) = endpoint.handle_datagram(now, peer, bytes) {
            self.dtls_received(cx, now, index, key);
        }
    }

    /// Hands in what an association has received.
    fn dtls_received(&mut self, cx: &mut Context<'_>, now: Instant, index: usize, key: AssociationKey) {
        // A handshake may have finished with this datagram: then the association is not bound yet.
        if self.ports.get(index).is_some_and(|port| port.binding(key).is_none()) {
            return self.dtls_events(cx, now, index);
        }
        let mut buffer = std::mem::take(&mut self.read_buffer);
        loop {
            let Some(port) = self.ports.get_mut(index) else { break };
            let Some(binding) = port.binding(key) else { break };
            let interface = port.interface;
            let Some(len) = port.endpoint().and_then(|endpoint| endpoint.recv(key, &mut buffer)) else {
                break;
            };
            let unit = buffer.get(..len).unwrap_or_default();
            if self.datagram_unit(now, interface, binding, unit) {
                break;
            }
            if self.batch.is_full() {
                self.forward(cx);
            }
        }
        self.read_buffer = buffer;
    }

    /// Hands in one datagram of a binding; true when that closed the binding.
    fn datagram_unit(&mut self, now: Instant, interface: usize, binding: BindingId, bytes: &[u8]) -> bool {
        let verdict = match Unit::decode_datagram(bytes, &self.limits(interface)) {
            Ok(unit) => {
                trace(self.capture.as_ref(), &unit, Direction::Inbound);
                let verdict = self.core.handle_unit(now, binding, &unit);
                if let (Verdict::Forward(_), Unit::Ip(packet)) = (verdict, &unit) {
                    let interface = self.interfaces.get(interface);
                    route(&self.core, interface, packet, &mut self.batch, &mut self.counters);
                }
                verdict
            }
            Err(error) => self.core.handle_bad_unit(now, binding, BadUnit::Datagram(error)),
        };
        matches!(verdict, Verdict::Close(_))
    }

    fn dtls_events(&mut self, cx: &mut Context<'_>, now: Instant, index: usize) {
        while let Some(event) = self.ports.get_mut(index).and_then(|port| port.poll_dtls_event(cx)) {
            match event {
                DtlsEndpointEvent::Connected { key, peer, info } => {
                    let Some(port) = self.ports.get_mut(index) else { return };
                    let opened = self.core.open_binding(
                        now,
                        BindingInfo {
                            interface: port.interface,
                            transport: Transport::Dtls,
                            peer,
                            identity: info.peer.as_ref().map(identity),
                        },
                    );
                    match opened {
                        Ok(binding) => {
                            port.bind(key, binding);
                            self.ways.insert(binding, Way::Dtls { port: index, key });
                            self.dtls_received(cx, now, index, key);
                        }
                        Err(error) => {
                            self.counters.not_opened += 1;
                            tracing::debug!(%peer, %error, "association not taken");
                            if let Some(endpoint) = port.endpoint() {
                                endpoint.close(now, key);
                            }
                        }
                    }
                }
                DtlsEndpointEvent::Readable { key } => self.dtls_received(cx, now, index, key),
                DtlsEndpointEvent::Closed { key, peer, error } => {
                    let Some(binding) = self.ports.get_mut(index).and_then(|port| port.unbind(key)) else {
                        continue;
                    };
                    tracing::debug!(%peer, ?binding, %error, "association ended");
                    self.ways.remove(binding);
                    let why = match error {
                        DtlsError::PeerClosed => BindingLoss::ClosedByClient,
                        _ => BindingLoss::Failed,
                    };
                    self.core.binding_lost(now, binding, why);
                }
                // Counted by the endpoint.
                DtlsEndpointEvent::HandshakeFailed { peer, error } => {
                    tracing::debug!(%peer, %error, "DTLS handshake failed");
                }
                _ => {}
            }
        }
        self.forward(cx);
    }

    /// Moves the packets of the batch to the send queues of their tunnels.
    fn forward(&mut self, cx: &mut Context<'_>) {
        if self.batch.is_empty() {
            return;
        }
        let mut batch = std::mem::take(&mut self.batch);
        for (to, packet) in batch.iter() {
            let way = self.core.binding_of(to).and_then(|binding| self.ways.find(binding));
            let sent = match way {
                None => {
                    self.counters.no_transport += 1;
                    continue;
                }
                Some(Way::Stream(slot)) => self.streams.queue_packet(slot, packet),
                Some(Way::Udp { port, peer }) => {
                    if let Some(port) = self.ports.get_mut(port) {
                        port.queue(cx, peer, packet);
                    }
                    true
                }
                Some(Way::Dtls { port, key }) => {
                    self.ports.get_mut(port).is_some_and(|port| port.seal(key, packet).is_ok())
                }
            };
            if sent {
                self.counters.switched += 1;
                if let Some((_, capture)) = &self.capture {
                    capture.record(Side::Inner, Direction::Outbound, packet);
                }
            } else {
                self.counters.queue_full += 1;
            }
        }
        batch.clear();
        self.batch = batch;
    }

    fn timeouts(&mut self, now: Instant) {
        if self.core.poll_timeout().is_some_and(|due| due <= now) {
            self.core.handle_timeout(now);
        }
        for port in &mut self.ports {
            if port.timeout().is_some_and(|due| due <= now) {
                port.handle_timeout(now);
            }
        }
        while let Some(binding) = self.streams.pop_stalled(now) {
            self.counters.stalled += 1;
            let _ends_by_event = self.core.handle_bad_unit(now, binding, BadUnit::Framing(FramingError::Stalled));
        }
    }

    /// Sends what the session core wants to say, and acts on what it tells.
    fn settle(&mut self, cx: &mut Context<'_>, now: Instant) {
        for index in 0..self.ports.len() {
            self.dtls_events(cx, now, index);
        }
        while let Some(transmit) = self.core.poll_transmit() {
            trace_bytes(self.capture.as_ref(), &transmit.bytes, Direction::Outbound);
            let way = match transmit.to {
                Destination::Binding(binding) => self.ways.find(binding),
                Destination::Stateless { listener, peer } => self
                    .ports
                    .iter()
                    .position(|port| port.plain == Some(listener))
                    .map(|port| Way::Udp { port, peer }),
            };
            let sent = match way {
                None => false,
                Some(Way::Stream(slot)) => self.streams.queue(slot, &transmit.bytes).is_ok(),
                Some(Way::Udp { port, peer }) => self.ports.get_mut(port).is_some_and(|port| {
                    port.queue(cx, peer, &transmit.bytes);
                    true
                }),
                Some(Way::Dtls { port, key }) => {
                    self.ports.get_mut(port).is_some_and(|port| port.seal(key, &transmit.bytes).is_ok())
                }
            };
            if !sent {
                self.counters.control_unsent += 1;
            }
        }
        while let Some(event) = self.core.poll_event() {
            log(&event);
            if let Event::CloseBinding { binding, .. } = event {
                self.close(now, binding);
            }
        }
    }

    /// Ends the transport of a binding that the session core has given up.
    fn close(&mut self, now: Instant, binding: BindingId) {
        match self.ways.remove(binding) {
            Some(Way::Stream(slot)) => self.streams.close(slot),
            Some(Way::Dtls { port, key }) => {
                if let Some(port) = self.ports.get_mut(port) {
                    port.unbind(key);
                    if let Some(endpoint) = port.endpoint() {
                        endpoint.close(now, key);
                    }
                }
            }
            Some(Way::Udp { .. }) | None => {}
        }
    }

    fn flush(&mut self, cx: &mut Context<'_>) {
        self.streams.flush();
        for port in &mut self.ports {
            port.flush(cx);
        }
    }

    /// Sleeps until the first deadline of all.
    fn arm(&mut self, cx: &mut Context<'_>, now: Instant) {
        let stopping = match self.phase {
            Phase::Running => None,
            Phase::Stopping(deadline) => Some(deadline),
        };
        let ports = self.ports.iter().filter_map(Port::timeout).min();
        let due = [self.core.poll_timeout(), self.streams.next_stall(), ports, stopping].into_iter().flatten().min();
        let Some(due) = due else { return };
        if due <= now {
            self.again = true;
            return;
        }
        let due = tokio::time::Instant::from_std(due);
        if self.timer.deadline() != due {
            self.timer.as_mut().reset(due);
        }
        if self.timer.as_mut().poll(cx).is_ready() {
            self.again = true;
        }
    }
}

/// Finds where a packet goes, and takes it into the batch.
fn route(
    core: &Core,
    interface: Option<&Interface>,
    packet: &IpPacket<'_>,
    batch: &mut Batch,
    counters: &mut Counters,
) {
    let Some(to) = core.route(packet.destination()) else {
        counters.no_route += 1;
        return;
    };
    if interface.is_some_and(|interface| interface.inter_client_block) {
        counters.blocked += 1;
    } else if core.inner_mtu(to).is_some_and(|mtu| packet.len() > usize::from(mtu)) {
        counters.too_big += 1;
    } else if !batch.push(to, packet) {
        counters.hops_exceeded += 1;
    }
}

fn identity(peer: &PeerIdentity) -> Identity {
    Identity::new(peer.identity())
}

fn trace(capture: Option<&(CaptureWriter, Capture)>, unit: &Unit<'_>, direction: Direction) {
    let Some((_, capture)) = capture else { return };
    match unit {
        Unit::Ip(packet) => capture.record(Side::Inner, direction, packet.as_bytes()),
        Unit::Control(message) => capture.record(Side::Control, direction, message.as_bytes()),
        Unit::Redundancy(_) | Unit::Reserved(_) => {}
    }
}

fn trace_bytes(capture: Option<&(CaptureWriter, Capture)>, control: &[u8], direction: Direction) {
    if let Some((_, capture)) = capture {
        capture.record(Side::Control, direction, control);
    }
}

/// One line for each event that an operator wants to find again; packets never get here.
fn log(event: &Event) {
    match event {
        Event::SessionUp { session, tsid, addresses, identity, .. } => {
            let identity = identity.as_ref().map(Identity::as_str);
            tracing::info!(event = "tunnel-up", ?session, %tsid, ?addresses, identity);
        }
        Event::Bound { session, binding } => tracing::info!(event = "tunnel-resumed", ?session, ?binding),
        Event::StateChanged { session, state } => tracing::info!(event = "tunnel-state", ?session, ?state),
        Event::SessionDown { session, tsid, reason } => {
            tracing::info!(event = "tunnel-down", ?session, %tsid, ?reason);
        }
        Event::CloseBinding { binding, reason } => tracing::debug!(event = "transport-closed", ?binding, ?reason),
        Event::Refused { peer, code } => tracing::info!(event = "tunnel-refused", %peer, %code),
        _ => {}
    }
}
