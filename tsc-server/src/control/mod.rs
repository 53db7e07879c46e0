//! Orders to a running server over a socket of this host: `control-socket` of the configuration.
//!
//! A connection carries one request, a line of JSON of at most [`MAX_REQUEST`] bytes, and its answer, another line:
//!
//! ```text
//!   --> {"request":"trace-start","file":"call.pcapng","tunnel":"00c0ffee00c0ffee","redaction":"sip","for":600}
//!   <-- {"traces":[{"name":"call.pcapng","filter":"tunnel 00c0ffee00c0ffee","tunnels":1,...}]}
//!   --> {"request":"trace-stop","name":"call.pcapng"}      without a name: all
//!   --> {"request":"trace-list"}
//!   <-- {"error":{"kind":"no-such-trace","text":"no capture named call.pcapng is running"}}
//! ```
//!
//! `tsc-server trace` says this for people. *Attack*: somebody on the host wants to read calls, to have files written, or to keep the
//! server busy. *Mechanism*: the socket is for its owner only, and whoever connects must be the server's user or root; files are made in
//! `trace-directory` only, and overwrite nothing; requests, connections and their time are bounded, and served beside the workers.

mod client;
mod request;
mod socket;

pub use self::{
    client::{AskError, ask},
    request::{Answer, Failure, Nothing, Request, StartRequest, StopRequest, TraceRecord},
    socket::{ControlError, ControlSocket},
};

/// Longest request, with its end of line.
pub const MAX_REQUEST: usize = 4096;

/// Connections at a time; further ones wait in the system's queue.
pub const MAX_CONNECTIONS: usize = 8;
