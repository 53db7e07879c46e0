//! A TCP connection, plain or under TLS, that is never waited for.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use mio::net::TcpStream;
use nix::sys::socket::{setsockopt, sockopt};
use rustls::{ClientConfig, ClientConnection};
use rustls_pki_types::ServerName;
use socket2::{Domain, Protocol, Socket, Type};

use crate::clock::monotonic_ns;

/// Most bytes that wait for the socket; what comes on top is dropped and counted, as media would be ...
const BACKLOG: usize = 128 * 1024;

/// ... and so is what comes when some have waited for so long, as in clients of the SDK.
const PATIENCE_NS: u64 = 200_000_000;

/// What the system may hold back in addition, as with clients of the SDK.
const KERNEL_UNSENT: u32 = 16 * 1024;

/// Most reads of one connection before others get their turn.
const READS: usize = 4;

/// How a read turn of a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadEnd {
    /// All was read.
    Drained,
    /// There may be more.
    More,
    /// The other end has closed it.
    Closed,
}

/// One connection.
#[derive(Debug)]
pub struct StreamLink {
    socket: TcpStream,
    tls: Option<Box<ClientConnection>>,
    connected: bool,
    /// The other end has closed it, or it is broken: behind what there is to be read comes its end.
    ending: bool,
    /// Plaintext of this turn, under TLS; otherwise unused.
    plain: Vec<u8>,
    /// What waits for the socket, and how much of its front is written.
    out: Vec<u8>,
    written: usize,
    /// Since when the socket takes nothing.
    blocked_ns: Option<u64>,
}

impl StreamLink {
    /// Begins to connect to `server`; from the loopback address `from` if there is one.
    ///
    /// # Errors
    ///
    /// What the system says, or TLS cannot begin.
    pub fn connect(
        server: SocketAddr,
        from: Option<Ipv4Addr>,
        tls: Option<(&Arc<ClientConfig>, &ServerName<'static>)>,
    ) -> io::Result<Self> {
        let socket = Socket::new(
            Domain::for_address(server),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_notsent_lowat(KERNEL_UNSENT)?;
        if let Some(from) = from {
            // The port is chosen by what it connects to, not for the address as a whole.
            setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
            socket.bind(&SocketAddr::from((from, 0)).into())?;
        }
        match socket.connect(&server.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(nix::libc::EINPROGRESS) => {}
            Err(error) => return Err(error),
        }
        let tls = tls
            .map(|(config, name)| ClientConnection::new(Arc::clone(config), name.clone()))
            .transpose()
            .map_err(io::Error::other)?;
        let mut link = Self {
            socket: TcpStream::from_std(socket.into()),
            tls: tls.map(Box::new),
            connected: false,
            ending: false,
            plain: Vec::new(),
            out: Vec::new(),
            written: 0,
            blocked_ns: None,
        };
        if let Some(tls) = &mut link.tls {
            tls.set_buffer_limit(None);
            while tls.wants_write() {
                tls.write_tls(&mut link.out)?;
            }
        }
        Ok(link)
    }

    /// The socket, to be registered.
    pub const fn socket(&mut self) -> &mut TcpStream {
        &mut self.socket
    }

    /// Whether units can be sent: it is connected, and TLS is through its handshake.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.connected && self.tls.as_ref().is_none_or(|tls| !tls.is_handshaking())
    }

    /// To be called when the socket becomes writable.
    ///
    /// # Errors
    ///
    /// It could not be connected, or is broken.
    pub fn writable(&mut self) -> io::Result<()> {
        if !self.connected {
            if let Some(error) = self.socket.take_error()? {
                return Err(error);
            }
            match self.socket.peer_addr() {
                Ok(_) => self.connected = true,
                Err(error) if error.kind() == io::ErrorKind::NotConnected => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.flush()
    }

    /// To be called when the system says that there is an end to be read.
    pub const fn ends(&mut self) {
        self.ending = true;
    }

    /// Takes bytes to be sent with the next [`Self::flush`]; `false` if too many wait already. `forced` ones always fit.
    pub fn send(&mut self, prefix: &[u8], bytes: &[u8], forced: bool) -> bool {
        let is_late = || {
            let blocked = self.blocked_ns;
            blocked.is_some_and(|since| monotonic_ns().saturating_sub(since) > PATIENCE_NS)
        };
        let waits = self.out.len() - self.written + self.plain.len();
        if !forced && (waits > BACKLOG || is_late()) {
            return false;
        }
        let to = match self.tls {
            Some(_) => &mut self.plain,
            None => &mut self.out,
        };
        to.extend_from_slice(prefix);
        to.extend_from_slice(bytes);
        true
    }

    /// Seals and writes what waits, as far as the socket takes it.
    ///
    /// # Errors
    ///
    /// The connection is broken.
    pub fn flush(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            if !self.plain.is_empty() {
                tls.writer().write_all(&self.plain)?;
                self.plain.clear();
            }
            while tls.wants_write() {
                tls.write_tls(&mut self.out)?;
            }
        }
        if !self.connected {
            return Ok(());
        }
        while let Some(rest) = self.out.get(self.written..).filter(|rest| !rest.is_empty()) {
            match self.socket.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => self.written += length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.out.drain(..self.written);
                    self.written = 0;
                    self.blocked_ns.get_or_insert_with(monotonic_ns);
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.written = 0;
        self.blocked_ns = None;
        Ok(())
    }

    /// Reads what is there through `buffer`, and hands plaintext to `sink`.
    ///
    /// # Errors
    ///
    /// The connection is broken, or TLS is.
    pub fn read(&mut self, buffer: &mut [u8], mut sink: impl FnMut(&[u8])) -> io::Result<ReadEnd> {
        let (wire, clear) = buffer.split_at_mut(buffer.len() / 2);
        let wire_len = wire.len();
        for _ in 0..READS {
            let length = match self.socket.read(wire) {
                Ok(0) => return Ok(ReadEnd::Closed),
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(ReadEnd::Drained);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let mut bytes = wire.get(..length).unwrap_or_default();
            // There was no more, and what comes from now on is told anew: no call is needed to know (epoll(7)).
            let is_drained = length < wire_len && !self.ending;
            let Some(tls) = &mut self.tls else {
                sink(bytes);
                if is_drained {
                    return Ok(ReadEnd::Drained);
                }
                continue;
            };
            while !bytes.is_empty() {
                tls.read_tls(&mut bytes)?;
                tls.process_new_packets().map_err(io::Error::other)?;
                loop {
                    match tls.reader().read(clear) {
                        Ok(0) => return Ok(ReadEnd::Closed),
                        Ok(length) => sink(clear.get(..length).unwrap_or_default()),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                        Err(error) => return Err(error),
                    }
                }
            }
            if is_drained {
                return Ok(ReadEnd::Drained);
            }
        }
        Ok(ReadEnd::More)
    }

    /// Gives back buffers that only traffic needs.
    pub fn shrink(&mut self) {
        if self.out.is_empty() {
            self.out = Vec::new();
        }
        if self.plain.is_empty() {
            self.plain = Vec::new();
        }
    }
}
