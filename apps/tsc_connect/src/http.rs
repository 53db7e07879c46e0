//! An HTTP proxy (RFC 9110): CONNECT, and plain requests with an absolute target.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::{
    Method, Request, Response, StatusCode, Uri, Version,
    body::Incoming,
    header::{self, HeaderMap, HeaderName, HeaderValue},
    server::conn::http1,
    service::service_fn,
    upgrade::OnUpgrade,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

use crate::{
    accept::{HANDSHAKE, relay},
    dial::dial,
    net::Net,
    report::Counters,
    streams::{Client, Counted},
    target::{Host, Target},
};

type Body = BoxBody<Bytes, hyper::Error>;

/// A target that was reached by CONNECT, and the client's side of it once it has read our 200.
type Connected<S> = Arc<Mutex<Option<(OnUpgrade, S)>>>;

/// How we are called in `Via`.
const PSEUDONYM: &str = "tsc-connect";

/// Serves one client: any number of plain requests, or one CONNECT.
///
/// # Errors
///
/// It does not speak HTTP/1, or its connection broke. A target that does not answer is an answer to the client.
pub async fn serve<N: Net>(stream: TcpStream, net: N, counters: Arc<Counters>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let connected = Connected::<N::Stream>::default();
    let broken = Arc::new(AtomicBool::new(false));
    let service = service_fn(|request| {
        let (net, counters) = (net.clone(), Arc::clone(&counters));
        let (connected, broken) = (Arc::clone(&connected), Arc::clone(&broken));
        async move {
            let response = answer(request, net, counters, &connected).await;
            // What breaks off shall not look like an end, in whatever way its length is told.
            let response = response.map(|body| {
                body.map_err(move |error| {
                    broken.store(true, Ordering::Relaxed);
                    error
                })
                .boxed()
            });
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let client = Client::new(stream, Arc::clone(&broken));
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HANDSHAKE)
        .serve_connection(TokioIo::new(client), service)
        .with_upgrades()
        .await
        .map_err(|error| match broken.load(Ordering::Relaxed) {
            true => io::Error::other("the target's answer broke off"),
            false => io::Error::other(error),
        })?;
    let upgrade = connected
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    if let Some((upgrade, far)) = upgrade {
        let upgraded = upgrade.await.map_err(io::Error::other)?;
        let parts = upgraded
            .downcast::<TokioIo<Client<TcpStream>>>()
            .map_err(|_| io::Error::other("not our connection"))?;
        let mut near = parts.io.into_inner();
        near.put_back(parts.read_buf);
        relay(near, far, counters).await?;
    }
    Ok(())
}

async fn answer<N: Net>(
    request: Request<Incoming>,
    net: N,
    counters: Arc<Counters>,
    connected: &Connected<N::Stream>,
) -> Response<Body> {
    let result = if request.method() == Method::CONNECT {
        connect(request, &net, connected).await
    } else {
        pass(request, &net, counters).await
    };
    result.unwrap_or_else(|(status, why)| {
        tracing::info!(event = "refused", %status, why, "http");
        let mut response = Response::new(text(why));
        *response.status_mut() = status;
        response
    })
}

type Refused = (StatusCode, String);

async fn connect<N: Net>(
    mut request: Request<Incoming>,
    net: &N,
    connected: &Connected<N::Stream>,
) -> Result<Response<Body>, Refused> {
    let target = target(request.uri(), None)?;
    let far = dial(net, &target)
        .await
        .map_err(|error| gateway(&target, &error))?;
    let upgrade = hyper::upgrade::on(&mut request);
    *connected.lock().unwrap_or_else(PoisonError::into_inner) = Some((upgrade, far));
    Ok(Response::new(empty()))
}

async fn pass<N: Net>(
    mut request: Request<Incoming>,
    net: &N,
    counters: Arc<Counters>,
) -> Result<Response<Body>, Refused> {
    if request.uri().scheme_str() != Some("http") {
        return Err((
            StatusCode::BAD_REQUEST,
            "this is a proxy: send CONNECT HOST:PORT, or a request for http://HOST/...\n"
                .to_owned(),
        ));
    }
    // The request is in order, so that no code of the 400s says what is wrong; 508 does (RFC 5842 7.2).
    if passed_us(request.headers()) {
        return Err((
            StatusCode::LOOP_DETECTED,
            "this request has come through this proxy before\n".to_owned(),
        ));
    }
    let target = target(request.uri(), Some(80))?;
    let far = dial(net, &target)
        .await
        .map_err(|error| gateway(&target, &error))?;
    // The origin is asked in its own form, and what concerns this hop only stays here (RFC 9110 7.6.1).
    let authority = request
        .uri()
        .authority()
        .map(|authority| authority.to_string());
    let path = request
        .uri()
        .path_and_query()
        .map_or("/", |path| path.as_str());
    let path = path
        .parse::<Uri>()
        .map_err(|error| (StatusCode::BAD_REQUEST, format!("{error}\n")))?;
    *request.uri_mut() = path;
    drop_hop_headers(request.headers_mut());
    let version = request.version();
    add_via(request.headers_mut(), version);
    if let Some(Ok(host)) = authority.as_deref().map(HeaderValue::from_str) {
        request.headers_mut().insert(header::HOST, host);
    }
    let failed = |error: hyper::Error| gateway(&target, &io::Error::other(error));
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(Counted::new(far, counters)))
            .await
            .map_err(failed)?;
    // Lives as long as the exchange: it ends with the response's body, or with the client.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "http: connection to the origin");
        }
    });
    let mut response = sender.send_request(request).await.map_err(failed)?;
    drop_hop_headers(response.headers_mut());
    let version = response.version();
    add_via(response.headers_mut(), version);
    Ok(response.map(|body| body.boxed()))
}

fn target(uri: &Uri, default_port: Option<u16>) -> Result<Target, Refused> {
    let port = uri.port_u16().or(default_port).filter(|port| *port != 0);
    let (Some(host), Some(port)) = (uri.host(), port) else {
        return Err((
            StatusCode::BAD_REQUEST,
            "no HOST:PORT to connect to\n".to_owned(),
        ));
    };
    let host =
        Host::parse(host).map_err(|error| (StatusCode::BAD_REQUEST, format!("{error}\n")))?;
    Ok(Target { host, port })
}

/// What the client is told of a target that does not answer.
fn gateway(target: &Target, error: &io::Error) -> Refused {
    let status = if error.kind() == io::ErrorKind::TimedOut {
        StatusCode::GATEWAY_TIMEOUT
    } else {
        StatusCode::BAD_GATEWAY
    };
    (status, format!("{target}: {error}\n"))
}

/// Whether `Via` has our name in it (RFC 9110 7.6.3: protocol, name, comment, separated by commas).
fn passed_us(headers: &HeaderMap) -> bool {
    let ours = |entry: &str| {
        entry
            .split_ascii_whitespace()
            .nth(1)
            .is_some_and(|by| by.eq_ignore_ascii_case(PSEUDONYM))
    };
    let mut values = headers.get_all(header::VIA).iter();
    values.any(|value| value.to_str().is_ok_and(|text| text.split(',').any(ours)))
}

fn add_via(headers: &mut HeaderMap, received: Version) {
    let version = if received == Version::HTTP_10 {
        "1.0"
    } else {
        "1.1"
    };
    if let Ok(via) = HeaderValue::from_str(&format!("{version} {PSEUDONYM}")) {
        headers.append(header::VIA, via);
    }
}

fn drop_hop_headers(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in [
        header::CONNECTION,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        header::TE,
        header::TRAILER,
        header::UPGRADE,
    ] {
        headers.remove(name);
    }
    headers.remove("keep-alive");
    headers.remove("proxy-connection");
}

fn empty() -> Body {
    Full::new(Bytes::new())
        .map_err(|never| match never {})
        .boxed()
}

fn text(text: String) -> Body {
    Full::new(Bytes::from(text))
        .map_err(|never| match never {})
        .boxed()
}
