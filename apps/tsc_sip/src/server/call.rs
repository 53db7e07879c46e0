//! One call, seen from the callee.

use std::{sync::Arc, time::Instant};

use tokio::sync::watch;

use super::{
    Behaviour,
    leg::{End, Leg, contact},
};
use crate::{
    access::Access,
    media::{MediaConfig, MediaStream, Source},
    mid_call::{Asked, CallEvent, Established, Moved, Party},
    net::{InnerNet, InnerSocket, bind_media_pair},
    random::{OsRandom, Random},
    report::{CallReport, Outcome, Role, millis, record},
    sdp::Description,
    sip::StatusCode,
};

/// A call that came in.
pub(super) struct Call<N: InnerNet> {
    leg: Leg<N>,
    behaviour: Behaviour,
    report: CallReport,
    started: Instant,
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
    pub(super) fn new(leg: Leg<N>, behaviour: Behaviour) -> Self {
        let head = &leg.invite.request.head;
        let peer = head.from.uri.to_string();
        Self {
            report: CallReport::new(&head.call_id, peer, Role::Callee),
            leg,
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
        record(self.report, self.leg.shared.options.record.clone(), name).await
    }

    async fn refuse(&mut self, status: StatusCode) {
        self.report.status = Some(status.code());
        self.report
            .fail(Outcome::CallFailed, format!("{status} {}", status.reason()));
        self.leg.respond(status, None).await;
    }

    /// INVITE TRANSACTION, seen from the callee. An error is the status of the refusal that is still to be sent.
    async fn answer(&mut self, offer: &Description) -> Result<(), StatusCode> {
        let shared = Arc::clone(&self.leg.shared);
        let sockets = bind_media_pair(&*self.leg.access.net, self.leg.access.ip)
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

        self.leg.respond(StatusCode::RINGING, None).await;
        self.leg.ring(shared.options.ring, &mut self.report).await?;

        // The media starts before the ACK: it may overtake it.
        let config = self.media_config(agreed.codec);
        let mut stream = shared
            .clock
            .open(sockets, agreed, config, &mut OsRandom)
            .await;
        self.report.status = Some(StatusCode::OK.code());
        self.leg.respond(StatusCode::OK, Some(&answer)).await;
        let answered = Instant::now();
        let dialog = self.leg.dialog.clone();
        let mut call = Established::new(Role::Callee, dialog, answer, (rtp, rtcp), agreed);
        let end = self.talk(&mut call, &mut stream).await;
        stream.stop().await;
        self.leg.dialog = call.dialog;
        self.report.moves = call.moves;
        self.leg.end(end, &mut self.report).await;
        self.report.duration_ms = Some(millis(answered.elapsed()));
        self.finish(stream, call.agreed.receive).await;
        Ok(())
    }

    /// RTP Exchange, seen from the callee: the media clock does the work, we wait for the end.
    async fn talk(&mut self, call: &mut Established, stream: &mut MediaStream<N::Socket>) -> End {
        let stop = self.leg.shared.stop.clone();
        let patience = self.leg.shared.options.media_timeout;
        let mut up = None;
        loop {
            let event = tokio::select! {
                event = self.leg.events.recv() => match event {
                    Some(event) => Some(event),
                    None => return End::Lost(None),
                },
                () = stop.stopped() => return End::Stopped,
                () = stream.silent(patience) => return End::Silent,
                () = stream.heard(), if up.is_none() => {
                    up = Some(Up::new(&self.leg.shared.up));
                    continue;
                }
                _ = self.leg.access.net.lost() => None,
            };
            match event {
                Some(CallEvent::Acknowledged) => {
                    let setup = millis(self.started.elapsed());
                    self.report.setup_ms.get_or_insert(setup);
                }
                Some(CallEvent::AckMissing) => return End::AckMissing,
                // It crossed our 200: the caller will say BYE (9.2).
                Some(CallEvent::Cancelled) => {}
                Some(CallEvent::Request(request)) => {
                    match call.answer(request, self.leg.contact()).await {
                        Asked::Nothing => {}
                        Asked::Media(agreed) => stream.redirect(agreed),
                        Asked::Bye(bye) => return End::HungUp(bye),
                    }
                }
                None => match self.go_on(call, stream).await {
                    Moved::On => {}
                    Moved::HungUp(bye) => return End::HungUp(bye),
                    Moved::Stopped => return End::Stopped,
                    Moved::Lost(_) => return End::Lost(None),
                    Moved::NotHeld(error) => return End::NotHeld(error),
                    Moved::Failed(error) => return End::Failed(error),
                },
            }
        }
    }

    /// Takes the call along to the network that takes the place of the one that is gone.
    async fn go_on(
        &mut self,
        call: &mut Established,
        stream: &mut MediaStream<N::Socket>,
    ) -> Moved {
        let shared = Arc::clone(&self.leg.shared);
        let mut access = Arc::clone(&self.leg.access);
        let invite = &self.leg.invite;
        let (user, transport) = (invite.request.uri.user_name(), invite.from.transport);
        let party = Party {
            current: &shared.current,
            stop: &shared.stop,
            contact: &|access: &Access<N>| contact(&user, transport, access),
        };
        let events = &mut self.leg.events;
        let moved = call.go_on(&party, &mut access, stream, events).await;
        self.leg.access = access;
        moved
    }

    fn media_config(&self, codec: crate::media::Codec) -> MediaConfig {
        let options = &self.leg.shared.options;
        let source = match self.behaviour {
            Behaviour::Echo => Source::Echo,
            Behaviour::Play | Behaviour::Busy => Source::Play {
                payload: codec.encode(options.play.samples()).into(),
                packets: None,
            },
        };
        let user = self.leg.invite.request.uri.user_name();
        let mut config = MediaConfig::new(source, format!("{user}@{}", self.leg.access.ip));
        config.playout_delay = options.playout_delay;
        config.render = options.record.is_some();
        config
    }

    async fn finish(&mut self, stream: MediaStream<N::Socket>, expected: bool) {
        let media = stream.finish(self.leg.shared.options.linger).await;
        self.report.note_media(media, expected);
        tracing::info!(
            peer = %self.report.peer,
            received = self.report.received,
            lost = self.report.lost,
            "call over"
        );
    }
}
