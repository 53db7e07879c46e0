//! Why a name leads nowhere.

use std::{io, time::Duration};

use super::Families;
use crate::client::TransportKind;

/// Why [`resolve`](super::resolve) found no way.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// Somebody who must know says that there is no such name: it is misspelt, or not known in this network.
    #[error("there is no host named {host}")]
    NoSuchName {
        /// The name.
        host: String,
    },
    /// The name exists, but has no address of a family that may be used.
    #[error("{host} has no address ({families})")]
    NoAddress {
        /// The name.
        host: String,
        /// The families that were asked for.
        families: Families,
    },
    /// The domain's SRV record says that it does not offer this (RFC 2782, target `.`).
    #[error(
        "{host} says that it offers no tunnels over {transport} (its SRV record names no target)"
    )]
    NotOffered {
        /// The domain.
        host: String,
        /// What it does not offer.
        transport: TransportKind,
    },
    /// Nobody could tell: no name server answers, or it failed. Trying again may help.
    #[error("cannot look up {host}: {source}")]
    NoAnswer {
        /// The name.
        host: String,
        /// What the system or the name server said.
        source: io::Error,
    },
    /// As [`Self::NoAnswer`], after all the time there was.
    #[error("no answer about {host} within {limit:.1?}")]
    Timeout {
        /// The name.
        host: String,
        /// The time there was.
        limit: Duration,
    },
}

impl ResolveError {
    /// Whether it may be different in a moment without anybody changing a name.
    #[must_use]
    pub const fn is_temporary(&self) -> bool {
        matches!(self, Self::NoAnswer { .. } | Self::Timeout { .. })
    }
}
