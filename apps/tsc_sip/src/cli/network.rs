//! A tunnel, or the host's own network.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use tsc_cli::{TunnelArgs, UsageError};
use tsc_tapi::{ConnectError, Tunnel, TunnelBuilder};

use crate::{
    net::{RenewableTunnel, Tunnels},
    report::Outcome,
    ua,
};

/// Where sockets are opened.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Tunnel")]
pub struct NetworkArgs {
    /// The tunnel.
    #[command(flatten)]
    pub tunnel: TunnelArgs,

    /// When the tunnel is gone because its server was restarted or has released it, open another in its place, and register
    /// and go on with the calls from there; give up after this many seconds. 0 ends the program instead.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub renew_timeout: u64,

    /// Use the host's own network at this address instead of a tunnel, to compare.
    // What it conflicts with is not required where it is given.
    #[arg(long, value_name = "ADDRESS", conflicts_with_all = [
        "server", "ca", "cert", "key", "server_name", "token_file", "dtls_backend", "trace",
    ])]
    pub no_tunnel: Option<IpAddr>,
}

/// Whether media leaves the tunnel server.
#[derive(Clone, Copy, Debug, Default, Args)]
#[command(next_help_heading = "Tunnel")]
pub struct PeerArgs {
    /// Let media go to and from the other side without the tunnel server, by a peer tunnel, where both sides are its clients and both
    /// have this option. The side that calls asks for it with its first packet; until there is a way, in one network or through
    /// NATs, and when there is none any more, media goes over the tunnel server. That has to assign the service `peer`. The other
    /// side learns this host's addresses.
    #[arg(long, conflicts_with = "no_tunnel")]
    pub peer: bool,
}

impl NetworkArgs {
    /// The tunnel as the command line has it, which other clients may ask for a peer tunnel if so.
    ///
    /// # Errors
    ///
    /// As [`TunnelArgs::builder`].
    pub fn builder(&self, peer: PeerArgs) -> Result<TunnelBuilder, UsageError> {
        Ok(self.tunnel.builder(ua::PRODUCT)?.peer_tunnels(peer.peer))
    }

    /// The tunnel as a network in whose place another comes when it is gone, as the command line has it.
    #[must_use]
    pub fn tunnels(&self, first: Tunnel, peer: PeerArgs) -> (Tunnels, Arc<RenewableTunnel>) {
        let args = self.clone();
        let patience = Duration::from_secs(self.renew_timeout);
        Tunnels::new(first, patience, move |number| {
            // Certificates and tokens are read again: there may be others by now.
            let builder = args.builder(peer).map_err(|error| error.to_string())?;
            Ok(match &args.tunnel.trace {
                Some(path) => builder.trace(numbered(path, number)),
                None => builder,
            })
        })
    }
}

/// Each tunnel has a capture file of its own: `trace.pcapng`, then `trace-1.pcapng`.
fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push(format!("-{number}"));
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capture_files_do_not_overwrite_each_other() {
        let numbered = |path: &str| numbered(Path::new(path), 2);
        assert_eq!(
            numbered("a.b/trace.pcapng"),
            Path::new("a.b/trace-2.pcapng")
        );
        assert_eq!(numbered("/tmp/trace"), Path::new("/tmp/trace-2"));
    }
}
