//! `tsc-connect`: a proxy into a tunnel. See the library for how it is made, `--help` for how it is used.

use std::{
    fmt::Display, future::Future, net::IpAddr, process::ExitCode, sync::Arc, time::Duration,
};

use clap::Parser;
use serde::Serialize;
use tsc_cli::{is_usage_error, say, stop::Signals};
use tsc_connect::{
    accept::Shared,
    cli::Args,
    report::Summary,
    session::{Current, HostSide, Opened, TunnelSide},
};
use tsc_tapi::{Coded as _, ConnectError, DownReason, Tunnel};

/// How long the server may take to confirm the release.
const RELEASE: Duration = Duration::from_secs(2);

/// The longest wait before another tunnel is opened.
const LONGEST_REST: Duration = Duration::from_secs(30);

const CLIENT_INFO: &str = concat!("tsc-connect/", env!("CARGO_PKG_VERSION"));

/// Why the program ends, other than by a signal.
struct Failure {
    code: u8,
    error: String,
}

impl Failure {
    fn new(code: u8, error: &dyn Display) -> Self {
        let error = error.to_string();
        Self { code, error }
    }

    fn connect(error: &ConnectError) -> Self {
        tracing::error!(code = %error.code(), "no tunnel");
        Self::new(if is_usage_error(error) { 2 } else { 3 }, error)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    args.output.start_logging();
    let shared = Shared::new(number(args.max_connections));
    let result = run(&args, &shared).await;
    let summary = shared.counters.summary();
    if args.output.json {
        let error = result.as_ref().err().map(|failure| failure.error.as_str());
        line(&Event::Stopped { summary, error });
    } else {
        say(summary);
    }
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("tsc-connect: {}", failure.error);
            ExitCode::from(failure.code)
        }
    }
}

/// A line of `--json`.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Event<'a> {
    Ready {
        tunnel: String,
        addresses: Vec<IpAddr>,
        listeners: Vec<&'a Opened>,
    },
    Lost {
        reason: String,
    },
    Stopped {
        #[serde(flatten)]
        summary: Summary,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<&'a str>,
    },
}

fn line(event: &Event<'_>) {
    match serde_json::to_string(event) {
        Ok(json) => say(json),
        Err(error) => tracing::error!(%error, "not printed"),
    }
}

async fn run(args: &Args, shared: &Shared) -> Result<(), Failure> {
    args.check().map_err(|error| Failure::new(2, &error))?;
    let mut signals = Signals::listen().map_err(|error| Failure::new(2, &error))?;
    for address in args.exposed() {
        tracing::warn!(event = "exposed", %address, "whoever can reach this port can use the tunnel");
    }
    let inner = shared.other_side(
        number(args.max_connections),
        number(args.max_connections_per_peer),
    );
    let (current, net) = Current::new();
    let host = HostSide::open(args, &net, shared).await;
    let host = host.map_err(|error| Failure::new(4, &error))?;
    let Some(mut tunnel) = or_signal(&mut signals, connect(args)).await else {
        return Ok(());
    };
    let mut rest = Duration::ZERO;
    let mut had_one = false;
    loop {
        match tunnel {
            Ok(opened) => {
                rest = Duration::ZERO;
                had_one = true;
                let opened = Arc::new(opened);
                let side = TunnelSide::open(args, &opened, &inner).await;
                let side = side.map_err(|error| Failure::new(4, &error))?;
                current.set(Some(Arc::clone(&opened)));
                ready(
                    args,
                    &opened,
                    host.opened.iter().chain(&side.opened).collect(),
                );
                let down = or_signal(&mut signals, opened.closed()).await;
                current.set(None);
                drop(side);
                let Some(reason) = down else {
                    drop(host);
                    release(opened).await;
                    return Ok(());
                };
                lost(args, &reason);
                if args.once {
                    return Err(Failure::new(3, &format!("the tunnel was lost: {reason}")));
                }
            }
            // The first tunnel has shown that the parameters are right; this is a time without the server.
            Err(failure) if had_one && !args.once => {
                tracing::warn!(event = "retry", error = failure.error, "no tunnel");
            }
            Err(failure) => return Err(failure),
        }
        rest = (rest * 2).clamp(Duration::from_secs(1), LONGEST_REST);
        let again = async {
            tokio::time::sleep(rest).await;
            connect(args).await
        };
        match or_signal(&mut signals, again).await {
            Some(next) => tunnel = next,
            None => return Ok(()),
        }
    }
}

fn number(option: u32) -> usize {
    usize::try_from(option).unwrap_or(usize::MAX)
}

async fn connect(args: &Args) -> Result<Tunnel, Failure> {
    let builder = args.tunnel.builder(CLIENT_INFO);
    let builder = builder.map_err(|error| Failure::new(2, &error))?;
    builder
        .connect()
        .await
        .map_err(|error| Failure::connect(&error))
}

/// `None` if a signal came first.
async fn or_signal<T>(signals: &mut Signals, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        done = work => Some(done),
        _ = signals.recv() => None,
    }
}

fn ready(args: &Args, tunnel: &Tunnel, listeners: Vec<&Opened>) {
    let config = tunnel.config();
    let addresses: Vec<IpAddr> = config.addresses.iter().map(|inner| inner.address).collect();
    let id = format!("{:016x}", config.tunnel_id);
    if args.output.json {
        line(&Event::Ready {
            tunnel: id,
            addresses,
            listeners,
        });
        return;
    }
    let addresses: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    say(format_args!(
        "tunnel {id} is up, our inner address is {}",
        addresses.join(" and ")
    ));
    for Opened {
        kind,
        address,
        target,
    } in listeners
    {
        match target {
            Some(target) => say(format_args!("{kind} {address} -> {target}")),
            None => say(format_args!("{kind} {address}")),
        }
    }
}

fn lost(args: &Args, reason: &DownReason) {
    if args.output.json {
        line(&Event::Lost {
            reason: reason.to_string(),
        });
    } else {
        say(format_args!("the tunnel was lost: {reason}"));
    }
}

/// Releases the tunnel. Connections that are being opened hold it until they notice that they are over.
async fn release(tunnel: Arc<Tunnel>) {
    let mut news = tunnel.notifications();
    let released = match Arc::try_unwrap(tunnel) {
        Ok(tunnel) => tunnel
            .close(RELEASE)
            .await
            .map_err(|error| error.to_string()),
        // The last of them releases it.
        Err(tunnel) => {
            drop(tunnel);
            let over = async { while news.recv().await.is_some() {} };
            let late = tokio::time::timeout(RELEASE, over).await;
            late.map_err(|_| "not in time".to_owned())
        }
    };
    if let Err(error) = released {
        tracing::warn!(error, "tunnel not released in good order");
    }
}
