//! How an exercise starts: manifests with a planted fault, certificates, and waits in between.

use crate::kubernetes::{
    apply, certificate::Certificate, manifest::Manifest, namespace_client::NamespaceClient,
};
use anyhow::{Context as _, bail, ensure};
use lab_environment::Environment;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// One of: a manifest and the faults planted in it, a certificate, a wait.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Start {
    /// A file next to the exercise, or one of the manifests folder.
    file: Option<String>,
    /// The kind of the object to change; the first object of the file if there is none.
    kind: Option<String>,
    /// New values by JSON pointer; `null` removes the field.
    set: BTreeMap<String, Value>,
    /// The Secret of a new self-signed certificate.
    certificate: Option<String>,
    /// The DNS names in the certificate.
    hosts: Vec<String>,
    /// A Deployment whose rollout is awaited before the next.
    wait: Option<String>,
}

impl Start {
    /// Returns why it is none or more than one of its forms.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let forms = [&self.file, &self.certificate, &self.wait];
        ensure!(
            forms.into_iter().flatten().count() == 1,
            "each of `start` needs one of `file`, `certificate` and `wait`"
        );
        ensure!(self.certificate.is_none() || !self.hosts.is_empty(), "`hosts` is empty");
        Ok(())
    }

    /// Uses the file of that name in the folder of the exercise, if there is one.
    pub(super) fn find_beside(&mut self, folder: &Path) {
        if let Some(file) = &mut self.file {
            let beside = std::path::absolute(folder.join(&*file)).ok();
            if let Some(beside) = beside.filter(|beside| beside.is_file()) {
                *file = beside.display().to_string();
            }
        }
    }

    /// The file that it applies.
    #[cfg(test)]
    pub(super) fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }

    /// Reads the objects of its file, and plants the fault in one of them.
    ///
    /// # Errors
    /// If the file cannot be read, or has no place for the fault.
    pub(super) fn manifests(
        &self,
        environment: &Environment,
        exercise: &str,
    ) -> anyhow::Result<Vec<Manifest>> {
        let Some(file) = &self.file else { return Ok(Vec::new()) };
        let mut manifests = apply::manifests(environment, file)?;
        let wanted = |m: &&mut Manifest| self.kind.as_deref().is_none_or(|kind| m.kind() == kind);
        let Some(found) = manifests.iter_mut().find(wanted) else {
            let kind = self.kind.as_deref().unwrap_or("object");
            bail!("{exercise}: {file} holds no {kind}");
        };
        for (pointer, value) in &self.set {
            let place = || format!("{exercise}: {file} has no place for `{pointer}`");
            let (parent, field) = pointer.rsplit_once('/').with_context(place)?;
            let parent = found.object.pointer_mut(parent).with_context(place)?;
            match (parent, field.parse::<usize>()) {
                (Value::Object(object), _) if value.is_null() => _ = object.remove(field),
                (Value::Object(object), _) => _ = object.insert(field.to_owned(), value.clone()),
                (Value::Array(array), Ok(index)) if index < array.len() => {
                    array[index] = value.clone();
                }
                _ => bail!(place()),
            }
        }
        Ok(manifests)
    }

    /// Applies the manifests, or does what else it stands for.
    pub(super) async fn perform(
        &self,
        namespace: &NamespaceClient,
        manifests: &[Manifest],
    ) -> anyhow::Result<()> {
        for manifest in manifests {
            namespace.apply(manifest).await?;
        }
        if let Some(secret) = &self.certificate {
            let hosts: Vec<&str> = self.hosts.iter().map(String::as_str).collect();
            namespace.apply_certificate(secret, &Certificate::new(&hosts)?).await?;
        }
        if let Some(deployment) = &self.wait {
            namespace.wait_rolled_out(deployment).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::environment;

    #[test]
    fn fault_without_a_place_is_refused() {
        let start = |pointer: &str| Start {
            file: Some("lb/app-lb.yml".into()),
            set: [(pointer.to_owned(), Value::from(1))].into(),
            ..Start::default()
        };
        for pointer in ["/spec/nowhere/x", "/spec/ports/7", "spec"] {
            let error = start(pointer).manifests(&environment(), "01-bad").map(drop).unwrap_err();
            assert!(error.to_string().contains("01-bad: lb/app-lb.yml has no place"), "{error}");
        }
        assert!(start("/spec/ports/0/port").manifests(&environment(), "x").is_ok());
    }
}
