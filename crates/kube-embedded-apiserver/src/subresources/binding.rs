//! The `binding` subresource of pods: a scheduler's decision.

use crate::{
    admission::policies::{
        self,
        attributes::{Attributes, Operation},
    },
    fields::{list, text},
    http::{
        body::{Body, respond_json},
        decode,
        request::Request,
        status::{self, ApiError, ApiResult},
    },
    metadata,
    state::ServerState,
    timestamps,
    verbs::pipeline::{Expects, Shows, WriteRequest, with_warnings, write},
};
use http::{Response, StatusCode};
use serde_json::{Value, json};

/// Assigns a pod to a node.
pub(crate) fn bind(state: &ServerState, request: &Request) -> ApiResult<Response<Body>> {
    let target = &request.target;
    let options = request.write_options()?;
    let binding = decode::any(request)?;
    if text(&binding, &["metadata", "name"]) != target.name {
        let why = "name in URL does not match name in Binding object";
        return Err(ApiError::bad_request(why));
    }
    check_target(&binding["target"])?;
    let write_request = WriteRequest {
        target,
        options: &options,
        user: request.user,
        expects: Expects::Object,
        tracks: true,
        shows: Shows::Nothing,
    };
    let attributes = Attributes::of_write(target, Operation::Create, request.user, &options);
    let kind = ("", "v1", "Binding");
    let warnings = policies::review_object(state, attributes, kind, &binding)?;
    write(state, &write_request, |old| {
        let old = old.unwrap_or(&Value::Null);
        metadata::check_uid(&target.resource, &target.name, &binding, old)?;
        Ok(bound(&target.name, old, &binding)?.into())
    })?;
    Ok(with_warnings(respond_json(StatusCode::CREATED, &status::created()), warnings))
}

/// Stands for `ValidatePodBinding`, whose errors have no status of their own.
fn check_target(node: &Value) -> ApiResult<()> {
    let mut errors = Vec::new();
    let kind = text(node, &["kind"]);
    if !["", "Node"].contains(&kind) {
        errors.push(format!(
            "target.kind: Unsupported value: {kind:?}: supported values: \"Node\", \"<empty>\""
        ));
    }
    if text(node, &["name"]).is_empty() {
        errors.push("target.name: Required value".to_owned());
    }
    match &*errors {
        [] => Ok(()),
        [one] => Err(ApiError::unknown(one)),
        all => Err(ApiError::unknown(format!("[{}]", all.join(", ")))),
    }
}

/// Returns the pod on its node, with the labels and annotations of the binding.
fn bound(name: &str, old: &Value, binding: &Value) -> ApiResult<Value> {
    let current = text(old, &["spec", "nodeName"]);
    let why = if old["metadata"].get("deletionTimestamp").is_some() {
        format!("pod {name} is being deleted, cannot be assigned to a host")
    } else if !current.is_empty() {
        format!("pod {name} is already assigned to node {current:?}")
    } else if !list(old, &["spec", "schedulingGates"]).is_empty() {
        format!("pod {name} has non-empty .spec.schedulingGates")
    } else {
        String::new()
    };
    if !why.is_empty() {
        return Err(ApiError::conflict_below("pods/binding", name, &why));
    }
    let mut new = old.clone();
    new["spec"]["nodeName"] = binding["target"]["name"].clone();
    for field in ["labels", "annotations"] {
        for (key, value) in binding["metadata"][field].as_object().into_iter().flatten() {
            new["metadata"][field][key] = value.clone();
        }
    }
    let conditions = &mut new["status"]["conditions"];
    let mut kept = conditions.as_array().cloned().unwrap_or_default();
    kept.retain(|condition| condition["type"] != "PodScheduled");
    kept.push(json!({
        "type": "PodScheduled",
        "status": "True",
        "lastProbeTime": null,
        "lastTransitionTime": timestamps::now(),
        "observedGeneration": old["metadata"]["generation"],
    }));
    *conditions = kept.into();
    Ok(new)
}
