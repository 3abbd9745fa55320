//! One cluster as it was requested, with all defaults filled in. It is also what is recorded.

use super::flags::ClusterFlags;
use crate::{failure::Failure, images::pull_secret};
use anyhow::{Result, bail};
use lab_environment::IngressClass;
use serde::{Deserialize, Serialize};
use std::path;

/// The default name of a cluster.
pub(crate) const DEFAULT_NAME: &str = "canary-labs";

/// The value `none` of `--registry`, `--pull-secret`, `--ingress-class` and `--gateway-class`.
pub(crate) const NONE: &str = "none";

/// A requested cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Spec {
    pub(crate) name: String,
    /// The pod sandbox of an embedded cluster, if one was requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sandbox: Option<String>,
    /// The node image or Kubernetes version.
    pub(crate) image: Option<String>,
    /// The user's kubeconfig context.
    pub(crate) context: Option<String>,
    /// The registry that images are pushed to; `none` if the nodes have them.
    pub(crate) registry: Option<String>,
    #[serde(alias = "choices")]
    pub(crate) overrides: Overrides,
    pub(crate) project: String,
    pub(crate) location: String,
    pub(crate) standard: bool,
    pub(crate) nodes: u32,
    /// When the cluster is reported as expired, in seconds since 1970.
    pub(crate) expires: Option<u64>,
}

impl Spec {
    /// Creates the spec of a cluster of that name, else of the default name.
    pub(crate) fn named(flags: &ClusterFlags) -> Self {
        let name = flags.create.name.clone().unwrap_or_else(|| DEFAULT_NAME.into());
        Self { name, ..Self::default() }
    }

    /// Applies the overrides among the flags and rejects combinations that make no sense.
    pub(crate) fn with_overrides(self, flags: &ClusterFlags) -> Result<Self> {
        let overrides = Overrides::from_flags(flags).over(&self.overrides);
        overrides.check(self.registry.as_deref())?;
        Ok(Self { overrides, ..self })
    }
}

/// Settings that each run may change on a cluster that exists. `up` records them for the labs that
/// follow; those of a lab apply to that lab alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Overrides {
    /// The source of the credentials that nodes pull with.
    pub(crate) pull_secret: Option<String>,
    pub(crate) ingress_class: Option<String>,
    pub(crate) gateway_class: Option<String>,
    /// True if our edge gives load balancers and Ingresses their addresses.
    pub(crate) edge: bool,
}

/// Ingress classes that GKE honors only as an annotation: it ignores an Ingress that names one of them
/// in `spec.ingressClassName`.
const ANNOTATED_CLASSES: [&str; 2] = ["gce", "gce-internal"];

impl Overrides {
    fn from_flags(flags: &ClusterFlags) -> Self {
        Self {
            pull_secret: flags.pull_secret.as_deref().map(absolute_pull_secret),
            ingress_class: flags.ingress_class.clone(),
            gateway_class: flags.gateway_class.clone(),
            edge: flags.edge,
        }
    }

    /// Merges them over previous ones; `none` unsets a previous value.
    fn over(&self, previous: &Self) -> Self {
        let merge = |new: &Option<String>, old: &Option<String>| {
            let value = new.as_ref().or(old.as_ref());
            value.filter(|value| *value != NONE).cloned()
        };
        Self {
            pull_secret: merge(&self.pull_secret, &previous.pull_secret),
            ingress_class: merge(&self.ingress_class, &previous.ingress_class),
            gateway_class: merge(&self.gateway_class, &previous.gateway_class),
            edge: self.edge || previous.edge,
        }
    }

    /// Returns the Ingress class in the form that its controller honors.
    pub(crate) fn ingress_class(&self) -> IngressClass {
        match &self.ingress_class {
            None => IngressClass::Unnamed,
            Some(name) if ANNOTATED_CLASSES.contains(&&**name) => {
                IngressClass::Annotation(name.clone())
            }
            Some(name) => IngressClass::Field(name.clone()),
        }
    }

    /// Returns the Gateway class: the requested one, else the provider's own.
    pub(crate) fn gateway_class(&self, default: Option<&str>) -> Option<String> {
        self.gateway_class.clone().or_else(|| default.map(Into::into))
    }

    /// Returns a warning for settings that need manual setup.
    pub(crate) fn warning(&self) -> Option<&'static str> {
        (self.ingress_class.as_deref() == Some("gce-internal")).then_some(
            "an internal Ingress needs a proxy-only subnet in the region and is reachable only in its \
             own network: run phase 5 from there, not over the Internet",
        )
    }

    /// Rejects incompatible flag combinations.
    fn check(&self, registry: Option<&str>) -> Result<()> {
        if self.pull_secret.is_some() && registry == Some(NONE) {
            bail!(Failure::Usage(
                "`--pull-secret` needs a registry, and with `--registry none` nothing is pulled; \
                 `--pull-secret none` unsets the one that `up` recorded"
                    .into()
            ));
        }
        let is_name = |name: &String| {
            let allowed =
                |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
            !name.is_empty() && name.chars().all(allowed)
        };
        if let Some(name) = self.gateway_class.as_ref().filter(|name| !is_name(name)) {
            bail!(Failure::Usage(format!(
                "`{name}` is not a valid Gateway class; `kubectl get gatewayclass` lists them"
            )));
        }
        if let Some(name) = self.ingress_class.as_ref().filter(|name| !is_name(name)) {
            bail!(Failure::Usage(format!(
                "`{name}` is not a valid Ingress class; `kubectl get ingressclass` lists them, and \
                 GKE has gce and gce-internal"
            )));
        }
        Ok(())
    }
}

/// Makes the path of a file absolute: the next run may have another working directory.
fn absolute_pull_secret(source: &str) -> String {
    if [pull_secret::LOGIN, NONE].contains(&source) {
        return source.into();
    }
    path::absolute(source).map_or_else(|_| source.into(), |path| path.to_string_lossy().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overrides_take_precedence_and_none_unsets() {
        let overrides = |value: Option<&str>| {
            let (pull_secret, ingress_class) = (value.map(Into::into), value.map(Into::into));
            Overrides { pull_secret, ingress_class, gateway_class: None, edge: false }
        };
        for (new, previous, expected) in [
            (None, None, None),
            (None, Some("login"), Some("login")),
            (Some("/f"), Some("login"), Some("/f")),
            (Some("none"), Some("login"), None),
        ] {
            assert_eq!(overrides(new).over(&overrides(previous)), overrides(expected), "{new:?}");
        }
        let edge = |edge| Overrides { edge, ..Overrides::default() };
        assert!(edge(false).over(&edge(true)).edge && edge(true).over(&edge(false)).edge);
        assert!(!edge(false).over(&edge(false)).edge);
    }

    #[test]
    fn incompatible_overrides_are_usage_errors() {
        let secret = || Overrides { pull_secret: Some("login".into()), ..Overrides::default() };
        let class = |name: &str| Overrides { ingress_class: Some(name.into()), ..secret() };
        for (overrides, registry, valid) in [
            (Overrides::default(), Some("none"), true),
            (secret(), Some("ghcr.io/x"), true),
            // The provider has a registry of its own.
            (secret(), None, true),
            (secret(), Some("none"), false),
            (class("public-2.nginx"), None, true),
            (class("Nginx"), None, false),
            (class(""), None, false),
            (Overrides { gateway_class: Some("traefik".into()), ..secret() }, None, true),
            (Overrides { gateway_class: Some("A b".into()), ..secret() }, None, false),
        ] {
            assert_eq!(overrides.check(registry).is_ok(), valid, "{overrides:?} {registry:?}");
        }
    }

    #[test]
    fn gke_ingress_classes_are_set_as_annotation() {
        let class =
            |name: &str| Overrides { ingress_class: Some(name.into()), ..Overrides::default() };
        assert_eq!(Overrides::default().ingress_class(), IngressClass::Unnamed);
        assert_eq!(class("gce").ingress_class(), IngressClass::Annotation("gce".into()));
        assert_eq!(class("nginx").ingress_class(), IngressClass::Field("nginx".into()));
        let internal = class("gce-internal");
        assert_eq!(internal.ingress_class(), IngressClass::Annotation("gce-internal".into()));
        assert!(internal.warning().is_some() && class("gce").warning().is_none());
    }

    #[test]
    fn pull_secret_file_is_recorded_by_its_absolute_path() {
        let here = std::env::current_dir().unwrap().join("x.json");
        assert_eq!(absolute_pull_secret("x.json"), here.to_string_lossy());
        assert_eq!(absolute_pull_secret("login"), "login");
        assert_eq!(absolute_pull_secret("none"), "none");
    }
}
