//! A system under test with clients that are up.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tsc_csm::Transport;

use crate::cli::SettingArgs;
use crate::clients::{Opening, ipv4, open, protocol, security, settle};
use crate::engine::{Dialect, Engine, Protocol};
use crate::host::Host;
use crate::peer::{Peer, PeerKind};
use crate::progress::Line;
use crate::reflector::Reflector;
use crate::relay::RelayKind;
use crate::report::{SetUpReport, Times};
use crate::subject::{ServerOptions, Subject};
use crate::system::{CpuClock, Wire, memory};
use crate::traffic::Traffic;

/// Confirmations of tunnels come after their set-up.
const SETTLE: Duration = Duration::from_millis(300);

/// All clients have to be up by then.
const OPENING: Duration = Duration::from_secs(600);

/// Time for tunnels to end in order.
const GOODBYE: Duration = Duration::from_secs(5);

/// See the module.
pub struct Stage {
    /// Its name in reports.
    pub name: String,
    /// What its clients' packets travel over.
    pub transport: Transport,
    /// The clients.
    pub engine: Engine,
    /// Its processor time, where it runs on this host.
    pub clock: Option<CpuClock>,
    /// Its process, where it runs on this host.
    pub pid: Option<u32>,
    /// How its clients were set up.
    pub set_up: SetUpReport,
    /// Where it listens for datagrams; forgers send there.
    pub datagrams: Option<SocketAddr>,
    /// Counts what its packets are on the wire.
    pub wire: Wire,
    spawned: Option<Subject>,
    peer: Option<Peer>,
}

impl Stage {
    /// Starts or takes a tunnel server, and opens the first `open` of `clients` tunnels. `all_transports` lets a server
    /// that is started listen for all of them.
    ///
    /// # Errors
    ///
    /// What went wrong, with the server's log.
    pub fn server(
        setting: &SettingArgs,
        host: &Host,
        transport: Transport,
        clients: u32,
        open: u32,
        size: u16,
        all_transports: bool,
    ) -> anyhow::Result<Self> {
        let spawned = match &setting.spawn_server {
            Some(program) => Some(Subject::server(&ServerOptions {
                program: program.clone(),
                transports: match all_transports {
                    true => Transport::ALL.to_vec(),
                    false => vec![transport],
                },
                egress: setting.egress.into(),
                dtls_backend: setting.dtls_backend.clone(),
                busy_poll: setting.busy_poll,
                cpu: host.cores.server,
            })?),
            None => None,
        };
        let (address, authority) = match (&spawned, setting.server) {
            (Some(subject), _) => {
                let address = subject.address(transport);
                let address = address.with_context(|| format!("{transport} is not served"))?;
                (address, subject.authority.clone())
            }
            (None, Some(address)) => (address, authority(setting, transport)?),
            (None, None) => bail!("neither --server nor --spawn-server"),
        };
        let pid = spawned
            .as_ref()
            .map(|subject| subject.pid)
            .or(setting.server_pid);
        let name = setting.server_name.as_deref();
        let protocol = protocol(transport, address, name, &authority)?;
        let mut engine = Engine::new(protocol, address, clients, Traffic::new(size))?;
        if setting.gso {
            engine.allow_trains();
        }
        let mut stage = Self {
            name: "tsc-server".to_owned(),
            transport,
            engine,
            clock: pid.map(CpuClock::of).transpose().context("--server-pid")?,
            pid,
            set_up: SetUpReport::default(),
            datagrams: match &spawned {
                Some(subject) => subject.address(Transport::Udp),
                None => setting.server,
            },
            // From tunnel to tunnel both hops are tunnelled; from the core they are bare, over another device.
            wire: Wire::loopback(2, 0),
            spawned,
            peer: None,
        };
        let result = stage.set_up(setting, open);
        if result.is_err()
            && let Some(subject) = &stage.spawned
        {
            let log = subject.log();
            return result.map(|()| stage).context(log);
        }
        result.map(|()| stage)
    }

    /// Starts a relay, and sessions to it.
    ///
    /// # Errors
    ///
    /// What went wrong.
    pub fn relay(
        setting: &SettingArgs,
        host: &Host,
        kind: RelayKind,
        sessions: u32,
        size: u16,
    ) -> anyhow::Result<(Self, SocketAddrV4)> {
        let reflector = Reflector::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
        let echo = ipv4(reflector.address()?)?;
        let program = std::env::current_exe().context("where is this program?")?;
        let subject = Subject::relay(&program, kind, echo, host.cores.server)?;
        let transport = kind.transport();
        let address = subject.address(transport);
        let address = address.context("the relay told no address")?;
        let protocol = Protocol {
            security: security(transport, address, None, &subject.authority, Vec::new())?,
            dialect: Dialect::Bare,
        };
        let mut engine = Engine::new(protocol, address, sessions, Traffic::new(size))?;
        engine.set_reflector(reflector);
        if setting.gso {
            engine.allow_trains();
        }
        let mut stage = Self {
            name: format!("relay-{kind}"),
            transport,
            engine,
            clock: Some(subject.clock),
            pid: Some(subject.pid),
            set_up: SetUpReport::default(),
            datagrams: None,
            wire: Wire::loopback(1, 1),
            spawned: Some(subject),
            peer: None,
        };
        stage.set_up(setting, sessions)?;
        Ok((stage, echo))
    }

    /// Starts another program, and sessions to it.
    ///
    /// # Errors
    ///
    /// What went wrong.
    pub fn peer(
        setting: &SettingArgs,
        host: &Host,
        kind: PeerKind,
        sessions: u32,
        size: u16,
    ) -> anyhow::Result<(Self, SocketAddrV4)> {
        let sessions = kind.sessions(sessions);
        let (peer, engine, far) = Peer::start(kind, host, sessions, size)?;
        let mut stage = Self {
            name: kind.name().to_owned(),
            transport: kind.transport(),
            engine,
            clock: Some(peer.clock),
            pid: Some(peer.pid),
            set_up: SetUpReport::default(),
            datagrams: None,
            wire: peer.wire.clone(),
            spawned: None,
            peer: Some(peer),
        };
        stage.set_up(setting, sessions)?;
        Ok((stage, ipv4(far)?))
    }

    /// For people.
    #[must_use]
    pub fn title(&self) -> String {
        format!("{} over {}", self.name, self.transport)
    }

    /// Memory of the system under test in KiB (PSS), where it runs on this host.
    #[must_use]
    pub fn memory(&self) -> Option<u64> {
        self.pid.and_then(|pid| memory(pid).ok())
    }

    /// Its processor time so far, in nanoseconds.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub fn cpu_ns(&self) -> anyhow::Result<Option<u64>> {
        let ns = self.clock.map(CpuClock::ns).transpose();
        ns.context("the process under test has ended")
    }

    /// Lets the tunnels end in order, unless the server dies with us anyway.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn end(mut self) -> anyhow::Result<()> {
        if self.spawned.is_none() && self.peer.is_none() {
            self.engine.release(GOODBYE)?;
        }
        Ok(())
    }

    fn set_up(&mut self, setting: &SettingArgs, clients: u32) -> anyhow::Result<()> {
        let opening = Opening {
            clients,
            per_second: setting.open_rate,
            parallel: setting.open_parallel,
            limit: OPENING,
        };
        let (cpu, kib) = (self.cpu_ns()?, self.memory());
        let mut line = Line::new(setting.quiet);
        let title = self.title();
        let time = open(&mut self.engine, &opening, |up| {
            line.show(|| format!("{title}: {up} of {clients} set up"));
        })?;
        settle(&mut self.engine, SETTLE)?;
        let used = self
            .cpu_ns()?
            .zip(cpu)
            .map(|(after, before)| after - before);
        let grown = self
            .memory()
            .zip(kib)
            .map(|(after, before)| after.saturating_sub(before));
        let counters = self.engine.counters();
        let count = counters.up as f64;
        self.set_up = SetUpReport {
            clients: counters.up,
            seconds: time.as_secs_f64(),
            per_second: count / time.as_secs_f64(),
            per_cpu_second: used.filter(|ns| *ns > 0).map(|ns| count * 1e9 / ns as f64),
            failed_attempts: counters.failed_attempts,
            time_us: Times::of(self.engine.set_up()),
            memory_kib: grown.map(|kib| kib as f64 / count),
        };
        Ok(())
    }
}

/// Certificates of a server that runs already.
fn authority(setting: &SettingArgs, transport: Transport) -> anyhow::Result<String> {
    match &setting.ca {
        Some(path) => {
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
        }
        None if transport.is_protected() => bail!("{transport} needs --ca with --server"),
        None => Ok(String::new()),
    }
}
