//! Accepting TCP connections, plain and TLS on one port.
//!
//! ```text
//!   accept --> admitted? --> [ first byte 0x10: plain | 0x16: TLS handshake ] --> StreamTransport
//!              hook, caps      one task each, under a deadline; the oldest
//!                              is evicted when there are too many
//! ```
//!
//! Accepting never waits for a peer: what a connection needs before it is ready happens beside the others. Nothing a
//! peer does, and no shortage of descriptors, stops the listener; each refusal is a [`Refusal`] with its
//! reason, counted in [`ListenerStats`] and logged at most [a few times a minute](LOGGED_PER_MINUTE).

mod config;
mod establish;
#[allow(clippy::module_inception, reason = "the module's one type")]
mod listener;
mod log;

pub use config::{Admission, ListenerConfig};
pub use establish::RefusalReason;
pub use listener::{ListenerEvent, ListenerStats, Refusal, StreamListener};
pub use log::LOGGED_PER_MINUTE;
