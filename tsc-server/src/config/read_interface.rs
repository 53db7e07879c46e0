//! Reads `[[tscf-interface]]` with its ports and limits.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tsc_csm::server::MAX_ROUTED_IDENTITIES;
use tsc_csm::{MAX_ROUTED_PREFIXES, Transport};
use tsc_osaa::socket::{Dscp, OuterDscp};

use super::document::Section;
use super::error::{ConfigErrorKind, shown};
use super::files::Files;
use super::model::{
    Alternate, AssignedServices, Authentication, AuthenticationKind, DtlsBackend, InterfaceConfig,
    InterfaceLimits, Keyword as _, MAX_TUNNELS, PortConfig, RoutedPrefixes, Service, State,
    SystemConfig, TokenAuthentication, Transports,
};
use super::read::{seconds, timers};
use super::read_egress::net;
use super::tokens::TokenTable;
use super::value::{Value, suggestion};

/// Most ports of an interface.
const MAX_PORTS: usize = 64;
/// Most pools of an interface.
const MAX_POOLS: usize = 64;
/// Most servers of a list that goes into a Configuration_Response, which must fit a datagram (spec 3.3).
const MAX_ASSIGNED: usize = 8;

/// Keys of the vendor's `tscf-interface` that are said differently here.
const FOREIGN_INTERFACE: &[(&str, &str)] = &[
    (
        "nagle-state",
        "add \"nagle\" to assigned-services to turn it on; it is off by default",
    ),
    ("tscf-ports", "write [[tscf-interface.tscf-port]]"),
    ("name", "use \"realm-id\""),
    ("tls-profile", "set it in [[tscf-interface.tscf-port]]"),
];

/// Reads one interface, and whether it is enabled.
pub(super) fn interface(
    section: Section<'_>,
    system: &SystemConfig,
    files: &Files<'_>,
) -> (InterfaceConfig, bool) {
    let enabled = section
        .value("state")
        .and_then(|value| value.keyword())
        .is_none_or(|state| matches!(state, State::Enabled));
    let name = section
        .required("realm-id", "realm-id = \"…\", the interface's name")
        .and_then(|value| value.name());
    let pools = section
        .required(
            "local-address-pools",
            "local-address-pools = [\"…\"], names of [[tscf-address-pool]]s",
        )
        .map(|value| {
            let items = value.items(MAX_POOLS);
            items
                .iter()
                .filter_map(|item| item.text())
                .map(str::to_owned)
                .collect()
        });
    let services = section
        .value("assigned-services")
        .map(|value| services(&value));
    let inner_mtu = section
        .value("inner-mtu")
        .and_then(|value| value.number(576..=9000, false));
    let dscp = section
        .value("dscp")
        .and_then(|value| value.number(0..=63, false));
    let outer_dscp = section
        .value("outer-dscp")
        .and_then(|value| outer_dscp(&value));
    let interface = InterfaceConfig {
        name: name.unwrap_or_default(),
        pools: pools.unwrap_or_default(),
        services: services.unwrap_or_default(),
        timers: timers(&section, system.timers),
        inner_mtu: inner_mtu.unwrap_or(1400),
        dscp,
        outer_dscp: outer_dscp.unwrap_or_default(),
        sip_servers: list(&section, "sip-servers", sip_server),
        dns_servers: list(&section, "dns-servers", |value| {
            value.parsed::<IpAddr>("IP address", "10.0.0.53")
        }),
        alternates: list(&section, "alternate-servers", alternate),
        redirect: flag(&section, "redirect"),
        authentication: authentication(&section, files),
        limits: limits(&section),
        routed: section
            .sections("routed-prefix", MAX_ROUTED_IDENTITIES)
            .into_iter()
            .map(routed)
            .collect(),
        ports: section
            .sections("tscf-port", MAX_PORTS)
            .into_iter()
            .map(port)
            .collect(),
    };
    section.finish(FOREIGN_INTERFACE);
    (interface, enabled)
}

/// A word or a number.
fn outer_dscp(value: &Value<'_>) -> Option<OuterDscp> {
    match value.text_quietly() {
        Some("off") => Some(OuterDscp::Off),
        Some("copy") => Some(OuterDscp::Copy),
        // Variables of the environment are texts in any case, but no key of an interface has one.
        Some(other) => {
            value.invalid(
                other,
                "says nothing about marks",
                "write \"off\", \"copy\" (as the inner packets are marked), or a number from 0 to 63",
            );
            None
        }
        None => {
            let number = value.number(0..=63, false)?;
            Dscp::new(number).map(OuterDscp::Set)
        }
    }
}

fn list<T>(
    section: &Section<'_>,
    key: &'static str,
    read: impl Fn(&Value<'_>) -> Option<T>,
) -> Vec<T> {
    let items = section.value(key).map(|value| value.items(MAX_ASSIGNED));
    items.unwrap_or_default().iter().filter_map(read).collect()
}

fn flag(section: &Section<'_>, key: &'static str) -> bool {
    section.value(key).and_then(|value| value.flag()) == Some(true)
}

/// A list of words, or one text of words with blanks or commas between them as the vendor writes it.
fn services(value: &Value<'_>) -> AssignedServices {
    let mut services = AssignedServices::default();
    for item in value.items(Service::ALL.len() * 2) {
        let words = item.text().unwrap_or_default();
        let separator = |c: char| c == ',' || c.is_whitespace();
        for word in words.split(separator).filter(|word| !word.is_empty()) {
            assign(&mut services, &item, word);
        }
    }
    services
}

fn assign(services: &mut AssignedServices, item: &Value<'_>, word: &str) {
    match Service::from_word(word) {
        Some(Service::Sip) => services.sip = true,
        Some(Service::Nagle) => services.nagle = true,
        Some(Service::Stg) => services.stg = true,
        Some(Service::ServerKeepalive) => services.server_keepalive = true,
        Some(Service::InterClientBlock) => services.inter_client_block = true,
        Some(Service::Redundancy) => services.redundancy = true,
        Some(Service::Ddt) => services.ddt = true,
        Some(Service::Peer) => services.peer = true,
        Some(Service::Dtte) => services.dtte = true,
        None => {
            let words = || Service::ALL.iter().map(|service| service.as_str());
            let kind = ConfigErrorKind::UnknownWord {
                value: shown(word),
                allowed: words().collect::<Vec<_>>().join(", "),
            };
            item.fail(kind, suggestion(word, words()));
        }
    }
}

fn sip_server(value: &Value<'_>) -> Option<SocketAddr> {
    /// RFC 3261, 19.1.2.
    const SIP_PORT: u16 = 5060;
    let text = value.text()?;
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(SocketAddr::new(address, SIP_PORT));
    }
    value.parsed("address with port", "10.0.0.5:5060\" or \"[fd00::5]:5060")
}

fn alternate(value: &Value<'_>) -> Option<Alternate> {
    let text = value.text()?;
    let parsed = text.split_once("://").and_then(|(transport, address)| {
        Some(Alternate {
            transport: Transport::from_word(transport)?,
            address: address.parse().ok()?,
        })
    });
    if parsed.is_none() {
        value.invalid(
            text,
            "is no TRANSPORT://ADDRESS:PORT",
            "write it as \"tls://192.0.2.1:5061\"; transports are tcp, tls, udp and dtls",
        );
    }
    parsed
}

fn authentication(section: &Section<'_>, files: &Files<'_>) -> Authentication {
    let kind = section
        .required(
            "authentication",
            "authentication = \"mtls\", \"token\", or \"none\" to let everyone in",
        )
        .and_then(|value| value.keyword());
    let token_file = section.value("token-file");
    let on_clear = section.value("allow-token-on-clear");
    let allow_on_clear = on_clear.as_ref().and_then(|value| value.flag()) == Some(true);
    match kind {
        Some(AuthenticationKind::Token) => {
            if token_file.is_none() {
                section.lacks(
                    "token-file",
                    "add token-file = \"…\", a file with a line IDENTITY:SHA256 for each client",
                );
            }
            let (file, tokens) = token_file
                .and_then(|value| files.tokens(&value))
                .unwrap_or_else(|| (PathBuf::new(), TokenTable::default()));
            Authentication::Token(TokenAuthentication {
                file,
                tokens: Arc::new(tokens),
                allow_on_clear,
            })
        }
        other => {
            // An operator who names tokens believes that they are asked for.
            for value in other.and(token_file).into_iter().chain(other.and(on_clear)) {
                value.fail(
                    ConfigErrorKind::Conflict {
                        reason: "has no effect without authentication = \"token\"".to_owned(),
                    },
                    "remove it, or set authentication = \"token\"",
                );
            }
            match other {
                Some(AuthenticationKind::Mtls) => Authentication::Mtls,
                Some(AuthenticationKind::None | AuthenticationKind::Token) | None => {
                    Authentication::None
                }
            }
        }
    }
}

fn limits(section: &Section<'_>) -> InterfaceLimits {
    let default = InterfaceLimits::default();
    let max_tunnels = section
        .value("max-tunnels")
        .and_then(|value| value.number(0..=u64::from(MAX_TUNNELS), false))
        .unwrap_or(default.max_tunnels);
    let Some(limits) = section.value("limits").and_then(|value| value.section()) else {
        return InterfaceLimits {
            max_tunnels,
            ..default
        };
    };
    let number = |key, low: u64, high: u64, default: u32| {
        limits
            .value(key)
            .and_then(|value| value.number(low..=high, false))
            .unwrap_or(default)
    };
    let tunnels = u64::from(MAX_TUNNELS);
    let read = InterfaceLimits {
        max_tunnels,
        tunnels_per_prefix: number("tunnels-per-prefix", 1, tunnels, default.tunnels_per_prefix),
        tunnels_per_identity: number(
            "tunnels-per-identity",
            1,
            tunnels,
            default.tunnels_per_identity,
        ),
        requests_per_prefix: number(
            "requests-per-prefix",
            1,
            100_000,
            default.requests_per_prefix,
        ),
        half_open: number("half-open", 1, 65_536, default.half_open),
        // One control message of the largest size must fit (spec 2).
        configuration_time: limits
            .value("configuration-time")
            .and_then(|value| seconds(&value, 1, 120, false))
            .unwrap_or(default.configuration_time),
        media_queue_time: limits
            .value("media-queue-time")
            .and_then(|value| value.number(20..=5000, false))
            .map_or(default.media_queue_time, Duration::from_millis),
        stream_queue: number("stream-queue", 64, 65_536, default.stream_queue),
        stream_timeout: limits
            .value("stream-timeout")
            .and_then(|value| seconds(&value, 5, 600, false))
            .unwrap_or(default.stream_timeout),
    };
    limits.finish(&[("max-tunnels", "set it in [[tscf-interface]] itself")]);
    read
}

fn port(section: Section<'_>) -> PortConfig {
    let address = section
        .required(
            "address",
            "address = \"0.0.0.0\", or one address of this host",
        )
        .and_then(|value| value.parsed("IP address", "0.0.0.0"));
    let port = section
        .required("port", "port = 5061")
        .and_then(|value| value.number(0..=65_535, false));
    let transports = section
        .required(
            "transport-protocol",
            "transport-protocol = \"tls\", or a list of tcp, tls, udp, dtls",
        )
        .map(|value| transports(&value))
        .unwrap_or_default();
    let tls_profile = section
        .value("tls-profile")
        .and_then(|value| value.text().map(str::to_owned));
    let dtls_backend = dtls_backend(&section, transports);
    section.finish(&[]);
    PortConfig {
        listen: SocketAddr::new(
            address.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED)),
            port.unwrap_or_default(),
        ),
        transports,
        tls_profile,
        dtls_backend,
    }
}

fn routed(section: Section<'_>) -> RoutedPrefixes {
    let identity = section
        .required(
            "identity",
            "identity = \"…\", as its certificate or token gives it",
        )
        .and_then(|value| value.text())
        .map(str::to_owned);
    let prefixes = section
        .required("prefixes", "prefixes = [\"172.16.1.0/24\"]")
        .map(|value| {
            let items = value.items(MAX_ROUTED_PREFIXES);
            items.iter().filter_map(net).collect()
        });
    section.finish(&[]);
    RoutedPrefixes {
        identity: identity.unwrap_or_default(),
        prefixes: prefixes.unwrap_or_default(),
    }
}

fn transports(value: &Value<'_>) -> Transports {
    let mut transports = Transports::default();
    for item in value.items(Transport::ALL.len() * 2) {
        let Some(transport) = item.keyword() else {
            continue;
        };
        if transports.contains(transport) {
            let what = format!("\"{transport}\"");
            item.fail(ConfigErrorKind::Duplicate { what }, "list it once");
        }
        transports.insert(transport);
    }
    transports
}

fn dtls_backend(section: &Section<'_>, transports: Transports) -> Option<DtlsBackend> {
    let value = section.value("dtls-backend");
    let Some(value) = value else {
        return DtlsBackend::preferred().filter(|_| transports.dtls);
    };
    let backend = value.keyword::<DtlsBackend>()?;
    let (reason, help) = if !transports.dtls {
        (
            "has no effect without \"dtls\" among transport-protocol".to_owned(),
            "remove it".to_owned(),
        )
    } else if !backend.compiled_in() {
        (
            format!("this build does not contain the DTLS backend \"{backend}\""),
            format!("build with --features dtls-{backend}, or remove the key"),
        )
    } else {
        return Some(backend);
    };
    value.fail(ConfigErrorKind::Conflict { reason }, help);
    None
}
