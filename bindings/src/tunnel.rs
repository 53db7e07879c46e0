//! Tunnels.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use tokio::{
    sync::{RwLock, watch},
    task::{AbortHandle, JoinHandle},
};
use tsc_tapi::{
    CloseError, ConnectError, Notification, Notifications, TcpSocket, Tunnel as Inner,
    TunnelBuilder,
};

use crate::{
    address::{self, Address, TunnelConfiguration},
    client::RELEASE,
    engine::{Engine, listen, lock},
    error::{Result, TscError},
    event::{self, TunnelEnd, TunnelEvent, TunnelListener},
    service::PeerPackets,
    tcp::{TcpListener, TcpOptions, TcpStream},
    trace::{TraceSettings, TraceStats},
    udp::UdpSocket,
};

/// Connections that wait at a listener unless another number is given.
const BACKLOG: u32 = 64;

/// How far a tunnel has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum TunnelState {
    /// It is being opened.
    Opening,
    /// It is up, or being resumed after it has lost its transport.
    Open,
    /// It is over, or was never up.
    Over,
    /// The application has released it.
    Released,
}

/// Whether the application is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum Activity {
    /// Somebody waits for what happens next.
    Foreground,
    /// Nobody looks: battery and radio count.
    Background,
}

impl From<Activity> for tsc_tapi::Activity {
    fn from(activity: Activity) -> Self {
        match activity {
            Activity::Foreground => Self::Foreground,
            Activity::Background => Self::Background,
        }
    }
}

#[derive(Clone, Debug)]
enum Stage {
    Opening,
    /// It is up, or has been.
    Up,
    /// It was never up.
    Failed(TscError),
    Released,
}

/// What tunnels and their sockets share. Dropped without a release it is released in the background.
#[derive(Debug)]
pub(crate) struct Core {
    /// Until it is released.
    engine: Mutex<Option<Arc<Engine>>>,
    stage: watch::Sender<Stage>,
    inner: Arc<RwLock<Option<Inner>>>,
    connecting: Mutex<Option<AbortHandle>>,
    /// Tells the end of one that was never up.
    end: Mutex<Option<Notifications>>,
    hints: Mutex<Hints>,
}

/// What was said of the host while the tunnel was not up yet; it is told then.
#[derive(Clone, Copy, Debug, Default)]
struct Hints {
    network: Option<bool>,
    activity: Option<Activity>,
}

impl Hints {
    fn tell(self, tunnel: &Inner) {
        if let Some(available) = self.network {
            tunnel.set_network_available(available);
        }
        if let Some(activity) = self.activity {
            tunnel.set_activity(activity.into());
        }
    }
}

/// One that has begun.
pub(crate) struct Release {
    engine: Arc<Engine>,
    task: JoinHandle<Result<()>>,
}

impl Release {
    /// Waits for it, for so long.
    pub(crate) fn wait(self, limit: Duration) -> Result<()> {
        let Self { engine, task } = self;
        match engine.wait(Some(limit), task) {
            Some(Ok(released)) => released,
            _ => Err(TscError::late("the server did not confirm the release")),
        }
    }
}

impl Core {
    pub(crate) fn open(
        engine: &Arc<Engine>,
        builder: TunnelBuilder,
        listener: Option<Arc<dyn TunnelListener>>,
    ) -> Result<Arc<Self>> {
        let core = Arc::new(Self {
            engine: Mutex::new(Some(Arc::clone(engine))),
            stage: watch::Sender::new(Stage::Opening),
            inner: Arc::default(),
            connecting: Mutex::default(),
            end: Mutex::new(Some(builder.notifications())),
            hints: Mutex::default(),
        });
        if let Some(listener) = listener {
            let notifications = builder.notifications();
            let stage = core.stage.subscribe();
            let engine = Arc::clone(engine);
            listen("tsc-events", engine, listener, move |engine, listener| {
                tell_all(engine, notifications, stage, listener);
            })?;
        }
        let opening = Arc::downgrade(&core);
        let task = engine.handle().spawn(async move {
            let connected = builder.connect().await;
            if let Some(core) = opening.upgrade() {
                core.connected(connected).await;
            }
        });
        *lock(&core.connecting) = Some(task.abort_handle());
        Ok(core)
    }

    async fn connected(&self, connected: std::result::Result<Inner, ConnectError>) {
        // Decided under the lock, so that one that is being released does not come back.
        let mut inner = self.inner.write().await;
        self.stage.send_if_modified(|stage| {
            if !matches!(stage, Stage::Opening) {
                return false;
            }
            *stage = match connected {
                Ok(tunnel) => {
                    lock(&self.hints).tell(&tunnel);
                    *inner = Some(tunnel);
                    Stage::Up
                }
                Err(error) => Stage::Failed(error.into()),
            };
            true
        });
    }

    pub(crate) fn is_released(&self) -> bool {
        matches!(*self.stage.borrow(), Stage::Released)
    }

    /// What drives it, which stays while it is held.
    pub(crate) fn enter(&self) -> Result<Arc<Engine>> {
        lock(&self.engine).clone().ok_or(TscError::Released)
    }

    /// Resolves when it is released.
    pub(crate) fn released(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        let mut stage = self.stage.subscribe();
        async move {
            // Also when the core is gone.
            let _ = stage
                .wait_for(|stage| matches!(stage, Stage::Released))
                .await;
        }
    }

    /// Waits for something that needs the tunnel; it is given up when the tunnel is released, or after so long.
    pub(crate) fn wait<T>(
        &self,
        limit: Option<Duration>,
        future: impl Future<Output = Result<T>>,
    ) -> Result<Option<T>> {
        let engine = self.enter()?;
        let released = self.released();
        let outcome = engine.wait(limit, async {
            tokio::select! {
                biased;
                () = released => Err(TscError::Released),
                outcome = future => outcome,
            }
        });
        outcome.transpose()
    }

    /// Uses the tunnel, without waiting for the network.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&Inner) -> Result<T>) -> Result<T> {
        let engine = self.enter()?;
        let inner = engine.handle().block_on(self.inner.read());
        match &*inner {
            Some(tunnel) => work(tunnel),
            None => Err(self.missing()),
        }
    }

    /// Tells the tunnel something of the host, now or as soon as it is up.
    fn hint(&self, note: impl FnOnce(&mut Hints), tell: impl Fn(&Inner)) -> Result<()> {
        let tell = |tunnel: &Inner| {
            tell(tunnel);
            Ok(())
        };
        match self.with(tell) {
            Err(TscError::NotUp) => {
                note(&mut lock(&self.hints));
                // It may have come up meanwhile.
                match self.with(tell) {
                    Err(TscError::NotUp) => Ok(()),
                    told => told,
                }
            }
            told => told,
        }
    }

    fn missing(&self) -> TscError {
        match &*self.stage.borrow() {
            Stage::Opening => TscError::NotUp,
            Stage::Failed(error) => error.clone(),
            Stage::Up | Stage::Released => TscError::Released,
        }
    }

    /// Ends it; `None` if that was done before.
    pub(crate) fn begin_release(&self) -> Option<Release> {
        let engine = lock(&self.engine).take()?;
        self.stage.send_replace(Stage::Released);
        if let Some(connecting) = lock(&self.connecting).take() {
            connecting.abort();
        }
        let end = lock(&self.end).take();
        let inner = Arc::clone(&self.inner);
        let task = engine.handle().spawn(async move {
            let tunnel = inner.write().await.take();
            match (tunnel, end) {
                (Some(tunnel), _) => match tunnel.close(RELEASE).await {
                    // Over already is released as well.
                    Ok(()) | Err(CloseError::AlreadyDown(_)) => Ok(()),
                    Err(error) => Err(TscError::TimedOut(error.to_string())),
                },
                (None, Some(mut end)) => {
                    // The attempt that was given up says goodbye.
                    while let Some(news) = end.recv().await {
                        if matches!(news, Notification::Down(_)) {
                            break;
                        }
                    }
                    Ok(())
                }
                (None, None) => Ok(()),
            }
        });
        Some(Release { engine, task })
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        if let Some(release) = self.begin_release() {
            // Not in this thread, which may be one that must not wait. Without a thread the server finds out by itself.
            let ending = thread::Builder::new().name("tsc-release".to_owned());
            drop(ending.spawn(move || release.wait(RELEASE)));
        }
    }
}

/// The thread of a listener.
fn tell_all(
    engine: &Engine,
    mut notifications: Notifications,
    mut stage: watch::Receiver<Stage>,
    listener: &Arc<dyn TunnelListener>,
) {
    loop {
        // Nothing of the application runs inside the runtime, so that listeners may block.
        let next = engine.handle().block_on(async {
            let news = notifications.recv().await?;
            if matches!(news, Notification::Up(_)) {
                // It is told before whoever opens the tunnel has it, and the listener may use it.
                let _ = stage
                    .wait_for(|stage| !matches!(stage, Stage::Opening))
                    .await;
            }
            Some(news)
        });
        let Some(news) = next else { return };
        let is_last = matches!(news, Notification::Down(_));
        if let Some(event) = TunnelEvent::of(news) {
            event::tell(listener, event);
        }
        if is_last {
            return;
        }
    }
}

/// A tunnel, from the first attempt to open it. Sockets inside it live as long as it does. An object that is let go without
/// `release` is released in the background, when its sockets are let go as well.
#[derive(Debug, uniffi::Object)]
pub struct Tunnel {
    core: Arc<Core>,
}

impl Tunnel {
    pub(crate) fn of(core: Arc<Core>) -> Arc<Self> {
        Arc::new(Self { core })
    }
}

#[uniffi::export]
impl Tunnel {
    /// Waits until the tunnel is up, and gives what was assigned. Without a timeout as long as the settings let it try.
    #[uniffi::method(default(timeout = None))]
    pub fn wait_until_up(&self, timeout: Option<Duration>) -> Result<TunnelConfiguration> {
        let mut stage = self.core.stage.subscribe();
        let opened = async {
            let _ = stage
                .wait_for(|stage| !matches!(stage, Stage::Opening))
                .await;
            Ok(())
        };
        match self.core.wait(timeout, opened)? {
            None => Err(TscError::late("the tunnel is not up yet")),
            Some(()) => self.core.with(|tunnel| match tunnel.down_reason() {
                None => Ok((&*tunnel.config()).into()),
                Some(reason) => Err(reason.into()),
            }),
        }
    }

    /// How far it has come.
    pub fn state(&self) -> TunnelState {
        match &*self.core.stage.borrow() {
            Stage::Opening => return TunnelState::Opening,
            Stage::Failed(_) => return TunnelState::Over,
            Stage::Released => return TunnelState::Released,
            Stage::Up => {}
        }
        match self.core.with(|tunnel| Ok(tunnel.down_reason().is_some())) {
            Ok(false) => TunnelState::Open,
            Ok(true) => TunnelState::Over,
            Err(_) => TunnelState::Released,
        }
    }

    /// What was assigned, as of now; after the end of the tunnel the last of it.
    pub fn configuration(&self) -> Result<TunnelConfiguration> {
        self.core.with(|tunnel| Ok((&*tunnel.config()).into()))
    }

    /// Why the tunnel is over; none while it lives.
    pub fn end(&self) -> Result<Option<TunnelEnd>> {
        self.core
            .with(|tunnel| Ok(tunnel.down_reason().as_ref().map(Into::into)))
    }

    /// The tunnel's address for reaching a peer: the first of the same family.
    pub fn local_ip_for(&self, peer: Address) -> Result<String> {
        let peer = peer.parse()?;
        self.core
            .with(|tunnel| Ok(tunnel.local_address_for(peer)?.to_string()))
    }

    /// Opens a UDP socket inside the tunnel. Port 0 lets the library choose; without an address it is the tunnel's first.
    #[uniffi::method(default(port = 0, ip = None))]
    pub fn bind_udp(&self, port: u16, ip: Option<String>) -> Result<Arc<UdpSocket>> {
        let socket = self.core.with(|tunnel| {
            let local = local(tunnel, port, ip.as_deref())?;
            Ok(tunnel.bind_udp(local)?)
        })?;
        Ok(UdpSocket::of(Arc::clone(&self.core), socket))
    }

    /// Connects to a peer over TCP inside the tunnel.
    #[uniffi::method(default(options))]
    pub fn connect_tcp(&self, peer: Address, options: TcpOptions) -> Result<Arc<TcpStream>> {
        let peer = peer.parse()?;
        let limit = options.connect_timeout;
        let socket = self.core.with(|tunnel| {
            let mut socket = options.apply(TcpSocket::new(tunnel));
            if let Some(port) = options.local_port {
                socket = socket.bind(SocketAddr::new(tunnel.local_address_for(peer)?, port))?;
            }
            Ok(socket)
        })?;
        let connected = async { Ok(socket.connect(peer).await?) };
        match self.core.wait(limit, connected)? {
            Some(stream) => Ok(TcpStream::of(Arc::clone(&self.core), stream)),
            None => Err(TscError::late("the peer does not answer")),
        }
    }

    /// Listens for TCP connections inside the tunnel. Without an address at the tunnel's first;
    /// beyond `backlog` connections that wait (64 unless given) peers try again.
    #[uniffi::method(default(port = 0, ip = None, backlog = None))]
    pub fn listen_tcp(
        &self,
        port: u16,
        ip: Option<String>,
        backlog: Option<u32>,
    ) -> Result<Arc<TcpListener>> {
        let listener = self.core.with(|tunnel| {
            let local = local(tunnel, port, ip.as_deref())?;
            let socket = TcpSocket::new(tunnel).bind(local)?;
            Ok(socket.listen(backlog.unwrap_or(BACKLOG))?)
        })?;
        Ok(TcpListener::of(Arc::clone(&self.core), listener))
    }

    /// The addresses of a name, by the DNS servers inside the tunnel; nothing is asked of the network outside.
    pub fn lookup_host(&self, host: String, port: u16) -> Result<Vec<Address>> {
        let inner = Arc::clone(&self.core.inner);
        let found = self.core.wait(None, async {
            match &*inner.read().await {
                Some(tunnel) => Ok(tunnel.lookup_host(&host, port).await?),
                None => Err(self.core.missing()),
            }
        })?;
        Ok(found
            .unwrap_or_default()
            .into_iter()
            .map(Into::into)
            .collect())
    }

    /// Tells the tunnel that the host's network has changed, so that it checks its transport at once and moves to the new network.
    /// While it is being opened there is nothing to check.
    pub fn network_changed(&self) -> Result<()> {
        self.core.hint(|_| (), Inner::network_changed)
    }

    /// Tells the tunnel whether the host has a network at all; without one nothing is tried. It is told as soon as it is up, if it is not yet.
    pub fn set_network_available(&self, available: bool) -> Result<()> {
        self.core.hint(
            |hints| hints.network = Some(available),
            |tunnel| tunnel.set_network_available(available),
        )
    }

    /// Tells the tunnel whether anybody uses the application. In the background it sends as little as the server allows. It is told
    /// as soon as it is up, if it is not yet.
    pub fn set_activity(&self, activity: Activity) -> Result<()> {
        self.core.hint(
            |hints| hints.activity = Some(activity),
            |tunnel| tunnel.set_activity(activity.into()),
        )
    }

    /// Writes packets to a new file from now on; one that was being written is completed before. Until `stop_trace`, or the end of the tunnel.
    pub fn start_trace(&self, settings: TraceSettings) -> Result<()> {
        let started = self
            .core
            .with(|tunnel| Ok(tunnel.start_trace(&settings.path, settings.options())))?;
        // Given up only by a release, which ends it too.
        let started = self.core.wait(None, async { Ok(started.await?) })?;
        started.ok_or(TscError::Released)
    }

    /// Completes the file, with whatever is on the wire by now. None if nothing was being written.
    pub fn stop_trace(&self) -> Result<Option<TraceStats>> {
        let stopped = self.core.with(|tunnel| Ok(tunnel.stop_trace()))?;
        let stats = self.core.wait(None, async { Ok(stopped.await?) })?;
        Ok(stats.flatten().map(Into::into))
    }

    /// Packets of all sockets that travelled without the server.
    pub fn peer_packets(&self) -> Result<PeerPackets> {
        self.core.with(|tunnel| Ok(tunnel.peer_packets().into()))
    }

    /// Releases the tunnel, and waits for the server's answer, at most so long (two seconds unless given); it is released in any
    /// case. Calls that wait for it or its sockets return at once. Releasing twice does no harm.
    #[uniffi::method(default(timeout = None))]
    pub fn release(&self, timeout: Option<Duration>) -> Result<()> {
        match self.core.begin_release() {
            Some(release) => release.wait(timeout.unwrap_or(RELEASE)),
            None => Ok(()),
        }
    }
}

/// Where a socket is bound to.
fn local(tunnel: &Inner, port: u16, ip: Option<&str>) -> Result<SocketAddr> {
    let config = tunnel.config();
    let ip = match ip {
        Some(ip) => Some(address::ip(ip)?),
        None => config.ipv4().or_else(|| config.ipv6()),
    };
    let ip = ip.ok_or_else(|| TscError::Other("the tunnel has no address".to_owned()))?;
    Ok(SocketAddr::new(ip, port))
}
