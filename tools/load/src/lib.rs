//! The load generator of OpenTSC: thousands of clients in one process and one thread, and the relays to compare a server
//! with.
//!
//! ```text
//!   pacing -> traffic (flows, windows) -> engine (one loop) -> member (csm::client, DTLS, TLS) -> link (sockets)
//!                  ^                         |                                                      |
//!                  '---- measure <-----------+<------ reflector (echo in the core) <--- server <----'
//!   bench: windows and the search for the greatest rate; subject: servers and relays as child processes
//! ```
//!
//! The generator must be much cheaper than what it measures: packets are prepared, only their probes change; datagrams of
//! all clients go over one socket in batches; one pinned thread never sleeps while it measures.

pub mod attack;
pub mod bench;
pub mod cli;
pub mod clients;
pub mod clock;
pub mod echo;
pub mod engine;
pub mod hold;
pub mod host;
pub mod hostile;
mod inlet;
pub mod link;
pub mod measure;
mod member;
mod outlet;
pub mod overload;
pub mod pacing;
pub mod peer;
pub mod probe;
pub mod progress;
pub mod reflector;
pub mod relay;
pub mod report;
pub mod run;
pub mod stage;
pub mod subject;
pub mod system;
mod timers;
pub mod traffic;
