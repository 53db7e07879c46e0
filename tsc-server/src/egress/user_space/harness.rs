//! The user-space egress without a worker around it, for benchmarks, fuzz targets and tests outside this crate.

use std::{io, task::Context, time::Instant};

use tsc_tpl::{IpPacket, Limits};

use super::{UserSpace, UserSpaceCounters, Way};
use crate::config::Config;

/// Longest inner packet of its tunnels.
pub const MTU: u16 = 1400;

/// An egress whose tunnels are numbers.
#[derive(Debug)]
pub struct UserSpacePath(UserSpace<usize>);

impl UserSpacePath {
    /// The egress of `config`, which takes no listener for its own. To be called within a tokio runtime with I/O.
    ///
    /// # Errors
    ///
    /// The process has no file descriptor left.
    pub fn new(config: &Config) -> io::Result<Self> {
        UserSpace::new(&config.user_space, 1, &[], 1).map(Self)
    }

    /// A packet that a tunnel sends to somebody outside; what is none is left out.
    pub fn tunnel_packet(&mut self, now: Instant, tunnel: usize, packet: &[u8]) {
        let way = Way {
            mtu: MTU,
            name_servers: &[],
        };
        if let Ok(packet) = IpPacket::decode(packet, &Limits::WIDEST) {
            self.0.handle_packet(now, tunnel, &way, &packet);
        }
    }

    /// Does what is due and gives `sink` what there is for tunnels. True if it wants to be called again at once.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
        sink: &mut impl FnMut(usize, &[u8]),
    ) -> bool {
        self.0.handle_timeout(now);
        self.0.poll(cx, now, sink)
    }

    /// When [`Self::poll`] is due though nothing comes.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.0.poll_timeout()
    }

    /// A tunnel ends.
    pub fn end(&mut self, tunnel: usize) {
        self.0.session_ended(tunnel);
    }

    /// Counters and gauges.
    #[must_use]
    pub fn counters(&self) -> UserSpaceCounters {
        self.0.counters()
    }
}
