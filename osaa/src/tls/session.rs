//! One end of one TLS connection: bytes in, plaintext and bytes out.

use std::{fmt, sync::Arc};

use bytes::BytesMut;
use rustls::{
    CommonState, Error, HandshakeKind, ProtocolVersion,
    client::UnbufferedClientConnection,
    server::UnbufferedServerConnection,
    unbuffered::{
        ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic,
    },
};
use rustls_pki_types::ServerName;

use super::TlsError;
use crate::{
    cert::{ClientSecurity, PeerIdentity, ServerSecurity},
    trace::ConnectionSecrets,
};

/// Longest record on the wire: header, 2^14 bytes, and what TLS 1.2 may add (RFC 5246, 6.2.3).
const MAX_RECORD: usize = 5 + (1 << 14) + 2048;

/// Least buffer that [`TlsSession::open`] works with: half of it takes records, half plaintext.
pub(crate) const MIN_RECV_BUFFER: usize = 2 * (MAX_RECORD + 1024);

/// Most input that a server keeps of an unfinished handshake: a ClientHello and a client's chain. Nothing of it is
/// authenticated (spec 8.3).
const SERVER_HANDSHAKE_LIMIT: usize = 32 * 1024;

/// The same for a client, whose server may have a long chain; rustls allows messages of 64 KiB.
const CLIENT_HANDSHAKE_LIMIT: usize = 96 * 1024;

/// Plaintext of one record, at most (RFC 8446, 5.1).
const MAX_FRAGMENT: usize = 1 << 14;

/// Room for one sealed fragment: header, explicit nonce or content type, tag.
const SEAL_OVERHEAD: usize = 5 + 8 + 1 + 16;

/// What a handshake agreed on.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TlsInfo {
    /// The peer's certificate, if it presented one. Verified, unless verification was switched off.
    pub peer: Option<Arc<PeerIdentity>>,
    /// Whether both ends agreed on ALPN `tscf`; false if one did not offer it.
    pub alpn: bool,
    /// "TLSv1.2" or "TLSv1.3".
    pub version: &'static str,
    /// The cipher suite's name, for logs.
    pub cipher: &'static str,
    /// An earlier session was resumed: nobody showed a certificate this time.
    pub resumed: bool,
}

/// Which end this is.
pub(crate) enum Role<'a> {
    Client(&'a ClientSecurity, ServerName<'static>),
    Server(&'a ServerSecurity),
}

/// See the module. After an error the session only drains what is to be written (the alert).
pub(crate) struct TlsSession {
    connection: Connection,
    /// Input that the connection has not finished with: part of a record, or records of a partial
    /// handshake message. It must be handed in again at the front of the next input, whole.
    tail: Vec<u8>,
    /// Plaintext that arrived with the end of the handshake.
    early: Vec<u8>,
    peer_closed: bool,
    /// Set by the first error. The connection must not be stepped any more.
    failed: bool,
}

enum Connection {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
}

/// Both connection types by one name.
trait Records {
    type Data;
    /// Whether the next step hands out bytes to be sent, before it looks at its input.
    fn has_output(&self) -> bool;
    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Records for UnbufferedClientConnection {
    type Data = rustls::client::ClientConnectionData;
    fn has_output(&self) -> bool {
        self.wants_write()
    }
    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }
}

impl Records for UnbufferedServerConnection {
    type Data = rustls::server::ServerConnectionData;
    fn has_output(&self) -> bool {
        self.wants_write()
    }
    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }
}

/// What is done once the input is used up and data may be sent.
enum Purpose<'a> {
    Open,
    Seal(&'a [u8]),
    Close,
}

impl TlsSession {
    /// `secrets` is where the secrets of this one connection go, if anybody asked for them.
    pub(crate) fn new(
        role: &Role<'_>,
        secrets: Option<&Arc<ConnectionSecrets>>,
    ) -> Result<Self, TlsError> {
        let library = |e: Error| TlsError::Library(e.to_string());
        let connection = match role {
            Role::Client(security, name) => {
                let mut config = Arc::clone(security.config());
                if let Some(secrets) = secrets {
                    Arc::make_mut(&mut config).key_log = Arc::<ConnectionSecrets>::clone(secrets);
                }
                let connection = UnbufferedClientConnection::new(config, name.clone());
                Connection::Client(Box::new(connection.map_err(library)?))
            }
            Role::Server(security) => {
                let mut config = Arc::clone(security.config());
                if let Some(secrets) = secrets {
                    Arc::make_mut(&mut config).key_log = Arc::<ConnectionSecrets>::clone(secrets);
                }
                let connection = UnbufferedServerConnection::new(config);
                Connection::Server(Box::new(connection.map_err(library)?))
            }
        };
        Ok(Self {
            connection,
            tail: Vec::new(),
            early: Vec::new(),
            peer_closed: false,
            failed: false,
        })
    }

    fn state(&self) -> &CommonState {
        match &self.connection {
            Connection::Client(c) => c,
            Connection::Server(c) => c,
        }
    }

    /// What was agreed on; for a session whose handshake has finished.
    pub(crate) fn info(&self) -> TlsInfo {
        let state = self.state();
        TlsInfo {
            peer: state
                .peer_certificates()
                .and_then(PeerIdentity::from_chain)
                .map(Arc::new),
            alpn: state.alpn_protocol().is_some(),
            version: match state.protocol_version() {
                Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
                Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
                _ => "unknown",
            },
            cipher: state
                .negotiated_cipher_suite()
                .and_then(|suite| suite.suite().as_str())
                .unwrap_or("unknown"),
            resumed: state.handshake_kind() == Some(HandshakeKind::Resumed),
        }
    }

    /// True once the peer has said that it sends nothing more (close_notify).
    pub(crate) fn is_peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// Bytes of memory held for input.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.tail.capacity() + self.early.capacity()
    }

    /// Advances the handshake by `input`, appending what is to be sent to `wire`. True when it has finished;
    /// plaintext that followed at once is kept for [`Self::take_early`].
    pub(crate) fn handshake(
        &mut self,
        input: &[u8],
        wire: &mut BytesMut,
    ) -> Result<bool, TlsError> {
        let limit = match self.connection {
            Connection::Client(_) => CLIENT_HANDSHAKE_LIMIT,
            Connection::Server(_) => SERVER_HANDSHAKE_LIMIT,
        };
        if self.tail.len().saturating_add(input.len()) > limit {
            return Err(TlsError::HandshakeTooLarge { limit });
        }
        self.tail.extend_from_slice(input);
        self.run_on_tail(wire, &Purpose::Open)?;
        Ok(!self.state().is_handshaking())
    }

    /// Moves plaintext that waits inside to the front of `out` and returns its length.
    pub(crate) fn take_early(&mut self, out: &mut [u8]) -> usize {
        let len = self.early.len().min(out.len());
        if let (Some(to), Some(from)) = (out.get_mut(..len), self.early.get(..len)) {
            to.copy_from_slice(from);
        }
        self.early.drain(..len);
        if self.early.is_empty() {
            self.early = Vec::new();
        }
        len
    }

    /// Copies the kept input to the front of `buffer` and returns its length, if after it there is room to read.
    /// Otherwise (a long handshake message, which is rare after the handshake) use [`Self::open_more`].
    pub(crate) fn load_tail(&self, buffer: &mut [u8]) -> Option<usize> {
        let len = self.tail.len();
        if len >= buffer.len() {
            return None;
        }
        buffer.get_mut(..len)?.copy_from_slice(&self.tail);
        Some(len)
    }

    /// Opens the records in `input`, which begins with what [`Self::load_tail`] put there. Plaintext goes to the
    /// front of `plain`, which must be at least as long as `input`; answers of the protocol go to `wire`. Returns the
    /// length of the plaintext. In-place: `input` is overwritten.
    pub(crate) fn open(
        &mut self,
        input: &mut [u8],
        plain: &mut [u8],
        wire: &mut BytesMut,
    ) -> Result<usize, TlsError> {
        let mut written = 0usize;
        let early = &mut self.early;
        let mut sink = |payload: &[u8]| {
            let room = written
                .checked_add(payload.len())
                .and_then(|end| plain.get_mut(written..end));
            match room {
                Some(room) => {
                    room.copy_from_slice(payload);
                    written += payload.len();
                }
                // Plaintext is shorter than its records, so this is for callers with odd buffers only.
                None => early.extend_from_slice(payload),
            }
        };
        guard(self.failed)?;
        let consumed = self
            .connection
            .run(
                input,
                wire,
                &mut sink,
                &Purpose::Open,
                &mut self.peer_closed,
            )
            .inspect_err(|_| self.failed = true)?;
        let rest = input.get(consumed..).unwrap_or_default();
        self.tail.clear();
        if rest.is_empty() {
            // An idle stream holds no buffer.
            self.tail = Vec::new();
        } else {
            self.tail.extend_from_slice(rest);
        }
        Ok(written)
    }

    /// Like [`Self::open`] for input that does not fit the caller's buffer together with the tail.
    pub(crate) fn open_more(&mut self, input: &[u8], wire: &mut BytesMut) -> Result<(), TlsError> {
        if self.tail.len().saturating_add(input.len()) > CLIENT_HANDSHAKE_LIMIT {
            return Err(TlsError::HandshakeTooLarge {
                limit: CLIENT_HANDSHAKE_LIMIT,
            });
        }
        self.tail.extend_from_slice(input);
        self.run_on_tail(wire, &Purpose::Open)
    }

    /// Seals `plain` (at most [`MAX_FRAGMENT`] bytes make one record) behind what is in `wire`.
    pub(crate) fn seal(&mut self, plain: &[u8], wire: &mut BytesMut) -> Result<(), TlsError> {
        self.run_on_tail(wire, &Purpose::Seal(plain))
    }

    /// Appends close_notify to `wire`, if the handshake has come that far.
    pub(crate) fn close(&mut self, wire: &mut BytesMut) -> Result<(), TlsError> {
        self.run_on_tail(wire, &Purpose::Close)
    }

    /// Runs with the tail as input. The connection indexes into it, so it must never see less than it left.
    fn run_on_tail(&mut self, wire: &mut BytesMut, purpose: &Purpose<'_>) -> Result<(), TlsError> {
        let early = &mut self.early;
        let mut sink = |payload: &[u8]| early.extend_from_slice(payload);
        guard(self.failed)?;
        let consumed = self
            .connection
            .run(
                &mut self.tail,
                wire,
                &mut sink,
                purpose,
                &mut self.peer_closed,
            )
            .inspect_err(|_| self.failed = true)?;
        self.tail.drain(..consumed.min(self.tail.len()));
        if self.tail.is_empty() {
            self.tail = Vec::new();
        }
        Ok(())
    }
}

impl fmt::Debug for TlsSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSession")
            .field("handshaking", &self.state().is_handshaking())
            .field("peer_closed", &self.peer_closed)
            .finish_non_exhaustive()
    }
}

fn guard(failed: bool) -> Result<(), TlsError> {
    if failed {
        return Err(TlsError::Library("used after a failure".to_owned()));
    }
    Ok(())
}

impl Connection {
    fn run(
        &mut self,
        input: &mut [u8],
        wire: &mut BytesMut,
        plain: &mut dyn FnMut(&[u8]),
        purpose: &Purpose<'_>,
        peer_closed: &mut bool,
    ) -> Result<usize, TlsError> {
        match self {
            Self::Client(c) => run(&mut **c, input, wire, plain, purpose, peer_closed)
                .map_err(|e| TlsError::from_rustls(e, "server")),
            Self::Server(c) => run(&mut **c, input, wire, plain, purpose, peer_closed)
                .map_err(|e| TlsError::from_rustls(e, "client")),
        }
    }
}

/// Steps the connection until it needs more input, then does what `purpose` says. Returns how much of the input
/// was used up. On an error the alert, if any, has been appended to `wire`.
fn run<C: Records>(
    connection: &mut C,
    input: &mut [u8],
    wire: &mut BytesMut,
    plain: &mut dyn FnMut(&[u8]),
    purpose: &Purpose<'_>,
    peer_closed: &mut bool,
) -> Result<usize, Error> {
    let mut consumed = 0usize;
    loop {
        let rest = input.get_mut(consumed..).unwrap_or_default();
        let UnbufferedStatus { discard, state } = connection.process(rest);
        let mut discard = discard;
        let state = match state {
            Ok(state) => state,
            Err(error) => {
                encode_alert(
                    connection,
                    input.get_mut(consumed.saturating_add(discard)..),
                    wire,
                );
                return Err(error);
            }
        };
        let is_final = match state {
            ConnectionState::EncodeTlsData(mut data) => {
                encode(&mut data, wire)?;
                false
            }
            ConnectionState::TransmitTlsData(data) => {
                data.done();
                false
            }
            ConnectionState::ReadTraffic(mut traffic) => {
                while let Some(record) = traffic.next_record() {
                    let record = record?;
                    plain(record.payload);
                    discard = discard.saturating_add(record.discard);
                }
                false
            }
            ConnectionState::PeerClosed => {
                *peer_closed = true;
                false
            }
            ConnectionState::WriteTraffic(traffic) => {
                finish(traffic, wire, purpose)?;
                true
            }
            ConnectionState::BlockedHandshake | ConnectionState::Closed => true,
            ConnectionState::ReadEarlyData(_) => {
                return Err(Error::General(
                    "0-RTT data although none was allowed".into(),
                ));
            }
            other => return Err(Error::General(format!("unknown state {other:?}"))),
        };
        consumed = consumed.saturating_add(discard);
        if is_final {
            return Ok(consumed);
        }
    }
}

/// Appends to `wire` what was to be sent when an error came up: perhaps part of a handshake, then the alert. There must
/// be no step once that is done, as it would read on behind the error.
fn encode_alert<C: Records>(connection: &mut C, rest: Option<&mut [u8]>, wire: &mut BytesMut) {
    let rest = rest.unwrap_or_default();
    while connection.has_output() {
        let Ok(ConnectionState::EncodeTlsData(mut data)) = connection.process(rest).state else {
            return;
        };
        // The connection is over; what is wrong with it is known already.
        let _unsent = encode(&mut data, wire);
    }
}

fn encode<D>(data: &mut EncodeTlsData<'_, D>, wire: &mut BytesMut) -> Result<(), Error> {
    append(wire, SEAL_OVERHEAD + 256, |room| match data.encode(room) {
        Ok(len) => Ok(len),
        Err(EncodeError::InsufficientSize(e)) => Err(Some(e.required_size)),
        Err(EncodeError::AlreadyEncoded) => Err(None),
    })
}

fn finish<D>(
    mut traffic: WriteTraffic<'_, D>,
    wire: &mut BytesMut,
    purpose: &Purpose<'_>,
) -> Result<(), Error> {
    let encrypted = |result| match result {
        Ok(len) => Ok(len),
        Err(EncryptError::InsufficientSize(e)) => Err(Some(e.required_size)),
        Err(EncryptError::EncryptExhausted) => Err(None),
    };
    match purpose {
        Purpose::Open => Ok(()),
        Purpose::Seal(plain) => {
            let records = plain.len() / MAX_FRAGMENT + 1;
            let estimate = plain.len().saturating_add(records * SEAL_OVERHEAD);
            append(wire, estimate, |room| {
                encrypted(traffic.encrypt(plain, room))
            })
        }
        Purpose::Close => append(wire, SEAL_OVERHEAD + 2, |room| {
            encrypted(traffic.queue_close_notify(room))
        }),
    }
}

/// Lets `write` fill room at the end of `wire`; it asks for more by `Err(Some(size))`.
fn append(
    wire: &mut BytesMut,
    estimate: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>,
) -> Result<(), Error> {
    let start = wire.len();
    let mut size = estimate;
    // The second size is the library's own, so two attempts do.
    for _ in 0..2 {
        wire.resize(start.saturating_add(size), 0);
        match write(wire.get_mut(start..).unwrap_or_default()) {
            Ok(len) => {
                wire.truncate(start.saturating_add(len));
                return Ok(());
            }
            Err(Some(required)) => size = required,
            Err(None) => break,
        }
    }
    wire.truncate(start);
    Err(Error::EncryptError)
}
