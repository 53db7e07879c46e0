//! Finds the transaction of each message and the next deadline of all.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{
    ClientId, Event, Limits, Output, ServerId, Timers, TransactionError, TransactionId,
    TransactionStats, Transmit, client::ClientTransaction, server::ServerTransaction,
};
use crate::{
    random::Random,
    shares::{Admission, Bounds, Shares},
    sip::{Hop, Message, Method, ParseError, Request, Response, StatusCode, Transport, Via},
};

/// Starts every branch that follows RFC 3261 (8.1.1.7).
const MAGIC_COOKIE: &str = "z9hG4bK";

/// Transactions that wait only for repetitions make room first: others count as used so much later. Longer than any lives.
const UNANSWERED: Duration = Duration::from_secs(3600);

/// What a response is matched by (17.1.3).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ClientKey {
    branch: String,
    method: Method,
}

/// What a request is matched by (17.2.3). An ACK is looked up with the INVITE's method.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ServerKey {
    branch: String,
    sent_by: String,
    method: Method,
}

/// What the ACK of a 2xx is matched by: it is a transaction of its own, but belongs to the dialog.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct AckKey {
    call_id: String,
    from_tag: String,
    to_tag: String,
    cseq: u32,
}

impl AckKey {
    fn of(head: &crate::sip::Head) -> Self {
        Self {
            call_id: head.call_id.clone(),
            from_tag: head.from.tag().unwrap_or_default().to_owned(),
            to_tag: head.to.tag().unwrap_or_default().to_owned(),
            cseq: head.cseq.number,
        }
    }
}

#[derive(Debug)]
enum Transaction {
    Client(ClientKey, Box<ClientTransaction>),
    Server(ServerKey, Option<AckKey>, Box<ServerTransaction>),
}

impl Transaction {
    fn next_deadline(&self) -> Option<Instant> {
        match self {
            Self::Client(_, t) => t.next_deadline(),
            Self::Server(_, _, t) => t.next_deadline(),
        }
    }

    const fn is_over(&self) -> bool {
        match self {
            Self::Client(_, t) => t.is_over(),
            Self::Server(_, _, t) => t.is_over(),
        }
    }
}

/// All transactions of one port. See the [module](super) for what it does.
pub struct TransactionLayer {
    local: SocketAddr,
    timers: Timers,
    limits: Limits,
    random: Box<dyn Random>,
    next_id: u64,
    transactions: BTreeMap<u64, (Option<Instant>, Transaction)>,
    clients: HashMap<ClientKey, u64>,
    servers: HashMap<ServerKey, u64>,
    acks: HashMap<AckKey, u64>,
    /// The places of peers' transactions.
    shares: Shares<u64>,
    deadlines: BTreeSet<(Instant, u64)>,
    out: Output,
}

impl fmt::Debug for TransactionLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransactionLayer")
            .field("local", &self.local)
            .field("transactions", &self.transactions.len())
            .finish_non_exhaustive()
    }
}

impl TransactionLayer {
    /// A layer for the sockets with this address: one for datagrams, and one for streams if there is one.
    #[must_use]
    pub fn new(local: SocketAddr, timers: Timers, limits: Limits, random: Box<dyn Random>) -> Self {
        Self {
            local,
            timers,
            limits,
            random,
            next_id: 0,
            transactions: BTreeMap::new(),
            clients: HashMap::new(),
            servers: HashMap::new(),
            acks: HashMap::new(),
            shares: Shares::new(Bounds {
                total: limits.transactions,
                per_source: limits.per_source,
                busy: Duration::ZERO,
            }),
            deadlines: BTreeSet::new(),
            out: Output::default(),
        }
    }

    /// Starts a client transaction: adds the Via, sends, repeats.
    ///
    /// # Errors
    ///
    /// [`State`](TransactionError::State) for an ACK, which is no transaction, and for a CANCEL, which
    /// [`cancel`](Self::cancel) makes; [`Full`](TransactionError::Full) when there are too many.
    pub fn request(
        &mut self,
        now: Instant,
        mut request: Request,
        to: impl Into<Hop>,
    ) -> Result<ClientId, TransactionError> {
        if matches!(request.method, Method::Ack | Method::Cancel) {
            return Err(TransactionError::State);
        }
        let to = to.into();
        let via = self.via(to.transport);
        request.head.via.insert(0, via);
        self.start_client(now, request, to)
    }

    fn via(&mut self, transport: Transport) -> Via {
        let branch = format!("{MAGIC_COOKIE}{}", self.random.token());
        Via::new(transport, self.local, &branch)
    }

    fn start_client(
        &mut self,
        now: Instant,
        request: Request,
        to: Hop,
    ) -> Result<ClientId, TransactionError> {
        if self.transactions.len() >= self.limits.transactions {
            return Err(TransactionError::Full);
        }
        let id = self.new_id();
        let via = request.head.via.first();
        let key = ClientKey {
            branch: via.map(|v| v.branch().to_owned()).unwrap_or_default(),
            method: request.method.clone(),
        };
        self.clients.insert(key.clone(), id);
        let machine =
            ClientTransaction::start(now, ClientId(id), request, to, self.timers, &mut self.out);
        let transaction = Transaction::Client(key, Box::new(machine));
        self.transactions.insert(id, (None, transaction));
        self.settle(id);
        Ok(ClientId(id))
    }

    const fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Sends the ACK for a 2xx, and again whenever the 2xx is repeated. The Via is added here.
    ///
    /// # Errors
    ///
    /// [`Unknown`](TransactionError::Unknown) when the transaction is over,
    /// [`State`](TransactionError::State) when it had no 2xx.
    pub fn acknowledge(
        &mut self,
        id: ClientId,
        mut ack: Request,
        to: impl Into<Hop>,
    ) -> Result<(), TransactionError> {
        let to = to.into();
        let via = self.via(to.transport);
        ack.head.via.insert(0, via);
        let Some((_, Transaction::Client(_, machine))) = self.transactions.get_mut(&id.0) else {
            return Err(TransactionError::Unknown);
        };
        machine.acknowledge(&ack, to, &mut self.out)
    }

    /// Cancels an INVITE: at once, or as soon as a provisional response is there (9.1). The INVITE still
    /// gets a final response, 487 if the CANCEL was in time, or a timeout.
    ///
    /// # Errors
    ///
    /// [`Unknown`](TransactionError::Unknown), or [`State`](TransactionError::State) if it is no INVITE.
    pub fn cancel(&mut self, now: Instant, id: ClientId) -> Result<(), TransactionError> {
        let Some((_, Transaction::Client(_, machine))) = self.transactions.get_mut(&id.0) else {
            return Err(TransactionError::Unknown);
        };
        if let Some(cancel) = machine.cancel()? {
            self.send_cancel(now, id.0, cancel)?;
        }
        Ok(())
    }

    fn send_cancel(
        &mut self,
        now: Instant,
        invite: u64,
        cancel: Request,
    ) -> Result<(), TransactionError> {
        let Some((_, Transaction::Client(_, machine))) = self.transactions.get_mut(&invite) else {
            return Err(TransactionError::Unknown);
        };
        machine.limit(now);
        let to = machine.destination();
        self.settle(invite);
        self.start_client(now, cancel, to).map(drop)
    }

    /// Answers a request. Provisional responses as often as wanted, then one final response.
    ///
    /// # Errors
    ///
    /// [`Unknown`](TransactionError::Unknown) when the transaction is over,
    /// [`State`](TransactionError::State) after the final response.
    pub fn respond(
        &mut self,
        now: Instant,
        id: ServerId,
        response: &Response,
    ) -> Result<(), TransactionError> {
        let Some((_, Transaction::Server(key, ack_key, machine))) =
            self.transactions.get_mut(&id.0)
        else {
            return Err(TransactionError::Unknown);
        };
        machine.respond(now, response, &mut self.out)?;
        if !response.status.is_provisional() {
            self.shares.touch(now, id.0);
        }
        if key.method == Method::Invite && response.status.is_success() {
            let dialog = AckKey::of(&response.head);
            self.acks.insert(dialog.clone(), id.0);
            *ack_key = Some(dialog);
        }
        self.settle(id.0);
        Ok(())
    }

    /// Feeds one datagram.
    ///
    /// # Errors
    ///
    /// Why it is no SIP message. It is counted and dropped; the error is for the log only.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &[u8],
    ) -> Result<(), ParseError> {
        match Message::parse(datagram) {
            Ok(message) => self.handle_message(now, from, message),
            Err(ParseError::Keepalive) => {}
            Err(error) => {
                self.out.stats.malformed += 1;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Feeds one message, of a stream for instance. `from` is where responses go if it came over a stream.
    pub fn handle_message(&mut self, now: Instant, from: impl Into<Hop>, message: Message) {
        match message {
            Message::Response(response) => self.handle_response(now, response),
            Message::Request(request) => self.handle_request(now, from.into(), request),
        }
    }

    fn handle_response(&mut self, now: Instant, response: Response) {
        // A response with several Vias went astray (8.1.3.3).
        let branch = match response.head.via.as_slice() {
            [via] => via.branch().to_owned(),
            _ => String::new(),
        };
        let key = ClientKey {
            branch,
            method: response.head.cseq.method.clone(),
        };
        let Some(&id) = self.clients.get(&key) else {
            self.out.stats.stray += 1;
            return;
        };
        if let Some((_, Transaction::Client(_, machine))) = self.transactions.get_mut(&id) {
            let cancel_due = machine.handle_response(now, response, &mut self.out);
            let cancel = cancel_due.then(|| machine.cancel_request());
            self.settle(id);
            if let Some(cancel) = cancel
                && self.send_cancel(now, id, cancel).is_err()
            {
                self.out.stats.overload += 1;
            }
        }
    }

    fn handle_request(&mut self, now: Instant, from: Hop, mut request: Request) {
        if let Some(via) = request.head.via.first_mut() {
            via.note_source(from.address);
        }
        let key = server_key(&request);
        let known = self.servers.get(&key).copied();
        match (&request.method, known) {
            (Method::Ack, _) => self.handle_ack(now, request, known),
            (_, Some(id)) => {
                if let Some((_, Transaction::Server(_, _, machine))) =
                    self.transactions.get_mut(&id)
                {
                    machine.handle_repetition(&mut self.out);
                }
            }
            (Method::Cancel, None) => self.handle_cancel(now, from, request, key),
            (_, None) => {
                self.start_server(now, from, request, key);
            }
        }
    }

    fn handle_ack(&mut self, now: Instant, ack: Request, invite: Option<u64>) {
        let by_dialog = || self.acks.get(&AckKey::of(&ack.head)).copied();
        let (id, of_success) = match (by_dialog(), invite) {
            (Some(id), _) => (id, true),
            (None, Some(id)) => (id, false),
            (None, None) => {
                self.out.stats.stray += 1;
                return;
            }
        };
        if let Some((_, Transaction::Server(_, _, machine))) = self.transactions.get_mut(&id) {
            if of_success {
                machine.handle_ack_of_success(ack, &mut self.out);
            } else {
                machine.handle_ack(now, &mut self.out);
            }
            self.settle(id);
        }
    }

    /// A CANCEL is a transaction of its own, and names the INVITE by its branch (9.2).
    fn handle_cancel(&mut self, now: Instant, from: Hop, cancel: Request, key: ServerKey) {
        let invite = ServerKey {
            method: Method::Invite,
            ..key.clone()
        };
        let status = match self.servers.get(&invite) {
            Some(id) => {
                if let Some((_, Transaction::Server(_, _, machine))) = self.transactions.get(id) {
                    machine.handle_cancel(&mut self.out);
                }
                StatusCode::OK
            }
            None => StatusCode::CALL_DOES_NOT_EXIST,
        };
        let tag = self.random.token();
        let response = cancel.response(status, &tag);
        let before = self.out.events.len();
        if let Some(id) = self.start_server(now, from, cancel, key) {
            // The user sees only what follows for the INVITE.
            self.out.events.truncate(before);
            // A transaction that just began takes a response.
            let answered = self.respond(now, ServerId(id), &response);
            debug_assert!(answered.is_ok());
        }
    }

    fn start_server(
        &mut self,
        now: Instant,
        from: Hop,
        request: Request,
        key: ServerKey,
    ) -> Option<u64> {
        let id = self.new_id();
        let source = from.address.ip();
        // Ours leave the less room for theirs.
        let ours = self.transactions.len() - self.shares.len();
        let room = self.limits.transactions.saturating_sub(ours);
        match self.shares.take_of(now, source, id, room) {
            Admission::Free => {}
            Admission::Instead(victim) => {
                self.out.stats.overload += 1;
                self.forget(victim);
            }
            Admission::Refused => {
                self.out.stats.overload += 1;
                return None;
            }
        }
        self.shares.touch(now + UNANSWERED, id);
        let machine =
            ServerTransaction::start(now, ServerId(id), request, from, self.timers, &mut self.out);
        self.servers.insert(key.clone(), id);
        let transaction = Transaction::Server(key, None, Box::new(machine));
        self.transactions.insert(id, (None, transaction));
        self.settle(id);
        Some(id)
    }

    /// After any change: removes the transaction if it is over, else notes its next deadline.
    fn settle(&mut self, id: u64) {
        let Some((armed, transaction)) = self.transactions.get_mut(&id) else {
            return;
        };
        let next = transaction.next_deadline();
        if *armed != next {
            if let Some(at) = armed.take() {
                self.deadlines.remove(&(at, id));
            }
            if let Some(at) = next {
                self.deadlines.insert((at, id));
            }
            *armed = next;
        }
        if transaction.is_over() {
            self.forget(id);
        }
    }

    fn forget(&mut self, id: u64) {
        if let Some((Some(at), _)) = self.transactions.get(&id) {
            self.deadlines.remove(&(*at, id));
        }
        match self.transactions.remove(&id) {
            Some((_, Transaction::Client(key, _))) => {
                self.clients.remove(&key);
            }
            Some((_, Transaction::Server(key, ack, _))) => {
                self.shares.leave(id);
                self.servers.remove(&key);
                if let Some(ack) = ack {
                    self.acks.remove(&ack);
                }
            }
            None => {}
        }
    }

    /// Advances all timers that are due. Harmless when called early.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(at, id)) = self.deadlines.first()
            && at <= now
        {
            match self.transactions.get_mut(&id) {
                Some((_, Transaction::Client(_, t))) => t.handle_timeout(now, &mut self.out),
                Some((_, Transaction::Server(_, _, t))) => t.handle_timeout(now, &mut self.out),
                None => {
                    self.deadlines.remove(&(at, id));
                }
            }
            self.settle(id);
        }
    }

    /// Takes the network's word that nobody can be reached at an address: an ICMP error, or a socket that does not send
    /// there, or a connection that cannot be opened (18.4). Requests on their way to it that have had no response end now.
    pub fn handle_unreachable(&mut self, peer: impl Into<Hop>) {
        let peer = peer.into();
        let to_peer = |(id, (_, transaction)): (&u64, &(_, Transaction))| match transaction {
            Transaction::Client(_, machine) => (machine.destination() == peer).then_some(*id),
            Transaction::Server(..) => None,
        };
        let ids: Vec<u64> = self.transactions.iter().filter_map(to_peer).collect();
        for id in ids {
            if let Some((_, Transaction::Client(_, machine))) = self.transactions.get_mut(&id) {
                machine.handle_unreachable(&mut self.out);
            }
            self.settle(id);
        }
    }

    /// What a transaction sent was not taken by the socket, and would not be another time. It ends at once (17.1.4, 17.2.4).
    pub fn handle_transport_error(&mut self, of: TransactionId) {
        let id = match of {
            TransactionId::Client(ClientId(id)) | TransactionId::Server(ServerId(id)) => id,
        };
        match self.transactions.get_mut(&id) {
            Some((_, Transaction::Client(_, t))) => t.handle_transport_error(&mut self.out),
            Some((_, Transaction::Server(_, _, t))) => t.handle_transport_error(&mut self.out),
            None => {}
        }
        self.settle(id);
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.out.transmits.pop_front()
    }

    /// The next event for the user.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.out.events.pop_front()
    }

    /// The request of a client transaction as it was sent; `None` when it is over.
    #[must_use]
    pub fn sent_request(&self, id: ClientId) -> Option<&Request> {
        match self.transactions.get(&id.0) {
            Some((_, Transaction::Client(_, machine))) => Some(machine.request()),
            _ => None,
        }
    }

    /// Where the responses of a server transaction go; `None` when it is over.
    #[must_use]
    pub fn reply_address(&self, id: ServerId) -> Option<Hop> {
        match self.transactions.get(&id.0) {
            Some((_, Transaction::Server(_, _, machine))) => Some(machine.reply_to()),
            _ => None,
        }
    }

    /// Transactions that live now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.transactions.len()
    }

    /// Whether no transaction lives now.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.transactions.is_empty()
    }

    /// Counts so far.
    #[must_use]
    pub const fn stats(&self) -> TransactionStats {
        self.out.stats
    }
}

fn server_key(request: &Request) -> ServerKey {
    let head = &request.head;
    let method = if request.method == Method::Ack {
        Method::Invite
    } else {
        request.method.clone()
    };
    let (branch, sent_by) = match head.via.first() {
        Some(via) if via.branch().starts_with(MAGIC_COOKIE) => (
            via.branch().to_owned(),
            format!("{}:{}", via.host, via.port.unwrap_or_default()),
        ),
        // Peers of RFC 2543 do not make unique branches: take all that identifies a request (17.2.3).
        // The To tag is left out, so that the ACK of a refusal, which has one, still matches.
        via => (
            format!(
                "{} {} {}",
                head.call_id,
                head.cseq.number,
                head.from.tag().unwrap_or_default(),
            ),
            via.map(|v| format!("{}:{:?} {}", v.host, v.port, v.branch()))
                .unwrap_or_default(),
        ),
    };
    ServerKey {
        branch,
        sent_by,
        method,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every table forgets what is over.
    pub(super) fn assert_empty(layer: &TransactionLayer) {
        assert!(layer.transactions.is_empty());
        assert!(layer.clients.is_empty());
        assert!(layer.servers.is_empty());
        assert!(layer.acks.is_empty());
        assert!(layer.shares.is_empty());
        assert!(layer.deadlines.is_empty());
    }

    #[test]
    fn nothing_is_left_when_all_is_over() {
        let local = "192.0.2.1:5060".parse().unwrap();
        let peer: SocketAddr = "192.0.2.2:5060".parse().unwrap();
        let random = Box::new(crate::random::SeededRandom::new(1));
        let mut layer = TransactionLayer::new(local, Timers::default(), Limits::default(), random);
        let mut now = Instant::now();
        let invite = b"INVITE sip:a@192.0.2.1 SIP/2.0\r\n\
            Via: SIP/2.0/UDP 192.0.2.2;branch=z9hG4bKx\r\n\
            From: <sip:b@192.0.2.2>;tag=b\r\nTo: <sip:a@192.0.2.1>\r\n\
            Call-ID: 1\r\nCSeq: 1 INVITE\r\n\r\n";
        layer.handle_datagram(now, peer, invite).unwrap();
        let Some(Event::Request { id, request, .. }) = layer.poll_event() else {
            panic!("no request");
        };
        layer
            .respond(now, id, &request.response(StatusCode::OK, "t"))
            .unwrap();
        assert_eq!(layer.acks.len(), 1);
        while let Some(at) = layer.poll_timeout() {
            assert!(at > now, "time goes on");
            now = at;
            layer.handle_timeout(now);
        }
        assert_empty(&layer);
    }
}
