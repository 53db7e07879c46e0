//! Network namespaces of the tests' own, and hosts in them.

use std::{
    env, fs,
    net::{SocketAddr, UdpSocket},
    path::Path,
    process::Command,
};

use super::LIMIT;

const MARK: &str = "TSC_TEST_NAMESPACE";

/// True within a network namespace of its own, with loopback; outside, runs this test again in one, and fails with it. The
/// namespace goes with the process.
pub fn in_namespace(name: &str) -> bool {
    if env::var_os(MARK).is_some() {
        return true;
    }
    assert!(
        Path::new("/dev/net/tun").exists(),
        "/dev/net/tun is missing: these tests need the kernel's TUN driver"
    );
    let mut command = Command::new("timeout");
    command.args(["--kill-after=10", "240", "unshare"]);
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    if u64::from_str_radix(line.unwrap().trim(), 16).unwrap() & (1 << 12) == 0 {
        // Root in a user namespace of its own.
        command.args(["--user", "--map-root-user"]);
    }
    let status = command
        .args([
            "--net",
            "sh",
            "-c",
            "ip link set lo up && exec \"$0\" \"$@\"",
        ])
        .arg(env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(MARK, "1")
        .status()
        .expect("timeout (coreutils) and unshare (util-linux) are needed");
    assert!(
        status.success(),
        "failed in its namespace (which takes CAP_NET_ADMIN or user namespaces, and ip of iproute2): {status}"
    );
    false
}

/// A host that waits a bounded time for datagrams.
pub fn host(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket
}

pub fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 4000];
    let (len, from) = socket.recv_from(&mut buffer).expect("in time");
    buffer.truncate(len);
    (buffer, from)
}

pub fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status().unwrap();
    assert!(status.success(), "{arguments:?}");
}
