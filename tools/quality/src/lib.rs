//! The quality bench: all figures of `docs/quality.md`.
//!
//! Calls with speech are made by the built programs, through tunnels that cross a bad network; what the listeners at both ends
//! heard is recorded and judged.
//!
//! ```text
//!  namespace of a cell            this program             namespace "core"
//!  +----------------+     +-------------------------+     +------------------------------------+
//!  | tsc_sip_client |     | router: a wire per cell |     | tsc-server <==loopback== tsc_sip_  |
//!  |   kernel's TCP |-TUN-| loses, delays, counts   |-TUN-|   kernel's TCP           server    |
//!  +----------------+     +-------------------------+     +------------------------------------+
//! ```
//!
//! A **cell** is one call: a [`matrix::Column`] (an outer transport and a service) over a [`matrix::Network`] (loss, bursts, delay). Many
//! cells run at the same time; each has its namespace, its wire, its seeded losses and its counters.
//!
//! - `matrix`, `service`: what is measured. A new service is a variant of [`service::Service`] and a row in each of its tables.
//! - `isolation`, `netns`, `router`: the bad network, at the level of packets, so that the kernel's own TCP suffers as it would.
//! - `programs`, `lab`: the programs, built and started; one cell.
//! - `speech`, `pesq`: what is said, and what PESQ makes of what was heard.
//! - `results`, `checks`, `document`: what is kept, what must hold, tables and plots.

pub mod checks;
pub mod document;
pub mod isolation;
pub mod lab;
pub mod matrix;
pub mod netns;
pub mod pesq;
pub mod programs;
pub mod results;
pub mod router;
pub mod run;
pub mod service;
pub mod speech;
