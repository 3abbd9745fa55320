//! From a request to an endpoint's answer, with another endpoint or connection where the first one
//! turned out to be gone.
//!
//! A request is sent again only where that cannot make it happen twice: nothing of it was written,
//! or it has no body and a method that may be repeated (RFC 9110, 9.2.2).

use super::{
    Client,
    answer::Refusal,
    pool::{self, Lease},
    upload::{Progress, Upload},
};
use crate::{ingress::table::Backend, route::Route};
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use std::{collections::BTreeSet, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};
use tokio::time::{self, Instant};

/// How long connecting may take, over all endpoints, each time that a request needs it.
const CONNECTS: Duration = Duration::from_secs(15);
/// How often a request is sent that was lost after it had been written.
const SENDS: usize = 3;

impl Client {
    /// The head of the answer, and the connection that it came over.
    pub(super) async fn forward(
        &self,
        backend: &Backend,
        mut request: Request<Upload>,
        progress: Option<&Progress>,
    ) -> Result<(Response<Incoming>, Lease), Refusal> {
        let may_repeat = progress.is_none() && is_idempotent(request.method());
        let mut tried = Vec::new();
        let mut lost = 0;
        let mut last = None;
        loop {
            let (mut lease, reused) = match self.lease(backend, &mut tried, lost > 0).await {
                Ok(found) => found,
                Err(refusal) => return Err(last.unwrap_or(refusal)),
            };
            let spare = may_repeat.then(|| copy(&request));
            let sent = pin!(lease.sender.try_send_request(request));
            let mut error = match wait(sent, progress, self.front.limits.response).await? {
                Ok(response) => return Ok((response, lease)),
                Err(error) => error,
            };
            request = match (error.take_message(), spare) {
                // Only a reused connection can end before anything is written, or an endpoint that
                // closes as soon as it is connected to.
                (Some(unsent), _) => unsent,
                (None, Some(spare)) if lost + 1 < SENDS && !error.error().is_parse() => {
                    lost += 1;
                    spare
                }
                _ => return Err(failed(backend, error.error())),
            };
            if !reused {
                tried.push(lease.endpoint);
                last = Some(failed(backend, error.error()));
            }
        }
    }

    /// A connection to a random endpoint, an idle one unless it must be `fresh`; and whether it has
    /// been used before. Endpoints that cannot be connected to are added to `tried`.
    async fn lease(
        &self,
        backend: &Backend,
        tried: &mut Vec<SocketAddr>,
        fresh: bool,
    ) -> Result<(Lease, bool), Refusal> {
        let mut since = None;
        let mut failure = None;
        loop {
            let Some(endpoint) = backend.route.choose(self.peer.ip(), tried) else {
                return Err(unreachable(backend, tried, failure));
            };
            if !fresh && let Some(lease) = Lease::idle(endpoint, &backend.route) {
                return Ok((lease, true));
            }
            if !pool::may_open() {
                let text = "the proxy has as many connections to endpoints as it may";
                return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text));
            }
            let left = CONNECTS.saturating_sub(since.get_or_insert_with(Instant::now).elapsed());
            // Apart, because most requests need no connect, nor the room for it.
            let within = left.min(backend.route.patience());
            match Box::pin(self.connect(endpoint, &backend.route, within)).await {
                Ok(lease) => return Ok((lease, false)),
                Err(error) => {
                    let silent = error.kind() == io::ErrorKind::TimedOut;
                    backend.route.failed(tried, endpoint, silent);
                    failure = Some(error);
                }
            }
        }
    }
}

impl Client {
    async fn connect(
        &self,
        endpoint: SocketAddr,
        route: &Arc<Route>,
        within: Duration,
    ) -> io::Result<Lease> {
        let stream = time::timeout(within, self.network.connect(endpoint)).await??;
        let lease = Lease::new(stream, endpoint, route).await;
        lease.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

/// Waits for the answer's head for as long as anything moves.
async fn wait<T>(
    sent: impl Future<Output = T>,
    progress: Option<&Progress>,
    limit: Duration,
) -> Result<T, Refusal> {
    let mut sent = pin!(sent);
    loop {
        if let Ok(answer) = time::timeout(limit, sent.as_mut()).await {
            return Ok(answer);
        }
        match progress {
            Some(progress) if progress.moved() => {}
            Some(progress) if progress.awaits_client() => {
                let text = "the rest of the request did not come";
                return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, text));
            }
            _ => {
                let text = "the endpoint did not answer in time";
                return Err(Refusal::new(StatusCode::GATEWAY_TIMEOUT, text));
            }
        }
    }
}

/// Everything of a request without a body, as far as an endpoint sees it.
fn copy(request: &Request<Upload>) -> Request<Upload> {
    let mut copy = Request::new(Upload::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = Version::HTTP_11;
    *copy.headers_mut() = request.headers().clone();
    copy
}

fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE].contains(method)
}

/// As with ingress-nginx: 503 where there is no endpoint, 502 where none can be connected to, 504
/// where the last one did not even refuse.
fn unreachable(backend: &Backend, tried: &[SocketAddr], failure: Option<io::Error>) -> Refusal {
    let name = &backend.name;
    if tried.is_empty() {
        let text = format!("no endpoint of {name} is ready");
        return Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text);
    }
    let tried = tried.iter().collect::<BTreeSet<_>>().len();
    match failure {
        Some(error) if error.kind() == io::ErrorKind::TimedOut => {
            let text = format!("none of {tried} endpoints of {name} accepted a connection in time");
            Refusal::new(StatusCode::GATEWAY_TIMEOUT, text)
        }
        _ => {
            let text = format!("none of {tried} endpoints of {name} accepted a connection");
            Refusal::new(StatusCode::BAD_GATEWAY, text)
        }
    }
}

fn failed(backend: &Backend, error: &hyper::Error) -> Refusal {
    let name = &backend.name;
    let text = match error {
        e if e.is_parse() => format!("an endpoint of {name} sent no valid answer"),
        // The client's own body broke off, so this is for the log of whoever looks.
        e if e.is_user() => format!("the request to {name} broke off"),
        _ => format!("an endpoint of {name} closed the connection without an answer"),
    };
    Refusal::new(StatusCode::BAD_GATEWAY, text)
}
