//! What went wrong, in one word for programs and one line for people.

use std::io;

use serde::Serialize;
use serde_json::{Map, Value};
use tsc_osaa::{
    cert::CertificateError,
    client::{ConnectError, TransportError},
    dtls::DtlsError,
    resolve::ResolveError,
    stream::StreamError,
    tls::TlsError,
};
use tsc_tpl::ResponseCode;

/// The kinds that are told apart. Their names in JSON stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    NoSuchName,
    NoAddress,
    NoDnsAnswer,
    NotOffered,
    Refused,
    Unreachable,
    Timeout,
    Proxy,
    ProxyAuthentication,
    ProxyRefused,
    ProxyUnreachable,
    ProxyCertificate,
    ProxyCredentials,
    ProxySchemes,
    ProxyGateway,
    ProxyPortal,
    CertificateName,
    CertificateExpired,
    CertificateNotYetValid,
    CertificateIssuer,
    Certificate,
    ClientCertificate,
    Alpn,
    NotTls,
    Tls,
    Http,
    SpeaksTls,
    NotTscf,
    Closed,
    NotAuthorized,
    Busy,
    Redirect,
    NoInnerAddress,
    Refusal,
    System,
}

/// A step that failed.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Problem {
    pub(crate) kind: Kind,
    pub(crate) text: String,
    /// Findings that belong to the step all the same.
    #[serde(skip)]
    pub(crate) more: Map<String, Value>,
    #[serde(skip)]
    pub(crate) lines: Vec<String>,
}

impl Problem {
    pub(crate) fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self {
            kind,
            text: text.into(),
            more: Map::new(),
            lines: Vec::new(),
        }
    }

    /// With a finding for programs.
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.more.insert(name.to_owned(), value.into());
        self
    }

    pub(crate) fn timeout(limit: std::time::Duration) -> Self {
        Self::new(
            Kind::Timeout,
            format!("no answer within {}", crate::report::time(limit)),
        )
    }

    /// What the server answered to the request for a tunnel.
    pub(crate) fn refusal(code: ResponseCode, text: String) -> Self {
        let kind = match code {
            ResponseCode::NOT_AUTHORIZED => Kind::NotAuthorized,
            ResponseCode::BUSY | ResponseCode::NO_RESOURCES => Kind::Busy,
            ResponseCode::REDIRECT => Kind::Redirect,
            ResponseCode::NO_ADDRESS => Kind::NoInnerAddress,
            _ => Kind::Refusal,
        };
        Self::new(kind, text)
    }
}

impl From<ResolveError> for Problem {
    fn from(error: ResolveError) -> Self {
        let kind = if error.is_temporary() {
            Kind::NoDnsAnswer
        } else if matches!(error, ResolveError::NotOffered { .. }) {
            Kind::NotOffered
        } else if matches!(error, ResolveError::NoAddress { .. }) {
            Kind::NoAddress
        } else {
            Kind::NoSuchName
        };
        Self::new(kind, error.to_string())
    }
}

impl From<io::Error> for Problem {
    #[allow(clippy::wildcard_enum_match_arm, reason = "a foreign enum that grows")]
    fn from(error: io::Error) -> Self {
        use io::ErrorKind as E;
        match error.kind() {
            E::ConnectionRefused => Self::new(Kind::Refused, "refused: nobody listens there"),
            E::NetworkUnreachable | E::HostUnreachable | E::NetworkDown => {
                Self::new(Kind::Unreachable, error.to_string())
            }
            E::TimedOut => Self::new(Kind::Timeout, error.to_string()),
            E::ConnectionReset | E::ConnectionAborted | E::BrokenPipe | E::UnexpectedEof => {
                Self::new(Kind::Closed, "the connection was cut off")
            }
            _ => Self::new(Kind::System, error.to_string()),
        }
    }
}

impl From<CertificateError> for Problem {
    #[allow(clippy::wildcard_enum_match_arm, reason = "a foreign enum that grows")]
    fn from(error: CertificateError) -> Self {
        let kind = match error {
            CertificateError::NameMismatch { .. } => Kind::CertificateName,
            CertificateError::Expired { .. } => Kind::CertificateExpired,
            CertificateError::NotYetValid { .. } => Kind::CertificateNotYetValid,
            CertificateError::UnknownIssuer => Kind::CertificateIssuer,
            _ => Kind::Certificate,
        };
        Self::new(kind, format!("the certificate is refused: {error}"))
    }
}

impl From<TlsError> for Problem {
    #[allow(clippy::wildcard_enum_match_arm, reason = "a foreign enum that grows")]
    fn from(error: TlsError) -> Self {
        let text = error.to_string();
        match error {
            TlsError::Certificate(error) => error.into(),
            TlsError::Alert { alert } => ConnectError::from_alert(alert).into(),
            TlsError::Alpn => Self::new(Kind::Alpn, text),
            TlsError::NotTls => Self::new(Kind::NotTls, text),
            TlsError::ClosedInHandshake => Self::new(Kind::Closed, text),
            _ => Self::new(Kind::Tls, text),
        }
    }
}

impl From<StreamError> for Problem {
    #[allow(clippy::wildcard_enum_match_arm, reason = "a foreign enum that grows")]
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::Tls(error) => error.into(),
            StreamError::Io(error) => error.into(),
            StreamError::Closed | StreamError::Truncated => Self::new(
                Kind::Closed,
                format!("{error}: the server ended the connection"),
            ),
            _ => Self::new(Kind::System, error.to_string()),
        }
    }
}

impl From<ConnectError> for Problem {
    #[allow(clippy::wildcard_enum_match_arm, reason = "a foreign enum that grows")]
    fn from(error: ConnectError) -> Self {
        let text = error.to_string();
        match error {
            ConnectError::Refused { .. } => {
                Self::new(Kind::Refused, "refused: nobody listens there")
            }
            ConnectError::Unreachable { .. } => Self::new(Kind::Unreachable, "unreachable"),
            ConnectError::Timeout { limit, .. } => Self::timeout(limit),
            ConnectError::Certificate(error) => error.into(),
            ConnectError::ClientCertificate(_) => Self::new(Kind::ClientCertificate, text),
            ConnectError::Alpn => Self::new(Kind::Alpn, text),
            ConnectError::Alert(_) => Self::new(Kind::Tls, text),
            ConnectError::Tls(error) => error.into(),
            ConnectError::Dtls(error) => error.into(),
            ConnectError::Io { source, .. } => source.into(),
            _ => Self::new(Kind::System, text),
        }
    }
}

impl From<DtlsError> for Problem {
    #[allow(clippy::wildcard_enum_match_arm, reason = "a foreign enum that grows")]
    fn from(error: DtlsError) -> Self {
        let text = error.to_string();
        match error {
            DtlsError::Certificate(error) => error.into(),
            DtlsError::Alert(alert) => ConnectError::from_alert(alert).into(),
            DtlsError::Alpn => Self::new(Kind::Alpn, text),
            DtlsError::PeerClosed => Self::new(Kind::Closed, text),
            _ => Self::new(Kind::Tls, text),
        }
    }
}

impl From<TransportError> for Problem {
    #[allow(clippy::wildcard_enum_match_arm, reason = "a foreign enum that grows")]
    fn from(error: TransportError) -> Self {
        match error {
            TransportError::Stream(error) => error.into(),
            TransportError::Dtls(error) => error.into(),
            TransportError::Io(error) => error.into(),
            _ => Self::new(Kind::Closed, error.to_string()),
        }
    }
}
