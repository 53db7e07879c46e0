//! The client: one GET, counted and checked.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use http_body_util::{BodyExt, Empty};
use hyper::{Request, StatusCode, body::Bytes, header};
use hyper_util::rt::TokioIo;
use sha2::{Digest, Sha256};

use super::{REPR_DIGEST, read_digest};
use crate::{
    net::InnerNet,
    report::{DownloadReport, Outcome, millis},
};

/// Why a download failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// No connection.
    #[error("no connection: {0}")]
    Connect(#[from] std::io::Error),
    /// The server does not speak HTTP, or the connection broke.
    #[error("HTTP failed: {0}")]
    Http(#[from] hyper::Error),
    /// The path cannot stand in a request.
    #[error("not a path: {0}")]
    Request(#[from] hyper::http::Error),
    /// Another status than 200.
    #[error("the server refused: {0}")]
    Refused(StatusCode),
    /// Nothing came for too long.
    #[error("nothing came for {0:?}")]
    Silent(Duration),
    /// What came is not what the server has.
    #[error("the content is not what its hash says")]
    Corrupt,
}

/// What to download.
#[derive(Clone, Debug)]
pub struct DownloadOptions {
    /// Downloads at the same time.
    pub count: usize,
    /// The server; port [`DownloadOptions::PORT`] of the SIP server's address if absent.
    pub server: Option<SocketAddr>,
    /// The path; `tsc_sip_server` gives N bytes at `/bytes/N`.
    pub path: String,
}

impl DownloadOptions {
    /// Where `tsc_sip_server` speaks HTTP.
    pub const PORT: u16 = 8080;
}

impl Default for DownloadOptions {
    /// None; a megabyte.
    fn default() -> Self {
        Self {
            count: 0,
            server: None,
            path: "/bytes/1000000".to_owned(),
        }
    }
}

/// Downloads `http://server/path` and checks it. `patience` is how long nothing may come; zero is for ever.
pub async fn download<N: InnerNet>(
    net: &N,
    server: SocketAddr,
    path: &str,
    patience: Duration,
) -> DownloadReport {
    let mut report = DownloadReport::new(format!("http://{server}{path}"));
    let started = Instant::now();
    if let Err(error) = get(net, server, path, patience, &mut report).await {
        let outcome = if let HttpError::Corrupt = error {
            Outcome::MediaFailed
        } else {
            Outcome::CallFailed
        };
        tracing::warn!(url = report.url, %error, "download failed");
        report.fail(outcome, error.to_string());
    }
    report.duration_ms = Some(millis(started.elapsed()));
    report
}

async fn get<N: InnerNet>(
    net: &N,
    server: SocketAddr,
    path: &str,
    patience: Duration,
    report: &mut DownloadReport,
) -> Result<(), HttpError> {
    // The one line: `TcpStream::connect(server).await?` would do the same outside of the tunnel.
    let stream = within(patience, net.connect_tcp(server)).await??;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async {
        let request = Request::get(path)
            .header(header::HOST, server.to_string())
            .header(header::USER_AGENT, crate::ua::PRODUCT)
            .body(Empty::<Bytes>::new())?;
        let response = within(patience, sender.send_request(request)).await??;
        report.status = Some(response.status().as_u16());
        if response.status() != StatusCode::OK {
            return Err(HttpError::Refused(response.status()));
        }
        let field = response.headers().get(REPR_DIGEST);
        let digest = field.and_then(|value| read_digest(value.to_str().ok()?));
        let mut hash = Sha256::new();
        let mut body = response.into_body();
        while let Some(frame) = within(patience, body.frame()).await? {
            if let Ok(data) = frame?.into_data() {
                report.bytes += data.len() as u64;
                hash.update(&data);
            }
        }
        let hash = hash.finalize();
        report.sha256 = Some(hash.iter().map(|byte| format!("{byte:02x}")).collect());
        report.checked = digest.is_some();
        match digest {
            Some(wanted) if wanted != hash.to_vec() => Err(HttpError::Corrupt),
            _ => Ok(()),
        }
    };
    // The connection is driven here, so nothing of it is left when this is dropped.
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        done = &mut exchange => return done,
        ended = connection => ended?,
    }
    // The connection is over; what it has brought is still to be read.
    exchange.await
}

async fn within<T>(patience: Duration, work: impl Future<Output = T>) -> Result<T, HttpError> {
    if patience.is_zero() {
        return Ok(work.await);
    }
    let done = tokio::time::timeout(patience, work).await;
    done.map_err(|_| HttpError::Silent(patience))
}
