//! Starting other programs.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::system::{Children, start_on};

/// How long a program may take to be ready.
pub(super) const START: Duration = Duration::from_secs(30);

/// A program with a log in a directory.
pub(super) struct Program {
    command: Command,
    name: String,
    log: PathBuf,
}

impl Program {
    /// The program `name` of PATH or of the system's directories, in the namespace `namespace`. It ends with this process,
    /// however that ends.
    pub(super) fn new(name: &str, namespace: Option<&str>, directory: &Path, log: &str) -> Self {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]);
        if let Some(namespace) = namespace {
            command.args(["ip", "netns", "exec", namespace]);
        }
        command.arg(name).current_dir(directory);
        Self {
            command,
            name: name.to_owned(),
            log: directory.join(log),
        }
    }

    pub(super) const fn command(&mut self) -> &mut Command {
        &mut self.command
    }

    /// Starts it on a processor; its process number and its log.
    pub(super) fn start(
        mut self,
        cpu: Option<usize>,
        children: &mut Children,
    ) -> anyhow::Result<(u32, PathBuf)> {
        let log = fs::File::create(&self.log)?;
        self.command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = start_on(cpu, || self.command.spawn())
            .with_context(|| format!("cannot start {}", self.name))?;
        Ok((children.add(child), self.log))
    }
}

/// Waits until `is_ready` gives something, or the program has ended, or takes too long.
pub(super) fn wait<T>(
    what: &str,
    children: &mut Children,
    log: &Path,
    mut is_ready: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + START;
    loop {
        if let Some(ready) = is_ready()? {
            return Ok(ready);
        }
        if children.any_ended() || Instant::now() > deadline {
            let text = fs::read_to_string(log).unwrap_or_default();
            let lines: Vec<_> = text.lines().collect();
            let end = lines.get(lines.len().saturating_sub(20)..);
            bail!(
                "{what} does not start:\n{}",
                end.unwrap_or_default().join("\n")
            );
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A port of 127.0.0.1 that is free for TCP and UDP at the moment. These programs cannot be told to choose one.
pub(super) fn free_port() -> anyhow::Result<u16> {
    for _ in 0..100 {
        let here = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
        let listener = TcpListener::bind(here)?;
        let port = listener.local_addr()?.port();
        // Not among those that coturn relays from.
        if port < 49_152 && UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port");
}

/// Whether something is bound to a port of 127.0.0.1 or of any address, for TCP (`is_stream`) or UDP.
pub(super) fn is_bound(port: u16, is_stream: bool) -> anyhow::Result<bool> {
    let table = if is_stream { "tcp" } else { "udp" };
    let text = fs::read_to_string(format!("/proc/thread-self/net/{table}"))?;
    let ends = [
        format!("0100007F:{port:04X}"),
        format!("00000000:{port:04X}"),
    ];
    let mut locals = text
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1));
    Ok(locals.any(|local| ends.iter().any(|end| end == local)))
}
