//! The heads of requests and responses on their way through: what belongs to one connection only goes no further.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Uri, Version,
    header::{
        CONNECTION, CONTENT_LENGTH, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING,
        UPGRADE, VIA,
    },
    request, response,
};

use crate::Target;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// How this proxy calls itself in `Via`.
const VIA_VALUE: HeaderValue = HeaderValue::from_static("1.1 kubectl-relay");

/// What a request asks of the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// CONNECT.
    Tunnel(Target),
    /// A request for a target.
    Forward(Target),
    /// A page of the proxy itself.
    Page,
}

/// A head that is not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadHead {
    /// The URL is no URL of a target.
    #[error("the request is for no host and port")]
    Target,
    /// Another scheme than http.
    #[error("only http URLs are fetched: https goes through CONNECT")]
    Scheme,
    /// None, or several.
    #[error("a request has exactly one Host")]
    Host,
    /// A coding of the transfer that would be lost on the way.
    #[error("the only transfer coding known here is chunked")]
    Coding,
}

/// Finds out where a request is to go.
///
/// # Errors
/// [`BadHead`] for what is ambiguous, or nothing for a proxy.
pub fn asked(head: &request::Parts) -> Result<Asked, BadHead> {
    check_coding(&head.headers)?;
    let hosts = head.headers.get_all(HOST).iter().count();
    let needs_host = head.version == Version::HTTP_11 && head.method != Method::CONNECT;
    if hosts > 1 || (hosts == 0 && needs_host) {
        return Err(BadHead::Host);
    }
    if head.method == Method::CONNECT {
        return tunnel(&head.uri).map(Asked::Tunnel);
    }
    let Some(scheme) = head.uri.scheme_str() else { return Ok(Asked::Page) };
    if !scheme.eq_ignore_ascii_case("http") {
        return Err(BadHead::Scheme);
    }
    let host = head.uri.host().filter(|host| !host.is_empty()).ok_or(BadHead::Target)?;
    let port = port(&head.uri)?.unwrap_or(80);
    Target::new(host, port).map(Asked::Forward).map_err(|_| BadHead::Target)
}

fn tunnel(uri: &Uri) -> Result<Target, BadHead> {
    let authority = uri.authority().ok_or(BadHead::Target)?;
    if uri.scheme().is_some() || uri.path_and_query().is_some() {
        return Err(BadHead::Target);
    }
    authority.as_str().parse().map_err(|_| BadHead::Target)
}

/// The port as typed. An empty one is the scheme's own.
fn port(uri: &Uri) -> Result<Option<u16>, BadHead> {
    let authority = uri.authority().map_or("", http::uri::Authority::as_str);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let after = host.rsplit_once(']').map_or(host, |(_, after)| after);
    match after.split_once(':') {
        None | Some((_, "")) => Ok(None),
        Some((_, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            port.parse().map(Some).map_err(|_| BadHead::Target)
        }
        Some(_) => Err(BadHead::Target),
    }
}

/// Makes a request that came in absolute form one for the target itself.
///
/// # Errors
/// [`BadHead::Target`] where the URL has no such form.
pub fn to_target(head: &mut request::Parts) -> Result<(), BadHead> {
    let authority = head.uri.authority().ok_or(BadHead::Target)?.as_str();
    // A name and a password in the URL are not part of the host.
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = HeaderValue::from_str(host).map_err(|_| BadHead::Target)?;
    let path = match head.uri.path_and_query().map(http::uri::PathAndQuery::as_str) {
        None | Some("" | "/") if head.method == Method::OPTIONS => "*".to_owned(),
        None | Some("") => "/".to_owned(),
        Some(query) if query.starts_with('?') => format!("/{query}"),
        Some(path) => path.to_owned(),
    };
    head.uri = path.parse().map_err(|_| BadHead::Target)?;
    head.version = Version::HTTP_11;
    let takes_trailers = has_token(&head.headers, &TE, "trailers");
    strip(&mut head.headers);
    head.headers.remove(PROXY_AUTHORIZATION);
    head.headers.insert(HOST, host);
    if takes_trailers {
        head.headers.insert(TE, HeaderValue::from_static("trailers"));
        head.headers.append(CONNECTION, HeaderValue::from_static("te"));
    }
    head.headers.append(VIA, VIA_VALUE);
    Ok(())
}

/// Makes a target's response one for the client.
///
/// # Errors
/// [`BadHead::Coding`] where its body can't be passed on.
pub fn to_client(head: &mut response::Parts) -> Result<(), BadHead> {
    check_coding(&head.headers)?;
    let switches = head.status == http::StatusCode::SWITCHING_PROTOCOLS;
    let upgrade = head.headers.get(UPGRADE).filter(|_| switches).cloned();
    strip(&mut head.headers);
    head.headers.remove(PROXY_AUTHENTICATE);
    if let Some(upgrade) = upgrade {
        put_upgrade(&mut head.headers, upgrade);
    }
    head.headers.append(VIA, VIA_VALUE);
    Ok(())
}

fn check_coding(headers: &HeaderMap) -> Result<(), BadHead> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let is_known = match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"),
        _ => false,
    };
    if is_known { Ok(()) } else { Err(BadHead::Coding) }
}

/// Removes what is for the next hop only. Only what the protocol's own fields say is left of an upgrade: a request to
/// switch stays one.
fn strip(headers: &mut HeaderMap) {
    let upgrade = headers.get(UPGRADE).filter(|_| has_token(headers, &CONNECTION, "upgrade")).cloned();
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        // Where a message ends and whom it is for are not for a client to take away.
        .filter(|name| *name != CONTENT_LENGTH && *name != HOST)
        .collect();
    for name in
        named.iter().chain(&[CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, TE, TRANSFER_ENCODING, UPGRADE])
    {
        headers.remove(name);
    }
    if let Some(upgrade) = upgrade {
        put_upgrade(headers, upgrade);
    }
}

fn put_upgrade(headers: &mut HeaderMap, upgrade: HeaderValue) {
    headers.insert(UPGRADE, upgrade);
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        // A weight may follow.
        .filter_map(|part| part.split(|byte| *byte == b';').next())
        .any(|part| part.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// The host of `Host`, if it is an address or `localhost`: no name that leads here by somebody else's DNS.
pub fn own_host(headers: &HeaderMap) -> Option<&str> {
    let host = headers.get(HOST)?.to_str().ok()?;
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (name, Some(port)),
        _ => (host, None),
    };
    let literal = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    let is_own = name.eq_ignore_ascii_case("localhost") || literal.parse::<std::net::IpAddr>().is_ok();
    (is_own && port != Some("")).then_some(host)
}

#[cfg(test)]
mod tests;
