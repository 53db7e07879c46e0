//! See `tsc-bench --help`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::bail;
use clap::{Parser, Subcommand};
use tsc_bench::results::{self, Results};
use tsc_bench::suite::{self, Section};
use tsc_bench::{check, document, instructions};

/// All figures of docs/performance.md. Started by tools/bench.sh and tools/instructions.sh.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure sections with tsc-load, and keep the results.
    Measure {
        /// Where results are kept, a file for each section.
        #[arg(long, default_value = "target/bench")]
        results: PathBuf,
        /// Only these sections: names, or their beginnings up to a hyphen (udp, tun, peer-coturn).
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
        /// No other programs.
        #[arg(long)]
        no_peers: bool,
        /// Fewer windows, tunnels and seconds: to see whether all works.
        #[arg(long)]
        quick: bool,
        /// Only those that have no result yet.
        #[arg(long)]
        missing: bool,
        /// Tell which sections there are, and do nothing.
        #[arg(long)]
        list: bool,
        /// The load generator; by default the one beside this program.
        #[arg(long)]
        load: Option<PathBuf>,
    },
    /// The short form for every change: nothing is lost at a moderate rate, and a packet costs about the same among a thousand tunnels.
    Check {
        /// The load generator; by default the one beside this program.
        #[arg(long)]
        load: Option<PathBuf>,
    },
    /// Make tables and plots of the results that there are.
    Document {
        /// Where results are.
        #[arg(long, default_value = "target/bench")]
        results: PathBuf,
        /// Where to write.
        #[arg(long, default_value = "docs/performance")]
        into: PathBuf,
    },
    /// Count instructions of pieces of the way of a packet by callgrind, and compare with the baseline. Exit code 1 if one
    /// costs more.
    Instructions {
        /// The baseline.
        #[arg(long, default_value = "docs/performance/instructions.txt")]
        baseline: PathBuf,
        /// Write it anew.
        #[arg(long)]
        update: bool,
        /// How much more may be, as a share.
        #[arg(long, default_value_t = 0.05)]
        tolerance: f64,
    },
    /// Repeat one of the operations: what callgrind counts.
    #[command(hide = true)]
    Repeat {
        /// Which.
        name: String,
        /// How often.
        count: u32,
    },
}

fn main() -> ExitCode {
    match go(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            say(&format!("tsc-bench: {error:#}"));
            ExitCode::from(1)
        }
    }
}

/// The load generator: a given one, or that beside this program.
fn generator(given: Option<&PathBuf>) -> anyhow::Result<PathBuf> {
    Ok(match given {
        Some(load) => load.clone(),
        None => std::env::current_exe()?.with_file_name("tsc-load"),
    })
}

/// Measures sections; whether all could be.
fn measure(load: &Path, sections: &[Section], results: &Path) -> bool {
    let begun = Instant::now();
    let mut is_good = true;
    for (number, section) in sections.iter().enumerate() {
        let (name, seconds) = (&section.name, begun.elapsed().as_secs());
        say(&format!(
            "=== {name} ({} of {}, after {seconds} s)",
            number + 1,
            sections.len()
        ));
        if let Err(error) = results::measure(load, section, results) {
            is_good = false;
            say(&format!("tsc-bench: {name}: {error:#}"));
        }
    }
    is_good
}

/// To standard error.
fn say(text: &str) {
    // Without standard error there is only the exit code.
    let _told = writeln!(std::io::stderr(), "{text}");
}

/// Whether all is as it should be.
fn go(cli: &Cli) -> anyhow::Result<bool> {
    match &cli.command {
        Command::Measure {
            results,
            only,
            no_peers,
            quick,
            missing,
            list,
            load,
        } => {
            let windows = if *quick { 1 } else { 3 };
            let mut sections = suite::sections(windows, *quick);
            let is_known = |word: &&String| !sections.iter().any(|one| one.is_meant_by(word));
            if let Some(word) = only.iter().find(is_known) {
                bail!("no section {word}: --list tells which there are");
            }
            let is_wanted = |section: &Section| {
                let mut words = only.iter();
                let is_chosen = only.is_empty() || words.any(|word| section.is_meant_by(word));
                let is_there = results.join(format!("{}.json", section.name)).is_file();
                is_chosen && !(*no_peers && section.is_of_peers()) && !(*missing && is_there)
            };
            sections.retain(is_wanted);
            if *list {
                for section in &sections {
                    writeln!(std::io::stdout(), "{}", section.name)?;
                }
                return Ok(true);
            }
            Ok(measure(&generator(load.as_ref())?, &sections, results))
        }
        Command::Check { load } => check::check(&generator(load.as_ref())?, &mut say),
        Command::Document { results, into } => {
            document::write(&Results::read(results)?, into)?;
            Ok(true)
        }
        Command::Instructions {
            baseline,
            update,
            tolerance,
        } => {
            let new = instructions::count(&|name| say(&format!("counted {name}")))?;
            let old = match instructions::read(baseline) {
                Err(_) if *update => Vec::new(),
                read => read?,
            };
            let (text, is_good) = instructions::compare(&old, &new, *tolerance);
            write!(std::io::stdout(), "{text}")?;
            if *update {
                instructions::write(baseline, &new)?;
            }
            Ok(is_good || *update)
        }
        Command::Repeat { name, count } => {
            instructions::repeat(name, *count)?;
            Ok(true)
        }
    }
}
