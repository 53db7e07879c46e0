//! The way out of tunnels: who may send what where, how fast, and through what.
//!
//! ```text
//!                    +--------------- router ----------------+
//!  from a tunnel --> | rates --> policies --> flows, edits   | --> another tunnel
//!                    +---------------------------------------+ --> host sockets (user-space)
//!                                                              --> TUN device
//! ```
//!
//! - [`router`]: what becomes of a packet, and what is changed in it.
//! - [`pools`], [`rates`], [`policy`], [`flows`] on [`generations`]: what it knows.
//! - [`headers`], [`rewrite`]: reading and changing packets.
//! - [`user_space`]: the way out by sockets of the host.

pub(crate) mod flows;
mod generations;
mod headers;
mod policy;
mod pools;
pub(crate) mod rates;
pub(crate) mod rewrite;
pub(crate) mod router;
#[cfg(test)]
mod test_config;
pub(crate) mod user_space;
