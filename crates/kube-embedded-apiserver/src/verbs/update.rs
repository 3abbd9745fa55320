//! `update`: `PUT` of an object, of its status, or of a namespace's finalizers.

use crate::{
    authorization::filter,
    fields::text,
    http::{
        decode,
        request::Request,
        status::{ApiError, ApiResult},
    },
    metadata,
    state::ServerState,
    validation::field_error,
    verbs::{
        patch::check_address,
        pipeline::{Decoded, Expects, Shows, WriteRequest, WriteResult, write},
    },
};

/// `PUT` of an object or of a part of it.
pub(crate) fn update(state: &ServerState, request: &Request) -> ApiResult<WriteResult> {
    let target = &request.target;
    let options = request.write_options()?;
    let (mut object, duplicates) = decode::object(request, options.validation)?;
    let warnings = decode::check_fields(
        &target.resource,
        &mut object,
        duplicates,
        options.validation,
        request.body,
    )?;
    metadata::set_namespace(target, &mut object)?;
    check_address(target, &object)?;
    let write_request = WriteRequest {
        target,
        options: &options,
        user: request.user,
        expects: match target.resource.creates_on_update && target.subresource.is_empty() {
            true => Expects::Anything,
            false => Expects::Object,
        },
        tracks: true,
        shows: Shows::Object,
    };
    let names_version = !matches!(text(&object, &["metadata", "resourceVersion"]), "" | "0");
    write(state, &write_request, |old| {
        match old {
            Some(old) => metadata::check_uid(&target.resource, &target.name, &object, old)?,
            None => {
                // Who may update may not create.
                filter::check_verb(state, request, "create")?;
                let uid = text(&object, &["metadata", "uid"]);
                if !uid.is_empty() {
                    return Err(ApiError::conflict_no_object(&target.resource, &target.name, uid));
                }
                let mut object = object.clone();
                if let Some(metadata) = object["metadata"].as_object_mut() {
                    metadata.remove("resourceVersion");
                }
                return Ok(Decoded { object, warnings: warnings.clone() });
            }
        }
        if target.resource.requires_version && !names_version {
            let detail = "must be specified for an update";
            let error = field_error::invalid("metadata.resourceVersion", &0.into(), detail);
            return Err(ApiError::invalid_version(&target.resource, &target.name, &error));
        }
        Ok(Decoded { object: object.clone(), warnings: warnings.clone() })
    })
    .map_err(|error| error.with_warnings(&warnings))
}
