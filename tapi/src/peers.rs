//! Which sockets want to reach their peers without the server, on its way to the driver.

use std::{net::SocketAddr, sync::OnceLock};

use tsc_csm::{FlowKey, MAX_FLOWS};
use tsc_osaa::{cert::Identity, dtls::DtlsBackendKind};

use crate::error::SocketError;

/// A wish that the driver has not seen yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PeerWish {
    pub(crate) key: FlowKey,
    pub(crate) local: SocketAddr,
    pub(crate) wanted: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct PeerWishes {
    /// Sockets that want it, and what they are bound to; at most [`MAX_FLOWS`].
    holders: Vec<(FlowKey, SocketAddr)>,
    /// Of each port at most the end of one socket and the wish of the next.
    news: Vec<PeerWish>,
}

impl PeerWishes {
    /// # Errors
    ///
    /// Too many sockets want it.
    pub(crate) fn set(&mut self, wish: PeerWish) -> Result<(), SocketError> {
        let holds = self.holders.iter().any(|(key, _)| *key == wish.key);
        if !wish.wanted && !holds {
            return Ok(());
        }
        if wish.wanted && !holds {
            if self.holders.len() >= MAX_FLOWS {
                return Err(SocketError::TooManyServices);
            }
            self.holders.push((wish.key, wish.local));
        }
        if !wish.wanted {
            self.holders.retain(|(key, _)| *key != wish.key);
        }
        // What another socket of the port wanted has to end, also if nobody has looked since.
        let keeps = |other: &PeerWish| wish.wanted && !other.wanted;
        self.news
            .retain(|other| other.key != wish.key || keeps(other));
        self.news.push(wish);
        Ok(())
    }

    /// What the socket is bound to, of which the server knows the port.
    pub(crate) fn bound(&self, port: u16) -> Option<SocketAddr> {
        let holder = self.holders.iter().find(|(key, _)| key.port == port);
        holder.map(|(_, local)| *local)
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.news.is_empty()
    }

    pub(crate) fn take(&mut self) -> Vec<PeerWish> {
        std::mem::take(&mut self.news)
    }
}

/// What this process shows to its peers: a certificate of its own that nobody has signed, and whose fingerprint the server tells
/// them. `None` where there is no DTLS.
pub(crate) fn certificate() -> Option<&'static Identity> {
    static CERTIFICATE: OnceLock<Option<Identity>> = OnceLock::new();
    CERTIFICATE
        .get_or_init(|| {
            DtlsBackendKind::preferred()?;
            match Identity::self_signed() {
                Ok(identity) => Some(identity),
                Err(error) => {
                    tracing::warn!(%error, "no peer tunnels");
                    None
                }
            }
        })
        .as_ref()
}

#[cfg(test)]
mod tests {
    use tsc_csm::InnerTransport;

    use super::*;

    fn wish(port: u16, wanted: bool) -> PeerWish {
        PeerWish {
            key: FlowKey {
                transport: InnerTransport::Udp,
                port,
            },
            local: ([10, 0, 0, 1], port).into(),
            wanted,
        }
    }

    #[test]
    fn wishes_are_bounded_and_the_end_of_a_socket_is_not_hidden_by_the_next() {
        let mut wishes = PeerWishes::default();
        for port in 1..=64 {
            wishes.set(wish(port, true)).unwrap();
        }
        let refused = wishes.set(wish(65, true));
        assert_eq!(refused, Err(SocketError::TooManyServices));
        wishes.set(wish(65, false)).unwrap();
        assert_eq!(wishes.take().len(), 64);
        for _ in 0..3 {
            wishes.set(wish(1, false)).unwrap();
            wishes.set(wish(1, true)).unwrap();
        }
        assert_eq!(wishes.take(), [wish(1, false), wish(1, true)]);
        assert_eq!(wishes.bound(1), Some(([10, 0, 0, 1], 1).into()));
        assert!(wishes.is_empty());
    }
}
