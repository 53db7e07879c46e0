//! The tunnel server's program: parse, load, run, exit code.

use std::process::ExitCode;

use clap::Parser as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tsc_server::{
    Server,
    cli::{Action, Cli, Exit},
    config::{Config, ConfigErrors, Environment},
    control::ControlSocket,
    logging::{self, LogOptions},
};

fn main() -> ExitCode {
    let (cli, environment) = (Cli::parse(), Environment::from_process());
    match cli.action(&environment) {
        Action::Print { text } => {
            print(&text);
            Exit::Ok.into()
        }
        Action::Refuse { report, exit } => {
            eprintln!("{report}");
            exit.into()
        }
        Action::Ask(ask) => match ask.ask() {
            Ok(text) => {
                print(&text);
                Exit::Ok.into()
            }
            Err(report) => {
                eprintln!("error: {report}");
                Exit::Failure.into()
            }
        },
        Action::Run { config, log } => {
            let load = || cli.load(&environment);
            run(*config, &log, &load).into()
        }
    }
}

#[expect(
    clippy::print_stdout,
    reason = "what was asked for goes to standard output"
)]
fn print(text: &str) {
    print!("{text}");
}

/// Reads the configuration again.
type Load<'a> = &'a dyn Fn() -> Result<Config, ConfigErrors>;

fn run(config: Config, log: &LogOptions, load: Load<'_>) -> Exit {
    if let Err(error) = logging::init(log) {
        eprintln!("error: {error}");
        return Exit::Failure;
    }
    for warning in config.warnings() {
        tracing::warn!(event = "configuration-warning", "{warning}");
    }
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(event = "start-failed", %error, "cannot start");
            return Exit::Failure;
        }
    };
    runtime.block_on(serve(config, load))
}

/// Serves until SIGINT, SIGTERM or SIGQUIT; a second one ends at once.
async fn serve(mut config: Config, load: Load<'_>) -> Exit {
    let mut signals = match Signals::watch() {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!(event = "start-failed", %error, "cannot watch signals");
            return Exit::Failure;
        }
    };
    let control = config.system.control_socket.as_deref();
    let directory = config.system.trace_directory.as_deref();
    let control = control.map(|path| ControlSocket::bind(path, directory));
    let control = match control.transpose() {
        Ok(control) => control,
        Err(error) => {
            tracing::error!(event = "start-failed", "{error}");
            return Exit::Failure;
        }
    };
    let server = match Server::start(&config) {
        Ok(server) => server,
        Err(error) => {
            tracing::error!(event = "start-failed", "{error}");
            return error.exit();
        }
    };
    if let Err(error) = server.give_up_capabilities() {
        tracing::error!(event = "start-failed", "{error}");
        return Exit::Failure;
    }
    let control = match (control, server.tracer()) {
        (Some(control), Ok(tracer)) => Some(tokio::spawn(control.serve(tracer))),
        (Some(_) | None, _) => None,
    };
    tracing::info!(event = "ready", ports = server.ports().len());
    let mut draining = false;
    loop {
        let asked = tokio::select! {
            asked = signals.next() => asked,
            // Why, it says when it is stopped.
            () = server.failed() => break,
        };
        match asked {
            Asked::Stop => {
                tracing::info!(
                    event = "stopping",
                    "releasing all tunnels; a second signal ends at once"
                );
                break;
            }
            Asked::Report => {
                if let Some(report) = server.report().await {
                    report.log();
                }
            }
            Asked::Drain => {
                draining = !draining;
                drain(&server, draining).await;
            }
            Asked::Reload => reload(&server, &mut config, load).await,
        }
    }
    // Nobody is to start anything any more; with its task the socket is gone.
    if let Some(control) = control {
        control.abort();
    }
    let mut stopped = tokio::task::spawn_blocking(|| server.stop());
    let report = loop {
        tokio::select! {
            report = &mut stopped => break report.ok().flatten(),
            asked = signals.next() => match asked {
                Asked::Stop => {
                    tracing::warn!(event = "stopped", "ended without waiting for the clients");
                    std::process::exit(Exit::Ok.code().into());
                }
                // All figures follow in a moment, and nobody is taken any more.
                Asked::Report | Asked::Drain | Asked::Reload => {}
            },
        }
    };
    let Some(report) = report else {
        tracing::error!(event = "failed", "the worker has ended");
        return Exit::Failure;
    };
    report.log();
    if let Some(failure) = report.failure {
        tracing::error!(event = "failed", "{failure}");
        return Exit::Failure;
    }
    tracing::info!(
        event = "stopped",
        configured = report.sessions.configured,
        refused = report.sessions.refused,
        switched = report.counters.switched,
    );
    Exit::Ok
}

async fn drain(server: &Server, draining: bool) {
    if !server.set_draining(draining).await {
        // The loop learns of it, too.
        return;
    }
    if draining {
        tracing::info!(
            event = "draining",
            "new tunnels are refused, those that exist go on; SIGUSR2 ends that"
        );
    } else {
        tracing::info!(event = "draining-over", "new tunnels are accepted again");
    }
}

/// Takes over what can be had without a restart, all of it or nothing.
async fn reload(server: &Server, config: &mut Config, load: Load<'_>) {
    let new = match load() {
        Ok(new) => new,
        Err(errors) => {
            tracing::warn!(event = "reload-refused", %errors, "nothing has changed");
            return;
        }
    };
    let fixed = config.needs_restart(&new);
    if !fixed.is_empty() {
        tracing::warn!(
            event = "reload-refused",
            differs = fixed.join("; "),
            "nothing has changed: restart to change more than services"
        );
        return;
    }
    for warning in new.warnings() {
        tracing::warn!(event = "configuration-warning", "{warning}");
    }
    let interfaces = config.changed_offers(&new).join(", ");
    if !server.change_offers(new.clone()).await {
        // As above.
        return;
    }
    *config = new;
    tracing::info!(
        event = "reloaded",
        interfaces,
        "new tunnels are offered the services of the configuration as it is now"
    );
}

/// What a signal asks for.
enum Asked {
    Stop,
    Report,
    Drain,
    Reload,
}

/// The signals that the server obeys. Left alone, each would end it without a word to the clients.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    user: Signal,
    other_user: Signal,
    hangup: Signal,
}

impl Signals {
    fn watch() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            user: signal(SignalKind::user_defined1())?,
            other_user: signal(SignalKind::user_defined2())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next one; dropping the future loses none.
    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.quit.recv() => Asked::Stop,
            _ = self.user.recv() => Asked::Report,
            _ = self.other_user.recv() => Asked::Drain,
            _ = self.hangup.recv() => Asked::Reload,
        }
    }
}
