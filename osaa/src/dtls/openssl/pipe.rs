//! The "socket" that OpenSSL reads from and writes to: two queues of datagrams in memory.

use std::io::{self, Read, Write};

use crate::dtls::handshake::Outgoing;
use crate::dtls::queue::DatagramQueue;

/// One read is one datagram and one write is one datagram, as on a UDP socket.
#[derive(Default)]
pub(super) struct Pipe {
    pub(super) inbound: DatagramQueue,
    pub(super) outgoing: Outgoing,
}

impl Read for Pipe {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.inbound
            .pop(|datagram| {
                // What does not fit is lost, as with recv(2) on a datagram socket.
                let length = datagram.len().min(buf.len());
                if let (Some(to), Some(from)) = (buf.get_mut(..length), datagram.get(..length)) {
                    to.copy_from_slice(from);
                }
                length
            })
            .ok_or_else(|| io::ErrorKind::WouldBlock.into())
    }
}

impl Write for Pipe {
    fn write(&mut self, datagram: &[u8]) -> io::Result<usize> {
        self.outgoing.push(datagram);
        Ok(datagram.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
