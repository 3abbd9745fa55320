//! The pull secret for a private registry: one Secret in the labs' namespace, deleted together with it.
//! Its content is never printed, not even when it is invalid.

use crate::names::MANAGED_BY;
use anyhow::{Context as _, ensure};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use std::path::Path;

/// The name of the Secret.
pub(crate) const NAME: &str = "kubeapp-registry";
/// The only key of a Secret of this type.
const KEY: &str = ".dockerconfigjson";

/// Reads a Docker `config.json`, as `docker login` writes it, into a Secret.
pub(crate) fn read(file: &Path) -> anyhow::Result<Secret> {
    let text = std::fs::read(file)
        .with_context(|| format!("failed to read the registry's credentials {}", file.display()))?;
    let config = serde_json::from_slice::<serde_json::Value>(&text).unwrap_or_default();
    ensure!(
        config.get("auths").is_some_and(serde_json::Value::is_object),
        "{} holds no registry's credentials, as `docker login` writes them below `auths`",
        file.display()
    );
    let (key, value) = MANAGED_BY;
    let mut secret = Secret::default();
    secret.metadata.name = Some(NAME.to_owned());
    secret.metadata.labels = Some([(key.to_owned(), value.to_owned())].into());
    secret.type_ = Some("kubernetes.io/dockerconfigjson".to_owned());
    secret.data = Some([(KEY.to_owned(), ByteString(text))].into());
    Ok(secret)
}
