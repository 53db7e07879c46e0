//! A running server, for the `tsc-server` program and for programs that embed one.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    thread,
    time::Duration,
};

use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot, watch};
use tsc_csm::{Transport, server::ServerConfigError};
use tsc_osaa::{
    cert::CredentialError, dtls::DtlsConfigError, socket::BindError, trace::CaptureError,
};

use crate::{
    config::{Config, Egress},
    trace::{Keeper, TraceError, TraceOptions, TraceStatus, Tracer},
    worker::{self, Bound, ORDERS, Opened, Order, Part, Plan, Report},
};

/// Why a server cannot start. Nothing is left open.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A port cannot be opened: in use, not ours, or not allowed.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A TLS profile cannot be used.
    #[error("TLS profile {profile}: {error}")]
    Credentials {
        /// Its name.
        profile: String,
        /// What is wrong with it.
        error: CredentialError,
    },
    /// DTLS cannot be used as configured, for example with an RSA key and the `webrtc` back end.
    #[error("DTLS: {0}")]
    Dtls(#[from] DtlsConfigError),
    /// The session core does not take the configuration.
    #[error(transparent)]
    Sessions(#[from] ServerConfigError),
    /// The capture file cannot be made.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// There is no TUN device.
    #[error(transparent)]
    Tun(#[from] TunStartError),
    /// The operating system gives no random numbers, without which nothing is safe.
    #[error("{0}")]
    Random(String),
    /// The worker's thread or runtime cannot be made.
    #[error("cannot start a worker: {0}")]
    Worker(#[from] io::Error),
}

/// Why the TUN device of `[tun-egress]` cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TunStartError {
    /// It cannot be made, or is none.
    #[cfg(target_os = "linux")]
    #[error("TUN device: {0}")]
    Device(#[from] tsc_osaa::tun::TunError),
    /// The service manager has not handed it in.
    #[error("TUN device \"{name}\" of the service manager: {reason}")]
    Descriptor {
        /// The configured name.
        name: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// Another interface of the host has a route for addresses of tunnels, which would not be reached from the host then.
    #[error(
        "the host leads {address}, of {owner}, to {interface} by its route {prefix}, not to the TUN device: remove that route, or give tunnels other addresses (`exclude` of a pool)"
    )]
    RouteTaken {
        /// One of the addresses.
        address: IpAddr,
        /// What it belongs to: a pool, or a gateway's prefixes.
        owner: String,
        /// The other route.
        prefix: IpNet,
        /// Where it leads.
        interface: String,
    },
    /// The capability to make it could not be given up again.
    #[error("capabilities: {0}")]
    Capabilities(String),
    /// Not on this system.
    #[error("TUN devices are supported on Linux only")]
    NotSupported,
}

/// Why a server that has started stops by itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// Somebody has deleted the TUN device, and the server has given up the capability to make another one.
    #[error(
        "the TUN device {name} was deleted, and with it the way to the core network; the server makes a new one when it is started again"
    )]
    TunLost {
        /// Its name.
        name: String,
    },
}

impl StartError {
    /// How the process should end.
    #[must_use]
    pub const fn exit(&self) -> crate::cli::Exit {
        use crate::cli::Exit;
        match self {
            Self::Bind(_) => Exit::Bind,
            Self::Credentials { .. } | Self::Dtls(_) => Exit::Credentials,
            Self::Sessions(_) => Exit::Configuration,
            Self::Capture(_) | Self::Tun(_) | Self::Random(_) | Self::Worker(_) => Exit::Failure,
        }
    }
}

/// A server that serves until it is stopped or dropped.
///
/// Each worker has a thread with a runtime of its own, so an embedding program may be async or not.
#[derive(Debug)]
pub struct Server {
    ports: Vec<Bound>,
    workers: Vec<WorkerThread>,
    failed: watch::Receiver<bool>,
    /// Owns the capture files; ends after the workers.
    keeper: Option<Keeper>,
    stop_deadline: Duration,
    made_tun: bool,
}

#[derive(Debug)]
struct WorkerThread {
    orders: mpsc::Sender<Order>,
    /// Lets it begin.
    go: Option<std::sync::mpsc::SyncSender<()>>,
    thread: thread::JoinHandle<Report>,
}

impl Server {
    /// Opens all ports and begins to serve.
    ///
    /// # Errors
    ///
    /// [`StartError`]; then no port is left open.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        let mut plan = Plan::new(config)?;
        let (fail, failed) = watch::channel(false);
        let mut server = Self {
            ports: Vec::new(),
            workers: Vec::new(),
            failed,
            keeper: None,
            stop_deadline: config.system.stop_deadline,
            made_tun: config.uses(Egress::Tun),
        };
        // If one cannot be opened, those before it end with `server`.
        let Some(part) = plan.first() else {
            return Ok(server);
        };
        let mut opened = server.add_worker(config, part, &fail)?;
        let resolved = opened.config.clone();
        while let Some(part) = plan.next(&mut opened) {
            server.add_worker(&resolved, part, &fail)?;
        }
        let workers = server.workers.iter();
        let orders = workers.map(|worker| worker.orders.clone()).collect();
        let writer = opened.writer.take();
        server.keeper = Some(Keeper::start(
            config,
            writer,
            plan.outsides(),
            orders,
            server.made_tun,
        )?);
        // None begins before all are there: each new socket of a port changes where datagrams arrive.
        for worker in &mut server.workers {
            if let Some(go) = worker.go.take() {
                let _ = go.send(());
            }
        }
        server.ports = opened.ports;
        for port in &server.ports {
            tracing::info!(event = "listening", interface = port.interface, transport = %port.transport, address = %port.address);
        }
        Ok(server)
    }

    /// Starts one more worker and waits until it is open.
    fn add_worker(
        &mut self,
        config: &Config,
        part: Part,
        fail: &watch::Sender<bool>,
    ) -> Result<Opened, StartError> {
        let (orders, received) = mpsc::channel(ORDERS);
        let (started, is_started) = std::sync::mpsc::sync_channel(1);
        let (go, may_go) = std::sync::mpsc::sync_channel(1);
        let (config, fail) = (config.clone(), fail.clone());
        let thread = thread::Builder::new()
            .name(format!("tsc-worker-{}", self.workers.len()))
            .spawn(move || serve(&config, part, received, fail, &started, &may_go))?;
        let go = Some(go);
        self.workers.push(WorkerThread { orders, go, thread });
        is_started
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("the worker ended at once").into()))
    }

    /// Gives up the capabilities of the calling thread and of the threads and programs that it starts, for good, if a
    /// TUN device was made with them. The server's own thread has done so; a program calls this on its other threads.
    ///
    /// # Errors
    ///
    /// The system refuses.
    pub fn give_up_capabilities(&self) -> Result<(), TunStartError> {
        if self.made_tun {
            worker::give_up_capabilities()?;
        }
        Ok(())
    }

    /// The open ports, in the order of the configuration.
    #[must_use]
    pub fn ports(&self) -> &[Bound] {
        &self.ports
    }

    /// The first address that speaks `transport`.
    #[must_use]
    pub fn address(&self, transport: Transport) -> Option<SocketAddr> {
        self.ports
            .iter()
            .find(|port| port.transport == transport)
            .map(|port| port.address)
    }

    /// Figures of this moment; `None` when a worker has ended.
    pub async fn report(&self) -> Option<Report> {
        let mut sum: Option<Report> = None;
        for worker in &self.workers {
            let (to, report) = oneshot::channel();
            worker.orders.send(Order::Report(to)).await.ok()?;
            add(&mut sum, report.await.ok()?);
        }
        sum
    }

    /// Begins or ends draining: newcomers are sent to the alternate servers of their interface, or are told `busy` where it has
    /// none; tunnels that exist go on, and are resumed and released as ever. Whether all workers have been told: one that has
    /// ended cannot be.
    pub async fn set_draining(&self, draining: bool) -> bool {
        for worker in &self.workers {
            if worker.orders.send(Order::Drain(draining)).await.is_err() {
                return false;
            }
        }
        true
    }

    /// Starts and stops captures, also while this handle is elsewhere.
    ///
    /// # Errors
    ///
    /// Never for a server that has started.
    pub fn tracer(&self) -> Result<Tracer, TraceError> {
        let keeper = self.keeper.as_ref().ok_or(TraceError::Stopping)?;
        Ok(keeper.tracer().clone())
    }

    /// Starts a capture, as [`Tracer::start`].
    ///
    /// # Errors
    ///
    /// [`TraceError`]: there is no capture then, and no file was made.
    pub async fn start_trace(&self, options: TraceOptions) -> Result<TraceStatus, TraceError> {
        self.tracer()?.start(options).await
    }

    /// Stops a capture and closes its file, as [`Tracer::stop`].
    ///
    /// # Errors
    ///
    /// There is none of this name, or it is that of the configuration.
    pub async fn stop_trace(&self, name: &str) -> Result<TraceStatus, TraceError> {
        self.tracer()?.stop(name).await
    }

    /// The captures that run, that of the configuration first.
    ///
    /// # Errors
    ///
    /// Never for a server that has started.
    pub async fn traces(&self) -> Result<Vec<TraceStatus>, TraceError> {
        self.tracer()?.list().await
    }

    /// Offers new tunnels the services of this configuration, which [needs no restart](Config::needs_restart); tunnels that exist keep
    /// what they were offered. Whether all workers do so now: one that has ended cannot.
    pub async fn change_offers(&self, config: Config) -> bool {
        let config = Arc::new(config);
        for worker in &self.workers {
            let (done, is_done) = oneshot::channel();
            let order = Order::Offer(Arc::clone(&config), done);
            if worker.orders.send(order).await.is_err() || is_done.await.is_err() {
                return false;
            }
        }
        true
    }

    /// Releases every tunnel and waits until the clients have answered, at most for the configured
    /// `graceful-stop-deadline`. Returns the last figures, `None` if a worker had failed by a defect.
    #[must_use]
    pub fn stop(mut self) -> Option<Report> {
        self.order_stop(self.stop_deadline);
        let mut sum = None;
        let mut whole = true;
        for worker in self.workers.drain(..) {
            match worker.thread.join() {
                Ok(report) => add(&mut sum, report),
                Err(_) => whole = false,
            }
        }
        sum.filter(|_| whole)
    }

    /// Resolves when the server, or a part of it, serves no more though nobody has stopped it. [`Self::stop`] then tells
    /// why, in [`Report::failure`]; if it tells nothing it was a defect. End the process, so that whoever watches it starts
    /// it again.
    pub async fn failed(&self) {
        let mut failed = self.failed.clone();
        // An error says that all workers are gone.
        let _ = failed.wait_for(|failed| *failed).await;
    }

    /// Hands in the order. The queues may hold orders of reports that nobody waits for any more: the workers drain them.
    fn order_stop(&self, deadline: Duration) {
        for worker in &self.workers {
            while let Err(mpsc::error::TrySendError::Full(_)) =
                worker.orders.try_send(Order::Stop(deadline))
            {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

/// Ends the server at once, without waiting for clients: that takes milliseconds, so it may happen in async code.
impl Drop for Server {
    fn drop(&mut self) {
        self.order_stop(Duration::ZERO);
        for worker in &mut self.workers {
            // One that has not begun ends.
            worker.go = None;
        }
        for worker in self.workers.drain(..) {
            let _ = worker.thread.join();
        }
        // After the last record.
        self.keeper = None;
    }
}

fn add(sum: &mut Option<Report>, report: Report) {
    match sum {
        Some(sum) => sum.add(report),
        None => *sum = Some(report),
    }
}

/// Tells that a worker has ended, whichever way.
struct Ending(watch::Sender<bool>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}

type Started = std::sync::mpsc::SyncSender<Result<Opened, StartError>>;

/// A worker's thread.
fn serve(
    config: &Config,
    part: Part,
    orders: mpsc::Receiver<Order>,
    fail: watch::Sender<bool>,
    started: &Started,
    may_go: &std::sync::mpsc::Receiver<()>,
) -> Report {
    let _ending = Ending(fail.clone());
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = match worker::watch_rest(&mut builder).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = started.send(Err(error.into()));
            return Report::default();
        }
    };
    runtime.block_on(async {
        match worker::open(config, part, orders, fail) {
            Ok((worker, opened)) => {
                let _ = started.send(Ok(opened));
                if may_go.recv().is_err() {
                    return Report::default();
                }
                // The worker shares its time out by itself. With tokio's budget, which ends after 128 reads of
                // streams, the UDP ports would starve behind streams that are always readable.
                let (report, mut closing, deadline) = tokio::task::unconstrained(worker).await;
                let all = async { while closing.join_next().await.is_some() {} };
                // Each gets its chance to send without waiting, also when the deadline is over.
                tokio::task::yield_now().await;
                let _ = tokio::time::timeout_at(deadline.into(), all).await;
                report
            }
            Err(error) => {
                let _ = started.send(Err(error));
                Report::default()
            }
        }
    })
}
