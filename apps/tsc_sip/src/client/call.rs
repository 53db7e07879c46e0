//! One call, from INVITE to BYE.

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::{Shared, address_of_record};
use crate::{
    dialog::{Dialog, DialogId},
    endpoint::{GOODBYE, IncomingRequest, PendingRequest, RequestError},
    media::{MediaConfig, SAMPLES_PER_PACKET, Source},
    net::{InnerNet, bind_media_pair},
    random::{OsRandom, Random},
    report::{CallReport, Outcome, Role, millis, record},
    sdp::{self, Agreed, Description, PACKET_TIME},
    sip::{Contacts, HeaderName, Method, NameAddr, Request, Response, StatusCode},
    ua,
};

/// Why a call did not come about.
#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error("the media sockets cannot be opened: {0}")]
    Sockets(std::io::Error),
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
enum End {
    /// All is said, or we are to stop.
    Over,
    /// Nothing came from the callee for too long.
    Silent,
    /// The callee said BYE.
    HungUp(IncomingRequest),
    /// The network is gone.
    Lost(String),
}

/// Makes call `number`; whatever happens is in the report.
pub(super) async fn call<N: InnerNet>(shared: &Shared<N>, number: usize) -> CallReport {
    let callee = address_of_record(&shared.options, &shared.options.callee, shared.server);
    let call_id = format!("{}@{}", OsRandom.token(), shared.ip);
    let mut report = CallReport::new(&call_id, callee.to_string(), Role::Caller);
    if let Err(mut error) = try_call(shared, &mut report, NameAddr::new(callee)).await {
        if let CallError::Request(RequestError::Closed) = error {
            error = CallError::Lost(shared.why_gone().await);
        }
        if let CallError::Refused { status, .. } = error {
            report.status = Some(status.code());
        }
        tracing::warn!(call = number + 1, %error, "call failed");
        let outcome = if let CallError::Lost(_) = error {
            Outcome::TunnelFailed
        } else {
            Outcome::CallFailed
        };
        report.fail(outcome, error.to_string());
    }
    let name = format!("call-{}", number + 1);
    record(report, shared.options.record.clone(), name).await
}

async fn try_call<N: InnerNet>(
    shared: &Shared<N>,
    report: &mut CallReport,
    callee: NameAddr,
) -> Result<(), CallError> {
    let Shared {
        endpoint, options, ..
    } = shared;

    // RTP socket created: two more inner sockets, RTP on an even port and RTCP on the next.
    let sockets = bind_media_pair(&*shared.net, shared.ip)
        .await
        .map_err(CallError::Sockets)?;
    let offer = offer(&sockets, options)?;

    // --- INVITE TRANSACTION -------------------------------------------------------------------------
    // The INVITE carries the offer. The endpoint repeats it until something comes back; 180 tells that the
    // callee rings, 200 brings its answer.
    let from = NameAddr::new(shared.identity()).with_tag(&OsRandom.token());
    let uri = callee.uri.clone();
    let mut invite = Request::new(Method::Invite, uri, from, callee, &report.call_id, 1);
    invite.head.contacts = Contacts::List(vec![shared.contact()]);
    invite.head.push(HeaderName::Allow, ua::ALLOW);
    invite.head.push(HeaderName::UserAgent, ua::PRODUCT);
    invite
        .head
        .set_body(sdp::CONTENT_TYPE, offer.to_string().into_bytes());
    let started = Instant::now();
    let mut pending = endpoint.request(invite.clone(), shared.server).await?;
    let response = ring(shared, &mut pending).await?;
    report.status = Some(response.status.code());
    if !response.status.is_success() {
        return Err(CallError::Refused {
            status: response.status,
            reason: response.reason,
        });
    }
    report.setup_ms = Some(millis(started.elapsed()));

    // --- Build and send ACK -------------------------------------------------------------------------
    // The ACK for a 200 is a request inside the new dialog; it goes to the callee's Contact. Should the 200
    // come again, because the ACK was lost, the endpoint sends it again.
    let mut dialog = Dialog::of_caller(&invite, &response, shared.server)
        .ok_or_else(|| CallError::BadAnswer("it has no tag or no Contact".into()))?;
    let (hang_up, mut hung_up) = mpsc::channel(1);
    let entry = DialogEntry::add(shared, dialog.id(), hang_up);
    let (ack, to) = dialog.request(Method::Ack);
    pending.acknowledge(ack, to).await?;
    let connected = Instant::now();

    let agreed = match agree(&offer, &response) {
        Ok(agreed) => agreed,
        Err(error) => {
            // The call is up, but of no use (13.2.2.4).
            bye(shared, &mut dialog).await?;
            return Err(error);
        }
    };

    // --- RTP Exchange -------------------------------------------------------------------------------
    // The media clock takes a packet of 20 ms from every call at each tick. What arrives is counted and
    // recorded, and RTCP tells both sides how it went.
    let config = media_config(shared, agreed);
    let stream = shared
        .clock
        .open(sockets, agreed, config, &mut OsRandom)
        .await;
    // Without permission to send there is no last packet to wait for.
    let length = PACKET_TIME.saturating_mul(u32::try_from(packets(options)).unwrap_or(u32::MAX));
    let patience = options.media_timeout;
    let end = tokio::select! {
        () = stream.played_out() => End::Over,
        () = tokio::time::sleep(length), if !agreed.send => End::Over,
        () = shared.stop.stopped() => End::Over,
        () = stream.silent(patience) => End::Silent,
        reason = shared.net.lost() => End::Lost(reason),
        Some(request) = hung_up.recv() => End::HungUp(request),
    };
    stream.stop().await;

    // --- BYE TRANSACTION ----------------------------------------------------------------------------
    // Either side may end the call. Our stream ended before, so the callee has all of it when BYE comes.
    if let End::Silent = end {
        let error = format!("neither RTP nor RTCP came for {patience:?}");
        report.fail(Outcome::CallFailed, error);
    }
    match end {
        End::HungUp(request) => answer_bye(&mut dialog, &request).await,
        End::Lost(reason) => {
            let error = CallError::Lost(reason);
            tracing::warn!(%error, "call broken off");
            report.fail(Outcome::TunnelFailed, error.to_string());
        }
        End::Over | End::Silent => {
            let hurried = matches!(end, End::Silent);
            let mut late_bye = pin!(hung_up.recv());
            tokio::select! {
                done = bye(shared, &mut dialog) => match done {
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
                    report.fail(Outcome::CallFailed, "BYE failed: no answer");
                }
                // Both hang up at the same time.
                Some(request) = &mut late_bye => {
                    let mut theirs = dialog.clone();
                    answer_bye(&mut theirs, &request).await;
                }
            }
        }
    }
    report.duration_ms = Some(millis(connected.elapsed()));
    report.note_media(stream.finish(options.linger).await, agreed.receive);
    drop(entry);
    Ok(())
}

fn offer<S: crate::net::InnerSocket>(
    (rtp, rtcp): &(S, S),
    options: &super::ClientOptions,
) -> Result<Description, CallError> {
    let rtp = rtp.local_addr().map_err(CallError::Sockets)?;
    let rtcp = rtcp.local_addr().map_err(CallError::Sockets)?;
    // 62 bits, so that peers with signed numbers can read it.
    let id = OsRandom.bits() >> 2;
    Ok(Description::offer(id, rtp, rtcp, &options.codecs))
}

/// Waits for the final response; gives up by CANCEL when nobody answers in time.
async fn ring<N: InnerNet>(
    shared: &Shared<N>,
    pending: &mut PendingRequest,
) -> Result<Response, CallError> {
    let limit = shared.options.ring_timeout;
    let mut timeout = pin!(tokio::time::sleep(limit));
    let mut given_up = None;
    loop {
        let response = tokio::select! {
            response = pending.response() => response?,
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

fn agree(offer: &Description, response: &Response) -> Result<Agreed, CallError> {
    let bad = |error: &dyn std::fmt::Display| CallError::BadAnswer(error.to_string());
    if !response.head.has_content_type(sdp::CONTENT_TYPE) {
        return Err(bad(&"it has no session description"));
    }
    let answer = Description::parse(&response.head.body).map_err(|e| bad(&e))?;
    Description::accept(offer, &answer).map_err(|e| bad(&e))
}

/// Packets that a call sends.
fn packets(options: &super::ClientOptions) -> u64 {
    let packets = match options.duration {
        Some(duration) => duration.as_millis().div_ceil(PACKET_TIME.as_millis()),
        None => options.play.samples().len().div_ceil(SAMPLES_PER_PACKET) as u128,
    };
    u64::try_from(packets).unwrap_or(u64::MAX)
}

fn media_config<N: InnerNet>(shared: &Shared<N>, agreed: Agreed) -> MediaConfig {
    let options = &shared.options;
    let payload: Arc<[u8]> = agreed.codec.encode(options.play.samples()).into();
    let packets = Some(packets(options));
    let source = Source::Play { payload, packets };
    let mut config = MediaConfig::new(source, format!("{}@{}", options.user, shared.ip));
    config.playout_delay = options.playout_delay;
    config
}

/// How long a BYE waits for its answer: as long as any request, but not long when the peer is gone or we are to stop.
async fn too_long<N: InnerNet>(shared: &Shared<N>, hurried: bool) {
    if !hurried {
        shared.stop.stopped().await;
    }
    tokio::time::sleep(GOODBYE).await;
}

async fn bye<N: InnerNet>(shared: &Shared<N>, dialog: &mut Dialog) -> Result<(), RequestError> {
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
struct DialogEntry {
    dialogs: super::Dialogs,
    id: DialogId,
}

impl DialogEntry {
    fn add<N: InnerNet>(
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
