//! What comes to the SIP socket, and who deals with it.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    net::IpAddr,
    sync::Arc,
    time::Instant,
};

use tokio::{
    sync::{Mutex, mpsc},
    task::JoinSet,
};

use super::{Behaviour, ServerError, Shared, call, leg::Leg, message, site::Site};
use crate::{
    access::{Access, Renewal},
    client::register::Registration,
    dialog::{Dialog, DialogId},
    digest::{Authenticator, Users, Verdict},
    endpoint::{Incoming, IncomingEvents, IncomingRequest},
    mid_call::{CallEvent, respond},
    msrp::Switchboard,
    net::{InnerNet, Prober},
    random::{OsRandom, Random},
    registrar::Registrar,
    report::{CallReport, SessionReport},
    sdp::{self, Description},
    sip::{HeaderName, Method, Request, Response, StatusCode},
    transaction::ServerId,
    ua,
};

/// Events that may wait for a call; a peer that floods its own call loses the rest.
const CALL_EVENTS: usize = 16;

/// What the server begins with.
pub(super) struct Start {
    pub(super) incoming: IncomingEvents,
    pub(super) switchboard: Switchboard,
    /// At somebody else's registrar.
    pub(super) registration: Option<Arc<Mutex<Registration>>>,
}

/// Who is told what happened.
pub(super) struct Told {
    pub(super) reports: mpsc::Sender<CallReport>,
    pub(super) sessions: mpsc::Sender<SessionReport>,
    pub(super) renewals: mpsc::Sender<Renewal>,
}

struct Server<N: InnerNet> {
    shared: Arc<Shared<N>>,
    /// Where new calls come in.
    access: Arc<Access<N>>,
    switchboard: Switchboard,
    authenticator: Option<Authenticator>,
    registrar: Registrar,
    /// Calls by dialog, and their dialogs by the last INVITE's transaction. Both bounded by `max_calls`.
    calls: BTreeMap<DialogId, mpsc::Sender<CallEvent>>,
    invites: BTreeMap<ServerId, DialogId>,
    /// How many of them each address has, by `max_calls_per_source`.
    sources: HashMap<IpAddr, usize>,
    tasks: JoinSet<(Ended, Report)>,
}

/// What a call leaves behind.
struct Ended {
    dialog: DialogId,
    source: IpAddr,
}

enum Report {
    Call(Box<CallReport>),
    Session(Box<SessionReport>),
}

/// Runs until it is told to stop, or the network is gone and no other takes its place. Either way all calls end and are
/// reported first.
pub(super) async fn serve<N: InnerNet>(
    shared: Arc<Shared<N>>,
    start: Start,
    told: Told,
) -> Result<(), ServerError> {
    let Start {
        mut incoming,
        switchboard,
        registration,
    } = start;
    let options = &shared.options;
    let authenticator = options.users.clone().map(|users: Users| {
        let (realm, lifetime) = (options.realm.clone(), options.nonce_lifetime);
        Authenticator::new(Instant::now(), realm, users, lifetime, &mut OsRandom)
    });
    let mut server = Server {
        access: shared.current.last(),
        switchboard,
        authenticator,
        registrar: Registrar::new(options.registrar),
        calls: BTreeMap::new(),
        invites: BTreeMap::new(),
        sources: HashMap::new(),
        tasks: JoinSet::new(),
        shared: Arc::clone(&shared),
    };
    let mut prober = server.prober();
    let mut stopping = false;
    let mut gone = None;
    // While it has a task, there is no network.
    let mut renewing = JoinSet::new();
    loop {
        let up = gone.is_none() && renewing.is_empty();
        let access = Arc::clone(&server.access);
        let mut lost = None;
        tokio::select! {
            event = incoming.recv(), if up => match event {
                Some(Incoming::Request(request)) => server.handle(request, stopping).await,
                Some(Incoming::Cancelled(id)) => server.notify(id, CallEvent::Cancelled),
                Some(Incoming::Acknowledged(id)) => server.notify(id, CallEvent::Acknowledged),
                Some(Incoming::AckMissing(id)) => server.notify(id, CallEvent::AckMissing),
                Some(Incoming::Unanswered(to)) => prober.suspect(to),
                // Why is known in a moment.
                None => lost = Some(None),
            },
            Some(done) = server.tasks.join_next() => {
                let Ok((ended, report)) = done else { continue };
                server.forget(&ended);
                told.report(report);
            }
            reason = access.net.lost(), if up => lost = Some(Some(reason)),
            Some(renewed) = renewing.join_next() => match renewed {
                Ok(Ok((site, renewal))) => {
                    incoming = server.move_in(site);
                    prober = server.prober();
                    told.renewal(renewal);
                }
                Ok(Err(error)) => gone = Some(server.network_gone(error)),
                // The runtime is going down.
                Err(_) => gone = Some(server.network_gone(ServerError::Closed)),
            },
            peer = prober.unreachable(), if up => {
                // Fails only if the socket was closed, which is seen above.
                let _ = access.endpoint.unreachable(peer).await;
            }
            () = shared.stop.stopped(), if !stopping => stopping = true,
        }
        if let Some(reason) = lost {
            shared.current.set_renewing();
            let (shared, registration) = (Arc::clone(&shared), registration.clone());
            renewing.spawn(Site::renew(shared, access, reason, registration));
        }
        if server.tasks.is_empty() {
            match gone {
                Some(error) => return Err(error),
                None if stopping => return Ok(()),
                None => {}
            }
        }
    }
}

impl Told {
    fn report(&self, report: Report) {
        let fetched = match report {
            Report::Call(report) => self.reports.try_send(*report).is_ok(),
            Report::Session(report) => self.sessions.try_send(*report).is_ok(),
        };
        if !fetched {
            tracing::debug!("report not fetched");
        }
    }

    fn renewal(&self, renewal: Renewal) {
        tracing::info!(?renewal, "reached again");
        if self.renewals.try_send(renewal).is_err() {
            tracing::debug!("renewal not fetched");
        }
    }
}

impl<N: InnerNet> Server<N> {
    fn prober(&self) -> Prober<N> {
        Prober::new(Arc::clone(&self.access.net), self.access.ip)
    }

    /// Ends all calls without a word to their peers, whom nothing reaches any more.
    fn network_gone(&mut self, error: ServerError) -> ServerError {
        // Set once: this is called once.
        let _ = self.shared.gone.set(error.to_string());
        self.shared.current.set_gone(error.to_string());
        self.invites.clear();
        self.calls.clear();
        error
    }

    /// Goes on in another network; gives what comes to the SIP socket there.
    fn move_in(&mut self, mut site: Site<N>) -> IncomingEvents {
        // Transactions of the old socket are no more, and their names come again.
        self.invites.clear();
        site.move_in(&self.shared);
        self.access = site.access;
        self.switchboard = site.switchboard;
        site.incoming
    }

    /// A call is over.
    fn forget(&mut self, ended: &Ended) {
        self.invites.retain(|_, dialog| *dialog != ended.dialog);
        self.calls.remove(&ended.dialog);
        self.leave(ended.source);
    }

    /// A call from this address is over.
    fn leave(&mut self, source: IpAddr) {
        if let Entry::Occupied(mut calls) = self.sources.entry(source) {
            *calls.get_mut() -= 1;
            if *calls.get() == 0 {
                calls.remove();
            }
        }
    }

    fn notify(&self, invite: ServerId, event: CallEvent) {
        let call = self.invites.get(&invite).and_then(|id| self.calls.get(id));
        if let Some(call) = call
            && call.try_send(event).is_err()
        {
            tracing::debug!("call event dropped");
        }
    }

    async fn handle(&mut self, incoming: IncomingRequest, stopping: bool) {
        let request = &incoming.request;
        let tag = OsRandom.token();
        let response = match request.method {
            _ if let Some(refusal) = ua::screen(request, &tag) => refusal,
            Method::Register => self.register(request, &tag),
            Method::Options => ua::capabilities(request, &tag),
            Method::Invite | Method::Bye if request.head.to.tag().is_some() => {
                let dialog = DialogId::of_incoming(request);
                match self.calls.get(&dialog) {
                    Some(call) => {
                        if request.method == Method::Invite {
                            // The one before is acknowledged, or given up for this one.
                            self.invites.retain(|_, of| *of != dialog);
                            self.invites.insert(incoming.id, dialog);
                        }
                        if let Err(error) = call.try_send(CallEvent::Request(incoming)) {
                            tracing::debug!(%error, "call event dropped");
                        }
                        return;
                    }
                    None => request.response(StatusCode::CALL_DOES_NOT_EXIST, &tag),
                }
            }
            Method::Invite => match self.screen_call(&incoming, stopping) {
                Ok((behaviour, offer)) => {
                    self.start_call(incoming, tag, behaviour, offer).await;
                    return;
                }
                Err(status) => request.response(status, &tag),
            },
            Method::Bye => request.response(StatusCode::CALL_DOES_NOT_EXIST, &tag),
            Method::Ack | Method::Cancel | Method::Other(_) => {
                request.response(StatusCode::METHOD_NOT_ALLOWED, &tag)
            }
        };
        respond(&incoming, response).await;
    }

    /// REGISTER TRANSACTION, seen from the registrar.
    fn register(&mut self, request: &Request, tag: &str) -> Response {
        let now = Instant::now();
        let user = request.head.to.uri.user_name();
        if let Some(authenticator) = &mut self.authenticator {
            let uri = request.uri.to_string();
            let authorization = request.head.headers(&HeaderName::Authorization);
            let asked = (request.method.as_str(), uri.as_str());
            match authenticator.judge(now, asked, authorization, &mut OsRandom) {
                // Everybody registers for himself only.
                Verdict::Accepted(name) if name == user => {}
                Verdict::Accepted(_) | Verdict::Refused => {
                    tracing::info!(%user, "registration refused");
                    return request.response(StatusCode::FORBIDDEN, tag);
                }
                Verdict::Challenge(challenges) => {
                    let mut response = request.response(StatusCode::UNAUTHORIZED, tag);
                    for challenge in challenges {
                        let name = HeaderName::WwwAuthenticate;
                        response.head.push(name, challenge.to_string());
                    }
                    return response;
                }
            }
        }
        let response = self.registrar.register(now, &user, request, tag);
        tracing::info!(%user, status = %response.status, "registration");
        response
    }

    /// Whether a call can be taken: which user is called, and what is offered.
    fn screen_call(
        &self,
        incoming: &IncomingRequest,
        stopping: bool,
    ) -> Result<(Behaviour, Description), StatusCode> {
        let request = &incoming.request;
        if stopping {
            return Err(StatusCode::SERVICE_UNAVAILABLE);
        }
        // The same request by another way (8.2.2.2): the first one is being dealt with.
        let merged = self.calls.keys().any(|id| {
            id.call_id == request.head.call_id
                && Some(id.remote_tag.as_str()) == request.head.from.tag()
        });
        if merged {
            return Err(StatusCode::LOOP_DETECTED);
        }
        let options = &self.shared.options;
        let callee = request.uri.user_name();
        let behaviour = *options.callees.get(&callee).ok_or(StatusCode::NOT_FOUND)?;
        let source = incoming.from.address.ip();
        let own = self.sources.get(&source).copied().unwrap_or_default();
        if behaviour == Behaviour::Busy
            || self.calls.len() >= options.max_calls
            || own >= options.max_calls_per_source
        {
            return Err(StatusCode::BUSY_HERE);
        }
        let head = &request.head;
        if head.body.is_empty() {
            // An INVITE without an offer wants ours in the 200; not done here.
            return Err(StatusCode::NOT_ACCEPTABLE_HERE);
        }
        if !head.has_content_type(sdp::CONTENT_TYPE) {
            return Err(StatusCode::UNSUPPORTED_MEDIA_TYPE);
        }
        let offer = Description::parse(&head.body).map_err(|_| StatusCode::BAD_REQUEST)?;
        Ok((behaviour, offer))
    }

    async fn start_call(
        &mut self,
        incoming: IncomingRequest,
        tag: String,
        behaviour: Behaviour,
        offer: Description,
    ) {
        let Some(dialog) = Dialog::of_callee(&incoming.request, &tag, incoming.from) else {
            let bad = incoming.request.response(StatusCode::BAD_REQUEST, &tag);
            respond(&incoming, bad).await;
            return;
        };
        let (invite, id) = (incoming.id, dialog.id());
        let (sender, events) = mpsc::channel(CALL_EVENTS);
        self.calls.insert(id.clone(), sender);
        self.invites.insert(invite, id.clone());
        let source = incoming.from.address.ip();
        *self.sources.entry(source).or_default() += 1;
        let ended = Ended { dialog: id, source };
        let leg = Leg {
            shared: Arc::clone(&self.shared),
            access: Arc::clone(&self.access),
            invite: incoming,
            dialog,
            events,
        };
        if offer.is_about_messages() {
            let session = message::MessageCall::new(leg, self.switchboard.clone());
            self.tasks.spawn(async move {
                let report = Box::new(session.run(offer).await);
                (ended, Report::Session(report))
            });
            return;
        }
        let call = call::Call::new(leg, behaviour);
        self.tasks.spawn(async move {
            let report = Box::new(call.run(offer).await);
            (ended, Report::Call(report))
        });
    }
}
