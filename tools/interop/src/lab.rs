//! A tunnel server at the edge, and programs that come through it.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
};

use tsc_demo::pki::Authority;

use crate::{
    network::{Namespace, Network, address},
    process::Process,
    programs::program,
};

/// How packets leave the tunnels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Egress {
    /// As IP packets.
    Tun,
    /// By sockets of the edge.
    UserSpace,
}

/// How clients reach the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Transport {
    Tcp,
    Tls,
    Udp,
    Dtls,
}

impl Transport {
    /// All four.
    pub const ALL: [Self; 4] = [Self::Tcp, Self::Tls, Self::Udp, Self::Dtls];

    /// Its name on command lines.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Udp => "udp",
            Self::Dtls => "dtls",
        }
    }
}

/// Where a client connects to.
#[derive(Clone, Copy, Debug)]
pub struct ClientOptions {
    /// Outer transport.
    pub transport: Transport,
    /// The server's address, of either family.
    pub server: IpAddr,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            transport: Transport::Tls,
            server: address::EDGE_V4,
        }
    }
}

/// The server's port on both addresses of the edge, for all transports.
const PORT: u16 = 4567;

/// See the [crate's picture](crate).
#[derive(Debug)]
pub struct Lab {
    /// The tunnel server.
    pub server: Process,
    /// The networks.
    pub network: Network,
    directory: tempfile::TempDir,
}

impl Lab {
    /// A lab whose server has one interface for clients with an address of each family.
    ///
    /// # Panics
    ///
    /// When something does not start.
    #[must_use]
    pub fn new(egress: Egress) -> Self {
        Self::with(egress, "", "")
    }

    /// A lab with further lines for the interface, and further objects.
    ///
    /// # Panics
    ///
    /// When something does not start.
    #[must_use]
    pub fn with(egress: Egress, interface: &str, objects: &str) -> Self {
        Self::on(Network::new(), egress, interface, objects)
    }

    /// A lab on a network that is there.
    ///
    /// # Panics
    ///
    /// When something does not start.
    #[must_use]
    #[allow(clippy::panic, reason = "a test has no better way to fail")]
    pub fn on(network: Network, egress: Egress, interface: &str, objects: &str) -> Self {
        let directory = match tempfile::tempdir_in("/run") {
            Ok(directory) => directory,
            Err(error) => panic!("no directory: {error}"),
        };
        if let Err(error) = certificates(directory.path()) {
            panic!("no certificates: {error}");
        }
        let path = directory.path().join("tsc-server.toml");
        write(&path, &configuration(egress, interface, objects));
        let server = start(&path);
        Self {
            server,
            network,
            directory,
        }
    }

    /// Ends the server without a word, and starts another, which knows of no tunnel.
    pub fn restart_server(&mut self) {
        self.restart_server_by("KILL");
    }

    /// Ends the server by a signal, named without SIG, and starts another when it has ended.
    pub fn restart_server_by(&mut self, signal: &str) {
        self.server.signal(signal);
        while self.server.is_running() {
            std::thread::yield_now();
        }
        self.server = start(&self.path("tsc-server.toml"));
    }

    /// A file or directory of this run.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file of this run.
    ///
    /// # Panics
    ///
    /// When it cannot be written.
    #[must_use]
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        write(&path, text);
        path
    }

    /// One of our clients in the access network, with the options that lead it to the server.
    #[must_use]
    pub fn client(&self, name: &str, options: ClientOptions) -> Command {
        let mut command = Namespace::Access.command(program(name));
        let server = SocketAddr::new(options.server, PORT);
        command
            .args(["--server", &server.to_string()])
            .args(["--transport", options.transport.as_str()])
            .args(["--server-name", "localhost"])
            .arg("--ca")
            .arg(self.authority())
            .args(["--connect-timeout", "60"]);
        command
    }

    /// The server's address and port for [`ClientOptions::default`]'s family.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        SocketAddr::new(address::EDGE_V4, PORT)
    }

    /// The file with the authority that signed the server's certificate (for the name `localhost`).
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.path("ca.pem")
    }
}

fn start(configuration: &Path) -> Process {
    let mut command = Namespace::Edge.command(program("tsc-server"));
    command.arg("--config").arg(configuration);
    let server = Process::start("tsc-server", command);
    let _ = server.wait_for("event=\"ready\"");
    server
}

fn certificates(directory: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let authority = Authority::new("OpenTSC interop")?;
    fs::write(directory.join("ca.pem"), authority.certificate())?;
    authority.server()?.write(directory, "server")?;
    Ok(())
}

#[allow(clippy::panic, reason = "a test has no better way to fail")]
fn write(path: &Path, text: &str) {
    if let Err(error) = fs::write(path, text) {
        panic!("{}: {error}", path.display());
    }
}

fn configuration(egress: Egress, interface: &str, objects: &str) -> String {
    let name = match egress {
        Egress::Tun => "tun",
        Egress::UserSpace => "user-space",
    };
    format!(
        r#"
[[tls-profile]]
name = "default"
certificate = "server.pem"
private-key = "server.key"

[[tscf-address-pool]]
name = "v4"
address-range = ["10.64.0.0/24"]
exclude = ["10.64.0.1"]
address-quarantine = 0
egress = "{name}"

[[tscf-address-pool]]
name = "v6"
address-range = ["fd64::10-fd64::ff"]
address-quarantine = 0
egress = "{name}"

[tun-egress]
name = "tsc0"
addresses = ["10.64.0.1/24", "fd64::1/64"]

[user-space-egress]
# Each call takes two.
udp-mappings-per-tunnel = 4096

{objects}

[[tscf-interface]]
realm-id = "access"
local-address-pools = ["v4", "v6"]
authentication = "none"
{interface}

[[tscf-interface.tscf-port]]
address = "192.0.2.1"
port = {PORT}
transport-protocol = ["tcp", "tls", "udp", "dtls"]
tls-profile = "default"

[[tscf-interface.tscf-port]]
address = "2001:db8:1::1"
port = {PORT}
transport-protocol = ["tcp", "tls", "udp", "dtls"]
tls-profile = "default"
"#
    )
}
