//! What the configuration says about mistakes: place, key, reason and fix, word for word.
// The configurations here speak DTLS, and name the default backend.
#![cfg(feature = "dtls-openssl")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

mod config_support;

use config_support::{GOOD, changed, parse};
use tsc_server::config::{Config, ConfigErrorKind, Place};

/// Checks that `text` is refused with exactly this report.
#[track_caller]
fn refused(text: &str, report: &str) {
    let errors = parse(text).expect_err("must be refused");
    assert_eq!(errors.to_string(), report.trim_start_matches('\n'));
}

/// Checks the report on [`GOOD`] with one part changed.
#[track_caller]
fn report(from: &str, to: &str, expected: &str) {
    refused(&changed(from, to), expected);
}

#[test]
fn the_good_one_is_good() {
    let config = parse(GOOD).unwrap();
    assert_eq!(config.system.element_id, 7);
    assert_eq!(config.interfaces[0].ports[0].listen.port(), 5061);
}

#[test]
fn unknown_keys_get_a_suggestion() {
    report(
        "element-id",
        "elment-id",
        r#"
error: test.toml:2:1: tscf-config.elment-id: unknown key
  help: did you mean "element-id"?"#,
    );
    report(
        "local-address-pools",
        "local_address_pool",
        r#"
error: test.toml:18:1: tscf-interface[0]: "local-address-pools" is missing
  help: add local-address-pools = ["…"], names of [[tscf-address-pool]]s
error: test.toml:20:1: tscf-interface[0].local_address_pool: unknown key
  help: did you mean "local-address-pools"?"#,
    );
    report(
        "[tscf-config]",
        "[tscf-confg]",
        r#"
error: test.toml:1:2: tscf-confg: unknown key
  help: did you mean "tscf-config"?"#,
    );
}

#[test]
fn keys_of_the_vendor_that_differ_are_explained() {
    report(
        "authentication = \"none\"",
        "authentication = \"none\"\nnagle-state = \"enabled\"",
        r#"
error: test.toml:22:1: tscf-interface[0].nagle-state: unknown key
  help: add "nagle" to assigned-services to turn it on; it is off by default"#,
    );
    report(
        "element-id = 7",
        "red-port = 2004",
        r#"
error: test.toml:2:1: tscf-config.red-port: unknown key
  help: high availability is not implemented in this version; remove it"#,
    );
}

#[test]
fn numbers_have_ranges() {
    report(
        "element-id = 7",
        "element-id = 1024",
        r#"
error: test.toml:2:14: tscf-config.element-id: 1024 is outside 0-1023
  help: use a number from 0 to 1023"#,
    );
    report(
        "element-id = 7",
        "keepalive-timer = 29",
        r#"
error: test.toml:2:19: tscf-config.keepalive-timer: 29 is outside 0, 30-660
  help: use a number from 30 to 660, or 0"#,
    );
    report(
        "element-id = 7",
        "max-tunnels = \"many\"",
        r#"
error: test.toml:2:15: tscf-config.max-tunnels: must be a whole number, not a text
  help: write a number from 1 to 200000, without quotes"#,
    );
    report(
        "element-id = 7",
        "max-tunnels = -1",
        r#"
error: test.toml:2:15: tscf-config.max-tunnels: -1 is outside 1-200000
  help: use a number from 1 to 200000"#,
    );
}

#[test]
fn a_control_socket_has_a_short_path_and_goes_with_captures() {
    let long = "x".repeat(104);
    report(
        "element-id = 7",
        &format!("control-socket = \"{long}\""),
        &format!(
            r#"
error: test.toml:2:18: tscf-config.control-socket: "{}…" is longer than 103 bytes, with its directory
  help: write a shorter path, below /run for example"#,
            "x".repeat(60)
        ),
    );
    report(
        "element-id = 7",
        "trace-directory = \"traces\"",
        r#"
error: test.toml:2:19: tscf-config.trace-directory: has no effect without "control-socket", by which captures are started
  help: add control-socket, or leave it out; a capture from the start on is trace-file"#,
    );
}

#[test]
fn what_goes_into_a_capture_goes_with_a_capture() {
    for key in ["trace-outer", "trace-insecure-decryption-secrets"] {
        report(
            "element-id = 7",
            &format!("{key} = true"),
            &format!(
                r#"
error: test.toml:2:{}: tscf-config.{key}: has no effect without "trace-file"
  help: add trace-file, or leave it out"#,
                key.len() + 4
            ),
        );
    }
}

#[test]
fn services_are_spelt_as_the_vendor_spells_them() {
    report(
        "authentication",
        "assigned-services = [\"DTTE\", \"sip\", \"nagle\"]\nauthentication",
        r#"
error: test.toml:21:30: tscf-interface[0].assigned-services[1]: "sip" is none of SIP, redundancy, DDT, DTTE, server-keepalive, nagle, STG, inter-client-block, peer
  help: did you mean "SIP"?"#,
    );
    let text = changed(
        "authentication",
        "assigned-services = \"nagle, DTTE\"\nauthentication",
    );
    let services = parse(&text).unwrap().interfaces[0].services;
    assert!(services.nagle && services.dtte && !services.ddt);
}

#[test]
fn all_errors_come_at_once_in_the_order_of_the_file() {
    let text = GOOD
        .replace("element-id = 7", "element-id = 7777")
        .replace("10.0.0.0/24", "10.0.0.1/24")
        .replace("\"none\"", "\"maybe\"")
        .replace("[\"tls\", \"dtls\"]", "\"sctp\"");
    refused(
        &text,
        r#"
error: test.toml:2:14: tscf-config.element-id: 7777 is outside 0-1023
  help: use a number from 0 to 1023
error: test.toml:12:18: tscf-address-pool[0].address-range[0]: "10.0.0.1/24" has bits set behind the prefix length; the network is 10.0.0.0/24
  help: write "10.0.0.0/24", "10.0.0.10-10.0.0.99" or "10.0.0.7", or the same in IPv6
error: test.toml:21:18: tscf-interface[0].authentication: "maybe" is none of none, mtls, token
  help: known here: mtls, none, token
error: test.toml:26:22: tscf-interface[0].tscf-port[0].transport-protocol: "sctp" is none of tcp, tls, udp, dtls
  help: did you mean "tcp"?"#,
    );
}

#[test]
fn text_that_is_no_toml_is_reported_by_line() {
    let errors = parse("[tscf-config]\nelement-id = \n[[x]\n").unwrap_err();
    let lines: Vec<_> = errors
        .iter()
        .map(|error| {
            let Place::Text { line, .. } = &error.place else {
                panic!("{error} has no line");
            };
            *line
        })
        .collect();
    assert_eq!(lines, [2, 3]);
    assert!(
        errors
            .iter()
            .all(|e| matches!(e.kind, ConfigErrorKind::Syntax { .. }))
    );
}

#[test]
fn an_empty_configuration_lacks_the_essentials() {
    refused(
        "",
        r#"
error: test.toml: tscf-address-pool: [[tscf-address-pool]] is missing
  help: add a pool of inner addresses for the clients
error: test.toml: tscf-interface: an enabled [[tscf-interface]] is missing
  help: add one, or set state = "enabled""#,
    );
    report(
        "authentication",
        "state = \"disabled\"\nauthentication",
        r#"
error: test.toml:18:1: tscf-interface: an enabled [[tscf-interface]] is missing
  help: add one, or set state = "enabled""#,
    );
}

#[test]
fn references_must_exist() {
    report(
        "[\"v4\"]",
        "[\"v5\"]",
        r#"
error: test.toml:20:24: tscf-interface[0].local-address-pools[0]: there is no tscf-address-pool "v5"
  help: known here: v4, v6"#,
    );
    report(
        "tls-profile = \"default\"",
        "tls-profile = \"other\"",
        r#"
error: test.toml:27:15: tscf-interface[0].tscf-port[0].tls-profile: there is no tls-profile "other"
  help: known here: default"#,
    );
}

#[test]
fn pools_do_not_overlap() {
    report(
        "\"fd00::/120\"",
        "\"fd00::/120\", \"10.0.0.200-10.0.1.5\"",
        r#"
error: test.toml:16:32: tscf-address-pool[1].address-range[1]: 10.0.0.200-10.0.1.5 shares 10.0.0.200-10.0.0.254 with pool "v4"
  help: let each address belong to one range only"#,
    );
    // A long range hides a short one that neither neighbours nor ends it.
    report(
        "\"10.0.0.0/24\"",
        "\"10.0.0.0/24\", \"10.0.0.3\", \"10.0.0.9\"",
        r#"
error: test.toml:12:33: tscf-address-pool[0].address-range[1]: 10.0.0.3 shares 10.0.0.3 with pool "v4"
  help: let each address belong to one range only
error: test.toml:12:45: tscf-address-pool[0].address-range[2]: 10.0.0.9 shares 10.0.0.9 with pool "v4"
  help: let each address belong to one range only"#,
    );
}

#[test]
fn pools_have_a_sane_size_and_sane_addresses() {
    report(
        "fd00::/120",
        "fd00::/64",
        r#"
error: test.toml:16:17: tscf-address-pool[1].address-range: the pool holds more than 1048576 addresses
  help: each address costs memory: use up to /12 of IPv4 or /108 of IPv6"#,
    );
    report(
        "10.0.0.0/24",
        "169.254.1.0/24",
        r#"
error: test.toml:12:18: tscf-address-pool[0].address-range[0]: 169.254.1.1-169.254.1.254 reaches into 169.254.0.0/16, which is no network of hosts
  help: use addresses that clients can have"#,
    );
    report(
        "[\"10.0.0.0/24\"]",
        "[\"10.0.0.0/24\"]\nexclude = [\"10.0.0.1-10.0.0.99\", \"10.0.0.50-10.0.0.254\", \"10.9.9.9\"]",
        r#"
error: test.toml:13:11: tscf-address-pool[0].exclude: the exclusions leave no address
  help: exclude less
error: test.toml:13:58: tscf-address-pool[0].exclude[2]: 10.9.9.9 lies in no address-range of this pool
  help: correct or remove it"#,
    );
    let almost = changed(
        "[\"10.0.0.0/24\"]",
        "[\"10.0.0.0/24\"]\nexclude = [\"10.0.0.1-10.0.0.99\", \"10.0.0.50-10.0.0.253\"]",
    );
    assert!(parse(&almost).is_ok(), "one address is left");
}

#[test]
fn ipv6_needs_its_mtu() {
    let small = changed("[\"v4\"]", "[\"v4\", \"v6\"]\ninner-mtu = 1279");
    refused(
        &small,
        r#"
error: test.toml:21:13: tscf-interface[0].inner-mtu: 1279 is too small for the IPv6 addresses of pool "v6"
  help: use 1280 or more, or only IPv4 pools"#,
    );
    assert!(parse(&small.replace("1279", "1280")).is_ok());
    assert!(parse(&small.replace("1279", "576").replace(", \"v6\"", "")).is_ok());
}

#[test]
fn sockets_are_unique_but_protocols_share() {
    let second = |address: &str, port: u16, transports: &str| {
        format!(
            "{GOOD}\n[[tscf-interface.tscf-port]]\naddress = \"{address}\"\nport = {port}\n\
             transport-protocol = {transports}\n"
        )
    };
    refused(
        &second("192.0.2.1", 5061, "\"tcp\""),
        r#"
error: test.toml:31:8: tscf-interface[0].tscf-port[1].port: the TCP port 192.0.2.1:5061 is taken by 192.0.2.1:5061 already
  help: use another port, or list both transports in one tscf-port: tcp and tls share one, udp and dtls another"#,
    );
    refused(
        &second("0.0.0.0", 5061, "\"udp\""),
        r#"
error: test.toml:31:8: tscf-interface[0].tscf-port[1].port: the UDP port 0.0.0.0:5061 is taken by 192.0.2.1:5061 already
  help: use another port, or list both transports in one tscf-port: tcp and tls share one, udp and dtls another"#,
    );
    for good in [
        second("192.0.2.2", 5061, "\"tcp\""),
        second("::", 5061, "\"tcp\""),
        second("192.0.2.1", 5060, "[\"tcp\", \"udp\"]"),
        GOOD.replace(
            "[\"tls\", \"dtls\"]",
            "[\"tcp\", \"tls\", \"udp\", \"dtls\"]",
        ),
        GOOD.replace("5061", "0") + &second("192.0.2.1", 0, "\"tcp\"")[GOOD.len()..],
    ] {
        assert!(parse(&good).is_ok(), "{good}");
    }
    // One protocol on TCP and another on UDP do not meet.
    let split = GOOD.replace("[\"tls\", \"dtls\"]", "\"tls\"");
    let split = split + &second("192.0.2.1", 5061, "\"udp\"")[GOOD.len()..];
    assert!(parse(&split).is_ok());
}

#[test]
fn protected_transports_need_a_profile() {
    report(
        "tls-profile = \"default\"\n",
        "",
        r#"
error: test.toml:23:1: tscf-interface[0].tscf-port[0].tls-profile: "tls-profile", which tls and dtls need, is missing
  help: add tls-profile = "…", the name of a [[tls-profile]]"#,
    );
}

#[test]
fn mtls_needs_authorities_and_protection() {
    let mtls = GOOD.replace("\"none\"", "\"mtls\"");
    assert!(parse(&mtls).is_ok());
    refused(
        &mtls
            .replace("client-ca = [\"ca.pem\"]\n", "")
            .replace("\"tls\", \"dtls\"", "\"tls\", \"tcp\""),
        r#"
error: test.toml:25:22: tscf-interface[0].tscf-port[0].transport-protocol: has a clear transport, which cannot carry client certificates
  help: use tls and dtls only, or another authentication
error: test.toml:26:15: tscf-interface[0].tscf-port[0].tls-profile: authentication = "mtls" needs the client-ca of "default"
  help: add client-ca = ["ca.pem"] to the profile"#,
    );
}

#[test]
fn tokens_need_a_file_and_protection() {
    let token =
        |file: &str| GOOD.replace("\"none\"", &format!("\"token\"\ntoken-file = \"{file}\""));
    let config = parse(&token("tokens")).unwrap();
    let tsc_server::config::Authentication::Token(auth) = &config.interfaces[0].authentication
    else {
        panic!("token authentication");
    };
    assert_eq!(auth.tokens.identity(b"abc"), Some("alice"));

    let clear = token("tokens").replace("\"dtls\"", "\"udp\"");
    refused(
        &clear,
        r#"
error: test.toml:27:22: tscf-interface[0].tscf-port[0].transport-protocol: has a clear transport, on which anyone on the path could read the token
  help: use tls and dtls only, or set allow-token-on-clear = true"#,
    );
    let allowed = clear.replace("token-file", "allow-token-on-clear = true\ntoken-file");
    assert!(parse(&allowed).is_ok());

    report(
        "\"none\"",
        "\"token\"",
        r#"
error: test.toml:18:1: tscf-interface[0]: "token-file" is missing
  help: add token-file = "…", a file with a line IDENTITY:SHA256 for each client"#,
    );
    report(
        "\"none\"",
        "\"none\"\ntoken-file = \"tokens\"",
        r#"
error: test.toml:22:14: tscf-interface[0].token-file: has no effect without authentication = "token"
  help: remove it, or set authentication = "token""#,
    );
    refused(
        &token("bad"),
        r#"
error: test.toml:22:14: tscf-interface[0].token-file: bad: line 1 is not of the form IDENTITY:SHA256
  help: write IDENTITY:SHA256, with the hash from: printf %s TOKEN | sha256sum
error: test.toml:22:14: tscf-interface[0].token-file: bad: line 3 repeats the token of an earlier line
  help: write IDENTITY:SHA256, with the hash from: printf %s TOKEN | sha256sum"#,
    );
    refused(
        &token("empty"),
        r#"
error: test.toml:22:14: tscf-interface[0].token-file: empty holds no token
  help: add a line IDENTITY:SHA256 for each client"#,
    );
}

#[test]
fn credentials_are_loaded_and_matched() {
    let errors = parse(&changed("server.key", "other.key")).unwrap_err();
    assert!(errors.only_credentials());
    assert_eq!(
        errors.iter().next().unwrap().key,
        "tls-profile[0].certificate"
    );

    let errors = parse(&changed("[\"ca.pem\"]", "[\"ca.pem\", \"tokens\"]")).unwrap_err();
    assert!(errors.only_credentials());
    assert_eq!(
        errors.iter().next().unwrap().key,
        "tls-profile[0].client-ca"
    );
}

#[test]
fn a_pasted_key_is_not_repeated() {
    let errors = parse(&changed(
        "\"server.key\"",
        "\"\"\"-----BEGIN PRIVATE KEY-----\nSECRET\n\"\"\"",
    ))
    .unwrap_err();
    assert_eq!(
        errors.to_string(),
        "error: test.toml:7:15: tls-profile[0].private-key: holds a PEM text where a path belongs\n  \
         help: put the PEM text into a file and name it here"
    );
    assert!(!format!("{errors:?}").contains("SECRET"));
}

#[test]
fn sip_servers_and_the_service_go_together() {
    report(
        "authentication",
        "assigned-services = [\"SIP\"]\nauthentication",
        r#"
error: test.toml:18:1: tscf-interface[0].sip-servers: "sip-servers", which the service SIP assigns, is missing
  help: add sip-servers = ["10.0.0.5:5060"], or remove SIP from assigned-services"#,
    );
    report(
        "authentication",
        "sip-servers = [\"10.0.0.5\", \"0.0.0.0:5060\"]\nauthentication",
        r#"
error: test.toml:21:15: tscf-interface[0].sip-servers: has no effect without the service SIP
  help: add assigned-services = ["SIP"]
error: test.toml:21:28: tscf-interface[0].sip-servers[1]: 0.0.0.0:5060 is nothing that a client can send to
  help: write the address and port of one host"#,
    );
    report(
        "authentication",
        "dns-servers = [\"192.0.2.53\", \"127.0.0.53\"]\nauthentication",
        r#"
error: test.toml:21:30: tscf-interface[0].dns-servers[1]: 127.0.0.53:53 is every client itself, not a host behind the tunnel
  help: write an address of this host's network"#,
    );
}

#[test]
fn redirects_need_a_destination() {
    report(
        "authentication",
        "redirect = true\nauthentication",
        r#"
error: test.toml:21:12: tscf-interface[0].redirect: "alternate-servers", to which clients are redirected, is missing
  help: add alternate-servers = ["tls://192.0.2.1:5061"], or remove redirect"#,
    );
    report(
        "authentication",
        "alternate-servers = [\"sctp://192.0.2.1:1\"]\nauthentication",
        r#"
error: test.toml:21:22: tscf-interface[0].alternate-servers[0]: "sctp://192.0.2.1:1" is no TRANSPORT://ADDRESS:PORT
  help: write it as "tls://192.0.2.1:5061"; transports are tcp, tls, udp and dtls"#,
    );
}

#[test]
fn a_dtls_backend_needs_dtls() {
    report(
        "[\"tls\", \"dtls\"]",
        "\"tls\"\ndtls-backend = \"openssl\"",
        r#"
error: test.toml:27:16: tscf-interface[0].tscf-port[0].dtls-backend: has no effect without "dtls" among transport-protocol
  help: remove it"#,
    );
}

#[test]
fn marks_are_a_word_or_a_number() {
    for good in ["\"off\"", "\"copy\"", "0", "63"] {
        let text = changed(
            "authentication = \"none\"",
            &format!("authentication = \"none\"\nouter-dscp = {good}"),
        );
        parse(&text).unwrap();
    }
    report(
        "authentication = \"none\"",
        "authentication = \"none\"\nouter-dscp = \"EF\"",
        r#"
error: test.toml:22:14: tscf-interface[0].outer-dscp: "EF" says nothing about marks
  help: write "off", "copy" (as the inner packets are marked), or a number from 0 to 63"#,
    );
    report(
        "authentication = \"none\"",
        "authentication = \"none\"\nouter-dscp = 64",
        r#"
error: test.toml:22:14: tscf-interface[0].outer-dscp: 64 is outside 0-63
  help: use a number from 0 to 63"#,
    );
}

#[test]
fn streams_cannot_copy_marks() {
    let text = changed(
        "authentication = \"none\"",
        "authentication = \"none\"\nouter-dscp = \"copy\"",
    );
    let text = text.replace("[\"tls\", \"dtls\"]", "\"tls\"");
    refused(
        &text,
        r#"
error: test.toml:22:14: tscf-interface[0].outer-dscp: has no effect on tcp and tls, where packets of all marks share a connection
  help: give a number, with which all outer packets are marked, or remove it"#,
    );
}

#[test]
fn encryption_on_demand_needs_a_port_that_encrypts() {
    let with = |ports: &str| {
        let text = changed(
            "authentication",
            "assigned-services = [\"DTTE\"]\nauthentication",
        );
        text.replace("[\"tls\", \"dtls\"]", ports)
    };
    let profile = "tls-profile = \"default\"\n";
    let clear = with("[\"tcp\", \"udp\"]").replace(profile, "");
    refused(
        &clear,
        r#"
error: test.toml:27:22: tscf-interface[0].tscf-port[0].transport-protocol: has tcp, and nothing listens for tls, over which DTTE encrypts beside it
  help: add a tscf-port with "tls" at port 5062 to the interface, or remove DTTE from assigned-services
error: test.toml:27:22: tscf-interface[0].tscf-port[0].transport-protocol: has udp, and nothing listens for dtls, over which DTTE encrypts beside it
  help: add a tscf-port with "dtls" at port 5062 to the interface, or remove DTTE from assigned-services"#,
    );
    let also = |address: &str| {
        format!(
            "{clear}\n[[tscf-interface.tscf-port]]\naddress = \"{address}\"\nport = 5062\n\
             transport-protocol = [\"tls\", \"dtls\"]\n{profile}"
        )
    };
    parse(&also("127.0.0.1")).unwrap();
    parse(&also("0.0.0.0")).unwrap();
    // Which of the host's addresses of another IP version these clients could reach, nobody knows.
    assert!(parse(&also("::")).is_err());
    // Another port than the next, or the same one, are told to clients; where all is encrypted there is nothing to add.
    parse(&also("127.0.0.1").replace("5062", "7000")).unwrap();
    parse(&with("[\"tcp\", \"tls\"]")).unwrap();
    parse(&with("\"tls\"")).unwrap();
}

#[test]
fn names_are_unique() {
    report(
        "\"v6\"",
        "\"v4\"",
        r#"
error: test.toml:15:8: tscf-address-pool[1].name: the name "v4" appears twice
  help: give each its own name"#,
    );
}

#[test]
fn tables_and_values_are_not_confused() {
    refused(
        "tscf-config = 3\ntscf-address-pool = [1]\ntscf-interface = \"x\"\n",
        r#"
error: test.toml:1:15: tscf-config: must be a table, [tscf-config], not a whole number
  help: write [tscf-config]
error: test.toml:2:22: tscf-address-pool[0]: must be a table, not a whole number
  help: write [[tscf-address-pool[0]]]
error: test.toml:3:18: tscf-interface: must be a table, not a text
  help: write [[tscf-interface]]"#,
    );
}

#[test]
fn a_file_that_is_not_there_says_what_to_do() {
    let errors = Config::load(
        "/nonexistent/tsc-server.toml".as_ref(),
        &Default::default(),
        &Default::default(),
    )
    .unwrap_err();
    assert_eq!(
        errors.to_string(),
        "error: /nonexistent/tsc-server.toml: cannot be read: No such file or directory (os error 2)\n  \
         help: name an existing file with --config; --print-default-config writes one to start from"
    );
}
