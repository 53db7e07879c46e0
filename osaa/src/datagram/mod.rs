//! UDP in batches, for servers with many peers and for connected clients.
//!
//! quinn-udp receives: `recvmmsg` with GRO takes up to [`MAX_SLOTS`] buffers of coalesced datagrams at once. Datagrams to
//! one peer leave together by GSO, and those to many peers in one call (`sendmmsg`, on Linux). DF is set on all that is sent (spec 7, *MTU*).
//!
//! UDP sockets report errors that anybody can cause (ICMP answers to earlier datagrams). They are
//! [counted](DatagramStats) and change nothing; whether a peer is alive is decided above.

mod batch;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod mmsg;
mod pressure;
mod ready;
mod socket;

pub use batch::{Datagram, MAX_SLOTS, RecvBatch, SendBatch};
pub(crate) use batch::{LAST_RUNS, slot_of};
pub use pressure::{Pressure, Shed};
pub use socket::{DatagramOptions, DatagramSocket, DatagramStats};
