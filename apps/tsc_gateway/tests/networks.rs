//! The gateway between a LAN and a core that know nothing of tunnels, on the real kernel.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    unreachable_pub
)]

mod support {
    pub mod traffic;
    mod world;
    pub use world::*;
}

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    os::fd::OwnedFd,
    time::Duration,
};

use serde_json::Value;
use support::{
    CORE, LAN, World, run,
    traffic::{Pong, exchange_datagrams, exchange_stream, ping, udp},
    within,
};
use tsc_interop::{Process, isolated_within};
use tsc_tapi::tun::{TunConfig, TunDevice};

/// A loaded machine needs a fraction of it.
const LIMIT: Duration = Duration::from_secs(280);
const NETWORKS: &str = "--core 198.51.100.0/24 --core 2001:db8:2::/64";
const READY: &str = "\"event\":\"ready\"";

fn last_line(output: &str) -> Value {
    serde_json::from_str(output.lines().last().unwrap()).unwrap()
}

/// What the kernel still knows of a device.
fn traces(namespace: &str, device: &str) -> String {
    let links = run(namespace, "ip -o link show");
    let routes = run(namespace, "ip route show") + &run(namespace, "ip -6 route show");
    let lines = links.lines().chain(routes.lines());
    lines.filter(|line| line.contains(device)).collect()
}

/// What this program may do, by the kernel's word.
fn capabilities(process: &Process) -> Vec<String> {
    let mut found = Vec::new();
    for task in fs::read_dir(format!("/proc/{}/task", process.id())).unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let lines = status.lines().filter(|line| {
            ["CapPrm", "CapEff", "CapBnd", "CapAmb"]
                .iter()
                .any(|name| line.starts_with(name))
        });
        found.extend(
            lines
                .filter(|line| !line.ends_with("\t0000000000000000"))
                .map(str::to_owned),
        );
    }
    found
}

#[test]
fn hosts_on_both_sides_reach_each_other() {
    isolated_within(LIMIT, "hosts_on_both_sides_reach_each_other", || {
        let world = World::new(1400);
        let server = world.server();
        for transport in ["tls", "dtls"] {
            let arguments = format!(
                "{NETWORKS} --prefix 192.168.7.0/24 --prefix fd07::/64 --tun-name tscgw \
                 --tun-address 192.168.7.254 --tun-address fd07::fe"
            );
            let gateway = world.gateway("one", transport, &arguments);
            let ready = last_line(&gateway.wait_for(READY));
            assert_eq!(
                (&ready["device"], &ready["mtu"]),
                (&"tscgw".into(), &1400.into())
            );
            assert_eq!(
                ready["prefixes"],
                serde_json::json!(["192.168.7.0/24", "fd07::/64"])
            );
            assert_eq!(capabilities(&gateway), [""; 0]);
            let _ = server.wait_for("event=\"service-granted\"");
            for (lan, core) in LAN.into_iter().zip(CORE) {
                // The gateway's kernel, the server and the edge's kernel are three routers.
                let hops = lan.contains('.').then_some(64 - 3);
                assert_eq!(ping("lan", core, 64), Pong::Echo(hops), "{transport}");
                assert_eq!(ping("core", lan, 64), Pong::Echo(hops), "{transport}");
                let (near, far) = if lan.contains('.') {
                    ("192.168.7.1", "192.168.7.254")
                } else {
                    ("fd07::1", "fd07::fe")
                };
                let exceeded = |address: &str| Pong::Exceeded(address.parse().unwrap());
                assert_eq!(ping("lan", core, 1), exceeded(near));
                // The server speaks for whom the packet was meant.
                assert_eq!(ping("lan", core, 2), exceeded(core));
                assert_eq!(ping("core", lan, 2), exceeded(lan));
                // From the core's side the gateway is the third router.
                assert_eq!(ping("core", lan, 3), exceeded(far));
                let (lan, core) = (("lan", lan), ("core", core));
                exchange_stream(lan, core);
                exchange_stream(core, lan);
                exchange_datagrams(lan, core);
                exchange_datagrams(core, lan);
            }
            let stopped = gateway.stop();
            assert!(stopped.status.success(), "{stopped:?}");
            let summary = last_line(&stopped.output);
            assert!(
                summary["bytes_to_core"].as_u64().unwrap() > 8_000_000,
                "{summary}"
            );
            assert!(
                summary["bytes_to_lan"].as_u64().unwrap() > 8_000_000,
                "{summary}"
            );
            assert_eq!(traces("gw", "tscgw"), "");
        }
        let _ = server.wait_for_nth(1, "event=\"service-ended\"");
        assert!(server.stop().status.success());
        assert_eq!(traces("edge", "tsc0"), "");
    });
}

#[test]
fn what_was_not_granted_does_not_pass() {
    isolated_within(LIMIT, "what_was_not_granted_does_not_pass", || {
        let world = World::new(1400);
        let _server = world.server();
        let gateway = world.gateway("one", "tls", &format!("{NETWORKS} --prefix 192.168.7.0/24"));
        let ready = last_line(&gateway.wait_for(READY));
        assert_eq!(ready["prefixes"], serde_json::json!(["192.168.7.0/24"]));

        // A network that nobody has given us; the gateway's kernel forwards it all the same.
        run("lan", "ip address add 192.168.8.17/24 dev gw");
        run("gw", "ip route add 192.168.8.0/24 dev lan");
        let core = udp("core", CORE[0]);
        let target = core.local_addr().unwrap();
        let send = |from: &str, to: SocketAddr, text: &[u8]| {
            assert_eq!(udp("lan", from).send_to(text, to).unwrap(), text.len());
        };
        // Of one that is ours but was not asked for, too.
        let core6 = udp("core", CORE[1]);
        send("192.168.8.17", target, b"stranger");
        send(LAN[1], core6.local_addr().unwrap(), b"not asked for");
        send(LAN[0], target, b"granted");
        let mut bytes = [0; 100];
        let (length, from) = core.recv_from(&mut bytes).unwrap();
        assert_eq!(
            (&bytes[..length], from.ip()),
            (&b"granted"[..], LAN[0].parse().unwrap())
        );
        // Into the LAN: the server has no route for it.
        assert_eq!(ping("core", LAN[1], 64), Pong::Unreachable);
        core6.set_nonblocking(true).unwrap();
        assert!(core6.recv_from(&mut bytes).is_err());

        // Neither another client, nor one that nothing is configured for, nor the same once more.
        for (token, once, reason) in [
            (
                "two",
                "--once --prefix 192.168.7.0/24",
                "routed to another tunnel",
            ),
            (
                "one",
                "--once --prefix 192.168.7.0/24",
                "routed to another tunnel",
            ),
            ("two", "--once --prefix 10.9.0.0/16", "not_authorized"),
            ("three", "", "not_authorized"),
        ] {
            let other = world.gateway(token, "dtls", &format!("--core 203.0.113.0/24 {once}"));
            let outcome = other.wait();
            assert_eq!(
                outcome.status.code(),
                Some(5),
                "{token}: {}",
                outcome.output
            );
            let error = last_line(&outcome.output)["error"].to_string();
            assert!(error.contains(reason), "{error}");
        }
        // One of two is less than all, and enough where any are.
        let half = "--once --core 203.0.113.0/24 --prefix 192.168.7.0/24 --prefix fd07::/64";
        let outcome = world.gateway("two", "tls", half).wait();
        assert_eq!(outcome.status.code(), Some(5), "{}", outcome.output);
        let second = world.gateway("two", "tls", &format!("{half} --require any"));
        let ready = last_line(&second.wait_for(READY));
        assert_eq!(ready["prefixes"], serde_json::json!(["fd07::/64"]));
        assert!(second.stop().status.success());

        // The tunnel must not be led into itself; what is said about it comes before the device does harm.
        let looped = world.gateway("two", "tls", "--core 192.0.0.0/16").wait();
        assert_eq!(looped.status.code(), Some(2), "{}", looped.output);
        // A route or a name that is taken is the host's affair.
        let taken = world.gateway("two", "tls", NETWORKS).wait();
        assert_eq!(taken.status.code(), Some(4), "{}", taken.output);

        assert_eq!(ping("lan", CORE[0], 64), Pong::Echo(Some(61)));
        let summary = last_line(&gateway.stop().output);
        assert!(
            summary["dropped"]["wrong_source"].as_u64().unwrap() >= 2,
            "{summary}"
        );
    });
}

#[test]
fn prefixes_are_granted_anew_after_the_server_was_away() {
    isolated_within(
        LIMIT,
        "prefixes_are_granted_anew_after_the_server_was_away",
        || {
            // Shorter packets than the device's: the gateway has to say so.
            let world = World::new(1300);
            let server = world.server();
            let gateway = world.gateway("one", "tls", NETWORKS);
            let ready = last_line(&gateway.wait_for(READY));
            assert_eq!(ready["mtu"], 1300);
            let _ = gateway.wait_for("start with --mtu 1300");
            for (lan, core) in LAN.into_iter().zip(CORE) {
                exchange_stream(("lan", lan), ("core", core));
                exchange_datagrams(("lan", lan), ("core", core));
            }
            assert!(server.stop().status.success());
            let _ = gateway.wait_for("\"event\":\"lost\"");
            // Nothing of the LAN takes another way meanwhile; its hosts are told.
            assert_eq!(ping("lan", CORE[0], 64), Pong::Unreachable);
            assert_eq!(ping("lan", CORE[1], 64), Pong::Unreachable);
            let server = world.server();
            let _ = gateway.wait_for_nth(1, READY);
            assert_eq!(ping("core", LAN[0], 64), Pong::Echo(Some(61)));
            assert_eq!(ping("core", LAN[1], 64), Pong::Echo(None));

            // One that stands by gets them when the first goes.
            let standby = world.gateway("two", "tls", "--core 203.0.113.0/24");
            let _ = standby.wait_for("routed to another tunnel");
            let summary = last_line(&gateway.stop().output);
            assert!(
                summary["dropped"]["too_long"].as_u64().unwrap() > 0,
                "{summary}"
            );
            assert!(
                summary["dropped"]["no_tunnel"].as_u64().unwrap() > 0,
                "{summary}"
            );
            let _ = standby.wait_for(READY);
            assert!(standby.stop().status.success());
            drop(server);
        },
    );
}

#[test]
fn a_server_that_moves_into_the_core_is_not_tried() {
    isolated_within(
        LIMIT,
        "a_server_that_moves_into_the_core_is_not_tried",
        || {
            let world = World::new(1400);
            let server = world.server();
            let hosts = world.path().join("hosts");
            fs::write(&hosts, "192.0.2.1 edge.test\n").unwrap();
            // Of this mount namespace only.
            run("", &format!("mount --bind {} /etc/hosts", hosts.display()));
            // At the start it is said before the device is made: a name that is no device's shows it.
            let inside = "--core 192.0.2.0/24 --tun-name no/such/device";
            let refused = world.gateway_to("edge.test", "one", "tls", inside).wait();
            assert_eq!(refused.status.code(), Some(2), "{}", refused.output);

            let gateway = world.gateway_to("edge.test", "one", "tls", NETWORKS);
            let _ = gateway.wait_for(READY);
            // The file stays the same one, as it is mounted.
            fs::write(&hosts, format!("{} edge.test\n", CORE[0])).unwrap();
            assert!(server.stop().status.success());
            let outcome = gateway.wait();
            assert_eq!(outcome.status.code(), Some(2), "{}", outcome.output);
            let error = last_line(&outcome.output)["error"].to_string();
            assert!(error.contains("holds the server's address"), "{error}");
            assert!(!outcome.output.contains("retry"), "{}", outcome.output);
            assert_eq!(traces("gw", "tsc"), "");
        },
    );
}

/// Of a service manager: with routes, but no addresses.
fn made_elsewhere() -> OwnedFd {
    within("gw", || {
        let mut config = TunConfig::default();
        config.name = Some("tscmade".to_owned());
        config.routes = CORE
            .map(|address| address.parse::<std::net::IpAddr>().unwrap().into())
            .into();
        config.mtu = 1400;
        TunDevice::create(&config).unwrap().into_fds().remove(0)
    })
}

#[test]
fn a_device_that_is_handed_in_needs_no_capability() {
    isolated_within(
        LIMIT,
        "a_device_that_is_handed_in_needs_no_capability",
        || {
            let world = World::new(1400);
            let _server = world.server();
            for (arguments, code) in [
                ("--tun-descriptor other", 4),
                ("--tun-descriptor tun --mtu 1280", 4),
                // Without it the device would have to be made.
                ("--core 203.0.113.0/24", 4),
            ] {
                let gateway = world.gateway_with(made_elsewhere(), "one", arguments);
                let output = gateway.wait_with_output().unwrap();
                assert_eq!(output.status.code(), Some(code), "{arguments}");
            }
            let mut gateway = world.gateway_with(made_elsewhere(), "one", "--tun-descriptor tun");
            let mut lines = BufReader::new(gateway.stdout.take().unwrap()).lines();
            let ready = last_line(&lines.next().unwrap().unwrap());
            assert_eq!(
                (&ready["event"], &ready["device"]),
                (&"ready".into(), &"tscmade".into())
            );
            for (lan, core) in LAN.into_iter().zip(CORE) {
                exchange_stream(("lan", lan), ("core", core));
                exchange_datagrams(("core", core), ("lan", lan));
            }
            run("", &format!("kill -s TERM {}", gateway.id()));
            assert!(gateway.wait().unwrap().success());
            let stopped = last_line(&lines.next().unwrap().unwrap());
            assert_eq!(stopped["event"], "stopped");
        },
    );
}
