//! What the stack tells its owner.

use crate::error::TcpError;
use crate::tcp::{TcpHandle, TcpIncoming, TcpListenHandle};
use crate::udp::UdpHandle;

/// Something to act on; drain with [`Stack::poll_event`](crate::Stack::poll_event).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Datagrams or an error wait at the socket: call [`Stack::udp_recv`](crate::Stack::udp_recv)
    /// until it returns `None`. Until then no further event comes for this socket.
    UdpReadable(UdpHandle),
    /// An alarm about the media that comes to the socket was raised, or has ended: see
    /// [`Stack::udp_media_quality`](crate::Stack::udp_media_quality).
    MediaQuality(UdpHandle),
    /// The connection is open: the peer has answered.
    TcpConnected(TcpHandle),
    /// Data, the end of data or an error wait: call [`Stack::tcp_recv`](crate::Stack::tcp_recv)
    /// until it says that nothing waits. Until then no further event of this kind comes.
    TcpReadable(TcpHandle),
    /// [`Stack::tcp_send`](crate::Stack::tcp_send) had no room for all of its data; now there is
    /// some.
    TcpWritable(TcpHandle),
    /// The connection has failed, or could not be opened. What was received before can still be
    /// read. The handle has to be given up as always.
    TcpFailed(TcpHandle, TcpError),
    /// Connections wait at the listener: call [`Stack::tcp_accept`](crate::Stack::tcp_accept) until
    /// it returns `None`. Until then no further event comes for this listener.
    TcpAcceptable(TcpListenHandle),
    /// Somebody asks a transparent stack for a connection: answer by
    /// [`Stack::tcp_incoming_accept`](crate::Stack::tcp_incoming_accept),
    /// [`Stack::tcp_incoming_reject`](crate::Stack::tcp_incoming_reject) or
    /// [`Stack::tcp_incoming_drop`](crate::Stack::tcp_incoming_drop).
    TcpIncoming(TcpIncoming),
}
