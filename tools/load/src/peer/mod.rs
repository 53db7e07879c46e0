//! Other programs that a user might pick instead, started and spoken to by this one, so that they are measured by the same
//! generator, on the same processor and in the same run as the server.
//!
//! | peer | what is measured |
//! | --- | --- |
//! | `coturn-*` | TURN over UDP, TCP, TLS or DTLS; each session has an allocation and a channel to a UDP echo |
//! | `stunnel` | TLS to TCP, packets with two bytes of length; a TCP echo behind it |
//! | `openvpn`, `wireguard-go`, `boringtun` | one tunnel that carries all flows, between two network namespaces; the client's end shares the generator's processor |
//!
//! All of them keep to one thread, as far as they can.

mod network;
mod process;
mod stunnel;
mod turn;
mod turnserver;
mod vpn;

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use tsc_csm::Transport;

pub use network::Namespaces;
pub use turn::{Account, TurnClient};
pub use vpn::Vpn;

use crate::engine::Engine;
use crate::host::Host;
use crate::subject::certificates;
use crate::system::{Children, CpuClock, Wire};
use crate::traffic::Traffic;

/// Which program, and over what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerKind {
    /// coturn.
    Coturn(Transport),
    /// stunnel.
    Stunnel,
    /// A VPN.
    Vpn(Vpn),
}

impl PeerKind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Coturn(Transport::Udp),
        Self::Coturn(Transport::Tcp),
        Self::Coturn(Transport::Tls),
        Self::Coturn(Transport::Dtls),
        Self::Stunnel,
        Self::Vpn(Vpn::OpenVpn),
        Self::Vpn(Vpn::WireguardGo),
        Self::Vpn(Vpn::Boringtun),
    ];

    /// The name on the command line and in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Coturn(Transport::Udp) => "coturn-udp",
            Self::Coturn(Transport::Tcp) => "coturn-tcp",
            Self::Coturn(Transport::Tls) => "coturn-tls",
            Self::Coturn(Transport::Dtls) => "coturn-dtls",
            Self::Stunnel => "stunnel",
            Self::Vpn(vpn) => vpn.name(),
        }
    }

    /// What packets travel over.
    #[must_use]
    pub const fn transport(self) -> Transport {
        match self {
            Self::Coturn(transport) => transport,
            Self::Stunnel => Transport::Tls,
            Self::Vpn(_) => Transport::Udp,
        }
    }

    /// Sessions, where `wanted` are asked for: a VPN has one.
    #[must_use]
    pub const fn sessions(self, wanted: u32) -> u32 {
        match self {
            Self::Coturn(_) | Self::Stunnel => wanted,
            Self::Vpn(_) => 1,
        }
    }
}

impl fmt::Display for PeerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for PeerKind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|kind| kind.name() == name);
        known.ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|kind| kind.name()).collect();
            format!("unknown peer {name:?}: expected {}", names.join(", "))
        })
    }
}

/// A running peer with clients that have not begun. Dropping it ends all of it.
#[derive(Debug)]
pub struct Peer {
    /// The server's process.
    pub pid: u32,
    /// Its processor time.
    pub clock: CpuClock,
    /// Counts what its packets are on the wire.
    pub wire: Wire,
    // In this order: namespaces can go once nobody is in them.
    _children: Children,
    _directory: tempfile::TempDir,
    _namespaces: Option<Namespaces>,
}

impl Peer {
    /// Starts a peer; its clients, and where their packets are sent back.
    ///
    /// # Errors
    ///
    /// It is not installed or does not start; the end of its log is in the message.
    pub fn start(
        kind: PeerKind,
        host: &Host,
        sessions: u32,
        size: u16,
    ) -> anyhow::Result<(Self, Engine, SocketAddr)> {
        let directory = tempfile::tempdir()?;
        let traffic = Traffic::new(size);
        match kind {
            PeerKind::Coturn(transport) => {
                let authority = certificates(directory.path())?;
                turnserver::start(transport, host, sessions, traffic, directory, &authority)
            }
            PeerKind::Stunnel => {
                let authority = certificates(directory.path())?;
                stunnel::start(host, sessions, traffic, directory, &authority)
            }
            PeerKind::Vpn(vpn) => vpn::start(vpn, host, traffic, directory),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known() {
        for kind in PeerKind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
        }
        assert!("vpn".parse::<PeerKind>().is_err());
    }
}
