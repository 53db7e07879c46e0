//! The caller: registers, calls, plays, records, hangs up. The steps are those of the SDK guide, in its order and
//! with its search marks.

mod call;
mod invite;
mod message;
mod options;
mod reach;
pub(crate) mod register;
mod requests;

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::{sync::Mutex, task::JoinSet};

pub use options::{ClientOptions, FileProgress, FileSource, Progress, ProgressFn, SessionOptions};
pub use register::RegisterError;
use register::{Registrant, Registration};
use requests::Dialogs;

use crate::{
    access::{Access, Current, Renewal},
    endpoint::RequestError,
    http::{self, DownloadOptions},
    media::MediaClock,
    net::InnerNet,
    report::{CallReport, DownloadReport, Outcome, SessionKind, SessionReport, millis},
    sip::{Hop, NameAddr, SipUri},
    stop::{Stop, Stopper},
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
    /// Each time that another tunnel took the place of one that was gone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub renewals: Vec<Renewal>,
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
    /// Why the network is gone, if it was lost once calls had begun; or what was lost with it, if another took its place. The
    /// reports say how far each came.
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
    /// The network, our address in it and the SIP socket; others when another network took its place.
    current: Current<N>,
    options: ClientOptions,
    clock: MediaClock<N::Socket>,
    dialogs: Dialogs,
    stop: Stop,
}

impl<N: InnerNet> Shared<N> {
    /// Our address of record.
    fn identity(&self, access: &Access<N>) -> SipUri {
        address_of_record(&self.options, &self.options.user, access.server)
    }

    /// Where requests outside of a dialog go.
    const fn hop(&self, access: &Access<N>) -> Hop {
        Hop::new(self.options.transport, access.server)
    }

    fn registrant(&self, access: &Access<N>) -> Registrant {
        Registrant {
            endpoint: access.endpoint.clone(),
            hop: self.hop(access),
            identity: self.identity(access),
            contact: self.contact(access),
            user: self.options.user.clone(),
            password: self.options.password.clone(),
            expires: self.options.expires,
        }
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
    fn contact(&self, access: &Access<N>) -> NameAddr {
        let uri = SipUri::at(&self.options.user, access.endpoint.local_addr());
        NameAddr::new(uri.over(self.options.transport))
    }
}

fn address_of_record(options: &ClientOptions, user: &str, server: SocketAddr) -> SipUri {
    match &options.domain {
        Some(domain) => SipUri::new(user, domain.clone(), None),
        None => SipUri::new(user, server.ip(), None),
    }
}

/// Makes the calls that the options describe, in a network that is up: inside a tunnel or on the host.
///
/// Registers first, if wanted, and removes the registration at the end. Calls run at the same time. `stop`
/// makes them hang up early. When the network is lost another takes its place, if there is one
/// ([`InnerNet::renew`]): we register from there, and calls go on there by a re-INVITE. Chats, files and downloads end with
/// the network, as do calls that were not answered yet. If there is no other network all end; the report tells.
///
/// # Errors
///
/// When no call could be tried. Failures of single calls are in the report.
pub async fn run_client<N: InnerNet>(
    net: Arc<N>,
    options: ClientOptions,
    stop: Stop,
) -> Result<ClientReport, ClientError> {
    // --- SIP SOCKET CREATION ------------------------------------------------------------------------
    // The socket is bound to the address that the tunnel server assigned. Inside a tunnel no other program
    // can be in the way; port 0 lets the stack choose. From here on nothing shows that this is a tunnel.
    // See `reach.rs`, which does the same in the tunnel that takes the place of one that is gone.
    let (access, incoming) = reach::open(net, &options, 0).await?;
    let shared = Arc::new(Shared {
        current: Current::new(Arc::new(access)),
        clock: MediaClock::start(),
        dialogs: Dialogs::default(),
        stop,
        options,
    });
    let mut helpers = JoinSet::new();
    helpers.spawn(reach::answers(&shared, &shared.current.last(), incoming));
    let result = register_and_call(&shared, &mut helpers).await;
    helpers.shutdown().await;
    // Whoever opened the network can close it now: nothing here uses it any more.
    shared.current.last().endpoint.clone().close().await;
    result
}

async fn register_and_call<N: InnerNet>(
    shared: &Arc<Shared<N>>,
    helpers: &mut JoinSet<()>,
) -> Result<ClientReport, ClientError> {
    // --- REGISTER TRANSACTION -----------------------------------------------------------------------
    // Tells the registrar where we are: see `register.rs` for the request and the answer to its challenge.
    let (over, calls_over) = Stopper::new();
    let mut keeper = JoinSet::new();
    let (mut register_ms, mut registration) = (None, None);
    if shared.options.register {
        let started = Instant::now();
        let access = shared.current.last();
        let mut new = Registration::new(shared.registrant(&access));
        tokio::select! {
            biased;
            reason = access.net.lost() => return Err(ClientError::Lost(reason)),
            () = shared.stop.stopped() => return Err(RegisterError::Stopped.into()),
            done = new.register() => match done {
                // The socket noticed first.
                Err(RegisterError::Request(RequestError::Closed)) => {
                    return Err(ClientError::Lost(access.why_gone().await));
                }
                done => done?,
            },
        }
        register_ms = Some(millis(started.elapsed()));
        // For calls that outlast the registration.
        let new = Arc::new(Mutex::new(new));
        keeper.spawn(register::keep(Arc::clone(&new), calls_over.clone()));
        registration = Some(new);
    }
    // From now on a network that is lost is replaced: see `reach.rs`.
    let reachable = reach::stay_reachable(shared, helpers, registration, calls_over);

    // The calls themselves: INVITE TRANSACTION to BYE TRANSACTION are in `call.rs`.
    // Chats and files are in `message.rs`, downloads in `../http/client.rs`. All of it at the same time.
    let sessions = &shared.options.sessions;
    let started = Instant::now();
    let work = async {
        let all = tokio::join!(
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
        over.stop();
        all
    };
    let (renewals, (calls, chats, files, downloads)) = tokio::join!(reachable, work);
    let calls: Vec<CallReport> = calls.into_iter().flatten().collect();

    // It has little time to remove the registration.
    while keeper.join_next().await.is_some() {}
    let is_lost = |outcome: &Outcome| *outcome == Outcome::TunnelFailed;
    let calls_broken = calls.iter().map(|call| (&call.outcome, &call.error));
    let sessions = chats.iter().chain(&files);
    let sessions_broken = sessions.map(|session| (&session.outcome, &session.error));
    let mut broken = calls_broken.chain(sessions_broken);
    let access = shared.current.last();
    let lost = match broken.find(|(outcome, _)| is_lost(outcome)) {
        Some((_, error)) => error.clone(),
        // Lost after the last call.
        None => tokio::select! {
            biased;
            reason = access.net.lost() => Some(ClientError::Lost(reason).to_string()),
            () = std::future::ready(()) => None,
        },
    };
    Ok(ClientReport {
        tunnel_ms: None,
        register_ms,
        renewals,
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
    let access = shared.current.last();
    let here = SocketAddr::new(access.server.ip(), DownloadOptions::PORT);
    let server = options.server.unwrap_or(here);
    let mut given_up = DownloadReport::new(format!("http://{server}{}", options.path));
    let patience = shared.options.media_timeout;
    tokio::select! {
        report = http::download(&*access.net, server, &options.path, patience) => return report,
        () = shared.stop.stopped() => given_up.fail(Outcome::CallFailed, "stopped before the end"),
        reason = access.net.lost() => {
            given_up.fail(Outcome::TunnelFailed, ClientError::Lost(reason).to_string());
        }
    }
    given_up
}
