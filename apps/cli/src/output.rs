//! How a program speaks.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write as _},
};

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

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
    /// Print the result as JSON.
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
        let color = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        // Fails only if a logger was set before, which then stays.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(io::stderr)
            .with_ansi(color)
            .try_init();
    }
}

/// Prints a line of results. A reader that is gone is no reason for a program to end that has other things to do.
pub fn say(line: impl Display) {
    if let Err(error) = writeln!(io::stdout().lock(), "{line}") {
        tracing::warn!(event = "not-printed", %error);
    }
}
