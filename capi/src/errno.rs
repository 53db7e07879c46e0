//! The caller's `errno`, and what our errors are called there.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "enums of other crates that may grow"
)]

use std::{ffi::c_int, io};

use tsc_tapi::{ErrorCode, SocketError};

/// A number of `errno.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Errno(pub(crate) c_int);

pub(crate) type Result<T> = std::result::Result<T, Errno>;

impl Errno {
    pub(crate) const AGAIN: Self = Self(libc::EAGAIN);
    pub(crate) const BAD: Self = Self(libc::EBADF);
    pub(crate) const FAULT: Self = Self(libc::EFAULT);
    pub(crate) const INVALID: Self = Self(libc::EINVAL);
    pub(crate) const NET_DOWN: Self = Self(libc::ENETDOWN);
    pub(crate) const NOT_CONNECTED: Self = Self(libc::ENOTCONN);
    pub(crate) const NO_OPTION: Self = Self(libc::ENOPROTOOPT);
    pub(crate) const UNSUPPORTED: Self = Self(libc::EOPNOTSUPP);

    /// Shows it to the calling thread.
    pub(crate) fn set(self) {
        errno::set_errno(errno::Errno(self.0));
    }

    /// What a tunnel that failed with this code is in terms of `errno`.
    pub(crate) const fn of_tunnel(code: ErrorCode) -> Self {
        Self(match code {
            ErrorCode::CannotConnect => libc::ECONNREFUSED,
            ErrorCode::Authenticate => libc::EACCES,
            ErrorCode::KeepaliveFailure => libc::ETIMEDOUT,
            ErrorCode::Ok | ErrorCode::Error => libc::EINVAL,
            ErrorCode::NotLogged => libc::ENETDOWN,
            ErrorCode::CannotConfigure
            | ErrorCode::ServiceFailure
            | ErrorCode::CannotRecvData
            | ErrorCode::NoData
            | ErrorCode::CannotSendData
            | ErrorCode::CannotRelease
            | ErrorCode::QueueOverflow => libc::EPROTO,
        })
    }
}

impl From<SocketError> for Errno {
    fn from(error: SocketError) -> Self {
        Self(match error {
            SocketError::TunnelDown(_) => libc::ENETDOWN,
            SocketError::AddressNotAvailable(_) => libc::EADDRNOTAVAIL,
            SocketError::AddressInUse(_) => libc::EADDRINUSE,
            SocketError::Exhausted => libc::ENOBUFS,
            SocketError::NotConnected | SocketError::PrefixesEnded => libc::ENOTCONN,
            SocketError::Family(_) => libc::EAFNOSUPPORT,
            SocketError::BadDestination(_) | SocketError::NotEncrypted => libc::ENETUNREACH,
            SocketError::MessageTooLong { .. } => libc::EMSGSIZE,
            SocketError::Refused => libc::ECONNREFUSED,
            SocketError::Unreachable => libc::EHOSTUNREACH,
            SocketError::Prohibited => libc::EACCES,
            SocketError::Reset => libc::ECONNRESET,
            SocketError::TimedOut => libc::ETIMEDOUT,
            SocketError::BrokenPipe => libc::EPIPE,
            SocketError::NotBound => libc::EDESTADDRREQ,
            SocketError::TooManyServices => libc::EDQUOT,
            SocketError::WouldBlock => libc::EAGAIN,
            // The enum may grow.
            _ => libc::EIO,
        })
    }
}

impl From<io::Error> for Errno {
    fn from(error: io::Error) -> Self {
        if let Some(socket) = SocketError::of(&error) {
            return socket.clone().into();
        }
        if let Some(number) = error.raw_os_error() {
            return Self(number);
        }
        Self(match error.kind() {
            io::ErrorKind::InvalidInput => libc::EINVAL,
            io::ErrorKind::Unsupported => libc::EOPNOTSUPP,
            io::ErrorKind::WouldBlock => libc::EAGAIN,
            io::ErrorKind::TimedOut => libc::ETIMEDOUT,
            _ => libc::EIO,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_sockets_have_the_numbers_that_bsd_sockets_give() {
        for (error, number) in [
            (SocketError::WouldBlock, libc::EAGAIN),
            (SocketError::Refused, libc::ECONNREFUSED),
            (SocketError::TooManyServices, libc::EDQUOT),
            (
                SocketError::MessageTooLong {
                    length: 2,
                    limit: 1,
                },
                libc::EMSGSIZE,
            ),
        ] {
            assert_eq!(Errno::from(io::Error::from(error)), Errno(number));
        }
        let plain = io::Error::from(io::ErrorKind::InvalidInput);
        assert_eq!(Errno::from(plain), Errno::INVALID);
    }
}
