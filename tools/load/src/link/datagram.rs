//! One UDP socket that is many clients: each has a source address of its own out of 127.0.0.0/8, by which the server tells
//! them apart. So a hundred thousand tunnels need one descriptor, and what arrives for all of them is read in batches.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::socket::{setsockopt, sockopt};
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSockRef, UdpSocketState};

/// First source address of clients: 127.1.0.1.
const FIRST: u32 = 0x7f01_0001;

/// Most clients of one generator: up to 127.255.255.255.
pub const MAX_CLIENTS: u32 = 0x7fff_ffff - FIRST;

/// Buffer that is asked for; what was got is reported. A pause of the generator must not look like the server's loss.
const BUFFER: usize = 64 << 20;

/// Longest train of datagrams in one call.
const TRAIN_BYTES: usize = 60_000;

/// Most datagrams in one call (UDP_MAX_SEGMENTS of older kernels).
const TRAIN_LEN: usize = 64;

/// Each receive buffer takes a whole train.
const SLOT: usize = 65_536;

/// Source address of a client.
#[must_use]
pub fn client_address(index: u32) -> Ipv4Addr {
    Ipv4Addr::from(FIRST.saturating_add(index.min(MAX_CLIENTS)))
}

/// The client of a source address, the other way around.
fn client_index(address: Option<IpAddr>) -> Option<u32> {
    match address {
        Some(IpAddr::V4(address)) => u32::from(address).checked_sub(FIRST),
        _ => None,
    }
}

/// Datagrams of one length for one destination that leave in one call (UDP_SEGMENT).
#[derive(Debug, Default)]
struct Train {
    from: Option<u32>,
    to: Option<SocketAddr>,
    bytes: Vec<u8>,
    segment: usize,
    count: usize,
}

/// A UDP socket with large buffers that receives batches and sends trains.
#[derive(Debug)]
pub struct DatagramSocket {
    socket: UdpSocket,
    state: UdpSocketState,
    train: Train,
    trains: usize,
    unsent: u64,
}

impl DatagramSocket {
    /// Binds it.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn bind(address: SocketAddrV4) -> io::Result<Self> {
        let socket = UdpSocket::bind(address)?;
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        // Only the privileged may go beyond the system's limits.
        if setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).is_err() {
            setsockopt(&socket, sockopt::RcvBuf, &BUFFER)?;
        }
        if setsockopt(&socket, sockopt::SndBufForce, &BUFFER).is_err() {
            setsockopt(&socket, sockopt::SndBuf, &BUFFER)?;
        }
        Ok(Self {
            socket,
            state,
            train: Train::default(),
            trains: 1,
            unsent: 0,
        })
    }

    /// Lets datagrams of one length for one destination leave in one call (UDP_SEGMENT), which spares the system work at both
    /// ends. Off at first: what comes over a network comes one by one.
    pub fn allow_trains(&mut self) {
        self.trains = self.state.max_gso_segments().clamp(1, TRAIN_LEN);
    }

    /// Where it is bound.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// The receive buffer that was got, in bytes.
    #[must_use]
    pub fn receive_buffer(&self) -> usize {
        self.state
            .recv_buffer_size(UdpSockRef::from(&self.socket))
            .unwrap_or_default()
    }

    /// Datagrams that the system did not take.
    #[must_use]
    pub const fn unsent(&self) -> u64 {
        self.unsent
    }

    /// Sends a datagram, at the latest with the next [`Self::flush`]. `from` is the client whose source address it gets.
    pub fn send(&mut self, from: Option<u32>, to: SocketAddr, datagram: &[u8]) {
        let train = &self.train;
        let joins = train.count > 0
            && train.count < self.trains
            && train.from == from
            && train.to == Some(to)
            && train.segment == datagram.len()
            && train.bytes.len() + datagram.len() <= TRAIN_BYTES;
        if !joins {
            self.flush();
            self.train.from = from;
            self.train.to = Some(to);
            self.train.segment = datagram.len();
        }
        self.train.bytes.extend_from_slice(datagram);
        self.train.count += 1;
    }

    /// Sends what waits.
    pub fn flush(&mut self) {
        let train = &mut self.train;
        let Some(destination) = train.to.filter(|_| train.count > 0) else {
            return;
        };
        let transmit = Transmit {
            destination,
            ecn: None,
            contents: &train.bytes,
            segment_size: (train.count > 1).then_some(train.segment),
            src_ip: train.from.map(|index| client_address(index).into()),
        };
        let socket = UdpSockRef::from(&self.socket);
        if self.state.try_send(socket, &transmit).is_err() {
            self.unsent += train.count as u64;
        }
        train.bytes.clear();
        train.count = 0;
    }

    /// Reads one batch into `buffers` without waiting; whether there was any.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn receive(&self, buffers: &mut Buffers) -> io::Result<bool> {
        buffers.filled = 0;
        let mut slots = buffers
            .bytes
            .chunks_exact_mut(SLOT)
            .map(IoSliceMut::new)
            .collect::<Vec<_>>();
        let socket = UdpSockRef::from(&self.socket);
        match self.state.recv(socket, &mut slots, &mut buffers.metas) {
            Ok(filled) => {
                buffers.filled = filled;
                Ok(filled > 0)
            }
            // ECONNREFUSED: an earlier datagram came to nobody.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock
                        | io::ErrorKind::Interrupted
                        | io::ErrorKind::ConnectionRefused
                ) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

impl AsFd for DatagramSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A received datagram.
#[derive(Debug)]
pub struct Received<'a> {
    /// Who sent it.
    pub from: SocketAddr,
    /// The client to whose address it came.
    pub client: Option<u32>,
    /// Its contents.
    pub bytes: &'a mut [u8],
}

/// Room for one batch; one serves all sockets.
#[derive(Debug)]
pub struct Buffers {
    bytes: Vec<u8>,
    metas: [RecvMeta; BATCH_SIZE],
    filled: usize,
}

impl Default for Buffers {
    fn default() -> Self {
        Self {
            bytes: vec![0; SLOT * BATCH_SIZE],
            metas: [RecvMeta::default(); BATCH_SIZE],
            filled: 0,
        }
    }
}

impl Buffers {
    /// What was received last.
    pub fn datagrams(&mut self) -> impl Iterator<Item = Received<'_>> {
        self.bytes
            .chunks_exact_mut(SLOT)
            .zip(self.metas.iter())
            .take(self.filled)
            .flat_map(|(slot, meta)| {
                let bytes = slot.get_mut(..meta.len).unwrap_or_default();
                let client = client_index(meta.dst_ip);
                bytes
                    .chunks_mut(meta.stride.max(1))
                    .map(move |bytes| Received {
                        from: meta.addr,
                        client,
                        bytes,
                    })
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_have_addresses_of_their_own() {
        assert_eq!(client_address(0), Ipv4Addr::new(127, 1, 0, 1));
        assert_eq!(client_address(100_000), Ipv4Addr::new(127, 2, 0x86, 0xa1));
        assert_eq!(client_index(Some(client_address(77).into())), Some(77));
        assert_eq!(client_index(Some([127, 0, 0, 1].into())), None);
    }

    /// Trains and single datagrams arrive one by one, with their client's address both ways.
    #[test]
    fn many_clients_over_one_socket() {
        let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
        let mut clients = DatagramSocket::bind(any).unwrap();
        let mut server = DatagramSocket::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert!(clients.receive_buffer() > 100_000);
        let to = server.local_addr().unwrap();
        clients.allow_trains();
        server.allow_trains();
        for (client, datagram) in [(5, "aaa"), (5, "bbb"), (5, "c"), (9, "dd")] {
            clients.send(Some(client), to, datagram.as_bytes());
        }
        clients.flush();
        let mut buffers = Buffers::default();
        let mut got = Vec::new();
        while got.len() < 4 {
            if server.receive(&mut buffers).unwrap() {
                got.extend(
                    buffers
                        .datagrams()
                        .map(|datagram| (datagram.from, datagram.bytes.to_vec())),
                );
            }
        }
        let bytes: Vec<_> = got.iter().map(|(_, bytes)| bytes.as_slice()).collect();
        assert_eq!(bytes, [&b"aaa"[..], b"bbb", b"c", b"dd"]);
        assert_eq!(got[0].0.ip(), IpAddr::from(client_address(5)));
        assert_eq!(got[3].0.ip(), IpAddr::from(client_address(9)));
        for (from, bytes) in &got {
            server.send(None, *from, bytes);
        }
        server.flush();
        let mut back = Vec::new();
        while back.len() < 4 {
            if clients.receive(&mut buffers).unwrap() {
                back.extend(buffers.datagrams().map(|datagram| datagram.client));
            }
        }
        assert_eq!(back, [Some(5), Some(5), Some(5), Some(9)]);
        assert_eq!(clients.unsent() + server.unsent(), 0);
    }
}
