//! A SOCKS5 proxy (RFC 1928): CONNECT and UDP ASSOCIATE, without authentication, as it listens on this host.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "enums of other crates that may grow"
)]

mod associate;

use std::{io, sync::Arc};

use fast_socks5::{
    ReplyError, Socks5Command,
    server::{Socks5ServerProtocol, SocksServerError},
    util::target_addr::TargetAddr,
};
use tokio::net::TcpStream;

use crate::{
    accept::{in_time, relay},
    dial::dial,
    net::Net,
    report::Counters,
    target::{Host, Target},
};

/// Serves one client.
///
/// # Errors
///
/// It does not speak SOCKS5, wants what we do not do, or its target does not answer. It was told so.
pub async fn serve<N: Net>(stream: TcpStream, net: N, counters: Arc<Counters>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let local = stream.local_addr()?;
    let peer = stream.peer_addr()?;
    let handshake = async {
        let opened = Socks5ServerProtocol::accept_no_auth(stream).await?;
        opened.read_command().await
    };
    let (client, command, wanted) =
        in_time(async { handshake.await.map_err(protocol_error) }).await?;
    match command {
        Socks5Command::TCPConnect => {
            let reached = async { dial(&net, &target(wanted)?).await };
            match reached.await {
                Ok(far) => {
                    // The address that the target sees is nothing that a client on this host could use.
                    let near = client.reply_success(local).await.map_err(protocol_error)?;
                    relay(near, far, counters).await
                }
                Err(error) => {
                    client
                        .reply_error(&reply(&error))
                        .await
                        .map_err(protocol_error)?;
                    Err(error)
                }
            }
        }
        Socks5Command::UDPAssociate => {
            associate::serve(client, local.ip(), peer.ip(), net, counters).await
        }
        Socks5Command::TCPBind => {
            client
                .reply_error(&ReplyError::CommandNotSupported)
                .await
                .map_err(protocol_error)?;
            Err(io::Error::new(io::ErrorKind::Unsupported, "SOCKS5 BIND"))
        }
    }
}

fn protocol_error(error: SocksServerError) -> io::Error {
    match error {
        SocksServerError::Io { source, .. } => source,
        other => io::Error::new(io::ErrorKind::InvalidData, other.to_string()),
    }
}

/// Clients send addresses as names too (`curl --socks5-hostname`), which need no resolving.
fn target(wanted: TargetAddr) -> io::Result<Target> {
    match wanted {
        TargetAddr::Ip(address) => Ok(address.into()),
        TargetAddr::Domain(name, port) => Ok(Target {
            host: Host::parse(&name)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?,
            port,
        }),
    }
}

/// What the client is told.
fn reply(error: &io::Error) -> ReplyError {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => ReplyError::ConnectionRefused,
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::NetworkDown => {
            ReplyError::NetworkUnreachable
        }
        io::ErrorKind::HostUnreachable | io::ErrorKind::TimedOut | io::ErrorKind::NotFound => {
            ReplyError::HostUnreachable
        }
        // Among them: addresses that no tunnel leads to.
        io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput => {
            ReplyError::ConnectionNotAllowed
        }
        io::ErrorKind::InvalidData => ReplyError::AddressTypeNotSupported,
        // Among them: names, without a server to ask.
        io::ErrorKind::Unsupported | io::ErrorKind::AddrNotAvailable => ReplyError::HostUnreachable,
        _ => ReplyError::GeneralFailure,
    }
}
