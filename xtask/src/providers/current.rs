//! A cluster of the user's own, by kubeconfig context. Only the namespace that the labs created is ever
//! touched, and only after confirmation.

use crate::{
    cluster::{
        flags::ClusterFlags,
        profile::ClusterProfile,
        provider::{Provider, ProviderContext},
        spec::{NONE, Spec},
    },
    doctor::{check::Check, tools},
    exec::{command_line::CommandLine, daemon::Daemon, runner::KnownError},
    failure::Failure,
    images::push,
};
use anyhow::{Context, Result, bail};
use lab_environment::{Alternative, Timeouts};
use serde_json::Value;

/// The provider.
pub(crate) struct Current;

/// The label, and its value, of namespaces that labs created. `labs` sets it.
const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "canary-labs");

const CHECKS: &[Check] = &[Check::new("kubectl", tools::kubectl), Check::new("curl", tools::curl)];

/// The specific ones come first: some messages also contain what only means that there is no connection.
const KNOWN_ERRORS: &[KnownError] = &[
    KnownError::new(
        &["does not exist", "cannot locate context"],
        "context not found",
        "`kubectl config get-contexts` lists them",
    ),
    KnownError::new(
        &["Please enter Username"],
        "the kubeconfig contains no credentials",
        "log in with the tool that created it",
    ),
    KnownError::new(
        &["certificate has expired"],
        "a certificate has expired",
        "renew the certificate of the cluster, unless the clock of this machine is wrong",
    ),
    KnownError::new(
        &["remote error: tls:"],
        "the cluster does not accept the client certificate",
        "it may have expired; get a new kubeconfig from the tool that created it",
    ),
    KnownError::new(
        &["x509:"],
        "the cluster's certificate does not match the kubeconfig",
        "get a new kubeconfig from the tool that created it",
    ),
    KnownError::new(
        &["Unable to connect to the server", "was refused", "context deadline exceeded"],
        "the context is not reachable",
        "check the network, a VPN, or whether the cluster is up",
    ),
    KnownError::new(
        &["Unauthorized"],
        "the cluster does not accept the credentials",
        "log in again with the tool that created the kubeconfig",
    ),
    KnownError::new(
        &["getting credentials: exec"],
        "the credential plugin failed",
        "log in again with the tool that created the kubeconfig",
    ),
    KnownError::new(
        &["Forbidden", "forbidden"],
        "these credentials lack permissions",
        "they need access to namespaces and nodes",
    ),
];

impl Provider for Current {
    fn name(&self) -> &'static str {
        "current"
    }

    fn flags(&self) -> &'static [&'static str] {
        &[
            "--context",
            "--edge",
            "--registry",
            "--pull-secret",
            "--ingress-class",
            "--gateway-class",
        ]
    }

    fn checks(&self) -> &'static [Check] {
        CHECKS
    }

    fn spec(&self, flags: &ClusterFlags) -> Result<Spec> {
        let Some(context) = flags.context.clone() else {
            bail!(Failure::Usage(
                "current requires `--context <name>`; `kubectl config get-contexts` lists them"
                    .into()
            ));
        };
        let Some(registry) = flags.registry.clone() else {
            bail!(Failure::Usage(
                "current requires `--registry <host>/<path>` that the nodes can pull from, or \
                 `--registry none` if they have kubeapp:1.0 and kubeapp:2.0"
                    .into()
            ));
        };
        Ok(Spec {
            name: context.clone(),
            context: Some(context),
            registry: Some(registry),
            ..Spec::default()
        })
    }

    fn profile(&self, spec: &Spec) -> ClusterProfile {
        // Our edge sends traffic to one node; other load balancers may use all of them.
        let propagation = if spec.overrides.edge { 0 } else { 3 };
        ClusterProfile {
            timeouts: Timeouts { rollout: 300, address: 300, request: 15, propagation },
            // The cost of a request there is unknown.
            precision: Alternative::Even,
            unsupported: Vec::new(),
        }
    }

    /// Serves only what labs create.
    fn edge_namespace(&self) -> Option<&'static str> {
        Some("production")
    }

    fn needs_edge(&self, spec: &Spec) -> bool {
        spec.overrides.edge
    }

    /// Returns false so that [`Provider::create`] runs, which reports an unreachable cluster, and so that
    /// it is never deleted.
    fn exists(&self, _: &ProviderContext) -> Result<bool> {
        Ok(false)
    }

    /// Creation writes a kubeconfig and nothing else.
    fn can_resume(&self) -> bool {
        true
    }

    fn create(&self, context: &ProviderContext) -> Result<Option<Daemon>> {
        self.write_kubeconfig(context)?;
        Ok(None)
    }

    fn write_kubeconfig(&self, context: &ProviderContext) -> Result<()> {
        let text = context.query(&view(context.spec))?;
        if context.runner.is_dry_run() { Ok(()) } else { context.save_kubeconfig(&text) }
    }

    fn wait_ready(&self, context: &ProviderContext) -> Result<()> {
        context.wait_for_nodes(&context.kubectl("get --raw /readyz --request-timeout=20s"))
    }

    fn confirm_use(&self, context: &ProviderContext, yes: bool) -> Result<()> {
        let line = context.kubectl(
            "get namespace production --ignore-not-found --output json --request-timeout=20s",
        );
        match owner(&context.query(&line)?)? {
            Owner::None => Ok(()),
            Owner::Labs => context.runner.confirm(
                yes,
                "delete the namespace `production`, which earlier labs left there, and continue",
            ),
            Owner::Other => bail!(
                "the namespace `production` of that cluster was not created by these labs, so they do not \
                 touch it; use another cluster"
            ),
        }
    }

    fn registry(&self, context: &ProviderContext) -> Result<Option<push::Registry>> {
        match context.spec.registry.as_deref() {
            None | Some(NONE) => Ok(None),
            Some(name) => push::Registry::parse(name).map(Some),
        }
    }

    fn delete(&self, _: &ProviderContext) -> Result<()> {
        Ok(())
    }

    fn is_managed(&self) -> bool {
        false
    }

    fn known_errors(&self) -> &'static [KnownError] {
        KNOWN_ERRORS
    }
}

/// Reads the user's own kubeconfig: the only command that does, and it writes nothing.
fn view(spec: &Spec) -> CommandLine {
    CommandLine::new("kubectl config view --raw --flatten --minify")
        .opt_flag("--context", spec.context.clone())
        .sensitive_output()
}

#[derive(Debug, PartialEq)]
enum Owner {
    /// The namespace does not exist.
    None,
    Labs,
    Other,
}

fn owner(namespace: &str) -> Result<Owner> {
    if namespace.trim().is_empty() {
        return Ok(Owner::None);
    }
    let namespace: Value =
        serde_json::from_str(namespace).context("failed to parse the namespace from kubectl")?;
    let (key, value) = MANAGED_BY;
    let by = namespace.pointer("/metadata/labels").and_then(|labels| labels.get(key)?.as_str());
    Ok(if by == Some(value) { Owner::Labs } else { Owner::Other })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_and_registry_are_required() {
        let spec = |context: Option<&str>, registry: Option<&str>| {
            let (context, registry) = (context.map(Into::into), registry.map(Into::into));
            Current.spec(&ClusterFlags { context, registry, ..ClusterFlags::default() })
        };
        for (wrong, part) in [
            (spec(None, Some("none")), "--context <name>"),
            (spec(Some("c"), None), "--registry <host>/<path>"),
        ] {
            let error = wrong.unwrap_err();
            assert!(matches!(error.downcast_ref(), Some(Failure::Usage(_))));
            assert!(error.to_string().contains(part), "{error}");
        }
        let spec = spec(Some("my context"), Some("none")).unwrap();
        assert_eq!(
            view(&spec).to_string(),
            "kubectl config view --raw --flatten --minify --context 'my context'"
        );
    }

    #[test]
    fn namespace_owner_is_read_from_the_label() {
        for (json, expected) in [
            ("\n", Owner::None),
            (r#"{"metadata":{"name":"production"}}"#, Owner::Other),
            (
                r#"{"metadata":{"labels":{"app.kubernetes.io/managed-by":"canary-labs"}}}"#,
                Owner::Labs,
            ),
            (r#"{"metadata":{"labels":{"app.kubernetes.io/managed-by":"helm"}}}"#, Owner::Other),
        ] {
            assert_eq!(owner(json).unwrap(), expected, "{json}");
        }
        assert!(owner("no").is_err());
    }
}
