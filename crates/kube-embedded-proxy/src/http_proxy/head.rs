//! Heads of requests and responses: which are refused, and how they are rewritten for the other side.
//! No I/O.
//!
//! hyper refuses what it cannot frame, in requests and responses alike: two lengths that differ, a coding that does not end in
//! `chunked`, chunks without a size, a space before a colon, folded lines, control characters. Of a
//! request with both a length and a coding it uses the coding, as RFC 9112, 6.3 says, and ends the
//! connection after it; the proxy does the same with responses. hyper accepts lines that end in LF alone, as nginx does. In any case the head
//! that an endpoint gets is written again, with one framing.

use super::{
    forwarded_headers::{ForwardedHeaders, X_REAL_IP},
    refusal::Refusal,
};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version, header, request,
    response, uri::PathAndQuery,
};
use percent_encoding::percent_decode_str;
use rand::RngExt;
use std::io::Write;

/// Bytes of path and query: as many as nginx accepts.
const MAX_TARGET: usize = 8 * 1024;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Fields that no endpoint gets. The first of them are for one connection only, whether `Connection` names them or not.
static NOT_FOR_ENDPOINTS: [HeaderName; 10] = [
    header::CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::EXPECT,
    HTTP2_SETTINGS,
];

/// The number of those for one connection only.
const HOP_BY_HOP: usize = 8;

/// The target of a request.
#[derive(Debug)]
pub(super) struct Target {
    /// The host as the client wrote it, for the endpoint.
    host: Option<HeaderValue>,
    uri: Uri,
}

impl Target {
    pub(super) fn host(&self) -> Option<&str> {
        self.host.as_ref().and_then(|host| host.to_str().ok())
    }

    pub(super) fn uri(&self) -> &Uri {
        &self.uri
    }

    /// Returns the path as sent, without a query. The route table normalizes it for comparison; the
    /// endpoint gets it unchanged.
    pub(super) fn path(&self) -> &str {
        match self.uri.path() {
            // `OPTIONS *` is about the server as a whole.
            "*" => "/",
            path => path,
        }
    }
}

/// Checks what hyper does not, and returns the target of the request.
pub(super) fn target<B>(request: &Request<B>) -> Result<Target, Refusal> {
    let uri = request.uri();
    if [Method::CONNECT, Method::TRACE].contains(request.method()) {
        let text = "CONNECT and TRACE are not supported";
        return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, text));
    }
    let query = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    if query.len() > MAX_TARGET {
        return Err(Refusal::new(StatusCode::URI_TOO_LONG, "the path is too long"));
    }
    if hides_dot_segments(uri.path()) {
        return Err(Refusal::bad_request("the path has dot segments behind an encoded slash"));
    }
    if uri.scheme().is_none() && uri.authority().is_some() {
        return Err(Refusal::bad_request("invalid path"));
    }
    check_coding(request.headers())?;
    let host = host(request)?;
    // Origin form, whatever form it came in.
    let uri = match uri.scheme().is_some() {
        true => query.parse().map_err(|_| Refusal::bad_request("invalid path"))?,
        false => uri.clone(),
    };
    if !uri.path().starts_with('/') && uri.path() != "*" {
        return Err(Refusal::bad_request("invalid path"));
    }
    Ok(Target { host, uri })
}

/// Returns the host that the request is for, and that the endpoint gets.
fn host<B>(request: &Request<B>) -> Result<Option<HeaderValue>, Refusal> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let sent = hosts.next();
    if hosts.next().is_some() {
        return Err(Refusal::bad_request("more than one Host"));
    }
    if sent.is_some_and(|host| !is_host(host.as_bytes())) {
        return Err(Refusal::bad_request("invalid Host"));
    }
    match request.uri().authority() {
        Some(authority) => {
            let named = authority.as_str();
            if !is_host(named.as_bytes()) {
                return Err(Refusal::bad_request("invalid host in the request target"));
            }
            // In HTTP/1.1 the target takes precedence (RFC 9112, 3.2.2); in HTTP/2 they must not
            // differ (RFC 9113, 8.3.1).
            let differs =
                |sent: &HeaderValue| !sent.as_bytes().eq_ignore_ascii_case(named.as_bytes());
            if request.version() == Version::HTTP_2 && sent.is_some_and(differs) {
                return Err(Refusal::bad_request("Host and authority differ"));
            }
            let named = HeaderValue::from_str(named);
            named.map(Some).map_err(|_| Refusal::bad_request("invalid host in the request target"))
        }
        None if sent.is_none() && request.version() >= Version::HTTP_11 => {
            Err(Refusal::bad_request("missing Host"))
        }
        None => Ok(sent.cloned()),
    }
}

/// Returns whether these bytes may be a name or an address, with or without a port. Anything else is
/// refused, so that no program reads another host out of it.
fn is_host(host: &[u8]) -> bool {
    let valid = |b: &u8| b.is_ascii_alphanumeric() || b"-._~:[]".contains(b);
    !host.is_empty() && host.len() <= 255 + ":65535".len() && host.iter().all(valid)
}

/// Accepts no transfer coding but `chunked`: hyper would pass others on without decoding them.
fn check_coding(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(only), None) if only.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => {
            let text = "the only supported transfer coding is chunked";
            Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, text))
        }
    }
}

/// Returns whether a program that decodes slashes would resolve dot segments differently from the
/// route table: where dots are behind an encoded slash, or remove an element that has one.
fn hides_dot_segments(path: &str) -> bool {
    if !path.contains(['%', '\\']) {
        return false;
    }
    let is_slash = |c| c == '/' || c == '\\';
    let (mut has_slash, mut has_parent) = (false, false);
    for element in path.split('/') {
        let decoded = percent_decode_str(element).decode_utf8_lossy();
        if decoded.contains(is_slash) {
            has_slash = true;
            if decoded.split(is_slash).any(|part| part == "." || part == "..") {
                return true;
            }
        }
        has_parent |= decoded == "..";
    }
    has_slash && has_parent
}

/// Returns the protocols that the client asks to upgrade to. `h2c` is ignored: requests over it would
/// bypass all rules.
pub(super) fn requested_upgrade<B>(request: &Request<B>) -> Option<HeaderValue> {
    let headers = request.headers();
    if !headers.contains_key(header::UPGRADE)
        || request.version() != Version::HTTP_11
        || !connection_options(headers).any(|option| option.eq_ignore_ascii_case("upgrade"))
    {
        return None;
    }
    let mut upgrades = headers.get_all(header::UPGRADE).iter();
    let only = upgrades.next().filter(|_| upgrades.next().is_none())?;
    let is_h2c = |name: &str| name.trim().eq_ignore_ascii_case("h2c");
    (!only.to_str().ok()?.split(',').any(is_h2c)).then(|| only.clone())
}

/// Rewrites the head of a request for an endpoint. Without `forwarded`, those of the client are removed only.
pub(super) fn for_endpoint(
    parts: &mut request::Parts,
    target: Target,
    forwarded: Option<&ForwardedHeaders>,
    upgrade: Option<&HeaderValue>,
    has_body: bool,
) -> Result<(), Refusal> {
    let multiplexed = parts.version > Version::HTTP_11;
    let headers = &mut parts.headers;
    let trailers = headers.get_all(header::TE).iter().any(|te| te.as_bytes() == b"trailers");
    strip(headers, &NOT_FOR_ENDPOINTS);
    // About as many are added below.
    headers.reserve(8);
    drop_lookalikes(headers);
    if multiplexed {
        join_cookies(headers)?;
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
    if let Some(upgrade) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, upgrade.clone());
    }
    // Without it hyper would send a GET without its body.
    if has_body && !headers.contains_key(header::CONTENT_LENGTH) {
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    match target.host {
        Some(host) => {
            headers.insert(header::HOST, host.clone());
            headers.insert(X_FORWARDED_HOST, host);
        }
        // HTTP/1.1 requires one; an empty one means that there is none.
        None => {
            headers.insert(header::HOST, HeaderValue::from_static(""));
        }
    }
    // Client-supplied ones are not trusted; those that begin with X-Forwarded were dropped above.
    match forwarded {
        Some(forwarded) => forwarded.insert(headers),
        None => drop(headers.remove(X_REAL_IP)),
    }
    if !headers.contains_key(X_REQUEST_ID)
        && let Ok(id) = HeaderValue::from_bytes(&request_id(rand::rng().random()))
    {
        headers.insert(X_REQUEST_ID, id);
    }
    parts.uri = target.uri;
    parts.version = Version::HTTP_11;
    Ok(())
}

/// Rewrites the head of a request for an endpoint that speaks HTTP/2 (RFC 9113, 8.2.2 and 8.3.1).
pub(super) fn for_http2<B>(request: &mut Request<B>, tls: bool) -> Result<(), Refusal> {
    if request.headers().contains_key(header::UPGRADE) {
        return Err(Refusal::bad_request("the backend speaks HTTP/2, which has no upgrade"));
    }
    let headers = request.headers_mut();
    for name in [header::CONNECTION, header::TRANSFER_ENCODING] {
        headers.remove(name);
    }
    let host = headers.remove(header::HOST);
    let authority = host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default();
    let path = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
    let uri = Uri::builder().scheme(if tls { "https" } else { "http" });
    let uri = uri.authority(authority).path_and_query(path).build();
    *request.uri_mut() = uri.map_err(|_| Refusal::bad_request("invalid Host"))?;
    *request.version_mut() = Version::HTTP_2;
    Ok(())
}

/// Formats an id as 32 hexadecimal digits.
fn request_id(id: u128) -> [u8; 32] {
    std::array::from_fn(|n| {
        let digit = (id >> (4 * n)) as u8 & 15;
        digit + if digit < 10 { b'0' } else { b'a' - 10 }
    })
}

/// Returns whether the response has a coding and a length, which two programs could read as different
/// bodies. The coding counts, and nothing after the body is read as another response.
pub(super) fn has_two_lengths(headers: &HeaderMap) -> bool {
    headers.contains_key(header::TRANSFER_ENCODING) && headers.contains_key(header::CONTENT_LENGTH)
}

/// Checks the head of a response as far as hyper does not.
pub(super) fn check_response(headers: &HeaderMap) -> Result<(), Refusal> {
    check_coding(headers).map_err(|_| {
        let text = "the endpoint's response has a transfer coding other than chunked";
        Refusal::new(StatusCode::BAD_GATEWAY, text)
    })
}

/// Rewrites the head of a response for a client.
pub(super) fn for_client(parts: &mut response::Parts, switched: bool) {
    // The coding takes precedence (RFC 9112, 6.3), and hyper writes its own: a length would cut the
    // body. Several lengths, of which hyper accepts equal ones, become one (RFC 9110, 8.6).
    if parts.headers.contains_key(header::TRANSFER_ENCODING) {
        parts.headers.remove(header::CONTENT_LENGTH);
    }
    let mut lengths = parts.headers.get_all(header::CONTENT_LENGTH).iter();
    let first = lengths.next();
    if lengths.next().is_some()
        && let Some(length) = first.cloned()
    {
        parts.headers.insert(header::CONTENT_LENGTH, length);
    }
    let upgrade = switched.then(|| parts.headers.get(header::UPGRADE).cloned()).flatten();
    strip_hop_by_hop(&mut parts.headers);
    if let Some(upgrade) = upgrade {
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(header::UPGRADE, upgrade);
    }
    // hyper writes the version that the client speaks.
    parts.version = Version::HTTP_11;
}

/// Writes an informational response for a client.
pub(super) fn informational(status: StatusCode, mut headers: HeaderMap) -> Vec<u8> {
    strip_hop_by_hop(&mut headers);
    headers.remove(header::CONTENT_LENGTH);
    let mut out = Vec::with_capacity(128);
    let reason = status.canonical_reason().unwrap_or_default();
    // Writing to a vector cannot fail.
    let _ = write!(out, "HTTP/1.1 {} {reason}\r\n", status.as_u16());
    for (name, value) in &headers {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// Removes the fields for one connection only.
fn strip_hop_by_hop(headers: &mut HeaderMap) {
    strip(headers, &NOT_FOR_ENDPOINTS[..HOP_BY_HOP]);
}

/// Removes fields with these names and those that `Connection` names.
fn strip(headers: &mut HeaderMap, names: &[HeaderName]) {
    // One pass, as most messages have one of them or none.
    let mut present = [false; NOT_FOR_ENDPOINTS.len()];
    for name in headers.keys() {
        if let Some(at) = names.iter().position(|other| other == name) {
            present[at] = true;
        }
    }
    if !present.contains(&true) {
        return;
    }
    let named: Vec<HeaderName> = connection_options(headers)
        .filter(|option| !["close", "keep-alive", "upgrade", "te"].contains(option))
        .filter_map(|option| HeaderName::from_bytes(option.as_bytes()).ok())
        // Those are not for one connection, even if a client claims so.
        .filter(|name| *name != header::CONTENT_LENGTH && *name != header::HOST)
        .collect();
    let present = names.iter().zip(present).filter_map(|(name, is)| is.then_some(name));
    for name in present.chain(&named) {
        headers.remove(name);
    }
}

/// Returns the options in `Connection`.
fn connection_options(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(header::CONNECTION).iter();
    values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).map(str::trim)
}

/// Removes fields that contradict or imitate those of the proxy. To CGI and WSGI programs `X_Real_Ip`
/// is the same variable as `X-Real-IP`.
fn drop_lookalikes(headers: &mut HeaderMap) {
    const OURS: [&str; 7] = [
        "content-length",
        "forwarded",
        "host",
        "transfer-encoding",
        "x-real-ip",
        "x-request-id",
        "x-scheme",
    ];
    let is_ours = |name: &HeaderName| {
        let name = name.as_str();
        name.starts_with("x-forwarded-")
            || ["forwarded", "x-scheme"].contains(&name)
            || name.contains('_') && {
                let dashed = name.replace('_', "-");
                dashed.starts_with("x-forwarded-") || OURS.contains(&dashed.as_str())
            }
    };
    if headers.keys().any(is_ours) {
        let names: Vec<HeaderName> = headers.keys().filter(|name| is_ours(name)).cloned().collect();
        for name in names {
            headers.remove(name);
        }
    }
}

/// Joins cookies, which HTTP/2 may split into fields, into the one of HTTP/1.1 (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) -> Result<(), Refusal> {
    let mut cookies = headers.get_all(header::COOKIE).iter();
    if cookies.next().is_none() || cookies.next().is_none() {
        return Ok(());
    }
    let cookies: Vec<&[u8]> =
        headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    let joined = HeaderValue::from_bytes(&cookies.join(&b"; "[..]));
    headers.insert(header::COOKIE, joined.map_err(|_| Refusal::bad_request("invalid cookie"))?);
    Ok(())
}

#[cfg(test)]
mod tests;
