//! Reference SIP applications that make calls through a tunnel: `tsc_sip_client`, `tsc_sip_inner_tcp` and `tsc_sip_server`.
//!
//! All are *clients* of one tunnel server, and teaching code: the steps of the SDK guide's chapter "Accessing and Using
//! the TSM SDK APIs" with its search marks, built on the public interface of [`tsc_tapi`] alone. Read them in the guide's
//! order:
//!
//! | search mark | where |
//! | --- | --- |
//! | `tsc_ctrl_init()`, `Create a Tunnel` | `bin/tsc_sip_client.rs` |
//! | `SIP SOCKET CREATION`, `REGISTER TRANSACTION` | `client/mod.rs`, `client/register.rs` |
//! | `INVITE TRANSACTION`, `Build and send ACK`, `RTP Exchange`, `BYE TRANSACTION` | `client/call.rs` |
//! | `TEST DONE` | `bin/tsc_sip_client.rs` |
//!
//! `bin/tsc_sip_inner_tcp.rs` adds what goes over inner TCP: SIP itself (`endpoint/streams.rs`), chats and files by MSRP
//! (`client/message.rs`), downloads by HTTP (`http/client.rs`).
//!
//! # From a tunnel to a call
//!
//! ```no_run
//! use std::sync::Arc;
//! use tsc_sip::{client::{ClientOptions, run_client}, stop::Stop};
//! use tsc_tapi::Tunnel;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let tunnel = Tunnel::builder("tls://sbc.example.com:443".parse()?).connect().await?;
//! let report = run_client(Arc::new(tunnel), ClientOptions::new("alice", "play"), Stop::never()).await?;
//! for call in &report.calls {
//!     println!("{} packets lost, MOS {:?}", call.lost, call.mos);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # The parts
//!
//! ```text
//!   client  server                 the programs: registration, calls, chats, files, downloads
//!   ------------------------------------------------------------------------------------
//!   access   mid_call              where we are reached, and how calls follow when that is elsewhere
//!   ------------------------------------------------------------------------------------
//!   endpoint   media::MediaClock   async shells: a task per SIP port, one 20 ms ticker,
//!   msrp::Channel   http           a connection per message session or download
//!   ------------------------------------------------------------------------------------
//!   transaction  dialog  digest    sans-IO: bytes and time come in by argument
//!   registrar  sdp  sip  media  msrp
//!   ------------------------------------------------------------------------------------
//!   net                            where sockets are opened: in a tunnel, or on the host
//! ```
//!
//! What both ends share are the traits of [`net`]: [`net::InnerNet`] opens sockets, connections and listeners. A [`tsc_tapi::Tunnel`] is one such
//! network and the host another ([`net::HostNet`], `--no-tunnel`): that is all the difference between a call through
//! a tunnel and one without.
//!
//! # What it is not
//!
//! No proxy, no forking, no INVITE without an offer, no SRTP (the tunnel protects),
//! no conversion of sample rates, no TLS above the tunnel, one connection for each MSRP session. Names are not resolved: SIP servers and contacts are addresses.

mod access;
pub mod cli;
pub mod client;
pub mod dialog;
pub mod digest;
pub mod endpoint;
pub mod http;
pub mod media;
mod mid_call;
pub mod msrp;
pub mod net;
pub mod pattern;
pub mod progress;
pub mod random;
pub mod registrar;
pub mod report;
pub mod sdp;
pub mod server;
pub mod shares;
pub mod sip;
pub mod transaction;
pub mod ua;

pub use access::Renewal;
pub use tsc_cli::{secret, stop};
