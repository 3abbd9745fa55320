//! The state of a cluster as text, for the output of a failed test.

use crate::Cluster;
use futures::FutureExt;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt,
    api::{DynamicObject, ListParams, LogParams},
    discovery::{Discovery, Scope, verbs},
};
use serde_json::{Value, json};
use std::{
    fmt::Write,
    panic::{AssertUnwindSafe, resume_unwind},
};

/// The last lines of a container's log that are printed.
const LOG_LINES: i64 = 50;

impl Cluster {
    /// Returns all objects of a namespace as YAML, and the last lines of each container's log. Fields
    /// that say nothing about a failure are left out, and so are the values of Secrets.
    ///
    /// ```
    /// # use kube_embedded::{Cluster, Config};
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cluster = Cluster::start(Config { nodes: 0, ..Config::default() }).await?;
    /// assert!(cluster.dump("default").await.contains("kind: Service"));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn dump(&self, namespace: &str) -> String {
        let mut text = format!("# namespace {namespace}\n");
        if let Err(error) = objects(&self.client(), namespace, &mut text).await {
            let _ = writeln!(text, "# failed to list objects: {error}");
        }
        if let Err(error) = logs(&self.client(), namespace, &mut text).await {
            let _ = writeln!(text, "# failed to list pods: {error}");
        }
        text
    }

    /// Runs a test. If it panics, prints [`Cluster::dump`] of a namespace to standard error first.
    ///
    /// ```should_panic
    /// # use kube_embedded::{Cluster, Config};
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cluster = Cluster::start(Config { nodes: 0, ..Config::default() }).await?;
    /// let test = async { assert_eq!(1 + 1, 3) };
    /// cluster.dump_on_panic("default", test).await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn dump_on_panic<T>(&self, namespace: &str, test: impl Future<Output = T>) -> T {
        match AssertUnwindSafe(test).catch_unwind().await {
            Ok(value) => value,
            Err(panic) => {
                eprintln!("{}", self.dump(namespace).await);
                resume_unwind(panic)
            }
        }
    }
}

async fn objects(client: &Client, namespace: &str, text: &mut String) -> kube::Result<()> {
    let discovery = Discovery::new(client.clone()).run().await?;
    for group in discovery.groups() {
        for (resource, capabilities) in group.recommended_resources() {
            if capabilities.scope != Scope::Namespaced
                || !capabilities.supports_operation(verbs::LIST)
            {
                continue;
            }
            let api: Api<DynamicObject> =
                Api::namespaced_with(client.clone(), namespace, &resource);
            for mut object in api.list(&ListParams::default()).await? {
                object.metadata.managed_fields = None;
                let mut value = serde_json::to_value(&object).unwrap_or_default();
                value["apiVersion"] = json!(resource.api_version);
                value["kind"] = json!(resource.kind);
                redact(&mut value);
                let yaml = serde_saphyr::to_string(&value).unwrap_or_default();
                let _ = writeln!(text, "---\n{}", yaml.trim_end());
            }
        }
    }
    Ok(())
}

/// Replaces the values of a Secret by their size: a dump ends in the log of a CI job.
fn redact(object: &mut Value) {
    if object["kind"] != "Secret" {
        return;
    }
    for value in object["data"].as_object_mut().into_iter().flat_map(|data| data.values_mut()) {
        *value = json!(format!("<{} bytes of base64>", value.as_str().map_or(0, str::len)));
    }
}

async fn logs(client: &Client, namespace: &str, text: &mut String) -> kube::Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    for pod in pods.list(&ListParams::default()).await? {
        let spec = pod.spec.as_ref();
        let init = spec.and_then(|spec| spec.init_containers.as_ref()).into_iter().flatten();
        let containers = init.chain(spec.into_iter().flat_map(|spec| &spec.containers));
        for container in containers {
            let parameters = LogParams {
                container: Some(container.name.clone()),
                tail_lines: Some(LOG_LINES),
                ..LogParams::default()
            };
            let log = pods.logs(&pod.name_any(), &parameters).await;
            let log = log.unwrap_or_else(|error| format!("({error})"));
            let _ = writeln!(
                text,
                "# log of {} {}\n{}",
                pod.name_any(),
                container.name,
                log.trim_end()
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_secrets_are_left_out() {
        let mut secret = json!({ "kind": "Secret", "data": { "password": "czNjcmV0" } });
        redact(&mut secret);
        assert_eq!(secret["data"]["password"], "<8 bytes of base64>");
        let mut map = json!({ "kind": "ConfigMap", "data": { "color": "red" } });
        redact(&mut map);
        assert_eq!(map["data"]["color"], "red");
    }
}
