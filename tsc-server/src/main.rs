//! The tunnel server's program: parse, load, run, exit code.

use std::process::ExitCode;

use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};
use tsc_server::{
    Server,
    cli::{Action, Cli, Exit},
    config::{Config, Environment},
    logging::{self, LogOptions},
};

fn main() -> ExitCode {
    match Cli::parse().action(&Environment::from_process()) {
        Action::Print { text } => {
            print(&text);
            Exit::Ok.into()
        }
        Action::Refuse { report, exit } => {
            eprintln!("{report}");
            exit.into()
        }
        Action::Run { config, log } => run(&config, &log).into(),
    }
}

#[expect(
    clippy::print_stdout,
    reason = "what was asked for goes to standard output"
)]
fn print(text: &str) {
    print!("{text}");
}

fn run(config: &Config, log: &LogOptions) -> Exit {
    if let Err(error) = logging::init(log) {
        eprintln!("error: {error}");
        return Exit::Failure;
    }
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start");
            return Exit::Failure;
        }
    };
    runtime.block_on(serve(config))
}

/// Serves until SIGINT or SIGTERM; a second one ends at once.
async fn serve(config: &Config) -> Exit {
    let (mut terminate, mut interrupt) = match (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) {
        (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "cannot watch signals");
            return Exit::Failure;
        }
    };
    let server = match Server::start(config) {
        Ok(server) => server,
        Err(error) => {
            tracing::error!(event = "start-failed", "{error}");
            return error.exit();
        }
    };
    tracing::info!(event = "ready", ports = server.ports().len());
    let mut signalled = async || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    tokio::select! {
        () = signalled() => {}
        () = server.failed() => {
            tracing::error!(event = "failed", "the worker has ended");
            return Exit::Failure;
        }
    }
    tracing::info!(
        event = "stopping",
        "releasing all tunnels; a second signal ends at once"
    );
    let stopped = tokio::task::spawn_blocking(|| server.stop());
    let report = tokio::select! {
        report = stopped => report.ok().flatten(),
        () = signalled() => {
            tracing::warn!(event = "stopped", "ended without waiting for the clients");
            std::process::exit(Exit::Ok.code().into());
        }
    };
    let Some(report) = report else {
        return Exit::Failure;
    };
    let (sessions, counters) = (&report.sessions, &report.counters);
    tracing::info!(
        event = "stopped",
        configured = sessions.configured,
        refused = sessions.refused,
        switched = counters.switched,
        no_route = counters.no_route,
        queue_full = counters.queue_full,
    );
    Exit::Ok
}
