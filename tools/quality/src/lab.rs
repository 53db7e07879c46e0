//! The tunnel server, who is called, and calls over networks of any kind.

use std::{
    collections::HashMap,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;
use tsc_demo::pki::Authority;
use tsc_figures::host::HostInfo;

use crate::{
    matrix::{Cell, Listener},
    netns::Netns,
    programs::{Programs, Running},
    results::{CellResult, Side},
    router::{End, Wire},
    service::Service,
    speech,
};

/// The tunnel server's address, which all callers reach.
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Its port for callers.
const ACCESS_PORT: u16 = 4567;
/// Before the first caller's address.
const CALLERS: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 0);
/// How long programs may take to be ready or to end.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a service may take to be in force. A call without it is made and told of as one that went wrong.
const SERVICES: Duration = Duration::from_secs(10);
/// How long setting up and ending a call may take, beside the call: over a network that loses a fifth of all packets it takes
/// a while.
const AROUND_A_CALL: Duration = Duration::from_secs(240);

/// How calls are made.
#[derive(Clone, Debug)]
pub struct CallOptions {
    /// Length of each.
    pub seconds: u32,
    /// What losses are drawn with.
    pub seed: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Lab {
    programs: Programs,
    /// Where programs log, and recordings are.
    directory: PathBuf,
    core: Netns,
    callee: Arc<Reports>,
    _directory: tempfile::TempDir,
    certificate: PathBuf,
    host: HostInfo,
    /// The programs that run all the time; they end in reverse order. Nobody waits for the lock.
    started: Mutex<Vec<Running>>,
}

/// What the callee said of its calls.
#[derive(Debug, Default)]
struct Reports {
    sides: Mutex<HashMap<String, Side>>,
    more: Condvar,
}

/// The JSON of `tsc_sip_client`, as far as it matters.
#[derive(Debug, Deserialize)]
struct CallerReport {
    error: Option<String>,
    tunnel_ms: Option<f64>,
    #[serde(default)]
    calls: Vec<Side>,
}

impl Lab {
    /// Starts a server, and somebody to be called, who plays the speech. Logs and recordings go to `directory`.
    ///
    /// # Errors
    ///
    /// Something cannot be made or does not start.
    pub fn start(programs: Programs, directory: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(directory)?;
        let directory = directory.canonicalize()?;
        let secrets = tempfile::tempdir_in("/run")?;
        let authority = Authority::new("OpenTSC quality")?;
        let certificate = secrets.path().join("ca.pem");
        fs::write(&certificate, authority.certificate())?;
        authority.server()?.write(secrets.path(), "server")?;
        let configuration = secrets.path().join("tsc-server.toml");
        fs::write(&configuration, configuration_text())?;
        speech::write(&directory.join("speech.wav"))?;

        let core = Netns::new("core")?;
        core.run(&format!("ip address add {SERVER}/32 dev lo"))?;
        let mut host = HostInfo::read(&["libssl3"]);
        host.packages.push(format!("TCP {}", core.usual_tcp()?));
        let log = directory.join("tsc-server.log");
        let mut command = core.command(programs.path("tsc-server"));
        command.arg("--config").arg(&configuration);
        let server = Running::start("tsc-server", &mut command, &log)?;
        wait_in(&log, "event=\"ready\"")?;

        let lab = Self {
            programs,
            directory,
            core,
            callee: Arc::default(),
            _directory: secrets,
            certificate,
            host,
            started: Mutex::new(vec![server]),
        };
        for listener in Listener::ALL {
            let callee = lab.start_callee(listener)?;
            let mut started = lab.started.lock().unwrap_or_else(PoisonError::into_inner);
            started.push(callee);
        }
        Ok(lab)
    }

    fn start_callee(&self, listener: Listener) -> anyhow::Result<Running> {
        let mut command = self.core.command(self.programs.path("tsc_sip_server"));
        // Its tunnel is not what is measured: it stays on this machine, and loses nothing.
        let server = format!("{SERVER}:{}", core_port(listener));
        command.args(["--server", &server, "--transport", "udp"]);
        command.args(["--open-registration", "--callee", "play=play", "--no-http"]);
        command.args(["--max-calls", "1000", "--max-calls-per-source", "1000"]);
        let name = format!("callee-{}", listener.as_str());
        self.media(&mut command, listener, &name);
        let log = self.directory.join(format!("{name}.log"));
        let mut callee = Running::start("tsc_sip_server", &mut command, &log)?;
        let ready = callee.line(PATIENCE)?;
        ensure!(ready.starts_with("ready"), "tsc_sip_server says {ready:?}");
        let reports = Arc::clone(&self.callee);
        callee.forward(move |line| reports.take(&line));
        Ok(callee)
    }

    fn media(&self, command: &mut Command, listener: Listener, who: &str) {
        command.args([
            "--json",
            "--playout-delay",
            listener.playout_delay(),
            "--play",
        ]);
        command.arg(self.directory.join("speech.wav"));
        command.arg("--record").arg(self.directory.join(who));
    }

    /// Makes the call of a cell; `number` differs from that of any other cell of this lab.
    #[must_use]
    pub fn call(&self, cell: &Cell, number: u16, options: &CallOptions) -> CellResult {
        let mut result = CellResult {
            cell: *cell,
            host: self.host.clone(),
            seconds: options.seconds,
            seed: options.seed,
            error: None,
            tunnel_ms: None,
            sides: Vec::new(),
            wire: Default::default(),
        };
        if let Err(error) = self.try_call(cell, number, options, &mut result) {
            result.error = Some(format!("{error:#}"));
        }
        result
    }

    fn try_call(
        &self,
        cell: &Cell,
        number: u16,
        options: &CallOptions,
        result: &mut CellResult,
    ) -> anyhow::Result<()> {
        let name = cell.name();
        let namespace = Netns::new(&format!("cell{number}"))?;
        namespace.usual_tcp()?;
        let caller = End {
            namespace: &namespace,
            address: Ipv4Addr::from(u32::from(CALLERS) + 1 + u32::from(number)),
            is_own: true,
        };
        let server = End {
            namespace: &self.core,
            address: SERVER,
            is_own: false,
        };
        let wire = Wire::lay(
            &format!("cell{number}"),
            [caller, server],
            cell.network,
            options.seed,
        )?;
        let mut command = namespace.command(self.programs.path("tsc_sip_client"));
        command.args(["--server", &format!("{SERVER}:{ACCESS_PORT}")]);
        command.args([
            "--transport",
            cell.column.transport.as_str(),
            "--server-name",
            "localhost",
        ]);
        command
            .arg("--ca")
            .arg(&self.certificate)
            .args(["--connect-timeout", "60"]);
        command.args(["--call", "play", "--duration", &options.seconds.to_string()]);
        command.args([
            "--sip-server",
            &format!("{}:5060", callee_address(cell.listener)),
        ]);
        self.media(&mut command, cell.listener, &format!("caller-{name}"));
        command.args(cell.column.service.options());
        // The call begins when the service is in force.
        command.args(["--services-timeout", &SERVICES.as_secs().to_string()]);
        let log = self.directory.join(format!("{name}.log"));
        let running = Running::start("tsc_sip_client", &mut command, &log)?;
        let output = running.output(AROUND_A_CALL + Duration::from_secs(options.seconds.into()));
        result.wire = wire.passed();
        let report: CallerReport =
            serde_json::from_str(&output?).context("tsc_sip_client's report")?;
        result.tunnel_ms = report.tunnel_ms;
        result.error = report.error;
        let call = report.calls.into_iter().next().context("no call")?;
        if result.error.is_none() {
            result.error.clone_from(&call.error);
        }
        if call.received == 0 {
            bail!("{}", call.error.as_deref().unwrap_or("nothing was heard"));
        }
        let is_served = cell.column.service == Service::Plain || call.services_ms.is_some();
        if result.error.is_none() && !is_served {
            result.error = Some(format!("the service was not in force within {SERVICES:?}"));
        }
        let callee = self.callee.wait_for(&call.call_id)?;
        for (mut side, who) in [(call, "caller"), (callee, "callee")] {
            side.heard = Some(self.keep_heard(&side, &format!("{name}-{who}"))?);
            result.sides.push(side);
        }
        Ok(())
    }

    /// Keeps what was heard under a name of the cell, and nothing else: recordings are large.
    fn keep_heard(&self, side: &Side, name: &str) -> anyhow::Result<PathBuf> {
        let recording = side.recording.as_ref().context("no recording")?;
        let stem = recording.file_stem().context("no name")?.to_string_lossy();
        let heard = self.directory.join(format!("{name}.wav"));
        fs::rename(
            recording.with_file_name(format!("{stem}-heard.wav")),
            &heard,
        )?;
        fs::remove_file(recording)?;
        // The bare payload; which suffix it has depends on the codec.
        for suffix in ["ulaw", "alaw"] {
            let _gone = fs::remove_file(recording.with_extension(suffix));
        }
        Ok(heard)
    }

    /// Ends the programs in order.
    pub fn stop(self) {
        let started = self
            .started
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        for program in started.into_iter().rev() {
            program.stop(PATIENCE);
        }
    }
}

impl Reports {
    fn take(&self, line: &str) {
        if let Ok(side) = serde_json::from_str::<Side>(line) {
            let mut sides = self.sides.lock().unwrap_or_else(PoisonError::into_inner);
            sides.insert(side.call_id.clone(), side);
            self.more.notify_all();
        }
    }

    fn wait_for(&self, call_id: &str) -> anyhow::Result<Side> {
        // The callee sees the end of a call by the BYE, or when nothing is heard for half a minute.
        let end = Instant::now() + 2 * PATIENCE;
        let mut sides = self.sides.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(side) = sides.remove(call_id) {
                return Ok(side);
            }
            let left = end.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "the callee does not report");
            sides = self
                .more
                .wait_timeout(sides, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

fn wait_in(log: &Path, wanted: &str) -> anyhow::Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        let said = fs::read_to_string(log)?;
        if said.contains(wanted) {
            return Ok(());
        }
        let name = log.display();
        ensure!(
            Instant::now() < end,
            "{name} does not have {wanted}:\n{said}"
        );
        thread::sleep(Duration::from_millis(20));
    }
}

/// Where those who are called come in: those who listen alike have a port, a pool and an address.
const fn core_port(listener: Listener) -> u16 {
    match listener {
        Listener::Fixed => 4568,
        Listener::Waiting => 4569,
    }
}

const fn callee_address(listener: Listener) -> Ipv4Addr {
    match listener {
        Listener::Fixed => Ipv4Addr::new(10, 65, 0, 1),
        Listener::Waiting => Ipv4Addr::new(10, 65, 0, 2),
    }
}

fn configuration_text() -> String {
    let mut text = format!(
        r#"
[[tls-profile]]
name = "default"
certificate = "server.pem"
private-key = "server.key"

[[tscf-address-pool]]
name = "callers"
address-range = ["10.64.0.0/16"]
address-quarantine = 0

[[tscf-interface]]
realm-id = "access"
local-address-pools = ["callers"]
assigned-services = ["SIP", "redundancy", "DDT"]
# Callers say themselves whom they call.
sip-servers = ["10.65.0.1:5060"]
authentication = "none"

# All callers are one prefix.
[tscf-interface.limits]
requests-per-prefix = 10000

[[tscf-interface.tscf-port]]
address = "{SERVER}"
port = {ACCESS_PORT}
transport-protocol = ["tcp", "tls", "udp", "dtls"]
tls-profile = "default"
"#
    );
    for listener in Listener::ALL {
        let (name, address, port) = (
            listener.as_str(),
            callee_address(listener),
            core_port(listener),
        );
        text.push_str(&format!(
            r#"
[[tscf-address-pool]]
name = "{name}"
address-range = ["{address}"]
address-quarantine = 0

[[tscf-interface]]
realm-id = "{name}"
local-address-pools = ["{name}"]
authentication = "none"

[[tscf-interface.tscf-port]]
address = "{SERVER}"
port = {port}
transport-protocol = ["udp"]
"#
        ));
    }
    text
}
