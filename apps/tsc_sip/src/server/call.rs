//! One call, seen from the callee.

use std::{sync::Arc, time::Instant};

use tokio::sync::watch;

use super::{
    Behaviour,
    leg::{End, Leg},
    requests::{CallEvent, respond},
};
use crate::{
    media::{MediaConfig, MediaStream, Source},
    net::{InnerNet, InnerSocket, bind_media_pair},
    random::{OsRandom, Random},
    report::{CallReport, Outcome, Role, millis, record},
    sdp::Description,
    sip::{Method, StatusCode},
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

        self.leg.respond(StatusCode::RINGING, None).await;
        self.leg.ring(shared.options.ring, &mut self.report).await?;

        // The media starts before the ACK: it may overtake it.
        let config = self.media_config(agreed.codec);
        let stream = shared
            .clock
            .open(sockets, agreed, config, &mut OsRandom)
            .await;
        self.report.status = Some(StatusCode::OK.code());
        self.leg.respond(StatusCode::OK, Some(&answer)).await;
        let answered = Instant::now();
        let end = self.talk(&stream).await;
        stream.stop().await;
        self.leg.end(end, &mut self.report).await;
        self.report.duration_ms = Some(millis(answered.elapsed()));
        self.finish(stream, agreed.receive).await;
        Ok(())
    }

    /// RTP Exchange, seen from the callee: the media clock does the work, we wait for the end.
    async fn talk(&mut self, stream: &MediaStream<N::Socket>) -> End {
        let stop = self.leg.shared.stop.clone();
        let patience = self.leg.shared.options.media_timeout;
        let mut up = None;
        loop {
            let event = tokio::select! {
                event = self.leg.events.recv() => event,
                () = stop.stopped() => return End::Stopped,
                () = stream.silent(patience) => return End::Silent,
                () = stream.heard(), if up.is_none() => {
                    up = Some(Up::new(&self.leg.shared.up));
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
                    if !self.leg.dialog.accept(&request.request) {
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
        let mut config = MediaConfig::new(source, format!("{user}@{}", self.leg.shared.ip));
        config.playout_delay = options.playout_delay;
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
