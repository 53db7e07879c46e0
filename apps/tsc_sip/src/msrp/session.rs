//! One session: messages to chunks and back.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt,
    time::{Duration, Instant},
};

use super::{
    ByteRange, Chunk, Coverage, DecodeError, Decoder, Flag, Head, Item, Malformed, Method, MsrpUri,
    Start, limits, message::end_line, status,
};
use crate::random::Random;

/// How a session behaves.
#[derive(Clone, Debug)]
pub struct Config {
    /// Bytes of the longest message that is taken; longer ones are stopped with 413.
    pub max_message: u64,
    /// Media types that are taken, such as `text/plain`; `text/*` and `*` are patterns. Others get 415.
    pub accept_types: Vec<String>,
    /// How long a response may take (RFC 4975 7.1.1).
    pub response_time: Duration,
}

impl Default for Config {
    /// Anything, up to 64 KiB; 30 s for a response.
    fn default() -> Self {
        Self {
            max_message: 65_536,
            accept_types: vec!["*".to_owned()],
            response_time: Duration::from_secs(30),
        }
    }
}

impl Config {
    fn accepts(&self, content_type: &str) -> bool {
        let bare = content_type.split(';').next().unwrap_or_default().trim();
        let kind = bare.split('/').next().unwrap_or_default();
        self.accept_types.iter().any(|pattern| {
            pattern == "*"
                || pattern.eq_ignore_ascii_case(bare)
                || pattern
                    .strip_suffix("/*")
                    .is_some_and(|k| k.eq_ignore_ascii_case(kind))
        })
    }
}

/// Names a message of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(u64);

/// What the owner of a session has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer has answered chunks of our message: so many bytes of it have arrived.
    Accepted {
        /// The message.
        id: MessageId,
        /// Bytes so far.
        bytes: u64,
    },
    /// All of our message has arrived, and if reports were wanted, the peer has reported that. It is over.
    Delivered {
        /// The message.
        id: MessageId,
    },
    /// Our message does not arrive. It is over.
    Failed {
        /// The message.
        id: MessageId,
        /// The peer's status; 408 if it did not answer.
        status: u16,
    },
    /// A message begins to come in.
    Started {
        /// The peer's name for it.
        message: String,
        /// Media type.
        content_type: String,
        /// Bytes of it, if the peer knows.
        total: Option<u64>,
    },
    /// Bytes of a message that comes in. Pieces may overlap and come in any order.
    Data {
        /// The peer's name for it.
        message: String,
        /// Where they belong, from 0; less than [`Config::max_message`], also with the bytes.
        offset: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// All of a message is there.
    Received {
        /// The peer's name for it.
        message: String,
        /// Its bytes.
        size: u64,
    },
    /// The peer sends no more of a message, or too much was wrong with it.
    Aborted {
        /// The peer's name for it.
        message: String,
    },
}

/// Why a message cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// [`limits::OUTGOING`] messages are on their way.
    #[error("too many messages are on their way")]
    Full,
    /// No such message; it is over.
    #[error("the message is over")]
    Unknown,
    /// More bytes than were announced.
    #[error("the message is longer than was said")]
    TooLong,
}

#[derive(Debug)]
struct Outgoing {
    name: String,
    content_type: String,
    total: u64,
    report: bool,
    /// Bytes given to us and not sent yet.
    pending: VecDeque<u8>,
    sent: u64,
    /// All chunks are sent.
    done: bool,
    answered: Coverage,
    accepted: u64,
    reported: Coverage,
}

impl Outgoing {
    /// Whether a chunk can be made.
    fn is_ready(&self) -> bool {
        !self.done && (!self.pending.is_empty() || self.total == 0)
    }

    fn is_delivered(&self) -> bool {
        let all = |c: &Coverage| c.is_complete(self.total);
        // An empty message has no byte to answer for: its chunk is noted as one.
        let answered = if self.total == 0 {
            self.accepted > 0
        } else {
            all(&self.answered)
        };
        let reported = if self.total == 0 {
            !self.reported.is_empty()
        } else {
            all(&self.reported)
        };
        self.done && answered && (!self.report || reported)
    }
}

#[derive(Debug)]
struct Transaction {
    message: MessageId,
    start: u64,
    end: u64,
    give_up_at: Instant,
}

#[derive(Debug)]
struct Incoming {
    coverage: Coverage,
    /// Known once the peer says it, or ends the message.
    total: Option<u64>,
    ended: bool,
    report: bool,
    from: Vec<MsrpUri>,
}

/// The chunk that is just being read.
#[derive(Debug)]
struct Current {
    head: Head,
    /// What is answered at its end.
    status: u16,
    /// The message that its body belongs to, and where; `None` skips it.
    message: Option<(String, u64)>,
}

/// One end of a session. See the [module](super).
pub struct Session {
    local: MsrpUri,
    remote: Vec<MsrpUri>,
    config: Config,
    random: Box<dyn Random>,
    decoder: Decoder,
    current: Option<Current>,
    outgoing: BTreeMap<MessageId, Outgoing>,
    next_id: u64,
    /// Whose turn it was, so that long messages do not hold up short ones.
    last_turn: MessageId,
    transactions: HashMap<String, Transaction>,
    incoming: HashMap<String, Incoming>,
    transmits: VecDeque<Vec<u8>>,
    events: VecDeque<Event>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("local", &self.local)
            .field("outgoing", &self.outgoing.len())
            .field("incoming", &self.incoming.len())
            .finish_non_exhaustive()
    }
}

impl Session {
    /// The end `local` of a session whose other end is reached by the path `remote`, next hop first.
    #[must_use]
    pub fn new(
        local: MsrpUri,
        remote: Vec<MsrpUri>,
        config: Config,
        random: Box<dyn Random>,
    ) -> Self {
        Self {
            local,
            remote,
            config,
            random,
            decoder: Decoder::default(),
            current: None,
            outgoing: BTreeMap::new(),
            next_id: 0,
            last_turn: MessageId(0),
            transactions: HashMap::new(),
            incoming: HashMap::new(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Tells the peer who is there, before there is anything to say: whoever opens the connection has to (5.4).
    pub fn greet(&mut self) {
        let transaction = self.random.token();
        let head = Head::request(Method::Send, transaction, &self.remote, &self.local)
            .with("Message-ID", self.random.token());
        // Nobody waits for the answer: if the session is refused, so is what follows.
        self.transmits.push_back(Chunk::bare(head).encode());
    }

    /// Announces a message of `total` bytes; its bytes are given by [`feed`](Self::feed). With `report`, the peer is asked
    /// to report that it has all of it.
    ///
    /// # Errors
    ///
    /// [`SendError::Full`].
    pub fn begin(
        &mut self,
        now: Instant,
        content_type: &str,
        total: u64,
        report: bool,
    ) -> Result<MessageId, SendError> {
        if self.outgoing.len() >= limits::OUTGOING {
            return Err(SendError::Full);
        }
        self.next_id += 1;
        let id = MessageId(self.next_id);
        self.outgoing.insert(
            id,
            Outgoing {
                name: self.random.token(),
                content_type: content_type.to_owned(),
                total,
                report,
                pending: VecDeque::new(),
                sent: 0,
                done: false,
                answered: Coverage::default(),
                accepted: 0,
                reported: Coverage::default(),
            },
        );
        self.pump(now);
        Ok(id)
    }

    /// Gives the next bytes of a message. They are kept until chunks may be sent: a long message is given piece by piece,
    /// as [`wants`](Self::wants) asks for them.
    ///
    /// # Errors
    ///
    /// The message is over, or longer than was said.
    pub fn feed(&mut self, now: Instant, id: MessageId, bytes: &[u8]) -> Result<(), SendError> {
        let message = self.outgoing.get_mut(&id).ok_or(SendError::Unknown)?;
        let given = message.sent + message.pending.len() as u64;
        if given + bytes.len() as u64 > message.total {
            return Err(SendError::TooLong);
        }
        message.pending.extend(bytes);
        self.pump(now);
        Ok(())
    }

    /// Sends a message that is at hand.
    ///
    /// # Errors
    ///
    /// [`SendError::Full`].
    pub fn send(
        &mut self,
        now: Instant,
        content_type: &str,
        body: &[u8],
        report: bool,
    ) -> Result<MessageId, SendError> {
        let id = self.begin(now, content_type, body.len() as u64, report)?;
        self.feed(now, id, body)?;
        Ok(id)
    }

    /// Whether more bytes of a message can be used now.
    #[must_use]
    pub fn wants(&self, id: MessageId) -> bool {
        let message = self.outgoing.get(&id);
        message.is_some_and(|m| !m.done && m.pending.len() < limits::CHUNK)
            && self.transactions.len() < limits::TRANSACTIONS
    }

    /// Gives a message up: the peer is told that no more of it comes, unless all was sent. No event follows.
    ///
    /// # Errors
    ///
    /// The message is over.
    pub fn abort(&mut self, now: Instant, id: MessageId) -> Result<(), SendError> {
        let message = self.outgoing.remove(&id).ok_or(SendError::Unknown)?;
        self.transactions.retain(|_, t| t.message != id);
        if !message.done && message.sent > 0 {
            let range = ByteRange {
                start: message.sent + 1,
                end: Some(message.sent),
                total: Some(message.total),
            };
            let transaction = self.random.token();
            let head = Head::request(Method::Send, transaction, &self.remote, &self.local)
                .with("Message-ID", message.name)
                .with("Byte-Range", range.to_string())
                .with("Failure-Report", "no")
                .with("Content-Type", message.content_type);
            let chunk = Chunk {
                head,
                body: Some(Vec::new()),
                flag: Flag::Abort,
            };
            self.transmits.push_back(chunk.encode());
        }
        self.pump(now);
        Ok(())
    }

    /// Gives all messages of ours up.
    pub fn abort_all(&mut self) {
        let now = Instant::now();
        while let Some(id) = self.outgoing.keys().next().copied() {
            // It is there.
            let _ = self.abort(now, id);
        }
    }

    /// Makes chunks while responses are not too far behind: one of each message in turn.
    fn pump(&mut self, now: Instant) {
        while self.transactions.len() < limits::TRANSACTIONS {
            let ready = |(id, m): (&MessageId, &Outgoing)| m.is_ready().then_some(*id);
            let after = self.last_turn;
            let later = self.outgoing.iter().filter(|(id, _)| **id > after);
            let Some(id) = later.chain(self.outgoing.iter()).find_map(ready) else {
                return;
            };
            self.last_turn = id;
            self.send_chunk(now, id);
        }
    }

    fn send_chunk(&mut self, now: Instant, id: MessageId) {
        let Some(message) = self.outgoing.get_mut(&id) else {
            return;
        };
        let length = message.pending.len().min(limits::CHUNK);
        let body: Vec<u8> = message.pending.drain(..length).collect();
        let start = message.sent;
        message.sent += length as u64;
        message.done = message.sent == message.total;
        // The body must not hold the end line (7.1). Tokens are as good as never guessed.
        let transaction = loop {
            let token = self.random.token();
            let line = end_line(&token);
            if !body.windows(line.len()).any(|w| w == line.as_bytes()) {
                break token;
            }
        };
        let range = ByteRange {
            start: start + 1,
            end: Some(message.sent),
            total: Some(message.total),
        };
        let mut head = Head::request(Method::Send, transaction.clone(), &self.remote, &self.local)
            .with("Message-ID", message.name.clone())
            .with("Byte-Range", range.to_string());
        if message.report {
            head = head.with("Success-Report", "yes");
        }
        // Content-Type stands last (section 9).
        head = head.with("Content-Type", message.content_type.clone());
        let flag = if message.done { Flag::End } else { Flag::More };
        let chunk = Chunk {
            head,
            body: Some(body),
            flag,
        };
        self.transmits.push_back(chunk.encode());
        let transaction_state = Transaction {
            message: id,
            start,
            end: message.sent,
            give_up_at: now + self.config.response_time,
        };
        self.transactions.insert(transaction, transaction_state);
    }

    /// Feeds bytes of the connection.
    ///
    /// # Errors
    ///
    /// The peer does not speak MSRP: close the connection.
    pub fn handle_input(&mut self, now: Instant, bytes: &[u8]) -> Result<(), DecodeError> {
        self.decoder.push(bytes);
        while let Some(item) = self.decoder.next_item()? {
            match item {
                Item::Head { head, has_body } => self.handle_head(now, *head, has_body),
                Item::Body(bytes) => self.handle_body(bytes),
                Item::End(flag) => self.handle_end(flag),
            }
        }
        Ok(())
    }

    fn handle_head(&mut self, now: Instant, head: Head, has_body: bool) {
        let method = match &head.start {
            Start::Response { code, .. } => {
                let code = *code;
                self.handle_response(now, &head.transaction, code);
                self.current = None;
                return;
            }
            Start::Request(method) => method.clone(),
        };
        let opened = match method {
            _ if !self.is_ours(&head) => Err(status::NO_SUCH_SESSION),
            Method::Send => self.open(&head, has_body),
            Method::Report => {
                // A report is never answered (7.1.2).
                if self.handle_report(&head).is_err() {
                    tracing::debug!("malformed MSRP report");
                }
                self.current = None;
                return;
            }
            Method::Other(_) => Err(status::UNKNOWN_METHOD),
        };
        self.current = Some(match opened {
            Ok(message) => Current {
                head,
                status: status::OK,
                message,
            },
            Err(status) => Current {
                head,
                status,
                message: None,
            },
        });
    }

    /// Whether a request is for this session and from its other end (7.3).
    fn is_ours(&self, head: &Head) -> bool {
        let to_us = matches!(&head.to_path[..], [to] if to.is_same(&self.local));
        let end = |path: &[MsrpUri]| path.last().cloned();
        to_us
            && end(&head.from_path)
                .zip(end(&self.remote))
                .is_some_and(|(from, peer)| from.is_same(&peer))
    }

    /// Finds the message of a chunk, or begins it. An error is the status to answer with.
    fn open(&mut self, head: &Head, has_body: bool) -> Result<Option<(String, u64)>, u16> {
        let bad = |_: Malformed| status::BAD_REQUEST;
        let name = head.message_id().map_err(bad)?.to_owned();
        let range = head.byte_range().map_err(bad)?;
        if !has_body {
            // It only says that the peer is there.
            return Ok(None);
        }
        let content_type = head.header("Content-Type").ok_or(status::BAD_REQUEST)?;
        if !self.config.accepts(content_type) {
            return Err(status::UNSUPPORTED_MEDIA_TYPE);
        }
        let offset = range.start - 1;
        let end = range.total.unwrap_or_else(|| range.end.unwrap_or(offset));
        if end.max(offset) > self.config.max_message {
            self.refuse(&name);
            return Err(status::STOP);
        }
        if !self.incoming.contains_key(&name) {
            if self.incoming.len() >= limits::INCOMING {
                return Err(status::STOP);
            }
            let yes = |value: &str| value.eq_ignore_ascii_case("yes");
            let message = Incoming {
                coverage: Coverage::default(),
                total: range.total,
                ended: false,
                report: head.header("Success-Report").is_some_and(yes),
                from: head.from_path.clone(),
            };
            self.incoming.insert(name.clone(), message);
            self.events.push_back(Event::Started {
                message: name.clone(),
                content_type: content_type.to_owned(),
                total: range.total,
            });
        }
        Ok(Some((name, offset)))
    }

    /// Forgets a message that comes in.
    fn refuse(&mut self, name: &str) {
        if self.incoming.remove(name).is_some() {
            let message = name.to_owned();
            self.events.push_back(Event::Aborted { message });
        }
    }

    fn handle_body(&mut self, bytes: Vec<u8>) {
        let Some(current) = &mut self.current else {
            return;
        };
        let Some((name, offset)) = &mut current.message else {
            return;
        };
        let Some(message) = self.incoming.get_mut(name) else {
            return;
        };
        let end = *offset + bytes.len() as u64;
        let limit = message.total.unwrap_or(self.config.max_message);
        if end > limit || message.coverage.add(*offset, end).is_err() {
            current.status = status::STOP;
            if let Some((name, _)) = current.message.take() {
                self.refuse(&name);
            }
            return;
        }
        self.events.push_back(Event::Data {
            message: name.clone(),
            offset: *offset,
            bytes,
        });
        *offset = end;
    }

    fn handle_end(&mut self, flag: Flag) {
        let Some(current) = self.current.take() else {
            return;
        };
        // 7.1.1: "yes", which is the default, wants every response, "partial" only refusals, "no" none.
        let wants = match current.head.header("Failure-Report") {
            Some(value) if value.eq_ignore_ascii_case("no") => false,
            Some(value) if value.eq_ignore_ascii_case("partial") => current.status != status::OK,
            _ => true,
        };
        if wants {
            let response = Chunk::bare(current.head.response(current.status));
            self.transmits.push_back(response.encode());
        }
        let Some((name, end)) = current.message else {
            return;
        };
        match flag {
            Flag::More => {}
            Flag::Abort => return self.refuse(&name),
            Flag::End => {
                if let Some(message) = self.incoming.get_mut(&name) {
                    message.ended = true;
                    message.total.get_or_insert(end);
                }
            }
        }
        self.complete(name);
    }

    fn complete(&mut self, name: String) {
        let Some(message) = self.incoming.get(&name) else {
            return;
        };
        let Some(size) = message
            .total
            .filter(|total| message.ended && message.coverage.is_complete(*total))
        else {
            return;
        };
        let Some(message) = self.incoming.remove(&name) else {
            return;
        };
        if message.report {
            let range = ByteRange {
                start: 1,
                end: Some(size),
                total: Some(size),
            };
            let transaction = self.random.token();
            let head = Head::request(Method::Report, transaction, &message.from, &self.local)
                .with("Message-ID", name.clone())
                .with("Byte-Range", range.to_string())
                .with("Status", "000 200 OK");
            self.transmits.push_back(Chunk::bare(head).encode());
        }
        self.events.push_back(Event::Received {
            message: name,
            size,
        });
    }

    fn handle_response(&mut self, now: Instant, transaction: &str, code: u16) {
        let Some(answered) = self.transactions.remove(transaction) else {
            return;
        };
        let id = answered.message;
        if code != status::OK {
            self.fail(now, id, code);
            return;
        }
        if let Some(message) = self.outgoing.get_mut(&id) {
            // As many gaps as transactions, which are fewer than allowed.
            let _ = message.answered.add(answered.start, answered.end);
            message.accepted = message.answered.len();
            if message.total == 0 {
                message.accepted = 1;
            }
            let bytes = message.answered.len();
            self.events.push_back(Event::Accepted { id, bytes });
        }
        self.settle(id);
        self.pump(now);
    }

    fn settle(&mut self, id: MessageId) {
        if self.outgoing.get(&id).is_some_and(Outgoing::is_delivered) {
            self.outgoing.remove(&id);
            self.events.push_back(Event::Delivered { id });
        }
    }

    fn fail(&mut self, now: Instant, id: MessageId, code: u16) {
        self.transactions.retain(|_, t| t.message != id);
        if self.outgoing.remove(&id).is_some() {
            self.events.push_back(Event::Failed { id, status: code });
        }
        self.pump(now);
    }

    fn handle_report(&mut self, head: &Head) -> Result<(), Malformed> {
        let name = head.message_id()?;
        let code = head.report_status()?;
        let range = head.byte_range()?;
        let Some((&id, message)) = self.outgoing.iter_mut().find(|(_, m)| m.name == name) else {
            return Ok(());
        };
        if code != status::OK {
            self.transactions.retain(|_, t| t.message != id);
            self.outgoing.remove(&id);
            self.events.push_back(Event::Failed { id, status: code });
            return Ok(());
        }
        let end = range.end.unwrap_or(message.total).min(message.total);
        let noted = if message.total == 0 {
            message.reported.add(0, 1)
        } else {
            message.reported.add(range.start - 1, end)
        };
        if noted.is_err() {
            tracing::debug!("MSRP report with too many gaps");
        }
        self.settle(id);
        Ok(())
    }

    /// Ends the messages whose chunks were not answered in time. Harmless when called early.
    pub fn handle_timeout(&mut self, now: Instant) {
        let late = |t: &&Transaction| t.give_up_at <= now;
        while let Some(id) = self.transactions.values().find(late).map(|t| t.message) {
            self.fail(now, id, status::TIMEOUT);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        // No more than `limits::TRANSACTIONS`.
        self.transactions.values().map(|t| t.give_up_at).min()
    }

    /// The next bytes for the connection.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.transmits.pop_front()
    }

    /// The next event for the owner.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether every message of ours is over.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.outgoing.is_empty()
    }
}
