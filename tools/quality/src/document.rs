//! `docs/quality.md`: its figures, between two marks, and the plots and results beside it. The text around the marks is people's.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, ensure};
use serde::Serialize;
use tsc_figures::lines::{Frame, Line, Scale, chart};

use crate::{
    checks,
    matrix::{BURST, Column, DELAY, DELAY_LOSS, DELAYS, LOSSES, Listener, Network},
    results::{CellResult, Results},
    service::{Service, Transport},
};

const BEGIN: &str = "<!-- figures: made by tsc-quality document; do not edit from here -->";
const END: &str = "<!-- end of figures -->";

/// Writes the figures into the document, and plots and `results.json` into the directory of its name.
///
/// # Errors
///
/// A file cannot be read or written, or the document has no marks.
pub fn write(results: &Results, document: &Path) -> anyhow::Result<()> {
    let directory = document.with_extension("");
    fs::create_dir_all(&directory)?;
    let put = |name: &str, text: &str| {
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| path.display().to_string())
    };
    for (name, text) in PARTS.iter().flat_map(|part| part.plots(results)) {
        put(&name, &text)?;
    }
    let rows: Vec<Row> = results.0.iter().map(Row::of).collect();
    // A line for each cell: what changes is seen.
    let rows = rows
        .iter()
        .map(serde_json::to_string)
        .collect::<Result<Vec<_>, _>>()?;
    put("results.json", &format!("[\n{}\n]\n", rows.join(",\n")))?;

    let old = fs::read_to_string(document).with_context(|| document.display().to_string())?;
    let name = directory.file_name().context("no name")?.to_string_lossy();
    let new = replace(&old, &figures(results, &name))?;
    fs::write(document, new).with_context(|| document.display().to_string())
}

/// The text with other figures.
fn replace(text: &str, figures: &str) -> anyhow::Result<String> {
    let before = text.split_once(BEGIN).map(|(before, _)| before);
    let after = text.split_once(END).map(|(_, after)| after);
    let (Some(before), Some(after)) = (before, after) else {
        anyhow::bail!("the document has no lines {BEGIN:?} and {END:?}");
    };
    ensure!(
        before.len() < text.len() - after.len(),
        "the marks are in the wrong order"
    );
    Ok(format!("{before}{BEGIN}\n\n{figures}\n{END}{after}"))
}

/// A cell for programs.
#[derive(Debug, Serialize)]
struct Row {
    transport: Transport,
    service: Service,
    loss_percent: u32,
    burst: u32,
    delay_ms: u64,
    listener: Listener,
    seconds: u32,
    error: Option<String>,
    rtp_packets: u64,
    lost_percent: Option<f64>,
    unheard_percent: Option<f64>,
    mos_g107: Option<f64>,
    mos_pesq: Option<f64>,
    playout_ms: Option<f64>,
    bytes_per_packet: Option<f64>,
    network_lost_percent: Option<f64>,
    services_ms: Option<f64>,
    flows: usize,
    udp_percent: Option<f64>,
}

impl Row {
    fn of(result: &CellResult) -> Self {
        let Network {
            loss_percent,
            burst,
            delay_ms,
        } = result.cell.network;
        let rounded = |value: Option<f64>| value.map(|value| (value * 1000.0).round() / 1000.0);
        let percent = |share: Option<f64>| rounded(share.map(|share| share * 100.0));
        Self {
            transport: result.cell.column.transport,
            service: result.cell.column.service,
            loss_percent,
            burst,
            delay_ms,
            listener: result.cell.listener,
            seconds: result.seconds,
            error: result.error.clone(),
            rtp_packets: result.expected(),
            lost_percent: percent(result.lost()),
            unheard_percent: percent(result.unheard()),
            mos_g107: rounded(result.mos()),
            mos_pesq: rounded(result.pesq()),
            playout_ms: rounded(result.playout_ms()),
            bytes_per_packet: rounded(result.bytes_per_packet()),
            network_lost_percent: percent(result.network_loss()),
            services_ms: rounded(result.services_ms()),
            udp_percent: percent(result.datagrams()),
            flows: result
                .wire
                .iter()
                .map(|passed| passed.flows.len())
                .max()
                .unwrap_or(0),
        }
    }
}

/// One figure of a cell.
type Figure = fn(&CellResult) -> Option<f64>;

/// The tables of each part: what each shows, and with how many digits.
const TABLES: [(&str, Figure, usize); 6] = [
    ("Mean opinion score by G.107", CellResult::mos, 2),
    ("Mean opinion score by PESQ", CellResult::pesq, 2),
    (LOST, lost, 3),
    (UNHEARD, unheard, 2),
    (
        "Time that packets waited to be played, in milliseconds",
        CellResult::playout_ms,
        0,
    ),
    (
        "Bytes on the wire for each RTP packet, with IP headers",
        CellResult::bytes_per_packet,
        0,
    ),
];

/// The table beside which theory stands.
const LOST: &str = "RTP packets lost after recovery, in percent";

/// The table beside which stands what streams would do that have nothing in common.
const UNHEARD: &str = "RTP packets not heard, lost or late, in percent";

fn lost(result: &CellResult) -> Option<f64> {
    result.lost().map(|share| share * 100.0)
}

fn unheard(result: &CellResult) -> Option<f64> {
    result.unheard().map(|share| share * 100.0)
}

/// What changes from left to right in tables and plots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Axis {
    /// The loss, in bursts of this length.
    Loss(u32),
    /// The delay.
    Delay,
}

impl Axis {
    /// The values with their networks.
    fn networks(self) -> Vec<(f64, Network)> {
        let loss = |burst| {
            move |loss_percent| Network {
                loss_percent,
                // Without loss there are no bursts of it.
                burst: if loss_percent == 0 { 1 } else { burst },
                delay_ms: DELAY,
            }
        };
        let delay = |delay_ms| Network {
            loss_percent: DELAY_LOSS,
            burst: 1,
            delay_ms,
        };
        match self {
            Self::Loss(burst) => {
                let network = loss(burst);
                LOSSES.map(|loss| (f64::from(loss), network(loss))).to_vec()
            }
            Self::Delay => DELAYS.map(|millis| (millis as f64, delay(millis))).to_vec(),
        }
    }

    const fn unit(self) -> &'static str {
        match self {
            Self::Loss(_) => "%",
            Self::Delay => "ms",
        }
    }

    const fn text(self) -> &'static str {
        match self {
            Self::Loss(_) => "loss of the network, in percent",
            Self::Delay => "one way, in milliseconds",
        }
    }
}

/// A part of the document.
struct Part {
    /// In the names of its plots.
    key: &'static str,
    title: &'static str,
    axis: Axis,
    listener: Listener,
}

const PARTS: [Part; 5] = [
    Part {
        key: "independent",
        title: "Independent loss, listeners that wait 60 ms",
        axis: Axis::Loss(1),
        listener: Listener::Fixed,
    },
    Part {
        key: "bursts",
        title: "Loss in bursts, listeners that wait 60 ms",
        axis: Axis::Loss(BURST),
        listener: Listener::Fixed,
    },
    Part {
        key: "delay",
        title: "Delay, listeners that wait 60 ms",
        axis: Axis::Delay,
        listener: Listener::Fixed,
    },
    Part {
        key: "waiting",
        title: "Independent loss, listeners that wait up to 200 ms",
        axis: Axis::Loss(1),
        listener: Listener::Waiting,
    },
    Part {
        key: "delay-waiting",
        title: "Delay, listeners that wait up to 200 ms",
        axis: Axis::Delay,
        listener: Listener::Waiting,
    },
];

impl Part {
    fn introduction(&self) -> String {
        match self.axis {
            Axis::Loss(1) => format!("One way takes {DELAY} ms. Columns: loss each way."),
            Axis::Loss(burst) => {
                format!(
                    "One way takes {DELAY} ms. Columns: loss each way, {burst} packets in a row on average."
                )
            }
            Axis::Delay => {
                format!("{DELAY_LOSS} % independent loss each way. Columns: delay, one way.")
            }
        }
    }

    fn text(&self, results: &Results, name: &str) -> String {
        let mut text = format!("\n## {}\n\n{}\n\n", self.title, self.introduction());
        for (file, _) in self.plots(results) {
            let _infallible = writeln!(text, "![{}]({name}/{file})", self.title);
        }
        for (title, figure, digits) in TABLES {
            let _infallible = writeln!(text, "\n**{title}**\n");
            text.push_str(&self.table(results, figure, digits));
            if title == LOST {
                text.push_str(&self.theory(digits));
            }
            if title == UNHEARD {
                text.push_str(&self.independent_streams(results, digits));
            }
        }
        text
    }

    /// A row for each column that has something on this axis.
    fn table(&self, results: &Results, figure: Figure, digits: usize) -> String {
        let networks = self.axis.networks();
        let heads: Vec<String> = networks
            .iter()
            .map(|(value, _)| format!("{value} {}", self.axis.unit()))
            .collect();
        let mut text = format!(
            "| | {} |\n| --- |{}\n",
            heads.join(" | "),
            " --- |".repeat(heads.len())
        );
        for column in Column::all() {
            let cell = |(_, network): &(f64, Network)| {
                let result = results.get(column, *network, self.listener)?;
                let value = figure(result)
                    .map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"));
                // The call had to be given up.
                Some(if result.error.is_some() {
                    value + "*"
                } else {
                    value
                })
            };
            let cells: Vec<Option<String>> = networks.iter().map(cell).collect();
            // Others are there at one delay only.
            if cells.iter().flatten().count() > 1 {
                let cells: Vec<String> = cells.into_iter().map(Option::unwrap_or_default).collect();
                let Column { transport, service } = column;
                let _infallible =
                    writeln!(text, "| {transport} {service} | {} |", cells.join(" | "));
            }
        }
        text
    }

    /// The same as theory has it.
    fn theory(&self, digits: usize) -> String {
        let mut text = String::new();
        for copies in 0..=2 {
            let networks = self.axis.networks().into_iter();
            let cells: Vec<String> = networks
                .map(|(_, network)| format!("{:.digits$}", network.residual(copies) * 100.0))
                .collect();
            let _infallible = writeln!(
                text,
                "| *theory, copies: {copies}* | {} |",
                cells.join(" | ")
            );
        }
        text
    }

    /// What fan-out would leave if what is late on one stream, measured, said nothing about the others. Where losses come in bursts
    /// it does, because copies are sent at the same time; and listeners that wait longer when more is late make it another share.
    fn independent_streams(&self, results: &Results, digits: usize) -> String {
        let mut text = String::new();
        let is_theory =
            self.listener == Listener::Fixed && matches!(self.axis, Axis::Loss(1) | Axis::Delay);
        if !is_theory {
            return text;
        }
        let plain = Column::new(Transport::Tcp, Service::Plain);
        for streams in [2, 3] {
            let one = |(_, network): (f64, Network)| {
                let share = results.get(plain, network, self.listener)?.unheard()?;
                let all = checks::independent_streams(share, streams) * 100.0;
                Some(format!("{all:.digits$}"))
            };
            let cells: Vec<_> = self.axis.networks().into_iter().map(one).collect();
            if cells.iter().flatten().count() > 1 {
                let cells: Vec<_> = cells.into_iter().map(Option::unwrap_or_default).collect();
                let _infallible = writeln!(
                    text,
                    "| *tcp plain to the power of {streams}* | {} |",
                    cells.join(" | ")
                );
            }
        }
        text
    }

    fn lines(&self, results: &Results, figure: Figure) -> Vec<Line> {
        let mut lines = Vec::new();
        for (family, column) in drawn() {
            let point = |(x, network): (f64, Network)| {
                let result = results.get(column, network, self.listener)?;
                Some((x, figure(result)?))
            };
            let points: Vec<_> = self.axis.networks().into_iter().filter_map(point).collect();
            if points.len() > 1 {
                lines.push(Line {
                    label: format!("{} {}", column.transport, column.service),
                    points,
                    is_theory: false,
                    family,
                });
            }
        }
        lines
    }

    /// Names and contents of its plots.
    fn plots(&self, results: &Results) -> Vec<(String, String)> {
        let mut plots = Vec::new();
        let mut add = |what: &str, title: &str, y: &str, scale: Scale, lines: &[Line]| {
            let frame = Frame {
                title: &format!("{title}: {}", self.title.to_lowercase()),
                x: self.axis.text(),
                y,
                scale,
            };
            plots.push((format!("{what}-{}.svg", self.key), chart(&frame, lines)));
        };
        let score = Scale::Linear(1.0, 4.5);
        let score_of = "mean opinion score";
        add(
            "mos",
            "G.107",
            score_of,
            score,
            &self.lines(results, CellResult::mos),
        );
        add(
            "pesq",
            "PESQ",
            score_of,
            score,
            &self.lines(results, CellResult::pesq),
        );
        if self.listener == Listener::Fixed
            && let Axis::Loss(_) = self.axis
        {
            let mut lines = self.lines(results, lost);
            lines.extend((0..=2).map(|copies| {
                Line {
                    label: format!("theory, copies: {copies}"),
                    points: self
                        .axis
                        .networks()
                        .into_iter()
                        .map(|(x, network)| (x, network.residual(copies) * 100.0))
                        .collect(),
                    is_theory: true,
                    family: 0,
                }
            }));
            let y = "RTP packets that did not arrive, in percent";
            add(
                "lost",
                "Loss after recovery",
                y,
                Scale::Powers(-3, 2),
                &lines,
            );
            let y = "for each RTP packet of 172 bytes, with IP headers, both directions";
            let lines = self.lines(results, CellResult::bytes_per_packet);
            add(
                "bytes",
                "Bytes on the wire",
                y,
                Scale::Linear(0.0, 1000.0),
                &lines,
            );
        }
        plots
    }
}

fn figures(results: &Results, name: &str) -> String {
    let mut text = format!(
        "{}\n## Targets\n\n| | what must hold | found |\n| --- | --- | --- |\n",
        origin(results)
    );
    for check in checks::all(results) {
        let verdict = match check.holds {
            Some(true) => "ok",
            Some(false) => "**no**",
            None => "not measured",
        };
        let _infallible = writeln!(text, "| {verdict} | {} | {} |", check.what, check.found);
    }
    for part in &PARTS {
        text.push_str(&part.text(results, name));
    }
    text
}

/// Where the figures are from.
fn origin(results: &Results) -> String {
    let mut hosts: Vec<_> = results.0.iter().map(|result| result.host.text()).collect();
    hosts.sort();
    let mut commits: Vec<_> = results
        .0
        .iter()
        .map(|result| result.host.commit.as_str())
        .collect();
    commits.sort_unstable();
    commits.dedup();
    let mut seconds: Vec<_> = results
        .0
        .iter()
        .map(|result| result.seconds.to_string())
        .collect();
    seconds.sort();
    seconds.dedup();
    format!(
        "{} calls of {} s. From: {}. Commits: {}.\n",
        results.0.len(),
        seconds.join(", "),
        hosts.first().map_or("-", String::as_str),
        commits.join(", "),
    )
}

/// Columns that are drawn: TLS is much as TCP, DTLS as UDP; DTLS beside TLS shows that.
fn drawn() -> Vec<(usize, Column)> {
    let is_drawn = |column: &Column| match column.transport {
        Transport::Tcp | Transport::Udp => true,
        Transport::Tls | Transport::Dtls => column.service == Service::Ddt,
    };
    Column::all()
        .into_iter()
        .filter(is_drawn)
        .enumerate()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_take_the_place_of_older_ones_and_nothing_else() {
        let text = format!("# Mine\n\n{BEGIN}\nold\n{END}\n\nmine too\n");
        let once = replace(&text, "new").unwrap();
        assert!(once.starts_with("# Mine\n") && once.ends_with("mine too\n"));
        assert!(once.contains("\nnew\n") && !once.contains("old"));
        assert_eq!(replace(&once, "new").unwrap(), once);
        assert!(replace("no marks", "new").is_err());
        assert!(replace(&format!("{END}{BEGIN}"), "new").is_err());
    }

    #[test]
    fn a_document_can_be_made_of_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let document = directory.path().join("quality.md");
        fs::write(&document, format!("# Text\n{BEGIN}{END}\n")).unwrap();
        write(&Results::default(), &document).unwrap();
        let text = fs::read_to_string(&document).unwrap();
        assert!(text.contains("| not measured |"), "{text}");
        for plot in [
            "mos-independent",
            "pesq-bursts",
            "lost-bursts",
            "bytes-independent",
            "mos-delay-waiting",
        ] {
            let svg =
                fs::read_to_string(directory.path().join(format!("quality/{plot}.svg"))).unwrap();
            assert!(svg.ends_with("</svg>\n"), "{plot}");
            assert!(text.contains(&format!("(quality/{plot}.svg)")), "{plot}");
        }
    }
}
