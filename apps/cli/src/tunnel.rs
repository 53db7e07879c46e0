//! The tunnel's parameters.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use tsc_tapi::{
    ConnectError, DtlsBackendKind, Identity, PemSource, Redaction, Roots, Server, TraceOptions,
    Trust, Tunnel, TunnelBuilder,
    proxy::{CredentialSource, Proxy, ProxySettings},
};

use crate::{UsageError, secret::Secret};

/// How to reach the tunnel server.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Tunnel")]
pub struct TunnelArgs {
    /// Tunnel server, or one way to it such as udp://HOST:PORT. May be given several times, the preferred one first: all are tried
    /// beside each other. Without a port the domain's SRV records are asked; if there are none it is 4567.
    // An option, so that a program may have a flag that conflicts with it and stands in its place.
    #[arg(short, long, value_name = "[TRANSPORT://]HOST[:PORT]", required = true)]
    pub server: Vec<String>,

    /// Outer transports for servers that name none, the preferred one first.
    #[arg(short, long, value_name = "TRANSPORT", default_value = "tls", value_delimiter = ',', value_parser = ["tcp", "tls", "udp", "dtls"])]
    pub transport: Vec<String>,

    /// Begin with whatever works first, and move to udp or dtls as soon as one of them proves to work.
    #[arg(long)]
    pub move_to_datagrams: bool,

    /// HTTP proxy that leads to the server (method CONNECT, for tcp and tls): http://HOST:PORT or https://HOST:PORT; "env" takes
    /// what HTTPS_PROXY and NO_PROXY say.
    #[arg(long, value_name = "URL")]
    pub proxy: Option<String>,

    /// File whose first line is USER:PASSWORD for the proxy. Others must not be able to read it.
    #[arg(long, value_name = "FILE", requires = "proxy")]
    pub proxy_auth: Option<PathBuf>,

    /// Try without the proxy as well.
    #[arg(long, requires = "proxy")]
    pub also_without_proxy: bool,

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

    /// Trace outer packets as well: what goes over the wire. With a redaction only their headers.
    #[arg(long, requires = "trace")]
    pub trace_outer: bool,

    /// INSECURE: write the secrets of the tunnel's TLS and DTLS connections to the trace. Whoever has it can read everything that was
    /// recorded of them, anywhere on the way.
    #[arg(long, requires = "trace")]
    pub trace_insecure_decryption_secrets: bool,

    /// What is taken away of what is traced: nothing; everything behind the headers of packets; the same, but SIP stays with users, numbers
    /// and names masked, and RTP with its header.
    #[arg(long, value_name = "WHAT", default_value = "none", value_parser = ["none", "headers", "sip"])]
    pub trace_redaction: String,

    /// Keep so many trace files: the newest, and those before it as .1, .2 and so on.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub trace_files: u16,

    /// Megabytes of a trace file; then nothing more is written, or the next file is begun.
    #[arg(long, value_name = "MB", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..))]
    pub trace_file_size: u32,

    /// How long opening the tunnel may take, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub connect_timeout: u64,
}

impl TunnelArgs {
    fn proxy_settings(&self, proxy: &str) -> Result<ProxySettings, UsageError> {
        let settings = if proxy == "env" {
            ProxySettings::from_environment(|name| std::env::var(name).ok())
        } else {
            proxy.parse::<Proxy>().map(ProxySettings::from)
        };
        let settings = settings.map_err(|error| UsageError::value("--proxy", error))?;
        Ok(match &self.proxy_auth {
            None => settings,
            Some(path) => {
                let source = CredentialSource::file(path);
                settings.with_proxy(|proxy| proxy.with_credentials(source))
            }
        })
    }

    /// All ways to the servers, in order.
    ///
    /// # Errors
    ///
    /// One of them is no host with an optional transport and port.
    pub fn servers(&self) -> Result<Vec<Server>, UsageError> {
        let mut servers = Vec::new();
        for server in &self.server {
            let urls = if server.contains("://") {
                vec![server.clone()]
            } else {
                let url = |transport: &String| format!("{transport}://{server}");
                self.transport.iter().map(url).collect()
            };
            for url in urls {
                let server: Server = url
                    .parse()
                    .map_err(|error| UsageError::value("--server", error))?;
                servers.push(server);
            }
        }
        Ok(servers)
    }

    /// Turns the parameters into the SDK's builder. `client_info` tells the server's logs which program this is.
    ///
    /// # Errors
    ///
    /// A file cannot be used, or the server is no host with an optional port.
    pub fn builder(&self, client_info: &str) -> Result<TunnelBuilder, UsageError> {
        let servers = self.servers()?;
        let is_clear = |server: &Server| !server.transport().is_protected();
        let clear = servers.iter().find(|server| is_clear(server));
        let clear = clear.map(|server| server.transport());
        let mut servers = servers.into_iter();
        let Some(first) = servers.next() else {
            return Err(UsageError::value("--server", "none is given"));
        };
        let mut builder = servers.fold(Tunnel::builder(first), TunnelBuilder::server);
        builder = builder
            .client_info(client_info)
            .connect_timeout(Duration::from_secs(self.connect_timeout));
        if let Some(proxy) = &self.proxy {
            builder = builder.proxy(self.proxy_settings(proxy)?);
        }
        if self.also_without_proxy {
            builder = builder.also_without_proxy();
        }
        if self.move_to_datagrams {
            builder = builder.move_to_datagrams();
        }
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
            if let Some(clear) = clear {
                return Err(UsageError::Value {
                    option: "--token-file",
                    error: format!(
                        "{clear} would show the token to everybody on the way: use --transport tls or dtls"
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
        let mut options = TraceOptions::default();
        options.redaction =
            Redaction::from_name(&self.trace_redaction).unwrap_or(options.redaction);
        options.files = self.trace_files;
        options.file_size = u64::from(self.trace_file_size) * 1_000_000;
        options.outer = self.trace_outer;
        options.insecure_write_decryption_secrets(self.trace_insecure_decryption_secrets);
        if self.trace_insecure_decryption_secrets && options.redaction != Redaction::None {
            return Err(UsageError::Value {
                option: "--trace-insecure-decryption-secrets",
                error: "would undo --trace-redaction".to_owned(),
            });
        }
        builder = builder.trace_options(options);
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
