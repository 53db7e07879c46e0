//! One connection, and what stands between it and smoltcp.

use std::time::{Duration, Instant};

use smoltcp::socket::tcp::State;

use super::engine::Group;
use super::segment::{Reply, Segment, Tuple};
use super::sent::Sent;
use super::seq::{Seq, length};
use super::types::TcpOptions;
use crate::error::TcpError;
use crate::slots::Key;

/// Challenges of one connection are at least this far apart (RFC 5961, section 7).
const CHALLENGE_INTERVAL: Duration = Duration::from_millis(200);

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

/// What is to be done with a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Pass,
    /// Pass with acknowledgement and window replaced: the segment is older than what we know.
    Refresh(Seq, u16),
    /// Nothing is in it but that the peer is there.
    Heed,
    Drop,
    /// Drop, and say where we are.
    Challenge,
    /// The peer has ended the connection.
    Reset,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) group: Group,
    pub(super) tuple: Tuple,
    pub(super) options: TcpOptions,
    pub(super) owner: Owner,
    /// Bytes of each buffer.
    pub(super) capacity: usize,
    /// The network still reaches it: it has a place in the table, timers, and turns.
    pub(super) attached: bool,
    /// The owner knows that it is open.
    pub(super) announced: bool,
    /// The owner has shut down its end.
    pub(super) write_closed: bool,
    /// The end is to be shut down as soon as smoltcp does that well.
    pub(super) fin_deferred: bool,
    pub(super) failure: Option<TcpError>,
    pub(super) pending: Pending,
    /// The owner was told to read and has not read everything.
    pub(super) told_readable: bool,
    /// The owner found the send buffer full.
    pub(super) wants_write: bool,
    /// When it is due; the entry in the queue of deadlines.
    pub(super) armed: Option<Instant>,
    /// Since when something waits for a silent peer.
    pub(super) waiting_since: Option<Instant>,
    /// When the peer was last heard.
    pub(super) heard: Instant,
    /// When it is given up although nobody has aborted it.
    pub(super) linger_until: Option<Instant>,
    challenged: Option<Instant>,
    receive: ReceiveSide,
    send: SendSide,
}

/// The peer's sequence space as we see it.
#[derive(Clone, Copy, Debug, Default)]
struct ReceiveSide {
    /// The number of the peer's SYN, once known.
    initial: Option<Seq>,
    /// Bytes that the owner has read, modulo 2^32.
    read: u32,
    /// The peer has shut down its end.
    fin: bool,
    /// Scale of the windows that we advertise.
    shift: u8,
    /// First sequence number beyond the window that we have advertised.
    right: Option<Seq>,
}

/// Our sequence space.
#[derive(Clone, Copy, Debug, Default)]
struct SendSide {
    /// First sequence number not sent yet, and the first not acknowledged; once something was sent.
    next: Option<Seq>,
    unacknowledged: Seq,
    /// The segment that last told the peer's window, and the window (RFC 9293's SND.WL1 and WL2).
    window_seq: Seq,
    window_ack: Seq,
    window: u16,
    window_known: bool,
}

impl Connection {
    pub(super) fn new(
        now: Instant,
        group: Group,
        tuple: Tuple,
        capacity: usize,
        options: TcpOptions,
        owner: Owner,
    ) -> Self {
        Self {
            group,
            tuple,
            options,
            owner,
            capacity,
            attached: true,
            announced: false,
            write_closed: false,
            fin_deferred: false,
            failure: None,
            pending: Pending::default(),
            told_readable: false,
            wants_write: false,
            armed: None,
            waiting_since: None,
            heard: now,
            linger_until: None,
            challenged: None,
            receive: ReceiveSide::default(),
            send: SendSide::default(),
        }
    }

    pub(super) fn state(&self) -> State {
        self.group.socket().state()
    }

    /// Takes the peer's SYN for what follows from it.
    pub(super) fn learn_syn(&mut self, syn: &Segment<'_>) {
        self.receive.initial = Some(syn.seq());
        self.receive.shift = syn
            .window_scale()
            .map_or(0, |_| window_shift(self.capacity));
    }

    /// The next sequence number expected. smoltcp knows it but does not tell.
    fn expected(&self) -> Option<Seq> {
        let taken = self
            .receive
            .read
            .wrapping_add(1 + u32::from(self.receive.fin));
        let queued = length(self.group.socket().recv_queue());
        Some(self.receive.initial?.plus(taken).plus(queued))
    }

    /// Free bytes of the receive buffer.
    fn room(&self) -> u32 {
        let queued = self.group.socket().recv_queue();
        length(self.capacity.saturating_sub(queued))
    }

    /// Whether the peer has shut down its end and everything was read.
    pub(super) fn is_finished(&self) -> bool {
        self.receive.fin && self.group.socket().recv_queue() == 0
    }

    pub(super) fn is_readable(&self) -> bool {
        self.receive.fin || self.failure.is_some() || self.group.socket().recv_queue() > 0
    }

    pub(super) fn count_read(&mut self, bytes: usize) {
        self.receive.read = self.receive.read.wrapping_add(length(bytes));
    }

    /// Remembers a FIN, which smoltcp shows in its state only.
    pub(super) fn note_state(&mut self) {
        self.receive.fin |= matches!(
            self.state(),
            State::CloseWait | State::LastAck | State::Closing | State::TimeWait
        );
    }

    /// Whether smoltcp can be told to shut down our end. Before the connection is open it would take
    /// the acknowledgement of our SYN for one of our FIN; and after the peer's FIN it takes no more
    /// news of the peer's window, so that all data have to be acknowledged first.
    pub(super) fn may_send_fin(&self) -> bool {
        let socket = self.group.socket();
        match socket.state() {
            State::Established => true,
            State::CloseWait => socket.send_queue() == 0,
            State::Closed
            | State::Listen
            | State::SynSent
            | State::SynReceived
            | State::FinWait1
            | State::FinWait2
            | State::Closing
            | State::LastAck
            | State::TimeWait => false,
        }
    }

    /// Mends a packet that smoltcp has made, and remembers what it says.
    ///
    /// An acknowledgement bears the next sequence number, also while older data are sent again
    /// (RFC 9293, section 3.10.7.4): smoltcp rewinds the number, its peer drops what lies behind
    /// the window, and two ends that both repeat themselves never hear each other. And a window is
    /// only opened by steps worth sending a segment for.
    pub(super) fn mend(&mut self, packet: &mut [u8]) {
        let Some(mut sent) = Sent::parse(packet) else {
            return;
        };
        let start = match self.send.next {
            Some(next) if sent.is_empty() && !sent.syn => sent.start.max(next),
            Some(_) | None => sent.start,
        };
        let window = sent
            .ack
            .filter(|_| !sent.syn && !sent.rst)
            .map_or(sent.window, |ack| self.window_to_tell(ack, sent.window));
        sent.rewrite(packet, start, window);
        self.note_sent(sent);
    }

    /// Silly window avoidance (RFC 9293, section 3.8.6.2.2): smoltcp tells of every byte that was
    /// read from a full buffer, and gets them one by one.
    fn window_to_tell(&self, ack: Seq, window: u16) -> u16 {
        let Some(told) = self.receive.right else {
            return window;
        };
        let right = ack.plus(u32::from(window) << self.receive.shift);
        if !right.is_after(told) || right.since(told) >= self.worthwhile() {
            return window;
        }
        let left = if told.is_after(ack) {
            told.since(ack)
        } else {
            0
        };
        let unit = 1u32 << self.receive.shift;
        u16::try_from(left.div_ceil(unit))
            .unwrap_or(window)
            .min(window)
    }

    /// Bytes by which it is worth opening the window.
    fn worthwhile(&self) -> u32 {
        length(self.capacity / 2).min(SEGMENT)
    }

    fn note_sent(&mut self, sent: Sent) {
        if sent.rst {
            return;
        }
        self.send.next = Some(match self.send.next {
            Some(next) => next.max(sent.end),
            None => {
                self.send.unacknowledged = sent.start;
                sent.end
            }
        });
        if let Some(ack) = sent.ack {
            let shift = if sent.syn { 0 } else { self.receive.shift };
            let right = ack.plus(u32::from(sent.window) << shift);
            self.receive.right = Some(self.receive.right.map_or(right, |old| old.max(right)));
        }
    }

    /// Remembers what a segment that was passed on has told.
    pub(super) fn note_received(&mut self, now: Instant, segment: &Segment<'_>) {
        self.heard = now;
        let Some(ack) = segment.ack() else { return };
        self.send.unacknowledged = self.send.unacknowledged.max(ack);
        if !self.is_outdated(segment, ack) {
            self.send.window_seq = segment.seq();
            self.send.window_ack = ack;
            self.send.window = segment.window();
            self.send.window_known = !segment.is_syn();
        }
    }

    /// Whether a quoted segment may be one that is on its way (RFC 5927, section 4).
    pub(super) fn may_have_sent(&self, seq: Seq) -> bool {
        let sent = |next| !seq.is_before(self.send.unacknowledged) && seq.is_before(next);
        self.send.next.is_some_and(sent)
    }

    /// Judges a segment before smoltcp sees it. What smoltcp does better or equally well, passes.
    pub(super) fn judge(&self, segment: &Segment<'_>) -> Verdict {
        let state = self.state();
        let (Some(expected), false) = (self.expected(), state == State::SynSent) else {
            return Verdict::Pass;
        };
        if segment.is_rst() {
            return self.judge_reset(segment.seq(), expected);
        }
        if segment.is_syn() {
            return match (state, segment.ack()) {
                // The peer opened at the same time.
                (State::SynReceived, Some(_)) => Verdict::Pass,
                // Our answer was lost; it will be repeated.
                (State::SynReceived, None) => Verdict::Drop,
                // RFC 5961, section 4; smoltcp says nothing, and a peer that has restarted waits.
                _ => Verdict::Challenge,
            };
        }
        let Some(ack) = segment.ack() else {
            return Verdict::Drop;
        };
        let next = self.send.next.unwrap_or(self.send.unacknowledged);
        // smoltcp takes an acknowledgement of anything in its buffer, sent or not.
        if ack.is_after(next) && state != State::SynReceived {
            return Verdict::Challenge;
        }
        if self.overflows(segment, expected) {
            return Verdict::Challenge;
        }
        if self.repeats_nothing(segment, ack, expected) {
            return Verdict::Heed;
        }
        // smoltcp drops data that come with an old acknowledgement, and believes old windows.
        if state != State::SynReceived && self.is_outdated(segment, ack) && self.send.window_known {
            return if next.since(ack) <= MAX_OLD_ACK {
                Verdict::Refresh(self.send.unacknowledged.max(ack), self.send.window)
            } else {
                // RFC 5961, section 5.2.
                Verdict::Challenge
            };
        }
        Verdict::Pass
    }

    /// RFC 5961, section 3.2: only the exact number ends a connection; smoltcp takes any in the
    /// window.
    fn judge_reset(&self, seq: Seq, expected: Seq) -> Verdict {
        let right = self.receive.right.unwrap_or(expected);
        if seq == expected {
            Verdict::Reset
        } else if seq.is_after(expected) && seq.is_before(right) {
            Verdict::Challenge
        } else {
            Verdict::Drop
        }
    }

    /// Whether the segment reaches beyond the receive buffer, where smoltcp would panic: it reckons
    /// with the scaled window of its SYN, which nobody was told; or brings a FIN after payload
    /// beyond the window, which smoltcp cuts off without cutting the FIN.
    fn overflows(&self, segment: &Segment<'_>, expected: Seq) -> bool {
        let end = segment.payload_end();
        let room = self.room();
        let beyond_buffer = room > 0 && end.is_after(expected.plus(room));
        let right = self.receive.right.unwrap_or(expected);
        let beyond_window = right.is_after(expected) && end.is_after(right);
        beyond_buffer || (segment.is_fin() && beyond_window)
    }

    /// An acknowledgement that is overtaken by another, or repeated while no data are on their way.
    /// smoltcp would count the latter, and after the third give up its timer for a fast
    /// retransmission, of data: a FIN is never sent again.
    fn repeats_nothing(&self, segment: &Segment<'_>, ack: Seq, expected: Seq) -> bool {
        let repeated = ack == self.send.unacknowledged
            && segment.window() == self.send.window
            && self.group.socket().send_queue() == 0;
        let right = self.receive.right.unwrap_or(expected);
        let (seq, end) = (segment.seq(), expected.max(right));
        self.send.window_known
            && segment.len() == 0
            && !seq.is_before(expected)
            && !seq.is_after(end)
            && (repeated || self.is_outdated(segment, ack))
    }

    /// RFC 9293, section 3.10.7.4: the window comes from the newest segment.
    fn is_outdated(&self, segment: &Segment<'_>, ack: Seq) -> bool {
        let seq = segment.seq();
        self.send.window_known
            && (ack.is_before(self.send.unacknowledged)
                || seq.is_before(self.send.window_seq)
                || (seq == self.send.window_seq && ack.is_before(self.send.window_ack)))
    }

    /// An acknowledgement that says where we are, unless one has just gone.
    pub(super) fn challenge(&mut self, now: Instant) -> Option<Reply> {
        if self
            .challenged
            .is_some_and(|last| now < last + CHALLENGE_INTERVAL)
        {
            return None;
        }
        let (seq, expected) = (self.send.next?, self.expected()?);
        self.challenged = Some(now);
        Some(self.acknowledgement(seq, expected))
    }

    fn acknowledgement(&self, seq: Seq, expected: Seq) -> Reply {
        let right = self.receive.right.unwrap_or(expected);
        let window = if right.is_after(expected) {
            right.since(expected) >> self.receive.shift
        } else {
            0
        };
        Reply {
            seq,
            ack: Some(expected),
            window: u16::try_from(window).unwrap_or(u16::MAX),
            ..Reply::default()
        }
    }

    /// Where the connection was when both ends were shut down.
    pub(super) fn final_acknowledgement(&self) -> Option<Reply> {
        Some(self.acknowledgement(self.send.next?, self.expected()?))
    }

    /// Whether something waits for the peer.
    fn is_waiting(&self) -> bool {
        let socket = self.group.socket();
        socket.send_queue() > 0
            || matches!(
                socket.state(),
                State::SynSent
                    | State::SynReceived
                    | State::FinWait1
                    | State::Closing
                    | State::LastAck
            )
    }

    /// Starts or ends waiting; `heard` says that the peer has just spoken.
    pub(super) fn update_waiting(&mut self, now: Instant, heard: bool) {
        // What opens does not wait longer because somebody sends nonsense.
        let opening = matches!(self.state(), State::SynSent | State::SynReceived);
        self.waiting_since = match (self.is_waiting(), self.waiting_since) {
            (false, _) => None,
            (true, Some(since)) if !heard || opening => Some(since),
            (true, _) => Some(now),
        };
    }

    /// When patience ends, and with which error.
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

    /// Whether the peer should hear of a larger window now. By twice the least step, so that smoltcp,
    /// which thinks that it has told of the last step, agrees.
    pub(super) fn window_is_worth_telling(&self) -> bool {
        let Some(expected) = self.expected() else {
            return false;
        };
        let right = self.receive.right.unwrap_or(expected);
        let told = if right.is_after(expected) {
            right.since(expected)
        } else {
            0
        };
        let more = self.room().saturating_sub(told);
        more >= 2 * self.worthwhile()
    }
}

/// Acknowledgements older than this many bytes are nobody's.
const MAX_OLD_ACK: u32 = 1 << 30;

/// Payload of a segment of an ordinary MTU.
const SEGMENT: u32 = 1460;

/// As smoltcp chooses it: the smallest that expresses the whole buffer.
pub(super) fn window_shift(capacity: usize) -> u8 {
    let bits = usize::BITS - capacity.leading_zeros();
    u8::try_from(bits.saturating_sub(16)).unwrap_or(14)
}
