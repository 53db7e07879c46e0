//! What the stack tells its owner.

use crate::udp::UdpHandle;

/// Something to act on; drain with [`Stack::poll_event`](crate::Stack::poll_event).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Datagrams or an error wait at the socket: call [`Stack::udp_recv`](crate::Stack::udp_recv)
    /// until it returns `None`. Until then no further event comes for this socket.
    UdpReadable(UdpHandle),
}
