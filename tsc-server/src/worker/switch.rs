//! Where an inner packet goes: to a tunnel, out, or back as an ICMP error.
//!
//! ```text
//!   tunnel --> router: rate, policy --> address of a tunnel? --> other tunnel
//!                                       address of a pool?   --> unreachable
//!                                       else the egress      --> user-space, TUN, or unreachable
//!   egress --> address of a tunnel? --> router: rate, source rewritten back --> tunnel
//!
//!   The tunnel's end of either way is its worker's: for a tunnel of another worker the packet crosses in between.
//! ```

use std::{net::IpAddr, time::Instant};

use tsc_csm::server::{Server as Core, SessionId};
use tsc_tpl::IpPacket;

use super::{
    Counters, Worker,
    batch::{Batch, Target},
    tun::Tun,
};
use crate::{
    config::Egress,
    egress::{
        rewrite::Edits,
        router::{Refusal, Router},
    },
    icmp::{self, Complaint},
};

/// What the way of a packet depends on.
pub(super) struct Switch<'a> {
    pub(super) core: &'a Core,
    pub(super) router: &'a mut Router,
    pub(super) batch: &'a mut Batch,
    pub(super) counters: &'a mut Counters,
    /// Longest packet for the TUN device; `None` if there is none.
    pub(super) tun_mtu: Option<u16>,
}

impl Worker {
    /// For packets that borrow nothing from this worker.
    pub(super) fn switch(&mut self) -> Switch<'_> {
        Switch {
            core: &self.core,
            router: &mut self.router,
            batch: &mut self.batch,
            counters: &mut self.counters,
            tun_mtu: self.tun.as_ref().map(Tun::mtu),
        }
    }
}

impl Switch<'_> {
    /// A packet of the tunnel `from`, whose source was checked.
    pub(super) fn tunnel_packet(
        &mut self,
        now: Instant,
        interface: usize,
        from: SessionId,
        packet: &IpPacket<'_>,
    ) {
        let sender = Target::Tunnel(from);
        let (source, destination) = (packet.source(), packet.destination());
        let decided = self
            .router
            .outgoing(now, from, source, destination, packet.as_bytes());
        let outgoing = match decided {
            Ok(outgoing) => outgoing,
            Err(refusal) => return self.refused(now, sender, packet, refusal),
        };
        let owner = self.core.route(outgoing.destination);
        let complaint = if owner.is_some() || self.router.is_ours(outgoing.destination) {
            // A client that may not reach others does not learn either who is there.
            match owner {
                _ if self.core.is_kept_apart(from) => Complaint::Prohibited,
                Some(to) => {
                    return self.deliver(now, sender, to, packet, outgoing.edits);
                }
                None => Complaint::Unreachable,
            }
        } else {
            let way = match outgoing.egress {
                Egress::Switch => None,
                // It puts fragments together, and says itself what it cannot do.
                Egress::UserSpace => {
                    return self.leave(
                        Target::UserSpace { from, interface },
                        packet,
                        &outgoing.edits,
                    );
                }
                Egress::Tun => self.tun_mtu,
            };
            match way {
                // There is nothing but other clients.
                None if outgoing.egress == Egress::Switch && self.core.is_kept_apart(from) => {
                    Complaint::Prohibited
                }
                None => Complaint::Unreachable,
                Some(_) if packet.hop_limit() <= 1 => Complaint::HopsExceeded,
                Some(mtu) if packet.len() > usize::from(mtu) => {
                    return self.leave_in_fragments(now, from, packet, &outgoing.edits, mtu);
                }
                Some(_) => {
                    return self.leave(Target::Tun(Some(from)), packet, &outgoing.edits);
                }
            }
        };
        self.complain(now, sender, packet, complaint);
    }

    fn leave(&mut self, to: Target, packet: &IpPacket<'_>, edits: &Edits) {
        if self.batch.push(to, packet, edits) {
            self.counters.egress.outgoing += 1;
        } else {
            self.counters.egress.unreadable += 1;
        }
    }

    /// A packet that is longer than the TUN device takes. As a router would: it is cut if its sender allows that.
    fn leave_in_fragments(
        &mut self,
        now: Instant,
        from: SessionId,
        packet: &IpPacket<'_>,
        edits: &Edits,
        mtu: u16,
    ) {
        let to = Target::Tun(Some(from));
        if icmp::may_fragment(packet) && self.batch.push_fragments(to, packet, edits, mtu) {
            self.counters.egress.outgoing += 1;
            self.counters.fragmented += 1;
        } else {
            self.complain(now, Target::Tunnel(from), packet, Complaint::TooBig { mtu });
        }
    }

    /// A packet from an egress. `answer_for` is the tunnel that it is meant for, where the egress knows.
    pub(super) fn core_packet(
        &mut self,
        now: Instant,
        sender: Target,
        answer_for: Option<SessionId>,
        packet: &IpPacket<'_>,
    ) {
        self.counters.egress.incoming += 1;
        // What the host's own stack says to its link: routers and listeners are asked for there, and nobody is.
        if packet.destination().is_multicast() || is_link_local(packet.source()) {
            return;
        }
        // Nobody outside has the address of a tunnel.
        if self.router.is_ours(packet.source()) || self.core.route(packet.source()).is_some() {
            self.counters.egress.wrong_source += 1;
            return;
        }
        match self.core.route(packet.destination()) {
            Some(to) if answer_for.is_none_or(|session| session == to) => {
                self.deliver(now, sender, to, packet, Edits::default());
            }
            Some(_) | None => self.complain(now, sender, packet, Complaint::Unreachable),
        }
    }

    /// Takes a packet for the tunnel `to`: for another worker, or as [`Self::arrive`].
    fn deliver(
        &mut self,
        now: Instant,
        sender: Target,
        to: SessionId,
        packet: &IpPacket<'_>,
        edits: Edits,
    ) {
        if to.shard() == self.core.shard_number() {
            return self.arrive(now, sender, to, packet, edits);
        }
        let sender = sender.sender();
        if !self
            .batch
            .push(Target::Neighbour { to, sender }, packet, &edits)
        {
            self.counters.egress.unreadable += 1;
        }
    }

    /// Takes a packet for the tunnel `to` of this worker, in fragments if need be.
    pub(super) fn arrive(
        &mut self,
        now: Instant,
        sender: Target,
        to: SessionId,
        packet: &IpPacket<'_>,
        mut edits: Edits,
    ) {
        // With a rewritten destination the tunnel's own address is that one.
        let destination = edits
            .destination
            .map_or_else(|| packet.destination(), |end| end.address);
        let mtu = self.core.inner_mtu(to).unwrap_or(u16::MAX);
        if packet.hop_limit() <= 1 {
            return self.complain(now, sender, packet, Complaint::HopsExceeded);
        }
        let fits = packet.len() <= usize::from(mtu);
        if !fits && !icmp::may_fragment(packet) {
            return self.complain(now, sender, packet, Complaint::TooBig { mtu });
        }
        let bytes = packet.as_bytes();
        if let Err(refusal) = self
            .router
            .incoming(now, to, destination, bytes, &mut edits)
        {
            return self.refused(now, sender, packet, refusal);
        }
        let target = Target::Tunnel(to);
        if fits {
            if !self.batch.push(target, packet, &edits) {
                self.counters.egress.unreadable += 1;
            }
        } else if self.batch.push_fragments(target, packet, &edits, mtu) {
            self.counters.fragmented += 1;
        } else {
            self.complain(now, sender, packet, Complaint::TooBig { mtu });
        }
    }

    fn refused(&mut self, now: Instant, sender: Target, packet: &IpPacket<'_>, refusal: Refusal) {
        let counters = &mut self.counters.egress;
        match refusal {
            Refusal::Rate => counters.rate_limited += 1,
            Refusal::Unknown => counters.unreadable += 1,
            Refusal::Policy => {
                counters.policy_dropped += 1;
                let complaint = Complaint::Prohibited;
                self.batch
                    .complain(now, sender, packet, complaint, self.counters);
            }
        }
    }

    fn complain(
        &mut self,
        now: Instant,
        sender: Target,
        packet: &IpPacket<'_>,
        complaint: Complaint,
    ) {
        let counters = &mut *self.counters;
        match complaint {
            Complaint::Unreachable | Complaint::PortUnreachable => counters.no_route += 1,
            Complaint::Prohibited => counters.blocked += 1,
            Complaint::TooBig { .. } => counters.too_big += 1,
            Complaint::HopsExceeded => counters.hops_exceeded += 1,
        }
        self.batch
            .complain(now, sender, packet, complaint, counters);
    }
}

const fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}
