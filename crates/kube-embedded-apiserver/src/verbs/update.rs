//! `update`: `PUT` of an object, of its status, or of a namespace's finalizers.

use crate::{
    http::{
        decode,
        request::Request,
        status::{ApiError, ApiResult},
    },
    metadata,
    state::ServerState,
    verbs::pipeline::{Decoded, Expects, WriteRequest, WriteResult, write},
};

/// `PUT` of an object or of a part of it.
pub(crate) fn update(state: &ServerState, request: &Request) -> ApiResult<WriteResult> {
    let target = &request.target;
    let options = request.write_options()?;
    let (mut object, duplicates) = decode::object(request, options.validation)?;
    let warnings =
        decode::check_fields(&target.resource, &mut object, duplicates, options.validation, false)?;
    metadata::set_namespace(target, &mut object)?;
    if let Some(name) = object["metadata"]["name"].as_str()
        && name != target.name
        && !name.is_empty()
    {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            target.name
        )));
    }
    let request = WriteRequest {
        target,
        options: &options,
        user: request.user,
        expects: Expects::Object,
        tracks: true,
    };
    write(state, &request, |_| Ok(Decoded { object: object.clone(), warnings: warnings.clone() }))
}
