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
use std::str::FromStr;

use nix::sys::signal::Signal;

/// Which relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayKind {
    /// UDP, up to 64 packets a call (recvmmsg, sendmmsg), one socket each side. The unit of all ratios.
    Udp,
    /// The same with trains of packets (UDP_GRO, UDP_SEGMENT).
    Gso,
    /// TCP with two bytes of length before each packet, to UDP.
    Tcp,
}

impl RelayKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Udp, Self::Gso, Self::Tcp];

    /// The name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Gso => "gso",
            Self::Tcp => "tcp",
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
        known.ok_or_else(|| format!("unknown relay {name:?}: expected udp, gso or tcp"))
    }
}

/// Relays between clients and the echo at `to` until it is killed. Writes its address and a line feed to `announce` once
/// it can be reached, and ends with the process that started it.
///
/// # Errors
///
/// What the system says.
pub fn serve(kind: RelayKind, to: SocketAddrV4, announce: &mut dyn Write) -> io::Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    let mut told = |address: std::net::SocketAddr| {
        writeln!(announce, "{address}")?;
        announce.flush()
    };
    match kind {
        RelayKind::Udp => mmsg::serve(to, &mut told),
        RelayKind::Gso => trains::serve(to, &mut told),
        RelayKind::Tcp => tcp::serve(to, &mut told),
    }
}

/// Tells where the relay is.
type Announce<'a> = &'a mut dyn FnMut(std::net::SocketAddr) -> io::Result<()>;
