//! Applies manifests as `kubectl apply --server-side` does, with unknown fields refused and images
//! named as the cluster at hand names them.

use super::{
    FIELD_MANAGER, Scope,
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
use serde_json::Value;

impl Scope {
    /// Reads a file of the environment's manifests folder (`lb/app-production.yml`), with images and
    /// pull policy as this cluster needs them.
    ///
    /// # Errors
    /// As [`manifest::read`].
    pub fn manifests(environment: &Environment, file: &str) -> anyhow::Result<Vec<Manifest>> {
        let mut manifests = manifest::read(&environment.manifests.join(file))?;
        for manifest in &mut manifests {
            fit_images(&mut manifest.object, environment);
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

/// Gives every container whose image the environment knows the name that it has on this cluster, and
/// the pull policy that goes with it.
fn fit_images(object: &mut Value, environment: &Environment) {
    for path in ["/spec/template/spec", "/spec"] {
        for field in ["containers", "initContainers"] {
            let containers = object.pointer_mut(&format!("{path}/{field}"));
            for container in containers.and_then(Value::as_array_mut).into_iter().flatten() {
                let Some(image) = container.get("image").and_then(Value::as_str) else { continue };
                let Some(known) = environment.images.iter().find(|i| i.manifest_name == image)
                else {
                    continue;
                };
                if let Some(container) = container.as_object_mut() {
                    container.insert("image".into(), known.name.clone().into());
                    let policy = environment.pull_policy.clone();
                    container.insert("imagePullPolicy".into(), policy.into());
                }
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use lab_environment::{Image, NearestWrong, Patience};
    use serde_json::json;
    use std::path::PathBuf;

    #[test]
    fn images_are_named_as_the_cluster_names_them() {
        let mut environment = environment();
        environment.images[0].name = "europe-docker.pkg.dev/p/r/app:1.0".into();
        environment.pull_policy = "Always".into();
        let pod = |image: &str, policy: &str| {
            json!({"spec": {"template": {"spec": {"containers": [
                {"name": "kubeapp", "image": image, "imagePullPolicy": policy},
                {"name": "other", "image": "nginx", "imagePullPolicy": "Never"}]}}}})
        };
        let mut object = pod("kubeapp:1.0", "IfNotPresent");
        fit_images(&mut object, &environment);
        assert_eq!(object, pod("europe-docker.pkg.dev/p/r/app:1.0", "Always"));
    }

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

    fn environment() -> Environment {
        let image = |version: &str| Image {
            version: version.into(),
            manifest_name: format!("kubeapp:{version}"),
            name: format!("kubeapp:{version}"),
            archive: PathBuf::new(),
            rebuilt: PathBuf::new(),
            binary: PathBuf::new(),
            build_input: format!("KUBEAPP_VERSION={version}"),
        };
        Environment {
            provider: "test".into(),
            kubeconfig: PathBuf::new(),
            started_in: None,
            manifests: PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests")),
            images: vec![image("1.0"), image("2.0")],
            pull_policy: "IfNotPresent".into(),
            app: PathBuf::new(),
            docker: false,
            patience: Patience { rollout: 1, address: 1, request: 1 },
            nearest_wrong: NearestWrong::NearestReplica,
            absent: vec![],
        }
    }
}
