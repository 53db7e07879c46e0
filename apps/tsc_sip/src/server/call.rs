//! One call, seen from the callee.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, watch};

use super::{
    Behaviour, Shared,
    requests::{CallEvent, respond},
};
use crate::{
    dialog::Dialog,
    endpoint::{GOODBYE, IncomingRequest, RequestError},
    media::{MediaConfig, MediaStream, Source},
    net::{InnerNet, InnerSocket, bind_media_pair},
    random::{OsRandom, Random},
    report::{CallReport, Outcome, Role, millis, record},
    sdp::{self, Description},
    sip::{Contacts, HeaderName, Method, NameAddr, Response, SipUri, StatusCode},
    ua,
};

/// A call that came in.
pub(super) struct Call<N: InnerNet> {
    shared: Arc<Shared<N>>,
    invite: IncomingRequest,
    dialog: Dialog,
    events: mpsc::Receiver<CallEvent>,
    behaviour: Behaviour,
    report: CallReport,
    started: Instant,
}

/// Why a call ended.
enum End {
    /// The caller said BYE.
    HungUp(IncomingRequest),
    /// The ACK never came.
    AckMissing,
    /// Nothing came from the caller for too long.
    Silent,
    /// The server stops.
    Stopped,
    /// The network is gone.
    Lost,
}

/// Counts a call as up while it lives.
struct Up(watch::Sender<usize>);

impl Up {
    fn new(count: &watch::Sender<usize>) -> Self {
        count.send_modify(|up| *up += 1);
        Self(count.clone())
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        self.0.send_modify(|up| *up -= 1);
    }
}

impl<N: InnerNet> Call<N> {
    pub(super) fn new(
        shared: Arc<Shared<N>>,
        invite: IncomingRequest,
        dialog: Dialog,
        events: mpsc::Receiver<CallEvent>,
        behaviour: Behaviour,
    ) -> Self {
        let head = &invite.request.head;
        let peer = head.from.uri.to_string();
        Self {
            report: CallReport::new(&head.call_id, peer, Role::Callee),
            shared,
            invite,
            dialog,
            events,
            behaviour,
            started: Instant::now(),
        }
    }

    /// Deals with the call to its end.
    pub(super) async fn run(mut self, offer: Description) -> CallReport {
        tracing::info!(peer = %self.report.peer, "call");
        if let Err(status) = self.answer(&offer).await {
            self.refuse(status).await;
        }
        let name = format!("{}-{}", self.report.peer, self.report.call_id);
        record(self.report, self.shared.options.record.clone(), name).await
    }

    async fn refuse(&mut self, status: StatusCode) {
        self.report.status = Some(status.code());
        self.report
            .fail(Outcome::CallFailed, format!("{status} {}", status.reason()));
        self.respond(status, None).await;
    }

    async fn respond(&self, status: StatusCode, answer: Option<&Description>) {
        let tag = self.dialog.id().local_tag;
        let mut response: Response = self.invite.request.response(status, &tag);
        let contact = SipUri::at(
            &self.invite.request.uri.user_name(),
            self.shared.endpoint.local_addr(),
        );
        response.head.contacts = Contacts::List(vec![NameAddr::new(contact)]);
        response.head.push(HeaderName::Server, ua::PRODUCT);
        if let Some(answer) = answer {
            response.head.push(HeaderName::Allow, ua::ALLOW);
            let body = answer.to_string().into_bytes();
            response.head.set_body(sdp::CONTENT_TYPE, body);
        }
        respond(&self.invite, response).await;
    }

    /// INVITE TRANSACTION, seen from the callee. An error is the status of the refusal that is still to be sent.
    async fn answer(&mut self, offer: &Description) -> Result<(), StatusCode> {
        let shared = Arc::clone(&self.shared);
        let sockets = bind_media_pair(&*shared.net, shared.ip)
            .await
            .map_err(|error| {
                tracing::warn!(%error, "no media sockets");
                StatusCode::SERVICE_UNAVAILABLE
            })?;
        let local = |socket: &N::Socket| {
            let address = socket.local_addr();
            address.map_err(|_| StatusCode::SERVER_INTERNAL_ERROR)
        };
        let (rtp, rtcp) = (local(&sockets.0)?, local(&sockets.1)?);
        let id = OsRandom.bits() >> 2;
        let codecs = &shared.options.codecs;
        let (answer, agreed) = Description::answer(offer, id, rtp, rtcp, codecs)
            .map_err(|_| StatusCode::NOT_ACCEPTABLE_HERE)?;

        self.respond(StatusCode::RINGING, None).await;
        self.ring(shared.options.ring).await?;

        // The media starts before the ACK: it may overtake it.
        let config = self.media_config(agreed.codec);
        let stream = shared
            .clock
            .open(sockets, agreed, config, &mut OsRandom)
            .await;
        self.report.status = Some(StatusCode::OK.code());
        self.respond(StatusCode::OK, Some(&answer)).await;
        let answered = Instant::now();
        let end = self.talk(&stream).await;
        stream.stop().await;
        self.end(end).await;
        self.report.duration_ms = Some(millis(answered.elapsed()));
        self.finish(stream, agreed.receive).await;
        Ok(())
    }

    /// Lets it ring, unless the caller gives up.
    async fn ring(&mut self, how_long: Duration) -> Result<(), StatusCode> {
        let mut answer_at = std::pin::pin!(tokio::time::sleep(how_long));
        let stop = self.shared.stop.clone();
        loop {
            tokio::select! {
                biased;
                event = self.events.recv() => match event {
                    Some(CallEvent::Cancelled) => return Err(StatusCode::REQUEST_TERMINATED),
                    Some(CallEvent::Request(request)) => {
                        // BYE before the answer ends the call like CANCEL (15.1.2).
                        let ends = request.request.method == Method::Bye;
                        let status = if ends { StatusCode::OK } else { StatusCode::SERVER_INTERNAL_ERROR };
                        respond(&request, request.request.response(status, "")).await;
                        if ends {
                            return Err(StatusCode::REQUEST_TERMINATED);
                        }
                    }
                    Some(CallEvent::Acknowledged | CallEvent::AckMissing) => {}
                    None => {
                        self.lost();
                        return Err(StatusCode::SERVICE_UNAVAILABLE);
                    }
                },
                () = stop.stopped() => return Err(StatusCode::TEMPORARILY_UNAVAILABLE),
                () = &mut answer_at => return Ok(()),
            }
        }
    }

    /// RTP Exchange, seen from the callee: the media clock does the work, we wait for the end.
    async fn talk(&mut self, stream: &MediaStream<N::Socket>) -> End {
        let stop = self.shared.stop.clone();
        let patience = self.shared.options.media_timeout;
        let mut up = None;
        loop {
            let event = tokio::select! {
                event = self.events.recv() => event,
                () = stop.stopped() => return End::Stopped,
                () = stream.silent(patience) => return End::Silent,
                () = stream.heard(), if up.is_none() => {
                    up = Some(Up::new(&self.shared.up));
                    continue;
                }
            };
            match event {
                Some(CallEvent::Acknowledged) => {
                    self.report.setup_ms = Some(millis(self.started.elapsed()));
                }
                Some(CallEvent::AckMissing) => return End::AckMissing,
                // It crossed our 200: the caller will say BYE (9.2).
                Some(CallEvent::Cancelled) => {}
                Some(CallEvent::Request(request)) => {
                    if !self.dialog.accept(&request.request) {
                        let old = StatusCode::SERVER_INTERNAL_ERROR;
                        respond(&request, request.request.response(old, "")).await;
                    } else if request.request.method == Method::Bye {
                        return End::HungUp(request);
                    } else {
                        // A new offer. Refusing it leaves the call as it is (14.2).
                        let keep = StatusCode::NOT_ACCEPTABLE_HERE;
                        respond(&request, request.request.response(keep, "")).await;
                    }
                }
                None => return End::Lost,
            }
        }
    }

    fn lost(&mut self) {
        let reason = self.shared.gone.get();
        let reason = reason.map_or("the network is gone", String::as_str);
        self.report.fail(Outcome::TunnelFailed, reason);
    }

    /// BYE TRANSACTION, seen from the callee.
    async fn end(&mut self, end: End) {
        match end {
            End::HungUp(bye) => {
                respond(&bye, bye.request.response(StatusCode::OK, "")).await;
                return;
            }
            End::AckMissing => self.report.fail(Outcome::CallFailed, "no ACK came"),
            End::Silent => {
                let patience = self.shared.options.media_timeout;
                tracing::warn!(peer = %self.report.peer, ?patience, "no RTP and no RTCP: the call is ended");
                self.report.fail(
                    Outcome::CallFailed,
                    format!("neither RTP nor RTCP came for {patience:?}"),
                );
            }
            End::Stopped => {}
            End::Lost => return self.lost(),
        }
        let (bye, to) = self.dialog.request(Method::Bye);
        let bye = async {
            let mut pending = self.shared.endpoint.request(bye, to).await?;
            pending.final_response().await
        };
        // The endpoint goes on repeating it; only the report does not wait for that.
        let error = match tokio::time::timeout(GOODBYE, bye).await {
            Ok(Ok(_)) => return,
            Ok(Err(error)) => error,
            Err(_) => RequestError::Timeout,
        };
        if let RequestError::Closed = error {
            self.lost();
        }
        self.report
            .fail(Outcome::CallFailed, format!("BYE failed: {error}"));
    }

    fn media_config(&self, codec: crate::media::Codec) -> MediaConfig {
        let options = &self.shared.options;
        let source = match self.behaviour {
            Behaviour::Echo => Source::Echo,
            Behaviour::Play | Behaviour::Busy => Source::Play {
                payload: codec.encode(options.play.samples()).into(),
                packets: None,
            },
        };
        let user = self.invite.request.uri.user_name();
        let mut config = MediaConfig::new(source, format!("{user}@{}", self.shared.ip));
        config.playout_delay = options.playout_delay;
        config
    }

    async fn finish(&mut self, stream: MediaStream<N::Socket>, expected: bool) {
        let media = stream.finish(self.shared.options.linger).await;
        self.report.note_media(media, expected);
        tracing::info!(
            peer = %self.report.peer,
            received = self.report.received,
            lost = self.report.lost,
            "call over"
        );
    }
}
