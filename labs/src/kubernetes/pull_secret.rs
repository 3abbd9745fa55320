//! What nodes need to pull from a registry that lets not everybody in: one Secret in the labs'
//! namespace, which goes with it. What is in it is never told, not even when it is wrong.

use crate::namespace::MANAGED_BY;
use anyhow::{Context as _, ensure};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use std::path::Path;

/// What the Secret is called.
pub const NAME: &str = "kubeapp-registry";
/// The one key that such a Secret has.
const KEY: &str = ".dockerconfigjson";

/// Makes the Secret of a file as `docker login` writes it.
pub(crate) fn read(file: &Path) -> anyhow::Result<Secret> {
    let text = std::fs::read(file)
        .with_context(|| format!("reading the registry's credentials {}", file.display()))?;
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
