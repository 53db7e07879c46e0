//! Media and a download through one tunnel.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, UdpSocket},
    sync::watch,
    task::JoinHandle,
    time::interval,
};
use tsc_interop::{Namespace, address};
use tsc_tapi::{TcpStream, Tunnel, TunnelTransport};

use crate::{FRAME, close, heard::Heard, soon};

/// Sends every datagram back, in the core network.
pub(crate) fn echo() -> (SocketAddr, JoinHandle<()>) {
    let socket = Namespace::Core.enter(|| {
        let socket = std::net::UdpSocket::bind((address::CORE_V4, 0)).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    });
    let at = socket.local_addr().unwrap();
    let socket = UdpSocket::from_std(socket).unwrap();
    let task = tokio::spawn(async move {
        let mut buffer = [0; 2048];
        while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
            let _ = socket.send_to(&buffer[..len], from).await;
        }
    });
    (at, task)
}

/// Serves one endless download of bytes that count, in the core network.
pub(crate) fn source() -> (SocketAddr, JoinHandle<()>) {
    let listener = Namespace::Core.enter(|| {
        let listener = std::net::TcpListener::bind((address::CORE_V4, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        listener
    });
    let at = listener.local_addr().unwrap();
    let listener = TcpListener::from_std(listener).unwrap();
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut number = 0_u64;
                let mut pace = interval(Duration::from_millis(10));
                loop {
                    pace.tick().await;
                    let block: Vec<u8> =
                        (number..number + 512).flat_map(u64::to_be_bytes).collect();
                    number += 512;
                    if stream.write_all(&block).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (at, task)
}

/// Media both ways, and a download, in one tunnel.
pub(crate) struct Call {
    pub(crate) tunnel: Arc<Tunnel>,
    /// What came back.
    pub(crate) heard: Heard,
    stop: Arc<AtomicBool>,
    /// Packets that were sent.
    media: JoinHandle<u64>,
    download: JoinHandle<()>,
    /// Numbers that the download has brought; closed with it.
    numbers: watch::Receiver<u64>,
}

impl Call {
    pub(crate) async fn begin(tunnel: Tunnel, echo: SocketAddr, source: SocketAddr) -> Self {
        Self::over(tunnel, TunnelTransport::Main, echo, source).await
    }

    /// With the media where this says.
    pub(crate) async fn over(
        tunnel: Tunnel,
        transport: TunnelTransport,
        echo: SocketAddr,
        source: SocketAddr,
    ) -> Self {
        let tunnel = Arc::new(tunnel);
        let stop = Arc::new(AtomicBool::new(false));
        let heard = Heard::default();
        let socket = Arc::new(tunnel.bind_udp("0.0.0.0:0".parse().unwrap()).unwrap());
        socket.set_tunnel_transport(transport).unwrap();
        let listen = {
            let (socket, heard) = (Arc::clone(&socket), heard.clone());
            tokio::spawn(async move {
                let mut buffer = [0; 2048];
                while socket.recv_from(&mut buffer).await.is_ok() {
                    heard.note();
                }
            })
        };
        let media = {
            let stop = Arc::clone(&stop);
            tokio::spawn(async move {
                let mut pace = interval(FRAME);
                let mut sent = 0;
                while !stop.load(Ordering::Relaxed) {
                    pace.tick().await;
                    // While there is no transport packets wait, or are dropped.
                    let _ = socket.send_to(&[0; 172], echo).await;
                    sent += 1;
                }
                listen.abort();
                sent
            })
        };
        let mut stream = soon(TcpStream::connect(&tunnel, source)).await.unwrap();
        let (counter, numbers) = watch::channel(0);
        let download = {
            let stop = Arc::clone(&stop);
            tokio::spawn(async move {
                let (mut next, mut number) = (0, [0; 8]);
                while !stop.load(Ordering::Relaxed) {
                    stream.read_exact(&mut number).await.unwrap();
                    assert_eq!(u64::from_be_bytes(number), next, "not a byte is lost");
                    next += 1;
                    if next % 100 == 0 {
                        counter.send_replace(next);
                    }
                }
            })
        };
        // It is a call once something was heard.
        heard.more(1).await;
        Self {
            tunnel,
            heard,
            stop,
            media,
            download,
            numbers,
        }
    }

    /// Talks on for a second, then ends in order; returns the share of packets that came back.
    pub(crate) async fn end(mut self) -> f64 {
        self.heard.more(50).await;
        // The download goes on, too.
        let wanted = *self.numbers.borrow() + 2_000;
        let more = self.numbers.wait_for(|numbers| *numbers >= wanted);
        assert!(soon(more).await.is_ok(), "the download was cut");
        self.stop.store(true, Ordering::Relaxed);
        let sent = soon(self.media).await.unwrap();
        soon(self.download).await.unwrap();
        close(Arc::into_inner(self.tunnel).expect("nobody else has it")).await;
        self.heard.count() as f64 / sent as f64
    }
}
