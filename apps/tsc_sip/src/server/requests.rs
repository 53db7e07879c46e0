//! What comes to the SIP socket, and who deals with it.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    net::IpAddr,
    sync::Arc,
    time::Instant,
};

use tokio::{sync::mpsc, task::JoinSet};

use super::{Behaviour, ServerError, Shared, call, leg::Leg, message};
use crate::{
    dialog::{Dialog, DialogId},
    digest::{Authenticator, Users, Verdict},
    endpoint::{Incoming, IncomingEvents, IncomingRequest},
    net::{self, InnerNet, Prober},
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

/// What concerns one call.
#[derive(Debug)]
pub(super) enum CallEvent {
    /// The caller gave up while it rang.
    Cancelled,
    /// The ACK came.
    Acknowledged,
    /// The ACK never came.
    AckMissing,
    /// BYE, or another request inside the dialog.
    Request(IncomingRequest),
}

struct Server<N: InnerNet> {
    shared: Arc<Shared<N>>,
    authenticator: Option<Authenticator>,
    registrar: Registrar,
    /// Calls by dialog, and their dialogs by the INVITE's transaction. Both bounded by `max_calls`.
    calls: BTreeMap<DialogId, mpsc::Sender<CallEvent>>,
    invites: BTreeMap<ServerId, DialogId>,
    /// How many of them each address has, by `max_calls_per_source`.
    sources: HashMap<IpAddr, usize>,
    tasks: JoinSet<(Ended, Report)>,
}

/// What a call leaves behind.
struct Ended {
    invite: ServerId,
    dialog: DialogId,
    source: IpAddr,
}

enum Report {
    Call(Box<CallReport>),
    Session(Box<SessionReport>),
}

/// Runs until it is told to stop, or the network is gone. Either way all calls end and are reported first.
pub(super) async fn serve<N: InnerNet>(
    shared: Arc<Shared<N>>,
    mut incoming: IncomingEvents,
    reports: mpsc::Sender<CallReport>,
    sessions: mpsc::Sender<SessionReport>,
) -> Result<(), ServerError> {
    let options = &shared.options;
    let authenticator = options.users.clone().map(|users: Users| {
        let (realm, lifetime) = (options.realm.clone(), options.nonce_lifetime);
        Authenticator::new(Instant::now(), realm, users, lifetime, &mut OsRandom)
    });
    let mut server = Server {
        authenticator,
        registrar: Registrar::new(options.registrar),
        calls: BTreeMap::new(),
        invites: BTreeMap::new(),
        sources: HashMap::new(),
        tasks: JoinSet::new(),
        shared: Arc::clone(&shared),
    };
    let mut prober = Prober::new(Arc::clone(&shared.net), shared.ip);
    let mut stopping = false;
    let mut gone = None;
    loop {
        tokio::select! {
            event = incoming.recv(), if gone.is_none() => match event {
                Some(Incoming::Request(request)) => server.handle(request, stopping).await,
                Some(Incoming::Cancelled(id)) => server.notify(id, CallEvent::Cancelled),
                Some(Incoming::Acknowledged(id)) => server.notify(id, CallEvent::Acknowledged),
                Some(Incoming::AckMissing(id)) => server.notify(id, CallEvent::AckMissing),
                Some(Incoming::Unanswered(to)) => prober.suspect(to),
                None => gone = Some(server.network_gone(net::why_gone(&*shared.net).await)),
            },
            Some(done) = server.tasks.join_next() => {
                let Ok((ended, report)) = done else { continue };
                server.invites.remove(&ended.invite);
                server.calls.remove(&ended.dialog);
                server.leave(ended.source);
                let fetched = match report {
                    Report::Call(report) => reports.try_send(*report).is_ok(),
                    Report::Session(report) => sessions.try_send(*report).is_ok(),
                };
                if !fetched {
                    tracing::debug!("report not fetched");
                }
            }
            reason = shared.net.lost(), if gone.is_none() => {
                gone = Some(server.network_gone(Some(reason)));
            }
            peer = prober.unreachable(), if gone.is_none() => {
                // Fails only if the socket was closed, which is seen above.
                let _ = shared.endpoint.unreachable(peer).await;
            }
            () = shared.stop.stopped(), if !stopping => stopping = true,
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

impl<N: InnerNet> Server<N> {
    /// Ends all calls without a word to their peers, whom nothing reaches any more.
    fn network_gone(&mut self, reason: Option<String>) -> ServerError {
        let error = reason.map_or(ServerError::Closed, ServerError::Lost);
        // Set once: this is called once.
        let _ = self.shared.gone.set(error.to_string());
        self.invites.clear();
        self.calls.clear();
        error
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
                match self.calls.get(&DialogId::of_incoming(request)) {
                    Some(call) => {
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
        let ended = Ended {
            invite,
            dialog: id,
            source,
        };
        let leg = Leg {
            shared: Arc::clone(&self.shared),
            invite: incoming,
            dialog,
            events,
        };
        if offer.is_about_messages() {
            let session = message::MessageCall::new(leg, self.shared.switchboard.clone());
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

/// Sends a response. A failure means that the transaction or the socket is over: nobody waits for it then.
pub(super) async fn respond(incoming: &IncomingRequest, response: Response) {
    if let Err(error) = incoming.respond(response).await {
        tracing::debug!(%error, "response not sent");
    }
}
