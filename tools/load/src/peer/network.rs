//! Two network namespaces joined by a cable: a client's and a server's host.

use std::fs::File;

use nix::sched::{CloneFlags, setns};

use crate::system::run;

/// Where the server is reached on the cable.
pub(super) const SERVER: &str = "10.99.0.1";

/// The cable's end at the client; its name in both namespaces.
pub(super) const CABLE: &str = "cable";

/// See the module. Dropping it deletes them.
#[derive(Debug)]
pub struct Namespaces {
    client: String,
    server: String,
}

impl Namespaces {
    /// Makes them; needs root.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn new() -> anyhow::Result<Self> {
        let pid = std::process::id();
        let spaces = Self {
            client: format!("tsc-load-{pid}-client"),
            server: format!("tsc-load-{pid}-server"),
        };
        let (client, server) = (spaces.client.as_str(), spaces.server.as_str());
        run("ip", &["netns", "add", client])?;
        run("ip", &["netns", "add", server])?;
        run(
            "ip",
            &[
                "link", "add", CABLE, "netns", client, "type", "veth", "peer", "name", CABLE,
                "netns", server,
            ],
        )?;
        for (space, address) in [(client, "10.99.0.2/24"), (server, "10.99.0.1/24")] {
            run("ip", &["-n", space, "addr", "add", address, "dev", CABLE])?;
            run("ip", &["-n", space, "link", "set", CABLE, "up"])?;
            run("ip", &["-n", space, "link", "set", "lo", "up"])?;
        }
        Ok(spaces)
    }

    /// The client's host.
    #[must_use]
    pub fn client(&self) -> &str {
        &self.client
    }

    /// The server's host.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for space in [&self.client, &self.server] {
            // It may never have come to be.
            let _gone = run("ip", &["netns", "delete", space]);
        }
    }
}

/// Runs `work` in a namespace; the sockets that it makes stay there.
pub(super) fn within<T>(
    space: &str,
    work: impl FnOnce() -> std::io::Result<T>,
) -> std::io::Result<T> {
    let home = File::open("/proc/thread-self/ns/net")?;
    let there = File::open(format!("/run/netns/{space}"))?;
    setns(there, CloneFlags::CLONE_NEWNET)?;
    let result = work();
    setns(home, CloneFlags::CLONE_NEWNET)?;
    result
}
