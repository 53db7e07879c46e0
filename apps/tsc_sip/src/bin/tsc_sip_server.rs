//! SIP server inside a tunnel: registrar and callee.
//!
//! Teaching code like `tsc_sip_client`, and a client of the tunnel server just like it. The steps inside the tunnel are
//! in the library: `server/site.rs` (SIP SOCKET CREATION), `server/requests.rs` (REGISTER TRANSACTION) and
//! `server/call.rs` (INVITE TRANSACTION, RTP Exchange, BYE TRANSACTION).

#![allow(clippy::print_stdout)] // the reports are what this program is for

use std::{
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Parser;
use tsc_cli::UsageError;
use tsc_sip::{
    Renewal,
    cli::{ServerArgs, connect_outcome},
    net::{ConfigSummary, HostNet, InnerNet},
    report::{self, CallReport, Outcome, SessionReport},
    server::{Renewals, ServerError, ServerOptions, SessionReports, SipServer},
    stop::Signals,
};
use tsc_tapi::Coded;

/// How long ending all calls may take.
const STOP: Duration = Duration::from_secs(10);
/// How long the server may take to confirm the release.
const RELEASE: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() -> ExitCode {
    let args = ServerArgs::parse();
    args.output.start_logging();
    match run(&args).await {
        Ok(()) => ExitCode::from(Outcome::Ok.exit_code()),
        Err((outcome, error)) => {
            eprintln!("tsc_sip_server: {error}");
            ExitCode::from(outcome.exit_code())
        }
    }
}

type Failure = (Outcome, String);

async fn run(args: &ServerArgs) -> Result<(), Failure> {
    let usage = |error: UsageError| (Outcome::Configuration, error.to_string());
    // What the command line names is looked at before anybody is bothered.
    let options = args.options().map_err(usage)?;
    if args.open_registration {
        tracing::warn!("anybody may register as anybody (--open-registration)");
    }
    if let Some(address) = args.network.no_tunnel {
        return serve(Arc::new(HostNet::new(address)), options, args).await;
    }

    // --- tsc_ctrl_init() ----------------------------------------------------------------------------
    // The tunnel's parameters; see tsc_sip_client.
    let builder = args.network.builder(args.peer).map_err(usage)?;

    // --- Create a Tunnel ----------------------------------------------------------------------------
    let tunnel = builder.connect().await.map_err(|error| {
        tracing::error!(code = %error.code(), "no tunnel");
        (connect_outcome(&error), error.to_string())
    })?;
    tracing::info!("tunnel is up: {}", ConfigSummary(&tunnel.config()));
    // When the server does not know the tunnel any more, or has released it, another takes its place.
    let (tunnels, tunnel) = args.network.tunnels(tunnel, args.peer);
    let result = serve(tunnel, options, args).await;

    // --- TEST DONE ----------------------------------------------------------------------------------
    // Finished, Socket, Tunnel Cleanup.
    if let Err(error) = tunnels.close(RELEASE).await {
        tracing::warn!(%error, "tunnel not released in good order");
    }
    result
}

async fn serve<N: InnerNet>(
    net: Arc<N>,
    options: ServerOptions,
    args: &ServerArgs,
) -> Result<(), Failure> {
    let mut signals = Signals::listen().map_err(|e| (Outcome::Configuration, e.to_string()))?;
    let mut server = tokio::select! {
        server = SipServer::start(net, options) => server.map_err(failure)?,
        // While a registrar lets us wait.
        _ = signals.recv() => return Ok(()),
    };
    println!("ready sip:{}", server.address());

    let mut sessions = server.session_reports();
    let mut renewals = server.renewals();
    let mut calls = 0;
    let mut end_at = None;
    loop {
        tokio::select! {
            report = server.next_report() => match report {
                Some(report) => {
                    print(args, &report);
                    calls += 1;
                }
                // All is over: stopping says how.
                None => break,
            },
            report = next_session(&mut sessions) => print_session(args, &report),
            renewal = next_renewal(&mut renewals) => {
                print_renewal(args, &renewal);
                println!("ready sip:{}", server.address());
            }
            _ = signals.recv() => {
                if end_at.is_some() {
                    tracing::warn!("calls broken off");
                    break;
                }
                end_at = Some(Instant::now() + STOP);
            }
            () = until(end_at) => {
                tracing::warn!("calls broken off: they do not end");
                break;
            }
        }
        if args.exit_after.is_some_and(|wanted| calls >= wanted) && end_at.is_none() {
            end_at = Some(Instant::now() + STOP);
        }
        if end_at.is_some() {
            server.hang_up();
        }
    }
    server.stop(Duration::ZERO).await.map(drop).map_err(failure)
}

async fn next_session(reports: &mut Option<SessionReports>) -> SessionReport {
    if let Some(reports) = reports
        && let Some(report) = reports.recv().await
    {
        return report;
    }
    // The server has ended, which is seen elsewhere.
    std::future::pending().await
}

async fn next_renewal(renewals: &mut Option<Renewals>) -> Renewal {
    if let Some(renewals) = renewals
        && let Some(renewal) = renewals.recv().await
    {
        return renewal;
    }
    // The server has ended, which is seen elsewhere.
    std::future::pending().await
}

async fn until(end: Option<Instant>) {
    match end {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

fn failure(error: ServerError) -> Failure {
    (error.outcome(), error.to_string())
}

fn print_renewal(args: &ServerArgs, renewal: &Renewal) {
    if args.output.json {
        match serde_json::to_string(&serde_json::json!({ "renewal": renewal })) {
            Ok(json) => println!("{json}"),
            Err(error) => tracing::error!(%error, "no report"),
        }
    } else {
        print!("{}", report::renewals(std::slice::from_ref(renewal)));
    }
}

fn print_session(args: &ServerArgs, report: &SessionReport) {
    if args.output.json {
        match serde_json::to_string(report) {
            Ok(json) => println!("{json}"),
            Err(error) => tracing::error!(%error, "no report"),
        }
    } else {
        print!("{}", report::session_table(std::slice::from_ref(report)));
    }
}

fn print(args: &ServerArgs, report: &CallReport) {
    if args.output.json {
        match serde_json::to_string(report) {
            Ok(json) => println!("{json}"),
            Err(error) => tracing::error!(%error, "no report"),
        }
    } else {
        print!("{}", report::table(std::slice::from_ref(report)));
    }
}
