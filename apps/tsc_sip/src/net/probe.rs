//! Finding out that nobody is there.
//!
//! A SIP socket talks to everybody, and a socket without a fixed peer is told of no ICMP error. So when three copies of
//! a request are unanswered, a socket with that one peer sends an empty keepalive (RFC 5626 4.4.1; every SIP server skips
//! it): if the answer is an ICMP error, the request can fail now, 1.5 s after its start, and not after 32 s.
//!
//! The keepalive has another source port than the request. A firewall could refuse the one and let the other pass, so
//! the error alone proves nothing; together with three copies that brought no answer it is believed.

use std::{
    future::{self, Future},
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use super::{InnerNet, InnerSocket, is_unreachable};

/// How long an ICMP error may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// What is sent: nothing that a SIP server would act on.
const KEEPALIVE: &[u8] = b"\r\n\r\n";

/// Probes one peer at a time. Those that are suspected meanwhile wait for their next repetition.
pub(crate) struct Prober<N> {
    net: Arc<N>,
    ip: IpAddr,
    running: Option<Pin<Box<dyn Future<Output = Option<SocketAddr>> + Send>>>,
}

impl<N: InnerNet> Prober<N> {
    /// A prober that sends from this address.
    pub(crate) const fn new(net: Arc<N>, ip: IpAddr) -> Self {
        Self {
            net,
            ip,
            running: None,
        }
    }

    /// Nothing has come back from this peer: probes it, unless another probe is running.
    pub(crate) fn suspect(&mut self, peer: SocketAddr) {
        if self.running.is_none() {
            let net = Arc::clone(&self.net);
            self.running = Some(Box::pin(probe(net, self.ip, peer)));
        }
    }

    /// The next peer that cannot be reached. Cancel-safe.
    pub(crate) async fn unreachable(&mut self) -> SocketAddr {
        if let Some(running) = &mut self.running {
            let peer = running.await;
            self.running = None;
            if let Some(peer) = peer {
                return peer;
            }
        }
        // Nothing more to find out until somebody else is suspected, and then this is called anew.
        future::pending().await
    }
}

async fn probe<N: InnerNet>(net: Arc<N>, ip: IpAddr, peer: SocketAddr) -> Option<SocketAddr> {
    let listen = async {
        let socket = net.bind_udp(SocketAddr::new(ip, 0)).await?;
        socket.connect(peer).await?;
        socket.send_to(KEEPALIVE, peer).await?;
        let mut buffer = [0; KEEPALIVE.len()];
        socket.recv_from(&mut buffer).await
    };
    match tokio::time::timeout(PATIENCE, listen).await {
        Ok(Err(error)) if is_unreachable(&error) => {
            tracing::debug!(%peer, %error, "nobody there");
            Some(peer)
        }
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "not probed");
            None
        }
        // It answers, or nothing says that it cannot.
        Ok(Ok(_)) | Err(_) => None,
    }
}
