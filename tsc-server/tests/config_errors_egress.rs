//! What the configuration says about mistakes in policies, data flows, egresses and routed prefixes, word for word.
// The configurations here speak DTLS, and name the default backend.
#![cfg(feature = "dtls-openssl")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

mod config_support;

use config_support::{GOOD, changed, parse};

/// Checks the report on [`GOOD`] with tables behind it; lines count from the first of them.
#[track_caller]
fn report(tables: &str, expected: &str) {
    let errors = parse(&format!("{GOOD}{tables}")).expect_err("must be refused");
    let first = GOOD.lines().count();
    let mut text = errors.to_string();
    for line in (1..60).rev() {
        text = text.replace(
            &format!("test.toml:{}:", first + line),
            &format!("+{line}:"),
        );
    }
    assert_eq!(text, expected.trim_start_matches('\n'));
}

#[test]
fn policies_are_checked() {
    report(
        r#"[[tscf-protocol-policy]]
name = "a"
ip-address = "192.0.2.1/24"
port = "80-70"
transport-type = "quic"
egress = "tunn"
realm-id = "core"
"#,
        r#"
error: +3:14: tscf-protocol-policy[0].ip-address: "192.0.2.1/24" has bits set behind the prefix length; the network is 192.0.2.0/24
  help: write "192.0.2.0/24"
error: +4:8: tscf-protocol-policy[0].port: "80-70" is no port and no range of ports
  help: write a number from 1 to 65535, or "5060-5080"
error: +5:18: tscf-protocol-policy[0].transport-type: "quic" is none of any, udp, tcp
  help: known here: any, tcp, udp
error: +6:10: tscf-protocol-policy[0].egress: "tunn" is none of switch, user-space, tun, drop
  help: did you mean "tun"?
error: +7:1: tscf-protocol-policy[0].realm-id: unknown key
  help: use "egress" of [[tscf-address-pool]] or [[tscf-protocol-policy]]"#,
    );
    report(
        r#"[[tscf-protocol-policy]]
name = "a"
remote-ip-address = "192.0.2.1"
remote-port = 5
[[tscf-protocol-policy]]
name = "a"
ip-address = "192.0.2.1"
remote-ip-address = "fd00::1"
[[tscf-protocol-policy]]
name = "c"
ip-address = "192.0.2.1"
remote-ip-address = "192.0.2.2"
egress = "drop"
[[tscf-protocol-policy]]
name = "d"
"#,
        r#"
error: +3:21: tscf-protocol-policy[0].remote-ip-address: "ip-address", the destinations that are rewritten, is missing
  help: add ip-address = "10.0.0.5", or a network
error: +4:15: tscf-protocol-policy[0].remote-port: "port", the ports that are rewritten, is missing
  help: add port = 5060, or a range
error: +6:8: tscf-protocol-policy[1].name: the name "a" appears twice
  help: give each its own name
error: +8:21: tscf-protocol-policy[1].remote-ip-address: fd00::1 is not of the family of 192.0.2.1/32
  help: rewrite IPv4 to IPv4 and IPv6 to IPv6: packets are not translated
error: +13:10: tscf-protocol-policy[2].egress: drops packets, so there is nothing to rewrite
  help: remove remote-ip-address and remote-port, or use another egress
error: +14:1: tscf-protocol-policy[3]: "egress" or "remote-ip-address" is missing
  help: say what becomes of the packets, such as egress = "drop""#,
    );
}

#[test]
fn data_flows_are_checked() {
    report(
        r#"[[tscf-data-flow]]
name = "a"
group-size = 100
upstream-rate = 122071
realm-id = "core"
"#,
        r#"
error: +3:14: tscf-data-flow[0].group-size: "100" is no power of two
  help: use 1, 2, 4, 8, 16, 32, 64, 128 or 256
error: +4:17: tscf-data-flow[0].upstream-rate: 122071 is outside 0-122070
  help: use a number from 0 to 122070
error: +5:1: tscf-data-flow[0].realm-id: unknown key
  help: use "egress" of [[tscf-address-pool]] or [[tscf-protocol-policy]]"#,
    );
}

#[test]
fn pools_name_what_exists() {
    let text = changed(
        "name = \"v4\"",
        "name = \"v4\"\negress = \"nat\"\nprotocol-policy = \"one, one\"\ndata-flow = \"fast\"",
    );
    let errors = parse(&format!("{text}[[tscf-data-flow]]\nname = \"fst\"\n")).unwrap_err();
    assert_eq!(
        errors.to_string(),
        r#"
error: test.toml:12:10: tscf-address-pool[0].egress: "nat" is none of switch, user-space, tun
  help: known here: switch, tun, user-space
error: test.toml:13:19: tscf-address-pool[0].protocol-policy[0]: there is no tscf-protocol-policy "one"
  help: add [[tscf-protocol-policy]] with this name
error: test.toml:13:19: tscf-address-pool[0].protocol-policy[1]: the policy "one" appears twice
  help: name it once
error: test.toml:13:19: tscf-address-pool[0].protocol-policy[1]: there is no tscf-protocol-policy "one"
  help: add [[tscf-protocol-policy]] with this name
error: test.toml:14:13: tscf-address-pool[0].data-flow: there is no tscf-data-flow "fast"
  help: did you mean "fst"?"#
            .trim_start_matches('\n')
    );
}

#[test]
fn egress_tables_are_checked() {
    report(
        r#"[user-space-egress]
udp-timeout = 30
udp-port-range = "0-5"
allow-destinations = ["localhost"]
udp-filtering = "none"
[tun-egress]
name = "a-name-that-is-too-long"
addresses = ["10.0.0.1/24"]
queues = 0
"#,
        r#"
error: +2:15: user-space-egress.udp-timeout: 30 is outside 120-86400
  help: use a number from 120 to 86400
error: +3:18: user-space-egress.udp-port-range: "0-5" is no port and no range of ports
  help: write a number from 1 to 65535, or "5060-5080"
error: +4:23: user-space-egress.allow-destinations[0]: "localhost" is no address and no network
  help: write it as "10.0.0.5" or "10.0.0.0/24", or the same in IPv6
error: +5:17: user-space-egress.udp-filtering: "none" is none of endpoint-independent, address-dependent, address-and-port-dependent
  help: known here: address-and-port-dependent, address-dependent, endpoint-independent
error: +7:8: tun-egress.name: "a-name-that-is-too-long" is no name of a network device
  help: use 1 to 15 letters, digits, '-', '_' or '.', such as "tsc0"
error: +8:14: tun-egress.addresses[0]: 10.0.0.1 is an address of pool "v4" too
  help: exclude it from the pool
error: +9:10: tun-egress.queues: 0 is outside 1-16
  help: use a number from 1 to 16"#,
    );
    report(
        r#"[tun-egress]
descriptor = "tun"
name = "tsc0"
mtu = 1400
"#,
        r#"
error: +3:8: tun-egress.name: has no effect on a device that is handed in by "descriptor"
  help: remove it, or remove descriptor"#,
    );
    report(
        "[[tun-egress]]\n[[tun-egress]]\n",
        r#"
error: +1:1: tun-egress: a list of 2 is outside 0-1 entries
  help: list at most 1"#,
    );
    let text = GOOD.replace("name = \"v6\"", "name = \"v6\"\negress = \"tun\"");
    let errors = parse(&format!("{text}[tun-egress]\nmtu = 1000\n")).unwrap_err();
    assert!(
        errors
            .to_string()
            .contains("tun-egress.mtu: 1000 is too small for the IPv6 addresses of pool \"v6\""),
        "{errors}"
    );
}

#[test]
fn routed_prefixes_are_checked() {
    let gateway = |prefixes: &str| {
        format!("[[tscf-interface.routed-prefix]]\nidentity = \"gw\"\nprefixes = {prefixes}\n")
    };
    let stg = |authentication: &str| {
        GOOD.replace(
            "\"none\"",
            &format!("{authentication}\nassigned-services = [\"STG\"]"),
        )
    };
    let said = |text: &str, words: &str| {
        let errors = parse(text).unwrap_err().to_string();
        assert!(errors.contains(words), "{errors}");
        assert_eq!(errors.matches("error:").count(), 1, "{errors}");
    };
    let good = gateway("[\"172.16.0.0/24\", \"fd01::/64\"]");
    assert!(parse(&format!("{}{good}", stg("\"mtls\""))).is_ok());
    said(
        &format!("{GOOD}{good}"),
        "has no effect without the service STG",
    );
    said(&stg("\"mtls\""), "which the service STG grants, is missing");
    said(
        &format!("{}{good}", stg("\"none\"")),
        "no client has an identity",
    );
    for (prefixes, words) in [
        (
            "[\"0.0.0.0/0\"]",
            "0.0.0.0/0 must not be routed to a client",
        ),
        (
            "[\"127.1.0.0/16\"]",
            "127.1.0.0/16 must not be routed to a client",
        ),
        ("[\"10.0.0.128/25\"]", "10.0.0.128/25 overlaps pool \"v4\""),
        (
            "[\"172.16.0.0/16\", \"172.16.1.0/24\"]",
            "172.16.1.0/24 overlaps 172.16.0.0/16 of the same gateway",
        ),
    ] {
        said(&format!("{}{}", stg("\"mtls\""), gateway(prefixes)), words);
    }
    let twice = format!("{}{good}{good}", stg("\"mtls\""));
    said(&twice, "the identity \"gw\" appears twice");
}
