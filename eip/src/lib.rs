//! Embedded IP stack: inner sockets over inner IP packets, sans-IO.
//!
//! A [`Stack`] is a host without a kernel. It sees whole IP packets of the tunnel on one side
//! ([`Stack::handle_packet`], [`Stack::poll_transmit`]) and typed socket handles on the other
//! ([`Stack::udp_bind`], [`Stack::udp_send_to`], [`Stack::udp_recv`]; [`Stack::tcp_connect`],
//! [`Stack::tcp_listen`], [`Stack::tcp_send`], [`Stack::tcp_recv`]; [`Stack::poll_event`]). It owns no socket of the operating system, no clock, no task, no lock and no source of randomness:
//! time comes with each call, randomness from the seed given to [`Stack::new`].
//!
//! ```text
//!   udp_send_to ──► egress: source, path MTU, fragmentation ──► transmit queue ──► poll_transmit
//!                      │ own address                                                   │
//!                      ▼                                                          recycle ─► pool
//!   handle_packet ──► headers ──► reassembly ──► dispatch ─┬─► UDP: hash by port ─► receive queue ─► udp_recv
//!                                                          ├─► TCP: hash by 4-tuple ─► tcp_recv
//!                                                          ├─► ICMP: echo, errors to sockets, path MTU
//!                                                          └─► anything else: protocol unreachable
//! ```
//!
//! It speaks UDP, TCP, ICMP and ICMPv6 over IPv4 and IPv6, with fragmentation and reassembly.
//! Headers are read and written through smoltcp's wire types; the demultiplexers are our own, so
//! that the cost of a packet does not depend on the number of sockets.
//!
//! # What it promises
//!
//! - **Noise is not an error.** Nothing that [`Stack::handle_packet`] is given fails or panics;
//!   what is refused is counted in [`Stats`].
//! - **Bounded.** Every queue and table has a limit in [`StackConfig`] and a rule for when it is
//!   full: media wants fresh packets, so the oldest goes first. TCP segments wait in no queue: they
//!   are made when [`Stack::poll_transmit`] asks for them.
//! - **Quiet steady state.** Sending and receiving datagrams that fit the MTU does not allocate
//!   once buffers have grown to the traffic, provided that packets taken from
//!   [`Stack::poll_transmit`] come back through [`Stack::recycle`].
//! - **Coalesced events.** A socket has at most one event waiting, and gets the next one only after
//!   it was read until empty: one wake-up serves a batch.
//!
//! # The smallest driving loop
//!
//! ```
//! use std::net::{IpAddr, SocketAddr};
//! use std::time::Instant;
//! use tsc_eip::{Event, SendOptions, Stack, StackConfig};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let now = Instant::now();
//! let alice_address: IpAddr = "10.0.0.1".parse()?;
//! let bob_address: IpAddr = "10.0.0.2".parse()?;
//! let mut alice = Stack::new(StackConfig::default(), 1);
//! let mut bob = Stack::new(StackConfig::default(), 2);
//! alice.set_addresses(&[alice_address])?;
//! bob.set_addresses(&[bob_address])?;
//!
//! let caller = alice.udp_bind("0.0.0.0:0".parse()?)?;
//! let server = bob.udp_bind(SocketAddr::new(bob_address, 5060))?;
//! alice.udp_send_to(now, caller, SocketAddr::new(bob_address, 5060), b"OPTIONS", &SendOptions::default())?;
//!
//! // One turn of the driver: packets of one stack into the other.
//! while let Some(packet) = alice.poll_transmit() {
//!     bob.handle_packet(now, &packet);
//!     alice.recycle(packet);
//! }
//! // One event, then read until there is nothing left.
//! assert_eq!(bob.poll_event(), Some(Event::UdpReadable(server)));
//! let mut buffer = [0; 2048];
//! while let Some(result) = bob.udp_recv(server, &mut buffer) {
//!     let datagram = result?;
//!     assert_eq!(buffer.get(..datagram.len), Some(&b"OPTIONS"[..]));
//!     assert_eq!(datagram.from.ip(), alice_address);
//! }
//! // Timers: sleep until `poll_timeout`, then `handle_timeout`.
//! if let Some(deadline) = bob.poll_timeout() {
//!     bob.handle_timeout(deadline);
//! }
//! # Ok(())
//! # }
//! ```

mod addresses;
mod config;
mod egress;
mod error;
mod event;
mod icmp;
mod ip;
pub mod media;
mod ports;
mod random;
mod reassembly;
mod slots;
mod stack;
mod stats;
mod tcp;
mod udp;

pub use addresses::MAX_ADDRESSES;
pub use config::{MAX_MTU, MIN_MTU, StackConfig};
pub use error::{
    AddressError, BindError, ConnectError, RecvError, SendError, TcpConnectError, TcpError,
};
pub use event::Event;
pub use ip::Dscp;
pub use stack::Stack;
pub use stats::{Drops, Gauges, Stats, TcpStats};
pub use tcp::{TcpHandle, TcpIncoming, TcpIncomingId, TcpListenHandle, TcpOptions, TcpState};
pub use udp::{MAX_UDP_PAYLOAD, Received, SendOptions, UdpHandle, UdpPlacement, UdpStats};
