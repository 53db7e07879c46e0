//! Tunnel server: ends TSCF tunnels, hands out inner addresses, switches between tunnels.

pub mod cli;
pub mod config;
pub mod logging;
