//! See `tsc-quality --help`.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
};

use anyhow::{Context as _, bail, ensure};
use clap::{Args, Parser, Subcommand};
use tsc_quality::{
    checks, document, isolation,
    lab::{CallOptions, Lab},
    matrix::{self, Cell},
    pesq::Pesq,
    programs::Programs,
    results::{self, Results},
    run,
};

/// Speech through tunnels over bad networks: what is lost, what is heard, what it costs. All figures of docs/quality.md.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, after_long_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
A cell is one call over one network, named TRANSPORT-SERVICE-LOSS-BURST-DELAY-LISTENER, such as
udp-2-copies-loss10-burst1-50ms-fixed: tunnel over UDP, two copies of each packet, 10 % independent loss each way, 50 ms one way,
listeners that wait 60 ms for late packets (waiting: up to 200 ms). Services: plain; over udp and dtls 1-copy, 2-copies, adaptive;
over tcp and tls ddt; over tcp fan-out-1, fan-out-2, balanced.
The programs are built by cargo, started in network namespaces, and speak through wires of this program, which lose
and delay packets. It takes root, /dev/net/tun, iproute2; for PESQ also python3-venv and a C compiler.

Examples:
  tsc-quality all                                  everything: measure, check, document
  tsc-quality measure --quick --seconds 30         a few cells, to see whether all works
  tsc-quality measure --only udp-2-copies,loss10   cells with these words in their names
  tsc-quality measure --missing                    what has no result yet
  tsc-quality check                                the targets, of the results that there are

Exit codes: 0 all was well, 1 a call, a check or a program failed, 2 wrong command line.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure, check, and write docs/quality.md with its plots.
    All(Measuring),
    /// Make calls, have PESQ look at them, and keep the results.
    Measure(Measuring),
    /// Tell whether the targets are met by the results that there are.
    Check(Kept),
    /// Write tables and plots of the results that there are.
    Document(Kept),
    /// Make these calls, in namespaces of our own: what `measure` starts.
    #[command(hide = true)]
    Calls(Calls),
}

#[derive(Debug, Args)]
struct Kept {
    /// Where results are kept, a file for each cell.
    #[arg(long, default_value = "target/quality")]
    results: PathBuf,
    /// The document whose figures are written.
    #[arg(long, default_value = "docs/quality.md")]
    document: PathBuf,
}

#[derive(Debug, Args)]
struct Measuring {
    #[command(flatten)]
    kept: Kept,
    #[command(flatten)]
    how: How,
    /// Only cells with one of these words in their names: udp, 2-copies, loss05, burst3, 150ms, waiting, or whole names.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Three losses and one kind of listener only.
    #[arg(long)]
    quick: bool,
    /// Only cells that have no result yet.
    #[arg(long)]
    missing: bool,
    /// Tell which cells there are, and do nothing.
    #[arg(long)]
    list: bool,
    /// Directory with OpenTSC's programs. [default: those beside this one, built by cargo if need be]
    #[arg(long)]
    programs: Option<PathBuf>,
    /// Without PESQ.
    #[arg(long)]
    no_pesq: bool,
    /// Keep recordings of what was heard.
    #[arg(long)]
    keep_audio: bool,
}

#[derive(Clone, Debug, Args)]
struct How {
    /// Length of each call: whole rounds of ten seconds of speech, of which PESQ does not look at the first.
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Calls at the same time. [default: 12 for each processor]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=500))]
    at_once: Option<u16>,
    /// What losses are drawn with.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Debug, Args)]
struct Calls {
    #[command(flatten)]
    kept: Kept,
    #[command(flatten)]
    how: How,
    #[arg(long)]
    programs: PathBuf,
    /// Names of cells, a line for each.
    cells: PathBuf,
}

fn main() -> ExitCode {
    match go(Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            say(&format!("tsc-quality: {error:#}"));
            ExitCode::from(1)
        }
    }
}

/// To standard error.
fn say(text: &str) {
    // Without standard error there is only the exit code.
    let _told = writeln!(std::io::stderr(), "{text}");
}

/// Whether all was well.
fn go(cli: Cli) -> anyhow::Result<bool> {
    match cli.command {
        Command::All(measuring) => {
            let is_measured = measure(&measuring)?;
            if measuring.list {
                return Ok(is_measured);
            }
            let is_good = check(&measuring.kept)?;
            write(&measuring.kept)?;
            Ok(is_measured && is_good)
        }
        Command::Measure(measuring) => measure(&measuring),
        Command::Check(kept) => check(&kept),
        Command::Document(kept) => write(&kept).map(|()| true),
        Command::Calls(calls) => make(&calls).map(|()| true),
    }
}

fn check(kept: &Kept) -> anyhow::Result<bool> {
    let results = Results::read(&kept.results)?;
    let checks = checks::all(&results);
    for check in &checks {
        writeln!(std::io::stdout(), "{}", checks::line(check))?;
    }
    Ok(checks::are_good(&checks))
}

fn write(kept: &Kept) -> anyhow::Result<()> {
    document::write(&Results::read(&kept.results)?, &kept.document)
}

/// Which cells are wanted.
fn wanted(measuring: &Measuring) -> anyhow::Result<Vec<Cell>> {
    let mut cells = if measuring.quick {
        matrix::quick_cells()
    } else {
        matrix::cells()
    };
    let is_known = |word: &&String| !cells.iter().any(|cell| cell.is_meant_by(word));
    if let Some(word) = measuring.only.iter().find(is_known) {
        bail!("no cell has {word} in its name: --list tells which there are");
    }
    let results = &measuring.kept.results;
    cells.retain(|cell| {
        let is_chosen =
            measuring.only.is_empty() || measuring.only.iter().any(|word| cell.is_meant_by(word));
        is_chosen && !(measuring.missing && results::file(results, cell).is_file())
    });
    Ok(cells)
}

fn measure(measuring: &Measuring) -> anyhow::Result<bool> {
    let cells = wanted(measuring)?;
    if measuring.list {
        for cell in &cells {
            writeln!(std::io::stdout(), "{}", cell.name())?;
        }
        return Ok(true);
    }
    let directory = &measuring.kept.results;
    fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    // Before calls are made: who has no compiler shall hear of it now.
    let pesq = if measuring.no_pesq {
        None
    } else {
        Some(Pesq::prepare(&directory.join("pesq")))
    };
    if let Some(Err(error)) = &pesq {
        say(&format!("tsc-quality: no PESQ, only G.107: {error:#}"));
    }
    if !cells.is_empty() {
        start_calls(measuring, &cells)?;
    }
    if let Some(Ok(pesq)) = &pesq {
        say("PESQ looks at what was heard");
        run::score(pesq, directory, &audio(directory), measuring.keep_audio)?;
    }
    let results = Results::read(directory)?;
    Ok(checks::missing(&results, &cells) == 0 && !matches!(pesq, Some(Err(_))))
}

fn audio(results: &Path) -> PathBuf {
    results.join("audio")
}

/// This program again, in namespaces.
fn start_calls(measuring: &Measuring, cells: &[Cell]) -> anyhow::Result<()> {
    let programs = match &measuring.programs {
        Some(directory) => Programs::in_directory(directory)?,
        None => Programs::build()?,
    };
    for cell in cells {
        let old = results::file(&measuring.kept.results, cell);
        if old.exists() {
            fs::remove_file(old)?;
        }
    }
    let names: Vec<_> = cells.iter().map(Cell::name).collect();
    let mut list = tempfile::NamedTempFile::new()?;
    list.write_all(names.join("\n").as_bytes())?;
    let How {
        seconds,
        at_once,
        seed,
    } = &measuring.how;
    let mut command = isolation::command(&std::env::current_exe()?);
    command
        .arg("calls")
        .arg("--results")
        .arg(&measuring.kept.results);
    command.arg("--programs").arg(programs.directory());
    command.args([
        "--seconds",
        &seconds.to_string(),
        "--seed",
        &seed.to_string(),
    ]);
    if let Some(at_once) = at_once {
        command.args(["--at-once", &at_once.to_string()]);
    }
    let status = command.arg(list.path()).status();
    let status = status.context("setpriv and unshare (util-linux) are needed")?;
    ensure!(status.success(), "the calls could not be made");
    Ok(())
}

/// Makes calls, in here.
fn make(calls: &Calls) -> anyhow::Result<()> {
    ensure!(
        isolation::enter()?,
        "this is started by `tsc-quality measure`"
    );
    let names = fs::read_to_string(&calls.cells)?;
    let find = |name: &str| matrix::cells().into_iter().find(|cell| cell.name() == name);
    let cells: Option<Vec<Cell>> = names.lines().map(find).collect();
    let cells = cells.context("no such cell")?;
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let at_once = calls.how.at_once.map_or(12 * processors, usize::from);
    let options = CallOptions {
        seconds: calls.how.seconds,
        seed: calls.how.seed,
    };
    let rounds = cells.len().div_ceil(at_once) * (usize::try_from(options.seconds)? + 5);
    say(&format!(
        "{} calls of {} s, {at_once} at the same time: some {rounds} s",
        cells.len(),
        options.seconds
    ));
    let directory = &calls.kept.results;
    let lab = Lab::start(Programs::in_directory(&calls.programs)?, &audio(directory))?;
    let done = run::calls(&lab, &cells, at_once, &options, directory, &say);
    lab.stop();
    done
}
