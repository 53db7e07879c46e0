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
    header,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use sha2::{Digest, Sha256};
use tokio::{sync::Semaphore, task::JoinHandle};

use super::{REPR_DIGEST, digest_field};
use crate::{
    net::{InnerListener, is_fatal},
    pattern,
};

/// Most that `/bytes/N` gives.
pub const MAX_BYTES: u64 = 100_000_000;
/// Connections at the same time; further ones wait to be accepted.
const CONNECTIONS: usize = 256;
/// How long a request's head may take, also on a connection that waits for its next one.
const HEAD_TIME: Duration = Duration::from_secs(30);
/// Bytes of a frame.
const FRAME: u64 = 16_384;

/// A running HTTP server; dropping it closes it with all its connections.
#[derive(Debug)]
pub struct HttpServer {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl HttpServer {
    /// Takes a listener and starts its task.
    ///
    /// # Errors
    ///
    /// The listener does not know its address.
    pub fn start<L: InnerListener>(listener: L) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let task = tokio::spawn(serve(listener));
        Ok(Self { address, task })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve<L: InnerListener>(listener: L) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = tokio::task::JoinSet::new();
    // Ends only with an error: never closed.
    while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
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
        connections.spawn(async move {
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIME)
                .serve_connection(TokioIo::new(stream), service_fn(answer));
            if let Err(error) = served.await {
                tracing::debug!(%peer, %error, "HTTP connection");
            }
            drop(slot);
        });
    }
}

type Answer = Response<Either<Full<Bytes>, Pattern>>;

async fn answer(request: Request<Incoming>) -> Result<Answer, Infallible> {
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
    if size > MAX_BYTES {
        return Ok(text(StatusCode::PAYLOAD_TOO_LARGE, "too much\n"));
    }
    // The hash stands before the content.
    let hashed = tokio::task::spawn_blocking(move || {
        let mut hash = Sha256::new();
        pattern::each_piece(size, |piece| hash.update(piece));
        hash.finalize()
    });
    let Ok(hash) = hashed.await else {
        // The runtime is going down.
        return Ok(text(StatusCode::SERVICE_UNAVAILABLE, ""));
    };
    let mut response = Response::new(Either::Right(Pattern { at: 0, size }));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/octet-stream"),
    );
    // Base64 is always a valid value.
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
    size: u64,
}

impl Body for Pattern {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let left = self.size - self.at;
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
        self.at == self.size
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.size - self.at)
    }
}
