//! Manifests with something changed on purpose, for claims about pods that are not as they should be.

use serde_json::{Value, json};

/// No app answers here.
const NOWHERE: &str = "/not-there";

/// Makes a Deployment one of a single pod beside the original: another name and `env`, the same `app`.
pub fn sibling(deployment: &mut Value, name: &str, env: &str) {
    set(deployment, "/metadata/name", json!(name));
    set(deployment, "/spec/replicas", json!(1));
    for labels in
        ["/metadata/labels", "/spec/selector/matchLabels", "/spec/template/metadata/labels"]
    {
        set(deployment, &format!("{labels}/env"), json!(env));
    }
}

/// Asks for readiness where the app has no page, so that its pods run but never get ready.
pub fn never_ready(deployment: &mut Value) {
    let containers = deployment.pointer_mut("/spec/template/spec/containers");
    for container in containers.and_then(Value::as_array_mut).into_iter().flatten() {
        set(container, "/readinessProbe/httpGet/path", json!(NOWHERE));
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

    /// A change that finds nothing to change would turn the labs' claims into empty ones.
    #[test]
    fn the_variants_change_our_manifests() {
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
            ("/spec/template/spec/containers/0/readinessProbe/httpGet/path", json!(NOWHERE)),
        ] {
            assert_eq!(object.pointer(pointer), Some(&expected), "{pointer}");
        }
    }
}
