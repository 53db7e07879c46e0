//! SIP client inside a tunnel.
//!
//! Teaching code, in the steps of the SDK guide's chapter "Using The SDK To Create A TSM Tunnel" and with its search
//! marks. The steps inside the tunnel are in the library: `client/mod.rs` (SIP SOCKET CREATION, REGISTER
//! TRANSACTION) and `client/call.rs` (INVITE TRANSACTION, Build and send ACK, RTP Exchange, BYE TRANSACTION).

#![allow(clippy::print_stdout)] // the report is what this program is for

use std::{process::ExitCode, sync::Arc, time::Duration, time::Instant};

use clap::Parser;
use serde::Serialize;
use tsc_sip::{
    cli::{ClientArgs, connect_outcome},
    client::{ClientOptions, ClientReport, run_client},
    net::{ConfigSummary, HostNet, RenewableTunnel},
    report::{self, Outcome, millis},
    stop::Stop,
};
use tsc_tapi::Coded;

/// How long the server may take to confirm the release.
const RELEASE: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() -> ExitCode {
    let args = ClientArgs::parse();
    args.output.start_logging();
    let result = run(&args).await;
    let outcome = match &result {
        Ok(report) => report.outcome(),
        Err(failure) => failure.outcome,
    };
    print(&args, outcome, result);
    ExitCode::from(outcome.exit_code())
}

/// Why there is no report.
struct Failure {
    outcome: Outcome,
    error: String,
}

impl Failure {
    fn new(outcome: Outcome, error: &dyn std::fmt::Display) -> Self {
        let error = error.to_string();
        Self { outcome, error }
    }
}

async fn run(args: &ClientArgs) -> Result<ClientReport, Failure> {
    let usage = |error| Failure::new(Outcome::Configuration, &error);
    let options = args.options().map_err(usage)?;
    let stop = Stop::on_signal().map_err(|error| Failure::new(Outcome::Configuration, &error))?;

    if let Some(address) = args.network.no_tunnel {
        return run_client(Arc::new(HostNet::new(address)), options, stop)
            .await
            .map_err(|error| Failure::new(error.outcome(), &error));
    }

    // --- tsc_ctrl_init() ----------------------------------------------------------------------------
    // The C SDK fills a parameter structure and calls tsc_ctrl_init(). Here a builder takes the same
    // parameters: server address, port and transport, certificates, the trace file. There is no global
    // state to initialise; a program may have as many tunnels as it likes.
    let builder = args.network.builder(args.peer).map_err(usage)?;

    // --- Create a Tunnel ----------------------------------------------------------------------------
    // Opens the transport and exchanges the configuration: when this returns, the server has assigned our
    // inner addresses and named its SIP servers. Notifications take the place of callbacks.
    let started = Instant::now();
    let tunnel = tokio::select! {
        tunnel = builder.connect() => tunnel.map_err(|error| {
            tracing::error!(code = %error.code(), "no tunnel");
            Failure::new(connect_outcome(&error), &error)
        })?,
        () = stop.stopped() => {
            return Err(Failure::new(Outcome::TunnelFailed, &"stopped before the tunnel was up"));
        }
    };
    let tunnel_ms = millis(started.elapsed());
    tracing::info!("tunnel is up: {}", ConfigSummary(&tunnel.config()));

    // When the server does not know the tunnel any more, or has released it, another takes its place.
    let (tunnels, tunnel) = args.network.tunnels(tunnel, args.peer);
    let result = calls(tunnel, options, stop, tunnel_ms).await;

    // --- TEST DONE ----------------------------------------------------------------------------------
    // Finished, Socket, Tunnel Cleanup: the sockets closed themselves when their owners went. Releasing the
    // tunnel tells the server that the inner addresses are free.
    if let Err(error) = tunnels.close(RELEASE).await {
        tracing::warn!(%error, "tunnel not released in good order");
    }
    result
}

async fn calls(
    tunnel: Arc<RenewableTunnel>,
    options: ClientOptions,
    stop: Stop,
    tunnel_ms: f64,
) -> Result<ClientReport, Failure> {
    match run_client(tunnel, options, stop).await {
        Ok(mut report) => {
            report.tunnel_ms = Some(tunnel_ms);
            Ok(report)
        }
        Err(error) => Err(Failure::new(error.outcome(), &error)),
    }
}

#[derive(Serialize)]
struct Output {
    outcome: Outcome,
    error: Option<String>,
    #[serde(flatten)]
    report: Option<ClientReport>,
}

fn print(args: &ClientArgs, outcome: Outcome, result: Result<ClientReport, Failure>) {
    if args.output.json {
        let (report, error) = match result {
            Ok(report) => {
                let lost = report.lost.clone();
                (Some(report), lost)
            }
            Err(failure) => (None, Some(failure.error)),
        };
        let output = Output {
            outcome,
            error,
            report,
        };
        match serde_json::to_string_pretty(&output) {
            Ok(json) => println!("{json}"),
            Err(error) => eprintln!("tsc_sip_client: {error}"),
        }
        return;
    }
    match result {
        Ok(report) => {
            if let Some(tunnel_ms) = report.tunnel_ms {
                println!("tunnel up in {tunnel_ms:.1} ms");
            }
            if let Some(register_ms) = report.register_ms {
                println!("registered in {register_ms:.1} ms");
            }
            print!("{}", report::renewals(&report.renewals));
            print!("{}", report::table(&report.calls));
            if let Some(lost) = report.lost {
                eprintln!("tsc_sip_client: {lost}");
            }
        }
        Err(failure) => eprintln!("tsc_sip_client: {}", failure.error),
    }
}
