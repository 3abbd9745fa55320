//! kind: Kubernetes nodes as Docker containers, one control plane and three workers.

use crate::{
    cluster::{
        Differences,
        outside::{Asked, Provider, Spec, Work},
    },
    images::Image,
    tool::{Fault, Line},
};
use anyhow::{Context, Result};
use lab_environment::{NearestWrong, Patience};
use std::{fs, path::Path, time::Duration};

/// The provider.
pub(crate) struct Kind;

/// Node images that the release notes of kind v0.33.0 list: newest and oldest. An image belongs to
/// the release that built it, so it is pinned by digest.
const NEWEST: &str =
    "kindest/node:v1.37.0@sha256:a1ed56cfb0e7b93589bdf97c8cd566405a265939e3620fc4f5de89adff580ae5";
/// See [`NEWEST`]. It is also the one that runs where the kernel has cgroups v1: from 1.35 on a
/// kubelet refuses to.
const OLDEST: &str =
    "kindest/node:v1.34.11@sha256:44e222ee2132dab25ff87301682f89eb82c7880ea3a1bf543bfe9708fd08d67d";

/// To pull a node image of a gigabyte and to start four nodes.
const CREATE: Duration = Duration::from_secs(900);
const DELETE: Duration = Duration::from_secs(120);
const LOAD: Duration = Duration::from_secs(180);

const FAULTS: &[Fault] = &[
    (
        "failed to pull image",
        "the node image cannot be pulled",
        "check the network, or name one that the engine has with `--image`",
    ),
    (
        "node(s) already exist for a cluster",
        "the name of the cluster is taken",
        "`--name <another>` makes one beside it",
    ),
    (
        "no nodes found for cluster",
        "the cluster is gone",
        "`cargo xtask down --on kind`, then `up` again",
    ),
    (
        "executable file not found in $PATH",
        "it does not find `docker`",
        "install Docker's command line: https://docs.docker.com/engine/install",
    ),
    (
        "too many open files",
        "the nodes run out of inotify instances",
        "`sudo sysctl fs.inotify.max_user_watches=524288 fs.inotify.max_user_instances=512`",
    ),
    (
        "could not find a log line that matches",
        "a node does not start",
        "`cargo xtask doctor --on kind` looks for the reasons; with cgroups v1, `--image oldest`",
    ),
    (
        "port is already allocated",
        "a port of the cluster is taken",
        "run it again: kind chooses another",
    ),
];

impl Provider for Kind {
    fn name(&self) -> &'static str {
        "kind"
    }

    fn spec(&self, asked: &Asked) -> Result<Spec> {
        let image = match asked.image.as_deref() {
            None | Some("newest") => NEWEST,
            Some("oldest") => OLDEST,
            Some(other) => other,
        };
        let name = asked.name.clone().unwrap_or_else(|| super::NAME.into());
        Ok(Spec { name, image: Some(image.into()), ..Spec::default() })
    }

    fn differences(&self, _: &Spec) -> Differences {
        Differences {
            patience: Patience { rollout: 180, address: 60, request: 10, propagation: 0 },
            nearest_wrong: NearestWrong::NearestReplica,
            absent: Vec::new(),
        }
    }

    fn lacks(&self) -> Option<&'static str> {
        Some(
            "it gives load balancers and Ingresses no addresses; from phase 2 on labs need something \
             that does, such as cloud-provider-kind",
        )
    }

    fn exists(&self, work: &Work) -> Result<bool> {
        let clusters = work.ask(&Line::new("kind get clusters"))?;
        Ok(clusters.lines().any(|line| line.trim() == work.spec.name))
    }

    fn create(&self, work: &Work) -> Result<()> {
        let file = work.folder.join("kind.yaml");
        if !work.tools.is_dry() {
            fs::write(&file, config())
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        work.run(&create(work.spec, &file, &work.kubeconfig), CREATE)
    }

    fn kubeconfig(&self, work: &Work) -> Result<()> {
        work.ask(&kubeconfig(work.spec, &work.kubeconfig)).map(drop)
    }

    fn load(&self, work: &Work, images: &[Image]) -> Result<()> {
        let archives: Vec<&Path> = images.iter().map(|image| image.archive.as_path()).collect();
        work.run(&load(work.spec, &archives), LOAD)
    }

    fn delete(&self, work: &Work) -> Result<()> {
        work.run(&delete(work.spec, &work.kubeconfig), DELETE)
    }

    fn faults(&self) -> &'static [Fault] {
        FAULTS
    }
}

/// Four nodes. Nothing is published: the host reaches the nodes' own addresses, on Linux.
fn config() -> &'static str {
    "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nnodes:\n\
     - role: control-plane\n- role: worker\n- role: worker\n- role: worker\n"
}

fn create(spec: &Spec, config: &Path, kubeconfig: &Path) -> Line {
    Line::new("kind create cluster")
        .flag("--name", &spec.name)
        .maybe("--image", spec.image.clone())
        .path("--config", config)
        .path("--kubeconfig", kubeconfig)
        .flag("--wait", "180s")
}

fn kubeconfig(spec: &Spec, kubeconfig: &Path) -> Line {
    Line::new("kind export kubeconfig").flag("--name", &spec.name).path("--kubeconfig", kubeconfig)
}

/// Never `docker-image`: with Docker's containerd image store that fails (kind#3795).
fn load(spec: &Spec, archives: &[&Path]) -> Line {
    let archives = archives.iter().map(|path| path.to_string_lossy());
    Line::new("kind load image-archive").args(archives).flag("--name", &spec.name)
}

fn delete(spec: &Spec, kubeconfig: &Path) -> Line {
    Line::new("kind delete cluster").flag("--name", &spec.name).path("--kubeconfig", kubeconfig)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_line() {
        let asked = |image: Option<&str>| {
            let asked = Asked { image: image.map(Into::into), ..Asked::default() };
            Kind.spec(&asked).unwrap()
        };
        let (newest, oldest) = (asked(None), asked(Some("oldest")));
        let (k, f) = (Path::new("/h/kubeconfig"), Path::new("/h/kind.yaml"));
        for (line, expected) in [
            (
                create(&newest, f, k),
                "kind create cluster --name canary-labs --image kindest/node:v1.37.0@sha256:\
                 a1ed56cfb0e7b93589bdf97c8cd566405a265939e3620fc4f5de89adff580ae5 \
                 --config /h/kind.yaml --kubeconfig /h/kubeconfig --wait 180s",
            ),
            (
                kubeconfig(&newest, k),
                "kind export kubeconfig --name canary-labs --kubeconfig /h/kubeconfig",
            ),
            (
                load(&newest, &[Path::new("/i/1.tar"), Path::new("/i/2.tar")]),
                "kind load image-archive /i/1.tar /i/2.tar --name canary-labs",
            ),
            (
                delete(&oldest, k),
                "kind delete cluster --name canary-labs --kubeconfig /h/kubeconfig",
            ),
        ] {
            assert_eq!(line.to_string(), expected);
        }
        assert!(oldest.image.unwrap().starts_with("kindest/node:v1.34.11@sha256:44e222"));
        assert_eq!(asked(Some("local/node:x")).image.unwrap(), "local/node:x");
        assert_eq!(asked(Some("newest")), newest);
        assert_eq!(config().matches("role:").count(), 4);
    }
}
