//! minikube: three nodes in a profile of their own, by whatever driver it chooses.

use crate::{
    cluster::{
        Differences,
        outside::{Asked, Provider, Spec, Work},
    },
    images::Image,
    tool::{Fault, Line},
};
use anyhow::Result;
use lab_environment::{Alternative, Timeouts};
use serde_json::Value;
use std::{path::Path, time::Duration};

/// The provider.
pub(crate) struct Minikube;

/// To pull its base image and to start three nodes.
const START: Duration = Duration::from_secs(1200);
const DELETE: Duration = Duration::from_secs(180);
const LOAD: Duration = Duration::from_secs(300);

const FAULTS: &[Fault] = &[
    (
        "DRV_NOT_DETECTED",
        "it finds no driver that works here",
        "start Docker, or install one of https://minikube.sigs.k8s.io/docs/drivers",
    ),
    (
        "PROVIDER_DOCKER_NOT_RUNNING",
        "no Docker engine answers",
        "`sudo systemctl start docker` starts it",
    ),
    ("DRV_AS_ROOT", "its docker driver does not run as root", "run as an ordinary user"),
    ("RSRC_INSUFFICIENT", "this machine is too small for it", "give it more memory or cores"),
    ("RSRC_DOCKER_STORAGE", "the disk is full", "`docker system prune` frees some of it"),
    ("K8S_NEW_UNSUPPORTED", "it is older than that version of Kubernetes", "update minikube"),
    ("K8S_OLD_UNSUPPORTED", "it no longer runs that version of Kubernetes", "name a newer one"),
    ("INET_", "it cannot fetch what it needs", "check the network"),
    ("failed to pull", "its base image cannot be pulled", "check the network"),
];

impl Provider for Minikube {
    fn name(&self) -> &'static str {
        "minikube"
    }

    fn spec(&self, asked: &Asked) -> Result<Spec> {
        // It knows its own newest; the oldest is the one of kind.
        let image = asked.image.as_deref().map(|image| match image {
            "newest" => "latest".to_owned(),
            "oldest" => "v1.34.11".to_owned(),
            other => other.to_owned(),
        });
        let name = asked.name.clone().unwrap_or_else(|| super::NAME.into());
        Ok(Spec { name, image, ..Spec::default() })
    }

    fn differences(&self, _: &Spec) -> Differences {
        Differences {
            patience: Timeouts { rollout: 180, address: 60, request: 10, propagation: 0 },
            nearest_wrong: Alternative::NearestReplica,
            absent: Vec::new(),
        }
    }

    fn needs_edge(&self, _: &Spec) -> bool {
        true
    }

    fn exists(&self, work: &Work) -> Result<bool> {
        // Without any profile it fails, and says so in JSON.
        let ended = work.tools.ask(&Line::new("minikube profile list --output json"), LOAD)?;
        match profiles(&ended.output) {
            Some(profiles) => Ok(profiles.contains(&work.spec.name)),
            None => Err(ended.failure(FAULTS)),
        }
    }

    fn finishes(&self) -> bool {
        true
    }

    fn create(&self, work: &Work) -> Result<()> {
        work.run(&start(work.spec, &work.kubeconfig), START)
    }

    fn kubeconfig(&self, work: &Work) -> Result<()> {
        work.ask(&kubeconfig(work.spec, &work.kubeconfig)).map(drop)
    }

    fn load(&self, work: &Work, images: &[Image]) -> Result<()> {
        for image in images {
            work.run(&load(work.spec, &image.archive), LOAD)?;
        }
        Ok(())
    }

    fn delete(&self, work: &Work) -> Result<()> {
        work.run(&delete(work.spec, &work.kubeconfig), DELETE)
    }

    fn faults(&self) -> &'static [Fault] {
        FAULTS
    }
}

fn profiles(json: &str) -> Option<Vec<String>> {
    let lists: Value = serde_json::from_str(json.trim()).ok()?;
    let names =
        ["valid", "invalid"].iter().filter_map(|list| lists.get(list)?.as_array()).flatten();
    Some(names.filter_map(|profile| profile.get("Name")?.as_str().map(Into::into)).collect())
}

/// The kubeconfig is the one that it finds in the environment; with certificates inside, so that it
/// is whole by itself.
fn start(spec: &Spec, kubeconfig: &Path) -> Line {
    Line::new("minikube start --nodes 3 --container-runtime containerd --embed-certs")
        .args(["--wait=all", "--interactive=false"])
        .flag("--profile", &spec.name)
        .maybe("--kubernetes-version", spec.image.clone())
        .kubeconfig(kubeconfig)
}

fn kubeconfig(spec: &Spec, kubeconfig: &Path) -> Line {
    Line::new("minikube update-context").flag("--profile", &spec.name).kubeconfig(kubeconfig)
}

fn load(spec: &Spec, archive: &Path) -> Line {
    Line::new("minikube image load").args([archive.to_string_lossy()]).flag("--profile", &spec.name)
}

fn delete(spec: &Spec, kubeconfig: &Path) -> Line {
    Line::new("minikube delete").flag("--profile", &spec.name).kubeconfig(kubeconfig)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_line() {
        let asked = Asked { image: Some("v1.34.11".into()), ..Asked::default() };
        let (spec, k) = (Minikube.spec(&asked).unwrap(), Path::new("/k"));
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
        let oldest = Asked { image: Some("oldest".into()), ..Asked::default() };
        assert_eq!(Minikube.spec(&oldest).unwrap().image.as_deref(), Some("v1.34.11"));
        let default = Minikube.spec(&Asked::default()).unwrap();
        assert!(!start(&default, k).to_string().contains("--kubernetes-version"));
    }

    #[test]
    fn profiles_are_read_whether_whole_or_not() {
        let json = r#"{"invalid":[{"Name":"half"}],"valid":[{"Name":"canary-labs"}]}"#;
        assert_eq!(profiles(json).unwrap(), ["canary-labs", "half"]);
        assert_eq!(profiles(r#"{"error":"no profiles","valid":null}"#).unwrap(), [""; 0]);
        assert_eq!(profiles("panic"), None);
    }
}
