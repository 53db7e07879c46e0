//! Instruction counts: the same on a busy machine as on an idle one, and on one without hardware counters.
//!
//! This program is run under callgrind twice for each operation, with different counts; what the second run needed more,
//! divided by the difference of the counts, is the price of one time. All that happens once (start, certificates,
//! handshakes) is in both and goes away. What the kernel does is not counted.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context as _, bail, ensure};

use crate::paths::{self, Subject};

/// Counts of the two runs.
const COUNTS: [u32; 2] = [300, 2300];

/// Prices by name, as in the file of the baseline.
pub type Prices = Vec<(String, u64)>;

/// Counts all operations of this build; as many at the same time as there are processors.
///
/// # Errors
///
/// There is no valgrind, or an operation failed.
pub fn count(progress: &(dyn Fn(&str) + Sync)) -> anyhow::Result<Prices> {
    let program = std::env::current_exe().context("where is this program?")?;
    let subjects = paths::all();
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let mut prices = Vec::new();
    for some in subjects.chunks(workers) {
        let results: Vec<anyhow::Result<u64>> = thread::scope(|scope| {
            let running: Vec<_> = some
                .iter()
                .map(|subject| {
                    let program = &program;
                    scope.spawn(move || price(program, subject))
                })
                .collect();
            let joined = running.into_iter().map(|one| match one.join() {
                Ok(result) => result,
                Err(_) => bail!("a thread has ended"),
            });
            joined.collect()
        });
        for (subject, result) in some.iter().zip(results) {
            prices.push((subject.name.to_owned(), result?));
            progress(subject.name);
        }
    }
    Ok(prices)
}

/// Instructions for one time.
fn price(program: &Path, subject: &Subject) -> anyhow::Result<u64> {
    let [few, many] = COUNTS;
    let (less, more) = (
        collect(program, subject, few)?,
        collect(program, subject, many)?,
    );
    let difference = more.checked_sub(less);
    let difference = difference.with_context(|| format!("{}: more cost less", subject.name))?;
    Ok(difference / u64::from(many - few))
}

/// Instructions of a whole run.
fn collect(program: &Path, subject: &Subject, count: u32) -> anyhow::Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args(["repeat", subject.name, &count.to_string()])
        .stdin(Stdio::null())
        .output()
        .context("cannot start valgrind")?;
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text
        .lines()
        .find_map(|line| line.split_once("Collected :").map(|(_, number)| number));
    let number = line.and_then(|number| number.trim().parse().ok());
    match number {
        Some(number) if output.status.success() => Ok(number),
        _ => bail!("{} under valgrind: {}\n{text}", subject.name, output.status),
    }
}

/// Reads a baseline: lines of a name and a number; `#` begins a remark.
///
/// # Errors
///
/// It cannot be read, or is none.
pub fn read(file: &Path) -> anyhow::Result<Prices> {
    let name = file.display();
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {name}"))?;
    let lines = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or(""));
    let lines = lines.filter(|line| !line.trim().is_empty());
    let prices = lines.map(|line| {
        let mut words = line.split_whitespace();
        let (name, price) = words.next().zip(words.next())?;
        Some((name.to_owned(), price.parse().ok()?))
    });
    let prices: Option<Prices> = prices.collect();
    prices.with_context(|| format!("{name} has a line that is not a name and a number"))
}

/// Writes a baseline.
///
/// # Errors
///
/// It cannot be written.
pub fn write(file: &Path, prices: &Prices) -> anyhow::Result<()> {
    let mut text = "\
# Instructions in user space for one time of each operation, counted by callgrind. Made by tools/instructions.sh --update.
"
    .to_owned();
    for (name, price) in prices {
        let what = Subject::find(name).map_or("", |subject| subject.what);
        text.push_str(&format!("{name:<18} {price:>7}  # {what}\n"));
    }
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

/// Old and new side by side, and whether none costs more than `tolerance` (a share) above the baseline.
#[must_use]
pub fn compare(old: &Prices, new: &Prices, tolerance: f64) -> (String, bool) {
    let mut text = format!("{:<18} {:>8} {:>8} {:>7}\n", "", "old", "new", "ratio");
    let mut is_good = true;
    for (name, price) in new {
        let before = old.iter().find(|(other, _)| other == name);
        let Some((_, before)) = before.filter(|(_, before)| *before > 0) else {
            text.push_str(&format!("{name:<18} {:>8} {price:>8}   new\n", "-"));
            continue;
        };
        let ratio = *price as f64 / *before as f64;
        let mark = if ratio > 1.0 + tolerance {
            is_good = false;
            "  costs more"
        } else if ratio < 1.0 - tolerance {
            "  costs less: --update"
        } else {
            ""
        };
        text.push_str(&format!(
            "{name:<18} {before:>8} {price:>8} {ratio:>7.3}{mark}\n"
        ));
    }
    for (name, price) in old {
        if !new.iter().any(|(other, _)| other == name) {
            text.push_str(&format!(
                "{name:<18} {price:>8} {:>8}   not in this build\n",
                "-"
            ));
        }
    }
    (text, is_good)
}

/// Repeats an operation, for callgrind.
///
/// # Errors
///
/// There is none of this name, or it fails.
pub fn repeat(name: &str, count: u32) -> anyhow::Result<()> {
    let subject = Subject::find(name).with_context(|| format!("no operation {name:?}"))?;
    ensure!(count > 0, "nothing to be done");
    subject.make()?.run(count)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn prices(all: &[(&str, u64)]) -> Prices {
        all.iter()
            .map(|(name, price)| ((*name).to_owned(), *price))
            .collect()
    }

    #[test]
    fn every_operation_works() {
        for subject in paths::all() {
            subject.make().unwrap().run(70).unwrap();
        }
    }

    #[test]
    fn only_what_costs_more_is_bad() {
        let old = prices(&[("a", 100), ("b", 100), ("gone", 7)]);
        let (text, is_good) = compare(&old, &prices(&[("a", 105), ("b", 50), ("new", 9)]), 0.05);
        assert!(is_good, "{text}");
        for part in ["1.050", "--update", "new", "not in this build"] {
            assert!(text.contains(part), "{text}");
        }
        let (text, is_good) = compare(&old, &prices(&[("a", 106)]), 0.05);
        assert!(!is_good && text.contains("costs more"), "{text}");
    }

    #[test]
    fn a_baseline_comes_back_as_it_was() {
        let file = std::env::temp_dir().join(format!("tsc-bench-{}.txt", std::process::id()));
        let all = prices(&[("decode", 41), ("way-udp", 12345)]);
        write(&file, &all).unwrap();
        assert_eq!(read(&file).unwrap(), all);
        fs::write(&file, "decode\n").unwrap();
        assert!(read(&file).is_err());
        fs::remove_file(&file).unwrap();
    }
}
