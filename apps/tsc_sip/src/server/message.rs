//! One chat or one file, seen from the callee.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use sha1::{Digest, Sha1};
use tokio::{
    fs::File,
    io::{AsyncSeekExt, AsyncWriteExt, SeekFrom},
};

use super::leg::{End, Leg};
use crate::{
    mid_call::{CallEvent, respond},
    msrp::{Arrivals, Channel, Config, Event, Inbox, MsrpUri, Session, Switchboard, status},
    net::{BoxStream, InnerNet},
    random::{OsRandom, Random},
    report::{Fail, FileFacts, Outcome, Role, SessionKind, SessionReport, millis},
    sdp::{Description, FileOffer, MessageMedia},
    sip::{Method, StatusCode},
};

/// How long a caller may take to open the connection, and to say BYE once it is closed.
const ARRIVAL: Duration = Duration::from_secs(32);
/// Bytes of the longest message of a chat.
const MAX_TEXT: u64 = 65_536;

/// A message session that came in.
pub(super) struct MessageCall<N: InnerNet> {
    leg: Leg<N>,
    switchboard: Switchboard,
    report: SessionReport,
    started: Instant,
}

impl<N: InnerNet> MessageCall<N> {
    pub(super) fn new(leg: Leg<N>, switchboard: Switchboard) -> Self {
        let head = &leg.invite.request.head;
        let peer = head.from.uri.to_string();
        Self {
            report: SessionReport::new(SessionKind::Chat, &head.call_id, peer, Role::Callee),
            leg,
            switchboard,
            started: Instant::now(),
        }
    }

    /// Deals with the session to its end.
    pub(super) async fn run(mut self, offer: Description) -> SessionReport {
        if let Err(status) = self.answer(&offer).await {
            self.report.status = Some(status.code());
            self.report
                .fail(Outcome::CallFailed, format!("{status} {}", status.reason()));
            self.leg.respond(status, None).await;
        }
        tracing::info!(
            kind = ?self.report.kind,
            peer = %self.report.peer,
            messages = self.report.received,
            bytes = self.report.bytes_received,
            error = self.report.error,
            "session over"
        );
        self.report
    }

    /// INVITE TRANSACTION, seen from the callee. An error is the status of the refusal that is still to be sent.
    async fn answer(&mut self, offer: &Description) -> Result<(), StatusCode> {
        let refuse = |_| StatusCode::NOT_ACCEPTABLE_HERE;
        let offered = offer.message_stream().map_err(refuse)?;
        let ip = self.leg.access.ip;
        let (local, arrivals) = self.switchboard.expect(OsRandom.token());
        let id = OsRandom.bits() >> 2;
        let answer = Description::message_answer(offer, id, &local, ip).map_err(refuse)?;
        let work = match &offered.file {
            None => Work::Chat(Inbox::default()),
            Some(file) => {
                self.report.kind = SessionKind::File;
                if file.size > self.leg.shared.options.max_file {
                    return Err(StatusCode::NOT_ACCEPTABLE_HERE);
                }
                let directory = self.leg.shared.options.receive.as_deref();
                let incoming = IncomingFile::create(file.clone(), directory).await;
                let incoming = incoming.map_err(|error| {
                    tracing::error!(%error, "the file cannot be received");
                    StatusCode::SERVER_INTERNAL_ERROR
                })?;
                Work::File(Box::new(incoming))
            }
        };

        self.leg.respond(StatusCode::RINGING, None).await;
        let ring = self.leg.shared.options.ring;
        self.leg.ring(ring, &mut self.report).await?;
        self.report.status = Some(StatusCode::OK.code());
        self.leg.respond(StatusCode::OK, Some(&answer)).await;
        let answered = Instant::now();
        let end = self.talk((local, offered), arrivals, work).await;
        self.report.duration_ms = Some(millis(answered.elapsed()));
        self.leg.end(end, &mut self.report).await;
        Ok(())
    }

    /// MSRP Exchange, seen from the callee, until somebody ends it.
    async fn talk(
        &mut self,
        (local, offered): (MsrpUri, MessageMedia),
        mut arrivals: Arrivals,
        mut work: Work,
    ) -> End {
        let stop = self.leg.shared.stop.clone();
        let mut timeout = std::pin::pin!(tokio::time::sleep(ARRIVAL));
        let mut channel: Option<Channel<BoxStream>> = None;
        let mut closed = false;
        let end = loop {
            let event = tokio::select! {
                event = self.leg.events.recv() => match self.dialog_event(event).await {
                    Some(end) => break end,
                    None => continue,
                },
                () = stop.stopped() => break End::Stopped,
                // Its connection is gone with it, even if another network takes its place.
                reason = self.leg.access.net.lost() => break End::Lost(Some(reason)),
                () = &mut timeout, if channel.is_none() => {
                    let error = match closed {
                        true => "no BYE came after the connection was closed",
                        false => "no connection came",
                    };
                    self.report.fail(Outcome::CallFailed, error.to_owned());
                    break End::Stopped;
                }
                arrival = arrivals.arrival(), if channel.is_none() && !closed => {
                    let Some(arrival) = arrival else {
                        closed = true;
                        continue;
                    };
                    let config = work.config();
                    let session = Session::new(
                        local.clone(),
                        offered.path.clone(),
                        config,
                        Box::new(OsRandom),
                    );
                    match Channel::new(session, arrival.stream, &arrival.read) {
                        Ok(new) => channel = Some(new),
                        Err(error) => self.report.fail(Outcome::CallFailed, error.to_string()),
                    }
                    continue;
                }
                event = next_event(&mut channel) => event,
            };
            let worked = match event {
                Ok(event) => work.handle(event, channel.as_mut(), &mut self.report).await,
                // The caller says by BYE that it is over; the connection alone does not.
                Err(error) => {
                    tracing::debug!(%error, "MSRP connection over");
                    (channel, closed) = (None, true);
                    let end = tokio::time::Instant::now() + ARRIVAL;
                    timeout.as_mut().reset(end);
                    Ok(())
                }
            };
            if let Err((outcome, error)) = worked {
                self.report.fail(outcome, error);
                break End::Stopped;
            }
        };
        if let Err((outcome, error)) = work.finish(&mut self.report).await
            && !matches!(end, End::Lost(_))
        {
            self.report.fail(outcome, error);
        }
        end
    }

    /// Deals with what concerns the dialog; gives the end, if it is one.
    async fn dialog_event(&mut self, event: Option<CallEvent>) -> Option<End> {
        match event {
            Some(CallEvent::Acknowledged) => {
                self.report.setup_ms = Some(millis(self.started.elapsed()));
                None
            }
            Some(CallEvent::AckMissing) => Some(End::AckMissing),
            // It crossed our 200: the caller will say BYE (9.2).
            Some(CallEvent::Cancelled) => None,
            Some(CallEvent::Request(request)) => {
                let status = if !self.leg.dialog.accept(&request.request) {
                    StatusCode::SERVER_INTERNAL_ERROR
                } else if request.request.method == Method::Bye {
                    return Some(End::HungUp(request));
                } else {
                    // A new offer. Refusing it leaves the session as it is (14.2).
                    StatusCode::NOT_ACCEPTABLE_HERE
                };
                respond(&request, request.request.response(status, "")).await;
                None
            }
            None => Some(End::Lost(None)),
        }
    }
}

async fn next_event(
    channel: &mut Option<Channel<BoxStream>>,
) -> Result<Event, crate::msrp::ChannelError> {
    match channel {
        Some(channel) => channel.next_event().await,
        None => std::future::pending().await,
    }
}

type Failure = (Outcome, String);

/// What is done with the messages.
enum Work {
    Chat(Inbox),
    File(Box<IncomingFile>),
}

impl Work {
    fn config(&self) -> Config {
        match self {
            Self::Chat(_) => Config {
                max_message: MAX_TEXT,
                accept_types: vec!["text/plain".to_owned()],
                ..Config::default()
            },
            Self::File(file) => Config {
                max_message: file.offer.size,
                ..Config::default()
            },
        }
    }

    async fn handle(
        &mut self,
        event: Event,
        channel: Option<&mut Channel<BoxStream>>,
        report: &mut SessionReport,
    ) -> Result<(), Failure> {
        match (self, event) {
            (_, Event::Delivered { .. }) => report.sent += 1,
            (_, Event::Failed { status: code, .. }) if code == status::TIMEOUT => {
                return Err((Outcome::CallFailed, "a message was not answered".to_owned()));
            }
            (_, Event::Failed { status: code, .. }) => {
                let error = format!("a message was refused: {code}");
                return Err((Outcome::CallFailed, error));
            }
            (_, Event::Accepted { .. }) => {}
            (Self::Chat(inbox), event) => {
                let Some(text) = inbox.handle(event) else {
                    return Ok(());
                };
                let length = text.body.len() as u64;
                report.received += 1;
                report.bytes_received += length;
                if let Some(channel) = channel {
                    let sent = channel.send(&text.content_type, &text.body, false);
                    sent.map_err(|error| (Outcome::CallFailed, error.to_string()))?;
                    report.bytes_sent += length;
                }
            }
            (Self::File(file), event) => file.handle(event, report).await?,
        }
        Ok(())
    }

    async fn finish(&mut self, report: &mut SessionReport) -> Result<(), Failure> {
        match self {
            Self::Chat(_) => Ok(()),
            Self::File(file) => file.finish(report).await,
        }
    }
}

/// A file that comes in.
struct IncomingFile {
    offer: FileOffer,
    /// Where it goes, if it is kept.
    file: Option<(File, PathBuf)>,
    hash: Sha1,
    /// How far it is hashed. What comes in disorder is not hashed, and then the file counts as not intact.
    hashed: u64,
    complete: bool,
}

impl IncomingFile {
    async fn create(offer: FileOffer, directory: Option<&Path>) -> std::io::Result<Self> {
        let file = match directory {
            None => None,
            Some(directory) => {
                // The name is a peer's text: nothing in it may lead out of the directory, or replace a file.
                let safe = |c: char| match c {
                    '-' | '.' => c,
                    c if c.is_ascii_alphanumeric() => c,
                    _ => '_',
                };
                let name: String = offer.name.chars().take(100).map(safe).collect();
                let path = directory.join(format!("{}-{name}", OsRandom.token()));
                Some((File::create_new(&path).await?, path))
            }
        };
        Ok(Self {
            offer,
            file,
            hash: Sha1::new(),
            hashed: 0,
            complete: false,
        })
    }

    async fn handle(&mut self, event: Event, report: &mut SessionReport) -> Result<(), Failure> {
        match event {
            Event::Data { offset, bytes, .. } => {
                report.bytes_received += bytes.len() as u64;
                if offset == self.hashed {
                    self.hash.update(&bytes);
                    self.hashed += bytes.len() as u64;
                }
                if let Some((file, _)) = &mut self.file {
                    let write = async {
                        file.seek(SeekFrom::Start(offset)).await?;
                        file.write_all(&bytes).await
                    };
                    let written: std::io::Result<()> = write.await;
                    written.map_err(|error| {
                        let error = format!("the file cannot be written: {error}");
                        (Outcome::Configuration, error)
                    })?;
                }
            }
            Event::Received { size, .. } => {
                report.received += 1;
                self.complete = size == self.offer.size;
            }
            Event::Aborted { .. } => {
                return Err((Outcome::CallFailed, "the sender gave up".to_owned()));
            }
            Event::Started { .. }
            | Event::Accepted { .. }
            | Event::Delivered { .. }
            | Event::Failed { .. } => {}
        }
        Ok(())
    }

    async fn finish(&mut self, report: &mut SessionReport) -> Result<(), Failure> {
        let hash = self.hash.clone().finalize();
        let hashed = self.complete && self.hashed == self.offer.size;
        let same = hashed && self.offer.hash.is_none_or(|wanted| wanted == *hash);
        if let Some((file, _)) = &mut self.file
            && let Err(error) = file.flush().await
        {
            let error = format!("the file cannot be written: {error}");
            return Err((Outcome::Configuration, error));
        }
        report.file = Some(FileFacts {
            name: self.offer.name.clone(),
            size: self.offer.size,
            sha1: hashed.then(|| hash.iter().map(|byte| format!("{byte:02x}")).collect()),
            intact: same,
            path: self.file.as_ref().map(|(_, path)| path.clone()),
        });
        match (self.complete, same) {
            (false, _) => Err((Outcome::CallFailed, "ended before all was there".to_owned())),
            (true, false) => Err((
                Outcome::MediaFailed,
                "the file is not what its hash says".to_owned(),
            )),
            (true, true) => Ok(()),
        }
    }
}
