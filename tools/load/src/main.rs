//! See `tsc-load --help`.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser as _};
use tsc_load::cli::{Cli, Command, SettingArgs};
use tsc_load::report::Report;
use tsc_load::{hold, hostile, overload, reflector, relay, run};

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(missing) = cli.missing() {
        Cli::command()
            .error(ErrorKind::MissingRequiredArgument, missing)
            .exit();
    }
    match go(&cli) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            // Without standard error there is only the exit code.
            let _told = writeln!(std::io::stderr(), "tsc-load: {error:#}");
            ExitCode::from(1)
        }
    }
}

/// Whether all went well.
fn go(cli: &Cli) -> anyhow::Result<bool> {
    match &cli.command {
        Command::Run(args) => tell(&args.setting, run::run(args)?),
        Command::Setup { args, peer } => {
            tell(&args.setting, hold::hold(args, peer, Duration::ZERO)?)
        }
        Command::Hold { args, time } => tell(&args.setting, hold::hold(args, &[], *time)?),
        Command::Overload(args) => tell(&args.setting, overload::overload(args)?),
        Command::Hostile(args) => tell(&args.setting, hostile::hostile(args)?),
        Command::Reflector(args) => {
            reflector::serve(args.address, |address| {
                let _told = writeln!(std::io::stderr(), "listening on {address}");
            })?;
            Ok(true)
        }
        Command::Relay(args) => {
            let identity = args.identity.as_deref();
            relay::serve(args.kind, args.to, identity, &mut std::io::stdout())?;
            Ok(true)
        }
    }
}

/// Writes a report to standard output.
fn tell(setting: &SettingArgs, (report, is_good): (Report, bool)) -> anyhow::Result<bool> {
    let mut output = std::io::stdout();
    if setting.json {
        serde_json::to_writer_pretty(&mut output, &report)?;
        writeln!(output)?;
    } else {
        write!(output, "{}", report.text())?;
    }
    Ok(is_good)
}
