//! A LAN, a gateway, the edge with the tunnel server, and a core, each in a network namespace of its own.
//!
//! ```text
//!   lan                        gw                          edge                        core
//!   192.168.7.17   ----   192.168.7.1
//!   fd07::17              fd07::1
//!                         192.0.2.2        ----      192.0.2.1
//!                                                    198.51.100.1       ----       198.51.100.2
//!                                                    2001:db8:2::1                 2001:db8:2::2
//! ```
//!
//! Nobody but the tunnel's two ends knows a way between LAN and core: the gateway has no route to the core, and the edge none
//! to the LAN.

use std::{
    ffi::OsString,
    fs::{self, File},
    os::fd::OwnedFd,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
};

use nix::sched::{CloneFlags, setns};
use tsc_demo::pki::Authority;
use tsc_interop::{Process, program};

pub const LAN: [&str; 2] = ["192.168.7.17", "fd07::17"];
pub const CORE: [&str; 2] = ["198.51.100.2", "2001:db8:2::2"];
const SERVER: &str = "192.0.2.1:4567";
const GATEWAY: &str = env!("CARGO_BIN_EXE_tsc-gateway");
/// SHA-256 of the tokens "one", "two" and "three".
const TOKENS: &str = "\
gw1:7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed
gw2:3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3
stranger:8b5b9db0c13db24256c829aa364aa90c6d2eba318b9232a4ab9313b954d3555f
";

pub struct World {
    directory: tempfile::TempDir,
    inner_mtu: u16,
}

impl World {
    /// All but the server.
    pub fn new(inner_mtu: u16) -> Self {
        for name in ["lan", "gw", "edge", "core"] {
            run("", &format!("ip netns add {name}"));
            run(name, "ip link set lo up");
        }
        link(
            "lan",
            ["192.168.7.17/24", "fd07::17/64"],
            "gw",
            ["192.168.7.1/24", "fd07::1/64"],
        );
        link(
            "gw",
            ["192.0.2.2/24", "2001:db8:1::2/64"],
            "edge",
            ["192.0.2.1/24", "2001:db8:1::1/64"],
        );
        link(
            "edge",
            ["198.51.100.1/24", "2001:db8:2::1/64"],
            "core",
            ["198.51.100.2/24", "2001:db8:2::2/64"],
        );
        for (name, via) in [
            ("lan", ["192.168.7.1", "fd07::1"]),
            ("core", ["198.51.100.1", "2001:db8:2::1"]),
        ] {
            run(name, &format!("ip route add default via {}", via[0]));
            run(name, &format!("ip route add default via {}", via[1]));
        }
        for name in ["gw", "edge"] {
            for switch in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                within(name, move || {
                    fs::write(format!("/proc/sys/net/{switch}"), "1").unwrap()
                });
            }
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let authority = Authority::new("OpenTSC gateway test").unwrap();
        fs::write(path.join("ca.pem"), authority.certificate()).unwrap();
        authority.server().unwrap().write(path, "server").unwrap();
        fs::write(path.join("tokens"), TOKENS).unwrap();
        for token in ["one", "two", "three"] {
            fs::write(path.join(token), token).unwrap();
        }
        Self {
            directory,
            inner_mtu,
        }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn server(&self) -> Process {
        let path = self.path().join("tsc-server.toml");
        let text = CONFIGURATION.replace("INNER_MTU", &self.inner_mtu.to_string());
        fs::write(&path, text).unwrap();
        let mut command = command("edge", program("tsc-server"));
        command.arg("--config").arg(path);
        let server = Process::start("tsc-server", command);
        let _ = server.wait_for("event=\"ready\"");
        server
    }

    /// The gateway as the client that `token` stands for.
    pub fn gateway(&self, token: &str, transport: &str, arguments: &str) -> Process {
        self.gateway_to(SERVER, token, transport, arguments)
    }

    /// The same, with another word for the server.
    pub fn gateway_to(&self, server: &str, token: &str, transport: &str, more: &str) -> Process {
        let mut command = command("gw", GATEWAY);
        command.args(self.arguments(server, token, transport, more));
        Process::start(format!("tsc-gateway {token}"), command)
    }

    /// The same as a service manager without any capability starts it, with a device that it has made.
    pub fn gateway_with(&self, device: OwnedFd, token: &str, arguments: &str) -> Child {
        let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ exec \"$0\" \"$@\"";
        command("gw", "setpriv")
            .args(["--bounding-set=-all", "--inh-caps=-all", "sh", "-c", script])
            .arg(GATEWAY)
            .args(self.arguments(SERVER, token, "tls", arguments))
            .env("LISTEN_FDS", "1")
            .env("LISTEN_FDNAMES", "tun")
            .stdin(device)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn arguments(&self, server: &str, token: &str, transport: &str, more: &str) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = Vec::new();
        let fixed = "--server-name localhost --json --connect-timeout 60 --server";
        arguments.extend(fixed.split(' ').chain([server]).map(OsString::from));
        arguments.extend(["--transport", transport, "--ca"].map(OsString::from));
        arguments.push(self.path().join("ca.pem").into());
        arguments.push("--token-file".into());
        arguments.push(self.path().join(token).into());
        arguments.extend(more.split_whitespace().map(OsString::from));
        arguments
    }
}

const CONFIGURATION: &str = r#"
[[tls-profile]]
name = "default"
certificate = "server.pem"
private-key = "server.key"

[[tscf-address-pool]]
name = "v4"
address-range = ["10.64.0.0/24"]
exclude = ["10.64.0.1"]
address-quarantine = 0
egress = "tun"

[[tscf-address-pool]]
name = "v6"
address-range = ["fd64::10-fd64::ff"]
address-quarantine = 0
egress = "tun"

[tun-egress]
name = "tsc0"
addresses = ["10.64.0.1/24", "fd64::1/64"]

[[tscf-interface]]
realm-id = "access"
local-address-pools = ["v4", "v6"]
authentication = "token"
token-file = "tokens"
assigned-services = ["STG"]
inner-mtu = INNER_MTU

[[tscf-interface.routed-prefix]]
identity = "gw1"
prefixes = ["192.168.7.0/24", "fd07::/64"]

# The same networks: a gateway that stands by.
[[tscf-interface.routed-prefix]]
identity = "gw2"
prefixes = ["192.168.7.0/24", "fd07::/64"]

[[tscf-interface.tscf-port]]
address = "192.0.2.1"
port = 4567
transport-protocol = ["tls", "dtls"]
tls-profile = "default"
"#;

/// A veth pair; each end has the name of the namespace at the other.
fn link(a: &str, a_addresses: [&str; 2], b: &str, b_addresses: [&str; 2]) {
    run(
        a,
        &format!("ip link add {b} type veth peer name {a} netns {b}"),
    );
    for (name, device, addresses) in [(a, b, a_addresses), (b, a, b_addresses)] {
        run(
            name,
            &format!("ip address add {} dev {device}", addresses[0]),
        );
        // There is nobody who could have the same address.
        run(
            name,
            &format!("ip address add {} dev {device} nodad", addresses[1]),
        );
        run(name, &format!("ip link set {device} up"));
    }
}

pub fn command(namespace: &str, program: impl AsRef<Path>) -> Command {
    // `ip` becomes the program: the process identifier stays.
    let mut command = Command::new("ip");
    command
        .args(["netns", "exec", namespace])
        .arg(program.as_ref());
    command
}

/// Runs a command of blanks and words to its end; an empty namespace is the test's own.
pub fn run(namespace: &str, line: &str) -> String {
    let mut words = line.split_whitespace();
    let program = words.next().unwrap();
    let mut command = match namespace {
        "" => Command::new(program),
        name => command(name, program),
    };
    let output = command.args(words).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{namespace}: {line}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs `work` in a namespace; the sockets that it makes stay there.
pub fn within<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            let namespace = File::open(format!("/run/netns/{namespace}")).unwrap();
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        });
        inside.join().unwrap()
    })
}
