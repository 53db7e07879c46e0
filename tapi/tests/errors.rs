//! The error codes of the SDK guide, and the kinds of I/O errors.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    io::{self, ErrorKind},
};

use tsc_csm::client::{TransportFailure, TransportLoss};
use tsc_tapi::{
    AttemptFailure, CloseError, Coded, ConnectError, DownReason, ErrorCode, LookupError, Refusal,
    ServiceError, SocketError, SuspendReason,
};
use tsc_tpl::ResponseCode;

fn row(error: impl Coded + 'static, code: ErrorCode) -> (Box<dyn Coded>, ErrorCode) {
    (Box::new(error), code)
}

fn refused(code: ResponseCode) -> Refusal {
    Refusal {
        code,
        retry_after: None,
        text: None,
    }
}

#[test]
fn each_code_is_what_some_typed_error_means() {
    let address = "10.0.0.1:5060".parse().unwrap();
    let released = |confirmed| DownReason::Released { confirmed };
    let lost = SuspendReason::Lost(TransportLoss::Failed);
    let silent = SuspendReason::KeepaliveFailure;
    let too_long = SocketError::MessageTooLong {
        length: 70_000,
        limit: 65_507,
    };
    let transport = AttemptFailure::Transport;
    let last = None;
    let table = [
        row(released(true), ErrorCode::Ok),
        row(ConnectError::RuntimeGone, ErrorCode::Error),
        row(ConnectError::ServerName(String::new()), ErrorCode::Error),
        row(DownReason::WrongTsid, ErrorCode::Error),
        row(SocketError::AddressInUse(address), ErrorCode::Error),
        row(SocketError::AddressNotAvailable(address), ErrorCode::Error),
        row(
            SocketError::TunnelDown(released(true)),
            ErrorCode::NotLogged,
        ),
        row(
            DownReason::ReleasedByServer { text: None },
            ErrorCode::NotLogged,
        ),
        row(
            transport(TransportFailure::Unreachable),
            ErrorCode::CannotConnect,
        ),
        row(
            DownReason::Lost {
                cause: lost,
                last: last.clone(),
            },
            ErrorCode::CannotConnect,
        ),
        row(
            DownReason::ResumeRejected { cause: lost },
            ErrorCode::CannotConnect,
        ),
        row(lost, ErrorCode::CannotConnect),
        row(AttemptFailure::NoAnswer, ErrorCode::CannotConfigure),
        row(
            refused(ResponseCode::NO_ADDRESS),
            ErrorCode::CannotConfigure,
        ),
        row(silent, ErrorCode::KeepaliveFailure),
        row(
            DownReason::Lost {
                cause: silent,
                last,
            },
            ErrorCode::KeepaliveFailure,
        ),
        row(
            DownReason::ResumeRejected { cause: silent },
            ErrorCode::KeepaliveFailure,
        ),
        row(
            refused(ResponseCode::SERVICE_UNAVAILABLE),
            ErrorCode::ServiceFailure,
        ),
        row(
            refused(ResponseCode::UNSUPPORTED_SERVICE),
            ErrorCode::ServiceFailure,
        ),
        row(SocketError::Refused, ErrorCode::CannotRecvData),
        row(SocketError::Unreachable, ErrorCode::CannotRecvData),
        row(SocketError::WouldBlock, ErrorCode::NoData),
        row(SocketError::NotConnected, ErrorCode::CannotSendData),
        row(SocketError::Family(address), ErrorCode::CannotSendData),
        row(
            SocketError::BadDestination(address),
            ErrorCode::CannotSendData,
        ),
        row(too_long, ErrorCode::CannotSendData),
        row(SocketError::BrokenPipe, ErrorCode::CannotSendData),
        row(SocketError::Reset, ErrorCode::CannotRecvData),
        row(SocketError::TimedOut, ErrorCode::CannotRecvData),
        row(SocketError::Prohibited, ErrorCode::CannotRecvData),
        row(SocketError::PrefixesEnded, ErrorCode::ServiceFailure),
        row(SocketError::NotBound, ErrorCode::Error),
        row(LookupError::Name(String::new()), ErrorCode::Error),
        row(LookupError::NoServers, ErrorCode::Error),
        row(LookupError::NotFound(String::new()), ErrorCode::NoData),
        row(LookupError::Failed(""), ErrorCode::CannotRecvData),
        row(LookupError::TimedOut, ErrorCode::CannotRecvData),
        row(
            LookupError::Socket(SocketError::TunnelDown(DownReason::WrongTsid)),
            ErrorCode::NotLogged,
        ),
        row(ServiceError::Prefixes, ErrorCode::Error),
        row(ServiceError::InUse, ErrorCode::Error),
        row(
            ServiceError::Refused(refused(ResponseCode::NOT_AUTHORIZED)),
            ErrorCode::Authenticate,
        ),
        row(
            ServiceError::Refused(refused(ResponseCode::NO_RESOURCES)),
            ErrorCode::ServiceFailure,
        ),
        row(ServiceError::Unusable, ErrorCode::ServiceFailure),
        row(ServiceError::NoAnswer, ErrorCode::ServiceFailure),
        row(
            ServiceError::Socket(SocketError::TunnelDown(DownReason::WrongTsid)),
            ErrorCode::NotLogged,
        ),
        row(
            refused(ResponseCode::NOT_AUTHORIZED),
            ErrorCode::Authenticate,
        ),
        row(
            transport(TransportFailure::Certificate),
            ErrorCode::Authenticate,
        ),
        row(
            transport(TransportFailure::ClientCertificate),
            ErrorCode::Authenticate,
        ),
        row(
            transport(TransportFailure::Refused),
            ErrorCode::CannotConnect,
        ),
        row(CloseError::NotConfirmed, ErrorCode::CannotRelease),
        row(
            CloseError::AlreadyDown(released(false)),
            ErrorCode::CannotRelease,
        ),
        row(SocketError::Exhausted, ErrorCode::QueueOverflow),
    ];
    for (number, (error, code)) in table.iter().enumerate() {
        assert_eq!(error.code(), *code, "row {number}");
    }
    let used: BTreeSet<_> = table.iter().map(|(_, code)| *code).collect();
    assert_eq!(used, BTreeSet::from(ErrorCode::ALL));
}

#[test]
fn codes_have_the_guides_numbers_and_names() {
    for (number, code) in (0..).zip(ErrorCode::ALL) {
        assert_eq!(code.value(), number);
        assert!(code.name().starts_with("tsc_error_code_"));
        assert_eq!(code.to_string(), format!("{} ({number})", code.name()));
    }
}

#[test]
fn socket_errors_travel_inside_io_errors() {
    let address = "10.0.0.1:5060".parse().unwrap();
    let too_long = SocketError::MessageTooLong {
        length: 9,
        limit: 8,
    };
    for (error, kind) in [
        (
            SocketError::TunnelDown(DownReason::WrongTsid),
            ErrorKind::ConnectionAborted,
        ),
        (
            SocketError::AddressNotAvailable(address),
            ErrorKind::AddrNotAvailable,
        ),
        (SocketError::AddressInUse(address), ErrorKind::AddrInUse),
        (SocketError::Exhausted, ErrorKind::OutOfMemory),
        (SocketError::NotConnected, ErrorKind::NotConnected),
        (SocketError::Family(address), ErrorKind::InvalidInput),
        (
            SocketError::BadDestination(address),
            ErrorKind::InvalidInput,
        ),
        (too_long, ErrorKind::InvalidInput),
        (SocketError::Refused, ErrorKind::ConnectionRefused),
        (SocketError::Unreachable, ErrorKind::HostUnreachable),
        (SocketError::Prohibited, ErrorKind::PermissionDenied),
        (SocketError::Reset, ErrorKind::ConnectionReset),
        (SocketError::TimedOut, ErrorKind::TimedOut),
        (SocketError::BrokenPipe, ErrorKind::BrokenPipe),
        (SocketError::NotBound, ErrorKind::InvalidInput),
        (SocketError::PrefixesEnded, ErrorKind::NotConnected),
        (SocketError::WouldBlock, ErrorKind::WouldBlock),
    ] {
        let io = io::Error::from(error.clone());
        assert_eq!(io.kind(), kind, "{error}");
        assert_eq!(SocketError::of(&io), Some(&error));
    }
    assert_eq!(SocketError::of(&io::Error::from(ErrorKind::Other)), None);
    for (error, kind) in [
        (LookupError::Name("?".to_owned()), ErrorKind::InvalidInput),
        (LookupError::NoServers, ErrorKind::Unsupported),
        (LookupError::NotFound("x".to_owned()), ErrorKind::NotFound),
        (LookupError::Failed("why"), ErrorKind::Other),
        (LookupError::TimedOut, ErrorKind::TimedOut),
        (
            LookupError::Socket(SocketError::Reset),
            ErrorKind::ConnectionReset,
        ),
    ] {
        assert_eq!(io::Error::from(error).kind(), kind);
    }
}
