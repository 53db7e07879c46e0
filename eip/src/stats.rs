//! Counters and gauges, by value.

/// What a stack has done and holds; see [`Stack::stats`](crate::Stack::stats). Counters count from
/// the stack's creation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Packets handed to [`Stack::handle_packet`](crate::Stack::handle_packet).
    pub packets_in: u64,
    /// Packets put on the transmit queue, those dropped from it later included.
    pub packets_out: u64,
    /// Packets delivered locally, from the stack to itself.
    pub packets_local: u64,
    /// Datagrams put into receive queues.
    pub datagrams_in: u64,
    /// Datagrams accepted for sending.
    pub datagrams_out: u64,
    /// Fragments received.
    pub fragments_in: u64,
    /// Datagrams completed from fragments.
    pub reassembled: u64,
    /// Datagrams sent in fragments.
    pub fragmented: u64,
    /// ICMP echo requests answered.
    pub echo_replies: u64,
    /// ICMP errors sent.
    pub icmp_errors_out: u64,
    /// ICMP errors received that concern an open socket.
    pub icmp_errors_in: u64,
    /// Path MTUs lowered by an ICMP message.
    pub path_mtu_updates: u64,
    /// What TCP has done.
    pub tcp: TcpStats,
    /// What was dropped, by reason.
    pub drops: Drops,
    /// What is held now.
    pub gauges: Gauges,
}

/// What TCP has done, for all connections together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TcpStats {
    /// Segments received with a good checksum.
    pub segments_in: u64,
    /// Segments sent.
    pub segments_out: u64,
    /// Connections that have opened, whoever asked.
    pub opened: u64,
    /// Connections ended by the peer's reset.
    pub resets_in: u64,
    /// Resets sent.
    pub resets_out: u64,
    /// Connections given up because the peer was silent.
    pub timed_out: u64,
    /// Segments that do not fit their connection: resets with a wrong number, SYNs in the middle,
    /// acknowledgements of what was not sent, data beyond the window (RFC 5961).
    pub unacceptable: u64,
    /// Answers to such segments that say where the connection is.
    pub challenges: u64,
    /// Half-open connections that made room for others.
    pub half_open_evicted: u64,
    /// Connections not completed yet because a backlog, the connections or their memory were full.
    pub backlog_full: u64,
    /// Requests of a transparent stack that made room for others.
    pub incoming_evicted: u64,
    /// Segments sent again.
    pub retransmissions: u64,
    /// Times that nothing was heard for so long that everything on its way was taken for lost.
    pub retransmission_timeouts: u64,
    /// Answers not sent because too many were waiting.
    pub answers_dropped: u64,
}

/// Packets and datagrams dropped, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drops {
    /// Headers, lengths or options that make no sense.
    pub malformed: u64,
    /// IP, UDP or ICMP checksum wrong, or missing where it is required.
    pub checksum: u64,
    /// The destination is not an address of the stack.
    pub not_ours: u64,
    /// The source is no unicast address, or one of the stack's own on a packet from outside.
    pub bad_source: u64,
    /// No socket takes the datagram.
    pub no_socket: u64,
    /// A transport protocol that the stack does not speak, or no next header.
    pub protocol: u64,
    /// ICMP messages that need no answer and concern no socket.
    pub icmp_ignored: u64,
    /// ICMP answers not sent because of the rate limit.
    pub icmp_rate_limited: u64,
    /// Datagrams dropped from, or not put into, full receive queues.
    pub receive_full: u64,
    /// Packets dropped from the full transmit queue.
    pub transmit_full: u64,
    /// Packets dropped from the transmit queue because they had waited too long there for a tunnel without a transport.
    pub transmit_late: u64,
    /// Datagrams refused because fragments overlap, contradict each other or are too many, or
    /// because the first lacks headers (RFC 5722, RFC 7112).
    pub fragments_refused: u64,
    /// Datagrams given up because a reassembly limit was reached.
    pub reassembly_full: u64,
    /// Datagrams whose fragments did not arrive in time.
    pub reassembly_timeout: u64,
}

/// What a stack holds now. Each value has its limit in [`StackConfig`](crate::StackConfig).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gauges {
    /// Open sockets.
    pub sockets: usize,
    /// Memory of all receive queues, in bytes.
    pub receive_bytes: usize,
    /// Packets in the transmit queue.
    pub transmit_packets: usize,
    /// Buffers in the free list.
    pub pool_buffers: usize,
    /// Datagrams in reassembly, refused ones that wait for their deadline included.
    pub reassembly_datagrams: usize,
    /// Payload bytes in reassembly.
    pub reassembly_bytes: usize,
    /// Remembered path MTUs.
    pub path_mtus: usize,
    /// TCP connections, those that nobody holds any more included.
    pub tcp_connections: usize,
    /// TCP listeners.
    pub tcp_listeners: usize,
    /// Half-open TCP connections of all listeners.
    pub tcp_half_open: usize,
    /// Requests of a transparent stack that wait for their owner.
    pub tcp_incoming: usize,
    /// TCP connections in TIME-WAIT.
    pub tcp_time_waits: usize,
    /// TCP connections that nobody holds any more, and that still have data or their end to bring to their peers.
    pub tcp_delivering: usize,
    /// Bytes that TCP connections hold, and of what is guaranteed to each the rest.
    pub tcp_buffer_bytes: usize,
}
