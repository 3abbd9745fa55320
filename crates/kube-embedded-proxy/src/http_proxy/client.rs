//! One client connection, and what becomes of its requests.

use super::{
    conditions::RequestFields,
    cors::CorsResponse,
    filters::{Filters, Mirror, Received, Redirect},
    forwarded_headers::ForwardedHeaders,
    frontend::Frontend,
    head::{self, Target},
    refusal::Refusal,
    request_body::{Outgoing, RequestBody, head_of},
    response::{ResponseBody, UpstreamBody},
    route_table::{Entry, WeightedBackend, host_name},
    session::RequestSession,
    signals::{ConnectionSignals, InFlight},
    tunnel::Tunnel,
};
use crate::data_plane::ConnectionSlot;
use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::{
    body::{Body as _, Incoming},
    upgrade::{self, OnUpgrade},
};
use kube_embedded_core::{network::Network, task::spawn_named};
use rand::RngExt;
use std::{
    convert::Infallible,
    future,
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock, PoisonError, atomic::Ordering},
};
use tokio::time;

/// The connection of a client.
pub(super) struct Client {
    pub(super) frontend: Arc<Frontend>,
    pub(super) network: Arc<Network>,
    pub(super) peer: SocketAddr,
    pub(super) forwarded: ForwardedHeaders,
    /// The name that a TLS client sent.
    pub(super) server_name: OnceLock<Option<String>>,
    pub(super) signals: Arc<ConnectionSignals>,
    /// What the connection becomes after a protocol switch.
    tunnel: Mutex<Option<Tunnel>>,
}

impl Client {
    pub(super) fn new(
        frontend: Arc<Frontend>,
        network: Arc<Network>,
        peer: SocketAddr,
        forwarded: ForwardedHeaders,
        slot: Arc<ConnectionSlot>,
    ) -> Self {
        let (signals, tunnel) = (Arc::new(ConnectionSignals::new(slot)), Mutex::default());
        let server_name = OnceLock::new();
        Self { frontend, network, peer, forwarded, server_name, signals, tunnel }
    }

    pub(super) fn take_tunnel(&self) -> Option<Tunnel> {
        self.tunnel.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Returns when the connection has been idle for the timeout, or the client reads nothing of its
    /// response. One timer for a connection is cheaper than one for each request, so it may take
    /// twice as long.
    ///
    /// Endpoints have shorter timeouts of their own: what does not move for longer than these waits
    /// for the client.
    pub(super) async fn idle(&self) {
        let (timeouts, signals) = (self.frontend.timeouts, &self.signals);
        let progress = || {
            let frames = signals.frames.load(Ordering::Relaxed);
            (signals.requests.load(Ordering::Relaxed), frames)
        };
        let writes = || signals.writes.load(Ordering::Relaxed);
        let (mut before, mut written, mut stalled) = (progress(), writes(), 0);
        loop {
            time::sleep(timeouts.idle).await;
            let blocked = signals.blocked.load(Ordering::Relaxed);
            // A slow client is not an idle one: the kernel lets us write a megabyte at a time.
            // Other writes mean nothing: over HTTP/2 they may be our own pings.
            if progress() != before || blocked && writes() != written {
                stalled = 0;
            } else if !blocked && signals.in_flight.load(Ordering::Relaxed) == 0 {
                return;
            } else {
                stalled += 1;
            }
            if stalled == timeouts.stalled_periods {
                tracing::debug!(peer = %self.peer, "client reads nothing; closing its connection");
                return;
            }
            (before, written) = (progress(), writes());
        }
    }

    /// Responds to a request.
    pub(super) async fn respond(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<ResponseBody>, Infallible> {
        let response = self.proxy(request).await;
        Ok(response.unwrap_or_else(|refusal| {
            let Refusal { status, text } = &refusal;
            tracing::debug!(peer = %self.peer, %status, "request not proxied: {text}");
            refusal.into_response()
        }))
    }

    async fn proxy(
        self: &Arc<Self>,
        mut request: Request<Incoming>,
    ) -> Result<Response<ResponseBody>, Refusal> {
        let in_flight = InFlight::new(self.signals.clone());
        let version = request.version();
        let has_body = !request.body().is_end_stream();
        if version < Version::HTTP_2 {
            self.signals.unread.store(has_body, Ordering::Relaxed);
        }
        let target = head::target(&request)?;
        let table = self.frontend.route_table();
        if let Some(name) = self.server_name.get()
            && table.is_misdirected(name.as_deref(), target.host())
        {
            let text = "this host is not served on a connection that was made with another name";
            return Err(Refusal::new(StatusCode::MISDIRECTED_REQUEST, text));
        }
        let (method, headers) = (request.method(), request.headers());
        let fields = RequestFields { method, headers, query: target.uri().query() };
        let Some(entry) = table.find(target.host(), target.path(), &fields) else {
            return Err(Refusal::new(StatusCode::NOT_FOUND, "no rule matches this host and path"));
        };
        let filters = entry.rule.filters.as_deref();
        let cors = filters.and_then(|f| f.cors.as_ref()?.response(method, headers));
        let cors = match cors {
            Some(cors) if cors.is_preflight => return Ok(preflight(cors)),
            other => other,
        };
        if let Some((filters, redirect)) = filters.and_then(|f| Some((f, f.redirect.as_ref()?))) {
            return self.redirect(&target, redirect, entry, filters);
        }
        let session = RequestSession::of(entry, target.path(), headers);
        let chosen = match session.as_ref().and_then(RequestSession::backend) {
            Some(backend) => Some(backend),
            None => entry.rule.choose(&mut rand::rng()),
        };
        let Some((chosen, backend)) = chosen.and_then(|c| Some((c, c.backend.as_ref()?))) else {
            let text = "the route of this request has no valid backend";
            return Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text));
        };
        let requested_upgrade = head::requested_upgrade(&request);
        let client_side = requested_upgrade.is_some().then(|| upgrade::on(&mut request));
        let pinned = session.as_ref().and_then(RequestSession::endpoint);
        let mut outgoing =
            self.upstream_request(request, target, entry, chosen, requested_upgrade.as_ref())?;
        let attempt = self.attempt(&entry.rule, backend, pinned, &mut outgoing);
        let (mut response, mut connection) = attempt.await?;
        head::check_response(response.headers())?;
        connection.reusable &= !head::has_two_lengths(response.headers());

        let switched = self.switch_protocols(&mut response, client_side)?;
        let (mut parts, body) = response.into_parts();
        head::for_client(&mut parts, switched);
        if let Some(changes) = &chosen.headers {
            changes.1.apply(&mut parts.headers);
        }
        if let Some(filters) = filters {
            filters.response_headers.apply(&mut parts.headers);
        }
        if let Some(cors) = cors {
            cors.apply(&mut parts.headers);
        }
        if let Some(session) = session {
            let secure = self.forwarded.origin().0 == "https";
            parts.headers.extend(session.token(&backend.name, connection.endpoint, secure));
        }
        let until_close = version < Version::HTTP_11;
        let (timeout, progress) = (self.frontend.timeouts.response, outgoing.progress);
        let body = ResponseBody::new(body, connection, until_close, progress, in_flight, timeout);
        Ok(Response::from_parts(parts, body))
    }

    /// Rewrites a request for its endpoint, and sends copies to the mirrors of its rule.
    fn upstream_request(
        &self,
        request: Request<Incoming>,
        target: Target,
        entry: &Entry,
        chosen: &WeightedBackend,
        upgrade: Option<&HeaderValue>,
    ) -> Result<Outgoing, Refusal> {
        let version = request.version();
        let (mut parts, body) = request.into_parts();
        let (body, progress) = match body.is_end_stream() {
            true => (RequestBody::empty(), None),
            false => {
                let (body, progress) = RequestBody::new(body, self.signals.clone());
                (body, Some(progress))
            }
        };
        let filters = entry.rule.filters.as_deref();
        // What changes or copies fields is to find all of them.
        let lacks_forwarded = filters.is_none() && chosen.headers.is_none();
        let forwarded = (!lacks_forwarded).then_some(&self.forwarded);
        head::for_endpoint(&mut parts, target, forwarded, upgrade, progress.is_some())?;
        if let Some(changes) = &chosen.headers {
            changes.0.apply(&mut parts.headers);
        }
        if let Some(filters) = filters {
            filters.apply_to_request(&mut parts, entry.prefix);
        }
        let request = Request::from_parts(parts, body);
        for mirror in filters.into_iter().flat_map(|filters| &filters.mirrors) {
            self.mirror(mirror, &request, progress.is_none());
        }
        let takes_hints = version == Version::HTTP_11;
        Ok(Outgoing { request, progress, lacks_forwarded, takes_hints })
    }

    /// Makes the connection a tunnel if the endpoint has switched protocols. Returns whether it has.
    fn switch_protocols(
        &self,
        response: &mut Response<UpstreamBody>,
        client: Option<OnUpgrade>,
    ) -> Result<bool, Refusal> {
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(false);
        }
        let (Some(client), Some(_)) = (client, response.headers().get(header::UPGRADE)) else {
            let text = "the endpoint switched protocols without a request to";
            return Err(Refusal::new(StatusCode::BAD_GATEWAY, text));
        };
        let tunnel = Tunnel { client, endpoint: upgrade::on(response) };
        *self.tunnel.lock().unwrap_or_else(PoisonError::into_inner) = Some(tunnel);
        Ok(true)
    }

    fn redirect(
        &self,
        target: &Target,
        redirect: &Redirect,
        entry: &Entry,
        filters: &Filters,
    ) -> Result<Response<ResponseBody>, Refusal> {
        let (scheme, port) = self.forwarded.origin();
        let host = host_name(target.host().unwrap_or_default());
        let received = Received { scheme, host: &host, port };
        let location = redirect.location(&received, target.uri(), entry.prefix);
        let location = HeaderValue::try_from(location).map_err(|_| {
            Refusal::bad_request("the location of the redirect would not be a valid header")
        })?;
        let mut response = Response::new(ResponseBody::Text(None));
        *response.status_mut() = redirect.status;
        response.headers_mut().insert(header::LOCATION, location);
        filters.response_headers.apply(response.headers_mut());
        Ok(response)
    }

    /// Sends a copy of the request to the mirror's share of requests. Its response is dropped.
    fn mirror(&self, mirror: &Mirror, request: &Request<RequestBody>, without_body: bool) {
        if rand::rng().random_range(0..mirror.denominator.max(1)) >= mirror.numerator {
            return;
        }
        if !without_body {
            tracing::debug!(backend = mirror.backend.name, "request with a body is not mirrored");
            return;
        }
        let (request, backend) = (head_of(request), mirror.backend.clone());
        let mut outgoing =
            Outgoing { request, progress: None, lacks_forwarded: false, takes_hints: false };
        // Signals of its own, as it is no request of the client.
        let (frontend, network) = (self.frontend.clone(), self.network.clone());
        let slot = self.signals.slot.clone();
        let client = Self::new(frontend, network, self.peer, self.forwarded.clone(), slot);
        let mirrored = async move {
            match client.forward(&backend, None, &mut outgoing).await {
                Ok((response, mut connection)) => {
                    let mut body = response.into_body();
                    while let Some(Ok(_)) =
                        future::poll_fn(|cx| body.poll_frame(Some(&mut connection), cx)).await
                    {
                    }
                    if body.is_end_stream() {
                        connection.release();
                    }
                }
                Err(refusal) => {
                    tracing::debug!(backend = backend.name, "not mirrored: {}", refusal.text);
                }
            }
        };
        spawn_named("mirror", mirrored).detach();
    }
}

/// Returns the response to a preflight request, which no endpoint sees.
fn preflight(cors: CorsResponse) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Text(None));
    *response.status_mut() = StatusCode::NO_CONTENT;
    cors.apply(response.headers_mut());
    response
}
