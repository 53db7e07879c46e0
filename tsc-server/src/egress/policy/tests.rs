use super::*;
use crate::egress::test_config;

/// The policies of a pool that names `names`, of these tables.
fn policies(names: &str, tables: &str) -> Policies {
    let config = test_config::parse(&format!(
        "[[tscf-address-pool]]\nname = \"pool\"\naddress-range = [\"10.0.0.0/24\"]\n\
         protocol-policy = {names}\n{tables}"
    ));
    Policies::new(&config, &config.pools[0])
}

fn aim(address: &str, protocol: u8, port: Port) -> Aim {
    Aim {
        address: address.parse().unwrap(),
        protocol,
        port,
    }
}

#[test]
fn the_first_that_matches_decides() {
    let policies = policies(
        r#"["web", "sip", "net", "rest"]"#,
        r#"
[[tscf-protocol-policy]]
name = "rest"
egress = "drop"
[[tscf-protocol-policy]]
name = "sip"
ip-address = "192.0.2.1"
port = "5060-5062"
transport-type = "udp"
remote-ip-address = "198.51.100.1"
[[tscf-protocol-policy]]
name = "web"
ip-address = "192.0.2.1"
port = 5061
transport-type = "udp"
egress = "switch"
[[tscf-protocol-policy]]
name = "net"
ip-address = "192.0.2.0/24"
egress = "tun"
"#,
    );
    let egress = |address, protocol, port| {
        let decision = policies.decide(aim(address, protocol, port)).unwrap();
        (
            decision.egress,
            decision.rewrite.map(|end| end.address.to_string()),
        )
    };
    let known = Port::Known;
    assert_eq!(
        egress("192.0.2.1", UDP, known(5061)),
        (Some(PolicyEgress::Switch), None)
    );
    let sip = (None, Some("198.51.100.1".to_owned()));
    assert_eq!(egress("192.0.2.1", UDP, known(5060)), sip);
    assert_eq!(egress("192.0.2.1", UDP, known(5062)), sip);
    for (address, protocol, port) in [
        ("192.0.2.1", UDP, known(5063)),
        ("192.0.2.1", TCP, known(5060)),
        ("192.0.2.1", 1, Port::None),
        ("192.0.2.255", UDP, known(5060)),
    ] {
        assert_eq!(
            egress(address, protocol, port),
            (Some(PolicyEgress::Tun), None)
        );
    }
    for address in ["192.0.3.1", "2001:db8::1"] {
        assert_eq!(
            egress(address, UDP, known(5060)),
            (Some(PolicyEgress::Drop), None)
        );
    }
    let unseen = policies.decide(aim("192.0.2.1", UDP, Port::Elsewhere));
    assert_eq!(unseen, Err(PortElsewhere));
    assert_eq!(
        egress("192.0.2.2", UDP, Port::Elsewhere).0,
        Some(PolicyEgress::Tun)
    );
}

#[test]
fn what_stands_for_one_host_can_be_undone() {
    let policies = policies(
        r#"["both", "host", "port", "many", "range"]"#,
        r#"
[[tscf-protocol-policy]]
name = "both"
ip-address = "192.0.2.1"
port = 5060
transport-type = "udp"
remote-ip-address = "198.51.100.1"
remote-port = 6060
[[tscf-protocol-policy]]
name = "host"
ip-address = "192.0.2.2"
remote-ip-address = "198.51.100.2"
[[tscf-protocol-policy]]
name = "port"
ip-address = "192.0.2.3"
port = 80
remote-port = 8080
[[tscf-protocol-policy]]
name = "many"
ip-address = "192.0.2.128/25"
remote-ip-address = "198.51.100.4"
[[tscf-protocol-policy]]
name = "range"
ip-address = "192.0.2.5"
port = "1000-2000"
remote-ip-address = "198.51.100.5"
remote-port = 3000
"#,
    );
    let origin = |address, protocol, port| {
        let end = policies.origin(aim(address, protocol, port));
        end.map(|end| end.map(|end| (end.address.to_string(), end.port)))
    };
    let some = |address: &str, port| Ok(Some((address.to_owned(), port)));
    assert_eq!(
        origin("198.51.100.1", UDP, Port::Known(6060)),
        some("192.0.2.1", Some(5060))
    );
    assert_eq!(origin("198.51.100.1", UDP, Port::Known(6061)), Ok(None));
    assert_eq!(origin("198.51.100.1", TCP, Port::Known(6060)), Ok(None));
    assert_eq!(
        origin("198.51.100.1", UDP, Port::Elsewhere),
        Err(PortElsewhere)
    );
    assert_eq!(
        origin("198.51.100.2", TCP, Port::Known(9)),
        some("192.0.2.2", None)
    );
    assert_eq!(
        origin("198.51.100.2", 1, Port::None),
        some("192.0.2.2", None)
    );
    assert_eq!(
        origin("192.0.2.3", TCP, Port::Known(8080)),
        some("192.0.2.3", Some(80))
    );
    assert_eq!(
        origin("198.51.100.4", UDP, Port::Known(1)),
        Ok(None),
        "only a flow knows"
    );
    assert_eq!(origin("198.51.100.5", UDP, Port::Known(3000)), Ok(None));
    let end = policies
        .decide(aim("192.0.2.3", TCP, Port::Known(80)))
        .unwrap()
        .rewrite;
    assert_eq!(end.unwrap().address.to_string(), "192.0.2.3");
    assert_eq!(end.unwrap().port, Some(8080));
}
