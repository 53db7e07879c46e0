//! What was rewritten, so that answers can be given the address that was asked for.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use super::{
    generations::{Bounds, Generations},
    policy::Decision,
    rewrite::End,
};

/// How much is remembered of flows. At most 2 * 65,536 of some 100 bytes.
pub(crate) const FLOWS: Bounds = Bounds {
    idle: Duration::from_secs(300),
    entries: 65_536,
    per_tunnel: 2048,
};

/// How much is remembered of packets in fragments, whose ports only the first shows.
pub(crate) const FRAGMENTS: Bounds = Bounds {
    idle: Duration::from_secs(30),
    entries: 8192,
    per_tunnel: 1024,
};

/// A flow by its ends as they are outside: the tunnel's address and the rewritten destination. Ports are 0 where there
/// are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FlowKey {
    pub(crate) client: (IpAddr, u16),
    pub(crate) remote: (IpAddr, u16),
    pub(crate) protocol: u8,
}

/// A packet by what its fragments share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FragmentKey {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) identification: u32,
}

/// What the first fragment was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// By a policy, on its way out.
    Out(Decision),
    /// By a flow, on its way in: the source that takes the place of its own.
    In(Option<End>),
}

/// Both memories.
#[derive(Debug)]
pub(crate) struct Flows {
    flows: Generations<FlowKey, End>,
    fragments: Generations<(bool, FragmentKey), Told>,
}

impl Flows {
    pub(crate) fn new() -> Self {
        Self {
            flows: Generations::new(FLOWS),
            fragments: Generations::new(FRAGMENTS),
        }
    }

    /// Remembers the destination that a flow of the tunnel in slot `tunnel` had. Of two with one key, as from one
    /// socket to two hosts that are rewritten to one, the later stays. False if the tunnel has too many.
    #[must_use]
    pub(crate) fn note(&mut self, now: Instant, tunnel: usize, key: FlowKey, origin: End) -> bool {
        self.flows.insert(now, tunnel, key, origin)
    }

    /// The destination that a flow had before it was rewritten.
    pub(crate) fn origin(&mut self, now: Instant, key: FlowKey) -> Option<End> {
        if self.flows.is_empty() {
            return None;
        }
        self.flows.find(now, key)
    }

    /// Remembers what was said of a first fragment. Each direction has its own: a packet between tunnels has both.
    #[must_use]
    pub(crate) fn tell(
        &mut self,
        now: Instant,
        tunnel: usize,
        key: FragmentKey,
        told: Told,
    ) -> bool {
        let out = matches!(told, Told::Out(_));
        self.fragments.insert(now, tunnel, (out, key), told)
    }

    /// What a first fragment was told on its way out.
    pub(crate) fn told_out(&mut self, now: Instant, key: FragmentKey) -> Option<Decision> {
        match self.fragments.find(now, (true, key))? {
            Told::Out(decision) => Some(decision),
            Told::In(_) => None,
        }
    }

    /// What a first fragment was told on its way in.
    pub(crate) fn told_in(&mut self, now: Instant, key: FragmentKey) -> Option<Option<End>> {
        match self.fragments.find(now, (false, key))? {
            Told::In(origin) => Some(origin),
            Told::Out(_) => None,
        }
    }
}
