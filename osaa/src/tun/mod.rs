//! TUN devices: packets of the host's own IP stack, and of everything that it routes.
//!
//! ```text
//!   TunConfig --create-->  TunDevice  --into_queues-->  TunQueue  (one per worker)
//!   descriptors --from_fds--^                             | poll_recv: TunBatch <- kernel
//!   of a service manager                                  | try_send:  TunBatch -> kernel
//! ```
//!
//! [`TunDevice::create`] makes the interface with addresses, routes and MTU, or nothing: whatever goes wrong, dropping the
//! queues takes the interface, and with it all that was set, out of the system; so does the end of the process.
//! It needs CAP_NET_ADMIN; the queues need nothing, so that [`drop_capabilities`] may follow at once.
//!
//! With [`TunConfig::offload`] the kernel hands over TCP and UDP data in packets of up to 64 KiB with unfinished checksums, and
//! takes such packets. Callers do not notice: they get packets of what the connection takes for the MTU, checksums
//! right, and runs of packets that belong together are joined on the way in.
//!
//! Bounds: the kernel keeps [`TunConfig::queue_length`] packets per queue and drops and counts the rest
//! ([`InterfaceCounters`]); a queue keeps one packet that is being split, a batch what it was made for. Sending never waits:
//! what the kernel does not take is dropped and counted ([`TunStats`]).

mod batch;
mod checksum;
mod coalesce;
mod driver;
mod error;
mod netlink;
mod offload;
mod privileges;
mod queue;

use std::{io, net::IpAddr, os::fd::OwnedFd, thread, time::Duration};

use ipnet::IpNet;
use netlink::Netlink;

pub use batch::{DEFAULT_BATCH, MIN_BATCH, TunBatch};
pub use error::TunError;
pub use privileges::{DropError, drop_capabilities};
pub use queue::{TunQueue, TunStats};

/// Most queues of a device (the driver's own limit).
pub const MAX_QUEUES: usize = 256;

/// Default [`TunConfig::queue_length`]: 1 MB of packets of 1000 bytes, 8 ms at 1 Gbit/s.
pub const DEFAULT_QUEUE_LENGTH: u32 = 1000;

/// What stands for the interface of a route that leads to none.
pub const NO_INTERFACE: &str = "no interface";

/// What a device shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TunConfig {
    /// Name of the interface, with one `%d` for a number that the kernel picks; `None` for `tsc%d`.
    pub name: Option<String>,
    /// The host's own addresses on the interface, each with the prefix that is reached through it. Either family.
    pub addresses: Vec<IpNet>,
    /// Further destinations reached through it.
    pub routes: Vec<IpNet>,
    /// Longest packet, in bytes.
    pub mtu: u16,
    /// Queues, 1 to [`MAX_QUEUES`]: the kernel keeps the packets of a flow in one of them.
    pub queues: usize,
    /// Large packets between the kernel and us; fewer calls at high rates.
    pub offload: bool,
    /// Packets that the kernel keeps per queue until we read them.
    pub queue_length: u32,
}

impl Default for TunConfig {
    /// No addresses, MTU 1500, one queue, offload.
    fn default() -> Self {
        Self {
            name: None,
            addresses: Vec::new(),
            routes: Vec::new(),
            mtu: 1500,
            queues: 1,
            offload: true,
            queue_length: DEFAULT_QUEUE_LENGTH,
        }
    }
}

impl TunConfig {
    fn check(&self) -> Result<(), TunError> {
        if let Some(name) = &self.name {
            let bad =
                |byte: u8| byte == 0 || byte == b'/' || byte == b':' || byte.is_ascii_whitespace();
            if name.is_empty()
                || name.len() >= driver::NAME_SPACE
                || name == "."
                || name == ".."
                || name.bytes().any(bad)
            {
                return Err(TunError::InvalidName { name: name.clone() });
            }
        }
        if !(1..=MAX_QUEUES).contains(&self.queues) {
            return Err(TunError::InvalidQueues {
                queues: self.queues,
            });
        }
        let v6 = |prefix: &IpNet| prefix.addr().is_ipv6();
        let uses_v6 = self.addresses.iter().any(v6) || self.routes.iter().any(v6);
        let least = if uses_v6 { 1280 } else { 68 };
        if self.mtu < least {
            return Err(TunError::InvalidMtu {
                mtu: self.mtu,
                least,
            });
        }
        Ok(())
    }
}

/// A TUN device. It lasts as long as one of its queues, unless it was made persistent by whoever handed it in.
#[derive(Debug)]
pub struct TunDevice {
    name: String,
    mtu: u16,
    queues: Vec<TunQueue>,
}

impl TunDevice {
    /// Makes the device in the network namespace of the calling thread and brings it up. Blocks for as
    /// long as the kernel needs, a few milliseconds.
    ///
    /// # Errors
    ///
    /// [`TunError`] says what is missing or in the way; nothing is left behind then.
    pub fn create(config: &TunConfig) -> Result<Self, TunError> {
        config.check()?;
        let mut flags = driver::IFF_TUN | driver::IFF_NO_PI;
        if config.queues > 1 {
            flags |= driver::IFF_MULTI_QUEUE;
        }
        if config.offload {
            flags |= driver::IFF_VNET_HDR;
        }
        let mut name = config.name.clone().unwrap_or_else(|| "tsc%d".to_owned());
        let mut queues = Vec::with_capacity(config.queues);
        for number in 0..config.queues {
            let file = driver::open().map_err(open_error)?;
            // The first makes the interface, the others join it.
            let exclusive = if number == 0 { driver::IFF_TUN_EXCL } else { 0 };
            name = driver::attach(&file, &name, flags | exclusive)
                .map_err(|error| attach_error(error, &name))?;
            let mut segments_udp = false;
            if config.offload {
                segments_udp = driver::allow_offload(&file)
                    .map_err(|error| TunError::from_io("switching on offload", error))?;
            }
            queues.push(
                TunQueue::new(file, config.offload, segments_udp, config.mtu)
                    .map_err(|error| TunError::from_io("preparing a queue", error))?,
            );
        }
        set_up(&name, config)?;
        Ok(Self {
            name,
            mtu: config.mtu,
            queues,
        })
    }

    /// Takes over the queues of a device that somebody else has set up, such as a service manager. They must have
    /// been attached with `IFF_NO_PI`, which cannot be checked; `IFF_VNET_HDR` is recognised. `mtu` is the interface's.
    ///
    /// # Errors
    ///
    /// [`TunError::InvalidQueues`] for an empty list, [`TunError::NotTun`], [`TunError::SeveralDevices`],
    /// [`TunError::System`].
    pub fn from_fds(fds: Vec<OwnedFd>, mtu: u16) -> Result<Self, TunError> {
        if !(1..=MAX_QUEUES).contains(&fds.len()) {
            return Err(TunError::InvalidQueues { queues: fds.len() });
        }
        let mut name: Option<String> = None;
        let mut queues = Vec::with_capacity(fds.len());
        for (position, fd) in fds.into_iter().enumerate() {
            let (device, flags) =
                driver::attachment(&fd).map_err(|_| TunError::NotTun { position })?;
            if flags & driver::IFF_TUN == 0 {
                return Err(TunError::NotTun { position });
            }
            if let Some(first) = name.as_ref().filter(|first| **first != device) {
                return Err(TunError::SeveralDevices {
                    first: first.clone(),
                    other: device,
                });
            }
            name = Some(device);
            let header = flags & driver::IFF_VNET_HDR != 0;
            let action = "preparing a descriptor that was handed in";
            if header {
                // The owner may have chosen a longer one.
                driver::set_header_length(&fd, 10)
                    .map_err(|source| TunError::System { action, source })?;
            }
            queues.push(
                // What UDP the kernel takes is not to be asked, so none is joined.
                TunQueue::new(fd.into(), header, false, mtu)
                    .map_err(|source| TunError::System { action, source })?,
            );
        }
        Ok(Self {
            name: name.unwrap_or_default(),
            mtu,
            queues,
        })
    }

    /// Name of the interface.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Longest packet, in bytes.
    #[must_use]
    pub const fn mtu(&self) -> u16 {
        self.mtu
    }

    /// The descriptors of the queues, for another process to take over with [`from_fds`](Self::from_fds).
    #[must_use]
    pub fn into_fds(self) -> Vec<OwnedFd> {
        let files = self.queues.into_iter().filter_map(TunQueue::into_file);
        files.map(OwnedFd::from).collect()
    }

    /// The queues, to be spread over workers. All of them must be read: the kernel spreads flows over them.
    #[must_use]
    pub fn into_queues(self) -> Vec<TunQueue> {
        self.queues
    }
}

/// What the kernel counts for an interface, seen from our end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct InterfaceCounters {
    /// Packets that we have read, before splitting.
    pub to_us: u64,
    /// Packets for us that found the queue full or the interface without a reader.
    pub to_us_dropped: u64,
    /// Packets that the host's stack took from us.
    pub from_us: u64,
    /// Packets of ours that it dropped, mostly because its own queue was full.
    pub from_us_dropped: u64,
}

/// Asks the kernel for the counters of an interface. Needs no capability.
///
/// # Errors
///
/// `NotFound` and `ENODEV` if there is no such interface in the caller's namespace; what netlink answers.
pub fn interface_counters(name: &str) -> io::Result<InterfaceCounters> {
    Ok(Netlink::open()?.link(name)?.counters)
}

/// A route of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HostRoute {
    /// Where it leads to.
    pub prefix: IpNet,
    /// Name of the interface that it leads by; [`NO_INTERFACE`] if by none.
    pub interface: String,
}

/// The host's routes and own addresses that are, or lie, in one of the networks `within`: a route to one of these loses what they
/// have. Routes that rules add from further tables are not looked at. Needs no capability.
///
/// # Errors
///
/// What netlink answers.
pub fn host_routes(within: &[IpNet]) -> io::Result<Vec<HostRoute>> {
    routes_within(&mut Netlink::open()?, within)
}

fn routes_within(netlink: &mut Netlink, within: &[IpNet]) -> io::Result<Vec<HostRoute>> {
    let mut found = Vec::new();
    netlink.routes(|prefix, interface| {
        if within.iter().any(|network| network.contains(&prefix)) {
            found.push((prefix, interface));
        }
    })?;
    let named = found.into_iter().map(|(prefix, interface)| HostRoute {
        prefix,
        interface: interface_name(netlink, interface),
    });
    Ok(named.collect())
}

fn interface_name(netlink: &mut Netlink, index: Option<u32>) -> String {
    index.map_or_else(
        || NO_INTERFACE.to_owned(),
        // It may just have gone.
        |index| {
            netlink
                .name(index)
                .unwrap_or_else(|_| format!("number {index}"))
        },
    )
}

fn open_error(error: io::Error) -> TunError {
    let missing = [libc::ENOENT, libc::ENXIO, libc::ENODEV];
    match error.raw_os_error() {
        Some(code) if missing.contains(&code) => TunError::NoDriver,
        Some(libc::EACCES | libc::EPERM) => TunError::NoDeviceAccess,
        _ => TunError::System {
            action: "opening /dev/net/tun",
            source: error,
        },
    }
}

fn attach_error(error: io::Error, name: &str) -> TunError {
    match error.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => TunError::NameTaken {
            name: name.to_owned(),
        },
        _ => TunError::from_io("making a TUN device", error),
    }
}

fn set_up(name: &str, config: &TunConfig) -> Result<(), TunError> {
    let action = "reading the interfaces";
    let mut netlink = Netlink::open().map_err(|error| TunError::from_io(action, error))?;
    let index = netlink
        .link(name)
        .map_err(|error| TunError::from_io(action, error))?
        .index;
    let taken = netlink
        .addresses()
        .map_err(|error| TunError::from_io(action, error))?;
    let networks = config.addresses.iter().map(IpNet::trunc);
    let wanted: Vec<_> = networks.chain(config.routes.iter().copied()).collect();
    let routes = routes_within(&mut netlink, &wanted)
        .map_err(|error| TunError::from_io("reading the routes", error))?;
    // The kernel would take most of these beside each other, by their metrics, and one of both would be dead.
    if let Some(taken) = routes
        .into_iter()
        .find(|route| wanted.contains(&route.prefix))
    {
        return Err(match taken {
            HostRoute { prefix, interface } if is_address(&config.addresses, prefix) => {
                TunError::AddressInUse {
                    address: prefix.addr(),
                    interface,
                }
            }
            HostRoute { prefix, interface } => TunError::RouteExists { prefix, interface },
        });
    }
    netlink
        .configure(index, config.mtu, config.queue_length)
        .map_err(|error| TunError::from_io("setting MTU and queue length", error))?;
    netlink
        .up(index)
        .map_err(|error| TunError::from_io("bringing up the interface", error))?;
    for address in &config.addresses {
        // The kernel would take an address twice on different interfaces, and answer on either.
        let ip: IpAddr = address.addr();
        if let Some((_, interface)) = taken.iter().find(|(used, _)| *used == ip) {
            return Err(TunError::AddressInUse {
                address: ip,
                interface: interface_name(&mut netlink, Some(*interface)),
            });
        }
        netlink
            .add_address(index, *address)
            .map_err(|error| match error.raw_os_error() {
                // Twice in the configuration.
                Some(libc::EEXIST) => TunError::AddressInUse {
                    address: ip,
                    interface: name.to_owned(),
                },
                _ => set_error("setting an address", *address, name, error),
            })?;
    }
    for address in &config.addresses {
        wait_until_local(&mut netlink, address.addr())?;
    }
    for prefix in &config.routes {
        netlink
            .add_route(index, *prefix)
            .map_err(|error| set_error("setting a route", *prefix, name, error))?;
    }
    Ok(())
}

/// The kernel takes up an IPv6 address in the background, within a millisecond or so; packets that arrive earlier would
/// be lost.
fn wait_until_local(netlink: &mut Netlink, ip: IpAddr) -> Result<(), TunError> {
    const STEP: Duration = Duration::from_millis(1);
    const STEPS: u32 = 5000;
    for _ in 0..STEPS {
        // Before that there may be no route at all, which is an error.
        if netlink.is_local(ip).unwrap_or(false) {
            return Ok(());
        }
        thread::sleep(STEP);
    }
    Err(TunError::System {
        action: "waiting for the kernel to take up an address",
        source: io::ErrorKind::TimedOut.into(),
    })
}

fn is_address(addresses: &[IpNet], prefix: IpNet) -> bool {
    prefix.prefix_len() == prefix.max_prefix_len()
        && addresses.iter().any(|own| own.addr() == prefix.addr())
}

fn set_error(action: &'static str, prefix: IpNet, name: &str, error: io::Error) -> TunError {
    let disabled = [libc::EACCES, libc::EAFNOSUPPORT, libc::EOPNOTSUPP];
    match error.raw_os_error() {
        // Others were looked for: it is twice in the configuration.
        Some(libc::EEXIST) => TunError::RouteExists {
            prefix,
            interface: name.to_owned(),
        },
        Some(code) if prefix.addr().is_ipv6() && disabled.contains(&code) => {
            TunError::Ipv6Disabled { prefix }
        }
        _ => TunError::from_io(action, error),
    }
}
