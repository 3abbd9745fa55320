//! The `proxy` subresource of pods and services: forwards a request to a port of a pod (kube-apiserver's
//! `UpgradeAwareHandler`).

mod html;
mod location;

use crate::{
    admission::policies::{
        self,
        attributes::{Attributes, Operation},
    },
    http::{
        body::Body,
        path::Target,
        request::Request,
        status::{ApiError, ApiResult},
    },
    state::ServerState,
};
use bytes::Bytes;
use futures::{StreamExt, future::ready};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri,
    header::{
        AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION,
        PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
    },
};
use http_body_util::{BodyDataStream, BodyExt, Full, Limited};
use hyper::{body::Incoming, client::conn::http1, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use kube_embedded_core::{node_api::Connection, task::spawn_named};
use location::Location;
use serde_json::json;
use tokio::{
    io::copy_bidirectional,
    time::{Duration, timeout},
};

const PREFIX: &str = "/proxy";
const SUBRESOURCE: &str = "proxy";
/// The time in which a response has to begin.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);
/// The size of a page whose links are rewritten.
const MAX_PAGE: usize = 16 << 20;
/// Headers that are meant for the next hop alone (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [HeaderName; 7] =
    [CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];

/// Returns true if the target is the proxy of an object, or a path below it.
pub(crate) fn serves(target: &Target) -> bool {
    let subresource = target.subresource.split('/').next().unwrap_or_default();
    subresource == SUBRESOURCE && target.resource.has_subresource(subresource)
}

/// Forwards the request, and returns the response with its locations rewritten.
pub(crate) async fn proxy(
    state: &ServerState,
    request: &Request<'_, Target<'_>>,
) -> ApiResult<Response<Body>> {
    let uri = &request.parts.uri;
    let Some((prefix, path)) = split(uri.path()) else { return Err(ApiError::no_such_resource()) };
    let kind = format!("{}ProxyOptions", request.target.resource.kind);
    let attributes = Attributes::new(&request.target, Operation::Connect, request.user);
    policies::review_object(
        state,
        // The path below is no part of it.
        Attributes { subresource: SUBRESOURCE, ..attributes },
        ("", "v1", &kind),
        &json!({ "kind": kind, "apiVersion": "v1", "path": path }),
    )?;
    let location = Location::find(state, &request.target)?;
    if path.is_empty() && request.is_read() {
        return Ok(redirect_to_root(uri));
    }
    let unreachable = |why: &dyn std::fmt::Display| {
        ApiError::service_unavailable(format!("error trying to reach service: {why}"))
    };
    let nodes = state.nodes().ok_or_else(|| unreachable(&"this cluster has no nodes"))?;
    let Location { namespace, pod, port, .. } = &location;
    let stream = match location.tls {
        true => nodes.dial_tls(namespace, pod, *port).await,
        false => {
            nodes.dial(namespace, pod, *port).await.map(|stream| Box::new(stream) as Connection)
        }
    };
    let stream = stream.map_err(|e| unreachable(&e))?;
    let forwarded = forwarded(request, prefix, path).map_err(|e| unreachable(&e))?;
    let response = timeout(RESPONSE_TIMEOUT, send(stream, forwarded)).await;
    let response = response.map_err(|_| unreachable(&"no response in time"))?;
    let response = received(response.map_err(|e| unreachable(&e))?, request, prefix);
    match is_page(&response) {
        true => with_links(response, request, prefix).await.map_err(|why| unreachable(&why)),
        false => Ok(response.map(body_of)),
    }
}

/// A response of a pod before its body is read; `None` where there is none for the client.
type Received = Response<Option<Incoming>>;

/// Returns the body chunk by chunk. If the pod breaks off, the body ends early, which shows only if its length is
/// in the headers.
fn body_of(received: Option<Incoming>) -> Body {
    let Some(body) = received else { return Body::from(Bytes::new()) };
    Body::stream(BodyDataStream::new(body).scan((), |(), chunk| ready(chunk.ok())).boxed())
}

/// Returns true for HTML. The links of a compressed page are not rewritten.
fn is_page(response: &Received) -> bool {
    let headers = response.headers();
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = media_type.and_then(|value| value.split(';').next()).unwrap_or_default();
    let is_redirect = headers.contains_key(LOCATION);
    response.body().is_some()
        && media_type.trim() == "text/html"
        && !headers.contains_key(CONTENT_ENCODING)
        && !is_redirect
}

/// Reads a page, and rewrites its links.
async fn with_links(
    response: Received,
    request: &Request<'_, Target<'_>>,
    prefix: &str,
) -> Result<Response<Body>, String> {
    let (mut parts, body) = response.into_parts();
    let Some(body) = body else { return Ok(Response::from_parts(parts, body_of(None))) };
    let page = timeout(RESPONSE_TIMEOUT, Limited::new(body, MAX_PAGE).collect()).await;
    let page = page.map_err(|_| "the page did not end in time".to_owned())?;
    let page = page.map_err(|e| format!("failed to read the page: {e}"))?.to_bytes();
    let rewritten = match std::str::from_utf8(&page) {
        Ok(text) => {
            let host = host(request);
            Bytes::from(html::rewrite_links(text, |url| rewrite(url, host, prefix)))
        }
        Err(_) => page,
    };
    parts.headers.insert(CONTENT_LENGTH, rewritten.len().into());
    Ok(Response::from_parts(parts, Body::from(rewritten)))
}

/// Returns the host that the client named.
fn host<'a>(request: &'a Request<'_, Target<'_>>) -> Option<&'a str> {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    host.or(request.parts.uri.authority().map(|authority| authority.as_str()))
}

/// Splits a path behind the proxy's own part, which follows the name of the object.
fn split(path: &str) -> Option<(&str, &str)> {
    // `/api/v1/namespaces/{namespace}/{resource}/{name}/proxy`: no earlier part can be the word, other than
    // a namespace or a name, so the parts are counted.
    let mut parts = 0;
    let mut start = 0;
    for part in path.split('/') {
        let end = start + part.len();
        parts += usize::from(!part.is_empty());
        if parts == 7 {
            let (prefix, rest) = path.split_at_checked(end)?;
            return prefix.ends_with(PREFIX).then_some((prefix, rest));
        }
        start = end + 1;
    }
    None
}

/// Redirects to the path that ends with a slash, from which relative links work.
fn redirect_to_root(uri: &Uri) -> Response<Body> {
    let query = uri.query().map_or(String::new(), |query| format!("?{query}"));
    let mut response = Response::new(Body::from(Bytes::new()));
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(location) = HeaderValue::from_str(&format!("{}/{query}", uri.path())) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

/// Returns the request for the pod. It gets none of the client's credentials.
fn forwarded(
    request: &Request<'_, Target<'_>>,
    prefix: &str,
    path: &str,
) -> Result<http::Request<Full<Bytes>>, http::Error> {
    let uri = &request.parts.uri;
    let query = uri.query().map_or(String::new(), |query| format!("?{query}"));
    let path = if path.is_empty() { "/" } else { path };
    let mut headers = request.headers().clone();
    let upgrade = headers.get(UPGRADE).cloned();
    remove_hop_by_hop(&mut headers);
    headers.remove(AUTHORIZATION);
    headers.remove(CONTENT_LENGTH);
    if let Some(upgrade) = upgrade {
        headers.insert(UPGRADE, upgrade);
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    }
    if let (false, Some(authority)) = (headers.contains_key(HOST), uri.authority()) {
        headers.insert(HOST, HeaderValue::from_str(authority.as_str())?);
    }
    headers.insert("x-forwarded-uri", HeaderValue::from_str(&format!("{prefix}{path}"))?);
    let mut forwarded = http::Request::builder()
        .method(request.method())
        .uri(format!("{path}{query}"))
        .body(Full::new(request.body.clone()))?;
    *forwarded.headers_mut() = headers;
    Ok(forwarded)
}

/// Removes headers for the next hop, and those that `Connection` names.
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

async fn send(
    stream: Connection,
    request: http::Request<Full<Bytes>>,
) -> Result<Response<Incoming>, hyper::Error> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    spawn_named("proxy connection", async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "connection to a pod failed");
        }
    })
    .detach();
    sender.send_request(request).await
}

/// Returns the response for the client. If the pod switches protocols, both connections are joined.
fn received(
    mut response: Response<Incoming>,
    request: &Request<'_, Target<'_>>,
    prefix: &str,
) -> Received {
    let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let client = request.parts.extensions.get::<OnUpgrade>().cloned();
    if let (true, Some(client)) = (switches, client) {
        let pod = hyper::upgrade::on(&mut response);
        spawn_named("proxy upgrade", async move {
            if let (Ok(client), Ok(pod)) = tokio::join!(client, pod) {
                let (mut client, mut pod) = (TokioIo::new(client), TokioIo::new(pod));
                let _ = copy_bidirectional(&mut client, &mut pod).await;
            }
        })
        .detach();
        return response.map(|_| None);
    }
    let (mut parts, body) = response.into_parts();
    remove_hop_by_hop(&mut parts.headers);
    if let Some(location) = parts.headers.get(LOCATION).and_then(|value| value.to_str().ok())
        && let Ok(rewritten) = HeaderValue::from_str(&rewrite(location, host(request), prefix))
    {
        parts.headers.insert(LOCATION, rewritten);
    }
    parts.extensions.clear();
    let has_body = *request.method() != Method::HEAD;
    Response::from_parts(parts, has_body.then_some(body))
}

/// Rewrites the location of a redirect, as `Transport.rewriteURL`: a path of the pod is below the proxy's.
fn rewrite(location: &str, host: Option<&str>, prefix: &str) -> String {
    let (origin, path) = match location.split_once("://") {
        _ if location.starts_with('/') && !location.starts_with("//") => ("", location),
        Some((_, rest)) => {
            let (authority, path) =
                rest.split_once('/').map_or((rest, ""), |(host, path)| (host, path));
            let length = location.len() - path.len() - usize::from(rest.contains('/'));
            let (origin, path) = location.split_at(length.min(location.len()));
            if Some(authority) != host {
                return location.to_owned();
            }
            (origin, path)
        }
        None => return location.to_owned(),
    };
    if path.starts_with(prefix) || !path.starts_with('/') {
        return location.to_owned();
    }
    format!("{origin}{prefix}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROXY: &str = "/api/v1/namespaces/proxy/pods/proxy/proxy";

    #[test]
    fn path_is_split_behind_the_proxy() {
        for (rest, expected) in [("", ""), ("/", "/"), ("/a%2Fb//proxy/", "/a%2Fb//proxy/")] {
            assert_eq!(split(&format!("{PROXY}{rest}")), Some((PROXY, expected)));
        }
        assert_eq!(split("/api/v1/namespaces/a/pods/b"), None);
    }

    #[test]
    fn location_within_the_pod_is_rewritten() {
        for (location, expected) in [
            ("/login?a=/b", format!("{PROXY}/login?a=/b")),
            ("/", format!("{PROXY}/")),
            ("next", "next".to_owned()),
            ("//other/x", "//other/x".to_owned()),
            ("https://other/x", "https://other/x".to_owned()),
            ("https://api:6443/x", format!("https://api:6443{PROXY}/x")),
            (&format!("{PROXY}/x"), format!("{PROXY}/x")),
        ] {
            assert_eq!(rewrite(location, Some("api:6443"), PROXY), expected, "{location}");
        }
    }

    #[test]
    fn headers_for_the_next_hop_are_removed() {
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("connection", "close, x-own"), ("x-own", "1"), ("x-other", "2"), ("te", "trailers")]
        {
            headers.insert(name.parse::<HeaderName>().unwrap(), HeaderValue::from_static(value));
        }
        remove_hop_by_hop(&mut headers);
        assert_eq!(headers.keys().collect::<Vec<_>>(), ["x-other"]);
    }
}
