//! What can stand in the way of a device.

use std::{io, net::IpAddr};

use ipnet::IpNet;

/// Why there is no device. Nothing of it is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TunError {
    /// Not a name for an interface: 1 to 15 bytes, no `/`, `:` or white space, not `.` or `..`.
    #[error(
        "{name:?} cannot be the name of a network interface (1 to 15 characters, none of '/', ':' or blank)"
    )]
    InvalidName {
        /// The name.
        name: String,
    },
    /// [`TunConfig::queues`](super::TunConfig::queues) outside 1 to [`MAX_QUEUES`](super::MAX_QUEUES), or no descriptor handed in.
    #[error("a TUN device has 1 to {most} queues, not {queues}", most = super::MAX_QUEUES)]
    InvalidQueues {
        /// What was asked for.
        queues: usize,
    },
    /// Below what IP demands: 68 (RFC 791), 1280 as soon as IPv6 is used (RFC 8200, 5).
    #[error("an MTU of {mtu} is too small, at least {least} is needed")]
    InvalidMtu {
        /// What was asked for.
        mtu: u16,
        /// What is needed.
        least: u16,
    },
    /// The kernel has no TUN driver, or the container no device node.
    #[error(
        "/dev/net/tun is missing: load the kernel module \"tun\", or give the container the device"
    )]
    NoDriver,
    /// The device node may not be opened.
    #[error("/dev/net/tun may not be opened by this user")]
    NoDeviceAccess,
    /// The process may not make or change network interfaces.
    #[error("{action} needs the capability CAP_NET_ADMIN")]
    MissingCapability {
        /// What was tried.
        action: &'static str,
    },
    /// Another interface has the name.
    #[error("a network interface {name} already exists")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// Another interface has the address.
    #[error("{address} is already an address of the network interface {interface}")]
    AddressInUse {
        /// The address.
        address: IpAddr,
        /// Name of the interface that has it.
        interface: String,
    },
    /// The host has a route for the same prefix.
    #[error("there is already a route to {prefix}, by {interface}")]
    RouteExists {
        /// The destination.
        prefix: IpNet,
        /// Name of the interface that it leads to; [`NO_INTERFACE`](super::NO_INTERFACE) if to none.
        interface: String,
    },
    /// An IPv6 address or route where the system has IPv6 switched off.
    #[error("IPv6 is switched off on this system, {prefix} cannot be set")]
    Ipv6Disabled {
        /// What was to be set.
        prefix: IpNet,
    },
    /// A descriptor that was handed in is not attached to a TUN device.
    #[error("descriptor {position} of those handed in is not a TUN device")]
    NotTun {
        /// Its place in the list.
        position: usize,
    },
    /// The descriptors that were handed in are of different devices.
    #[error("the descriptors handed in belong to {first} and {other}, not to one device")]
    SeveralDevices {
        /// Device of the first.
        first: String,
        /// Device of another.
        other: String,
    },
    /// The operating system refused for another reason.
    #[error("{action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// Its answer.
        source: io::Error,
    },
}

impl TunError {
    /// Errors of calls whose only refusal of note is the missing capability.
    pub(super) fn from_io(action: &'static str, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::PermissionDenied {
            Self::MissingCapability { action }
        } else {
            Self::System { action, source }
        }
    }
}
