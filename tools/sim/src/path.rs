//! What lies between a client and the servers.

use std::time::Duration;

use tsc_csm::Transport;

use crate::link::{Link, LinkConfig};

/// A NAT of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NatId(pub(crate) usize);

/// Which transports pass. What does not pass vanishes in silence, as most firewalls do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Firewall {
    /// TCP and TLS.
    pub streams: bool,
    /// UDP and DTLS.
    pub datagrams: bool,
    /// TLS and DTLS, as far as they are among these.
    pub protected: bool,
}

impl Firewall {
    /// Everything passes.
    pub const OPEN: Self = Self {
        streams: true,
        datagrams: true,
        protected: true,
    };
    /// Only TCP and TLS pass.
    pub const STREAMS_ONLY: Self = Self {
        streams: true,
        datagrams: false,
        protected: true,
    };
    /// Only TCP and UDP pass.
    pub const CLEAR_ONLY: Self = Self {
        streams: true,
        datagrams: true,
        protected: false,
    };
    /// Nothing passes.
    pub const CLOSED: Self = Self {
        streams: false,
        datagrams: false,
        protected: true,
    };

    /// Whether this transport passes.
    #[must_use]
    pub const fn passes(self, transport: Transport) -> bool {
        let passes = if transport.is_stream() {
            self.streams
        } else {
            self.datagrams
        };
        passes && (self.protected || !transport.is_protected())
    }
}

/// How a client's path begins.
#[derive(Clone, Copy, Debug)]
pub struct PathConfig {
    /// Towards the servers.
    pub up: LinkConfig,
    /// Towards the client.
    pub down: LinkConfig,
    /// What passes.
    pub firewall: Firewall,
    /// A translator on the way, perhaps shared with other clients.
    pub nat: Option<NatId>,
}

impl PathConfig {
    /// 20 ms each way, and nothing else.
    pub const CLEAN: Self = Self {
        up: LinkConfig::CLEAN,
        down: LinkConfig::CLEAN,
        firewall: Firewall::OPEN,
        nat: None,
    };

    /// The same link in both directions.
    #[must_use]
    pub const fn both(link: LinkConfig) -> Self {
        Self {
            up: link,
            down: link,
            ..Self::CLEAN
        }
    }
}

impl Default for PathConfig {
    fn default() -> Self {
        Self::CLEAN
    }
}

/// A client's path as it is now.
#[derive(Debug)]
pub struct Path {
    /// Towards the servers.
    pub up: Link,
    /// Towards the client.
    pub down: Link,
    /// What passes.
    pub firewall: Firewall,
    /// A translator on the way.
    pub nat: Option<NatId>,
}

impl Path {
    /// Lets nothing through any more, in silence, or everything again.
    pub const fn block(&mut self, blocked: bool) {
        self.up.config.blocked = blocked;
        self.down.config.blocked = blocked;
    }

    /// Gives both directions the same properties.
    pub const fn set(&mut self, link: LinkConfig) {
        self.up.config = link;
        self.down.config = link;
    }

    /// Gives datagrams other properties than streams, in both directions; `None` ends that.
    pub const fn set_datagrams(&mut self, link: Option<LinkConfig>) {
        self.up.datagrams = link;
        self.down.datagrams = link;
    }

    pub(crate) const fn is_blocked(&self) -> bool {
        self.up.config.blocked || self.down.config.blocked
    }

    pub(crate) const fn round_trip(&self) -> Duration {
        self.up.config.delay.saturating_add(self.down.config.delay)
    }
}
