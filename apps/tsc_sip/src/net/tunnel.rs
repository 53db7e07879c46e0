//! The inside of a tunnel. The sockets already look as they should: nothing here but forwarding.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use tsc_tapi::{Tunnel, UdpSocket};

use super::{InnerNet, InnerSocket};

impl InnerNet for Tunnel {
    type Socket = UdpSocket;

    async fn bind_udp(&self, local: SocketAddr) -> io::Result<UdpSocket> {
        Self::bind_udp(self, local)
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

impl InnerSocket for UdpSocket {
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
