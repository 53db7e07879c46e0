//! What all calls and sessions of the caller have in common: INVITE, its answer, BYE.

use std::{pin::pin, time::Duration};

use tokio::sync::mpsc;

use super::Shared;
use crate::{
    dialog::{Dialog, DialogId},
    endpoint::{GOODBYE, IncomingRequest, PendingRequest, RequestError},
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
}

/// Notes why a call did not come about.
pub(super) async fn explain<N: InnerNet, R: Fail>(
    shared: &Shared<N>,
    mut error: CallError,
    report: &mut R,
    note_status: impl FnOnce(&mut R, u16),
) {
    if let CallError::Request(RequestError::Closed) = error {
        error = CallError::Lost(shared.why_gone().await);
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
    callee: NameAddr,
    call_id: &str,
    offer: &Description,
) -> Request {
    let from = NameAddr::new(shared.identity()).with_tag(&OsRandom.token());
    let uri = callee.uri.clone();
    let mut invite = Request::new(Method::Invite, uri, from, callee, call_id, 1);
    invite.head.contacts = Contacts::List(vec![shared.contact()]);
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
    pending: &mut PendingRequest,
) -> Result<Response, CallError> {
    let limit = shared.options.ring_timeout;
    let mut timeout = pin!(tokio::time::sleep(limit));
    let mut given_up = None;
    let mut hurry = pin!(too_long(shared, false));
    loop {
        let response = tokio::select! {
            response = pending.response() => response?,
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
    dialog: &mut Dialog,
    hung_up: &mut mpsc::Receiver<IncomingRequest>,
    end: End,
    report: &mut impl Fail,
) {
    match end {
        End::HungUp(request) => answer_bye(dialog, &request).await,
        End::Lost(reason) => {
            let error = CallError::Lost(reason);
            tracing::warn!(%error, "call broken off");
            report.fail(Outcome::TunnelFailed, error.to_string());
        }
        End::Over | End::Silent => {
            let hurried = matches!(end, End::Silent);
            let mut late_bye = pin!(hung_up.recv());
            tokio::select! {
                done = bye(shared, dialog) => match done {
                    Ok(()) => {}
                    Err(RequestError::Closed) => {
                        let error = CallError::Lost(shared.why_gone().await);
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
                Some(request) = &mut late_bye => {
                    let mut theirs = dialog.clone();
                    answer_bye(&mut theirs, &request).await;
                }
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
    shared: &Shared<N>,
    dialog: &mut Dialog,
) -> Result<(), RequestError> {
    let (request, to) = dialog.request(Method::Bye);
    let mut pending = shared.endpoint.request(request, to).await?;
    // Whatever the answer is, the call is over (15.1.1).
    let response = pending.final_response().await?;
    tracing::debug!(status = %response.status, "BYE answered");
    Ok(())
}

async fn answer_bye(dialog: &mut Dialog, incoming: &IncomingRequest) {
    let status = match dialog.accept(&incoming.request) {
        true => StatusCode::OK,
        false => StatusCode::SERVER_INTERNAL_ERROR,
    };
    let response = incoming.request.response(status, "");
    if let Err(error) = incoming.respond(response).await {
        tracing::debug!(%error, "BYE not answered");
    }
}

/// The call's place among those that can be hung up; leaves it when dropped.
pub(super) struct DialogEntry {
    dialogs: super::Dialogs,
    id: DialogId,
}

impl DialogEntry {
    pub(super) fn add<N: InnerNet>(
        shared: &Shared<N>,
        id: DialogId,
        hang_up: mpsc::Sender<IncomingRequest>,
    ) -> Self {
        let dialogs = shared.dialogs.clone();
        dialogs.lock().insert(id.clone(), hang_up);
        Self { dialogs, id }
    }
}

impl Drop for DialogEntry {
    fn drop(&mut self) {
        self.dialogs.lock().remove(&self.id);
    }
}
