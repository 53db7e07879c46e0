//! One connection: the two halves of its stream, who holds it, and for how long.

use std::time::{Duration, Instant};

use super::budget::{Budget, Charge};
use super::receiver::Receiver;
use super::segment::{Reply, Segment, Tuple};
use super::sender::{PeerLimits, Sender};
use super::seq::Seq;
use super::types::{TcpOptions, TcpState};
use crate::error::TcpError;
use crate::ip::{v4, v6};
use crate::slots::Key;

/// Challenges of one connection are at least this far apart (RFC 5961, section 7).
const CHALLENGE_INTERVAL: Duration = Duration::from_millis(200);

/// Keep-alive probes are at least this far apart, whatever the owner asks for.
const MIN_KEEP_ALIVE: Duration = Duration::from_millis(10);

/// Length of a TCP header without options.
const HEADER_LEN: usize = 20;

/// Who holds a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// A handle.
    Handle,
    /// A listener, until it is accepted.
    Listener(Key),
    /// Nobody: what was written is still being delivered.
    Nobody,
}

/// What the owner has to be told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pending {
    pub(super) connected: bool,
    pub(super) readable: bool,
    pub(super) writable: bool,
    pub(super) failed: bool,
}

/// What our SYN says, or has said, of our windows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Windows {
    /// The first, unscaled as in a SYN.
    pub(super) first: u16,
    /// Scale of the others.
    pub(super) shift: u8,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) tuple: Tuple,
    pub(super) options: TcpOptions,
    pub(super) owner: Owner,
    pub(super) charge: Charge,
    /// The network still reaches it: it has a place in the table, timers, and turns.
    pub(super) attached: bool,
    /// The owner knows that it is open.
    pub(super) announced: bool,
    /// The owner has shut down its end.
    pub(super) write_closed: bool,
    pub(super) failure: Option<TcpError>,
    pub(super) pending: Pending,
    /// The owner was told to read and has not read everything.
    pub(super) told_readable: bool,
    /// The owner found the send buffer full.
    pub(super) wants_write: bool,
    /// When it is due; the entry in the queue of deadlines.
    pub(super) armed: Option<Instant>,
    /// Since when something waits for a silent peer.
    waiting_since: Option<Instant>,
    /// When the peer was last heard.
    pub(super) heard: Instant,
    /// When the peer was last asked whether it is there.
    pub(super) probed: Instant,
    /// When it is given up although nobody has aborted it.
    pub(super) linger_until: Option<Instant>,
    /// It stands in the count of those that deliver.
    pub(super) counted_delivering: bool,
    challenged: Option<Instant>,
    /// Both SYNs were acknowledged.
    pub(super) open: bool,
    /// The peer had shut down its end when ours was.
    peer_ended_first: bool,
    pub(super) windows: Windows,
    pub(super) sender: Sender,
    /// Once the peer's SYN is known.
    pub(super) receiver: Option<Receiver>,
    /// The peer has asked for the connection, by a SYN that has these options.
    pub(super) peer: PeerLimits,
    pub(super) peer_scales: bool,
}

impl Connection {
    pub(super) fn new(
        now: Instant,
        tuple: Tuple,
        initial: Seq,
        charge: Charge,
        windows: Windows,
        options: TcpOptions,
        owner: Owner,
    ) -> Self {
        Self {
            tuple,
            options,
            owner,
            charge,
            attached: true,
            announced: false,
            write_closed: false,
            failure: None,
            pending: Pending::default(),
            told_readable: false,
            wants_write: false,
            armed: None,
            waiting_since: Some(now),
            heard: now,
            probed: now,
            linger_until: None,
            counted_delivering: false,
            challenged: None,
            open: false,
            peer_ended_first: false,
            windows,
            sender: Sender::new(initial),
            receiver: None,
            peer: PeerLimits::default(),
            peer_scales: false,
        }
    }

    pub(super) fn state(&self) -> TcpState {
        let Some(receiver) = &self.receiver else {
            return TcpState::SynSent;
        };
        if !self.open {
            return TcpState::SynReceived;
        }
        match (self.write_closed, receiver.is_finished()) {
            (false, false) => TcpState::Established,
            (false, true) => TcpState::CloseWait,
            (true, false) if self.sender.end_is_acknowledged() => TcpState::FinWait2,
            (true, false) => TcpState::FinWait1,
            (true, true) if self.sender.end_is_acknowledged() => TcpState::Closed,
            (true, true) if self.peer_ended_first => TcpState::LastAck,
            (true, true) => TcpState::Closing,
        }
    }

    /// Whether both ends were shut down, and ours first or at the same time: the peer may not have heard our last
    /// acknowledgement.
    pub(super) fn must_wait(&self) -> bool {
        self.state() == TcpState::Closed && !self.peer_ended_first
    }

    /// Takes the peer's SYN for what follows from it; `path` is the payload that the path carries.
    pub(super) fn learn_syn(&mut self, syn: &Segment<'_>, path: u32) {
        let scale = syn.window_scale();
        self.peer_scales = scale.is_some();
        if !self.peer_scales {
            self.windows.shift = 0;
        }
        self.peer = PeerLimits {
            shift: scale.unwrap_or(0),
            mss: syn.mss(),
            sacks: syn.permits_sack(),
        };
        self.sender.meet(self.peer, path);
        self.receiver = Some(Receiver::new(
            syn.seq().plus(1),
            self.windows.shift,
            self.windows.first,
        ));
    }

    /// Both SYNs were acknowledged.
    pub(super) fn opened(&mut self, now: Instant) {
        self.open = true;
        if self.write_closed {
            self.sender.end(now);
        }
    }

    /// The owner shuts down our end.
    pub(super) fn end(&mut self, now: Instant) {
        self.write_closed = true;
        if self.open {
            self.peer_ended_first = self.receiver.as_ref().is_some_and(Receiver::is_finished);
            self.sender.end(now);
        }
    }

    /// Bytes to be read.
    pub(super) fn readable(&self) -> usize {
        self.receiver.as_ref().map_or(0, Receiver::readable)
    }

    /// Whether the peer has shut down its end and everything was read.
    pub(super) fn is_finished(&self) -> bool {
        self.receiver
            .as_ref()
            .is_some_and(|receiver| receiver.is_finished() && receiver.readable() == 0)
    }

    /// Whether reading would say something.
    pub(super) fn is_readable(&self) -> bool {
        self.failure.is_some() || self.readable() > 0 || self.is_finished()
    }

    /// Bytes of memory in both directions.
    pub(super) fn held(&self) -> [usize; 2] {
        let received = self.receiver.as_ref().map_or(0, Receiver::held);
        [received, self.sender.queued()]
    }

    /// Bytes that may be written now.
    pub(super) fn room(&self, budget: &Budget) -> usize {
        let may_send = self.attached
            && !self.write_closed
            && matches!(self.state(), TcpState::Established | TcpState::CloseWait);
        let queued = self.sender.queued();
        if may_send {
            budget.offer(queued).saturating_sub(queued)
        } else {
            0
        }
    }

    /// Bytes that the peer may make us hold.
    pub(super) fn offer(&self, budget: &Budget) -> usize {
        budget.offer(self.held()[0])
    }

    /// Payload that the path to the peer carries.
    pub(super) fn payload_of(&self, mtu: u16) -> u32 {
        let ip_header = if self.tuple.remote.is_ipv4() {
            v4::HEADER_LEN
        } else {
            v6::HEADER_LEN
        };
        let payload = usize::from(mtu).saturating_sub(ip_header + HEADER_LEN);
        super::seq::length(payload)
    }

    /// Whether a quoted segment may be one that is on its way (RFC 5927, section 4).
    pub(super) fn may_have_sent(&self, seq: Seq) -> bool {
        !seq.is_before(self.sender.unacknowledged()) && seq.is_before(self.sender.next())
    }

    /// An acknowledgement that says where we are, unless one has just gone.
    pub(super) fn challenge(&mut self, now: Instant) -> Option<Reply> {
        if self
            .challenged
            .is_some_and(|last| now < last + CHALLENGE_INTERVAL)
        {
            return None;
        }
        let reply = self.acknowledgement()?;
        self.challenged = Some(now);
        Some(reply)
    }

    /// Where the connection is.
    pub(super) fn acknowledgement(&mut self) -> Option<Reply> {
        let (ack, window) = self.receiver.as_mut()?.tell();
        Some(Reply {
            seq: self.sender.next(),
            ack: Some(ack),
            window,
            ..Reply::default()
        })
    }

    /// Whether something waits for the peer.
    fn is_waiting(&self) -> bool {
        !self.open
            || self.sender.queued() > 0
            || (self.write_closed && !self.sender.end_is_acknowledged())
    }

    /// Whether something that was written, or our end, is still to be brought to the peer.
    pub(super) fn is_delivering(&self) -> bool {
        self.attached && self.open && self.is_waiting()
    }

    /// Starts or ends waiting; `heard` says that the peer has just spoken.
    pub(super) fn update_waiting(&mut self, now: Instant, heard: bool) {
        // What opens does not wait longer because somebody sends nonsense.
        self.waiting_since = match (self.is_waiting(), self.waiting_since) {
            (false, _) => None,
            (true, Some(since)) if !heard || !self.open => Some(since),
            (true, _) => Some(now),
        };
    }

    /// When patience ends.
    pub(super) fn patience(&self) -> Option<Instant> {
        let patience = if self.announced {
            self.options.user_timeout
        } else {
            self.options.connect_timeout
        };
        let silent = self
            .waiting_since
            .and_then(|since| since.checked_add(patience));
        let dead = self
            .options
            .keep_alive
            .filter(|_| self.announced)
            .and_then(|interval| self.heard.checked_add(interval.saturating_mul(4)));
        [silent, dead, self.linger_until]
            .into_iter()
            .flatten()
            .min()
    }

    /// When the peer is asked next whether it is there.
    fn keep_alive_at(&self) -> Option<Instant> {
        let interval = self.options.keep_alive.filter(|_| self.open)?;
        self.heard
            .max(self.probed)
            .checked_add(interval.max(MIN_KEEP_ALIVE))
    }

    /// When something is due, but for an acknowledgement that is due already.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let ack = self.receiver.as_ref().and_then(Receiver::ack_at);
        [
            self.sender.due(),
            ack.filter(|at| self.open && *at > now),
            self.keep_alive_at(),
            self.patience(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Does what is due, but for ending it.
    pub(super) fn on_time(&mut self, now: Instant) {
        self.sender.on_time(now, self.open);
        if self.keep_alive_at().is_some_and(|at| at <= now) {
            self.probed = now;
            self.sender.probe();
        }
    }
}
