//! Reads `[tscf-config]`, `[[tls-profile]]` and `[[tscf-address-pool]]`.

use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use tsc_osaa::trace::MAX_FILES;

use super::document::Section;
use super::error::ConfigErrorKind;
use super::files::Files;
use super::model::{MAX_TUNNELS, PoolConfig, SystemConfig, Timers, TlsProfile};
use super::range::AddressRange;
use super::read_egress;
use super::source::PemRef;
use super::value::Value;

/// Most entries of a list of addresses or ranges.
const MAX_RANGES: usize = 1024;
/// Most client authorities of a profile.
const MAX_AUTHORITIES: usize = 64;

/// Keys of the vendor's `tscf-config` that have no counterpart here.
const FOREIGN_SYSTEM: &[(&str, &str)] = &[
    ("red-port", HIGH_AVAILABILITY),
    ("red-max-trans", HIGH_AVAILABILITY),
    ("red-sync-start-time", HIGH_AVAILABILITY),
    ("red-sync-comp-time", HIGH_AVAILABILITY),
];
const HIGH_AVAILABILITY: &str = "high availability is not implemented in this version; remove it";

/// Keys of the vendor's `tscf-address-pool` that have no counterpart here.
const FOREIGN_POOL: &[(&str, &str)] =
    &[("dns-realm-id", "use \"dns-servers\" of [[tscf-interface]]")];

/// A value in whole seconds.
pub(super) fn seconds(value: &Value<'_>, low: u64, high: u64, zero: bool) -> Option<Duration> {
    value.number(low..=high, zero).map(Duration::from_secs)
}

/// Reads the three timers, each falling back to `inherited`.
pub(super) fn timers(section: &Section<'_>, inherited: Timers) -> Timers {
    let timer = |key, low, high, inherited| {
        section
            .value(key)
            .and_then(|value| seconds(&value, low, high, true))
            .unwrap_or(inherited)
    };
    Timers {
        keepalive_stream: timer("keepalive-timer", 30, 660, inherited.keepalive_stream),
        keepalive_datagram: timer(
            "keepalive-timer-datagram",
            30,
            660,
            inherited.keepalive_datagram,
        ),
        persistence: timer("tunnel-persistence-time", 10, 700, inherited.persistence),
    }
}

pub(super) fn system(section: Section<'_>, files: &Files<'_>) -> SystemConfig {
    let default = SystemConfig::default();
    let number = |key, low: u64, high: u64, default: u32| {
        section
            .value(key)
            .and_then(|value| value.number(low..=high, false))
            .unwrap_or(default)
    };
    let span = |key, high, default| {
        section
            .value(key)
            .and_then(|value| seconds(&value, 0, high, false))
            .unwrap_or(default)
    };
    let system = SystemConfig {
        element_id: section
            .value("element-id")
            .and_then(|value| value.number(0..=1023, false))
            .unwrap_or(default.element_id),
        timers: timers(&section, default.timers),
        workers: section
            .value("workers")
            .and_then(|value| value.number(0..=64, false))
            .filter(|workers: &u8| *workers > 0),
        gather_time: section
            .value("gather-time")
            .and_then(|value| value.number(0..=2000, false))
            .map_or(default.gather_time, Duration::from_micros),
        busy_poll: section
            .value("busy-poll")
            .and_then(|value| value.number(0..=1000, false))
            .map_or(default.busy_poll, Duration::from_micros),
        max_tunnels: number(
            "max-tunnels",
            1,
            u64::from(MAX_TUNNELS),
            default.max_tunnels,
        ),
        max_half_open: number("max-half-open", 1, 65_536, default.max_half_open),
        busy_when_overloaded: section
            .value("busy-when-overloaded")
            .and_then(|value| value.flag())
            .unwrap_or(default.busy_when_overloaded),
        quarantine: span("address-quarantine", 3600, default.quarantine),
        stop_deadline: span("graceful-stop-deadline", 600, default.stop_deadline),
        log_level: section
            .value("log-level")
            .and_then(|value| value.keyword())
            .unwrap_or(default.log_level),
        log_format: section
            .value("log-format")
            .and_then(|value| value.keyword())
            .unwrap_or(default.log_format),
        trace_file: section
            .value("trace-file")
            .and_then(|value| files.path(&value)),
        trace_redaction: section
            .value("trace-redaction")
            .and_then(|value| value.keyword())
            .unwrap_or(default.trace_redaction),
        trace_file_size: number("trace-file-size", 1, 1_048_576, default.trace_file_size),
        trace_files: section
            .value("trace-files")
            .and_then(|value| value.number(1..=u64::from(MAX_FILES), false))
            .unwrap_or(default.trace_files),
        trace_file_time: span("trace-file-time", 86_400, default.trace_file_time),
        trace_outer: section
            .value("trace-outer")
            .and_then(|value| value.flag())
            .unwrap_or(default.trace_outer),
        trace_insecure_decryption_secrets: section
            .value("trace-insecure-decryption-secrets")
            .and_then(|value| value.flag())
            .unwrap_or(default.trace_insecure_decryption_secrets),
        trace_directory: section
            .value("trace-directory")
            .and_then(|value| files.path(&value)),
        control_socket: section
            .value("control-socket")
            .and_then(|value| files.socket(&value)),
    };
    section.finish(FOREIGN_SYSTEM);
    system
}

pub(super) fn tls_profile(section: Section<'_>, files: &Files<'_>) -> TlsProfile {
    let name = section.required("name", "name = \"…\"");
    let certificate = section.required(
        "certificate",
        "certificate = \"server.pem\", the server's chain",
    );
    let private_key = section.required("private-key", "private-key = \"server.key\"");
    let client_ca = section.value("client-ca").map(|value| {
        let items = value.items(MAX_AUTHORITIES);
        items.iter().filter_map(|item| files.pem(item)).collect()
    });
    let pem = |value: Option<Value<'_>>| value.and_then(|value| files.pem(&value));
    let (certificate, private_key) = (pem(certificate), pem(private_key));
    let name = name.and_then(|value| value.name());
    section.finish(&[
        ("end-entity-certificate", "use \"certificate\""),
        ("trusted-ca-certificates", "use \"client-ca\""),
        (
            "mutual-authenticate",
            "use authentication = \"mtls\" in [[tscf-interface]]",
        ),
    ]);
    // An empty path stands for one that was refused; the configuration is then refused as a whole.
    let refused = || PemRef::file("");
    TlsProfile {
        name: name.unwrap_or_default(),
        certificate: certificate.unwrap_or_else(refused),
        private_key: private_key.unwrap_or_else(refused),
        client_ca: client_ca.unwrap_or_default(),
    }
}

pub(super) fn pool(section: Section<'_>, system: &SystemConfig) -> PoolConfig {
    let name = section
        .required("name", "name = \"…\"")
        .and_then(|value| value.name());
    let ranges = section
        .required("address-range", "address-range = [\"10.0.0.0/24\"]")
        .map(|value| ranges(&value))
        .unwrap_or_default();
    let exclude = section.value("exclude").map(|value| ranges_plain(&value));
    let netmask = section.value("netmask").and_then(|value| netmask(&value));
    let prefix_len = section
        .value("prefix-length")
        .and_then(|value| value.number(0..=128, false));
    let quarantine = section
        .value("address-quarantine")
        .and_then(|value| seconds(&value, 0, 3600, false));
    let (egress, policies, data_flow) = read_egress::of_pool(&section);
    section.finish(FOREIGN_POOL);
    PoolConfig {
        name: name.unwrap_or_default(),
        ranges,
        exclude: exclude.unwrap_or_default(),
        prefix_len_v4: netmask.unwrap_or(32),
        prefix_len_v6: prefix_len.unwrap_or(128),
        quarantine: quarantine.unwrap_or(system.quarantine),
        egress,
        policies,
        data_flow,
    }
}

/// Ranges as text, or as the vendor's tables of `network-address` and `subnet-mask`.
fn ranges(value: &Value<'_>) -> Vec<AddressRange> {
    let items = value.items(MAX_RANGES);
    let read = |item: &Value<'_>| {
        if item.is_table() {
            network(item)
        } else {
            range(item)
        }
    };
    items.iter().filter_map(read).collect()
}

fn ranges_plain(value: &Value<'_>) -> Vec<AddressRange> {
    let items = value.items(MAX_RANGES);
    items.iter().filter_map(range).collect()
}

fn range(value: &Value<'_>) -> Option<AddressRange> {
    let text = value.text()?;
    match text.parse() {
        Ok(range) => Some(range),
        Err(reason) => {
            value.invalid(
                text,
                reason,
                "write \"10.0.0.0/24\", \"10.0.0.10-10.0.0.99\" or \"10.0.0.7\", or the same in IPv6",
            );
            None
        }
    }
}

fn network(value: &Value<'_>) -> Option<AddressRange> {
    let section = value.section()?;
    let address = section
        .required("network-address", "network-address = \"10.0.0.0\"")
        .and_then(|value| value.parsed("IP address", "10.0.0.0"));
    let mask = section.required("subnet-mask", "subnet-mask = \"255.255.255.0\"");
    let length = mask.and_then(|value| netmask(&value));
    section.finish(&[]);
    let network = IpNet::new(address?, length?);
    let network = network.ok().filter(|network| network.trunc() == *network);
    if network.is_none() {
        value.fail(
            ConfigErrorKind::Conflict {
                reason: "network-address and subnet-mask describe no network".to_owned(),
            },
            "let the address end in zeros where the mask does",
        );
    }
    network.map(AddressRange::hosts_of)
}

/// A mask as `255.255.255.0`, or as a prefix length `24` (the only form for IPv6).
fn netmask(value: &Value<'_>) -> Option<u8> {
    let text = value.text()?;
    let dotted = text.parse().ok().and_then(|mask: Ipv4Addr| {
        Ipv4Net::with_netmask(Ipv4Addr::UNSPECIFIED, mask)
            .ok()
            .map(|net| net.prefix_len())
    });
    let length = dotted.or_else(|| text.parse().ok().filter(|length| *length <= 128));
    if length.is_none() {
        value.invalid(text, "is no netmask", "write it as \"255.255.255.0\"");
    }
    length
}
