//! Changes of the host's network, as tunnels care for them.
//!
//! [`NetWatch::changed`] waits for the next [`Change`]: which addresses came and went, whether each family has a default route
//! that works, and which network this is ([`NetworkId`]). The owner of a socket asks [`Change::lost`] for the address
//! it is bound to; if that is still there, the change is at most a better way.
//!
//! On Linux (feature `netwatch`) the kernel's notifications by rtnetlink are the trigger, and what it then says when asked is the
//! truth: both are compared with what was known before. So a burst of notifications is one change, what happens and is
//! undone within [`SETTLE`] is none, and the kernel's having lost notifications costs nothing but
//! [`Happening::Missed`]. Loopback, link-local addresses, addresses that are still being tested or merely deprecated, neighbours,
//! counters and the table `local` do not matter. Elsewhere, Android included (where applications are told by the
//! platform), nothing is ever noticed.
//!
//! Bounds: [`MAX_ADDRESSES`] addresses, [`MAX_ROUTES`] default routes and [`MAX_LINKS`] interfaces are remembered; more
//! are as if they were not there.

#[cfg(not(all(feature = "netwatch", target_os = "linux")))]
mod absent;
#[cfg(all(feature = "netwatch", target_os = "linux"))]
mod linux;
#[cfg(any(test, all(feature = "netwatch", target_os = "linux")))]
mod picture;

use std::{
    fmt,
    future::poll_fn,
    io,
    net::IpAddr,
    task::{Context, Poll},
    time::Duration,
};

#[cfg(not(all(feature = "netwatch", target_os = "linux")))]
use absent as imp;
#[cfg(all(feature = "netwatch", target_os = "linux"))]
use linux as imp;

/// How long a burst of notifications is waited for, from its first.
pub const SETTLE: Duration = Duration::from_millis(50);

/// Most addresses that are remembered.
pub const MAX_ADDRESSES: usize = 1024;

/// Most default routes that are remembered.
pub const MAX_ROUTES: usize = 64;

/// Most interfaces that are remembered.
pub const MAX_LINKS: usize = 1024;

/// Watches the network of the host, or of the network namespace it was opened in.
#[derive(Debug)]
pub struct NetWatch(imp::Watch);

impl NetWatch {
    /// Starts watching: changes from now on are told. Needs no privilege.
    ///
    /// # Errors
    /// The system gives no netlink socket.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O and time.
    pub fn open() -> io::Result<Self> {
        imp::Watch::open().map(Self)
    }

    /// The next change. Questions to the kernel are answered at once; no call waits for anybody else.
    pub fn poll_changed(&mut self, cx: &mut Context<'_>) -> Poll<Change> {
        self.0.poll_changed(cx)
    }

    /// [`Self::poll_changed`] as a future; dropping it loses nothing.
    pub async fn changed(&mut self) -> Change {
        poll_fn(|cx| self.poll_changed(cx)).await
    }

    /// The network as it was last known, with nothing happening.
    #[must_use]
    pub fn current(&self) -> Change {
        self.0.current()
    }
}

/// The network that the host is on now, by which a program remembers which way to a server worked there. `None` without a
/// default route, or where nothing can be known about it.
#[must_use]
pub fn network_id() -> Option<NetworkId> {
    imp::network_id()
}

/// What has changed, and what is now.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// What has happened since the last change, losses first.
    pub what: Vec<Happening>,
    /// IPv4 has an address and a default route, on an interface that is up.
    pub has_default_route_v4: bool,
    /// IPv6 likewise.
    pub has_default_route_v6: bool,
    /// The network the host is on now.
    pub network: Option<NetworkId>,
}

impl Change {
    /// Whether a socket bound to the address can no longer be used.
    #[must_use]
    pub fn lost(&self, address: IpAddr) -> bool {
        self.what.contains(&Happening::AddressGone(address))
    }

    /// Whether there is any way out.
    #[must_use]
    pub const fn is_online(&self) -> bool {
        self.has_default_route_v4 || self.has_default_route_v6
    }

    /// Whether something has come that may be a way, or a better one, to the server.
    #[must_use]
    pub fn gained(&self) -> bool {
        self.what.iter().any(|happening| match happening {
            Happening::AddressNew(_)
            | Happening::LinkUp(_)
            | Happening::DefaultRouteChanged
            | Happening::RouteChanged
            | Happening::Missed => true,
            Happening::AddressGone(_) | Happening::LinkDown(_) => false,
        })
    }
}

/// One thing that has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Happening {
    /// The host has the address no longer, or its interface went down.
    AddressGone(IpAddr),
    /// An interface, by its index, went down or away.
    LinkDown(u32),
    /// The address can be used now.
    AddressNew(IpAddr),
    /// An interface, by its index, came up.
    LinkUp(u32),
    /// Which way packets leave by default is another.
    DefaultRouteChanged,
    /// A narrower route of the main table came, went or changed.
    RouteChanged,
    /// The kernel had more to tell than the socket held: anything may have gone and come back.
    Missed,
}

/// Identifies the network the host is on: the default route's interface and gateway, and the prefix the host has there.
/// Not secret, yet tells where somebody was: it is a hash, to be kept on the host only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkId([u8; 16]);

impl NetworkId {
    /// The bytes, to be stored.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0
    }

    /// What [`Self::to_bytes`] gave.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
