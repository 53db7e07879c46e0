//! Drivers over real UDP sockets: the loops that the documentation describes.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tsc_osaa::dtls::{
    DtlsEndpointEvent, DtlsError, DtlsEvent, DtlsInfo, DtlsServerEndpoint, DtlsSession,
    MAX_PLAINTEXT,
};

pub const PATIENCE: Duration = Duration::from_secs(30);

struct Bell(Notify);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }
}

fn bell() -> (Arc<Bell>, Waker) {
    let bell = Arc::new(Bell(Notify::new()));
    (Arc::clone(&bell), Waker::from(bell))
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// A server that echoes on a port of the system's choice, and what it reports.
pub struct EchoServer {
    pub address: SocketAddr,
    pub events: mpsc::UnboundedReceiver<DtlsEndpointEvent>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl EchoServer {
    pub async fn start(endpoint: DtlsServerEndpoint) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        let (report, events) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel();
        Self {
            address,
            events,
            stop: Some(stop),
            task: tokio::spawn(serve(socket, endpoint, report, stopped)),
        }
    }

    /// Closes all associations and ends when that is done.
    pub async fn stop(mut self) {
        let _ = self.stop.take().unwrap().send(());
        tokio::time::timeout(PATIENCE, self.task)
            .await
            .unwrap()
            .unwrap();
    }

    pub async fn event(&mut self) -> DtlsEndpointEvent {
        tokio::time::timeout(PATIENCE, self.events.recv())
            .await
            .unwrap()
            .unwrap()
    }
}

async fn serve(
    socket: UdpSocket,
    mut endpoint: DtlsServerEndpoint,
    report: mpsc::UnboundedSender<DtlsEndpointEvent>,
    mut stop: oneshot::Receiver<()>,
) {
    let (bell, waker) = bell();
    endpoint.set_waker(&waker);
    let mut datagram = vec![0; 65_536];
    let mut plaintext = vec![0; MAX_PLAINTEXT];
    let mut out = Vec::new();
    let mut stopping = false;
    loop {
        let mut readable = Vec::new();
        tokio::select! {
            received = socket.recv_from(&mut datagram) => {
                // A peer that is gone shows as an error of the socket; the next datagram is another peer's.
                if let Ok((length, peer)) = received {
                    readable.extend(endpoint.handle_datagram(Instant::now(), peer, &datagram[..length]));
                }
            }
            () = bell.0.notified() => {}
            () = sleep_until(endpoint.poll_timeout()) => endpoint.handle_timeout(Instant::now()),
            _ = &mut stop, if !stopping => {
                stopping = true;
                endpoint.close_all(Instant::now());
            }
        }
        loop {
            while let Some(event) = endpoint.poll_event() {
                match &event {
                    DtlsEndpointEvent::Connected { key, .. }
                    | DtlsEndpointEvent::Readable { key } => readable.push(*key),
                    _ => {}
                }
                if !matches!(event, DtlsEndpointEvent::Readable { .. }) {
                    let _ = report.send(event);
                }
            }
            let Some(key) = readable.pop() else {
                break;
            };
            while let Some(length) = endpoint.recv(key, &mut plaintext) {
                let _ = endpoint.send(key, &plaintext[..length]);
            }
        }
        while let Some(transmit) = endpoint.poll_transmit(&mut out) {
            let _ = socket.send_to(&out, transmit.peer).await;
            out.clear();
        }
        if stopping && endpoint.stats().associations == 0 {
            return;
        }
    }
}

/// A client session on a connected socket.
pub struct UdpClient {
    pub session: Box<dyn DtlsSession>,
    pub socket: UdpSocket,
    bell: Arc<Bell>,
}

/// What a client sees next.
#[derive(Debug)]
pub enum Seen {
    Connected(DtlsInfo),
    Data(Vec<u8>),
    Closed(DtlsError),
}

impl UdpClient {
    pub async fn start(session: Box<dyn DtlsSession>, server: SocketAddr) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        socket.connect(server).await.unwrap();
        Self::on(socket, session)
    }

    /// With the socket of an earlier client.
    pub fn on(socket: UdpSocket, mut session: Box<dyn DtlsSession>) -> Self {
        let (bell, waker) = bell();
        session.set_waker(&waker);
        Self {
            session,
            socket,
            bell,
        }
    }

    /// The next thing that happens, within patience.
    pub async fn next(&mut self) -> Seen {
        tokio::time::timeout(PATIENCE, self.next_unbounded())
            .await
            .expect("nothing happened")
    }

    async fn next_unbounded(&mut self) -> Seen {
        let mut datagram = vec![0; 65_536];
        let mut plaintext = vec![0; MAX_PLAINTEXT];
        loop {
            let event = self.session.poll_event();
            let received = match event {
                None => self.session.recv(&mut plaintext),
                Some(_) => None,
            };
            self.flush().await;
            match event {
                Some(DtlsEvent::Connected(info)) => return Seen::Connected(info),
                Some(DtlsEvent::Closed(error)) => return Seen::Closed(error),
                None => {}
            }
            if let Some(length) = received {
                return Seen::Data(plaintext[..length].to_vec());
            }
            // Receiving may have met the end.
            if let Some(DtlsEvent::Closed(error)) = self.session.poll_event() {
                self.flush().await;
                return Seen::Closed(error);
            }
            tokio::select! {
                received = self.socket.recv(&mut datagram) => {
                    if let Ok(length) = received {
                        self.session.handle_datagram(Instant::now(), &datagram[..length]);
                    }
                }
                () = self.bell.0.notified() => {}
                () = sleep_until(self.session.poll_timeout()) => {
                    self.session.handle_timeout(Instant::now());
                }
            }
        }
    }

    /// Keeps the session going while something else is waited for. Nothing may happen that `next` would report.
    pub async fn drive_while<T>(&mut self, wait: impl Future<Output = T>) -> T {
        tokio::select! {
            result = wait => result,
            seen = self.next_unbounded() => panic!("{seen:?}"),
        }
    }

    pub async fn flush(&mut self) {
        let mut out = Vec::new();
        while self.session.poll_transmit(&mut out).is_some() {
            let _ = self.socket.send(&out).await;
            out.clear();
        }
    }
}
