//! The client SDK for Kotlin, Swift and Python.
//!
//! One definition, by [UniFFI](https://mozilla.github.io/uniffi-rs), over the public API of `tsc-tapi`: what is here with its documentation
//! is what those languages have. How it is built and used there is told in `docs/bindings.md`.
//!
//! - [`Client`] opens a [`Tunnel`] as its [`TunnelSettings`] say, and tells a [`TunnelListener`] what happens to it.
//! - [`UdpSocket`], [`TcpStream`] and [`TcpListener`] are the sockets inside; a [`DatagramListener`] gets datagrams without asking.
//! - [`TscError`] is why something cannot be had.

mod address;
mod client;
mod engine;
mod error;
mod event;
mod held;
mod secret;
mod service;
mod settings;
mod tcp;
mod trace;
mod tunnel;
mod udp;

pub use address::{Address, Transport, TunnelConfiguration};
pub use client::Client;
pub use error::{ListenerError, TscError};
pub use event::{EndCause, TunnelEnd, TunnelEvent, TunnelListener};
pub use secret::{Identity, Secret};
pub use service::{
    Encryption, MediaQuality, MediaWatch, PeerPackets, Redundancy, RedundancyStatus, Service,
    TunnelTransport,
};
pub use settings::{HttpProxy, IpFamily, OuterMark, ServerTrust, TunnelSettings};
pub use tcp::{TcpListener, TcpOptions, TcpStream};
pub use trace::{Redaction, TraceSettings, TraceStats};
pub use tunnel::{Activity, Tunnel, TunnelState};
pub use udp::{Datagram, DatagramListener, UdpSocket};

uniffi::setup_scaffolding!("opentsc");

/// The library's version.
#[uniffi::export]
pub fn version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}
