//! `tsc_setsockopt` and `tsc_getsockopt`.

use std::{ffi::c_int, ffi::c_long, time::Duration};

use tsc_tapi::{Encryption, Redundancy, TcpSocket, TcpStream, TunnelTransport, UdpSocket};

use super::{Inner, Socket};
use crate::{
    ctypes::SoRedundancy,
    errno::{Errno, Result},
};

const SO_TSC_REDUNDANCY: c_int = 0x7C01;
const SO_TSC_TUNNEL_TRANSPORT: c_int = 0x7C02;
const SO_TSC_TUNNEL_TRANSPORT_ENCRYPTION: c_int = 0x7C03;
const SO_TSC_PEER: c_int = 0x7C04;

/// A kernel's, for who only switches probes on.
const KEEP_IDLE: Duration = Duration::from_secs(7200);

/// What was set, for what the socket becomes.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) receive_limit: Option<Duration>,
    pub(super) send_limit: Option<Duration>,
    reuse_address: bool,
    keep_alive: bool,
    keep_idle: Duration,
    /// On, and seconds.
    linger: (bool, c_int),
    no_delay: bool,
    user_timeout: Duration,
    traffic_class: u8,
    redundancy: SoRedundancy,
    transport: c_int,
    encryption: c_int,
    peer: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            receive_limit: None,
            send_limit: None,
            reuse_address: false,
            keep_alive: false,
            keep_idle: KEEP_IDLE,
            linger: (false, 0),
            no_delay: true,
            user_timeout: Duration::ZERO,
            traffic_class: 0,
            redundancy: SoRedundancy::default(),
            transport: 0,
            encryption: 0,
            peer: false,
        }
    }
}

impl Settings {
    /// What a socket that is being bound was told before.
    pub(super) fn apply_to_datagrams(&self, socket: &UdpSocket) -> Result<()> {
        let fresh = Self::default();
        if self.traffic_class != fresh.traffic_class {
            socket.set_dscp(self.traffic_class >> 2)?;
        }
        if self.redundancy.redundancy_factor > 0 {
            socket.set_redundancy(redundancy(self.redundancy)?)?;
        }
        if self.transport != fresh.transport {
            socket.set_tunnel_transport(transport(self.transport)?)?;
        }
        if self.encryption != fresh.encryption {
            socket.set_encryption(encryption(self.encryption)?)?;
        }
        if self.peer {
            socket.set_peer(true)?;
        }
        Ok(())
    }

    /// For one that connects or listens.
    pub(super) fn apply_to_stream(&self, mut stream: TcpSocket) -> TcpSocket {
        stream = stream.nodelay(self.no_delay).keepalive(self.silence());
        if !self.user_timeout.is_zero() {
            stream = stream.user_timeout(self.user_timeout);
        }
        // It was checked when it was set.
        stream.encryption(encryption(self.encryption).unwrap_or_default())
    }

    /// For one that is connected.
    pub(super) fn apply_to_connection(&self, stream: &TcpStream) {
        // These never fail: they only note it.
        let _ = stream.set_nodelay(self.no_delay);
        let _ = stream.set_keepalive(self.silence());
        let abort = self.linger.0 && self.linger.1 == 0;
        let _ = stream.set_linger(abort.then_some(Duration::ZERO));
    }

    /// Those of a connection that came to this listener.
    pub(super) fn of_accepted(&self) -> Self {
        Self {
            encryption: 0,
            ..self.clone()
        }
    }

    fn silence(&self) -> Option<Duration> {
        self.keep_alive.then_some(self.keep_idle)
    }
}

impl Socket {
    /// Whether it is to be encrypted in another way than its tunnel is.
    pub(crate) fn asks_for_encryption(&self) -> bool {
        self.settings().encryption != 0
    }

    pub(crate) fn set_option(&self, level: c_int, option: c_int, value: &[u8]) -> Result<()> {
        if matches!(&*self.inner(), Inner::Closed) {
            return Err(Errno::BAD);
        }
        match (level, option) {
            (libc::SOL_SOCKET, libc::SO_RCVTIMEO) => {
                self.settings().receive_limit = time(value)?;
            }
            (libc::SOL_SOCKET, libc::SO_SNDTIMEO) => self.settings().send_limit = time(value)?,
            (libc::SOL_SOCKET, libc::SO_REUSEADDR) => {
                self.settings().reuse_address = number(value)? != 0;
            }
            (libc::SOL_SOCKET, libc::SO_KEEPALIVE) => {
                self.settings().keep_alive = number(value)? != 0;
                self.change_connection();
            }
            (libc::SOL_SOCKET, libc::SO_LINGER) => {
                let (on, seconds) = (number(value)?, number(rest(value, size_of::<c_int>())?)?);
                self.settings().linger = (on != 0, seconds);
                self.change_connection();
            }
            (libc::SOL_SOCKET, SO_TSC_TUNNEL_TRANSPORT_ENCRYPTION) => {
                self.set_encryption(number(value)?)?;
            }
            (libc::SOL_SOCKET, SO_TSC_REDUNDANCY | SO_TSC_TUNNEL_TRANSPORT | SO_TSC_PEER)
            | (libc::IPPROTO_IP, libc::IP_TOS)
            | (libc::IPPROTO_IPV6, libc::IPV6_TCLASS)
                if !self.is_stream =>
            {
                self.set_datagram_option(level, option, value)?;
            }
            (libc::IPPROTO_TCP, libc::TCP_NODELAY) if self.is_stream => {
                self.settings().no_delay = number(value)? != 0;
                self.change_connection();
            }
            (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE) if self.is_stream => {
                let seconds = u64::try_from(number(value)?).map_err(|_| Errno::INVALID)?;
                if seconds == 0 {
                    return Err(Errno::INVALID);
                }
                self.settings().keep_idle = Duration::from_secs(seconds);
                self.change_connection();
            }
            (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT) if self.is_stream => {
                let millis = u64::try_from(number(value)?).map_err(|_| Errno::INVALID)?;
                if !matches!(&*self.inner(), Inner::Fresh { .. }) {
                    return Err(Errno(libc::EISCONN));
                }
                self.settings().user_timeout = Duration::from_millis(millis);
            }
            _ => return Err(Errno::NO_OPTION),
        }
        Ok(())
    }

    fn set_encryption(&self, level: c_int) -> Result<()> {
        let wanted = encryption(level)?;
        match &*self.inner() {
            Inner::Datagram(Some(socket)) => socket.set_encryption(wanted)?,
            Inner::Datagram(None) | Inner::Fresh { .. } => {}
            Inner::Connecting { .. }
            | Inner::Stream { .. }
            | Inner::Listener(_)
            | Inner::Closed => return Err(Errno(libc::EISCONN)),
        }
        self.settings().encryption = level;
        Ok(())
    }

    fn set_datagram_option(&self, level: c_int, option: c_int, value: &[u8]) -> Result<()> {
        let inner = self.inner();
        let socket = if let Inner::Datagram(Some(socket)) = &*inner {
            Some(socket)
        } else {
            None
        };
        let mut settings = self.settings();
        match (level, option) {
            (libc::SOL_SOCKET, SO_TSC_REDUNDANCY) => {
                let factor = u32::try_from(number(value)?).map_err(|_| Errno::INVALID)?;
                let wanted = SoRedundancy {
                    redundancy_factor: factor,
                    redundancy_method: number(rest(value, size_of::<u32>())?)?,
                };
                let checked = redundancy(wanted)?;
                if let Some(socket) = socket {
                    socket.set_redundancy(checked)?;
                }
                settings.redundancy = wanted;
            }
            (libc::SOL_SOCKET, SO_TSC_TUNNEL_TRANSPORT) => {
                let wanted = number(value)?;
                let checked = transport(wanted)?;
                if let Some(socket) = socket {
                    socket.set_tunnel_transport(checked)?;
                }
                settings.transport = wanted;
            }
            (libc::SOL_SOCKET, SO_TSC_PEER) => {
                let wanted = match number(value)? {
                    0 => false,
                    1 => true,
                    _ => return Err(Errno::INVALID),
                };
                if let Some(socket) = socket {
                    socket.set_peer(wanted)?;
                }
                settings.peer = wanted;
            }
            _ => {
                let class = u8::try_from(number(value)?).map_err(|_| Errno::INVALID)?;
                if let Some(socket) = socket {
                    socket.set_dscp(class >> 2)?;
                }
                settings.traffic_class = class;
            }
        }
        Ok(())
    }

    fn change_connection(&self) {
        if let Inner::Stream { stream, .. } = &*self.inner() {
            self.settings().apply_to_connection(stream);
        }
    }

    pub(crate) fn option(&self, level: c_int, option: c_int) -> Result<Vec<u8>> {
        if matches!(&*self.inner(), Inner::Closed) {
            return Err(Errno::BAD);
        }
        if (level, option) == (libc::SOL_SOCKET, libc::SO_ERROR) {
            return Ok(int(self.take_error()));
        }
        let listens = matches!(&*self.inner(), Inner::Listener(_));
        let settings = self.settings();
        let is_stream = self.is_stream;
        Ok(match (level, option) {
            (libc::SOL_SOCKET, libc::SO_TYPE) if is_stream => int(libc::SOCK_STREAM),
            (libc::SOL_SOCKET, libc::SO_TYPE) => int(libc::SOCK_DGRAM),
            (libc::SOL_SOCKET, libc::SO_PROTOCOL) if is_stream => int(libc::IPPROTO_TCP),
            (libc::SOL_SOCKET, libc::SO_PROTOCOL) => int(libc::IPPROTO_UDP),
            (libc::SOL_SOCKET, libc::SO_DOMAIN) if self.is_ipv4 => int(libc::AF_INET),
            (libc::SOL_SOCKET, libc::SO_DOMAIN) => int(libc::AF_INET6),
            (libc::SOL_SOCKET, libc::SO_ACCEPTCONN) => int(listens.into()),
            (libc::SOL_SOCKET, libc::SO_RCVTIMEO) => timeval(settings.receive_limit),
            (libc::SOL_SOCKET, libc::SO_SNDTIMEO) => timeval(settings.send_limit),
            (libc::SOL_SOCKET, libc::SO_REUSEADDR) => int(settings.reuse_address.into()),
            (libc::SOL_SOCKET, libc::SO_KEEPALIVE) => int(settings.keep_alive.into()),
            (libc::SOL_SOCKET, libc::SO_LINGER) => {
                let (on, seconds) = settings.linger;
                [int(on.into()), int(seconds)].concat()
            }
            (libc::SOL_SOCKET, SO_TSC_TUNNEL_TRANSPORT_ENCRYPTION) => int(settings.encryption),
            (libc::SOL_SOCKET, SO_TSC_REDUNDANCY) if !is_stream => {
                let wanted = settings.redundancy;
                let factor = wanted.redundancy_factor.to_ne_bytes().to_vec();
                [factor, int(wanted.redundancy_method)].concat()
            }
            (libc::SOL_SOCKET, SO_TSC_TUNNEL_TRANSPORT) if !is_stream => int(settings.transport),
            (libc::SOL_SOCKET, SO_TSC_PEER) if !is_stream => int(settings.peer.into()),
            (libc::IPPROTO_IP, libc::IP_TOS) | (libc::IPPROTO_IPV6, libc::IPV6_TCLASS)
                if !is_stream =>
            {
                int(settings.traffic_class.into())
            }
            (libc::IPPROTO_TCP, libc::TCP_NODELAY) if is_stream => int(settings.no_delay.into()),
            (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE) if is_stream => {
                int(c_int::try_from(settings.keep_idle.as_secs()).unwrap_or(c_int::MAX))
            }
            (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT) if is_stream => {
                int(c_int::try_from(settings.user_timeout.as_millis()).unwrap_or(c_int::MAX))
            }
            _ => return Err(Errno::NO_OPTION),
        })
    }

    /// The failure that no call has told yet.
    fn take_error(&self) -> c_int {
        let error = match &mut *self.inner() {
            Inner::Fresh { error, .. } => error.take(),
            Inner::Stream { stream, .. } => stream.take_error().ok().flatten().map(Errno::from),
            Inner::Datagram(_) | Inner::Connecting { .. } | Inner::Listener(_) | Inner::Closed => {
                None
            }
        };
        error.map_or(0, |error| error.0)
    }
}

fn redundancy(wanted: SoRedundancy) -> Result<Redundancy> {
    let copies = u8::try_from(wanted.redundancy_factor).map_err(|_| Errno::INVALID)?;
    if copies > tsc_tapi::MAX_COPIES {
        return Err(Errno::INVALID);
    }
    Ok(match wanted.redundancy_method {
        0..=3 if copies == 0 => Redundancy::Off,
        0 | 1 => Redundancy::Copies(copies),
        2 => Redundancy::Balanced(copies),
        3 => Redundancy::Adaptive { most: copies },
        _ => return Err(Errno::INVALID),
    })
}

const fn transport(wanted: c_int) -> Result<TunnelTransport> {
    Ok(match wanted {
        0 => TunnelTransport::Main,
        1 => TunnelTransport::Datagram,
        2 => TunnelTransport::Automatic,
        _ => return Err(Errno::INVALID),
    })
}

const fn encryption(wanted: c_int) -> Result<Encryption> {
    Ok(match wanted {
        0 => Encryption::Default,
        1 => Encryption::Unencrypted,
        2 => Encryption::Only,
        3 => Encryption::Preferred,
        _ => return Err(Errno::INVALID),
    })
}

fn rest(value: &[u8], from: usize) -> Result<&[u8]> {
    value.get(from..).ok_or(Errno::INVALID)
}

fn number(value: &[u8]) -> Result<c_int> {
    let bytes = value.first_chunk().ok_or(Errno::INVALID)?;
    Ok(c_int::from_ne_bytes(*bytes))
}

fn int(value: c_int) -> Vec<u8> {
    value.to_ne_bytes().to_vec()
}

/// A `struct timeval`, of which zero is for ever.
fn time(value: &[u8]) -> Result<Option<Duration>> {
    let long = |value: &[u8]| -> Result<c_long> {
        let bytes = value.first_chunk().ok_or(Errno::INVALID)?;
        Ok(c_long::from_ne_bytes(*bytes))
    };
    let time = crate::wait::duration(long(value)?, long(rest(value, size_of::<c_long>())?)?)?;
    Ok((!time.is_zero()).then_some(time))
}

fn timeval(time: Option<Duration>) -> Vec<u8> {
    let time = time.unwrap_or_default();
    let seconds = c_long::try_from(time.as_secs()).unwrap_or(c_long::MAX);
    let micros = c_long::from(time.subsec_micros().cast_signed());
    [seconds.to_ne_bytes(), micros.to_ne_bytes()].concat()
}
