//! Routes requests: from a path and a method to the verb or subresource that serves it.

use crate::{
    crd, discovery,
    http::{
        body::{Body, respond},
        negotiation::{self, Converts, produces},
        path::{self, Route},
        request::Request,
        status::{ApiError, ApiResult},
    },
    oidc, openapi,
    resources::{registry::ResourceRegistry, resource_type::ResourceType},
    reviews,
    state::ServerState,
    subresources::{binding, eviction, log, proxy, scale, stream, token},
    verbs::{create, delete, get, list, patch, pipeline::with_warnings, update, watch},
};
use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header, request::Parts};
use std::sync::Arc;

/// Serves a request.
pub(crate) async fn route(
    state: &Arc<ServerState>,
    parts: &Parts,
    body: &Bytes,
) -> ApiResult<Response<Body>> {
    let registry = &*state.crds.served();
    let route = path::parse(registry, parts.uri.path())?;
    let request = Request::new(parts, body);
    match route {
        Route::Resource(target) if proxy::serves(&target) => {
            proxy::proxy(state, &request.with_target(*target)).await
        }
        Route::Resource(target) if stream::takes_over(&target) => {
            stream::switch(state, &request.with_target(*target))
        }
        Route::Resource(target) => serve_resource(state, &request.with_target(*target)).await,
        Route::Review(review) if *request.method() == Method::POST => {
            reviews::create(state, &request.with_target(*review))
        }
        Route::Nothing => Ok(plain(StatusCode::NOT_FOUND, "404 page not found\n")),
        _ if !request.is_read() => Err(ApiError::method_not_allowed()),
        Route::Review(_) => Err(ApiError::method_not_allowed()),
        Route::Resources { .. } | Route::Group(_) | Route::CoreVersions | Route::Groups => {
            discover(state, registry, &request, &route)
        }
        Route::OpenApiV2 => openapi::v2::respond_document(registry, request.headers()),
        Route::OpenApiIndex => Ok(discovery::openapi_index(registry)),
        Route::OpenApi { group, version } => discovery::openapi(registry, group, version),
        Route::OpenIdConfiguration | Route::Version => {
            negotiation::check_route(request.headers(), produces::JSON)?;
            Ok(match route {
                Route::Version => discovery::version(),
                _ => oidc::configuration(),
            })
        }
        Route::KeySet => oidc::key_set(state),
        Route::Health => Ok(plain(StatusCode::OK, "ok")),
    }
}

/// Serves discovery.
fn discover(
    state: &ServerState,
    registry: &ResourceRegistry,
    request: &Request<'_, ()>,
    route: &Route<'_>,
) -> ApiResult<Response<Body>> {
    let headers = request.headers();
    if matches!(route, Route::Resources { .. } | Route::CoreVersions) {
        negotiation::check_route(headers, produces::OBJECTS)?;
    }
    let has_versions = matches!(route, Route::CoreVersions | Route::Groups);
    if !(has_versions && discovery::wants_aggregated(headers)) {
        request.form_of(Converts::Nothing)?;
    }
    match route {
        Route::Resources { group, version } => Ok(discovery::resources(registry, group, version)),
        Route::Group(group) => discovery::group(registry, group),
        Route::CoreVersions => Ok(discovery::core_versions(registry, headers, &state.addresses)),
        _ => Ok(discovery::groups(registry, headers)),
    }
}

fn plain(code: StatusCode, text: &'static str) -> Response<Body> {
    respond(code, "text/plain; charset=utf-8", Bytes::from_static(text.as_bytes()))
}

/// Serves a request for a collection, an object or a subresource.
async fn serve_resource(
    state: &Arc<ServerState>,
    request: &Request<'_>,
) -> ApiResult<Response<Body>> {
    let resource = &request.target.resource;
    let (name, subresource) = (&*request.target.name, &*request.target.subresource);
    // No route, so no warnings of its own either.
    if !subresource.is_empty() && !resource.has_subresource(subresource) {
        return Err(match resource.is_unstructured() {
            true => ApiError::not_found(resource, name),
            false => ApiError::no_such_resource(),
        });
    }
    let response = match (check_media_types(request), name, subresource) {
        (Err(error), ..) => Err(error),
        (_, "", _) => collection(state, request).await,
        (_, _, "") => object(state, request),
        (_, _, subresource) => self::subresource(state, request, subresource).await,
    };
    // The response is made by now: that the write is stored does not depend on what follows from it.
    if !request.is_read() && resource.defines_resources {
        crd::reconcile_after_write(state);
    }
    let response = response.unwrap_or_else(|mut error| {
        let warnings = error.take_warnings();
        with_warnings(error.into_response(), warnings)
    });
    Ok(with_deprecation(resource, response))
}

/// Checks the media types of the request and of its response, as the router of kube-apiserver does. Custom resources have
/// none.
fn check_media_types(request: &Request<'_>) -> ApiResult<()> {
    let target = &request.target;
    // Logs are text.
    if target.subresource == "log" {
        return Ok(());
    }
    if !target.resource.is_unstructured() {
        if *request.method() == Method::PATCH {
            patch::check_media_type(request.content_type())?;
        }
        let is_list = target.name.is_empty() && request.is_read();
        let produces = if is_list { produces::LISTS } else { produces::OBJECTS };
        negotiation::check_route(request.headers(), produces)?;
    }
    // Before a write, not after it.
    request.form_of(match &*target.subresource {
        "" | "status" | "scale" | "ephemeralcontainers" | "finalize" => Converts::Tables,
        _ => Converts::Metadata,
    })?;
    Ok(())
}

async fn collection(state: &ServerState, request: &Request<'_>) -> ApiResult<Response<Body>> {
    let (target, resource) = (&request.target, &request.target.resource);
    // A namespaced collection of all namespaces can only be read.
    let is_writable = !resource.namespaced || !target.namespace.is_empty();
    match *request.method() {
        Method::GET if request.query.flag("watch") => watch::watch(state, request),
        Method::GET => list::list(state, request),
        Method::POST if is_writable => {
            if let Some(await_admission) = resource.await_admission {
                await_admission(state.store.clone(), target.namespace.clone()).await;
            }
            create::create(state, request)?.respond(request)
        }
        Method::DELETE if is_writable => delete::delete_collection(state, request),
        _ => Err(ApiError::method_not_allowed()),
    }
}

fn object(state: &ServerState, request: &Request<'_>) -> ApiResult<Response<Body>> {
    match *request.method() {
        Method::GET => get::get(state, request),
        Method::PUT => update::update(state, request)?.respond(request),
        Method::PATCH => patch::patch(state, request)?.respond(request),
        Method::DELETE => delete::delete(state, request),
        _ => Err(ApiError::method_not_allowed()),
    }
}

async fn subresource(
    state: &ServerState,
    request: &Request<'_>,
    subresource: &str,
) -> ApiResult<Response<Body>> {
    match (subresource, request.method()) {
        ("status" | "ephemeralcontainers", &Method::GET) => get::get(state, request),
        ("status" | "finalize" | "ephemeralcontainers", &Method::PUT) => {
            update::update(state, request)?.respond(request)
        }
        ("status" | "ephemeralcontainers", &Method::PATCH) => {
            patch::patch(state, request)?.respond(request)
        }
        ("scale", _) => scale::scale(state, request),
        ("log", &Method::GET) => log::log(state, request).await,
        ("token", &Method::POST) => token::create(state, request),
        ("binding", &Method::POST) => binding::bind(state, request),
        ("eviction", &Method::POST) => eviction::evict(state, request),
        _ => Err(ApiError::method_not_allowed()),
    }
}

/// Adds the warning of a deprecated resource type.
fn with_deprecation(resource: &ResourceType, mut response: Response<Body>) -> Response<Body> {
    if let Some(deprecation) = resource.deprecation
        && let Ok(warning) = HeaderValue::from_str(&format!("299 - {deprecation:?}"))
    {
        response.headers_mut().append(header::WARNING, warning);
    }
    response
}
