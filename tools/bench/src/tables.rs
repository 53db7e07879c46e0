//! The tables, made of results.

use std::fmt::Write as _;

use tsc_load::report::{Spread, Times};

use crate::results::{Results, at};
use crate::suite::TRANSPORTS;

/// Our name in reports.
const OURS: &str = "tsc-server";

/// One line of the table of paths: where our figure and the others' come from, and what is wanted.
pub struct PathRow {
    /// What it is.
    pub label: &'static str,
    /// Where our figure is.
    pub section: &'static str,
    /// What must be reached, and what we aim at, as a ratio to the UDP relay.
    pub must: f64,
    /// See `must`.
    pub aim: f64,
    /// Others on the same way: section, subject, and what they are called.
    pub others: &'static [(&'static str, &'static str, &'static str)],
}

/// The first table of the issue. What is wanted of trunks are the limits of a machine like the reference one.
pub const PATHS: [PathRow; 10] = [
    PathRow {
        label: "UDP tunnel",
        section: "udp",
        must: 1.0,
        aim: 1.15,
        others: &[
            ("relays-gso", "relay-gso", "relay with GSO"),
            ("peer-coturn-udp", "coturn-udp", "coturn"),
        ],
    },
    PathRow {
        label: "TCP tunnel",
        section: "tcp",
        must: 0.9,
        aim: 1.0,
        others: &[
            ("relays-stream", "relay-tcp", "framed TCP relay"),
            ("peer-coturn-tcp", "coturn-tcp", "coturn"),
        ],
    },
    PathRow {
        label: "TLS tunnel",
        section: "tls",
        must: 0.7,
        aim: 0.8,
        others: &[
            ("relays-stream", "relay-tls", "TLS relay"),
            ("peer-coturn-tls", "coturn-tls", "coturn"),
            ("peer-stunnel", "stunnel", "stunnel"),
        ],
    },
    PathRow {
        label: "DTLS tunnel",
        section: "dtls",
        must: 0.7,
        aim: 0.9,
        others: &[
            ("dimpl", OURS, "ours with dimpl"),
            ("peer-coturn-dtls", "coturn-dtls", "coturn"),
            ("peer-openvpn", "openvpn", "OpenVPN"),
            ("peer-boringtun", "boringtun", "boringtun"),
        ],
    },
    PathRow {
        label: "UDP tunnel to TUN egress",
        section: "tun-udp",
        must: 0.95,
        aim: 1.1,
        others: &[
            ("peer-boringtun", "boringtun", "boringtun"),
            ("peer-wireguard-go", "wireguard-go", "wireguard-go"),
        ],
    },
    PathRow {
        label: "DTLS tunnel to TUN egress",
        section: "tun-dtls",
        must: 0.75,
        aim: 0.9,
        others: &[
            ("peer-boringtun", "boringtun", "boringtun"),
            ("peer-openvpn", "openvpn", "OpenVPN"),
        ],
    },
    PathRow {
        label: "One UDP tunnel carrying all",
        section: "trunk-udp",
        must: 1.2,
        aim: 1.44,
        others: &[
            ("trunk-relays", "relay-gso", "relay with GSO"),
            (
                "trunk-gso-udp",
                OURS,
                "ours where the client's packets come as trains",
            ),
        ],
    },
    PathRow {
        label: "One TCP tunnel carrying all",
        section: "trunk-tcp",
        must: 1.5,
        aim: 1.8,
        others: &[("trunk-relays", "relay-tcp", "framed TCP relay")],
    },
    PathRow {
        label: "One TLS tunnel carrying all",
        section: "trunk-tls",
        must: 1.3,
        aim: 1.5,
        others: &[("trunk-relays", "relay-tls", "TLS relay")],
    },
    PathRow {
        label: "One DTLS tunnel carrying all",
        section: "trunk-dtls",
        must: 0.75,
        aim: 0.79,
        others: &[
            ("peer-boringtun", "boringtun", "boringtun"),
            (
                "trunk-gso-dtls",
                OURS,
                "ours where the client's packets come as trains",
            ),
        ],
    },
];

/// Set-ups per processor second that must be reached, by transport.
pub const SET_UPS: [f64; 4] = [50_000.0, 30_000.0, 4000.0, 2500.0];

/// KiB that an idle tunnel may cost.
pub const MEMORY: [f64; 4] = [1.0, 3.0, 10.0, 45.0];

/// Bytes that a tunnel may add to a packet: no less is possible.
pub const ADDED: [f64; 4] = [28.0, 40.0, 62.0, 65.0];

/// How many times the relay's round trip a tunnel's may be.
const ROUND_TRIP: f64 = 1.1;

/// How many times as much a packet may cost with many tunnels.
const GROWTH: f64 = 1.15;

/// A number, or a dash.
fn show(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

/// Thousands with a comma.
#[must_use]
pub fn thousands(value: f64) -> String {
    let text = format!("{value:.0}");
    let mut grouped = String::new();
    for (at, digit) in text.chars().enumerate() {
        if at > 0 && (text.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn verdict(is_reached: Option<bool>) -> &'static str {
    match is_reached {
        Some(true) => "yes",
        Some(false) => "**no**",
        None => "-",
    }
}

/// The table of paths.
#[must_use]
pub fn paths(results: &Results) -> String {
    let mut text = "\
| path | thousand packets per CPU second | ratio | must reach | aim | reached | others in the same run |
| --- | --- | --- | --- | --- | --- | --- |
"
    .to_owned();
    for row in &PATHS {
        let load = results.load(row.section, OURS, "max");
        let spread = load.and_then(|load| load.per_cpu_second);
        let cost = spread.map_or_else(
            || "-".to_owned(),
            |spread| {
                let [median, low, high] =
                    [spread.median, spread.low, spread.high].map(|value| value / 1000.0);
                format!("{median:.0} [{low:.0}-{high:.0}]")
            },
        );
        let ratio = results.ratio(row.section, OURS);
        let reached = ratio.map(|ratio| {
            // As it is shown.
            let ratio = (ratio * 100.0).round() / 100.0;
            if ratio >= row.aim {
                "aim"
            } else {
                verdict(Some(ratio >= row.must))
            }
        });
        let others: Vec<_> = row
            .others
            .iter()
            .filter_map(|(section, name, label)| {
                Some(format!("{label} {:.2}", results.ratio(section, name)?))
            })
            .collect();
        let _infallible = writeln!(
            text,
            "| {} | {cost} | {} | {:.2} | {:.2} | {} | {} |",
            row.label,
            show(ratio, 2),
            row.must,
            row.aim,
            reached.unwrap_or("-"),
            others.join(", "),
        );
    }
    text
}

/// A line of the table of other figures.
fn line(
    text: &mut String,
    what: &str,
    ours: &str,
    must: &str,
    reached: Option<bool>,
    others: &str,
) {
    let _infallible = writeln!(
        text,
        "| {what} | {ours} | {must} | {} | {others} |",
        verdict(reached)
    );
}

/// The table of other figures.
#[must_use]
pub fn others(results: &Results) -> String {
    let mut text = "\
| figure | ours | must reach | reached | others in the same run |
| --- | --- | --- | --- | --- |
"
    .to_owned();
    for (at, transport) in TRANSPORTS.iter().enumerate() {
        let must = SET_UPS.get(at).copied().unwrap_or_default();
        let ours = set_ups(results, &format!("setup-{transport}"), OURS);
        let mut others = peer(results, transport, set_ups, 0);
        if *transport == "dtls" {
            let dimpl = set_ups(results, "setup-dimpl", OURS);
            others.extend(dimpl.map(|value| format!("ours with dimpl {}", thousands(value))));
        }
        if *transport == "tls" {
            let stunnel = set_ups(results, "peer-setup-stunnel", "stunnel");
            others.extend(stunnel.map(|value| format!("stunnel {}", thousands(value))));
        }
        line(
            &mut text,
            &format!("set-ups per CPU second, {transport}"),
            &ours.map_or_else(|| "-".to_owned(), thousands),
            &thousands(must),
            ours.map(|value| value >= must),
            &others.join(", "),
        );
    }
    for (at, transport) in TRANSPORTS.iter().enumerate() {
        let must = MEMORY.get(at).copied().unwrap_or_default();
        let ours = memory(results, &format!("setup-{transport}"), OURS);
        let mut others = peer(results, transport, memory, 0);
        if *transport == "dtls" {
            let dimpl = memory(results, "setup-dimpl", OURS);
            others.extend(dimpl.map(|value| format!("ours with dimpl {value:.1}")));
        }
        if *transport == "tls" {
            let stunnel = memory(results, "peer-setup-stunnel", "stunnel");
            others.extend(stunnel.map(|value| format!("stunnel {value:.0}")));
        }
        line(
            &mut text,
            &format!("KiB for each idle tunnel (PSS), {transport}"),
            &show(ours, 1),
            &format!("{must:.0}"),
            ours.map(|value| (value * 10.0).round() / 10.0 <= must),
            &others.join(", "),
        );
    }
    for transport in TRANSPORTS {
        round_trip(results, transport, false, &mut text);
        round_trip(results, transport, true, &mut text);
    }
    for (at, transport) in TRANSPORTS.iter().enumerate() {
        let must = ADDED.get(at).copied().unwrap_or_default();
        let ours = added(results, &format!("wire-{transport}"), OURS);
        let others: Vec<_> = match *transport {
            "udp" => vec!["coturn-udp", "wireguard-go", "boringtun"],
            "tcp" => vec!["coturn-tcp"],
            "tls" => vec!["coturn-tls", "stunnel"],
            _ => vec!["coturn-dtls", "openvpn"],
        };
        let others: Vec<_> = others
            .iter()
            .filter_map(|name| {
                let value = added(results, &format!("peer-wire-{name}"), name)?;
                Some(format!("{name} {}", show_added(value)))
            })
            .collect();
        line(
            &mut text,
            &format!("bytes added to a packet of 200 bytes, {transport}"),
            &ours.map_or_else(|| "-".to_owned(), show_added),
            &format!("{must:.0}"),
            ours.map(|(bytes, _)| bytes < must + 0.7),
            &others.join(", "),
        );
    }
    for transport in ["udp", "tls"] {
        growth(results, transport, &mut text);
    }
    for transport in ["udp", "tls"] {
        held(results, transport, &mut text);
    }
    text
}

/// Coturn's figure over a transport.
fn peer(
    results: &Results,
    transport: &str,
    figure: fn(&Results, &str, &str) -> Option<f64>,
    digits: usize,
) -> Vec<String> {
    let name = format!("coturn-{transport}");
    let value = figure(results, &format!("peer-setup-{name}"), &name);
    let shown = |value: f64| match digits {
        0 => thousands(value),
        _ => format!("{value:.digits$}"),
    };
    value
        .map(|value| format!("coturn {}", shown(value)))
        .into_iter()
        .collect()
}

/// Set-ups per processor second: the median of the runs.
#[must_use]
pub fn set_ups(results: &Results, section: &str, name: &str) -> Option<f64> {
    let subjects = results.all(section, name);
    median(subjects.filter_map(|subject| subject.set_up.per_cpu_second))
}

/// KiB of each session: the median of the runs.
#[must_use]
pub fn memory(results: &Results, section: &str, name: &str) -> Option<f64> {
    let subjects = results.all(section, name);
    median(subjects.filter_map(|subject| subject.set_up.memory_kib))
}

/// Bytes added to each packet, and packets besides.
fn added(results: &Results, section: &str, name: &str) -> Option<(f64, f64)> {
    let load = results.subject(section, name)?.loads.first()?;
    Some((load.added_bytes?, load.added_packets?))
}

/// For people.
fn show_added((bytes, packets): (f64, f64)) -> String {
    // Fewer are keepalives, or packets on their way when counting began.
    if packets < 0.05 {
        format!("{bytes:.1}")
    } else {
        format!("{bytes:.1} and {packets:.1} acknowledgements")
    }
}

/// Medians of several runs, in each of which the relay was measured just before. With busy polling or without.
fn round_trip(results: &Results, transport: &str, polls: bool, text: &mut String) {
    let (section, how) = match polls {
        false => (format!("latency-{transport}"), ""),
        true => (format!("latency-poll-{transport}"), ", `busy-poll = 50`"),
    };
    let times = |name| -> Vec<Times> {
        let subjects = results.all(&section, name);
        subjects
            .filter_map(|subject| at(subject, "5000")?.round_trip_us)
            .collect()
    };
    let (ours, relay) = (times(OURS), times("relay-udp"));
    let figures: [fn(&Times) -> f64; 2] = [|times| times.p50 as f64, |times| times.p99 as f64];
    let shown = |times: &[Times]| {
        let [p50, p99] = figures.map(|figure| show(median(times.iter().map(figure)), 0));
        format!("{p50} / {p99}")
    };
    let [p50, p99] = figures.map(|figure| {
        let ratios = ours
            .iter()
            .zip(&relay)
            .map(|(ours, relay)| figure(ours) / figure(relay));
        // As they are shown.
        median(ratios).map(|ratio| (ratio * 100.0).round() / 100.0)
    });
    let mut others = vec![format!("relay {}", shown(&relay))];
    let name = format!("coturn-{transport}");
    let coturn = results
        .load(&format!("peer-{name}"), &name, "5000")
        .filter(|_| !polls);
    if let Some(times) = coturn.and_then(|load| load.round_trip_us) {
        others.push(format!("coturn {} / {}", times.p50, times.p99));
    }
    let figures = match ours.len() {
        0 => "-".to_owned(),
        _ => format!(
            "{}: {} / {} of the relay",
            shown(&ours),
            show(p50, 2),
            show(p99, 2)
        ),
    };
    line(
        text,
        &format!("round trip p50 / p99 at 5,000 packets/s into the core, us, {transport}{how}"),
        &figures,
        &format!("{ROUND_TRIP} of the relay"),
        p50.zip(p99)
            .map(|(p50, p99)| p50 <= ROUND_TRIP && p99 <= ROUND_TRIP),
        &others.join(", "),
    );
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    Some(Spread::of(values)?.median)
}

fn growth(results: &Results, transport: &str, text: &mut String) {
    let section = format!("growth-{transport}");
    let few = results.first(&section, OURS);
    let many = results.subject(&section, OURS);
    let factors: Vec<_> = ["20000", "50000"]
        .iter()
        .filter_map(|rate| {
            let cost = |subject| Some(at(subject, rate)?.per_cpu_second?.median);
            Some(cost(few?)? / cost(many?)?)
        })
        .collect();
    let shown: Vec<_> = factors
        .iter()
        .map(|factor| format!("{factor:.2}"))
        .collect();
    let tunnels = many.map_or_else(
        || "many".to_owned(),
        |subject| thousands(f64::from(subject.tunnels)),
    );
    line(
        text,
        &format!(
            "cost of a packet with {tunnels} {transport} tunnels, beside that with 100, at 20,000 and 50,000 packets/s"
        ),
        &shown.join(", "),
        &format!("{GROWTH}"),
        // As it is shown. At the higher rate few tunnels have what many cannot have: packets for the same tunnel in a turn.
        factors
            .first()
            .map(|factor| (factor * 100.0).round() / 100.0 <= GROWTH),
        "judged at 20,000: at 50,000 packets of the hundred share trains",
    );
}

fn held(results: &Results, transport: &str, text: &mut String) {
    let goal = if transport == "udp" { 100_000 } else { 20_000 };
    let section = format!("held-{transport}");
    let subject = results.subject(&section, OURS);
    let held = subject.and_then(|subject| Some((subject, subject.hold.as_ref()?)));
    let (mut ours, mut reached, mut note) = ("-".to_owned(), None, String::new());
    if let Some((subject, hold)) = held {
        ours = format!(
            "{} of {} for {:.0} s, {} keepalives, server busy {:.3}, {:.0} MiB",
            thousands(f64::from(hold.alive)),
            thousands(f64::from(subject.tunnels)),
            hold.seconds,
            thousands(hold.keepalives as f64),
            hold.server_busy.unwrap_or_default(),
            hold.server_memory_kib.unwrap_or_default() as f64 / 1024.0,
        );
        let is_whole = hold.alive == subject.tunnels;
        reached = Some(is_whole && subject.tunnels >= goal);
        if is_whole && subject.tunnels < goal {
            let limit = results.0.get(&section).map(|one| one.host.descriptors);
            note = format!(
                "as many as {} descriptors allow each process",
                thousands(limit.unwrap_or_default() as f64)
            );
            reached = None;
        }
    }
    line(
        text,
        &format!("held with keepalives, {transport}"),
        &ours,
        &thousands(f64::from(goal)),
        reached,
        &note,
    );
}

/// Every subject that was measured at the limit.
#[must_use]
pub fn everything(results: &Results) -> String {
    let mut text = "\
| section | subject | packets/s at the limit | thousand per CPU second | ratio | round trip p50 / p99 there, us | server / generator busy |
| --- | --- | --- | --- | --- | --- | --- |
"
    .to_owned();
    for (section, result) in &results.0 {
        for subject in result.reports.iter().flat_map(|report| &report.subjects) {
            let Some(load) = at(subject, "max") else {
                continue;
            };
            let times = load.round_trip_us;
            let _infallible = writeln!(
                text,
                "| {section} | {} | {} | {} | {} | {} | {} / {:.2} |",
                subject.subject,
                thousands(load.relayed_per_second.median),
                show(load.per_cpu_second.map(|spread| spread.median / 1000.0), 0),
                show(load.ratio, 2),
                times.map_or_else(
                    || "-".to_owned(),
                    |times| format!("{} / {}", times.p50, times.p99)
                ),
                show(load.server_busy, 2),
                load.generator_busy,
            );
        }
    }
    text
}

/// Overload and forged traffic.
#[must_use]
pub fn trouble(results: &Results) -> String {
    let mut text = String::new();
    for transport in TRANSPORTS {
        let subject = results.subject(&format!("overload-{transport}"), OURS);
        let Some((subject, overload)) = subject.and_then(|one| Some((one, one.overload.as_ref()?)))
        else {
            continue;
        };
        let _infallible = writeln!(
            text,
            "- Overload, {transport}: {} packets/s offered, {:.1} times the capacity of {}; {:.2} of it passed on in all, a second [{}-{}]; {} of {} tunnels alive; {} newcomers, {} answers busy; {} MiB at most; recovered after {} s.",
            thousands(overload.offered_per_second.median),
            overload.offered_per_second.median / (overload.capacity_per_second as f64).max(1.0),
            thousands(overload.capacity_per_second as f64),
            overload.share,
            thousands(overload.goodput_per_second.low),
            thousands(overload.goodput_per_second.high),
            overload.alive,
            subject.tunnels.saturating_sub(overload.newcomers),
            overload.newcomers,
            overload.newcomers_told_busy,
            overload.memory_kib.unwrap_or_default() / 1024,
            show(overload.recovery_seconds, 1),
        );
    }
    for transport in ["udp", "dtls"] {
        let subject = results.subject(&format!("hostile-{transport}"), OURS);
        for attack in subject.iter().flat_map(|subject| &subject.attacks) {
            let _infallible = writeln!(
                text,
                "- Forged {} at {} packets/s beside {transport} calls: {:.3} % more loss of calls, {} us more at p99, {:.2} bytes answered for each.",
                attack.attack,
                thousands(attack.per_second),
                attack.added_loss * 100.0,
                attack
                    .added_p99_us
                    .map_or_else(|| "-".to_owned(), |us| us.to_string()),
                attack.amplification,
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        let shown: Vec<_> = [0.0, 999.0, 1000.0, 1_234_567.0].map(thousands).into();
        assert_eq!(shown, ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn tables_without_results_have_all_rows() {
        let results = Results::default();
        assert_eq!(paths(&results).lines().count(), 2 + PATHS.len());
        assert_eq!(others(&results).lines().count(), 2 + 4 * 5 + 2 + 2);
        assert_eq!(everything(&results).lines().count(), 2);
        assert!(trouble(&results).is_empty());
    }
}
