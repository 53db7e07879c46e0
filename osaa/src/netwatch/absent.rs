//! Where nothing is noticed.

use std::{
    io,
    task::{Context, Poll},
};

use super::{Change, NetworkId};

#[derive(Debug)]
pub(super) struct Watch;

impl Watch {
    #[allow(
        clippy::unnecessary_wraps,
        reason = "it fails where there is something to open"
    )]
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self)
    }

    #[allow(clippy::unused_self, reason = "the same shape everywhere")]
    pub(super) fn poll_changed(&mut self, _: &mut Context<'_>) -> Poll<Change> {
        Poll::Pending
    }

    /// Nothing is known to be missing.
    #[allow(clippy::unused_self, reason = "the same shape everywhere")]
    pub(super) fn current(&self) -> Change {
        Change {
            what: Vec::new(),
            has_default_route_v4: true,
            has_default_route_v6: true,
            network: None,
        }
    }
}

pub(super) fn network_id() -> Option<NetworkId> {
    None
}
