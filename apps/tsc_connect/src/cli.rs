//! The command line.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use clap::Parser;
use tsc_cli::{OutputArgs, TunnelArgs, UsageError};

use crate::forward::Forward;

const EXAMPLES: &str = "\
Examples:
  A SOCKS5 proxy into the tunnel, for curl, browsers, ssh:
    tsc-connect -s sbc.example.com --socks 1080
    curl --proxy socks5h://127.0.0.1:1080 http://intranet/

  An HTTP proxy, and a SIP server's UDP port on this host:
    tsc-connect -s sbc.example.com --http 8080 -L udp:5060:10.0.0.5:5060

  A web server of this host, reachable at our inner address:
    tsc-connect -s sbc.example.com -R 80:127.0.0.1:8000

";

const EXIT_CODES: &str = "\
Exit codes:
  0  stopped by a signal
  2  wrong command line, or a file that it names cannot be used
  3  no tunnel, or with --once: the tunnel was lost
  4  a port cannot be opened";

/// Local SOCKS5 and HTTP proxies and port forwards into a tunnel, for programs that cannot be changed.
///
/// Names are resolved inside the tunnel, by the DNS servers that the tunnel server assigns. The proxies ask nobody for a
/// password: whoever can reach their port can use the tunnel, so keep them on loopback addresses.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "tsc-connect",
    version,
    max_term_width = 100,
    after_help = EXIT_CODES,
    after_long_help = format!("{EXAMPLES}{EXIT_CODES}")
)]
pub struct Args {
    /// The tunnel.
    #[command(flatten)]
    pub tunnel: TunnelArgs,

    /// Offer a SOCKS5 proxy (CONNECT and UDP ASSOCIATE) here; on 127.0.0.1 if no address is given.
    #[arg(long, value_name = "[ADDRESS:]PORT", value_parser = local, help_heading = "Proxies and forwards")]
    pub socks: Option<SocketAddr>,

    /// Offer an HTTP proxy (CONNECT and plain requests) here; on 127.0.0.1 if no address is given.
    #[arg(long, value_name = "[ADDRESS:]PORT", value_parser = local, help_heading = "Proxies and forwards")]
    pub http: Option<SocketAddr>,

    /// Take what comes to this port of this host to HOST:PORT in the tunnel. May be repeated.
    #[arg(
        short = 'L',
        long = "local",
        value_name = "[udp:][BIND:]PORT:HOST:PORT",
        help_heading = "Proxies and forwards"
    )]
    pub local: Vec<Forward>,

    /// Take what comes to this port of our inner address to HOST:PORT seen from this host. May be repeated.
    #[arg(
        short = 'R',
        long = "remote",
        value_name = "[udp:][BIND:]PORT:HOST:PORT",
        help_heading = "Proxies and forwards"
    )]
    pub remote: Vec<Forward>,

    /// Connections at a time, of this host's listeners and again of those in the tunnel (-R); further ones wait.
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=65_536),
          help_heading = "Proxies and forwards")]
    pub max_connections: u32,

    /// Connections at a time that one address may have to ports in the tunnel (-R); further ones are reset.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65_536),
          help_heading = "Proxies and forwards")]
    pub max_connections_per_peer: u32,

    /// End when the tunnel is lost for good, instead of opening another one.
    #[arg(long, help_heading = "Proxies and forwards")]
    pub once: bool,

    /// Output.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Reads `[ADDRESS:]PORT`.
fn local(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.parse() {
        return Ok((Ipv4Addr::LOCALHOST, port).into());
    }
    text.parse()
        .map_err(|_| "write PORT or ADDRESS:PORT, an IPv6 address in brackets".to_owned())
}

impl Args {
    /// Checks what no single option can say.
    ///
    /// # Errors
    ///
    /// Nothing to do was asked for.
    pub fn check(&self) -> Result<(), UsageError> {
        if self.socks.is_none()
            && self.http.is_none()
            && self.local.is_empty()
            && self.remote.is_empty()
        {
            return Err(UsageError::value(
                "--socks, --http, -L, -R",
                "at least one is needed",
            ));
        }
        Ok(())
    }

    /// Addresses of this host that are open to others than this host.
    pub fn exposed(&self) -> impl Iterator<Item = SocketAddr> {
        let forwards = self.local.iter().map(host_address);
        self.socks
            .into_iter()
            .chain(self.http)
            .chain(forwards)
            .filter(|address| !address.ip().is_loopback())
    }
}

/// Where a local forward listens.
#[must_use]
pub fn host_address(forward: &Forward) -> SocketAddr {
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    SocketAddr::new(forward.bind.unwrap_or(loopback), forward.port)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn ports_alone_are_on_the_loopback_address() {
        let args =
            parse("tsc-connect -s h --socks 1080 --http [::1]:8080 -L 0.0.0.0:1:h:2").unwrap();
        assert_eq!(args.socks, Some("127.0.0.1:1080".parse().unwrap()));
        assert_eq!(args.http, Some("[::1]:8080".parse().unwrap()));
        assert!(args.check().is_ok());
        let exposed: Vec<_> = args.exposed().collect();
        assert_eq!(exposed, ["0.0.0.0:1".parse().unwrap()]);
    }

    #[test]
    fn nothing_to_do_and_no_server_are_errors() {
        assert!(parse("tsc-connect --socks 1080").is_err());
        assert!(parse("tsc-connect -s h --socks host:1080").is_err());
        assert!(parse("tsc-connect -s h").unwrap().check().is_err());
    }
}
