//! An open transport, with one question on it at a time.

use std::{
    future::poll_fn,
    io::IoSlice,
    net::SocketAddr,
    task::Poll,
    time::{Duration, Instant},
};

use tokio::time::timeout_at;
use tsc_osaa::{
    client::{ClientTransport, RECV_BUFFER, TransportKind},
    random::OsRandom,
};
use tsc_tpl::{Limits, Message, MessageBuilder, Sequence, StreamDecoder, Unit};

use crate::problem::{Kind, Problem};

/// First retransmission on datagram transports (spec 4); each further one doubles it.
const FIRST_REPEAT: Duration = Duration::from_millis(500);

/// Bytes of a stream's beginning that are kept, for telling what speaks there if it is not TSCF.
const BEGINNING: usize = 256;

pub(crate) struct Link {
    transport: ClientTransport,
    kind: TransportKind,
    /// On streams.
    decoder: Option<StreamDecoder>,
    beginning: Vec<u8>,
    sequence: Sequence,
    buf: Vec<u8>,
}

/// How often a question is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    Once,
    /// On datagram transports.
    Repeat,
}

impl Link {
    pub(crate) fn new(transport: ClientTransport) -> Self {
        let kind = transport.kind();
        let mut random = [0; 4];
        OsRandom.fill(&mut random);
        Self {
            transport,
            kind,
            decoder: kind.is_stream().then(|| StreamDecoder::new(Limits::WIDEST)),
            beginning: Vec::new(),
            sequence: Sequence(u32::from_be_bytes(random)),
            buf: vec![0; RECV_BUFFER],
        }
    }

    pub(crate) const fn kind(&self) -> TransportKind {
        self.kind
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.transport.local_addr()
    }

    pub(crate) fn peer_addr(&self) -> SocketAddr {
        self.transport.peer_addr()
    }

    pub(crate) const fn transport(&self) -> &ClientTransport {
        &self.transport
    }

    /// The number of the next request.
    pub(crate) const fn next_sequence(&mut self) -> Sequence {
        self.sequence = self.sequence.next();
        self.sequence
    }

    /// Datagrams that were too long to be sent at all.
    pub(crate) fn too_big(&self) -> u64 {
        if let ClientTransport::Datagram(datagram) = &self.transport {
            datagram.stats().too_big + datagram.too_long()
        } else {
            0
        }
    }

    /// Whether what came first on a stream is an HTTP answer.
    pub(crate) fn is_http(&self) -> bool {
        self.beginning.starts_with(b"HTTP/")
    }

    /// Sends a request and waits for what `read` makes of the answer to it; other messages are passed over.
    pub(crate) async fn ask<T>(
        &mut self,
        request: &MessageBuilder<'_>,
        ask: Ask,
        until: Instant,
        mut read: impl FnMut(&Message<'_>) -> Option<T>,
    ) -> Result<T, Problem> {
        let mut bytes = Vec::with_capacity(request.encoded_len());
        if self.kind.is_stream() {
            request.encode(&mut bytes)
        } else {
            request.encode_datagram(&mut bytes)
        }
        .map_err(|error| Problem::new(Kind::System, error.to_string()))?;
        let header = request.header();
        let start = Instant::now();
        let mut pause = FIRST_REPEAT;
        loop {
            let unit = [IoSlice::new(&bytes)];
            let sent = self.transport.send(&unit);
            match timeout_at(until.into(), sent).await {
                Ok(sent) => sent?,
                Err(_) => return Err(Problem::timeout(start.elapsed())),
            }
            let repeats = ask == Ask::Repeat && !self.kind.is_stream();
            let next = if repeats {
                until.min(Instant::now() + pause)
            } else {
                until
            };
            pause *= 2;
            loop {
                let answer = self.next(|message| {
                    let own = header.cm_type.response() == Some(message.cm_type())
                        && message.sequence() == header.sequence;
                    own.then(|| read(message)).flatten()
                });
                match timeout_at(next.into(), answer).await {
                    Ok(Ok(Some(answer))) => return Ok(answer),
                    Ok(Ok(None)) => {}
                    Ok(Err(problem)) => return Err(problem),
                    Err(_) if next < until => break,
                    Err(_) => return Err(Problem::timeout(start.elapsed())),
                }
            }
        }
    }

    /// The next piece of input: what `read` made of the first message in it that it wants.
    async fn next<T>(
        &mut self,
        mut read: impl FnMut(&Message<'_>) -> Option<T>,
    ) -> Result<Option<T>, Problem> {
        let Self {
            transport,
            decoder,
            beginning,
            buf,
            ..
        } = self;
        let len = poll_fn(|cx| match transport.poll_recv(cx, buf) {
            Poll::Ready(result) => Poll::Ready(result.map_err(Problem::from)),
            Poll::Pending if transport.is_refused() => Poll::Ready(Err(Problem::new(
                Kind::Refused,
                "refused: nobody listens there",
            ))),
            Poll::Pending => Poll::Pending,
        })
        .await?;
        let bytes = buf.get(..len).unwrap_or_default();
        let Some(decoder) = decoder else {
            let unit = Unit::decode_datagram(bytes, &Limits::WIDEST);
            // Noise, and packets for addresses that nobody uses.
            let Ok(Unit::Control(control)) = unit else {
                return Ok(None);
            };
            return Ok(control.parse().ok().and_then(|message| read(&message)));
        };
        let room = BEGINNING.saturating_sub(beginning.len());
        beginning.extend(bytes.iter().take(room));
        let mut feed = decoder.feed(bytes);
        let mut found = None;
        loop {
            match feed.next() {
                Ok(None) => return Ok(found),
                Ok(Some(Unit::Control(control))) if found.is_none() => {
                    found = control.parse().ok().and_then(|message| read(&message));
                }
                Ok(Some(_)) => {}
                Err(error) => {
                    return Err(Problem::new(
                        Kind::NotTscf,
                        format!("what answers does not speak TSCF: {error}"),
                    ));
                }
            }
        }
    }

    /// Ends the transport.
    pub(crate) async fn close(self, limit: Duration) {
        self.transport.close(limit).await;
    }
}
