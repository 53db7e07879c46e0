//! From `tsc_socket` to `tsc_close`: addresses and connections.

use std::{
    ffi::c_int,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::Notify;
use tsc_tapi::{TcpSocket, TcpStream, UdpSocket};

use super::{Direction, Events, Inner, Listener, Settings, Socket, now};
use crate::{
    errno::{Errno, Result},
    tunnel::Tunnel,
};

impl Socket {
    /// A new one, as `tsc_socket` is asked for it.
    pub(crate) fn new(
        tunnel: &Arc<Tunnel>,
        family: c_int,
        kind: c_int,
        protocol: c_int,
    ) -> Result<Self> {
        if tunnel.is_over() {
            return Err(Errno::NET_DOWN);
        }
        let is_ipv4 = match family {
            libc::AF_INET => true,
            libc::AF_INET6 => false,
            _ => return Err(Errno(libc::EAFNOSUPPORT)),
        };
        let nonblocking = kind & libc::SOCK_NONBLOCK != 0;
        let is_stream = match kind & !(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) {
            libc::SOCK_DGRAM => false,
            libc::SOCK_STREAM => true,
            _ => return Err(Errno(libc::ESOCKTNOSUPPORT)),
        };
        match (protocol, is_stream) {
            (0, _) | (libc::IPPROTO_TCP, true) | (libc::IPPROTO_UDP, false) => {}
            _ => return Err(Errno(libc::EPROTONOSUPPORT)),
        }
        let inner = if is_stream {
            Inner::Fresh {
                local: None,
                error: None,
            }
        } else {
            Inner::Datagram(None)
        };
        Ok(Self::of(
            tunnel,
            is_ipv4,
            inner,
            Settings::default(),
            nonblocking,
        ))
    }

    fn of(
        tunnel: &Arc<Tunnel>,
        is_ipv4: bool,
        inner: Inner,
        settings: Settings,
        nonblocking: bool,
    ) -> Self {
        Self {
            tunnel: Arc::downgrade(tunnel),
            tunnel_id: tunnel.id(),
            runtime: tunnel.runtime().clone(),
            is_ipv4,
            is_stream: !matches!(inner, Inner::Datagram(_)),
            nonblocking: AtomicBool::new(nonblocking),
            is_closed: AtomicBool::new(false),
            settings: Mutex::new(settings),
            inner: Mutex::new(inner),
            changed: Notify::new(),
            readable: Events::default(),
            writable: Events::default(),
        }
    }

    pub(super) fn check_family(&self, address: SocketAddr) -> Result<()> {
        if address.is_ipv4() == self.is_ipv4 {
            Ok(())
        } else {
            Err(Errno(libc::EAFNOSUPPORT))
        }
    }

    pub(super) const fn any(&self) -> SocketAddr {
        let ip = if self.is_ipv4 {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED)
        } else {
            IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        };
        SocketAddr::new(ip, 0)
    }

    pub(crate) fn bind(&self, address: SocketAddr) -> Result<()> {
        self.check_family(address)?;
        match &mut *self.inner() {
            Inner::Datagram(place @ None) => {
                *place = Some(self.bind_datagrams(address)?);
            }
            Inner::Fresh {
                local: place @ None,
                ..
            } => {
                let bound = self
                    .tunnel()?
                    .with(|tunnel| TcpSocket::new(tunnel).bind(address))?;
                drop(bound?);
                *place = Some(address);
            }
            Inner::Closed => return Err(Errno::BAD),
            Inner::Datagram(Some(_))
            | Inner::Fresh { .. }
            | Inner::Connecting { .. }
            | Inner::Stream { .. }
            | Inner::Listener(_) => return Err(Errno::INVALID),
        }
        self.has_changed();
        Ok(())
    }

    fn bind_datagrams(&self, address: SocketAddr) -> Result<Arc<UdpSocket>> {
        let socket = self.tunnel()?.with(|tunnel| tunnel.bind_udp(address))??;
        self.settings().apply_to_datagrams(&socket)?;
        Ok(Arc::new(socket))
    }

    /// The datagram socket; it is bound to any port if it was not bound.
    pub(super) fn datagrams(&self) -> Result<Arc<UdpSocket>> {
        let socket = match &mut *self.inner() {
            Inner::Datagram(Some(socket)) => return Ok(Arc::clone(socket)),
            Inner::Datagram(place @ None) => {
                let socket = self.bind_datagrams(self.any())?;
                *place = Some(Arc::clone(&socket));
                socket
            }
            Inner::Closed => return Err(Errno::BAD),
            Inner::Fresh { .. }
            | Inner::Connecting { .. }
            | Inner::Stream { .. }
            | Inner::Listener(_) => return Err(Errno::UNSUPPORTED),
        };
        self.has_changed();
        Ok(socket)
    }

    pub(crate) fn connect(self: &Arc<Self>, peer: SocketAddr) -> Result<()> {
        self.check_family(peer)?;
        if !self.is_stream {
            let socket = self.datagrams()?;
            // It never waits.
            return Ok(now(socket.connect(peer)).ok_or(Errno::AGAIN)??);
        }
        self.start(peer)?;
        self.has_changed();
        if !self.blocks() {
            // Also if the answer is there already: a program has one case less.
            return Err(Errno(libc::EINPROGRESS));
        }
        let limit = self.settings().send_limit;
        let connected =
            self.until(
                Direction::Write,
                self.blocks(),
                limit,
                |socket| match &mut *socket.inner() {
                    Inner::Connecting { .. } => Err(Errno::AGAIN),
                    Inner::Fresh { error, .. } => Err(error.take().unwrap_or(Errno::NOT_CONNECTED)),
                    Inner::Closed => Err(Errno::BAD),
                    Inner::Datagram(_) | Inner::Stream { .. } | Inner::Listener(_) => Ok(()),
                },
            );
        match connected {
            Err(Errno::AGAIN) => Err(Errno(libc::EINPROGRESS)),
            done => done,
        }
    }

    /// Begins to connect a stream.
    fn start(self: &Arc<Self>, peer: SocketAddr) -> Result<()> {
        let mut inner = self.inner();
        let local = match &*inner {
            Inner::Fresh { local, .. } => *local,
            Inner::Connecting { .. } => return Err(Errno(libc::EALREADY)),
            Inner::Stream { .. } => return Err(Errno(libc::EISCONN)),
            Inner::Closed => return Err(Errno::BAD),
            Inner::Listener(_) | Inner::Datagram(_) => return Err(Errno::UNSUPPORTED),
        };
        let mut stream = self.tunnel()?.with(TcpSocket::new)?;
        if let Some(local) = local {
            stream = stream.bind(local)?;
        }
        stream = self.settings().apply_to_stream(stream);
        let socket = Arc::clone(self);
        let task = self.runtime.spawn(async move {
            let connected = stream.connect(peer).await;
            socket.connected(connected);
        });
        *inner = Inner::Connecting { local, task };
        Ok(())
    }

    fn connected(&self, connected: std::io::Result<TcpStream>) {
        {
            let mut inner = self.inner();
            let Inner::Connecting { local, .. } = *inner else {
                return;
            };
            *inner = match connected {
                Ok(stream) => {
                    self.settings().apply_to_connection(&stream);
                    Inner::Stream {
                        stream: Arc::new(stream),
                        no_read: false,
                        no_write: false,
                    }
                }
                Err(error) => Inner::Fresh {
                    local,
                    error: Some(error.into()),
                },
            };
        }
        self.has_changed();
    }

    pub(crate) fn listen(&self, backlog: c_int) -> Result<()> {
        {
            let mut inner = self.inner();
            let local = match &*inner {
                Inner::Fresh { local, .. } => local.ok_or(Errno(libc::EDESTADDRREQ))?,
                // Another backlog is as good as the first.
                Inner::Listener(_) => return Ok(()),
                Inner::Stream { .. } | Inner::Connecting { .. } => {
                    return Err(Errno(libc::EISCONN));
                }
                Inner::Closed => return Err(Errno::BAD),
                Inner::Datagram(_) => return Err(Errno::UNSUPPORTED),
            };
            let stream = self.tunnel()?.with(TcpSocket::new)?.bind(local)?;
            let stream = self.settings().apply_to_stream(stream);
            let listener = stream.listen(u32::try_from(backlog).unwrap_or(1))?;
            *inner = Inner::Listener(Arc::new(Listener::new(listener)));
        }
        self.has_changed();
        Ok(())
    }

    /// Waits for a connection, and hands it to `keep` as a socket; if that refuses, it is the next one's.
    pub(crate) fn accept(
        &self,
        keep: impl FnOnce(Arc<Self>) -> Result<c_int>,
    ) -> Result<(c_int, SocketAddr)> {
        let limit = self.settings().receive_limit;
        let (listener, (stream, peer)) =
            self.until(Direction::Read, self.blocks(), limit, |socket| {
                let listener = match &*socket.inner() {
                    Inner::Listener(listener) => Arc::clone(listener),
                    Inner::Datagram(_) => return Err(Errno::UNSUPPORTED),
                    Inner::Closed => return Err(Errno::BAD),
                    Inner::Fresh { .. } | Inner::Connecting { .. } | Inner::Stream { .. } => {
                        return Err(Errno::INVALID);
                    }
                };
                let taken = listener.take()?;
                Ok((listener, taken))
            })?;
        let settings = self.settings().of_accepted();
        let tunnel = self.tunnel()?;
        settings.apply_to_connection(&stream);
        let inner = Inner::Stream {
            stream: Arc::new(stream),
            no_read: false,
            no_write: false,
        };
        let socket = Arc::new(Self::of(&tunnel, self.is_ipv4, inner, settings, false));
        match keep(Arc::clone(&socket)) {
            Ok(number) => Ok((number, peer)),
            Err(refused) => {
                // Nobody else has it.
                let inner = std::mem::replace(&mut *socket.inner(), Inner::Closed);
                if let Inner::Stream { stream, .. } = inner
                    && let Some(stream) = Arc::into_inner(stream)
                {
                    listener.give_back((stream, peer));
                    self.has_changed();
                }
                Err(refused)
            }
        }
    }

    pub(crate) fn shutdown(&self, how: Shutdown) -> Result<()> {
        match &mut *self.inner() {
            Inner::Stream {
                stream,
                no_read,
                no_write,
            } => {
                if how != Shutdown::Read && !*no_write {
                    stream.shutdown_write()?;
                    *no_write = true;
                }
                *no_read |= how != Shutdown::Write;
            }
            Inner::Datagram(_) => return Err(Errno::UNSUPPORTED),
            Inner::Closed => return Err(Errno::BAD),
            Inner::Fresh { .. } | Inner::Connecting { .. } | Inner::Listener(_) => {
                return Err(Errno::NOT_CONNECTED);
            }
        }
        self.has_changed();
        Ok(())
    }

    /// Ends it for all who use it. What it holds goes now, or with the last call that still uses it.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        let inner = std::mem::replace(&mut *self.inner(), Inner::Closed);
        self.changed.notify_waiters();
        self.readable.close(self);
        self.writable.close(self);
        if let Inner::Connecting { task, .. } = inner {
            task.abort();
            // It was aborted; with it goes the connection.
            drop(self.runtime.block_on(task));
        }
    }

    /// What it was bound to, for who knows it by that.
    pub(crate) fn bound(&self) -> Option<SocketAddr> {
        match &*self.inner() {
            Inner::Datagram(Some(socket)) => socket.local_addr().ok(),
            Inner::Stream { stream, .. } => stream.local_addr().ok(),
            Inner::Fresh { local, .. } | Inner::Connecting { local, .. } => *local,
            Inner::Datagram(None) | Inner::Listener(_) | Inner::Closed => None,
        }
    }

    pub(crate) fn local_address(&self) -> Result<SocketAddr> {
        Ok(match &*self.inner() {
            Inner::Datagram(Some(socket)) => {
                let local = socket.local_addr()?;
                match socket.peer_addr() {
                    // Programs find out in this way which address their peers shall answer to.
                    Ok(peer) if local.ip().is_unspecified() => {
                        let own = self.tunnel().and_then(|tunnel| {
                            tunnel.with(|tunnel| tunnel.local_address_for(peer))
                        });
                        match own {
                            Ok(Ok(own)) => SocketAddr::new(own, local.port()),
                            _ => local,
                        }
                    }
                    _ => local,
                }
            }
            Inner::Datagram(None) => self.any(),
            Inner::Fresh { local, .. } | Inner::Connecting { local, .. } => {
                local.unwrap_or_else(|| self.any())
            }
            Inner::Stream { stream, .. } => stream.local_addr()?,
            Inner::Listener(listener) => listener.listener.local_addr()?,
            Inner::Closed => return Err(Errno::BAD),
        })
    }

    pub(crate) fn peer_address(&self) -> Result<SocketAddr> {
        match &*self.inner() {
            Inner::Datagram(Some(socket)) => Ok(socket.peer_addr()?),
            Inner::Stream { stream, .. } => Ok(stream.peer_addr()?),
            Inner::Closed => Err(Errno::BAD),
            Inner::Datagram(None)
            | Inner::Fresh { .. }
            | Inner::Connecting { .. }
            | Inner::Listener(_) => Err(Errno::NOT_CONNECTED),
        }
    }

    pub(crate) fn is_nonblocking(&self) -> bool {
        !self.blocks()
    }

    pub(crate) fn set_nonblocking(&self, nonblocking: bool) {
        self.nonblocking.store(nonblocking, Ordering::Relaxed);
    }
}
