//! See `tsc-load --help`.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use tsc_load::cli::{Cli, Command};
use tsc_load::{relay, run};

fn main() -> ExitCode {
    match go(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            // Without standard error there is only the exit code.
            let _told = writeln!(std::io::stderr(), "tsc-load: {error:#}");
            ExitCode::from(1)
        }
    }
}

fn go(cli: &Cli) -> anyhow::Result<bool> {
    let mut output = std::io::stdout();
    match &cli.command {
        Command::Run(args) => {
            let (report, is_good) = run::run(args)?;
            if args.setting.json {
                serde_json::to_writer_pretty(&mut output, &report)?;
                writeln!(output)?;
            } else {
                write!(output, "{}", report.text())?;
            }
            Ok(is_good)
        }
        Command::Reflector(args) => {
            run::reflect(args.address, |address| {
                let _told = writeln!(std::io::stderr(), "listening on {address}");
            })?;
            Ok(true)
        }
        Command::Relay(args) => {
            relay::serve(args.kind, args.to, &mut output)?;
            Ok(true)
        }
    }
}
