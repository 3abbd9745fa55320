//! The Kubernetes API as one tower service: every client, in the process or behind TLS, comes
//! through [`Api::handle`]. The only module that touches the store.

use crate::{
    admission,
    crd::{self, CrdRegistry},
    discovery,
    http::{
        body::Body,
        output,
        path::{self, Query, Route, Target},
        status::{ApiError, ApiResult},
    },
    resources::registry::{self, ResourceRegistry},
    store::Store,
    subresources::{
        self, stream,
        token::{self, User},
    },
    verbs::{delete, metadata, patch, read, write},
};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, Method, Request, Response, StatusCode, request::Parts};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use kube_embedded_core::{network::Addresses, node_api::NodeApi};
use std::{
    convert::Infallible,
    fmt,
    sync::{Arc, Mutex, OnceLock, Weak},
    task::{Context, Poll},
};

/// Longest body of a request, as in Kubernetes.
const BODY_LIMIT: usize = 3 * 1024 * 1024;
/// Kubernetes says it with every answer.
const ENDPOINTS_ARE_DEPRECATED: &str =
    r#"299 - "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice""#;
/// The one user there is.
pub(crate) const USER: &str = "kubernetes-admin";

/// The API of one cluster. A clone is another handle to the same cluster.
#[derive(Clone)]
pub struct Api {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) addresses: Addresses,
    pub(crate) nodes: OnceLock<Weak<dyn NodeApi>>,
    pub(crate) signer: token::Signer,
    /// Held from the choice of a Service's address until it is stored.
    pub(crate) services: Mutex<()>,
    pub(crate) crds: CrdRegistry,
    pub(crate) stopping: tokio::sync::watch::Sender<bool>,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").field("addresses", &self.inner.addresses).finish_non_exhaustive()
    }
}

impl Api {
    /// An API over the objects of `store`.
    pub fn new(store: Store, addresses: Addresses) -> Self {
        let inner = Inner {
            store,
            addresses,
            nodes: OnceLock::new(),
            signer: token::Signer::default(),
            services: Mutex::new(()),
            crds: CrdRegistry::default(),
            stopping: tokio::sync::watch::Sender::new(false),
        };
        Self { inner: Arc::new(inner) }
    }

    /// A client that calls this API without a socket. Must be called within a tokio runtime.
    pub fn client(&self) -> kube::Client {
        kube::Client::new(self.clone(), "default")
    }

    /// Whom to ask for logs, from now on; the first call counts. The API keeps no one alive.
    pub fn set_nodes(&self, nodes: Weak<dyn NodeApi>) {
        let _ = self.inner.nodes.set(nodes);
    }

    /// Ends all watches, so that connections can be closed.
    pub fn stop(&self) {
        self.inner.stopping.send_replace(true);
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
        let key = crate::store::Key {
            resource: resource.storage_resource(),
            namespace: text(&object["metadata"]["namespace"]),
            name: text(&object["metadata"]["name"]),
        };
        let stored =
            self.inner.store.create(key, |revision| write::with_revision(object, revision));
        stored.map(|_| ()).map_err(|error| error.to_string())
    }

    /// Answers one request. There is no error: refusals are answers.
    pub async fn handle<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send,
    {
        let (parts, body) = request.into_parts();
        let body = match Limited::new(body, BODY_LIMIT).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => {
                return ApiError::too_large(BODY_LIMIT).into_response();
            }
            Err(error) => {
                return ApiError::bad_request(format!("the body broke off: {error}"))
                    .into_response();
            }
        };
        answer(&self.inner, &parts, &body).await.unwrap_or_else(ApiError::into_response)
    }

    /// Whose token this is, if it is one of a service account.
    pub(crate) fn authenticate(&self, token: &str) -> Option<User> {
        token::authenticate(&self.inner, token)
    }

    /// The answer to a client that did not say who it is.
    pub(crate) fn unauthorized() -> Response<Body> {
        ApiError::unauthorized().into_response()
    }

    /// Whether a path may be asked for by anybody.
    pub(crate) fn is_public(path: &str) -> bool {
        matches!(
            path::parse(&ResourceRegistry::default(), path),
            Ok(Route::Version | Route::Health)
        )
    }
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
            return Box::pin(async move { Ok(stream::in_process(api, request).await) });
        }
        Box::pin(async move { Ok(api.handle(request).await) })
    }
}

async fn answer(inner: &Arc<Inner>, parts: &Parts, body: &Bytes) -> ApiResult<Response<Body>> {
    let query = Query::parse(parts.uri.query());
    let (method, headers) = (&parts.method, &parts.headers);
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let served = &*inner.crds.served();
    match path::parse(served, parts.uri.path())? {
        Route::Resource(target) if stream::takes_over(&target) => {
            stream::switch(inner, parts, &target, &query)
        }
        Route::Resource(target) => {
            let answered = resource(inner, method, &target, &query, headers, body).await;
            if !reads && concerns_definitions(&target) {
                crd::reconcile_definitions(inner)?;
            }
            let mut response = answered?;
            if (target.resource.group, target.resource.plural) == ("", "endpoints") {
                let warning = http::HeaderValue::from_static(ENDPOINTS_ARE_DEPRECATED);
                response.headers_mut().append(http::header::WARNING, warning);
            }
            let deprecation = target.resource.crd.and_then(|crd| crd.deprecation.as_ref());
            if let Some(deprecation) = deprecation
                && let Ok(warning) = http::HeaderValue::from_str(&format!("299 - {deprecation:?}"))
            {
                response.headers_mut().append(http::header::WARNING, warning);
            }
            Ok(response)
        }
        Route::Review(plural) if *method == Method::POST => {
            let user = parts.extensions.get::<User>().cloned().unwrap_or_default();
            discovery::review(inner, &user, plural, &query, headers, body)
        }
        Route::Nothing => Ok(plain(StatusCode::NOT_FOUND, "404 page not found\n")),
        _ if !reads => Err(ApiError::method_not_allowed()),
        Route::Review(_) => Err(ApiError::method_not_allowed()),
        Route::Resources { group, version } => Ok(discovery::resources(served, group, version)),
        Route::Group(group) => discovery::group(served, group),
        Route::CoreVersions => Ok(discovery::core_versions(served, headers, &inner.addresses)),
        Route::Groups => Ok(discovery::groups(served, headers)),
        Route::OpenApiIndex => Ok(discovery::openapi_index(served)),
        Route::OpenApi { group, version } => discovery::openapi(served, group, version),
        Route::Version => Ok(discovery::version()),
        Route::Health => Ok(plain(StatusCode::OK, "ok")),
    }
}

/// Whether a write may change what is served, or be what a definition on its way out waits for.
fn concerns_definitions(target: &Target) -> bool {
    crd::is_definition(&target.resource) || target.resource.crd.is_some_and(|crd| crd.terminating)
}

fn plain(code: StatusCode, text: &'static str) -> Response<Body> {
    output::respond(code, "text/plain; charset=utf-8", Bytes::from_static(text.as_bytes()))
}

async fn resource(
    inner: &Arc<Inner>,
    method: &Method,
    target: &Target<'_>,
    query: &Query,
    headers: &HeaderMap,
    body: &Bytes,
) -> ApiResult<Response<Body>> {
    let resource = &target.resource;
    let respond = |written: write::WriteResult| written.respond(resource, query, headers);
    if target.name.is_empty() {
        let somewhere = !resource.namespaced || !target.namespace.is_empty();
        return match *method {
            Method::GET => read::collection(inner, target, query, headers),
            Method::POST if somewhere => {
                if (resource.group, resource.kind) == ("", "Pod") {
                    admission::wait_for_default(inner, &target.namespace).await;
                }
                respond(write::create(inner, target, query, headers, body)?)
            }
            Method::DELETE if somewhere => {
                delete::delete_collection(inner, target, query, headers, body)
            }
            _ => Err(ApiError::method_not_allowed()),
        };
    }
    if !target.subresource.is_empty() && !subresources::has(resource, &target.subresource) {
        return Err(ApiError::no_such_resource());
    }
    match (&*target.subresource, method) {
        ("", &Method::GET) if query.flag("watch") => read::watch_one(inner, target, query, headers),
        ("" | "status", &Method::GET) => read::get(inner, target, query, headers),
        ("" | "status" | "finalize", &Method::PUT) => {
            respond(write::update(inner, target, query, headers, body)?)
        }
        ("" | "status", &Method::PATCH) => {
            respond(patch::patch(inner, target, query, headers, body)?)
        }
        ("", &Method::DELETE) => delete::delete(inner, target, query, headers, body),
        ("scale", _) => subresources::scale(inner, method, target, query, headers, body),
        ("log", &Method::GET) => subresources::log(inner, target, query).await,
        ("token", &Method::POST) => token::request(inner, target, query, headers, body),
        ("binding", &Method::POST) => subresources::bind(inner, target, query, headers, body),
        ("eviction", &Method::POST) => subresources::evict(inner, target, query, headers, body),
        _ => Err(ApiError::method_not_allowed()),
    }
}
