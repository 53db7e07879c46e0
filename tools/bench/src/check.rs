//! The short form for every change: nothing is lost at a moderate rate, and a packet costs about the same among a thousand tunnels as
//! among two. Shape only: no figure here depends on how fast the machine is.
//!
//! A shared machine stands still now and then, so a measurement that is bad is made again, `TRIES` times in all. That hides
//! no defect: a server that loses one packet in a thousand loses some in nearly every window of [`PACKETS`], and a
//! cost that grows with the tunnels grows each time. What does not work at all fails at once.

use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use tsc_load::report::SubjectReport;

use crate::results::report;
use crate::suite::TRANSPORTS;

/// How often a measurement is made before its result is believed to be bad.
const TRIES: usize = 3;

/// Packets a second each way.
const RATE: u32 = 2500;

/// Requests in a window.
pub const PACKETS: u32 = RATE * 2;

/// Tunnels, when there are few and when there are many.
const TUNNELS: [u32; 2] = [2, 1000];

/// How many times as much a packet may cost among many tunnels.
const FACTOR: f64 = 2.5;

/// A run may take so many seconds.
const LIMIT: u32 = 60;

/// Checks all transports; whether all was well. `told` gets a line for each.
///
/// # Errors
///
/// Something does not work at all.
pub fn check(load: &Path, told: &mut dyn FnMut(&str)) -> anyhow::Result<bool> {
    let mut is_good = true;
    for transport in TRANSPORTS {
        is_good &= check_transport(load, transport, told).context(transport)?;
    }
    Ok(is_good)
}

fn check_transport(
    load: &Path,
    transport: &str,
    told: &mut dyn FnMut(&str),
) -> anyhow::Result<bool> {
    let mut lost = Vec::new();
    let mut factors = Vec::new();
    for _ in 0..TRIES {
        let [few, many] = TUNNELS.map(|tunnels| measure(load, transport, tunnels));
        let (few, many) = (few?, many?);
        lost.push(few.lost + many.lost);
        factors.push(many.cost / few.cost);
        let is_flat = factors.iter().any(|factor| *factor <= FACTOR);
        if lost.contains(&0) && is_flat {
            break;
        }
    }
    let is_complete = lost.contains(&0);
    let is_flat = factors.iter().any(|factor| *factor <= FACTOR);
    let [few, many] = TUNNELS;
    let shown: Vec<_> = factors
        .iter()
        .map(|factor| format!("{factor:.2}"))
        .collect();
    told(&format!(
        "{transport}: lost {lost:?} of {} in each try; a packet among {many} tunnels costs {} times that among {few}{}{}",
        2 * PACKETS,
        shown.join(", "),
        if is_complete { "" } else { ": LOSS" },
        if is_flat { "" } else { ": NOT FLAT" },
    ));
    Ok(is_complete && is_flat)
}

struct Outcome {
    lost: u64,
    /// Processor time of the server for each packet; only the ratio of two is of interest.
    cost: f64,
}

fn measure(load: &Path, transport: &str, tunnels: u32) -> anyhow::Result<Outcome> {
    let seconds = PACKETS / RATE;
    let mut line = format!(
        "run --spawn-server --transport {transport} --tunnels {tunnels} --calls {tunnels} --rate {RATE} \
         --windows 1 --window {seconds} --drain 2 --quiet"
    );
    // Whoever may, lets pauses of the machine not overflow sockets.
    if is_root() {
        line.push_str(" --host-buffers 4194304");
    }
    let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
    let report = report(load, &words, LIMIT)?;
    let subject = report.subjects.first().context("nothing was measured")?;
    outcome(subject, tunnels)
}

/// Whether this process is root's.
fn is_root() -> bool {
    std::fs::metadata("/proc/self")
        .is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0)
}

/// What counts; what cannot come of a slow machine is an error.
fn outcome(subject: &SubjectReport, tunnels: u32) -> anyhow::Result<Outcome> {
    let up = subject.set_up.clients;
    ensure!(
        up == u64::from(tunnels),
        "{up} of {tunnels} tunnels came up"
    );
    ensure!(
        subject.suspended == 0,
        "{} tunnels were lost",
        subject.suspended
    );
    ensure!(
        subject.strangers == 0,
        "{} packets of nobody",
        subject.strangers
    );
    let load = subject.loads.first().context("no load")?;
    ensure!(
        load.duplicates == 0,
        "{} packets came twice",
        load.duplicates
    );
    if load.lost == load.sent {
        bail!("all {} packets were lost", load.sent);
    }
    let cost = load
        .per_cpu_second
        .context("the server's time is not known")?;
    Ok(Outcome {
        lost: load.lost,
        cost: 1.0 / cost.median,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use serde_json::{Value, json};

    use super::*;

    fn subject(change: impl FnOnce(&mut Value)) -> SubjectReport {
        let spread = json!({"median": 50.0, "low": 50.0, "high": 50.0});
        let mut value = json!({
            "subject": "tsc-server", "transport": "udp", "tunnels": 2, "calls": 2, "packet_bytes": 200,
            "set_up": {
                "clients": 2, "seconds": 1.0, "per_second": 2.0, "per_cpu_second": 9.0,
                "failed_attempts": 0, "time_us": null, "memory_kib": null,
            },
            "loads": [{
                "load": "2500", "offered_per_second": 2500, "greatest_per_second": null, "windows": 1,
                "relayed_per_second": spread, "per_cpu_second": spread, "ratio": null, "sent": 100, "lost": 3,
                "loss": 0.03, "loss_of_windows": [0.03], "unsent": 0, "duplicates": 0, "reordered": 0,
                "round_trip_us": null, "up_us": null, "down_us": null, "late_us": null, "server_busy": null,
                "generator_busy": 0.1,
            }],
            "suspended": 0, "strangers": 0,
        });
        change(&mut value);
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn loss_may_be_tried_again_and_nothing_else() {
        let outcome = |subject: &SubjectReport| outcome(subject, 2);
        assert_eq!(outcome(&subject(|_| {})).unwrap().lost, 3);
        let bad: [fn(&mut Value); 5] = [
            |value| value["set_up"]["clients"] = 1.into(),
            |value| value["suspended"] = 1.into(),
            |value| value["strangers"] = 1.into(),
            |value| value["loads"][0]["duplicates"] = 1.into(),
            |value| value["loads"][0]["lost"] = 100.into(),
        ];
        for change in bad {
            assert!(outcome(&subject(change)).is_err());
        }
    }
}
