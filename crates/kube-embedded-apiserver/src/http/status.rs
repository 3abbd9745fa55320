//! `Status` objects: errors with Kubernetes' codes, reasons, messages and details, and successes.

use crate::{
    http::body::{Body, respond},
    resources::resource_type::ResourceType,
    validation::field_error::FieldError,
};
use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Map, Value, json};
use std::{
    collections::HashSet,
    num::{IntErrorKind, ParseIntError},
};

/// The error of a request.
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    code: StatusCode,
    reason: &'static str,
    message: String,
    details: Option<Value>,
    metadata: Value,
    /// What the request is warned of besides. Boxed, since errors are returned everywhere.
    warnings: Option<Box<Warnings>>,
}

#[derive(Clone, Debug)]
struct Warnings(Vec<String>);

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

pub(crate) type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: None,
            metadata: json!({}),
            warnings: None,
        }
    }

    /// Adds the warnings of a request that was decoded before it failed.
    pub(crate) fn with_warnings(mut self, warnings: &[String]) -> Self {
        if !warnings.is_empty() {
            // Those that are added twice are written once.
            let mut all = self.take_warnings();
            all.extend_from_slice(warnings);
            self.warnings = Some(Box::new(Warnings(all)));
        }
        self
    }

    /// Adds text before the message.
    pub(crate) fn with_prefix(mut self, prefix: &str) -> Self {
        self.message.insert_str(0, prefix);
        self
    }

    pub(crate) fn take_warnings(&mut self) -> Vec<String> {
        self.warnings.take().map(|warnings| warnings.0).unwrap_or_default()
    }

    fn with_details(mut self, details: Value) -> Self {
        self.details = Some(details);
        self
    }

    pub(crate) fn code(&self) -> StatusCode {
        self.code
    }

    /// Returns true if an object of the name exists.
    pub(crate) fn is_exists(&self) -> bool {
        self.reason == "AlreadyExists"
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    pub(crate) fn service_unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message)
    }

    /// An error that has no status of its own in Kubernetes: it responds with 500 and no reason.
    pub(crate) fn unknown(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "", message)
    }

    /// The resource version of a list that is no number.
    pub(crate) fn bad_list_version(text: &str, error: &ParseIntError) -> Self {
        Self::bad_request(format!("invalid resource version: {}", no_version(text, error)))
    }

    /// The resource version of a watch that is no number.
    pub(crate) fn bad_watch_version(text: &str, error: &ParseIntError) -> Self {
        Self::unknown(no_version(text, error))
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
    }

    pub(crate) fn not_found(resource: &ResourceType, name: &str) -> Self {
        let message = format!("{} {name:?} not found", qualified(resource));
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).with_details(details(resource, name))
    }

    /// The resource is not served.
    pub(crate) fn no_such_resource() -> Self {
        let message = "the server could not find the requested resource";
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).with_details(json!({}))
    }

    pub(crate) fn not_found_on_node(message: String) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", message)
    }

    pub(crate) fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
            .with_details(json!({}))
    }

    /// The method is not allowed for a reason that is not obvious.
    pub(crate) fn method_not_allowed_because(why: &str) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", why).with_details(json!({}))
    }

    /// No route of the path reads the media type.
    pub(crate) fn unsupported_media_type() -> Self {
        let message = "415: Unsupported Media Type";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message)
            .with_details(json!({}))
    }

    /// The handler of the request reads none but these media types.
    pub(crate) fn unknown_format(accepted: &str) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: \
             {accepted}"
        );
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message)
    }

    /// The client accepts none of these media types.
    pub(crate) fn not_acceptable(accepted: &str) -> Self {
        let message = format!("only the following media types are accepted: {accepted}");
        Self::not_acceptable_because(message)
    }

    /// What the client accepts does not fit the response.
    pub(crate) fn not_acceptable_because(why: String) -> Self {
        Self::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", why)
    }

    /// The client accepts none of the media types that the route produces.
    pub(crate) fn no_representation(available: &str) -> Self {
        let why = format!("406: Not Acceptable\n\nAvailable representations: {available}");
        Self::not_acceptable_because(why).with_details(json!({}))
    }

    /// The body of the request did not come in time.
    pub(crate) fn timeout() -> Self {
        let message = "Timeout: request did not complete within the allotted timeout";
        Self::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message)
    }

    pub(crate) fn too_large(limit: usize) -> Self {
        Self::too_large_because(&format!("limit is {limit}"))
    }

    pub(crate) fn too_large_because(why: &str) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "RequestEntityTooLarge",
            format!("Request entity too large: {why}"),
        )
    }

    pub(crate) fn already_exists(resource: &ResourceType, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", qualified(resource));
        Self::new(StatusCode::CONFLICT, "AlreadyExists", message)
            .with_details(details(resource, name))
    }

    pub(crate) fn conflict(resource: &ResourceType, name: &str) -> Self {
        Self::conflict_because(
            &qualified(resource),
            details(resource, name),
            name,
            "the object has been modified; please apply your changes to the latest version and \
             try again",
        )
    }

    /// A new object that names the uid of another.
    pub(crate) fn conflict_no_object(resource: &ResourceType, name: &str, given: &str) -> Self {
        Self::conflict_because(
            &qualified(resource),
            details(resource, name),
            name,
            &format!(
                "uid mismatch: the provided object specified uid {given}, and no existing object was found"
            ),
        )
    }

    /// The object has another uid than the client expects.
    pub(crate) fn conflict_uid(
        resource: &ResourceType,
        name: &str,
        given: &str,
        there: &str,
    ) -> Self {
        Self::conflict_because(
            &qualified(resource),
            details(resource, name),
            name,
            &format!(
                "Precondition failed: UID in precondition: {given}, UID in object meta: {there}"
            ),
        )
    }

    /// A precondition of a deletion does not hold. Kubernetes names the kind here, not the resource.
    pub(crate) fn precondition(resource: &ResourceType, name: &str, why: &str) -> Self {
        let what = qualify(resource.kind, resource.group);
        let mut named = details(resource, name);
        named["kind"] = resource.kind.into();
        Self::conflict_because(&what, named, name, why)
    }

    fn conflict_because(what: &str, details: Value, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {what} {name:?}: {why}");
        Self::new(StatusCode::CONFLICT, "Conflict", message).with_details(details)
    }

    /// Server-side apply conflicts with other managers.
    pub(crate) fn apply_conflict(message: String, causes: Vec<Value>) -> Self {
        Self::new(StatusCode::CONFLICT, "Conflict", message)
            .with_details(json!({ "causes": causes }))
    }

    pub(crate) fn forbidden(resource: &ResourceType, name: &str, why: &str) -> Self {
        let message = format!("{} {name:?} is forbidden: {why}", qualified(resource));
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message).with_details(details(resource, name))
    }

    /// An admission policy refuses a request, for a reason of its own.
    pub(crate) fn denied(resource: &ResourceType, name: &str, why: &str, reason: &str) -> Self {
        let mut error = Self::forbidden(resource, name, why);
        (error.code, error.reason) = match reason {
            "Unauthorized" => (StatusCode::UNAUTHORIZED, "Unauthorized"),
            "Forbidden" => (StatusCode::FORBIDDEN, "Forbidden"),
            "RequestEntityTooLarge" => (StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge"),
            _ => (StatusCode::UNPROCESSABLE_ENTITY, "Invalid"),
        };
        if let Some(details) = &mut error.details {
            details["causes"] = json!([{ "message": why }]);
        }
        error
    }

    /// The user may not make a request. Without a resource it is for another path.
    pub(crate) fn forbidden_request(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let what = match (resource, name) {
            ("", _) => String::new(),
            (_, "") => format!("{} is ", qualify(resource, group)),
            _ => format!("{} {name:?} is ", qualify(resource, group)),
        };
        Self::new(StatusCode::FORBIDDEN, "Forbidden", format!("{what}forbidden: {why}"))
            .with_details(details_of(group, resource, name))
    }

    /// The namespace of a new object is being deleted.
    pub(crate) fn terminating(resource: &ResourceType, name: &str, namespace: &str) -> Self {
        let why = format!(
            "unable to create new content in namespace {namespace} because it is being terminated"
        );
        let mut error = Self::forbidden(resource, name, &why);
        if let Some(details) = &mut error.details {
            details["causes"] = json!([{
                "reason": "NamespaceTerminating",
                "message": format!("namespace {namespace} is being terminated"),
                "field": "metadata.namespace",
            }]);
        }
        error
    }

    pub(crate) fn invalid(resource: &ResourceType, name: &str, errors: &[FieldError]) -> Self {
        // An event of `events.k8s.io` is one of the core group.
        let group = if resource.is_unstructured() { resource.group } else { resource.storage.0 };
        Self::invalid_object(resource.kind, group, name, errors)
    }

    /// A patch makes something that is no object of the type.
    pub(crate) fn invalid_patch(error: FieldError) -> Self {
        Self::invalid_object("", "", "", &[error])
    }

    /// A `Scale` is invalid.
    pub(crate) fn invalid_scale(name: &str, error: FieldError) -> Self {
        Self::invalid_object("Scale", "autoscaling", name, &[error])
    }

    /// A `TokenRequest` is invalid.
    pub(crate) fn invalid_token_request(error: FieldError) -> Self {
        Self::invalid_object("TokenRequest", "authentication.k8s.io", "", &[error])
    }

    /// A subresource conflicts with the state of the object.
    pub(crate) fn conflict_below(what: &str, name: &str, why: &str) -> Self {
        Self::conflict_because(what, json!({ "name": name, "kind": what }), name, why)
    }

    /// The options in a query are invalid (`CreateOptions`, `PatchOptions`, ...).
    pub(crate) fn invalid_options(options: &str, errors: &[FieldError]) -> Self {
        Self::invalid_object(options, "meta.k8s.io", "", errors)
    }

    /// An update does not name a version. Kubernetes names the resource here, not the kind.
    pub(crate) fn invalid_version(resource: &ResourceType, name: &str, error: &FieldError) -> Self {
        Self::invalid_object(resource.plural, resource.group, name, std::slice::from_ref(error))
    }

    /// A review is invalid.
    pub(crate) fn invalid_review(kind: &str, errors: &[FieldError]) -> Self {
        Self::invalid_object(kind, "authorization.k8s.io", "", errors)
    }

    /// An object of a kind is invalid.
    pub(crate) fn invalid_object(
        kind: &str,
        group: &str,
        name: &str,
        errors: &[FieldError],
    ) -> Self {
        // The message has each error once, for all that causes may be repeated.
        let mut seen = HashSet::new();
        let lines = errors.iter().map(|error| format!("{}: {}", error.field, error.message));
        let lines: Vec<String> = lines.filter(|line| seen.insert(line.clone())).collect();
        let all = match lines.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let causes: Vec<_> = errors
            .iter()
            .map(|error| {
                json!({ "reason": error.reason, "message": error.message, "field": error.field })
            })
            .collect();
        let mut details = Map::new();
        for (field, text) in [("group", group), ("kind", kind), ("name", name)] {
            if !text.is_empty() {
                details.insert(field.into(), text.into());
            }
        }
        details.insert("causes".into(), causes.into());
        let message = format!("{} {name:?} is invalid: {all}", qualify(kind, group));
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
            .with_details(Value::Object(details))
    }

    /// A patch cannot be applied to the object, for example because of a JSON patch's `test`.
    pub(crate) fn patch_failed() -> Self {
        let message = "the server rejected our request due to an error in our request";
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message).with_details(json!({}))
    }

    /// The resource version of a watch is compacted.
    pub(crate) fn expired(requested: u64, oldest: u64) -> Self {
        let message = format!("too old resource version: {requested} ({oldest})");
        Self::new(StatusCode::GONE, "Expired", message)
    }

    /// The exact resource version of a list is compacted.
    pub(crate) fn expired_list() -> Self {
        let message = "The resourceVersion for the provided list is too old.";
        Self::new(StatusCode::GONE, "Expired", message)
    }

    /// The first page of a list is compacted; the token continues with the current state.
    pub(crate) fn expired_continue(token: String) -> Self {
        let mut error = Self::new(
            StatusCode::GONE,
            "Expired",
            "The provided continue parameter is too old to display a consistent list result. You \
             can start a new list without the continue parameter, or use the continue token in \
             this response to retrieve the remainder of the results. Continuing with the provided \
             token results in an inconsistent list - objects that were created, modified, or \
             deleted between the time the first chunk was returned and now may show up in the \
             list.",
        );
        error.metadata = json!({ "continue": token });
        error
    }

    /// The resource version is newer than the newest, so it is most likely that of another server.
    /// `retry` is for one that a server could still reach.
    pub(crate) fn too_large_resource_version(requested: u64, current: u64, retry: bool) -> Self {
        let message =
            format!("Timeout: Too large resource version: {requested}, current: {current}");
        let cause = json!({
            "reason": "ResourceVersionTooLarge",
            "message": "Too large resource version",
        });
        let mut details = json!({ "causes": [cause] });
        if retry {
            details["retryAfterSeconds"] = 1.into();
        }
        Self::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message).with_details(details)
    }

    /// The continue token cannot be used.
    pub(crate) fn bad_continue(why: &str) -> Self {
        Self::bad_request(format!("invalid continue token: continue key is not valid: {why}"))
    }

    /// Returns the `Status` object.
    pub(crate) fn to_value(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": self.metadata,
            "status": "Failure",
            "message": self.message,
            "code": self.code.as_u16(),
        });
        if !self.reason.is_empty() {
            status["reason"] = self.reason.into();
        }
        if let Some(details) = &self.details {
            status["details"] = details.clone();
        }
        status
    }

    pub(crate) fn into_response(self) -> Response<Body> {
        let text = encode(&self.to_value(), STATUS) + "\n";
        respond(self.code, "application/json", Bytes::from(text))
    }
}

/// Words the error of a number as Go does.
pub(crate) fn go_number_error(error: &ParseIntError) -> &'static str {
    match error.kind() {
        IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
        _ => "invalid syntax",
    }
}

/// Says that a resource version is no number.
fn no_version(text: &str, error: &ParseIntError) -> String {
    let why = go_number_error(error);
    format!("resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: {why}")
}

/// The fields of a `Status` in the order in which Kubernetes writes them: scripts compare the text.
const STATUS: &[&str] =
    &["kind", "apiVersion", "metadata", "status", "message", "reason", "details", "code"];
const DETAILS: &[&str] = &["name", "group", "kind", "uid", "causes", "retryAfterSeconds"];

/// Encodes an object with its fields in this order; others are left out.
fn encode(object: &Value, order: &[&str]) -> String {
    let fields = order.iter().filter_map(|name| {
        let value = object.get(*name)?;
        let value = if *name == "details" { encode(value, DETAILS) } else { value.to_string() };
        Some(format!("\"{name}\":{value}"))
    });
    format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
}

/// The success of a deletion.
pub(crate) fn deleted(resource: &ResourceType, name: &str, uid: &str) -> Value {
    let mut details = details(resource, name);
    details["uid"] = uid.into();
    json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": details,
    })
}

/// The success of a subresource that creates nothing to show.
pub(crate) fn created() -> Value {
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201 })
}

/// Returns `deployments.apps`, `pods`.
fn qualified(resource: &ResourceType) -> String {
    qualify(resource.plural, resource.group)
}

fn qualify(name: &str, group: &str) -> String {
    if group.is_empty() { name.to_owned() } else { format!("{name}.{group}") }
}

fn details(resource: &ResourceType, name: &str) -> Value {
    details_of(resource.group, resource.plural, name)
}

fn details_of(group: &str, plural: &str, name: &str) -> Value {
    let mut details = Map::new();
    for (field, text) in [("name", name), ("group", group), ("kind", plural)] {
        if !text.is_empty() {
            details.insert(field.into(), text.into());
        }
    }
    Value::Object(details)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::registry;

    #[test]
    fn status_is_written_in_the_order_of_kubernetes() {
        let services = registry::find("", "v1", "services").unwrap();
        let text = encode(&ApiError::already_exists(services, "mock").to_value(), STATUS);
        assert_eq!(
            text,
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"services \"mock\" already exists","reason":"AlreadyExists","details":{"name":"mock","kind":"services"},"code":409}"#
        );
    }
}
