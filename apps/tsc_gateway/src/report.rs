//! What went through, for the summary at the end.

use std::fmt;

use serde::Serialize;

/// Counters since the start; the names are those of `--json`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Packets of the LAN that the tunnel took.
    pub to_core: u64,
    /// Their bytes.
    pub bytes_to_core: u64,
    /// Packets of the core that the kernel took.
    pub to_lan: u64,
    /// Their bytes.
    pub bytes_to_lan: u64,
    /// Packets that were not forwarded.
    pub dropped: Dropped,
}

/// Why packets were not forwarded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Dropped {
    /// Of the LAN, while there was no tunnel.
    pub no_tunnel: u64,
    /// Of the LAN, from an address that was not granted.
    pub wrong_source: u64,
    /// Of the LAN, for an address that was granted: the host has no route to it but ours.
    pub wrong_destination: u64,
    /// Of the LAN, longer than the tunnel takes.
    pub too_long: u64,
    /// Of the LAN, no IP packets.
    pub malformed: u64,
    /// Of the LAN, because the network was too slow.
    pub tunnel_full: u64,
    /// Of the core, because we were too slow.
    pub not_read: u64,
    /// Of the core, not taken by the kernel.
    pub device_full: u64,
    /// Of the LAN, by the kernel, because we were too slow.
    pub by_kernel: u64,
}

impl Dropped {
    /// All of them.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.no_tunnel
            + self.wrong_source
            + self.wrong_destination
            + self.too_long
            + self.malformed
            + self.tunnel_full
            + self.not_read
            + self.device_full
            + self.by_kernel
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} packets ({} bytes) to the core, {} packets ({} bytes) to the LAN, {} dropped",
            self.to_core,
            self.bytes_to_core,
            self.to_lan,
            self.bytes_to_lan,
            self.dropped.total()
        )
    }
}
