//! A network that goes away in the middle of calls: they are reported and recorded all the same.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use common::{LOOPBACK, PATIENCE};
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::watch,
};
use tsc_sip::{
    client::{ClientError, ClientOptions, run_client},
    net::{HostNet, InnerNet, InnerSocket},
    report::Outcome,
    server::{ServerError, ServerOptions, SipServer},
    stop::Stop,
};

/// How far a network is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Up,
    /// Its sockets are closed, but it does not say so yet.
    Closed,
    Lost,
}

/// The host's network, until it is taken away.
struct FragileNet(watch::Sender<State>);

struct FragileSocket {
    inner: UdpSocket,
    state: watch::Receiver<State>,
}

impl FragileNet {
    fn new() -> Arc<Self> {
        Arc::new(Self(watch::Sender::new(State::Up)))
    }

    fn set(&self, state: State) {
        self.0.send_replace(state);
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
        TcpListener::bind(local).await
    }

    async fn bind_udp(&self, local: SocketAddr) -> io::Result<FragileSocket> {
        Ok(FragileSocket {
            inner: UdpSocket::bind(local).await?,
            state: self.0.subscribe(),
        })
    }

    fn addresses(&self) -> Vec<IpAddr> {
        vec![LOOPBACK]
    }

    fn sip_servers(&self) -> Vec<SocketAddr> {
        Vec::new()
    }

    async fn lost(&self) -> String {
        let mut state = self.0.subscribe();
        state.wait_for(|s| *s == State::Lost).await.unwrap();
        "pulled out".to_owned()
    }
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
        self.inner.send_to(payload, to).await
    }

    async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        tokio::select! {
            biased;
            error = self.closed() => Err(error),
            received = self.inner.recv_from(buffer) => received,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

/// Takes the network away: sockets first, its last words after that.
async fn pull(net: &FragileNet) {
    net.set(State::Closed);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    net.set(State::Lost);
}

fn caller(server: &SipServer) -> ClientOptions {
    let mut options = ClientOptions::new("alice", "play");
    options.sip_server = Some(server.address());
    options.duration = Some(PATIENCE);
    options
}

fn callee() -> ServerOptions {
    ServerOptions {
        sip_port: 0,
        ..ServerOptions::default()
    }
}

#[tokio::test]
async fn a_server_that_loses_its_network_reports_its_calls_and_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let net = FragileNet::new();
    let options = ServerOptions {
        record: Some(directory.path().to_owned()),
        ..callee()
    };
    let mut server = SipServer::start(Arc::clone(&net), options).await.unwrap();
    let options = caller(&server);
    let host = Arc::new(HostNet::new(LOOPBACK));
    let running = tokio::spawn(run_client(host, options, Stop::never()));
    tokio::time::timeout(PATIENCE, server.calls_up(1))
        .await
        .unwrap();

    pull(&net).await;
    let report = tokio::time::timeout(PATIENCE, server.next_report()).await;
    let report = report.unwrap().expect("a report of the call in progress");
    assert_eq!(report.outcome, Outcome::TunnelFailed);
    assert!(report.error.unwrap().contains("pulled out"));
    assert!(report.received > 0);
    let recording = std::fs::read(report.recording.unwrap().with_extension("ulaw")).unwrap();
    assert!(recording == report.heard && !recording.is_empty());
    let last = tokio::time::timeout(PATIENCE, server.next_report()).await;
    assert!(last.unwrap().is_none(), "ended by itself");
    let error = server.stop(PATIENCE).await.unwrap_err();
    assert!(
        matches!(&error, ServerError::Lost(why) if why == "pulled out"),
        "{error}"
    );
    assert_eq!(error.outcome().exit_code(), 3);
    running.abort();
}

#[tokio::test]
async fn a_caller_that_loses_its_network_reports_its_calls_and_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let host = Arc::new(HostNet::new(LOOPBACK));
    let mut server = SipServer::start(host, callee()).await.unwrap();
    let net = FragileNet::new();
    let mut options = caller(&server);
    options.record = Some(directory.path().to_owned());
    let running = tokio::spawn(run_client(Arc::clone(&net), options, Stop::never()));
    tokio::time::timeout(PATIENCE, server.calls_up(1))
        .await
        .unwrap();

    pull(&net).await;
    let report = tokio::time::timeout(PATIENCE, running).await.unwrap();
    let report = report.unwrap().unwrap();
    assert_eq!(report.outcome().exit_code(), 3);
    assert!(
        report.lost.as_ref().unwrap().contains("pulled out"),
        "{:?}",
        report.lost
    );
    let call = &report.calls[0];
    assert_eq!(call.outcome, Outcome::TunnelFailed);
    assert!(call.sent > 0 && call.duration_ms.is_some());
    let recording = std::fs::read(call.recording.as_ref().unwrap().with_extension("ulaw")).unwrap();
    assert!(recording == call.heard);
}

#[tokio::test]
async fn a_network_lost_while_registering_or_ringing_is_a_lost_network() {
    // A server that says nothing: the request is on its way when the network goes.
    let silent = UdpSocket::bind((LOOPBACK, 0)).await.unwrap();
    for register in [true, false] {
        let net = FragileNet::new();
        let mut options = ClientOptions::new("alice", "play");
        options.sip_server = Some(silent.local_addr().unwrap());
        options.register = register;
        let running = tokio::spawn(run_client(Arc::clone(&net), options, Stop::never()));
        let mut buffer = [0; 4096];
        let asked = tokio::time::timeout(PATIENCE, silent.recv_from(&mut buffer));
        asked.await.unwrap().unwrap();
        pull(&net).await;
        let result = tokio::time::timeout(PATIENCE, running)
            .await
            .unwrap()
            .unwrap();
        let outcome = match result {
            Ok(report) => report.outcome(),
            Err(error) => {
                assert!(matches!(&error, ClientError::Lost(why) if why == "pulled out"));
                error.outcome()
            }
        };
        assert_eq!(outcome.exit_code(), 3, "register: {register}");
    }
}
