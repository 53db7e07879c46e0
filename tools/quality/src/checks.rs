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
/// How much of all bytes must go beside the stream with DDT, in percent: the main tunnel has signalling and keepalives.
const BESIDE: f64 = 95.0;
/// Losses of the network up to which all packets must be accounted for, in percent.
const COUNTED: u32 = 10;
/// Losses of the network at which streams are looked at, in percent. With more of it tunnels give up media that waited too long, and
/// connections break.
const FAN_OUT_LOSSES: [u32; 4] = [1, 2, 5, 10];
/// How far what several streams leave may be from what they would leave if they had nothing in common: late packets come a few in a
/// row, so that there are few such events to count.
const FAN_OUT_CHANCE: f64 = 0.5;
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
    let mut checks = vec![
        network(results),
        failures(results),
        counts(results),
        in_force(results),
        beside(results),
        on_all(results),
    ];
    for column in Column::all() {
        if let Some(copies) = column.copies() {
            checks.push(theory(results, column, copies));
        }
    }
    for transport in [Transport::Udp, Transport::Dtls] {
        checks.push(targets_of_two_copies(results, transport));
        checks.push(targets_of_adaptive(results, transport));
        checks.push(idle_overhead(results, transport));
    }
    for transport in [Transport::Tcp, Transport::Tls] {
        checks.push(beyond_streams(results, transport, &BY_G107));
        checks.push(beyond_streams(results, transport, &BY_PESQ));
    }
    for service in [Service::OneStream, Service::TwoStreams] {
        checks.push(late_on_all(results, service));
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

/// Nobody misses what was never sent.
fn counts(results: &Results) -> Check {
    // Beyond that a stream may be stuck for longer than receivers remember what came, which is 20 s of speech: of several streams
    // the others go on meanwhile.
    let is_counted = |result: &&CellResult| result.cell.network.loss_percent <= COUNTED;
    let is_wrong = |result: &CellResult| match result.sides.as_slice() {
        [one, other] => {
            one.received + one.lost > other.sent || other.received + other.lost > one.sent
        }
        _ => false,
    };
    let counted: Vec<_> = results.0.iter().filter(is_counted).collect();
    let bad = counted.iter().filter(|result| is_wrong(result));
    let bad: Vec<String> = bad.map(|result| result.cell.name()).collect();
    Check {
        what: format!(
            "up to {COUNTED} % loss what is heard, late and lost is what was sent, and no more"
        ),
        found: format!(
            "{} cells, {} not {}",
            counted.len(),
            bad.len(),
            bad.join(" ")
        ),
        holds: (!counted.is_empty()).then_some(bad.is_empty()),
    }
}

/// What was measured is what the service does, and not how long it took to come.
fn in_force(results: &Results) -> Check {
    // Where there was no call at all others tell.
    let served = |result: &&CellResult| {
        result.cell.column.service != Service::Plain && !result.sides.is_empty()
    };
    let served: Vec<_> = results.0.iter().filter(served).collect();
    let late = served
        .iter()
        .filter(|result| result.services_ms().is_none());
    let late: Vec<String> = late.map(|result| result.cell.name()).collect();
    let longest = served
        .iter()
        .filter_map(|result| result.services_ms())
        .reduce(f64::max);
    let found = match longest {
        Some(longest) if late.is_empty() => {
            format!("{} cells, after {longest:.0} ms at most", served.len())
        }
        Some(_) | None => format!("{} cells, not {}", served.len(), late.join(" ")),
    };
    Check {
        what: "services are in force when the calls begin".to_owned(),
        found,
        holds: (!served.is_empty()).then_some(late.is_empty()),
    }
}

/// With DDT media does not go over the stream, whatever becomes of datagrams.
fn beside(results: &Results) -> Check {
    let ddt = results
        .0
        .iter()
        .filter(|result| result.cell.column.service == Service::Ddt);
    let share = |result: &CellResult| result.datagrams().unwrap_or(0.0) * 100.0;
    let shares = ddt.map(|result| (share(result), result.cell.name()));
    let least = shares.min_by(|(one, _), (other, _)| one.total_cmp(other));
    Check {
        what: format!("with DDT at least {BESIDE} % of all bytes go beside the stream"),
        found: least.as_ref().map_or_else(String::new, |(least, name)| {
            format!("at least {least:.1} % ({name})")
        }),
        holds: least.map(|(least, _)| least >= BESIDE),
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

/// A way to judge.
struct Score {
    name: &'static str,
    of: fn(&CellResult) -> Option<f64>,
}

const BY_G107: Score = Score {
    name: "G.107",
    // A call that could not be made is a bad one.
    of: |result| Some(result.mos().unwrap_or(1.0)),
};

const BY_PESQ: Score = Score {
    name: "PESQ",
    of: CellResult::pesq,
};

/// What media gains that leaves the stream.
fn beyond_streams(results: &Results, transport: Transport, score: &Score) -> Check {
    let [ddt, plain] =
        [Service::Ddt, Service::Plain].map(|service| Column::new(transport, service));
    let pair = pair(results, ddt, plain, independent(5));
    let scores = pair.and_then(|(ddt, plain)| Some(((score.of)(ddt)?, (score.of)(plain)?)));
    let name = score.name;
    Check {
        what: format!(
            "at 5 % loss and {DELAY} ms {ddt} beats {plain} by {BEYOND_STREAMS} MOS ({name})"
        ),
        found: scores.map_or_else(String::new, |(ddt, plain)| {
            format!("{ddt:.2} and {plain:.2}")
        }),
        holds: scores.map(|(ddt, plain)| ddt >= plain + BEYOND_STREAMS),
    }
}

/// A packet on several streams is late only where it is late on each of them. That is no matter of the network's loss alone, but of
/// what it makes late on one stream, as measured: to the power of their number, as they lose independently.
fn late_on_all(results: &Results, service: Service) -> Check {
    let [column, plain] = [service, Service::Plain].map(|one| Column::new(Transport::Tcp, one));
    let streams = service.streams();
    let mut found = Vec::new();
    let mut holds = None;
    for loss in FAN_OUT_LOSSES {
        let Some((result, one)) = pair(results, column, plain, independent(loss)) else {
            continue;
        };
        let is_near = result
            .unheard()
            .zip(one.unheard())
            .is_some_and(|(share, one)| {
                let expected = independent_streams(one, streams);
                found.push(format!("{:.2} for {:.2}", share * 100.0, expected * 100.0));
                (share - expected).abs() <= FAN_OUT_CHANCE * expected + HOST / 100.0
            });
        holds = Some(holds.unwrap_or(true) && is_near);
    }
    Check {
        what: format!(
            "{column}: what is not heard, in percent, is that of {plain} to the power of {streams}"
        ),
        found: found.join(", "),
        holds,
    }
}

/// With fan-out all streams carry the media.
fn on_all(results: &Results) -> Check {
    let is_fan_out = |result: &&CellResult| {
        let (
            Cell {
                column, network, ..
            },
            most,
        ) = (result.cell, FAN_OUT_LOSSES.last());
        matches!(column.service, Service::OneStream | Service::TwoStreams)
            && most.is_some_and(|most| network.loss_percent <= *most)
            && network.burst == 1
    };
    let cells: Vec<_> = results.0.iter().filter(is_fan_out).collect();
    let streams = |result: &CellResult| result.cell.column.service.streams();
    let bad = cells
        .iter()
        .filter(|result| result.busy_flows() != streams(result));
    let bad: Vec<String> = bad.map(|result| result.cell.name()).collect();
    Check {
        what: "with fan-out each of the streams carries the media".to_owned(),
        found: format!("{} cells, {} not {}", cells.len(), bad.len(), bad.join(" ")),
        holds: (!cells.is_empty()).then_some(bad.is_empty()),
    }
}

/// The share of packets that is late on all of so many streams, of which each has this share.
#[must_use]
pub fn independent_streams(share: f64, streams: usize) -> f64 {
    i32::try_from(streams).map_or(0.0, |streams| share.powi(streams))
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
