//! The callee: a registrar, users that answer calls, play or echo, and record, users to chat with and to send files to, and
//! an HTTP server.

mod call;
mod leg;
mod message;
mod options;
mod requests;
mod site;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Mutex as AsyncMutex, mpsc, watch},
    task::{JoinHandle, JoinSet},
};

pub use options::{Behaviour, RegisterAt, ServerOptions};

use crate::{
    access::{Current, Renewal},
    client::{
        RegisterError,
        register::{self, Registrant, Registration},
    },
    endpoint::Endpoint,
    http::HttpServer,
    media::MediaClock,
    net::InnerNet,
    report::{CallReport, Outcome, SessionReport},
    sip::{Hop, NameAddr, SipUri, Transport},
    stop::{Stop, Stopper},
};
use site::Site;

/// Reports that wait to be fetched; further ones are dropped, and the log says so.
const REPORTS: usize = 1024;
/// The same of renewals.
const RENEWALS: usize = 16;

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
    place: Arc<Mutex<Place>>,
    reports: mpsc::Receiver<CallReport>,
    sessions: Option<SessionReports>,
    renewals: Option<Renewals>,
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

/// Tells each time that the server is reached in another network, which took the place of one that was gone.
#[derive(Debug)]
pub struct Renewals(mpsc::Receiver<Renewal>);

impl Renewals {
    /// The next renewal; `None` when the server has ended. Cancel-safe.
    pub async fn recv(&mut self) -> Option<Renewal> {
        self.0.recv().await
    }
}

/// Where the server is reached.
#[derive(Debug)]
struct Place {
    endpoint: Endpoint,
    http: Option<HttpServer>,
}

/// What all calls share.
struct Shared<N: InnerNet> {
    /// The network, our address in it and the SIP socket; others when another network took its place.
    current: Current<N>,
    place: Arc<Mutex<Place>>,
    options: ServerOptions,
    clock: MediaClock<N::Socket>,
    stop: Stop,
    /// Why the network is gone, once it is: then no more events come to the calls.
    gone: OnceLock<String>,
    /// Calls that are up: answered, heard, not yet over.
    up: watch::Sender<usize>,
}

impl SipServer {
    /// Starts the server in a network that is up: inside a tunnel or on the host. When this returns, it can be called.
    ///
    /// When the network is lost another takes its place, if there is one ([`InnerNet::renew`]), and calls go on there by a
    /// re-INVITE; message sessions and downloads end with the network.
    ///
    /// # Errors
    ///
    /// See [`ServerError`].
    pub async fn start<N: InnerNet>(
        net: Arc<N>,
        options: ServerOptions,
    ) -> Result<Self, ServerError> {
        // The SIP socket, the port for messages, the HTTP server: see `site.rs`.
        let site = Site::open(net, &options, 0).await?;
        let place = Arc::new(Mutex::new(Place {
            endpoint: site.access.endpoint.clone(),
            http: site.http,
        }));
        let (stopper, stop) = Stopper::new();
        let (session_sender, sessions) = mpsc::channel(REPORTS);
        let (sender, reports) = mpsc::channel(REPORTS);
        let (up, up_receiver) = watch::channel(0);
        let (renewed, renewals) = mpsc::channel(RENEWALS);
        let shared = Arc::new(Shared {
            current: Current::new(Arc::clone(&site.access)),
            place: Arc::clone(&place),
            options,
            clock: MediaClock::start(),
            stop: stop.clone(),
            gone: OnceLock::new(),
            up,
        });
        let registration = shared.options.register_at.as_ref().map(|register_at| {
            let registrant = registrant(register_at, &site.access.endpoint);
            Arc::new(AsyncMutex::new(Registration::new(registrant)))
        });
        let start = requests::Start {
            incoming: site.incoming,
            switchboard: site.switchboard,
            registration: registration.clone(),
        };
        let told = requests::Told {
            reports: sender,
            sessions: session_sender,
            renewals: renewed,
        };
        let mut this = Self {
            place,
            reports,
            sessions: Some(SessionReports(sessions)),
            renewals: Some(Renewals(renewals)),
            up: up_receiver,
            stopper,
            task: tokio::spawn(requests::serve(shared, start, told)),
            keeper: JoinSet::new(),
        };
        if let Some(registration) = registration {
            registration.lock().await.register().await?;
            this.keeper.spawn(register::keep(registration, stop));
        }
        Ok(this)
    }

    fn place<T>(&self, of: impl FnOnce(&Place) -> T) -> T {
        of(&self.place.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Where it can be called; elsewhere when another network took the place of one that was gone.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.place(|place| place.endpoint.local_addr())
    }

    /// Where HTTP is served, if it is: at the first of our addresses, and at the others as well.
    #[must_use]
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.place(|place| place.http.as_ref()?.addresses().first().copied())
    }

    /// The reports of message sessions; `None` if they were taken already. Those that nobody reads are dropped.
    pub const fn session_reports(&mut self) -> Option<SessionReports> {
        self.sessions.take()
    }

    /// Tells of renewals; `None` if that was taken already. Those that nobody reads are dropped.
    pub const fn renewals(&mut self) -> Option<Renewals> {
        self.renewals.take()
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
        self.place(|place| place.endpoint.clone()).close().await;
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

fn registrant(register_at: &RegisterAt, endpoint: &Endpoint) -> Registrant {
    let RegisterAt {
        registrar,
        user,
        password,
        expires,
    } = register_at.clone();
    Registrant {
        hop: Hop::new(Transport::Udp, registrar),
        identity: SipUri::new(&user, registrar.ip(), None),
        contact: NameAddr::new(SipUri::at(&user, endpoint.local_addr())),
        endpoint: endpoint.clone(),
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
