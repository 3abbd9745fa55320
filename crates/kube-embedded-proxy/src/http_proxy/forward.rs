//! Forwards a request to an endpoint, and retries with another connection or endpoint.
//!
//! A request is sent again only if that cannot make it happen twice: nothing of it was written, or it
//! has no body and an idempotent method (RFC 9110, 9.2.2).

use super::{
    client::Client,
    direct::{DirectConnection, ExchangeResult, UsualHead},
    head,
    limits::{BODY_BUFFER, HANDSHAKE_TIMEOUT, HEAD_FIELDS},
    pool::{self, PooledConnection, Sent},
    refusal::Refusal,
    request_body::{Outgoing, RequestBody, UploadProgress, head_of},
    response::UpstreamBody,
    route_table::Backend,
    upstream_io::OpenCount,
};
use http::{Method, Request, Response, StatusCode};
use hyper::ext::on_informational;
use std::{collections::BTreeSet, io, mem, net::SocketAddr, pin::pin, time::Duration};
use tokio::time::{self, Instant};

/// The timeout of connecting, over all endpoints, each time that a request needs it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// The time to wait for other endpoints once all have refused: those of a pod that has ended are removed a moment later,
/// and its successor's may be on their way.
const STALE_ENDPOINTS: Duration = Duration::from_millis(500);
/// Attempts to send a request that is lost after it was written.
const MAX_SENDS: usize = 3;

/// The response to a request and the connection that it arrived on, or why there is none.
type Exchanged = Result<(Response<UpstreamBody>, PooledConnection), Failure>;

/// Why a connection has brought no response.
struct Failure {
    /// Whether the endpoint may have got the request.
    written: bool,
    /// For the client, unless the request is sent again.
    refusal: Refusal,
}

impl Client {
    /// Returns the head of the response, and the connection that it arrived on: from the endpoint
    /// `pinned`, unless it is not ready.
    pub(super) async fn forward(
        &self,
        backend: &Backend,
        pinned: Option<SocketAddr>,
        outgoing: &mut Outgoing,
    ) -> Result<(Response<UpstreamBody>, PooledConnection), Refusal> {
        if backend.upstream.http2 {
            head::for_http2(&mut outgoing.request, backend.upstream.tls.is_some())?;
        }
        let may_repeat = outgoing.progress.is_none() && is_idempotent(outgoing.request.method());
        let mut tried = Vec::new();
        let mut lost = 0;
        let mut last = None;
        loop {
            let (mut connection, reused) =
                match self.connection(backend, pinned, &mut tried, lost > 0).await {
                    Ok(found) => found,
                    Err(refusal) => return Err(last.unwrap_or(refusal)),
                };
            let endpoint = connection.endpoint;
            let failure = match self.exchange(&mut connection, outgoing, backend).await? {
                Some(Ok(response)) => return Ok((response, connection)),
                Some(Err(failure)) => failure,
                // Boxed, as most exchanges need none of its state.
                None => {
                    let by_hyper = self.send(connection, outgoing, backend, may_repeat);
                    match Box::pin(by_hyper).await? {
                        Ok(done) => return Ok(done),
                        Err(failure) => failure,
                    }
                }
            };
            match failure.written {
                // Only a reused connection ends before anything is written, or that of an endpoint
                // which closes it at once.
                false => {}
                true if may_repeat && lost + 1 < MAX_SENDS => lost += 1,
                true => return Err(failure.refusal),
            }
            if !reused {
                tried.push(endpoint);
                last = Some(failure.refusal);
            }
        }
    }

    /// Sends a request without hyper and returns the response, or `None` if either is not for that.
    async fn exchange(
        &self,
        connection: &mut PooledConnection,
        outgoing: &mut Outgoing,
        backend: &Backend,
    ) -> Result<Option<Result<Response<UpstreamBody>, Failure>>, Refusal> {
        let request = &mut outgoing.request;
        let direct = connection.sender.direct().filter(|_| DirectConnection::takes(request));
        let Some(direct) = direct else { return Ok(None) };
        let forwarded = outgoing.lacks_forwarded.then_some(&self.forwarded);
        let limit = self.frontend.timeouts.response;
        let written = match direct.exchange(request, forwarded, limit).await {
            ExchangeResult::Usual(UsualHead { response, length, keep_alive }) => {
                let body = UpstreamBody::of(direct, length);
                connection.reusable = keep_alive;
                return Ok(Some(Ok(response.map(|()| body))));
            }
            ExchangeResult::Unusual => return Ok(None),
            ExchangeResult::TimedOut => return Err(timed_out()),
            ExchangeResult::Unsent => false,
            ExchangeResult::Lost => true,
        };
        Ok(Some(Err(Failure { written, refusal: closed(backend) })))
    }

    /// Sends a request by hyper. Returns the response, or why there is none if the request may be sent again.
    async fn send(
        &self,
        connection: PooledConnection,
        outgoing: &mut Outgoing,
        backend: &Backend,
        may_repeat: bool,
    ) -> Result<Exchanged, Refusal> {
        let limit = self.frontend.timeouts.response;
        if mem::take(&mut outgoing.lacks_forwarded) {
            self.forwarded.insert(outgoing.request.headers_mut());
        }
        let mut request = outgoing.take();
        let progress = outgoing.progress.as_deref();
        let spare = may_repeat.then(|| head_of(&request));
        let method = request.method().clone();
        if outgoing.takes_hints {
            self.collect_hints(&mut request);
        }
        let sent = self.pass_hints(wait(connection.send(request), progress, limit)).await?;
        let Some((mut connection, mut response)) = sent else { return Err(closed(backend)) };
        if response.is_err()
            && let Some(larger) = self.read_larger(&mut connection, &method, progress).await?
        {
            response = larger;
        }
        // Whatever the endpoint made of half a request, its error is the client's.
        let broken = || progress.is_some_and(UploadProgress::is_broken);
        let mut error = match response {
            Ok(response) => return Ok(Ok((response.map(UpstreamBody::Incoming), connection))),
            Err(_) if broken() => {
                return Err(Refusal::bad_request("the body of the request is invalid or cut off"));
            }
            Err(error) => error,
        };
        let refusal = failed(backend, error.error());
        let (again, written) = match (error.take_message(), spare) {
            (Some(unsent), _) => (unsent, false),
            (None, Some(spare)) if !error.error().is_parse() => (spare, true),
            _ => return Err(refusal),
        };
        outgoing.request = again;
        Ok(Err(Failure { written, refusal }))
    }

    /// Returns the response if it has ended the connection because it has more fields than usual.
    async fn read_larger(
        &self,
        connection: &mut PooledConnection,
        method: &Method,
        progress: Option<&UploadProgress>,
    ) -> Result<Option<Sent>, Refusal> {
        let read = connection.read_larger(method);
        let response = wait(read, progress, self.frontend.timeouts.response).await?;
        if response.is_some() {
            // The rest of the body is not sent any more.
            connection.reusable = progress.is_none();
        }
        Ok(response)
    }

    /// Returns a connection to a random endpoint, an idle one unless it must be `fresh`, and whether
    /// it was used before. Endpoints that cannot be connected to are added to `tried`.
    async fn connection(
        &self,
        backend: &Backend,
        pinned: Option<SocketAddr>,
        tried: &mut Vec<SocketAddr>,
        fresh: bool,
    ) -> Result<(PooledConnection, bool), Refusal> {
        let mut since = None;
        let mut failure = None;
        loop {
            let choose = |tried: &[SocketAddr]| {
                let pinned = pinned.and_then(|endpoint| backend.route.pinned(endpoint, tried));
                pinned.or_else(|| backend.route.choose(self.peer.ip(), tried))
            };
            let chosen = match choose(tried) {
                // Those that were tried refused, or took the request and closed, as they were ending.
                None if !tried.is_empty() && failure.as_ref().is_none_or(is_refusal) => {
                    Box::pin(later_endpoint(backend, || choose(tried))).await
                }
                chosen => chosen,
            };
            let Some(endpoint) = chosen else {
                return Err(unreachable(backend, tried, failure));
            };
            if !fresh && let Some(connection) = PooledConnection::take_idle(endpoint, backend) {
                return Ok((connection, true));
            }
            let Some(opened) = pool::reserve() else {
                let text = "the proxy has reached its limit of connections to endpoints";
                return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text));
            };
            let left =
                CONNECT_TIMEOUT.saturating_sub(since.get_or_insert_with(Instant::now).elapsed());
            // Boxed, because most requests need no connect, nor the memory for its state.
            let within = left.min(backend.route.connect_timeout());
            match Box::pin(self.connect(endpoint, backend, within, opened)).await {
                Ok(connection) => return Ok((connection, false)),
                Err(error) => {
                    tracing::debug!(%endpoint, %error, "failed to connect to endpoint");
                    let timed_out = error.kind() == io::ErrorKind::TimedOut;
                    backend.route.record_failure(tried, endpoint, timed_out);
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
        backend: &Backend,
        within: Duration,
        opened: OpenCount,
    ) -> io::Result<PooledConnection> {
        let stream = time::timeout(within, self.network.connect(endpoint)).await??;
        let _ = stream.set_nodelay(true);
        let connection = match &backend.upstream.tls {
            None if !backend.upstream.http2 => {
                return Ok(PooledConnection::direct(stream, endpoint, backend, opened));
            }
            None => PooledConnection::new(stream, endpoint, backend, opened).await,
            Some(tls) => {
                let stream = time::timeout(HANDSHAKE_TIMEOUT, tls.connect(stream)).await??;
                if backend.upstream.http2 && stream.get_ref().1.alpn_protocol() != Some(b"h2") {
                    return Err(io::Error::other("the endpoint does not speak HTTP/2"));
                }
                PooledConnection::new(stream, endpoint, backend, opened).await
            }
        };
        connection.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Client {
    /// Collects the informational responses to a request.
    fn collect_hints(&self, request: &mut Request<RequestBody>) {
        let signals = self.signals.clone();
        on_informational(request, move |response| {
            // The proxy itself confirms `Expect: 100-continue`.
            if response.status() != StatusCode::CONTINUE {
                let headers = response.headers().clone();
                signals.hints.add(head::informational(response.status(), headers));
            }
        });
    }

    /// Passes informational responses on while the response is waited for.
    async fn pass_hints<T>(&self, response: impl Future<Output = T>) -> T {
        let mut response = pin!(response);
        let outbox = &self.signals.outbox;
        loop {
            tokio::select! {
                biased;
                hint = self.signals.hints.next() => {
                    outbox.put(&hint);
                    // Before the response, so it is not looked at until then.
                    outbox.drained().await;
                }
                response = response.as_mut() => return response,
            }
        }
    }
}

/// Returns whether an endpoint is not there, rather than slow.
fn is_refusal(error: &io::Error) -> bool {
    error.kind() != io::ErrorKind::TimedOut
}

/// Waits until there is an endpoint to choose, for as long as endpoints may be stale.
async fn later_endpoint(
    backend: &Backend,
    choose: impl Fn() -> Option<SocketAddr>,
) -> Option<SocketAddr> {
    let mut changes = backend.route.changes();
    let until = Instant::now() + STALE_ENDPOINTS;
    loop {
        // After the subscription, so that no change is missed.
        if let Some(endpoint) = choose() {
            return Some(endpoint);
        }
        time::timeout_at(until, changes.changed()).await.ok()?.ok()?;
    }
}

/// Waits for the head of the response as long as anything moves.
async fn wait<T>(
    sent: impl Future<Output = T>,
    progress: Option<&UploadProgress>,
    limit: Duration,
) -> Result<T, Refusal> {
    let mut sent = pin!(sent);
    loop {
        if let Ok(response) = time::timeout(limit, sent.as_mut()).await {
            return Ok(response);
        }
        match progress {
            Some(progress) if progress.moved() => {}
            Some(progress) if progress.awaits_client() => {
                let text = "timed out waiting for the rest of the request";
                return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, text));
            }
            _ => return Err(timed_out()),
        }
    }
}

fn timed_out() -> Refusal {
    Refusal::new(StatusCode::GATEWAY_TIMEOUT, "timed out waiting for the endpoint")
}

fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE].contains(method)
}

/// Chooses the status as ingress-nginx does: 503 without endpoints, 502 if none accepts a connection,
/// 504 if the last one timed out.
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
        e if e.is_parse_too_large() => {
            let kib = BODY_BUFFER / 1024;
            format!(
                "an endpoint of {name} sent a response whose head has more than {kib} KiB or \
                 {HEAD_FIELDS} fields"
            )
        }
        e if e.is_parse() => format!("an endpoint of {name} sent an invalid response"),
        _ => return closed(backend),
    };
    Refusal::new(StatusCode::BAD_GATEWAY, text)
}

fn closed(backend: &Backend) -> Refusal {
    let name = &backend.name;
    let text = format!("an endpoint of {name} closed the connection without a response");
    Refusal::new(StatusCode::BAD_GATEWAY, text)
}
