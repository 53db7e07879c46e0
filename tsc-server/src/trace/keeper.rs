//! The thread that owns the captures.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, channel, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::{mpsc, oneshot};
use tsc_osaa::trace::{CaptureStats, CaptureWriter, MAX_FILES};

use super::{
    Command, MAX_TRACE_TIME, MAX_TRACES, Outsides, Requester, Tap, TraceError, TraceFilter,
    TraceOptions, TraceStatus, Tracer, Watch, capture_options,
};
use crate::{
    config::{Config, SystemConfig, TraceRedaction},
    server::StartError,
    worker::{Order, Told, give_up_capabilities},
};

/// How often captures are looked after: one that cannot be written any more ends so soon.
const LOOK: Duration = Duration::from_secs(1);

/// Owns the thread. Dropping it ends all captures, and closes their files.
#[derive(Debug)]
pub(crate) struct Keeper {
    tracer: Tracer,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// For these workers, which record already for the `configured` capture if there is one, and have not begun yet.
    pub(crate) fn start(
        config: &Config,
        configured: Option<CaptureWriter>,
        outsides: Outsides,
        workers: Vec<mpsc::Sender<Order>>,
        has_capabilities: bool,
    ) -> Result<Self, StartError> {
        let (commands, received) = channel();
        let configured = config.system.trace_file.clone().zip(configured);
        let running = configured.map(|(file, writer)| Running {
            name: name_of(&file).unwrap_or_else(|| file.to_string_lossy().into_owned()),
            tap: Tap::configured(&writer),
            writer,
            filter: TraceFilter::All,
            redaction: config.system.trace_redaction,
            file,
            started: SystemTime::now(),
            ends: None,
            tunnels: 0,
        });
        let interfaces = config.interfaces.iter();
        let captures = Captures {
            system: config.system.clone(),
            interfaces: interfaces.map(|interface| interface.name.clone()).collect(),
            outsides,
            workers,
            running: running.into_iter().collect(),
        };
        captures.tell_ports();
        let (tell, is_ready) = sync_channel(1);
        let thread = thread::Builder::new()
            .name("tsc-traces".to_owned())
            .spawn(move || {
                // Who has started the server may have more than a capture needs.
                let ready = if has_capabilities {
                    give_up_capabilities()
                } else {
                    Ok(())
                };
                let is_ready = ready.is_ok();
                let _ = tell.send(ready);
                if is_ready {
                    captures.run(&received);
                }
            })?;
        let ready = is_ready.recv();
        ready.map_err(|_| io::Error::other("the thread of the captures ended at once"))??;
        Ok(Self {
            tracer: Tracer { commands },
            thread: Some(thread),
        })
    }

    pub(crate) const fn tracer(&self) -> &Tracer {
        &self.tracer
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _gone = self.tracer.commands.send(Command::End);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Whether this is the name of a capture, or of a file that its ring may come to have: `call.pcapng.7`.
fn is_of(name: &str, capture: &str) -> bool {
    let number = name
        .strip_prefix(capture)
        .map(|rest| rest.strip_prefix('.'));
    match number {
        Some(Some(number)) => {
            !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit())
        }
        _ => name == capture,
    }
}

/// What the thread has.
struct Captures {
    /// What captures do unless they are told otherwise.
    system: SystemConfig,
    /// Names, by index.
    interfaces: Vec<String>,
    outsides: Outsides,
    workers: Vec<mpsc::Sender<Order>>,
    /// That of the configuration first; at most [`MAX_TRACES`] besides.
    running: Vec<Running>,
}

struct Running {
    name: String,
    tap: Tap,
    writer: CaptureWriter,
    filter: TraceFilter,
    redaction: TraceRedaction,
    file: PathBuf,
    started: SystemTime,
    /// `None` for that of the configuration.
    ends: Option<Instant>,
    tunnels: usize,
}

impl Running {
    fn status(&self, packets: CaptureStats) -> TraceStatus {
        let now = Instant::now();
        TraceStatus {
            name: self.name.clone(),
            file: self.file.clone(),
            filter: self.filter.clone(),
            redaction: self.redaction,
            outer: self.tap.capture.has_outer(),
            insecure_decryption_secrets: self.tap.capture.has_secrets(),
            started: self.started,
            left: self.ends.map(|ends| ends.saturating_duration_since(now)),
            tunnels: self.tunnels,
            packets,
        }
    }

    const fn is_configured(&self) -> bool {
        self.ends.is_none()
    }

    /// Whether it is told what goes over the wire at the ports of this interface.
    fn hears(&self, interface: &str) -> bool {
        let is_meant = match &self.filter {
            TraceFilter::All => true,
            TraceFilter::Interface(name) => name == interface,
            TraceFilter::Tunnel(_) | TraceFilter::Address(_) | TraceFilter::Identity(_) => false,
        };
        is_meant && self.tap.has_outside()
    }
}

/// Why a capture ends, as the log has it.
#[derive(Clone, Copy)]
enum Reason {
    Asked(Requester),
    Time,
    Failed,
    Server,
}

impl Captures {
    fn run(mut self, commands: &Receiver<Command>) {
        loop {
            let command = match self.next_look() {
                Some(wait) => commands.recv_timeout(wait),
                None => commands.recv().map_err(RecvTimeoutError::from),
            };
            match command {
                Ok(Command::Start {
                    options,
                    by,
                    answer,
                }) => drop(answer.send(self.start(*options, by))),
                Ok(Command::Stop { name, by, answer }) => {
                    drop(answer.send(self.stop(name.as_deref(), by)));
                }
                Ok(Command::List { answer }) => {
                    let running = self.running.iter();
                    let list = running.map(|running| running.status(running.writer.stats()));
                    drop(answer.send(list.collect()));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Command::End) | Err(RecvTimeoutError::Disconnected) => break,
            }
            self.end_what_is_over();
        }
        // The workers are gone, or end; that of the configuration closes without a word, as it began.
        let ended = self.take(|running| !running.is_configured());
        self.close(ended, Reason::Server);
    }

    /// When to look after the captures; never while there is none but that of the configuration.
    fn next_look(&self) -> Option<Duration> {
        let now = Instant::now();
        let ends = self.running.iter().filter_map(|running| running.ends);
        let left = ends.min()?.saturating_duration_since(now);
        Some(left.min(LOOK))
    }

    fn end_what_is_over(&mut self) {
        let now = Instant::now();
        let ended = self.take(|running| running.ends.is_some_and(|ends| ends <= now));
        self.close(ended, Reason::Time);
        let ended = self.take(|running| !running.is_configured() && running.writer.has_failed());
        self.close(ended, Reason::Failed);
    }

    fn start(&mut self, options: TraceOptions, by: Requester) -> Result<TraceStatus, TraceError> {
        // Those that are over make room.
        self.end_what_is_over();
        let TraceOptions {
            file,
            filter,
            redaction,
            file_size,
            files,
            file_time,
            time,
            outer,
            insecure_decryption_secrets,
        } = options;
        let name = name_of(&file).ok_or_else(|| TraceError::NoName { file: file.clone() })?;
        let is_taken = |running: &Running| is_of(&name, &running.name);
        if self.running.iter().any(is_taken) {
            return Err(TraceError::NameInUse { name });
        }
        let started_later = self
            .running
            .iter()
            .filter(|running| !running.is_configured());
        if started_later.count() >= MAX_TRACES {
            return Err(TraceError::TooMany);
        }
        let watch = self.watch(&filter)?;
        if matches!(watch, Watch::Tunnel(_)) && (outer || insecure_decryption_secrets) {
            return Err(TraceError::OutsideOfTunnel);
        }
        let system = &self.system;
        let redaction = redaction.unwrap_or(system.trace_redaction);
        if takes_away(redaction) < takes_away(system.trace_redaction) {
            return Err(TraceError::Redaction {
                configured: system.trace_redaction,
                asked: redaction,
            });
        }
        let file_size = file_size.unwrap_or(system.trace_file_size);
        let files = files.unwrap_or(system.trace_files);
        let file_time = file_time.unwrap_or(system.trace_file_time);
        check(
            (1..=1_048_576).contains(&file_size),
            "the size of a file",
            "1 to 1048576 MB",
        )?;
        check(
            (1..=MAX_FILES).contains(&files),
            "the number of files",
            "1 to 1000",
        )?;
        check(
            file_time.as_secs() <= 86_400,
            "the time of a file",
            "at most 86400 s",
        )?;
        check(
            !time.is_zero() && time <= MAX_TRACE_TIME,
            "the time of a capture",
            "1 to 604800 s",
        )?;
        let mut capture = capture_options(redaction, file_size, files, file_time);
        capture.fresh = true;
        capture.outer = outer;
        capture.insecure_decryption_secrets = insecure_decryption_secrets;
        let writer = CaptureWriter::create(&file, capture)?;
        let tap = Tap {
            watch,
            capture: writer.handle(),
            is_configured: false,
        };
        self.running.push(Running {
            name,
            tap,
            writer,
            filter,
            redaction,
            file,
            started: SystemTime::now(),
            ends: Some(Instant::now() + time),
            tunnels: 0,
        });
        self.tell_ports();
        let tunnels = self.tell_workers(Told::SeenByLast);
        let Some(running) = self.running.last_mut() else {
            return Err(TraceError::Stopping);
        };
        running.tunnels = tunnels;
        tracing::info!(
            event = "trace-started",
            name = running.name,
            filter = %running.filter,
            file = %running.file.display(),
            redaction = %running.redaction,
            outer,
            insecure_decryption_secrets,
            seconds = time.as_secs(),
            tunnels,
            uid = by.uid()
        );
        if insecure_decryption_secrets {
            tracing::warn!(
                event = "trace-insecure-decryption-secrets",
                path = %running.file.display(),
                "INSECURE: the capture file gets the secrets that decrypt connections of this server"
            );
        }
        Ok(running.status(running.writer.stats()))
    }

    fn stop(&mut self, name: Option<&str>, by: Requester) -> Result<Vec<TraceStatus>, TraceError> {
        if let Some(name) = name {
            let found = self.running.iter().find(|running| running.name == name);
            let name = name.to_owned();
            match found {
                None => return Err(TraceError::NoSuchTrace { name }),
                Some(running) if running.is_configured() => {
                    return Err(TraceError::Configured { name });
                }
                Some(_) => {}
            }
        }
        let is_meant = |running: &Running| name.is_none_or(|name| running.name == name);
        let ended = self.take(|running| !running.is_configured() && is_meant(running));
        Ok(self.close(ended, Reason::Asked(by)))
    }

    fn watch(&self, filter: &TraceFilter) -> Result<Watch, TraceError> {
        match filter {
            TraceFilter::All => Ok(Watch::All),
            TraceFilter::Interface(name) => {
                let found = self.interfaces.iter().position(|known| known == name);
                let no_such = || TraceError::NoSuchInterface { name: name.clone() };
                found.map(Watch::Interface).ok_or_else(no_such)
            }
            TraceFilter::Tunnel(_) | TraceFilter::Address(_) | TraceFilter::Identity(_) => {
                Ok(Watch::Tunnel(filter.clone()))
            }
        }
    }

    /// Has all ports tell what runs now.
    fn tell_ports(&self) {
        for (interface, outside) in self.outsides.iter() {
            let running = self.running.iter();
            let hearing = running.filter(|running| running.hears(interface));
            let captures: Vec<_> = hearing.map(|running| running.tap.capture.clone()).collect();
            outside.set(&captures);
        }
    }

    /// Has all workers record for what runs now; gives what they tell, together. What they had on the wire before has been recorded.
    fn tell_workers(&self, what: Told) -> usize {
        let taps: Arc<[Tap]> = self
            .running
            .iter()
            .map(|running| running.tap.clone())
            .collect();
        let order = |done| Order::Trace(Arc::clone(&taps), what, done);
        self.ask_workers(order)
    }

    /// Gives an order to all workers; the sum of what they answer at the end of a turn. One that has ended carries nothing.
    fn ask_workers(&self, order: impl Fn(oneshot::Sender<usize>) -> Order) -> usize {
        let mut asked = Vec::new();
        for worker in &self.workers {
            let (done, is_done) = oneshot::channel();
            if worker.blocking_send(order(done)).is_ok() {
                asked.push(is_done);
            }
        }
        asked
            .into_iter()
            .filter_map(|is_done| is_done.blocking_recv().ok())
            .sum()
    }

    fn take(&mut self, is_over: impl Fn(&Running) -> bool) -> Vec<Running> {
        self.running
            .extract_if(.., |running| is_over(running))
            .collect()
    }

    /// Closes the files of captures that were taken out, once no worker records for them.
    fn close(&self, ended: Vec<Running>, reason: Reason) -> Vec<TraceStatus> {
        if ended.is_empty() {
            return Vec::new();
        }
        if !matches!(reason, Reason::Server) {
            self.tell_workers(Told::Nothing);
            if ended.iter().any(|running| running.tap.has_outside()) {
                self.tell_ports();
                // Until none of them is still writing what its ports have told.
                self.ask_workers(Order::Turn);
            }
        }
        let mut stopped = Vec::new();
        for running in ended {
            let mut status = running.status(CaptureStats::default());
            let (name, before) = (running.name, running.writer.stats());
            status.left = Some(Duration::ZERO);
            status.packets = match running.writer.close() {
                Ok(stats) => stats,
                Err(error) => {
                    // What a full disk has cost was told when it was full.
                    tracing::warn!(event = "capture-incomplete", %error);
                    before
                }
            };
            let CaptureStats {
                written, dropped, ..
            } = status.packets;
            let (why, uid) = reason.words();
            tracing::info!(
                event = "trace-stopped",
                name,
                reason = why,
                written,
                dropped,
                uid
            );
            stopped.push(status);
        }
        stopped
    }
}

impl Requester {
    const fn uid(self) -> Option<u32> {
        match self {
            Self::Program => None,
            Self::User(uid) => Some(uid),
        }
    }
}

impl Reason {
    const fn words(self) -> (&'static str, Option<u32>) {
        match self {
            Self::Asked(by) => ("asked", by.uid()),
            Self::Time => ("time", None),
            Self::Failed => ("failed", None),
            Self::Server => ("server", None),
        }
    }
}

/// By how much is taken away.
const fn takes_away(redaction: TraceRedaction) -> u8 {
    match redaction {
        TraceRedaction::None => 0,
        TraceRedaction::Sip => 1,
        TraceRedaction::Headers => 2,
    }
}

const fn check(is_good: bool, what: &'static str, range: &'static str) -> Result<(), TraceError> {
    if is_good {
        Ok(())
    } else {
        Err(TraceError::OutOfRange { what, range })
    }
}

fn name_of(file: &Path) -> Option<String> {
    Some(file.file_name()?.to_str()?.to_owned())
}
