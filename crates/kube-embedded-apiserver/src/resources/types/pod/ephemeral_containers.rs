//! Updates of the subresource `ephemeralcontainers` (`ValidatePodEphemeralContainersUpdate`).

use crate::{
    fields::{list, text},
    validation::{
        field_error::{FieldError, forbidden},
        names::dns_subdomain,
        object_meta::metadata,
        pod_spec,
    },
};
use serde_json::Value;

const FIELD: &str = "spec.ephemeralContainers";

/// Returns the errors of an update: containers may be added, and none changed or removed.
pub(super) fn validate_update(pod: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = metadata(pod, Some(old), dns_subdomain);
    errors.extend(pod_spec::validate(&pod["spec"], "spec"));
    let containers = list(pod, &["spec", "ephemeralContainers"]);
    for before in list(old, &["spec", "ephemeralContainers"]) {
        let name = text(before, &["name"]);
        match containers.iter().find(|container| text(container, &["name"]) == name) {
            None => {
                let detail = format!("existing ephemeral containers {name:?} may not be removed\n");
                errors.push(forbidden(FIELD, &detail));
            }
            Some(after) if after != before => {
                let detail = format!("existing ephemeral containers {name:?} may not be changed\n");
                errors.push(forbidden(FIELD, &detail));
            }
            Some(_) => {}
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::pod_defaults;
    use serde_json::json;

    #[test]
    fn ephemeral_containers_can_only_be_added() {
        let pod = |containers: Value| {
            let mut pod = json!({
                "metadata": { "name": "p", "namespace": "default" },
                "spec": {
                    "containers": [{ "name": "c", "image": "i" }],
                    "volumes": [{ "name": "v", "emptyDir": {} }],
                    "ephemeralContainers": containers,
                },
            });
            pod_defaults::defaults(&mut pod["spec"]);
            pod
        };
        let old = pod(json!([{ "name": "a", "image": "i" }]));
        let at = "spec.ephemeralContainers[1]";
        for (containers, expected) in [
            (json!([{ "name": "a", "image": "i" }]), vec![]),
            (json!([{ "name": "b", "image": "i" }, { "name": "a", "image": "i" }]), vec![]),
            (
                json!([]),
                vec![(
                    FIELD.to_owned(),
                    "Forbidden: existing ephemeral containers \"a\" may not be removed\n",
                )],
            ),
            (
                json!([{ "name": "a", "image": "j" }]),
                vec![(
                    FIELD.to_owned(),
                    "Forbidden: existing ephemeral containers \"a\" may not be changed\n",
                )],
            ),
            (
                json!([{ "name": "a", "image": "i" }, { "name": "c", "image": "i" }]),
                vec![(format!("{at}.name"), "Duplicate value: \"c\"")],
            ),
            (
                json!([{ "name": "a", "image": "i" }, { "name": "b", "image": "i", "targetContainerName": "a" }]),
                vec![(format!("{at}.targetContainerName"), "Not found: \"a\"")],
            ),
            (
                json!([{ "name": "a", "image": "i" }, {
                    "name": "b", "image": "i", "targetContainerName": "c",
                    "ports": [{ "containerPort": 80 }],
                    "volumeMounts": [{ "name": "v", "mountPath": "/v", "subPath": "s" }],
                }]),
                vec![
                    (format!("{at}.ports"), "Forbidden: cannot be set for an Ephemeral Container"),
                    (
                        format!("{at}.volumeMounts[0].subPath"),
                        "Forbidden: cannot be set for an Ephemeral Container",
                    ),
                ],
            ),
        ] {
            let errors = validate_update(&pod(containers.clone()), &old);
            let errors: Vec<_> =
                errors.iter().map(|e| (e.field.clone(), e.message.as_str())).collect();
            assert_eq!(errors, expected, "{containers}");
        }
    }
}
