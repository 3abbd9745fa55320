//! The `token` subresource of service accounts (`TokenRequest`).

use crate::{
    admission::policies::{
        self,
        attributes::{Attributes, Operation},
    },
    authentication::{ISSUER, object, user::service_account_user},
    fields::strings,
    generate,
    http::{
        body::{Body, respond},
        decode, encode,
        negotiation::Converts,
        path::Target,
        request::Request,
        status::{ApiError, ApiResult},
    },
    resources::types::{node, pod, secret},
    scope,
    state::ServerState,
    timestamps,
    validation::field_error::FieldError,
    verbs::pipeline::with_warnings,
};
use http::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

/// The lifetime in seconds that admission requests for the tokens of pods. The real one is a year, as in Kubernetes:
/// clients that never reload the token would otherwise stop after an hour.
const WARN_AFTER: i64 = 3607;
const YEAR: i64 = 365 * 24 * 3600;

/// `POST …/serviceaccounts/{name}/token`.
pub(crate) fn create(state: &ServerState, request: &Request) -> ApiResult<Response<Body>> {
    let target = &request.target;
    let form = request.form_of(Converts::Metadata)?;
    let options = request.write_options()?;
    let account = scope::find(state, target)?;
    let token_request = decode::review(request)?;
    let spec = &token_request["spec"];
    let seconds = lifetime(&spec["expirationSeconds"])?;
    let mut audiences = strings(&spec["audiences"]);
    if audiences.is_empty() {
        audiences.push(ISSUER.to_owned());
    }
    let bound = &spec["boundObjectRef"];
    let (namespace, name) = (&target.namespace, &target.name);
    // Policies see it with its defaults.
    let mut completed = json!({
        "kind": "TokenRequest",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": account.value["metadata"]["uid"],
            "creationTimestamp": timestamps::now(),
        },
        "spec": { "audiences": audiences, "expirationSeconds": seconds },
    });
    if !bound.is_null() {
        completed["spec"]["boundObjectRef"] = bound.clone();
    }
    let attributes = Attributes::of_write(target, Operation::Create, request.user, &options);
    let kind = ("authentication.k8s.io", "v1", "TokenRequest");
    let warnings = policies::review_object(state, attributes, kind, &completed)?;
    let mut own = json!({
        "namespace": namespace,
        "serviceaccount": { "name": name, "uid": account.value["metadata"]["uid"] },
    });
    if !bound.is_null() {
        bind(state, target, bound, &mut own)?;
    }
    let now = Timestamp::now();
    let mut expires = now.as_second().saturating_add(seconds);
    let reported = now + SignedDuration::from_secs(seconds);
    if seconds == WARN_AFTER && own.get("pod").is_some() && audiences == [ISSUER] {
        own["warnafter"] = expires.into();
        expires = now.as_second() + YEAR;
    }
    let claims = json!({
        "aud": audiences,
        "exp": expires,
        "iat": now.as_second(),
        "iss": ISSUER,
        "jti": generate::uid(),
        "kubernetes.io": own,
        "nbf": now.as_second(),
        "sub": service_account_user(namespace, name),
    });
    let token = state.signer.sign(&claims);
    let token = token.ok_or_else(|| ApiError::internal("failed to sign the token"))?;
    let response = json!({
        "kind": "TokenRequest",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": account.value["metadata"]["uid"],
            "creationTimestamp": timestamps::format(now),
        },
        "spec": {
            "audiences": audiences,
            "expirationSeconds": seconds,
            "boundObjectRef": bound,
        },
        "status": { "token": token, "expirationTimestamp": timestamps::format(reported) },
    });
    form.check_object("authentication.TokenRequest")?;
    let bytes = encode::value(&target.resource, form, &response);
    Ok(with_warnings(respond(StatusCode::CREATED, "application/json", bytes), warnings))
}

fn lifetime(requested: &Value) -> ApiResult<i64> {
    let why = match requested.as_i64() {
        None if requested.is_null() => return Ok(3600),
        Some(600..=0x1_0000_0000) => return Ok(requested.as_i64().unwrap_or(3600)),
        Some(..600) => "may not specify a duration less than 10 minutes",
        Some(_) => "may not specify a duration larger than 2^32 seconds",
        None => "must be a number",
    };
    Err(ApiError::invalid_token_request(FieldError {
        reason: "FieldValueInvalid",
        field: "spec.expirationSeconds".into(),
        message: format!("Invalid value: {requested}: {why}"),
    }))
}

/// Checks the object that a token is bound to, and adds it to the claims.
fn bind(state: &ServerState, target: &Target<'_>, bound: &Value, own: &mut Value) -> ApiResult<()> {
    let text = |field: &str| bound[field].as_str().unwrap_or_default();
    let (kind, name) = (text("kind"), text("name"));
    let group = text("apiVersion").rsplit_once('/').map_or("", |(group, _)| group);
    let (field, resource, namespace) = match (group, kind) {
        ("", "Pod") => ("pod", &pod::RESOURCE, &*target.namespace),
        ("", "Secret") => ("secret", &secret::RESOURCE, &*target.namespace),
        ("", "Node") => ("node", &node::RESOURCE, ""),
        _ => {
            let why = format!("cannot bind token to object of type {kind:?}");
            return Err(ApiError::bad_request(why));
        }
    };
    let found = object(state, resource, namespace, name)
        .ok_or_else(|| ApiError::not_found(resource, name))?;
    let uid = found.value["metadata"]["uid"].as_str().unwrap_or_default();
    if let Some(given) = bound["uid"].as_str()
        && !given.is_empty()
        && given != uid
    {
        let why = format!(
            "the UID in the bound object reference ({given}) does not match the UID in record. The \
             object might have been deleted and then recreated"
        );
        return Err(ApiError::conflict_below(resource.plural, name, &why));
    }
    if field == "pod" && found.value["spec"]["serviceAccountName"] != *target.name {
        let why = format!(
            "cannot bind token for serviceaccount {:?} to pod running with different \
             serviceaccount name.",
            target.name
        );
        return Err(ApiError::bad_request(why));
    }
    own[field] = json!({ "name": name, "uid": uid });
    if let Some(node_name) = found.value["spec"]["nodeName"].as_str().filter(|_| field == "pod")
        && let Some(found) = object(state, &node::RESOURCE, "", node_name)
    {
        own["node"] = json!({ "name": node_name, "uid": found.value["metadata"]["uid"] });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetime_out_of_bounds_is_rejected() {
        assert_eq!(lifetime(&Value::Null).unwrap(), 3600);
        assert_eq!(lifetime(&json!(600)).unwrap(), 600);
        let error = lifetime(&json!(599)).unwrap_err().to_value();
        assert_eq!(
            error["message"],
            "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid \
             value: 599: may not specify a duration less than 10 minutes"
        );
        assert!(lifetime(&json!(1_i64 << 33)).is_err() && lifetime(&json!("1h")).is_err());
    }
}
