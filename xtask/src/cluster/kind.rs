//! kind: Kubernetes nodes as Docker containers, one control plane and three workers.

use crate::{
    cluster::{
        Differences,
        edge::Published,
        outside::{Asked, Provider, Spec, Work},
    },
    docker,
    images::Image,
    tool::{Fault, Line},
};
use anyhow::{Context, Result};
use lab_environment::{Alternative, Timeouts};
use serde_json::{Value, json};
use std::{fs, ops::RangeInclusive, path::Path, time::Duration};

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
            patience: Timeouts { rollout: 180, address: 60, request: 10, propagation: 0 },
            nearest_wrong: Alternative::NearestReplica,
            absent: Vec::new(),
        }
    }

    fn needs_edge(&self, _: &Spec) -> bool {
        true
    }

    fn published(&self, work: &Work) -> Published {
        // Nothing is published where the nodes can be reached, and the edge finds another way where
        // this fails.
        work.ask(&ports(work.spec)).map(|lines| published(&lines)).unwrap_or_default()
    }

    fn exists(&self, work: &Work) -> Result<bool> {
        let clusters = work.ask(&Line::new("kind get clusters"))?;
        Ok(clusters.lines().any(|line| line.trim() == work.spec.name))
    }

    fn create(&self, work: &Work) -> Result<()> {
        let file = work.folder.join("kind.json");
        if !work.tools.is_dry() {
            fs::write(&file, config(nodes_are_near(work)))
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

/// Asked of the `docker` command, which knows the engine that kind will use. That it does not answer
/// will be told by others.
fn nodes_are_near(work: &Work) -> bool {
    let info = work.ask(&Line::new("docker info --format").args(["{{json .}}"]));
    let info = info.ok().and_then(|text| serde_json::from_str(&text).ok());
    info.is_none_or(|info| docker::is_near(&info))
}

/// The node ports of a cluster whose nodes cannot be reached: enough for what labs and a reader make at
/// a time.
const PUBLISHED: RangeInclusive<u16> = 30000..=30015;

/// Four nodes. Where this host reaches their addresses nothing is published; else some node ports of
/// the control plane are, and the API gives out no others.
fn config(near: bool) -> String {
    let worker = json!({ "role": "worker" });
    let mut config = json!({
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "nodes": [{ "role": "control-plane" }, worker, worker, worker],
    });
    if !near {
        let range = format!("{}-{}", PUBLISHED.start(), PUBLISHED.end());
        let patch = |version: &str, arguments: Value| {
            let patch = json!({
                "kind": "ClusterConfiguration",
                "apiVersion": format!("kubeadm.k8s.io/{version}"),
                "apiServer": { "extraArgs": arguments },
            });
            patch.to_string()
        };
        // The format depends on the version of Kubernetes; the patch for another one is ignored.
        config["kubeadmConfigPatches"] = json!([
            patch("v1beta3", json!({ "service-node-port-range": range })),
            patch("v1beta4", json!([{ "name": "service-node-port-range", "value": range }])),
        ]);
        // kind chooses the ports of the host.
        let mapping = |port| json!({ "containerPort": port, "listenAddress": "127.0.0.1" });
        config["nodes"][0]["extraPortMappings"] = PUBLISHED.map(mapping).collect();
    }
    format!("{config:#}\n")
}

/// Where the control plane's ports are on this host.
fn ports(spec: &Spec) -> Line {
    Line::new("docker port").args([format!("{}-control-plane", spec.name)])
}

/// `30000/tcp -> 127.0.0.1:49153`, a line each.
fn published(lines: &str) -> Published {
    let of_line = |line: &str| {
        let (port, at) = line.trim().split_once("/tcp -> ")?;
        let port = port.parse().ok().filter(|port| PUBLISHED.contains(port))?;
        Some((port, at.to_owned()))
    };
    lines.lines().filter_map(of_line).collect()
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
        let (k, f) = (Path::new("/h/kubeconfig"), Path::new("/h/kind.json"));
        for (line, expected) in [
            (
                create(&newest, f, k),
                "kind create cluster --name canary-labs --image kindest/node:v1.37.0@sha256:\
                 a1ed56cfb0e7b93589bdf97c8cd566405a265939e3620fc4f5de89adff580ae5 \
                 --config /h/kind.json --kubeconfig /h/kubeconfig --wait 180s",
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
    }

    #[test]
    fn node_ports_are_published_only_where_nodes_are_far() {
        let read = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        let (near, far) = (read(&config(true)), read(&config(false)));
        assert_eq!(near["nodes"].as_array().unwrap().len(), 4);
        assert_eq!(near["kubeadmConfigPatches"], Value::Null);
        assert_eq!(near["nodes"][0]["extraPortMappings"], Value::Null);
        let patches = far["kubeadmConfigPatches"].as_array().unwrap();
        let patches: Vec<Value> = patches.iter().map(|p| read(p.as_str().unwrap())).collect();
        let arguments = |n: usize| &patches[n]["apiServer"]["extraArgs"];
        assert_eq!(arguments(0)["service-node-port-range"], "30000-30015");
        assert_eq!(arguments(1)[0]["value"], "30000-30015");
        assert_eq!(far["nodes"].as_array().unwrap().len(), 4);
        let mappings = far["nodes"][0]["extraPortMappings"].as_array().unwrap();
        assert_eq!(mappings.len(), 16);
        assert_eq!(mappings[15]["containerPort"], 30015);
        assert!(mappings.iter().all(|mapping| mapping["listenAddress"] == "127.0.0.1"));
    }

    #[test]
    fn published_ports_are_read_as_docker_tells_them() {
        let lines = "6443/tcp -> 127.0.0.1:38431\n30000/tcp -> 127.0.0.1:49153\n\
                     30001/tcp -> 127.0.0.1:49154\n30002/udp -> 127.0.0.1:49155\nnonsense\n";
        let expected = [(30000, "127.0.0.1:49153"), (30001, "127.0.0.1:49154")];
        assert_eq!(published(lines), expected.map(|(port, at)| (port, at.to_owned())).into());
        assert!(published("Error: No such container").is_empty());
    }
}
