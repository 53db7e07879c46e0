//! From a target to a connection.

use std::{io, net::SocketAddr, time::Duration};

use tokio::time::timeout;

use crate::{
    net::Net,
    target::{Host, Target},
};

/// How long one address may take.
pub const CONNECT: Duration = Duration::from_secs(10);

/// Addresses of a name that are tried.
pub const ADDRESSES: usize = 8;

/// The addresses of a target, in order of preference; at most [`ADDRESSES`].
///
/// # Errors
///
/// `NotFound` when there is none, and what the network's resolver says.
pub async fn addresses<N: Net>(net: &N, target: &Target) -> io::Result<Vec<SocketAddr>> {
    let found = match &target.host {
        Host::Address(address) => vec![*address],
        Host::Name(name) => net.resolve(name).await?,
    };
    if found.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("{target}: the name has no address"),
        ));
    }
    let with_port = |address| SocketAddr::new(address, target.port);
    Ok(found.into_iter().take(ADDRESSES).map(with_port).collect())
}

/// Connects to the first address that answers.
///
/// # Errors
///
/// What the last address said, or [`addresses`].
pub async fn dial<N: Net>(net: &N, target: &Target) -> io::Result<N::Stream> {
    let mut last = None;
    for address in addresses(net, target).await? {
        match timeout(CONNECT, net.connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = Some(error),
            Err(_) => last = Some(io::ErrorKind::TimedOut.into()),
        }
    }
    Err(last.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
}
