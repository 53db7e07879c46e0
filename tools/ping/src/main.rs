//! `tsc-ping`: a doctor for tunnels.
//!
//! It walks the way to a tunnel server as a client does, step by step, tells each step as it is taken, and ends with what
//! works, what does not, why that may be, and what to do about it. `--help` explains use, steps, exit codes and the JSON
//! fields.
//!
//! ```text
//!   target -> walk: resolve -> tcp -> tls  \
//!                   proxy ----------> tls ---+-> configure -> keepalive -> mtu -> release
//!                   resolve -> (udp) -> dtls /
//!               | each step                  (tunnel)
//!               v
//!            report -> text as it goes, or JSON -> diagnosis
//! ```
//!
//! Every wait has a bound: `--timeout` for a step, at most 16 addresses of a name, 1000 keepalives, some ten path MTU
//! probes.

mod certificate;
mod cli;
mod diagnosis;
mod link;
mod look;
mod measure;
mod problem;
mod proxy;
mod report;
mod search;
mod settings;
mod target;
mod tunnel;
mod walk;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Parser as _;
use tsc_cli::{LogLevel, stop::Stop};

use crate::{cli::Arguments, report::Report, settings::Settings};

/// A tunnel is possible by every URL.
const ALL: u8 = 0;
/// By none.
const NONE: u8 = 1;
/// The command line, a file, or the system.
const USAGE: u8 = 2;
/// By some.
const SOME: u8 = 3;
/// Somebody lost patience: as shells count SIGINT.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let mut arguments = Arguments::parse();
    // What goes wrong is what the program is about: it is told by its report, not by warnings.
    if std::env::var_os("RUST_LOG").is_none() {
        arguments.output.log_level.get_or_insert(LogLevel::Error);
    }
    arguments.output.start_logging();
    let settings = match Settings::new(&arguments) {
        Ok(settings) => settings,
        Err(error) => return complain(&error),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return complain(&error),
    };
    let result = runtime.block_on(run(&arguments, &settings));
    // The system's resolver may still be asking.
    runtime.shutdown_background();
    match result {
        Ok(code) => code.into(),
        // Whoever read our output has seen enough (`| head`).
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => complain(&error),
    }
}

async fn run(arguments: &Arguments, settings: &Settings) -> io::Result<u8> {
    let stop = Stop::on_signal()?;
    let mut report = Report::new(arguments.output.json);
    for target in &arguments.targets {
        if walk::is_stopped(&stop).await {
            break;
        }
        report.begin(target)?;
        walk::walk(target, settings, &stop, &mut report).await?;
        report.end()?;
    }
    let possible = report.possible();
    let code = if walk::is_stopped(&stop).await {
        INTERRUPTED
    } else if possible == arguments.targets.len() {
        ALL
    } else if possible == 0 {
        NONE
    } else {
        SOME
    };
    report.finish(code)?;
    Ok(code)
}

/// Says it on standard error; if even that is closed, the exit code has to do.
fn complain(error: &dyn std::fmt::Display) -> ExitCode {
    let _ = writeln!(io::stderr(), "tsc-ping: error: {error}");
    USAGE.into()
}
