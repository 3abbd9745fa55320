//! k3s in Docker containers: a server and two agents, with k3s' own load balancer and Ingress controller.
//!
//! Run by the `docker` command and not by testcontainers, whose containers end with the process that
//! holds their handles, while `up` creates persistent clusters. Its client is also a quarter of all
//! that there is to compile.

use crate::{
    cluster::{
        flags::ClusterFlags,
        profile::ClusterProfile,
        provider::{Provider, ProviderContext, QUERY_TIMEOUT, VersionPins},
        spec::Spec,
    },
    docker::Engine,
    doctor::{check::Check, engine, tools},
    exec::{command_line::CommandLine, daemon::Daemon, runner::KnownError},
    images::Image,
    output::outln,
};
use anyhow::{Context, Result, bail, ensure};
use lab_environment::{Alternative, Timeouts, UnsupportedClaim};
use std::{
    fmt::Write as _,
    fs::{self, File},
    io::Read,
    path::Path,
    time::{Duration, Instant},
};

/// The provider.
pub(crate) struct K3s;

/// The Kubernetes versions of kind's newest and oldest images, as far as k3s had released them when these
/// were chosen. k3s' release notes contain no digests; these are pinned by many unrelated projects, on
/// x86-64 and arm64, and a wrong one could not be pulled.
const VERSIONS: VersionPins = VersionPins {
    newest: "rancher/k3s:v1.36.4-k3s1@sha256:edad48e12bf81c3a09ac1c05c0c0ffaaa22145980b989d6fae84543a76b83657",
    oldest: "rancher/k3s:v1.34.11-k3s1@sha256:5d52389a0f4fd7ebdb5a1fb2d7c67c35da966230782c4abb0667d86bcccea9c2",
};

const CHECKS: &[Check] = &[
    Check::new("engine", engine::responds),
    Check::new("storage", engine::storage),
    Check::new("cgroups", engine::cgroups),
    Check::new("image", |context| engine::node_image(context, VERSIONS.newest)),
    Check::new("memory", engine::memory),
    Check::new("inotify", engine::inotify),
    Check::new("connections", engine::connections),
    Check::new("docker", tools::docker),
    Check::new("kubectl", tools::kubectl),
];

/// The label of all containers and networks of a cluster; its value is the cluster's name.
const LABEL: &str = "dev.canary-labs.k3s";
const AGENTS: u8 = 2;

/// Nodes with this label take part in k3s' load balancing; nodes with [`POOL`] only for Services with the
/// same label: <https://docs.k3s.io/networking/networking-services>.
const BALANCES: &str = "svccontroller.k3s.cattle.io/enablelb";
/// See [`BALANCES`].
const POOL: &str = "svccontroller.k3s.cattle.io/lbpool";
/// A load balancer of k3s occupies its port on each node, so Traefik's would leave no node with a free
/// port 80 for the labs. This confines it to the last agent.
const TRAEFIK: &str = "apiVersion: helm.cattle.io/v1
kind: HelmChartConfig
metadata:
  name: traefik
  namespace: kube-system
spec:
  valuesContent: |-
    service:
      labels:
        svccontroller.k3s.cattle.io/lbpool: ingress
";

const RUN: Duration = Duration::from_secs(600);
const START: Duration = Duration::from_secs(180);
const LOAD: Duration = Duration::from_secs(120);

const KNOWN_ERRORS: &[KnownError] = &[
    KnownError::new(
        &["is already in use by container"],
        "the name of a container is taken",
        "create another cluster with `--name <name>`",
    ),
    KnownError::new(
        &["Unable to find image"],
        "the image cannot be pulled",
        "check the network, or name one that the engine has with `--image`",
    ),
    KnownError::new(
        &["No such container"],
        "the cluster no longer exists",
        "`cargo xtask down --on k3s`, then `up` again",
    ),
];

impl Provider for K3s {
    fn name(&self) -> &'static str {
        "k3s"
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
            timeouts: Timeouts { rollout: 180, address: 240, request: 10, propagation: 3 },
            precision: Alternative::NearestReplica,
            unsupported: vec![UnsupportedClaim {
                claim: "vhost-default".into(),
                reason: "Traefik, which k3s brings, honors a default backend only in an Ingress \
                         without rules"
                    .into(),
            }],
        }
    }

    fn exists(&self, context: &ProviderContext) -> Result<bool> {
        let networks = context.query(&networks(context.spec))?;
        Ok(!networks.trim().is_empty() || !containers(context)?.is_empty())
    }

    fn create(&self, context: &ProviderContext) -> Result<Option<Daemon>> {
        let traefik = context.folder.join("traefik.yaml");
        if !context.runner.is_dry_run() {
            fs::write(&traefik, TRAEFIK)
                .with_context(|| format!("failed to write {}", traefik.display()))?;
        }
        context.run(&network(context.spec), RUN)?;
        let token = if context.runner.is_dry_run() { String::new() } else { token()? };
        let kubelet = kubelet_arguments(&Engine::query());
        context.run(&server(context.spec, &token, &traefik).args(kubelet), RUN)?;
        for number in 1..=AGENTS {
            context.run(&agent(context.spec, number, &token).args(kubelet), RUN)?;
        }
        Ok(None)
    }

    fn write_kubeconfig(&self, context: &ProviderContext) -> Result<()> {
        let published = context.query(&port(context.spec))?;
        if context.runner.is_dry_run() {
            return context.query(&config(context.spec)).map(drop);
        }
        let address = published.lines().next().unwrap_or_default().trim();
        ensure!(!address.is_empty(), "the port of the k3s server is not published; is it running?");
        let until = Instant::now() + START;
        loop {
            let output = context.runner.query(&config(context.spec), QUERY_TIMEOUT)?;
            if output.is_success() && output.stdout.contains("server:") {
                return context.save_kubeconfig(&with_server(&output.stdout, address));
            }
            if Instant::now() > until {
                bail!(
                    output.error(KNOWN_ERRORS).context(format!("no kubeconfig within {START:?}"))
                );
            }
            context.runner.sleep(Duration::from_millis(500))?;
        }
    }

    /// Waits for each node by name: they join one after the other, so those that are ready need not be
    /// all.
    fn wait_ready(&self, context: &ProviderContext) -> Result<()> {
        let nodes = (1..=AGENTS).map(|n| format!("node/{}", agent_name(context.spec, n)));
        let line = context.kubectl("wait --for=create --timeout=180s");
        let server = format!("node/{}", server_name(context.spec));
        context.wait_for_nodes(&line.args(nodes.chain([server])))
    }

    fn load_images(&self, context: &ProviderContext, images: &[Image]) -> Result<()> {
        context.run(
            &context.kubectl("wait --for=condition=Ready nodes --all --timeout=180s"),
            START,
        )?;
        for node in containers(context)? {
            for image in images {
                context.run(&import(&node, &image.archive), LOAD)?;
            }
        }
        Ok(())
    }

    fn delete(&self, context: &ProviderContext) -> Result<()> {
        let nodes = containers(context)?;
        if !nodes.is_empty() {
            context.run(&remove(&nodes), LOAD)?;
        }
        let networks = context.query(&networks(context.spec))?;
        if context.runner.is_dry_run() {
            outln!(
                "# docker rm --force --volumes … and docker network rm … of all that is listed"
            )?;
        }
        for network in networks.lines().filter(|line| !line.is_empty()) {
            context.run(&CommandLine::new("docker network rm").args([network]), LOAD)?;
        }
        Ok(())
    }

    fn known_errors(&self) -> &'static [KnownError] {
        KNOWN_ERRORS
    }
}

fn containers(context: &ProviderContext) -> Result<Vec<String>> {
    let names = context.query(&list(context.spec))?;
    Ok(names.lines().map(str::trim).filter(|name| !name.is_empty()).map(Into::into).collect())
}

fn server_name(spec: &Spec) -> String {
    format!("{}-k3s-server", spec.name)
}

fn agent_name(spec: &Spec, number: u8) -> String {
    format!("{}-k3s-agent-{number}", spec.name)
}

fn network_name(spec: &Spec) -> String {
    format!("{}-k3s", spec.name)
}

fn label(spec: &Spec) -> String {
    format!("{LABEL}={}", spec.name)
}

fn network(spec: &Spec) -> CommandLine {
    CommandLine::new("docker network create")
        .flag("--label", label(spec))
        .args([network_name(spec)])
}

fn node(spec: &Spec, name: String, token: &str) -> CommandLine {
    CommandLine::new("docker run --detach --privileged --tmpfs /run --tmpfs /var/run")
        .flag("--name", &name)
        .flag("--hostname", &name)
        .flag("--network", network_name(spec))
        .flag("--label", label(spec))
        // docker takes the value from its environment: every user can read command lines.
        .flag("--env", "K3S_TOKEN")
        .secret("K3S_TOKEN", token)
}

fn server(spec: &Spec, token: &str, traefik: &Path) -> CommandLine {
    let manifest = "/var/lib/rancher/k3s/server/manifests/traefik-config.yaml";
    node(spec, server_name(spec), token)
        .flag("--publish", "127.0.0.1::6443")
        .flag("--volume", format!("{}:{manifest}:ro", traefik.display()))
        .args(spec.image.clone())
        .args(["server", "--tls-san=127.0.0.1", "--disable=metrics-server"])
        .args([format!("--node-label={BALANCES}=true")])
}

/// Asks kubelets to run with cgroups of version 1, where the engine has no others.
fn kubelet_arguments(engine: &Engine) -> Option<&'static str> {
    let cgroups_v1 = matches!(engine, Engine::Ready(info) if engine::has_cgroups_v1(info));
    cgroups_v1.then_some("--kubelet-arg=fail-cgroupv1=false")
}

fn agent(spec: &Spec, number: u8, token: &str) -> CommandLine {
    let pool = (number == AGENTS).then(|| format!("--node-label={POOL}=ingress"));
    node(spec, agent_name(spec, number), token)
        .flag("--env", format!("K3S_URL=https://{}:6443", server_name(spec)))
        .args(spec.image.clone())
        .args(["agent".into(), format!("--node-label={BALANCES}=true")])
        .args(pool)
}

fn port(spec: &Spec) -> CommandLine {
    CommandLine::new("docker port").args([server_name(spec), "6443/tcp".into()])
}

fn config(spec: &Spec) -> CommandLine {
    CommandLine::new("docker exec")
        .args([server_name(spec)])
        .args(["cat", "/etc/rancher/k3s/k3s.yaml"])
        .sensitive_output()
}

fn list(spec: &Spec) -> CommandLine {
    CommandLine::new("docker ps --all --format {{.Names}}")
        .flag("--filter", format!("label={}", label(spec)))
}

fn networks(spec: &Spec) -> CommandLine {
    CommandLine::new("docker network ls --format {{.Name}}")
        .flag("--filter", format!("label={}", label(spec)))
}

fn import(node: &str, archive: &Path) -> CommandLine {
    CommandLine::new("docker exec --interactive")
        .args([node])
        .args(["ctr", "--namespace=k8s.io", "images", "import", "-"])
        .stdin_file(archive)
}

fn remove(nodes: &[String]) -> CommandLine {
    CommandLine::new("docker rm --force --volumes").args(nodes)
}

/// Returns the kubeconfig for clients outside the containers.
fn with_server(config: &str, address: &str) -> String {
    config.replace("https://127.0.0.1:6443", &format!("https://{address}"))
}

fn token() -> Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("failed to read /dev/urandom")?;
    let mut text = String::new();
    for byte in bytes {
        write!(text, "{byte:02x}")?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_are_complete() {
        let mut flags = ClusterFlags { image: Some("oldest".into()), ..ClusterFlags::default() };
        flags.create.name = Some("n".into());
        let spec = K3s.spec(&flags).unwrap();
        let oldest = VERSIONS.oldest;
        let run =
            "K3S_TOKEN=… docker run --detach --privileged --tmpfs /run --tmpfs /var/run --name";
        let common = "--network n-k3s --label dev.canary-labs.k3s=n --env K3S_TOKEN";
        let balances = "--node-label=svccontroller.k3s.cattle.io/enablelb=true";
        assert!(TRAEFIK.contains(POOL));
        for (line, expected) in [
            (network(&spec), "docker network create --label dev.canary-labs.k3s=n n-k3s".into()),
            (
                server(&spec, "secret", Path::new("/h/traefik.yaml")),
                format!(
                    "{run} n-k3s-server --hostname n-k3s-server {common} --publish 127.0.0.1::6443 \
                     --volume /h/traefik.yaml:/var/lib/rancher/k3s/server/manifests/\
                     traefik-config.yaml:ro {oldest} server --tls-san=127.0.0.1 \
                     --disable=metrics-server {balances}"
                ),
            ),
            (
                agent(&spec, 1, "secret"),
                format!(
                    "{run} n-k3s-agent-1 --hostname n-k3s-agent-1 {common} \
                     --env K3S_URL=https://n-k3s-server:6443 {oldest} agent {balances}"
                ),
            ),
            (
                agent(&spec, 2, "secret"),
                format!(
                    "{run} n-k3s-agent-2 --hostname n-k3s-agent-2 {common} \
                     --env K3S_URL=https://n-k3s-server:6443 {oldest} agent \
                     {balances} --node-label=svccontroller.k3s.cattle.io/lbpool=ingress"
                ),
            ),
            (port(&spec), "docker port n-k3s-server 6443/tcp".into()),
            (config(&spec), "docker exec n-k3s-server cat /etc/rancher/k3s/k3s.yaml".into()),
            (
                list(&spec),
                "docker ps --all --format '{{.Names}}' --filter label=dev.canary-labs.k3s=n".into(),
            ),
            (
                networks(&spec),
                "docker network ls --format '{{.Name}}' --filter label=dev.canary-labs.k3s=n"
                    .into(),
            ),
            (
                import("x", Path::new("/1.tar")),
                "docker exec --interactive x ctr --namespace=k8s.io images import - </1.tar".into(),
            ),
            (remove(&["a".into(), "b".into()]), "docker rm --force --volumes a b".into()),
        ] {
            assert_eq!(line.to_string(), expected);
        }
        assert_ne!(token().unwrap(), token().unwrap());
        assert_eq!(
            with_server("server: https://127.0.0.1:6443\n", "127.0.0.1:32768"),
            "server: https://127.0.0.1:32768\n"
        );
    }
}
