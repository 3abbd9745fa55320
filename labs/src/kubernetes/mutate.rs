//! Edits manifests on purpose: for claims about pods that do not become ready, or about single pods.

use serde_json::{Value, json};

/// A path that the app does not serve.
const MISSING_PATH: &str = "/not-there";

/// Turns a Deployment into a second one with a single pod: another name and `env`, the same `app`.
pub(crate) fn sibling(deployment: &mut Value, name: &str, env: &str) {
    set(deployment, "/metadata/name", json!(name));
    set(deployment, "/spec/replicas", json!(1));
    for labels in
        ["/metadata/labels", "/spec/selector/matchLabels", "/spec/template/metadata/labels"]
    {
        set(deployment, &format!("{labels}/env"), json!(env));
    }
}

/// Leaves a Deployment a single pod.
pub(crate) fn single(object: &mut Value) {
    set(object, "/spec/replicas", json!(1));
}

/// Points the readiness probe at a missing path, so that pods run but never become ready.
pub(crate) fn never_ready(deployment: &mut Value) {
    let containers = deployment.pointer_mut("/spec/template/spec/containers");
    for container in containers.and_then(Value::as_array_mut).into_iter().flatten() {
        set(container, "/readinessProbe/httpGet/path", json!(MISSING_PATH));
    }
}

fn set(object: &mut Value, pointer: &str, value: Value) {
    if let Some(field) = object.pointer_mut(pointer) {
        *field = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::manifest;
    use std::path::Path;

    /// A mutation that finds nothing to change would make claims hold without evidence.
    #[test]
    fn mutations_change_the_repository_manifests() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/lb/app-production.yml");
        let mut object = manifest::read(Path::new(file)).unwrap().remove(0).object;
        sibling(&mut object, "other", "unready");
        never_ready(&mut object);
        for (pointer, expected) in [
            ("/metadata/name", json!("other")),
            ("/metadata/labels/env", json!("unready")),
            ("/spec/replicas", json!(1)),
            ("/spec/selector/matchLabels/env", json!("unready")),
            ("/spec/template/metadata/labels/env", json!("unready")),
            ("/spec/template/metadata/labels/app", json!("kubeapp")),
            ("/spec/template/spec/containers/0/readinessProbe/httpGet/path", json!(MISSING_PATH)),
        ] {
            assert_eq!(object.pointer(pointer), Some(&expected), "{pointer}");
        }
    }
}
