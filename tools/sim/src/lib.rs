//! A deterministic world for tests: virtual clock, seeded links, NATs, firewalls.
//!
//! A [`World`] holds real [`tsc_csm`] servers and clients, and everything between them: links that lose, delay,
//! duplicate and reorder ([`LinkConfig`]), NATs whose mappings end ([`Nat`]), firewalls ([`Firewall`]), streams that
//! stall and break, servers that restart. Time is virtual: an hour costs what happens in it. Everything random comes
//! from one seed, so a failing run is repeated by its seed; `TSC_SIM_TRACE=1` prints every message of it.
//!
//! A [`Watch`] over every server checks, on every step, what must hold in any world; see there.
//!
//! ```
//! use std::time::Duration;
//! use tsc_csm::Transport;
//! use tsc_sim::{LinkConfig, PathConfig, World, client_config, server_config};
//!
//! let mut world = World::new(1);
//! let server = world.add_server(server_config(9));
//! let path = PathConfig::both(LinkConfig::lossy(0.1));
//! let client = world.add_client(client_config(&[Transport::Udp]), path);
//! world.start(client);
//! world.run(Duration::from_secs(20));
//! assert!(world.is_bound(client));
//! assert_eq!(world.server_stats(server).sessions, 1);
//! ```
//!
//! What is modelled and what is not: TLS and DTLS are round trips and an identity, without bytes; a stream's losses
//! cost time; a blocked stream breaks after 30 s; a DTLS association is known by its address (no connection IDs).
#![allow(
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    reason = "test infrastructure: ids index what made them, a trace is printed on request, and of events only some matter"
)]

mod client;
mod conn;
mod link;
mod nat;
pub mod packet;
mod path;
mod peer_streams;
mod peers;
mod presets;
mod rng;
mod server;
mod watch;
mod world;

pub use client::Carried;
pub use link::{Link, LinkConfig, Losses};
pub use nat::{Nat, NatKind};
pub use path::{Firewall, NatId, Path, PathConfig};
pub use peer_streams::StreamId;
pub use peers::{Fate, Leg, Sent, fingerprint, peer_config};
pub use presets::{client_config, server_config};
pub use rng::Rng;
pub use server::Setup;
pub use watch::Watch;
pub use world::{ClientId, ServerId, World};
