//! The TUN device between the host's kernel and the tunnel.

use std::{fs, io, net::IpAddr};

use ipnet::IpNet;
use tsc_tapi::tun::{
    DropError, TunConfig, TunDevice, TunError, TunQueue, drop_capabilities, interface_counters,
};

use crate::cli::Args;

/// A device with one queue: one tunnel is one stream of packets.
#[derive(Debug)]
pub struct Device {
    /// Name of the interface.
    pub name: String,
    /// Longest packet.
    pub mtu: u16,
    /// Its packets.
    pub queue: TunQueue,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// It cannot be made.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// It cannot be taken from the service manager.
    #[error("descriptor {name:?}: {reason}")]
    Descriptor {
        /// The name asked for.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// We still have capabilities.
    #[error("capabilities cannot be given up: {0}")]
    Capabilities(#[from] DropError),
}

impl Device {
    /// Makes the device that the command line describes, or takes it from the service manager, and gives up all
    /// capabilities for good. To be called before any thread is started.
    ///
    /// # Errors
    ///
    /// [`DeviceError`]; nothing is left behind then.
    pub fn open(args: &Args) -> Result<Self, DeviceError> {
        let device = match &args.tun_descriptor {
            Some(name) => handed_in(name, args.mtu)?,
            None => TunDevice::create(&config(args))?,
        };
        drop_capabilities()?;
        let (name, mtu) = (device.name().to_owned(), device.mtu());
        let [queue] = <[TunQueue; 1]>::try_from(device.into_queues()).map_err(|queues| {
            DeviceError::Descriptor {
                name: name.clone(),
                reason: format!("{} queues, where one is wanted", queues.len()),
            }
        })?;
        Ok(Self { name, mtu, queue })
    }
}

fn config(args: &Args) -> TunConfig {
    let mut config = TunConfig::default();
    config.name = Some(args.tun_name.clone());
    // Alone in its network: nobody else is on the device.
    config.addresses = args.tun_address.iter().copied().map(IpNet::from).collect();
    config.routes = IpNet::aggregate(&args.core);
    config.mtu = args.mtu;
    config.offload = !args.no_offload;
    config.queue_length = args.queue_length;
    config
}

fn handed_in(name: &str, mtu: u16) -> Result<TunDevice, DeviceError> {
    let failed = |reason: String| DeviceError::Descriptor {
        name: name.to_owned(),
        reason,
    };
    let all = sd_listen_fds::get()
        .map_err(|_| failed("LISTEN_FDS or LISTEN_PID is malformed".to_owned()))?;
    let ours: Vec<_> = all
        .into_iter()
        .filter(|(known, _)| known.as_deref() == Some(name))
        .map(|(_, descriptor)| descriptor.into_std())
        .collect();
    if ours.is_empty() {
        let reason = "none of LISTEN_FDNAMES has this name";
        return Err(failed(reason.to_owned()));
    }
    let device = TunDevice::from_fds(ours, mtu)?;
    // Where /sys is not that of our network, the operator's word counts.
    let path = format!("/sys/class/net/{}/mtu", device.name());
    let known = fs::read_to_string(path).ok();
    match known.and_then(|text| text.trim().parse::<u32>().ok()) {
        Some(actual) if actual != u32::from(mtu) => Err(failed(format!(
            "{} has an MTU of {actual}, --mtu says {mtu}",
            device.name()
        ))),
        _ => Ok(device),
    }
}

/// Packets of the LAN that the kernel dropped before we saw them.
///
/// # Errors
///
/// The device is gone.
pub fn dropped_by_kernel(name: &str) -> io::Result<u64> {
    interface_counters(name).map(|counters| counters.to_us_dropped)
}

/// The switch of the kernel that is off, if packets of this IP version are not forwarded.
#[must_use]
pub fn forwarding_off(address: IpAddr) -> Option<&'static str> {
    let (path, switch) = if address.is_ipv4() {
        ("ipv4/ip_forward", "net.ipv4.ip_forward")
    } else {
        ("ipv6/conf/all/forwarding", "net.ipv6.conf.all.forwarding")
    };
    let value = fs::read_to_string(format!("/proc/sys/net/{path}"));
    value
        .is_ok_and(|value| value.trim() == "0")
        .then_some(switch)
}
