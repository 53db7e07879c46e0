//! The C library: tunnels, and sockets inside them, by BSD-like calls.
//!
//! The API is that of the headers in `include/`; there is none for Rust, which has `tsc_tapi`. `docs/c-sdk.md` tells how it is built,
//! installed and used, and how it works; in short:
//!
//! - `control` and `socket_api` are the functions that C sees. They turn pointers into references and hand on; here, in `address`, in `trace` and in
//!   `callbacks` is all of the unsafe code.
//! - `boundary` ends panics and sets `errno`.
//! - `library` is what the process has: a runtime, the tunnels, the table of sockets. `tsc_ctrl_term` takes it down.
//! - `trace` are the functions for captures.
//! - `tunnel`, `notify` and `callbacks` are one tunnel and its thread for notifications.
//! - `socket` is one socket; `wait` is `tsc_select` and `tsc_poll`.
//!
//! Linux and Android only so far: elsewhere this crate is empty.
#![cfg(any(target_os = "linux", target_os = "android"))]
#![deny(unsafe_op_in_unsafe_fn)]

mod address;
mod boundary;
mod callbacks;
mod control;
mod ctypes;
mod errno;
mod library;
mod notify;
mod params;
mod socket;
mod socket_api;
mod sockets;
mod trace;
mod tunnel;
mod wait;
