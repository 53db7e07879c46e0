//! What the watcher of the network notices, in a network of its own.
#![cfg(all(feature = "netwatch", target_os = "linux"))]
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod tun_common;

use std::{
    io::Write as _,
    net::IpAddr,
    process::{Command, Stdio},
};

use tsc_osaa::netwatch::{Change, Happening, NetWatch, network_id};

use tun_common::{test_in_namespace, within};

/// Runs commands of `ip`, one a line.
fn ip(batch: &str) {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("ip (iproute2) is needed");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(batch.as_bytes())
        .unwrap();
    assert!(child.wait().unwrap().success(), "{batch}");
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Waits until all of `expected` have been told, as one burst may be cut in two by a slow machine; returns the last change.
async fn until(watch: &mut NetWatch, expected: &[Happening]) -> Change {
    let mut seen = Vec::new();
    loop {
        let change = within(watch.changed()).await;
        seen.extend_from_slice(&change.what);
        if expected.iter().all(|happening| seen.contains(happening)) {
            return change;
        }
    }
}

fn index(name: &str) -> u32 {
    let output = Command::new("ip")
        .args(["-o", "link", "show", name])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split(':').next().unwrap().trim().parse().unwrap()
}

#[tokio::test]
async fn changes_are_told_and_noise_is_not() {
    if !test_in_namespace("changes_are_told_and_noise_is_not") {
        return;
    }
    let mut watch = NetWatch::open().unwrap();
    assert!(!watch.current().is_online());
    assert_eq!(network_id(), None);

    // A network comes up.
    ip("link add wan type veth peer name far
link set far up
link set wan up
address add 192.0.2.7/24 dev wan
address add 2001:db8::7/64 dev wan nodad
route add default via 192.0.2.1
");
    let v4 = Happening::AddressNew(address("192.0.2.7"));
    let v6 = Happening::AddressNew(address("2001:db8::7"));
    let wan = index("wan");
    let expected = [
        v4,
        v6,
        Happening::LinkUp(wan),
        Happening::DefaultRouteChanged,
    ];
    let change = until(&mut watch, &expected).await;
    assert!(change.has_default_route_v4 && !change.has_default_route_v6);
    let home = change.network.unwrap();
    assert_eq!(network_id(), Some(home));

    // Another address, which goes again; noise between.
    ip("address add 192.0.2.8/24 dev wan");
    let expected = [Happening::AddressNew(address("192.0.2.8"))];
    let change = until(&mut watch, &expected).await;
    assert_eq!(change.what, expected);
    assert_eq!(change.network, Some(home));
    ip("link set lo up
address add 127.0.0.9/8 dev lo
address add 203.0.113.9/32 dev lo
address add 169.254.3.4/16 dev wan
neighbour add 192.0.2.3 lladdr 02:00:00:00:00:03 dev wan
link set wan promisc on
address delete 192.0.2.8/24 dev wan
");
    let expected = [Happening::AddressGone(address("192.0.2.8"))];
    let change = within(watch.changed()).await;
    assert_eq!(change.what, expected, "and nothing of the noise");
    assert!(change.lost(address("192.0.2.8")) && !change.lost(address("192.0.2.7")));

    // Another way out, IPv6's too, and one that is narrower.
    ip("route replace default via 192.0.2.254");
    let change = until(&mut watch, &[Happening::DefaultRouteChanged]).await;
    assert_ne!(change.network, Some(home));
    ip("route add default via 2001:db8::1 dev wan");
    let change = until(&mut watch, &[Happening::DefaultRouteChanged]).await;
    assert!(change.has_default_route_v4 && change.has_default_route_v6);
    ip("route add 198.51.100.0/24 via 192.0.2.9");
    until(&mut watch, &[Happening::RouteChanged]).await;

    // The cable is pulled, and put back.
    ip("link set far down");
    let gone = Happening::AddressGone(address("192.0.2.7"));
    let change = until(&mut watch, &[gone, Happening::LinkDown(wan)]).await;
    assert!(!change.has_default_route_v4);
    ip("link set far up");
    until(&mut watch, &[v4, Happening::LinkUp(wan)]).await;

    // The interface is switched off, and goes.
    ip("link set wan down");
    let change = until(&mut watch, &[gone, Happening::LinkDown(wan)]).await;
    assert!(!change.is_online());
    assert_eq!(change.network, None);
}

/// More notifications than the socket holds are a change that says so.
#[tokio::test]
async fn lost_notifications_are_told() {
    if !test_in_namespace("lost_notifications_are_told") {
        return;
    }
    ip("link add wan type veth peer name far
link set far up
link set wan up
");
    let mut watch = NetWatch::open().unwrap();
    let mut batch = String::new();
    for number in 0..4000 {
        let (high, low) = (number / 250, number % 250 + 1);
        batch += &format!("address add 10.9.{high}.{low}/32 dev wan\n");
        batch += &format!("address delete 10.9.{high}.{low}/32 dev wan\n");
    }
    ip(&batch);
    let change = until(&mut watch, &[Happening::Missed]).await;
    assert!(change.gained());
}
