//! The inside of a tunnel. The sockets already look as they should: nothing here but forwarding, and how a tunnel is
//! shown in the log.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::time::timeout;
use tsc_tapi::{
    Encryption, Notification, Notifications, Redundancy, Service, TcpListener, TcpStream, Tunnel,
    TunnelConfig, TunnelTransport, UdpSocket,
};

use super::{DirectPackets, InnerListener, InnerNet, InnerSocket, MediaServices};

/// How long a call waits for an encrypted tunnel.
const ENCRYPTION_TIME: Duration = Duration::from_secs(10);

impl InnerNet for Tunnel {
    type Socket = UdpSocket;
    type Stream = TcpStream;
    type Listener = TcpListener;

    async fn bind_udp(&self, local: SocketAddr) -> io::Result<UdpSocket> {
        Self::bind_udp(self, local)
    }

    async fn connect_tcp(&self, peer: SocketAddr) -> io::Result<TcpStream> {
        Self::connect_tcp(self, peer).await
    }

    async fn bind_tcp(&self, local: SocketAddr) -> io::Result<TcpListener> {
        Self::bind_tcp(self, local)
    }

    async fn serve(
        &self,
        socket: &UdpSocket,
        services: MediaServices,
        patience: Duration,
    ) -> io::Result<bool> {
        // From before the wish on, so that nothing is missed.
        let mut notifications = self.notifications();
        socket.set_services(services)?;
        let mut missing = Vec::new();
        if services.redundancy != Redundancy::Off {
            missing.push(Service::Redundancy);
        }
        // Of a tunnel of datagrams nothing is told.
        if services.transport != TunnelTransport::Main && self.config().transport.is_stream() {
            missing.push(Service::Ddt);
        }
        if missing.is_empty() || patience.is_zero() {
            return Ok(false);
        }
        let told = in_force(&mut notifications, socket.local_addr()?, missing);
        Ok(timeout(patience, told).await.unwrap_or(false))
    }

    fn addresses(&self) -> Vec<IpAddr> {
        let config = self.config();
        config.addresses.iter().map(|a| a.address).collect()
    }

    fn sip_servers(&self) -> Vec<SocketAddr> {
        self.config().sip_servers.clone()
    }

    async fn lost(&self) -> String {
        self.closed().await.to_string()
    }
}

/// Waits until these services are in force for a socket; false if one is not to be had.
async fn in_force(
    notifications: &mut Notifications,
    local: SocketAddr,
    mut missing: Vec<Service>,
) -> bool {
    while !missing.is_empty() {
        match notifications.recv().await {
            Some(Notification::Service {
                service,
                available,
                enabled,
                socket,
                ..
            }) if socket == local => {
                if !available && missing.contains(&service) {
                    return false;
                }
                missing.retain(|other| *other != service || !enabled);
            }
            Some(_) => {}
            None => return false,
        }
    }
    true
}

impl InnerListener for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        Self::accept(self).await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Self::local_addr(self)
    }
}

impl InnerSocket for UdpSocket {
    async fn connect(&self, peer: SocketAddr) -> io::Result<()> {
        Self::connect(self, peer).await
    }

    async fn send_to(&self, payload: &[u8], to: SocketAddr) -> io::Result<usize> {
        Self::send_to(self, payload, to).await
    }

    async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        Self::recv_from(self, buffer).await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Self::local_addr(self)
    }

    fn set_services(&self, services: MediaServices) -> io::Result<()> {
        self.set_redundancy(services.redundancy)?;
        self.set_tunnel_transport(services.transport)?;
        self.set_peer(services.peer)
    }

    fn direct(&self) -> DirectPackets {
        let packets = self.peer_packets();
        DirectPackets {
            sent: packets.sent,
            received: packets.received,
        }
    }

    async fn encrypt(&self, level: Encryption) -> io::Result<bool> {
        if !level.is_wanted() {
            return Ok(false);
        }
        self.set_encryption(level)?;
        match timeout(ENCRYPTION_TIME, self.encrypted()).await {
            Ok(Ok(_)) => Ok(true),
            Err(_) | Ok(Err(_)) if level == Encryption::Preferred => Ok(false),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

/// A tunnel's identifier as the tunnel server and `tsc-decode` show it, so that logs of both ends can be searched for it.
struct TunnelId(u64);

impl fmt::Display for TunnelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What the server assigned, on one line.
#[derive(Clone, Copy, Debug)]
pub struct ConfigSummary<'a>(pub &'a TunnelConfig);

impl fmt::Display for ConfigSummary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = self.0;
        write!(
            f,
            "{} over {}:",
            TunnelId(config.tunnel_id),
            config.transport
        )?;
        for inner in &config.addresses {
            write!(f, " address {}", inner.address)?;
        }
        for server in &config.sip_servers {
            write!(f, " SIP server {server}")?;
        }
        write!(f, " MTU {}", config.inner_mtu)?;
        if let Some(seen) = config.nat_view {
            write!(f, " seen as {seen}")?;
        }
        Ok(())
    }
}

/// What happened to a tunnel, on one line.
#[derive(Clone, Copy, Debug)]
pub struct NotificationSummary<'a>(pub &'a Notification);

impl fmt::Display for NotificationSummary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Notification::Up(config) = self.0 {
            write!(f, "up: {}", ConfigSummary(config))
        } else if let Notification::Resumed(config) = self.0 {
            write!(f, "resumed: {}", ConfigSummary(config))
        } else {
            // The others carry no identifier.
            write!(f, "{:?}", self.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_look_as_in_the_servers_log() {
        assert_eq!(TunnelId(0x1f_00ab).to_string(), "00000000001f00ab");
    }
}
