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

mod connect;
mod credentials;
mod links;
mod lookup;
mod network;
mod peer;
mod services;

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::{
    sync::{oneshot, watch},
    task::JoinSet,
    time::Sleep,
};
use tsc_csm::{
    Assignment, Random,
    client::{AttemptFailure, DownReason, Epoch, Event, Family, MAX_TUNNELS},
};
use tsc_eip::{Stack, StackConfig};
use tsc_osaa::{
    cert::Identity,
    client::{self as transport, ClientTransport, ConnectOptions, RECV_BUFFER},
    random::OsRandom,
    resolve::ResolveOptions,
    socket::{Dscp, OuterDscp},
    trace::Tap,
};
use tsc_tpl::{Limits, ServiceType};

use self::{
    connect::Opening, credentials::Credentials, links::Link, lookup::Lookup, network::Network,
    peer::Peers, services::Asking,
};
use crate::{
    TunnelConfig,
    builder::{LONGEST_TIME, TunnelBuilder},
    error::ConnectError,
    linger,
    memory::PathMemory,
    notification::Notification,
    peers,
    routes::{Route, Routes, ways},
    server::Server,
    shared::{Command, Shared, State},
    tunnel::Activity,
};

/// Turns before other tasks of the runtime get theirs.
const TURNS_PER_POLL: usize = 16;

/// How often media that is too late is dropped while there is no transport: sooner than it fills a queue.
const LATE_MEDIA_EVERY: Duration = Duration::from_secs(1);

/// How long the release of a tunnel that lingered may take.
const LINGERED: Duration = Duration::from_secs(2);

/// Who waits for the tunnel to come up.
type WhenUp = oneshot::Sender<Result<watch::Receiver<Arc<TunnelConfig>>, ConnectError>>;

/// The operating system's generator, as the machines want it.
struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&mut self, buf: &mut [u8]) {
        OsRandom.fill(buf);
    }
}

/// See the module.
pub(crate) struct Driver {
    client: Family,
    shared: Arc<Shared>,
    routes: Routes,
    resolve: ResolveOptions,
    memory: PathMemory,
    network: Network,
    lookups: Vec<Lookup>,
    server_name: Option<String>,
    security: Credentials,
    options: ConnectOptions,
    /// What the application has chosen.
    outer_dscp: OuterDscp,
    /// What transports are marked with now: that, or what the server has asked for.
    marking: OuterDscp,
    openings: Vec<Opening>,
    links: Vec<Link>,
    closing: JoinSet<()>,
    /// Inner packets on their way to the transports of each tunnel; at most [`BATCH`](links::BATCH) each.
    outboxes: [VecDeque<Vec<u8>>; MAX_TUNNELS],
    /// Those that left, on their way back to their pool; at most [`BATCH`](links::BATCH) of each tunnel.
    sent: Vec<Vec<u8>>,
    /// The redundancy frame that a packet leaves in.
    frame: Vec<u8>,
    limits: Limits,
    buffer: Vec<u8>,
    timer: Pin<Box<Sleep>>,
    /// Where all that comes and goes is told; [`Trace`](crate::trace::Trace)'s.
    tap: Tap,
    /// Why the last attempts at transports failed, in detail: one for each server.
    failures: Vec<(Server, transport::ConnectError)>,
    /// Since when the tunnel has been without a transport.
    suspended: Option<Instant>,
    /// When to look for late media while there is none.
    drop_media_at: Option<Instant>,
    when_up: Option<WhenUp>,
    config: Option<watch::Sender<Arc<TunnelConfig>>>,
    down: Option<DownReason>,
    /// When the application wants a release to be over.
    release_by: Option<Instant>,
    /// Until when a release waits for connections that still deliver.
    deliver_until: Option<Instant>,
    /// Nobody has a handle of the tunnel; it is released then, unless somebody has taken it.
    linger_until: Option<Instant>,
    /// Somebody waits for the end of a turn.
    turn_awaited: bool,
    /// The request to the server that is under way for a packet socket.
    asking: Option<Asking>,
    peers: Peers,
}

/// However the task ends, also by a runtime that shuts down or a panic: nobody waits for it for ever.
impl Drop for Driver {
    fn drop(&mut self) {
        linger::remove(&self.shared);
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
        let routes = Routes::new(ways(builder.servers, &builder.proxy, builder.direct));
        let mut csm = builder.csm;
        csm.targets = routes.targets();
        csm.peer_fingerprint = peers::certificate().map(Identity::fingerprint);
        csm.first = builder
            .memory
            .recall(|name| routes.named(name).is_some())
            .and_then(|(name, _)| routes.named(&name));
        let client = Family::new(csm, Box::new(|| Box::new(SystemRandom)))?;
        for Route { server, .. } in routes.iter() {
            let name = builder
                .server_name
                .as_deref()
                .unwrap_or_else(|| server.host());
            if name.parse::<transport::Host>().is_err() {
                return Err(ConnectError::ServerName(name.to_owned()));
            }
        }
        let mut security = Credentials::new(builder.trust, builder.identity, builder.hello);
        let is_protected = |route: &Route| route.server.transport().is_protected();
        if routes.iter().any(is_protected) {
            // What is wrong with them is told before anything is sent.
            security.load()?;
        }
        let stack = Stack::new(StackConfig::default(), seed);
        let shared = Shared::new(stack, builder.notifications);
        if let Some(path) = builder.trace {
            shared.trace.open(&path, builder.trace_options)?;
        }
        let tap = shared.trace.tap.clone();
        let mut options = ConnectOptions::default();
        options.stream.tap = Some(tap.clone());
        options.datagram.tap = Some(tap.clone());
        options.dtls.tap = Some(tap.clone());
        options.dtls_backend = builder.dtls_backend;
        options.proxy = builder.proxy.clone();
        options.stream.dscp = builder.outer_dscp.of_socket();
        options.datagram.dscp = builder.outer_dscp.of_socket();
        let mut resolve = ResolveOptions::default();
        resolve.families = builder.families;
        let driver = Self {
            client,
            shared: Arc::clone(&shared),
            routes,
            resolve,
            memory: builder.memory,
            network: Network::new(builder.watch_network),
            lookups: Vec::new(),
            server_name: builder.server_name,
            security,
            options,
            outer_dscp: builder.outer_dscp,
            marking: builder.outer_dscp,
            openings: Vec::new(),
            links: Vec::new(),
            closing: JoinSet::new(),
            outboxes: Default::default(),
            sent: Vec::new(),
            frame: Vec::new(),
            limits: Limits::WIDEST,
            buffer: vec![0; RECV_BUFFER],
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            peers: Peers::new(builder.dtls_backend),
            tap,
            failures: Vec::new(),
            suspended: None,
            drop_media_at: None,
            when_up: Some(when_up),
            config: None,
            down: None,
            release_by: None,
            deliver_until: None,
            linger_until: None,
            turn_awaited: false,
            asking: None,
        };
        Ok((driver, shared))
    }

    /// Drives the tunnel to its end.
    pub(crate) async fn run(mut self) {
        self.client.start(Instant::now());
        let reason = poll_fn(|cx| self.poll(cx)).await;
        linger::remove(&self.shared);
        self.shared.end_sockets(&reason);
        // Whoever waits for the end may end the process: first say goodbye properly.
        self.close_all().await;
        if let Some(writer) = self.shared.trace.take()
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
                match self.take_failure(*failure) {
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
            self.end_lingering(now);
            self.keep_signalling(now);
            self.shared.drive(|state| state.stack.handle_timeout(now));
            self.client.handle_timeout(now);
            self.run_jobs(now);
            let mut progress = self.poll_network(cx, now);
            progress |= self.poll_lookups(cx, now);
            progress |= self.poll_openings(cx, now);
            let mut received = self.receive(cx, now);
            received |= self.poll_peers(cx, now);
            progress |= received;
            progress |= self.take_events(now);
            progress |= self.send(cx, now);
            progress |= self.send_direct(cx);
            progress |= self.release_when_delivered(now);
            // What was read last may be recorded by the next reading only.
            if self.turn_awaited && !received {
                self.turn_awaited = false;
                self.shared.end_turn();
            }
            if let Some(reason) = self.down.take() {
                return Poll::Ready(reason);
            }
            if !progress && !self.arm(cx) && self.shared.lock().sleep(cx.waker()) {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn take_commands(&mut self, now: Instant) {
        let (commands, wishes) = {
            let mut state = self.shared.lock();
            (state.take_commands(), state.wishes.take())
        };
        self.take_wishes(now, wishes);
        for command in commands {
            match command {
                Command::Release(deadline) => {
                    let deadline = deadline.min(LONGEST_TIME);
                    self.release_by.get_or_insert(now + deadline);
                    // Half of the time is the server's, for its answer.
                    self.deliver_until.get_or_insert(now + deadline / 2);
                }
                Command::NetworkChanged => self.network_changed(now, None),
                Command::Linger(time) => self.linger_until = Some(now + time.min(LONGEST_TIME)),
                Command::NetworkAvailable(true) => self.network_changed(now, None),
                Command::NetworkAvailable(false) => self.client.network_gone(),
                Command::Activity(activity) => self
                    .client
                    .set_background(now, activity == Activity::Background),
                Command::Turn => self.turn_awaited = true,
            }
        }
    }

    /// Without a transport media would push signalling out of the queues.
    fn keep_signalling(&mut self, now: Instant) {
        if let (Some(at), Some(since)) = (self.drop_media_at, self.suspended)
            && at <= now
        {
            self.drop_late_media(now, since);
            self.drop_media_at = Some(now + LATE_MEDIA_EVERY);
        }
    }

    /// Releases a tunnel that nobody wanted any more.
    fn end_lingering(&mut self, now: Instant) {
        if self.linger_until.is_some_and(|until| until <= now) {
            self.linger_until = None;
            if linger::remove(&self.shared) {
                self.client.release(now, now + LINGERED);
            }
        }
    }

    /// Releases the tunnel once everything written to connections has arrived, or that has taken too long; true if it
    /// did. A program may write, close and end.
    fn release_when_delivered(&mut self, now: Instant) -> bool {
        let (Some(until), Some(by)) = (self.deliver_until, self.release_by) else {
            return false;
        };
        if now < until && self.client.can_send().is_some() && self.shared.lock().is_delivering() {
            return false;
        }
        self.deliver_until = None;
        self.client.release(now, by);
        true
    }

    /// Arms the timer; true if something is due already.
    fn arm(&mut self, cx: &mut Context<'_>) -> bool {
        let stack = self.shared.lock().stack.poll_timeout();
        let timers = [
            self.client.poll_timeout(),
            stack,
            self.deliver_until,
            self.linger_until,
            self.drop_media_at,
        ];
        let Some(due) = timers.into_iter().flatten().min() else {
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
                Event::Resolve { target } => self.look_up(now, target),
                Event::Open {
                    epoch,
                    target,
                    address,
                } => self.open(now, epoch, target, address),
                Event::Close { epoch, reason } => {
                    tracing::debug!(?epoch, ?reason, "closing transport");
                    self.close(epoch);
                }
                Event::Configured(assignment) => {
                    self.configured(*assignment);
                    self.remember();
                }
                Event::Suspended(reason) => {
                    self.suspended.get_or_insert(now);
                    self.drop_media_at = Some(now + LATE_MEDIA_EVERY);
                    tracing::info!(?reason, "tunnel suspended");
                    self.notify(Notification::Suspended(reason));
                }
                Event::Resumed(assignment) => {
                    let config = self.assign(*assignment);
                    tracing::info!(tunnel = config.tunnel_id, transport = %config.transport, "tunnel resumed");
                    if let Some(sender) = &self.config {
                        sender.send_replace(Arc::clone(&config));
                    }
                    self.remember();
                    self.drop_media_at = None;
                    if let Some(since) = self.suspended.take() {
                        self.drop_late_media(now, since);
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
                    self.lookups.clear();
                    self.down = Some(reason);
                }
                Event::AttemptFailed {
                    target, failure, ..
                } => self.tell_failure(target, &failure),
                Event::Service {
                    request, outcome, ..
                } => self.service_over(request, outcome),
                Event::ServiceEnded(grant) => self.service_ended(&grant),
                Event::SocketService {
                    service,
                    available,
                    enabled,
                    local,
                } => self.socket_service(service, available, enabled, local),
                Event::EncryptedAddresses(addresses) => {
                    let main = self.addresses();
                    let place = |state: &mut State| state.set_addresses(now, &main, addresses);
                    self.shared.drive(place);
                }
                Event::SocketPlaced {
                    key,
                    local,
                    placement,
                    enabled,
                } => {
                    tracing::debug!(socket = %local, ?placement, ?enabled, "placed");
                    self.shared
                        .drive(|state| state.place(key, placement, enabled));
                }
                Event::Peer(event) => self.peer_event(now, event),
                other => tracing::debug!(event = ?other, "ignored"),
            }
        }
        progress
    }

    /// The main tunnel's inner addresses.
    fn addresses(&self) -> Vec<IpAddr> {
        let config = self.config.as_ref().map(|config| config.borrow().clone());
        let addresses = config.iter().flat_map(|config| &config.addresses);
        addresses.map(|inner| inner.address).collect()
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
        let goes_on = assignment
            .active_services
            .contains(&ServiceType::ENABLE_REDUNDANCY);
        let mut config = TunnelConfig::from(assignment);
        let bound = self.client.can_send();
        if let Some(link) = self.links.iter().find(|link| Some(link.epoch) == bound) {
            config.outer_local = Some(link.transport.local_addr());
            config.outer_peer = Some(link.transport.peer_addr());
        }
        let config = Arc::new(config);
        self.limits = Limits::new(config.inner_mtu);
        let mtu = usize::from(config.inner_mtu);
        if !goes_on {
            self.unframe();
        }
        for outbox in &mut self.outboxes {
            outbox.retain(|unit| {
                let packet = links::framed_packet(unit).map_or(&**unit, |packet| packet.as_bytes());
                packet.len() <= mtu
            });
        }
        let addresses: Vec<_> = config.addresses.iter().map(|inner| inner.address).collect();
        let protected = self.client.is_protected();
        self.shared.drive(|state| {
            state.stack.set_mtu(config.inner_mtu);
            let encrypted = state.encrypted.addresses().to_vec();
            state.set_addresses(Instant::now(), &addresses, encrypted);
            state.encrypted.protected = protected;
        });
        let asked = config.dscp.and_then(Dscp::new);
        let marking = match self.outer_dscp {
            OuterDscp::Off => asked.map_or(OuterDscp::Off, OuterDscp::Set),
            chosen => chosen,
        };
        let is_news = std::mem::replace(&mut self.marking, marking) != marking;
        for link in &mut self.links {
            link.decoder.set_limits(self.limits);
            if is_news {
                mark(&mut link.transport, marking);
            }
        }
        config
    }
}

/// Marks what a transport carries from now on; what cannot be marked is carried all the same.
fn mark(transport: &mut ClientTransport, marking: OuterDscp) {
    if let Err(error) = transport.set_outer_dscp(marking) {
        tracing::debug!(%error, "outer packets cannot be marked");
    }
}
