//! See `tsc-bench --help`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tsc_bench::instructions;

/// All figures of docs/performance.md. Started by tools/bench.sh and tools/instructions.sh.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
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

/// To standard error.
fn say(text: &str) {
    // Without standard error there is only the exit code.
    let _told = writeln!(std::io::stderr(), "{text}");
}

/// Whether all is as it should be.
fn go(cli: &Cli) -> anyhow::Result<bool> {
    match &cli.command {
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
