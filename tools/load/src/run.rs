//! `tsc-load run`: baselines, then the server by each transport.

use std::io::{IsTerminal as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use anyhow::Context as _;
use tsc_csm::Transport;

use crate::bench::{Bench, Load, Measured, Method};
use crate::cli::{EgressArg, LoadArg, RunArgs, SettingArgs};
use crate::clients::{Opening, call_core, call_each_other, ipv4, open, protocol, settle};
use crate::engine::{Engine, Protocol};
use crate::reflector::Reflector;
use crate::relay::RelayKind;
use crate::report::{LoadReport, Report, SetUpReport, SubjectReport, Times};
use crate::subject::{ServerOptions, Subject, TUN_HOST};
use crate::system::{
    Cores, CpuClock, Priority, memory, pin, raise_descriptors, receive_buffer_default,
    set_receive_buffer_default,
};
use crate::traffic::Traffic;

/// Below this a pause of the host of a few milliseconds looks like loss.
const GOOD_BUFFER: u64 = 4 << 20;

/// Confirmations of tunnels come after their set-up.
const SETTLE: Duration = Duration::from_millis(300);

/// The host as this run finds and leaves it.
pub struct Host {
    /// Processors.
    pub cores: Cores,
    /// What people should know.
    pub notes: Vec<String>,
    /// To be put back.
    buffer: Option<u64>,
    _priority: Option<Priority>,
}

impl Host {
    /// Prepares this process and, if asked to, the host.
    ///
    /// # Errors
    ///
    /// The host's buffers were to be set and cannot.
    pub fn prepare(setting: &SettingArgs) -> anyhow::Result<Self> {
        let mut notes = Vec::new();
        let before = receive_buffer_default();
        let mut buffer = None;
        if let Some(bytes) = setting.host_buffers {
            set_receive_buffer_default(bytes).context("cannot set net.core.rmem_default")?;
            buffer = before;
        }
        if let Some(bytes) = receive_buffer_default().filter(|bytes| *bytes < GOOD_BUFFER) {
            notes.push(format!(
                "note: net.core.rmem_default is {bytes}: pauses of this host may look like loss of the server (--host-buffers {GOOD_BUFFER})"
            ));
        }
        let streams = setting
            .transport
            .iter()
            .any(|transport| Transport::from(*transport).is_stream());
        // One for each tunnel at each end, and a quarter that the server keeps for its egress.
        let wanted = u64::from(if streams { setting.tunnels } else { 0 }) * 2 + 4096;
        let got = raise_descriptors(wanted).context("the limit of descriptors")?;
        if got < wanted {
            notes.push(format!(
                "note: only {got} descriptors of {wanted} wanted: tunnels may fail (ulimit -n)"
            ));
        }
        let cores = if setting.no_pin {
            Cores {
                load: None,
                server: None,
            }
        } else {
            Cores::choose()
        };
        if cores.load.is_none() && !setting.no_pin {
            notes.push("note: generator and server share a processor".to_owned());
        }
        let priority = match setting.no_pin {
            true => None,
            false => Priority::take().ok(),
        };
        if !setting.no_pin && priority.is_none() {
            notes.push(
                "note: no priority over other processes of this host (needs root)".to_owned(),
            );
        }
        pin(cores.load).context("cannot keep to a processor")?;
        Ok(Self {
            cores,
            notes,
            buffer,
            _priority: priority,
        })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(bytes) = self.buffer {
            // It could be set a moment ago.
            let _restored = set_receive_buffer_default(bytes);
        }
    }
}

/// Runs all that was asked for; whether it kept within its limits.
///
/// # Errors
///
/// What went wrong.
pub fn run(args: &RunArgs) -> anyhow::Result<(Report, bool)> {
    let host = Host::prepare(&args.setting)?;
    let mut report = Report {
        notes: host.notes.clone(),
        ..Report::default()
    };
    for kind in &args.baseline {
        report.subjects.push(baseline(args, &host, *kind)?);
    }
    for transport in &args.setting.transport {
        report
            .subjects
            .push(server(args, &host, Transport::from(*transport))?);
    }
    report.relate();
    let servers = report
        .subjects
        .iter()
        .filter(|subject| subject.subject == "tsc-server");
    let is_good = servers
        .flat_map(|subject| &subject.loads)
        .all(|load| load.load == "saturate" || load.loss <= args.loss_limit);
    Ok((report, is_good))
}

/// A bare relay.
fn baseline(args: &RunArgs, host: &Host, kind: RelayKind) -> anyhow::Result<SubjectReport> {
    let reflector = Reflector::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
    let echo = ipv4(reflector.address()?)?;
    let program = std::env::current_exe().context("where is this program?")?;
    let subject = Subject::relay(&program, kind, echo, host.cores.server)?;
    let transport = match kind {
        RelayKind::Udp | RelayKind::Gso => Transport::Udp,
        RelayKind::Tcp => Transport::Tcp,
    };
    let sessions = if args.trunk { 1 } else { args.setting.tunnels };
    let calls = args.calls.unwrap_or(args.setting.tunnels);
    let traffic = Traffic::new(args.size);
    let mut engine = Engine::new(
        Protocol::Bare(transport),
        subject.address,
        sessions,
        traffic,
    )?;
    engine.set_reflector(reflector);
    let under_test = UnderTest {
        name: format!("relay-{kind}"),
        transport,
        pid: Some(subject.pid),
        clock: Some(subject.clock),
    };
    let set_up = set_up(args, &mut engine, &under_test)?;
    for call in 0..calls {
        engine.traffic.add_bare(call % sessions, echo);
    }
    measure(args, &mut engine, &under_test, set_up)
}

/// What is measured.
struct UnderTest {
    name: String,
    transport: Transport,
    pid: Option<u32>,
    clock: Option<CpuClock>,
}

/// A tunnel server.
fn server(args: &RunArgs, host: &Host, transport: Transport) -> anyhow::Result<SubjectReport> {
    let setting = &args.setting;
    let spawned = match &setting.spawn_server {
        Some(program) => Some(Subject::server(&ServerOptions {
            program: program.clone(),
            transport,
            egress: setting.egress.into(),
            dtls_backend: setting.dtls_backend.clone(),
            cpu: host.cores.server,
        })?),
        None => None,
    };
    let (address, authority) = match (&spawned, setting.server) {
        (Some(subject), _) => (subject.address, subject.authority.clone()),
        (None, Some(address)) => (address, authority(setting)?),
        (None, None) => anyhow::bail!("neither --server nor --spawn-server"),
    };
    let pid = spawned
        .as_ref()
        .map(|subject| subject.pid)
        .or(setting.server_pid);
    let under_test = UnderTest {
        name: "tsc-server".to_owned(),
        transport,
        pid,
        clock: pid.map(CpuClock::of).transpose().context("--server-pid")?,
    };
    let name = setting.server_name.as_deref();
    let protocol = protocol(transport, address, name, &authority)?;
    let tunnels = if args.trunk { 2 } else { setting.tunnels };
    let calls = args.calls.unwrap_or(setting.tunnels);
    let mut engine = Engine::new(protocol, address, tunnels, Traffic::new(args.size))?;
    let set_up = set_up(args, &mut engine, &under_test)
        .with_context(|| spawned.as_ref().map(Subject::log).unwrap_or_default())?;
    match core(args)? {
        Some((reflector, echo)) => {
            if let Some(reflector) = reflector {
                engine.set_reflector(reflector);
            }
            call_core(&mut engine, calls, echo)?;
        }
        None => call_each_other(&mut engine, calls, args.trunk)?,
    }
    let report = measure(args, &mut engine, &under_test, set_up)?;
    if spawned.is_none() {
        engine.release(Duration::from_secs(5))?;
    }
    Ok(report)
}

/// The far end in the core, if calls go there: started here, or somebody else's.
fn core(args: &RunArgs) -> anyhow::Result<Option<(Option<Reflector>, SocketAddrV4)>> {
    let wanted = match (args.reflector, args.setting.egress) {
        (Some(address), _) => address,
        (None, EgressArg::Switch) => return Ok(None),
        (None, EgressArg::UserSpace) => SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0),
        (None, EgressArg::Tun) => SocketAddrV4::new(Ipv4Addr::from(TUN_HOST), 0),
    };
    match Reflector::bind(wanted) {
        Ok(reflector) => {
            let address = ipv4(reflector.address()?)?;
            Ok(Some((Some(reflector), address)))
        }
        // Another process or host has it.
        Err(_) if args.reflector.is_some() && wanted.port() != 0 => Ok(Some((None, wanted))),
        Err(error) => Err(error).with_context(|| format!("a reflector at {wanted}")),
    }
}

/// Certificates of a server that runs already.
fn authority(setting: &SettingArgs) -> anyhow::Result<String> {
    match &setting.ca {
        Some(path) => {
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
        }
        None => Ok(String::new()),
    }
}

fn set_up(
    args: &RunArgs,
    engine: &mut Engine,
    under_test: &UnderTest,
) -> anyhow::Result<SetUpReport> {
    let setting = &args.setting;
    let opening = Opening {
        per_second: setting.open_rate,
        parallel: setting.open_parallel,
        limit: Duration::from_secs(600),
    };
    let cost = || under_test.clock.map(CpuClock::ns).transpose();
    let room = || under_test.pid.and_then(|pid| memory(pid).ok());
    let (cpu, kib) = (cost()?, room());
    let members = engine.members();
    let mut line = Line::new(setting.quiet);
    let name = format!("{} over {}", under_test.name, under_test.transport);
    let time = open(engine, &opening, |up| {
        line.show(|| format!("{name}: {up} of {members} set up"));
    })?;
    settle(engine, SETTLE)?;
    let used = cost()?.zip(cpu).map(|(after, before)| after - before);
    let grown = room()
        .zip(kib)
        .map(|(after, before)| after.saturating_sub(before));
    let clients = engine.counters().up;
    let count = clients as f64;
    Ok(SetUpReport {
        clients,
        seconds: time.as_secs_f64(),
        per_second: count / time.as_secs_f64(),
        per_cpu_second: used.filter(|ns| *ns > 0).map(|ns| count * 1e9 / ns as f64),
        failed_attempts: engine.counters().failed_attempts,
        time_us: Times::of(engine.set_up()),
        memory_kib: grown.map(|kib| kib as f64 / count),
    })
}

fn measure(
    args: &RunArgs,
    engine: &mut Engine,
    under_test: &UnderTest,
    set_up: SetUpReport,
) -> anyhow::Result<SubjectReport> {
    let tunnels = engine.members();
    let calls = u32::try_from(engine.traffic.flows()).unwrap_or(u32::MAX);
    let method = Method {
        window: args.window,
        windows: args.windows.into(),
        burst_ns: args.burst.map(|us| u64::from(us) * 1000),
        loss_limit: args.loss_limit,
        delay_limit: Duration::from_millis(args.delay_limit.into()),
        ..Method::default()
    };
    let mut line = Line::new(args.setting.quiet);
    let name = format!("{} over {}", under_test.name, under_test.transport);
    let mut progress = |measured: &Measured| line.show_now(&describe(&name, measured));
    let mut bench = Bench {
        engine,
        clock: under_test.clock,
        method,
        progress: &mut progress,
    };
    let mut loads = Vec::new();
    for load in &args.rate {
        let (windows, greatest) = match load {
            LoadArg::Rate(rate) => (bench.windows(Load::Rate(*rate))?, None),
            LoadArg::Saturate => (bench.windows(Load::InFlight(args.in_flight))?, None),
            LoadArg::Max => {
                let greatest = bench
                    .greatest()?
                    .with_context(|| format!("{name}: no rate at all keeps within the limits"))?;
                (
                    bench.windows(Load::Rate(greatest / 10 * 9))?,
                    Some(greatest),
                )
            }
        };
        loads.extend(LoadReport::of(&load.to_string(), greatest, &windows));
    }
    let counters = engine.counters();
    Ok(SubjectReport {
        subject: under_test.name.clone(),
        transport: under_test.transport.to_string(),
        tunnels,
        calls,
        packet_bytes: args.size,
        set_up,
        loads,
        suspended: counters.suspended,
        strangers: counters.strangers,
    })
}

fn describe(name: &str, measured: &Measured) -> String {
    let load = match measured.load {
        Load::Rate(rate) => format!("{rate}/s each way"),
        Load::InFlight(packets) => format!("{packets} under way"),
    };
    format!(
        "{name}: {load}: {:.0} relayed/s, {:.3} % lost, rtt p50 {} us{}",
        measured.relayed_per_second(),
        measured.window.loss() * 100.0,
        measured
            .window
            .round_trip
            .quantile_us(0.5)
            .unwrap_or_default(),
        measured
            .per_cpu_second()
            .map(|rate| format!(", {:.1} k per CPU-s", rate / 1000.0))
            .unwrap_or_default(),
    )
}

/// One line of progress on a terminal.
struct Line {
    is_on: bool,
    next: std::time::Instant,
}

impl Line {
    fn new(quiet: bool) -> Self {
        Self {
            is_on: !quiet && std::io::stderr().is_terminal(),
            next: std::time::Instant::now(),
        }
    }

    /// At most ten times a second.
    fn show(&mut self, text: impl FnOnce() -> String) {
        let now = std::time::Instant::now();
        if self.is_on && now >= self.next {
            self.next = now + Duration::from_millis(100);
            self.show_now(&text());
        }
    }

    fn show_now(&mut self, text: &str) {
        if self.is_on {
            // Nobody to show it to.
            let _shown = write!(std::io::stderr(), "\r\x1b[K{text}");
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.show_now("");
    }
}

/// Where a reflector of its own listens.
///
/// # Errors
///
/// What the system says.
pub fn reflect(address: SocketAddrV4, told: impl FnOnce(SocketAddr)) -> std::io::Result<()> {
    use std::os::fd::AsFd as _;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    let mut reflector = Reflector::bind(address)?;
    told(reflector.address()?);
    let mut buffers = crate::link::Buffers::default();
    loop {
        while reflector.turn(&mut buffers, |_, _| {})? {}
        let mut fds = [PollFd::new(reflector.socket().as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
