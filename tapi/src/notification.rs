//! What a tunnel tells its application.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use tokio::sync::broadcast;
use tsc_csm::{
    Candidate, PathEnd,
    client::{DownReason, SuspendReason},
};
use tsc_eip::media::MediaQuality;

use crate::{TunnelConfig, server::Server, services::Service};

/// Notifications kept for a slow reader; older ones are replaced by [`Notification::Missed`].
pub const NOTIFICATION_BACKLOG: usize = 64;

/// An event in the life of a tunnel, in the order in which they happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Notification {
    /// A transport to this server is being opened, first or again.
    Connecting(Server),
    /// An attempt failed; the text is for people. Others may follow. Of attempts at tunnels beside the main one only those are told that
    /// failed for what does not pass by itself: certificates, and what this host lacks.
    AttemptFailed {
        /// Which server.
        server: Server,
        /// What went wrong.
        reason: String,
    },
    /// The tunnel is up for the first time.
    Up(Arc<TunnelConfig>),
    /// The transport was lost. Sockets stay; what is sent meanwhile waits within the bounds of their queues.
    Suspended(SuspendReason),
    /// The tunnel has a transport again. Inner addresses are unchanged.
    Resumed(Arc<TunnelConfig>),
    /// What is in force of a service that a socket wants. Until it is, and when it is not any more, the socket's packets travel as if
    /// it did not want it.
    Service {
        /// Which one.
        service: Service,
        /// Whether the server offers it here.
        available: bool,
        /// Whether it is in force for the socket.
        enabled: bool,
        /// The socket, by the inner address that it is bound to.
        socket: SocketAddr,
        /// The inner address that it sends from: another one when it has moved to an encrypted tunnel, or back.
        address: SocketAddr,
    },
    /// A peer tunnel is up, or over: packets of sockets that want it, and UDP packets for whoever has asked for it, go directly, or
    /// over the server again ([`UdpSocket::set_peer`](crate::UdpSocket::set_peer)).
    PeerTunnel {
        /// This end's inner address.
        own: IpAddr,
        /// The other's inner address.
        peer: IpAddr,
        /// Where it was found and over what, or why the tunnel is over.
        outer: Result<Candidate, PathEnd>,
    },
    /// An alarm about the media that comes to a socket was raised, or has ended:
    /// [`UdpSocket::watch_media`](crate::UdpSocket::watch_media).
    MediaQuality {
        /// The socket, by its inner address.
        socket: SocketAddr,
        /// How the media is, and which alarms are raised now.
        quality: MediaQuality,
    },
    /// The tunnel is over; the last notification.
    Down(DownReason),
    /// This reader was too slow, and so many notifications are lost to it.
    Missed(u64),
}

/// A reader of notifications, from [`Tunnel::notifications`](crate::Tunnel::notifications). Each reader sees all that
/// happens after it was made.
#[derive(Debug)]
pub struct Notifications {
    receiver: broadcast::Receiver<Notification>,
}

impl Notifications {
    pub(crate) const fn new(receiver: broadcast::Receiver<Notification>) -> Self {
        Self { receiver }
    }

    /// The next notification; `None` after [`Notification::Down`]. Cancel-safe.
    pub async fn recv(&mut self) -> Option<Notification> {
        match self.receiver.recv().await {
            Ok(notification) => Some(notification),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(Notification::Missed(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }

    /// The next notification if there is one.
    pub fn try_recv(&mut self) -> Option<Notification> {
        match self.receiver.try_recv() {
            Ok(notification) => Some(notification),
            Err(broadcast::error::TryRecvError::Lagged(missed)) => {
                Some(Notification::Missed(missed))
            }
            Err(broadcast::error::TryRecvError::Closed | broadcast::error::TryRecvError::Empty) => {
                None
            }
        }
    }
}
