//! TCP with two bytes of length before each packet, plain or under TLS, to UDP.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use mio::net::{TcpListener, TcpStream};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::sys::socket::SockaddrIn;
use rustls::{ServerConfig, ServerConnection};

use super::Announce;
use super::mmsg::{Batch, FlowTable, Side};
use crate::link::Framed;
use crate::probe::Probe;

const LISTENER: Token = Token(usize::MAX);
const BACK: Token = Token(usize::MAX - 1);

/// Most bytes that wait for a client; what comes on top is dropped.
const BACKLOG: usize = 256 * 1024;

/// One client.
struct Client {
    socket: TcpStream,
    tls: Option<Box<ServerConnection>>,
    framed: Framed,
    out: Vec<u8>,
    is_dirty: bool,
}

impl Client {
    /// Writes what waits; `false` if the connection is over.
    fn flush(&mut self) -> bool {
        if let Some(tls) = &mut self.tls {
            // What is sealed goes first; what comes after it waits in clear, where its bound is kept.
            return match drain(tls, &mut self.socket) {
                Some(true) => {
                    let sealed = tls.writer().write_all(&self.out);
                    self.out.clear();
                    sealed.is_ok() && drain(tls, &mut self.socket).is_some()
                }
                Some(false) => true,
                None => false,
            };
        }
        let mut written = 0;
        let is_alive = loop {
            match self.out.get(written..) {
                None | Some([]) => break true,
                Some(rest) => match self.socket.write(rest) {
                    Ok(0) => break false,
                    Ok(length) => written += length,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break true,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => break false,
                },
            }
        };
        self.out.drain(..written);
        is_alive
    }
}

/// Writes what TLS has sealed; whether that was all, `None` if the connection is over.
fn drain(tls: &mut ServerConnection, socket: &mut TcpStream) -> Option<bool> {
    while tls.wants_write() {
        match tls.write_tls(socket) {
            Ok(0) => return None,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Some(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    Some(true)
}

/// Plaintext of what has come, as much as there is room for; handshakes are answered.
fn open(tls: &mut ServerConnection, socket: &mut TcpStream, plain: &mut [u8]) -> io::Result<usize> {
    loop {
        match tls.reader().read(plain) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result,
        }
        if tls.read_tls(socket)? == 0 {
            return Ok(0);
        }
        tls.process_new_packets().map_err(io::Error::other)?;
        if tls.is_handshaking() || tls.wants_write() {
            drain(tls, socket).ok_or(io::ErrorKind::BrokenPipe)?;
        }
    }
}

struct Relay {
    poll: Poll,
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    clients: Vec<Option<Client>>,
    /// By flow number its client.
    flows: FlowTable<usize>,
    back: Side,
    batch: Batch,
    echo: SockaddrIn,
    scratch: Vec<u8>,
    /// Packets of one turn for the echo, one after the other, and their ends.
    up: Vec<u8>,
    ends: Vec<usize>,
    dirty: Vec<usize>,
}

pub(super) fn serve(
    to: SocketAddrV4,
    tls: Option<Arc<ServerConfig>>,
    announce: Announce<'_>,
) -> io::Result<()> {
    let mut listener = TcpListener::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0).into())?;
    let poll = Poll::new()?;
    let back = Side::bind()?;
    poll.registry()
        .register(&mut listener, LISTENER, Interest::READABLE)?;
    let fd = back.socket().as_raw_fd();
    poll.registry()
        .register(&mut SourceFd(&fd), BACK, Interest::READABLE)?;
    announce(listener.local_addr()?)?;
    let mut relay = Relay {
        poll,
        listener,
        tls,
        clients: Vec::new(),
        flows: FlowTable::default(),
        back,
        batch: Batch::default(),
        echo: SockaddrIn::from(to),
        scratch: vec![0; 64 * 1024],
        up: Vec::new(),
        ends: Vec::new(),
        dirty: Vec::new(),
    };
    relay.run()
}

impl Relay {
    fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        loop {
            if let Err(error) = self.poll.poll(&mut events, None)
                && error.kind() != io::ErrorKind::Interrupted
            {
                return Err(error);
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept()?,
                    BACK => self.down()?,
                    Token(client) => {
                        if event.is_writable() {
                            self.flush(client);
                        }
                        if event.is_readable() || event.is_read_closed() {
                            self.read(client);
                        }
                    }
                }
            }
            let mut dirty = std::mem::take(&mut self.dirty);
            for client in dirty.drain(..) {
                self.flush(client);
            }
            self.dirty = dirty;
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let mut socket = match self.listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            socket.set_nodelay(true)?;
            let token = Token(self.clients.len());
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll
                .registry()
                .register(&mut socket, token, interest)?;
            let tls = self.tls.as_ref().map(|config| {
                let mut tls = ServerConnection::new(Arc::clone(config))?;
                tls.set_buffer_limit(None);
                Ok(Box::new(tls))
            });
            self.clients.push(Some(Client {
                socket,
                tls: tls
                    .transpose()
                    .map_err(|error: rustls::Error| io::Error::other(error))?,
                framed: Framed::default(),
                out: Vec::new(),
                is_dirty: false,
            }));
        }
    }

    /// From a client to the echo.
    fn read(&mut self, number: usize) {
        loop {
            let Some(Some(client)) = self.clients.get_mut(number) else {
                return;
            };
            let read = match &mut client.tls {
                None => client.socket.read(&mut self.scratch),
                Some(tls) => open(tls, &mut client.socket, &mut self.scratch),
            };
            let length = match read {
                Ok(length) if length > 0 => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Ok(_) | Err(_) => return self.forget(number),
            };
            let bytes = self.scratch.get(..length).unwrap_or_default();
            let (up, ends, flows) = (&mut self.up, &mut self.ends, &mut self.flows);
            client.framed.feed(bytes, |packet| {
                if let Some(probe) = Probe::decode(packet) {
                    flows.learn(probe.flow, number);
                }
                up.extend_from_slice(packet);
                ends.push(up.len());
            });
            let mut from = 0;
            let packets: Vec<_> = ends
                .iter()
                .map(|&end| {
                    let packet = up.get(from..end).unwrap_or_default();
                    from = end;
                    [IoSlice::new(packet)]
                })
                .collect();
            let targets = vec![Some(self.echo); packets.len()];
            self.back.send(&targets, &packets);
            self.ends.clear();
            self.up.clear();
        }
    }

    /// From the echo to clients.
    fn down(&mut self) -> io::Result<()> {
        while self.back.receive(&mut self.batch)? {
            for (_, packet) in self.batch.packets() {
                let Some(number) =
                    Probe::decode(packet).and_then(|probe| self.flows.find(probe.flow))
                else {
                    continue;
                };
                let Some(Some(client)) = self.clients.get_mut(number) else {
                    continue;
                };
                if client.out.len() > BACKLOG {
                    continue;
                }
                let length = u16::try_from(packet.len()).unwrap_or(u16::MAX);
                client.out.extend_from_slice(&length.to_be_bytes());
                client.out.extend_from_slice(packet);
                if !client.is_dirty {
                    client.is_dirty = true;
                    self.dirty.push(number);
                }
            }
        }
        Ok(())
    }

    fn flush(&mut self, number: usize) {
        if let Some(Some(client)) = self.clients.get_mut(number) {
            client.is_dirty = false;
            if !client.flush() {
                self.forget(number);
            }
        }
    }

    fn forget(&mut self, number: usize) {
        if let Some(client) = self.clients.get_mut(number) {
            *client = None;
        }
    }
}
