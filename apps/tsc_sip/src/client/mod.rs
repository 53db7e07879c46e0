//! The caller: registers, calls, plays, records, hangs up. The steps are those of the SDK guide, in its order and
//! with its search marks.

mod call;
mod options;
mod register;

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use serde::Serialize;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    task::JoinSet,
};

pub use options::ClientOptions;
pub use register::RegisterError;

use crate::{
    dialog::DialogId,
    endpoint::{Endpoint, Incoming, IncomingEvents, IncomingRequest},
    media::MediaClock,
    net::{self, InnerNet},
    random::{OsRandom, Random},
    report::{CallReport, Outcome, millis},
    sip::{Method, NameAddr, SipUri, StatusCode},
    stop::Stop,
    transaction::Limits,
    ua,
};

/// Why no call was even tried.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Neither the options nor the network name a SIP server.
    #[error("no SIP server: the tunnel server assigned none, and --sip-server was not given")]
    NoSipServer,
    /// The network has no address of the SIP server's family.
    #[error("no inner address to reach {0} from")]
    NoAddress(SocketAddr),
    /// The SIP socket cannot be opened.
    #[error("the SIP socket cannot be opened: {0}")]
    Socket(#[source] io::Error),
    /// The registrar refused or did not answer.
    #[error("registration failed: {0}")]
    Registration(#[from] RegisterError),
    /// The tunnel went away.
    #[error("the tunnel is gone: {0}")]
    Lost(String),
}

impl ClientError {
    /// What a program that ends with this error says by its exit code.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::NoSipServer | Self::NoAddress(_) | Self::Socket(_) => Outcome::Configuration,
            Self::Registration(_) => Outcome::RegistrationRefused,
            Self::Lost(_) => Outcome::TunnelFailed,
        }
    }
}

/// How a run went.
#[derive(Clone, Debug, Serialize)]
pub struct ClientReport {
    /// Opening the tunnel, in milliseconds; absent without a tunnel. Filled in by whoever opened it.
    pub tunnel_ms: Option<f64>,
    /// The registration, in milliseconds; absent if none was wanted.
    pub register_ms: Option<f64>,
    /// The calls, in the order in which they were made.
    pub calls: Vec<CallReport>,
}

impl ClientReport {
    /// The worst of all calls.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        let outcomes = self.calls.iter().map(|call| call.outcome);
        outcomes.max().unwrap_or(Outcome::Ok)
    }
}

/// What all calls of a run share.
struct Shared<N: InnerNet> {
    net: Arc<N>,
    options: ClientOptions,
    endpoint: Endpoint,
    clock: MediaClock<N::Socket>,
    ip: IpAddr,
    server: SocketAddr,
    dialogs: Dialogs,
    stop: Stop,
    calls_over: Notify,
}

impl<N: InnerNet> Shared<N> {
    /// Our address of record.
    fn identity(&self) -> SipUri {
        address_of_record(&self.options, &self.options.user, self.server)
    }

    /// Where we can be reached right now.
    fn contact(&self) -> NameAddr {
        NameAddr::new(SipUri::at(&self.options.user, self.endpoint.local_addr()))
    }
}

fn address_of_record(options: &ClientOptions, user: &str, server: SocketAddr) -> SipUri {
    match &options.domain {
        Some(domain) => SipUri::new(user, domain.clone(), None),
        None => SipUri::new(user, server.ip(), None),
    }
}

/// The calls that are up, to hand them their BYE. As many as there are calls.
#[derive(Clone, Debug, Default)]
struct Dialogs(Arc<Mutex<BTreeMap<DialogId, mpsc::Sender<IncomingRequest>>>>);

impl Dialogs {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<DialogId, mpsc::Sender<IncomingRequest>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the calls that the options describe, in a network that is up: inside a tunnel or on the host.
///
/// Registers first, if wanted, and removes the registration at the end. Calls run at the same time. `stop`
/// makes them hang up early. All sockets are closed when it returns.
///
/// # Errors
///
/// When no call could be tried. Failures of single calls are in the report.
pub async fn run_client<N: InnerNet>(
    net: Arc<N>,
    options: ClientOptions,
    stop: Stop,
) -> Result<ClientReport, ClientError> {
    let server = options
        .sip_server
        .or_else(|| net.sip_servers().into_iter().next())
        .ok_or(ClientError::NoSipServer)?;
    let ip = net::address_for(&*net, Some(server)).ok_or(ClientError::NoAddress(server))?;

    // --- SIP SOCKET CREATION ------------------------------------------------------------------------
    // The socket is bound to the address that the tunnel server assigned. Inside a tunnel no other program
    // can be in the way; port 0 lets the stack choose. From here on nothing shows that this is a tunnel.
    let local = SocketAddr::new(ip, options.sip_port);
    let socket = net.bind_udp(local).await.map_err(ClientError::Socket)?;
    let (endpoint, incoming) = Endpoint::start(
        socket,
        options.timers,
        Limits::default(),
        Box::new(OsRandom),
    )
    .map_err(ClientError::Socket)?;
    tracing::info!(local = %endpoint.local_addr(), %server, "SIP socket");

    let shared = Arc::new(Shared {
        net: Arc::clone(&net),
        endpoint,
        clock: MediaClock::start(),
        ip,
        server,
        dialogs: Dialogs::default(),
        stop,
        calls_over: Notify::new(),
        options,
    });
    let mut helpers = JoinSet::new();
    helpers.spawn(answer_requests(incoming, shared.dialogs.clone()));

    let result = tokio::select! {
        result = register_and_call(&shared, &mut helpers) => result,
        reason = net.lost() => Err(ClientError::Lost(reason)),
    };
    helpers.shutdown().await;
    result
}

async fn register_and_call<N: InnerNet>(
    shared: &Arc<Shared<N>>,
    helpers: &mut JoinSet<()>,
) -> Result<ClientReport, ClientError> {
    // --- REGISTER TRANSACTION -----------------------------------------------------------------------
    // Tells the registrar where we are: see `register.rs` for the request and the answer to its challenge.
    let mut registration = None;
    let mut register_ms = None;
    if shared.options.register {
        let started = Instant::now();
        let mut new = register::Registration::new(shared);
        new.register(shared).await?;
        register_ms = Some(millis(started.elapsed()));
        registration = Some(new);
    }
    let keep = match registration {
        Some(registration) => {
            // For calls that outlast the registration. Handed back when the calls are over.
            let (sender, receiver) = oneshot::channel();
            helpers.spawn(register::keep(Arc::clone(shared), registration, sender));
            Some(receiver)
        }
        None => None,
    };

    // The calls themselves: INVITE TRANSACTION to BYE TRANSACTION are in `call.rs`.
    let mut tasks = JoinSet::new();
    for number in 0..shared.options.calls {
        let shared = Arc::clone(shared);
        tasks.spawn(async move { (number, call::call(&shared, number).await) });
    }
    let mut calls = BTreeMap::new();
    while let Some(done) = tasks.join_next().await {
        match done {
            Ok((number, report)) => {
                calls.insert(number, report);
            }
            Err(error) => tracing::error!(%error, "a call's task ended"),
        }
    }

    if let Some(registration) = keep {
        register::remove(shared, registration).await;
    }
    Ok(ClientReport {
        tunnel_ms: None,
        register_ms,
        calls: calls.into_values().collect(),
    })
}

/// The caller is a user agent server too: the other side may hang up, or ask what we can do.
async fn answer_requests(mut incoming: IncomingEvents, dialogs: Dialogs) {
    while let Some(event) = incoming.recv().await {
        let Incoming::Request(incoming) = event else {
            // No INVITE is ever accepted here, so nothing else can follow.
            continue;
        };
        let request = &incoming.request;
        let tag = OsRandom.token();
        let response = match request.method {
            _ if let Some(refusal) = ua::screen(request, &tag) => refusal,
            Method::Bye => {
                let dialog = dialogs.lock().get(&DialogId::of_incoming(request)).cloned();
                match dialog {
                    Some(call) => {
                        // A second BYE finds the place taken: the first one is being answered.
                        let _ = call.try_send(incoming);
                        continue;
                    }
                    None => request.response(StatusCode::CALL_DOES_NOT_EXIST, &tag),
                }
            }
            Method::Options => ua::capabilities(request, &tag),
            Method::Invite if request.head.to.tag().is_some() => {
                // A new offer within a call. Refusing it leaves the call as it is (14.2).
                request.response(StatusCode::NOT_ACCEPTABLE_HERE, &tag)
            }
            Method::Invite => request.response(StatusCode::TEMPORARILY_UNAVAILABLE, &tag),
            Method::Register | Method::Ack | Method::Cancel | Method::Other(_) => {
                request.response(StatusCode::METHOD_NOT_ALLOWED, &tag)
            }
        };
        if let Err(error) = incoming.respond(response).await {
            tracing::debug!(%error, "response not sent");
        }
    }
}
