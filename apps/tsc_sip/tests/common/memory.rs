//! A network in memory: any number of hosts and connections, without descriptors and ports of the machine.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};

use tokio::{
    io::DuplexStream,
    sync::{Mutex as AsyncMutex, mpsc},
};
use tsc_sip::net::{InnerListener, InnerNet, InnerSocket};

/// Bytes on their way in a connection.
const WINDOW: usize = 16_384;
/// Datagrams on their way to a socket; further ones are lost. Connections that wait to be accepted.
const QUEUE: usize = 4096;

type Datagrams = mpsc::Sender<(Vec<u8>, SocketAddr)>;
type Connections = mpsc::Sender<(DuplexStream, SocketAddr)>;

#[derive(Default)]
struct Tables {
    udp: HashMap<SocketAddr, Datagrams>,
    tcp: HashMap<SocketAddr, Connections>,
    port: u16,
}

impl Tables {
    fn local(&mut self, wanted: SocketAddr) -> SocketAddr {
        if wanted.port() != 0 {
            return wanted;
        }
        self.port = self.port.max(20_000).checked_add(1).unwrap_or(20_000);
        SocketAddr::new(wanted.ip(), self.port)
    }
}

/// All hosts.
#[derive(Clone, Default)]
pub(crate) struct Memory(Arc<Mutex<Tables>>);

/// One host.
#[derive(Clone)]
pub(crate) struct Host {
    network: Memory,
    ip: IpAddr,
}

impl Memory {
    pub(crate) fn host(&self, ip: impl Into<IpAddr>) -> Arc<Host> {
        let network = self.clone();
        let ip = ip.into();
        Arc::new(Host { network, ip })
    }

    /// Where TCP is listened to.
    pub(crate) fn listeners(&self) -> Vec<SocketAddr> {
        self.0.lock().unwrap().tcp.keys().copied().collect()
    }
}

pub(crate) struct Socket {
    host: Host,
    local: SocketAddr,
    datagrams: AsyncMutex<mpsc::Receiver<(Vec<u8>, SocketAddr)>>,
}

pub(crate) struct Listener {
    host: Host,
    local: SocketAddr,
    connections: AsyncMutex<mpsc::Receiver<(DuplexStream, SocketAddr)>>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.host.network.0.lock().unwrap().udp.remove(&self.local);
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.host.network.0.lock().unwrap().tcp.remove(&self.local);
    }
}

impl InnerNet for Host {
    type Socket = Socket;
    type Stream = DuplexStream;
    type Listener = Listener;

    async fn bind_udp(&self, local: SocketAddr) -> io::Result<Socket> {
        let mut tables = self.network.0.lock().unwrap();
        let local = tables.local(local);
        let (sender, datagrams) = mpsc::channel(QUEUE);
        tables.udp.insert(local, sender);
        Ok(Socket {
            host: self.clone(),
            local,
            datagrams: AsyncMutex::new(datagrams),
        })
    }

    async fn bind_tcp(&self, local: SocketAddr) -> io::Result<Listener> {
        let mut tables = self.network.0.lock().unwrap();
        let local = tables.local(local);
        let (sender, connections) = mpsc::channel(QUEUE);
        tables.tcp.insert(local, sender);
        Ok(Listener {
            host: self.clone(),
            local,
            connections: AsyncMutex::new(connections),
        })
    }

    async fn connect_tcp(&self, peer: SocketAddr) -> io::Result<DuplexStream> {
        let (listener, local) = {
            let mut tables = self.network.0.lock().unwrap();
            let local = tables.local(SocketAddr::new(self.ip, 0));
            (tables.tcp.get(&peer).cloned(), local)
        };
        let listener = listener.ok_or(io::ErrorKind::ConnectionRefused)?;
        let (ours, theirs) = tokio::io::duplex(WINDOW);
        let refused = |_| io::ErrorKind::ConnectionRefused;
        listener.send((theirs, local)).await.map_err(refused)?;
        Ok(ours)
    }

    fn addresses(&self) -> Vec<IpAddr> {
        vec![self.ip]
    }

    fn sip_servers(&self) -> Vec<SocketAddr> {
        Vec::new()
    }

    async fn lost(&self) -> String {
        std::future::pending().await
    }
}

impl InnerListener for Listener {
    type Stream = DuplexStream;

    async fn accept(&self) -> io::Result<(DuplexStream, SocketAddr)> {
        let next = self.connections.lock().await.recv().await;
        next.ok_or_else(|| io::ErrorKind::ConnectionAborted.into())
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }
}

impl InnerSocket for Socket {
    async fn connect(&self, _: SocketAddr) -> io::Result<()> {
        Ok(())
    }

    async fn send_to(&self, payload: &[u8], to: SocketAddr) -> io::Result<usize> {
        // As an inner stack does.
        if to.ip().is_loopback() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let peer = self.host.network.0.lock().unwrap().udp.get(&to).cloned();
        if let Some(peer) = peer {
            let _ = peer.try_send((payload.to_vec(), self.local));
        }
        Ok(payload.len())
    }

    async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let next = self.datagrams.lock().await.recv().await;
        let (bytes, from) = next.ok_or(io::ErrorKind::ConnectionAborted)?;
        let length = bytes.len().min(buffer.len());
        buffer[..length].copy_from_slice(&bytes[..length]);
        Ok((length, from))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }
}
