//! Tunnel server: ends TSCF tunnels, hands out inner addresses, switches between tunnels.
//!
//! The program `tsc-server` is a thin shell around this library, which may be embedded:
//!
//! ```no_run
//! use tsc_server::{Server, config::{Config, Environment, Overrides}};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = Config::load("tsc-server.toml".as_ref(), &Environment::from_process(), &Overrides::default())?;
//! let server = Server::start(&config)?;
//! for port in server.ports() {
//!     println!("{} on {}", port.transport, port.address);
//! }
//! // ... until it is time to go:
//! let report = server.stop();
//! # drop(report);
//! # Ok(())
//! # }
//! ```
//!
//! - [`config`]: one TOML file, its checks and its errors.
//! - [`control`]: orders to a running server by a socket of its host.
//! - [`Server`]: starts and stops the worker, which lives on a thread of its own.
//! - [`trace`]: captures of a running server.
//! - `worker`: the data plane. Listeners feed units to the session core (`tsc_csm::server`), and a switch passes
//!   inner packets from tunnel to tunnel.

pub mod cli;
pub mod config;
pub mod control;
mod egress;
mod icmp;
pub mod logging;
mod server;
pub mod trace;
mod worker;

#[doc(hidden)]
pub use egress::rewrite::harness as rewriter;
pub use egress::user_space::UserSpaceCounters;
#[doc(hidden)]
pub use egress::user_space::harness as user_space;
pub use server::{RunError, Server, StartError, TunStartError};
pub use tsc_csm::{Transport, server::Stats as SessionStats, server::pool::PoolStats};
#[doc(hidden)]
pub use worker::harness;
pub use worker::{Bound, Counters, EgressCounters, Report};
