//! Questions and requests to the kernel by rtnetlink (man 7 rtnetlink). Each is answered by the kernel before the call returns;
//! none waits on anybody else.

use std::{io, net::IpAddr};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{LinkAttribute, LinkMessage},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// The table of the host's own addresses (linux/rtnetlink.h, `RT_TABLE_LOCAL`).
pub(crate) const TABLE_LOCAL: u8 = 255;

/// A socket that asks.
pub(crate) struct Rtnetlink {
    socket: Socket,
    sequence: u32,
}

impl Rtnetlink {
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Asks for all there is of a kind.
    pub(crate) fn dump(
        &mut self,
        question: RouteNetlinkMessage,
        answer: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<()> {
        self.exchange(question, NLM_F_DUMP, answer)
    }

    /// Sends a message and takes all answers to it: many to a dump, none but the acknowledgement where that is asked for, else
    /// one.
    pub(crate) fn exchange(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        mut answer: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let is_dump = flags & NLM_F_DUMP != 0;
        // These say themselves when they are done.
        let many = is_dump || flags & NLM_F_ACK != 0;
        loop {
            let (bytes, _) = self.socket.recv_from_full()?;
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let length = NetlinkBuffer::new_checked(rest)
                    .map_err(io::Error::other)?
                    .length();
                let length = usize::try_from(length).unwrap_or(rest.len());
                let parsed = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest);
                // Messages are padded to four bytes.
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
                let message = match parsed {
                    Ok(message) => message,
                    // A kernel newer than the parser may say what that does not know; the others are still right.
                    Err(_) if is_dump => continue,
                    Err(error) => return Err(io::Error::other(error)),
                };
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(error.to_io());
                    }
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::InnerMessage(message) => {
                        answer(message);
                        if !many {
                            return Ok(());
                        }
                    }
                    NetlinkPayload::Noop | NetlinkPayload::Overrun(_) => {}
                    _ => {}
                }
            }
        }
    }
}

/// An interface's own address: IPv4 names it "local", IPv6 has only "address".
pub(crate) fn own_address(message: &AddressMessage) -> Option<IpAddr> {
    let (mut local, mut address) = (None, None);
    for attribute in &message.attributes {
        if let AddressAttribute::Local(ip) = attribute {
            local = Some(*ip);
        } else if let AddressAttribute::Address(ip) = attribute {
            address = Some(*ip);
        }
    }
    local.or(address)
}

/// The name of an interface.
pub(crate) fn link_name(message: LinkMessage) -> Option<String> {
    message.attributes.into_iter().find_map(|attribute| {
        if let LinkAttribute::IfName(name) = attribute {
            Some(name)
        } else {
            None
        }
    })
}
