//! UDP to UDP with recvmmsg and sendmmsg.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg, setsockopt, sockopt,
};

use super::Announce;
use crate::probe::Probe;

/// Packets of one call.
const BATCH: usize = 64;

/// Longest packet.
const SLOT: usize = 2048;

/// Socket buffers, if the system lets us.
const BUFFER: usize = 4 << 20;

/// A socket with what its calls need.
pub(super) struct Side {
    socket: UdpSocket,
    receive: MultiHeaders<SockaddrIn>,
    send: MultiHeaders<SockaddrIn>,
}

/// Packets of one batch.
pub(super) struct Batch {
    bytes: Vec<u8>,
    /// Who sent each, and how long it is.
    from: Vec<(Option<SockaddrIn>, usize)>,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            bytes: vec![0; SLOT * BATCH],
            from: Vec::with_capacity(BATCH),
        }
    }
}

impl Batch {
    pub(super) fn packets(&self) -> impl Iterator<Item = (Option<SockaddrIn>, &[u8])> {
        let slots = self.bytes.chunks_exact(SLOT);
        slots
            .zip(&self.from)
            .map(|(slot, (from, length))| (*from, slot.get(..*length).unwrap_or_default()))
    }
}

impl Side {
    pub(super) fn bind() -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_nonblocking(true)?;
        if setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).is_err() {
            setsockopt(&socket, sockopt::RcvBuf, &BUFFER)?;
        }
        Ok(Self {
            socket,
            receive: MultiHeaders::preallocate(BATCH, None),
            send: MultiHeaders::preallocate(BATCH, None),
        })
    }

    pub(super) const fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// Reads one batch; whether there was any.
    pub(super) fn receive(&mut self, batch: &mut Batch) -> io::Result<bool> {
        batch.from.clear();
        let mut slots: Vec<_> = batch
            .bytes
            .chunks_exact_mut(SLOT)
            .map(|slot| [IoSliceMut::new(slot)])
            .collect();
        let fd = self.socket.as_raw_fd();
        match recvmmsg(
            fd,
            &mut self.receive,
            slots.iter_mut(),
            MsgFlags::MSG_DONTWAIT,
            None,
        ) {
            Ok(received) => {
                batch
                    .from
                    .extend(received.map(|one| (one.address, one.bytes)));
                Ok(!batch.from.is_empty())
            }
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNREFUSED) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends packets; what the system does not take is lost.
    pub(super) fn send(&mut self, to: &[Option<SockaddrIn>], packets: &[[IoSlice<'_>; 1]]) {
        let mut sent = 0;
        while let (Some(to), Some(packets)) = (to.get(sent..), packets.get(sent..))
            && !to.is_empty()
        {
            let fd = self.socket.as_raw_fd();
            match sendmmsg(fd, &mut self.send, packets, to, [], MsgFlags::MSG_DONTWAIT) {
                Ok(results) => sent += results.count().max(1),
                Err(Errno::EINTR) => {}
                // The first of them; the others may go.
                Err(_) => sent += 1,
            }
        }
    }
}

/// Waits for one of the sockets.
pub(super) fn wait(sockets: &[&UdpSocket]) -> io::Result<()> {
    let mut fds: Vec<_> = sockets
        .iter()
        .map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN))
        .collect();
    match poll(&mut fds, PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn serve(to: SocketAddrV4, announce: Announce<'_>) -> io::Result<()> {
    let mut front = Side::bind()?;
    let mut back = Side::bind()?;
    announce(front.socket.local_addr()?)?;
    let echo = SockaddrIn::from(to);
    let mut batch = Batch::default();
    let mut clients = FlowTable::default();
    loop {
        let mut any = false;
        if front.receive(&mut batch)? {
            any = true;
            let mut packets = Vec::with_capacity(BATCH);
            let mut targets = Vec::with_capacity(BATCH);
            for (from, packet) in batch.packets() {
                let Some(from) = from else { continue };
                let Some(probe) = Probe::decode(packet) else {
                    continue;
                };
                clients.learn(probe.flow, from);
                packets.push([IoSlice::new(packet)]);
                targets.push(Some(echo));
            }
            back.send(&targets, &packets);
        }
        if back.receive(&mut batch)? {
            any = true;
            let mut packets = Vec::with_capacity(BATCH);
            let mut targets = Vec::with_capacity(BATCH);
            for (_, packet) in batch.packets() {
                let client = Probe::decode(packet).and_then(|probe| clients.find(probe.flow));
                if client.is_some() {
                    packets.push([IoSlice::new(packet)]);
                    targets.push(client);
                }
            }
            front.send(&targets, &packets);
        }
        if !any {
            wait(&[&front.socket, &back.socket])?;
        }
    }
}

/// Who sends each flow.
pub(super) struct FlowTable<T>(Vec<Option<T>>);

impl<T> Default for FlowTable<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Copy + PartialEq> FlowTable<T> {
    /// Notes who sends a flow. Numbers beyond any sensible one are ignored.
    pub(super) fn learn(&mut self, flow: u32, from: T) {
        let flow = flow as usize;
        if self.0.len() <= flow && flow < 1 << 20 {
            self.0.resize(flow + 1, None);
        }
        if let Some(entry) = self.0.get_mut(flow)
            && *entry != Some(from)
        {
            *entry = Some(from);
        }
    }

    pub(super) fn find(&self, flow: u32) -> Option<T> {
        self.0.get(flow as usize).copied().flatten()
    }
}
