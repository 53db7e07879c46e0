//! The command line.

use std::net::{SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tsc_csm::Transport;

use crate::attack::Attack;
use crate::peer::PeerKind;
use crate::relay::RelayKind;
use crate::subject::Egress;
use crate::traffic::Traffic;

/// Load generator for TSCF tunnel servers: thousands of clients in one process and one thread.
///
/// Opens tunnels over any transport with real handshakes, keeps them alive, sends calls' worth of media through them, and
/// tells what the server made of it: loss, duplicates, order, one-way and round-trip times, and how many packets it
/// passes on for each second of processor time. Packets leave by the clock (open loop), and times count from when a packet
/// was due, so that a server that stalls is charged with all that it kept waiting.
#[derive(Clone, Debug, Parser)]
#[command(name = "tsc-load", version, max_term_width = 100, after_long_help = HELP)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Measure: packets per processor second, loss and times at fixed rates, at the limit, or saturated.
    Run(Box<RunArgs>),
    /// Open tunnels: what each costs the server in processor time and memory.
    Setup {
        /// Which tunnels.
        #[command(flatten)]
        args: Box<HoldArgs>,
        /// Measure these other programs first: coturn-udp, coturn-tcp, coturn-tls, coturn-dtls, stunnel.
        #[arg(long, value_delimiter = ',', value_name = "NAME")]
        peer: Vec<PeerKind>,
    },
    /// Open tunnels and keep them alive without traffic.
    Hold {
        /// Which tunnels.
        #[command(flatten)]
        args: Box<HoldArgs>,
        /// For how many seconds. Keepalives are due after half the server's keepalive time: 25 s on datagrams, 150 s on streams.
        #[arg(long, default_value = "60", value_parser = seconds)]
        time: Duration,
    },
    /// Offer more than the server can do, ask for new tunnels meanwhile, and see how it comes back.
    #[command(mut_arg("tunnels", |tunnels| tunnels.default_value("2000")))]
    Overload(Box<OverloadArgs>),
    /// Calls beside forged datagrams: what these cost them. With --spawn-server, or a server on 127.0.0.0/8.
    Hostile(Box<HostileArgs>),
    /// Be the far end: a UDP echo for calls into the core.
    Reflector(ReflectorArgs),
    /// Be a relay of the baseline (started by "run --baseline").
    #[command(hide = true)]
    Relay(RelayArgs),
}

const HELP: &str = "\
Examples:
  The server found beside this program, 100 UDP tunnels at their limit, with the relay to compare with:
    tsc-load run --spawn-server --baseline udp --rate 5k,20k,max
  All transports of a server elsewhere, 1,000 calls of 50 packets a second over 500 tunnels:
    tsc-load run --server 192.0.2.1:5061 --transport tls --ca ca.pem --tunnels 500 --calls 1000 --rate 50k
  A hundred thousand tunnels, kept alive:
    tsc-load hold --spawn-server --tunnels 100000 --time 120
  Three times more than it can do; forged traffic beside calls:
    tsc-load overload --spawn-server; tsc-load hostile --spawn-server
  One tunnel that carries everything:
    tsc-load run --spawn-server --trunk --calls 100

Tell-tale figures of the table:
  gen near 1.00   the generator was the limit, not the server; packets per CPU second still hold
  late99 high     packets left late; the times contain that
  ratio           packets per CPU second against the plain UDP relay at the same load in the same run

Exit codes: 0 all went well; 1 more was lost than --loss-limit, or something failed; 2 wrong command line.";

/// For `run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// The server and its clients.
    #[command(flatten)]
    pub setting: SettingArgs,

    /// Calls; by default one for each tunnel.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub calls: Option<u32>,

    /// Bytes of each inner packet, headers included: 200 is RTP with 20 ms of G.711.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(i64::from(Traffic::MIN_SIZE)..=1400))]
    pub size: u16,

    /// Loads, in this order: packets a second each way (5000, 20k), "max" (search the greatest rate, then measure at 90 % of it), "saturate" (always
    /// so many packets under way as --in-flight says).
    #[arg(long, value_delimiter = ',', default_value = "max")]
    pub rate: Vec<LoadArg>,

    /// Packets under way when saturating.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub in_flight: u64,

    /// All calls over one tunnel, to one other. The UDP relay, the unit of ratios, keeps its sessions.
    #[arg(long)]
    pub trunk: bool,

    /// Send calls into the core to a reflector at this address instead of to other tunnels. It is started in this process if
    /// the address is of this host and free.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub reflector: Option<SocketAddrV4>,

    /// Measure these relays first, in the same way: the limits that ratios refer to.
    #[arg(long, value_delimiter = ',', value_name = "udp,gso,tcp,tls")]
    pub baseline: Vec<RelayKind>,

    /// Measure these other programs first, in the same way; they have to be installed: coturn-udp, coturn-tcp, coturn-tls, coturn-dtls,
    /// stunnel, openvpn, wireguard-go, boringtun. The last three have one tunnel that carries all calls, and need root.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub peer: Vec<PeerKind>,

    /// Send nothing back: loss and times are those of one way.
    #[arg(long)]
    pub one_way: bool,

    /// Packets of a call in a row: 1 is media, more is what gateways and file transfers send.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub train: u32,

    /// How it is measured.
    #[command(flatten)]
    pub measure: MeasureArgs,
}

/// How it is measured.
#[derive(Clone, Debug, Args)]
pub struct MeasureArgs {
    /// Windows at each load.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub windows: u16,

    /// Length of a window in seconds.
    #[arg(long, default_value = "1", value_parser = seconds)]
    pub window: Duration,

    /// Microseconds between bursts; 0 spaces packets evenly. By default 200 from 10,000 packets a second on.
    #[arg(long, value_name = "MICROSECONDS", value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub burst: Option<u32>,

    /// After a silence of so many seconds what is still missing counts as lost.
    #[arg(long, default_value = "0.4", value_name = "SECONDS", value_parser = seconds)]
    pub drain: Duration,

    /// Share of packets that may be lost: what "max" means, and when the exit code is 1.
    #[arg(long, default_value_t = 0.001, value_name = "SHARE")]
    pub loss_limit: f64,

    /// Median round trip that "max" may have, in milliseconds.
    #[arg(long, default_value_t = 20, value_name = "MILLISECONDS")]
    pub delay_limit: u32,
}

/// The server and its clients.
#[derive(Clone, Debug, Args)]
pub struct SettingArgs {
    /// Transports to be measured, one after the other.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "udp",
        value_name = "udp,tcp,tls,dtls"
    )]
    pub transport: Vec<TransportArg>,

    /// A server that runs already.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub server: Option<SocketAddr>,

    /// Start the server under test: the program at PATH, or the tsc-server beside this one. It gets a temporary
    /// configuration and a processor of its own.
    #[arg(long, value_name = "PATH", num_args = 0..=1, require_equals = true, conflicts_with = "server")]
    pub spawn_server: Option<Option<PathBuf>>,

    /// Process of a server that runs already on this host, for its processor time and memory.
    #[arg(long, value_name = "PID", requires = "server")]
    pub server_pid: Option<u32>,

    /// Authorities that the server's certificate is checked against, PEM; needed for tls and dtls with --server.
    #[arg(long, value_name = "FILE", requires = "server")]
    pub ca: Option<PathBuf>,

    /// Name in the server's certificate, if it is not its address.
    #[arg(long, value_name = "NAME", requires = "server")]
    pub server_name: Option<String>,

    /// How the server started by --spawn-server passes packets to the core: calls go to a reflector there.
    #[arg(long, value_enum, default_value_t = EgressArg::Switch, requires = "spawn_server")]
    pub egress: EgressArg,

    /// DTLS library of the server started by --spawn-server.
    #[arg(long, value_name = "NAME", requires = "spawn_server")]
    pub dtls_backend: Option<String>,

    /// Microseconds that workers of the server started by --spawn-server look for the next packet after one, before they sleep.
    #[arg(long, value_name = "MICROSECONDS", requires = "spawn_server", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=1000))]
    pub busy_poll: u16,

    /// Tunnels.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=200_000))]
    pub tunnels: u32,

    /// Let packets of a UDP or DTLS tunnel that are due together leave in one call (UDP_SEGMENT), as clients of the SDK do. The
    /// server then receives them as one, which no network would do. Always so with "overload".
    #[arg(long)]
    pub gso: bool,

    /// Tunnels opened a second, at most.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub open_rate: u64,

    /// Tunnels being opened at the same time, at most.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub open_parallel: u64,

    /// Receive buffer that sockets of this host get by default while this runs (net.core.rmem_default); needs root. Pauses of
    /// a busy host overflow the usual 208 KiB and look like loss.
    #[arg(long, value_name = "BYTES")]
    pub host_buffers: Option<u64>,

    /// Do everything in a network namespace of its own, where nothing else is on the wire, and count the bytes there; needs
    /// root. Not with --egress tun.
    #[arg(long, conflicts_with = "server")]
    pub own_network: bool,

    /// Do not keep generator and server to a processor each, nor put them before other processes of this host.
    #[arg(long)]
    pub no_pin: bool,

    /// Results as JSON on standard output.
    #[arg(long)]
    pub json: bool,

    /// No progress on standard error.
    #[arg(long, short)]
    pub quiet: bool,
}

impl SettingArgs {
    /// Whether a server of ours is to be measured.
    #[must_use]
    pub const fn has_server(&self) -> bool {
        self.server.is_some() || self.spawn_server.is_some()
    }
}

impl Cli {
    /// What the command line lacks, if anything.
    #[must_use]
    pub fn missing(&self) -> Option<&'static str> {
        let (setting, has_other) = match &self.command {
            Command::Run(args) => {
                let has_other = !args.baseline.is_empty() || !args.peer.is_empty();
                (&args.setting, has_other)
            }
            Command::Setup { args, peer } => (&args.setting, !peer.is_empty()),
            Command::Hold { args, .. } => (&args.setting, false),
            Command::Overload(args) => (&args.setting, false),
            Command::Hostile(args) => (&args.setting, false),
            Command::Reflector(_) | Command::Relay(_) => return None,
        };
        (!has_other && !setting.has_server())
            .then_some("nothing to be measured: --spawn-server or --server is needed")
    }
}

/// For `setup` and `hold`.
#[derive(Clone, Debug, Args)]
pub struct HoldArgs {
    /// The server and its clients.
    #[command(flatten)]
    pub setting: SettingArgs,
}

/// For `overload`.
#[derive(Clone, Debug, Args)]
pub struct OverloadArgs {
    /// The server and its clients.
    #[command(flatten)]
    pub setting: SettingArgs,

    /// How many times its capacity the server is offered, as far as the generator can.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=100))]
    pub factor: u64,

    /// Calls of each tunnel, each to another one. Their packets leave as one train, which costs the generator little, and the
    /// server has to send each to another tunnel: so more can be offered than it can do, if there are many tunnels (by default
    /// 2000), for else the server has trains to send as well.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub fan: u32,

    /// For how many seconds.
    #[arg(long, default_value = "60", value_parser = seconds)]
    pub time: Duration,

    /// Packets a second one way that count as its capacity. By default the most that comes through, whatever is lost.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub capacity: Option<u64>,

    /// Threads that run on the server's processor all the time, so that it has 1/(1 + RIVALS) of it: what the generator cannot
    /// offer, the server cannot take then either. By default 2 but with UDP, where the generator has as much to do as the server.
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=15))]
    pub rivals: Option<u32>,

    /// Tunnels that are asked for while it is overloaded.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub newcomers: u32,

    /// Bytes of each inner packet.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(i64::from(Traffic::MIN_SIZE)..=1400))]
    pub size: u16,

    /// It has recovered when the median delay is less, in milliseconds.
    #[arg(long, default_value_t = 20, value_name = "MILLISECONDS")]
    pub delay_limit: u32,
}

/// For `hostile`.
#[derive(Clone, Debug, Args)]
pub struct HostileArgs {
    /// The server and its clients.
    #[command(flatten)]
    pub setting: SettingArgs,

    /// Packets a second of the calls, each way.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub rate: u64,

    /// What is forged, one after the other: random bytes, DTLS ClientHellos, Configuration_Requests.
    #[arg(long, value_delimiter = ',', default_value = "garbage,hello,request")]
    pub attack: Vec<Attack>,

    /// Forged datagrams a second, each from another address.
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub attack_rate: u64,

    /// Milliseconds that an attack may add to the 99th percentile of the calls' round trip; more is exit code 1.
    #[arg(long, default_value_t = 5, value_name = "MILLISECONDS")]
    pub added_delay_limit: u32,

    /// Bytes of each inner packet.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(i64::from(Traffic::MIN_SIZE)..=1400))]
    pub size: u16,

    /// How it is measured.
    #[command(flatten)]
    pub measure: MeasureArgs,
}

/// For `reflector`.
#[derive(Clone, Debug, Args)]
pub struct ReflectorArgs {
    /// Where to listen.
    #[arg(default_value = "0.0.0.0:4000")]
    pub address: SocketAddrV4,
}

/// For `relay`.
#[derive(Clone, Debug, Args)]
pub struct RelayArgs {
    /// Which.
    #[arg(long)]
    pub kind: RelayKind,
    /// The echo behind it.
    #[arg(long)]
    pub to: SocketAddrV4,
    /// Where its certificate and key are, for TLS.
    #[arg(long)]
    pub identity: Option<PathBuf>,
}

/// A load on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadArg {
    /// Packets a second each way.
    Rate(u64),
    /// The greatest rate is searched for.
    Max,
    /// A number of packets is always under way.
    Saturate,
}

impl FromStr for LoadArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "max" => return Ok(Self::Max),
            "saturate" => return Ok(Self::Saturate),
            _ => {}
        }
        let (number, unit) = match text.strip_suffix('k') {
            Some(number) => (number, 1000),
            None => (text, 1),
        };
        let rate = number.parse::<u64>().ok().map(|rate| rate * unit);
        rate.filter(|rate| (1..=100_000_000).contains(rate))
            .map(Self::Rate)
            .ok_or_else(|| "a number (5000, 20k), max or saturate".to_owned())
    }
}

impl std::fmt::Display for LoadArg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rate(rate) => write!(f, "{rate}"),
            Self::Max => f.write_str("max"),
            Self::Saturate => f.write_str("saturate"),
        }
    }
}

/// A transport on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TransportArg {
    /// Clear datagrams.
    Udp,
    /// A clear stream.
    Tcp,
    /// TLS.
    Tls,
    /// DTLS.
    Dtls,
}

impl From<TransportArg> for Transport {
    fn from(transport: TransportArg) -> Self {
        match transport {
            TransportArg::Udp => Self::Udp,
            TransportArg::Tcp => Self::Tcp,
            TransportArg::Tls => Self::Tls,
            TransportArg::Dtls => Self::Dtls,
        }
    }
}

/// An egress on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EgressArg {
    /// None: from tunnel to tunnel.
    Switch,
    /// Sockets of this host.
    UserSpace,
    /// A TUN device; needs root.
    Tun,
}

impl From<EgressArg> for Egress {
    fn from(egress: EgressArg) -> Self {
        match egress {
            EgressArg::Switch => Self::Switch,
            EgressArg::UserSpace => Self::UserSpace,
            EgressArg::Tun => Self::Tun,
        }
    }
}

/// Seconds with fractions.
fn seconds(text: &str) -> Result<Duration, String> {
    let time = text
        .parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    time.filter(|time| (0.01..=86_400.0).contains(&time.as_secs_f64()))
        .ok_or_else(|| "seconds between 0.01 and 86400".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn loads() {
        assert_eq!("20k".parse(), Ok(LoadArg::Rate(20_000)));
        assert_eq!("max".parse(), Ok(LoadArg::Max));
        assert_eq!("saturate".parse(), Ok(LoadArg::Saturate));
        for bad in ["", "0", "k", "-1", "fast", "999999999999"] {
            assert!(bad.parse::<LoadArg>().is_err(), "{bad}");
        }
    }
}
