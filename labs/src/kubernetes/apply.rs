//! Applies manifests as `kubectl apply --server-side` does, with unknown fields refused and images
//! named as the cluster at hand names them.

use super::{
    FIELD_MANAGER, Scope, fit,
    manifest::{self, Manifest},
};
use anyhow::{Context as _, anyhow};
use kube::{
    Api,
    api::{DynamicObject, GroupVersionKind, Patch, PatchParams},
    core::TypeMeta,
    discovery::{self, Scope as KindScope},
};
use lab_environment::Environment;

impl Scope {
    /// Reads a file of the environment's manifests folder (`lb/app-production.yml`), with images and
    /// pull policy as this cluster needs them.
    ///
    /// # Errors
    /// As [`manifest::read`].
    pub fn manifests(environment: &Environment, file: &str) -> anyhow::Result<Vec<Manifest>> {
        let mut manifests = manifest::read(&environment.manifests.join(file))?;
        for manifest in &mut manifests {
            fit::fit(&mut manifest.object, environment);
        }
        Ok(manifests)
    }

    /// Creates the object or changes it to what the manifest says, and returns what the API made of
    /// it. Fields that somebody else manages are taken over.
    ///
    /// # Errors
    /// What the API refuses is shown with file, line, column and field.
    pub async fn apply(&self, manifest: &Manifest) -> anyhow::Result<DynamicObject> {
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
                return Err(error).context("failed to ask the cluster which kinds it knows");
            }
        };
        let api: Api<DynamicObject> = match capabilities.scope {
            KindScope::Cluster => Api::all_with(self.client.clone(), &resource),
            KindScope::Namespaced => {
                Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
            }
        };
        let params = PatchParams::apply(FIELD_MANAGER).force().validation_strict();
        match api.patch(manifest.name(), &params, &Patch::Apply(&manifest.object)).await {
            Ok(applied) => Ok(applied),
            Err(kube::Error::Api(status)) => Err(manifest.refused(&status)),
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
    /// As [`Scope::manifests`] and [`Scope::apply`]; objects before the one refused are applied.
    pub async fn apply_file(&self, environment: &Environment, file: &str) -> anyhow::Result<()> {
        for manifest in Self::manifests(environment, file)? {
            self.apply(&manifest).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::fit::tests::environment;

    /// The manifests of this repository are what the labs and the docs say they are.
    #[test]
    fn our_manifests_can_be_read() {
        let environment = environment();
        let production = ("Deployment", "kubeapp-production");
        let canary = ("Deployment", "kubeapp-canary");
        let ingress = ("Ingress", "app-ingress");
        for (file, objects) in [
            ("lb/app-production.yml", &[production][..]),
            ("lb/app-canary.yml", &[canary]),
            ("lb/app-lb.yml", &[("Service", "app-lb")]),
            (
                "ingress/app-production.yml",
                &[production, ("Service", "kubeapp-production-service")],
            ),
            ("ingress/app-canary.yml", &[canary, ("Service", "kubeapp-canary-service")]),
            ("ingress/app-ingress-production.yml", &[ingress]),
            ("ingress/app-ingress-canary.yml", &[ingress]),
            ("ingress/app-ingress-fanout.yml", &[ingress]),
            ("ingress/app-ingress-tls.yml", &[ingress]),
        ] {
            let manifests = Scope::manifests(&environment, file).unwrap();
            let found: Vec<_> = manifests.iter().map(|m| (m.kind(), m.name())).collect();
            assert_eq!(found, objects, "{file}");
            for manifest in &manifests {
                assert_eq!(manifest.object.pointer("/metadata/namespace"), None, "{file}");
            }
        }
    }

    /// The pods of both halves of the article are the same, so that what is said of one is true of
    /// the other.
    #[test]
    fn both_halves_deploy_the_same() {
        let environment = environment();
        for file in ["app-production.yml", "app-canary.yml"] {
            let [lb, ingress] = ["lb", "ingress"].map(|half| {
                Scope::manifests(&environment, &format!("{half}/{file}")).unwrap().remove(0).object
            });
            assert_eq!(lb, ingress, "{file}");
        }
    }
}
