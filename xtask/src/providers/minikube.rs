//! minikube: three nodes in a profile of their own, with the driver that it chooses itself.

use crate::{
    cluster::{
        flags::ClusterFlags,
        profile::ClusterProfile,
        provider::{Provider, ProviderContext, VersionPins},
        spec::Spec,
    },
    doctor::{
        check::{Check, CheckContext, Finding},
        engine, tools,
    },
    exec::{command_line::CommandLine, daemon::Daemon, runner::KnownError},
    images::Image,
};
use anyhow::Result;
use lab_environment::{Alternative, Timeouts};
use serde_json::Value;
use std::{path::Path, time::Duration};

/// The provider.
pub(crate) struct Minikube;

/// minikube knows its own newest version; the oldest is the one of kind.
const VERSIONS: VersionPins = VersionPins { newest: "latest", oldest: "v1.34.11" };

const CHECKS: &[Check] = &[
    Check::new("minikube", check_version),
    Check::new("inotify", engine::inotify),
    Check::new("connections", engine::connections),
    Check::new("kubectl", tools::kubectl),
];

/// Time to pull its base image and to start three nodes.
const START: Duration = Duration::from_secs(1200);
const DELETE: Duration = Duration::from_secs(180);
const LOAD: Duration = Duration::from_secs(300);

const KNOWN_ERRORS: &[KnownError] = &[
    KnownError::new(
        &["DRV_NOT_DETECTED"],
        "no driver works on this machine",
        "start Docker, or install one of https://minikube.sigs.k8s.io/docs/drivers",
    ),
    KnownError::new(
        &["PROVIDER_DOCKER_NOT_RUNNING"],
        "the Docker engine does not respond",
        "`sudo systemctl start docker` starts it",
    ),
    KnownError::new(
        &["DRV_AS_ROOT"],
        "the docker driver does not run as root",
        "run as an ordinary user",
    ),
    KnownError::new(
        &["RSRC_INSUFFICIENT"],
        "this machine has too little memory or too few cores",
        "give it more",
    ),
    KnownError::new(
        &["RSRC_DOCKER_STORAGE"],
        "the disk is full",
        "`docker system prune` frees some of it",
    ),
    KnownError::new(
        &["K8S_NEW_UNSUPPORTED"],
        "this minikube does not support that version of Kubernetes yet",
        "update minikube",
    ),
    KnownError::new(
        &["K8S_OLD_UNSUPPORTED"],
        "this minikube no longer supports that version of Kubernetes",
        "use a newer one",
    ),
    KnownError::new(&["INET_"], "a download failed", "check the network"),
    KnownError::new(&["failed to pull"], "the base image cannot be pulled", "check the network"),
];

impl Provider for Minikube {
    fn name(&self) -> &'static str {
        "minikube"
    }

    fn flags(&self) -> &'static [&'static str] {
        &["--name", "--image", "--ingress-class", "--gateway-class"]
    }

    fn checks(&self) -> &'static [Check] {
        CHECKS
    }

    fn spec(&self, flags: &ClusterFlags) -> Result<Spec> {
        let image = flags.image.as_deref().map(|image| VERSIONS.resolve(image).to_owned());
        Ok(Spec { image, ..Spec::named(flags) })
    }

    fn profile(&self, _: &Spec) -> ClusterProfile {
        ClusterProfile {
            timeouts: Timeouts { rollout: 180, address: 60, request: 10, propagation: 0 },
            precision: Alternative::NearestReplica,
            unsupported: Vec::new(),
        }
    }

    fn needs_edge(&self, _: &Spec) -> bool {
        true
    }

    fn exists(&self, context: &ProviderContext) -> Result<bool> {
        // Without any profile the command fails and prints JSON all the same.
        let output =
            context.runner.query(&CommandLine::new("minikube profile list --output json"), LOAD)?;
        match profiles(&output.stdout) {
            Some(profiles) => Ok(profiles.contains(&context.spec.name)),
            None => Err(output.error(KNOWN_ERRORS)),
        }
    }

    fn can_resume(&self) -> bool {
        true
    }

    fn create(&self, context: &ProviderContext) -> Result<Option<Daemon>> {
        context.run(&start(context.spec, &context.kubeconfig), START)?;
        Ok(None)
    }

    fn write_kubeconfig(&self, context: &ProviderContext) -> Result<()> {
        context.query(&kubeconfig(context.spec, &context.kubeconfig)).map(drop)
    }

    fn load_images(&self, context: &ProviderContext, images: &[Image]) -> Result<()> {
        for image in images {
            context.run(&load(context.spec, &image.archive), LOAD)?;
        }
        Ok(())
    }

    fn delete(&self, context: &ProviderContext) -> Result<()> {
        context.run(&delete(context.spec, &context.kubeconfig), DELETE)
    }

    fn known_errors(&self) -> &'static [KnownError] {
        KNOWN_ERRORS
    }
}

/// Checks that minikube is installed.
fn check_version(context: &CheckContext) -> Finding {
    tools::version(context, "minikube", &["version", "--short"])
}

/// Parses the names of all profiles; `None` if the output is not JSON.
fn profiles(json: &str) -> Option<Vec<String>> {
    let lists: Value = serde_json::from_str(json.trim()).ok()?;
    let names =
        ["valid", "invalid"].iter().filter_map(|list| lists.get(list)?.as_array()).flatten();
    Some(names.filter_map(|profile| profile.get("Name")?.as_str().map(Into::into)).collect())
}

/// Starts the nodes. The kubeconfig comes from the environment and embeds its certificates, so that it is
/// self-contained.
fn start(spec: &Spec, kubeconfig: &Path) -> CommandLine {
    CommandLine::new("minikube start --nodes 3 --container-runtime containerd --embed-certs")
        .args(["--wait=all", "--interactive=false"])
        .flag("--profile", &spec.name)
        .opt_flag("--kubernetes-version", spec.image.clone())
        .kubeconfig(kubeconfig)
}

fn kubeconfig(spec: &Spec, kubeconfig: &Path) -> CommandLine {
    CommandLine::new("minikube update-context").flag("--profile", &spec.name).kubeconfig(kubeconfig)
}

fn load(spec: &Spec, archive: &Path) -> CommandLine {
    CommandLine::new("minikube image load")
        .args([archive.to_string_lossy()])
        .flag("--profile", &spec.name)
}

fn delete(spec: &Spec, kubeconfig: &Path) -> CommandLine {
    CommandLine::new("minikube delete").flag("--profile", &spec.name).kubeconfig(kubeconfig)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_are_complete() {
        let flags = ClusterFlags { image: Some("v1.34.11".into()), ..ClusterFlags::default() };
        let (spec, k) = (Minikube.spec(&flags).unwrap(), Path::new("/k"));
        for (line, expected) in [
            (
                start(&spec, k),
                "KUBECONFIG=/k minikube start --nodes 3 --container-runtime containerd \
                 --embed-certs --wait=all --interactive=false --profile canary-labs \
                 --kubernetes-version v1.34.11",
            ),
            (kubeconfig(&spec, k), "KUBECONFIG=/k minikube update-context --profile canary-labs"),
            (load(&spec, Path::new("/1.tar")), "minikube image load /1.tar --profile canary-labs"),
            (delete(&spec, k), "KUBECONFIG=/k minikube delete --profile canary-labs"),
        ] {
            assert_eq!(line.to_string(), expected);
        }
        let oldest = ClusterFlags { image: Some("oldest".into()), ..ClusterFlags::default() };
        assert_eq!(Minikube.spec(&oldest).unwrap().image.as_deref(), Some("v1.34.11"));
        let default = Minikube.spec(&ClusterFlags::default()).unwrap();
        assert!(!start(&default, k).to_string().contains("--kubernetes-version"));
    }

    #[test]
    fn valid_and_invalid_profiles_are_parsed() {
        let json = r#"{"invalid":[{"Name":"half"}],"valid":[{"Name":"canary-labs"}]}"#;
        assert_eq!(profiles(json).unwrap(), ["canary-labs", "half"]);
        assert_eq!(profiles(r#"{"error":"no profiles","valid":null}"#).unwrap(), [""; 0]);
        assert_eq!(profiles("panic"), None);
    }
}
