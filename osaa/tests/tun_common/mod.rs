//! Network namespaces for tests, and a mirror for the far side of a device.
#![allow(dead_code, unreachable_pub, reason = "not every test needs all")]

use std::{
    env, fs,
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::task::JoinHandle;
use tsc_osaa::tun::{TunBatch, TunConfig, TunQueue, TunStats};

const MARK: &str = "TSC_TEST_NAMESPACE";

/// True within a network namespace of its own; outside, runs this test program again in one, with `arguments`, and
/// fails with it. The namespace goes with the process.
pub fn in_namespace(arguments: &[&str]) -> bool {
    if env::var_os(MARK).is_some() {
        return true;
    }
    assert!(
        Path::new("/dev/net/tun").exists(),
        "/dev/net/tun is missing: these tests need the kernel's TUN driver"
    );
    let mut command = Command::new("timeout");
    command.args(["--kill-after=10", "240", "unshare"]);
    if !has_net_admin() {
        // Root in a user namespace of its own.
        command.args(["--user", "--map-root-user"]);
    }
    let status = command
        .arg("--net")
        .arg(env::current_exe().unwrap())
        .args(arguments)
        .env(MARK, "1")
        .status()
        .expect("timeout (coreutils) and unshare (util-linux) are needed");
    assert!(
        status.success(),
        "failed in its namespace (which takes CAP_NET_ADMIN, or user namespaces and a /dev/net/tun that may be opened): {status}"
    );
    false
}

/// [`in_namespace`] for one test of libtest's.
pub fn test_in_namespace(name: &str) -> bool {
    in_namespace(&["--exact", name, "--nocapture", "--test-threads=1"])
}

fn has_net_admin() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = u64::from_str_radix(line.unwrap().trim(), 16).unwrap();
    effective & (1 << 12) != 0
}

/// The host is 10.9.0.1 and fd09::1.
pub fn config(name: &str) -> TunConfig {
    let mut config = TunConfig::default();
    config.name = Some(name.to_owned());
    config.addresses = ["10.9.0.1/24", "fd09::1/64"]
        .map(|prefix| prefix.parse().unwrap())
        .to_vec();
    config
}

/// What the mirror saw.
#[derive(Debug, Default)]
pub struct Seen {
    pub packets: u64,
    pub longest: usize,
    /// Packets whose checksums are wrong.
    pub broken: u64,
    pub stats: TunStats,
}

/// Sends each packet back with source and destination exchanged, which keeps all checksums right: the host, talking
/// to any address behind the device, talks to itself. Ping, UDP and TCP work with no stack of ours.
pub fn mirror(mut queue: TunQueue) -> (Arc<Mutex<Seen>>, JoinHandle<()>) {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let shared = Arc::clone(&seen);
    let task = tokio::spawn(async move {
        let mut batch = TunBatch::default();
        loop {
            let count = queue.recv(&mut batch).await.expect("the device stays");
            assert!(count > 0 && count == batch.len());
            let mut seen = shared.lock().unwrap();
            for packet in batch.iter_mut() {
                seen.packets += 1;
                seen.longest = seen.longest.max(packet.len());
                seen.broken += u64::from(!is_intact(packet));
                exchange(packet);
            }
            queue.try_send(&batch).unwrap();
            seen.stats = queue.stats();
        }
    });
    (seen, task)
}

/// Exchanges source and destination.
pub fn exchange(packet: &mut [u8]) {
    let addresses = if packet[0] >> 4 == 4 {
        &mut packet[12..20]
    } else {
        &mut packet[8..40]
    };
    let (source, destination) = addresses.split_at_mut(addresses.len() / 2);
    source.swap_with_slice(destination);
}

/// Lengths and checksums of IP, TCP, UDP and ICMP, computed the plain way.
pub fn is_intact(packet: &[u8]) -> bool {
    let word = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    let (start, protocol, length, addresses) = if packet[0] >> 4 == 4 {
        if sum(&packet[..20], 0) != 0xFFFF {
            return false;
        }
        if word(6) & 0x3FFF != 0 {
            // A fragment: the transport's checksum is over the whole.
            return usize::from(word(2)) == packet.len();
        }
        (20, packet[9], usize::from(word(2)), &packet[12..20])
    } else {
        (40, packet[6], usize::from(word(4)) + 40, &packet[8..40])
    };
    if length != packet.len() {
        return false;
    }
    let pseudo = u32::from(protocol) + u32::try_from(length - start).unwrap();
    let pseudo = u32::from(sum(addresses, pseudo));
    match protocol {
        6 => sum(&packet[start..], pseudo) == 0xFFFF,
        17 => {
            usize::from(word(start + 4)) == length - start
                && word(start + 6) != 0
                && sum(&packet[start..], pseudo) == 0xFFFF
        }
        58 => sum(&packet[start..], pseudo) == 0xFFFF,
        1 => sum(&packet[start..], 0) == 0xFFFF,
        _ => true,
    }
}

fn sum(bytes: &[u8], start: u32) -> u16 {
    let mut sum = start;
    for pair in bytes.chunks(2) {
        let pair = [pair[0], pair.get(1).copied().unwrap_or(0)];
        sum += u32::from(u16::from_be_bytes(pair));
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}

/// Bounds a test that hangs, on the slowest machine.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(120), future)
        .await
        .expect("in time")
}
