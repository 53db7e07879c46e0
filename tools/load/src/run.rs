//! `tsc-load run`: baselines, then the server by each transport.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::Context as _;
use tsc_csm::Transport;

use crate::bench::{Bench, Load, Measured, Method};
use crate::cli::{EgressArg, LoadArg, MeasureArgs, RunArgs};
use crate::clients::{call_core, call_each_other, ipv4};
use crate::host::Host;
use crate::peer::PeerKind;
use crate::progress::Line;
use crate::reflector::Reflector;
use crate::relay::RelayKind;
use crate::report::{LoadReport, Report, SubjectReport};
use crate::stage::Stage;
use crate::subject::TUN_HOST;
use crate::system::{Added, Wire, WireCount};

/// Runs all that was asked for; whether it kept within its limits.
///
/// # Errors
///
/// What went wrong.
pub fn run(args: &RunArgs) -> anyhow::Result<(Report, bool)> {
    let host = Host::prepare(&args.setting, args.setting.tunnels)?;
    let mut report = Report {
        notes: host.notes.clone(),
        ..Report::default()
    };
    for kind in &args.baseline {
        report.subjects.push(baseline(args, &host, *kind)?);
    }
    for kind in &args.peer {
        report.subjects.push(peer(args, &host, *kind)?);
    }
    if args.setting.has_server() {
        for transport in &args.setting.transport {
            report
                .subjects
                .push(server(args, &host, Transport::from(*transport))?);
        }
    }
    report.relate();
    let is_good = report
        .subjects
        .iter()
        .filter(|subject| subject.subject == "tsc-server")
        .flat_map(|subject| &subject.loads)
        .all(|load| load.load == "saturate" || load.loss <= args.measure.loss_limit);
    Ok((report, is_good))
}

impl MeasureArgs {
    /// How windows are measured.
    #[must_use]
    pub fn method(&self) -> Method {
        Method {
            window: self.window,
            windows: self.windows.into(),
            burst_ns: self.burst.map(|us| u64::from(us) * 1000),
            loss_limit: self.loss_limit,
            delay_limit: Duration::from_millis(self.delay_limit.into()),
            quiet: self.drain,
            ..Method::default()
        }
    }
}

/// A bare relay.
fn baseline(args: &RunArgs, host: &Host, kind: RelayKind) -> anyhow::Result<SubjectReport> {
    // The unit of all ratios is always the same.
    let is_trunk = args.trunk && kind != RelayKind::Udp;
    let sessions = if is_trunk { 1 } else { args.setting.tunnels };
    let (mut stage, echo) = Stage::relay(&args.setting, host, kind, sessions, args.size)?;
    for call in 0..args.calls.unwrap_or(args.setting.tunnels) {
        stage.engine.traffic.add_bare(call % sessions, echo);
    }
    measure(args, &mut stage)
}

/// Another program.
fn peer(args: &RunArgs, host: &Host, kind: PeerKind) -> anyhow::Result<SubjectReport> {
    let sessions = if args.trunk { 1 } else { args.setting.tunnels };
    let (mut stage, far) = Stage::peer(&args.setting, host, kind, sessions, args.size)?;
    let sessions = stage.engine.members().max(1);
    for call in 0..args.calls.unwrap_or(args.setting.tunnels) {
        stage.engine.traffic.add_bare(call % sessions, far);
    }
    measure(args, &mut stage)
}

/// A tunnel server.
fn server(args: &RunArgs, host: &Host, transport: Transport) -> anyhow::Result<SubjectReport> {
    let setting = &args.setting;
    let far_end = core(args)?;
    let tunnels = match (args.trunk, &far_end) {
        (true, Some(_)) => 1,
        (true, None) => 2,
        (false, _) => setting.tunnels,
    };
    let mut stage = Stage::server(setting, host, transport, tunnels, tunnels, args.size, false)?;
    let calls = args.calls.unwrap_or(setting.tunnels);
    match far_end {
        Some(None) => {
            // The device, and with it the address, has come with the server.
            let reflector = Reflector::bind(SocketAddrV4::new(Ipv4Addr::from(TUN_HOST), 0))?;
            let address = ipv4(reflector.address()?)?;
            stage.engine.set_reflector(reflector);
            call_core(&mut stage.engine, calls, address)?;
        }
        Some(Some((reflector, address))) => {
            if let Some(reflector) = reflector {
                stage.engine.set_reflector(reflector);
            }
            call_core(&mut stage.engine, calls, address)?;
        }
        None => call_each_other(&mut stage.engine, tunnels, calls, args.trunk)?,
    }
    let report = measure(args, &mut stage)?;
    stage.end()?;
    Ok(report)
}

/// A reflector of ours or somebody else's, and where it is.
type FarEnd = (Option<Reflector>, SocketAddrV4);

/// The far end in the core, if calls go there: `Some(None)` can only be had once the server runs.
fn core(args: &RunArgs) -> anyhow::Result<Option<Option<FarEnd>>> {
    let wanted = match (args.reflector, args.setting.egress) {
        (Some(address), _) => address,
        (None, EgressArg::Switch) => return Ok(None),
        (None, EgressArg::UserSpace) => SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0),
        (None, EgressArg::Tun) => return Ok(Some(None)),
    };
    match Reflector::bind(wanted) {
        Ok(reflector) => {
            let address = ipv4(reflector.address()?)?;
            Ok(Some(Some((Some(reflector), address))))
        }
        // Another process or host has it.
        Err(_) if wanted.port() != 0 => Ok(Some(Some((None, wanted)))),
        Err(error) => Err(error).with_context(|| format!("a reflector at {wanted}")),
    }
}

fn measure(args: &RunArgs, stage: &mut Stage) -> anyhow::Result<SubjectReport> {
    let line = Line::new(args.setting.quiet);
    let title = stage.title();
    let mut progress = |measured: &Measured| line.set(&describe(&title, measured));
    stage.engine.traffic.set_one_way(args.one_way);
    stage.engine.traffic.set_train(args.train);
    let mut bench = Bench {
        engine: &mut stage.engine,
        clock: stage.clock,
        wire: &stage.wire,
        method: args.measure.method(),
        progress: &mut progress,
    };
    let mut loads = Vec::new();
    for load in &args.rate {
        let (windows, greatest) = match load {
            LoadArg::Rate(rate) => (bench.windows(Load::Rate(*rate))?, None),
            LoadArg::Saturate => (bench.windows(Load::InFlight(args.in_flight))?, None),
            LoadArg::Max => {
                let greatest = bench
                    .greatest()?
                    .with_context(|| format!("{title}: no rate at all keeps within the limits"))?;
                let windows = bench.windows(Load::Rate(greatest / 10 * 9))?;
                (windows, Some(greatest))
            }
        };
        let mut report = LoadReport::of(&load.to_string(), greatest, &windows);
        if let Some(report) = &mut report
            && args.setting.own_network
        {
            let added = added(&windows, bench.wire, args.size);
            report.added_bytes = added.map(|added| added.bytes);
            report.added_packets = added.map(|added| added.packets);
        }
        loads.extend(report);
    }
    Ok(SubjectReport::of(stage, args.size, loads))
}

/// What the tunnel adds to each packet, in all windows together.
fn added(windows: &[Measured], wire: &Wire, size: u16) -> Option<Added> {
    let passed = WireCount {
        packets: windows.iter().map(|one| one.wire.packets).sum(),
        bytes: windows.iter().map(|one| one.wire.bytes).sum(),
    };
    wire.added(
        passed,
        windows.iter().map(|one| one.wire_relayed).sum(),
        size,
    )
}

/// One window in one line.
#[must_use]
pub fn describe(title: &str, measured: &Measured) -> String {
    let load = match measured.load {
        Load::Rate(rate) => format!("{rate}/s"),
        Load::InFlight(packets) => format!("{packets} under way"),
    };
    let cost = measured.per_cpu_second();
    let cost = cost.map(|rate| format!(", {:.1} k per CPU-s", rate / 1000.0));
    format!(
        "{title}: {load}: {:.0} relayed/s, {:.3} % lost, p50 {} us{}",
        measured.relayed_per_second(),
        measured.window.loss() * 100.0,
        measured.window.delay().quantile_us(0.5).unwrap_or_default(),
        cost.unwrap_or_default(),
    )
}
