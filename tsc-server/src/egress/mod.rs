//! The way out of tunnels: who may send what where, how fast, and through what.

/// What an egress needs to know of the tunnel that a packet came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EgressContext {
    /// Longest inner packet that the tunnel takes, in bytes.
    pub(crate) inner_mtu: u16,
}
