//! Real SIP calls: a SIP server in the core, and callers that come to it through tunnels.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tsc_interop::{Namespace, address};
use tsc_sip::{
    client::{ClientOptions, run_client},
    net::InnerNet,
    report::{CallReport, Outcome},
    server::{ServerOptions, SipServer},
    stop::Stop,
};
use tsc_tapi::Tunnel;

use crate::{close, soon};

/// Speech of a call that is to show that calls can be made.
const SHORT: Duration = Duration::from_millis(300);

/// The core network as a host in there sees it.
#[derive(Debug)]
pub(crate) struct CoreNet(IpAddr);

impl InnerNet for CoreNet {
    type Socket = UdpSocket;
    type Stream = TcpStream;
    type Listener = TcpListener;

    async fn bind_udp(&self, local: SocketAddr) -> io::Result<UdpSocket> {
        let socket = Namespace::Core.enter(|| {
            let socket = std::net::UdpSocket::bind(local)?;
            socket.set_nonblocking(true)?;
            Ok::<_, io::Error>(socket)
        });
        UdpSocket::from_std(socket?)
    }

    async fn connect_tcp(&self, _: SocketAddr) -> io::Result<TcpStream> {
        // Nobody here calls by TCP.
        Err(io::ErrorKind::Unsupported.into())
    }

    async fn bind_tcp(&self, local: SocketAddr) -> io::Result<TcpListener> {
        let listener = Namespace::Core.enter(|| {
            let listener = std::net::TcpListener::bind(local)?;
            listener.set_nonblocking(true)?;
            Ok::<_, io::Error>(listener)
        });
        TcpListener::from_std(listener?)
    }

    fn addresses(&self) -> Vec<IpAddr> {
        vec![self.0]
    }

    fn sip_servers(&self) -> Vec<SocketAddr> {
        Vec::new()
    }

    async fn lost(&self) -> String {
        std::future::pending().await
    }
}

/// A registrar in the core, and users to call.
pub(crate) struct Callee {
    pub(crate) server: SipServer,
}

impl Callee {
    pub(crate) async fn start(ipv6: bool) -> Self {
        let address = if ipv6 {
            address::CORE_V6
        } else {
            address::CORE_V4
        };
        let net = Arc::new(CoreNet(address));
        let server = SipServer::start(net, ServerOptions::default()).await;
        Self {
            server: server.unwrap(),
        }
    }

    /// What a caller needs to know.
    pub(crate) fn caller(&self) -> ClientOptions {
        let mut options = ClientOptions::new("alice", "play");
        options.sip_server = Some(self.server.address());
        options
    }

    /// Registers and makes a call with media both ways through a tunnel, and closes that. Tells how it went.
    pub(crate) async fn call_through(&mut self, tunnel: Tunnel) -> String {
        let transport = tunnel.config().transport;
        let tunnel = Arc::new(tunnel);
        let mut options = self.caller();
        options.duration = Some(SHORT);
        let run = run_client(Arc::clone(&tunnel), options, Stop::never());
        let report = soon(run).await.unwrap();
        assert_eq!(report.outcome(), Outcome::Ok, "{report:?}");
        assert!(report.register_ms.is_some());
        let here = &report.calls[0];
        let there = soon(self.server.next_report()).await.unwrap();
        assert_eq!(there.outcome, Outcome::Ok, "{there:?}");
        for (from, to) in [(here, &there), (&there, here)] {
            assert!(from.sent >= 15, "{from:?}");
            assert_eq!(to.received, from.sent, "{from:?}\n{to:?}");
        }
        close(Arc::into_inner(tunnel).expect("nobody else has it")).await;
        summary(transport, here, &there)
    }
}

fn summary(transport: impl std::fmt::Display, here: &CallReport, there: &CallReport) -> String {
    let setup = here.setup_ms.unwrap_or_default();
    format!(
        "call over {transport}: set up in {setup:.0} ms, {} of {} and {} of {} packets heard",
        there.received, here.sent, here.received, there.sent
    )
}
