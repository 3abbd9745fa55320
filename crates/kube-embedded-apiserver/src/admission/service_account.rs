//! The `ServiceAccount` admission plugin: a pod runs as an account that exists, and finds its token, the cluster's CA
//! certificate and its namespace where clients look for them.

use crate::{
    generate,
    resources::{
        resource_type::ResourceType,
        types::{namespace, service_account},
    },
    store::{Key, Object, Store},
};
use futures::future::BoxFuture;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

const DEFAULT: &str = "default";
const VOLUME: &str = "kube-api-access-";
const PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Lookups of a new namespace's account before a pod is refused, as in Kubernetes.
const TRIES: u32 = 10;
const INTERVAL: Duration = Duration::from_millis(100);

/// Waits for the default account of a new namespace, which a controller creates.
pub(crate) fn await_default(store: Store, namespace: String) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        for _ in 0..TRIES {
            let exists =
                |resource, namespace, name| get(&store, resource, namespace, name).is_some();
            if exists(&service_account::RESOURCE, &namespace, DEFAULT)
                || !exists(&namespace::RESOURCE, "", &namespace)
            {
                return;
            }
            tokio::time::sleep(INTERVAL).await;
        }
    })
}

fn get(store: &Store, resource: &ResourceType, namespace: &str, name: &str) -> Option<Arc<Object>> {
    let key = Key {
        resource: resource.storage_resource(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    store.get(&key)
}

/// Admits a new pod if its account exists, and mounts the account's token.
pub(crate) fn admit(store: &Store, pod: &mut Value) -> Result<(), String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let namespace = text(&pod["metadata"]["namespace"]);
    let account = text(&pod["spec"]["serviceAccountName"]);
    let found = get(store, &service_account::RESOURCE, &namespace, &account).ok_or_else(|| {
        format!(
            "error looking up service account {namespace}/{account}: serviceaccount {account:?} \
             not found"
        )
    })?;
    mount(pod, &found.value, || generate::name(VOLUME));
    Ok(())
}

/// Adds to a pod the image pull secrets and the token of its account.
fn mount(pod: &mut Value, account: &Value, name: impl FnOnce() -> String) {
    let secrets = &account["imagePullSecrets"];
    let spec = &mut pod["spec"];
    let is_empty = |list: &Value| list.as_array().is_none_or(Vec::is_empty);
    if is_empty(&spec["imagePullSecrets"]) && !is_empty(secrets) {
        spec["imagePullSecrets"] = secrets.clone();
    }
    let wanted = |object: &Value| object["automountServiceAccountToken"].as_bool();
    if wanted(spec).or(wanted(account)) == Some(false) {
        return;
    }
    let volumes = spec["volumes"].as_array().into_iter().flatten();
    let existing =
        volumes.filter_map(|volume| volume["name"].as_str()).find(|n| n.starts_with(VOLUME));
    let (volume, is_new) = match existing {
        Some(existing) => (existing.to_owned(), false),
        None => (name(), true),
    };
    let mut needed = false;
    for list in ["initContainers", "containers"] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let Some(container) = container.as_object_mut() else { continue };
            let mounts = container.entry("volumeMounts").or_insert_with(|| json!([]));
            let Some(mounts) = mounts.as_array_mut() else { continue };
            if mounts.iter().all(|mount| mount["mountPath"] != PATH) {
                mounts.push(json!({ "mountPath": PATH, "name": volume, "readOnly": true }));
                needed = true;
            }
        }
    }
    if !(is_new && needed) {
        return;
    }
    let Some(spec) = spec.as_object_mut() else { return };
    let volumes = spec.entry("volumes").or_insert_with(|| json!([]));
    if let Some(volumes) = volumes.as_array_mut() {
        volumes.push(json!({
            "name": volume,
            "projected": {
                "defaultMode": 420,
                "sources": [
                    { "serviceAccountToken": { "expirationSeconds": 3607, "path": "token" } },
                    { "configMap": {
                        "items": [{ "key": "ca.crt", "path": "ca.crt" }],
                        "name": "kube-root-ca.crt",
                    } },
                    { "downwardAPI": { "items": [{
                        "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.namespace" },
                        "path": "namespace",
                    }] } },
                ],
            },
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounted(spec: Value, account: Value) -> Value {
        let mut pod = json!({ "spec": spec });
        mount(&mut pod, &account, || "kube-api-access-x".to_owned());
        pod["spec"].take()
    }

    #[test]
    fn token_is_mounted_unless_pod_or_account_opts_out() {
        let spec = json!({
            "initContainers": [{ "name": "i" }],
            "containers": [
                { "name": "a", "volumeMounts": [{ "name": "v", "mountPath": "/v" }] },
                { "name": "b", "volumeMounts": [{ "name": "own", "mountPath": PATH }] },
            ],
        });
        let all = mounted(spec.clone(), json!({ "imagePullSecrets": [{ "name": "s" }] }));
        let mount = json!({ "mountPath": PATH, "name": "kube-api-access-x", "readOnly": true });
        assert_eq!(all["initContainers"][0]["volumeMounts"], json!([mount]));
        assert_eq!(all["containers"][0]["volumeMounts"][1], mount);
        assert_eq!(all["containers"][1]["volumeMounts"].as_array().unwrap().len(), 1);
        assert_eq!(all["volumes"][0]["projected"]["sources"].as_array().unwrap().len(), 3);
        assert_eq!(all["imagePullSecrets"][0]["name"], "s");

        let no = json!({ "automountServiceAccountToken": false });
        assert_eq!(mounted(spec.clone(), no.clone()), spec);
        let mut wanted = spec.clone();
        wanted["automountServiceAccountToken"] = json!(true);
        assert!(mounted(wanted, no)["volumes"].is_array());
        let mut unwanted = spec.clone();
        unwanted["automountServiceAccountToken"] = json!(false);
        assert_eq!(mounted(unwanted.clone(), json!({})), unwanted);
        let own = json!({ "containers": [spec["containers"][1]] });
        assert_eq!(mounted(own.clone(), json!({})), own);
    }
}
