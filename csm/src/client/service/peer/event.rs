//! What the owner of a client does for peer tunnels, and is told of them.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;

use crate::peer::{Candidate, PathEnd};

/// Names a path for a peer tunnel: a UDP socket, and the streams beside it. Never reused within a client's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathId(pub(super) u32);

/// Something to do or to know about peer tunnels.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerEvent {
    /// Open a UDP socket of its own, and a TCP port if somebody is to come, each where the system chooses, and report
    /// [`peer_opened`](super::super::super::Client::peer_opened).
    Open {
        /// Its name from now on.
        path: PathId,
        /// Who is to come, if this client was asked.
        guest: Option<PeerGuest>,
    },
    /// Nobody is to come to the TCP port any more, or at all.
    StopListening {
        /// The path.
        path: PathId,
    },
    /// Begin a handshake of DTLS from the socket, or a connection over TCP or TLS, and show our own certificate under protection. The
    /// other end's is compared here, too.
    Connect {
        /// The path.
        path: PathId,
        /// Where to.
        to: Candidate,
        /// SHA-256 of the certificate that the other end must show under protection.
        fingerprint: [u8; 32],
    },
    /// Send what [`poll_peer_transmit`](super::super::super::Client::poll_peer_transmit) still holds, then close the association or
    /// the stream, or stop making it.
    Disconnect {
        /// The path.
        path: PathId,
        /// With whom.
        from: Candidate,
    },
    /// Send what is still to be sent, then close all associations, streams and sockets.
    Close {
        /// The path.
        path: PathId,
    },
    /// Two inner addresses reach each other without the server.
    Up {
        /// Of this client.
        own: IpAddr,
        /// Of the other.
        peer: IpAddr,
        /// The path.
        path: PathId,
        /// Where the other is.
        outer: Candidate,
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

/// Whom a path is opened for: handshakes of DTLS at its UDP socket, and connections to its TCP port.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerGuest {
    /// SHA-256 of the certificate to be shown, over DTLS and TLS; `None`: TCP in clear, and no handshakes.
    pub fingerprint: Option<[u8; 32]>,
    /// From where; connections of other hosts are closed at once. At most [`MAX_CANDIDATES`](crate::MAX_CANDIDATES).
    pub hosts: Vec<IpAddr>,
}

/// Bytes for a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerTransmit {
    /// The path.
    pub path: PathId,
    /// Over UDP one datagram as it is; else over the association or the stream.
    pub to: Candidate,
    /// One datagram, or one unit.
    pub bytes: Bytes,
}

/// Where an inner packet goes that does not go over the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Direct {
    /// The path.
    pub path: PathId,
    /// Over UDP one datagram as it is; else over the association or the stream.
    pub to: Candidate,
}

/// A peer tunnel that is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerStatus {
    /// Inner address of this client.
    pub own: IpAddr,
    /// Inner address of the other.
    pub peer: IpAddr,
    /// Where the other is; `None` while the path is in doubt and packets go over the server.
    pub outer: Option<Candidate>,
    /// The other has asked for it.
    pub is_invited: bool,
    /// Smoothed over the Keepalives that were answered.
    pub round_trip: Option<Duration>,
}
