//! `get`: one object.

use crate::{
    http::{
        body::{Body, respond},
        encode,
        list_options::watch_version,
        negotiation::go_type,
        request::Request,
        status::{ApiError, ApiResult},
    },
    scope,
    state::ServerState,
};
use http::{Response, StatusCode};

/// `GET` of an object or of its status.
pub(crate) fn get(state: &ServerState, request: &Request) -> ApiResult<Response<Body>> {
    let form = request.form()?;
    let (version, current) = (watch_version(&request.query)?, state.store.revision());
    if version > current {
        return Err(ApiError::too_large_resource_version(version, current, true));
    }
    let object = scope::find(state, &request.target)?;
    form.check_object(&go_type(&request.target.resource))?;
    let bytes = encode::object(&request.target.resource, form, &object);
    Ok(respond(StatusCode::OK, "application/json", bytes))
}
