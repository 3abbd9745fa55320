//! kind: Kubernetes nodes as Docker containers, one control plane and three workers.

use crate::{
    cluster::{
        flags::ClusterFlags,
        profile::ClusterProfile,
        provider::{Provider, ProviderContext, PublishedPorts, VersionPins},
        spec::Spec,
    },
    docker::{self, Engine},
    doctor::{
        check::{Check, CheckContext, Depth, Finding, State},
        engine, tools,
    },
    exec::{command_line::CommandLine, daemon::Daemon, runner::KnownError},
    images::Image,
};
use anyhow::{Context, Result};
use lab_environment::{Alternative, Timeouts};
use serde_json::{Value, json};
use std::{fs, ops::RangeInclusive, path::Path, time::Duration};

/// The provider.
pub(crate) struct Kind;

/// Node images in the release notes of kind v0.33.0. An image belongs to the release that built it, so
/// it is pinned by digest. The oldest one also runs where the kernel has cgroups v1.
const VERSIONS: VersionPins = VersionPins {
    newest: "kindest/node:v1.37.0@sha256:a1ed56cfb0e7b93589bdf97c8cd566405a265939e3620fc4f5de89adff580ae5",
    oldest: "kindest/node:v1.34.11@sha256:44e222ee2132dab25ff87301682f89eb82c7880ea3a1bf543bfe9708fd08d67d",
};
/// The release of kind that these images belong to.
const RELEASE: &str = "v0.33.";

const CHECKS: &[Check] = &[
    Check::new("engine", engine::responds),
    Check::new("storage", engine::storage),
    Check::new("cgroups", engine::cgroups),
    Check::new("image", |context| engine::node_image(context, VERSIONS.newest)),
    Check::new("memory", engine::memory),
    Check::new("inotify", engine::inotify),
    Check::new("connections", engine::connections),
    Check::new("docker", tools::docker),
    Check::new("kind", check_release),
    Check::new("kubectl", tools::kubectl),
];

/// Time to pull a node image of a gigabyte and to start four nodes.
const CREATE: Duration = Duration::from_secs(900);
const DELETE: Duration = Duration::from_secs(120);
const LOAD: Duration = Duration::from_secs(180);

const KNOWN_ERRORS: &[KnownError] = &[
    KnownError::new(
        &["failed to pull image"],
        "the node image cannot be pulled",
        "check the network, or name one that the engine has with `--image`",
    ),
    KnownError::new(
        &["node(s) already exist for a cluster"],
        "the name of the cluster is taken",
        "create another with `--name <name>`",
    ),
    KnownError::new(
        &["no nodes found for cluster"],
        "the cluster no longer exists",
        "`cargo xtask down --on kind`, then `up` again",
    ),
    KnownError::new(
        &["executable file not found in $PATH"],
        "`docker` is not installed",
        "install Docker's command line: https://docs.docker.com/engine/install",
    ),
    KnownError::new(
        &["too many open files"],
        "the nodes ran out of inotify instances",
        "`sudo sysctl fs.inotify.max_user_watches=524288 fs.inotify.max_user_instances=512`",
    ),
    KnownError::new(
        &["could not find a log line that matches"],
        "a node did not start",
        "`cargo xtask doctor --on kind` checks for the reason; with cgroups v1, try `--image oldest`",
    ),
    KnownError::new(
        &["port is already allocated"],
        "a port of the cluster is in use",
        "retry: kind chooses another port",
    ),
];

impl Provider for Kind {
    fn name(&self) -> &'static str {
        "kind"
    }

    fn flags(&self) -> &'static [&'static str] {
        &["--name", "--image", "--ingress-class", "--gateway-class"]
    }

    fn checks(&self) -> &'static [Check] {
        CHECKS
    }

    fn spec(&self, flags: &ClusterFlags) -> Result<Spec> {
        let image = VERSIONS.resolve(flags.image.as_deref().unwrap_or("newest"));
        Ok(Spec { image: Some(image.into()), ..Spec::named(flags) })
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

    fn published_ports(&self, context: &ProviderContext) -> PublishedPorts {
        // Nothing is published where the nodes are reachable, and where this fails the edge uses
        // another route.
        context.query(&ports(context.spec)).map(|lines| published(&lines)).unwrap_or_default()
    }

    fn exists(&self, context: &ProviderContext) -> Result<bool> {
        let clusters = context.query(&CommandLine::new("kind get clusters"))?;
        Ok(clusters.lines().any(|line| line.trim() == context.spec.name))
    }

    fn create(&self, context: &ProviderContext) -> Result<Option<Daemon>> {
        let file = context.folder.join("kind.json");
        if !context.runner.is_dry_run() {
            fs::write(&file, config(&Engine::query()))
                .with_context(|| format!("failed to write {}", file.display()))?;
        }
        context.run(&create(context.spec, &file, &context.kubeconfig), CREATE)?;
        Ok(None)
    }

    fn write_kubeconfig(&self, context: &ProviderContext) -> Result<()> {
        context.query(&kubeconfig(context.spec, &context.kubeconfig)).map(drop)
    }

    fn load_images(&self, context: &ProviderContext, images: &[Image]) -> Result<()> {
        let archives: Vec<&Path> = images.iter().map(|image| image.archive.as_path()).collect();
        context.run(&load(context.spec, &archives), LOAD)
    }

    fn delete(&self, context: &ProviderContext) -> Result<()> {
        context.run(&delete(context.spec, &context.kubeconfig), DELETE)
    }

    fn known_errors(&self) -> &'static [KnownError] {
        KNOWN_ERRORS
    }
}

/// Checks that kind is installed and of the release that the pinned images belong to.
fn check_release(context: &CheckContext) -> Finding {
    let found = tools::version(context, "kind", &["version"]);
    let is_other = context.depth == Depth::Full && !found.text.contains(RELEASE);
    match found.state == State::Ok && is_other {
        true => Finding::note(format!(
            "{}: the pinned node images belong to kind {RELEASE}x",
            found.text
        ))
        .with_fix("install that release, or use an image of your own with `--image`"),
        false => found,
    }
}

/// The node ports of a cluster whose nodes are unreachable: as many as labs and a reader use at a time.
const PUBLISHED: RangeInclusive<u16> = 30000..=30015;

/// Returns the configuration of four nodes. If this host does not reach their addresses, some node ports
/// of the control plane are published, and the API server allocates no others. With cgroups of version 1
/// kubelets are asked to run nevertheless. An engine that does not respond is reported by kind itself.
fn config(engine: &Engine) -> String {
    let (reachable, cgroups_v1) = match engine {
        Engine::Ready(info) => {
            (docker::containers_are_reachable(info), engine::has_cgroups_v1(info))
        }
        _ => (true, false),
    };
    let mut patches: Vec<String> = Vec::new();
    let worker = json!({ "role": "worker" });
    let mut config = json!({
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "nodes": [{ "role": "control-plane" }, worker, worker, worker],
    });
    if !reachable {
        let range = format!("{}-{}", PUBLISHED.start(), PUBLISHED.end());
        let patch = |version: &str, arguments: Value| {
            let patch = json!({
                "kind": "ClusterConfiguration",
                "apiVersion": format!("kubeadm.k8s.io/{version}"),
                "apiServer": { "extraArgs": arguments },
            });
            patch.to_string()
        };
        // The format depends on the version of Kubernetes; kubeadm ignores the other patch.
        patches.extend([
            patch("v1beta3", json!({ "service-node-port-range": range })),
            patch("v1beta4", json!([{ "name": "service-node-port-range", "value": range }])),
        ]);
        // Without `hostPort` kind chooses the ports of the host.
        let mapping = |port| json!({ "containerPort": port, "listenAddress": "127.0.0.1" });
        config["nodes"][0]["extraPortMappings"] = PUBLISHED.map(mapping).collect();
    }
    if cgroups_v1 {
        let kubelet = json!({
            "kind": "KubeletConfiguration",
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "failCgroupV1": false,
        });
        patches.push(kubelet.to_string());
    }
    if !patches.is_empty() {
        config["kubeadmConfigPatches"] = patches.into();
    }
    format!("{config:#}\n")
}

/// Lists the published ports of the control plane.
fn ports(spec: &Spec) -> CommandLine {
    CommandLine::new("docker port").args([format!("{}-control-plane", spec.name)])
}

/// Parses lines such as `30000/tcp -> 127.0.0.1:49153`.
fn published(lines: &str) -> PublishedPorts {
    let of_line = |line: &str| {
        let (port, at) = line.trim().split_once("/tcp -> ")?;
        let port = port.parse().ok().filter(|port| PUBLISHED.contains(port))?;
        Some((port, at.to_owned()))
    };
    lines.lines().filter_map(of_line).collect()
}

fn create(spec: &Spec, config: &Path, kubeconfig: &Path) -> CommandLine {
    CommandLine::new("kind create cluster")
        .flag("--name", &spec.name)
        .opt_flag("--image", spec.image.clone())
        .path("--config", config)
        .path("--kubeconfig", kubeconfig)
        .flag("--wait", "180s")
}

fn kubeconfig(spec: &Spec, kubeconfig: &Path) -> CommandLine {
    CommandLine::new("kind export kubeconfig")
        .flag("--name", &spec.name)
        .path("--kubeconfig", kubeconfig)
}

/// Loads archives instead of `docker-image`, which fails with Docker's containerd image store
/// (kind#3795).
fn load(spec: &Spec, archives: &[&Path]) -> CommandLine {
    let archives = archives.iter().map(|path| path.to_string_lossy());
    CommandLine::new("kind load image-archive").args(archives).flag("--name", &spec.name)
}

fn delete(spec: &Spec, kubeconfig: &Path) -> CommandLine {
    CommandLine::new("kind delete cluster")
        .flag("--name", &spec.name)
        .path("--kubeconfig", kubeconfig)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_are_complete() {
        let spec = |image: Option<&str>| {
            let flags = ClusterFlags { image: image.map(Into::into), ..ClusterFlags::default() };
            Kind.spec(&flags).unwrap()
        };
        let (newest, oldest) = (spec(None), spec(Some("oldest")));
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
        assert_eq!(spec(Some("local/node:x")).image.unwrap(), "local/node:x");
        assert_eq!(spec(Some("newest")), newest);
    }

    #[test]
    fn configuration_depends_on_what_the_engine_offers() {
        let read = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        let of = |info: Value| read(&config(&Engine::Ready(info)));
        let far = of(json!({"CgroupVersion": "2", "OperatingSystem": "Docker Desktop"}));
        let near = of(json!({"CgroupVersion": "2"}));
        let old = of(json!({"CgroupVersion": "1"}))["kubeadmConfigPatches"].clone();
        assert_eq!(old.as_array().unwrap().len(), 1);
        assert_eq!(read(old[0].as_str().unwrap())["failCgroupV1"], false);
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
    fn published_ports_are_parsed() {
        let lines = "6443/tcp -> 127.0.0.1:38431\n30000/tcp -> 127.0.0.1:49153\n\
                     30001/tcp -> 127.0.0.1:49154\n30002/udp -> 127.0.0.1:49155\nnonsense\n";
        let expected = [(30000, "127.0.0.1:49153"), (30001, "127.0.0.1:49154")];
        assert_eq!(published(lines), expected.map(|(port, at)| (port, at.to_owned())).into());
        assert!(published("Error: No such container").is_empty());
    }
}
