//! A transport that the server knows.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tsc_tpl::Sequence;

use super::arena::Key;
use super::config::Identity;
use super::event::ListenerId;
use crate::transport::Transport;

/// A transport has this long to configure or resume a tunnel (spec 8.3).
pub const CONFIGURATION_TIME: Duration = Duration::from_secs(10);
/// The message error that closes a transport (spec 2).
pub const MESSAGE_ERROR_LIMIT: u8 = 8;

/// A transport and what it is attached to.
#[derive(Debug)]
pub(crate) struct Binding {
    pub(crate) interface: usize,
    pub(crate) transport: Transport,
    pub(crate) peer: SocketAddr,
    /// The address of ours that it came to.
    pub(crate) local: SocketAddr,
    /// On plain UDP: the socket, and with `peer` the key of the address table.
    pub(crate) listener: Option<ListenerId>,
    pub(crate) identity: Option<Identity>,
    pub(crate) message_errors: u8,
    pub(crate) attachment: Attachment,
}

/// What a binding is for now.
#[derive(Debug)]
pub(crate) enum Attachment {
    /// Waiting for a request.
    Pending {
        /// Position in the deadline queue.
        armed: Option<Instant>,
        until: Instant,
        /// The last refusal, for a retransmission of its request on DTLS.
        refused: Option<Box<(Sequence, Bytes)>>,
    },
    /// Carries this tunnel.
    Session(Key),
}
