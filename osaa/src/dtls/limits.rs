//! What a server endpoint may spend on peers it does not know yet.

/// Bounds of a [`DtlsServerEndpoint`](super::DtlsServerEndpoint). A handshake is *half-open* until it has
/// finished (spec 8.3).
#[derive(Clone, Debug)]
pub struct DtlsEndpointLimits {
    /// Associations, half-open ones included. At the limit new handshakes are dropped. Default 65 536.
    pub associations: usize,
    /// Half-open handshakes. At the limit the oldest is evicted, first among those whose peer has not
    /// proved its address. Default 1 024.
    pub half_open: usize,
    /// Half-open handshakes of one source prefix (IPv4 /32, IPv6 /64). At the limit new handshakes of
    /// that prefix are dropped. Default 64.
    pub half_open_per_prefix: usize,
    /// For backends without a stateless cookie: handshakes that one source prefix may start per second, and
    /// twice that in a burst. Prefixes share a table of fixed size, so two may share a budget. Default 32.
    pub unproved_per_second: u32,
    /// Stateless answers and last alerts waiting for the socket; more are dropped. Default 1 024.
    pub stateless_queue: usize,
}

impl Default for DtlsEndpointLimits {
    fn default() -> Self {
        Self {
            associations: 65_536,
            half_open: 1_024,
            half_open_per_prefix: 64,
            unproved_per_second: 32,
            stateless_queue: 1_024,
        }
    }
}
