//! TIME-WAIT: what is left of a connection whose ends are both shut down (RFC 9293, section 3.6.1).
//!
//! All that is needed is to answer a peer that has not heard our last acknowledgement, and to keep
//! old duplicates away from a successor.

use std::time::Instant;

use super::segment::{Reply, Segment, Tuple};
use super::seq::Seq;

#[derive(Debug)]
pub(super) struct TimeWait {
    pub(super) tuple: Tuple,
    /// The last acknowledgement.
    pub(super) last: Reply,
    /// The entry in the queue of deadlines.
    pub(super) armed: Instant,
}

/// What a segment means to a connection in TIME-WAIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Echo {
    /// The peer starts anew (RFC 9293, section 3.10.7.4).
    Successor,
    /// The peer knows of no connection.
    End,
    /// Repeat the acknowledgement; a repeated FIN starts the wait anew.
    Repeat {
        restart: bool,
    },
    Ignore,
}

impl TimeWait {
    pub(super) fn hear(&self, segment: &Segment<'_>) -> Echo {
        let expected = self.last.ack.unwrap_or(Seq(0));
        if segment.is_request() && segment.seq().is_after(expected) {
            return Echo::Successor;
        }
        // A peer whose new request was taken for an old one gets our acknowledgement, and answers it
        // so: its next try succeeds. (RFC 1337 would rather wait; few do.)
        if segment.is_rst() && segment.seq() == expected {
            return Echo::End;
        }
        // What takes no sequence number is not answered, or two waiting ends would answer each other
        // for ever.
        if segment.is_rst() || segment.len() == 0 {
            return Echo::Ignore;
        }
        Echo::Repeat {
            restart: segment.is_fin(),
        }
    }
}
