//! What all calls and sessions of the callee have in common: the answers to INVITE, and how they end.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;

use super::{
    Shared,
    requests::{CallEvent, respond},
};
use crate::{
    dialog::Dialog,
    endpoint::{GOODBYE, IncomingRequest, RequestError},
    net::InnerNet,
    report::{Fail, Outcome},
    sdp::{self, Description},
    sip::{Contacts, HeaderName, Method, NameAddr, Response, SipUri, StatusCode},
    ua,
};

/// A dialog that came in.
pub(super) struct Leg<N: InnerNet> {
    pub(super) shared: Arc<Shared<N>>,
    pub(super) invite: IncomingRequest,
    pub(super) dialog: Dialog,
    pub(super) events: mpsc::Receiver<CallEvent>,
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
    /// The network is gone.
    Lost,
}

impl<N: InnerNet> Leg<N> {
    pub(super) async fn respond(&self, status: StatusCode, answer: Option<&Description>) {
        let tag = self.dialog.id().local_tag;
        let mut response: Response = self.invite.request.response(status, &tag);
        let contact = SipUri::at(
            &self.invite.request.uri.user_name(),
            self.shared.endpoint.local_addr(),
        )
        .over(self.invite.from.transport);
        response.head.contacts = Contacts::List(vec![NameAddr::new(contact)]);
        response.head.push(HeaderName::Server, ua::PRODUCT);
        if let Some(answer) = answer {
            response.head.push(HeaderName::Allow, ua::ALLOW);
            let body = answer.to_string().into_bytes();
            response.head.set_body(sdp::CONTENT_TYPE, body);
        }
        respond(&self.invite, response).await;
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
                        self.lost(report);
                        return Err(StatusCode::SERVICE_UNAVAILABLE);
                    }
                },
                () = stop.stopped() => return Err(StatusCode::TEMPORARILY_UNAVAILABLE),
                () = &mut answer_at => return Ok(()),
            }
        }
    }

    pub(super) fn lost(&self, report: &mut impl Fail) {
        let reason = self.shared.gone.get();
        let reason = reason
            .map_or("the network is gone", String::as_str)
            .to_owned();
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
            End::Lost => return self.lost(report),
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
            self.lost(report);
        }
        report.fail(Outcome::CallFailed, format!("BYE failed: {error}"));
    }
}
