//! Behaviour of the stack through its public interface, one module for one subject.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation
)]

mod corpus;
mod events;
mod exchange;
mod extension_headers;
mod fragments;
mod fuzz;
mod garbage;
mod icmp;
mod limits;
mod net;
mod sockets;
mod support;
mod tcp_basic;
mod tcp_flow;
mod tcp_hostile;
mod vectors;
mod wire;
