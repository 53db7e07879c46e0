//! The effective configuration, printed, is a configuration that says the same; and no text panics.
// The configurations here speak DTLS, and name the default backend.
#![cfg(feature = "dtls-openssl")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

mod config_support;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use config_support::{ABC, GOOD, PEMS, egress::with_egress, files, parse};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use tsc_osaa::socket::{Dscp, OuterDscp};
use tsc_server::{
    Transport,
    config::{
        AddressRange, Alternate, AssignedServices, Authentication, Config, DtlsBackend, Egress,
        InterfaceConfig, InterfaceLimits, LogFormat, LogLevel, PemRef, PoolConfig, PortConfig,
        SystemConfig, Timers, TlsProfile, TokenAuthentication, TokenTable, TraceRedaction,
        Transports, TunEgressConfig, UserSpaceConfig,
    },
};

#[test]
fn the_good_one_prints_every_key_once() {
    let printed = parse(GOOD).unwrap().to_string();
    for line in [
        "element-id = 7",
        "keepalive-timer-datagram = 50",
        "client-ca = [\"ca.pem\"]",
        "address-range = [\"10.0.0.1-10.0.0.254\"]",
        "netmask = \"255.255.255.255\"",
        "transport-protocol = [\"tls\", \"dtls\"]",
        "tunnels-per-prefix = 1024",
        "tunnels-per-identity = 8",
    ] {
        assert!(printed.contains(line), "{line} in\n{printed}");
    }
    assert_eq!(parse(&printed).unwrap(), parse(GOOD).unwrap());
}

#[test]
fn secrets_are_never_shown() {
    let text = GOOD.replace("\"none\"", "\"token\"\ntoken-file = \"tokens\"");
    let config = parse(&text).unwrap();
    let key_body = PEMS.key.lines().nth(1).unwrap();
    for shown in [config.to_string(), format!("{config:?}")] {
        assert!(!shown.contains(ABC), "{shown}");
        assert!(!shown.contains(key_body), "{shown}");
    }
}

#[test]
fn the_vendors_form_of_a_range_means_the_same() {
    let table = "\n[[tscf-address-pool.address-range]]\nnetwork-address = \"10.0.0.0\"\nsubnet-mask = \"255.255.255.0\"\n";
    let text = GOOD.replace("address-range = [\"10.0.0.0/24\"]\n", table);
    assert_eq!(parse(&text).unwrap(), parse(GOOD).unwrap());
    let inline = GOOD.replace(
        "\"fd00::/120\"",
        "{ network-address = \"fd00::\", subnet-mask = \"120\" }",
    );
    assert_eq!(parse(&inline).unwrap(), parse(GOOD).unwrap());
}

#[test]
fn a_list_of_one_needs_no_brackets() {
    let text = GOOD
        .replace("[\"v4\"]", "\"v4\"")
        .replace("[\"10.0.0.0/24\"]", "\"10.0.0.0/24\"");
    assert_eq!(parse(&text).unwrap(), parse(GOOD).unwrap());
}

#[test]
fn a_disabled_interface_is_left_out() {
    let second = GOOD[GOOD.find("[[tscf-interface]]").unwrap()..]
        .replace("\"access\"", "\"spare\"\nstate = \"disabled\"");
    assert_eq!(
        parse(&format!("{GOOD}{second}")).unwrap(),
        parse(GOOD).unwrap()
    );
}

#[test]
fn timers_are_inherited_and_overridden() {
    let text = GOOD
        .replace(
            "element-id = 7",
            "keepalive-timer = 60\ntunnel-persistence-time = 0",
        )
        .replace(
            "authentication",
            "tunnel-persistence-time = 20\nauthentication",
        );
    let config = parse(&text).unwrap();
    let timers = &config.interfaces[0].timers;
    assert_eq!(timers.keepalive_stream, Duration::from_secs(60));
    assert_eq!(timers.keepalive_datagram, Duration::from_secs(50));
    assert_eq!(timers.persistence, Duration::from_secs(20));
    assert_eq!(config.system.timers.persistence, Duration::ZERO);
}

#[test]
fn warnings_name_what_is_weak_or_unused() {
    let text = GOOD.replace("\"tls\", \"dtls\"", "\"tcp\", \"tls\"");
    let warnings = parse(&text).unwrap().warnings();
    let about = |words: &str| warnings.iter().filter(|w| w.contains(words)).count();
    assert_eq!(about("192.0.2.1:5061 is clear"), 1, "{warnings:?}");
    assert_eq!(about("not authenticated"), 1, "{warnings:?}");
    assert_eq!(about("pool v6: no interface uses it"), 1, "{warnings:?}");
    assert_eq!(warnings.len(), 3);
}

prop_compose! {
    fn timers()(
        stream in prop_oneof![Just(0), 30u64..=660],
        datagram in prop_oneof![Just(0), 30u64..=660],
        persistence in prop_oneof![Just(0), 10u64..=700],
    ) -> Timers {
        Timers {
            keepalive_stream: Duration::from_secs(stream),
            keepalive_datagram: Duration::from_secs(datagram),
            persistence: Duration::from_secs(persistence),
        }
    }
}

prop_compose! {
    fn system()(
        element_id in 0u16..=1023,
        timers in timers(),
        workers in option::of(1u8..=64),
        gather_time in 0u64..=2000,
        busy_poll in 0u64..=1000,
        max_tunnels in 1u32..=200_000,
        max_half_open in 1u32..=65_536,
        busy_when_overloaded: bool,
        quarantine in 0u64..=3600,
        stop_deadline in 0u64..=600,
        log_level in select(LogLevel::ALL),
        log_format in select(LogFormat::ALL),
        trace_file in option::of("[a-zA-Z0-9 \"'\\\\/\u{7f}\t\u{e9}]{1,20}"),
        trace_redaction in select(TraceRedaction::ALL),
        (trace_file_size, trace_files, trace_file_time) in (1u32..=1_048_576, 1u16..=1000, 0u64..=86_400),
        (trace_outer, secrets) in any::<(bool, bool)>(),
        control in option::of(("[a-z \"']{1,20}", option::of("[a-z \"']{1,20}"))),
    ) -> SystemConfig {
        let (trace_outer, secrets) = match &trace_file {
            Some(_) => (trace_outer, secrets && trace_redaction == TraceRedaction::None),
            None => (false, false),
        };
        SystemConfig {
            element_id,
            timers,
            workers,
            gather_time: Duration::from_micros(gather_time),
            busy_poll: Duration::from_micros(busy_poll),
            max_tunnels,
            max_half_open,
            busy_when_overloaded,
            quarantine: Duration::from_secs(quarantine),
            stop_deadline: Duration::from_secs(stop_deadline),
            log_level,
            log_format,
            trace_file: trace_file.map(Into::into),
            trace_redaction,
            trace_file_size,
            trace_files,
            trace_file_time: Duration::from_secs(trace_file_time),
            trace_outer,
            trace_insecure_decryption_secrets: secrets,
            trace_directory: control.clone().and_then(|(_, directory)| directory.map(Into::into)),
            control_socket: control.map(|(socket, _)| socket.into()),
        }
    }
}

/// The `index`-th pool: ranges of its own in 10.INDEX.0.0/16 and fd00:INDEX::/32.
fn pool(index: u8) -> impl Strategy<Value = PoolConfig> {
    let range = move |v6: bool, block: u8| {
        (0u8..=200, 1u8..=50).prop_map(move |(low, size)| {
            let address = |host: u8| {
                if v6 {
                    let [index, block, host] = [index, block, host].map(u16::from);
                    IpAddr::V6(Ipv6Addr::new(0xfd00, index, 0, 0, 0, 0, block, host))
                } else {
                    IpAddr::V4(Ipv4Addr::new(10, index, block, host))
                }
            };
            AddressRange::new(address(low), address(low + size)).unwrap()
        })
    };
    let ranges = vec(any::<bool>(), 1..4).prop_flat_map(move |families| {
        let families = families.into_iter().zip(0..);
        families
            .map(|(v6, block)| range(v6, block))
            .collect::<Vec<_>>()
    });
    (ranges, any::<bool>(), 0u8..=32, 0u8..=128, 0u64..=3600).prop_map(
        move |(ranges, exclude, prefix_len_v4, prefix_len_v6, quarantine)| {
            let first = ranges[0].first();
            PoolConfig {
                name: format!("pool-{index}"),
                exclude: exclude
                    .then(|| AddressRange::new(first, first).unwrap())
                    .into_iter()
                    .collect(),
                ranges,
                prefix_len_v4,
                prefix_len_v6,
                quarantine: Duration::from_secs(quarantine),
                egress: Egress::UserSpace,
                policies: Vec::new(),
                data_flow: None,
            }
        },
    )
}

fn socket() -> impl Strategy<Value = SocketAddr> {
    let v4 = (1u8..=223, any::<u8>()).prop_map(|(a, b)| IpAddr::from([a, b, 0, 1]));
    let v6 = any::<u16>().prop_map(|a| IpAddr::from([0x2001, 0xdb8, a, 0, 0, 0, 0, 1]));
    (prop_oneof![v4, v6], 1u16..).prop_map(|(address, port)| SocketAddr::new(address, port))
}

prop_compose! {
    fn limits()(
        max_tunnels in 0u32..=200_000,
        tunnels_per_prefix in 1u32..=200_000,
        tunnels_per_identity in 1u32..=200_000,
        requests_per_prefix in 1u32..=100_000,
        half_open in 1u32..=65_536,
        configuration_time in 1u64..=120,
        media_queue_time in 20u64..=5000,
        stream_queue in 64u32..=65_536,
        stream_timeout in 5u64..=600,
    ) -> InterfaceLimits {
        InterfaceLimits {
            max_tunnels,
            tunnels_per_prefix,
            tunnels_per_identity,
            requests_per_prefix,
            half_open,
            configuration_time: Duration::from_secs(configuration_time),
            media_queue_time: Duration::from_millis(media_queue_time),
            stream_queue,
            stream_timeout: Duration::from_secs(stream_timeout),
        }
    }
}

/// A port of the `index`-th interface, whose sockets meet no other's.
fn port(index: u16, number: u16) -> impl Strategy<Value = PortConfig> {
    let backends: Vec<_> = DtlsBackend::ALL
        .iter()
        .copied()
        .filter(|b| b.compiled_in())
        .collect();
    (
        subsequence(Transport::ALL.to_vec(), 1..=4),
        select(backends),
        any::<bool>(),
    )
        .prop_map(move |(list, backend, v6)| {
            let mut transports = Transports::default();
            list.iter()
                .for_each(|transport| transports.insert(*transport));
            let address: &str = if v6 { "::" } else { "0.0.0.0" };
            PortConfig {
                listen: SocketAddr::new(address.parse().unwrap(), index * 100 + number),
                transports,
                tls_profile: transports.protected().then(|| "default".to_owned()),
                dtls_backend: transports.dtls.then_some(backend),
            }
        })
}

fn authentication(ports: &[PortConfig]) -> BoxedStrategy<Authentication> {
    let clear = ports.iter().any(|port| port.transports.clear());
    let token = any::<bool>().prop_map(move |allow| {
        Authentication::Token(TokenAuthentication {
            file: "tokens".into(),
            tokens: Arc::new(TokenTable::parse(&format!("alice:{ABC}")).unwrap()),
            allow_on_clear: allow || clear,
        })
    });
    if clear {
        prop_oneof![Just(Authentication::None), token].boxed()
    } else {
        prop_oneof![
            Just(Authentication::None),
            Just(Authentication::Mtls),
            token
        ]
        .boxed()
    }
}

/// Each way that an interface can mark.
fn outer_dscp() -> impl Strategy<Value = OuterDscp> {
    prop_oneof![
        Just(OuterDscp::Off),
        Just(OuterDscp::Copy),
        (0u8..=63).prop_map(|mark| OuterDscp::Set(Dscp::new(mark).unwrap())),
    ]
}

/// What a client reaches through its tunnel.
fn inner() -> impl Strategy<Value = SocketAddr> {
    socket().prop_filter("loopback is the client itself", |socket| {
        !socket.ip().is_loopback()
    })
}

fn interface(index: u16, pools: &[PoolConfig]) -> impl Strategy<Value = InterfaceConfig> + use<> {
    let names: Vec<String> = pools.iter().map(|pool| pool.name.clone()).collect();
    let count = names.len();
    let ports = (1u16..4).prop_flat_map(move |count| {
        (0..count)
            .map(|number| port(index, number))
            .collect::<Vec<_>>()
    });
    let ports = ports.prop_flat_map(|ports| (authentication(&ports), Just(ports)));
    let addresses = (
        option::of(vec(inner(), 1..4)),
        vec(inner().prop_map(|socket| socket.ip()), 0..4),
        vec((select(Transport::ALL.to_vec()), socket()), 0..4),
    );
    (
        (ports, subsequence(names, 1..=count), timers(), limits()),
        addresses,
        (
            1280u16..=9000,
            option::of(0u8..=63),
            outer_dscp(),
            any::<[bool; 3]>(),
        ),
    )
        .prop_map(
            move |(first, (sip, dns, alternates), (inner_mtu, dscp, outer_dscp, flags))| {
                let ((authentication, ports), pools, timers, limits) = first;
                // Only datagrams are marked by what they carry.
                let datagrams = ports.iter().any(|port| port.transports.datagram());
                let outer_dscp = if outer_dscp.is_copy() && !datagrams {
                    OuterDscp::Off
                } else {
                    outer_dscp
                };
                // What is clear can be encrypted where there is a port for it, and here all are wildcards.
                let has = |wanted, like: &PortConfig| {
                    let is_alike =
                        |port: &PortConfig| port.listen.is_ipv4() == like.listen.is_ipv4();
                    let mut ports = ports.iter().filter(|port| is_alike(port));
                    ports.any(|port| port.transports.contains(wanted))
                };
                let encrypts = ports.iter().all(|port| {
                    let Transports { tcp, udp, .. } = port.transports;
                    (!tcp || has(Transport::Tls, port)) && (!udp || has(Transport::Dtls, port))
                });
                InterfaceConfig {
                    name: format!("realm-{index}"),
                    ports,
                    pools,
                    services: AssignedServices {
                        sip: sip.is_some(),
                        nagle: flags[0],
                        stg: false,
                        redundancy: flags[0],
                        ddt: flags[1],
                        dtte: flags[0] && encrypts,
                        server_keepalive: flags[1],
                        peer: flags[2],
                        inter_client_block: flags[1],
                    },
                    routed: Vec::new(),
                    timers,
                    inner_mtu,
                    dscp,
                    outer_dscp,
                    sip_servers: sip.unwrap_or_default(),
                    dns_servers: dns,
                    redirect: flags[2] && !alternates.is_empty(),
                    alternates: alternates
                        .into_iter()
                        .map(|(transport, address)| Alternate { transport, address })
                        .collect(),
                    authentication,
                    limits,
                }
            },
        )
}

fn config() -> impl Strategy<Value = Config> {
    let pools = (1u8..4).prop_flat_map(|count| (0..count).map(pool).collect::<Vec<_>>());
    let parts = pools.prop_flat_map(|pools| {
        let interfaces: Vec<_> = (1..=2).map(|index| interface(index, &pools)).collect();
        (system(), Just(pools), interfaces)
    });
    let config = parts.prop_map(|(system, pools, interfaces)| {
        let memory = |name: &str, text: &str| PemRef::memory(name, text.as_bytes());
        Config {
            system,
            tls_profiles: vec![TlsProfile {
                name: "default".to_owned(),
                certificate: memory("server.pem", &PEMS.certificate),
                private_key: memory("server.key", &PEMS.key),
                client_ca: vec![memory("ca.pem", &PEMS.ca)],
            }],
            pools,
            interfaces,
            policies: Vec::new(),
            data_flows: Vec::new(),
            user_space: UserSpaceConfig::default(),
            tun: TunEgressConfig::default(),
        }
    });
    config.prop_flat_map(with_egress)
}

/// Pieces of configurations, so that texts get past the first line.
fn fragments() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => select(GOOD.split_inclusive(['\n', '=', ' ']).collect::<Vec<_>>()).prop_map(str::to_owned),
        1 => select(vec!["[", "]", "{", "}", "\"", "\n", "=", ".", "-1", "999999999999999999999", "0x", "1e9", "\"10.0.0.9-\"", "::/0", "[[tscf-interface]]\n", "address-range = [\"::/0\"]\n", "2026-11-21"]).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
    ];
    vec(piece, 0..80).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn what_is_printed_reads_back_the_same(config in config()) {
        let printed = config.to_string();
        match Config::parse_with(&printed, "printed", &files()) {
            Ok(read) => prop_assert_eq!(read, config),
            Err(errors) => prop_assert!(false, "{}\nin\n{}", errors, printed),
        }
    }

    #[test]
    fn any_text_is_answered(text in any::<String>()) {
        let _ = Config::parse(&text, "any");
    }

    #[test]
    fn any_mixture_of_good_pieces_is_answered(text in fragments()) {
        if let Err(errors) = parse(&text) {
            prop_assert!(errors.iter().count() > 0);
            prop_assert!(errors.iter().all(|error| !error.help.is_empty()));
        }
    }

    /// One changed byte in a good configuration gives a configuration or an error, never a panic.
    #[test]
    fn one_changed_character_is_answered(at in 0..GOOD.len(), with in any::<char>()) {
        let mut text = GOOD.to_owned();
        text.replace_range(at..=at, with.encode_utf8(&mut [0; 4]));
        let _ = parse(&text);
    }
}
