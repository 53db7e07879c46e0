//! One chat or one file, from INVITE to BYE.

use std::{
    fmt, io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use sha1::{Digest, Sha1};
use tokio::{
    fs::File,
    io::{AsyncReadExt, BufReader},
};

use super::{
    FileProgress, FileSource, Shared, address_of_record,
    invite::{CallError, End, explain, finish, hung_up, invite_request, ring},
};
use crate::{
    access::Access,
    dialog::Dialog,
    msrp::{Channel, ChannelError, Config, Event, Inbox, MsrpUri, Session, limits},
    net::InnerNet,
    pattern,
    random::{OsRandom, Random},
    report::{Fail, FileFacts, Outcome, Role, SessionKind, SessionReport, millis},
    sdp::{self, Description, FileHash, FileOffer, MessageMedia},
    sip::{Method, NameAddr},
};

/// How long the last words of a session may take.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Bytes that are read from a file at once.
const READ: usize = 65_536;
/// Bytes of test data that are hashed at once.
const HASHED: u64 = 1 << 22;

/// Why a session that was up failed.
#[derive(Debug, thiserror::Error)]
enum ExchangeError {
    #[error("no connection: {0}")]
    Connect(#[from] io::Error),
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error(transparent)]
    Send(#[from] crate::msrp::SendError),
    #[error("a message was refused: {0}")]
    Refused(u16),
    #[error("nothing came for {0:?}")]
    Silent(Duration),
    #[error("what came back is not what was sent")]
    NotSame,
    #[error("the file changed while it was sent")]
    Changed,
}

/// Makes session `number`; whatever happens is in the report.
pub(super) async fn session<N: InnerNet>(
    shared: &Shared<N>,
    kind: SessionKind,
    number: usize,
) -> SessionReport {
    let options = &shared.options;
    // It lasts as long as its network at most: its connection ends with that.
    let access = shared.current.last();
    let callee = address_of_record(options, &options.sessions.callee, access.server);
    let call_id = format!("{}@{}", OsRandom.token(), access.ip);
    let mut report = SessionReport::new(kind, &call_id, callee.to_string(), Role::Caller);
    let done = try_session(shared, &access, &mut report, NameAddr::new(callee), number);
    if let Err(error) = done.await {
        explain(&access, error, &mut report, |report, status| {
            report.status = Some(status);
        })
        .await;
    }
    if let (SessionKind::File, Some(progress)) = (kind, &options.sessions.progress) {
        let end = match &report.file {
            Some(file) if file.intact => FileProgress::Sent {
                size: file.size,
                sha1: file.sha1.as_deref().unwrap_or_default(),
            },
            _ => FileProgress::Failed,
        };
        (progress.0)(number, end);
    }
    report
}

async fn try_session<N: InnerNet>(
    shared: &Shared<N>,
    access: &Access<N>,
    report: &mut SessionReport,
    callee: NameAddr,
    number: usize,
) -> Result<(), CallError> {
    // A file is read twice: its hash stands in the offer.
    let mut file = match report.kind {
        SessionKind::Chat => None,
        SessionKind::File => {
            let source = &shared.options.sessions.file;
            let file = tokio::select! {
                file = Source::open(source) => file.map_err(CallError::File)?,
                () = shared.stop.stopped() => return Err(CallError::Stopped),
            };
            report.file = Some(file.facts());
            Some(file)
        }
    };
    // We open the connection, so the port in our URI is not listened at; the other side's is.
    let local = SocketAddr::new(access.ip, DISCARD);
    let local = MsrpUri::tcp(local, &OsRandom.token());
    let ours = match &file {
        None => MessageMedia::chat(local.clone()),
        Some(file) => MessageMedia::file(local.clone(), file.offer.clone(), OsRandom.token()),
    };
    let offer = Description::message_offer(OsRandom.bits() >> 2, &ours, access.ip);

    // --- INVITE TRANSACTION -------------------------------------------------------------------------
    // As for a call, but the offer has a message stream: `m=message ... TCP/MSRP`.
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
    let mut dialog = Dialog::of_caller(&invite, &response, hop)
        .ok_or_else(|| CallError::BadAnswer("it has no tag or no Contact".into()))?;
    let (entry, mut events) = shared.dialogs.add(dialog.id());
    let (ack, to) = dialog.request(Method::Ack);
    pending.acknowledge(ack, to).await?;
    let connected = Instant::now();

    // --- MSRP Exchange ------------------------------------------------------------------------------
    // Messages in chunks over an inner TCP connection of their own, each chunk answered, each message reported.
    let mut channel = None;
    let exchange = async {
        let theirs = agree(&response)?;
        let session = (local, theirs);
        Ok::<_, CallError>(
            exchange(
                (shared, access),
                session,
                file.as_mut(),
                report,
                number,
                &mut channel,
            )
            .await,
        )
    };
    let end = tokio::select! {
        done = exchange => match done {
            Ok(Ok(())) => Ok(End::Over),
            Ok(Err(error)) => Err((outcome(&error), error.to_string())),
            Err(error) => Err((Outcome::CallFailed, error.to_string())),
        },
        () = shared.stop.stopped() => Ok(End::Over),
        reason = access.net.lost() => Ok(End::Lost(reason)),
        request = hung_up(&mut dialog, &mut events) => Ok(End::HungUp(request)),
    };
    if let Some(channel) = &mut channel {
        // What is half sent is given up by `#`.
        channel.session().abort_all();
        // Too late for more than an attempt.
        let _ = tokio::time::timeout(LAST_WORDS, channel.flush()).await;
    }
    report.duration_ms = Some(millis(connected.elapsed()));

    // --- BYE TRANSACTION ----------------------------------------------------------------------------
    let end = end.unwrap_or_else(|(outcome, error)| {
        tracing::warn!(session = number + 1, %error, "session failed");
        report.fail(outcome, error);
        End::Over
    });
    let said = usize::try_from(report.sent).unwrap_or(usize::MAX);
    let wanted = shared.options.sessions.messages;
    if report.kind == SessionKind::Chat && matches!(end, End::HungUp(_)) && said < wanted {
        report.fail(Outcome::CallFailed, "ended before all was said".to_owned());
    }
    if report.kind == SessionKind::File && !report.file.as_ref().is_some_and(|file| file.intact) {
        let lost = matches!(end, End::Lost(_));
        if !lost {
            report.fail(Outcome::CallFailed, "ended before all was sent".to_owned());
        }
    }
    finish(shared, access, &mut dialog, &mut events, end, report).await;
    drop((entry, channel));
    Ok(())
}

/// The port of the side that does not listen (RFC 4145 4.1).
const DISCARD: u16 = 9;

const fn outcome(error: &ExchangeError) -> Outcome {
    match error {
        ExchangeError::NotSame => Outcome::MediaFailed,
        ExchangeError::Connect(_)
        | ExchangeError::Channel(_)
        | ExchangeError::Send(_)
        | ExchangeError::Refused(_)
        | ExchangeError::Silent(_)
        | ExchangeError::Changed => Outcome::CallFailed,
    }
}

fn agree(response: &crate::sip::Response) -> Result<MessageMedia, CallError> {
    let bad = |error: &dyn fmt::Display| CallError::BadAnswer(error.to_string());
    if !response.head.has_content_type(sdp::CONTENT_TYPE) {
        return Err(bad(&"it has no session description"));
    }
    let answer = Description::parse(&response.head.body).map_err(|e| bad(&e))?;
    Description::message_accept(&answer).map_err(|e| bad(&e))
}

async fn exchange<N: InnerNet>(
    (shared, access): (&Shared<N>, &Access<N>),
    (local, theirs): (MsrpUri, MessageMedia),
    file: Option<&mut Source>,
    report: &mut SessionReport,
    number: usize,
    slot: &mut Option<Channel<N::Stream>>,
) -> Result<(), ExchangeError> {
    let options = &shared.options.sessions;
    let patience = shared.options.media_timeout;
    let peer = theirs.path.first().and_then(MsrpUri::address);
    let peer = peer.ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))?;
    let stream = within(patience, access.net.connect_tcp(peer)).await??;
    let config = Config {
        max_message: options.message_size.max(65_536) as u64,
        ..Config::default()
    };
    let mut session = Session::new(local, theirs.path, config, Box::new(OsRandom));
    session.greet();
    let channel = Channel::new(session, stream, &[]).map_err(ChannelError::Decode)?;
    let channel = slot.insert(channel);
    match file {
        None => chat(shared, channel, report, number).await,
        Some(file) => {
            let progress = |bytes| {
                if let Some(progress) = &options.progress {
                    let total = file.offer.size;
                    (progress.0)(number, FileProgress::Accepted { bytes, total });
                }
            };
            send_file(
                file.reader.take(),
                &file.offer,
                channel,
                report,
                patience,
                progress,
            )
            .await
        }
    }
}

/// Says things, one after the other, and hears the same.
async fn chat<N: InnerNet>(
    shared: &Shared<N>,
    channel: &mut Channel<N::Stream>,
    report: &mut SessionReport,
    number: usize,
) -> Result<(), ExchangeError> {
    let options = &shared.options.sessions;
    let mut inbox = Inbox::default();
    let mut waited = Duration::ZERO;
    for count in 0..options.messages {
        let mut text = format!("Chat {number}, message {count}: ");
        while text.len() < options.message_size {
            text.push_str("the quick brown fox jumps over the lazy dog. ");
        }
        text.truncate(options.message_size);
        let started = Instant::now();
        let id = channel.send("text/plain", text.as_bytes(), true)?;
        let (mut delivered, mut answered) = (false, false);
        while !(delivered && answered) {
            let event = within(shared.options.media_timeout, channel.next_event()).await??;
            match event {
                Event::Delivered { id: done } if done == id => delivered = true,
                Event::Failed { status, .. } => return Err(ExchangeError::Refused(status)),
                event @ (Event::Accepted { .. }
                | Event::Delivered { .. }
                | Event::Started { .. }
                | Event::Data { .. }
                | Event::Received { .. }
                | Event::Aborted { .. }) => {
                    if let Some(answer) = inbox.handle(event) {
                        report.received += 1;
                        report.bytes_received += answer.body.len() as u64;
                        if answer.body != text.as_bytes() {
                            return Err(ExchangeError::NotSame);
                        }
                        answered = true;
                        waited += started.elapsed();
                    }
                }
            }
        }
        report.sent += 1;
        report.bytes_sent += text.len() as u64;
        let answers = u32::try_from(report.received).unwrap_or(u32::MAX).max(1);
        report.rtt_ms = Some(millis(waited / answers));
    }
    Ok(())
}

async fn send_file<S: crate::net::InnerStream>(
    reader: Option<Reader>,
    offer: &FileOffer,
    channel: &mut Channel<S>,
    report: &mut SessionReport,
    patience: Duration,
    progress: impl Fn(u64),
) -> Result<(), ExchangeError> {
    let mut reader = reader.ok_or(ExchangeError::Changed)?;
    let now = Instant::now();
    let id = channel
        .session()
        .begin(now, &offer.content_type, offer.size, true)?;
    let mut given = 0;
    let mut chunk = [0; limits::CHUNK];
    loop {
        while given < offer.size && channel.session().wants(id) {
            let length = reader.read(given, offer.size, &mut chunk).await?;
            if length == 0 {
                return Err(ExchangeError::Changed);
            }
            let bytes = chunk.get(..length).unwrap_or_default();
            channel.session().feed(Instant::now(), id, bytes)?;
            given += length as u64;
        }
        match within(patience, channel.next_event()).await?? {
            Event::Accepted { bytes, .. } => {
                report.bytes_sent = bytes;
                progress(bytes);
            }
            Event::Delivered { .. } => break,
            Event::Failed { status, .. } => return Err(ExchangeError::Refused(status)),
            Event::Started { .. }
            | Event::Data { .. }
            | Event::Received { .. }
            | Event::Aborted { .. } => {}
        }
    }
    report.sent = 1;
    if let Some(file) = &mut report.file {
        file.intact = true;
    }
    Ok(())
}

async fn within<T>(patience: Duration, work: impl Future<Output = T>) -> Result<T, ExchangeError> {
    if patience.is_zero() {
        return Ok(work.await);
    }
    let done = tokio::time::timeout(patience, work).await;
    done.map_err(|_| ExchangeError::Silent(patience))
}

/// A file that is about to be sent.
struct Source {
    offer: FileOffer,
    reader: Option<Reader>,
}

enum Reader {
    Pattern,
    File(BufReader<File>),
}

impl Reader {
    /// Reads some bytes, of those from `at` to `end`.
    async fn read(&mut self, at: u64, end: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(end - at).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        let buffer = buffer.get_mut(..length).unwrap_or_default();
        match self {
            Self::Pattern => {
                pattern::fill(at, buffer);
                Ok(length)
            }
            Self::File(file) => file.read(buffer).await,
        }
    }
}

impl Source {
    /// Reads the file for its size and hash, and opens it.
    async fn open(source: &FileSource) -> io::Result<Self> {
        let (name, size, reader, hash) = match source {
            FileSource::Pattern(size) => {
                let (size, mut at) = (*size, 0);
                let mut hash = Sha1::new();
                // In pieces, because what a thread has begun cannot be stopped.
                while at < size {
                    let piece = at..size.min(at + HASHED);
                    at = piece.end;
                    let hashed = tokio::task::spawn_blocking(move || {
                        pattern::each_piece_of(piece, |bytes| hash.update(bytes));
                        hash
                    });
                    hash = hashed.await?;
                }
                let hash: FileHash = hash.finalize().into();
                ("pattern.bin".to_owned(), size, Reader::Pattern, hash)
            }
            FileSource::Path(path) => {
                let mut file = File::open(path).await?;
                let mut hash = Sha1::new();
                let mut buffer = vec![0; READ];
                let mut size = 0;
                loop {
                    let length = file.read(&mut buffer).await?;
                    if length == 0 {
                        break;
                    }
                    hash.update(buffer.get(..length).unwrap_or_default());
                    size += length as u64;
                }
                let reader = BufReader::with_capacity(READ, File::open(path).await?);
                let name = path.file_name().unwrap_or_default();
                let name = name.to_string_lossy().into_owned();
                (name, size, Reader::File(reader), hash.finalize().into())
            }
        };
        Ok(Self {
            offer: FileOffer {
                name,
                content_type: "application/octet-stream".to_owned(),
                size,
                hash: Some(hash),
            },
            reader: Some(reader),
        })
    }

    fn facts(&self) -> FileFacts {
        let hash = self.offer.hash.unwrap_or_default();
        FileFacts {
            name: self.offer.name.clone(),
            size: self.offer.size,
            sha1: Some(hash.iter().map(|byte| format!("{byte:02x}")).collect()),
            intact: false,
            path: None,
        }
    }
}
