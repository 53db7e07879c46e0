//! The data plane: one future that owns listeners, sessions and send queues of a worker.
//!
//! ```text
//!  streams (shared read buffer) --+                                  +--> stream queues --> one write each
//!  UDP ports (recvmmsg, GRO) -----+--> units --> csm::server --------+--> UDP batches  --> GSO
//!    '- DTLS endpoints -----------+     |  answers, events           +--> DTLS seal --'
//!                                       '--> batch of packets --switch-'
//!  TUN device, host sockets ----------------------^         '------------> TUN device, host sockets
//! ```
//!
//! A turn reads a bounded amount from everything that is ready, forwards, and flushes what it touched: system calls
//! and wake-ups serve batches. Under load a rest between turns makes the batches larger ([`gather`]). Nothing is shared,
//! so nothing is locked. An idle tunnel has no task, no timer of its own and no buffer.

mod backlog;
mod batch;
mod busy_poll;
mod captures;
mod core_config;
mod core_side;
mod counters;
mod gather;
pub mod harness;
mod inbound_datagrams;
mod inbound_streams;
mod load;
mod mesh;
mod neighbours;
mod open;
mod outbound;
mod peers;
mod ports;
mod ready;
mod record;
mod report;
#[cfg(target_os = "linux")]
mod route_cover;
mod sources;
mod streams;
mod switch;
#[cfg_attr(not(target_os = "linux"), path = "tun_absent.rs")]
mod tun;
mod way;

use std::{
    future::Future,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};
use tsc_csm::server::{BadUnit, Identity, Server as Core, SessionId};
use tsc_osaa::{cert::PeerIdentity, datagram::RecvBatch, listener::StreamListener};
use tsc_tpl::{FramingError, Limits};

pub use self::counters::{Counters, EgressCounters};
pub use self::open::Bound;
pub use self::report::Report;
use self::{
    backlog::Backlog, batch::Batch, busy_poll::BusyPoll, captures::Captures, gather::Gather,
    load::Load, mesh::Mesh, ports::Port, record::Log, streams::Streams, tun::Tun, way::Ways,
};
pub(crate) use self::{
    captures::Told,
    load::watch_rest,
    open::{Opened, Part, Plan, open},
    tun::give_up_capabilities,
};
use crate::{
    config::Config,
    egress::{router::Router, user_space::UserSpace},
    logging,
    server::RunError,
    trace::Tap,
};

/// Orders that wait for the worker.
pub(crate) const ORDERS: usize = 16;

/// What clients are told when the server is asked to stop.
const STOPPING: &str = "the server is stopping";

/// What the rest of the process wants of a worker.
#[derive(Debug)]
pub(crate) enum Order {
    /// Release all tunnels, then end; at the latest after this time.
    Stop(Duration),
    /// Send newcomers away, or take them again.
    Drain(bool),
    /// Offer new tunnels what this configuration says, and tell when that is so.
    Offer(Arc<Config>, oneshot::Sender<()>),
    /// Record for these captures and no others, and tell so when what was on the wire before has been recorded for those before.
    Trace(Arc<[Tap]>, Told, oneshot::Sender<usize>),
    /// Tell when a turn is over that has begun after this; the number says nothing.
    Turn(oneshot::Sender<usize>),
    /// Report.
    Report(oneshot::Sender<Report>),
}

/// A TCP port.
#[derive(Debug)]
struct Listener {
    socket: StreamListener,
    interface: usize,
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
    mesh: Mesh,
    /// Of units, by interface.
    limits: Vec<Limits>,
    listeners: Vec<Listener>,
    ports: Vec<Port>,
    /// Which port a listener of the session core is.
    plain_ports: Vec<usize>,
    streams: Streams,
    ways: Ways,
    /// Rates, policies and rewritten flows.
    router: Router,
    tun: Option<Tun>,
    user_space: Option<UserSpace<SessionId>>,
    /// What each interface tells its clients.
    name_servers: Vec<Vec<IpAddr>>,
    batch: Batch,
    counters: Counters,
    captures: Captures,
    orders: mpsc::Receiver<Order>,
    /// Who is told at the end of this turn, and what.
    turn_over: Vec<(oneshot::Sender<usize>, usize)>,
    phase: Phase,
    /// How long a stop that nobody has asked for may take.
    stop_deadline: Duration,
    /// Why it stops by itself, and who is told at once.
    failure: Option<RunError>,
    failed: watch::Sender<bool>,
    timer: Pin<Box<tokio::time::Sleep>>,
    read_buffer: Vec<u8>,
    /// The redundancy frame that a packet leaves in.
    frame: Vec<u8>,
    /// Lent to the port that is read.
    receive: Option<RecvBatch>,
    log: Log,
    load: Load,
    /// Streams that are to be read, in this turn or the next ones.
    backlog: Backlog,
    /// Something was left undone: come back without waiting.
    again: bool,
    gather: Gather,
    busy_poll: BusyPoll,
    /// Datagrams that came in this turn, and packets that it has forwarded.
    received: usize,
    forwarded: usize,
}

impl Future for Worker {
    /// The last figures, the closed streams that have still to send, and until when they may.
    type Output = (Report, JoinSet<()>, Instant);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let records = logging::hold();
        this.again = false;
        let now = Instant::now();
        this.take_orders(cx, now);
        this.read_neighbours(cx, now);
        this.accept(cx, now);
        this.read_streams(cx, now);
        this.read_ports(cx, now);
        this.read_core(cx, now);
        this.timeouts(now);
        this.settle(cx, now);
        this.flush(cx);
        this.measure_load(now);
        for (done, answer) in this.turn_over.drain(..) {
            let _ = done.send(answer);
        }
        if let Some(deadline) = this.is_done(now) {
            return Poll::Ready((this.report(), this.streams.take_closing(), deadline));
        }
        this.arm(cx, now);
        if this.again {
            cx.waker().wake_by_ref();
        }
        drop(records);
        this.rest(cx, now);
        Poll::Pending
    }
}

impl Worker {
    /// Lets packets gather after a turn, see [`gather`], or looks for more, see [`busy_poll`]. To gather, the thread sleeps, as a
    /// timer of the runtime is not exact enough and nothing else on this thread is in more of a hurry.
    fn rest(&mut self, cx: &Context<'_>, begun: Instant) {
        let received = std::mem::take(&mut self.received);
        let forwarded = std::mem::take(&mut self.forwarded);
        let (turn, packets) = (begun..Instant::now(), received.max(forwarded));
        let rest = self.gather.rest(turn.clone(), packets);
        let looks_again = self.busy_poll.looks_again(turn, packets);
        load::idled(self.busy_poll.take_idled());
        if self.again || matches!(self.phase, Phase::Stopping(_)) {
            return;
        }
        if !rest.is_zero() {
            std::thread::sleep(rest);
            load::slept(rest);
        } else if looks_again {
            cx.waker().wake_by_ref();
            // Whoever else is to run here comes first.
            std::thread::yield_now();
        }
    }

    /// How many packets may wait at any of the places where they come in.
    fn room(&self) -> usize {
        let sockets = self.ports.iter().map(|port| &port.socket);
        let buffers = sockets.map(|socket| socket.receive_buffer() / gather::BUFFER_EACH);
        let device = self.tun.as_ref().map(|_| tun::WAITING / 2);
        buffers.chain(device).min().unwrap_or(usize::MAX)
    }

    fn take_orders(&mut self, cx: &mut Context<'_>, now: Instant) {
        while let Poll::Ready(order) = self.orders.poll_recv(cx) {
            match order {
                Some(Order::Report(to)) => drop(to.send(self.report())),
                Some(Order::Drain(draining)) => self.core.set_draining(draining),
                Some(Order::Offer(config, done)) => {
                    self.change_offers(&config);
                    let _ = done.send(());
                }
                Some(Order::Trace(taps, told, done)) => {
                    let seen = self.set_captures(&taps, told);
                    self.turn_over.push((done, seen));
                }
                Some(Order::Turn(done)) => self.turn_over.push((done, 0)),
                Some(Order::Stop(deadline)) => self.stop(now, deadline, STOPPING),
                // The handle is gone, and with it all interest in this server.
                None => {
                    self.stop(now, Duration::ZERO, STOPPING);
                    return;
                }
            }
        }
    }

    /// The services of all interfaces, which are those that the server was started with.
    fn change_offers(&mut self, config: &Config) {
        for (index, interface) in config.interfaces.iter().enumerate() {
            let offers = core_config::core_interface(config, interface);
            if let Err(error) = self.core.change_offers(index, &offers) {
                // What was checked when it was read is not refused here.
                tracing::error!(event = "reload-failed", interface = interface.name, %error);
                continue;
            }
            let listeners = self.listeners.iter_mut();
            for listener in listeners.filter(|listener| listener.interface == index) {
                listener.socket.set_nodelay(!interface.services.nagle);
            }
        }
    }

    /// `text` is for the clients.
    fn stop(&mut self, now: Instant, deadline: Duration, text: &str) {
        let deadline = now + deadline;
        match &mut self.phase {
            // A second order can only hurry.
            Phase::Stopping(end) => *end = deadline.min(*end),
            Phase::Running => {
                self.phase = Phase::Stopping(deadline);
                self.core.release_all(now, Some(text));
            }
        }
    }

    /// Ends what cannot be served any more, as a stop that was asked for does: whoever watches the server starts it again.
    fn fail(&mut self, now: Instant, why: RunError) {
        self.stop(now, self.stop_deadline, "the server cannot serve any more");
        self.failure.get_or_insert(why);
        self.failed.send_replace(true);
    }

    /// When the stop has to be over, once there is nothing left to do but to close.
    ///
    /// Nobody ends before all have: the system would give the datagrams of a worker whose sockets are gone, and of others as
    /// well, to other workers.
    fn is_done(&self, now: Instant) -> Option<Instant> {
        let Phase::Stopping(end) = self.phase else {
            return None;
        };
        if self.core.stats().sessions == 0 && self.core.tunnels_in_all() == 0 {
            self.mesh.ring();
            return Some(end);
        }
        (end <= now).then_some(end)
    }

    fn limits(&self, interface: usize) -> Limits {
        self.limits.get(interface).copied().unwrap_or_default()
    }

    fn timeouts(&mut self, now: Instant) {
        if self.core.poll_timeout().is_some_and(|due| due <= now) {
            self.core.handle_timeout(now);
        }
        if let Some(user_space) = &mut self.user_space
            && user_space.poll_timeout().is_some_and(|due| due <= now)
        {
            user_space.handle_timeout(now);
        }
        for port in &mut self.ports {
            if port.timeout().is_some_and(|due| due <= now) {
                port.handle_timeout(now);
            }
        }
        while let Some(binding) = self.streams.pop_stalled(now) {
            self.counters.stalled += 1;
            let _ends_by_event =
                self.core
                    .handle_bad_unit(now, binding, BadUnit::Framing(FramingError::Stalled));
        }
    }

    /// Sleeps until the first deadline of all.
    fn arm(&mut self, cx: &mut Context<'_>, now: Instant) {
        let stopping = match self.phase {
            Phase::Running => None,
            Phase::Stopping(deadline) => Some(deadline),
        };
        let ports = self.ports.iter().filter_map(Port::timeout).min();
        let due = [
            self.core.poll_timeout(),
            self.streams.next_stall(),
            self.user_space.as_ref().and_then(UserSpace::poll_timeout),
            ports,
            stopping,
        ]
        .into_iter()
        .flatten()
        .min();
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

fn identity(peer: &PeerIdentity) -> Identity {
    Identity::new(peer.identity())
}
