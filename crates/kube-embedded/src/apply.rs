//! Applies manifests to a cluster, as `kubectl apply --server-side` does.

use crate::Cluster;
use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams},
    core::GroupVersionKind,
    discovery::{Scope, oneshot::pinned_kind},
};
use serde_json::Value;

const FIELD_MANAGER: &str = "kube-embedded";

/// An error that ends [`Cluster::apply`]. Objects before the named one are applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// The text is not YAML, or not of objects.
    #[error("failed to parse the manifests: {0}")]
    Parse(String),
    /// The API server does not serve the kind of an object, or rejects the object.
    #[error("failed to apply {object}: {source}")]
    Rejected {
        /// Kind and name of the object, such as `Deployment web`.
        object: String,
        /// The error of the API server.
        source: Box<kube::Error>,
    },
}

impl Cluster {
    /// Applies the objects of a YAML or JSON text, one after the other, with server-side apply. Documents
    /// are separated by `---`, and a `List` stands for its items. Objects without a namespace go into
    /// `default`. A custom resource may follow its definition.
    ///
    /// ```
    /// # use kube_embedded::{Cluster, Config};
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cluster = Cluster::start(Config { nodes: 0, ..Config::default() }).await?;
    /// let applied = cluster
    ///     .apply(
    ///         "
    /// apiVersion: v1
    /// kind: Namespace
    /// metadata: { name: shop }
    /// ---
    /// apiVersion: v1
    /// kind: ConfigMap
    /// metadata: { name: settings, namespace: shop }
    /// data: { color: red }
    /// ",
    ///     )
    ///     .await?;
    /// assert_eq!(applied.len(), 2);
    /// assert_eq!(applied[1].data["data"]["color"], "red");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns [`ApplyError::Parse`] before anything is applied, and otherwise the first rejection.
    pub async fn apply(&self, manifests: &str) -> Result<Vec<DynamicObject>, ApplyError> {
        let client = self.client();
        let mut applied = Vec::new();
        for object in parse(manifests)? {
            let types = object.types.as_ref();
            let kind = types.map(|types| types.kind.as_str()).unwrap_or_default();
            let name = object.metadata.name.as_deref().unwrap_or_default();
            let named = format!("{kind} {name}");
            let result = apply(&client, object).await;
            applied.push(result.map_err(|source| ApplyError::Rejected {
                object: named,
                source: Box::new(source),
            })?);
        }
        Ok(applied)
    }
}

async fn apply(client: &Client, object: DynamicObject) -> kube::Result<DynamicObject> {
    let (types, name) = (object.types.clone().unwrap_or_default(), object.metadata.name.clone());
    let (group, version) = types.api_version.rsplit_once('/').unwrap_or(("", &types.api_version));
    let kind = GroupVersionKind::gvk(group, version, &types.kind);
    let (resource, capabilities) = pinned_kind(client, &kind).await?;
    let namespace = object.metadata.namespace.as_deref().unwrap_or("default");
    let api: Api<DynamicObject> = match capabilities.scope {
        Scope::Cluster => Api::all_with(client.clone(), &resource),
        Scope::Namespaced => Api::namespaced_with(client.clone(), namespace, &resource),
    };
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    api.patch(&name.unwrap_or_default(), &parameters, &Patch::Apply(&object)).await
}

/// Parses all documents, and replaces lists by their items.
fn parse(manifests: &str) -> Result<Vec<DynamicObject>, ApplyError> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(manifests)
        .map_err(|error| ApplyError::Parse(error.to_string()))?;
    let mut objects = Vec::new();
    for (number, document) in documents.into_iter().filter(|d| !d.is_null()).enumerate() {
        let items = match document {
            Value::Object(mut list) if list.get("kind").is_some_and(|kind| kind == "List") => {
                match list.remove("items") {
                    Some(Value::Array(items)) => items,
                    _ => Vec::new(),
                }
            }
            document => vec![document],
        };
        for item in items {
            objects.push(object(item).map_err(|reason| {
                ApplyError::Parse(format!("document {}: {reason}", number + 1))
            })?);
        }
    }
    Ok(objects)
}

fn object(value: Value) -> Result<DynamicObject, String> {
    for pointer in ["/apiVersion", "/kind", "/metadata/name"] {
        if value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().is_empty() {
            return Err(format!("{} is missing", pointer[1..].replace('/', ".")));
        }
    }
    serde_json::from_value(value).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_and_lists_become_objects() {
        let text = "---\napiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Secret, metadata: {name: a}}\n\
                    ---\n---\n{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {\"name\": \"b\"}}\n";
        let names: Vec<_> =
            parse(text).unwrap().into_iter().filter_map(|o| o.metadata.name).collect();
        assert_eq!(names, ["a", "b"]);
    }

    #[test]
    fn what_is_no_object_is_named() {
        for (text, expected) in [
            ("a: [", "failed to parse the manifests"),
            ("kind: Pod", "document 1: apiVersion is missing"),
            (
                "{apiVersion: v1, kind: Pod, metadata: {name: a}}\n---\napiVersion: v1\nkind: Pod",
                "document 2: metadata.name is missing",
            ),
            ("- 1", "document 1: apiVersion is missing"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
