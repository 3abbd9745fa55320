//! The Kubernetes API as one tower service: clients within the process and those behind TLS come through
//! [`Api::handle`] alike.

use crate::{
    authentication::{self, user::User},
    authorization::{bootstrap_policy, filter},
    http::{
        body::{Body, into_indented, into_yaml},
        negotiation::{self, Encoding},
        status::{ApiError, ApiResult},
    },
    metadata,
    resources::registry,
    router,
    state::ServerState,
    store::{Key, Store},
    subresources::stream,
    verbs::guaranteed_update::with_revision,
};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response, header, request::Parts};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use kube_embedded_core::{network::Addresses, node_api::NodeApi};
use std::{
    convert::Infallible,
    fmt,
    path::PathBuf,
    sync::{Arc, Weak},
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::time::timeout;

/// The maximum size of a request body, as in Kubernetes.
const BODY_LIMIT: usize = 3 * 1024 * 1024;
/// The time in which it must arrive (`--request-timeout` of kube-apiserver).
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// The API of one cluster. A clone is another handle to the same cluster.
#[derive(Clone)]
pub struct Api {
    state: Arc<ServerState>,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").field("addresses", &self.state.addresses).finish_non_exhaustive()
    }
}

impl Api {
    /// An API over the objects of `store`, to which it adds the default roles and bindings.
    pub fn new(store: Store, addresses: Addresses) -> Self {
        seed_policy(&store);
        Self::over(store, addresses)
    }

    /// An API over the objects of `store`, in which [`seed_policy`] was called.
    pub fn over(store: Store, addresses: Addresses) -> Self {
        Self { state: Arc::new(ServerState::new(store, addresses)) }
    }

    /// A client that calls this API without a socket. Must be called within a tokio runtime.
    pub fn client(&self) -> kube::Client {
        kube::Client::new(self.clone(), "default")
    }

    /// Sets the kubelet backend for logs and exec. Only the first call has an effect; the reference is weak.
    pub fn set_nodes(&self, nodes: Weak<dyn NodeApi>) {
        let _ = self.state.nodes.set(nodes);
    }

    /// Allows hostPath volumes below these directories. Only the first call has an effect.
    pub fn allow_host_paths(&self, directories: Vec<PathBuf>) {
        let _ = self.state.host_paths.set(directories);
    }

    /// Ends all watches and streams, so that connections can be closed.
    pub fn stop(&self) {
        self.state.stopping.send_replace(true);
    }

    /// Stores an object of a new cluster as it is, with defaults applied. Nothing is validated or
    /// allocated.
    ///
    /// # Errors
    /// If the type is unknown or the object exists.
    pub fn seed(&self, mut object: serde_json::Value) -> Result<(), String> {
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let version = text(&object["apiVersion"]);
        let (group, version) = version.rsplit_once('/').unwrap_or(("", &version));
        let resource = registry::find_kind(group, version, object["kind"].as_str().unwrap_or(""))
            .ok_or_else(|| format!("there is no kind {}", object["kind"]))?;
        metadata::fill_system_fields(resource, &mut object);
        resource.apply_defaults(&mut object);
        resource.object_schema().to_stored_form(&mut object);
        let key = Key {
            resource: resource.storage_resource(),
            namespace: text(&object["metadata"]["namespace"]),
            name: text(&object["metadata"]["name"]),
        };
        let stored = self.state.store.create(key, |revision| with_revision(object, revision));
        stored.map(|_| ()).map_err(|error| error.to_string())
    }

    /// Serves one request. There is no error: refusals are responses.
    pub async fn handle<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send,
    {
        let start = Instant::now();
        let (mut parts, body) = request.into_parts();
        let response = match filter::check(&self.state, &mut parts) {
            Ok(()) => self.serve(&parts, body).await.unwrap_or_else(ApiError::into_response),
            Err(error) => error.into_response(),
        };
        let is_error = response.status().is_client_error() || response.status().is_server_error();
        let response = match negotiation::encoding(&parts.headers, is_error) {
            Encoding::Yaml => into_yaml(response),
            Encoding::IndentedJson => into_indented(response),
            Encoding::Json => response,
        };
        log(&parts, &response, start);
        response
    }

    /// Serves a request that is authorized.
    async fn serve<B>(&self, parts: &Parts, body: B) -> ApiResult<Response<Body>>
    where
        B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send,
    {
        let body = timeout(BODY_TIMEOUT, Limited::new(body, BODY_LIMIT).collect()).await;
        let body = body.map_err(|_| ApiError::timeout())?;
        let body = body.map_err(|error| match error.is::<LengthLimitError>() {
            true => ApiError::too_large(BODY_LIMIT),
            false => ApiError::bad_request(format!("failed to read the body: {error}")),
        })?;
        router::route(&self.state, parts, &body.to_bytes()).await
    }

    /// Returns the user of a request; `None` if its credentials are invalid.
    pub(crate) fn authenticate(
        &self,
        headers: &HeaderMap,
        has_certificate: bool,
        admin_token: &str,
    ) -> Option<Arc<User>> {
        authentication::request::authenticate(&self.state, headers, has_certificate, admin_token)
    }

    /// The response to a client with invalid credentials.
    pub(crate) fn unauthorized() -> Response<Body> {
        ApiError::unauthorized().into_response()
    }
}

/// Logs a request that was served. Of a watch or a stream, the time is that until the response began.
fn log(parts: &Parts, response: &Response<Body>, start: Instant) {
    tracing::debug!(
        target: "apiserver::request",
        method = %parts.method,
        path = %parts.uri,
        code = response.status().as_u16(),
        user = filter::user(parts).name,
        seconds = start.elapsed().as_secs_f64(),
        user_agent = parts.headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()),
    );
}

/// Stores the default roles and bindings. They are most of the work of a new API and depend on nothing, so a cluster
/// stores them while it waits for something else.
pub fn seed_policy(store: &Store) {
    bootstrap_policy::seed(store);
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl tower::Service<Request<kube::client::Body>> for Api {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<kube::client::Body>) -> Self::Future {
        let api = self.clone();
        if request.headers().contains_key(http::header::UPGRADE) {
            let handle = move |request| {
                let api = api.clone();
                async move { api.handle(request).await }
            };
            return Box::pin(async move { Ok(stream::in_process(handle, request).await) });
        }
        Box::pin(async move { Ok(api.handle(request).await) })
    }
}

#[cfg(test)]
mod tests;
