//! What the owner of a client does for peer tunnels, and is told of them.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;

use crate::peer::PathEnd;

/// Names a UDP socket for a peer tunnel. Never reused within a client's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathId(pub(super) u32);

/// Something to do or to know about peer tunnels.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerEvent {
    /// Open a UDP socket of its own, on a port that the system chooses, and report
    /// [`peer_opened`](super::super::super::Client::peer_opened).
    Open {
        /// Its name from now on.
        path: PathId,
    },
    /// Take handshakes of DTLS on the socket, from whoever shows this certificate. It is compared here, too.
    Listen {
        /// The socket.
        path: PathId,
        /// SHA-256 of the right certificate.
        fingerprint: [u8; 32],
    },
    /// Begin a handshake of DTLS with this address, from the socket, and show our own certificate. The other end's is compared here,
    /// too.
    Connect {
        /// The socket.
        path: PathId,
        /// Where to.
        address: SocketAddr,
        /// SHA-256 of the certificate that the other end must show.
        fingerprint: [u8; 32],
    },
    /// Send what [`poll_peer_transmit`](super::super::super::Client::poll_peer_transmit) still holds, then close the association with
    /// this address, or stop making it.
    Disconnect {
        /// The socket.
        path: PathId,
        /// With whom.
        address: SocketAddr,
    },
    /// Send what is still to be sent, then close all associations and the socket.
    Close {
        /// The socket.
        path: PathId,
    },
    /// Two inner addresses reach each other without the server.
    Up {
        /// Of this client.
        own: IpAddr,
        /// Of the other.
        peer: IpAddr,
        /// The socket.
        path: PathId,
        /// Where the other is.
        address: SocketAddr,
    },
    /// They do not any more.
    Down {
        /// Of this client.
        own: IpAddr,
        /// Of the other.
        peer: IpAddr,
        /// Why.
        why: PathEnd,
    },
}

/// Bytes for a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerTransmit {
    /// The socket.
    pub path: PathId,
    /// Where to.
    pub to: SocketAddr,
    /// One datagram, or one unit.
    pub bytes: Bytes,
    /// Over the association with that address; else as it is.
    pub sealed: bool,
}

/// Where an inner packet goes that does not go over the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Direct {
    /// The socket.
    pub path: PathId,
    /// Where to.
    pub to: SocketAddr,
    /// Over the association with that address; else as it is.
    pub sealed: bool,
}

/// A peer tunnel that is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerStatus {
    /// Inner address of this client.
    pub own: IpAddr,
    /// Inner address of the other.
    pub peer: IpAddr,
    /// Outer address of the other; `None` while the path is in doubt and packets go over the server.
    pub address: Option<SocketAddr>,
    /// The other has asked for it.
    pub is_invited: bool,
    /// Smoothed over the Keepalives that were answered.
    pub round_trip: Option<Duration>,
}
