//! Behaviour of the stack through its public interface, one module for one subject.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm,
    clippy::print_stdout
)]

mod corpus;
mod events;
mod exchange;
mod extension_headers;
mod fragments;
mod fuzz;
mod fuzz_tcp;
mod garbage;
mod icmp;
mod limits;
mod net;
mod sockets;
mod support;
mod tcp_basic;
mod tcp_flow;
mod tcp_foreign;
mod tcp_hostile;
mod tcp_loss;
mod vectors;
mod wire;
