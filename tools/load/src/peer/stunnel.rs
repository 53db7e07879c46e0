//! stunnel.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};

use tempfile::TempDir;
use tsc_csm::Transport;

use super::Peer;
use super::process::{Program, free_port, is_bound, wait};
use crate::clients::security;
use crate::echo::StreamEcho;
use crate::engine::{Dialect, Engine, Protocol};
use crate::host::Host;
use crate::system::{Children, CpuClock, Wire};
use crate::traffic::Traffic;

pub(super) fn start(
    host: &Host,
    sessions: u32,
    traffic: Traffic,
    directory: TempDir,
    authority: &str,
) -> anyhow::Result<(Peer, Engine, SocketAddr)> {
    let port = free_port()?;
    let echo = StreamEcho::bind()?;
    let far = echo.address()?;
    let config = directory.path().join("stunnel.conf");
    fs::write(
        &config,
        format!(
            "foreground = yes\npid =\ndebug = warning\nsocket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\n\
             [load]\naccept = 127.0.0.1:{port}\nconnect = {far}\ncert = server.pem\nkey = server.key\n"
        ),
    )?;
    let mut program = Program::new("stunnel", None, directory.path(), "stunnel.log");
    program.command().arg(&config);
    let mut children = Children::default();
    let (pid, log) = program.start(host.cores.server, &mut children)?;
    wait("stunnel", &mut children, &log, || {
        Ok(is_bound(port, true)?.then_some(()))
    })?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let protocol = Protocol {
        security: security(Transport::Tls, address, None, authority, Vec::new())?,
        dialect: Dialect::Bare,
    };
    let mut engine = Engine::new(protocol, address, sessions, traffic)?;
    engine.set_echo(echo);
    let peer = Peer {
        pid,
        clock: CpuClock::of(pid)?,
        wire: Wire::loopback(1, 1),
        _children: children,
        _directory: directory,
        _namespaces: None,
    };
    Ok((peer, engine, far))
}
