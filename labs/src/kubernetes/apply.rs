//! Applies manifests as `kubectl apply --server-side` does, with strict validation and adapted to the
//! target cluster.

use super::{
    adapt,
    manifest::{self, Manifest},
    namespace_client::NamespaceClient,
};
use crate::names::FIELD_MANAGER;
use anyhow::{Context as _, anyhow};
use kube::{
    Api,
    api::{DynamicObject, GroupVersionKind, Patch, PatchParams},
    core::TypeMeta,
    discovery::{self, Scope},
};
use lab_environment::Environment;

/// Reads a file of the environment's manifests folder (`lb/app-production.yml`), adapted to its cluster.
///
/// # Errors
/// As [`manifest::read`].
/// Objects that the phases refer to must be in it.
pub(crate) fn manifests(environment: &Environment, file: &str) -> anyhow::Result<Vec<Manifest>> {
    let path = environment.manifests.join(file);
    let mut manifests = manifest::read(&path)?;
    let required = REQUIRED.iter().filter(|(of, _)| *of == file).flat_map(|(_, objects)| *objects);
    for (kind, name) in required {
        if manifests.iter().any(|m| (m.kind(), m.name()) == (*kind, *name)) {
            continue;
        }
        if let Some(other) = manifests.iter().find(|m| m.name() == *name) {
            let why = format!("`{}`, where the lab needs {kind} {name}", other.kind());
            return Err(other.error_at("kind", &why));
        }
        if let Some(other) = manifests.iter().find(|m| m.kind() == *kind) {
            let why = format!("`{}`, where the lab needs {kind} {name}", other.name());
            return Err(other.error_at("metadata.name", &why));
        }
        let why = format!("{}: holds no {kind} {name}, which the lab needs", path.display());
        return Err(manifest::fault(&path, why).into());
    }
    for manifest in &mut manifests {
        adapt::adapt(&mut manifest.object, environment);
    }
    Ok(manifests)
}

const PRODUCTION: (&str, &str) = ("Deployment", "kubeapp-production");
const CANARY: (&str, &str) = ("Deployment", "kubeapp-canary");
const INGRESS: (&str, &str) = ("Ingress", "app-ingress");
const ROUTE: (&str, &str) = ("HTTPRoute", "app-route");

/// The objects, kind and name, that the phases and the docs refer to, by file.
const REQUIRED: &[(&str, &[(&str, &str)])] = &[
    ("lb/app-production.yml", &[PRODUCTION]),
    ("lb/app-canary.yml", &[CANARY]),
    ("lb/app-lb.yml", &[("Service", "app-lb")]),
    ("ingress/app-production.yml", &[PRODUCTION, ("Service", "kubeapp-production-service")]),
    ("ingress/app-canary.yml", &[CANARY, ("Service", "kubeapp-canary-service")]),
    ("ingress/app-ingress-production.yml", &[INGRESS]),
    ("ingress/app-ingress-canary.yml", &[INGRESS]),
    ("ingress/app-ingress-fanout.yml", &[INGRESS]),
    ("ingress/app-ingress-tls.yml", &[INGRESS]),
    ("gateway/gateway.yml", &[("Gateway", "app-gateway")]),
    ("gateway/route-0.yml", &[ROUTE]),
    ("gateway/route-1.yml", &[ROUTE]),
    ("gateway/route-5.yml", &[ROUTE]),
    ("gateway/route-10.yml", &[ROUTE]),
    ("gateway/route-25.yml", &[ROUTE]),
    ("gateway/route-50.yml", &[ROUTE]),
    ("gateway/route-100.yml", &[ROUTE]),
    ("gateway/route-header.yml", &[ROUTE]),
    ("gateway/route-cookie.yml", &[ROUTE]),
    ("gateway/route-mirror.yml", &[ROUTE]),
    ("gateway/route-one-way.yml", &[ROUTE]),
    ("gateway/route-sticky.yml", &[ROUTE]),
];

impl NamespaceClient {
    /// Applies an object and returns the result. Takes over fields of other managers.
    ///
    /// # Errors
    /// A rejection by the API server is reported with file, line, column and field.
    pub(crate) async fn apply(&self, manifest: &Manifest) -> anyhow::Result<DynamicObject> {
        let kind = TypeMeta {
            api_version: manifest.api_version().to_owned(),
            kind: manifest.kind().to_owned(),
        };
        let gvk = GroupVersionKind::try_from(&kind)
            .map_err(|error| manifest.error_at("apiVersion", &error.to_string()))?;
        let (resource, capabilities) = match discovery::pinned_kind(&self.client, &gvk).await {
            Ok(found) => found,
            Err(kube::Error::Discovery(_) | kube::Error::Api(_)) => {
                let why =
                    format!("the cluster does not know {} in {}", kind.kind, kind.api_version);
                return Err(manifest.error_at("kind", &why));
            }
            Err(error) => {
                return Err(error).context("failed to discover the resources of the cluster");
            }
        };
        let api: Api<DynamicObject> = match capabilities.scope {
            Scope::Cluster => Api::all_with(self.client.clone(), &resource),
            Scope::Namespaced => Api::namespaced_with(self.client.clone(), self.name(), &resource),
        };
        let params = PatchParams::apply(FIELD_MANAGER).force().validation_strict();
        match api.patch(manifest.name(), &params, &Patch::Apply(&manifest.object)).await {
            Ok(applied) => Ok(applied),
            Err(kube::Error::Api(status)) => Err(manifest.rejected(&status)),
            Err(error) => Err(anyhow!(error).context(format!(
                "failed to apply {} {} of {}",
                manifest.kind(),
                manifest.name(),
                manifest.file.display()
            ))),
        }
    }

    /// Applies every object of a file, in order.
    ///
    /// # Errors
    /// As [`manifests`] and [`NamespaceClient::apply`]; objects before the rejected one are applied.
    pub(crate) async fn apply_file(
        &self,
        environment: &Environment,
        file: &str,
    ) -> anyhow::Result<()> {
        let manifests = manifests(environment, file)?;
        self.performs(format!("apply -f {file}"));
        for manifest in manifests {
            self.apply(&manifest).await?;
        }
        Ok(())
    }

    /// As [`NamespaceClient::apply_file`], after a change of every object.
    ///
    /// # Errors
    /// As [`NamespaceClient::apply_file`].
    pub(crate) async fn apply_edited(
        &self,
        environment: &Environment,
        file: &str,
        edit: impl Fn(&mut serde_json::Value),
    ) -> anyhow::Result<()> {
        let manifests = manifests(environment, file)?;
        self.performs("apply -f -");
        for mut manifest in manifests {
            edit(&mut manifest.object);
            self.apply(&manifest).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::environment;

    #[test]
    fn repository_manifests_contain_the_expected_objects() {
        let environment = environment();
        for (file, objects) in REQUIRED {
            let found = manifests(&environment, file).unwrap();
            let names: Vec<_> = found.iter().map(|m| (m.kind(), m.name())).collect();
            assert_eq!(names, *objects, "{file}");
            for manifest in &found {
                assert_eq!(manifest.object.pointer("/metadata/namespace"), None, "{file}");
            }
        }
    }

    /// A claim about the pods of one half of the article is then true of the other.
    #[test]
    fn deployments_of_both_halves_are_equal() {
        let environment = environment();
        for file in ["app-production.yml", "app-canary.yml"] {
            let [lb, ingress] = ["lb", "ingress"].map(|half| {
                manifests(&environment, &format!("{half}/{file}")).unwrap().remove(0).object
            });
            assert_eq!(lb, ingress, "{file}");
        }
    }
}
