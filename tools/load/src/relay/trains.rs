//! UDP to UDP with trains of packets: UDP_GRO and UDP_SEGMENT.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Announce;
use super::mmsg::FlowTable;
use crate::link::{Buffers, DatagramSocket};
use crate::probe::Probe;

pub(super) fn serve(to: SocketAddrV4, announce: Announce<'_>) -> io::Result<()> {
    let here = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    let mut front = DatagramSocket::bind(here)?;
    let mut back = DatagramSocket::bind(here)?;
    front.allow_trains();
    back.allow_trains();
    announce(front.local_addr()?)?;
    let mut buffers = Buffers::default();
    let mut clients: FlowTable<SocketAddr> = FlowTable::default();
    loop {
        let mut any = false;
        if front.receive(&mut buffers)? {
            any = true;
            for received in buffers.datagrams() {
                let Some(probe) = Probe::decode(received.bytes) else {
                    continue;
                };
                clients.learn(probe.flow, received.from);
                back.send(None, to.into(), received.bytes);
            }
            back.flush();
        }
        if back.receive(&mut buffers)? {
            any = true;
            for received in buffers.datagrams() {
                let probe = Probe::decode(received.bytes);
                if let Some(client) = probe.and_then(|probe| clients.find(probe.flow)) {
                    front.send(None, client, received.bytes);
                }
            }
            front.flush();
        }
        if !any {
            let mut fds = [
                PollFd::new(front.as_fd(), PollFlags::POLLIN),
                PollFd::new(back.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
