//! OpenVPN, wireguard-go and boringtun: one tunnel between two namespaces.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair};
use tempfile::TempDir;

use super::network::{CABLE, SERVER, within};
use super::process::{Program, wait};
use super::{Namespaces, Peer};
use crate::engine::Engine;
use crate::host::Host;
use crate::link::{Buffers, DatagramSocket};
use crate::probe::{Kind, PROBE_LEN, Probe};
use crate::reflector::Reflector;
use crate::system::{Children, CpuClock, Wire, run};
use crate::traffic::Traffic;

/// The server's end of the tunnel.
const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 1);

/// Room for bursts in the queue of the device.
const QUEUE: &str = "10000";

/// Where servers listen, in a namespace of their own.
const PORT: u16 = 5000;

/// Which VPN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vpn {
    /// OpenVPN over UDP with AES-128-GCM, without help of the kernel.
    OpenVpn,
    /// WireGuard in Go.
    WireguardGo,
    /// WireGuard in Rust.
    Boringtun,
}

impl Vpn {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OpenVpn => "openvpn",
            Self::WireguardGo => "wireguard-go",
            Self::Boringtun => "boringtun",
        }
    }
}

/// One end of a tunnel.
struct End<'a> {
    space: &'a str,
    /// The device: of each process and end its own, since control sockets are named after it.
    device: String,
    cpu: Option<usize>,
    is_server: bool,
}

pub(super) fn start(
    vpn: Vpn,
    host: &Host,
    traffic: Traffic,
    directory: TempDir,
) -> anyhow::Result<(Peer, Engine, SocketAddr)> {
    let spaces = Namespaces::new()?;
    let pid = std::process::id();
    let server = End {
        space: spaces.server(),
        device: format!("tsls{pid}"),
        cpu: host.cores.server,
        is_server: true,
    };
    let client = End {
        space: spaces.client(),
        device: format!("tslc{pid}"),
        cpu: host.cores.load,
        is_server: false,
    };
    let mut children = Children::default();
    let path = directory.path();
    let ((server_pid, log), (client_pid, _)) = match vpn {
        Vpn::OpenVpn => {
            identities(path)?;
            let server = openvpn(&server, path, &mut children)?;
            (server, openvpn(&client, path, &mut children)?)
        }
        Vpn::WireguardGo | Vpn::Boringtun => {
            let mut keys = Vec::new();
            for end in [&server, &client] {
                let secret = run("wg", &["genkey"])?;
                let file = path.join(&end.device);
                fs::write(&file, &secret)?;
                let command = format!("wg pubkey <{}", file.display());
                keys.push(run("sh", &["-c", &command])?.trim().to_owned());
            }
            let mut keys = keys.iter().rev();
            let mut start = |end: &End<'_>| {
                let other = keys.next().context("no key")?;
                wireguard(vpn, end, other, path, &mut children)
            };
            (start(&server)?, start(&client)?)
        }
    };
    let reflector = wait(vpn.name(), &mut children, &log, || {
        let bound = within(spaces.server(), || {
            Reflector::bind(SocketAddrV4::new(INSIDE, 0))
        });
        // The address comes with the device.
        Ok(bound.ok())
    })?;
    let far = reflector.address()?;
    let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
    let mut socket = within(spaces.client(), || DatagramSocket::bind(any))?;
    let mut reflector = reflector;
    let mut buffers = Buffers::default();
    wait(vpn.name(), &mut children, &log, || {
        through(&mut socket, &mut reflector, far, &mut buffers)
    })?;
    let mut engine = Engine::through(socket, far, traffic)?;
    engine.set_reflector(reflector);
    engine.be_considerate();
    let peer = Peer {
        pid: server_pid,
        clock: CpuClock::of(server_pid)?,
        wire: Wire::cable(client_pid, CABLE),
        _children: children,
        _directory: directory,
        _namespaces: Some(spaces),
    };
    Ok((peer, engine, far))
}

/// Sends a packet through the tunnel; whether one has come back.
fn through(
    socket: &mut DatagramSocket,
    reflector: &mut Reflector,
    far: SocketAddr,
    buffers: &mut Buffers,
) -> anyhow::Result<Option<()>> {
    let probe = Probe {
        kind: Kind::Request,
        window: u16::MAX,
        flow: u32::MAX,
        sequence: 0,
        due_ns: 0,
        echoed_ns: 0,
    };
    let packet: [u8; PROBE_LEN] = probe.encode();
    socket.send(None, far, &packet);
    socket.flush();
    let _any = reflector.turn(buffers, |_, _| {})?;
    Ok(socket.receive(buffers)?.then_some(()))
}

/// A key and a certificate each for both ends.
fn identities(directory: &Path) -> anyhow::Result<()> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "tsc-load VPN authority");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    fs::write(directory.join("ca.pem"), params.self_signed(&key)?.pem())?;
    let issuer = Issuer::new(params, key);
    for (name, usage) in [
        ("server", ExtendedKeyUsagePurpose::ServerAuth),
        ("client", ExtendedKeyUsagePurpose::ClientAuth),
    ] {
        let mut params = CertificateParams::new(vec![format!("{name}.test")])?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &issuer)?.pem();
        fs::write(directory.join(format!("vpn-{name}.pem")), certificate)?;
        fs::write(
            directory.join(format!("vpn-{name}.key")),
            key.serialize_pem(),
        )?;
    }
    Ok(())
}

fn openvpn(
    end: &End<'_>,
    directory: &Path,
    children: &mut Children,
) -> anyhow::Result<(u32, PathBuf)> {
    let name = if end.is_server { "server" } else { "client" };
    let mut program = Program::new(
        "openvpn",
        Some(end.space),
        directory,
        &format!("openvpn-{name}.log"),
    );
    let port = PORT.to_string();
    let command = program.command();
    command.args(["--dev", &end.device, "--dev-type", "tun", "--disable-dco"]);
    command.args(["--ca", "ca.pem", "--cert", &format!("vpn-{name}.pem")]);
    command.args(["--key", &format!("vpn-{name}.key"), "--verb", "3"]);
    command.args(["--data-ciphers", "AES-128-GCM", "--txqueuelen", QUEUE]);
    if end.is_server {
        command.args([
            "--server",
            "10.98.0.0",
            "255.255.255.0",
            "--topology",
            "subnet",
        ]);
        command.args(["--dh", "none", "--port", &port, "--proto", "udp4"]);
    } else {
        command.args(["--client", "--remote", SERVER, &port, "udp4", "--nobind"]);
    }
    program.start(end.cpu, children)
}

/// One end with either program, given the other end's public key.
fn wireguard(
    vpn: Vpn,
    end: &End<'_>,
    other: &str,
    directory: &Path,
    children: &mut Children,
) -> anyhow::Result<(u32, PathBuf)> {
    let device = end.device.as_str();
    let log = format!("{device}.log");
    let mut program = match vpn {
        Vpn::Boringtun => {
            let mut program = Program::new("boringtun-cli", Some(end.space), directory, &log);
            program
                .command()
                .args(["-f", "--disable-drop-privileges", "--threads", "1"]);
            program
        }
        Vpn::WireguardGo | Vpn::OpenVpn => {
            let mut program = Program::new("wireguard-go", Some(end.space), directory, &log);
            program.command().arg("-f").env("GOMAXPROCS", "1");
            program
        }
    };
    program.command().arg(device);
    let (pid, log) = program.start(end.cpu, children)?;
    let space = end.space;
    let secret = directory.join(device);
    let secret = secret.to_str().context("a strange directory")?;
    let endpoint = format!("{SERVER}:{PORT}");
    let port = PORT.to_string();
    let mut set = vec![
        "netns",
        "exec",
        space,
        "wg",
        "set",
        device,
        "private-key",
        secret,
    ];
    if end.is_server {
        set.extend(["listen-port", &port]);
    }
    set.extend(["peer", other, "allowed-ips", "10.98.0.0/24"]);
    if !end.is_server {
        set.extend(["endpoint", &endpoint]);
    }
    wait(vpn.name(), children, &log, || Ok(run("ip", &set).ok()))?;
    let address = if end.is_server {
        "10.98.0.1/24"
    } else {
        "10.98.0.2/24"
    };
    run("ip", &["-n", space, "addr", "add", address, "dev", device])?;
    run(
        "ip",
        &[
            "-n",
            space,
            "link",
            "set",
            device,
            "up",
            "mtu",
            "1420",
            "txqueuelen",
            QUEUE,
        ],
    )?;
    Ok((pid, log))
}
