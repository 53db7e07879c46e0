//! The handle of a tunnel.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "enums of other crates that may grow"
)]

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::sync::{oneshot, watch};
use tsc_csm::client::DownReason;

use crate::{
    TunnelConfig,
    builder::TunnelBuilder,
    driver::Driver,
    error::{CloseError, ConnectError, SocketError},
    notification::Notifications,
    server::Server,
    shared::{Command, Shared},
    udp::UdpSocket,
};

/// How long a dropped tunnel tries to tell the server.
const RELEASE_ON_DROP: Duration = Duration::from_secs(2);

/// A tunnel that is up, or is being resumed after it lost its transport.
///
/// Only this type opens inner sockets, so "not connected yet" is no error one can meet. Dropping it releases
/// the tunnel in the background; [`Tunnel::close`] does so and waits.
#[derive(Debug)]
pub struct Tunnel {
    shared: Arc<Shared>,
    config: watch::Receiver<Arc<TunnelConfig>>,
    _release: ReleaseOnDrop,
}

/// Releases the tunnel when its handle is dropped, or the future that was opening it.
#[derive(Debug)]
struct ReleaseOnDrop(Arc<Shared>);

impl Drop for ReleaseOnDrop {
    fn drop(&mut self) {
        self.0.command(Command::Release(RELEASE_ON_DROP));
    }
}

impl Tunnel {
    /// Starts describing a tunnel to `server`.
    pub fn builder(server: Server) -> TunnelBuilder {
        TunnelBuilder::new(server)
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

    /// What happens to the tunnel from now on. [`TunnelBuilder::notifications`] shows the way up too.
    #[must_use]
    pub fn notifications(&self) -> Notifications {
        Notifications::new(self.shared.subscribe())
    }

    /// Why the tunnel is over; `None` while it lives.
    #[must_use]
    pub fn down_reason(&self) -> Option<DownReason> {
        self.shared.down.borrow().clone()
    }

    /// Waits until the tunnel is over, and says why.
    pub async fn closed(&self) -> DownReason {
        self.shared.closed().await
    }

    /// Tells the tunnel that the network has changed, so that it checks its transport at once.
    pub fn network_changed(&self) {
        self.shared.command(Command::NetworkChanged);
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
    /// `deadline`.
    ///
    /// # Errors
    ///
    /// The server did not confirm in time, or the tunnel was over already. It is closed in any case.
    pub async fn close(self, deadline: Duration) -> Result<(), CloseError> {
        if let Some(reason) = self.down_reason() {
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
    let (up, is_up) = oneshot::channel();
    let (driver, shared) = Driver::new(builder, up)?;
    let release = ReleaseOnDrop(Arc::clone(&shared));
    tokio::spawn(driver.run());
    match is_up.await {
        Ok(result) => Ok(Tunnel {
            shared,
            config: result?,
            _release: release,
        }),
        Err(_) => Err(ConnectError::RuntimeGone),
    }
}
