//! The `eviction` subresource of pods. There are no disruption budgets here, so an eviction is a deletion, of
//! which the pod has a condition.

use crate::{
    admission::policies::{
        self,
        attributes::{Attributes, Operation},
    },
    fields::{list, text},
    http::{
        body::{Body, respond_json},
        decode,
        delete_options::DeleteOptions,
        request::Request,
        status::{self, ApiError, ApiResult},
    },
    state::ServerState,
    timestamps,
    verbs::{
        delete::{check_preconditions, delete_object},
        pipeline::{Expects, Shows, WriteRequest, with_warnings, write},
    },
};
use http::{Response, StatusCode};
use serde_json::{Value, json};

/// Deletes a pod.
pub(crate) fn evict(state: &ServerState, request: &Request) -> ApiResult<Response<Body>> {
    let target = &request.target;
    let write_options = request.write_options()?;
    let eviction = decode::any(request)?;
    if text(&eviction, &["metadata", "name"]) != target.name {
        let why = "name in URL does not match name in Eviction object";
        return Err(ApiError::bad_request(why));
    }
    let mut options = DeleteOptions::from_object(&eviction["deleteOptions"])?;
    options.dry_run |= write_options.dry_run;
    let attributes = Attributes::of_write(target, Operation::Create, request.user, &write_options);
    let kind = ("policy", "v1", "Eviction");
    let warnings = policies::review_object(state, attributes, kind, &eviction)?;
    if !options.dry_run {
        let write_request = WriteRequest {
            target,
            options: &write_options,
            user: request.user,
            expects: Expects::Object,
            tracks: false,
            shows: Shows::Nothing,
        };
        write(state, &write_request, |old| {
            let old = old.unwrap_or(&Value::Null);
            check_preconditions(&target.resource, &target.name, old, &options)?;
            Ok(disrupted(old).into())
        })?;
        options = options.without_resource_version();
    }
    delete_object(state, target, &options, &mut |_| Ok(()))?;
    Ok(with_warnings(respond_json(StatusCode::CREATED, &status::created()), warnings))
}

/// Returns the pod with the condition by which a Job tells its failure from others.
fn disrupted(pod: &Value) -> Value {
    const TYPE: &str = "DisruptionTarget";
    let mut conditions = list(pod, &["status", "conditions"]).to_vec();
    if conditions.iter().any(|known| known["type"] == TYPE && known["status"] == "True") {
        return pod.clone();
    }
    conditions.retain(|known| known["type"] != TYPE);
    conditions.push(json!({
        "type": TYPE,
        "status": "True",
        "lastProbeTime": null,
        "lastTransitionTime": timestamps::now(),
        "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting",
    }));
    let mut new = pod.clone();
    new["status"]["conditions"] = conditions.into();
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evicted_pod_is_a_target_of_disruption_once() {
        let pod = json!({ "status": { "conditions": [{ "type": "Ready", "status": "True" }] } });
        let evicted = disrupted(&pod);
        let conditions = list(&evicted, &["status", "conditions"]);
        assert_eq!(conditions.len(), 2);
        assert_eq!(conditions[1]["reason"], "EvictionByEvictionAPI");
        assert_eq!(disrupted(&evicted), evicted);
        assert_eq!(list(&disrupted(&json!({})), &["status", "conditions"]).len(), 1);
    }
}
