//! The step through an HTTP proxy: `tsc_osaa::proxy` takes it, here it is told what came of it.

use tsc_cli::UsageError;
use tsc_osaa::{
    cert::{PemSource, Roots, Trust},
    proxy::{Credentials, Proxy, ProxyError},
};

use crate::{
    cli::Arguments,
    problem::{Kind, Problem},
};

/// The proxy of the command line, with its files read.
pub(crate) fn configured(arguments: &Arguments) -> Result<Option<Proxy>, UsageError> {
    let Some(mut proxy) = arguments.proxy.clone() else {
        return Ok(None);
    };
    if let Some(path) = &arguments.proxy_auth {
        let credentials = Credentials::from_file(path)
            .map_err(|error| UsageError::value("--proxy-auth", error))?;
        proxy = proxy.with_credentials(credentials);
    }
    if let Some(path) = &arguments.proxy_ca {
        let roots = Roots::from_pem(&PemSource::File(path.clone()))
            .map_err(|error| UsageError::file("--proxy-ca", path, error))?;
        proxy = proxy
            .with_trust(Trust::Roots(roots))
            .map_err(|error| UsageError::value("--proxy-ca", error))?;
    }
    Ok(Some(
        proxy.allow_basic_in_clear(arguments.proxy_basic_in_clear),
    ))
}

impl From<ProxyError> for Problem {
    #[allow(clippy::wildcard_enum_match_arm, reason = "a foreign enum that grows")]
    fn from(error: ProxyError) -> Self {
        let text = error.to_string();
        match error {
            ProxyError::Resolve { .. }
            | ProxyError::NoAddress { .. }
            | ProxyError::Connect { .. } => Self::new(Kind::ProxyUnreachable, text),
            ProxyError::Certificate(_) | ProxyError::Trust(_) => {
                Self::new(Kind::ProxyCertificate, text)
            }
            ProxyError::AuthenticationRequired { offered } => {
                Self::new(Kind::ProxyAuthentication, text).with("offered", offered)
            }
            ProxyError::CredentialsRefused { scheme } => {
                Self::new(Kind::ProxyCredentials, text).with("scheme", scheme.as_str())
            }
            ProxyError::Credentials(_) => Self::new(Kind::ProxyCredentials, text),
            ProxyError::NoUsableScheme { offered, .. } => {
                Self::new(Kind::ProxySchemes, text).with("offered", offered)
            }
            ProxyError::Refused { status, .. } => {
                let kind = match status {
                    500 | 502..=504 => Kind::ProxyGateway,
                    _ => Kind::ProxyRefused,
                };
                Self::new(kind, text).with("status", status)
            }
            ProxyError::Portal { status, location } => {
                let problem = Self::new(Kind::ProxyPortal, text).with("status", status);
                match location {
                    Some(location) => problem.with("location", location),
                    None => problem,
                }
            }
            ProxyError::Timeout { limit } => Self::timeout(limit),
            _ => Self::new(Kind::Proxy, text),
        }
    }
}
