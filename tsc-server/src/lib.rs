//! Tunnel server: ends TSCF tunnels, hands out inner addresses, switches between tunnels.

pub mod config;
