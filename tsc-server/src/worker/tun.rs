//! The TUN device of a worker: made by the server or handed in, and its queues.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Poll},
};

use ipnet::IpNet;
use tsc_osaa::tun::{
    DropError, MAX_QUEUES, TunBatch, TunConfig, TunDevice, TunError, TunQueue, drop_capabilities,
    host_routes,
};

use super::route_cover::{check_routes, cover, tun_pools};
use crate::{
    config::{AddressRange, Config, Egress, TunEgressConfig},
    server::TunStartError,
};

/// Batches of one queue in one turn before other work gets its time.
const BATCHES_PER_QUEUE: usize = 4;

/// Packets that the kernel keeps for a queue until it is read: the usual `txqueuelen`.
pub(super) const WAITING: usize = 500;

/// Whether the descriptors of the service manager were taken: they can be owned once.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// See the module.
#[derive(Debug)]
pub(super) struct Tun {
    name: String,
    mtu: u16,
    lanes: Vec<Lane>,
    receive: TunBatch,
    /// Packets that the kernel did not take.
    dropped: u64,
}

/// A queue, with what is to be sent by it.
#[derive(Debug)]
struct Lane {
    queue: TunQueue,
    send: TunBatch,
    /// Whether it is read here; another worker does that otherwise.
    reads: bool,
}

impl Tun {
    /// The device, if the configuration uses one, in a part for each worker. The kernel hands the packets of a flow to the
    /// queue by which the flow's own last came, so most come back to the worker of their tunnel.
    pub(super) fn open(config: &Config, workers: u8) -> Result<Vec<Self>, TunStartError> {
        if !config.uses(Egress::Tun) {
            return Ok(Vec::new());
        }
        let mtu = config.tun.mtu.unwrap_or_else(|| widest(config));
        let device = match &config.tun.descriptor {
            Some(name) => handed_in(name, mtu)?,
            None => {
                let mut device = device_config(config, &config.tun, mtu);
                device.queues = device.queues.max(workers.into()).min(MAX_QUEUES);
                let networks = device.addresses.iter().map(IpNet::trunc);
                let ours: Vec<_> = networks.chain(device.routes.iter().copied()).collect();
                check_routes(config, &host_routes(&ours).map_err(unreadable)?)?;
                TunDevice::create(&device)?
            }
        };
        let name = device.name().to_owned();
        let mtu = device.mtu();
        let queues = device.into_queues();
        tracing::info!(event = "tun-open", name, mtu, queues = queues.len());
        let part = || Self {
            name: name.clone(),
            mtu,
            lanes: Vec::new(),
            receive: TunBatch::default(),
            dropped: 0,
        };
        let mut parts: Vec<Self> = (0..workers).map(|_| part()).collect();
        // A descriptor that was handed in may have fewer queues than there are workers: those without one of their own
        // only send.
        let spare = queues.len().max(1);
        for index in queues.len()..parts.len() {
            if let (Some(queue), Some(part)) = (queues.get(index % spare), parts.get_mut(index)) {
                let sender = queue.sender().map_err(|source| TunError::System {
                    action: "sharing a queue",
                    source,
                })?;
                part.lanes.push(Lane::new(sender, false));
            }
        }
        let count = parts.len().max(1);
        for (index, queue) in queues.into_iter().enumerate() {
            if let Some(part) = parts.get_mut(index % count) {
                part.lanes.push(Lane::new(queue, true));
            }
        }
        Ok(parts)
    }

    pub(super) const fn mtu(&self) -> u16 {
        self.mtu
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) const fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Queues a packet; those of one tunnel keep their order.
    pub(super) fn queue(&mut self, slot: usize, packet: &[u8]) {
        let count = self.lanes.len().max(1);
        let Some(lane) = self.lanes.get_mut(slot % count) else {
            return;
        };
        if lane.send.push(packet) {
            return;
        }
        self.dropped += lane.flush();
        if !lane.send.push(packet) {
            self.dropped += 1;
        }
    }

    /// Hands what is queued to the kernel.
    pub(super) fn flush(&mut self) {
        for lane in &mut self.lanes {
            self.dropped += lane.flush();
        }
    }

    /// Gives `take` what the kernel has, at most a bounded number of packets: then `true`, as there may be more. An error
    /// means that the device is gone.
    pub(super) fn receive(
        &mut self,
        cx: &mut Context<'_>,
        mut take: impl FnMut(&[u8]),
    ) -> std::io::Result<bool> {
        let mut more = false;
        for lane in self.lanes.iter_mut().filter(|lane| lane.reads) {
            for turn in 0..=BATCHES_PER_QUEUE {
                if turn == BATCHES_PER_QUEUE {
                    more = true;
                    break;
                }
                match lane.queue.poll_recv(cx, &mut self.receive) {
                    Poll::Pending => break,
                    Poll::Ready(Err(error)) => return Err(error),
                    Poll::Ready(Ok(_)) => self.receive.iter().for_each(&mut take),
                }
            }
        }
        Ok(more)
    }
}

impl Lane {
    fn new(queue: TunQueue, reads: bool) -> Self {
        Self {
            queue,
            send: TunBatch::default(),
            reads,
        }
    }

    /// Gives the number of packets that were not taken. That the device is gone shows when it is read.
    fn flush(&mut self) -> u64 {
        let count = self.send.len();
        if count == 0 {
            return 0;
        }
        let taken = self.queue.try_send(&self.send).unwrap_or_default();
        self.send.clear();
        u64::try_from(count.saturating_sub(taken)).unwrap_or(u64::MAX)
    }
}

/// Gives up the capabilities of this thread, which no longer needs them. Other threads of an embedding program are its own
/// business.
pub(crate) fn give_up_capabilities() -> Result<(), TunStartError> {
    match drop_capabilities() {
        Ok(()) | Err(DropError::OtherThreads { .. }) => Ok(()),
        Err(error) => Err(TunStartError::Capabilities(error.to_string())),
    }
}

fn unreadable(source: std::io::Error) -> TunStartError {
    let action = "reading the routes";
    TunError::System { action, source }.into()
}

/// The longest packet of any tunnel.
fn widest(config: &Config) -> u16 {
    let mtus = config
        .interfaces
        .iter()
        .map(|interface| interface.inner_mtu);
    mtus.max().unwrap_or(1400)
}

fn device_config(config: &Config, tun: &TunEgressConfig, mtu: u16) -> TunConfig {
    let mut device = TunConfig::default();
    device.name.clone_from(&tun.name);
    device.addresses.clone_from(&tun.addresses);
    device.routes = tun.routes.clone().unwrap_or_else(|| pool_routes(config));
    // The kernel makes a route for the network of each address by itself.
    let connected = |route: &IpNet| tun.addresses.iter().any(|own| own.trunc() == *route);
    device.routes.retain(|route| !connected(route));
    let ranges = config.pools.iter().flat_map(|pool| &pool.ranges);
    let apart = first_addresses(&device.routes, &ranges.collect::<Vec<_>>());
    device.routes.extend(apart);
    device.mtu = mtu;
    device.queues = tun.queues.into();
    device.offload = tun.offload;
    device
}

/// What the host must send to the device: the addresses of the pools whose packets leave by it, and what is behind
/// gateways.
fn pool_routes(config: &Config) -> Vec<IpNet> {
    let ranges = tun_pools(config).flat_map(|pool| &pool.ranges);
    let behind_gateways = config
        .interfaces
        .iter()
        .flat_map(|interface| &interface.routed)
        .flat_map(|routed| &routed.prefixes);
    let all: Vec<_> = ranges
        .flat_map(cover)
        .chain(behind_gateways.copied())
        .collect();
    IpNet::aggregate(&all)
}

/// Routes of their own for those addresses of pools that are the first of a route. To routers that is the Subnet-Router
/// anycast address (RFC 4291 2.6.1), to which Linux sends no ICMPv6 error: a tunnel with it would never learn a path MTU.
fn first_addresses(routes: &[IpNet], ranges: &[&AddressRange]) -> Vec<IpNet> {
    let anycast = routes.iter().filter_map(|route| match route {
        IpNet::V6(route) => (route.prefix_len() < 127).then(|| IpAddr::from(route.network())),
        IpNet::V4(_) => None,
    });
    let handed_out = |address: &IpAddr| ranges.iter().any(|range| range.contains(*address));
    anycast.filter(handed_out).map(IpNet::from).collect()
}

/// The device whose descriptors, one for each queue, have this name.
fn handed_in(name: &str, mtu: u16) -> Result<TunDevice, TunStartError> {
    if TAKEN.swap(true, Ordering::AcqRel) {
        return Err(TunStartError::Descriptor {
            name: name.to_owned(),
            reason: "another server of this process has taken the descriptors",
        });
    }
    let all = sd_listen_fds::get().map_err(|_| TunStartError::Descriptor {
        name: name.to_owned(),
        reason: "LISTEN_FDS or LISTEN_PID is malformed",
    })?;
    let ours: Vec<_> = all
        .into_iter()
        .filter(|(known, _)| known.as_deref() == Some(name))
        .map(|(_, descriptor)| descriptor.into_std())
        .collect();
    if ours.is_empty() {
        return Err(TunStartError::Descriptor {
            name: name.to_owned(),
            reason: "none of LISTEN_FDNAMES has this name",
        });
    }
    Ok(TunDevice::from_fds(ours, mtu)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_routers_take_for_their_own_has_its_own_route() {
        let range = |text: &str| text.parse::<AddressRange>().unwrap();
        let (all, some) = (range("fd64::10-fd64::1f"), range("10.64.0.16-10.64.0.31"));
        let routes = ["fd64::10/124", "fd65::/64", "fd64::10/127", "10.64.0.16/28"];
        let routes = routes.map(|route| route.parse().unwrap());
        let apart = first_addresses(&routes, &[&all, &some]);
        assert_eq!(apart, ["fd64::10/128".parse::<IpNet>().unwrap()]);
    }
}
