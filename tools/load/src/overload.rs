//! `tsc-load overload`: more than the server can do, newcomers meanwhile, and how it comes back.

use std::io;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tsc_csm::Transport;

use crate::cli::OverloadArgs;
use crate::clients::call_around;
use crate::clock::monotonic_ns;
use crate::host::Host;
use crate::pacing::Schedule;
use crate::progress::Line;
use crate::report::{OverloadReport, Report, Spread, SubjectReport};
use crate::stage::Stage;
use crate::system::Rivals;

use crate::traffic::Pace;

/// Goodput is looked at in slices like these ...
const SLICE: Duration = Duration::from_secs(1);

/// ... and recovery in these.
const RECOVERY_SLICE: Duration = Duration::from_millis(50);

/// While the capacity is looked for so much more is offered step by step, from ...
const STEP: [u64; 2] = [5, 4];

/// ... this rate on.
const FIRST_RATE: u64 = 20_000;

/// Until in so many steps no more comes through.
const STEPS_WITHOUT_GAIN: u32 = 3;

/// For so many seconds it is measured at the best of those rates.
const SECONDS_AT_BEST: u64 = 5;

/// A step goes on for a moment before it is measured.
const SETTLE: Duration = Duration::from_millis(300);

/// The server is overloaded if it is offered so many times its capacity.
const OVERLOADED: f64 = 1.5;

/// Rivals for the server's processor where the generator has as much to do as the server.
const RIVALS: u32 = 2;

/// After the overload this part of what was carried before is offered.
const AFTERWARDS: u64 = 2;

/// A rate is carried if so much of it comes through.
const CARRIED: f64 = 0.98;

/// Recovery is waited for so long.
const PATIENCE: Duration = Duration::from_secs(20);

/// Overloads a server; whether it was overloaded, and kept what the limits say: goodput at least 90 % of capacity, no tunnel
/// lost, recovered within 2 s.
///
/// # Errors
///
/// What went wrong.
pub fn overload(args: &OverloadArgs) -> anyhow::Result<(Report, bool)> {
    let setting = &args.setting;
    let clients = setting.tunnels + args.newcomers;
    let host = Host::prepare(setting, clients)?;
    let mut report = Report {
        notes: host.notes.clone(),
        ..Report::default()
    };
    let mut is_good = true;
    for transport in &setting.transport {
        let transport = Transport::from(*transport);
        let (open, size) = (setting.tunnels, args.size);
        let rivals = args.rivals.unwrap_or_else(|| {
            if transport == Transport::Udp {
                0
            } else {
                RIVALS
            }
        });
        let mut stage = Stage::server(setting, &host, transport, clients, open, size, false)?;
        let rivals = Rivals::start(rivals, host.cores.server)?;
        let result = one(args, &mut stage)?;
        drop(rivals);
        is_good &= result.offered_per_second.median
            >= OVERLOADED * result.capacity_per_second as f64
            && result.share >= 0.9
            && result.alive == setting.tunnels
            && result
                .recovery_seconds
                .is_some_and(|seconds| seconds <= 2.0);
        let mut subject = SubjectReport::of(&stage, size, Vec::new());
        subject.overload = Some(result);
        report.subjects.push(subject);
        stage.end()?;
    }
    Ok((report, is_good))
}

fn one(args: &OverloadArgs, stage: &mut Stage) -> anyhow::Result<OverloadReport> {
    let tunnels = args.setting.tunnels;
    let title = stage.title();
    let mut line = Line::new(args.setting.quiet);
    call_around(&mut stage.engine, tunnels, args.fan)?;
    stage.engine.allow_trains();
    // One way the generator can offer more than the server can take.
    stage.engine.traffic.set_one_way(true);
    let capacity = match args.capacity {
        Some(rate) => Capacity {
            most: rate,
            carried: rate,
        },
        None => capacity(stage, |rate, slice| {
            line.show(|| {
                format!(
                    "{title}: {rate} offered/s, {:.0} passed on/s",
                    slice.arrived
                )
            });
        })?,
    };
    let (carried, capacity) = (capacity.carried, capacity.most);
    ensure!(
        carried > 0,
        "{title}: not even {FIRST_RATE} packets a second come through"
    );
    let (before, suspended) = (stage.engine.counters(), stage.engine.counters().suspended);
    let mut newcomers = tunnels..tunnels + args.newcomers;
    let per_slice = u32::try_from(args.time.as_secs()).unwrap_or(1).max(1);
    let per_slice = args.newcomers.div_ceil(per_slice);
    let mut memory = stage.memory();
    let mut goodput = Vec::new();
    let mut offered = Vec::new();
    let mut lost = 0;
    let rate = capacity.saturating_mul(args.factor);
    offer(stage, rate);
    let end = monotonic_ns() + nanos(args.time);
    while monotonic_ns() < end {
        for newcomer in newcomers.by_ref().take(per_slice as usize) {
            stage.engine.start(newcomer);
        }
        let slice = slice(stage, SLICE)?;
        goodput.push(slice.arrived);
        offered.push(slice.sent);
        lost += slice.lost;
        memory = memory.max(stage.memory());
        line.show(|| {
            format!(
                "{title}: {:.0} offered/s, {:.0} passed on/s",
                slice.sent, slice.arrived
            )
        });
    }
    // What is offered now is far less; how long until nothing of it is lost or late?
    offer(stage, carried / AFTERWARDS);
    let recovery_seconds = recover(args, stage)?;
    stage.engine.traffic.set_pace(Pace::Stopped);
    let after = stage.engine.counters();
    let mean = goodput.iter().sum::<f64>() / (goodput.len() as f64).max(1.0);
    let goodput = Spread::of(goodput).context("the time is too short")?;
    Ok(OverloadReport {
        capacity_per_second: capacity,
        offered_per_second: Spread::of(offered).context("the time is too short")?,
        goodput_per_second: goodput,
        share: mean / capacity as f64,
        lost,
        alive: stage.engine.alive(tunnels),
        suspended: after.suspended - suspended,
        newcomers: args.newcomers,
        newcomers_up: after.up - before.up,
        newcomers_told_busy: after.busy - before.busy,
        newcomers_failed_attempts: after.failed_attempts - before.failed_attempts,
        memory_kib: memory,
        recovery_seconds,
    })
}

/// What a server can do. Packets under more load share records and system calls, so it is not the same.
struct Capacity {
    /// The most packets a second that come through, whatever is lost.
    most: u64,
    /// The greatest rate that comes through.
    carried: u64,
}

/// More and more is offered until that makes no difference.
fn capacity(stage: &mut Stage, mut show: impl FnMut(u64, &Slice)) -> io::Result<Capacity> {
    let (mut best, mut rate, mut without_gain) = ((0, 0), FIRST_RATE, 0);
    let (mut carried, mut is_carried) = (0, true);
    while without_gain < STEPS_WITHOUT_GAIN {
        offer(stage, rate);
        slice(stage, SETTLE)?;
        let slice = slice(stage, SLICE)?;
        show(rate, &slice);
        is_carried &= slice.arrived >= CARRIED * rate as f64;
        if is_carried {
            carried = rate;
        }
        // In a second.
        without_gain = if slice.packets > best.0 {
            best = (slice.packets, rate);
            0
        } else {
            without_gain + 1
        };
        rate = rate * STEP[0] / STEP[1];
    }
    // The best of many seconds is better than most of them.
    offer(stage, best.1);
    let mut packets = 0;
    for _ in 0..SECONDS_AT_BEST {
        let slice = slice(stage, SLICE)?;
        show(best.1, &slice);
        packets += slice.packets;
    }
    Ok(Capacity {
        most: packets / SECONDS_AT_BEST,
        carried,
    })
}

/// From now on, so many packets a second.
fn offer(stage: &mut Stage, rate: u64) {
    let schedule = Schedule::new(monotonic_ns(), rate, 0);
    stage.engine.traffic.begin_window();
    stage.engine.traffic.set_pace(Pace::Open(schedule));
}

/// What went through a slice of time, a second.
struct Slice {
    sent: f64,
    arrived: f64,
    /// That arrived, and that did not.
    packets: u64,
    lost: u64,
}

fn slice(stage: &mut Stage, time: Duration) -> io::Result<Slice> {
    let engine = &mut stage.engine;
    let (begun, relayed) = (monotonic_ns(), engine.traffic.relayed());
    let sent = engine.traffic.window().sent;
    while monotonic_ns() - begun < nanos(time) {
        engine.turn(None)?;
    }
    let seconds = (monotonic_ns() - begun) as f64 / 1e9;
    // Also what a stream with too much waiting did not take.
    let sent = engine.traffic.window().sent - sent;
    let arrived = engine.traffic.relayed() - relayed;
    Ok(Slice {
        sent: sent as f64 / seconds,
        arrived: arrived as f64 / seconds,
        packets: arrived,
        lost: sent.saturating_sub(arrived),
    })
}

/// Seconds until the first slice in which next to nothing is lost or late.
fn recover(args: &OverloadArgs, stage: &mut Stage) -> io::Result<Option<f64>> {
    let begun = monotonic_ns();
    let limit_us = u64::from(args.delay_limit) * 1000;
    while monotonic_ns() - begun < nanos(PATIENCE) {
        let slice_begun = monotonic_ns();
        stage.engine.traffic.begin_window();
        while monotonic_ns() - slice_begun < nanos(RECOVERY_SLICE) {
            stage.engine.turn(None)?;
        }
        let window = stage.engine.traffic.window();
        // What was sent last is still under way.
        let under_way = window.sent / 5 + 1;
        let delay = window.delay().quantile_us(0.5);
        if window.lost() <= under_way && delay.is_some_and(|us| us < limit_us) {
            return Ok(Some((slice_begun - begun) as f64 / 1e9));
        }
    }
    Ok(None)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
