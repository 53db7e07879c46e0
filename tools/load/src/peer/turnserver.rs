//! coturn.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;

use tempfile::TempDir;
use tsc_csm::Transport;

use super::process::{Program, free_port, is_bound, wait};
use super::{Account, Peer};
use crate::clients::{ipv4, security};
use crate::engine::{Dialect, Engine, Protocol};
use crate::host::Host;
use crate::reflector::Reflector;
use crate::system::{Children, CpuClock, Wire};
use crate::traffic::Traffic;

const USER: &str = "load";
const PASSWORD: &str = "load";

pub(super) fn start(
    transport: Transport,
    host: &Host,
    sessions: u32,
    traffic: Traffic,
    directory: TempDir,
    authority: &str,
) -> anyhow::Result<(Peer, Engine, SocketAddr)> {
    let (plain, secure) = (free_port()?, free_port()?);
    let mut program = Program::new("turnserver", None, directory.path(), "coturn.log");
    program.command().args([
        "-n",
        "-m",
        "1",
        "--lt-cred-mech",
        "--user",
        &format!("{USER}:{PASSWORD}"),
        "--realm",
        "load",
        "--listening-ip",
        "127.0.0.1",
        "--relay-ip",
        "127.0.0.1",
        "--allow-loopback-peers",
        "--no-rfc5780",
        "--no-cli",
        "--log-file",
        "stdout",
        "--pidfile",
        "coturn.pid",
        "--userdb",
        "coturn.db",
        "--cert",
        "server.pem",
        "--pkey",
        "server.key",
        "--listening-port",
        &plain.to_string(),
        "--tls-listening-port",
        &secure.to_string(),
    ]);
    let unwanted: &[&str] = match transport {
        Transport::Udp => &["--no-tcp", "--no-tls", "--no-dtls"],
        Transport::Tcp => &["--no-udp", "--no-tls", "--no-dtls"],
        Transport::Tls => &["--no-udp", "--no-tcp", "--no-dtls"],
        // Without UDP there is no DTLS.
        Transport::Dtls => &["--no-tcp", "--no-tls"],
    };
    program.command().args(unwanted);
    let mut children = Children::default();
    let (pid, log) = program.start(host.cores.server, &mut children)?;
    let port = if transport.is_protected() {
        secure
    } else {
        plain
    };
    wait("coturn", &mut children, &log, || {
        Ok(is_bound(port, transport.is_stream())?.then_some(()))
    })?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let reflector = Reflector::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
    let far = ipv4(reflector.address()?)?;
    let protocol = Protocol {
        security: security(transport, address, None, authority, Vec::new())?,
        dialect: Dialect::Turn(Arc::new(Account {
            user: USER.to_owned(),
            password: PASSWORD.to_owned(),
            peer: far,
        })),
    };
    let mut engine = Engine::new(protocol, address, sessions, traffic)?;
    engine.set_reflector(reflector);
    let peer = Peer {
        pid,
        clock: CpuClock::of(pid)?,
        wire: Wire::loopback(1, 1),
        _children: children,
        _directory: directory,
        _namespaces: None,
    };
    Ok((peer, engine, far.into()))
}
