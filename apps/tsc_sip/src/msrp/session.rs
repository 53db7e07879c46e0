//! One session: messages to chunks and back.

mod receiving;
mod sending;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt,
    time::{Duration, Instant},
};

pub use sending::SendError;

use receiving::{Current, Incoming};
use sending::{Outgoing, Transaction};

use super::{Chunk, DecodeError, Decoder, Head, Item, Method, MsrpUri, status};
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
