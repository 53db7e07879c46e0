//! What a worker counts besides its session core.

use std::ops::AddAssign;

/// Packets and connections that went nowhere, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Inner packets put into the send queue of a tunnel: each fragment, and ICMP errors of the switch, too.
    pub switched: u64,
    /// Inner packets for an address that no tunnel has.
    pub no_route: u64,
    /// Inner packets from tunnel to tunnel where `inter-client-block` forbids them.
    pub blocked: u64,
    /// Inner packets whose hop count was used up.
    pub hops_exceeded: u64,
    /// Inner packets larger than the other tunnel, or the TUN device, takes that could not be fragmented.
    pub too_big: u64,
    /// Inner packets larger than the other tunnel, or the TUN device, takes that were passed on in fragments.
    pub fragmented: u64,
    /// ICMP errors sent about packets that could not be passed on.
    pub icmp_errors: u64,
    /// ICMP errors not sent because their receiver had many already.
    pub icmp_limited: u64,
    /// Inner packets for a tunnel that has no transport at the moment.
    pub no_transport: u64,
    /// Inner packets for a tunnel whose send queue was full: its path is slower than its traffic.
    pub queue_full: u64,
    /// Inner packets that were in the send queue of a tunnel for too long, see `media-queue-time`. They count as `switched`
    /// too.
    pub queue_late: u64,
    /// Control messages that could not be sent because the queue was full or the transport just gone.
    pub control_unsent: u64,
    /// Datagrams of STUN, and others that are neither plain TSCF nor DTLS, or of a kind that the port does not serve.
    pub foreign_datagrams: u64,
    /// Connections and associations that were refused after their handshake, by a limit.
    pub not_opened: u64,
    /// Streams closed because a unit stayed incomplete for 30 s.
    pub stalled: u64,
    /// Datagrams that the operating system did not take.
    pub send_errors: u64,
    /// Datagrams that the operating system dropped on UDP ports: they came faster than they were read. Trains that came as
    /// one may count as one.
    pub receive_dropped: u64,
    /// Inner packets that crossed to the worker of their tunnel, and datagrams to the worker of theirs.
    pub crossed: u64,
    /// Transports that resumed a tunnel of another worker and went there. An address of plain UDP counts when it is made known.
    pub moved: u64,
    /// Packets, datagrams and transports for another worker, which was too far behind to take them.
    pub worker_behind: u64,
    /// Of egress, policies and data flows.
    pub egress: EgressCounters,
}

impl AddAssign for Counters {
    /// Those of several workers in one.
    fn add_assign(&mut self, other: Self) {
        let Self {
            switched,
            no_route,
            blocked,
            hops_exceeded,
            too_big,
            fragmented,
            icmp_errors,
            icmp_limited,
            no_transport,
            queue_full,
            queue_late,
            control_unsent,
            foreign_datagrams,
            not_opened,
            stalled,
            send_errors,
            receive_dropped,
            crossed,
            moved,
            worker_behind,
            egress,
        } = other;
        self.switched += switched;
        self.no_route += no_route;
        self.blocked += blocked;
        self.hops_exceeded += hops_exceeded;
        self.too_big += too_big;
        self.fragmented += fragmented;
        self.icmp_errors += icmp_errors;
        self.icmp_limited += icmp_limited;
        self.no_transport += no_transport;
        self.queue_full += queue_full;
        self.queue_late += queue_late;
        self.control_unsent += control_unsent;
        self.foreign_datagrams += foreign_datagrams;
        self.not_opened += not_opened;
        self.stalled += stalled;
        self.send_errors += send_errors;
        self.receive_dropped += receive_dropped;
        self.crossed += crossed;
        self.moved += moved;
        self.worker_behind += worker_behind;
        self.egress += egress;
    }
}

/// Inner packets between tunnels and what is behind the server, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EgressCounters {
    /// Packets of tunnels given to an egress.
    pub outgoing: u64,
    /// Packets that came from an egress.
    pub incoming: u64,
    /// Of those, packets dropped because they had the source address of a tunnel.
    pub wrong_source: u64,
    /// Packets dropped because the data flow of their pool allows no more.
    pub rate_limited: u64,
    /// Packets dropped by a protocol policy.
    pub policy_dropped: u64,
    /// Packets dropped where a policy depends on something that could not be read: fragments whose first was not seen,
    /// packets that are cut; and those of tunnels with too many rewritten flows.
    pub unreadable: u64,
    /// Packets that the TUN device did not take.
    pub tun_dropped: u64,
}

impl AddAssign for EgressCounters {
    /// Those of several workers in one.
    fn add_assign(&mut self, other: Self) {
        let Self {
            outgoing,
            incoming,
            wrong_source,
            rate_limited,
            policy_dropped,
            unreadable,
            tun_dropped,
        } = other;
        self.outgoing += outgoing;
        self.incoming += incoming;
        self.wrong_source += wrong_source;
        self.rate_limited += rate_limited;
        self.policy_dropped += policy_dropped;
        self.unreadable += unreadable;
        self.tun_dropped += tun_dropped;
    }
}
