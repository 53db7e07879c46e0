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
//! No renegotiation, no session resumption (each handshake verifies afresh), AEAD suites with ephemeral keys only.

mod context;
mod ffi;
mod handshake;
mod pipe;
mod secrets;

pub(super) use self::context::{Client, Server};
