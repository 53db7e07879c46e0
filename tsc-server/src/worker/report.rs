//! The figures of a worker, for programs that embed a server and for the log.

use tsc_csm::server::{Stats, pool::PoolStats};
use tsc_osaa::{
    datagram::DatagramStats, dtls::DtlsEndpointStats, listener::ListenerStats, trace::CaptureStats,
};

use super::{Counters, EgressCounters, Port, Worker};
use crate::{
    egress::user_space::{UserSpace, UserSpaceCounters},
    server::RunError,
};

/// Figures of a server: counters since the start, and gauges of this moment. `docs/limits.md` says which counter
/// tells of which limit.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// Of the session core.
    pub sessions: Stats,
    /// Of the pools.
    pub pools: Vec<PoolStats>,
    /// Of the data plane.
    pub counters: Counters,
    /// TCP and TLS connections open now.
    pub streams: usize,
    /// Addresses whose datagrams arrive at another worker than their tunnel's.
    pub away: usize,
    /// Of all TCP ports.
    pub listeners: ListenerStats,
    /// Of DTLS on all UDP ports.
    pub dtls: DtlsEndpointStats,
    /// Of all UDP ports.
    pub datagrams: DatagramStats,
    /// Of the capture file, if there is one.
    pub capture: Option<CaptureStats>,
    /// Of the user-space egress, if it is used.
    pub user_space: Option<UserSpaceCounters>,
    /// Why the server stops, or has stopped, though nobody asked it to.
    pub failure: Option<RunError>,
}

impl Worker {
    pub(super) fn report(&self) -> Report {
        let mut listeners = ListenerStats::default();
        for listener in &self.listeners {
            listeners += listener.socket.stats();
        }
        let mut datagrams = DatagramStats::default();
        let mut dtls = DtlsEndpointStats::default();
        for port in &self.ports {
            datagrams += port.socket.stats();
            if let Some(endpoint) = port.endpoint_ref() {
                dtls += endpoint.stats();
            }
        }
        let unsent: u64 = self.ports.iter().map(|port: &Port| port.unsent).sum();
        Report {
            sessions: self.core.stats(),
            pools: self.core.pool_stats(),
            counters: Counters {
                send_errors: datagrams.send_errors + datagrams.too_big + unsent,
                receive_dropped: self
                    .ports
                    .iter()
                    .map(|port| port.shedder.dropped(&port.socket))
                    .sum(),
                crossed: self.mesh.crossed(),
                moved: self.mesh.moved(),
                worker_behind: self.mesh.dropped(),
                ..self.counters
            },
            streams: self.streams.len(),
            away: self.ports.iter().map(|port| port.peers.away()).sum(),
            listeners,
            dtls,
            datagrams,
            capture: self.captures.configured(),
            user_space: self.user_space.as_ref().map(UserSpace::counters),
            failure: self.failure.clone(),
        }
    }
}

impl Report {
    /// Adds the figures of another worker.
    pub(crate) fn add(&mut self, other: Self) {
        let Self {
            sessions,
            // Shared by all, as is the capture file.
            pools: _,
            counters,
            streams,
            away,
            listeners,
            dtls,
            datagrams,
            capture,
            user_space,
            failure,
        } = other;
        self.sessions += sessions;
        self.counters += counters;
        self.streams += streams;
        self.away += away;
        self.listeners += listeners;
        self.dtls += dtls;
        self.datagrams += datagrams;
        self.capture = self.capture.or(capture);
        match (&mut self.user_space, user_space) {
            (Some(sum), Some(other)) => *sum += other,
            (none @ None, other) => *none = other,
            (Some(_), None) => {}
        }
        self.failure = self.failure.take().or(failure);
    }

    /// Writes every figure to the log at `info`, in one record `event="report"` for each `part`: one record of all
    /// would be longer than people can read, and than `tracing` allows.
    pub fn log(&self) {
        let Self {
            sessions,
            pools,
            counters,
            streams,
            away,
            listeners,
            dtls,
            datagrams,
            capture,
            user_space,
            // What the program says last.
            failure: _,
        } = self;
        log_sessions(sessions);
        for pool in pools {
            tracing::info!(
                event = "report",
                part = "pool",
                name = pool.name,
                total = pool.total,
                leased = pool.leased,
                quarantined = pool.quarantined
            );
        }
        log_counters(counters);
        log_listeners(listeners, *streams);
        tracing::info!(
            event = "report",
            part = "datagrams",
            received = datagrams.received,
            sent = datagrams.sent,
            too_big = datagrams.too_big,
            send_errors = datagrams.send_errors,
            recv_errors = datagrams.recv_errors,
            refused = datagrams.refused,
            away
        );
        log_dtls(dtls);
        if let Some(user_space) = user_space {
            log_user_space(user_space);
        }
        if let Some(capture) = capture {
            tracing::info!(
                event = "report",
                part = "capture",
                written = capture.written,
                dropped = capture.dropped
            );
        }
    }
}

fn log_sessions(sessions: &Stats) {
    tracing::info!(
        event = "report",
        part = "tunnels",
        sessions = sessions.sessions,
        persistent = sessions.persistent,
        pending = sessions.pending,
        configured = sessions.configured,
        resumed = sessions.resumed,
        refused = sessions.refused,
        resume_rejected = sessions.resume_rejected,
        cookies = sessions.cookies,
        unknown_tunnel = sessions.unknown_tunnel,
        forwarded = sessions.forwarded,
        wrong_source = sessions.wrong_source,
        wrong_tsid = sessions.wrong_tsid,
        message_errors = sessions.message_errors,
        bad_units = sessions.bad_units,
        strangers = sessions.strangers,
        rate_limited = sessions.rate_limited,
        turned_away = sessions.turned_away,
        overloads = sessions.overloads,
        overloaded = sessions.overloaded,
        draining = sessions.draining,
        other_drops = sessions.other_drops,
        keepalives = sessions.keepalives,
        retransmissions = sessions.retransmissions,
        frames = sessions.frames,
        recovered = sessions.recovered,
        duplicates = sessions.duplicates,
        outdated = sessions.outdated,
        kept = sessions.kept,
        peer_requests = sessions.peer_requests,
        peer_granted = sessions.peer_granted,
        peer_refused = sessions.peer_refused,
        peer_struck = sessions.peer_struck,
        stun = sessions.stun,
        transmit_overflow = sessions.transmit_overflow
    );
}

fn log_counters(counters: &Counters) {
    // All of them: a new counter does not compile until it is here.
    let Counters {
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
    } = *counters;
    let EgressCounters {
        outgoing,
        incoming,
        wrong_source,
        rate_limited,
        policy_dropped,
        unreadable,
        tun_dropped,
    } = egress;
    tracing::info!(
        event = "report",
        part = "switch",
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
        worker_behind
    );
    tracing::info!(
        event = "report",
        part = "egress",
        outgoing,
        incoming,
        wrong_source,
        rate_limited,
        policy_dropped,
        unreadable,
        tun_dropped
    );
}

fn log_listeners(listeners: &ListenerStats, open: usize) {
    tracing::info!(
        event = "report",
        part = "streams",
        open,
        accepted = listeners.accepted,
        plain = listeners.plain,
        tls = listeners.tls,
        not_admitted = listeners.not_admitted,
        source_limit = listeners.source_limit,
        evicted = listeners.evicted,
        timeout = listeners.timeout,
        silent = listeners.silent,
        wrong_protocol = listeners.wrong_protocol,
        tls_failed = listeners.tls_failed,
        failed = listeners.failed,
        accept_errors = listeners.accept_errors
    );
}

fn log_dtls(dtls: &DtlsEndpointStats) {
    tracing::info!(
        event = "report",
        part = "dtls",
        associations = dtls.associations,
        half_open = dtls.half_open,
        malformed = dtls.malformed,
        strangers = dtls.strangers,
        duplicate_hellos = dtls.duplicate_hellos,
        verify_requests = dtls.verify_requests,
        answers_dropped = dtls.answers_dropped,
        alpn_refused = dtls.alpn_refused,
        rate_limited = dtls.rate_limited,
        prefix_limited = dtls.prefix_limited,
        table_full = dtls.table_full,
        evicted = dtls.evicted,
        started = dtls.started,
        connected_total = dtls.connected_total,
        resumed = dtls.resumed,
        failed = dtls.failed,
        replaced = dtls.replaced
    );
}

fn log_user_space(counters: &UserSpaceCounters) {
    let UserSpaceCounters {
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
    } = *counters;
    tracing::info!(
        event = "report",
        part = "user-space-udp",
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
        udp_mappings
    );
    tracing::info!(
        event = "report",
        part = "user-space-tcp",
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
        tcp_buffer_bytes
    );
    tracing::info!(
        event = "report",
        part = "user-space",
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
        tunnels
    );
}
