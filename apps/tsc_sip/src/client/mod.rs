//! The caller: registers, calls, plays, records, hangs up. The steps are those of the SDK guide, in its order and
//! with its search marks.

mod call;
mod invite;
mod message;
mod options;
pub(crate) mod register;

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::{sync::mpsc, task::JoinSet};

pub use options::{ClientOptions, FileProgress, FileSource, Progress, ProgressFn, SessionOptions};
pub use register::RegisterError;
use register::{Registrant, Registration};

use crate::{
    dialog::DialogId,
    endpoint::{Endpoint, Incoming, IncomingEvents, IncomingRequest, RequestError},
    http::{self, DownloadOptions},
    media::MediaClock,
    net::{self, InnerNet, Prober},
    random::{OsRandom, Random},
    report::{CallReport, DownloadReport, Outcome, SessionKind, SessionReport, millis},
    sip::{Hop, Method, NameAddr, SipUri, StatusCode, Transport},
    stop::{Stop, Stopper},
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
    /// The chats.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub chats: Vec<SessionReport>,
    /// The files.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<SessionReport>,
    /// The downloads.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub downloads: Vec<DownloadReport>,
    /// Why the network is gone, if it was lost once calls had begun. Their reports say how far they came.
    #[serde(skip)]
    pub lost: Option<String>,
}

impl ClientReport {
    /// The worst of all calls, sessions and downloads; a lost tunnel is worse than any.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        if self.lost.is_some() {
            return Outcome::TunnelFailed;
        }
        let calls = self.calls.iter().map(|call| call.outcome);
        let sessions = self.chats.iter().chain(&self.files);
        let downloads = self.downloads.iter().map(|download| download.outcome);
        let outcomes = calls.chain(sessions.map(|session| session.outcome));
        outcomes.chain(downloads).max().unwrap_or(Outcome::Ok)
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
}

impl<N: InnerNet> Shared<N> {
    /// Our address of record.
    fn identity(&self) -> SipUri {
        address_of_record(&self.options, &self.options.user, self.server)
    }

    /// Where requests outside of a dialog go.
    fn hop(&self) -> Hop {
        Hop::new(self.options.transport, self.server)
    }

    fn registrant(&self) -> Registrant {
        Registrant {
            endpoint: self.endpoint.clone(),
            hop: self.hop(),
            identity: self.identity(),
            contact: self.contact(),
            user: self.options.user.clone(),
            password: self.options.password.clone(),
            expires: self.options.expires,
        }
    }

    /// Why the network is gone, in the words of [`ClientError::Lost`]'s reason.
    async fn why_gone(&self) -> String {
        let reason = net::why_gone(&*self.net).await;
        reason.unwrap_or_else(|| "its socket was closed".to_owned())
    }

    /// Waits until it is the turn of call `number`, and gives `false` if we are told to stop before: then it is not made.
    async fn turn(&self, started: Instant, number: usize) -> bool {
        let Some(rate) = self.options.rate else {
            return true;
        };
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        let turn = started + Duration::from_secs(number.into()) / u32::from(rate.get());
        tokio::select! {
            () = tokio::time::sleep_until(turn.into()) => true,
            () = self.stop.stopped() => false,
        }
    }

    /// Where we can be reached right now.
    fn contact(&self) -> NameAddr {
        let uri = SipUri::at(&self.options.user, self.endpoint.local_addr());
        NameAddr::new(uri.over(self.options.transport))
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
/// makes them hang up early. A network that is lost while calls are up ends them too, and is told in the report.
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
    let (timers, limits) = (options.timers, Limits::default());
    let random = Box::new(OsRandom);
    let (endpoint, incoming) = match options.transport {
        Transport::Udp => {
            let socket = net.bind_udp(local).await.map_err(ClientError::Socket)?;
            Endpoint::start(socket, timers, limits, random)
        }
        // TCP, and UDP with the same port number: the other side may use either.
        Transport::Tcp => {
            let sockets = net::bind_both(&*net, local).await;
            let sockets = sockets.map_err(ClientError::Socket)?;
            let net = Arc::clone(&net);
            Endpoint::start_with_streams(net, sockets, timers, limits, random)
        }
    }
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
        options,
    });
    let mut helpers = JoinSet::new();
    let prober = Prober::new(net, ip);
    let (endpoint, dialogs) = (shared.endpoint.clone(), shared.dialogs.clone());
    helpers.spawn(answer_requests(incoming, endpoint, dialogs, prober));

    let result = register_and_call(&shared).await;
    helpers.shutdown().await;
    // Whoever opened the network can close it now: nothing here uses it any more.
    shared.endpoint.clone().close().await;
    result
}

async fn register_and_call<N: InnerNet>(
    shared: &Arc<Shared<N>>,
) -> Result<ClientReport, ClientError> {
    // --- REGISTER TRANSACTION -----------------------------------------------------------------------
    // Tells the registrar where we are: see `register.rs` for the request and the answer to its challenge.
    let (over, calls_over) = Stopper::new();
    let mut keeper = JoinSet::new();
    let mut register_ms = None;
    if shared.options.register {
        let started = Instant::now();
        let mut new = Registration::new(shared.registrant());
        tokio::select! {
            biased;
            reason = shared.net.lost() => return Err(ClientError::Lost(reason)),
            () = shared.stop.stopped() => return Err(RegisterError::Stopped.into()),
            done = new.register() => match done {
                // The socket noticed first.
                Err(RegisterError::Request(RequestError::Closed)) => {
                    return Err(ClientError::Lost(shared.why_gone().await));
                }
                done => done?,
            },
        }
        register_ms = Some(millis(started.elapsed()));
        // For calls that outlast the registration.
        keeper.spawn(new.keep(calls_over));
    }

    // The calls themselves: INVITE TRANSACTION to BYE TRANSACTION are in `call.rs`.
    // Chats and files are in `message.rs`, downloads in `../http/client.rs`. All of it at the same time.
    let sessions = &shared.options.sessions;
    let started = Instant::now();
    let (calls, chats, files, downloads) = tokio::join!(
        at_once(shared, shared.options.calls, |shared, number| async move {
            match shared.turn(started, number).await {
                true => Some(call::call(&shared, number).await),
                false => None,
            }
        }),
        at_once(shared, sessions.chats, |shared, number| async move {
            message::session(&shared, SessionKind::Chat, number).await
        }),
        at_once(shared, sessions.files, |shared, number| async move {
            message::session(&shared, SessionKind::File, number).await
        }),
        at_once(
            shared,
            shared.options.downloads.count,
            |shared, _| async move { download(&shared).await }
        ),
    );
    let calls: Vec<CallReport> = calls.into_iter().flatten().collect();

    over.stop();
    // It has little time to remove the registration.
    while keeper.join_next().await.is_some() {}
    let is_lost = |outcome: &Outcome| *outcome == Outcome::TunnelFailed;
    let calls_broken = calls.iter().map(|call| (&call.outcome, &call.error));
    let sessions = chats.iter().chain(&files);
    let sessions_broken = sessions.map(|session| (&session.outcome, &session.error));
    let mut broken = calls_broken.chain(sessions_broken);
    let lost = match broken.find(|(outcome, _)| is_lost(outcome)) {
        Some((_, error)) => error.clone(),
        // Lost after the last call.
        None => tokio::select! {
            biased;
            reason = shared.net.lost() => Some(ClientError::Lost(reason).to_string()),
            () = std::future::ready(()) => None,
        },
    };
    Ok(ClientReport {
        tunnel_ms: None,
        register_ms,
        calls,
        chats,
        files,
        downloads,
        lost,
    })
}

/// Does something so many times at the same time; gives the results in order.
async fn at_once<N, T, F, W>(shared: &Arc<Shared<N>>, count: usize, work: F) -> Vec<T>
where
    N: InnerNet,
    T: Send + 'static,
    F: Fn(Arc<Shared<N>>, usize) -> W,
    W: Future<Output = T> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    for number in 0..count {
        let work = work(Arc::clone(shared), number);
        tasks.spawn(async move { (number, work.await) });
    }
    let mut results = BTreeMap::new();
    while let Some(done) = tasks.join_next().await {
        match done {
            Ok((number, result)) => {
                results.insert(number, result);
            }
            Err(error) => tracing::error!(%error, "a call's task ended"),
        }
    }
    results.into_values().collect()
}

/// One download, from the server that the options name.
async fn download<N: InnerNet>(shared: &Shared<N>) -> DownloadReport {
    let options = &shared.options.downloads;
    let here = SocketAddr::new(shared.server.ip(), DownloadOptions::PORT);
    let server = options.server.unwrap_or(here);
    let mut given_up = DownloadReport::new(format!("http://{server}{}", options.path));
    let patience = shared.options.media_timeout;
    tokio::select! {
        report = http::download(&*shared.net, server, &options.path, patience) => return report,
        () = shared.stop.stopped() => given_up.fail(Outcome::CallFailed, "stopped before the end"),
        reason = shared.net.lost() => {
            given_up.fail(Outcome::TunnelFailed, ClientError::Lost(reason).to_string());
        }
    }
    given_up
}

/// The caller is a user agent server too: the other side may hang up, or ask what we can do.
async fn answer_requests<N: InnerNet>(
    mut incoming: IncomingEvents,
    endpoint: Endpoint,
    dialogs: Dialogs,
    mut prober: Prober<N>,
) {
    loop {
        let event = tokio::select! {
            event = incoming.recv() => event,
            peer = prober.unreachable() => {
                // Fails only if the socket is closed, and then nobody waits any more.
                let _ = endpoint.unreachable(peer).await;
                continue;
            }
        };
        let incoming = match event {
            Some(Incoming::Request(incoming)) => incoming,
            Some(Incoming::Unanswered(to)) => {
                prober.suspect(to);
                continue;
            }
            // No INVITE is ever accepted here, so nothing else can follow.
            Some(Incoming::Cancelled(_) | Incoming::Acknowledged(_) | Incoming::AckMissing(_)) => {
                continue;
            }
            None => return,
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
