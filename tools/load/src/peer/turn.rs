//! A TURN client (RFC 8656) as far as a load generator needs it: long-term credentials, one allocation, one channel to one
//! peer. Sans-IO. Allocations are not refreshed: they last ten minutes.

use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::{Duration, Instant};

use md5::{Digest, Md5};
use ring::hmac;
use tsc_osaa::random::OsRandom;

const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];

/// The one channel that is used.
const CHANNEL: [u8; 2] = [0x40, 0x00];

const ALLOCATE: u16 = 0x0003;
const CHANNEL_BIND: u16 = 0x0009;
const SUCCESS: u16 = 0x0100;
const ERROR: u16 = 0x0110;

const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;
const CHANNEL_NUMBER: u16 = 0x000c;
const XOR_PEER_ADDRESS: u16 = 0x0012;
const REALM: u16 = 0x0014;
const NONCE: u16 = 0x0015;
const REQUESTED_TRANSPORT: u16 = 0x0019;

/// A request is repeated after so long (RFC 8489, section 6.2.1, without growth).
const REPEAT: Duration = Duration::from_millis(500);

/// With so many errors the client gives up.
const PATIENCE: u32 = 5;

/// Longest message or channel data: what its length field can say.
const LONGEST: usize = 4 + 65_535 + 20;

/// Who asks for what.
#[derive(Debug)]
pub struct Account {
    /// Long-term credential.
    pub user: String,
    /// Its password.
    pub password: String,
    /// Where packets are relayed to.
    pub peer: SocketAddrV4,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Allocating,
    Binding,
    Ready,
    Failed,
}

/// See the module.
#[derive(Debug)]
pub struct TurnClient {
    account: Arc<Account>,
    state: State,
    id: [u8; 12],
    /// Told by the server with its first error.
    realm: Vec<u8>,
    nonce: Vec<u8>,
    key: Option<hmac::Key>,
    errors: u32,
    outgoing: Option<Vec<u8>>,
    repeat_at: Option<Instant>,
    /// The beginning of a message of a stream.
    partial: Vec<u8>,
}

impl TurnClient {
    /// A client that has not begun.
    #[must_use]
    pub const fn new(account: Arc<Account>) -> Self {
        Self {
            account,
            state: State::Waiting,
            id: [0; 12],
            realm: Vec::new(),
            nonce: Vec::new(),
            key: None,
            errors: 0,
            outgoing: None,
            repeat_at: None,
            partial: Vec::new(),
        }
    }

    /// The transport is there. May be said again.
    pub fn start(&mut self, now: Instant) {
        if self.state == State::Waiting {
            self.request(now, State::Allocating);
        }
    }

    /// Packets can be sent.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.state == State::Ready
    }

    /// Forgets the beginning of a message of another transport.
    pub fn reset(&mut self) {
        self.partial = Vec::new();
    }

    /// The next message to be sent.
    pub const fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.outgoing.take()
    }

    /// When [`Self::handle_timeout`] is due.
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<Instant> {
        self.repeat_at
    }

    /// Repeats what was not answered.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.repeat_at.is_some_and(|at| at <= now) {
            self.request(now, self.state);
        }
    }

    /// Puts the channel's header before a payload; on streams also padding behind it.
    pub fn wrap(&self, payload: &[u8], is_stream: bool, out: &mut Vec<u8>) {
        let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
        out.clear();
        out.extend_from_slice(&CHANNEL);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(payload);
        if is_stream {
            out.resize(out.len().next_multiple_of(4), 0);
        }
    }

    /// Takes a datagram; payloads of the channel go to `sink`. Whether it was something else.
    pub fn take(&mut self, now: Instant, datagram: &[u8], mut sink: impl FnMut(&[u8])) -> bool {
        match channel_data(datagram) {
            Some(payload) => {
                sink(payload);
                false
            }
            None => {
                self.message(now, datagram);
                true
            }
        }
    }

    /// Takes a piece of a stream; otherwise as [`Self::take`].
    pub fn feed(&mut self, now: Instant, bytes: &[u8], mut sink: impl FnMut(&[u8])) -> bool {
        let mut control = false;
        let mut whole = std::mem::take(&mut self.partial);
        let mut rest = if whole.is_empty() {
            bytes
        } else {
            whole.extend_from_slice(bytes);
            whole.as_slice()
        };
        while let Some((unit, after)) = split(rest) {
            control |= self.take(now, unit, &mut sink);
            rest = after;
        }
        if rest.len() <= LONGEST {
            self.partial = rest.to_vec();
        }
        control
    }

    fn message(&mut self, now: Instant, message: &[u8]) {
        let Some((head, attributes)) = message.split_first_chunk::<20>() else {
            return;
        };
        let [t0, t1, _, _, c0, c1, c2, c3, id @ ..] = *head;
        if [c0, c1, c2, c3] != COOKIE || id != self.id {
            return;
        }
        let waits_for = match self.state {
            State::Allocating => ALLOCATE,
            State::Binding => CHANNEL_BIND,
            State::Waiting | State::Ready | State::Failed => return,
        };
        let kind = u16::from_be_bytes([t0, t1]);
        if kind == waits_for | SUCCESS {
            match self.state {
                State::Allocating => self.request(now, State::Binding),
                State::Binding | State::Waiting | State::Ready | State::Failed => {
                    self.state = State::Ready;
                    self.repeat_at = None;
                }
            }
        } else if kind == waits_for | ERROR {
            // 401 and 438 bring what the next attempt needs; others will be the same again.
            self.errors += 1;
            for (name, value) in Attributes(attributes) {
                match name {
                    REALM => self.realm = value.to_vec(),
                    NONCE => self.nonce = value.to_vec(),
                    _ => {}
                }
            }
            let account = &self.account;
            let mut hash = Md5::new();
            hash.update(account.user.as_bytes());
            hash.update(b":");
            hash.update(&self.realm);
            hash.update(b":");
            hash.update(account.password.as_bytes());
            let secret = hash.finalize();
            self.key = Some(hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &secret));
            if self.errors < PATIENCE {
                self.request(now, self.state);
            } else {
                self.state = State::Failed;
                self.repeat_at = None;
            }
        }
    }

    fn request(&mut self, now: Instant, state: State) {
        OsRandom.fill(&mut self.id);
        let mut attributes = Attached::default();
        let kind = if state == State::Binding {
            let [a, b, c, d] = self.account.peer.ip().octets();
            let [e, f] = self.account.peer.port().to_be_bytes();
            let [w, x, y, z] = COOKIE;
            let address = [0, 1, e ^ w, f ^ x, a ^ w, b ^ x, c ^ y, d ^ z];
            let [n0, n1] = CHANNEL;
            attributes.add(CHANNEL_NUMBER, &[n0, n1, 0, 0]);
            attributes.add(XOR_PEER_ADDRESS, &address);
            CHANNEL_BIND
        } else {
            attributes.add(REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
            ALLOCATE
        };
        self.state = state;
        self.repeat_at = Some(now + REPEAT);
        if let Some(key) = &self.key {
            attributes.add(USERNAME, self.account.user.as_bytes());
            attributes.add(REALM, &self.realm);
            attributes.add(NONCE, &self.nonce);
            // The length that is signed includes the signature's.
            let mut signed = self.head(kind, attributes.0.len() + 24);
            signed.extend_from_slice(&attributes.0);
            attributes.add(MESSAGE_INTEGRITY, hmac::sign(key, &signed).as_ref());
        }
        let mut message = self.head(kind, attributes.0.len());
        message.extend_from_slice(&attributes.0);
        self.outgoing = Some(message);
    }

    fn head(&self, kind: u16, length: usize) -> Vec<u8> {
        let length = u16::try_from(length).unwrap_or(u16::MAX);
        let mut head = Vec::with_capacity(20 + usize::from(length));
        head.extend_from_slice(&kind.to_be_bytes());
        head.extend_from_slice(&length.to_be_bytes());
        head.extend_from_slice(&COOKIE);
        head.extend_from_slice(&self.id);
        head
    }
}

/// The payload, if this is data of the channel.
fn channel_data(unit: &[u8]) -> Option<&[u8]> {
    let (head, rest) = unit.split_first_chunk::<4>()?;
    let [n0, n1, l0, l1] = *head;
    if [n0, n1] != CHANNEL {
        return None;
    }
    rest.get(..u16::from_be_bytes([l0, l1]).into())
}

/// The first unit of a stream, and what comes after it; `None` if it is not all there.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let [n0, _, l0, l1] = *bytes.first_chunk::<4>()?;
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    let whole = if n0 & 0xc0 == 0x40 {
        (4 + length).next_multiple_of(4)
    } else {
        20 + length
    };
    bytes.split_at_checked(whole)
}

/// Attributes to be sent.
#[derive(Default)]
struct Attached(Vec<u8>);

impl Attached {
    fn add(&mut self, name: u16, value: &[u8]) {
        let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&name.to_be_bytes());
        self.0.extend_from_slice(&length.to_be_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

/// Attributes that were received.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (head, rest) = self.0.split_first_chunk::<4>()?;
        let [n0, n1, l0, l1] = *head;
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        let value = rest.get(..length)?;
        self.0 = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_be_bytes([n0, n1]), value))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn client() -> TurnClient {
        TurnClient::new(Arc::new(Account {
            user: "u".to_owned(),
            password: "p".to_owned(),
            peer: "127.0.0.1:9".parse().unwrap(),
        }))
    }

    fn answer(to: &[u8], kind: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut attached = Attached::default();
        for (name, value) in attributes {
            attached.add(*name, value);
        }
        let mut bytes = kind.to_be_bytes().to_vec();
        bytes.extend(u16::try_from(attached.0.len()).unwrap().to_be_bytes());
        bytes.extend(&to[4..20]);
        bytes.extend(attached.0);
        bytes
    }

    #[test]
    fn an_allocation_and_a_channel() {
        let now = Instant::now();
        let mut client = client();
        client.start(now);
        let first = client.poll_transmit().unwrap();
        client.start(now);
        assert!(client.poll_transmit().is_none(), "begun again");
        assert_eq!(first[..4], [0, 3, 0, 8]);
        let refused = answer(&first, ALLOCATE | ERROR, &[(REALM, b"r"), (NONCE, b"n")]);
        assert!(client.take(now, &refused, |_| {}));
        let second = client.poll_transmit().unwrap();
        let names: Vec<_> = Attributes(&second[20..]).map(|(name, _)| name).collect();
        assert_eq!(
            names,
            [
                REQUESTED_TRANSPORT,
                USERNAME,
                REALM,
                NONCE,
                MESSAGE_INTEGRITY
            ]
        );
        assert!(client.take(now, &answer(&second, ALLOCATE | SUCCESS, &[]), |_| {}));
        let third = client.poll_transmit().unwrap();
        assert_eq!(third[..2], CHANNEL_BIND.to_be_bytes());
        assert!(!client.is_ready());
        let bound = answer(&third, CHANNEL_BIND | SUCCESS, &[]);
        assert!(client.take(now, &bound, |_| {}));
        assert!(client.is_ready() && client.poll_timeout().is_none());
    }

    #[test]
    fn what_is_not_answered_is_repeated_and_errors_come_to_an_end() {
        let now = Instant::now();
        let mut client = client();
        client.start(now);
        assert!(client.poll_transmit().is_some());
        client.handle_timeout(now);
        assert!(client.poll_transmit().is_none(), "too early");
        client.handle_timeout(now + REPEAT);
        for _ in 0..PATIENCE {
            let request = client.poll_transmit().unwrap();
            client.take(now, &answer(&request, ALLOCATE | ERROR, &[]), |_| {});
        }
        assert!(client.poll_transmit().is_none() && client.poll_timeout().is_none());
    }

    proptest! {
        /// However a stream is cut, the same payloads come out.
        #[test]
        fn cuts_do_not_matter(lengths in prop::collection::vec(0usize..50, 0..20), piece in 1usize..60) {
            let (mut client, mut stream, mut unit) = (client(), Vec::new(), Vec::new());
            for &length in &lengths {
                client.wrap(&vec![7; length], true, &mut unit);
                stream.extend_from_slice(&unit);
            }
            let mut got = Vec::new();
            for piece in stream.chunks(piece) {
                client.feed(Instant::now(), piece, |payload| got.push(payload.len()));
            }
            prop_assert_eq!(got, lengths);
        }

        #[test]
        fn anything_may_come(bytes: Vec<u8>) {
            let mut client = client();
            client.start(Instant::now());
            client.take(Instant::now(), &bytes, |_| {});
            client.feed(Instant::now(), &bytes, |_| {});
        }
    }
}
