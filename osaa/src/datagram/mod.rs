//! UDP in batches, for servers with many peers and for connected clients.
//!
//! quinn-udp does the system calls: `recvmmsg` with GRO takes up to [`MAX_SLOTS`] buffers of coalesced datagrams at
//! once, and runs of equal datagrams to one peer leave in one call by GSO. DF is set on all that is sent (spec 7, *MTU*).
//!
//! UDP sockets report errors that anybody can cause (ICMP answers to earlier datagrams). They are
//! [counted](DatagramStats) and change nothing; whether a peer is alive is decided above.

mod batch;
mod socket;

pub use batch::{Datagram, MAX_SLOTS, RecvBatch, SendBatch};
pub use socket::{DatagramOptions, DatagramSocket, DatagramStats};
