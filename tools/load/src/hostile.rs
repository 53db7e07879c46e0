//! `tsc-load hostile`: calls beside forged traffic.

use anyhow::Context as _;
use tsc_csm::Transport;

use crate::attack::Attacker;
use crate::bench::{Bench, Load, Measured};
use crate::cli::HostileArgs;
use crate::clients::call_each_other;
use crate::clock::monotonic_ns;
use crate::host::Host;
use crate::progress::Line;
use crate::report::{AttackReport, LoadReport, Report, SubjectReport};
use crate::run::describe;
use crate::stage::Stage;

/// Measures calls alone, then beside each attack; whether these cost them no more than the limits say.
///
/// # Errors
///
/// What went wrong.
pub fn hostile(args: &HostileArgs) -> anyhow::Result<(Report, bool)> {
    let setting = &args.setting;
    let host = Host::prepare(setting, setting.tunnels)?;
    let mut report = Report {
        notes: host.notes.clone(),
        ..Report::default()
    };
    let mut is_good = true;
    for transport in &setting.transport {
        let transport = Transport::from(*transport);
        let tunnels = setting.tunnels;
        let mut stage =
            Stage::server(setting, &host, transport, tunnels, tunnels, args.size, true)?;
        let (loads, attacks) = one(args, &mut stage)?;
        is_good &= attacks.iter().all(|attack| {
            attack.added_loss <= args.measure.loss_limit
                && attack
                    .added_p99_us
                    .is_some_and(|us| us <= i64::from(args.added_delay_limit) * 1000)
        });
        let mut subject = SubjectReport::of(&stage, args.size, loads);
        subject.attacks = attacks;
        report.subjects.push(subject);
        stage.end()?;
    }
    Ok((report, is_good))
}

fn one(
    args: &HostileArgs,
    stage: &mut Stage,
) -> anyhow::Result<(Vec<LoadReport>, Vec<AttackReport>)> {
    let target = stage.datagrams;
    let target = target.context("the server has no port for datagrams to be attacked")?;
    let tunnels = args.setting.tunnels;
    call_each_other(&mut stage.engine, tunnels, tunnels, false)?;
    let title = stage.title();
    let line = Line::new(args.setting.quiet);
    let load = Load::Rate(args.rate);
    let measure = |stage: &mut Stage, name: &str| -> anyhow::Result<LoadReport> {
        let title = format!("{title}, {name}");
        let mut progress = |measured: &Measured| line.set(&describe(&title, measured));
        let mut bench = Bench {
            engine: &mut stage.engine,
            clock: stage.clock,
            wire: &stage.wire,
            method: args.measure.method(),
            progress: &mut progress,
        };
        let windows = bench.windows(load)?;
        LoadReport::of(name, None, &windows).context("no windows")
    };
    let calm = measure(stage, "calm")?;
    let p99 = |load: &LoadReport| {
        let times = load.round_trip_us.map(|times| times.p99);
        times.and_then(|us| i64::try_from(us).ok())
    };
    let (calm_loss, calm_p99) = (calm.loss, p99(&calm));
    let mut loads = vec![calm];
    let mut attacks = Vec::new();
    for attack in &args.attack {
        let attacker = Attacker::new(*attack, target, monotonic_ns(), args.attack_rate)?;
        stage.engine.set_attacker(Some(attacker));
        let (begun, before) = (monotonic_ns(), stage.cpu_ns()?);
        let load = measure(stage, attack.name())?;
        let seconds = (monotonic_ns() - begun) as f64 / 1e9;
        let after = stage.cpu_ns()?;
        let damage = stage.engine.set_attacker(None);
        let damage = damage.map(|attacker| attacker.damage()).unwrap_or_default();
        attacks.push(AttackReport {
            attack: attack.name().to_owned(),
            per_second: damage.sent as f64 / seconds,
            answers_per_second: damage.answers as f64 / seconds,
            amplification: damage.answer_bytes as f64 / (damage.sent_bytes as f64).max(1.0),
            added_loss: load.loss - calm_loss,
            added_p99_us: p99(&load).zip(calm_p99).map(|(now, calm)| now - calm),
            server_busy: after
                .zip(before)
                .map(|(after, before)| (after - before) as f64 / 1e9 / seconds),
        });
        loads.push(load);
    }
    Ok((loads, attacks))
}
