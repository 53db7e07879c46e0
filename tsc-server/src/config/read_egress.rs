//! Reads `[[tscf-protocol-policy]]`, `[[tscf-data-flow]]`, `[user-space-egress]`, `[tun-egress]`, and what pools say
//! of them.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use super::document::Section;
use super::egress::{
    DataFlowConfig, Egress, MAX_GROUP, MAX_POLICIES, MAX_RATE, PolicyConfig, TransportType,
    TunEgressConfig, UdpFiltering, UserSpaceConfig,
};
use super::error::{ConfigErrorKind, shown};
use super::read::seconds;
use super::value::Value;

/// Most networks of a list.
const MAX_NETWORKS: usize = 256;
/// Longest name of a network device, without the final zero (`IFNAMSIZ`).
const MAX_DEVICE_NAME: usize = 15;

/// What the vendor's objects name by realm is named by egress here.
const REALM: (&str, &str) = (
    "realm-id",
    "use \"egress\" of [[tscf-address-pool]] or [[tscf-protocol-policy]]",
);

/// `egress`, `protocol-policy` and `data-flow` of a pool.
pub(super) fn of_pool(section: &Section<'_>) -> (Egress, Vec<String>, Option<String>) {
    let egress = section.value("egress").and_then(|value| value.keyword());
    let policies = section
        .value("protocol-policy")
        .map(|value| names(&value))
        .unwrap_or_default();
    let data_flow = section
        .value("data-flow")
        .and_then(|value| value.text().map(str::to_owned));
    (egress.unwrap_or(Egress::UserSpace), policies, data_flow)
}

/// A list of names, or one text of names with commas between them as the vendor writes it.
fn names(value: &Value<'_>) -> Vec<String> {
    let items = value.items(MAX_POLICIES);
    let mut names: Vec<String> = items
        .iter()
        .filter_map(Value::text)
        .flat_map(|text| text.split(','))
        .map(|name| name.trim().to_owned())
        .collect();
    if names.len() > MAX_POLICIES {
        let kind = ConfigErrorKind::OutOfRange {
            value: format!("a list of {}", names.len()),
            allowed: format!("0-{MAX_POLICIES} entries"),
        };
        value.fail(kind, format!("list at most {MAX_POLICIES}"));
        names.truncate(MAX_POLICIES);
    }
    names
}

pub(super) fn policy(section: Section<'_>) -> PolicyConfig {
    let name = section
        .required("name", "name = \"…\"")
        .and_then(|value| value.name());
    let policy = PolicyConfig {
        name: name.unwrap_or_default(),
        destination: section.value("ip-address").and_then(|value| net(&value)),
        ports: section.value("port").and_then(|value| ports(&value)),
        transport: section
            .value("transport-type")
            .and_then(|value| value.keyword())
            .unwrap_or(TransportType::Any),
        egress: section.value("egress").and_then(|value| value.keyword()),
        remote_address: section
            .value("remote-ip-address")
            .and_then(|value| value.parsed::<IpAddr>("IP address", "10.0.0.5")),
        remote_port: section
            .value("remote-port")
            .and_then(|value| value.number(1..=65_535, false)),
    };
    section.finish(&[REALM]);
    policy
}

pub(super) fn data_flow(section: Section<'_>) -> DataFlowConfig {
    let name = section
        .required("name", "name = \"…\"")
        .and_then(|value| value.name());
    let group_size = section.value("group-size").and_then(|value| {
        let size = value.number::<u16>(1..=u64::from(MAX_GROUP), false)?;
        if !size.is_power_of_two() {
            value.invalid(
                &size.to_string(),
                "is no power of two",
                "use 1, 2, 4, 8, 16, 32, 64, 128 or 256",
            );
            return None;
        }
        Some(size)
    });
    let rate = |key| {
        section
            .value(key)
            .and_then(|value| value.number(0..=u64::from(MAX_RATE), false))
            .unwrap_or(0)
    };
    let flow = DataFlowConfig {
        name: name.unwrap_or_default(),
        // The vendor's default.
        group_size: group_size.unwrap_or(128),
        upstream_rate: rate("upstream-rate"),
        downstream_rate: rate("downstream-rate"),
    };
    section.finish(&[REALM]);
    flow
}

pub(super) fn user_space(section: Section<'_>) -> UserSpaceConfig {
    let default = UserSpaceConfig::default();
    let number = |key, high: u64, default: u32| {
        section
            .value(key)
            .and_then(|value| value.number(1..=high, false))
            .unwrap_or(default)
    };
    let span = |key, low, high, default: Duration| {
        section
            .value(key)
            .and_then(|value| seconds(&value, low, high, false))
            .unwrap_or(default)
    };
    let config = UserSpaceConfig {
        udp_mappings: number("udp-mappings", 1 << 20, default.udp_mappings),
        udp_mappings_per_tunnel: number(
            "udp-mappings-per-tunnel",
            65_536,
            default.udp_mappings_per_tunnel,
        ),
        udp_timeout: span("udp-timeout", 120, 86_400, default.udp_timeout),
        udp_ports: section
            .value("udp-port-range")
            .and_then(|value| ports(&value)),
        udp_filtering: section
            .value("udp-filtering")
            .and_then(|value| value.keyword::<UdpFiltering>())
            .unwrap_or(default.udp_filtering),
        tcp_connections: number("tcp-connections", 1 << 20, default.tcp_connections),
        tcp_connections_per_tunnel: number(
            "tcp-connections-per-tunnel",
            65_536,
            default.tcp_connections_per_tunnel,
        ),
        tcp_timeout: span("tcp-timeout", 60, 86_400, default.tcp_timeout),
        tcp_connect_timeout: span("tcp-connect-timeout", 1, 120, default.tcp_connect_timeout),
        allow: nets(&section, "allow-destinations"),
        deny: nets(&section, "deny-destinations"),
    };
    section.finish(&[]);
    config
}

pub(super) fn tun(section: Section<'_>) -> TunEgressConfig {
    let default = TunEgressConfig::default();
    let descriptor = section.value("descriptor").and_then(|value| value.name());
    let made = [
        section.value("name"),
        section.value("addresses"),
        section.value("routes"),
        section.value("queues"),
        section.value("offload"),
    ];
    if descriptor.is_some() {
        for value in made.iter().flatten() {
            value.fail(
                ConfigErrorKind::Conflict {
                    reason: "has no effect on a device that is handed in by \"descriptor\""
                        .to_owned(),
                },
                "remove it, or remove descriptor",
            );
        }
    }
    let config = TunEgressConfig {
        descriptor,
        name: section.value("name").and_then(|value| device(&value)),
        addresses: section
            .value("addresses")
            .map(|value| parsed(&value, "address with prefix length", "10.64.0.1/16"))
            .unwrap_or_default(),
        routes: section.value("routes").map(|value| {
            let items = value.items(MAX_NETWORKS);
            items.iter().filter_map(net).collect()
        }),
        mtu: section
            .value("mtu")
            .and_then(|value| value.number(576..=9000, false)),
        queues: section
            .value("queues")
            .and_then(|value| value.number(1..=16, false))
            .unwrap_or(default.queues),
        offload: section
            .value("offload")
            .and_then(|value| value.flag())
            .unwrap_or(default.offload),
    };
    section.finish(&[]);
    config
}

fn device(value: &Value<'_>) -> Option<String> {
    let name = value.name()?;
    if name.len() > MAX_DEVICE_NAME || name == "." || name == ".." || name.contains(':') {
        value.invalid(
            &name,
            "is no name of a network device",
            format!(
                "use 1 to {MAX_DEVICE_NAME} letters, digits, '-', '_' or '.', such as \"tsc0\""
            ),
        );
        return None;
    }
    Some(name)
}

fn parsed<T: FromStr>(value: &Value<'_>, what: &str, example: &str) -> Vec<T> {
    let items = value.items(MAX_NETWORKS);
    let parsed = items.iter().filter_map(|item| item.parsed(what, example));
    parsed.collect()
}

fn nets(section: &Section<'_>, key: &'static str) -> Vec<IpNet> {
    let items = section.value(key).map(|value| value.items(MAX_NETWORKS));
    items.unwrap_or_default().iter().filter_map(net).collect()
}

/// A network, or one address.
pub(super) fn net(value: &Value<'_>) -> Option<IpNet> {
    let text = value.text()?.trim();
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.into());
    }
    let Ok(net) = text.parse::<IpNet>() else {
        value.invalid(
            text,
            "is no address and no network",
            "write it as \"10.0.0.5\" or \"10.0.0.0/24\", or the same in IPv6",
        );
        return None;
    };
    if net.trunc() != net {
        value.invalid(
            text,
            format_args!(
                "has bits set behind the prefix length; the network is {}",
                net.trunc()
            ),
            format!("write \"{}\"", net.trunc()),
        );
        return None;
    }
    Some(net)
}

/// One port as a number, or `"FIRST-LAST"`.
fn ports(value: &Value<'_>) -> Option<RangeInclusive<u16>> {
    let Some(text) = value.text_quietly() else {
        let port = value.number::<u16>(1..=65_535, false);
        return port.map(|port| port..=port);
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0);
    let range = port(first)
        .zip(port(last))
        .filter(|(first, last)| first <= last);
    if range.is_none() {
        value.invalid(
            &shown(text),
            "is no port and no range of ports",
            "write a number from 1 to 65535, or \"5060-5080\"",
        );
    }
    range.map(|(first, last)| first..=last)
}
