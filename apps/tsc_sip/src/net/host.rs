//! The host's own network: no tunnel.

use std::{
    future, io,
    net::{IpAddr, SocketAddr},
};

use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::{InnerListener, InnerNet, InnerSocket};

/// Sockets of the host at one address.
#[derive(Clone, Copy, Debug)]
pub struct HostNet {
    address: IpAddr,
}

impl HostNet {
    /// The network as seen from this address of the host.
    #[must_use]
    pub const fn new(address: IpAddr) -> Self {
        Self { address }
    }
}

impl InnerNet for HostNet {
    type Socket = UdpSocket;
    type Stream = TcpStream;
    type Listener = TcpListener;

    async fn bind_udp(&self, local: SocketAddr) -> io::Result<UdpSocket> {
        UdpSocket::bind(local).await
    }

    async fn connect_tcp(&self, peer: SocketAddr) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(peer).await?;
        // As inside a tunnel: a small message does not wait for an acknowledgement.
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn bind_tcp(&self, local: SocketAddr) -> io::Result<TcpListener> {
        TcpListener::bind(local).await
    }

    fn addresses(&self) -> Vec<IpAddr> {
        vec![self.address]
    }

    fn sip_servers(&self) -> Vec<SocketAddr> {
        Vec::new()
    }

    async fn lost(&self) -> String {
        // The host's network does not go away as a tunnel does.
        future::pending().await
    }
}

impl InnerListener for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, peer) = Self::accept(self).await?;
        stream.set_nodelay(true)?;
        Ok((stream, peer))
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
}
