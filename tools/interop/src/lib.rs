//! Labs in which OpenTSC's programs talk with foreign ones: SIPp, Kamailio, baresip, nginx, curl, Squid.
//!
//! A test runs in namespaces of its own ([`isolated`]): processes, mounts and networks that are gone with it, however it
//! ends. In there a [`Lab`] stands for a provider's edge:
//!
//! ```text
//!   access                     edge                           core
//!   the test itself,           tsc-server,                    peers that know
//!   tunnel clients             routes to the pools            nothing of tunnels
//!   192.0.2.2       ---------- 192.0.2.1
//!   2001:db8:1::2              2001:db8:1::1
//!                              198.51.100.1        ---------- 198.51.100.2
//!                              2001:db8:2::1                  2001:db8:2::2
//! ```
//!
//! There is no way from the access network to the core network but through a tunnel. Every port may be used, as nobody
//! else is there.
//!
//! Programs are [`Process`]es: what they say is collected, and shown when the test fails; they end with their owner.
//! OpenTSC's own are those of the build that the test belongs to ([`program`]).

mod foreign;
mod http;
mod isolation;
mod lab;
mod network;
mod process;
mod programs;
mod sipp;
mod squid;
mod wire;

pub use foreign::{BARESIP, baresip, kamailio, wait_for_port};
pub use http::{CORE, Download, curl, nginx};
pub use isolation::{isolated, isolated_cases, isolated_within};
pub use lab::{ClientOptions, Egress, Lab, Transport};
pub use network::{Namespace, Network, address};
pub use process::{Outcome, Process};
pub use programs::{program, version};
pub use sipp::Statistics;
pub use squid::{Authentication, DOMAIN, PASSWORD, PROXY, PROXY_TLS, REALM, Squid, USER};
pub use wire::{Wire, WireOptions};
