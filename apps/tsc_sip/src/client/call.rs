//! One call, from INVITE to BYE.

use std::{sync::Arc, time::Instant};

use tokio::sync::mpsc;

use super::{
    Shared, address_of_record,
    invite::{CallError, DialogEntry, End, bye, explain, finish, invite_request, ring},
};
use crate::{
    dialog::Dialog,
    media::{MediaConfig, SAMPLES_PER_PACKET, Source},
    net::{InnerNet, bind_media_pair},
    random::{OsRandom, Random},
    report::{CallReport, Outcome, Role, millis, record},
    sdp::{self, Agreed, Description, PACKET_TIME},
    sip::{Method, NameAddr, Response},
};

/// Makes call `number`; whatever happens is in the report.
pub(super) async fn call<N: InnerNet>(shared: &Shared<N>, number: usize) -> CallReport {
    let callee = address_of_record(&shared.options, &shared.options.callee, shared.server);
    let call_id = format!("{}@{}", OsRandom.token(), shared.ip);
    let mut report = CallReport::new(&call_id, callee.to_string(), Role::Caller);
    if let Err(error) = try_call(shared, &mut report, NameAddr::new(callee)).await {
        tracing::warn!(call = number + 1, "call failed");
        explain(shared, error, &mut report, |report, status| {
            report.status = Some(status);
        })
        .await;
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
    let invite = invite_request(shared, callee, &report.call_id, &offer);
    let started = Instant::now();
    let mut pending = endpoint.request(invite.clone(), shared.hop()).await?;
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
    let mut dialog = Dialog::of_caller(&invite, &response, shared.hop())
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
    finish(shared, &mut dialog, &mut hung_up, end, report).await;
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
