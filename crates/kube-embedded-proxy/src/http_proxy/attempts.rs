//! The attempts of a request: one, or as many as the retries of its rule allow, with their timeouts.

use super::{
    client::Client,
    policies::{Retry, RuleTimeouts},
    pool::PooledConnection,
    refusal::Refusal,
    request_body::Outgoing,
    response::UpstreamBody,
    route_table::{Backend, RouteRule},
};
use http::{Response, StatusCode};
use std::{net::SocketAddr, time::Duration};
use tokio::time;

/// The pause before a retry where a rule has none: that of Envoy.
const BACKOFF: Duration = Duration::from_millis(25);

type Forwarded = Result<(Response<UpstreamBody>, PooledConnection), Refusal>;

impl Client {
    /// Forwards a request as its rule says.
    pub(super) async fn attempt(
        &self,
        rule: &RouteRule,
        backend: &Backend,
        pinned: Option<SocketAddr>,
        outgoing: &mut Outgoing,
    ) -> Forwarded {
        if rule.retry.is_none() && rule.timeouts == RuleTimeouts::default() {
            return self.forward(backend, pinned, outgoing).await;
        }
        // Boxed, as most rules say nothing of this, and moving the state of it costs every request.
        Box::pin(self.attempt_within(rule, backend, pinned, outgoing)).await
    }

    async fn attempt_within(
        &self,
        rule: &RouteRule,
        backend: &Backend,
        pinned: Option<SocketAddr>,
        outgoing: &mut Outgoing,
    ) -> Forwarded {
        let each = rule.timeouts.backend_request;
        // A body is gone once it was sent.
        let retry = rule.retry.as_ref().filter(|_| outgoing.progress.is_none());
        let attempts = async {
            match retry {
                None => within(each, self.forward(backend, pinned, outgoing)).await,
                Some(retry) => self.retry(retry, each, backend, pinned, outgoing).await,
            }
        };
        within(rule.timeouts.request, attempts).await
    }

    async fn retry(
        &self,
        retry: &Retry,
        each: Option<Duration>,
        backend: &Backend,
        pinned: Option<SocketAddr>,
        outgoing: &mut Outgoing,
    ) -> Forwarded {
        for _ in 0..retry.attempts {
            let again = outgoing.copy();
            match within(each, Box::pin(self.forward(backend, pinned, outgoing))).await {
                Ok((response, _)) if retry.codes.contains(&response.status().as_u16()) => {}
                Err(refusal) if refusal.status.is_server_error() => {}
                done => return done,
            }
            time::sleep(retry.backoff.unwrap_or(BACKOFF)).await;
            *outgoing = again;
        }
        within(each, Box::pin(self.forward(backend, pinned, outgoing))).await
    }
}

async fn within(
    timeout: Option<Duration>,
    forwarded: impl Future<Output = Forwarded>,
) -> Forwarded {
    let Some(timeout) = timeout else { return forwarded.await };
    time::timeout(timeout, forwarded).await.unwrap_or_else(|_| {
        let text = "the timeout of the route has passed";
        Err(Refusal::new(StatusCode::GATEWAY_TIMEOUT, text))
    })
}
