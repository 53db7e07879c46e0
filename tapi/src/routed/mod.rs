//! Raw packets of hosts behind this client (service STG).
//!
//! ```text
//!   network --csm: Routed--> inbound queue  --recv_batch--> PacketSocket --> the gateway's device
//!   network <----driver----- outbound queue <--send_batch--
//! ```

mod batch;
mod queue;
mod socket;

use std::{collections::VecDeque, net::IpAddr, sync::Arc, time::Instant};

use tokio::sync::{Notify, oneshot};
use tsc_csm::{MAX_ROUTED_PREFIXES, Prefix};
use tsc_tpl::{IpPacket, Limits};

use self::queue::PacketQueue;
pub(crate) use self::socket::request;
pub use self::{
    batch::PacketBatch,
    queue::MAX_ROUTED_PACKETS,
    socket::{MAX_BATCH, PacketSocket, PacketStats},
};
use crate::{
    error::ServiceError,
    wakers::{Waiters, Wakes},
};

/// What the driver is to ask of the server.
#[derive(Debug)]
pub(crate) enum Job {
    /// These prefixes; none stands for all that are configured.
    Request(Vec<Prefix>, Answer),
    /// All of them are given back.
    Release,
}

/// To whoever asked.
pub(crate) type Answer = oneshot::Sender<Result<Vec<Prefix>, ServiceError>>;

/// The gateway's part of a tunnel's state.
#[derive(Debug, Default)]
pub(crate) struct Routed {
    /// There is a socket, or one is being asked for. One at most, so nothing has to be told apart.
    claimed: bool,
    /// The server was asked and did not say no, so that it must be told when the socket goes.
    asked: bool,
    /// What the server routes here, while there is a socket.
    prefixes: Vec<Prefix>,
    /// The server has taken them back.
    ended: bool,
    inbound: PacketQueue,
    outbound: PacketQueue,
    stats: PacketStats,
    reader: Waiters,
    /// Something arrived since the reader was woken.
    news: bool,
    /// At most a release and a request after it.
    jobs: VecDeque<Job>,
}

impl Routed {
    /// Makes the tunnel's one packet socket exist, and asks for its prefixes.
    fn claim(&mut self, prefixes: Vec<Prefix>, answer: Answer) -> Result<(), ServiceError> {
        if self.claimed {
            return Err(ServiceError::InUse);
        }
        if prefixes.len() > MAX_ROUTED_PREFIXES || !prefixes.iter().all(Prefix::is_routable) {
            return Err(ServiceError::Prefixes);
        }
        self.claimed = true;
        self.jobs.push_back(Job::Request(prefixes, answer));
        Ok(())
    }

    fn reader(&self) -> Arc<Notify> {
        self.reader.many()
    }

    /// The server routes these prefixes here from now on.
    pub(crate) fn granted(&mut self, prefixes: Vec<Prefix>) {
        self.prefixes = prefixes;
    }

    /// The server said no.
    pub(crate) fn refused(&mut self) {
        self.asked = false;
    }

    /// Ends the socket, and gives its prefixes back.
    fn release(&mut self) {
        self.claimed = false;
        self.ended = false;
        self.prefixes = Vec::new();
        self.inbound = PacketQueue::default();
        self.outbound = PacketQueue::default();
        self.stats = PacketStats::default();
        if matches!(self.jobs.back(), Some(Job::Request(..))) {
            self.jobs.pop_back();
        } else if std::mem::take(&mut self.asked) {
            self.jobs.push_back(Job::Release);
        }
    }

    pub(crate) fn next_job(&mut self) -> Option<Job> {
        let job = self.jobs.pop_front()?;
        self.asked |= matches!(job, Job::Request(..));
        Some(job)
    }

    /// Puts back a job that has to wait.
    pub(crate) fn return_job(&mut self, job: Job) {
        self.jobs.push_front(job);
    }

    /// A packet for a host behind this client has come.
    pub(crate) fn receive(&mut self, now: Instant, packet: &[u8]) {
        if !self.prefixes.is_empty() {
            self.stats.dropped_inbound += u64::from(self.inbound.push(now, packet));
            self.stats.received += 1;
            self.news = true;
        }
    }

    /// Takes a packet of a host behind this client; whether it will be sent.
    fn send(&mut self, now: Instant, packet: &[u8], limits: &Limits) -> bool {
        let Ok(parsed) = IpPacket::decode(packet, limits) else {
            self.stats.malformed += 1;
            return false;
        };
        if !self.routes(parsed.source()) {
            self.stats.wrong_source += 1;
            return false;
        }
        self.stats.dropped_outbound += u64::from(self.outbound.push(now, packet));
        self.stats.sent += 1;
        true
    }

    fn routes(&self, address: IpAddr) -> bool {
        self.prefixes.iter().any(|prefix| prefix.has_host(address))
    }

    pub(crate) const fn is_claimed(&self) -> bool {
        self.claimed
    }

    pub(crate) fn wants_transmit(&self) -> bool {
        !self.outbound.is_empty()
    }

    /// The next packet for the network.
    pub(crate) fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.outbound.pop()
    }

    /// Drops packets that have waited for a transport since before `limit` and are `stale`.
    pub(crate) fn discard(&mut self, limit: Instant, stale: impl Fn(&[u8]) -> bool) {
        let dropped = self.outbound.discard(limit, stale);
        self.stats.dropped_outbound += u64::try_from(dropped).unwrap_or(u64::MAX);
    }

    /// Takes back the buffer of a packet that was sent, if there is a use for it here.
    pub(crate) fn recycle(&mut self, buffer: Vec<u8>) -> Option<Vec<u8>> {
        if self.claimed {
            self.outbound.recycle(buffer)
        } else {
            Some(buffer)
        }
    }

    /// The server routes nothing here any more.
    pub(crate) fn server_ended(&mut self) {
        if self.claimed {
            self.ended = true;
            self.news = true;
        }
    }

    pub(crate) fn news(&mut self, wakes: &mut Wakes) {
        if std::mem::take(&mut self.news) {
            self.reader.wake(wakes);
        }
    }

    /// The tunnel is over.
    pub(crate) fn end(&mut self, wakes: &mut Wakes) {
        // Whoever waits for an answer sees that none comes.
        self.jobs.clear();
        self.reader.wake(wakes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(routed: &mut Routed) -> oneshot::Receiver<Result<Vec<Prefix>, ServiceError>> {
        let (answer, answered) = oneshot::channel();
        routed.claim(Vec::new(), answer).unwrap();
        answered
    }

    #[test]
    fn the_server_hears_only_of_what_it_must() {
        let mut routed = Routed::default();
        // Withdrawn before it was sent.
        let _first = claim(&mut routed);
        routed.release();
        assert!(routed.next_job().is_none());
        // Sent, and asked for anew before the answer came: release, then request.
        let _second = claim(&mut routed);
        assert!(matches!(routed.next_job(), Some(Job::Request(..))));
        routed.release();
        for _ in 0..10 {
            let _again = claim(&mut routed);
            routed.release();
        }
        let _last = claim(&mut routed);
        assert!(matches!(routed.next_job(), Some(Job::Release)));
        assert!(matches!(routed.next_job(), Some(Job::Request(..))));
        assert!(routed.next_job().is_none());
        // Refused: there is nothing to give back.
        routed.refused();
        routed.release();
        assert!(routed.next_job().is_none());
    }

    #[test]
    fn without_a_socket_nothing_is_kept() {
        let mut routed = Routed::default();
        routed.receive(Instant::now(), b"packet");
        assert!(routed.inbound.is_empty());
        assert!(!routed.wants_transmit());
        assert!(routed.recycle(vec![0; 9]).is_some());
    }
}
