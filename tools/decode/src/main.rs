//! `tsc-decode`: shows TSCF units from hex or a capture file as text or JSON.
//!
//! `--help` explains use, exit codes and the JSON fields. Everything is bounded: records of a capture, TCP
//! directions followed and bytes held for each; nothing is read into memory as a whole but hex.

mod capture;
mod cli;
mod hex;
mod outer;
mod report;
mod source;
mod tcp;
mod view;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use crate::cli::Arguments;
use crate::report::Report;

/// Something could not be decoded.
const MALFORMED: u8 = 1;
/// The command line, a file, or the system.
const FAILED: u8 = 2;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let stdout = io::stdout().lock();
    let mut report = Report::new(io::BufWriter::new(stdout), arguments.style());
    match source::run(&arguments, &mut report).and_then(|()| Ok(report.finish()?)) {
        Ok(summary) => {
            if let Some(text) = summary.text() {
                complain(&text);
            }
            if summary.is_clean() {
                ExitCode::SUCCESS
            } else {
                MALFORMED.into()
            }
        }
        // Whoever read our output has seen enough (`| head`).
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("error: {error:#}"));
            FAILED.into()
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}

/// Says it on standard error; if even that is closed, the exit code has to do.
fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "tsc-decode: {text}");
}
