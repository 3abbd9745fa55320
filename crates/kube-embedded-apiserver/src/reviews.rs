//! Reviews: what a user is allowed (`pkg/registry/authorization`), and whose a token is
//! (`pkg/registry/authentication`).

use crate::{
    authentication::{self, user::User},
    authorization::{attributes::Attributes, rules::PolicyRule},
    fields::{list, strings, text},
    http::{
        body::{Body, respond},
        decode, encode,
        negotiation::{self, Converts, go_type, produces},
        request::Request,
        status::{ApiError, ApiResult},
    },
    metadata,
    state::ServerState,
    validation::field_error::{FieldError, forbidden, invalid, invalid_nested},
};
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

/// `POST` of a review.
pub(crate) fn create(state: &ServerState, request: &Request<'_>) -> ApiResult<Response<Body>> {
    negotiation::check_route(request.headers(), produces::OBJECTS)?;
    let form = request.form_of(Converts::Metadata)?;
    let options = request.write_options()?;
    let (target, user) = (&request.target, request.user);
    let (mut review, duplicates) = decode::object(request, options.validation)?;
    let resource = &target.resource;
    let warnings =
        decode::check_fields(resource, &mut review, duplicates, options.validation, request.body)?;
    if !review["metadata"].is_object() {
        review["metadata"] = json!({});
    }
    if resource.namespaced {
        metadata::set_namespace(target, &mut review)?;
    }
    let spec = &review["spec"];
    let status = match resource.plural {
        "selfsubjectreviews" => json!({ "userInfo": user.info() }),
        "tokenreviews" if text(spec, &["token"]).is_empty() => {
            let why = "token is required for TokenReview in authentication";
            return Err(ApiError::bad_request(why));
        }
        "tokenreviews" => authentication::review(state, spec),
        "selfsubjectrulesreviews" => rules(state, user, text(spec, &["namespace"]))?,
        plural => {
            let errors = validate(&review, plural);
            if !errors.is_empty() {
                return Err(ApiError::invalid_review(resource.kind, &errors));
            }
            match plural {
                "selfsubjectaccessreviews" => access(state, user, spec),
                _ => access(state, &subject(spec), spec),
            }
        }
    };
    review["status"] = status;
    form.check_object(&go_type(resource))?;
    let bytes = encode::value(resource, form, &review);
    let mut response = respond(StatusCode::CREATED, "application/json", bytes);
    for warning in warnings {
        if let Ok(value) = HeaderValue::from_str(&format!("299 - {warning:?}")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    Ok(response)
}

/// Validates the review of an access (`pkg/apis/authorization/validation`).
fn validate(review: &Value, plural: &str) -> Vec<FieldError> {
    let spec = &review["spec"];
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let mut errors = Vec::new();
    match (resource.is_null(), path.is_null()) {
        (false, false) => errors.push(invalid(
            "spec.nonResourceAttributes",
            path,
            "cannot be specified in combination with resourceAttributes",
        )),
        (true, true) => errors.push(invalid_nested(
            "spec.resourceAttributes",
            &Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )),
        _ => {}
    }
    let is_self = plural == "selfsubjectaccessreviews";
    if !is_self && text(spec, &["user"]).is_empty() && list(spec, &["groups"]).is_empty() {
        let detail = "at least one of user or group must be specified";
        errors.push(invalid("spec.user", &"".into(), detail));
    }
    let is_local = plural == "localsubjectaccessreviews";
    let metadata = &review["metadata"];
    let fields = metadata.as_object().into_iter().flatten();
    let mut named = fields.filter(|(field, value)| {
        let ignored = *field == "managedFields" || is_local && *field == "namespace";
        !ignored && !value.is_null()
    });
    if named.next().is_some() {
        let detail = if is_local { "must be empty except for namespace" } else { "must be empty" };
        errors.push(invalid("metadata", metadata, detail));
    }
    if is_local {
        let namespace = &resource["namespace"];
        if !resource.is_null() && *namespace != metadata["namespace"] {
            let given = namespace.as_str().unwrap_or_default().into();
            let field = "spec.resourceAttributes.namespace";
            errors.push(invalid(field, &given, "must match metadata.namespace"));
        }
        if !path.is_null() {
            let detail = "disallowed on this kind of request";
            errors.push(forbidden("spec.nonResourceAttributes", detail));
        }
    }
    errors
}

/// Returns the user that a review asks about.
fn subject(spec: &Value) -> User {
    let extra = spec["extra"].as_object().into_iter().flatten();
    User {
        name: text(spec, &["user"]).to_owned(),
        uid: text(spec, &["uid"]).to_owned(),
        groups: strings(&spec["groups"]),
        extra: extra.map(|(key, values)| (key.clone(), strings(values))).collect(),
    }
}

/// Returns the status of the review of an access.
fn access(state: &ServerState, user: &User, spec: &Value) -> Value {
    let path = &spec["nonResourceAttributes"];
    let of = if path.is_null() { &spec["resourceAttributes"] } else { path };
    let field = |name: &str| text(of, &[name]).into();
    let action = Attributes {
        verb: field("verb"),
        namespace: field("namespace"),
        group: field("group"),
        resource: field("resource"),
        subresource: field("subresource"),
        name: field("name"),
        path: (!path.is_null()).then(|| field("path")),
    };
    let decision = state.authorizer.authorize(user, &action);
    let mut status = json!({ "allowed": decision.allowed });
    let reason = decision.reason(user);
    if !reason.is_empty() {
        status["reason"] = reason.into();
    }
    status
}

/// Returns the status of a `SelfSubjectRulesReview`.
fn rules(state: &ServerState, user: &User, namespace: &str) -> ApiResult<Value> {
    if namespace.is_empty() {
        return Err(ApiError::bad_request("no namespace on request"));
    }
    let (rules, errors) = state.authorizer.rules_for(user, namespace);
    let (for_paths, for_resources): (Vec<_>, Vec<_>) =
        rules.iter().partition(|rule| rule.resources.is_empty());
    let values =
        |rules: Vec<&PolicyRule>| rules.into_iter().map(|rule| rule.to_value()).collect::<Vec<_>>();
    let mut status = json!({
        "resourceRules": values(for_resources),
        "nonResourceRules": values(for_paths),
        "incomplete": false,
    });
    match errors.as_slice() {
        [] => {}
        [error] => status["evaluationError"] = error.as_str().into(),
        errors => status["evaluationError"] = format!("[{}]", errors.join(", ")).into(),
    }
    Ok(status)
}
