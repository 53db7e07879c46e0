//! The listeners on both sides, and the tunnels that come and go between them.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use serde::Serialize;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tsc_tapi::Tunnel;

use crate::{
    accept::{Shared, serve},
    cli::{Args, host_address},
    forward::{self, Forward, Protocol},
    http,
    net::{HostNet, Net, TunnelNet},
    socks, udp,
};

/// A port that is open now; the names are those of `--json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Opened {
    /// `socks5`, `http`, `local` or `remote`.
    pub kind: &'static str,
    /// Where.
    pub address: SocketAddr,
    /// The forward's target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// A port that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("{option} {address}: {error}")]
pub struct OpenError {
    option: &'static str,
    address: SocketAddr,
    #[source]
    error: io::Error,
}

/// Ports of this host. They stay open when the tunnel changes; dropping this closes them.
#[derive(Debug)]
pub struct HostSide {
    /// What is open.
    pub opened: Vec<Opened>,
    tasks: JoinSet<()>,
}

impl HostSide {
    /// Opens all ports of this host that are asked for.
    ///
    /// # Errors
    ///
    /// The first one that cannot be opened.
    pub async fn open(args: &Args, net: &TunnelNet, shared: &Shared) -> Result<Self, OpenError> {
        let mut this = Self {
            opened: Vec::new(),
            tasks: JoinSet::new(),
        };
        if let Some(address) = args.socks {
            let listener = this.listen("--socks", "socks5", address, None).await?;
            let (net, counters) = (net.clone(), Arc::clone(&shared.counters));
            this.tasks.spawn(serve(
                listener,
                shared.clone(),
                "socks",
                move |stream, _| socks::serve(stream, net.clone(), Arc::clone(&counters)),
            ));
        }
        if let Some(address) = args.http {
            let listener = this.listen("--http", "http", address, None).await?;
            let (net, counters) = (net.clone(), Arc::clone(&shared.counters));
            this.tasks
                .spawn(serve(listener, shared.clone(), "http", move |stream, _| {
                    http::serve(stream, net.clone(), Arc::clone(&counters))
                }));
        }
        for forward in &args.local {
            let address = host_address(forward);
            match forward.protocol {
                Protocol::Tcp => {
                    let listener = this.listen("-L", "local", address, Some(forward)).await?;
                    let target = forward.target.clone();
                    this.tasks.spawn(forward::forward(
                        listener,
                        net.clone(),
                        target,
                        shared.clone(),
                    ));
                }
                Protocol::Udp => {
                    let socket = bind(&HostNet, "-L", address).await?;
                    this.note(
                        "local",
                        socket.local_addr().unwrap_or(address),
                        Some(forward),
                    );
                    // All of them are this host's programs.
                    let tasks = &mut this.tasks;
                    spawn_udp(tasks, socket, net.clone(), forward, udp::PEERS, shared);
                }
            }
        }
        Ok(this)
    }

    async fn listen(
        &mut self,
        option: &'static str,
        kind: &'static str,
        address: SocketAddr,
        forward: Option<&Forward>,
    ) -> Result<TcpListener, OpenError> {
        let listener = HostNet.listen(address).await;
        let listener = listener.map_err(|error| OpenError {
            option,
            address,
            error,
        })?;
        self.note(kind, listener.local_addr().unwrap_or(address), forward);
        Ok(listener)
    }

    fn note(&mut self, kind: &'static str, address: SocketAddr, forward: Option<&Forward>) {
        let target = forward.map(|forward| forward.target.to_string());
        self.opened.push(Opened {
            kind,
            address,
            target,
        });
    }
}

/// Ports inside a tunnel; gone with it.
#[derive(Debug)]
pub struct TunnelSide {
    /// What is open.
    pub opened: Vec<Opened>,
    _tasks: JoinSet<()>,
}

impl TunnelSide {
    /// Opens all inner ports that are asked for.
    ///
    /// # Errors
    ///
    /// The first one that cannot be opened.
    pub async fn open(
        args: &Args,
        tunnel: &Arc<Tunnel>,
        shared: &Shared,
    ) -> Result<Self, OpenError> {
        let net = TunnelNet::of(Arc::clone(tunnel));
        let mut opened = Vec::new();
        let mut tasks = JoinSet::new();
        for forward in &args.remote {
            for address in inner_addresses(forward, tunnel) {
                let target = Some(forward.target.to_string());
                let bound = match forward.protocol {
                    Protocol::Tcp => {
                        let listener = net.listen(address).await;
                        let listener = listener.map_err(|error| OpenError {
                            option: "-R",
                            address,
                            error,
                        })?;
                        let bound = listener.local_addr();
                        let target = forward.target.clone();
                        tasks.spawn(forward::forward(listener, HostNet, target, shared.clone()));
                        bound
                    }
                    Protocol::Udp => {
                        let socket = bind(&net, "-R", address).await?;
                        let bound = socket.local_addr();
                        let most = udp::PEERS_PER_HOST;
                        spawn_udp(&mut tasks, socket, HostNet, forward, most, shared);
                        bound
                    }
                };
                let address = bound.unwrap_or(address);
                opened.push(Opened {
                    kind: "remote",
                    address,
                    target,
                });
            }
        }
        Ok(Self {
            opened,
            _tasks: tasks,
        })
    }
}

/// Where a remote forward listens: on every address that the tunnel has, if none is named.
fn inner_addresses(forward: &Forward, tunnel: &Tunnel) -> Vec<SocketAddr> {
    let config = tunnel.config();
    let any = [
        config.ipv4().map(|_| IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        config.ipv6().map(|_| IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
    ];
    let addresses = match forward.bind {
        Some(address) => vec![address],
        None => any.into_iter().flatten().collect(),
    };
    let with_port = |address| SocketAddr::new(address, forward.port);
    addresses.into_iter().map(with_port).collect()
}

async fn bind<N: Net>(
    net: &N,
    option: &'static str,
    address: SocketAddr,
) -> Result<N::Datagrams, OpenError> {
    let socket = net.bind(address).await;
    socket.map_err(|error| OpenError {
        option,
        address,
        error,
    })
}

fn spawn_udp<N: Net>(
    tasks: &mut JoinSet<()>,
    socket: impl crate::net::Datagrams,
    net: N,
    forward: &Forward,
    per_host: usize,
    shared: &Shared,
) {
    let target = forward.target.clone();
    let counters = Arc::clone(&shared.counters);
    tasks.spawn(async move {
        if let Err(error) = udp::forward(socket, net, target, per_host, counters).await {
            tracing::debug!(%error, "forward ended");
        }
    });
}

/// The tunnel of the moment, for those who outlive it.
#[derive(Debug)]
pub struct Current(watch::Sender<Option<Arc<Tunnel>>>);

impl Current {
    /// None yet, and the network that follows it.
    #[must_use]
    pub fn new() -> (Self, TunnelNet) {
        let (sender, receiver) = watch::channel(None);
        (Self(sender), TunnelNet::following(receiver))
    }

    /// From now on this one, or none until there is another.
    pub fn set(&self, tunnel: Option<Arc<Tunnel>>) {
        self.0.send_replace(tunnel);
    }
}
