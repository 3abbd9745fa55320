//! The `eviction` subresource of pods. There are no disruption budgets here, so an eviction is a deletion.

use crate::{
    http::{
        body::{Body, respond_json},
        decode,
        request::Request,
        status::{self, ApiResult},
    },
    state::ServerState,
    verbs::delete::{DeleteOptions, delete_object},
};
use http::{Response, StatusCode};

/// Deletes a pod.
pub(crate) fn evict(state: &ServerState, request: &Request) -> ApiResult<Response<Body>> {
    let mut options = DeleteOptions::from_query(&request.query)?;
    options.merge(&decode::any(request)?["deleteOptions"])?;
    delete_object(state, &request.target, &options)?;
    Ok(respond_json(StatusCode::CREATED, &status::created()))
}
