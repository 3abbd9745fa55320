//! `get`: one object.

use crate::{
    http::{
        body::{Body, respond},
        encode,
        request::Request,
        status::ApiResult,
    },
    scope,
    state::ServerState,
};
use http::{Response, StatusCode};

/// `GET` of an object or of its status.
pub(crate) fn get(state: &ServerState, request: &Request) -> ApiResult<Response<Body>> {
    let form = request.form()?;
    let object = scope::find(state, &request.target)?;
    let bytes = encode::object(&request.target.resource, form, &object);
    Ok(respond(StatusCode::OK, "application/json", bytes))
}
