//! The four kinds of patches.

use crate::{
    api::Inner,
    http::{
        decode,
        path::{Query, Target},
        status::{ApiError, ApiResult},
    },
    patch::{self, PatchError},
    resources::resource_type::ResourceType,
    schema,
    validation::field_error::FieldError,
    verbs::{
        metadata, read,
        write::{self, Options, WriteResult},
    },
};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

/// A patch as it came.
pub(crate) enum Patch {
    Json(Value),
    Merge(Value),
    Strategic(Value),
    Apply(Value),
}

impl Patch {
    pub(crate) fn decode(headers: &HeaderMap, body: &Bytes) -> ApiResult<Self> {
        let json = |body: &Bytes| {
            serde_json::from_slice(body).map_err(|error| {
                let why = decode::json_error(&String::from_utf8_lossy(body), &error);
                ApiError::bad_request(format!("error decoding patch: {why}"))
            })
        };
        match decode::media_type(headers) {
            "application/json-patch+json" => Ok(Self::Json(json(body)?)),
            "application/merge-patch+json" => Ok(Self::Merge(json(body)?)),
            "application/strategic-merge-patch+json" => Ok(Self::Strategic(json(body)?)),
            "application/apply-patch+yaml" => Ok(Self::Apply(decode::any(headers, body)?)),
            _ => Err(ApiError::unsupported_media_type("415: Unsupported Media Type")),
        }
    }

    /// The patched object; apply patches are another matter.
    pub(crate) fn patched(&self, resource: &ResourceType, object: &Value) -> ApiResult<Value> {
        let mut new = object.clone();
        match self {
            Self::Json(patch) if !patch.is_array() => {
                return Err(ApiError::bad_request(format!(
                    "error decoding patch: json: cannot unmarshal {} into Go value of type \
                     []handlers.jsonPatchOp",
                    decode::type_name(patch)
                )));
            }
            Self::Json(patch) => patch::json(&mut new, patch).map_err(refusal)?,
            Self::Merge(patch) | Self::Strategic(patch) | Self::Apply(patch)
                if !patch.is_object() =>
            {
                return Err(ApiError::bad_request(format!(
                    "error decoding patch: json: cannot unmarshal {} into Go value of type \
                     map[string]interface {{}}",
                    decode::type_name(patch)
                )));
            }
            Self::Merge(patch) | Self::Apply(patch) => patch::merge(&mut new, patch),
            Self::Strategic(patch) => {
                patch::strategic(resource, &mut new, patch).map_err(refusal)?;
            }
        }
        if !new.is_object() {
            return Err(ApiError::bad_request("the patch leaves no object behind"));
        }
        Ok(new)
    }
}

/// `PATCH` of an object or of its status.
pub(crate) fn patch(
    inner: &Inner,
    target: &Target,
    query: &Query,
    headers: &HeaderMap,
    body: &Bytes,
) -> ApiResult<WriteResult> {
    let patch = Patch::decode(headers, body)?;
    if target.resource.crd.is_some() && matches!(patch, Patch::Strategic(_)) {
        return Err(ApiError::unsupported_patch());
    }
    if let Patch::Apply(applied) = patch {
        return apply(inner, target, query, headers, applied);
    }
    let options = Options::parse("PatchOptions", query, headers)?;
    let resource = &target.resource;
    let mut warnings = Vec::new();
    let mut written = write::guaranteed_update(inner, target, &options, true, |old| {
        let mut new = patch.patched(resource, old)?;
        check_address(target, &new)?;
        warnings = decode::check_fields(resource, &mut new, options.validation, true)?;
        Ok(new)
    })?;
    written.warnings.splice(0..0, warnings);
    Ok(written)
}

/// A patch can rename or move nothing.
fn check_address(target: &Target, new: &Value) -> ApiResult<()> {
    let metadata = &new["metadata"];
    if metadata["name"] != target.name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({})",
            metadata["name"].as_str().unwrap_or_default(),
            target.name
        )));
    }
    if target.resource.namespaced && metadata["namespace"] != target.namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

/// Server-side apply: makes the object where there is none.
fn apply(
    inner: &Inner,
    target: &Target,
    query: &Query,
    headers: &HeaderMap,
    mut applied: Value,
) -> ApiResult<WriteResult> {
    let options = Options::parse("PatchOptions", query, headers)?;
    let resource = &target.resource;
    let Some(manager) = query.get("fieldManager") else {
        return Err(ApiError::invalid_options(
            "PatchOptions",
            FieldError {
                reason: "FieldValueRequired",
                field: "fieldManager".into(),
                message: "Required value: is required for apply patch".into(),
            },
        ));
    };
    if !applied.is_object() {
        return Err(ApiError::bad_request(format!(
            "error decoding YAML: the patch is no object but a {}",
            decode::type_name(&applied)
        )));
    }
    decode::check_apply_kind(resource, &applied)?;
    metadata::adopt_namespace(target, &mut applied)?;
    if applied["metadata"].get("managedFields").is_some_and(|fields| !fields.is_null()) {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    if applied["metadata"]["name"].as_str().unwrap_or_default().is_empty() {
        applied["metadata"]["name"] = target.name.clone().into();
    }
    check_address(target, &applied)?;
    let warnings = decode::check_applied(resource, &applied, options.validation, false)?;
    let force = query.flag("force");
    let below = &*target.subresource;
    let merged = |old: Option<&Value>| {
        let now = Timestamp::now();
        let mut merged = patch::apply(resource, old, &applied, manager, force, below, now);
        if let Ok(merged) = &mut merged {
            schema::prune(resource, merged);
        }
        merged.map_err(refusal)
    };
    loop {
        let written = match read::find(inner, target) {
            Ok(_) => {
                write::guaranteed_update(inner, target, &options, false, |old| merged(Some(old)))
            }
            Err(error) if !below.is_empty() => return Err(error),
            Err(_) => {
                let object = merged(None)?;
                write::create_object(inner, target, &options, object, Vec::new(), false)
            }
        };
        match written {
            Ok(mut written) => {
                written.warnings.splice(0..0, warnings);
                return Ok(written);
            }
            // Somebody else made or removed it between the look and the write.
            Err(error) if error.is_exists() || error.code() == StatusCode::NOT_FOUND => {
                let there = read::find(inner, target).is_ok();
                if there != error.is_exists() {
                    return Err(error);
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// A patch error on the wire.
pub(crate) fn refusal(error: PatchError) -> ApiError {
    match error {
        PatchError::BadRequest(message) => ApiError::bad_request(message),
        PatchError::Unprocessable(_) => ApiError::patch_failed(),
        PatchError::TooLarge(why) => ApiError::too_large_because(&why),
        PatchError::Conflict { message, causes } => {
            let causes = causes
                .into_iter()
                .map(|cause| {
                    json!({
                        "reason": "FieldManagerConflict",
                        "message": cause.message,
                        "field": cause.field,
                    })
                })
                .collect();
            ApiError::apply_conflict(message, causes)
        }
    }
}
