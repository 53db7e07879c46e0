//! Why something cannot be had, as other languages catch it.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "enums of other crates that may grow"
)]

use std::io;

use tsc_tapi::{CaptureError, ConnectError, DownReason, LookupError, SocketError, TraceError};

/// Why a call failed. The text is for people, and says what the name does not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, uniffi::Error)]
#[uniffi(flat_error)]
pub enum TscError {
    /// Something in the settings, or an argument, cannot be used.
    #[error("{0}")]
    InvalidArgument(String),
    /// The server's certificate, or that of its proxy, was refused. Trying again is pointless.
    #[error("{0}")]
    Certificate(String),
    /// Who this is was refused: the client's certificate, its token, or what a proxy wants to know. Or the credentials cannot be used.
    #[error("{0}")]
    Credentials(String),
    /// No server can be reached.
    #[error("{0}")]
    CannotConnect(String),
    /// The server answered and gives no tunnel.
    #[error("{0}")]
    Refused(String),
    /// The tunnel is still being opened.
    #[error("the tunnel is not up yet")]
    NotUp,
    /// The tunnel is over, and so are its sockets.
    #[error("{0}")]
    TunnelDown(String),
    /// This object, or what it belongs to, was released by the application.
    #[error("it was released")]
    Released,
    /// The port is taken by another socket of the tunnel.
    #[error("{0}")]
    AddressInUse(String),
    /// The address is none of the tunnel's.
    #[error("{0}")]
    AddressNotAvailable(String),
    /// The socket has no peer, and no destination was given.
    #[error("the socket has no peer")]
    NotConnected,
    /// Nobody listens at the peer's port.
    #[error("the peer refused: nobody listens at its port")]
    ConnectionRefused,
    /// The connection was reset by the peer, or takes no more data.
    #[error("{0}")]
    ConnectionReset(String),
    /// The peer cannot be reached, or must not be.
    #[error("{0}")]
    Unreachable(String),
    /// It took longer than it may.
    #[error("{0}")]
    TimedOut(String),
    /// The datagram is too long.
    #[error("{0}")]
    MessageTooLong(String),
    /// The socket is to be encrypted only, and there is no encrypted tunnel, or not any more.
    #[error("there is no encrypted tunnel")]
    NotEncrypted,
    /// A bound was reached: of tunnels, sockets, ports or threads.
    #[error("{0}")]
    Exhausted(String),
    /// The name has no address that this tunnel can reach.
    #[error("{0}")]
    NotFound(String),
    /// This build of the library cannot do it.
    #[error("{0}")]
    Unsupported(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// A short name for what all calls return.
pub(crate) type Result<T> = std::result::Result<T, TscError>;

impl TscError {
    pub(crate) fn invalid(what: impl ToString) -> Self {
        Self::InvalidArgument(what.to_string())
    }

    pub(crate) fn late(what: &str) -> Self {
        Self::TimedOut(what.to_owned())
    }
}

impl From<ConnectError> for TscError {
    fn from(error: ConnectError) -> Self {
        let text = error.to_string();
        match &error {
            ConnectError::Parameters(_)
            | ConnectError::ServerName(_)
            | ConnectError::Capture(_) => Self::InvalidArgument(text),
            ConnectError::Credentials(_) => Self::Credentials(text),
            _ if error.is_certificate() => Self::Certificate(text),
            _ if error.is_client_certificate() || error.is_proxy_authentication() => {
                Self::Credentials(text)
            }
            ConnectError::Transport { .. } | ConnectError::NotConfigured(_) => {
                Self::CannotConnect(text)
            }
            ConnectError::Refused(_) => Self::Refused(text),
            ConnectError::Ended(reason) => reason.clone().into(),
            ConnectError::RuntimeGone => Self::Released,
            _ => Self::Other(text),
        }
    }
}

impl From<DownReason> for TscError {
    fn from(reason: DownReason) -> Self {
        match reason {
            DownReason::Released { .. } => Self::Released,
            other => Self::TunnelDown(SocketError::TunnelDown(other).to_string()),
        }
    }
}

impl From<SocketError> for TscError {
    fn from(error: SocketError) -> Self {
        let text = error.to_string();
        match error {
            SocketError::TunnelDown(reason) => reason.into(),
            SocketError::AddressNotAvailable(_) => Self::AddressNotAvailable(text),
            SocketError::AddressInUse(_) => Self::AddressInUse(text),
            SocketError::Exhausted | SocketError::TooManyServices => Self::Exhausted(text),
            SocketError::NotConnected => Self::NotConnected,
            SocketError::Family(_) | SocketError::BadDestination(_) | SocketError::NotBound => {
                Self::InvalidArgument(text)
            }
            SocketError::MessageTooLong { .. } => Self::MessageTooLong(text),
            SocketError::Refused => Self::ConnectionRefused,
            SocketError::Unreachable | SocketError::Prohibited => Self::Unreachable(text),
            SocketError::Reset | SocketError::BrokenPipe => Self::ConnectionReset(text),
            SocketError::TimedOut => Self::TimedOut(text),
            SocketError::NotEncrypted => Self::NotEncrypted,
            _ => Self::Other(text),
        }
    }
}

impl From<io::Error> for TscError {
    fn from(error: io::Error) -> Self {
        if let Some(error) = SocketError::of(&error) {
            return error.clone().into();
        }
        match error.kind() {
            io::ErrorKind::InvalidInput => Self::invalid(error),
            io::ErrorKind::Unsupported => {
                Self::Unsupported("this build of the library cannot do it".to_owned())
            }
            _ => Self::Other(error.to_string()),
        }
    }
}

impl From<TraceError> for TscError {
    fn from(error: TraceError) -> Self {
        match error {
            TraceError::Capture(
                error @ (CaptureError::Create { .. } | CaptureError::SecretsInRedacted),
            ) => Self::InvalidArgument(error.to_string()),
            TraceError::TunnelDown(reason) => reason.into(),
            TraceError::RuntimeGone => Self::Released,
            _ => Self::Other(error.to_string()),
        }
    }
}

impl From<LookupError> for TscError {
    fn from(error: LookupError) -> Self {
        let text = error.to_string();
        match error {
            LookupError::Name(_) => Self::InvalidArgument(text),
            LookupError::NoServers | LookupError::NotFound(_) => Self::NotFound(text),
            LookupError::TimedOut => Self::TimedOut(text),
            LookupError::Socket(error) => error.into(),
            _ => Self::Other(text),
        }
    }
}

/// What a listener may throw. Nothing of the tunnel changes by that; it is logged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, uniffi::Error)]
pub enum ListenerError {
    /// It failed.
    #[error("a listener failed: {reason}")]
    Failed {
        /// Why.
        reason: String,
    },
}

impl From<uniffi::UnexpectedUniFFICallbackError> for ListenerError {
    fn from(error: uniffi::UnexpectedUniFFICallbackError) -> Self {
        Self::Failed {
            reason: error.reason,
        }
    }
}
