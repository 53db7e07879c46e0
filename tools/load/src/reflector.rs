//! The far end: a UDP echo that stamps requests with the time and sends them back.

use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::AsFd as _;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::clock::monotonic_ns;
use crate::link::{Buffers, DatagramSocket};
use crate::probe::Probe;

/// Batches of one turn.
const BATCHES: usize = 4;

/// A UDP echo.
#[derive(Debug)]
pub struct Reflector {
    socket: DatagramSocket,
    reflected: u64,
}

impl Reflector {
    /// Binds it.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn bind(address: SocketAddrV4) -> io::Result<Self> {
        Ok(Self {
            socket: DatagramSocket::bind(address)?,
            reflected: 0,
        })
    }

    /// Where it is.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// The socket, to be waited for.
    #[must_use]
    pub const fn socket(&self) -> &DatagramSocket {
        &self.socket
    }

    /// Requests sent back so far.
    #[must_use]
    pub const fn reflected(&self) -> u64 {
        self.reflected
    }

    /// Sends back what has come, without waiting, and shows each request to `watch`; whether there was any.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn turn(
        &mut self,
        buffers: &mut Buffers,
        mut watch: impl FnMut(u64, &Probe),
    ) -> io::Result<bool> {
        let mut any = false;
        for _ in 0..BATCHES {
            if !self.socket.receive(buffers)? {
                break;
            }
            any = true;
            let now_ns = monotonic_ns();
            for received in buffers.datagrams() {
                let probe = Probe::decode(received.bytes);
                if !Probe::reflect(received.bytes, now_ns) {
                    continue;
                }
                if let Some(probe) = probe {
                    watch(now_ns, &probe);
                }
                self.reflected += 1;
                self.socket.send(None, received.from, received.bytes);
            }
            self.socket.flush();
        }
        Ok(any)
    }
}

/// Echoes until a signal ends the process; `told` gets the address.
///
/// # Errors
///
/// What the system says.
pub fn serve(address: SocketAddrV4, told: impl FnOnce(SocketAddr)) -> io::Result<()> {
    let mut reflector = Reflector::bind(address)?;
    told(reflector.address()?);
    let mut buffers = Buffers::default();
    loop {
        while reflector.turn(&mut buffers, |_, _| {})? {}
        let mut fds = [PollFd::new(reflector.socket.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
