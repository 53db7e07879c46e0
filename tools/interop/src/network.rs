//! The three networks, and the veth pairs between them.

use std::{
    ffi::OsStr,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::{Command, Stdio},
};

use crate::wire::{Wire, WireOptions};

/// The lab's addresses, from those set aside for documentation.
pub mod address {
    use super::{IpAddr, Ipv4Addr, Ipv6Addr};

    /// The edge, as clients see it.
    pub const EDGE_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    /// The edge, as clients see it.
    pub const EDGE_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1));
    /// The edge, as the core sees it.
    pub const INSIDE_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
    /// The edge, as the core sees it.
    pub const INSIDE_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1));
    /// The peers in the core.
    pub const CORE_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2));
    /// The peers in the core.
    pub const CORE_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 2));
}

/// Where a process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// Where tunnels come from; the test's own.
    Access,
    /// Where the tunnel server is.
    Edge,
    /// What tunnels lead to.
    Core,
}

impl Namespace {
    const fn name(self) -> Option<&'static str> {
        match self {
            Self::Access => None,
            Self::Edge => Some("edge"),
            Self::Core => Some("core"),
        }
    }

    /// Where the kernel shows it; `None` is where we are.
    pub(crate) fn path(self) -> Option<String> {
        self.name().map(|name| format!("/run/netns/{name}"))
    }

    /// A command that runs in here.
    #[must_use]
    pub fn command(self, program: impl AsRef<OsStr>) -> Command {
        let mut command = match self.name() {
            None => Command::new(program),
            Some(name) => {
                // `ip` becomes the program: the process identifier stays.
                let mut command = Command::new("ip");
                command.args(["netns", "exec", name]).arg(program);
                command
            }
        };
        command.stdin(Stdio::null());
        command
    }

    /// Runs a command of blanks and words to its end.
    ///
    /// # Panics
    ///
    /// When it fails.
    #[allow(clippy::panic, reason = "a test has no better way to fail")]
    pub fn run(self, line: &str) -> String {
        let mut words = line.split_whitespace();
        let output = self
            .command(words.next().unwrap_or_default())
            .args(words)
            .output();
        match output {
            Ok(output) if output.status.success() => {
                String::from_utf8_lossy(&output.stdout).into_owned()
            }
            Ok(output) => panic!(
                "{line}: {}\n{}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            ),
            Err(error) => panic!("{line}: {error}"),
        }
    }

    fn sysctl(self, key: &str, value: &str) {
        let path = format!("/proc/sys/net/{key}");
        let status = self
            .command("sh")
            .args(["-c", &format!("echo {value} >{path}")])
            .status();
        assert!(status.is_ok_and(|status| status.success()), "{path}");
    }
}

/// The networks of the [crate's picture](crate). Made once in a test that is [`isolated`](crate::isolated).
#[derive(Debug)]
#[non_exhaustive]
pub struct Network;

impl Network {
    /// Makes the namespaces and what connects them. The core routes the pools to the edge.
    ///
    /// # Panics
    ///
    /// When a step fails.
    #[must_use]
    pub fn new() -> Self {
        Self::namespaces();
        Namespace::Access.run("ip link add outer type veth peer name outer netns edge");
        Self::connect();
        Self
    }

    /// The same with a wire in place of the cable between clients and the edge.
    ///
    /// # Panics
    ///
    /// When a step fails.
    #[must_use]
    pub fn with_wire(options: WireOptions) -> (Self, Wire) {
        Self::namespaces();
        let wire = Wire::new("outer", options);
        Self::connect();
        (Self, wire)
    }

    fn namespaces() {
        for name in ["edge", "core"] {
            Namespace::Access.run(&format!("ip netns add {name}"));
        }
    }

    fn connect() {
        use Namespace::{Access, Core, Edge};
        Edge.run("ip link add inner type veth peer name inner netns core");
        for (namespace, device, addresses) in [
            (Access, "outer", ["192.0.2.2/24", "2001:db8:1::2/64"]),
            (Edge, "outer", ["192.0.2.1/24", "2001:db8:1::1/64"]),
            (Edge, "inner", ["198.51.100.1/24", "2001:db8:2::1/64"]),
            (Core, "inner", ["198.51.100.2/24", "2001:db8:2::2/64"]),
        ] {
            namespace.run(&format!("ip address add {} dev {device}", addresses[0]));
            // There is nobody who could have the same address.
            namespace.run(&format!(
                "ip address add {} dev {device} nodad",
                addresses[1]
            ));
            namespace.run(&format!("ip link set {device} up"));
        }
        for namespace in [Access, Edge, Core] {
            namespace.run("ip link set lo up");
        }
        for namespace in [Edge, Core] {
            // Tests ask more often what is unreachable than people do.
            namespace.sysctl("ipv4/icmp_ratelimit", "0");
            namespace.sysctl("ipv6/icmp/ratelimit", "0");
        }
        Edge.sysctl("ipv4/ip_forward", "1");
        Edge.sysctl("ipv6/conf/all/forwarding", "1");
        Core.run("ip route add 10.64.0.0/16 via 198.51.100.1");
        Core.run("ip route add fd64::/64 via 2001:db8:2::1");
    }

    /// Takes the core away from the network, or gives it back. Nobody is told: it is as if its cable were pulled, but
    /// its kernel forgets no address and no route.
    ///
    /// # Panics
    ///
    /// When the kernel refuses.
    pub fn plug_core(&self, plugged: bool) {
        if plugged {
            Namespace::Core.run("nft delete table inet unplugged");
            return;
        }
        Namespace::Core.run("nft add table inet unplugged");
        for hook in ["input", "output"] {
            Namespace::Core.run(&format!(
                "nft add chain inet unplugged {hook} {{ type filter hook {hook} priority -300 ; policy drop ; }}"
            ));
        }
    }
}

impl Default for Network {
    fn default() -> Self {
        Self::new()
    }
}
