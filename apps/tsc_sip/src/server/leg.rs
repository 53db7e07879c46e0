//! What all calls and sessions of the callee have in common: the answers to INVITE, and how they end.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;

use super::{ServerError, Shared};
use crate::{
    access::Access,
    dialog::Dialog,
    endpoint::{GOODBYE, IncomingRequest, RequestError},
    mid_call::{CallEvent, respond},
    net::InnerNet,
    report::{Fail, Outcome},
    sdp::{self, Description},
    sip::{Contacts, HeaderName, Method, NameAddr, Response, SipUri, StatusCode, Transport},
    ua,
};

/// A dialog that came in.
pub(super) struct Leg<N: InnerNet> {
    pub(super) shared: Arc<Shared<N>>,
    /// Where it came in; where it goes on, if the network was replaced.
    pub(super) access: Arc<Access<N>>,
    pub(super) invite: IncomingRequest,
    pub(super) dialog: Dialog,
    pub(super) events: mpsc::Receiver<CallEvent>,
}

/// Where a user of ours is reached by a certain access.
pub(super) fn contact<N: InnerNet>(
    user: &str,
    transport: Transport,
    access: &Access<N>,
) -> NameAddr {
    NameAddr::new(SipUri::at(user, access.endpoint.local_addr()).over(transport))
}

/// Why a call ended.
pub(super) enum End {
    /// The caller said BYE.
    HungUp(IncomingRequest),
    /// The ACK never came.
    AckMissing,
    /// Nothing came from the caller for too long.
    Silent,
    /// The server stops.
    Stopped,
    /// The network is gone; why, if the server lives on without it.
    Lost(Option<String>),
    /// The caller does not know the call any more, as this says.
    NotHeld(String),
    /// It cannot go on, for this reason.
    Failed(String),
}

impl<N: InnerNet> Leg<N> {
    pub(super) async fn respond(&self, status: StatusCode, answer: Option<&Description>) {
        let tag = self.dialog.id().local_tag;
        let mut response: Response = self.invite.request.response(status, &tag);
        response.head.contacts = Contacts::List(vec![self.contact()]);
        response.head.push(HeaderName::Server, ua::PRODUCT);
        if let Some(answer) = answer {
            response.head.push(HeaderName::Allow, ua::ALLOW);
            let body = answer.to_string().into_bytes();
            response.head.set_body(sdp::CONTENT_TYPE, body);
        }
        respond(&self.invite, response).await;
    }

    /// Where the caller reaches us.
    pub(super) fn contact(&self) -> NameAddr {
        let (user, transport) = (
            self.invite.request.uri.user_name(),
            self.invite.from.transport,
        );
        contact(&user, transport, &self.access)
    }

    /// Lets it ring, unless the caller gives up.
    pub(super) async fn ring(
        &mut self,
        how_long: Duration,
        report: &mut impl Fail,
    ) -> Result<(), StatusCode> {
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
                        self.lost(None, report);
                        return Err(StatusCode::SERVICE_UNAVAILABLE);
                    }
                },
                reason = self.access.net.lost() => {
                    self.lost(Some(reason), report);
                    return Err(StatusCode::SERVICE_UNAVAILABLE);
                }
                () = stop.stopped() => return Err(StatusCode::TEMPORARILY_UNAVAILABLE),
                () = &mut answer_at => return Ok(()),
            }
        }
    }

    fn lost(&self, reason: Option<String>, report: &mut impl Fail) {
        let reason = reason.map(|reason| ServerError::Lost(reason).to_string());
        let reason = reason.or_else(|| self.shared.gone.get().cloned());
        let reason = reason.unwrap_or_else(|| "the network is gone".to_owned());
        report.fail(Outcome::TunnelFailed, reason);
    }

    /// BYE TRANSACTION, seen from the callee.
    pub(super) async fn end(&mut self, end: End, report: &mut impl Fail) {
        match end {
            End::HungUp(bye) => {
                respond(&bye, bye.request.response(StatusCode::OK, "")).await;
                return;
            }
            End::AckMissing => report.fail(Outcome::CallFailed, "no ACK came".to_owned()),
            End::Silent => {
                let patience = self.shared.options.media_timeout;
                tracing::warn!(?patience, "no RTP and no RTCP: the call is ended");
                report.fail(
                    Outcome::CallFailed,
                    format!("neither RTP nor RTCP came for {patience:?}"),
                );
            }
            End::Stopped => {}
            End::Lost(reason) => return self.lost(reason, report),
            End::NotHeld(error) => {
                tracing::warn!(%error, "call over");
                report.fail(Outcome::CallFailed, error);
                return;
            }
            End::Failed(error) => {
                tracing::warn!(%error, "call broken off");
                report.fail(Outcome::CallFailed, error);
            }
        }
        let (bye, to) = self.dialog.request(Method::Bye);
        let bye = async {
            let mut pending = self.access.endpoint.request(bye, to).await?;
            pending.final_response().await
        };
        // The endpoint goes on repeating it; only the report does not wait for that.
        let error = match tokio::time::timeout(GOODBYE, bye).await {
            Ok(Ok(_)) => return,
            Ok(Err(error)) => error,
            Err(_) => RequestError::Timeout,
        };
        if let RequestError::Closed = error {
            self.lost(None, report);
        }
        report.fail(Outcome::CallFailed, format!("BYE failed: {error}"));
    }
}
