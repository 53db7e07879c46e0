//! What both user agents have in common: which requests they take, and how they refuse the others.

use crate::sip::{HeaderName, Method, Request, Response, StatusCode};

/// Methods that are understood, for Allow.
pub const ALLOW: &str = "INVITE, ACK, BYE, CANCEL, OPTIONS, REGISTER";

/// Name in User-Agent and Server.
pub const PRODUCT: &str = concat!("OpenTSC-tsc_sip/", env!("CARGO_PKG_VERSION"));

/// Checks what RFC 3261 8.2 wants checked before a request is looked at: method, URI scheme, required
/// extensions. `Some` is the refusal to send.
#[must_use]
pub fn screen(request: &Request, tag: &str) -> Option<Response> {
    if let Method::Other(_) = request.method {
        let mut response = request.response(StatusCode::METHOD_NOT_ALLOWED, tag);
        response.head.push(HeaderName::Allow, ALLOW);
        return Some(response);
    }
    if request.uri.sip().is_none() {
        return Some(request.response(StatusCode::UNSUPPORTED_URI_SCHEME, tag));
    }
    let required: Vec<&str> = request.head.headers(&HeaderName::Require).collect();
    if !required.is_empty() {
        let mut response = request.response(StatusCode::BAD_EXTENSION, tag);
        response
            .head
            .push(HeaderName::Unsupported, required.join(", "));
        return Some(response);
    }
    None
}

/// The answer to OPTIONS (11.2).
#[must_use]
pub fn capabilities(request: &Request, tag: &str) -> Response {
    let mut response = request.response(StatusCode::OK, tag);
    response.head.push(HeaderName::Allow, ALLOW);
    response
        .head
        .push(HeaderName::Accept, crate::sdp::CONTENT_TYPE);
    response.head.push(HeaderName::Server, PRODUCT);
    response
}
