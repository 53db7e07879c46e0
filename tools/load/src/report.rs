//! Results for people and for programs.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::bench::{Load, Measured};
use crate::measure::{Latency, Window};
use crate::stage::Stage;

/// Median of several windows with the least and the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The least.
    pub low: f64,
    /// The greatest.
    pub high: f64,
}

impl Spread {
    /// Of some values; `None` if there are none.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<_> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Some(Self {
            median: *values.get(values.len() / 2)?,
            low: *values.first()?,
            high: *values.last()?,
        })
    }
}

/// Times in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// Half of all are below.
    pub p50: u64,
    /// 90 of 100 are below.
    pub p90: u64,
    /// 99 of 100 are below.
    pub p99: u64,
    /// 999 of 1000 are below.
    pub p999: u64,
    /// The longest.
    pub max: u64,
}

impl Times {
    /// Of a histogram; `None` if it is empty.
    #[must_use]
    pub fn of(latency: &Latency) -> Option<Self> {
        Some(Self {
            p50: latency.quantile_us(0.5)?,
            p90: latency.quantile_us(0.9)?,
            p99: latency.quantile_us(0.99)?,
            p999: latency.quantile_us(0.999)?,
            max: latency.max_us()?,
        })
    }
}

/// All windows at one load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoadReport {
    /// As it was asked for: a rate, `max` or `saturate`.
    pub load: String,
    /// Packets a second each way that were offered; absent in a closed loop.
    pub offered_per_second: Option<u64>,
    /// The greatest rate each way that was found, with `max`.
    pub greatest_per_second: Option<u64>,
    /// How many windows.
    pub windows: usize,
    /// Packets that were passed on a second, both ways.
    pub relayed_per_second: Spread,
    /// Packets that were passed on for each second of the processor that the system under test used.
    pub per_cpu_second: Option<Spread>,
    /// The same as a ratio to the UDP relay at the same load.
    pub ratio: Option<f64>,
    /// Requests sent.
    pub sent: u64,
    /// Requests whose echo did not come.
    pub lost: u64,
    /// The same as a share, 0 to 1.
    pub loss: f64,
    /// The share in each window.
    pub loss_of_windows: Vec<f64>,
    /// Of them, those that found no room at the generator.
    pub unsent: u64,
    /// Packets that came again.
    pub duplicates: u64,
    /// Packets that came after a newer one of their call.
    pub reordered: u64,
    /// From when a packet was due until it was back: median of all windows together.
    pub round_trip_us: Option<Times>,
    /// From when a packet was due until it was at the far end.
    pub up_us: Option<Times>,
    /// From the far end back.
    pub down_us: Option<Times>,
    /// How late the generator was.
    pub late_us: Option<Times>,
    /// Bytes that the tunnel adds to each packet on the wire; with `--own-network`.
    #[serde(default)]
    pub added_bytes: Option<f64>,
    /// Packets besides, for each: acknowledgements of TCP; with `--own-network`.
    #[serde(default)]
    pub added_packets: Option<f64>,
    /// Share of the time that the system under test was busy.
    pub server_busy: Option<f64>,
    /// Share of the time that the generator was busy; near 1 it was the limit.
    pub generator_busy: f64,
}

impl LoadReport {
    /// Sums windows up; `None` if there are none.
    #[must_use]
    pub fn of(load: &str, greatest: Option<u64>, windows: &[Measured]) -> Option<Self> {
        let mut all = Window::default();
        for one in windows {
            all.add(&one.window);
        }
        let median = |values: Vec<f64>| Spread::of(values).map(|spread| spread.median);
        Some(Self {
            load: load.to_owned(),
            offered_per_second: match windows.first()?.load {
                Load::Rate(rate) => Some(rate),
                Load::InFlight(_) => None,
            },
            greatest_per_second: greatest,
            windows: windows.len(),
            relayed_per_second: Spread::of(windows.iter().map(Measured::relayed_per_second))?,
            per_cpu_second: Spread::of(windows.iter().filter_map(Measured::per_cpu_second)),
            ratio: None,
            sent: all.sent,
            lost: all.lost(),
            loss: all.loss(),
            loss_of_windows: windows.iter().map(|one| one.window.loss()).collect(),
            unsent: all.unsent,
            duplicates: all.duplicates,
            reordered: all.reordered,
            round_trip_us: Times::of(&all.round_trip),
            up_us: Times::of(&all.up),
            down_us: Times::of(&all.down),
            late_us: Times::of(&all.late),
            added_bytes: None,
            added_packets: None,
            server_busy: median(windows.iter().filter_map(Measured::server_busy).collect()),
            generator_busy: median(windows.iter().map(|one| one.generator_busy).collect())?,
        })
    }
}

/// Setting clients up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SetUpReport {
    /// Clients that came up.
    pub clients: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Clients a second.
    pub per_second: f64,
    /// Clients for each second of the processor that the system under test used.
    pub per_cpu_second: Option<f64>,
    /// Attempts that failed and were made again.
    pub failed_attempts: u64,
    /// From the first attempt until the tunnel was there.
    pub time_us: Option<Times>,
    /// Memory of the system under test for each, in KiB (PSS).
    pub memory_kib: Option<f64>,
}

/// One system under test.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SubjectReport {
    /// `tsc-server`, or `relay-` and the kind of relay.
    pub subject: String,
    /// What its clients' packets travel over.
    pub transport: String,
    /// Clients.
    pub tunnels: u32,
    /// Calls.
    pub calls: u32,
    /// Bytes of an inner packet.
    pub packet_bytes: u16,
    /// Setting them up.
    pub set_up: SetUpReport,
    /// Each load.
    pub loads: Vec<LoadReport>,
    /// Keeping them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<HoldReport>,
    /// More than it can do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overload: Option<OverloadReport>,
    /// What forged traffic beside the calls did.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attacks: Vec<AttackReport>,
    /// Tunnels that lost their transport meanwhile.
    pub suspended: u64,
    /// Packets that were none of ours.
    pub strangers: u64,
}

/// Tunnels that are kept alive.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HoldReport {
    /// For how long.
    pub seconds: f64,
    /// Tunnels that can send at the end.
    pub alive: u32,
    /// Tunnels that lost their transport.
    pub suspended: u64,
    /// Tunnels that were resumed.
    pub resumed: u64,
    /// Keepalives that clients sent.
    pub keepalives: u64,
    /// Share of the time that the server was busy.
    pub server_busy: Option<f64>,
    /// Memory of the server in all, in KiB (PSS).
    pub server_memory_kib: Option<u64>,
    /// Memory of the generator for each tunnel, in KiB (PSS).
    pub generator_memory_kib_each: Option<f64>,
}

/// A server that is offered more than it can do. Packets go one way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OverloadReport {
    /// The most that it passes on, whatever is lost.
    pub capacity_per_second: u64,
    /// Packets that were sent a second.
    pub offered_per_second: Spread,
    /// Packets that arrived a second, in slices of a second.
    pub goodput_per_second: Spread,
    /// The goodput of all the time as a share of the capacity.
    pub share: f64,
    /// Packets that did not arrive.
    pub lost: u64,
    /// Established tunnels that can send at the end.
    pub alive: u32,
    /// Tunnels that lost their transport.
    pub suspended: u64,
    /// New tunnels that were asked for meanwhile.
    pub newcomers: u32,
    /// Of them, those that came up.
    pub newcomers_up: u64,
    /// Answers to them that said busy or no resources.
    pub newcomers_told_busy: u64,
    /// Attempts of theirs that failed for any reason.
    pub newcomers_failed_attempts: u64,
    /// The most memory that the server used, in KiB (PSS).
    pub memory_kib: Option<u64>,
    /// After the overload, until half of the greatest rate that was carried before it passes without loss and delay; absent if it
    /// never did.
    pub recovery_seconds: Option<f64>,
}

/// Forged traffic beside calls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttackReport {
    /// `garbage`, `hello` or `request`.
    pub attack: String,
    /// Forged datagrams a second.
    pub per_second: f64,
    /// Answers of the server to them a second.
    pub answers_per_second: f64,
    /// Bytes of answers for each byte that was forged.
    pub amplification: f64,
    /// Loss of the calls beyond that without attack, as a share.
    pub added_loss: f64,
    /// The same for their 99th percentile of the round trip.
    pub added_p99_us: Option<i64>,
    /// Share of the time that the server was busy.
    pub server_busy: Option<f64>,
}

/// All of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The host's buffers and processors, and what limits them.
    pub notes: Vec<String>,
    /// Each system under test.
    pub subjects: Vec<SubjectReport>,
}

/// The unit of all ratios.
const UNIT: &str = "relay-udp";

impl Report {
    /// Sets each figure in relation to the UDP relay at the same load.
    pub fn relate(&mut self) {
        let unit: Vec<(String, f64)> = self
            .subjects
            .iter()
            .filter(|subject| subject.subject == UNIT)
            .flat_map(|subject| &subject.loads)
            .filter_map(|load| Some((load.load.clone(), load.per_cpu_second?.median)))
            .collect();
        for load in self
            .subjects
            .iter_mut()
            .flat_map(|subject| &mut subject.loads)
        {
            let base = unit.iter().find(|(name, _)| *name == load.load);
            load.ratio = base
                .zip(load.per_cpu_second)
                .map(|((_, base), own)| own.median / base);
        }
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for note in &self.notes {
            let _infallible = writeln!(text, "{note}");
        }
        for subject in &self.subjects {
            let _infallible = writeln!(text, "{}", subject.text());
        }
        text
    }
}

impl SubjectReport {
    /// What can be told of a stage.
    #[must_use]
    pub fn of(stage: &Stage, packet_bytes: u16, loads: Vec<LoadReport>) -> Self {
        let counters = stage.engine.counters();
        Self {
            subject: stage.name.clone(),
            transport: stage.transport.to_string(),
            tunnels: stage.engine.members(),
            calls: u32::try_from(stage.engine.traffic.flows()).unwrap_or(u32::MAX),
            packet_bytes,
            set_up: stage.set_up,
            loads,
            hold: None,
            overload: None,
            attacks: Vec::new(),
            suspended: counters.suspended,
            strangers: counters.strangers,
        }
    }

    fn text(&self) -> String {
        let set_up = &self.set_up;
        let mut text = format!(
            "\n{} over {}: {} tunnels, {} calls, packets of {} bytes\n  set-up: {:.2} s, {:.0}/s{}{}{}\n",
            self.subject,
            self.transport,
            self.tunnels,
            self.calls,
            self.packet_bytes,
            set_up.seconds,
            set_up.per_second,
            optional(set_up.per_cpu_second, |value| format!(
                ", {value:.0} per CPU second"
            )),
            optional(set_up.memory_kib, |value| format!(", {value:.1} KiB each")),
            match set_up.failed_attempts {
                0 => String::new(),
                failed => format!(", {failed} attempts failed"),
            },
        );
        if !self.loads.is_empty() {
            let _infallible = writeln!(
                text,
                "  {:>9} {:>9} {:>9} {:>19} {:>6} {:>9} {:>5} {:>5} {:>7} {:>7} {:>7} {:>7} {:>7} {:>4} {:>4}",
                "load",
                "offered/s",
                "relayed/s",
                "k per CPU-s",
                "ratio",
                "lost",
                "dup",
                "reord",
                "rtt p50",
                "p99",
                "up p50",
                "down",
                "late99",
                "srv",
                "gen",
            );
        }
        for load in &self.loads {
            text.push_str(&load.text());
        }
        if let Some(hold) = &self.hold {
            text.push_str(&hold.text(self.tunnels));
        }
        if let Some(overload) = &self.overload {
            text.push_str(&overload.text());
        }
        for attack in &self.attacks {
            text.push_str(&attack.text());
        }
        if self.suspended + self.strangers > 0 {
            let _infallible = writeln!(
                text,
                "  {} tunnels lost their transport, {} packets were none of ours",
                self.suspended, self.strangers
            );
        }
        text
    }
}

impl LoadReport {
    fn text(&self) -> String {
        let us = |times: Option<Times>, pick: fn(&Times) -> u64| {
            times.map_or_else(|| "-".to_owned(), |times| pick(&times).to_string())
        };
        format!(
            "  {:>9} {:>9} {:>9.0} {:>19} {:>6} {:>9} {:>5} {:>5} {:>7} {:>7} {:>7} {:>7} {:>7} {:>4} {:>4}\n",
            self.load,
            optional(self.offered_per_second, |rate| rate.to_string()),
            self.relayed_per_second.median,
            optional(self.per_cpu_second, |spread| format!(
                "{:.1} [{:.0}-{:.0}]",
                spread.median / 1000.0,
                spread.low / 1000.0,
                spread.high / 1000.0
            )),
            optional(self.ratio, |ratio| format!("{ratio:.2}")),
            format!("{:.3}%", self.loss * 100.0),
            self.duplicates,
            self.reordered,
            us(self.round_trip_us, |times| times.p50),
            us(self.round_trip_us, |times| times.p99),
            us(self.up_us, |times| times.p50),
            us(self.down_us, |times| times.p50),
            us(self.late_us, |times| times.p99),
            optional(self.server_busy, |share| format!("{share:.2}")),
            format!("{:.2}", self.generator_busy),
        ) + &optional(self.added_bytes, |bytes| {
            format!(
                "            {bytes:.1} bytes added to each packet on the wire, {:.2} packets besides\n",
                self.added_packets.unwrap_or_default()
            )
        })
    }
}

impl HoldReport {
    fn text(&self, tunnels: u32) -> String {
        format!(
            "  held {:.0} s: {} of {tunnels} alive, {} suspended, {} resumed, {} keepalives{}{}{}\n",
            self.seconds,
            self.alive,
            self.suspended,
            self.resumed,
            self.keepalives,
            optional(self.server_busy, |share| format!(
                ", server busy {:.1} %",
                share * 100.0
            )),
            optional(self.server_memory_kib, |kib| format!(
                ", server {} MiB in all",
                kib / 1024
            )),
            optional(self.generator_memory_kib_each, |kib| format!(
                ", generator {kib:.1} KiB each"
            )),
        )
    }
}

impl OverloadReport {
    fn text(&self) -> String {
        format!(
            "  one way: capacity {}/s, offered {:.0}/s ({:.1} x), passed on {:.0} [{:.0}-{:.0}]/s, {:.0} % of capacity in all\n  \
             tunnels: {} alive, {} lost their transport; newcomers: {} of {} came up, {} told busy, {} attempts failed\n  \
             {}recovered {}\n",
            self.capacity_per_second,
            self.offered_per_second.median,
            self.offered_per_second.median / self.capacity_per_second as f64,
            self.goodput_per_second.median,
            self.goodput_per_second.low,
            self.goodput_per_second.high,
            self.share * 100.0,
            self.alive,
            self.suspended,
            self.newcomers_up,
            self.newcomers,
            self.newcomers_told_busy,
            self.newcomers_failed_attempts,
            optional(self.memory_kib, |kib| format!(
                "server memory at most {} MiB; ",
                kib / 1024
            )),
            self.recovery_seconds.map_or_else(
                || "never".to_owned(),
                |seconds| format!("after {seconds:.2} s")
            ),
        )
    }
}

impl AttackReport {
    fn text(&self) -> String {
        format!(
            "  {}: {:.0} forged/s, {:.0} answers/s ({:.2} bytes for each), calls lose {:+.3} %, p99 {}{}\n",
            self.attack,
            self.per_second,
            self.answers_per_second,
            self.amplification,
            self.added_loss * 100.0,
            self.added_p99_us
                .map_or_else(|| "unknown".to_owned(), |us| format!("{us:+} us")),
            optional(self.server_busy, |share| format!(
                ", server busy {share:.2}"
            )),
        )
    }
}

fn optional<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map(show).unwrap_or_default()
}
