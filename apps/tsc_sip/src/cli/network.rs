//! A tunnel, or the host's own network.

use std::net::IpAddr;

use clap::Args;
use tsc_cli::TunnelArgs;
use tsc_tapi::ConnectError;

use crate::report::Outcome;

/// Where sockets are opened.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Tunnel")]
pub struct NetworkArgs {
    /// The tunnel.
    #[command(flatten)]
    pub tunnel: TunnelArgs,

    /// Use the host's own network at this address instead of a tunnel, to compare.
    // What it conflicts with is not required where it is given.
    #[arg(long, value_name = "ADDRESS", conflicts_with_all = [
        "server", "ca", "cert", "key", "server_name", "token_file", "dtls_backend", "trace",
    ])]
    pub no_tunnel: Option<IpAddr>,
}

/// What a program that cannot open its tunnel says by its exit code: some reasons lie in the command line.
#[must_use]
pub const fn connect_outcome(error: &ConnectError) -> Outcome {
    if tsc_cli::is_usage_error(error) {
        Outcome::Configuration
    } else {
        Outcome::TunnelFailed
    }
}
