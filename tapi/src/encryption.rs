//! Sockets that are to be encrypted, and where they are (service *DTTE*).
//!
//! The control plane says where a socket belongs; here that is put in force at the inner stack. What must not be sent in clear is
//! stopped at once, in the application's own call, and not when the driver comes to it.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use tokio::sync::{Notify, futures::OwnedNotified};
use tsc_csm::{
    FlowKey, InnerTransport,
    client::{Encryption, Placement},
};
use tsc_eip::{UdpHandle, UdpPlacement};

use crate::{
    error::SocketError,
    services::{What, Wish},
    shared::{Shared, State},
};

/// What a tunnel knows of its encrypted companion.
#[derive(Debug, Default)]
pub(crate) struct Encrypted {
    /// The tunnel is encrypted itself, whatever it is resumed on.
    pub(crate) protected: bool,
    /// The companion's inner addresses, while there is one.
    addresses: Vec<IpAddr>,
    /// Those that want it; at most [`MAX_FLOWS`](tsc_csm::MAX_FLOWS).
    sockets: HashMap<FlowKey, Socket>,
}

#[derive(Debug)]
struct Socket {
    level: Encryption,
    /// Of a UDP socket.
    handle: Option<UdpHandle>,
    /// Once that was decided.
    placement: Option<Placement>,
    /// Whether it is in force, once that is known.
    enabled: Option<bool>,
    /// Who waits for one of these.
    news: Arc<Notify>,
}

impl Socket {
    fn new(level: Encryption, handle: Option<UdpHandle>) -> Self {
        Self {
            level,
            handle,
            placement: None,
            enabled: None,
            news: Arc::default(),
        }
    }
}

impl Encrypted {
    pub(crate) fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// The companion's address of this IP version.
    fn address(&self, is_ipv4: bool) -> Option<IpAddr> {
        let mut addresses = self.addresses.iter().copied();
        addresses.find(|own| own.is_ipv4() == is_ipv4)
    }

    /// The address on the companion of a socket with this port, if it is there.
    pub(crate) fn placed(&self, local: SocketAddr) -> Option<SocketAddr> {
        let is_it = |(key, socket): &(&FlowKey, &Socket)| {
            key.port == local.port() && socket.placement == Some(Placement::Encrypted)
        };
        self.sockets.iter().find(is_it)?;
        let address = self.address(local.is_ipv4())?;
        Some(SocketAddr::new(address, local.port()))
    }
}

impl State {
    /// Takes what a UDP socket wants, as far as this end can see to it at once.
    ///
    /// # Errors
    ///
    /// Another socket with this port, of the other IP version, wants it: the server could not tell them apart.
    pub(crate) fn encrypt(
        &mut self,
        key: FlowKey,
        handle: UdpHandle,
        level: Encryption,
    ) -> Result<(), SocketError> {
        let held = self.encrypted.sockets.get(&key);
        if held.is_some_and(|socket| socket.handle != Some(handle)) {
            return match self.stack.udp_local_addr(handle) {
                Some(local) if level.is_wanted() => Err(SocketError::AddressInUse(local)),
                _ => Ok(()),
            };
        }
        if !level.is_wanted() {
            self.forget_encrypted(key);
            self.stack.udp_place(handle, UdpPlacement::AsBound);
            return Ok(());
        }
        let new = || Socket::new(level, Some(handle));
        self.encrypted.sockets.entry(key).or_insert_with(new).level = level;
        let only = level == Encryption::Only;
        let placement = match self.stack.udp_placement(handle) {
            Some(UdpPlacement::AsBound) if only && !self.encrypted.protected => {
                UdpPlacement::Nowhere
            }
            Some(UdpPlacement::At { address, .. }) => UdpPlacement::At { address, only },
            Some(UdpPlacement::Nowhere) if !only => UdpPlacement::AsBound,
            _ => return Ok(()),
        };
        self.stack.udp_place(handle, placement);
        Ok(())
    }

    /// Whether this UDP socket is the one that wants encryption with its port.
    pub(crate) fn wants_encryption(&self, key: FlowKey, handle: UdpHandle) -> bool {
        let held = self.encrypted.sockets.get(&key);
        held.is_some_and(|socket| socket.handle == Some(handle))
    }

    fn forget_encrypted(&mut self, key: FlowKey) {
        if let Some(socket) = self.encrypted.sockets.remove(&key) {
            socket.news.notify_waiters();
        }
    }

    /// Puts in force where the control plane says that a socket belongs.
    pub(crate) fn place(
        &mut self,
        key: FlowKey,
        placement: Option<Placement>,
        enabled: Option<bool>,
    ) {
        let protected = self.encrypted.protected;
        let own = |is_ipv4| self.encrypted.address(is_ipv4);
        let (v4, v6) = (own(true), own(false));
        let Some(socket) = self.encrypted.sockets.get_mut(&key) else {
            // The application has changed its mind.
            return;
        };
        let only = socket.level == Encryption::Only;
        socket.enabled = enabled.or(socket.enabled);
        socket.news.notify_waiters();
        let Some(placement) = placement else { return };
        // Said of what it wanted before.
        let placement = if placement == Placement::Main && only && !protected {
            Placement::Nowhere
        } else {
            placement
        };
        socket.placement = Some(placement);
        let Some(handle) = socket.handle else { return };
        let local = self.stack.udp_local_addr(handle);
        let address = local.and_then(|local| if local.is_ipv4() { v4 } else { v6 });
        let there = match (placement, address) {
            (Placement::Main, _) => UdpPlacement::AsBound,
            (Placement::Encrypted, Some(address)) => UdpPlacement::At { address, only },
            // An IP version that the companion has no address of.
            (Placement::Encrypted, None) if !only => UdpPlacement::AsBound,
            (Placement::Encrypted, None) | (Placement::Nowhere, _) => UdpPlacement::Nowhere,
        };
        if !self.stack.udp_place(handle, there) {
            tracing::warn!(port = key.port, "another socket has the port there");
            if only {
                self.stack.udp_place(handle, UdpPlacement::Nowhere);
            }
        }
    }

    /// Whether encryption is in force for a socket that wants it, as far as that can be said of what is; until it is known, what to wait
    /// for.
    pub(crate) fn is_encrypted(&self, key: FlowKey) -> Result<bool, OwnedNotified> {
        let Some(socket) = self.encrypted.sockets.get(&key) else {
            return Ok(false);
        };
        let enabled = socket.enabled;
        enabled.map_or_else(
            || Err(Arc::clone(&socket.news).notified_owned()),
            |enabled| Ok(enabled && self.is_really_encrypted(socket)),
        )
    }

    /// Whether the stack has put in force what the control plane says.
    fn is_really_encrypted(&self, socket: &Socket) -> bool {
        let placement = socket.handle.map(|handle| self.stack.udp_placement(handle));
        let is_there = match placement {
            Some(placement) => matches!(placement, Some(UdpPlacement::At { .. })),
            None => socket.placement == Some(Placement::Encrypted),
        };
        self.encrypted.protected || is_there
    }

    /// Whether what is told of a socket with this port is so: it may be of an IP version that the companion has no address of.
    pub(crate) fn is_told_rightly(&self, port: u16) -> bool {
        let mut sockets = self.encrypted.sockets.iter();
        let found = sockets.find(|(key, _)| key.port == port);
        found.is_none_or(|(_, socket)| self.is_really_encrypted(socket))
    }

    /// Nobody waits any more: the tunnel is over.
    pub(crate) fn end_encrypted(&self) {
        for socket in self.encrypted.sockets.values() {
            socket.news.notify_waiters();
        }
    }

    /// The companion has these addresses now, beside `main`'s.
    pub(crate) fn set_addresses(&mut self, now: Instant, main: &[IpAddr], encrypted: Vec<IpAddr>) {
        let all: Vec<IpAddr> = main.iter().chain(&encrypted).copied().collect();
        if let Err(error) = self.stack.set_addresses(&all) {
            // The control plane has checked them; the stack is stricter only about their number.
            tracing::warn!(%error, "inner addresses refused by the stack");
        }
        let before = std::mem::replace(&mut self.encrypted.addresses, encrypted);
        for gone in before {
            if !all.contains(&gone) {
                self.stack.tcp_end_at(now, gone);
            }
        }
    }
}

/// The wish of a connection, for as long as that lives.
#[derive(Debug)]
pub(crate) struct Claim {
    shared: Arc<Shared>,
    key: FlowKey,
    local: SocketAddr,
}

impl Claim {
    /// Wants encryption for a connection from `local`, whose port is chosen here if it is 0.
    pub(crate) fn new(
        shared: &Arc<Shared>,
        local: SocketAddr,
        level: Encryption,
    ) -> Result<Self, SocketError> {
        shared.with(|state| {
            state.check_up()?;
            let sockets = &state.encrypted.sockets;
            let key = |port| FlowKey {
                transport: InnerTransport::Tcp,
                port,
            };
            let port = match local.port() {
                // Few have it: another port is soon found.
                0 => (0..PORT_TRIES)
                    .filter_map(|_| state.stack.tcp_free_port(local.ip()))
                    .find(|port| !sockets.contains_key(&key(*port)))
                    .ok_or(SocketError::Exhausted)?,
                port if sockets.contains_key(&key(port)) => {
                    return Err(SocketError::AddressInUse(local));
                }
                port => port,
            };
            let (key, local) = (key(port), SocketAddr::new(local.ip(), port));
            let what = What::Encryption(level, true);
            state.wishes.set(Wish { key, local, what })?;
            let socket = Socket::new(level, None);
            state.encrypted.sockets.insert(key, socket);
            Ok(Self {
                shared: Arc::clone(shared),
                key,
                local,
            })
        })
    }

    /// Waits until it is decided from where to connect.
    pub(crate) async fn source(&self) -> Result<SocketAddr, SocketError> {
        loop {
            let news = {
                let state = self.shared.lock();
                state.check_up()?;
                let socket = state.encrypted.sockets.get(&self.key);
                let socket = socket.ok_or(SocketError::NotEncrypted)?;
                let is_ipv4 = self.local.is_ipv4();
                match (socket.placement, state.encrypted.address(is_ipv4)) {
                    (Some(Placement::Main), _) => return Ok(self.local),
                    (Some(Placement::Encrypted), Some(address)) => {
                        return Ok(SocketAddr::new(address, self.local.port()));
                    }
                    (Some(Placement::Encrypted), None) if socket.level != Encryption::Only => {
                        return Ok(self.local);
                    }
                    (Some(_), _) => return Err(SocketError::NotEncrypted),
                    // Registered under the lock, so that nothing is missed.
                    (None, _) => Arc::clone(&socket.news).notified_owned(),
                }
            };
            news.await;
        }
    }
}

/// How often a port is drawn for a connection.
const PORT_TRIES: usize = 2 * tsc_csm::MAX_FLOWS;

impl Drop for Claim {
    fn drop(&mut self) {
        let (key, local) = (self.key, self.local);
        self.shared.with(|state| {
            state.forget_encrypted(key);
            let what = What::Encryption(Encryption::Default, false);
            // One that wants nothing always has room.
            drop(state.wishes.set(Wish { key, local, what }));
        });
    }
}
