//! One call, from INVITE to BYE.

use std::{io, net::SocketAddr, pin::pin, sync::Arc, time::Instant};

use tokio::sync::mpsc;

use super::{
    Shared, address_of_record,
    invite::{CallError, End, bye, explain, finish, invite_request, ring},
};
use crate::{
    access::Access,
    dialog::Dialog,
    media::{MediaConfig, MediaStream, SAMPLES_PER_PACKET, Source},
    mid_call::{Asked, CallEvent, Established, Moved, Party, agree},
    net::{DirectPackets, InnerNet, InnerSocket, MediaServices, bind_media_pair, encrypt_both},
    random::{OsRandom, Random},
    report::{CallReport, Outcome, Role, millis, record},
    sdp::{Agreed, Description, PACKET_TIME},
    sip::{Method, NameAddr},
};

/// Makes call `number`; whatever happens is in the report.
pub(super) async fn call<N: InnerNet>(shared: &Shared<N>, number: usize) -> CallReport {
    let access = tokio::select! {
        access = shared.current.access() => access.map_err(CallError::Lost),
        () = shared.stop.stopped() => Err(CallError::Stopped),
    };
    let (mut access, error) = match access {
        Ok(access) => (access, None),
        Err(error) => (shared.current.last(), Some(error)),
    };
    let callee = address_of_record(&shared.options, &shared.options.callee, access.server);
    let call_id = format!("{}@{}", OsRandom.token(), access.ip);
    let mut report = CallReport::new(&call_id, callee.to_string(), Role::Caller);
    report.direct = shared.options.services.peer.then(DirectPackets::default);
    let made = match error {
        Some(error) => Err(error),
        None => {
            try_call(
                shared,
                &mut access,
                &mut report,
                NameAddr::new(callee),
                number,
            )
            .await
        }
    };
    if let Err(error) = made {
        tracing::warn!(call = number + 1, "call failed");
        explain(&access, error, &mut report, |report, status| {
            report.status = Some(status);
        })
        .await;
    }
    let name = format!("call-{}", number + 1);
    record(report, shared.options.record.clone(), name).await
}

async fn try_call<N: InnerNet>(
    shared: &Shared<N>,
    access: &mut Arc<Access<N>>,
    report: &mut CallReport,
    callee: NameAddr,
    number: usize,
) -> Result<(), CallError> {
    let options = &shared.options;
    // RTP socket created: two more inner sockets, RTP on an even port and RTCP on the next.
    let sockets = bind_media_pair(&*access.net, access.ip)
        .await
        .map_err(CallError::Sockets)?;
    // Redundancy, DDT and peer tunneling: accepted at once; the tunnel's notifications tell from when on they are in force. Until then, and without
    // them, media goes as it would have gone.
    let asked = Instant::now();
    let serve = access
        .net
        .serve(&sockets.0, options.services, options.services_timeout);
    let in_force = tokio::select! {
        in_force = serve => in_force.map_err(CallError::Sockets)?,
        () = shared.stop.stopped() => return Err(CallError::Stopped),
    };
    sockets
        .1
        .set_services(options.services.rtcp())
        .map_err(CallError::Sockets)?;
    // Encryption changes their addresses, which the offer names: here the call waits for it in any case.
    let level = options.services.encryption;
    let encrypted = encrypt_both(&sockets, level)
        .await
        .map_err(CallError::Sockets)?;
    let others = options.services.without_encryption() != MediaServices::default();
    let is_served = (in_force || !others) && (encrypted || !level.is_wanted());
    let is_asked = others || level.is_wanted();
    report.services_ms = (is_asked && is_served).then(|| millis(asked.elapsed()));
    let waited = level.is_wanted() || !options.services_timeout.is_zero();
    if is_asked && !is_served && waited {
        tracing::warn!(
            call = number + 1,
            "what was asked of the tunnel is not in force"
        );
    }
    let local = local(&sockets).map_err(CallError::Sockets)?;
    // 62 bits, so that peers with signed numbers can read it.
    let offer = Description::offer(OsRandom.bits() >> 2, local.0, local.1, &options.codecs);

    // --- INVITE TRANSACTION -------------------------------------------------------------------------
    // The INVITE carries the offer. The endpoint repeats it until something comes back; 180 tells that the
    // callee rings, 200 brings its answer.
    let invite = invite_request(shared, access, callee, &report.call_id, &offer);
    let (started, hop) = (Instant::now(), shared.hop(access));
    let mut pending = access.endpoint.request(invite.clone(), hop).await?;
    let response = ring(shared, access, &mut pending).await?;
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
    let mut dialog = Dialog::of_caller(&invite, &response, hop)
        .ok_or_else(|| CallError::BadAnswer("it has no tag or no Contact".into()))?;
    let (entry, mut events) = shared.dialogs.add(dialog.id());
    let (ack, to) = dialog.request(Method::Ack);
    pending.acknowledge(ack, to).await?;
    let connected = Instant::now();
    let agreed = match agree(&offer, &response) {
        Ok(agreed) => agreed,
        Err(error) => {
            // The call is up, but of no use (13.2.2.4).
            bye(access, &mut dialog).await?;
            return Err(CallError::BadAnswer(error));
        }
    };
    tracing::info!(call = number + 1, peer = %report.peer, "call is up");

    // --- RTP Exchange -------------------------------------------------------------------------------
    // The media clock takes a packet of 20 ms from every call at each tick. What arrives is counted and
    // recorded, and RTCP tells both sides how it went.
    let config = media_config(shared, access, agreed);
    let mut stream = shared
        .clock
        .open(sockets, agreed, config, &mut OsRandom)
        .await;
    let mut call = Established::new(Role::Caller, dialog, offer, local, agreed);
    call.services = options.services;
    let end = talk(shared, access, &mut call, &mut stream, &mut events).await;
    stream.stop().await;

    // --- BYE TRANSACTION ----------------------------------------------------------------------------
    // Either side may end the call. Our stream ended before, so the callee has all of it when BYE comes.
    if let End::Silent = end {
        let error = format!("neither RTP nor RTCP came for {:?}", options.media_timeout);
        report.fail(Outcome::CallFailed, error);
    }
    finish(shared, access, &mut call.dialog, &mut events, end, report).await;
    report.duration_ms = Some(millis(connected.elapsed()));
    report.moves = call.moves;
    report.note_media(stream.finish(options.linger).await, call.agreed.receive);
    drop(entry);
    Ok(())
}

/// The call until it ends: in the network where it began, and in those that take its place.
async fn talk<N: InnerNet>(
    shared: &Shared<N>,
    access: &mut Arc<Access<N>>,
    call: &mut Established,
    stream: &mut MediaStream<N::Socket>,
    events: &mut mpsc::Receiver<CallEvent>,
) -> End {
    let options = &shared.options;
    let patience = options.media_timeout;
    // Without permission to send there is no last packet to wait for.
    let length = PACKET_TIME.saturating_mul(u32::try_from(packets(options)).unwrap_or(u32::MAX));
    let mut over = pin!(tokio::time::sleep(length));
    loop {
        let event = tokio::select! {
            () = stream.played_out() => return End::Over,
            () = &mut over, if !call.agreed.send => return End::Over,
            () = shared.stop.stopped() => return End::Over,
            () = stream.silent(patience) => return End::Silent,
            _ = access.net.lost() => None,
            event = events.recv() => event,
        };
        match event {
            Some(CallEvent::Request(request)) => {
                match call.answer(request, shared.contact(access)).await {
                    Asked::Nothing => {}
                    Asked::Media(agreed) => stream.redirect(agreed),
                    Asked::Bye(bye) => return End::HungUp(bye),
                }
            }
            Some(CallEvent::AckMissing) => return End::Failed("no ACK came".to_owned()),
            Some(CallEvent::Cancelled | CallEvent::Acknowledged) => {}
            None => {
                let party = Party {
                    current: &shared.current,
                    stop: &shared.stop,
                    contact: &|access: &Access<N>| shared.contact(access),
                };
                match call.go_on(&party, access, stream, events).await {
                    Moved::On => {}
                    Moved::HungUp(bye) => return End::HungUp(bye),
                    Moved::Stopped => return End::Over,
                    Moved::Lost(reason) => return End::Lost(reason),
                    Moved::NotHeld(error) => return End::NotHeld(error),
                    Moved::Failed(error) => return End::Failed(error),
                }
            }
        }
    }
}

/// Addresses of the sockets for RTP and RTCP.
fn local<S: InnerSocket>((rtp, rtcp): &(S, S)) -> io::Result<(SocketAddr, SocketAddr)> {
    Ok((rtp.local_addr()?, rtcp.local_addr()?))
}

/// Packets that a call sends.
fn packets(options: &super::ClientOptions) -> u64 {
    let packets = match options.duration {
        Some(duration) => duration.as_millis().div_ceil(PACKET_TIME.as_millis()),
        None => options.play.samples().len().div_ceil(SAMPLES_PER_PACKET) as u128,
    };
    u64::try_from(packets).unwrap_or(u64::MAX)
}

fn media_config<N: InnerNet>(
    shared: &Shared<N>,
    access: &Access<N>,
    agreed: Agreed,
) -> MediaConfig {
    let options = &shared.options;
    let payload: Arc<[u8]> = agreed.codec.encode(options.play.samples()).into();
    let packets = Some(packets(options));
    let source = Source::Play { payload, packets };
    let mut config = MediaConfig::new(source, format!("{}@{}", options.user, access.ip));
    config.playout_delay = options.playout_delay;
    config.render = options.record.is_some();
    config
}
