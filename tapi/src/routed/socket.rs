//! The gateway's handle.

use std::{io, pin::pin, sync::Arc, time::Instant};

use tokio::sync::{Notify, oneshot};
use tsc_csm::Prefix;
use tsc_tpl::Limits;

use super::PacketBatch;
use crate::{
    error::{ServiceError, SocketError},
    shared::Shared,
};

/// Most packets of one [`PacketSocket::recv_batch`].
pub const MAX_BATCH: usize = 64;

/// Whole inner IP packets from and to the prefixes that the server routes to this tunnel (service STG), from
/// [`Tunnel::request_routed_prefixes`](crate::Tunnel::request_routed_prefixes). It is what a gateway puts between the
/// tunnel and the device of its LAN.
///
/// Packets to and from the tunnel's own addresses are the business of its other sockets and do not pass here. Each
/// direction has a queue of [`MAX_ROUTED_PACKETS`](super::MAX_ROUTED_PACKETS) that drops the oldest; sending never
/// waits. Prefixes survive a resume of the tunnel. Dropping the socket gives them back.
#[derive(Debug)]
pub struct PacketSocket {
    claim: Claim,
    prefixes: Vec<Prefix>,
    readable: Arc<Notify>,
}

/// Counters of a [`PacketSocket`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PacketStats {
    /// Packets that came for hosts behind this client.
    pub received: u64,
    /// Packets taken for sending.
    pub sent: u64,
    /// Of those that came, dropped because they were not read in time.
    pub dropped_inbound: u64,
    /// Of those to be sent, dropped because the network was too slow.
    pub dropped_outbound: u64,
    /// Not sent: no IP packet, or longer than the inner MTU.
    pub malformed: u64,
    /// Not sent: from an address in none of the prefixes, which the server would drop.
    pub wrong_source: u64,
}

/// The right to the tunnel's packets; gives the prefixes back when dropped.
#[derive(Debug)]
struct Claim(Arc<Shared>);

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.with(|state| {
            state.routed.release();
            state.mark();
        });
    }
}

/// Asks the server for prefixes.
pub(crate) async fn request(
    shared: &Arc<Shared>,
    prefixes: &[Prefix],
) -> Result<PacketSocket, ServiceError> {
    let (answer, answered) = oneshot::channel();
    shared.with(|state| {
        state.check_up().map_err(ServiceError::Socket)?;
        state.routed.claim(prefixes.to_vec(), answer)?;
        state.mark();
        Ok::<_, ServiceError>(())
    })?;
    let claim = Claim(Arc::clone(shared));
    let prefixes = match answered.await {
        Ok(granted) => granted?,
        Err(_) => {
            let over = shared.lock().check_up();
            // The driver answers everything that it takes, unless it ends.
            return Err(over.map_or_else(ServiceError::Socket, |()| ServiceError::NoAnswer));
        }
    };
    let readable = shared.lock().routed.reader();
    Ok(PacketSocket {
        claim,
        prefixes,
        readable,
    })
}

impl PacketSocket {
    /// The prefixes granted: all that were asked for, or fewer.
    #[must_use]
    pub fn prefixes(&self) -> &[Prefix] {
        &self.prefixes
    }

    /// Waits for packets, and puts those that are there into `batch`, at most [`MAX_BATCH`]; what it held before is
    /// forgotten. Returns their number. Cancel-safe.
    ///
    /// # Errors
    ///
    /// [`SocketError::PrefixesEnded`] when a resume did not bring the prefixes back: drop the socket and ask anew.
    /// [`SocketError::TunnelDown`].
    pub async fn recv_batch(&self, batch: &mut PacketBatch) -> io::Result<usize> {
        loop {
            let mut news = pin!(self.readable.notified());
            news.as_mut().enable();
            match self.try_recv_batch(batch) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            news.await;
        }
    }

    /// As [`PacketSocket::recv_batch`], without waiting.
    ///
    /// # Errors
    ///
    /// As [`PacketSocket::recv_batch`], and [`io::ErrorKind::WouldBlock`].
    pub fn try_recv_batch(&self, batch: &mut PacketBatch) -> io::Result<usize> {
        batch.clear();
        let mut state = self.claim.0.lock();
        let routed = &mut state.routed;
        while batch.len() < MAX_BATCH
            && let Some(packet) = routed.inbound.pop()
        {
            batch.push(&packet);
            drop(routed.inbound.recycle(packet));
        }
        if !batch.is_empty() {
            return Ok(batch.len());
        }
        if routed.ended {
            return Err(SocketError::PrefixesEnded.into());
        }
        state.check_up()?;
        Err(SocketError::WouldBlock.into())
    }

    /// Sends packets of hosts behind this client; returns how many were taken. The others are counted in
    /// [`PacketSocket::stats`]. Never waits. Give many at a time: they share one lock and one wake-up.
    ///
    /// Packets longer than [`TunnelConfig::inner_mtu`](crate::TunnelConfig::inner_mtu) are not sent and not answered:
    /// the gateway's device should have that MTU.
    ///
    /// # Errors
    ///
    /// As [`PacketSocket::recv_batch`].
    pub fn send_batch<'p>(&self, packets: impl IntoIterator<Item = &'p [u8]>) -> io::Result<usize> {
        let now = Instant::now();
        self.claim.0.with(|state| {
            state.check_up()?;
            if state.routed.ended {
                return Err(SocketError::PrefixesEnded.into());
            }
            let limits = Limits::new(state.stack.mtu());
            Ok(packets
                .into_iter()
                .filter(|packet| state.routed.send(now, packet, &limits))
                .count())
        })
    }

    /// Counters since the socket was made.
    #[must_use]
    pub fn stats(&self) -> PacketStats {
        self.claim.0.lock().routed.stats
    }
}
