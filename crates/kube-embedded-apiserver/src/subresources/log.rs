//! The `log` subresource of pods.

use crate::{
    http::{
        body::Body,
        request::Request,
        status::{ApiError, ApiResult},
    },
    scope,
    state::ServerState,
    subresources::{containers::choose_container, stream},
};
use http::{HeaderValue, Response, header};
use kube_embedded_core::node_api::{LogOptions, NodeError};

/// Streams the log of one of a pod's containers.
pub(crate) async fn log(state: &ServerState, request: &Request<'_>) -> ApiResult<Response<Body>> {
    let Request { target, query, .. } = request;
    let pod = scope::find(state, target)?;
    let container = choose_container(&target.name, &pod.value, query.get("container"))?;
    if pod.value["spec"]["nodeName"].as_str().unwrap_or_default().is_empty() {
        return Err(ApiError::bad_request(format!(
            "pod {} does not have a host assigned",
            target.name
        )));
    }
    let options = LogOptions {
        container: Some(container),
        follow: query.flag("follow"),
        previous: query.flag("previous"),
        since_seconds: query.number("sinceSeconds")?,
        tail_lines: query.number("tailLines")?,
        limit_bytes: query.number("limitBytes")?,
        timestamps: query.flag("timestamps"),
    };
    let Some(nodes) = state.nodes() else {
        return Err(ApiError::internal("this cluster has no nodes"));
    };
    let chunks =
        nodes.logs(&target.namespace, &target.name, options).await.map_err(
            |error| match error {
                NodeError::BadRequest(message) => ApiError::bad_request(message),
                NodeError::NotFound(message) => ApiError::not_found_on_node(message),
                NodeError::Internal(message) => ApiError::internal(message),
            },
        )?;
    if stream::is_websocket(request) {
        return stream::send(state, request, chunks);
    }
    let mut response = Response::new(Body::stream(chunks));
    let plain = HeaderValue::from_static("text/plain");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    Ok(response)
}
