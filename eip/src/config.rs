//! Limits of a stack.

use std::ops::RangeInclusive;
use std::time::Duration;

/// Smallest inner MTU in bytes (specification, section 7: 576 with IPv4 alone, 1280 with IPv6).
pub const MIN_MTU: u16 = 576;

/// Largest inner MTU in bytes (specification, section 7).
pub const MAX_MTU: u16 = 9000;

/// Settings and limits of a [`Stack`](crate::Stack); [`Default`] suits a client with a few thousand
/// sockets.
///
/// Values that make no sense are brought into their stated range by
/// [`Stack::new`](crate::Stack::new).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StackConfig {
    /// Inner MTU in bytes: the largest IP packet that
    /// [`Stack::poll_transmit`](crate::Stack::poll_transmit) gives. Kept within
    /// [`MIN_MTU`]`..=`[`MAX_MTU`].
    pub mtu: u16,
    /// Sockets open at a time; at most 65,536.
    pub sockets: usize,
    /// Ports for sockets bound to port 0 (RFC 6056). An empty range, or one with port 0, becomes
    /// the default.
    pub ephemeral_ports: RangeInclusive<u16>,
    /// Datagrams in one socket's receive queue. When full, the oldest is dropped and counted. At
    /// least 1.
    pub receive_packets: usize,
    /// Payload bytes in one socket's receive queue. When full, the oldest datagrams are dropped
    /// and counted; a datagram larger than the whole queue is dropped itself.
    pub receive_bytes: usize,
    /// Bytes of memory that the receive queues of all sockets hold together, bookkeeping included.
    /// When exhausted, a socket drops its own oldest datagrams, or the new one if it has none.
    pub receive_total_bytes: usize,
    /// Packets waiting in the transmit queue, each at most [`mtu`](Self::mtu) long. When full, the
    /// oldest is dropped and counted. At least 128, so that one fragmented datagram of any
    /// size fits.
    pub transmit_packets: usize,
    /// Free buffers kept for outgoing packets.
    pub pool_buffers: usize,
    /// Datagrams in reassembly at a time. When full, the oldest is given up and counted. 0 refuses
    /// all fragments.
    pub reassembly_datagrams: usize,
    /// Payload bytes held in reassembly. When exhausted, the oldest datagrams are given up and
    /// counted.
    pub reassembly_bytes: usize,
    /// Time to complete an IPv4 datagram from its first-seen fragment.
    pub reassembly_timeout_v4: Duration,
    /// Time to complete an IPv6 datagram from its first-seen fragment (RFC 8200, section 4.5: 60
    /// s).
    pub reassembly_timeout_v6: Duration,
    /// Destinations whose path MTU is remembered. When full, the one that expires first is
    /// forgotten.
    pub path_mtus: usize,
    /// ICMP errors (port unreachable and the like) sent per second, and as many in a burst. 0
    /// sends none.
    pub icmp_errors_per_second: u32,
    /// ICMP echo requests answered per second, and as many in a burst. 0 answers none.
    pub echo_replies_per_second: u32,
    /// The stack stands for all hosts of the Internet: TCP to any destination is its own, and a
    /// request that no listener takes becomes
    /// [`Event::TcpIncoming`](crate::Event::TcpIncoming). Other protocols are dropped, echo
    /// requests included.
    pub transparent: bool,
    /// TCP connections at a time, those included that nobody holds any more and that still deliver.
    pub tcp_connections: usize,
    /// TCP listeners at a time.
    pub tcp_listeners: usize,
    /// Half-open connections of one listener. When full, the oldest goes; each takes a few hundred
    /// bytes. At least 1.
    pub tcp_half_open: usize,
    /// Requests of a transparent stack that wait for their owner. When full, the oldest is
    /// forgotten.
    pub tcp_incoming: usize,
    /// How long such a request waits.
    pub tcp_incoming_timeout: Duration,
    /// Closed connections whose address stays taken (TIME-WAIT). When full, the oldest goes.
    pub tcp_time_waits: usize,
    /// How long it stays taken.
    pub tcp_time_wait: Duration,
    /// How long a connection that was closed may take to deliver what was written.
    pub tcp_linger: Duration,
    /// Most bytes that a connection holds of what was written, and of what was received, while memory is
    /// plenty; 16 KiB to 64 MiB. The latter is the window: 640 KiB carry 100 Mbit/s at a round trip of
    /// 50 ms.
    pub tcp_buffer_bytes: usize,
    /// Bytes that all connections hold together. Each is charged with what it holds, and with at least 16 KiB
    /// each way, which are guaranteed to it; of the rest each is offered a part of what is left, so that
    /// idle connections take nothing from others. As it fills windows become smaller, down to the guarantee, and
    /// connections are refused when it is exhausted. Data are kept in blocks of 4 KiB, of which two of each direction
    /// may be partly filled.
    pub tcp_total_bytes: usize,
    /// Resets sent per second to segments for which there is no connection, and as many in a burst.
    pub tcp_resets_per_second: u32,
}

/// RFC 6056, section 3.2 asks for a range as large as possible; this one stays clear of registered
/// service ports.
const EPHEMERAL_PORTS: RangeInclusive<u16> = 32_768..=65_535;

/// Fragments of the largest datagram at the smallest MTU, over IPv6: 65,515 / 528 = 125, rounded up
/// to a power of two.
const MIN_TRANSMIT_PACKETS: usize = 128;

/// One socket per port and family is the most that wildcard addresses allow.
const MAX_SOCKETS: usize = 65_536;

impl Default for StackConfig {
    fn default() -> Self {
        Self {
            mtu: 1400,
            sockets: 16_384,
            ephemeral_ports: EPHEMERAL_PORTS,
            receive_packets: 512,
            receive_bytes: 256 * 1024,
            receive_total_bytes: 16 * 1024 * 1024,
            transmit_packets: 1024,
            pool_buffers: 256,
            reassembly_datagrams: 64,
            reassembly_bytes: 1024 * 1024,
            reassembly_timeout_v4: Duration::from_secs(30),
            reassembly_timeout_v6: Duration::from_secs(60),
            path_mtus: 64,
            icmp_errors_per_second: 50,
            echo_replies_per_second: 100,
            transparent: false,
            tcp_connections: 16_384,
            tcp_listeners: 1024,
            tcp_half_open: 512,
            tcp_incoming: 512,
            tcp_incoming_timeout: Duration::from_secs(75),
            tcp_time_waits: 4096,
            tcp_time_wait: Duration::from_secs(60),
            tcp_linger: Duration::from_secs(60),
            tcp_buffer_bytes: 1024 * 1024,
            tcp_total_bytes: 1024 * 1024 * 1024,
            tcp_resets_per_second: 500,
        }
    }
}

impl StackConfig {
    /// The same settings with every value inside its range.
    pub(crate) fn normalised(mut self) -> Self {
        self.mtu = self.mtu.clamp(MIN_MTU, MAX_MTU);
        self.sockets = self.sockets.min(MAX_SOCKETS);
        if self.ephemeral_ports.is_empty() || *self.ephemeral_ports.start() == 0 {
            self.ephemeral_ports = EPHEMERAL_PORTS;
        }
        self.receive_packets = self.receive_packets.max(1);
        self.transmit_packets = self.transmit_packets.max(MIN_TRANSMIT_PACKETS);
        self.tcp_half_open = self.tcp_half_open.max(1);
        self
    }
}
