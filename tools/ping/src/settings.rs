//! The command line, checked and with its files read.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use rustls_pki_types::ServerName;
use tsc_cli::{UsageError, secret::Secret};
use tsc_osaa::{
    cert::{ClientSecurity, Identity, PemSource, Roots, Trust},
    client::{ConnectOptions, Host},
    dtls::DtlsBackendKind,
    proxy::Proxy,
    resolve::{Families, ResolveOptions},
};

use crate::{cli::Arguments, proxy};

/// How the way is walked.
pub(crate) struct Settings {
    /// For TLS and DTLS; absent when only clear transports are asked for.
    pub(crate) security: Option<ClientSecurity>,
    pub(crate) server_name: Option<ServerName<'static>>,
    pub(crate) token: Option<Secret>,
    pub(crate) resolve: ResolveOptions,
    pub(crate) connect: ConnectOptions,
    /// For each step.
    pub(crate) timeout: Duration,
    pub(crate) count: u16,
    pub(crate) mtu: u16,
    pub(crate) only: bool,
    pub(crate) proxy: Option<Proxy>,
}

impl Settings {
    pub(crate) fn new(arguments: &Arguments) -> Result<Self, UsageError> {
        let timeout = Duration::from_secs_f64(arguments.timeout);
        let mut resolve = ResolveOptions::default();
        resolve.timeout = timeout;
        resolve.name_servers.clone_from(&arguments.name_servers);
        if arguments.ipv4 {
            resolve.families = Families::Ipv4Only;
        } else if arguments.ipv6 {
            resolve.families = Families::Ipv6Only;
        }
        let mut connect = ConnectOptions::default();
        connect.timeout = timeout;
        connect.attempt_timeout = timeout;
        if let Some(name) = &arguments.dtls_backend {
            let backend: DtlsBackendKind = name
                .parse()
                .map_err(|error| UsageError::value("--dtls-backend", error))?;
            connect.dtls_backend = Some(backend);
        }
        let token = match &arguments.token_file {
            None => None,
            Some(path) => Some(
                Secret::from_file(path)
                    .map_err(|error| UsageError::file("--token-file", path, error))?,
            ),
        };
        let server_name = match &arguments.server_name {
            None => None,
            Some(name) => Some(
                ServerName::try_from(name.clone())
                    .map_err(|error| UsageError::value("--server-name", error))?,
            ),
        };
        let is_protected = arguments
            .targets
            .iter()
            .any(|target| target.transport.is_protected());
        Ok(Self {
            security: if is_protected {
                Some(security(arguments)?)
            } else {
                None
            },
            server_name,
            token,
            resolve,
            connect,
            timeout,
            count: arguments.count,
            mtu: arguments.mtu,
            only: arguments.only,
            proxy: proxy::configured(arguments)?,
        })
    }

    /// The name that a certificate must carry.
    pub(crate) fn name_of(&self, host: &Host) -> ServerName<'static> {
        self.server_name
            .clone()
            .unwrap_or_else(|| host.server_name())
    }

    /// Where a DTLS handshake with an address goes.
    pub(crate) fn dtls_target(&self, host: &Host, address: SocketAddr) -> tsc_osaa::client::Target {
        let kind = tsc_osaa::client::TransportKind::Dtls;
        tsc_osaa::client::Target::new(kind, address.ip(), address.port())
            .with_server_name(self.name_of(host))
    }

    /// When the step that begins now must be over.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }
}

fn security(arguments: &Arguments) -> Result<ClientSecurity, UsageError> {
    let trust = match &arguments.ca {
        None => Trust::System,
        Some(path) => Trust::Roots(
            Roots::from_pem(&PemSource::File(path.clone()))
                .map_err(|error| UsageError::file("--ca", path, error))?,
        ),
    };
    let identity = match (&arguments.cert, &arguments.key) {
        (Some(cert), Some(key)) => {
            let (chain, key) = (PemSource::File(cert.clone()), PemSource::File(key.clone()));
            let identity = Identity::from_pem(&chain, &key)
                .map_err(|error| UsageError::file("--cert", cert, error))?;
            Some(identity)
        }
        (Some(_) | None, _) => None,
    };
    ClientSecurity::new(trust, identity).map_err(|error| UsageError::value("--ca", error))
}
