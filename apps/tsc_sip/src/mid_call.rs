//! A call that is up: what the other side asks within it, and how it goes on when our network was replaced.
//!
//! Its dialog names our old address then, and so does the session description. A re-INVITE with the new ones, once we are
//! registered again, brings the call along (RFC 3261 12.2.1.1, 14.1): the other side sends requests to the new Contact and
//! media to the new address from its answer on. Who does not hold the call any more says 481, and that ends it.
//!
//! If both sides have moved, neither reaches the other at the old address. The one whose registrar or SIP server keeps its
//! place is found there by the other's re-INVITE, which says where the other is, and its own is given up for that.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::sync::mpsc;

use crate::{
    access::{Access, Current},
    dialog::Dialog,
    endpoint::{IncomingRequest, PendingRequest, RequestError},
    media::MediaStream,
    net::{InnerNet, InnerSocket, MediaServices, bind_media_pair, encrypt_both, set_services},
    random::{OsRandom, Random},
    report::Role,
    sdp::{self, Agreed, Description},
    sip::{Contacts, HeaderName, Hop, Method, NameAddr, Request, Response, StatusCode},
    stop::Stop,
    ua,
};

/// How long the other side may take to be found, and to answer, after we are back: as long as any request, 64 T1.
const PATIENCE: Duration = Duration::from_secs(32);
/// Between two attempts, where the other side could not be reached or was busy.
const AGAIN: Duration = Duration::from_secs(2);

/// What concerns one call.
#[derive(Debug)]
pub(crate) enum CallEvent {
    /// The caller gave up while it rang.
    Cancelled,
    /// The ACK came.
    Acknowledged,
    /// The ACK never came.
    AckMissing,
    /// BYE, or another request inside the dialog.
    Request(IncomingRequest),
}

/// What a request inside the dialog leads to.
pub(crate) enum Asked {
    /// Nothing: it is answered.
    Nothing,
    /// The media goes on like this.
    Media(Agreed),
    /// The other side ends the call; that is still to be answered.
    Bye(IncomingRequest),
}

/// What came of the attempt to go on in another network.
pub(crate) enum Moved {
    /// The call goes on.
    On,
    /// The other side has ended it.
    HungUp(IncomingRequest),
    /// We are to stop.
    Stopped,
    /// There is no other network, and why.
    Lost(String),
    /// The other side does not hold the call any more: there is nobody to say BYE to.
    NotHeld(String),
    /// It cannot go on: it is to be ended by BYE.
    Failed(String),
}

/// Our side of a call that may go on elsewhere.
pub(crate) struct Party<'a, N: InnerNet> {
    pub(crate) current: &'a Current<N>,
    pub(crate) stop: &'a Stop,
    /// Where we are reached by a certain access.
    pub(crate) contact: &'a (dyn Fn(&Access<N>) -> NameAddr + Send + Sync),
}

/// The dialog of a call that is up, and what was agreed on.
pub(crate) struct Established {
    pub(crate) dialog: Dialog,
    pub(crate) agreed: Agreed,
    /// How often either side has gone on at another address.
    pub(crate) moves: u32,
    /// How RTP is protected against loss, on whatever sockets.
    pub(crate) services: MediaServices,
    role: Role,
    /// What we described last.
    ours: Description,
    /// Our RTP and RTCP.
    local: (SocketAddr, SocketAddr),
}

/// What the attempts to go on in one network led to.
enum Outcome {
    Agreed,
    /// That network is gone, too.
    Gone,
    Over(Moved),
}

/// What was first while something was waited for.
enum Waited<T> {
    /// What was waited for.
    Done(T),
    /// The other side has made its own offer, and it is answered.
    Theirs,
    Gone,
    Over(Moved),
}

impl Established {
    pub(crate) fn new(
        role: Role,
        dialog: Dialog,
        ours: Description,
        local: (SocketAddr, SocketAddr),
        agreed: Agreed,
    ) -> Self {
        Self {
            dialog,
            agreed,
            moves: 0,
            services: MediaServices::default(),
            role,
            ours,
            local,
        }
    }

    /// Answers a request inside the dialog, but for BYE.
    pub(crate) async fn answer(&mut self, incoming: IncomingRequest, contact: NameAddr) -> Asked {
        let request = &incoming.request;
        if !self.dialog.accept(request) {
            refuse(&incoming, StatusCode::SERVER_INTERNAL_ERROR).await;
            return Asked::Nothing;
        }
        if request.method == Method::Bye {
            return Asked::Bye(incoming);
        }
        self.answer_offer(&incoming, contact).await
    }

    async fn answer_offer(&mut self, incoming: &IncomingRequest, contact: NameAddr) -> Asked {
        let request = &incoming.request;
        let (answer, agreed) = match self.negotiate(request) {
            Ok(done) => done,
            // The call stays as it is (14.2).
            Err(status) => {
                refuse(incoming, status).await;
                return Asked::Nothing;
            }
        };
        let mut response = request.response(StatusCode::OK, "");
        response.head.contacts = Contacts::List(vec![contact]);
        response.head.push(HeaderName::Allow, ua::ALLOW);
        response.head.push(HeaderName::Server, ua::PRODUCT);
        let body = answer.to_string().into_bytes();
        response.head.set_body(sdp::CONTENT_TYPE, body);
        respond(incoming, response).await;
        if agreed.remote_rtp != self.agreed.remote_rtp || self.dialog.moves(&request.head) {
            tracing::info!(remote = %agreed.remote_rtp, "the other side goes on elsewhere");
            self.moves += 1;
        }
        self.dialog.refresh_target(&request.head, incoming.from);
        (self.ours, self.agreed) = (answer, agreed);
        Asked::Media(agreed)
    }

    /// The answer to an offer in the middle of the call. The codec stays: a recording has only one.
    fn negotiate(&self, request: &Request) -> Result<(Description, Agreed), StatusCode> {
        let head = &request.head;
        if head.body.is_empty() {
            return Err(StatusCode::NOT_ACCEPTABLE_HERE);
        }
        if !head.has_content_type(sdp::CONTENT_TYPE) {
            return Err(StatusCode::UNSUPPORTED_MEDIA_TYPE);
        }
        let offer = Description::parse(&head.body).map_err(|_| StatusCode::BAD_REQUEST)?;
        let ((rtp, rtcp), codec) = (self.local, [self.agreed.codec]);
        let answer = Description::answer(&offer, self.ours.id.0, rtp, rtcp, &codec);
        let (mut answer, agreed) = answer.map_err(|_| StatusCode::NOT_ACCEPTABLE_HERE)?;
        answer.follow(&self.ours);
        Ok((answer, agreed))
    }

    /// The re-INVITE that says where we are now.
    fn reinvite(&mut self, contact: NameAddr) -> (Request, Hop, Description) {
        let (rtp, rtcp) = self.local;
        let offer = self.ours.offer_again(rtp, rtcp, self.agreed.codec);
        let (mut request, to) = self.dialog.request(Method::Invite);
        request.head.contacts = Contacts::List(vec![contact]);
        request.head.push(HeaderName::Allow, ua::ALLOW);
        request.head.push(HeaderName::UserAgent, ua::PRODUCT);
        let body = offer.to_string().into_bytes();
        request.head.set_body(sdp::CONTENT_TYPE, body);
        (request, to, offer)
    }

    /// Takes the call along to the network that takes the place of `access`, which is gone, and puts that into `access`.
    pub(crate) async fn go_on<N: InnerNet>(
        &mut self,
        party: &Party<'_, N>,
        access: &mut Arc<Access<N>>,
        stream: &mut MediaStream<N::Socket>,
        events: &mut mpsc::Receiver<CallEvent>,
    ) -> Moved {
        loop {
            let next = tokio::select! {
                next = party.current.after(access) => next,
                () = party.stop.stopped() => return Moved::Stopped,
            };
            *access = match next {
                Ok(next) => next,
                Err(reason) => return Moved::Lost(reason),
            };
            let sockets = match self.bind(access).await {
                Ok(sockets) => sockets,
                Err(error) => match tokio::time::timeout(AGAIN, access.net.lost()).await {
                    Ok(_) => continue,
                    Err(_) => {
                        return Moved::Failed(format!(
                            "no media sockets in the new tunnel: {error}"
                        ));
                    }
                },
            };
            match self.offer_again(party, access, events).await {
                Outcome::Agreed => {
                    stream.resume(sockets, self.agreed);
                    self.moves += 1;
                    return Moved::On;
                }
                Outcome::Gone => {}
                Outcome::Over(moved) => return moved,
            }
        }
    }

    async fn bind<N: InnerNet>(
        &mut self,
        access: &Access<N>,
    ) -> io::Result<(N::Socket, N::Socket)> {
        let sockets = bind_media_pair(&*access.net, access.ip).await?;
        set_services(&sockets, self.services)?;
        encrypt_both(&sockets, self.services.encryption).await?;
        self.local = (sockets.0.local_addr()?, sockets.1.local_addr()?);
        Ok(sockets)
    }

    /// Sends re-INVITEs until one is answered, or the other side's is.
    async fn offer_again<N: InnerNet>(
        &mut self,
        party: &Party<'_, N>,
        access: &Access<N>,
        events: &mut mpsc::Receiver<CallEvent>,
    ) -> Outcome {
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            let (invite, to, offer) = self.reinvite((party.contact)(access));
            tracing::info!(local = %self.local.0, %to, "the call goes on in another network");
            let answered = match access.endpoint.request(invite, to).await {
                Ok(mut pending) => {
                    let response = tokio::time::timeout_at(until, pending.final_response());
                    match self.wait(party, access, events, true, response).await {
                        Waited::Done(Ok(Ok(response))) if response.status.is_success() => {
                            return self.agree(&mut pending, &response, offer, to).await;
                        }
                        Waited::Done(Ok(answered)) => answered,
                        Waited::Done(Err(_)) => Err(RequestError::Timeout),
                        Waited::Theirs => return Outcome::Agreed,
                        Waited::Gone => return Outcome::Gone,
                        Waited::Over(moved) => return Outcome::Over(moved),
                    }
                }
                Err(error) => Err(error),
            };
            let pause = match answered.map_err(|error| self.unanswered(error)) {
                Ok(response) => self.refused(&response),
                Err(pause) => pause,
            };
            let pause = match pause {
                Ok(pause) if tokio::time::Instant::now() + pause < until => pause,
                Ok(_) => return Outcome::Over(no_answer()),
                Err(moved) => return Outcome::Over(moved),
            };
            let pause = tokio::time::sleep(pause);
            match self.wait(party, access, events, false, pause).await {
                Waited::Done(()) => {}
                Waited::Theirs => return Outcome::Agreed,
                Waited::Gone => return Outcome::Gone,
                Waited::Over(moved) => return Outcome::Over(moved),
            }
        }
    }

    /// How long to wait until the next attempt after a refusal, or that there is none.
    fn refused(&self, response: &Response) -> Result<Duration, Moved> {
        let Response { status, reason, .. } = response;
        match *status {
            // Both sides have asked (14.1).
            StatusCode::REQUEST_PENDING => Ok(match self.role {
                Role::Caller => Duration::from_millis(2100) + spread(Duration::from_millis(1900)),
                Role::Callee => spread(Duration::from_secs(2)),
            }),
            StatusCode::SERVER_INTERNAL_ERROR | StatusCode::SERVICE_UNAVAILABLE => Ok(AGAIN),
            StatusCode::CALL_DOES_NOT_EXIST => Err(Moved::NotHeld(format!(
                "the other side does not hold the call any more: {status} {reason}"
            ))),
            _ => Err(Moved::Failed(format!(
                "the other side does not go on with the call: {status} {reason}"
            ))),
        }
    }

    /// The same where no answer came.
    fn unanswered(&self, error: RequestError) -> Result<Duration, Moved> {
        match error {
            // It may be on its way back itself; or our network is gone, which is seen while we wait.
            RequestError::Unreachable | RequestError::Closed => Ok(AGAIN),
            RequestError::Timeout => Err(no_answer()),
            RequestError::Transaction(_) => Err(Moved::Failed(format!("no re-INVITE: {error}"))),
        }
    }

    /// Takes the 2xx to our re-INVITE.
    async fn agree(
        &mut self,
        pending: &mut PendingRequest,
        response: &Response,
        offer: Description,
        peer: Hop,
    ) -> Outcome {
        self.dialog.refresh_target(&response.head, peer);
        let (ack, to) = self.dialog.request(Method::Ack);
        if let Err(error) = pending.acknowledge(ack, to).await {
            tracing::debug!(%error, "no ACK");
        }
        match agree(&offer, response) {
            Ok(agreed) => {
                (self.ours, self.agreed) = (offer, agreed);
                Outcome::Agreed
            }
            Err(error) => {
                let error = format!("the answer to the re-INVITE is not usable: {error}");
                Outcome::Over(Moved::Failed(error))
            }
        }
    }

    /// Waits for something, and answers what the other side asks meanwhile. `asking` is whether our own offer is out: it is
    /// given up for one of the other side only if that has moved, too, and so never gets ours.
    async fn wait<N: InnerNet, T>(
        &mut self,
        party: &Party<'_, N>,
        access: &Access<N>,
        events: &mut mpsc::Receiver<CallEvent>,
        asking: bool,
        what: impl Future<Output = T>,
    ) -> Waited<T> {
        let mut what = std::pin::pin!(what);
        loop {
            let event = tokio::select! {
                done = &mut what => return Waited::Done(done),
                event = events.recv() => event,
                _ = access.net.lost() => return Waited::Gone,
                () = party.stop.stopped() => return Waited::Over(Moved::Stopped),
            };
            let incoming = match event {
                Some(CallEvent::Request(incoming)) => incoming,
                Some(CallEvent::AckMissing) => {
                    return Waited::Over(Moved::Failed("no ACK came".to_owned()));
                }
                Some(CallEvent::Cancelled | CallEvent::Acknowledged) => continue,
                // Whoever hands out events has given up.
                None => return Waited::Gone,
            };
            let request = &incoming.request;
            if asking && request.method == Method::Invite && !self.dialog.moves(&request.head) {
                let known = self.dialog.accept(request);
                let status = match known {
                    true => StatusCode::REQUEST_PENDING,
                    false => StatusCode::SERVER_INTERNAL_ERROR,
                };
                refuse(&incoming, status).await;
                continue;
            }
            match self.answer(incoming, (party.contact)(access)).await {
                Asked::Nothing => {}
                Asked::Media(_) => return Waited::Theirs,
                Asked::Bye(bye) => return Waited::Over(Moved::HungUp(bye)),
            }
        }
    }
}

/// What an answer to our offer says.
///
/// # Errors
///
/// Why it is not usable, for people.
pub(crate) fn agree(offer: &Description, response: &Response) -> Result<Agreed, String> {
    if !response.head.has_content_type(sdp::CONTENT_TYPE) {
        return Err("it has no session description".to_owned());
    }
    let answer = Description::parse(&response.head.body).map_err(|error| error.to_string())?;
    Description::accept(offer, &answer).map_err(|error| error.to_string())
}

fn no_answer() -> Moved {
    Moved::Failed("the other side was not found again from the new tunnel".to_owned())
}

fn spread(longest: Duration) -> Duration {
    longest.mul_f64(OsRandom.fraction())
}

async fn refuse(incoming: &IncomingRequest, status: StatusCode) {
    respond(incoming, incoming.request.response(status, "")).await;
}

/// Sends a response. A failure means that the transaction or the socket is over: nobody waits for it then.
pub(crate) async fn respond(incoming: &IncomingRequest, response: Response) {
    if let Err(error) = incoming.respond(response).await {
        tracing::debug!(%error, "response not sent");
    }
}
