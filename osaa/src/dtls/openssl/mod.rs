//! Handshakes of DTLS 1.2 by the system's OpenSSL.
//!
//! Each is an `SSL` over two queues in memory, so it needs neither socket nor task. What OpenSSL would
//! do less well for us is taken over:
//!
//! - **Verification** of certificates is ours ([`crate::cert`]), called in the middle of the handshake, so that a
//!   refusal is told to the peer by the fitting alert and nothing is exchanged before.
//! - **The cookie** is made and checked by the endpoint; `DTLSv1_listen` then only starts the handshake at the
//!   right message number.
//! - **Records** after the handshake are [`established`](super::established)'s, with the keys of [`secrets`]. The `SSL`, some
//!   40 KiB of it, is freed.
//! - **Retransmission intervals** start at 400 ms instead of 1 s. The timers run by the system's clock.
//!
//! - **Resumption** is by tickets whose keys are ours ([`crate::cert`]), so that all workers and ports of a server have the same and
//!   they are replaced in time. A server's own memory of sessions would be a table that strangers fill, and another lock between
//!   workers; and OpenSSL takes a session out of it when its `SSL` is freed without a goodbye, which here is always. A client
//!   remembers sessions as bytes, with what was verified when they were made.
//!
//! No renegotiation, AEAD suites with ephemeral keys only.

mod context;
mod ffi;
mod handshake;
mod pipe;
mod resumption;
mod secrets;
#[cfg(test)]
mod tests;

pub(super) use self::context::{Client, Server};
