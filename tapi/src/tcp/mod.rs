//! TCP inside a tunnel, shaped like tokio's.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "enums of other crates that may grow"
)]

mod connection;
mod listener;
mod socket;
mod split;
mod split_owned;
mod stream;

use std::net::SocketAddr;

use tsc_eip::{BindError, TcpConnectError, TcpError};

pub(crate) use self::connection::Stream;
pub use self::{
    listener::TcpListener,
    socket::{DEFAULT_BACKLOG, TcpSocket},
    split::{ReadHalf, WriteHalf},
    split_owned::{OwnedReadHalf, OwnedWriteHalf, ReuniteError},
    stream::TcpStream,
};
use crate::error::SocketError;

fn error(error: TcpError) -> SocketError {
    match error {
        TcpError::Reset => SocketError::Reset,
        TcpError::Refused => SocketError::Refused,
        TcpError::TimedOut => SocketError::TimedOut,
        TcpError::Unreachable => SocketError::Unreachable,
        TcpError::Prohibited => SocketError::Prohibited,
        TcpError::ShutDown => SocketError::BrokenPipe,
        _ => SocketError::NotConnected,
    }
}

fn connect_error(error: TcpConnectError, local: SocketAddr, peer: SocketAddr) -> SocketError {
    match error {
        TcpConnectError::InvalidPeer(peer) => SocketError::BadDestination(peer),
        TcpConnectError::FamilyMismatch(peer) => SocketError::Family(peer),
        TcpConnectError::NoSourceAddress(_) => SocketError::BadDestination(peer),
        TcpConnectError::AddressNotAvailable(_) => SocketError::AddressNotAvailable(local),
        TcpConnectError::AddressInUse(taken) => SocketError::AddressInUse(taken),
        _ => SocketError::Exhausted,
    }
}

fn bind_error(error: BindError, local: SocketAddr) -> SocketError {
    match error {
        BindError::AddressInUse(_) => SocketError::AddressInUse(local),
        BindError::AddressNotAvailable(_) => SocketError::AddressNotAvailable(local),
        _ => SocketError::Exhausted,
    }
}
