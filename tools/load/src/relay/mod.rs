//! The limits to compare with: relays that do nothing but pass packets on, as fast as the system allows with one thread.
//!
//! Each takes payloads from clients, passes them to a UDP echo, and takes the echoes back to the client that the packet's
//! flow number names. There is no protocol, no check, no encryption: what a tunnel server does at the least.

mod mmsg;
mod tcp;
mod trains;

use std::fmt;
use std::io::{self, Write};
use std::net::SocketAddrV4;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use nix::sys::signal::Signal;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tsc_csm::Transport;

/// Which relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayKind {
    /// UDP, up to 64 packets a call (recvmmsg, sendmmsg), one socket each side. The unit of all ratios.
    Udp,
    /// The same with trains of packets (UDP_GRO, UDP_SEGMENT).
    Gso,
    /// TCP with two bytes of length before each packet, to UDP.
    Tcp,
    /// The same under TLS.
    Tls,
}

impl RelayKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Udp, Self::Gso, Self::Tcp, Self::Tls];

    /// The name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Gso => "gso",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }

    /// What its clients' packets travel over.
    #[must_use]
    pub const fn transport(self) -> Transport {
        match self {
            Self::Udp | Self::Gso => Transport::Udp,
            Self::Tcp => Transport::Tcp,
            Self::Tls => Transport::Tls,
        }
    }
}

impl fmt::Display for RelayKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for RelayKind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|kind| kind.name() == name);
        known.ok_or_else(|| format!("unknown relay {name:?}: expected udp, gso, tcp or tls"))
    }
}

/// Relays between clients and the echo at `to` until it is killed. Writes its address and a line feed to `announce` once
/// it can be reached, and ends with the process that started it. Under TLS it shows `server.pem` of the directory `identity`.
///
/// # Errors
///
/// What the system says.
pub fn serve(
    kind: RelayKind,
    to: SocketAddrV4,
    identity: Option<&Path>,
    announce: &mut dyn Write,
) -> io::Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    let mut told = |address: std::net::SocketAddr| {
        writeln!(announce, "{address}")?;
        announce.flush()
    };
    match kind {
        RelayKind::Udp => mmsg::serve(to, &mut told),
        RelayKind::Gso => trains::serve(to, &mut told),
        RelayKind::Tcp => tcp::serve(to, None, &mut told),
        RelayKind::Tls => {
            let identity = identity.ok_or(io::ErrorKind::InvalidInput)?;
            tcp::serve(to, Some(tls(identity)?), &mut told)
        }
    }
}

/// TLS as servers commonly have it.
fn tls(identity: &Path) -> io::Result<Arc<rustls::ServerConfig>> {
    let other = |error: rustls::Error| io::Error::other(error);
    let certificate = CertificateDer::from_pem_file(identity.join("server.pem"));
    let key = PrivateKeyDer::from_pem_file(identity.join("server.key"));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(other)?
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.map_err(io::Error::other)?],
            key.map_err(io::Error::other)?,
        );
    Ok(Arc::new(config.map_err(other)?))
}

/// Tells where the relay is.
type Announce<'a> = &'a mut dyn FnMut(std::net::SocketAddr) -> io::Result<()>;
