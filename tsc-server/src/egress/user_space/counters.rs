//! What the egress counts.

use std::ops::AddAssign;

/// Packets and flows since the start, and how much there is now. Each drop has a counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UserSpaceCounters {
    /// Datagrams from tunnels handed to the host.
    pub udp_sent: u64,
    /// Datagrams from the host passed to tunnels.
    pub udp_received: u64,
    /// UDP mappings made.
    pub udp_opened: u64,
    /// UDP mappings ended for lack of traffic.
    pub udp_timed_out: u64,
    /// UDP mappings not made: the tunnel has as many as it may.
    pub udp_tunnel_full: u64,
    /// UDP mappings not made: there are as many as there may be.
    pub udp_full: u64,
    /// UDP mappings not made: no port of the range is free.
    pub udp_no_port: u64,
    /// UDP mappings not made: the host gave no socket, for another reason.
    pub udp_no_socket: u64,
    /// Datagrams from tunnels that the host did not take: its queue was full.
    pub udp_send_full: u64,
    /// Datagrams from tunnels that the host refused: no route, too long, forbidden.
    pub udp_send_errors: u64,
    /// Datagrams from hosts that the filter does not let in (RFC 4787, section 5).
    pub udp_filtered: u64,
    /// Datagrams from the host that do not fit in IP packets of the inner family.
    pub udp_too_long: u64,
    /// ICMP errors that the host got about datagrams from tunnels, and that were passed on.
    pub host_errors: u64,
    /// UDP mappings now.
    pub udp_mappings: usize,

    /// Connections made to hosts.
    pub tcp_opened: u64,
    /// Connections that hosts refused or could not be reached for.
    pub tcp_failed: u64,
    /// Connections not tried: the tunnel has as many as it may.
    pub tcp_tunnel_full: u64,
    /// Connections not tried: there are as many as there may be.
    pub tcp_full: u64,
    /// Connections not tried: the host gave no socket.
    pub tcp_no_socket: u64,
    /// Connections ended by a reset, a failure or time-out of either side.
    pub tcp_reset: u64,
    /// Connections ended for lack of traffic.
    pub tcp_timed_out: u64,
    /// Bytes from tunnels taken by the host.
    pub tcp_sent_bytes: u64,
    /// Bytes from the host passed to tunnels.
    pub tcp_received_bytes: u64,
    /// Connections now, those being made included.
    pub tcp_connections: usize,
    /// Bytes reserved for the buffers of connections now.
    pub tcp_buffer_bytes: usize,

    /// Packets to addresses or ports that tunnels may not reach.
    pub denied: u64,
    /// Packets that would need translation between IPv4 and IPv6, which is not done.
    pub translation: u64,
    /// Packets whose hop count was used up.
    pub hops_exceeded: u64,
    /// Packets of protocols other than UDP and TCP.
    pub other_protocols: u64,
    /// Packets whose length fields or ports are impossible.
    pub malformed: u64,
    /// UDP datagrams whose checksum is wrong, or missing over IPv6.
    pub bad_checksum: u64,
    /// Packets put together from fragments.
    pub reassembled: u64,
    /// Fragments of packets that overlap or contradict each other, or are too many.
    pub fragments_refused: u64,
    /// Incomplete packets given up for newer ones, or not begun, because there were too many.
    pub fragments_full: u64,
    /// Incomplete packets given up after their time.
    pub fragments_timed_out: u64,
    /// Packets for tunnels that were sent in fragments.
    pub fragmented: u64,
    /// ICMP errors sent to tunnels.
    pub icmp_errors: u64,
    /// ICMP errors not sent because the tunnel had many already.
    pub icmp_limited: u64,
    /// Incomplete packets now.
    pub fragments: usize,
    /// Bytes of incomplete packets now.
    pub fragment_bytes: usize,
    /// Tunnels that have used this egress and live.
    pub tunnels: usize,
}

impl AddAssign for UserSpaceCounters {
    /// Those of several workers in one.
    fn add_assign(&mut self, other: Self) {
        let Self {
            udp_sent,
            udp_received,
            udp_opened,
            udp_timed_out,
            udp_tunnel_full,
            udp_full,
            udp_no_port,
            udp_no_socket,
            udp_send_full,
            udp_send_errors,
            udp_filtered,
            udp_too_long,
            host_errors,
            udp_mappings,
            tcp_opened,
            tcp_failed,
            tcp_tunnel_full,
            tcp_full,
            tcp_no_socket,
            tcp_reset,
            tcp_timed_out,
            tcp_sent_bytes,
            tcp_received_bytes,
            tcp_connections,
            tcp_buffer_bytes,
            denied,
            translation,
            hops_exceeded,
            other_protocols,
            malformed,
            bad_checksum,
            reassembled,
            fragments_refused,
            fragments_full,
            fragments_timed_out,
            fragmented,
            icmp_errors,
            icmp_limited,
            fragments,
            fragment_bytes,
            tunnels,
        } = other;
        self.udp_sent += udp_sent;
        self.udp_received += udp_received;
        self.udp_opened += udp_opened;
        self.udp_timed_out += udp_timed_out;
        self.udp_tunnel_full += udp_tunnel_full;
        self.udp_full += udp_full;
        self.udp_no_port += udp_no_port;
        self.udp_no_socket += udp_no_socket;
        self.udp_send_full += udp_send_full;
        self.udp_send_errors += udp_send_errors;
        self.udp_filtered += udp_filtered;
        self.udp_too_long += udp_too_long;
        self.host_errors += host_errors;
        self.udp_mappings += udp_mappings;
        self.tcp_opened += tcp_opened;
        self.tcp_failed += tcp_failed;
        self.tcp_tunnel_full += tcp_tunnel_full;
        self.tcp_full += tcp_full;
        self.tcp_no_socket += tcp_no_socket;
        self.tcp_reset += tcp_reset;
        self.tcp_timed_out += tcp_timed_out;
        self.tcp_sent_bytes += tcp_sent_bytes;
        self.tcp_received_bytes += tcp_received_bytes;
        self.tcp_connections += tcp_connections;
        self.tcp_buffer_bytes += tcp_buffer_bytes;
        self.denied += denied;
        self.translation += translation;
        self.hops_exceeded += hops_exceeded;
        self.other_protocols += other_protocols;
        self.malformed += malformed;
        self.bad_checksum += bad_checksum;
        self.reassembled += reassembled;
        self.fragments_refused += fragments_refused;
        self.fragments_full += fragments_full;
        self.fragments_timed_out += fragments_timed_out;
        self.fragmented += fragmented;
        self.icmp_errors += icmp_errors;
        self.icmp_limited += icmp_limited;
        self.fragments += fragments;
        self.fragment_bytes += fragment_bytes;
        self.tunnels += tunnels;
    }
}
