//! How bytes reach the server: sockets, streams, framing.

mod datagram;
mod framed;
mod stream;

pub use datagram::{Buffers, DatagramSocket, MAX_CLIENTS, Received, client_address};
pub use framed::Framed;
pub use stream::{ReadEnd, StreamLink};
