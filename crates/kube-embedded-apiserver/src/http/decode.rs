//! Decoding of request bodies: JSON, YAML or protobuf, with Kubernetes' error messages.

use crate::{
    http::{
        duplicates, protobuf,
        query::FieldValidation,
        request::Request,
        status::{ApiError, ApiResult},
    },
    patch,
    resources::{registry, resource_type::ResourceType},
    validation::field_error::invalid,
};
use bytes::Bytes;
use serde_json::Value;
use serde_saphyr::DuplicateKeyPolicy;

/// Decodes the object of a create or an update, and sets its kind and version. Returns what strict decoding objects to,
/// apart from unknown fields.
pub(crate) fn object(
    request: &Request,
    validation: FieldValidation,
) -> ApiResult<(Value, Vec<String>)> {
    let (resource, body) = (&request.target.resource, request.body);
    let is_checked = validation != FieldValidation::Ignore;
    let (mut value, duplicates) = match request.content_type() {
        "" | "application/json" => {
            let value = json(resource.kind, body)?;
            let found = if is_checked { duplicates::of_json(body, &value) } else { Vec::new() };
            (value, found)
        }
        "application/yaml" => {
            let found = duplicates::of_yaml(body).filter(|_| is_checked);
            (lenient_yaml(body)?, found.into_iter().collect())
        }
        protobuf::MEDIA_TYPE => (protobuf::decode(body)?, Vec::new()),
        _ => return Err(unknown_media_type()),
    };
    check_kind(resource, &value)?;
    set_type(resource, &mut value);
    Ok((value, duplicates))
}

/// Decodes an apply patch, of which only the first document counts. Returns what strict decoding objects to: keys that
/// occur again, of which the last counts.
pub(crate) fn apply_patch(body: &Bytes) -> ApiResult<(Value, Option<String>)> {
    let value = match lenient_yaml(first_document(body))? {
        Value::Null => Value::Object(serde_json::Map::new()),
        value => value,
    };
    if !value.is_object() {
        return Err(ApiError::bad_request(format!(
            "error decoding YAML: error unmarshaling JSON: while decoding JSON: json: cannot \
             unmarshal {} into Go value of type map[string]interface {{}}",
            type_name(&value)
        )));
    }
    Ok((value, duplicates::of_yaml(first_document(body))))
}

/// Returns the text up to the first separator that follows anything but comments.
fn first_document(body: &[u8]) -> &[u8] {
    let (mut end, mut is_empty) = (0, true);
    for line in body.split_inclusive(|byte| *byte == b'\n') {
        let is_separator = line.trim_ascii_end() == b"---" || line.starts_with(b"--- ");
        if is_separator && !is_empty {
            return body.get(..end).unwrap_or(body);
        }
        is_empty &= is_separator || matches!(line.trim_ascii_start().first(), None | Some(b'#'));
        end += line.len();
    }
    body
}

/// Decodes any value: a review, options.
pub(crate) fn any<T>(request: &Request<T>) -> ApiResult<Value> {
    match request.content_type() {
        protobuf::MEDIA_TYPE => protobuf::decode(request.body),
        media_type if !matches!(media_type, "" | "application/json" | "application/yaml") => {
            Err(unknown_media_type())
        }
        _ => match serde_json::from_slice(request.body) {
            Ok(value) => Ok(value),
            Err(_) => yaml(request.body),
        },
    }
}

/// Decodes an object of any kind.
pub(crate) fn review<T>(request: &Request<T>) -> ApiResult<Value> {
    let review = any(request)?;
    if review.is_object() {
        return Ok(review);
    }
    Err(ApiError::bad_request("the body of the request is not an object"))
}

/// Decodes the JSON of an object that must be of a kind.
fn json(kind: &str, body: &Bytes) -> ApiResult<Value> {
    let refuse = |why: &str| {
        let text = String::from_utf8_lossy(body);
        let start: String = text.chars().take(1024).collect();
        ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {kind}): couldn't get \
             version/kind; json parse error: {why} ({start})"
        ))
    };
    let value: Value = serde_json::from_slice(body)
        .map_err(|error| refuse(&json_error(&String::from_utf8_lossy(body), &error)))?;
    if value.is_object() {
        return Ok(value);
    }
    Err(refuse(&format!(
        "json: cannot unmarshal {} into Go value of type struct {{ APIVersion string \
         \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}",
        type_name(&value)
    )))
}

/// Decodes YAML of one document. Of a key that occurs again, the last value counts.
fn lenient_yaml(body: &[u8]) -> ApiResult<Value> {
    let options = serde_saphyr::options! { duplicate_keys: DuplicateKeyPolicy::LastWins };
    serde_saphyr::from_slice_with_options(body, options)
        .map_err(|error| ApiError::bad_request(format!("error decoding YAML: {error}")))
}

/// Decodes YAML of one document, without keys that occur again.
pub(crate) fn yaml(body: &Bytes) -> ApiResult<Value> {
    serde_saphyr::from_slice(body)
        .map_err(|error| ApiError::bad_request(format!("error decoding YAML: {error}")))
}

/// Returns Go's name for the type of a JSON value.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Words a syntax error as Go's decoder does, since clients show it to users.
pub(crate) fn json_error(text: &str, error: &serde_json::Error) -> String {
    let line = text.lines().nth(error.line().saturating_sub(1)).unwrap_or_default();
    let at = line.get(error.column().saturating_sub(1)..).and_then(|rest| rest.chars().next());
    let message = error.to_string();
    let Some(found) = at.filter(|_| !error.is_eof()) else {
        return "unexpected end of JSON input".into();
    };
    let place = if message.starts_with("key must be a string") {
        "looking for beginning of object key string"
    } else if message.starts_with("expected `:`") {
        "after object key"
    } else if message.starts_with("expected `,` or `}`") {
        "after object key:value pair"
    } else if message.starts_with("expected `,` or `]`") {
        "after array element"
    } else if message.starts_with("trailing characters") {
        "after top-level value"
    } else {
        "looking for beginning of value"
    };
    format!("invalid character '{found}' {place}")
}

fn unknown_media_type() -> ApiError {
    ApiError::unknown_format(
        "application/json, application/yaml, application/vnd.kubernetes.protobuf",
    )
}

/// Checks that an object is of the type; it may leave out its kind and version.
fn check_kind(resource: &ResourceType, value: &Value) -> ApiResult<()> {
    let own_version = resource.api_version();
    if resource.is_unstructured() {
        return check_custom_kind(resource, &own_version, value);
    }
    let named = value["kind"].as_str().unwrap_or_default();
    let version = value["apiVersion"].as_str().unwrap_or_default();
    let same_kind = named.is_empty() || named == resource.kind;
    if same_kind && (version.is_empty() || version == own_version) {
        return Ok(());
    }
    let named = if named.is_empty() { resource.kind } else { named };
    let (group, short) = version.rsplit_once('/').unwrap_or(("", version));
    let why = unknown_conversion(resource, group, short, named).unwrap_or_else(|| {
        format!(
            "no kind {named:?} is registered for version {version:?} in scheme \
             \"pkg/api/legacyscheme/scheme.go:30\""
        )
    });
    Err(ApiError::bad_request(format!(
        "{named} in version {short:?} cannot be handled as a {}: {why}",
        resource.kind
    )))
}

fn check_custom_kind(resource: &ResourceType, own_version: &str, value: &Value) -> ApiResult<()> {
    let version = value["apiVersion"].as_str().unwrap_or_default();
    if !version.is_empty() && version != own_version {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({version}) does not match the expected API version \
             ({own_version})"
        )));
    }
    let named = value["kind"].as_str().unwrap_or_default();
    if named.is_empty() || named == resource.kind {
        return Ok(());
    }
    let why = format!("must be {}", resource.kind);
    let error = invalid("kind", &named.into(), &why);
    let name = value["metadata"]["name"].as_str().unwrap_or_default();
    Err(ApiError::invalid(resource, name, &[error]))
}

/// Checks that an apply patch names the kind and version of the type.
pub(crate) fn check_apply_kind(resource: &ResourceType, value: &Value) -> ApiResult<()> {
    let text = |field: &str| value[field].as_str().unwrap_or_default();
    let (group, version) = match text("apiVersion") {
        "" => ("", ""),
        version => version.rsplit_once('/').unwrap_or(("", version)),
    };
    if (group, version, text("kind")) == (resource.group, resource.version, resource.kind) {
        return Ok(());
    }
    Err(ApiError::bad_request(format!(
        "invalid object type: {group}/{version}, Kind={}",
        text("kind")
    )))
}

/// Sets kind and version.
pub(crate) fn set_type(resource: &ResourceType, value: &mut Value) {
    if let Some(fields) = value.as_object_mut() {
        fields.insert("kind".into(), resource.kind.into());
        fields.insert("apiVersion".into(), resource.api_version().into());
    }
}

/// Checks the kind and version that a patch leaves, which it may remove. The inner error is that of a patch which cannot be
/// decoded.
pub(crate) fn check_patched_kind(
    resource: &ResourceType,
    value: &Value,
) -> ApiResult<Result<(), String>> {
    let named = value["kind"].as_str().filter(|kind| !kind.is_empty()).unwrap_or(resource.kind);
    let own = resource.api_version();
    let version = value["apiVersion"].as_str().filter(|v| !v.is_empty()).unwrap_or(&own);
    if named == resource.kind && version == own {
        return Ok(Ok(()));
    }
    let (group, short) = version.rsplit_once('/').unwrap_or(("", version));
    if resource.is_unstructured() {
        let name = value["metadata"]["name"].as_str().unwrap_or_default();
        let (field, given, expected) = match named == resource.kind {
            true => ("apiVersion", version, &*own),
            false => ("kind", named, resource.kind),
        };
        let error = invalid(field, &given.into(), &format!("must be {expected}"));
        return Err(ApiError::invalid_object(named, group, name, &[error]));
    }
    Ok(Err(match unknown_conversion(resource, group, short, named) {
        Some(why) => why,
        None => format!(
            "no kind {named:?} is registered for version {version:?} in scheme \
             \"pkg/runtime/scheme.go:111\""
        ),
    }))
}

/// Says that a known kind is not that of the resource.
fn unknown_conversion(
    resource: &ResourceType,
    group: &str,
    version: &str,
    kind: &str,
) -> Option<String> {
    registry::find_kind(group, version, kind)?;
    let package = |group: &str| group.split('.').next().unwrap_or_default().to_owned();
    let internal = if resource.group.is_empty() { "core".into() } else { package(resource.group) };
    Some(format!(
        "converting ({}{version}.{kind}) to ({internal}.{}): unknown conversion",
        package(group),
        resource.kind
    ))
}

/// Checks the types of all fields, and handles unknown ones by [`check_unknown`]. Returns the warnings.
///
/// Errors come in the order of `text`, which the value was decoded from.
pub(crate) fn check_fields(
    resource: &ResourceType,
    value: &mut Value,
    duplicates: Vec<String>,
    validation: FieldValidation,
    text: &[u8],
) -> ApiResult<Vec<String>> {
    check_types(resource, value)?;
    let found = duplicates::in_order(text, strict_errors(resource, value, duplicates, validation));
    handle_unknown(resource, value, found, validation).map_err(|why| refuse(resource, &why))
}

/// Handles unknown fields as the client requested, and prunes them as decoding into Go types does. `duplicates` are
/// other errors of strict decoding. Returns the warnings, or else the error of strict decoding.
pub(crate) fn check_unknown(
    resource: &ResourceType,
    value: &mut Value,
    duplicates: Vec<String>,
    validation: FieldValidation,
) -> Result<Vec<String>, String> {
    let found = strict_errors(resource, value, duplicates, validation);
    handle_unknown(resource, value, found, validation)
}

/// Returns what strict decoding objects to.
fn strict_errors(
    resource: &ResourceType,
    value: &Value,
    duplicates: Vec<String>,
    validation: FieldValidation,
) -> Vec<String> {
    let mut found = duplicates;
    if validation != FieldValidation::Ignore {
        found.extend(resource.object_schema().unknown_fields(value));
    }
    found
}

fn handle_unknown(
    resource: &ResourceType,
    value: &mut Value,
    found: Vec<String>,
    validation: FieldValidation,
) -> Result<Vec<String>, String> {
    if validation == FieldValidation::Strict && !found.is_empty() {
        return Err(format!("strict decoding error: {}", found.join(", ")));
    }
    resource.object_schema().prune(value);
    Ok(found)
}

/// Checks the body of an apply patch. Nothing is pruned, since the manager owns even an empty map or list. What is not
/// in the schema has no owner, so it is an error however the client wants unknown fields to be handled.
pub(crate) fn check_applied(resource: &ResourceType, value: &Value) -> ApiResult<()> {
    let why = match patch::typed_errors(resource, value).as_slice() {
        [] => return Ok(()),
        [one] => one.clone(),
        all => format!("errors:\n  {}", all.join("\n  ")),
    };
    let what = applied_name(resource, value);
    Err(ApiError::unknown(format!("failed to create typed patch object ({what}): {why}")))
}

/// Checks that the result of an apply patch can be converted to the type.
pub(crate) fn check_merged(
    resource: &ResourceType,
    applied: &Value,
    merged: &Value,
) -> ApiResult<()> {
    resource.object_schema().check_conversion(merged).map_err(|why| {
        ApiError::unknown(format!(
            "failed to convert new object ({}) to proper version: unable to convert unstructured \
             object to {}/{}, Kind={}: {why}",
            applied_name(resource, applied),
            resource.group,
            resource.version,
            resource.kind
        ))
    })
}

/// Names an applied object by what it says of itself: `default/d; apps/v1, Kind=Deployment`.
fn applied_name(resource: &ResourceType, applied: &Value) -> String {
    let text = |field: &str| applied["metadata"][field].as_str().unwrap_or_default();
    format!(
        "{}/{}; {}/{}, Kind={}",
        text("namespace"),
        text("name"),
        resource.group,
        resource.version,
        resource.kind
    )
}

fn check_types(resource: &ResourceType, value: &Value) -> ApiResult<()> {
    resource.object_schema().check_types(value).map_err(|why| refuse(resource, &why))
}

fn refuse(resource: &ResourceType, why: &str) -> ApiError {
    let what = resource.kind;
    ApiError::bad_request(format!(
        "{what} in version {:?} cannot be handled as a {what}: {why}",
        resource.version
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_syntax_error_is_worded_as_in_go() {
        for (text, expected) in [
            ("{not json", "invalid character 'n' looking for beginning of object key string"),
            ("", "unexpected end of JSON input"),
            ("{\"a\":", "unexpected end of JSON input"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("{\"a\":1 2}", "invalid character '2' after object key:value pair"),
            ("[1 2]", "invalid character '2' after array element"),
            ("{} x", "invalid character 'x' after top-level value"),
            ("<html>", "invalid character '<' looking for beginning of value"),
        ] {
            let error = serde_json::from_str::<Value>(text).unwrap_err();
            assert_eq!(json_error(text, &error), expected, "{text}");
        }
    }
}
