//! SIP calls whose network changes, and whose tunnel server forgets everything: their media goes on.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::task::JoinHandle;
use tsc_interop::{Egress, Lab, Namespace, address, isolated};
use tsc_sip::{
    client::{ClientError, ClientReport, run_client},
    net::{InnerNet, InnerSocket, RenewError, RenewableTunnel, Tunnels},
    report::Outcome,
    stop::Stopper,
};

use crate::{
    LIMIT, ROUND_TRIP, TRANSPORTS, block_on, builder, builder_by, heard::Heard, lab, sip::Callee,
    soon, url,
};

/// An RTP packet with 20 ms of G.711.
const RTP: usize = 172;
/// How long another tunnel may take to come up.
const PATIENCE: Duration = Duration::from_secs(60);

/// A network that notes what is heard.
struct Listening<N> {
    net: Arc<N>,
    heard: Heard,
}

struct ListeningSocket<S> {
    socket: S,
    heard: Heard,
}

impl<N: InnerNet> InnerNet for Listening<N> {
    type Socket = ListeningSocket<N::Socket>;
    type Stream = N::Stream;
    type Listener = N::Listener;

    async fn bind_udp(&self, local: SocketAddr) -> io::Result<Self::Socket> {
        let socket = self.net.bind_udp(local).await?;
        let heard = self.heard.clone();
        Ok(ListeningSocket { socket, heard })
    }

    async fn connect_tcp(&self, peer: SocketAddr) -> io::Result<N::Stream> {
        self.net.connect_tcp(peer).await
    }

    async fn bind_tcp(&self, local: SocketAddr) -> io::Result<N::Listener> {
        self.net.bind_tcp(local).await
    }

    fn addresses(&self) -> Vec<IpAddr> {
        self.net.addresses()
    }

    fn sip_servers(&self) -> Vec<SocketAddr> {
        self.net.sip_servers()
    }

    async fn lost(&self) -> String {
        self.net.lost().await
    }

    async fn renew(&self) -> Result<Arc<Self>, RenewError> {
        let net = self.net.renew().await?;
        let heard = self.heard.clone();
        Ok(Arc::new(Self { net, heard }))
    }
}

impl<S: InnerSocket> InnerSocket for ListeningSocket<S> {
    async fn connect(&self, peer: SocketAddr) -> io::Result<()> {
        self.socket.connect(peer).await
    }

    async fn send_to(&self, payload: &[u8], to: SocketAddr) -> io::Result<usize> {
        self.socket.send_to(payload, to).await
    }

    async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let received = self.socket.recv_from(buffer).await;
        if let Ok((RTP, _)) = received {
            self.heard.note();
        }
        received
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

/// A caller in a call.
struct Caller {
    transport: &'static str,
    heard: Heard,
    stopper: Stopper,
    tunnels: Tunnels,
    running: JoinHandle<Result<ClientReport, ClientError>>,
}

impl Caller {
    async fn begin(lab: &Lab, callee: &Callee, transport: &'static str) -> Self {
        let server = [url(transport, address::EDGE_V4, 4567)];
        let first = soon(builder(lab, &server).connect()).await.unwrap();
        let authority = lab.authority();
        let (tunnels, net) = Tunnels::new(first, PATIENCE, move |_| {
            Ok(builder_by(authority.clone(), &server))
        });
        let heard = Heard::default();
        let listening: Listening<RenewableTunnel> = Listening {
            net,
            heard: heard.clone(),
        };
        let mut options = callee.caller();
        transport.clone_into(&mut options.user);
        options.duration = Some(2 * LIMIT);
        let (stopper, stop) = Stopper::new();
        let running = tokio::spawn(run_client(Arc::new(listening), options, stop));
        heard.more(25).await;
        Self {
            transport,
            heard,
            stopper,
            tunnels,
            running,
        }
    }
}

/// How long after a moment each caller hears something again.
async fn all_heard_since(callers: &[Caller], moment: Instant, what: &str, most: Duration) {
    for caller in callers {
        // What was on its way before does not count.
        let back = caller.heard.since(moment + ROUND_TRIP).await - moment;
        eprintln!("{}: heard {back:?} after {what}", caller.transport);
        assert!(back < most, "{}: {back:?} after {what}", caller.transport);
    }
    for caller in callers {
        caller.heard.more(25).await;
    }
}

#[test]
fn sip_calls_go_on_after_another_address_and_a_server_that_forgot_everything() {
    isolated(
        "sip_mid_call::sip_calls_go_on_after_another_address_and_a_server_that_forgot_everything",
        || {
            let (mut lab, _wire) = lab(ROUND_TRIP, Egress::Tun);
            block_on(async {
                let mut callee = Callee::start(false).await;
                let mut callers = Vec::new();
                for transport in TRANSPORTS {
                    callers.push(Caller::begin(&lab, &callee, transport).await);
                }
                soon(callee.server.calls_up(callers.len())).await;

                Namespace::Access.run("ip address del 192.0.2.2/24 dev outer");
                Namespace::Access.run("ip address add 192.0.2.3/24 dev outer");
                let good = Instant::now();
                all_heard_since(&callers, good, "another address", Duration::from_secs(3)).await;

                let stopped = Instant::now();
                lab.restart_server();
                let back = Instant::now();
                eprintln!("the server was away for {:?}", back - stopped);
                // In doubt, found out, opened, registered, answered: each takes some round trips.
                all_heard_since(&callers, back, "a restart", Duration::from_secs(10)).await;

                for caller in callers {
                    caller.stopper.stop();
                    let report = soon(caller.running).await.unwrap().unwrap();
                    assert_eq!(report.outcome(), Outcome::Ok, "{report:?}");
                    let [renewal] = report.renewals.as_slice() else {
                        panic!("{report:?}");
                    };
                    eprintln!(
                        "{}: another tunnel after {:.0} ms, registered after {:.0} ms",
                        caller.transport, renewal.tunnel_ms, renewal.ready_ms
                    );
                    assert_eq!(report.calls[0].moves, 1, "{report:?}");
                    let there = soon(callee.server.next_report()).await.unwrap();
                    assert_eq!((there.outcome, there.moves), (Outcome::Ok, 1), "{there:?}");
                    soon(caller.tunnels.close(Duration::from_secs(5)))
                        .await
                        .unwrap();
                }
            });
        },
    );
}
