//! Systems under test as child processes: the tunnel server, or a relay of the baseline.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    SanType,
};
use tsc_csm::Transport;

use crate::relay::RelayKind;
use crate::system::{Children, CpuClock, start_on};

/// How long a child may take to be ready.
const START: Duration = Duration::from_secs(20);

/// How the core side of the server under test is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Egress {
    /// From tunnel to tunnel only.
    #[default]
    Switch,
    /// Sockets of the host.
    UserSpace,
    /// A TUN device.
    Tun,
}

/// A running system under test. Dropping it kills it.
#[derive(Debug)]
pub struct Subject {
    /// Where its clients connect to, by transport.
    addresses: Vec<(String, SocketAddr)>,
    /// Its process.
    pub pid: u32,
    /// Its processor time.
    pub clock: CpuClock,
    /// Certificates that its clients trust, PEM.
    pub authority: String,
    _children: Children,
    /// Its configuration and log.
    directory: tempfile::TempDir,
}

/// What is asked of a tunnel server.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The program; `None` looks beside this program, then in PATH.
    pub program: Option<PathBuf>,
    /// What is to be served.
    pub transports: Vec<Transport>,
    /// The way to the core.
    pub egress: Egress,
    /// DTLS library; `None` is the server's own choice.
    pub dtls_backend: Option<String>,
    /// Its `busy-poll`, in microseconds.
    pub busy_poll: u16,
    /// Processor that it is kept to.
    pub cpu: Option<usize>,
}

/// Inner network of the clients.
const POOL: &str = "10.64.0.0/13";

/// Address of the host on the TUN device, where a reflector listens: outside the pool.
pub const TUN_HOST: [u8; 4] = [10, 72, 0, 1];

impl Subject {
    /// Starts a tunnel server with a configuration made for load: anybody may connect, from anywhere, as often as they
    /// like.
    ///
    /// # Errors
    ///
    /// It cannot be found or does not start; the end of its log is in the message.
    pub fn server(options: &ServerOptions) -> anyhow::Result<Self> {
        let program = match &options.program {
            Some(program) => program.clone(),
            None => find_server()?,
        };
        let directory = tempfile::tempdir()?;
        let authority = certificates(directory.path())?;
        let config = directory.path().join("server.toml");
        fs::write(&config, configuration(options))?;
        let log = directory.path().join("server.log");
        let mut command = Command::new(&program);
        command
            .arg("--config")
            .arg(&config)
            .args(["--log-format", "json"])
            // A line for each tunnel would be most of the cost of setting it up.
            .env(
                "RUST_LOG",
                "warn,tsc_server=info,tsc_server::worker::report=warn",
            )
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log)?);
        let child = start_on(options.cpu, || command.spawn())
            .with_context(|| format!("cannot start {}", program.display()))?;
        let mut children = Children::default();
        let pid = children.add(child);
        let deadline = Instant::now() + START;
        let addresses = loop {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let addresses = listening(&text);
            if text.contains("\"ready\"") && !addresses.is_empty() {
                break addresses;
            }
            if children.any_ended() || Instant::now() > deadline {
                let config = fs::read_to_string(&config).unwrap_or_default();
                bail!(
                    "{} does not start:\n{text}\nwith the configuration\n{config}",
                    program.display()
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        Ok(Self {
            addresses,
            pid,
            clock: CpuClock::of(pid)?,
            authority,
            _children: children,
            directory,
        })
    }

    /// Starts a relay of the baseline: this program once more.
    ///
    /// # Errors
    ///
    /// It does not start.
    pub fn relay(
        program: &Path,
        kind: RelayKind,
        to: SocketAddrV4,
        cpu: Option<usize>,
    ) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let authority = certificates(directory.path())?;
        let mut command = Command::new(program);
        command
            .args(["relay", "--kind", kind.name(), "--to", &to.to_string()])
            .arg("--identity")
            .arg(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut child = start_on(cpu, || command.spawn()).context("cannot start the relay")?;
        let output = child.stdout.take();
        let mut children = Children::default();
        let pid = children.add(child);
        let mut line = String::new();
        if let Some(output) = output {
            BufReader::new(output).read_line(&mut line)?;
        }
        let address = line
            .trim()
            .parse()
            .with_context(|| format!("the relay said {line:?} in place of its address"))?;
        let addresses = vec![(kind.transport().name().to_owned(), address)];
        Ok(Self {
            addresses,
            pid,
            clock: CpuClock::of(pid)?,
            authority,
            _children: children,
            directory,
        })
    }

    /// Where its clients connect to.
    #[must_use]
    pub fn address(&self, transport: Transport) -> Option<SocketAddr> {
        let mut addresses = self.addresses.iter();
        let found = addresses.find(|(name, _)| name == transport.name());
        found.map(|(_, address)| *address)
    }

    /// What it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("server.log")).unwrap_or_default()
    }
}

/// Transports and addresses of the ports in a JSON log.
fn listening(log: &str) -> Vec<(String, SocketAddr)> {
    let port = |line: &str| {
        let record: serde_json::Value = serde_json::from_str(line).ok()?;
        let fields = record.get("fields").unwrap_or(&record);
        if fields.get("event")?.as_str()? != "listening" {
            return None;
        }
        let transport = fields.get("transport")?.as_str()?.to_owned();
        let address = fields.get("address")?.as_str()?.parse().ok()?;
        Some((transport, address))
    };
    log.lines().filter_map(port).collect()
}

/// `tsc-server` beside this program, beside its parent (tests), or in PATH.
fn find_server() -> anyhow::Result<PathBuf> {
    let here = env::current_exe().context("where is this program?")?;
    let mut places: Vec<PathBuf> = here
        .ancestors()
        .skip(1)
        .take(2)
        .map(Path::to_owned)
        .collect();
    places.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    let found = places
        .into_iter()
        .map(|place| place.join("tsc-server"))
        .find(|path| path.is_file());
    found.context("no tsc-server beside this program or in PATH: name it with --spawn-server=PATH")
}

/// A server's certificate for 127.0.0.1 in `directory`; the authority's, PEM.
pub(crate) fn certificates(directory: &Path) -> anyhow::Result<String> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "tsc-load authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key)?.pem();
    let issuer = Issuer::new(params, key);
    let mut params = CertificateParams::new(vec!["localhost".to_owned()])?;
    params
        .subject_alt_names
        .push(SanType::IpAddress([127, 0, 0, 1].into()));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?.pem();
    fs::write(directory.join("server.pem"), certificate)?;
    fs::write(directory.join("server.key"), key.serialize_pem())?;
    Ok(authority)
}

fn configuration(options: &ServerOptions) -> String {
    let transports: Vec<_> = options
        .transports
        .iter()
        .map(|transport| format!("\"{transport}\""))
        .collect();
    let transports = transports.join(", ");
    let is_protected = options.transports.iter().any(|one| one.is_protected());
    let egress = match options.egress {
        Egress::Switch => "switch",
        Egress::UserSpace => "user-space",
        Egress::Tun => "tun",
    };
    // Servers of before do not know it.
    let busy_poll = match options.busy_poll {
        0 => String::new(),
        time => format!("busy-poll = {time}\n"),
    };
    let mut text = format!(
        r#"[tscf-config]
max-tunnels = 200000
max-half-open = 65536
address-quarantine = 0
graceful-stop-deadline = 0
{busy_poll}
[[tscf-address-pool]]
name = "load"
address-range = ["{POOL}"]
egress = "{egress}"

[[tscf-interface]]
realm-id = "load"
local-address-pools = ["load"]
authentication = "none"

[tscf-interface.limits]
tunnels-per-prefix = 200000
requests-per-prefix = 100000
half-open = 65536

[[tscf-interface.tscf-port]]
address = "127.0.0.1"
port = 0
transport-protocol = [{transports}]
"#
    );
    if is_protected {
        text.push_str("tls-profile = \"load\"\n");
    }
    if let Some(backend) = options
        .dtls_backend
        .as_ref()
        .filter(|_| options.transports.contains(&Transport::Dtls))
    {
        text.push_str(&format!("dtls-backend = \"{backend}\"\n"));
    }
    if is_protected {
        text.push_str(
            "\n[[tls-profile]]\nname = \"load\"\ncertificate = \"server.pem\"\nprivate-key = \"server.key\"\n",
        );
    }
    match options.egress {
        Egress::Switch => {}
        Egress::UserSpace => text.push_str(
            "\n[user-space-egress]\nallow-destinations = [\"127.0.0.0/8\"]\nudp-mappings = 200000\n",
        ),
        Egress::Tun => {
            let [a, b, c, d] = TUN_HOST;
            text.push_str(&format!(
                "\n[tun-egress]\naddresses = [\"{a}.{b}.{c}.{d}/32\"]\n"
            ));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_found_in_logs() {
        let log = r#"{"timestamp":"x","level":"WARN","message":"clear"}
{"timestamp":"x","level":"INFO","event":"listening","interface":"load","transport":"udp","address":"127.0.0.1:4711"}
"#;
        let expected = ("udp".to_owned(), ([127, 0, 0, 1], 4711).into());
        assert_eq!(listening(log), [expected]);
        assert_eq!(listening("nothing"), []);
    }
}
