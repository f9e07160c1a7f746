//! Answers of the proxy's own: a status and a short text that says why.

use bytes::Bytes;
use http::{
    HeaderValue, Response, StatusCode,
    header::{CONNECTION, CONTENT_TYPE, PROXY_AUTHENTICATE},
};
use http_body_util::{Either, Full};
use relay_protocol::Status;

use super::Body;
use crate::Refused;

/// A text, with its full stop added.
pub(super) fn text(status: StatusCode, sentence: &str) -> Response<Body> {
    let mut response = Response::new(Either::Right(Full::new(Bytes::from(format!("{sentence}.\n")))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// The answer to a request that makes no sense, after which nothing more is read.
pub(super) fn nonsense(status: StatusCode, sentence: &str) -> Response<Body> {
    let mut response = text(status, sentence);
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// The answer where a target was not reached.
pub(super) fn refused(refused: &Refused) -> Response<Body> {
    let (status, error) = codes(refused.status);
    let mut response = text(status, &refused.why);
    // RFC 9209, for programs.
    if let Ok(value) = HeaderValue::from_str(&format!("kubectl-relay; error={error}")) {
        response.headers_mut().insert("proxy-status", value);
    }
    response
}

/// The HTTP status, and the error type of RFC 9209.
fn codes(status: Status) -> (StatusCode, &'static str) {
    match status {
        Status::Refused => (StatusCode::BAD_GATEWAY, "connection_refused"),
        Status::NoSuchHost => (StatusCode::BAD_GATEWAY, "dns_error"),
        Status::ResolveTimedOut => (StatusCode::GATEWAY_TIMEOUT, "dns_timeout"),
        Status::ConnectTimedOut => (StatusCode::GATEWAY_TIMEOUT, "connection_timeout"),
        Status::Unreachable => (StatusCode::BAD_GATEWAY, "destination_ip_unroutable"),
        Status::Denied => (StatusCode::FORBIDDEN, "http_request_denied"),
        Status::TooManyStreams => (StatusCode::SERVICE_UNAVAILABLE, "connection_limit_reached"),
        Status::ResetByPeer => (StatusCode::BAD_GATEWAY, "connection_terminated"),
        _ => (StatusCode::BAD_GATEWAY, "destination_unavailable"),
    }
}

/// The answer to whoever has no credentials, or wrong ones.
pub(super) fn who_are_you() -> Response<Body> {
    let mut response =
        text(StatusCode::PROXY_AUTHENTICATION_REQUIRED, "this proxy wants a name and a password");
    let challenge = HeaderValue::from_static("Basic realm=\"kubectl relay\", charset=\"UTF-8\"");
    response.headers_mut().insert(PROXY_AUTHENTICATE, challenge);
    response
}
