//! A gateway for a LAN (service STG, "security traversing gateway"): hosts behind it reach the core, and are reached from
//! it, under their own addresses.
//!
//! ```text
//!   LAN 192.0.2.0/24           tsc-gateway                                  tsc-server             core
//!   host .17 --- eth0 | kernel -- tsc0 (TUN) -- TunQueue \
//!                     | forwards                          Bridge -- PacketSocket == tunnel == routes -- egress
//!                                                                                192.0.2.0/24 -> this tunnel
//! ```
//!
//! - [`device`]: the TUN device, made before everything else or handed in, so that no capability is held when the
//!   first byte comes from the network.
//! - [`Bridge`]: packets both ways in batches; what must not pass is dropped, counted, and answered where a router
//!   answers.
//! - [`session`]: tunnels, one after the other, for one bridge.
//!
//! The host's kernel is the router: it decrements hop counts, says "time exceeded", and says "too big" for the
//! device's MTU, which is the tunnel's. The bridge answers in its place only when there is no tunnel, or one with a smaller
//! MTU than was asked for.
//!
//! # Bounds
//!
//! | what | bound | beyond it |
//! | --- | --- | --- |
//! | packets that the kernel keeps for us | `--queue-length`, default 1000 | the kernel drops the newest |
//! | packets for and from the tunnel | [`tsc_tapi::MAX_ROUTED_PACKETS`] each | the oldest is dropped |
//! | packets of one turn | one [batch](tsc_tapi::tun::DEFAULT_BATCH) each way | the next turn |
//! | errors (ICMP) that we send | [`bridge::ANSWERS_PER_SECOND`] | dropped without an answer |
#![cfg(target_os = "linux")]

pub mod bridge;
pub mod cli;
pub mod device;
mod icmp;
pub mod report;
pub mod session;

pub use bridge::Bridge;
