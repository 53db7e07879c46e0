//! The tunnel's parameters.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use tsc_tapi::{
    ConnectError, DtlsBackendKind, Identity, PemSource, Roots, Server, Trust, Tunnel, TunnelBuilder,
};

use crate::{UsageError, secret::Secret};

/// How to reach the tunnel server.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Tunnel")]
pub struct TunnelArgs {
    /// Tunnel server; port 4567 if none is given.
    // An option, so that a program may have a flag that conflicts with it and stands in its place.
    #[arg(short, long, value_name = "HOST[:PORT]", required = true)]
    pub server: Option<String>,

    /// Outer transport.
    #[arg(short, long, value_name = "TRANSPORT", default_value = "tls", value_parser = ["tcp", "tls", "udp", "dtls"])]
    pub transport: String,

    /// Certificate authorities (PEM) to trust instead of the system's.
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,

    /// Our certificate chain (PEM), for servers that ask for one.
    #[arg(long, value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,

    /// The key (PEM) of --cert.
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,

    /// Name that the server's certificate must carry, instead of the host of --server.
    #[arg(long, value_name = "NAME")]
    pub server_name: Option<String>,

    /// File whose first line is the token that shows the server who we are. Over tls and dtls only: tcp and udp would
    /// show it to everybody on the way.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// Library that does DTLS.
    #[arg(long, value_name = "NAME", value_parser = ["openssl", "dimpl", "webrtc"])]
    pub dtls_backend: Option<String>,

    /// Write inner packets and control messages to this pcapng file, for Wireshark. It holds what is said.
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,

    /// How long opening the tunnel may take, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub connect_timeout: u64,
}

impl TunnelArgs {
    /// Turns the parameters into the SDK's builder. `client_info` tells the server's logs which program this is.
    ///
    /// # Errors
    ///
    /// A file cannot be used, or the server is no host with an optional port.
    pub fn builder(&self, client_info: &str) -> Result<TunnelBuilder, UsageError> {
        let address = self.server.as_deref().unwrap_or_default();
        let url = format!("{}://{address}", self.transport);
        let server: Server = url
            .parse()
            .map_err(|error| UsageError::value("--server", error))?;
        let mut builder = Tunnel::builder(server)
            .client_info(client_info)
            .connect_timeout(Duration::from_secs(self.connect_timeout));
        if let Some(path) = &self.ca {
            let roots = Roots::from_pem(&PemSource::File(path.clone()))
                .map_err(|error| UsageError::file("--ca", path, error))?;
            builder = builder.trust(Trust::Roots(roots));
        }
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            let (chain, key) = (PemSource::File(cert.clone()), PemSource::File(key.clone()));
            let identity = Identity::from_pem(&chain, &key)
                .map_err(|error| UsageError::file("--cert", cert, error))?;
            builder = builder.identity(identity);
        }
        if let Some(name) = &self.server_name {
            builder = builder.server_name(name);
        }
        if let Some(path) = &self.token_file {
            if !["tls", "dtls"].contains(&self.transport.as_str()) {
                return Err(UsageError::Value {
                    option: "--token-file",
                    error: format!(
                        "{} would show the token to everybody on the way: use --transport tls or dtls",
                        self.transport
                    ),
                });
            }
            let token = Secret::from_file(path)
                .map_err(|error| UsageError::file("--token-file", path, error))?;
            builder = builder.auth_token(token.expose());
        }
        if let Some(name) = &self.dtls_backend {
            let backend: DtlsBackendKind = name
                .parse()
                .map_err(|error| UsageError::value("--dtls-backend", error))?;
            builder = builder.dtls_backend(backend);
        }
        if let Some(path) = &self.trace {
            builder = builder.trace(path);
        }
        Ok(builder)
    }
}

/// Whether a tunnel cannot be opened for a reason that lies in the command line: exit code 2.
#[must_use]
pub const fn is_usage_error(error: &ConnectError) -> bool {
    matches!(
        error,
        ConnectError::Parameters(_)
            | ConnectError::ServerName(_)
            | ConnectError::Credentials(_)
            | ConnectError::Capture(_)
    )
}
