//! The command line: what `tsc-server` was asked to do.
//!
//! ```no_run
//! use clap::Parser as _;
//! use tsc_server::{cli::{Action, Cli, Exit}, config::Environment};
//!
//! match Cli::parse().action(&Environment::from_process()) {
//!     Action::Print { text } => print!("{text}"),
//!     Action::Refuse { report, exit } => { eprintln!("{report}"); std::process::exit(exit.code().into()) }
//!     Action::Ask(ask) => match ask.ask() {
//!         Ok(text) => print!("{text}"),
//!         Err(report) => { eprintln!("{report}"); std::process::exit(Exit::Failure.code().into()) }
//!     },
//!     Action::Run { config, log } => { /* set up logging, serve */ }
//! }
//! ```

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::LazyLock;

use clap::builder::PossibleValuesParser;
use clap::{Parser, Subcommand};

use crate::config::{
    Config, ConfigErrors, DEFAULT_CONFIG, DtlsBackend, Environment, LogFormat, LogLevel, Overrides,
    SYSTEM_KEYS, variable,
};
use crate::logging::LogOptions;

mod trace;

pub use self::trace::{Ask, TraceAction, TraceArgs, TraceStart};

/// Where the configuration is looked for unless `--config` or `TSC_CONFIG` say otherwise.
pub const DEFAULT_PATH: &str = "/etc/opentsc/tsc-server.toml";

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exit {
    /// Stopped as asked, or the configuration is good.
    Ok,
    /// Failed while running.
    Failure,
    /// The configuration or the command line is wrong.
    Configuration,
    /// A port cannot be opened.
    Bind,
    /// A certificate, key or token file cannot be used.
    Credentials,
}

impl Exit {
    /// Every way, in the order of the codes.
    pub const ALL: &'static [Self] = &[
        Self::Ok,
        Self::Failure,
        Self::Configuration,
        Self::Bind,
        Self::Credentials,
    ];

    /// The exit code; stable.
    pub const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failure => 1,
            Self::Configuration => 2,
            Self::Bind => 3,
            Self::Credentials => 4,
        }
    }

    /// What it means, for `--help` and the documentation.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "stopped as asked; with --check-config: no error",
            Self::Failure => "failed while running",
            Self::Configuration => "wrong configuration or command line",
            Self::Bind => "cannot open a port",
            Self::Credentials => "cannot use a certificate, key or token file",
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Tunnel server: ends TSCF tunnels over TCP, TLS, UDP and DTLS, hands out inner addresses and switches
/// packets between tunnels.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "tsc-server",
    version = short_version(),
    long_version = VERSION.as_str(),
    after_long_help = HELP.as_str(),
    max_term_width = 100
)]
pub struct Cli {
    /// Configuration file (TOML). [default: /etc/opentsc/tsc-server.toml]
    #[arg(short, long, value_name = "FILE", env = "TSC_CONFIG")]
    pub config: Option<PathBuf>,

    /// Check the configuration with all files it names, and exit: 0 if it is good, 2 if not.
    ///
    /// Every error is reported with file, line and the fix.
    #[arg(long, conflicts_with_all = ["print_config", "print_default_config"])]
    pub check_config: bool,

    /// Print the effective configuration, with environment and flags applied, and exit.
    ///
    /// It is valid TOML and means the same anywhere. It holds paths of keys and token files, never
    /// their contents.
    #[arg(long, conflicts_with = "print_default_config")]
    pub print_config: bool,

    /// Print a commented configuration with every key and its default, and exit.
    #[arg(long)]
    pub print_default_config: bool,

    /// Least severe log records written; wins over RUST_LOG.
    #[arg(short, long, value_name = "LEVEL", value_parser = words(LogLevel::ALL, LogLevel::as_str))]
    pub log_level: Option<String>,

    /// How log records are written, to standard error.
    #[arg(long, value_name = "FORMAT", value_parser = words(LogFormat::ALL, LogFormat::as_str))]
    pub log_format: Option<String>,

    /// Write inner packets and control messages to this pcapng file, for Wireshark.
    #[arg(short, long, value_name = "FILE")]
    pub trace: Option<PathBuf>,

    /// What to ask a running server for, instead of starting one.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What a running server can be asked for.
#[derive(Clone, Debug, Subcommand)]
#[non_exhaustive]
pub enum Command {
    /// Start, stop and list captures of a running server.
    Trace(TraceArgs),
}

fn words<T: Copy>(all: &[T], word: fn(T) -> &'static str) -> PossibleValuesParser {
    PossibleValuesParser::new(all.iter().map(|value| word(*value)))
}

/// What is to be done.
#[derive(Clone, Debug)]
pub enum Action {
    /// Write `text` to standard output, and exit with [`Exit::Ok`].
    Print {
        /// What was asked for.
        text: String,
    },
    /// Write `report` to standard error, and exit.
    Refuse {
        /// Every error with its place and fix.
        report: String,
        /// How to exit.
        exit: Exit,
    },
    /// Ask the running server.
    Ask(Box<Ask>),
    /// Serve.
    Run {
        /// What to serve.
        config: Box<Config>,
        /// How to log.
        log: LogOptions,
    },
}

impl Cli {
    /// Loads the configuration as far as the flags need it.
    pub fn action(&self, environment: &Environment) -> Action {
        if let Some(Command::Trace(args)) = &self.command {
            return self.ask(args, environment);
        }
        if self.print_default_config {
            let text = DEFAULT_CONFIG.to_owned();
            return Action::Print { text };
        }
        let path = self.path();
        let config = match self.load(environment) {
            Ok(config) => config,
            Err(errors) => return self.refuse(&errors),
        };
        if self.print_config {
            let text = format!("# Effective configuration of {}\n{config}", path.display());
            return Action::Print { text };
        }
        if self.check_config {
            if let Some(path) = &config.system.trace_file
                && let Err(error) = can_create(path)
            {
                return Action::Refuse {
                    report: format!(
                        "error: trace-file: cannot create {}: {error}\n  help: name a file in a directory that \
                         the server may write to\n1 error",
                        path.display()
                    ),
                    exit: Exit::Configuration,
                };
            }
            let text = format!("{}: {}\n", path.display(), summary(&config));
            return Action::Print { text };
        }
        let system = &config.system;
        let log = LogOptions::from_environment(system.log_level, system.log_format, environment);
        match log {
            Ok(mut log) => {
                // The flag is what the operator types now; RUST_LOG may be left over.
                if self.log_level.is_some() {
                    log.filter = None;
                }
                let config = Box::new(config);
                Action::Run { config, log }
            }
            Err(error) => Action::Refuse {
                report: format!(
                    "error: environment variable RUST_LOG: {error}\n  \
                     help: write it like \"info,tsc_csm=debug\""
                ),
                exit: Exit::Configuration,
            },
        }
    }

    fn path(&self) -> PathBuf {
        let path = self.config.clone();
        path.unwrap_or_else(|| PathBuf::from(DEFAULT_PATH))
    }

    /// Reads the configuration, at the start and whenever it may have changed.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it.
    pub fn load(&self, environment: &Environment) -> Result<Config, ConfigErrors> {
        Config::load(&self.path(), environment, &self.overrides())
    }

    /// The flags that set keys of the configuration.
    pub fn overrides(&self) -> Overrides {
        let mut overrides = Overrides::default();
        if let Some(level) = &self.log_level {
            overrides.set("log-level", level, "flag --log-level");
        }
        if let Some(format) = &self.log_format {
            overrides.set("log-format", format, "flag --log-format");
        }
        if let Some(path) = &self.trace {
            // Relative to where the operator stands, not to the configuration file.
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            overrides.set("trace-file", path.to_string_lossy(), "flag --trace");
        }
        overrides
    }

    fn refuse(&self, errors: &ConfigErrors) -> Action {
        let count = errors.iter().count();
        let plural = if count == 1 { "" } else { "s" };
        let credentials = errors.only_credentials() && !self.check_config && !self.print_config;
        Action::Refuse {
            report: format!("{errors}\n{count} error{plural}"),
            exit: if credentials {
                Exit::Credentials
            } else {
                Exit::Configuration
            },
        }
    }
}

/// Whether a file can be made at `path`, or the one there be written; leaves the file system as it was.
fn can_create(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true);
    match fs::metadata(path) {
        Ok(there) if there.is_file() || there.is_dir() => options.open(path).map(drop),
        // Opening a pipe would wait for its reader.
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            options.create_new(true).open(path)?;
            fs::remove_file(path)
        }
        Err(error) => Err(error),
    }
}

/// One line on what a good configuration contains, then its warnings.
fn summary(config: &Config) -> String {
    let count = |number: usize, what: &str| {
        let plural = if number == 1 { "" } else { "s" };
        format!("{number} {what}{plural}")
    };
    let ports = config.interfaces.iter().map(|i| i.ports.len()).sum();
    let mut text = format!(
        "ok: {} with {}, {}",
        count(config.interfaces.len(), "interface"),
        count(ports, "port"),
        count(config.pools.len(), "address pool"),
    );
    for warning in config.warnings() {
        text.push_str("\nwarning: ");
        text.push_str(&warning);
    }
    text
}

/// The commit this was built from, if the build said so in `TSC_COMMIT`.
const COMMIT: Option<&str> = option_env!("TSC_COMMIT");

const fn short_version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

static VERSION: LazyLock<String> = LazyLock::new(|| {
    let commit = COMMIT.map_or_else(String::new, |commit| format!(" (commit {commit})"));
    let backends = DtlsBackend::ALL.iter().filter(|b| b.compiled_in());
    let backends: Vec<&str> = backends.map(|backend| backend.as_str()).collect();
    let backends = if backends.is_empty() {
        "none".to_owned()
    } else {
        backends.join(", ")
    };
    format!("{}{commit}\nDTLS backends: {backends}", short_version())
});

static HELP: LazyLock<String> = LazyLock::new(|| {
    let mut help = String::from(
        "First steps:
  tsc-server --print-default-config > tsc-server.toml   # then edit it
  tsc-server --config tsc-server.toml --check-config
  tsc-server --config tsc-server.toml --log-level debug
  tsc-server trace --help                               # captures of a running server

Precedence: the file, over it the environment, over it the flags.

Environment:
  TSC_CONFIG   configuration file
  RUST_LOG     log filter such as \"info,tsc_csm=debug\", instead of log-level
  NO_COLOR     if set, logs have no colours
  and for each key of [tscf-config]:
",
    );
    let variables: Vec<String> = SYSTEM_KEYS.iter().map(|key| variable(key)).collect();
    for line in variables.chunks(2) {
        let [first, rest @ ..] = line else { continue };
        let second = rest.first().map_or("", String::as_str);
        let _ = writeln!(help, "  {}", format!("{first:<32}{second}").trim_end());
    }
    help.push_str("\nExit codes:\n");
    for exit in Exit::ALL {
        let _ = writeln!(help, "  {}  {}", exit.code(), exit.meaning());
    }
    help.push_str(
        "\nSignals:
  TERM, INT, QUIT  release all tunnels and stop; a second one ends at once
  USR1             write all counters to the log
  HUP              read the configuration again: changes of services hold for new tunnels
",
    );
    help.push_str("\nResults go to standard output, logs and errors to standard error.");
    help
});
