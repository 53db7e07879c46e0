//! Command lines of both programs: what they have in common, and what differs.
//!
//! Secrets come from files or the environment, never as arguments: other users of a machine can read arguments.

mod client;
mod server;
mod tunnel;

use std::{fs, io::IsTerminal, path::PathBuf};

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

pub use client::ClientArgs;
pub use server::ServerArgs;
pub use tunnel::{TunnelArgs, connect_outcome};

use crate::media::{Audio, WavError};

/// A command line that cannot be carried out: exit code 2.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UsageError {
    /// A file cannot be read, or a directory not written to.
    #[error("{option} {path}: {error}")]
    File {
        /// The option that names it.
        option: &'static str,
        /// Its path.
        path: String,
        /// Why.
        error: String,
    },
    /// The WAV file cannot be played.
    #[error("--play {0}")]
    Wav(#[from] WavError),
    /// An option has an impossible value.
    #[error("{option}: {error}")]
    Value {
        /// The option.
        option: &'static str,
        /// Why.
        error: String,
    },
}

impl UsageError {
    fn file(option: &'static str, path: &std::path::Path, error: impl ToString) -> Self {
        Self::File {
            option,
            path: path.display().to_string(),
            error: error.to_string(),
        }
    }
}

/// Least severe record that is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// How the program speaks.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// Print the result as JSON instead of a table.
    #[arg(long)]
    pub json: bool,

    /// Least severe log record written to standard error; wins over RUST_LOG. [default: warn]
    #[arg(long, value_enum, value_name = "LEVEL")]
    pub log_level: Option<LogLevel>,
}

impl OutputArgs {
    /// Starts logging to standard error. Has no effect when the process logs already.
    pub fn start_logging(&self) {
        let filter = match self.log_level {
            Some(level) => EnvFilter::new(format!("{level:?}").to_lowercase()),
            None => EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn")),
        };
        let color = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        // Fails only if a logger was set before, which then stays.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(color)
            .try_init();
    }
}

/// What is played and recorded.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Media")]
pub struct MediaArgs {
    /// WAV file to play in a loop: 16-bit, mono, 8000 Hz. [default: a spoken sample that comes with the program]
    #[arg(long, value_name = "FILE")]
    pub play: Option<PathBuf>,

    /// Directory for recordings of what was heard: for each call a WAV file and the bare G.711 payload.
    #[arg(long, value_name = "DIR")]
    pub record: Option<PathBuf>,

    /// Codecs in order of preference.
    #[arg(
        long,
        value_name = "CODEC,...",
        value_delimiter = ',',
        default_value = "pcmu,pcma"
    )]
    pub codec: Vec<crate::media::Codec>,

    /// A packet counts as late when it comes more than this many milliseconds after its schedule, which starts with
    /// the first packet.
    #[arg(long, value_name = "MS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(0..=2000))]
    pub playout_delay: u64,

    /// End a call when neither RTP nor RTCP has come from the other side for this many seconds; 0 never does.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(0..=86_400))]
    pub media_timeout: u64,
}

impl MediaArgs {
    /// The directory for recordings, made if need be. That it can be written to is found out now: at the end of a call
    /// it would be too late.
    fn record_directory(&self) -> Result<Option<PathBuf>, UsageError> {
        let Some(directory) = &self.record else {
            return Ok(None);
        };
        let probe = directory.join(format!(".tsc_sip-{}", std::process::id()));
        fs::create_dir_all(directory)
            .and_then(|()| fs::write(&probe, []))
            .and_then(|()| fs::remove_file(&probe))
            .map_err(|error| UsageError::file("--record", directory, error))?;
        Ok(Some(directory.clone()))
    }

    fn audio(&self, default: fn() -> Audio) -> Result<Audio, UsageError> {
        match &self.play {
            Some(path) => Ok(Audio::read(path)?),
            None => Ok(default()),
        }
    }
}

const EXIT_CODES: &str = "\
Exit codes:
  0  every call was made and heard
  2  wrong command line, or a file or directory that it names cannot be used
  3  no tunnel, or the tunnel was lost
  4  the registrar refused or did not answer
  5  a call was refused, not answered or broken off
  6  a call was made, but nothing was heard";
