//! Captures of a running server: begun and ended without a restart, each of everything, of one interface or of some tunnels.
//!
//! ```text
//!   Tracer (any thread) --commands--> keeper, a thread --the list of captures, as an order--> each worker
//!                                       | owns the files                                        '-- copies packets --> writers
//!                                       '-- ends what is over
//! ```
//!
//! A worker gets a new list whenever a capture begins or ends, so packets find out whom they concern without a lock. What goes over the
//! wire is told by the ports themselves, which have a tap for each interface: nobody knows whose a packet is before it is opened, so only
//! captures of everything and of an interface can have it.

mod keeper;

use std::{
    collections::BTreeMap,
    fmt,
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, mpsc::Sender},
    time::{Duration, SystemTime},
};

use tokio::sync::oneshot;
use tsc_osaa::trace::{
    self, Capture, CaptureError, CaptureOptions, CaptureStats, CaptureWriter, Interface as Side,
    Ring,
};
use tsc_redact::Redaction;
use tsc_tpl::Tsid;

pub(crate) use self::keeper::Keeper;
use crate::config::{Config, SystemConfig, TraceRedaction};

/// Captures at a time, besides that of the configuration.
pub const MAX_TRACES: usize = 8;

/// How long a capture runs unless something else is said: a forgotten one ends.
pub const DEFAULT_TRACE_TIME: Duration = Duration::from_secs(3600);

/// How long a capture may run.
pub const MAX_TRACE_TIME: Duration = Duration::from_secs(7 * 86_400);

/// What a capture sees.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TraceFilter {
    /// Everything, packets at the TUN device and the host's sockets as well.
    All,
    /// What comes in and leaves by the ports of the interface with this `realm-id`, requests that are refused included.
    Interface(String),
    /// The tunnel with this name, with its companions, over whatever transports it has meanwhile.
    Tunnel(Tsid),
    /// Each tunnel that is assigned this inner address while the capture runs, with its companions.
    Address(IpAddr),
    /// Each tunnel of this user, by certificate or token, with its companions.
    Identity(String),
}

impl fmt::Display for TraceFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Interface(name) => write!(f, "interface {name}"),
            Self::Tunnel(tsid) => write!(f, "tunnel {tsid}"),
            Self::Address(address) => write!(f, "address {address}"),
            Self::Identity(name) => write!(f, "identity {name}"),
        }
    }
}

/// A capture that is to be started. What is `None` is as the configuration says for its own.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TraceOptions {
    /// The pcapng file. It must not exist: captures overwrite nothing. Its name, without directories, is the capture's.
    pub file: PathBuf,
    /// What it sees. Default: everything.
    pub filter: TraceFilter,
    /// What is taken away of it; not less than `trace-redaction` of the configuration does.
    pub redaction: Option<TraceRedaction>,
    /// Bound of a file in MB, 1-1048576. As `trace-file-size`.
    pub file_size: Option<u32>,
    /// How many files are kept, 1-1000. As `trace-files`.
    pub files: Option<u16>,
    /// After this the next file is begun, if several are kept; up to a day, zero is never. As `trace-file-time`.
    pub file_time: Option<Duration>,
    /// After this it ends, up to [`MAX_TRACE_TIME`]. Default: [`DEFAULT_TRACE_TIME`].
    pub time: Duration,
    /// Whether it has outer packets too, as `trace-outer`; not of tunnels. Default: false, whatever the configuration says.
    pub outer: bool,
    /// **Whether its file gets the secrets of TLS and DTLS connections that begin while it runs**, as `trace-insecure-decryption-secrets`: whoever
    /// has it can read all that they carry, wherever it was recorded. Not of tunnels, and not with a redaction. Default: false, whatever the
    /// configuration says.
    pub insecure_decryption_secrets: bool,
}

impl TraceOptions {
    /// Of everything into this file.
    #[must_use]
    pub fn new(file: impl Into<PathBuf>) -> Self {
        Self {
            file: file.into(),
            filter: TraceFilter::All,
            redaction: None,
            file_size: None,
            files: None,
            file_time: None,
            time: DEFAULT_TRACE_TIME,
            outer: false,
            insecure_decryption_secrets: false,
        }
    }
}

/// A capture that runs, or has just ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TraceStatus {
    /// What it is called: the name of its file.
    pub name: String,
    /// The file, the newest if there are several.
    pub file: PathBuf,
    /// What it sees.
    pub filter: TraceFilter,
    /// What is taken away of it.
    pub redaction: TraceRedaction,
    /// Whether it has outer packets.
    pub outer: bool,
    /// **Whether it has decryption secrets.**
    pub insecure_decryption_secrets: bool,
    /// When it began.
    pub started: SystemTime,
    /// How long it runs on; `None` for that of the configuration, which ends with the server.
    pub left: Option<Duration>,
    /// Tunnels that it saw when it began, companions included.
    pub tunnels: usize,
    /// Packets and control messages that were written, and those that were lost.
    pub packets: CaptureStats,
}

/// Why a capture was not started or stopped. Nothing has changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// There are [`MAX_TRACES`].
    #[error("{MAX_TRACES} captures are running: stop one of them first")]
    TooMany,
    /// One that runs has this name.
    #[error("a capture named {name} is running")]
    NameInUse {
        /// The name.
        name: String,
    },
    /// The path ends in no file name that can be written as text.
    #[error("{file} names no file", file = .file.display())]
    NoName {
        /// The path.
        file: PathBuf,
    },
    /// There is no such interface.
    #[error("there is no interface named {name}")]
    NoSuchInterface {
        /// What was asked for.
        name: String,
    },
    /// A number is out of its range.
    #[error("{what} must be {range}")]
    OutOfRange {
        /// Which.
        what: &'static str,
        /// What it may be.
        range: &'static str,
    },
    /// The configuration wants more to be taken away.
    #[error(
        "`trace-redaction` of the configuration is \"{configured}\": \"{asked}\" would keep more than that"
    )]
    Redaction {
        /// What it says.
        configured: TraceRedaction,
        /// What was asked for.
        asked: TraceRedaction,
    },
    /// Outer packets, or decryption secrets, of a tunnel.
    #[error(
        "outer packets and decryption secrets belong to no tunnel until they are opened: capture an interface, or everything"
    )]
    OutsideOfTunnel,
    /// The file cannot be made.
    #[error("{}", capture_error(.0))]
    File(#[from] CaptureError),
    /// No capture has this name.
    #[error("no capture named {name} is running")]
    NoSuchTrace {
        /// What was asked for.
        name: String,
    },
    /// It is that of the configuration, which runs as long as the server.
    #[error(
        "{name} is the capture of the configuration (`trace-file`), which ends with the server"
    )]
    Configured {
        /// Its name.
        name: String,
    },
    /// The server ends.
    #[error("the server is stopping")]
    Stopping,
}

/// Adds what to do.
fn capture_error(error: &CaptureError) -> String {
    use std::io::ErrorKind;
    let kind = match error {
        CaptureError::Create { source, .. } => Some(source.kind()),
        CaptureError::Write { .. } | _ => None,
    };
    match kind {
        Some(ErrorKind::AlreadyExists) => format!("{error}: captures overwrite nothing"),
        _ => error.to_string(),
    }
}

/// Starts and stops captures of a server from any thread; cheap to clone. Every method may be called from async code of any
/// runtime.
#[derive(Clone, Debug)]
pub struct Tracer {
    commands: Sender<Command>,
}

/// What the keeper is to do.
#[derive(Debug)]
enum Command {
    Start {
        options: Box<TraceOptions>,
        by: Requester,
        answer: oneshot::Sender<Result<TraceStatus, TraceError>>,
    },
    Stop {
        /// `None`: all.
        name: Option<String>,
        by: Requester,
        answer: oneshot::Sender<Result<Vec<TraceStatus>, TraceError>>,
    },
    List {
        answer: oneshot::Sender<Vec<TraceStatus>>,
    },
    End,
}

/// Who asks, for the log.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Requester {
    /// The program that embeds the server.
    Program,
    /// A user of the host.
    User(u32),
}

impl Tracer {
    /// Starts a capture; all workers record for it when this is done.
    ///
    /// # Errors
    ///
    /// [`TraceError`]: there is no capture then, and no file was made.
    pub async fn start(&self, options: TraceOptions) -> Result<TraceStatus, TraceError> {
        self.start_for(options, Requester::Program).await
    }

    /// Stops a capture and closes its file. The figures are the last ones.
    ///
    /// # Errors
    ///
    /// There is none of this name, or it is that of the configuration.
    pub async fn stop(&self, name: &str) -> Result<TraceStatus, TraceError> {
        let stopped = self.stop_for(Some(name), Requester::Program).await?;
        let no_such = || TraceError::NoSuchTrace {
            name: name.to_owned(),
        };
        stopped.into_iter().next().ok_or_else(no_such)
    }

    /// Stops all captures but that of the configuration.
    ///
    /// # Errors
    ///
    /// The server is stopping, which stops them too.
    pub async fn stop_all(&self) -> Result<Vec<TraceStatus>, TraceError> {
        self.stop_for(None, Requester::Program).await
    }

    /// The captures that run, in the order in which they were started.
    ///
    /// # Errors
    ///
    /// The server is stopping.
    pub async fn list(&self) -> Result<Vec<TraceStatus>, TraceError> {
        let (answer, traces) = oneshot::channel();
        self.tell(Command::List { answer })?;
        traces.await.map_err(|_| TraceError::Stopping)
    }

    pub(crate) async fn start_for(
        &self,
        options: TraceOptions,
        by: Requester,
    ) -> Result<TraceStatus, TraceError> {
        let (answer, started) = oneshot::channel();
        let options = Box::new(options);
        self.tell(Command::Start {
            options,
            by,
            answer,
        })?;
        started.await.map_err(|_| TraceError::Stopping)?
    }

    pub(crate) async fn stop_for(
        &self,
        name: Option<&str>,
        by: Requester,
    ) -> Result<Vec<TraceStatus>, TraceError> {
        let (answer, stopped) = oneshot::channel();
        let name = name.map(str::to_owned);
        self.tell(Command::Stop { name, by, answer })?;
        stopped.await.map_err(|_| TraceError::Stopping)?
    }

    fn tell(&self, command: Command) -> Result<(), TraceError> {
        self.commands
            .send(command)
            .map_err(|_| TraceError::Stopping)
    }
}

/// A capture as the workers have it.
#[derive(Clone, Debug)]
pub(crate) struct Tap {
    pub(crate) watch: Watch,
    pub(crate) capture: Capture,
    /// That of the configuration.
    pub(crate) is_configured: bool,
}

impl Tap {
    /// That of the configuration.
    pub(crate) fn configured(writer: &CaptureWriter) -> Self {
        Self {
            watch: Watch::All,
            capture: writer.handle(),
            is_configured: true,
        }
    }

    /// Whether it wants to know what goes over the wire, or what decrypts that.
    pub(crate) fn has_outside(&self) -> bool {
        self.capture.has_outer() || self.capture.has_secrets()
    }
}

/// Where the ports of each interface, by its name, tell what goes over the wire.
pub(crate) type Outsides = Arc<BTreeMap<String, trace::Tap>>;

/// Which nobody listens to yet.
pub(crate) fn outsides(config: &Config) -> Outsides {
    let interfaces = config.interfaces.iter();
    Arc::new(
        interfaces
            .map(|interface| (interface.name.clone(), trace::Tap::new()))
            .collect(),
    )
}

/// A filter as the workers have it.
#[derive(Clone, Debug)]
pub(crate) enum Watch {
    All,
    /// By index.
    Interface(usize),
    /// By the filter itself, looked at once for each tunnel.
    Tunnel(TraceFilter),
}

/// How the capture of the configuration is written.
pub(crate) fn configured_capture(system: &SystemConfig) -> CaptureOptions {
    let mut options = capture_options(
        system.trace_redaction,
        system.trace_file_size,
        system.trace_files,
        system.trace_file_time,
    );
    options.outer = system.trace_outer;
    options.insecure_decryption_secrets = system.trace_insecure_decryption_secrets;
    options
}

fn capture_options(
    redaction: TraceRedaction,
    file_size: u32,
    files: u16,
    file_time: Duration,
) -> CaptureOptions {
    let period = Some(file_time).filter(|period| !period.is_zero());
    let mut options = CaptureOptions::default();
    options.limit = u64::from(file_size) * 1_000_000;
    options.ring = (files > 1).then_some(Ring { files, period });
    options.redact = match redaction {
        TraceRedaction::None => None,
        TraceRedaction::Headers => Some(|side, bytes| redact(Redaction::Headers, side, bytes)),
        TraceRedaction::Sip => Some(|side, bytes| redact(Redaction::Sip, side, bytes)),
    };
    options
}

fn redact(redaction: Redaction, side: Side, bytes: &mut Vec<u8>) {
    match side {
        Side::Inner => redaction.packet(bytes),
        Side::Control => redaction.control(bytes),
        Side::Outer => redaction.outer(bytes),
    }
}
