//! The far end of peers that end in TCP: sends back what comes in packets with two bytes of length before each.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

use crate::clock::monotonic_ns;
use crate::link::Framed;
use crate::probe::Probe;

const LISTENER: Token = Token(usize::MAX);

/// Events taken in one turn.
const EVENTS: usize = 1024;

/// One connection. What the other end does not read waits without bound: it has sent as much itself.
struct Connection {
    socket: TcpStream,
    framed: Framed,
    out: Vec<u8>,
}

/// See the module.
pub struct StreamEcho {
    poll: Poll,
    events: Events,
    listener: TcpListener,
    connections: Vec<Option<Connection>>,
    scratch: Vec<u8>,
}

impl StreamEcho {
    /// Listens on loopback.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn bind() -> io::Result<Self> {
        let here = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
        let mut listener = TcpListener::bind(here.into())?;
        let poll = Poll::new()?;
        poll.registry()
            .register(&mut listener, LISTENER, Interest::READABLE)?;
        Ok(Self {
            poll,
            events: Events::with_capacity(EVENTS),
            listener,
            connections: Vec::new(),
            scratch: vec![0; 64 * 1024],
        })
    }

    /// Where it is.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Sends back what has come, without waiting, and shows each request to `watch`; whether there was any.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn turn(&mut self, watch: &mut impl FnMut(u64, &Probe)) -> io::Result<bool> {
        match self.poll.poll(&mut self.events, Some(Duration::ZERO)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let ready: Vec<_> = self.events.iter().map(|event| event.token()).collect();
        for token in &ready {
            match *token {
                LISTENER => self.accept()?,
                Token(number) => {
                    let Some(slot) = self.connections.get_mut(number) else {
                        continue;
                    };
                    let is_alive = slot
                        .as_mut()
                        .is_some_and(|one| one.echo(&mut self.scratch, watch));
                    if !is_alive {
                        *slot = None;
                    }
                }
            }
        }
        Ok(!ready.is_empty())
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
            let token = Token(self.connections.len());
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll
                .registry()
                .register(&mut socket, token, interest)?;
            self.connections.push(Some(Connection {
                socket,
                framed: Framed::default(),
                out: Vec::new(),
            }));
        }
    }
}

impl Connection {
    /// Reads all that is there and writes what the socket takes; whether the connection lives.
    fn echo(&mut self, scratch: &mut [u8], watch: &mut impl FnMut(u64, &Probe)) -> bool {
        loop {
            let length = match self.socket.read(scratch) {
                Ok(0) => return false,
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return false,
            };
            let now_ns = monotonic_ns();
            let out = &mut self.out;
            self.framed
                .feed(scratch.get(..length).unwrap_or_default(), |packet| {
                    let Some(probe) = Probe::decode(packet) else {
                        return;
                    };
                    watch(now_ns, &probe);
                    let at = out.len();
                    let length = u16::try_from(packet.len()).unwrap_or(u16::MAX);
                    out.extend_from_slice(&length.to_be_bytes());
                    out.extend_from_slice(packet);
                    let echo = out.get_mut(at + 2..).unwrap_or_default();
                    let _was_request = Probe::reflect(echo, now_ns);
                });
        }
        while !self.out.is_empty() {
            match self.socket.write(&self.out) {
                Ok(0) => return false,
                Ok(length) => {
                    self.out.drain(..length);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream as Blocking;

    use super::*;
    use crate::probe::Kind;

    #[test]
    fn requests_come_back_as_echoes() {
        let mut echo = StreamEcho::bind().unwrap();
        let mut client = Blocking::connect(echo.address().unwrap()).unwrap();
        client.set_nonblocking(true).unwrap();
        let probe = Probe {
            kind: Kind::Request,
            window: 1,
            flow: 2,
            sequence: 3,
            due_ns: 4,
            echoed_ns: 0,
        };
        let mut wire = vec![0, 40];
        wire.extend(probe.encode());
        wire.extend([0; 8]);
        client.write_all(&wire).unwrap();
        let (mut back, mut seen) = (Vec::new(), 0);
        let mut room = [0; 100];
        while back.len() < wire.len() {
            echo.turn(&mut |_, _| seen += 1).unwrap();
            if let Ok(length) = client.read(&mut room) {
                back.extend_from_slice(&room[..length]);
            }
        }
        assert_eq!(seen, 1);
        assert_eq!(back[..2], wire[..2]);
        let probe = Probe::decode(&back[2..]).unwrap();
        assert_eq!((probe.kind, probe.sequence), (Kind::Echo, 3));
    }
}
