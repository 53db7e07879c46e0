//! The command line: what each flag leads to, and the exit codes.
// The configurations here speak DTLS, and name the default backend.
#![cfg(feature = "dtls-openssl")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

mod config_support;

use std::path::PathBuf;

use clap::{CommandFactory as _, Parser as _};
use config_support::{GOOD, PEMS};
use tsc_server::cli::{Action, Cli, Exit};
use tsc_server::config::{Config, Environment, LogFormat, LogLevel};

/// A file with `text` beside the certificates it names.
fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tsc-server.toml");
    std::fs::write(&path, text).unwrap();
    std::fs::write(directory.path().join("server.pem"), &PEMS.certificate).unwrap();
    std::fs::write(directory.path().join("server.key"), &PEMS.key).unwrap();
    std::fs::write(directory.path().join("ca.pem"), &PEMS.ca).unwrap();
    (directory, path)
}

fn act(text: &str, flags: &[&str], variables: &[(&str, &str)]) -> Action {
    let (_directory, path) = file(text);
    let config = ["tsc-server", "--config", path.to_str().unwrap()];
    let cli = Cli::try_parse_from(config.iter().chain(flags)).unwrap();
    cli.action(&variables.iter().copied().collect())
}

#[test]
fn the_command_is_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn without_flags_the_server_runs() {
    let Action::Run { config, log } = act(GOOD, &[], &[]) else {
        panic!("run");
    };
    assert_eq!(config.system.element_id, 7);
    assert_eq!((log.level, log.format), (LogLevel::Info, LogFormat::Text));
    assert_eq!(log.filter, None);
}

#[test]
fn flags_reach_the_configuration() {
    let flags = [
        "-l",
        "debug",
        "--log-format",
        "json",
        "--trace",
        "trace.pcapng",
    ];
    let Action::Run { config, log } = act(GOOD, &flags, &[("TSC_LOG_LEVEL", "off")]) else {
        panic!("run");
    };
    assert_eq!((log.level, log.format), (LogLevel::Debug, LogFormat::Json));
    let trace = config.system.trace_file.unwrap();
    assert_eq!(trace, std::path::absolute("trace.pcapng").unwrap());
}

#[test]
fn the_flag_wins_over_rust_log() {
    let rust_log = [("RUST_LOG", "tsc_csm=trace")];
    let Action::Run { log, .. } = act(GOOD, &[], &rust_log) else {
        panic!("run");
    };
    assert_eq!(log.filter.as_deref(), Some("tsc_csm=trace"));
    let Action::Run { log, .. } = act(GOOD, &["--log-level", "warn"], &rust_log) else {
        panic!("run");
    };
    assert_eq!((log.level, log.filter), (LogLevel::Warn, None));
    let Action::Refuse { report, exit } = act(GOOD, &[], &[("RUST_LOG", "a=b=c")]) else {
        panic!("refuse");
    };
    assert_eq!(exit, Exit::Configuration);
    assert!(report.contains("RUST_LOG"), "{report}");
}

#[test]
fn a_good_configuration_checks_out() {
    let Action::Print { text } = act(GOOD, &["--check-config"], &[]) else {
        panic!("print");
    };
    assert!(
        text.contains("ok: 1 interface with 1 port, 2 address pools\n"),
        "{text}"
    );
    assert!(
        text.contains("warning: interface access: clients are not authenticated\n"),
        "{text}"
    );
    assert!(
        text.contains("warning: pool v6: no interface uses it\n"),
        "{text}"
    );
}

#[test]
fn a_bad_configuration_exits_with_2() {
    let bad = GOOD.replace("element-id", "elment-id");
    for flags in [&["--check-config"][..], &["--print-config"], &[]] {
        let Action::Refuse { report, exit } = act(&bad, flags, &[]) else {
            panic!("refuse");
        };
        assert_eq!(exit.code(), 2);
        assert!(
            report.contains("tsc-server.toml:2:1: tscf-config.elment-id: unknown key\n"),
            "{report}"
        );
        assert!(report.ends_with("\n1 error"), "{report}");
    }
}

#[test]
fn a_bad_certificate_exits_with_4_but_fails_the_check_with_2() {
    let bad = GOOD.replace("server.pem", "missing.pem");
    for (flags, code) in [(&[][..], 4), (&["--check-config"][..], 2)] {
        let Action::Refuse { exit, .. } = act(&bad, flags, &[]) else {
            panic!("refuse");
        };
        assert_eq!(exit.code(), code);
    }
}

#[test]
fn the_check_covers_the_trace_file_and_leaves_it_alone() {
    let directory = tempfile::tempdir().unwrap();
    let check = |path: &std::path::Path| {
        act(
            GOOD,
            &["--check-config", "--trace", path.to_str().unwrap()],
            &[],
        )
    };
    let refused = [
        directory.path().join("missing/trace.pcapng"),
        directory.path().to_owned(),
    ];
    for path in refused {
        let Action::Refuse { report, exit } = check(&path) else {
            panic!("refuse {}", path.display());
        };
        assert_eq!(exit, Exit::Configuration);
        assert!(
            report.contains("trace-file") && report.contains(path.to_str().unwrap()),
            "{report}"
        );
    }
    let new = directory.path().join("new.pcapng");
    assert!(matches!(check(&new), Action::Print { .. }));
    assert!(!new.exists());
    let old = directory.path().join("old.pcapng");
    std::fs::write(&old, "yesterday's").unwrap();
    assert!(matches!(check(&old), Action::Print { .. }));
    assert_eq!(std::fs::read_to_string(&old).unwrap(), "yesterday's");
}

#[test]
fn the_printed_configuration_is_one() {
    let (_directory, path) = file(GOOD);
    let flags = [
        "tsc-server",
        "-c",
        path.to_str().unwrap(),
        "--print-config",
        "-l",
        "trace",
    ];
    let cli = Cli::try_parse_from(flags).unwrap();
    let Action::Print { text } = cli.action(&Environment::default()) else {
        panic!("print");
    };
    let config = Config::parse(&text, "printed").unwrap();
    assert_eq!(config.system.log_level, LogLevel::Trace);
    assert_eq!(
        config,
        Config::load(&path, &Environment::default(), &cli.overrides()).unwrap()
    );
}

#[test]
fn the_example_needs_no_file() {
    let cli = Cli::try_parse_from(["tsc-server", "--print-default-config"]).unwrap();
    let Action::Print { text } = cli.action(&Environment::default()) else {
        panic!("print");
    };
    assert!(text.contains("[[tscf-interface]]"));
}

#[test]
fn modes_exclude_each_other() {
    for pair in [
        ["--check-config", "--print-config"],
        ["--check-config", "--print-default-config"],
        ["--print-config", "--print-default-config"],
    ] {
        assert!(
            Cli::try_parse_from(["tsc-server", pair[0], pair[1]]).is_err(),
            "{pair:?}"
        );
    }
    assert!(Cli::try_parse_from(["tsc-server", "--log-level", "loud"]).is_err());
}

#[test]
fn help_teaches_and_version_tells_the_backends() {
    let help = Cli::command().render_long_help().to_string();
    for exit in Exit::ALL {
        assert!(
            help.contains(&format!("{}  {}", exit.code(), exit.meaning())),
            "{help}"
        );
    }
    for part in [
        "TSC_LOG_LEVEL",
        "TSC_GRACEFUL_STOP_DEADLINE",
        "RUST_LOG",
        "NO_COLOR",
        "--check-config",
    ] {
        assert!(help.contains(part), "{part} in {help}");
    }
    let version = Cli::command().render_long_version();
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    assert!(version.contains("DTLS backends: "), "{version}");
}

#[test]
fn exit_codes_are_stable() {
    let codes: Vec<u8> = Exit::ALL.iter().map(|exit| exit.code()).collect();
    assert_eq!(codes, [0, 1, 2, 3, 4]);
}
