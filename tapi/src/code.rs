//! The SDK guide's error codes 0-12, and the one table that maps our typed errors to them.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "enums of other crates that may grow"
)]

use std::fmt;

use tsc_csm::client::{AttemptFailure, DownReason, Refusal, SuspendReason, TransportFailure};
use tsc_tpl::ResponseCode;

use crate::error::{CloseError, ConnectError, LookupError, ServiceError, SocketError};

/// Error codes of the SDK guide ("Error Codes"), for programs that know them and for the C library.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum ErrorCode {
    /// `tsc_error_code_ok`
    Ok = 0,
    /// `tsc_error_code_error`
    Error = 1,
    /// `tsc_error_code_not_logged`
    NotLogged = 2,
    /// `tsc_error_code_cannot_connect`
    CannotConnect = 3,
    /// `tsc_error_code_cannot_configure`
    CannotConfigure = 4,
    /// `tsc_error_code_keepalive_failure`
    KeepaliveFailure = 5,
    /// `tsc_error_code_service_failure`
    ServiceFailure = 6,
    /// `tsc_error_code_cannot_recv_data`
    CannotRecvData = 7,
    /// `tsc_error_code_no_data`
    NoData = 8,
    /// `tsc_error_code_cannot_send_data`
    CannotSendData = 9,
    /// `tsc_error_code_authenticate`
    Authenticate = 10,
    /// `tsc_error_code_cannot_release`
    CannotRelease = 11,
    /// `tsc_error_code_queue_overflow`
    QueueOverflow = 12,
}

impl ErrorCode {
    /// All codes, in order of their numbers.
    pub const ALL: [Self; 13] = [
        Self::Ok,
        Self::Error,
        Self::NotLogged,
        Self::CannotConnect,
        Self::CannotConfigure,
        Self::KeepaliveFailure,
        Self::ServiceFailure,
        Self::CannotRecvData,
        Self::NoData,
        Self::CannotSendData,
        Self::Authenticate,
        Self::CannotRelease,
        Self::QueueOverflow,
    ];

    /// The number that the guide lists.
    #[must_use]
    pub const fn value(self) -> u8 {
        self as u8
    }

    /// The name that the guide lists.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "tsc_error_code_ok",
            Self::Error => "tsc_error_code_error",
            Self::NotLogged => "tsc_error_code_not_logged",
            Self::CannotConnect => "tsc_error_code_cannot_connect",
            Self::CannotConfigure => "tsc_error_code_cannot_configure",
            Self::KeepaliveFailure => "tsc_error_code_keepalive_failure",
            Self::ServiceFailure => "tsc_error_code_service_failure",
            Self::CannotRecvData => "tsc_error_code_cannot_recv_data",
            Self::NoData => "tsc_error_code_no_data",
            Self::CannotSendData => "tsc_error_code_cannot_send_data",
            Self::Authenticate => "tsc_error_code_authenticate",
            Self::CannotRelease => "tsc_error_code_cannot_release",
            Self::QueueOverflow => "tsc_error_code_queue_overflow",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.value())
    }
}

/// The table: what a typed error is called in the SDK guide's terms.
pub trait Coded {
    /// The guide's code for this value.
    fn code(&self) -> ErrorCode;
}

impl Coded for ConnectError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Parameters(_) | Self::ServerName(_) | Self::Capture(_) | Self::RuntimeGone => {
                ErrorCode::Error
            }
            Self::Credentials(_) => ErrorCode::Authenticate,
            Self::Transport { .. }
                if self.is_certificate()
                    || self.is_client_certificate()
                    || self.is_proxy_authentication() =>
            {
                ErrorCode::Authenticate
            }
            Self::Transport { .. } => ErrorCode::CannotConnect,
            Self::Refused(refusal) => refusal.code(),
            Self::NotConfigured(failure) => failure.code(),
            Self::Ended(reason) => reason.code(),
        }
    }
}

impl Coded for Refusal {
    fn code(&self) -> ErrorCode {
        match self.code {
            ResponseCode::NOT_AUTHORIZED => ErrorCode::Authenticate,
            ResponseCode::SERVICE_UNAVAILABLE | ResponseCode::UNSUPPORTED_SERVICE => {
                ErrorCode::ServiceFailure
            }
            _ => ErrorCode::CannotConfigure,
        }
    }
}

impl Coded for AttemptFailure {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Transport(
                TransportFailure::Certificate
                | TransportFailure::ClientCertificate
                | TransportFailure::Proxy,
            ) => ErrorCode::Authenticate,
            Self::Transport(_) => ErrorCode::CannotConnect,
            Self::Refused(refusal) => refusal.code(),
            _ => ErrorCode::CannotConfigure,
        }
    }
}

impl Coded for DownReason {
    fn code(&self) -> ErrorCode {
        match self {
            Self::CannotConnect(failure) => failure.code(),
            Self::Lost {
                cause: SuspendReason::KeepaliveFailure,
                ..
            }
            | Self::ResumeRejected {
                cause: SuspendReason::KeepaliveFailure,
            } => ErrorCode::KeepaliveFailure,
            Self::Lost { .. } | Self::ResumeRejected { .. } => ErrorCode::CannotConnect,
            Self::ReleasedByServer { .. } => ErrorCode::NotLogged,
            Self::Released { confirmed: true } => ErrorCode::Ok,
            Self::Released { confirmed: false } => ErrorCode::CannotRelease,
            _ => ErrorCode::Error,
        }
    }
}

impl Coded for SuspendReason {
    fn code(&self) -> ErrorCode {
        match self {
            Self::KeepaliveFailure => ErrorCode::KeepaliveFailure,
            _ => ErrorCode::CannotConnect,
        }
    }
}

impl Coded for SocketError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::TunnelDown(_) => ErrorCode::NotLogged,
            Self::WouldBlock => ErrorCode::NoData,
            Self::Refused | Self::Unreachable | Self::Prohibited | Self::Reset | Self::TimedOut => {
                ErrorCode::CannotRecvData
            }
            Self::PrefixesEnded | Self::NotEncrypted => ErrorCode::ServiceFailure,
            Self::NotConnected
            | Self::BrokenPipe
            | Self::Family(_)
            | Self::BadDestination(_)
            | Self::MessageTooLong { .. } => ErrorCode::CannotSendData,
            Self::Exhausted | Self::TooManyServices => ErrorCode::QueueOverflow,
            Self::AddressNotAvailable(_) | Self::AddressInUse(_) | Self::NotBound => {
                ErrorCode::Error
            }
        }
    }
}

impl Coded for LookupError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Socket(error) => error.code(),
            Self::NotFound(_) => ErrorCode::NoData,
            Self::Failed(_) | Self::TimedOut => ErrorCode::CannotRecvData,
            Self::Name(_) | Self::NoServers => ErrorCode::Error,
        }
    }
}

impl Coded for ServiceError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Socket(error) => error.code(),
            Self::Prefixes | Self::InUse => ErrorCode::Error,
            Self::Refused(refusal) if refusal.code == ResponseCode::NOT_AUTHORIZED => {
                ErrorCode::Authenticate
            }
            Self::Refused(_) | Self::Unusable | Self::NoAnswer => ErrorCode::ServiceFailure,
        }
    }
}

impl Coded for CloseError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::NotConfirmed => ErrorCode::CannotRelease,
            Self::AlreadyDown(reason) => reason.code(),
        }
    }
}
