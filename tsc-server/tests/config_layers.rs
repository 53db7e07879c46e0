//! Files, environment and flags: which wins, and how each names itself in errors.
// The configurations here speak DTLS, and name the default backend.
#![cfg(feature = "dtls-openssl")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

mod config_support;

use std::path::Path;

use config_support::{GOOD, PEMS};
use tsc_server::config::{Config, DEFAULT_CONFIG, Environment, LogLevel, Overrides};

/// A directory with `text` and all files it names.
fn directory(text: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    write("tsc-server.toml", text);
    write("server.pem", &PEMS.certificate);
    write("server.key", &PEMS.key);
    write("ca.pem", &PEMS.ca);
    write("client-ca.pem", &PEMS.ca);
    directory
}

fn load(
    directory: &Path,
    variables: &[(&str, &str)],
    overrides: &Overrides,
) -> Result<Config, String> {
    let environment = variables.iter().copied().collect();
    Config::load(&directory.join("tsc-server.toml"), &environment, overrides)
        .map_err(|errors| errors.to_string())
}

#[test]
fn the_flag_wins_over_the_environment_over_the_file() {
    let directory =
        directory(&GOOD.replace("element-id = 7", "element-id = 7\nlog-level = \"warn\""));
    let level = |variables: &[(&str, &str)], overrides: &Overrides| {
        load(directory.path(), variables, overrides)
            .unwrap()
            .system
            .log_level
    };
    let none = Overrides::default();
    assert_eq!(level(&[], &none), LogLevel::Warn);
    assert_eq!(level(&[("TSC_LOG_LEVEL", "")], &none), LogLevel::Warn);
    assert_eq!(level(&[("TSC_LOG_LEVEL", "debug")], &none), LogLevel::Debug);
    let mut flags = Overrides::default();
    flags.set("log-level", "trace", "flag --log-level");
    assert_eq!(
        level(&[("TSC_LOG_LEVEL", "debug")], &flags),
        LogLevel::Trace
    );
}

#[test]
fn every_key_of_the_system_has_a_variable() {
    let directory = directory(
        GOOD.strip_prefix("[tscf-config]\nelement-id = 7\n")
            .unwrap(),
    );
    let config = load(
        directory.path(),
        &[
            ("TSC_ELEMENT_ID", "9"),
            ("TSC_KEEPALIVE_TIMER", "31"),
            ("TSC_KEEPALIVE_TIMER_DATAGRAM", "32"),
            ("TSC_TUNNEL_PERSISTENCE_TIME", "33"),
            ("TSC_WORKERS", "3"),
            ("TSC_GATHER_TIME", "34"),
            ("TSC_BUSY_POLL", "38"),
            ("TSC_MAX_TUNNELS", "34"),
            ("TSC_MAX_HALF_OPEN", "35"),
            ("TSC_BUSY_WHEN_OVERLOADED", "false"),
            ("TSC_ADDRESS_QUARANTINE", "36"),
            ("TSC_GRACEFUL_STOP_DEADLINE", "37"),
            ("TSC_LOG_LEVEL", "error"),
            ("TSC_LOG_FORMAT", "json"),
            ("TSC_TRACE_FILE", "123"),
            ("TSC_TRACE_REDACTION", "sip"),
            ("TSC_TRACE_FILE_SIZE", "39"),
            ("TSC_TRACE_FILES", "40"),
            ("TSC_TRACE_FILE_TIME", "41"),
            ("TSC_TRACE_OUTER", "true"),
            ("TSC_TRACE_DIRECTORY", "42"),
            ("TSC_CONTROL_SOCKET", "43"),
        ],
        &Overrides::default(),
    )
    .unwrap();
    let printed = config.to_string();
    let (system, _) = printed.split_once("\n\n").unwrap();
    let [trace, traces, control] = ["123", "42", "43"].map(|name| directory.path().join(name));
    assert_eq!(
        system,
        format!(
            "[tscf-config]\nelement-id = 9\nkeepalive-timer = 31\nkeepalive-timer-datagram = 32\n\
             tunnel-persistence-time = 33\nworkers = 3\ngather-time = 34\nbusy-poll = 38\nmax-tunnels = 34\nmax-half-open = 35\n\
             busy-when-overloaded = false\n\
             address-quarantine = 36\ngraceful-stop-deadline = 37\nlog-level = \"error\"\n\
             log-format = \"json\"\ntrace-file = \"{}\"\n\
             trace-redaction = \"sip\"\ntrace-file-size = 39\ntrace-files = 40\ntrace-file-time = 41\n\
             trace-outer = true\ntrace-insecure-decryption-secrets = false\n\
             trace-directory = \"{}\"\ncontrol-socket = \"{}\"",
            trace.display(),
            traces.display(),
            control.display()
        )
    );
}

#[test]
fn errors_name_the_variable_or_flag() {
    let directory = directory(GOOD);
    let mut flags = Overrides::default();
    flags.set("log-format", "xml", "flag --log-format");
    let report = load(
        directory.path(),
        &[
            ("TSC_ELEMENT_ID", "1024"),
            ("TSC_LOGLEVEL", "info"),
            ("TSC_HOME", "/"),
        ],
        &flags,
    )
    .unwrap_err();
    assert_eq!(
        report,
        "error: environment variable TSC_ELEMENT_ID: tscf-config.element-id: 1024 is outside 0-1023\n  \
         help: use a number from 0 to 1023\n\
         error: environment variable TSC_LOGLEVEL: unknown key\n  \
         help: did you mean \"TSC_LOG_LEVEL\"?\n\
         error: flag --log-format: tscf-config.log-format: \"xml\" is none of text, json\n  \
         help: known here: json, text"
    );
}

#[test]
fn paths_start_where_the_file_is() {
    let directory = directory(GOOD);
    let config = load(directory.path(), &[], &Overrides::default()).unwrap();
    let profile = &config.tls_profiles[0];
    assert_eq!(
        profile.certificate.path,
        directory.path().join("server.pem")
    );
    // And what is printed can be used from anywhere.
    assert_eq!(
        Config::parse(&config.to_string(), "printed").unwrap(),
        config
    );
}

#[test]
fn systemd_credentials_can_be_named() {
    let directory = directory(&GOOD.replace("\"server.key\"", "\"credential:key\""));
    let report = load(directory.path(), &[], &Overrides::default()).unwrap_err();
    assert!(
        report.contains("$CREDENTIALS_DIRECTORY is not set"),
        "{report}"
    );

    let credentials = tempfile::tempdir().unwrap();
    std::fs::write(credentials.path().join("key"), &PEMS.key).unwrap();
    let variable = credentials.path().to_str().unwrap();
    let config = load(
        directory.path(),
        &[("CREDENTIALS_DIRECTORY", variable)],
        &Overrides::default(),
    )
    .unwrap();
    assert_eq!(
        config.tls_profiles[0].private_key.path,
        credentials.path().join("key")
    );
}

#[test]
fn a_file_that_is_too_large_is_not_read() {
    let directory = directory(&"#".repeat(2 << 20));
    let report = load(directory.path(), &[], &Overrides::default()).unwrap_err();
    assert!(report.contains("larger than 1048576 bytes"), "{report}");
}

#[test]
fn files_that_are_missing_are_named() {
    let directory = directory(GOOD);
    std::fs::remove_file(directory.path().join("server.key")).unwrap();
    let report = load(directory.path(), &[], &Overrides::default()).unwrap_err();
    let path = directory.path().join("server.key");
    assert!(report.contains(path.to_str().unwrap()), "{report}");
    assert!(
        report.contains("tsc-server.toml:6:15: tls-profile[0].certificate"),
        "{report}"
    );
}

#[test]
fn the_commented_example_is_good_and_opens_no_clear_port() {
    let directory = directory(DEFAULT_CONFIG);
    let config = load(directory.path(), &[], &Overrides::default()).unwrap();
    assert_eq!(config.warnings(), [""; 0]);
}

/// What the example says of defaults is true: with every commented default in force, nothing changes.
#[test]
fn the_commented_defaults_are_the_defaults() {
    // These have no default, or go with another kind of authentication.
    let examples = [
        "trace-file",
        "trace-directory",
        "control-socket",
        "token-file",
        "allow-token-on-clear",
        "dscp",
        "alternate-servers",
        "udp-port-range",
        "name",
        "routes",
        "mtu",
        "descriptor",
    ];
    let mut activated = 0;
    let text: String = DEFAULT_CONFIG
        .lines()
        .map(|line| {
            let key = line
                .strip_prefix('#')
                .and_then(|rest| rest.split_once(" = "));
            let active = key.is_some_and(|(key, _)| {
                !key.contains(' ') && !key.is_empty() && !examples.contains(&key)
            });
            activated += usize::from(active);
            format!("{}\n", if active { &line[1..] } else { line })
        })
        .collect();
    assert_eq!(activated, 59, "keys with a commented default");
    let commented = directory(DEFAULT_CONFIG);
    let active = directory(&text);
    let rename = |config: Config| {
        let config = config.to_string();
        config.replace(
            active.path().to_str().unwrap(),
            commented.path().to_str().unwrap(),
        )
    };
    let none = Overrides::default();
    assert_eq!(
        rename(load(active.path(), &[], &none).unwrap()),
        rename(load(commented.path(), &[], &none).unwrap()),
    );
}

/// Each key that a printed configuration can contain is in the example and in the documentation.
#[test]
fn every_key_is_documented() {
    let documentation = include_str!("../../docs/configuration.md");
    let mut text = GOOD
        .replace(
            "\"none\"",
            "\"token\"\ndscp = 1\ntoken-file = \"tokens\"\nassigned-services = [\"STG\"]",
        )
        .replace(
            "element-id = 7",
            "trace-file = \"t\"\ntrace-directory = \"d\"\ncontrol-socket = \"c\"",
        )
        .replace(
            "name = \"v4\"",
            "name = \"v4\"\negress = \"tun\"\ndata-flow = \"d\"",
        );
    text.push_str(
        r#"
[[tscf-interface.routed-prefix]]
identity = "alice"
prefixes = ["172.16.0.0/24"]
[[tscf-data-flow]]
name = "d"
[[tscf-protocol-policy]]
name = "p"
ip-address = "192.0.2.1"
port = 1
egress = "tun"
remote-ip-address = "192.0.2.2"
remote-port = 2
[user-space-egress]
udp-port-range = "1-2"
[tun-egress]
name = "t"
routes = []
mtu = 1400
"#,
    );
    let directory = directory(&text);
    std::fs::write(
        directory.path().join("tokens"),
        format!("alice:{}", config_support::ABC),
    )
    .unwrap();
    let printed = load(directory.path(), &[], &Overrides::default())
        .unwrap()
        .to_string();
    let keys = printed.lines().filter_map(|line| line.split_once(" = "));
    for (key, _) in keys {
        assert!(
            documentation.contains(&format!("`{key}`")),
            "{key} in docs/configuration.md"
        );
        assert!(
            DEFAULT_CONFIG.contains(&format!("{key} = ")),
            "{key} in tsc-server.toml"
        );
    }
}

#[test]
fn variables_are_a_plain_map() {
    let environment: Environment = [("A", "1"), ("B", "")].into_iter().collect();
    assert_eq!(environment.value("A"), Some("1"));
    assert_eq!(environment.value("B"), None, "empty counts as unset");
    assert_eq!(environment.value("C"), None);
}
