//! Many cells at the same time, and their PESQ afterwards.

use std::{
    collections::VecDeque,
    fs,
    path::Path,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use tsc_sip::media::{Audio, SAMPLE_RATE};

use crate::{
    lab::{CallOptions, Lab},
    matrix::Cell,
    pesq::{Pesq, Piece},
    results::{self, CellResult, Results},
    speech,
};

/// Between the beginnings of two calls: opening a tunnel costs more than a second of media.
const APART: Duration = Duration::from_millis(250);
/// Rounds of the speech that PESQ is asked about, of each end of each call.
const ROUNDS: u64 = 4;

/// Makes the calls of these cells, so many at the same time, and keeps each result when it is there. `told` gets a line for each.
///
/// # Errors
///
/// A result cannot be kept. A call that fails is a result.
pub fn calls(
    lab: &Lab,
    cells: &[Cell],
    at_once: usize,
    options: &CallOptions,
    directory: &Path,
    told: &(dyn Fn(&str) + Sync),
) -> anyhow::Result<()> {
    let waiting: Mutex<VecDeque<(u16, Cell)>> =
        Mutex::new((0..).zip(cells.iter().copied()).collect());
    let next_at = Mutex::new(Instant::now());
    let caller = || -> anyhow::Result<()> {
        loop {
            let next = waiting
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop_front();
            let Some((number, cell)) = next else {
                return Ok(());
            };
            let begin = {
                let mut next_at = next_at.lock().unwrap_or_else(PoisonError::into_inner);
                let begin = (*next_at).max(Instant::now());
                *next_at = begin + APART;
                begin
            };
            thread::sleep(begin.saturating_duration_since(Instant::now()));
            let result = lab.call(&cell, number, options);
            results::write(directory, &result)?;
            told(&line(&result));
        }
    };
    thread::scope(|scope| {
        let callers: Vec<_> = (0..at_once).map(|_| scope.spawn(caller)).collect();
        callers
            .into_iter()
            .try_for_each(|caller| match caller.join() {
                Ok(done) => done,
                Err(panic) => std::panic::resume_unwind(panic),
            })
    })
}

/// A result for people.
#[must_use]
pub fn line(result: &CellResult) -> String {
    let percent = |share: Option<f64>| {
        share.map_or_else(|| "-".to_owned(), |share| format!("{:.2} %", share * 100.0))
    };
    let late = result
        .wire
        .iter()
        .map(|passed| passed.late_us)
        .max()
        .unwrap_or(0);
    let mut line = format!(
        "{}: network lost {}, RTP lost {}, not heard {}, MOS {:.2}, {:.0} bytes a packet, played after {:.0} ms, router late {:.1} ms",
        result.cell.name(),
        percent(result.network_loss()),
        percent(result.lost()),
        percent(result.unheard()),
        result.mos().unwrap_or(f64::NAN),
        result.bytes_per_packet().unwrap_or(f64::NAN),
        result.playout_ms().unwrap_or(f64::NAN),
        late as f64 / 1000.0,
    );
    if let Some(error) = &result.error {
        line.push_str(&format!("; {error}"));
    }
    line
}

/// Has PESQ look at all recordings that it has not yet been told of; then they are deleted, unless they shall stay.
///
/// # Errors
///
/// PESQ fails, or a file cannot be read or written.
pub fn score(pesq: &Pesq, directory: &Path, audio: &Path, keep_audio: bool) -> anyhow::Result<()> {
    let mut results = Results::read(directory)?.0;
    let reference = audio.join("speech.wav");
    let count = u64::from(speech::SECONDS * SAMPLE_RATE);
    let mut pieces = Vec::new();
    let mut wanted = Vec::new();
    for result in &mut results {
        for side in result.sides.iter_mut().filter(|side| side.pesq.is_none()) {
            let Some(heard) = side.heard.as_ref().filter(|heard| heard.is_file()) else {
                continue;
            };
            let samples = u64::try_from(Audio::read(heard)?.samples().len()).unwrap_or(0);
            let rounds = speech::rounds(samples, ROUNDS);
            wanted.push(rounds.len());
            pieces.extend(rounds.into_iter().map(|round| Piece {
                reference: reference.clone(),
                heard: heard.clone(),
                first: round * count,
                count,
            }));
            side.pesq = Some(Vec::new());
        }
    }
    let mut scores = pesq.scores(&pieces)?.into_iter();
    let mut wanted = wanted.into_iter();
    for result in &mut results {
        let mut is_new = false;
        for side in &mut result.sides {
            if let (Some(pesq), Some(heard)) = (&mut side.pesq, &side.heard)
                && pesq.is_empty()
                && heard.is_file()
            {
                pesq.extend(scores.by_ref().take(wanted.next().unwrap_or(0)));
                is_new = true;
                if !keep_audio {
                    fs::remove_file(heard)?;
                    side.heard = None;
                }
            }
        }
        if is_new {
            results::write(directory, result)?;
        }
    }
    Ok(())
}
