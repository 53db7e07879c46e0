//! The server's end of one UDP socket: which association does a datagram belong to, and what may a stranger
//! cost.

mod handover;
mod ready;
mod report;
mod source;
mod table;

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use tracing::debug;

pub use self::handover::DetachedAssociation;
pub use self::report::{DtlsEndpointEvent, DtlsEndpointStats, DtlsTransmit, Opened};
pub use self::table::AssociationKey;

use self::ready::ReadyQueue;
use self::source::{Prefix, RateLimiter};
use self::table::{PeerEntry, Table};
use super::config::ServerBackend;
use super::cookie::CookieJar;
use super::record::{self, AlpnOffer, ClientHello, Record};
use super::{
    Alert, DtlsEndpointLimits, DtlsError, DtlsEvent, DtlsSendError, DtlsServerConfig, DtlsState,
    Opening,
};

/// All DTLS associations of one UDP socket, without the socket.
///
/// Give it each datagram that looks like DTLS (first byte 0x14 to 0x1B or 0x20 to 0x3F, spec 2), then drain
/// events, received data and datagrams to send:
///
/// ```text
/// key = handle_datagram(now, peer, bytes)      the association that may hold data now
/// while event = poll_event()                   Connected / Readable / Closed / HandshakeFailed
/// while n = recv(key, buf)                     for that key, and after Connected and Readable
/// while t = poll_transmit(buf)                 datagrams for t.peer
/// sleep until poll_timeout(), then handle_timeout(now)
/// ```
///
/// [`open`](Self::open) and [`seal`](Self::seal) do the same for single records of data without queues between.
///
/// # What a stranger costs
///
/// With the `openssl` and `dimpl` backends nothing: a ClientHello without a valid cookie is answered by a
/// HelloVerifyRequest (60 bytes, shorter than the hello) whose cookie is an HMAC over the peer's address, and forgotten.
/// State is made only for a hello that brings the cookie back.
///
/// `webrtc-dtls` draws its cookie at random inside each session and hashes it into the handshake's
/// transcript together with the message sequence numbers, so neither can our cookie stand in for its own nor
/// can an exchange of ours precede its own. A first hello therefore costs a session, and what bounds the cost
/// is: a token bucket per source prefix, the caps of [`DtlsEndpointLimits`], the handshake deadline, and that
/// at the cap the oldest handshake is evicted whose peer has not yet answered the library's own
/// HelloVerifyRequest.
///
/// # Takeover
///
/// A ClientHello from the address of a living association starts a second handshake beside it; the living one is
/// replaced when, and only when, the new one has finished (spec 4).
pub struct DtlsServerEndpoint {
    backend: Arc<dyn ServerBackend>,
    limits: DtlsEndpointLimits,
    cookies: CookieJar,
    table: Table,
    rate: RateLimiter,
    ready: Arc<ReadyQueue>,
    /// Associations with datagrams to send; each at most once.
    transmit: VecDeque<AssociationKey>,
    /// Datagrams without an association; bounded by the limits.
    stateless: VecDeque<(SocketAddr, Vec<u8>)>,
    events: VecDeque<DtlsEndpointEvent>,
    stats: DtlsEndpointStats,
}

impl DtlsServerEndpoint {
    /// Work per call of [`handle_timeout`](Self::handle_timeout); the rest stays due.
    const TIMEOUTS_PER_CALL: usize = 256;
    /// Events beyond which failed handshakes are only counted.
    const EVENTS_BEFORE_DROP: usize = 1_024;

    /// Makes an endpoint. `cookie_key` is secret and random; all workers that share an address share it.
    #[must_use]
    pub fn new(
        config: &DtlsServerConfig,
        limits: DtlsEndpointLimits,
        cookie_key: &[u8; 32],
    ) -> Self {
        Self {
            backend: Arc::clone(&config.backend),
            rate: RateLimiter::new(limits.unproved_per_second),
            limits,
            cookies: CookieJar::new(cookie_key),
            table: Table::default(),
            ready: Arc::default(),
            transmit: VecDeque::new(),
            stateless: VecDeque::new(),
            events: VecDeque::new(),
            stats: DtlsEndpointStats::default(),
        }
    }

    /// Changes the cookie key. Cookies of the key before stay valid until the next change; a minute or more
    /// between changes loses no handshake.
    pub fn rotate_cookie_key(&mut self, key: &[u8; 32]) {
        self.cookies.rotate(key);
    }

    /// Registers who is woken when an association has become ready in the background; then call
    /// [`poll_event`](Self::poll_event) until `None`. Only the `webrtc` backend wakes.
    pub fn set_waker(&mut self, waker: &Waker) {
        self.ready.set_driver(waker);
    }

    /// Takes a datagram. Returns the connected association that it was given to, which may now have data.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        peer: SocketAddr,
        datagram: &[u8],
    ) -> Option<AssociationKey> {
        let Some(first) = record::records(datagram).next() else {
            self.stats.malformed += 1;
            return None;
        };
        let entry = self.table.peer(peer);
        if record::is_client_hello(&first) {
            return self.handle_hello(now, peer, entry, &first, datagram);
        }
        // With a handshake beside a living association, the clear belongs to the handshake; data and alerts under
        // keys to the living one; handshake messages under keys to either, and only one can open them.
        let (for_pending, for_current) = match (entry.pending, entry.current) {
            (Some(_), Some(_)) if first.epoch == 0 => (true, false),
            (Some(_), Some(_)) => (first.content_type == record::HANDSHAKE, true),
            (pending, current) => (pending.is_some(), current.is_some()),
        };
        let mut taken = None;
        for (key, wanted) in [(entry.pending, for_pending), (entry.current, for_current)] {
            if let Some(key) = key.filter(|_| wanted) {
                taken = self.feed(now, key, datagram).or(taken);
            }
        }
        if !for_pending && !for_current {
            self.stats.strangers += 1;
        }
        taken
    }

    /// Opens a datagram in place if it is one record of data of a connected association: the short way, without a copy.
    /// What is [`NotData`](Opened::NotData) is untouched, and to be given to [`handle_datagram`](Self::handle_datagram).
    pub fn open<'d>(&mut self, peer: SocketAddr, datagram: &'d mut [u8]) -> Opened<'d> {
        if datagram.first() != Some(&record::APPLICATION_DATA) {
            return Opened::NotData;
        }
        let Some(association) = self.table.current(peer) else {
            return Opened::NotData;
        };
        match association.session.open(datagram) {
            // Empty records are allowed and say nothing.
            Opening::Data(range) if range.is_empty() => Opened::Dropped,
            Opening::Data(range) => {
                Opened::Data(association.key, datagram.get_mut(range).unwrap_or_default())
            }
            Opening::Dropped => Opened::Dropped,
            Opening::NotData => Opened::NotData,
        }
    }

    /// Writes the next received plaintext of the association to the front of `buf`, as
    /// [`DtlsSession::recv`](super::DtlsSession::recv) does. `None` when there is none or the key is not valid (any
    /// more).
    pub fn recv(&mut self, key: AssociationKey, buf: &mut [u8]) -> Option<usize> {
        let received = self.table.get_mut(key)?.session.recv(buf);
        if received.is_none() {
            // Reading may have met an alert, or a retransmission to answer.
            self.settle(key);
        }
        received
    }

    /// Seals one record for the association's peer.
    ///
    /// # Errors
    ///
    /// As [`DtlsSession::send`](super::DtlsSession::send); [`DtlsSendError::Closed`] for a key that is not valid
    /// (any more).
    pub fn send(&mut self, key: AssociationKey, plaintext: &[u8]) -> Result<(), DtlsSendError> {
        let association = self.table.get_mut(key).ok_or(DtlsSendError::Closed)?;
        association.session.send(plaintext)?;
        if !association.transmit_queued {
            association.transmit_queued = true;
            self.transmit.push_back(key);
        }
        Ok(())
    }

    /// Seals one record for the association's peer and appends the datagram to `out`: the short way. `None`: it comes by
    /// [`poll_transmit`](Self::poll_transmit), since the backend seals in the background.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send).
    pub fn seal(
        &mut self,
        key: AssociationKey,
        plaintext: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<DtlsTransmit>, DtlsSendError> {
        let association = self.table.get_mut(key).ok_or(DtlsSendError::Closed)?;
        let len = association.session.seal(plaintext, out)?;
        if len > 0 {
            let peer = association.peer;
            return Ok(Some(DtlsTransmit { peer, len }));
        }
        if !association.transmit_queued {
            association.transmit_queued = true;
            self.transmit.push_back(key);
        }
        Ok(None)
    }

    /// Appends the next datagram to `out`; `None` when there is none.
    pub fn poll_transmit(&mut self, out: &mut Vec<u8>) -> Option<DtlsTransmit> {
        if let Some((peer, datagram)) = self.stateless.pop_front() {
            out.extend_from_slice(&datagram);
            let len = datagram.len();
            return Some(DtlsTransmit { peer, len });
        }
        while let Some(&key) = self.transmit.front() {
            if let Some(association) = self.table.get_mut(key) {
                if let Some(len) = association.session.poll_transmit(out) {
                    let peer = association.peer;
                    return Some(DtlsTransmit { peer, len });
                }
                association.transmit_queued = false;
            }
            self.transmit.pop_front();
        }
        None
    }

    /// Next event; call until `None`. Also collects what became ready in the background.
    pub fn poll_event(&mut self) -> Option<DtlsEndpointEvent> {
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        while let Some(key) = self.ready.pop() {
            self.settle(key);
            // An association that the peer has closed stays until its last data was received.
            let carries_data = self
                .table
                .get(key)
                .is_some_and(|association| self.table.peer(association.peer).current == Some(key));
            if carries_data {
                self.events.push_back(DtlsEndpointEvent::Readable { key });
            }
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
        }
        None
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due; `None` is never.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.table.next_deadline()
    }

    /// Lets retransmissions and deadlines happen that are due, a bounded number per call; what is left stays
    /// due.
    pub fn handle_timeout(&mut self, now: Instant) {
        for _ in 0..Self::TIMEOUTS_PER_CALL {
            let Some(key) = self.table.pop_due(now) else {
                return;
            };
            if let Some(association) = self.table.get_mut(key) {
                association.session.handle_timeout(now);
            }
            self.settle(key);
        }
    }

    /// Starts an orderly close of one association; [`DtlsEndpointEvent::Closed`] follows. Keys that are not
    /// valid are ignored.
    pub fn close(&mut self, now: Instant, key: AssociationKey) {
        if let Some(association) = self.table.get_mut(key) {
            association.session.close(now);
            self.settle(key);
        }
    }

    /// Closes all associations, half-open ones too.
    pub fn close_all(&mut self, now: Instant) {
        let keys: Vec<_> = self.table.keys().collect();
        for key in keys {
            self.close(now, key);
        }
    }

    /// The peer of an association; `None` when the key is not valid (any more).
    #[must_use]
    pub fn peer(&self, key: AssociationKey) -> Option<SocketAddr> {
        self.table.get(key).map(|association| association.peer)
    }

    /// The connected association of a peer address.
    #[must_use]
    pub fn find(&self, peer: SocketAddr) -> Option<AssociationKey> {
        self.table.peer(peer).current
    }

    /// Counters and gauges.
    #[must_use]
    pub fn stats(&self) -> DtlsEndpointStats {
        DtlsEndpointStats {
            associations: self.table.len(),
            half_open: self.table.half_open(),
            ..self.stats
        }
    }

    fn handle_hello(
        &mut self,
        now: Instant,
        peer: SocketAddr,
        entry: PeerEntry,
        first: &Record<'_>,
        datagram: &[u8],
    ) -> Option<AssociationKey> {
        let Some(hello) = ClientHello::parse(first) else {
            self.stats.malformed += 1;
            return None;
        };
        let is_of = |key| {
            self.table
                .get(key)
                .is_some_and(|association| association.random == *hello.random)
        };
        if let Some(pending) = entry.pending.filter(|key| is_of(*key)) {
            return self.feed(now, pending, datagram);
        }
        if entry.current.is_some_and(is_of) {
            self.stats.duplicate_hellos += 1;
            return None;
        }
        if self.backend.takes_proved_hello() {
            if !self.cookies.verify(peer, &hello) {
                self.stats.verify_requests += 1;
                let cookie = self.cookies.make(peer, &hello);
                self.answer(peer, record::hello_verify_request(&hello, &cookie));
                return None;
            }
        } else if !self.may_start_unproved(now, peer, entry, &hello) {
            return None;
        }
        if hello.alpn() == AlpnOffer::Other {
            self.stats.alpn_refused += 1;
            self.answer(
                peer,
                record::plain_alert(&hello, Alert::NO_APPLICATION_PROTOCOL),
            );
            return None;
        }
        self.start(now, peer, entry, &hello, datagram);
        None
    }

    /// Whether a hello whose sender is not proved may cost a session.
    fn may_start_unproved(
        &mut self,
        now: Instant,
        peer: SocketAddr,
        entry: PeerEntry,
        hello: &ClientHello<'_>,
    ) -> bool {
        // With a cookie it continues an exchange that is forgotten by now.
        if !hello.cookie.is_empty() || hello.message_sequence != 0 {
            self.stats.strangers += 1;
            return false;
        }
        // Only its own deadline ends a handshake whose peer is proved: anyone can write its address on a hello.
        let is_proved = |key| {
            self.table
                .get(key)
                .is_some_and(|association| association.session.address_proved())
        };
        if entry.pending.is_some_and(is_proved) {
            self.stats.strangers += 1;
            return false;
        }
        if !self.rate.admit(now, Prefix::from(peer.ip())) {
            self.stats.rate_limited += 1;
            return false;
        }
        // The library does not understand session ids, and no session of its own can be meant. Who is told so comes
        // again without.
        if hello.has_session_id {
            self.stats.strangers += 1;
            self.answer(peer, record::plain_alert(hello, Alert::HANDSHAKE_FAILURE));
            return false;
        }
        true
    }

    fn start(
        &mut self,
        now: Instant,
        peer: SocketAddr,
        entry: PeerEntry,
        hello: &ClientHello<'_>,
        datagram: &[u8],
    ) {
        if let Some(pending) = entry.pending {
            // The peer has started over.
            self.give_up(pending, DtlsError::Replaced);
        }
        if self.table.half_open_of(peer.ip().into()) >= self.limits.half_open_per_prefix {
            self.stats.prefix_limited += 1;
            return;
        }
        if self.table.half_open() >= self.limits.half_open
            && let Some(oldest) = self.table.eviction()
        {
            self.stats.evicted += 1;
            self.give_up(oldest, DtlsError::Evicted);
        }
        if self.table.len() >= self.limits.associations
            || self.table.half_open() >= self.limits.half_open
        {
            self.stats.table_full += 1;
            return;
        }
        let session = match self.backend.accept(now, peer, datagram, hello) {
            Ok(session) => session,
            Err(error) => {
                self.fail(peer, error);
                return;
            }
        };
        let Some(key) = self.table.insert(peer, *hello.random, session) else {
            self.stats.table_full += 1;
            return;
        };
        self.stats.started += 1;
        if let Some(association) = self.table.get_mut(key) {
            association.session.set_waker(&self.ready.waker(key));
        }
        self.settle(key);
    }

    /// Gives a datagram to an association; returns its key if it is connected afterwards.
    fn feed(
        &mut self,
        now: Instant,
        key: AssociationKey,
        datagram: &[u8],
    ) -> Option<AssociationKey> {
        let association = self.table.get_mut(key)?;
        let before = association.session.state();
        association.session.handle_datagram(now, datagram);
        let after = association.session.state();
        if before == DtlsState::Connected && after == DtlsState::Connected {
            // The way of all data: whatever else it brings is seen when `recv` comes to its end.
            return Some(key);
        }
        self.settle(key);
        (after == DtlsState::Connected).then_some(key)
    }

    /// Collects what a session has to say after it was given something.
    fn settle(&mut self, key: AssociationKey) {
        let Some(mut association) = self.table.get_mut(key) else {
            return;
        };
        let peer = association.peer;
        while let Some(event) = association.session.poll_event() {
            match event {
                DtlsEvent::Connected(info) => {
                    self.stats.connected_total += 1;
                    self.stats.resumed += u64::from(info.resumed);
                    let replaced = self.table.promote(key);
                    if let Some(old) = replaced.filter(|old| *old != key) {
                        self.stats.replaced += 1;
                        self.table.remove(old);
                        self.events.push_back(DtlsEndpointEvent::Closed {
                            key: old,
                            peer,
                            error: DtlsError::Replaced,
                        });
                    }
                    self.events.push_back(DtlsEndpointEvent::Connected {
                        key,
                        peer,
                        info: Box::new(info),
                    });
                }
                DtlsEvent::Closed(error) => {
                    self.end(key, error);
                    return;
                }
            }
            // Promotion has moved things in the table.
            match self.table.get_mut(key) {
                Some(same) => association = same,
                None => return,
            }
        }
        if !association.transmit_queued {
            association.transmit_queued = true;
            self.transmit.push_back(key);
        }
        let deadline = association.session.poll_timeout();
        self.table.arm(key, deadline);
    }

    /// Removes an association that has ended by itself, keeping its last datagrams.
    fn end(&mut self, key: AssociationKey, error: DtlsError) {
        let is_current = self
            .table
            .get(key)
            .is_some_and(|association| self.table.peer(association.peer).current == Some(key));
        let Some(mut association) = self.table.remove(key) else {
            return;
        };
        let peer = association.peer;
        let mut datagram = Vec::new();
        while association.session.poll_transmit(&mut datagram).is_some() {
            self.answer(peer, std::mem::take(&mut datagram));
        }
        if is_current {
            self.events
                .push_back(DtlsEndpointEvent::Closed { key, peer, error });
        } else {
            self.fail(peer, error);
        }
    }

    /// Removes a half-open association without a word to its peer.
    fn give_up(&mut self, key: AssociationKey, error: DtlsError) {
        if let Some(association) = self.table.remove(key) {
            self.fail(association.peer, error);
        }
    }

    fn fail(&mut self, peer: SocketAddr, error: DtlsError) {
        debug!(%peer, %error, "DTLS handshake failed");
        self.stats.failed += 1;
        if self.events.len() < Self::EVENTS_BEFORE_DROP {
            self.events
                .push_back(DtlsEndpointEvent::HandshakeFailed { peer, error });
        }
    }

    fn answer(&mut self, peer: SocketAddr, datagram: Vec<u8>) {
        if self.stateless.len() < self.limits.stateless_queue {
            self.stateless.push_back((peer, datagram));
        } else {
            self.stats.answers_dropped += 1;
        }
    }
}

impl fmt::Debug for DtlsServerEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DtlsServerEndpoint")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
