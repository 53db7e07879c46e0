//! What sockets want of the services, on its way to the driver.

use std::{fmt, net::SocketAddr};

use tokio::sync::oneshot;
use tsc_csm::{
    FlowKey, MAX_FLOWS,
    client::{Encryption, Redundancy, RedundancyStatus, TunnelTransport},
};

use crate::error::SocketError;

/// A service that is chosen for each socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Service {
    /// Packets are repeated: [`UdpSocket::set_redundancy`](crate::UdpSocket::set_redundancy).
    Redundancy,
    /// Datagrams travel beside a stream tunnel:
    /// [`UdpSocket::set_tunnel_transport`](crate::UdpSocket::set_tunnel_transport).
    Ddt,
    /// Packets travel in an encrypted tunnel beside one that is not:
    /// [`UdpSocket::set_encryption`](crate::UdpSocket::set_encryption).
    Dtte,
    /// Peers are reached without the server: [`UdpSocket::set_peer`](crate::UdpSocket::set_peer).
    Peer,
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Redundancy => "redundancy",
            Self::Ddt => "DDT",
            Self::Dtte => "DTTE",
            Self::Peer => "peer",
        })
    }
}

/// A wish of a socket that the driver has not seen yet.
#[derive(Debug)]
pub(crate) struct Wish {
    pub(crate) key: FlowKey,
    pub(crate) local: SocketAddr,
    pub(crate) what: What,
}

/// What a socket wants of one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Redundancy(Redundancy),
    Transport(TunnelTransport),
    /// And whether the socket is connected.
    Encryption(Encryption, bool),
    /// Whether peers are to be reached without the server.
    Peer(bool),
}

impl What {
    /// Nothing, of each service.
    pub(crate) const NOTHING: [Self; 4] = [
        Self::Redundancy(Redundancy::Off),
        Self::Transport(TunnelTransport::Main),
        Self::Encryption(Encryption::Default, false),
        Self::Peer(false),
    ];

    fn is_nothing(self) -> bool {
        match self {
            Self::Encryption(level, _) => !level.is_wanted(),
            Self::Redundancy(_) | Self::Transport(_) | Self::Peer(_) => {
                Self::NOTHING.contains(&self)
            }
        }
    }

    const fn service(self) -> Service {
        match self {
            Self::Redundancy(_) => Service::Redundancy,
            Self::Transport(_) => Service::Ddt,
            Self::Encryption(..) => Service::Dtte,
            Self::Peer(_) => Service::Peer,
        }
    }
}

/// Who waits for the status of a socket.
pub(crate) type Query = (FlowKey, oneshot::Sender<Option<RedundancyStatus>>);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    /// Sockets that want something, and what they are bound to; at most [`MAX_FLOWS`] of each service.
    holders: Vec<(FlowKey, Service, SocketAddr)>,
    /// Of each port and service at most the end of one socket and the wish of the next.
    news: Vec<Wish>,
    /// At most [`MAX_FLOWS`].
    queries: Vec<Query>,
}

impl Wishes {
    /// # Errors
    ///
    /// Too many sockets want something.
    pub(crate) fn set(&mut self, wish: Wish) -> Result<(), SocketError> {
        let (key, service) = (wish.key, wish.what.service());
        let is_it = |(had, of, _): &(FlowKey, Service, SocketAddr)| *had == key && *of == service;
        let holds = self.holders.iter().any(is_it);
        let ends = wish.what.is_nothing();
        if ends {
            if !holds {
                return Ok(());
            }
            self.holders.retain(|holder| !is_it(holder));
        } else if !holds {
            let of_service = |(_, of, _): &&(FlowKey, Service, SocketAddr)| *of == service;
            if self.holders.iter().filter(of_service).count() >= MAX_FLOWS {
                return Err(SocketError::TooManyServices);
            }
            self.holders.push((key, service, wish.local));
        }
        // What another socket of the port wanted has to end, also if nobody has looked since.
        let is_other = |other: &Wish| other.key != key || other.what.service() != service;
        let keeps = |other: &Wish| !ends && other.what.is_nothing();
        self.news.retain(|other| is_other(other) || keeps(other));
        self.news.push(wish);
        Ok(())
    }

    /// What the socket is bound to, of which the server knows the port.
    pub(crate) fn bound(&self, port: u16) -> Option<SocketAddr> {
        let holder = self.holders.iter().find(|(key, ..)| key.port == port);
        holder.map(|(.., local)| *local)
    }

    /// # Errors
    ///
    /// Too many ask already.
    pub(crate) fn ask(&mut self, query: Query) -> Result<(), SocketError> {
        // Of those who gave up nobody waits.
        self.queries.retain(|(_, answer)| !answer.is_closed());
        if self.queries.len() >= MAX_FLOWS {
            return Err(SocketError::TooManyServices);
        }
        self.queries.push(query);
        Ok(())
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.news.is_empty() && self.queries.is_empty()
    }

    pub(crate) fn take(&mut self) -> (Vec<Wish>, Vec<Query>) {
        (
            std::mem::take(&mut self.news),
            std::mem::take(&mut self.queries),
        )
    }
}

#[cfg(test)]
mod tests {
    use tsc_csm::InnerTransport;

    use super::*;

    fn wish(port: u16, redundancy: Redundancy) -> Wish {
        Wish {
            key: FlowKey {
                transport: InnerTransport::Udp,
                port,
            },
            local: ([10, 0, 0, 1], port).into(),
            what: What::Redundancy(redundancy),
        }
    }

    #[test]
    fn wishes_are_bounded_by_sockets_and_the_last_word_counts() {
        let mut wishes = Wishes::default();
        for port in 1..=64 {
            wishes.set(wish(port, Redundancy::Copies(1))).unwrap();
            wishes.set(wish(port, Redundancy::Copies(2))).unwrap();
        }
        let refused = wishes.set(wish(65, Redundancy::Copies(1)));
        assert_eq!(refused, Err(SocketError::TooManyServices));
        // One that wants nothing needs no place, and one that leaves gives its own.
        wishes.set(wish(65, Redundancy::Off)).unwrap();
        wishes.set(wish(64, Redundancy::Off)).unwrap();
        wishes.set(wish(65, Redundancy::Copies(1))).unwrap();
        let (news, _) = wishes.take();
        assert_eq!(news.len(), 65);
        assert!(wishes.is_empty());
        assert_eq!(news[0].what, What::Redundancy(Redundancy::Copies(2)));
        assert_eq!(news[63].what, What::Redundancy(Redundancy::Off));
        assert_eq!(wishes.bound(65), Some(([10, 0, 0, 1], 65).into()));
    }

    #[test]
    fn wishes_of_different_services_do_not_hide_each_other() {
        let peer = |port, wanted| Wish {
            what: What::Peer(wanted),
            ..wish(port, Redundancy::Off)
        };
        let mut wishes = Wishes::default();
        for port in 1..=64 {
            wishes.set(wish(port, Redundancy::Copies(1))).unwrap();
            wishes.set(peer(port, true)).unwrap();
        }
        let refused = wishes.set(peer(65, true));
        assert_eq!(refused, Err(SocketError::TooManyServices));
        wishes.set(peer(65, false)).unwrap();
        assert_eq!(wishes.take().0.len(), 128);
        for _ in 0..3 {
            wishes.set(peer(1, false)).unwrap();
            wishes.set(peer(1, true)).unwrap();
        }
        let (news, _) = wishes.take();
        let wanted: Vec<_> = news.iter().map(|wish| wish.what).collect();
        assert_eq!(wanted, [What::Peer(false), What::Peer(true)]);
        assert_eq!(wishes.bound(1), Some(([10, 0, 0, 1], 1).into()));
        assert!(wishes.is_empty());
    }

    #[test]
    fn the_end_of_a_socket_is_not_hidden_by_the_next_one_of_its_port() {
        let mut wishes = Wishes::default();
        for _ in 0..10 {
            wishes.set(wish(1, Redundancy::Copies(2))).unwrap();
            wishes.set(wish(1, Redundancy::Off)).unwrap();
        }
        wishes.set(wish(1, Redundancy::Copies(2))).unwrap();
        wishes.set(wish(1, Redundancy::Copies(1))).unwrap();
        let (news, _) = wishes.take();
        let wanted: Vec<_> = news.iter().map(|wish| wish.what).collect();
        let expected = [Redundancy::Off, Redundancy::Copies(1)];
        assert_eq!(wanted, expected.map(What::Redundancy));
    }
}
