//! What sockets want of the services, on its way to the driver.

use std::{fmt, net::SocketAddr};

use tokio::sync::oneshot;
use tsc_csm::{
    FlowKey, MAX_FLOWS,
    client::{Redundancy, RedundancyStatus},
};

use crate::error::SocketError;

/// A service that is chosen for each socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Service {
    /// Packets are repeated: [`UdpSocket::set_redundancy`](crate::UdpSocket::set_redundancy).
    Redundancy,
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Redundancy => f.write_str("redundancy"),
        }
    }
}

/// A wish of a socket that the driver has not seen yet.
#[derive(Debug)]
pub(crate) struct Wish {
    pub(crate) key: FlowKey,
    pub(crate) local: SocketAddr,
    pub(crate) redundancy: Redundancy,
}

/// Who waits for the status of a socket.
pub(crate) type Query = (FlowKey, oneshot::Sender<Option<RedundancyStatus>>);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    /// Sockets that want something; at most [`MAX_FLOWS`].
    holders: Vec<FlowKey>,
    /// At most one of each socket, of those and of as many that want nothing any more.
    news: Vec<Wish>,
    /// At most [`MAX_FLOWS`].
    queries: Vec<Query>,
}

impl Wishes {
    /// # Errors
    ///
    /// Too many sockets want something.
    pub(crate) fn set(&mut self, wish: Wish) -> Result<(), SocketError> {
        let holds = self.holders.contains(&wish.key);
        if wish.redundancy == Redundancy::Off {
            if !holds {
                return Ok(());
            }
            self.holders.retain(|key| *key != wish.key);
        } else if !holds {
            if self.holders.len() >= MAX_FLOWS {
                return Err(SocketError::TooManyServices);
            }
            self.holders.push(wish.key);
        }
        self.news.retain(|other| other.key != wish.key);
        self.news.push(wish);
        Ok(())
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
            redundancy,
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
        assert_eq!(news[0].redundancy, Redundancy::Copies(2));
        assert_eq!(news[63].redundancy, Redundancy::Off);
    }
}
