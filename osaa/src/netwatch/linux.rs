//! By rtnetlink (man 7 rtnetlink): multicast groups tell that something happens, dumps tell what is.

use std::{
    fmt,
    future::Future as _,
    io,
    net::IpAddr,
    pin::Pin,
    task::{Context, Poll, ready},
};

use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{AddressHeaderFlags, AddressMessage},
    link::{LinkFlags, LinkMessage},
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType},
};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Instant, Sleep, sleep_until},
};
use tracing::debug;

use super::{
    Change, NetworkId, SETTLE,
    picture::{Address, DefaultRoute, Picture},
};
use crate::netlink::{Rtnetlink, TABLE_LOCAL, link_name, own_address};

/// Links, addresses and routes of both families (linux/rtnetlink.h, `RTNLGRP_*`).
const GROUPS: [u32; 5] = [1, 5, 7, 9, 11];

/// Notifications read in one go; more are a reason to look again.
const DRAIN: usize = 1024;

/// Longest notification. What is longer is cut, which does not matter: they are not read.
const NOTIFICATION: usize = 64;

pub(super) struct Watch {
    events: AsyncFd<Socket>,
    kernel: Rtnetlink,
    known: Picture,
    /// Set when something has happened: when it will be looked at.
    settle: Option<Pin<Box<Sleep>>>,
    missed: bool,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            known,
            settle,
            missed,
            ..
        } = self;
        f.debug_struct("Watch")
            .field("known", known)
            .field("settling", &settle.is_some())
            .field("missed", missed)
            .finish_non_exhaustive()
    }
}

impl Watch {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        let events = register(socket)?;
        // In this order nothing falls between.
        let mut kernel = Rtnetlink::open()?;
        let known = picture(&mut kernel)?;
        Ok(Self {
            events,
            kernel,
            known,
            settle: None,
            missed: false,
        })
    }

    pub(super) fn current(&self) -> Change {
        self.known.since(&self.known, false)
    }

    pub(super) fn poll_changed(&mut self, cx: &mut Context<'_>) -> Poll<Change> {
        loop {
            if let Some(timer) = &mut self.settle {
                ready!(timer.as_mut().poll(cx));
                self.settle = None;
                // What came meanwhile is about to be seen.
                self.drain();
                if let Some(change) = self.look() {
                    return Poll::Ready(change);
                }
            }
            let Ok(mut guard) = ready!(self.events.poll_read_ready(cx)) else {
                // The runtime is going down.
                return Poll::Pending;
            };
            guard.clear_ready();
            if self.drain() {
                self.settle = Some(Box::pin(sleep_until(Instant::now() + SETTLE)));
            }
        }
    }

    /// Empties the socket; true if it was not empty.
    fn drain(&mut self) -> bool {
        let mut scratch = [0; NOTIFICATION];
        for count in 0..DRAIN {
            match self.events.get_ref().recv(&mut scratch.as_mut_slice(), 0) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return count > 0,
                Err(error) => {
                    // ENOBUFS, most likely: the kernel dropped notifications.
                    debug!(%error, "network notifications were lost");
                    self.missed = true;
                }
            }
        }
        self.missed = true;
        true
    }

    fn look(&mut self) -> Option<Change> {
        let missed = std::mem::take(&mut self.missed);
        let seen = picture(&mut self.kernel).unwrap_or_else(|error| {
            // Nothing is known to be gone; the next notification asks again.
            debug!(%error, "the kernel does not tell about the network");
            self.known.clone()
        });
        let change = seen.since(&self.known, missed);
        self.known = seen;
        (!change.what.is_empty()).then_some(change)
    }
}

#[expect(
    unsafe_code,
    reason = "what is registered with tokio must stay registered"
)]
fn register(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: the socket owns its descriptor, which stays the same and open for as long as it is registered, as
    // nothing takes the socket out of the `AsyncFd` or closes what it holds.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?)
}

pub(super) fn network_id() -> Option<NetworkId> {
    let picture = Rtnetlink::open().and_then(|mut kernel| picture(&mut kernel));
    picture.ok()?.network()
}

/// Links first: what belongs to none that is up is left out. What changes between the questions is notified.
fn picture(kernel: &mut Rtnetlink) -> io::Result<Picture> {
    let mut picture = Picture::default();
    let links = RouteNetlinkMessage::GetLink(LinkMessage::default());
    kernel.dump(links, |answer| {
        if let RouteNetlinkMessage::NewLink(link) = answer {
            add_link(&mut picture, link);
        }
    })?;
    let addresses = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    kernel.dump(addresses, |answer| {
        if let RouteNetlinkMessage::NewAddress(address) = answer {
            add_address(&mut picture, &address);
        }
    })?;
    let routes = RouteNetlinkMessage::GetRoute(RouteMessage::default());
    kernel.dump(routes, |answer| {
        if let RouteNetlinkMessage::NewRoute(route) = answer {
            add_route(&mut picture, &route);
        }
    })?;
    Ok(picture)
}

fn add_link(picture: &mut Picture, link: LinkMessage) {
    let flags = link.header.flags;
    if flags.contains(LinkFlags::Loopback) || !flags.contains(LinkFlags::Up | LinkFlags::Running) {
        return;
    }
    let index = link.header.index;
    picture.link(index, link_name(link).unwrap_or_default());
}

fn add_address(picture: &mut Picture, message: &AddressMessage) {
    let header = &message.header;
    // Not yet, or not at all, for use; optimistic ones are.
    let unusable = AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed;
    if header.flags.intersects(unusable) && !header.flags.contains(AddressHeaderFlags::Optimistic) {
        return;
    }
    if let Some(ip) = own_address(message) {
        picture.address(Address {
            ip,
            prefix: header.prefix_len,
            interface: header.index,
        });
    }
}

fn add_route(picture: &mut Picture, message: &RouteMessage) {
    let header = &message.header;
    if header.kind != RouteType::Unicast {
        return;
    }
    let mut table = u32::from(header.table);
    let mut destination = None;
    let mut route = DefaultRoute {
        is_ipv6: header.address_family == netlink_packet_route::AddressFamily::Inet6,
        metric: 0,
        interface: 0,
        gateway: None,
    };
    for attribute in &message.attributes {
        if let RouteAttribute::Table(number) = attribute {
            table = *number;
        } else if let RouteAttribute::Destination(address) = attribute {
            destination = ip(address);
        } else if let RouteAttribute::Gateway(address) = attribute {
            route.gateway = ip(address);
        } else if let RouteAttribute::Oif(index) = attribute {
            route.interface = *index;
        } else if let RouteAttribute::Priority(metric) = attribute {
            route.metric = *metric;
        } else if let RouteAttribute::MultiPath(hops) = attribute
            && let Some(hop) = hops.first()
        {
            route.interface = hop.interface_index;
        }
    }
    if header.destination_prefix_length == 0 {
        // Also of other tables: virtual private networks keep theirs there.
        if table != u32::from(TABLE_LOCAL) {
            picture.default_route(route);
        }
        return;
    }
    // The kernel's own routes follow from the addresses.
    let is_own = header.protocol == RouteProtocol::Kernel;
    if table == u32::from(RouteHeader::RT_TABLE_MAIN)
        && !is_own
        && let Some(destination) = destination
    {
        picture.route(destination, header.destination_prefix_length, route);
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    if let RouteAddress::Inet(ip) = address {
        Some(IpAddr::V4(*ip))
    } else if let RouteAddress::Inet6(ip) = address {
        Some(IpAddr::V6(*ip))
    } else {
        None
    }
}
