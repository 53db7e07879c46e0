//! The server: test data of any length.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http_body_util::{Either, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Bytes, Frame, Incoming, SizeHint},
    header::{self, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::task::JoinSet;

use super::{REPR_DIGEST, digest_field, hashes::Hashes, range::Range};
use crate::{
    net::{InnerListener, Seats, is_fatal},
    pattern,
};

/// Most that `/bytes/N` gives.
pub const MAX_BYTES: u64 = 100_000_000;
/// Connections at the same time, and those of one address; see [`shares`](crate::shares).
const CONNECTIONS: usize = 512;
const CONNECTIONS_PER_SOURCE: usize = 256;
/// How long a request's head may take, also on a connection that waits for its next one.
const HEAD_TIME: Duration = Duration::from_secs(30);
/// How long a peer may take nothing of an answer.
const WRITE_TIME: Duration = Duration::from_secs(30);
/// Bytes of a frame.
const FRAME: u64 = 16_384;

/// A running HTTP server; dropping it closes it with all its connections.
#[derive(Debug)]
pub struct HttpServer {
    addresses: Vec<SocketAddr>,
    /// A task for each listener; aborted when dropped.
    _tasks: JoinSet<()>,
}

impl HttpServer {
    /// Takes listeners and starts their tasks.
    ///
    /// # Errors
    ///
    /// A listener does not know its address.
    pub fn start<L: InnerListener>(listeners: Vec<L>) -> io::Result<Self> {
        let shared = Shared {
            seats: Seats::new(CONNECTIONS, CONNECTIONS_PER_SOURCE),
            hashes: Arc::new(Hashes::new(MAX_BYTES)),
        };
        let addresses: io::Result<_> = listeners.iter().map(L::local_addr).collect();
        let addresses = addresses?;
        let mut tasks = JoinSet::new();
        for listener in listeners {
            tasks.spawn(serve(listener, shared.clone()));
        }
        Ok(Self {
            addresses,
            _tasks: tasks,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

/// What all connections have in common.
#[derive(Clone, Debug)]
struct Shared {
    seats: Seats,
    hashes: Arc<Hashes>,
}

async fn serve<L: InnerListener>(listener: L, shared: Shared) {
    let Shared { seats, hashes } = shared;
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        // The one line: a `tokio::net::TcpListener` is accepted from in the same way.
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) if is_fatal(&error) => {
                tracing::debug!(%error, "HTTP listener closed");
                return;
            }
            Err(error) => {
                tracing::debug!(%error, "HTTP listener");
                tokio::task::yield_now().await;
                continue;
            }
        };
        let Some(mut seat) = seats.take(peer.ip()) else {
            tracing::debug!(%peer, "HTTP connection refused: there are too many");
            continue;
        };
        let hashes = Arc::clone(&hashes);
        connections.spawn(async move {
            let stream = TokioIo::new(seat.watch(stream, WRITE_TIME));
            let answer = |request| answer(request, Arc::clone(&hashes));
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIME)
                .serve_connection(stream, service_fn(answer));
            tokio::select! {
                served = served => if let Err(error) = served {
                    tracing::debug!(%peer, %error, "HTTP connection");
                },
                () = seat.evicted() => tracing::debug!(%peer, "HTTP connection makes room for another"),
            }
        });
    }
}

type Answer = Response<Either<Full<Bytes>, Pattern>>;

async fn answer(request: Request<Incoming>, hashes: Arc<Hashes>) -> Result<Answer, Infallible> {
    let path = request.uri().path();
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Ok(text(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only\n"));
    }
    if path == "/" {
        return Ok(text(
            StatusCode::OK,
            "/bytes/N gives N bytes of test data\n",
        ));
    }
    let wanted = path.strip_prefix("/bytes/").map(str::parse::<u64>);
    let Some(Ok(size)) = wanted else {
        return Ok(text(StatusCode::NOT_FOUND, "no such thing\n"));
    };
    // What is longer than all that is hashed.
    let Some(hash) = hashes.of(size).await else {
        return Ok(text(StatusCode::PAYLOAD_TOO_LARGE, "too much\n"));
    };
    // Ranges are defined for GET only (RFC 9110 14.2).
    let field = request.headers().get(header::RANGE);
    let field = field.filter(|_| *request.method() == Method::GET);
    let range = field.map_or(Range::Whole, |field| {
        Range::parse(field.to_str().unwrap_or_default(), size)
    });
    let (status, at, end) = match range {
        Range::Whole => (StatusCode::OK, 0, size),
        Range::Part { at, end } => (StatusCode::PARTIAL_CONTENT, at, end),
        Range::Nowhere => (StatusCode::RANGE_NOT_SATISFIABLE, 0, 0),
    };
    let mut response = match range {
        Range::Nowhere => text(status, ""),
        Range::Whole | Range::Part { .. } => Response::new(Either::Right(Pattern { at, end })),
    };
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let content_range = match range {
        Range::Whole => None,
        Range::Part { at, end } => Some(format!("bytes {at}-{}/{size}", end - 1)),
        Range::Nowhere => Some(format!("bytes */{size}")),
    };
    // Digits and Base64 are always valid values. The digest is that of the whole (RFC 9530 3).
    if let Some(Ok(value)) = content_range.map(|range| range.parse()) {
        headers.insert(header::CONTENT_RANGE, value);
    }
    if let Ok(value) = digest_field(&hash).parse() {
        headers.insert(REPR_DIGEST, value);
    }
    Ok(response)
}

fn text(status: StatusCode, text: &'static str) -> Answer {
    let mut response = Response::new(Either::Left(Full::new(Bytes::from_static(text.as_bytes()))));
    *response.status_mut() = status;
    response
}

/// A body that is made as it is sent.
#[derive(Debug)]
struct Pattern {
    at: u64,
    end: u64,
}

impl Body for Pattern {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let left = self.end - self.at;
        if left == 0 {
            return Poll::Ready(None);
        }
        let length = left.min(FRAME);
        let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
        pattern::fill(self.at, &mut bytes);
        self.at += length;
        Poll::Ready(Some(Ok(Frame::data(bytes.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.at == self.end
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.end - self.at)
    }
}
