//! What all calls and sessions of the caller have in common: INVITE, its answer, BYE.

use std::{pin::pin, time::Duration};

use tokio::sync::mpsc;

use super::Shared;
use crate::{
    access::Access,
    dialog::Dialog,
    endpoint::{GOODBYE, IncomingRequest, PendingRequest, RequestError},
    mid_call::{CallEvent, respond},
    net::InnerNet,
    random::{OsRandom, Random},
    report::{Fail, Outcome},
    sdp::{self, Description},
    sip::{Contacts, HeaderName, Method, NameAddr, Request, Response, StatusCode},
    ua,
};

/// Why a call did not come about.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error("the media sockets cannot be opened: {0}")]
    Sockets(std::io::Error),
    #[error("the file cannot be read: {0}")]
    File(std::io::Error),
    #[error("INVITE failed: {0}")]
    Request(#[from] RequestError),
    #[error("refused: {status} {reason}")]
    Refused { status: StatusCode, reason: String },
    #[error("not answered within {0:?}, cancelled")]
    NotAnswered(Duration),
    #[error("stopped while ringing")]
    Stopped,
    #[error("the tunnel is gone: {0}")]
    Lost(String),
    #[error("the 200 response is not usable: {0}")]
    BadAnswer(String),
}

/// Why a call that was up ends.
pub(super) enum End {
    /// All is said, or we are to stop.
    Over,
    /// Nothing came from the callee for too long.
    Silent,
    /// The callee said BYE.
    HungUp(IncomingRequest),
    /// The network is gone.
    Lost(String),
    /// The callee does not know the call any more, as this says.
    NotHeld(String),
    /// It cannot go on, for this reason.
    Failed(String),
}

/// Notes why a call did not come about.
pub(super) async fn explain<N: InnerNet, R: Fail>(
    access: &Access<N>,
    mut error: CallError,
    report: &mut R,
    note_status: impl FnOnce(&mut R, u16),
) {
    if let CallError::Request(RequestError::Closed) = error {
        error = CallError::Lost(access.why_gone().await);
    }
    if let CallError::Refused { status, .. } = error {
        note_status(report, status.code());
    }
    tracing::debug!(%error, "no call");
    let outcome = match error {
        CallError::Lost(_) => Outcome::TunnelFailed,
        CallError::File(_) => Outcome::Configuration,
        CallError::Sockets(_)
        | CallError::Request(_)
        | CallError::Refused { .. }
        | CallError::NotAnswered(_)
        | CallError::Stopped
        | CallError::BadAnswer(_) => Outcome::CallFailed,
    };
    report.fail(outcome, error.to_string());
}

/// The INVITE with our offer.
pub(super) fn invite_request<N: InnerNet>(
    shared: &Shared<N>,
    access: &Access<N>,
    callee: NameAddr,
    call_id: &str,
    offer: &Description,
) -> Request {
    let from = NameAddr::new(shared.identity(access)).with_tag(&OsRandom.token());
    let uri = callee.uri.clone();
    let mut invite = Request::new(Method::Invite, uri, from, callee, call_id, 1);
    invite.head.contacts = Contacts::List(vec![shared.contact(access)]);
    invite.head.push(HeaderName::Allow, ua::ALLOW);
    invite.head.push(HeaderName::UserAgent, ua::PRODUCT);
    let body = offer.to_string().into_bytes();
    invite.head.set_body(sdp::CONTENT_TYPE, body);
    invite
}

/// Waits for the final response; gives up by CANCEL when nobody answers in time. When we are to stop, the answer to that has
/// little time: a peer that says nothing must not hold us up.
pub(super) async fn ring<N: InnerNet>(
    shared: &Shared<N>,
    access: &Access<N>,
    pending: &mut PendingRequest,
) -> Result<Response, CallError> {
    let limit = shared.options.ring_timeout;
    let mut timeout = pin!(tokio::time::sleep(limit));
    let mut given_up = None;
    let mut hurry = pin!(too_long(shared, false));
    loop {
        let response = tokio::select! {
            response = pending.response() => response?,
            reason = access.net.lost() => return Err(CallError::Lost(reason)),
            () = &mut hurry => return Err(CallError::Stopped),
            () = &mut timeout, if given_up.is_none() => {
                given_up = Some(CallError::NotAnswered(limit));
                pending.cancel().await?;
                continue;
            }
            () = shared.stop.stopped(), if given_up.is_none() => {
                given_up = Some(CallError::Stopped);
                pending.cancel().await?;
                continue;
            }
        };
        match given_up {
            _ if response.status.is_provisional() => {
                tracing::debug!(status = %response.status, "progress");
            }
            // The CANCEL did its work.
            Some(error) if response.status == StatusCode::REQUEST_TERMINATED => return Err(error),
            // Or came too late: then the call is up, and ends at once as any other.
            _ => return Ok(response),
        }
    }
}

/// Ends a call that was up, by BYE or by the answer to one.
pub(super) async fn finish<N: InnerNet>(
    shared: &Shared<N>,
    access: &Access<N>,
    dialog: &mut Dialog,
    events: &mut mpsc::Receiver<CallEvent>,
    end: End,
    report: &mut impl Fail,
) {
    let hurried = matches!(end, End::Silent | End::Failed(_));
    match end {
        End::HungUp(request) => answer_bye(&request).await,
        End::NotHeld(error) => {
            tracing::warn!(%error, "call over");
            report.fail(Outcome::CallFailed, error);
        }
        End::Lost(reason) => {
            let error = CallError::Lost(reason);
            tracing::warn!(%error, "call broken off");
            report.fail(Outcome::TunnelFailed, error.to_string());
        }
        End::Over | End::Silent | End::Failed(_) => {
            if let End::Failed(error) = end {
                tracing::warn!(%error, "call broken off");
                report.fail(Outcome::CallFailed, error);
            }
            let mut theirs = dialog.clone();
            let mut late_bye = pin!(hung_up(&mut theirs, events));
            tokio::select! {
                done = bye(access, dialog) => match done {
                    Ok(()) => {}
                    Err(RequestError::Closed) => {
                        let error = CallError::Lost(access.why_gone().await);
                        report.fail(Outcome::TunnelFailed, error.to_string());
                    }
                    Err(error) => {
                        report.fail(Outcome::CallFailed, format!("BYE failed: {error}"));
                    }
                },
                () = too_long(shared, hurried) => {
                    report.fail(Outcome::CallFailed, "BYE failed: no answer".to_owned());
                }
                // Both hang up at the same time.
                request = &mut late_bye => answer_bye(&request).await,
            }
        }
    }
}

/// How long a BYE waits for its answer: as long as any request, but not long when the peer is gone or we are to stop.
async fn too_long<N: InnerNet>(shared: &Shared<N>, hurried: bool) {
    if !hurried {
        shared.stop.stopped().await;
    }
    tokio::time::sleep(GOODBYE).await;
}

pub(super) async fn bye<N: InnerNet>(
    access: &Access<N>,
    dialog: &mut Dialog,
) -> Result<(), RequestError> {
    let (request, to) = dialog.request(Method::Bye);
    let mut pending = access.endpoint.request(request, to).await?;
    // Whatever the answer is, the call is over (15.1.1).
    let response = pending.final_response().await?;
    tracing::debug!(status = %response.status, "BYE answered");
    Ok(())
}

async fn answer_bye(incoming: &IncomingRequest) {
    respond(incoming, incoming.request.response(StatusCode::OK, "")).await;
}

/// Waits for the callee's BYE. Whatever else it asks is refused, which leaves the session as it is (14.2). Cancel-safe.
pub(super) async fn hung_up(
    dialog: &mut Dialog,
    events: &mut mpsc::Receiver<CallEvent>,
) -> IncomingRequest {
    loop {
        let incoming = match events.recv().await {
            Some(CallEvent::Request(incoming)) => incoming,
            Some(CallEvent::Cancelled | CallEvent::Acknowledged | CallEvent::AckMissing) => {
                continue;
            }
            // Nobody hands out events any more: the end comes from elsewhere.
            None => std::future::pending().await,
        };
        let status = match dialog.accept(&incoming.request) {
            true if incoming.request.method == Method::Bye => return incoming,
            true => StatusCode::NOT_ACCEPTABLE_HERE,
            false => StatusCode::SERVER_INTERNAL_ERROR,
        };
        respond(&incoming, incoming.request.response(status, "")).await;
    }
}
