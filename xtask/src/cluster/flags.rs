//! The flags that describe a cluster, shared by all commands that start or use one.

use crate::failure::Failure;
use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

/// Flags of `lab` and `up`.
#[derive(Args, Clone, Debug, Default, PartialEq)]
pub(crate) struct ClusterFlags {
    /// Pod sandbox of the embedded cluster
    #[arg(long, value_name = "MODE")]
    pub(crate) sandbox: Option<Sandbox>,
    /// Kubernetes version or node image of a new cluster: `newest`, `oldest`, or a name
    #[arg(long)]
    pub(crate) image: Option<String>,
    /// kubeconfig context to use (required with `current`)
    #[arg(long, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// Give load balancers and Ingresses addresses on this machine (with `current`)
    #[arg(long)]
    pub(crate) edge: bool,
    /// Registry to push the images to, `none` if the nodes have them (with `gke` and `current`)
    #[arg(long, value_name = "HOST/PATH")]
    pub(crate) registry: Option<String>,
    /// Credentials for the nodes to pull with: `login`, `none` or a file (with `gke` and `current`)
    #[arg(long, value_name = "SOURCE")]
    pub(crate) pull_secret: Option<String>,
    /// Ingress class to use in phase 5, e.g. `nginx`, `gce`, `gce-internal` (not with `embedded`)
    #[arg(long, value_name = "NAME")]
    pub(crate) ingress_class: Option<String>,
    /// Gateway class to use in phases 6 and 7, e.g. `traefik` [default: the only one of the cluster]
    #[arg(long, value_name = "NAME")]
    pub(crate) gateway_class: Option<String>,
    /// Answer yes to all prompts; required when stdin is not a terminal
    #[arg(long)]
    pub(crate) yes: bool,
    /// Go on where a check of `doctor` finds that something cannot work
    #[arg(long)]
    pub(crate) force: bool,
    /// Flags of `up` alone; empty otherwise.
    #[arg(skip)]
    pub(crate) create: CreateFlags,
}

/// Flags of a cluster that `up` creates.
#[derive(Args, Clone, Debug, Default, PartialEq)]
pub(crate) struct CreateFlags {
    /// Name of the cluster (default `canary-labs`)
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Google Cloud project that is billed (with `gke`)
    #[arg(long, value_name = "ID")]
    pub(crate) project: Option<String>,
    /// Region or zone (with `gke`)
    #[arg(long)]
    pub(crate) location: Option<String>,
    /// Create a Standard cluster instead of Autopilot (with `gke`)
    #[arg(long)]
    pub(crate) standard: bool,
    /// Number of nodes (default 3; with `gke --standard`)
    #[arg(long, value_name = "N")]
    pub(crate) nodes: Option<u32>,
    /// Hours until the cluster is reported as expired (default 4; with `gke`)
    #[arg(long, value_name = "HOURS")]
    pub(crate) ttl: Option<u32>,
}

/// The pod sandbox of the embedded cluster: Linux namespaces, plain processes, or the stronger of the two
/// that is available.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub(crate) enum Sandbox {
    Auto,
    Namespaced,
    Plain,
}

impl Sandbox {
    /// Returns the name that the flag and `kube-embedded` use.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Namespaced => "namespaced",
            Self::Plain => "plain",
        }
    }
}

impl ClusterFlags {
    /// Returns true if nothing is set that a recorded cluster does not remember or may override.
    pub(crate) fn only_overrides(&self) -> bool {
        let overrides = Self {
            edge: self.edge,
            pull_secret: self.pull_secret.clone(),
            ingress_class: self.ingress_class.clone(),
            gateway_class: self.gateway_class.clone(),
            yes: self.yes,
            force: self.force,
            ..Self::default()
        };
        *self == overrides
    }

    /// Rejects flags that have no meaning for the provider `on`, since ignoring them would look like
    /// consent. `supported` returns the flags that a provider supports, for each provider.
    pub(crate) fn check(
        &self,
        on: &str,
        supported: &[(&'static str, &'static [&'static str])],
    ) -> Result<()> {
        for flag in self.set() {
            let providers: Vec<&str> = supported
                .iter()
                .filter(|(_, flags)| flags.contains(&flag))
                .map(|(name, _)| *name)
                .collect();
            if !providers.contains(&on) {
                let providers = providers.join(", ");
                bail!(Failure::Usage(format!(
                    "`{flag}` is not supported with `--on {on}` (only with {providers})"
                )));
            }
        }
        Ok(())
    }

    /// Returns the flags that are set and have no meaning for some provider.
    fn set(&self) -> impl Iterator<Item = &'static str> {
        // Exhaustive, so that a new flag cannot be forgotten here.
        let Self {
            sandbox,
            image,
            context,
            edge,
            registry,
            pull_secret,
            ingress_class,
            gateway_class,
            yes: _,
            force: _,
            create: CreateFlags { name, project, location, standard, nodes, ttl },
        } = self;
        let all = [
            ("--sandbox", sandbox.is_some()),
            ("--image", image.is_some()),
            ("--context", context.is_some()),
            ("--edge", *edge),
            ("--registry", registry.is_some()),
            ("--pull-secret", pull_secret.is_some()),
            ("--ingress-class", ingress_class.is_some()),
            ("--gateway-class", gateway_class.is_some()),
            ("--name", name.is_some()),
            ("--project", project.is_some()),
            ("--location", location.is_some()),
            ("--standard", *standard),
            ("--nodes", nodes.is_some()),
            ("--ttl", ttl.is_some()),
        ];
        all.into_iter().filter(|(_, set)| *set).map(|(flag, _)| flag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_a_provider_does_not_support_are_rejected() {
        let supported: [(_, &[_]); 2] =
            [("embedded", &["--sandbox"]), ("kind", &["--image", "--name"])];
        let image = ClusterFlags { image: Some("oldest".into()), ..ClusterFlags::default() };
        assert!(image.check("kind", &supported).is_ok());
        assert_eq!(
            image.check("embedded", &supported).unwrap_err().to_string(),
            "`--image` is not supported with `--on embedded` (only with kind)"
        );
        let yes = ClusterFlags { yes: true, ..ClusterFlags::default() };
        assert!(yes.check("embedded", &supported).is_ok() && yes.only_overrides());
        assert!(!image.only_overrides());
    }
}
