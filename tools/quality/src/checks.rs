//! What must hold of the results.

use crate::{
    matrix::{Cell, Column, DELAY, LOSSES, Listener, Network},
    results::{CellResult, Results},
    router::CLEAN,
    service::{Service, Transport},
};

/// One of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// What must hold.
    pub what: String,
    /// What was found.
    pub found: String,
    /// Whether it holds; `None` if it was not measured.
    pub holds: Option<bool>,
}

/// Most RTP packets that may be missing of a hundred, with two copies where a tenth is lost.
const LEFT_WITH_TWO_COPIES: f64 = 0.2;
/// How far adaptive redundancy may be behind two copies where a tenth is lost, in MOS.
const BEHIND_TWO_COPIES: f64 = 0.1;
/// What adaptive redundancy may cost where nothing is lost, in percent.
const IDLE_OVERHEAD: f64 = 5.0;
/// By how much datagrams must beat a stream at 5 %, in MOS.
const BEYOND_STREAMS: f64 = 1.0;
/// Standard deviations that chance may bring about: once in 16,000 checks.
const DEVIATIONS: f64 = 4.0;
/// What is missing where the network loses nothing may not be more, in percent: this host has other things to do.
const HOST: f64 = 0.2;

/// Whom the targets are for: a conversation is not to notice the delay.
const LISTENER: Listener = Listener::Fixed;

/// Independent loss at the usual delay.
const fn independent(loss_percent: u32) -> Network {
    Network {
        loss_percent,
        burst: 1,
        delay_ms: DELAY,
    }
}

/// All checks.
#[must_use]
pub fn all(results: &Results) -> Vec<Check> {
    let mut checks = vec![network(results), failures(results)];
    for column in Column::all() {
        if let Some(copies) = column
            .service
            .copies()
            .filter(|_| !column.transport.is_stream())
        {
            checks.push(theory(results, column, copies));
        }
    }
    for transport in [Transport::Udp, Transport::Dtls] {
        checks.push(targets_of_two_copies(results, transport));
        checks.push(targets_of_adaptive(results, transport));
        checks.push(idle_overhead(results, transport));
    }
    for (datagrams, stream) in [
        (Transport::Udp, Transport::Tcp),
        (Transport::Dtls, Transport::Tls),
    ] {
        checks.push(beyond_streams(results, datagrams, stream));
    }
    checks
}

/// Whether all that was measured holds. What was not measured is told, and is no failure of a bench that was made in part.
#[must_use]
pub fn are_good(checks: &[Check]) -> bool {
    checks.iter().all(|check| check.holds != Some(false))
}

fn network(results: &Results) -> Check {
    let mut worst: Option<(f64, String)> = None;
    let mut count = 0;
    for result in &results.0 {
        let Network { burst, .. } = result.cell.network;
        let loss = result.cell.network.loss();
        for passed in &result.wire {
            let packets = passed.packets.saturating_sub(CLEAN) as f64;
            let expected = packets * loss;
            // Of losses in bursts there are fewer that are independent: the variance grows by 2b - 1.
            let spread = (expected * (1.0 - loss) * f64::from(2 * burst - 1)).sqrt();
            let deviations = (passed.lost as f64 - expected).abs() / spread.max(1.0);
            count += 1;
            if worst.as_ref().is_none_or(|(most, _)| deviations > *most) {
                worst = Some((deviations, result.cell.name()));
            }
        }
    }
    let (found, holds) = match worst {
        None => ("nothing was measured".to_owned(), None),
        Some((most, name)) => (
            format!("{count} directions, at most {most:.1} standard deviations ({name})"),
            // The largest of hundreds is larger.
            Some(most < DEVIATIONS + 1.0),
        ),
    };
    Check {
        what: "the network loses what it was asked to".to_owned(),
        found,
        holds,
    }
}

fn failures(results: &Results) -> Check {
    let clean = |result: &&CellResult| result.cell.network.loss_percent == 0;
    let bad: Vec<String> = results
        .0
        .iter()
        .filter(clean)
        .filter(|result| result.unheard().is_none_or(|share| share * 100.0 > HOST))
        .map(|result| result.cell.name())
        .collect();
    let measured = results.0.iter().filter(clean).count();
    Check {
        what: format!("where nothing is lost at most {HOST} % is not heard"),
        found: format!("{measured} cells, {} worse {}", bad.len(), bad.join(" ")),
        holds: (measured > 0).then_some(bad.is_empty()),
    }
}

/// Loss after recovery is that of independent losses.
fn theory(results: &Results, column: Column, copies: i32) -> Check {
    let mut found = Vec::new();
    let mut holds = None;
    for loss in LOSSES.into_iter().filter(|loss| *loss > 0) {
        let network = independent(loss);
        let Some(result) = results.get(column, network, LISTENER) else {
            continue;
        };
        let Some(lost) = result.lost() else {
            holds = Some(false);
            found.push(format!("{loss} %: no call"));
            continue;
        };
        // The first packets each way are never lost; a part of them is RTP.
        let packets = result.expected().saturating_sub(2 * CLEAN) as f64;
        let share = network.residual(copies);
        let expected = packets * share;
        let spread = DEVIATIONS * expected.sqrt() + 3.0;
        let is_near =
            (lost * result.expected() as f64 - expected).abs() <= spread + 0.05 * expected;
        holds = Some(holds.unwrap_or(true) && is_near);
        found.push(format!("{:.3} for {:.3}", lost * 100.0, share * 100.0));
    }
    Check {
        what: format!(
            "{column}: loss after recovery, in percent, is p^{}",
            copies + 1
        ),
        found: found.join(", "),
        holds,
    }
}

/// The results of two columns over one network.
fn pair(
    results: &Results,
    one: Column,
    other: Column,
    network: Network,
) -> Option<(&CellResult, &CellResult)> {
    Some((
        results.get(one, network, LISTENER)?,
        results.get(other, network, LISTENER)?,
    ))
}

fn targets_of_two_copies(results: &Results, transport: Transport) -> Check {
    let result = results.get(
        Column::new(transport, Service::TwoCopies),
        independent(10),
        LISTENER,
    );
    let lost = result.and_then(CellResult::lost).map(|share| share * 100.0);
    Check {
        what: format!(
            "{transport}: at 10 % loss two copies leave less than {LEFT_WITH_TWO_COPIES} % lost"
        ),
        found: lost.map_or_else(String::new, |lost| format!("{lost:.3} %")),
        holds: result.map(|_| lost.is_some_and(|lost| lost < LEFT_WITH_TWO_COPIES)),
    }
}

fn targets_of_adaptive(results: &Results, transport: Transport) -> Check {
    let [adaptive, two] =
        [Service::Adaptive, Service::TwoCopies].map(|service| Column::new(transport, service));
    let pair = pair(results, adaptive, two, independent(10));
    let scores = pair.and_then(|(adaptive, two)| Some((adaptive.mos()?, two.mos()?)));
    Check {
        what: format!(
            "{transport}: at 10 % loss adaptive is within {BEHIND_TWO_COPIES} MOS of two copies"
        ),
        found: scores.map_or_else(String::new, |(adaptive, two)| {
            format!("{adaptive:.2} and {two:.2}")
        }),
        holds: pair
            .map(|_| scores.is_some_and(|(adaptive, two)| adaptive >= two - BEHIND_TWO_COPIES)),
    }
}

fn idle_overhead(results: &Results, transport: Transport) -> Check {
    let [adaptive, plain] =
        [Service::Adaptive, Service::Plain].map(|service| Column::new(transport, service));
    let pair = pair(results, adaptive, plain, independent(0));
    let overhead = pair.and_then(|(adaptive, plain)| {
        let ratio = adaptive.bytes_per_packet()? / plain.bytes_per_packet()?;
        Some((ratio - 1.0) * 100.0)
    });
    Check {
        what: format!(
            "{transport}: where nothing is lost adaptive costs less than {IDLE_OVERHEAD} % more"
        ),
        found: overhead.map_or_else(String::new, |overhead| format!("{overhead:.1} %")),
        holds: pair.map(|_| overhead.is_some_and(|overhead| overhead < IDLE_OVERHEAD)),
    }
}

/// What media that leaves a stream must gain: as much as that of a tunnel that is none.
fn beyond_streams(results: &Results, datagrams: Transport, stream: Transport) -> Check {
    let [datagrams, stream] =
        [datagrams, stream].map(|transport| Column::new(transport, Service::Plain));
    let pair = pair(results, datagrams, stream, independent(5));
    let score = |result: &CellResult| result.mos().unwrap_or(1.0);
    let scores = pair.map(|(datagrams, stream)| (score(datagrams), score(stream)));
    Check {
        what: format!(
            "at 5 % loss and {DELAY} ms {datagrams} beats {stream} by {BEYOND_STREAMS} MOS"
        ),
        found: scores.map_or_else(String::new, |(datagrams, stream)| {
            format!("{datagrams:.2} and {stream:.2}")
        }),
        holds: scores.map(|(datagrams, stream)| datagrams >= stream + BEYOND_STREAMS),
    }
}

/// A line for people.
#[must_use]
pub fn line(check: &Check) -> String {
    let verdict = match check.holds {
        Some(true) => "ok  ",
        Some(false) => "FAIL",
        None => "-   ",
    };
    format!("{verdict} {}: {}", check.what, check.found)
}

/// The cells that checks look at and that are missing.
#[must_use]
pub fn missing(results: &Results, cells: &[Cell]) -> usize {
    cells
        .iter()
        .filter(|cell| {
            results
                .get(cell.column, cell.network, cell.listener)
                .is_none()
        })
        .count()
}
