//! The host's network, until it is taken away; then another may take its place.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{Mutex, mpsc, watch},
};
use tsc_sip::net::{InnerNet, InnerSocket, RenewError};

/// Bytes of an RTP packet: 20 ms of G.711.
const RTP: usize = 172;

/// How far a network is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    Up,
    /// Its sockets are closed, but it does not say so yet.
    Closed,
    Lost,
}

type Successor = Result<Arc<FragileNet>, RenewError>;

pub(crate) struct FragileNet {
    address: IpAddr,
    state: watch::Sender<State>,
    /// RTP packets that went out, and that came in.
    media: Arc<watch::Sender<(u64, u64)>>,
    successor: mpsc::Sender<Successor>,
    successors: Mutex<mpsc::Receiver<Successor>>,
}

pub(crate) struct FragileSocket {
    inner: UdpSocket,
    state: watch::Receiver<State>,
    media: Arc<watch::Sender<(u64, u64)>>,
}

impl FragileNet {
    pub(crate) fn new(address: impl Into<IpAddr>) -> Arc<Self> {
        let (successor, successors) = mpsc::channel(1);
        Arc::new(Self {
            address: address.into(),
            state: watch::Sender::new(State::Up),
            media: Arc::default(),
            successor,
            successors: Mutex::new(successors),
        })
    }

    pub(crate) fn set(&self, state: State) {
        self.state.send_replace(state);
    }

    /// Takes the network away: sockets first, its last words after that.
    pub(crate) async fn pull(&self) {
        self.set(State::Closed);
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        self.set(State::Lost);
    }

    /// What takes its place; waited for until it is known.
    pub(crate) fn succeed(&self, successor: Successor) {
        self.successor.try_send(successor).unwrap();
    }

    /// RTP packets that came in so far.
    pub(crate) fn came(&self) -> u64 {
        self.media.borrow().1
    }

    /// Waits until so many RTP packets came in; so many have gone out by then.
    pub(crate) async fn heard(&self, packets: u64) -> u64 {
        let mut media = self.media.subscribe();
        media
            .wait_for(|(_, came)| *came >= packets)
            .await
            .unwrap()
            .0
    }
}

impl InnerNet for FragileNet {
    type Socket = FragileSocket;
    type Stream = TcpStream;
    type Listener = TcpListener;

    async fn connect_tcp(&self, peer: SocketAddr) -> io::Result<TcpStream> {
        TcpStream::connect(peer).await
    }

    async fn bind_tcp(&self, local: SocketAddr) -> io::Result<TcpListener> {
        free(local, || TcpListener::bind(local)).await
    }

    async fn bind_udp(&self, local: SocketAddr) -> io::Result<FragileSocket> {
        Ok(FragileSocket {
            inner: free(local, || UdpSocket::bind(local)).await?,
            state: self.state.subscribe(),
            media: Arc::clone(&self.media),
        })
    }

    fn addresses(&self) -> Vec<IpAddr> {
        vec![self.address]
    }

    fn sip_servers(&self) -> Vec<SocketAddr> {
        Vec::new()
    }

    async fn lost(&self) -> String {
        let mut state = self.state.subscribe();
        state.wait_for(|s| *s == State::Lost).await.unwrap();
        "pulled out".to_owned()
    }

    async fn renew(&self) -> Result<Arc<Self>, RenewError> {
        self.successors.lock().await.recv().await.unwrap()
    }
}

/// A fixed port of a network that was pulled is free in a moment.
async fn free<T, F>(local: SocketAddr, bind: impl Fn() -> F) -> io::Result<T>
where
    F: Future<Output = io::Result<T>>,
{
    let free = async {
        loop {
            match bind().await {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && local.port() != 0 => {
                    tokio::task::yield_now().await;
                }
                result => return result,
            }
        }
    };
    tokio::time::timeout(super::PATIENCE, free).await.unwrap()
}

impl FragileSocket {
    async fn closed(&self) -> io::Error {
        let mut state = self.state.clone();
        // An error means that the network itself was dropped.
        let _ = state.wait_for(|s| *s >= State::Closed).await;
        io::ErrorKind::ConnectionAborted.into()
    }
}

impl InnerSocket for FragileSocket {
    async fn connect(&self, peer: SocketAddr) -> io::Result<()> {
        self.inner.connect(peer).await
    }

    async fn send_to(&self, payload: &[u8], to: SocketAddr) -> io::Result<usize> {
        if *self.state.borrow() >= State::Closed {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        if payload.len() == RTP {
            self.media.send_modify(|(went, _)| *went += 1);
        }
        self.inner.send_to(payload, to).await
    }

    async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let received = tokio::select! {
            biased;
            error = self.closed() => Err(error),
            received = self.inner.recv_from(buffer) => received,
        };
        if let Ok((RTP, _)) = received {
            self.media.send_modify(|(_, came)| *came += 1);
        }
        received
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}
