//! The handle of a tunnel.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "enums of other crates that may grow"
)]

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use tokio::sync::{oneshot, watch};
use tsc_csm::{Prefix, client::DownReason};
use tsc_osaa::trace::CaptureStats;

use crate::{
    TunnelConfig,
    builder::TunnelBuilder,
    driver::Driver,
    error::{CloseError, ConnectError, LookupError, ServiceError, SocketError, TraceError},
    linger::{self, Key, Lingering},
    lookup,
    notification::{Notification, Notifications},
    peers::PeerPackets,
    routed::{self, PacketSocket},
    server::Server,
    shared::{Command, Shared},
    tcp::{TcpListener, TcpStream},
    trace::{self, TraceOptions},
    udp::UdpSocket,
};

/// How long a dropped tunnel tries to tell the server.
const RELEASE_ON_DROP: Duration = Duration::from_secs(2);

/// Whether an application is in use; for [`Tunnel::set_activity`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activity {
    /// Somebody waits for what happens next.
    #[default]
    Foreground,
    /// Nobody looks: battery and radio count.
    Background,
}

/// A tunnel that is up, or is being resumed after it lost its transport.
///
/// Only this type opens inner sockets, so "not connected yet" is no error one can meet. Dropping it releases
/// the tunnel in the background; [`Tunnel::close`] does so and waits.
#[derive(Debug)]
pub struct Tunnel {
    shared: Arc<Shared>,
    config: watch::Receiver<Arc<TunnelConfig>>,
    end: EndOnDrop,
}

/// Releases the tunnel when its handle is dropped, or the future that was opening it; or lets it linger.
#[derive(Debug)]
struct EndOnDrop {
    shared: Arc<Shared>,
    linger: Option<(Duration, Lingering)>,
}

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        if let Some((time, lingering)) = self.linger.take()
            && self.shared.is_unused()
            && linger::keep(lingering).is_ok()
        {
            self.shared.command(Command::Linger(time));
        } else {
            self.shared.command(Command::Release(RELEASE_ON_DROP));
        }
    }
}

impl EndOnDrop {
    const fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            linger: None,
        }
    }
}

impl Tunnel {
    fn new(
        config: watch::Receiver<Arc<TunnelConfig>>,
        mut end: EndOnDrop,
        lingers: Option<(Duration, Key)>,
    ) -> Self {
        let shared = Arc::clone(&end.shared);
        end.linger = lingers.map(|(time, key)| {
            let lingering = Lingering {
                key,
                shared: Arc::clone(&shared),
                config: config.clone(),
            };
            (time, lingering)
        });
        Self {
            shared,
            config,
            end,
        }
    }

    /// Starts describing a tunnel to `server`.
    pub fn builder(server: Server) -> TunnelBuilder {
        TunnelBuilder::new(server)
    }

    pub(crate) const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The configuration that the server assigned, as of the last configuration or resume.
    ///
    /// After the end of the tunnel this is its last one.
    #[must_use]
    pub fn config(&self) -> Arc<TunnelConfig> {
        Arc::clone(&self.config.borrow())
    }

    /// Opens a UDP socket inside the tunnel. `local` is one of the tunnel's addresses or the unspecified
    /// address; port 0 lets the stack choose.
    ///
    /// # Errors
    ///
    /// [`SocketError`] inside: the address is not the tunnel's, the port is taken, or the tunnel is over.
    pub fn bind_udp(&self, local: SocketAddr) -> io::Result<UdpSocket> {
        UdpSocket::bind(&self.shared, local)
    }

    /// Connects to `peer` over TCP inside the tunnel; as [`TcpStream::connect`].
    ///
    /// # Errors
    ///
    /// As [`TcpStream::connect`].
    pub async fn connect_tcp(&self, peer: SocketAddr) -> io::Result<TcpStream> {
        TcpStream::connect(self, peer).await
    }

    /// Opens a listener for TCP connections inside the tunnel; as [`TcpListener::bind`].
    ///
    /// # Errors
    ///
    /// As [`TcpListener::bind`].
    pub fn bind_tcp(&self, local: SocketAddr) -> io::Result<TcpListener> {
        TcpListener::bind(self, local)
    }

    /// Asks the DNS servers assigned to this tunnel for the addresses of `host`, those that the tunnel has a family for,
    /// IPv6 first. Questions and answers travel inside the tunnel; nothing is asked of, or told to, the DNS of the
    /// network outside.
    ///
    /// The name is taken as a full one: nothing is appended. An address is its own answer. Nothing is remembered.
    /// The servers are asked in turn, each anew after one second, then two, then four; the whole takes
    /// [`LOOKUP_TIME`](crate::LOOKUP_TIME) at most. Dropping the future gives up.
    ///
    /// ```no_run
    /// # use tsc_tapi::{TcpStream, Tunnel};
    /// # async fn example(tunnel: &Tunnel) -> std::io::Result<()> {
    /// let addresses = tunnel.lookup_host("www.example.com", 80).await?;
    /// let stream = TcpStream::connect(tunnel, addresses[0]).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`LookupError`]; a successful answer has at least one address, and [`MAX_ADDRESSES`](crate::MAX_ADDRESSES) of
    /// each family at most.
    pub async fn lookup_host(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, LookupError> {
        lookup::lookup_host(&self.shared, &self.config(), host, port).await
    }

    /// Asks the server to route these prefixes to this tunnel, as to a gateway (service STG); none stands for all that
    /// the server has configured for this client. Their packets then come and go through the socket, of which a
    /// tunnel has one at most.
    ///
    /// ```no_run
    /// # use tsc_tapi::{PacketBatch, Tunnel};
    /// # async fn example(tunnel: &Tunnel) -> Result<(), Box<dyn std::error::Error>> {
    /// let socket = tunnel.request_routed_prefixes(&["192.168.7.0/24".parse()?]).await?;
    /// let mut batch = PacketBatch::new();
    /// loop {
    ///     socket.recv_batch(&mut batch).await?;
    ///     for packet in batch.iter() {
    ///         println!("{} bytes for {:?}", packet.len(), socket.prefixes());
    ///     }
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ServiceError`]: the prefixes cannot be routed, the server says no or nothing, or there is a socket already.
    pub async fn request_routed_prefixes(
        &self,
        prefixes: &[Prefix],
    ) -> Result<PacketSocket, ServiceError> {
        routed::request(&self.shared, prefixes).await
    }

    /// What happens to the tunnel from now on. [`TunnelBuilder::notifications`] shows the way up too.
    #[must_use]
    pub fn notifications(&self) -> Notifications {
        Notifications::new(self.shared.subscribe())
    }

    /// Inner packets that went to other clients of the server, and came from them, over peer tunnels since this tunnel is up:
    /// of all sockets, and of peer tunnels that are over too.
    #[must_use]
    pub fn peer_packets(&self) -> PeerPackets {
        self.shared.lock().peer_counts.all()
    }

    /// Why the tunnel is over, as soon as sockets say so; `None` while it lives. [`Self::closed`] also waits for its transport's end.
    #[must_use]
    pub fn down_reason(&self) -> Option<DownReason> {
        let state = self.shared.lock();
        state.down.clone()
    }

    /// Waits until the tunnel is over, and says why.
    pub async fn closed(&self) -> DownReason {
        self.shared.closed().await
    }

    /// Tells the tunnel that the network has changed, so that it checks its transport at once, and moves to the new network while
    /// the old one still works if it can. On Linux that is noticed without being told (feature `netwatch`).
    pub fn network_changed(&self) {
        self.shared.command(Command::NetworkChanged);
    }

    /// Tells the tunnel whether the host has a network, where the platform tells its applications: without one nothing is tried.
    pub fn set_network_available(&self, available: bool) {
        self.shared.command(Command::NetworkAvailable(available));
    }

    /// Tells the tunnel whether anybody uses the application. In the background it sends as little as the server allows.
    pub fn set_activity(&self, activity: Activity) {
        self.shared.command(Command::Activity(activity));
    }

    /// Writes inner packets and control messages to a new pcapng file at `path` from now on, as
    /// [`TunnelBuilder::trace`] does from the beginning. A file that was being written is completed before. In effect when this is ready, until
    /// [`Self::stop_trace`] or the end of the tunnel.
    ///
    /// Of transports that are open already, outer packets begin in the middle of a connection, and their secrets are never had: what
    /// is to be decrypted must be traced from before the transport was opened.
    ///
    /// # Errors
    ///
    /// [`TraceError`]; then nothing is written any more. Of a tunnel that is over no file is touched.
    pub fn start_trace<P: Into<PathBuf>>(
        &self,
        path: P,
        options: TraceOptions,
    ) -> impl Future<Output = Result<(), TraceError>> + Send + use<P> {
        trace::start(Arc::clone(&self.shared), path.into(), options)
    }

    /// Writes nothing more, and completes the file, with whatever is on the wire by now (but the goodbyes of transports that are being
    /// closed; and of a tunnel whose runtime nobody drives, what there is after a second). Tells how many packets it has and how many are missing;
    /// `None` if nothing was being written, or the end of the tunnel completes it.
    ///
    /// # Errors
    ///
    /// The file could not be written to its end.
    pub fn stop_trace(
        &self,
    ) -> impl Future<Output = Result<Option<CaptureStats>, TraceError>> + Send + use<> {
        trace::stop(Arc::clone(&self.shared))
    }

    /// The address to bind for reaching `peer`: the tunnel's first of the same family.
    ///
    /// # Errors
    ///
    /// [`SocketError::Family`] when the tunnel has none of that family.
    pub fn local_address_for(&self, peer: SocketAddr) -> io::Result<IpAddr> {
        let config = self.config();
        let address = if peer.is_ipv4() {
            config.ipv4()
        } else {
            config.ipv6()
        };
        address.ok_or_else(|| SocketError::Family(peer).into())
    }

    /// Releases the tunnel and waits for the server's answer and the orderly end of the transport, at most for
    /// `deadline`. Half of that may be spent before on delivering what was written to TCP connections that were
    /// dropped since; those still held by the application end at once.
    ///
    /// # Errors
    ///
    /// The server did not confirm in time, or the tunnel was over already. It is closed in any case.
    pub async fn close(mut self, deadline: Duration) -> Result<(), CloseError> {
        self.end.linger = None;
        let over = self.shared.down.borrow().clone();
        if let Some(reason) = over {
            return Err(CloseError::AlreadyDown(reason));
        }
        self.shared.command(Command::Release(deadline));
        match self.shared.closed().await {
            DownReason::Released { confirmed: true } => Ok(()),
            DownReason::Released { confirmed: false } => Err(CloseError::NotConfirmed),
            other => Err(CloseError::AlreadyDown(other)),
        }
    }
}

/// Opens the tunnel that `builder` describes.
pub(crate) async fn open(builder: TunnelBuilder) -> Result<Tunnel, ConnectError> {
    // Who may use a proxy is for the proxy to say, each time.
    let lingers = !builder.linger.is_zero() && builder.proxy.is_direct();
    let lingers = lingers.then(|| (builder.linger, Key::of(&builder)));
    if let Some((_, key)) = lingers
        && let Some(Lingering { shared, config, .. }) = linger::take(key)
    {
        shared.hand_over(builder.notifications);
        shared.command(Command::NetworkAvailable(true));
        shared.command(Command::Activity(Activity::Foreground));
        shared.notify(Notification::Up(Arc::clone(&config.borrow())));
        return Ok(Tunnel::new(config, EndOnDrop::new(shared), lingers));
    }
    let (up, is_up) = oneshot::channel();
    let (driver, shared) = Driver::new(builder, up)?;
    let end = EndOnDrop::new(shared);
    tokio::spawn(driver.run());
    let config = is_up.await.map_err(|_| ConnectError::RuntimeGone)??;
    Ok(Tunnel::new(config, end, lingers))
}
