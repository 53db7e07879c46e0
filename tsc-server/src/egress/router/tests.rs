use std::time::Duration;

use super::*;
use crate::{
    egress::{headers::UDP, rates, test_config},
    worker::harness::PacketPath,
};

const CONFIG: &str = r#"
[[tscf-address-pool]]
name = "pool"
address-range = ["10.0.0.1-10.0.0.9", "fd00::1-fd00::9"]
egress = "tun"
protocol-policy = "sip, net, six, none"
data-flow = "slow"

[[tscf-protocol-policy]]
name = "sip"
ip-address = "192.0.2.1"
port = 5060
transport-type = "udp"
egress = "switch"
remote-ip-address = "198.51.100.1"
remote-port = 6060

[[tscf-protocol-policy]]
name = "net"
ip-address = "192.0.2.128/25"
remote-ip-address = "198.51.100.2"

[[tscf-protocol-policy]]
name = "six"
ip-address = "2001:db8:1::/48"
remote-ip-address = "2001:db8:2::1"

[[tscf-protocol-policy]]
name = "none"
ip-address = "203.0.113.0/24"
egress = "drop"

[[tscf-data-flow]]
name = "slow"
group-size = 1
"#;

struct World {
    router: Router,
    tunnel: SessionId,
    now: Instant,
}

impl World {
    fn new(config: &str) -> Self {
        let now = Instant::now();
        let config = test_config::parse(config);
        // Nothing but a session core makes names of tunnels.
        let tunnels = PacketPath::new(&config, now, 1).unwrap();
        Self {
            router: Router::new(&config, rates::all(&config, now)),
            tunnel: tunnels.session(0).unwrap(),
            now,
        }
    }

    /// What leaves for `packet` of the tunnel, changed.
    fn out(&mut self, packet: &[u8]) -> Result<(Vec<u8>, Outgoing), Refusal> {
        let headers = Headers::of(packet).unwrap();
        let outgoing = self.router.outgoing(
            self.now,
            self.tunnel,
            headers.source,
            headers.destination,
            packet,
        )?;
        let mut packet = packet.to_vec();
        assert!(outgoing.edits.apply(&mut packet));
        assert_eq!(
            Headers::of(&packet).unwrap().destination,
            outgoing.destination
        );
        Ok((packet, outgoing))
    }

    /// What the tunnel gets of `packet`.
    fn back(&mut self, packet: &[u8]) -> Result<Vec<u8>, Refusal> {
        let to = Headers::of(packet).unwrap().destination;
        let mut edits = Edits::default();
        self.router
            .incoming(self.now, self.tunnel, to, packet, &mut edits)?;
        let mut packet = packet.to_vec();
        assert!(edits.apply(&mut packet));
        Ok(packet)
    }
}

/// A UDP packet without a checksum of its own; `fragment` is the field with flags and offset (IPv4).
fn udp(from: (&str, u16), to: (&str, u16), fragment: u16) -> Vec<u8> {
    let [source, destination]: [IpAddr; 2] = [from.0, to.0].map(|text| text.parse().unwrap());
    let mut packet = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header = vec![0x45, 0, 0, 36, 0, 7, 0, 0, 64, UDP, 0, 0];
            header[6..8].copy_from_slice(&fragment.to_be_bytes());
            header.extend(source.octets());
            header.extend(destination.octets());
            header
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut header = vec![0x60, 0, 0, 0, 0, 16, UDP, 64];
            header.extend(source.octets());
            header.extend(destination.octets());
            header
        }
        _ => panic!("one family"),
    };
    if fragment & 0x1FFF == 0 {
        packet.extend(from.1.to_be_bytes());
        packet.extend(to.1.to_be_bytes());
        packet.extend([0, 16, 0, 0]);
    } else {
        packet.extend([9; 8]);
    }
    packet.extend([1, 2, 3, 4, 5, 6, 7, 8]);
    packet
}

/// An ICMP error of `from` about `about`.
fn unreachable(from: &str, about: &[u8]) -> Vec<u8> {
    let from: std::net::Ipv4Addr = from.parse().unwrap();
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 1, 0, 0];
    packet[3] = u8::try_from(28 + about.len()).unwrap();
    packet.extend(from.octets());
    packet.extend_from_slice(&about[12..16]);
    packet.extend([3, 3, 0, 0, 0, 0, 0, 0]);
    packet.extend_from_slice(about);
    packet
}

fn ends(packet: &[u8]) -> String {
    let headers = Headers::of(packet).unwrap();
    match headers.ports(packet) {
        Some((from, to)) => format!("{}:{from} {}:{to}", headers.source, headers.destination),
        None => format!("{} {}", headers.source, headers.destination),
    }
}

#[test]
fn what_goes_out_comes_back_as_from_where_it_was_sent_to() {
    let mut world = World::new(CONFIG);
    let (sent, outgoing) = world
        .out(&udp(("10.0.0.1", 4000), ("192.0.2.1", 5060), 0))
        .unwrap();
    assert_eq!(ends(&sent), "10.0.0.1:4000 198.51.100.1:6060");
    assert_eq!(outgoing.egress, Egress::Switch);
    let answer = udp(("198.51.100.1", 6060), ("10.0.0.1", 4000), 0);
    assert_eq!(
        ends(&world.back(&answer).unwrap()),
        "192.0.2.1:5060 10.0.0.1:4000"
    );
    // What the host begins by itself is known by the policy.
    let begun = udp(("198.51.100.1", 6060), ("10.0.0.1", 5060), 0);
    assert_eq!(
        ends(&world.back(&begun).unwrap()),
        "192.0.2.1:5060 10.0.0.1:5060"
    );
    let other = udp(("198.51.100.1", 6061), ("10.0.0.1", 4000), 0);
    assert_eq!(world.back(&other).unwrap(), other);
}

#[test]
fn many_hosts_behind_one_are_told_apart_by_flow() {
    let mut world = World::new(CONFIG);
    for host in 200..210_u16 {
        let to = format!("192.0.2.{host}");
        let (sent, outgoing) = world.out(&udp(("10.0.0.1", host), (&to, 80), 0)).unwrap();
        assert_eq!(ends(&sent), format!("10.0.0.1:{host} 198.51.100.2:80"));
        assert_eq!(outgoing.egress, Egress::Tun, "that of the pool");
    }
    for host in 200..210_u16 {
        let answer = udp(("198.51.100.2", 80), ("10.0.0.1", host), 0);
        let got = ends(&world.back(&answer).unwrap());
        assert_eq!(got, format!("192.0.2.{host}:80 10.0.0.1:{host}"));
    }
    let stranger = udp(("198.51.100.2", 80), ("10.0.0.1", 1), 0);
    assert_eq!(world.back(&stranger).unwrap(), stranger);
    world.now += Duration::from_secs(601);
    let late = udp(("198.51.100.2", 80), ("10.0.0.1", 200), 0);
    assert_eq!(world.back(&late).unwrap(), late, "forgotten");
}

#[test]
fn ipv6_is_rewritten_as_well() {
    let mut world = World::new(CONFIG);
    let (sent, _) = world
        .out(&udp(("fd00::1", 1), ("2001:db8:1::7", 2), 0))
        .unwrap();
    assert_eq!(ends(&sent), "fd00::1:1 2001:db8:2::1:2");
    let answer = udp(("2001:db8:2::1", 2), ("fd00::1", 1), 0);
    assert_eq!(
        ends(&world.back(&answer).unwrap()),
        "2001:db8:1::7:2 fd00::1:1"
    );
}

#[test]
fn icmp_errors_speak_of_what_their_receiver_knows() {
    let mut world = World::new(CONFIG);
    let asked = udp(("10.0.0.1", 4000), ("192.0.2.200", 80), 0);
    let (sent, _) = world.out(&asked).unwrap();
    // From the host itself, and from a router before it.
    for (from, shown) in [
        ("198.51.100.2", "192.0.2.200"),
        ("198.51.100.99", "198.51.100.99"),
    ] {
        let got = world.back(&unreachable(from, &sent)).unwrap();
        assert_eq!(ends(&got), format!("{shown} 10.0.0.1"));
        assert_eq!(ends(&got[28..]), "10.0.0.1:4000 192.0.2.200:80");
    }
    // The other way: the tunnel says that it does not want the answer.
    let answer = udp(("198.51.100.2", 80), ("10.0.0.1", 4000), 0);
    let got = world.back(&answer).unwrap();
    let mut error = unreachable("10.0.0.1", &got);
    error[16..20].copy_from_slice(&[192, 0, 2, 200]);
    let (sent, outgoing) = world.out(&error).unwrap();
    assert_eq!(ends(&sent), "10.0.0.1 198.51.100.2");
    assert_eq!(ends(&sent[28..]), "198.51.100.2:80 10.0.0.1:4000");
    assert_eq!(outgoing.egress, Egress::Tun);
}

#[test]
fn fragments_follow_their_first() {
    let mut world = World::new(CONFIG);
    let more = 0x2000;
    let first = udp(("10.0.0.1", 4000), ("192.0.2.1", 5060), more);
    let later = udp(("10.0.0.1", 0), ("192.0.2.1", 0), 2);
    assert_eq!(
        world.out(&later),
        Err(Refusal::Unknown),
        "nobody knows its port"
    );
    let (sent, _) = world.out(&first).unwrap();
    assert_eq!(ends(&sent), "10.0.0.1:4000 198.51.100.1:6060");
    let (sent, outgoing) = world.out(&later).unwrap();
    assert_eq!(ends(&sent), "10.0.0.1 198.51.100.1");
    assert_eq!(outgoing.egress, Egress::Switch);

    let later = udp(("198.51.100.1", 0), ("10.0.0.1", 0), 2);
    assert_eq!(world.back(&later), Err(Refusal::Unknown));
    let first = udp(("198.51.100.1", 6060), ("10.0.0.1", 4000), more);
    assert_eq!(
        ends(&world.back(&first).unwrap()),
        "192.0.2.1:5060 10.0.0.1:4000"
    );
    assert_eq!(ends(&world.back(&later).unwrap()), "192.0.2.1 10.0.0.1");

    // Where no port matters, none is missed.
    let later = udp(("10.0.0.1", 0), ("192.0.2.130", 0), 2);
    assert_eq!(ends(&world.out(&later).unwrap().0), "10.0.0.1 198.51.100.2");
    let later = udp(("10.0.0.1", 0), ("8.8.8.8", 0), 2);
    assert_eq!(world.out(&later).unwrap().0, later);
}

#[test]
fn drop_means_drop_and_other_packets_are_left_alone() {
    let mut world = World::new(CONFIG);
    let dropped = udp(("10.0.0.1", 1), ("203.0.113.7", 2), 0);
    assert_eq!(world.out(&dropped).map(drop), Err(Refusal::Policy));
    let other = udp(("10.0.0.1", 1), ("192.0.2.1", 5061), 0);
    let (sent, outgoing) = world.out(&other).unwrap();
    assert_eq!((sent, outgoing.egress), (other, Egress::Tun));
}

#[test]
fn a_tunnel_cannot_fill_the_memory_of_flows() {
    let mut world = World::new(CONFIG);
    let mut refused = 0;
    for port in 1..5000 {
        let packet = udp(("10.0.0.1", port), ("192.0.2.200", 80), 0);
        refused += usize::from(world.out(&packet).is_err());
    }
    assert_eq!(refused, 4999 - 2048);
}

#[test]
fn routed_prefixes_count_for_the_pool_of_their_tunnel() {
    let config = CONFIG.replace("group-size = 1", "group-size = 1\nupstream-rate = 10");
    let mut world = World::new(&config);
    let packet = udp(("172.16.0.1", 1), ("8.8.8.8", 2), 0);
    // Not known yet: nothing but tunnels.
    assert_eq!(world.out(&packet).unwrap().1.egress, Egress::Switch);
    let tunnel = world.tunnel;
    world
        .router
        .session_up(tunnel, &["10.0.0.3".parse().unwrap()]);
    assert_eq!(world.out(&packet).unwrap().1.egress, Egress::Tun);
    let passed = (0..1000).filter(|_| world.out(&packet).is_ok()).count();
    assert!(
        (50..150).contains(&passed),
        "{passed} packets of 36 bytes in 3000"
    );
    let own = udp(("10.0.0.3", 1), ("8.8.8.8", 2), 0);
    assert_eq!(
        world.out(&own).map(drop),
        Err(Refusal::Rate),
        "one bucket for both"
    );
    let other = udp(("10.0.0.4", 1), ("8.8.8.8", 2), 0);
    assert!(world.out(&other).is_ok());
}
