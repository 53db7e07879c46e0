//! SIP server inside a tunnel: registrar and callee.
//!
//! Teaching code like `tsc_sip_client`, and a client of the tunnel server just like it. The steps inside the tunnel are
//! in the library: `server/mod.rs` (SIP SOCKET CREATION), `server/requests.rs` (REGISTER TRANSACTION) and
//! `server/call.rs` (INVITE TRANSACTION, RTP Exchange, BYE TRANSACTION).

#![allow(clippy::print_stdout)] // the reports are what this program is for

use std::{process::ExitCode, sync::Arc, time::Duration};

use clap::Parser;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tsc_sip::{
    cli::ServerArgs,
    net::{HostNet, InnerNet},
    report::{self, CallReport, Outcome},
    server::{ServerError, SipServer},
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
    if let Some(address) = args.tunnel.no_tunnel {
        return serve(Arc::new(HostNet::new(address)), args).await;
    }

    // --- tsc_ctrl_init() ----------------------------------------------------------------------------
    // The tunnel's parameters; see tsc_sip_client.
    let builder = args
        .tunnel
        .builder()
        .map_err(|error| (Outcome::Configuration, error.to_string()))?;

    // --- Create a Tunnel ----------------------------------------------------------------------------
    let tunnel = builder.connect().await.map_err(|error| {
        tracing::error!(code = %error.code(), "no tunnel");
        (Outcome::TunnelFailed, error.to_string())
    })?;
    tracing::info!(config = ?tunnel.config(), "tunnel is up");
    let tunnel = Arc::new(tunnel);
    let result = serve(Arc::clone(&tunnel), args).await;

    // --- TEST DONE ----------------------------------------------------------------------------------
    // Finished, Socket, Tunnel Cleanup.
    if let Some(tunnel) = Arc::into_inner(tunnel)
        && let Err(error) = tunnel.close(RELEASE).await
    {
        tracing::warn!(%error, "tunnel not released in good order");
    }
    result
}

async fn serve<N: InnerNet>(net: Arc<N>, args: &ServerArgs) -> Result<(), Failure> {
    let options = args
        .options()
        .map_err(|error| (Outcome::Configuration, error.to_string()))?;
    if args.open_registration {
        tracing::warn!("anybody may register as anybody (--open-registration)");
    }
    let listen = |kind| signal(kind).map_err(|e| (Outcome::Configuration, e.to_string()));
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;

    let mut server = SipServer::start(net, options).await.map_err(failure)?;
    println!("ready sip:{}", server.address());

    let mut calls = 0;
    loop {
        tokio::select! {
            report = server.next_report() => match report {
                Some(report) => {
                    print(args, &report);
                    calls += 1;
                    if args.exit_after == Some(calls) {
                        break;
                    }
                }
                // Ended by itself: stopping says why.
                None => break,
            },
            () = any(&mut interrupt, &mut terminate) => break,
        }
    }
    tokio::select! {
        stopped = server.stop(STOP) => {
            let rest = stopped.map_err(failure)?;
            rest.iter().for_each(|report| print(args, report));
        }
        () = any(&mut interrupt, &mut terminate) => tracing::warn!("calls broken off"),
    }
    Ok(())
}

async fn any(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

fn failure(error: ServerError) -> Failure {
    (error.outcome(), error.to_string())
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
