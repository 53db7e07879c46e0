//! Addresses, routes and the state of the interface.

use std::{io, net::IpAddr};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope},
    link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags, LinkMessage},
    route::{
        RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
        RouteType,
    },
};

use super::InterfaceCounters;
use crate::netlink::{Rtnetlink, TABLE_LOCAL, link_name, own_address};

pub(super) struct Netlink(Rtnetlink);

impl Netlink {
    pub(super) fn open() -> io::Result<Self> {
        Rtnetlink::open().map(Self)
    }

    /// Index, MTU and counters of an interface.
    pub(super) fn link(&mut self, name: &str) -> io::Result<Link> {
        let mut message = LinkMessage::default();
        message
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        let mut found = None;
        self.0
            .exchange(RouteNetlinkMessage::GetLink(message), 0, |answer| {
                if let RouteNetlinkMessage::NewLink(link) = answer {
                    found = Some(Link::from(link));
                }
            })?;
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Sets MTU and queue length, and keeps the kernel from inventing a link-local address, for which it would send
    /// unasked packets into the tunnels.
    pub(super) fn configure(&mut self, index: u32, mtu: u16, queue_length: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes = vec![
            LinkAttribute::Mtu(mtu.into()),
            LinkAttribute::TxQueueLen(queue_length),
        ];
        self.request(RouteNetlinkMessage::SetLink(message), 0)?;
        let mut message = LinkMessage::default();
        message.header.index = index;
        let quiet = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        message.attributes = vec![LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(
            vec![quiet],
        )])];
        // Refused where there is no IPv6, where it is not needed either.
        match self.request(RouteNetlinkMessage::SetLink(message), 0) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    pub(super) fn up(&mut self, index: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.request(RouteNetlinkMessage::SetLink(message), 0)
    }

    /// The addresses of all interfaces, with their interface's index.
    pub(super) fn addresses(&mut self) -> io::Result<Vec<(IpAddr, u32)>> {
        let mut found = Vec::new();
        let question = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        self.0.dump(question, |answer| {
            if let RouteNetlinkMessage::NewAddress(message) = answer {
                found.extend(own_address(&message).map(|ip| (ip, message.header.index)));
            }
        })?;
        Ok(found)
    }

    /// The routes that decide before or like one of ours would, as lookups consult them without further rules: of the tables `local` and `main`.
    pub(super) fn routes(&mut self, mut found: impl FnMut(IpNet, Option<u32>)) -> io::Result<()> {
        let question = RouteNetlinkMessage::GetRoute(RouteMessage::default());
        self.0.dump(question, |answer| {
            if let RouteNetlinkMessage::NewRoute(route) = answer
                && let Some((prefix, interface)) = destination(&route)
            {
                found(prefix, interface);
            }
        })
    }

    /// Name of an interface.
    pub(super) fn name(&mut self, index: u32) -> io::Result<String> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        let mut name = None;
        self.0
            .exchange(RouteNetlinkMessage::GetLink(message), 0, |answer| {
                if let RouteNetlinkMessage::NewLink(link) = answer {
                    name = link_name(link);
                }
            })?;
        name.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Gives the interface an address; its prefix becomes a route by itself.
    pub(super) fn add_address(&mut self, index: u32, address: IpNet) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = family(address);
        message.header.prefix_len = address.prefix_len();
        message.header.scope = AddressScope::Universe;
        message.header.index = index;
        let ip = address.addr();
        message.attributes.push(AddressAttribute::Address(ip));
        if ip.is_ipv4() {
            message.attributes.push(AddressAttribute::Local(ip));
        } else {
            // There is nobody on the link who could have the address too.
            message.header.flags = AddressHeaderFlags::Nodad;
        }
        self.request(
            RouteNetlinkMessage::NewAddress(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }

    /// Leads a destination into the interface.
    pub(super) fn add_route(&mut self, index: u32, prefix: IpNet) -> io::Result<()> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(prefix);
        message.header.destination_prefix_length = prefix.prefix_len();
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Static;
        message.header.scope = if prefix.addr().is_ipv4() {
            RouteScope::Link
        } else {
            RouteScope::Universe
        };
        message.header.kind = RouteType::Unicast;
        message.attributes = vec![
            RouteAttribute::Destination(RouteAddress::from(prefix.network())),
            RouteAttribute::Oif(index),
        ];
        self.request(
            RouteNetlinkMessage::NewRoute(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }

    /// Whether packets to the address are taken for the host's own.
    pub(super) fn is_local(&mut self, ip: IpAddr) -> io::Result<bool> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(ip.into());
        message.header.destination_prefix_length = if ip.is_ipv4() { 32 } else { 128 };
        message.attributes = vec![RouteAttribute::Destination(ip.into())];
        let mut local = false;
        self.0
            .exchange(RouteNetlinkMessage::GetRoute(message), 0, |answer| {
                if let RouteNetlinkMessage::NewRoute(route) = answer {
                    local = route.header.kind == RouteType::Local;
                }
            })?;
        Ok(local)
    }

    fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.0.exchange(message, NLM_F_ACK | flags, |_| ())
    }
}

/// What an interface is.
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) counters: InterfaceCounters,
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let mut counters = InterfaceCounters::default();
        for attribute in message.attributes {
            if let LinkAttribute::Stats64(stats) = attribute {
                // From the interface's point of view: what it transmits is what we read.
                counters = InterfaceCounters {
                    to_us: stats.tx_packets,
                    to_us_dropped: stats.tx_dropped,
                    from_us: stats.rx_packets,
                    from_us_dropped: stats.rx_dropped,
                };
            }
        }
        Self {
            index: message.header.index,
            counters,
        }
    }
}

/// Where a route leads to and by which interface, the first of several; `None` for routes that lead nowhere on purpose. Nothing
/// for those that are not for hosts.
fn destination(route: &RouteMessage) -> Option<(IpNet, Option<u32>)> {
    let header = &route.header;
    let (mut table, mut ip, mut interface) = (u32::from(header.table), None, None);
    for attribute in &route.attributes {
        if let RouteAttribute::Table(number) = attribute {
            table = *number;
        } else if let RouteAttribute::Destination(RouteAddress::Inet(address)) = attribute {
            ip = Some(IpAddr::from(*address));
        } else if let RouteAttribute::Destination(RouteAddress::Inet6(address)) = attribute {
            ip = Some(IpAddr::from(*address));
        } else if let RouteAttribute::Oif(index) = attribute {
            interface = Some(*index);
        } else if let RouteAttribute::MultiPath(hops) = attribute {
            interface = interface.or_else(|| hops.first().map(|hop| hop.interface_index));
        }
    }
    let tables = [RouteHeader::RT_TABLE_MAIN, TABLE_LOCAL].map(u32::from);
    let leads = matches!(header.kind, RouteType::Unicast | RouteType::Local);
    let refuses = matches!(
        header.kind,
        RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit
    );
    if !tables.contains(&table) || !(leads || refuses) {
        return None;
    }
    // The default route has no destination. It is within none but another, which the kernel compares.
    let prefix = IpNet::new(ip?, header.destination_prefix_length).ok()?;
    Some((prefix, interface.filter(|_| leads)))
}

fn family(prefix: IpNet) -> AddressFamily {
    match prefix {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    }
}
