//! The command line.

use std::net::IpAddr;

use clap::{Parser, ValueEnum};
use ipnet::IpNet;
use tsc_cli::{OutputArgs, TunnelArgs, UsageError};
use tsc_tapi::{MAX_ROUTED_PREFIXES, Prefix, Server};

const EXAMPLES: &str = "\
Examples:
  The LAN 192.168.7.0/24 of this router and the core network 10.0.0.0/8 reach each other:
    sysctl net.ipv4.ip_forward=1
    tsc-gateway -s sbc.example.com --cert gw.pem --key gw.key --prefix 192.168.7.0/24 --core 10.0.0.0/8

  All networks that the server has for us, both IP versions, known to it by a token:
    tsc-gateway -s sbc.example.com -t dtls --token-file token --core 10.0.0.0/8 --core fd00:1::/32

";

const EXIT_CODES: &str = "\
Exit codes:
  0  stopped by a signal
  2  wrong command line, or a file that it names cannot be used
  3  no tunnel, or with --once: the tunnel was lost
  4  the TUN device cannot be made, or is gone
  5  the server grants us no prefixes, or not all";

/// Which of the prefixes asked for must be granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Require {
    /// All.
    All,
    /// At least one.
    Any,
}

/// A gateway for a LAN: networks behind one tunnel, without address translation.
///
/// The server must have prefixes for us, and know us: by a certificate or a token. Forwarding between the LAN and the
/// device is the kernel's (net.ipv4.ip_forward, net.ipv6.conf.all.forwarding) and is not switched on by this program.
/// It needs the capability CAP_NET_ADMIN to make the device, and gives it up before it talks to anybody.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "tsc-gateway",
    version,
    max_term_width = 100,
    after_help = EXIT_CODES,
    after_long_help = format!("{EXAMPLES}{EXIT_CODES}")
)]
pub struct Args {
    /// The tunnel.
    #[command(flatten)]
    pub tunnel: TunnelArgs,

    /// A network behind this gateway, to be asked for exactly as the server has it. May be repeated. [default: all that the
    /// server has for us]
    #[arg(long = "prefix", value_name = "PREFIX", help_heading = "Networks")]
    pub prefixes: Vec<Prefix>,

    /// A network of the core: routed into the tunnel. May be repeated.
    #[arg(
        long = "core",
        value_name = "PREFIX",
        required_unless_present = "tun_descriptor",
        help_heading = "Networks"
    )]
    pub core: Vec<IpNet>,

    /// Which of the prefixes asked for must be granted.
    #[arg(
        long,
        value_enum,
        value_name = "WHICH",
        default_value = "all",
        help_heading = "Networks"
    )]
    pub require: Require,

    /// End when the tunnel is lost for good, or its prefixes are another tunnel's, instead of trying again.
    #[arg(long, help_heading = "Networks")]
    pub once: bool,

    /// Name of the TUN device.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "tsc%d",
        help_heading = "Device"
    )]
    pub tun_name: String,

    /// An address for the device: what this host itself speaks to the core with, if it lies in one of our prefixes and is no
    /// other interface's. Once for each IP version. [default: none; the kernel takes another interface's]
    #[arg(long, value_name = "ADDRESS", help_heading = "Device")]
    pub tun_address: Vec<IpAddr>,

    /// Longest packet, of the device, and asked for of the server. At least 1280 with IPv6.
    #[arg(long, value_name = "BYTES", default_value_t = 1400, value_parser = clap::value_parser!(u16).range(576..=9000),
          help_heading = "Device")]
    pub mtu: u16,

    /// Packets that the kernel keeps for us.
    #[arg(long, value_name = "N", default_value_t = tsc_tapi::tun::DEFAULT_QUEUE_LENGTH,
          value_parser = clap::value_parser!(u32).range(1..=65_536), help_heading = "Device")]
    pub queue_length: u32,

    /// Exchange single packets with the kernel instead of runs of them.
    #[arg(long, help_heading = "Device")]
    pub no_offload: bool,

    /// Use the TUN device that the service manager hands in under this name (LISTEN_FDNAMES), which has its addresses and
    /// routes; needs no capability.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["tun_name", "tun_address", "queue_length", "no_offload"],
          help_heading = "Device")]
    pub tun_descriptor: Option<String>,

    /// Output.
    #[command(flatten)]
    pub output: OutputArgs,
}

impl Args {
    /// Checks what no single option can say.
    ///
    /// # Errors
    ///
    /// The first contradiction.
    pub fn check(&self) -> Result<(), UsageError> {
        if self.prefixes.len() > MAX_ROUTED_PREFIXES {
            let most = format!("at most {MAX_ROUTED_PREFIXES}");
            return Err(UsageError::value("--prefix", most));
        }
        for prefix in &self.prefixes {
            if !prefix.is_routable() {
                let error = format!("{prefix} cannot be routed to a client");
                return Err(UsageError::value("--prefix", error));
            }
            // A wider core network is no harm: the LAN's own route is the longer one.
            let inside = |core: &&IpNet| {
                prefix.contains(core.network()) && core.prefix_len() >= prefix.prefix_len()
            };
            if let Some(core) = self.core.iter().find(inside) {
                let error = format!("{core} lies in our own {prefix}");
                return Err(UsageError::value("--core", error));
            }
        }
        for (index, address) in self.tun_address.iter().enumerate() {
            let same = |other: &IpAddr| other.is_ipv4() == address.is_ipv4();
            if self.tun_address.iter().take(index).any(same) {
                return Err(UsageError::value(
                    "--tun-address",
                    "one for each IP version",
                ));
            }
        }
        Ok(())
    }

    /// The tunnel server.
    ///
    /// # Errors
    ///
    /// One of them is no host with an optional port.
    pub fn servers(&self) -> Result<Vec<Server>, UsageError> {
        self.tunnel.servers()
    }

    /// The core network that `address` is in, if it is in one.
    #[must_use]
    pub fn core_with(&self, address: IpAddr) -> Option<IpNet> {
        self.core
            .iter()
            .find(|core| core.contains(&address))
            .copied()
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(format!("tsc-gateway {line}").split(' '))
    }

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn networks_and_devices_that_agree_are_taken() {
        let args = parse(
            "-s h --prefix 192.0.2.0/24 --prefix 2001:db8::/64 --core 192.0.0.0/16 --core fd00::/8 \
             --tun-address 192.0.2.254 --tun-address 2001:db8::fe",
        )
        .unwrap();
        args.check().unwrap();
        let core = args.core_with("192.0.9.1".parse().unwrap());
        assert_eq!(core, Some("192.0.0.0/16".parse().unwrap()));
        assert_eq!(args.core_with("10.0.0.1".parse().unwrap()), None);
        parse("-s h --tun-descriptor tun").unwrap().check().unwrap();
    }

    #[test]
    fn contradictions_are_named() {
        for line in [
            "-s h",
            "--core 10.0.0.0/8",
            "-s h --core 10.0.0.0",
            "-s h --core 10.0.0.0/8 --mtu 500",
            "-s h --tun-descriptor tun --tun-name tsc0",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        for (line, option) in [
            ("-s h --core 10.0.0.0/8 --prefix 127.0.0.0/8", "--prefix"),
            ("-s h --core 10.0.0.0/8 --prefix 10.0.0.0/8", "--core"),
            ("-s h --core 10.1.0.0/16 --prefix 10.0.0.0/8", "--core"),
            (
                "-s h --core 10.0.0.0/8 --tun-address 10.0.0.1 --tun-address 10.0.0.2",
                "--tun-address",
            ),
        ] {
            let error = parse(line).unwrap().check().unwrap_err().to_string();
            assert!(error.starts_with(option), "{line}: {error}");
        }
    }
}
