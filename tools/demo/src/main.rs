//! The one command for the main job: a SIP call with media through a real tunnel, over every transport.

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use tsc_demo::{
    alone,
    inner_tcp::{self, Numbers},
    lab::{Lab, LabOptions},
    leg::{self, LegOptions, LegReport},
    peer::{self, PeerReport},
    pki::Authority,
    service::{self, Service, ServiceReport},
};
use tsc_sip::net::MediaServices;
use tsc_tapi::{DtlsBackendKind, Transport};

const AFTER_HELP: &str = "\
What happens: the demo makes a certificate authority and certificates of its own, starts a tunnel server on
loopback ports that the system chooses, and then, for each transport, opens a tunnel for a SIP server and one for
a caller, registers, calls, plays speech both ways, records, hangs up and compares what was heard with what was
played. A leg is ok if every packet arrived and both recordings are bit-exact.

A last leg has 50 calls, 100 chats, 10 files and 10 downloads in one tunnel at the same time: SIP, MSRP and HTTP over
inner TCP beside RTP. It is ok if all calls were heard and all messages, files and downloads are complete and unchanged.

Examples:
  tsc-demo                                   one call over each of tcp, tls, udp and dtls; everything at once over tls
  tsc-demo --transport dtls --dtls-backend webrtc --calls 10
  tsc-demo --record out --trace out --json   recordings, pcapng files for Wireshark, and JSON
  tsc-demo --service redundancy --duration 20
                                             what copies of packets do for a call over a network that loses 10 %
  tsc-demo --service redundancy -t tcp       the same over two and three connections
  tsc-demo --service ddt                     what media gains that leaves a stream for datagrams beside it
  tsc-demo --service peer                    what it brings that media goes straight from one client to the other
  tsc-demo pki certs                         only the certificates, for a server started by hand

Exit codes: 0 every leg is ok, 1 a leg failed, 2 wrong command line or surroundings.";

/// Makes SIP calls with media through real tunnels over every transport, on this machine, and reports.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, after_help = AFTER_HELP, args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,

    /// Transport to use; may be given several times. [default: all four]
    #[arg(short, long, value_name = "tcp|tls|udp|dtls", value_parser = transport)]
    transport: Vec<Transport>,

    /// Library that does DTLS, at both ends.
    #[arg(long, value_name = "openssl|dimpl|webrtc")]
    dtls_backend: Option<DtlsBackendKind>,

    /// Calls at the same time on each leg.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=200))]
    calls: u16,

    /// Length of each call in seconds.
    #[arg(short, long, value_name = "SECONDS", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=600))]
    duration: u64,

    /// Directory for recordings: WAV and bare G.711.
    #[arg(long, value_name = "DIR")]
    record: Option<PathBuf>,

    /// Directory for capture files of both clients, for Wireshark.
    #[arg(long, value_name = "DIR")]
    trace: Option<PathBuf>,

    /// Show what a service does instead: the same call over a bad network, with more and more of it; `peer`: media that leaves a far
    /// tunnel server, in a network namespace of its own (root, or user namespaces).
    /// [default transports: udp and dtls for redundancy and peer, tcp and tls for ddt]
    #[arg(long, value_name = "redundancy|ddt|peer", value_parser = shown)]
    service: Option<Shown>,

    /// Leave out the last leg.
    #[arg(long)]
    no_inner_tcp: bool,

    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,

    /// Least severe log records written to standard error: error, warn, info, debug or trace.
    #[arg(short, long, value_name = "LEVEL", default_value = "warn")]
    log_level: String,
}

/// What can be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    /// A service that mends what a bad network does.
    Mending(Service),
    /// Media without the tunnel server.
    Peer,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write ca.pem, server.pem, server.key, client.pem and client.key into a directory, and nothing else.
    Pki {
        /// Directory; made if it does not exist.
        directory: PathBuf,
    },
}

fn transport(text: &str) -> Result<Transport, String> {
    Transport::ALL
        .into_iter()
        .find(|transport| transport.to_string() == text)
        .ok_or_else(|| "expected tcp, tls, udp or dtls".to_owned())
}

fn shown(text: &str) -> Result<Shown, String> {
    if text == "peer" {
        return Ok(Shown::Peer);
    }
    Service::ALL
        .into_iter()
        .find(|service| service.to_string() == text)
        .map(Shown::Mending)
        .ok_or_else(|| "expected redundancy, ddt or peer".to_owned())
}

fn main() -> ExitCode {
    let args = Args::parse();
    let result = match &args.command {
        Some(Command::Pki { directory }) => pki(directory).map(|()| true),
        None => demo(&args),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn pki(directory: &PathBuf) -> anyhow::Result<()> {
    let context = || format!("cannot write to {}", directory.display());
    std::fs::create_dir_all(directory).with_context(context)?;
    let authority = Authority::new("OpenTSC demo authority")?;
    std::fs::write(directory.join("ca.pem"), authority.certificate()).with_context(context)?;
    let server = authority.server()?.write(directory, "server");
    server.with_context(context)?;
    let client = authority.client("alice")?.write(directory, "client");
    client.with_context(context)?;
    eprintln!(
        "wrote ca.pem, server.pem, server.key, client.pem and client.key to {}",
        directory.display()
    );
    Ok(())
}

fn demo(args: &Args) -> anyhow::Result<bool> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_new(&args.log_level).context("--log-level")?,
        )
        .init();
    for directory in [&args.record, &args.trace].into_iter().flatten() {
        std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    }
    let backend = match args.dtls_backend {
        Some(backend) => backend,
        None => DtlsBackendKind::preferred().context("this build has no DTLS")?,
    };
    let transports = if args.transport.is_empty() {
        Transport::ALL.to_vec()
    } else {
        args.transport.clone()
    };
    if args.service == Some(Shown::Peer) {
        return show_peer(args, backend);
    }
    let started = Instant::now();
    let lab = Lab::start(&LabOptions::default()).context("cannot start the tunnel server")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    if let Some(Shown::Mending(service)) = args.service {
        let good = runtime.block_on(show(service, args, &lab, backend));
        drop(lab.server.stop());
        return good;
    }
    let mut legs = Vec::new();
    if !args.json {
        println(&heading());
    }
    let options = |transport: Transport, directory: String| LegOptions {
        transport,
        backend,
        calls: usize::from(args.calls),
        duration: Some(Duration::from_secs(args.duration)),
        record: args.record.as_ref().map(|record| record.join(directory)),
        trace: args.trace.clone(),
        services: MediaServices::default(),
        network: None,
    };
    let mut done = |leg: LegReport| {
        if !args.json {
            println(&line(&leg));
        }
        legs.push(leg);
    };
    for &transport in &transports {
        eprintln!("calling over {transport} for {} s ...", args.duration);
        let options = options(transport, transport.to_string());
        done(runtime.block_on(leg::run(&lab, &options)));
    }
    // TLS is what most have; or the first of those that were asked for.
    let preferred = match transports.contains(&Transport::Tls) {
        true => Some(Transport::Tls),
        false => transports.first().copied(),
    };
    if let Some(transport) = preferred.filter(|_| !args.no_inner_tcp) {
        eprintln!("calls, chats, files and downloads at once over {transport} ...");
        let mut options = options(transport, "inner-tcp".to_owned());
        // The files of that transport's own leg stay.
        options.trace = None;
        let numbers = Numbers::default();
        done(runtime.block_on(inner_tcp::run(&lab, &options, &numbers)));
    }
    drop(lab.server.stop());
    let good = legs.iter().filter(|leg| leg.ok).count();
    if args.json {
        println(&serde_json::to_string_pretty(
            &serde_json::json!({ "legs": legs }),
        )?);
    } else {
        println(&format!(
            "{good} of {} legs ok in {:.1} s; of a call alone, every packet arrived and both recordings are bit-exact",
            legs.len(),
            started.elapsed().as_secs_f64()
        ));
    }
    Ok(good == legs.len())
}

async fn show(
    service: Service,
    args: &Args,
    lab: &Lab,
    backend: DtlsBackendKind,
) -> anyhow::Result<bool> {
    let transports = match args.transport.as_slice() {
        [] => service.transports().to_vec(),
        given => given.to_vec(),
    };
    if let Some(other) = transports.iter().find(|one| !service.is_for(**one)) {
        anyhow::bail!("--service {service} does nothing over {other}");
    }
    if !args.json {
        println(&format!(
            "{:<9} {:<13} {:<6} {:>11} {:>6} {:>6} {:>6} {:>5} {:>12} {:>11}",
            "transport",
            "with",
            "result",
            "in force ms",
            "sent",
            "lost %",
            "late %",
            "MOS",
            "bytes/packet",
            "datagrams %"
        ));
    }
    let mut calls = Vec::new();
    for transport in transports {
        let network = service.network(transport);
        eprintln!(
            "{} calls over {transport}, {} s each, over a network that loses {:.0} % and takes {} ms each way ...",
            service.steps(transport).len(),
            args.duration,
            network.loss * 100.0,
            network.delay.as_millis(),
        );
        let duration = Duration::from_secs(args.duration);
        service::show(lab, service, transport, backend, duration, |call| {
            if !args.json {
                println(&service_line(&call));
            }
            calls.push(call);
        })
        .await;
    }
    let good = calls.iter().all(|call| call.ok);
    if args.json {
        println(&serde_json::to_string_pretty(
            &serde_json::json!({ "calls": calls }),
        )?);
    }
    Ok(good)
}

/// Media that leaves the tunnel server.
fn show_peer(args: &Args, backend: DtlsBackendKind) -> anyhow::Result<bool> {
    let transports = match args.transport.as_slice() {
        [] => vec![Transport::Udp, Transport::Dtls],
        given => given.to_vec(),
    };
    anyhow::ensure!(
        !transports.iter().any(|transport| transport.is_stream()),
        "--service peer is for udp and dtls"
    );
    if !alone::is_inside() {
        return alone::again();
    }
    let lab = peer::lab()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    if !args.json {
        println(&format!(
            "{:<9} {:<6} {:<6} {:>6} {:>8} {:>8} {:>7} {:>7} {:>5}",
            "transport", "way", "result", "sent", "directly", "relayed", "beside", "rtt ms", "MOS"
        ));
    }
    let mut calls = Vec::new();
    for transport in transports {
        eprintln!(
            "two calls over {transport}, {} s each, with a tunnel server that is {} ms away ...",
            args.duration,
            peer::DELAY.as_millis()
        );
        let duration = Duration::from_secs(args.duration);
        runtime.block_on(peer::calls(&lab, transport, backend, duration, |call| {
            if !args.json {
                println(&peer_line(&call));
            }
            calls.push(call);
        }));
    }
    drop(lab.server.stop());
    let good = calls.iter().all(|call| call.ok);
    if args.json {
        println(&serde_json::to_string_pretty(
            &serde_json::json!({ "calls": calls }),
        )?);
    }
    Ok(good)
}

fn peer_line(call: &PeerReport) -> String {
    let number = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let mut line = format!(
        "{:<9} {:<6} {:<6} {:>6} {:>8} {:>8} {:>7} {:>7} {:>5}",
        call.transport,
        call.way,
        if call.ok { "ok" } else { "FAILED" },
        call.sent,
        call.directly,
        call.relayed,
        number(call.relayed_beside.map(|relayed| relayed.to_string())),
        number(call.rtt_ms.map(|rtt| format!("{rtt:.2}"))),
        number(call.mos.map(|mos| format!("{mos:.2}"))),
    );
    if let Some(error) = &call.error {
        line.push_str("\n  ");
        line.push_str(error);
    }
    line
}

fn service_line(call: &ServiceReport) -> String {
    let number = |value: Option<f64>, digits: usize| {
        value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
    };
    let mut line = format!(
        "{:<9} {:<13} {:<6} {:>11} {:>6} {:>6.2} {:>6.2} {:>5} {:>12.0} {:>11.0}",
        call.transport,
        call.with,
        if call.ok { "ok" } else { "FAILED" },
        number(call.services_ms, 0),
        call.sent,
        call.lost_percent,
        call.late_percent,
        number(call.mos, 2),
        call.bytes_per_packet,
        call.datagrams_percent,
    );
    if let Some(error) = &call.error {
        line.push_str("\n  ");
        line.push_str(error);
    }
    line
}

#[expect(clippy::print_stdout, reason = "results go to standard output")]
fn println(text: &str) {
    println!("{text}");
}

fn heading() -> String {
    format!(
        "{:<17} {:<6} {:>9} {:>8} {:>6} {:>8} {:>5} {:>5} {:>9} {:>7} {:>5}",
        "transport",
        "result",
        "tunnel ms",
        "setup ms",
        "sent",
        "received",
        "lost",
        "late",
        "jitter ms",
        "rtt ms",
        "MOS"
    )
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn line(leg: &LegReport) -> String {
    let number = |value: Option<f64>, digits: usize| {
        value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
    };
    let name = match &leg.dtls_backend {
        Some(backend) => format!("{} {backend}", leg.transport),
        None => leg.transport.clone(),
    };
    let name = match leg.inner_tcp {
        Some(_) => format!("all over {name}"),
        None => name,
    };
    let mut line = format!(
        "{name:<17} {:<6} {:>9} {:>8} {:>6} {:>8} {:>5} {:>5} {:>9.2} {:>7} {:>5}",
        if leg.ok { "ok" } else { "FAILED" },
        number(leg.tunnel_ms, 1),
        number(leg.setup_ms, 1),
        leg.sent,
        leg.received,
        leg.lost,
        leg.late,
        leg.jitter_ms,
        number(leg.rtt_ms, 2),
        number(leg.mos, 2),
    );
    if let Some(facts) = &leg.inner_tcp {
        line.push_str(&format!(
            "\n  in one tunnel: {} calls, {} chats ({} messages), {} files, {} downloads, {:.1} MB beside RTP",
            facts.calls,
            facts.chats,
            facts.messages,
            facts.files,
            facts.downloads,
            facts.bytes as f64 / 1e6
        ));
    }
    if let Some(error) = &leg.error {
        line.push_str("\n  ");
        line.push_str(error);
    }
    line
}
