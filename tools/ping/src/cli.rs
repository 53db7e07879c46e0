//! The command line.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use clap::Parser;
use tsc_cli::OutputArgs;
use tsc_osaa::proxy::Proxy;

use crate::target::Target;

/// A doctor for tunnels: walks the way to a tunnel server step by step, tells what it finds, and says at the end what
/// works, what does not, why that may be, and what to do about it.
///
/// A tunnel is opened on the way and released at the end; nothing is sent through it.
#[derive(Debug, Parser)]
#[command(version, after_long_help = TEACHING)]
pub(crate) struct Arguments {
    /// Tunnel servers: tcp://HOST:PORT, tls://, udp:// or dtls://. Without :PORT the DNS is asked for SRV records,
    /// then 4567 is taken
    #[arg(value_name = "URL", required = true)]
    pub(crate) targets: Vec<Target>,

    /// Test only what the URLs name. Else the datagram transport of the same host and port is tried beside a stream
    #[arg(long)]
    pub(crate) only: bool,

    /// Use IPv4 addresses only
    #[arg(short = '4', long, conflicts_with = "ipv6")]
    pub(crate) ipv4: bool,

    /// Use IPv6 addresses only
    #[arg(short = '6', long)]
    pub(crate) ipv6: bool,

    /// Ask this name server instead of the system, for SRV records and addresses; may be given several times
    #[arg(long = "dns", value_name = "IP[:PORT]", value_parser = name_server)]
    pub(crate) name_servers: Vec<SocketAddr>,

    /// Keepalives whose round trip is measured
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(0..=1000))]
    pub(crate) count: u16,

    /// How long each step may take, in seconds
    #[arg(short = 'w', long, value_name = "SECONDS", default_value_t = 5.0, value_parser = seconds)]
    pub(crate) timeout: f64,

    /// Longest packet to try on the path, in bytes with IP and UDP headers; 0 skips that step
    #[arg(long, value_name = "BYTES", default_value_t = 1500, value_parser = mtu)]
    pub(crate) mtu: u16,

    /// Reach TCP and TLS servers through this HTTP proxy (method CONNECT): http://HOST:PORT, or https:// for TLS as far as the
    /// proxy. Without :PORT 80 or 443
    #[arg(long, value_name = "URL", help_heading = "Proxy")]
    pub(crate) proxy: Option<Proxy>,

    /// File whose first line is user:password for the proxy; DOMAIN\\user for NTLM, user@REALM for Kerberos
    #[arg(long, value_name = "FILE", requires = "proxy", help_heading = "Proxy")]
    pub(crate) proxy_auth: Option<PathBuf>,

    /// Send the password to an http:// proxy that knows the scheme Basic only, where anyone on the way can read it
    #[arg(long, requires = "proxy_auth", help_heading = "Proxy")]
    pub(crate) proxy_basic_in_clear: bool,

    /// Certificate authorities (PEM) to trust for an https:// proxy instead of the system's
    #[arg(long, value_name = "FILE", requires = "proxy", help_heading = "Proxy")]
    pub(crate) proxy_ca: Option<PathBuf>,

    /// Certificate authorities (PEM) to trust instead of the system's
    #[arg(long, value_name = "FILE", help_heading = "Security")]
    pub(crate) ca: Option<PathBuf>,

    /// Our certificate chain (PEM), for servers that ask for one
    #[arg(long, value_name = "FILE", requires = "key", help_heading = "Security")]
    pub(crate) cert: Option<PathBuf>,

    /// The key (PEM) of --cert
    #[arg(
        long,
        value_name = "FILE",
        requires = "cert",
        help_heading = "Security"
    )]
    pub(crate) key: Option<PathBuf>,

    /// Name that the server's certificate must carry, instead of the host of the URL
    #[arg(long, value_name = "NAME", help_heading = "Security")]
    pub(crate) server_name: Option<String>,

    /// File whose first line is the token that shows the server who we are. It is sent over tls and dtls only
    #[arg(long, value_name = "FILE", help_heading = "Security")]
    pub(crate) token_file: Option<PathBuf>,

    /// Library that does DTLS
    #[arg(long, value_name = "NAME", value_parser = ["openssl", "dimpl", "webrtc"], help_heading = "Security")]
    pub(crate) dtls_backend: Option<String>,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.05..=600.0).contains(&seconds) => Ok(seconds),
        _ => Err("a number of seconds from 0.05 to 600 is needed".to_owned()),
    }
}

fn name_server(text: &str) -> Result<SocketAddr, String> {
    let address = text
        .parse()
        .or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53)));
    address.map_err(|_| "an IP address, perhaps with a port, is needed".to_owned())
}

fn mtu(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(mtu) if mtu == 0 || (576..=9000).contains(&mtu) => Ok(mtu),
        _ => Err("0, or a number of bytes from 576 to 9000 is needed".to_owned()),
    }
}

const TEACHING: &str = "\
Examples:
  Can I have a tunnel, by whatever port the domain's SRV records name?
      tsc-ping tls://example.com
  Is it the firewall? Compare what the server offers:
      tsc-ping tls://sbc.example.com:443 dtls://sbc.example.com:4567
  A server of one's own, with its authority and a token:
      tsc-ping --ca ca.pem --token-file token tls://192.0.2.1:4567 --server-name sbc.example.com
  How steady is the path? A hundred keepalives, nothing else:
      tsc-ping -c 100 --mtu 0 --only udp://sbc.example.com:4567
  Does another name server know better?
      tsc-ping --dns 192.0.2.53 tls://example.com
  For a monitoring system:
      tsc-ping --json --only tls://sbc.example.com | jq '.targets[0].steps[] | {step, ok, seconds}'

Steps:
  resolve     host to addresses, all of them
  tcp         connects to each address (tcp, tls)
  proxy       connects to the proxy, shows it who we are, asks it to connect to the server (with --proxy)
  tls, dtls   handshake: version, cipher suite, ALPN, the certificate and whether it is accepted
  configure   asks for a tunnel: cookie round trip (udp), addresses, times, the address the server sees (NAT)
  keepalive   round trips through the server: least, average, most, loss
  mtu         longest packet that gets through to the server (udp, dtls), by padded keepalives that may not be
              fragmented; on streams TCP sees to that
  release     gives the tunnel back

Exit codes:
  0  a tunnel is possible by all URLs given
  1  by none
  2  wrong use, or a file that cannot be read
  3  by some
  130  interrupted; the tunnel was given back (a second signal ends the program at once)

JSON: one object. Fields that do not apply are absent.
  targets      [{url, possible, steps, also, diagnosis}]; also has the steps of the transport that was tried besides
  steps        [{step, subject, ok, seconds, text, problem, ...}]: ok is true, false, or null if skipped; problem is
               {kind, text}, kind a word that stays, such as \"refused\", \"timeout\", \"certificate-name\",
               \"http\", \"not-authorized\"; further fields are the findings, such as certificate, addresses,
               nat, mtu, average
  diagnosis    [{level, text}]: level is \"good\", \"warning\" or \"bad\"
  exit_code    as above
";

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn numbers_have_bounds() {
        for bad in ["0", "-1", "601", "NaN", "x"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
        assert_eq!(seconds("0.5"), Ok(0.5));
        for bad in ["1", "575", "9001", "x"] {
            assert!(mtu(bad).is_err(), "{bad}");
        }
        assert_eq!(mtu("0"), Ok(0));
        assert_eq!(
            name_server("::1"),
            Ok(([0, 0, 0, 0, 0, 0, 0, 1], 53).into())
        );
        assert_eq!(
            name_server("192.0.2.1:5353"),
            Ok(([192, 0, 2, 1], 5353).into())
        );
        assert!(name_server("ns.example").is_err());
    }
}
