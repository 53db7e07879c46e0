//! `tsc-load setup` and `tsc-load hold`: what tunnels cost to set up, and to have.

use std::time::Duration;

use tsc_csm::Transport;

use crate::cli::HoldArgs;
use crate::clients::settle;
use crate::clock::monotonic_ns;
use crate::host::Host;
use crate::peer::PeerKind;
use crate::progress::Line;
use crate::report::{HoldReport, Report, SubjectReport};
use crate::stage::Stage;
use crate::traffic::Traffic;

/// The engine sleeps no longer than that.
const NAP: Duration = Duration::from_millis(200);

/// Opens sessions of other programs, then tunnels, and keeps the tunnels for a time that may be zero; whether all lived.
///
/// # Errors
///
/// What went wrong.
pub fn hold(args: &HoldArgs, peers: &[PeerKind], time: Duration) -> anyhow::Result<(Report, bool)> {
    let setting = &args.setting;
    let host = Host::prepare(setting, setting.tunnels)?;
    let mut report = Report {
        notes: host.notes.clone(),
        ..Report::default()
    };
    let mut is_good = true;
    for kind in peers {
        let size = Traffic::MIN_SIZE;
        let (stage, _) = Stage::peer(setting, &host, *kind, setting.tunnels, size)?;
        let subject = SubjectReport::of(&stage, size, Vec::new());
        report.subjects.push(subject);
    }
    let transports: &[_] = if setting.has_server() {
        &setting.transport
    } else {
        &[]
    };
    for transport in transports {
        let transport = Transport::from(*transport);
        let tunnels = setting.tunnels;
        let size = Traffic::MIN_SIZE;
        let mut stage = Stage::server(setting, &host, transport, tunnels, tunnels, size, false)?;
        let held = if time.is_zero() {
            None
        } else {
            Some(keep(args, &mut stage, time)?)
        };
        is_good &= held.as_ref().is_none_or(|held| held.alive == tunnels);
        let mut subject = SubjectReport::of(&stage, size, Vec::new());
        subject.hold = held;
        report.subjects.push(subject);
        stage.end()?;
    }
    Ok((report, is_good))
}

fn keep(args: &HoldArgs, stage: &mut Stage, time: Duration) -> anyhow::Result<HoldReport> {
    let tunnels = stage.engine.members();
    let (begun, cpu) = (monotonic_ns(), stage.cpu_ns()?);
    let keepalives = stage.engine.keepalives();
    let mut line = Line::new(args.setting.quiet);
    let title = stage.title();
    let mut left = time;
    while !left.is_zero() {
        let nap = left.min(NAP);
        settle(&mut stage.engine, nap)?;
        left = left.saturating_sub(nap);
        let engine = &stage.engine;
        line.show(|| {
            let (alive, sent) = (engine.alive(tunnels), engine.keepalives() - keepalives);
            format!(
                "{title}: {alive} of {tunnels} held, {sent} keepalives, {} s left",
                left.as_secs()
            )
        });
    }
    let seconds = (monotonic_ns() - begun) as f64 / 1e9;
    let used = stage
        .cpu_ns()?
        .zip(cpu)
        .map(|(after, before)| after - before);
    let memory = stage.memory();
    let own = crate::system::memory(std::process::id()).ok();
    Ok(HoldReport {
        seconds,
        alive: stage.engine.alive(tunnels),
        suspended: stage.engine.counters().suspended,
        resumed: stage.engine.counters().resumed,
        keepalives: stage.engine.keepalives() - keepalives,
        server_busy: used.map(|ns| ns as f64 / 1e9 / seconds),
        server_memory_kib: memory,
        generator_memory_kib_each: own.map(|kib| kib as f64 / f64::from(tunnels)),
    })
}
