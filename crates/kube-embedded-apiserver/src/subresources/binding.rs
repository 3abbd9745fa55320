//! The `binding` subresource of pods: a scheduler's decision.

use crate::{
    admission::policies::{
        self,
        attributes::{Attributes, Operation},
    },
    http::{
        body::{Body, respond_json},
        decode,
        request::Request,
        status::{self, ApiError, ApiResult},
    },
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
    let node = binding["target"]["name"].as_str().unwrap_or_default();
    if node.is_empty() {
        return Err(ApiError::bad_request("target.name: Required value"));
    }
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
        Ok(bound(&target.name, old.unwrap_or(&Value::Null), node)?.into())
    })?;
    Ok(with_warnings(respond_json(StatusCode::CREATED, &status::created()), warnings))
}

/// Returns the pod on its node.
fn bound(name: &str, old: &Value, node: &str) -> ApiResult<Value> {
    let current = old["spec"]["nodeName"].as_str().unwrap_or_default();
    if !current.is_empty() {
        let why = format!("pod {name} is already assigned to node {current:?}");
        return Err(ApiError::conflict_below("pods/binding", name, &why));
    }
    if old["metadata"].get("deletionTimestamp").is_some() {
        let why = format!("pod {name} is being deleted, cannot be assigned to a host");
        return Err(ApiError::conflict_below("pods/binding", name, &why));
    }
    let mut new = old.clone();
    new["spec"]["nodeName"] = node.into();
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
