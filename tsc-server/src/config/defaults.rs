//! Values that apply where the configuration says nothing.

use std::time::Duration;

use super::model::{InterfaceLimits, LogFormat, LogLevel, SystemConfig, Timers, TraceRedaction};

/// The vendor's defaults (spec 5), but 50 s on datagrams: many NAT bindings last 30 s, and clients send
/// after half the interval.
impl Default for Timers {
    fn default() -> Self {
        Self {
            keepalive_stream: Duration::from_secs(300),
            keepalive_datagram: Duration::from_secs(50),
            persistence: Duration::from_secs(330),
        }
    }
}

impl Default for SystemConfig {
    fn default() -> Self {
        Self {
            element_id: 0,
            timers: Timers::default(),
            workers: None,
            gather_time: Duration::from_millis(1),
            busy_poll: Duration::ZERO,
            max_tunnels: 100_000,
            max_half_open: 4096,
            busy_when_overloaded: true,
            quarantine: Duration::from_secs(30),
            stop_deadline: Duration::from_secs(10),
            log_level: LogLevel::Info,
            log_format: LogFormat::Text,
            trace_file: None,
            trace_redaction: TraceRedaction::None,
            trace_file_size: 1024,
            trace_files: 1,
            trace_file_time: Duration::ZERO,
            trace_outer: false,
            trace_insecure_decryption_secrets: false,
            trace_directory: None,
            control_socket: None,
        }
    }
}

/// Spec 8.3 where it gives a number.
impl Default for InterfaceLimits {
    fn default() -> Self {
        Self {
            max_tunnels: 0,
            tunnels_per_prefix: 1024,
            tunnels_per_identity: 8,
            requests_per_prefix: 100,
            half_open: 1024,
            configuration_time: Duration::from_secs(10),
            media_queue_time: Duration::from_millis(200),
            stream_queue: 1024,
            stream_timeout: Duration::from_secs(30),
        }
    }
}
