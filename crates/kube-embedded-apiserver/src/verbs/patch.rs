//! `patch`: JSON patch, merge patch, strategic merge patch and server-side apply.

use crate::{
    authorization::filter,
    fields::text,
    http::{
        decode, duplicates,
        path::Target,
        query::FieldValidation,
        request::{Request, WriteOptions},
        status::{ApiError, ApiResult},
    },
    metadata,
    patch::{self, PatchError},
    resources::resource_type::ResourceType,
    schema::conversion::go_format,
    state::ServerState,
    validation::field_error::invalid,
    verbs::pipeline::{self, Decoded, Expects, Shows, WriteRequest, WriteResult},
};
use jiff::Timestamp;
use serde_json::{Value, json};

/// The patches of custom resources, as messages list them.
const CUSTOM_PATCHES: &str =
    "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";

/// Checks that a built-in type has patches of a media type.
pub(crate) fn check_media_type(media_type: &str) -> ApiResult<()> {
    match media_type {
        "application/json-patch+json"
        | "application/merge-patch+json"
        | "application/strategic-merge-patch+json"
        | "application/apply-patch+yaml" => Ok(()),
        _ => Err(ApiError::unsupported_media_type()),
    }
}

/// The body of a patch.
pub(crate) enum Patch {
    Json(Value),
    Merge(Value),
    Strategic(Value),
    /// And the keys that occur again in it.
    Apply(Value, Option<String>),
}

impl Patch {
    /// Decodes a patch of the type that the media type names. What refuses it depends on the validation: Kubernetes decodes
    /// a patch that it validates twice.
    pub(crate) fn decode(request: &Request, validation: FieldValidation) -> ApiResult<Self> {
        let body = request.body;
        let is_checked = validation != FieldValidation::Ignore;
        let json = || -> Result<Value, String> {
            serde_json::from_slice(body)
                .map_err(|error| decode::json_error(&String::from_utf8_lossy(body), &error))
        };
        match request.content_type() {
            "application/json-patch+json" => operations(json(), is_checked).map(Self::Json),
            "application/merge-patch+json" => merged(json(), is_checked).map(Self::Merge),
            "application/strategic-merge-patch+json" => {
                let patch = json().and_then(|patch| match patch {
                    Value::Null => Ok(json!({})),
                    patch => expect_map(patch),
                });
                patch.map(Self::Strategic).map_err(ApiError::bad_request)
            }
            "application/apply-patch+yaml" => {
                let (patch, repeated) = decode::apply_patch(body)?;
                Ok(Self::Apply(patch, repeated))
            }
            _ => Err(ApiError::unknown_format(CUSTOM_PATCHES)),
        }
    }

    /// Returns the patched object. Apply patches go through [`patch::apply`].
    pub(crate) fn patched(&self, resource: &ResourceType, object: &Value) -> ApiResult<Value> {
        let mut new = object.clone();
        match self {
            Self::Json(patch) => patch::json(&mut new, patch).map_err(refusal)?,
            Self::Merge(patch) => patch::merge(&mut new, patch),
            Self::Apply(..) => {}
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

/// Decodes a JSON patch.
fn operations(patch: Result<Value, String>, is_checked: bool) -> ApiResult<Value> {
    let (prefix, list, operation) = match is_checked {
        true => ("error decoding patch: ", "[]handlers.jsonPatchOp", "handlers.jsonPatchOp"),
        false => ("", "jsonpatch.Patch", "jsonpatch.Operation"),
    };
    let mismatch = |value: &Value, of: &str| {
        let found = decode::type_name(value);
        format!("json: cannot unmarshal {found} into Go value of type {of}")
    };
    let patch = patch.and_then(|patch| match &patch {
        Value::Null => Ok(json!([])),
        Value::Array(items) => match items.iter().find(|item| !item.is_object()) {
            Some(item) => Err(mismatch(item, operation)),
            None => Ok(patch),
        },
        _ => Err(mismatch(&patch, list)),
    });
    patch.map_err(|why| ApiError::bad_request(format!("{prefix}{why}")))
}

/// Decodes a merge patch.
fn merged(patch: Result<Value, String>, is_checked: bool) -> ApiResult<Value> {
    const BAD: &str = "Invalid JSON Patch";
    match patch {
        Ok(Value::Null) => Err(ApiError::bad_request(BAD)),
        // It replaces the object.
        Ok(list @ Value::Array(_)) if !is_checked => {
            let why = "couldn't get version/kind; json parse error: json: cannot unmarshal array \
                       into Go value of type struct { APIVersion string \
                       \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \
                       \"json:\\\"kind,omitempty\\\"\" }";
            Err(ApiError::invalid_patch(invalid("patch", &list.to_string().into(), why)))
        }
        patch => patch.and_then(expect_map).map_err(|why| match is_checked {
            true => ApiError::bad_request(format!("error decoding patch: {why}")),
            false => ApiError::bad_request(BAD),
        }),
    }
}

fn expect_map(patch: Value) -> Result<Value, String> {
    if patch.is_object() {
        return Ok(patch);
    }
    let found = decode::type_name(&patch);
    Err(format!("json: cannot unmarshal {found} into Go value of type map[string]interface {{}}"))
}

impl Patch {
    /// Checks the patched object against its schema, and removes unknown fields. Returns the warnings.
    pub(crate) fn check(
        &self,
        resource: &ResourceType,
        object: &mut Value,
        repeated: Vec<String>,
        validation: FieldValidation,
    ) -> ApiResult<Vec<String>> {
        let schema = resource.object_schema();
        let (types, shown) = match self {
            Self::Strategic(patch) => (schema.check_conversion(object), go_format(patch)),
            _ => (schema.check_types(object), object.to_string()),
        };
        let kind = match self {
            Self::Strategic(_) => Ok(()),
            _ => decode::check_patched_kind(resource, object)?,
        };
        kind.and(types)
            .and_then(|()| decode::check_unknown(resource, object, repeated, validation))
            .map_err(|why| ApiError::invalid_patch(invalid("patch", &shown.into(), &why)))
    }
}

/// `PATCH` of an object or of its status.
pub(crate) fn patch(state: &ServerState, request: &Request) -> ApiResult<WriteResult> {
    let target = &request.target;
    let options = request.write_options()?;
    let patch = Patch::decode(request, options.validation)?;
    // Merge keys are known of built-in types only.
    if target.resource.is_unstructured() && matches!(patch, Patch::Strategic(_)) {
        return Err(ApiError::unknown_format(CUSTOM_PATCHES));
    }
    if let Patch::Apply(applied, repeated) = patch {
        return apply(state, request, &options, &applied, repeated);
    }
    let write = WriteRequest {
        target,
        options: &options,
        user: request.user,
        expects: Expects::Object,
        tracks: true,
        shows: Shows::Object,
    };
    let repeated = match &patch {
        Patch::Merge(value) | Patch::Strategic(value)
            if options.validation != FieldValidation::Ignore =>
        {
            duplicates::of_json(request.body, value)
        }
        Patch::Json(value) if options.validation != FieldValidation::Ignore => {
            let found = duplicates::of_json(request.body, value);
            found.into_iter().map(|why| format!("json patch {why}")).collect()
        }
        _ => Vec::new(),
    };
    pipeline::write(state, &write, |old| {
        let mut object = patch.patched(&target.resource, old.unwrap_or(&Value::Null))?;
        // Another type is reported below, with those of other fields.
        if matches!(object["metadata"], Value::Object(_) | Value::Null) {
            metadata::set_namespace(target, &mut object)?;
            check_address(target, &object)?;
        }
        let (resource, validation) = (&target.resource, options.validation);
        let warnings = patch.check(resource, &mut object, repeated.clone(), validation)?;
        Ok(Decoded { object, warnings })
    })
}

/// Checks that the object has the name of the request.
pub(crate) fn check_address(target: &Target, new: &Value) -> ApiResult<()> {
    let metadata = &new["metadata"];
    if text(metadata, &["name"]).is_empty() {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({} based on URL) was undeterminable: name must be provided",
            target.name
        )));
    }
    if metadata["name"] != target.name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({})",
            metadata["name"].as_str().unwrap_or_default(),
            target.name
        )));
    }
    Ok(())
}

/// Returns the warnings of the keys of an apply patch that occur again, which are an error if validation is strict.
fn repeated_keys(repeated: Option<String>, validation: FieldValidation) -> ApiResult<Vec<String>> {
    match repeated {
        Some(why) if validation == FieldValidation::Strict => Err(ApiError::bad_request(format!(
            "error strict decoding YAML: error converting YAML to JSON: {why}"
        ))),
        Some(why) if validation == FieldValidation::Warn => {
            Ok(why.lines().skip(1).map(|line| line.trim_start().to_owned()).collect())
        }
        _ => Ok(Vec::new()),
    }
}

/// Checks an apply patch of an object of the type. Returns the warnings.
pub(crate) fn check_apply(
    resource: &ResourceType,
    applied: &Value,
    repeated: Option<String>,
    validation: FieldValidation,
) -> ApiResult<Vec<String>> {
    let warnings = repeated_keys(repeated, validation)?;
    decode::check_apply_kind(resource, applied)?;
    if applied["metadata"].get("managedFields").is_some_and(|fields| !fields.is_null()) {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    decode::check_applied(resource, applied)?;
    Ok(warnings)
}

/// Server-side apply, which creates the object if there is none.
fn apply(
    state: &ServerState,
    request: &Request,
    options: &WriteOptions,
    applied: &Value,
    repeated: Option<String>,
) -> ApiResult<WriteResult> {
    let Request { target, query, .. } = request;
    let resource = &target.resource;
    let manager = &*options.manager;
    let (force, below) = (query.flag("force"), &*target.subresource);
    let expects = if below.is_empty() { Expects::Anything } else { Expects::Object };
    let write = WriteRequest {
        target,
        options,
        user: request.user,
        expects,
        tracks: false,
        shows: Shows::Object,
    };
    pipeline::write(state, &write, |old| {
        let warnings = check_apply(resource, applied, repeated.clone(), options.validation)?;
        if old.is_none() {
            // Who may patch may not create.
            filter::check_verb(state, request, "create")?;
        }
        let now = Timestamp::now();
        let mut object =
            patch::apply(resource, old, applied, manager, force, below, now).map_err(refusal)?;
        decode::check_merged(resource, applied, &object)?;
        resource.object_schema().prune(&mut object);
        let uid = text(&object, &["metadata", "uid"]);
        if old.is_none() && !uid.is_empty() {
            return Err(ApiError::conflict_no_object(resource, &target.name, uid));
        }
        metadata::set_namespace(target, &mut object)?;
        check_address(target, &object)?;
        Ok(Decoded { object, warnings })
    })
}

/// Returns the response to a patch that cannot be applied.
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
