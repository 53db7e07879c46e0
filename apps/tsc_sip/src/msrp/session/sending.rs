//! Messages of ours: chunks that go out, and the responses and reports that come back for them.

use std::{collections::VecDeque, time::Instant};

use super::{Event, MessageId, Session};
use crate::msrp::{
    ByteRange, Chunk, Coverage, Flag, Head, Malformed, Method, limits, message::end_line, status,
};

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
pub(super) struct Outgoing {
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
pub(super) struct Transaction {
    pub(super) message: MessageId,
    start: u64,
    end: u64,
    pub(super) give_up_at: Instant,
}

impl Session {
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

    pub(super) fn handle_response(&mut self, now: Instant, transaction: &str, code: u16) {
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

    pub(super) fn fail(&mut self, now: Instant, id: MessageId, code: u16) {
        self.transactions.retain(|_, t| t.message != id);
        if self.outgoing.remove(&id).is_some() {
            self.events.push_back(Event::Failed { id, status: code });
        }
        self.pump(now);
    }

    pub(super) fn handle_report(&mut self, head: &Head) -> Result<(), Malformed> {
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
}
