//! The callee: a registrar, users that answer calls, play or echo, and record, users to chat with and to send files to, and
//! an HTTP server.

mod call;
mod leg;
mod message;
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
    task::{JoinHandle, JoinSet},
};

pub use options::{Behaviour, RegisterAt, ServerOptions};

use crate::{
    client::{
        RegisterError,
        register::{Registrant, Registration},
    },
    endpoint::Endpoint,
    http::HttpServer,
    media::MediaClock,
    msrp::Switchboard,
    net::{self, InnerNet},
    random::OsRandom,
    report::{CallReport, Outcome, SessionReport},
    sip::{Hop, NameAddr, SipUri, Transport},
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
    /// The HTTP server or the port for messages cannot be opened.
    #[error("no listener for {0}: {1}")]
    Listener(&'static str, #[source] io::Error),
    /// The registrar of [`ServerOptions::register_at`] refused or did not answer.
    #[error("registration failed: {0}")]
    Registration(#[from] RegisterError),
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
            Self::NoAddress | Self::Socket(_) | Self::Listener(..) => Outcome::Configuration,
            Self::Registration(_) => Outcome::RegistrationRefused,
            Self::Lost(_) | Self::Closed => Outcome::TunnelFailed,
        }
    }
}

/// A running SIP server. Dropping it ends it at once; [`SipServer::stop`] says BYE to its calls first.
#[derive(Debug)]
pub struct SipServer {
    address: SocketAddr,
    endpoint: Endpoint,
    reports: mpsc::Receiver<CallReport>,
    sessions: Option<SessionReports>,
    http: Option<HttpServer>,
    up: watch::Receiver<usize>,
    stopper: Stopper,
    task: JoinHandle<Result<(), ServerError>>,
    /// Keeps our own registration, if there is one.
    keeper: JoinSet<()>,
}

/// The reports of message sessions.
#[derive(Debug)]
pub struct SessionReports(mpsc::Receiver<SessionReport>);

impl SessionReports {
    /// The report of the next session that ended; `None` when the server has ended. Cancel-safe.
    pub async fn recv(&mut self) -> Option<SessionReport> {
        self.0.recv().await
    }
}

/// What all calls share.
struct Shared<N: InnerNet> {
    net: Arc<N>,
    options: ServerOptions,
    endpoint: Endpoint,
    clock: MediaClock<N::Socket>,
    switchboard: Switchboard,
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
        // UDP and TCP with the same port number.
        let sockets = net::bind_both(&*net, local).await;
        let (endpoint, incoming) = Endpoint::start_with_streams(
            Arc::clone(&net),
            sockets.map_err(ServerError::Socket)?,
            options.timers,
            Limits::default(),
            Box::new(OsRandom),
        )
        .map_err(ServerError::Socket)?;
        let address = endpoint.local_addr();
        tracing::info!(%address, callees = options.callees.len(), "SIP server ready");

        // Messages need one port for all their connections; each session has its name in its URI.
        let no_messages = |error| ServerError::Listener("messages", error);
        let listener = net.bind_tcp(SocketAddr::new(ip, 0)).await;
        let switchboard = Switchboard::start(listener.map_err(no_messages)?);
        let switchboard = switchboard.map_err(no_messages)?;
        let mut http = None;
        if let Some(port) = options.http_port {
            let no_http = |error| ServerError::Listener("HTTP", error);
            // At all of our addresses, so that it is reached by either family.
            let mut listeners = Vec::new();
            for ip in net.addresses() {
                let listener = net.bind_tcp(SocketAddr::new(ip, port)).await;
                listeners.push(listener.map_err(no_http)?);
            }
            let server = HttpServer::start(listeners).map_err(no_http)?;
            for address in server.addresses() {
                tracing::info!(%address, "HTTP server ready");
            }
            http = Some(server);
        }

        let (stopper, stop) = Stopper::new();
        let (session_sender, sessions) = mpsc::channel(REPORTS);
        let (sender, reports) = mpsc::channel(REPORTS);
        let (up, up_receiver) = watch::channel(0);
        let shared = Arc::new(Shared {
            net,
            options,
            endpoint,
            clock: MediaClock::start(),
            switchboard,
            ip,
            stop,
            gone: OnceLock::new(),
            up,
        });
        let register_at = shared.options.register_at.clone();
        let (endpoint, stop) = (shared.endpoint.clone(), shared.stop.clone());
        let task = tokio::spawn(requests::serve(shared, incoming, sender, session_sender));
        let mut this = Self {
            address,
            endpoint: endpoint.clone(),
            reports,
            sessions: Some(SessionReports(sessions)),
            http,
            up: up_receiver,
            stopper,
            task,
            keeper: JoinSet::new(),
        };
        if let Some(register_at) = register_at {
            let mut registration = Registration::new(registrant(register_at, endpoint));
            registration.register().await?;
            this.keeper.spawn(registration.keep(stop));
        }
        Ok(this)
    }

    /// Where it can be called.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where HTTP is served, if it is: at the first of our addresses, and at the others as well.
    #[must_use]
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http.as_ref()?.addresses().first().copied()
    }

    /// The reports of message sessions; `None` if they were taken already. Those that nobody reads are dropped.
    pub const fn session_reports(&mut self) -> Option<SessionReports> {
        self.sessions.take()
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
        // It has little time to remove the registration.
        while self.keeper.join_next().await.is_some() {}
        let ended = tokio::time::timeout(within, &mut self.task).await;
        self.task.abort();
        // Whoever opened the network can close it after that.
        self.endpoint.clone().close().await;
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

fn registrant(register_at: RegisterAt, endpoint: Endpoint) -> Registrant {
    let RegisterAt {
        registrar,
        user,
        password,
        expires,
    } = register_at;
    Registrant {
        hop: Hop::new(Transport::Udp, registrar),
        identity: SipUri::new(&user, registrar.ip(), None),
        contact: NameAddr::new(SipUri::at(&user, endpoint.local_addr())),
        endpoint,
        user,
        password,
        expires,
    }
}

impl Drop for SipServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
