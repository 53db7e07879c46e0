//! What happens to a tunnel, as its listener is told.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "enums of other crates that may grow"
)]

use std::sync::Arc;

use tsc_tapi::{Coded as _, DownReason, Notification, SuspendReason};

use crate::{
    address::{Address, Transport, TunnelConfiguration},
    error::ListenerError,
    service::{MediaQuality, Service},
};

/// Told what happens to a tunnel, one event after the other, by a thread of the tunnel's own: it may block, which delays this tunnel's
/// events only, and may call everything, also `release`.
#[uniffi::export(foreign)]
pub trait TunnelListener: Send + Sync {
    /// Something happened. After `Down` nothing comes any more.
    fn on_event(&self, event: TunnelEvent) -> Result<(), ListenerError>;
}

/// Something that happened to a tunnel. More may be added.
#[derive(Clone, Debug, PartialEq, uniffi::Enum)]
pub enum TunnelEvent {
    /// A way to a server is being tried, first or again.
    Connecting {
        /// As a URL.
        server: String,
    },
    /// That way did not work. Others may follow.
    AttemptFailed {
        /// As a URL.
        server: String,
        /// For people.
        reason: String,
    },
    /// The tunnel is up for the first time.
    Up {
        /// What was assigned.
        configuration: TunnelConfiguration,
    },
    /// The transport was lost. Sockets stay, and what is sent meanwhile waits within the bounds of their queues.
    Suspended {
        /// For people.
        reason: String,
    },
    /// The tunnel has a transport again. Inner addresses are unchanged.
    Resumed {
        /// What holds now.
        configuration: TunnelConfiguration,
    },
    /// What is in force of a service that a socket wants.
    ServiceChanged {
        /// Which one.
        service: Service,
        /// Whether the server offers it.
        available: bool,
        /// Whether it is in force for the socket.
        enabled: bool,
        /// The socket, by the address that it is bound to.
        socket: Address,
        /// The address that it sends from: another one when it has moved to an encrypted tunnel, or back.
        address: Address,
    },
    /// Packets between these two travel without the server.
    PeerTunnelUp {
        /// This end's inner address.
        own: String,
        /// The other's.
        peer: String,
        /// Over what.
        transport: Transport,
        /// Where the other was found.
        outer: Address,
    },
    /// Packets between these two go over the server again.
    PeerTunnelDown {
        /// This end's inner address.
        own: String,
        /// The other's.
        peer: String,
        /// For people.
        reason: String,
    },
    /// An alarm about the media that comes to a socket was raised, or has ended.
    QualityChanged {
        /// The socket, by its inner address.
        socket: Address,
        /// How the media is, with the alarms that are raised now.
        quality: MediaQuality,
    },
    /// The tunnel is over, or was never up.
    Down {
        /// Why.
        end: TunnelEnd,
    },
    /// The listener was too slow, and so many events are lost to it.
    Missed {
        /// How many.
        count: u64,
    },
}

/// Why a tunnel is over.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct TunnelEnd {
    /// What it was.
    pub cause: EndCause,
    /// The same as an error code of the vendor's SDK guide, 0 to 12.
    pub code: u8,
    /// For people.
    pub text: String,
}

/// What ends a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum EndCause {
    /// The application released it.
    Released,
    /// The server released it.
    ReleasedByServer,
    /// It never came up.
    CannotConnect,
    /// It was lost, and could not be resumed.
    Lost,
    /// Anything else.
    Other,
}

impl From<&DownReason> for TunnelEnd {
    fn from(reason: &DownReason) -> Self {
        let cause = match reason {
            DownReason::Released { .. } => EndCause::Released,
            DownReason::ReleasedByServer { .. } => EndCause::ReleasedByServer,
            DownReason::CannotConnect(_) => EndCause::CannotConnect,
            DownReason::Lost { .. } | DownReason::ResumeRejected { .. } => EndCause::Lost,
            _ => EndCause::Other,
        };
        Self {
            cause,
            code: reason.code().value(),
            text: reason.to_string(),
        }
    }
}

impl TunnelEvent {
    /// `None` for what this definition does not know.
    pub(crate) fn of(notification: Notification) -> Option<Self> {
        Some(match notification {
            Notification::Connecting(server) => Self::Connecting {
                server: server.to_string(),
            },
            Notification::AttemptFailed { server, reason } => Self::AttemptFailed {
                server: server.to_string(),
                reason,
            },
            Notification::Up(config) => Self::Up {
                configuration: (&*config).into(),
            },
            Notification::Suspended(reason) => Self::Suspended {
                reason: why(reason).to_owned(),
            },
            Notification::Resumed(config) => Self::Resumed {
                configuration: (&*config).into(),
            },
            Notification::Service {
                service,
                available,
                enabled,
                socket,
                address,
            } => Self::ServiceChanged {
                service: Service::of(service)?,
                available,
                enabled,
                socket: socket.into(),
                address: address.into(),
            },
            Notification::PeerTunnel { own, peer, outer } => match outer {
                Ok(candidate) => Self::PeerTunnelUp {
                    own: own.to_string(),
                    peer: peer.to_string(),
                    transport: candidate.transport.into(),
                    outer: candidate.address.into(),
                },
                Err(end) => Self::PeerTunnelDown {
                    own: own.to_string(),
                    peer: peer.to_string(),
                    reason: end.to_string(),
                },
            },
            Notification::MediaQuality { socket, quality } => Self::QualityChanged {
                socket: socket.into(),
                quality: quality.into(),
            },
            Notification::Down(reason) => Self::Down {
                end: (&reason).into(),
            },
            Notification::Missed(count) => Self::Missed { count },
            _ => return None,
        })
    }
}

/// For people.
const fn why(reason: SuspendReason) -> &'static str {
    match reason {
        SuspendReason::Lost(_) => "the connection was lost",
        SuspendReason::KeepaliveFailure => "the server does not answer",
        SuspendReason::UnknownTunnel => "the server does not know this address any more",
        _ => "the server broke the protocol's rules",
    }
}

/// Tells it, whatever it throws.
pub(crate) fn tell(listener: &Arc<dyn TunnelListener>, event: TunnelEvent) {
    if let Err(error) = listener.on_event(event) {
        tracing::warn!(%error, "of a tunnel");
    }
}
