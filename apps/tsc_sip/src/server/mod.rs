//! The callee: a registrar, and users that answer calls, play or echo, and record.

mod call;
mod options;
mod requests;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

pub use options::{Behaviour, ServerOptions};

use crate::{
    endpoint::Endpoint,
    media::MediaClock,
    net::{self, InnerNet},
    random::OsRandom,
    report::{CallReport, Outcome},
    stop::{Stop, Stopper},
    transaction::Limits,
};

/// Reports that wait to be fetched; further ones are dropped, and the log says so.
const REPORTS: usize = 1024;

/// Why the server does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The network has no address.
    #[error("there is no inner address")]
    NoAddress,
    /// The SIP socket cannot be opened.
    #[error("the SIP socket cannot be opened: {0}")]
    Socket(#[source] io::Error),
    /// The tunnel went away.
    #[error("the tunnel is gone: {0}")]
    Lost(String),
    /// The SIP socket was closed, and the network does not say why.
    #[error("the SIP socket was closed")]
    Closed,
}

impl ServerError {
    /// What a program that ends with this error says by its exit code.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::NoAddress | Self::Socket(_) => Outcome::Configuration,
            Self::Lost(_) | Self::Closed => Outcome::TunnelFailed,
        }
    }
}

/// A running SIP server. Dropping it ends it at once; [`SipServer::stop`] says BYE to its calls first.
#[derive(Debug)]
pub struct SipServer {
    address: SocketAddr,
    reports: mpsc::Receiver<CallReport>,
    up: watch::Receiver<usize>,
    stopper: Stopper,
    task: JoinHandle<Result<(), ServerError>>,
}

/// What all calls share.
struct Shared<N: InnerNet> {
    net: Arc<N>,
    options: ServerOptions,
    endpoint: Endpoint,
    clock: MediaClock<N::Socket>,
    ip: IpAddr,
    stop: Stop,
    /// Why the network is gone, once it is: then no more events come to the calls.
    gone: OnceLock<String>,
    /// Calls that are up: answered, heard, not yet over.
    up: watch::Sender<usize>,
}

impl SipServer {
    /// Starts the server in a network that is up: inside a tunnel or on the host. When this returns, it can be called.
    ///
    /// # Errors
    ///
    /// See [`ServerError`].
    pub async fn start<N: InnerNet>(
        net: Arc<N>,
        options: ServerOptions,
    ) -> Result<Self, ServerError> {
        let ip = net::address_for(&*net, None).ok_or(ServerError::NoAddress)?;

        // --- SIP SOCKET CREATION --------------------------------------------------------------------
        let local = SocketAddr::new(ip, options.sip_port);
        let socket = net.bind_udp(local).await.map_err(ServerError::Socket)?;
        let (endpoint, incoming) = Endpoint::start(
            socket,
            options.timers,
            Limits::default(),
            Box::new(OsRandom),
        )
        .map_err(ServerError::Socket)?;
        let address = endpoint.local_addr();
        tracing::info!(%address, callees = options.callees.len(), "SIP server ready");

        let (stopper, stop) = Stopper::new();
        let (sender, reports) = mpsc::channel(REPORTS);
        let (up, up_receiver) = watch::channel(0);
        let shared = Arc::new(Shared {
            net,
            options,
            endpoint,
            clock: MediaClock::start(),
            ip,
            stop,
            gone: OnceLock::new(),
            up,
        });
        let task = tokio::spawn(requests::serve(shared, incoming, sender));
        Ok(Self {
            address,
            reports,
            up: up_receiver,
            stopper,
            task,
        })
    }

    /// Where it can be called.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Asks all calls to end with BYE, and takes no more. [`next_report`](Self::next_report) brings the reports that
    /// follow, and `None` when all is over; then [`stop`](Self::stop) says how it ended.
    pub fn hang_up(&self) {
        self.stopper.stop();
    }

    /// The report of the next call that ended; `None` when the server has ended. Cancel-safe.
    ///
    /// A server that loses its network still reports the calls that were in progress, before it ends.
    pub async fn next_report(&mut self) -> Option<CallReport> {
        self.reports.recv().await
    }

    /// Waits until at least this many calls are up at the same time (answered, and something was heard), or the server
    /// has ended.
    pub async fn calls_up(&mut self, wanted: usize) {
        // An error means that the server has ended: nothing will change any more.
        let _ = self.up.wait_for(|up| *up >= wanted).await;
    }

    /// Ends all calls with BYE and gives the reports that were not fetched. What is not over after `within` is
    /// broken off.
    ///
    /// # Errors
    ///
    /// The server had ended before, and why. Reports that were not fetched by then are lost with it.
    pub async fn stop(mut self, within: Duration) -> Result<Vec<CallReport>, ServerError> {
        self.stopper.stop();
        let ended = tokio::time::timeout(within, &mut self.task).await;
        self.task.abort();
        let mut reports = Vec::new();
        while let Ok(report) = self.reports.try_recv() {
            reports.push(report);
        }
        match ended {
            Ok(Ok(Err(error))) => Err(error),
            // In time, or broken off.
            Ok(Ok(Ok(())) | Err(_)) | Err(_) => Ok(reports),
        }
    }
}

impl Drop for SipServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
