//! A cluster of the user's own, by the context that the user names. Only the namespace that the labs
//! made themselves is ever touched, and that not unasked.

use crate::{
    cluster::{
        Differences,
        outside::{Asked, Provider, Spec, Work},
    },
    failure::Failure,
    images::{Image, push},
    tool::{Fault, Line},
};
use anyhow::{Context, Result, bail};
use lab_environment::{Alternative, Timeouts};
use serde_json::Value;

/// The provider.
pub(crate) struct Current;

/// Label of what labs made, and its value. `labs` writes it.
const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "canary-labs");

const FAULTS: &[Fault] = &[
    ("does not exist", "there is no such context", "`kubectl config get-contexts` lists them"),
    (
        "cannot locate context",
        "there is no such context",
        "`kubectl config get-contexts` lists them",
    ),
    (
        "Please enter Username",
        "the kubeconfig holds no credentials",
        "log in, with whatever made that kubeconfig",
    ),
    // Before what only says that there was no connection.
    (
        "certificate has expired",
        "a certificate has expired",
        "the cluster's has to be renewed, unless this machine's clock is wrong",
    ),
    (
        "remote error: tls:",
        "the cluster does not accept the client certificate",
        "it may have expired: get the kubeconfig anew, from whatever made it",
    ),
    (
        "x509:",
        "the cluster's certificate is not the one that the kubeconfig trusts",
        "get the kubeconfig anew, from whatever made it",
    ),
    (
        "Unable to connect to the server",
        "the context is not reachable",
        "check the network, a VPN, or whether the cluster is up",
    ),
    (
        "was refused",
        "the context is not reachable",
        "check the network, a VPN, or whether the cluster is up",
    ),
    (
        "context deadline exceeded",
        "the context is not reachable",
        "check the network, a VPN, or whether the cluster is up",
    ),
    (
        "Unauthorized",
        "the cluster does not accept the credentials",
        "log in again, with whatever made that kubeconfig",
    ),
    (
        "getting credentials: exec",
        "the credentials cannot be had",
        "log in again, with whatever made that kubeconfig",
    ),
    ("Forbidden", "these credentials may not do that", "ask for rights on namespaces and nodes"),
    ("forbidden", "these credentials may not do that", "ask for rights on namespaces and nodes"),
];

impl Provider for Current {
    fn name(&self) -> &'static str {
        "current"
    }

    fn spec(&self, asked: &Asked) -> Result<Spec> {
        let Some(context) = asked.context.clone() else {
            bail!(Failure::Usage(
                "which context? `--context <name>`; none is used that is not named \
                 (`kubectl config get-contexts` lists them)"
                    .into()
            ));
        };
        let Some(registry) = asked.registry.clone() else {
            bail!(Failure::Usage(
                "which registry can the nodes pull from? `--registry <host>/<path>` pushes there; \
                 `--registry none` if they have kubeapp:1.0 and kubeapp:2.0 already"
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

    fn differences(&self, spec: &Spec) -> Differences {
        // Our edge enters by one node; whatever else there is may enter by all of them.
        let propagation = if spec.choices.edge { 0 } else { 3 };
        Differences {
            patience: Timeouts { rollout: 300, address: 300, request: 15, propagation },
            // Nobody knows what a request costs there.
            nearest_wrong: Alternative::Even,
            absent: Vec::new(),
        }
    }

    /// What is in others is not ours to serve.
    fn edge_serves(&self) -> Option<&'static str> {
        Some("production")
    }

    fn needs_edge(&self, spec: &Spec) -> bool {
        spec.choices.edge
    }

    /// It is there, or else `create` says why not; and it is nobody's to remove.
    fn exists(&self, _: &Work) -> Result<bool> {
        Ok(false)
    }

    /// There is nothing to remove first.
    fn finishes(&self) -> bool {
        true
    }

    fn create(&self, work: &Work) -> Result<()> {
        self.kubeconfig(work)
    }

    fn kubeconfig(&self, work: &Work) -> Result<()> {
        let text = work.ask(&view(work.spec))?;
        if work.tools.is_dry() { Ok(()) } else { work.write_kubeconfig(&text) }
    }

    fn ready(&self, work: &Work) -> Line {
        work.kubectl("get --raw /readyz --request-timeout=20s")
    }

    fn consent(&self, work: &Work, yes: bool) -> Result<()> {
        let line = work.kubectl(
            "get namespace production --ignore-not-found --output json --request-timeout=20s",
        );
        match owner(&work.ask(&line)?)? {
            Owner::Nobody => Ok(()),
            Owner::Labs => work.tools.consent(
                yes,
                "delete the namespace `production`, which earlier labs have left there, and go on",
            ),
            Owner::Somebody => bail!(
                "the namespace `production` of that cluster was not made by these labs, so they \
                 leave it alone; use another cluster"
            ),
        }
    }

    fn registry(&self, work: &Work) -> Result<Option<push::Registry>> {
        match work.spec.registry.as_deref() {
            None | Some(super::NONE) => Ok(None),
            Some(name) => push::Registry::of(name).map(Some),
        }
    }

    fn load(&self, _: &Work, _: &[Image]) -> Result<()> {
        Ok(())
    }

    fn delete(&self, _: &Work) -> Result<()> {
        Ok(())
    }

    fn is_made_here(&self) -> bool {
        false
    }

    fn faults(&self) -> &'static [Fault] {
        FAULTS
    }
}

/// The one command that reads the user's own kubeconfig, and it writes nothing.
fn view(spec: &Spec) -> Line {
    Line::new("kubectl config view --raw --flatten --minify")
        .maybe("--context", spec.context.clone())
        .answering_in_private()
}

#[derive(Debug, PartialEq)]
enum Owner {
    Nobody,
    Labs,
    Somebody,
}

fn owner(namespace: &str) -> Result<Owner> {
    if namespace.trim().is_empty() {
        return Ok(Owner::Nobody);
    }
    let namespace: Value =
        serde_json::from_str(namespace).context("kubectl's namespace is no JSON")?;
    let (key, value) = MANAGED_BY;
    let by = namespace.pointer("/metadata/labels").and_then(|labels| labels.get(key)?.as_str());
    Ok(if by == Some(value) { Owner::Labs } else { Owner::Somebody })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_used_that_was_not_named() {
        let asked = |context: Option<&str>, registry: Option<&str>| {
            let (context, registry) = (context.map(Into::into), registry.map(Into::into));
            Current.spec(&Asked { context, registry, ..Asked::default() })
        };
        for (wrong, part) in [
            (asked(None, Some("none")), "which context?"),
            (asked(Some("c"), None), "which registry"),
        ] {
            let error = wrong.unwrap_err();
            assert!(matches!(error.downcast_ref(), Some(Failure::Usage(_))));
            assert!(error.to_string().contains(part), "{error}");
        }
        let spec = asked(Some("my context"), Some("none")).unwrap();
        assert_eq!(
            view(&spec).to_string(),
            "kubectl config view --raw --flatten --minify --context 'my context'"
        );
    }

    #[test]
    fn the_labels_tell_whose_a_namespace_is() {
        for (json, expected) in [
            ("\n", Owner::Nobody),
            (r#"{"metadata":{"name":"production"}}"#, Owner::Somebody),
            (
                r#"{"metadata":{"labels":{"app.kubernetes.io/managed-by":"canary-labs"}}}"#,
                Owner::Labs,
            ),
            (r#"{"metadata":{"labels":{"app.kubernetes.io/managed-by":"helm"}}}"#, Owner::Somebody),
        ] {
            assert_eq!(owner(json).unwrap(), expected, "{json}");
        }
        assert!(owner("no").is_err());
    }
}
