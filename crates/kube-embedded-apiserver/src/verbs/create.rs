//! `create`: `POST` to a collection.

use crate::{
    generate,
    http::{
        decode,
        path::Target,
        request::Request,
        status::{ApiError, ApiResult},
    },
    metadata,
    state::ServerState,
    verbs::pipeline::{Decoded, Expects, Shows, WriteRequest, WriteResult, write},
};

/// Names that are generated before a creation fails because all are taken, as in Kubernetes.
const NAME_ATTEMPTS: usize = 8;

/// `POST` to a collection.
pub(crate) fn create(state: &ServerState, request: &Request) -> ApiResult<WriteResult> {
    let options = request.write_options()?;
    let (mut object, duplicates) = decode::object(request, options.validation)?;
    let resource = &request.target.resource;
    let warnings =
        decode::check_fields(resource, &mut object, duplicates, options.validation, request.body)?;
    metadata::set_namespace(&request.target, &mut object)?;
    let user = request.user;
    let create = |name: String, decoded: Decoded| {
        let target = Target { name, ..request.target.clone() };
        let request = WriteRequest {
            target: &target,
            options: &options,
            user,
            expects: Expects::Nothing,
            tracks: true,
            shows: Shows::Object,
        };
        let warnings = decoded.warnings.clone();
        let mut decoded = Some(decoded);
        write(state, &request, |_| {
            // The second attempt of a creation means that another one was faster.
            let taken = || ApiError::already_exists(&target.resource, &target.name);
            decoded.take().ok_or_else(taken)
        })
        .map_err(|error| error.with_warnings(&warnings))
    };
    let Some(prefix) = metadata::generated_name_prefix(&object) else {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        return create(name, Decoded { object, warnings });
    };
    for attempt in 1.. {
        let name = generate::name(&prefix);
        let mut named = object.clone();
        named["metadata"]["name"] = name.as_str().into();
        match create(name, Decoded { object: named, warnings: warnings.clone() }) {
            Err(error) if error.is_exists() && attempt < NAME_ATTEMPTS => {}
            result => return result,
        }
    }
    Err(ApiError::internal("failed to generate a name"))
}
