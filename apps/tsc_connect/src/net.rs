//! The two networks: the host's and the tunnel's.

use std::{
    fmt::Debug,
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};
use tsc_tapi::{SocketError, Tunnel};

use crate::streams::Reset;

/// A network in which connections can be opened and awaited.
pub trait Net: Clone + Debug + Send + Sync + 'static {
    /// A TCP connection.
    type Stream: AsyncRead + AsyncWrite + Reset + Debug + Send + Unpin + 'static;
    /// A TCP listener.
    type Listener: Listener<Stream = Self::Stream>;
    /// A UDP socket.
    type Datagrams: Datagrams;

    /// Connects.
    fn connect(&self, to: SocketAddr) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// Listens; port 0 lets the network choose.
    fn listen(&self, on: SocketAddr) -> impl Future<Output = io::Result<Self::Listener>> + Send;

    /// Opens a UDP socket; the unspecified address stands for all addresses of its version.
    fn bind(&self, on: SocketAddr) -> impl Future<Output = io::Result<Self::Datagrams>> + Send;

    /// The addresses of a name, in order of preference.
    fn resolve(&self, name: &str) -> impl Future<Output = io::Result<Vec<IpAddr>>> + Send;
}

/// A TCP listener.
pub trait Listener: Debug + Send + Sync + 'static {
    /// What it accepts.
    type Stream: Reset;

    /// The next connection, and who it is from. Cancel-safe.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, SocketAddr)>> + Send;

    /// Where it listens.
    ///
    /// # Errors
    ///
    /// What the network says.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// A UDP socket.
pub trait Datagrams: Debug + Send + Sync + 'static {
    /// Sends one datagram.
    fn send_to(
        &self,
        data: &[u8],
        to: SocketAddr,
    ) -> impl Future<Output = io::Result<usize>> + Send;

    /// Receives one datagram. Cancel-safe.
    fn recv_from(
        &self,
        buffer: &mut [u8],
    ) -> impl Future<Output = io::Result<(usize, SocketAddr)>> + Send;

    /// Where it is bound.
    ///
    /// # Errors
    ///
    /// What the network says.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// The host's network.
#[derive(Clone, Copy, Debug)]
pub struct HostNet;

/// The network at the other end of a tunnel.
#[derive(Clone, Debug)]
pub struct TunnelNet(watch::Receiver<Option<Arc<Tunnel>>>);

impl TunnelNet {
    /// That of one tunnel.
    #[must_use]
    pub fn of(tunnel: Arc<Tunnel>) -> Self {
        Self(watch::channel(Some(tunnel)).1)
    }

    /// That of the tunnel which there is when a connection is opened. While there is none, opening waits.
    pub(crate) const fn following(tunnel: watch::Receiver<Option<Arc<Tunnel>>>) -> Self {
        Self(tunnel)
    }

    async fn tunnel(&self) -> io::Result<Arc<Tunnel>> {
        let mut current = self.0.clone();
        let tunnel = match current.wait_for(Option::is_some).await {
            Ok(tunnel) => tunnel.clone(),
            // Nobody will open another one.
            Err(_) => None,
        };
        tunnel.ok_or_else(|| io::ErrorKind::NetworkDown.into())
    }

    /// Whether what failed in `tunnel` is to be tried again: it failed with the tunnel, after which there may be another.
    /// Waits until the tunnel is no longer the current one.
    async fn may_retry(&self, tunnel: Arc<Tunnel>, error: &io::Error) -> bool {
        if !matches!(SocketError::of(error), Some(SocketError::TunnelDown(_))) {
            return false;
        }
        let old = Arc::downgrade(&tunnel);
        drop(tunnel);
        let mut current = self.0.clone();
        let other = |now: &Option<Arc<Tunnel>>| {
            now.as_ref()
                .is_none_or(|now| !std::ptr::eq(Arc::as_ptr(now), old.as_ptr()))
        };
        current.wait_for(other).await.is_ok()
    }
}

macro_rules! net_types {
    ($net:ty, $stream:ty, $listener:ty, $datagrams:ty) => {
        impl Listener for $listener {
            type Stream = $stream;

            async fn accept(&self) -> io::Result<(Self::Stream, SocketAddr)> {
                <$listener>::accept(self).await
            }

            fn local_addr(&self) -> io::Result<SocketAddr> {
                <$listener>::local_addr(self)
            }
        }

        impl Datagrams for $datagrams {
            async fn send_to(&self, data: &[u8], to: SocketAddr) -> io::Result<usize> {
                <$datagrams>::send_to(self, data, to).await
            }

            async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
                <$datagrams>::recv_from(self, buffer).await
            }

            fn local_addr(&self) -> io::Result<SocketAddr> {
                <$datagrams>::local_addr(self)
            }
        }
    };
}

net_types!(
    HostNet,
    tokio::net::TcpStream,
    tokio::net::TcpListener,
    tokio::net::UdpSocket
);
net_types!(
    TunnelNet,
    tsc_tapi::TcpStream,
    tsc_tapi::TcpListener,
    tsc_tapi::UdpSocket
);

impl Net for HostNet {
    type Stream = tokio::net::TcpStream;
    type Listener = tokio::net::TcpListener;
    type Datagrams = tokio::net::UdpSocket;

    async fn connect(&self, to: SocketAddr) -> io::Result<Self::Stream> {
        let stream = tokio::net::TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn listen(&self, on: SocketAddr) -> io::Result<Self::Listener> {
        tokio::net::TcpListener::bind(on).await
    }

    async fn bind(&self, on: SocketAddr) -> io::Result<Self::Datagrams> {
        tokio::net::UdpSocket::bind(on).await
    }

    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let found = tokio::net::lookup_host((name, 0)).await?;
        Ok(found.map(|address| address.ip()).collect())
    }
}

impl Net for TunnelNet {
    type Stream = tsc_tapi::TcpStream;
    type Listener = tsc_tapi::TcpListener;
    type Datagrams = tsc_tapi::UdpSocket;

    async fn connect(&self, to: SocketAddr) -> io::Result<Self::Stream> {
        loop {
            let tunnel = self.tunnel().await?;
            match tunnel.connect_tcp(to).await {
                Err(error) if self.may_retry(tunnel, &error).await => {}
                result => return result,
            }
        }
    }

    async fn listen(&self, on: SocketAddr) -> io::Result<Self::Listener> {
        self.tunnel().await?.bind_tcp(on)
    }

    async fn bind(&self, on: SocketAddr) -> io::Result<Self::Datagrams> {
        self.tunnel().await?.bind_udp(on)
    }

    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        loop {
            let tunnel = self.tunnel().await?;
            let found = tunnel.lookup_host(name, 0).await;
            match found.map_err(io::Error::from) {
                Err(error) if self.may_retry(tunnel, &error).await => {}
                found => return Ok(found?.iter().map(SocketAddr::ip).collect()),
            }
        }
    }
}
