//! The SIP account of a caller.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use tsc_cli::UsageError;

use crate::{client::ClientOptions, secret::Secret, sip::Host};

/// Variable with the password, where a file is unhandy.
const PASSWORD_VARIABLE: &str = "TSC_SIP_PASSWORD";

/// Who we are, and who serves us.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "SIP")]
pub struct SipArgs {
    /// User name, for our address and for the registrar.
    #[arg(short, long, value_name = "NAME", default_value = "alice")]
    pub user: String,

    /// File whose first line is the password. Or set TSC_SIP_PASSWORD.
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,

    /// SIP server, instead of the one that the tunnel server assigns.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub sip_server: Option<SocketAddr>,

    /// Domain of our address and of the callee's. [default: the SIP server's address]
    #[arg(long, value_name = "NAME")]
    pub domain: Option<String>,

    /// Port of our SIP socket; 0 lets the network choose.
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    pub sip_port: u16,

    /// Do not register before calling.
    #[arg(long)]
    pub no_register: bool,

    /// How long the registration shall last, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    pub expires: u32,

    /// Give up when nobody answers after this many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub ring_timeout: u64,
}

impl SipArgs {
    pub(super) fn apply(&self, options: &mut ClientOptions) -> Result<(), UsageError> {
        options.password = password(self.password_file.as_deref())?;
        if let Some(domain) = &self.domain {
            let host: Host = domain
                .parse()
                .map_err(|error| UsageError::value("--domain", error))?;
            options.domain = Some(host);
        }
        options.sip_server = self.sip_server;
        options.sip_port = self.sip_port;
        options.register = !self.no_register;
        options.expires = self.expires;
        options.ring_timeout = Duration::from_secs(self.ring_timeout);
        Ok(())
    }
}

/// The first line of a file, or the variable's value.
pub(super) fn password(file: Option<&Path>) -> Result<Option<Secret>, UsageError> {
    if let Some(path) = file {
        let secret = Secret::from_file(path);
        let secret = secret.map_err(|error| UsageError::file("--password-file", path, error))?;
        return Ok(Some(secret));
    }
    let password = std::env::var(PASSWORD_VARIABLE).unwrap_or_default();
    Ok((!password.is_empty()).then(|| Secret::new(password)))
}
