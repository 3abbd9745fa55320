//! k3s in Docker containers: a server and two agents, with k3s' own load balancer and Ingress controller.
//!
//! By the `docker` command and not by testcontainers: its containers end with the process that holds
//! their handles, while `up` makes clusters that stay, and its client is a quarter of all that there
//! is to compile.

use crate::{
    cluster::{
        Differences,
        outside::{Asked, Provider, Spec, Work},
    },
    images::Image,
    tool::{Fault, Line},
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

/// The same Kubernetes versions as kind's newest and oldest, as far as k3s had released them when
/// these were chosen. k3s' release notes name no digests: these are what many projects that have nothing
/// to do with each other pin, on x86-64 and arm64; a wrong one could not be pulled.
const NEWEST: &str = "rancher/k3s:v1.36.4-k3s1@sha256:\
                      edad48e12bf81c3a09ac1c05c0c0ffaaa22145980b989d6fae84543a76b83657";
/// See [`NEWEST`].
const OLDEST: &str = "rancher/k3s:v1.34.11-k3s1@sha256:\
                      5d52389a0f4fd7ebdb5a1fb2d7c67c35da966230782c4abb0667d86bcccea9c2";
/// On everything that belongs to a cluster; its value is the cluster's name.
const LABEL: &str = "dev.canary-labs.k3s";
const AGENTS: u8 = 2;

/// Nodes with this label take part in k3s' load balancing, those with the next only for Services that
/// have it, too: <https://docs.k3s.io/networking/networking-services>.
const BALANCES: &str = "svccontroller.k3s.cattle.io/enablelb";
/// See [`BALANCES`].
const POOL: &str = "svccontroller.k3s.cattle.io/lbpool";
/// A load balancer of k3s takes its port on each node, so Traefik's would leave no node with a port 80
/// for the article's: it gets the last agent alone.
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

const FAULTS: &[Fault] = &[
    (
        "is already in use by container",
        "the name of a container is taken",
        "`--name <another>` makes a cluster beside it",
    ),
    (
        "Unable to find image",
        "the image cannot be pulled",
        "check the network, or name one that the engine has with `--image`",
    ),
    ("No such container", "the cluster is gone", "`cargo xtask down --on k3s`, then `up` again"),
];

impl Provider for K3s {
    fn name(&self) -> &'static str {
        "k3s"
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
            patience: Timeouts { rollout: 180, address: 240, request: 10, propagation: 3 },
            nearest_wrong: Alternative::NearestReplica,
            absent: vec![UnsupportedClaim {
                claim: "vhost-default".into(),
                reason: "Traefik, which k3s brings, heeds a default backend only in an Ingress \
                         without rules"
                    .into(),
            }],
        }
    }

    fn exists(&self, work: &Work) -> Result<bool> {
        let networks = work.ask(&networks(work.spec))?;
        Ok(!networks.trim().is_empty() || !containers(work)?.is_empty())
    }

    fn create(&self, work: &Work) -> Result<()> {
        let traefik = work.folder.join("traefik.yaml");
        if !work.tools.is_dry() {
            fs::write(&traefik, TRAEFIK)
                .with_context(|| format!("cannot write {}", traefik.display()))?;
        }
        work.run(&network(work.spec), RUN)?;
        let token = if work.tools.is_dry() { String::new() } else { token()? };
        work.run(&server(work.spec, &token, &traefik), RUN)?;
        for number in 1..=AGENTS {
            work.run(&agent(work.spec, number, &token), RUN)?;
        }
        Ok(())
    }

    fn kubeconfig(&self, work: &Work) -> Result<()> {
        let published = work.ask(&port(work.spec))?;
        if work.tools.is_dry() {
            return work.ask(&config(work.spec)).map(drop);
        }
        let address = published.lines().next().unwrap_or_default().trim();
        ensure!(!address.is_empty(), "the port of the k3s server is not published: is it running?");
        let until = Instant::now() + START;
        loop {
            let ended = work.tools.ask(&config(work.spec), super::outside::ANSWER)?;
            if ended.is_well() && ended.output.contains("server:") {
                return work.write_kubeconfig(&at(&ended.output, address));
            }
            if Instant::now() > until {
                bail!(ended.failure(FAULTS).context(format!("no kubeconfig within {START:?}")));
            }
            work.tools.pause(Duration::from_millis(500))?;
        }
    }

    /// The nodes join one after the other, so those that are Ready need not be all.
    fn ready(&self, work: &Work) -> Line {
        let nodes = (1..=AGENTS).map(|n| format!("node/{}", agent_name(work.spec, n)));
        work.kubectl("wait --for=create --timeout=180s")
            .args(nodes.chain([format!("node/{}", server_name(work.spec))]))
    }

    fn load(&self, work: &Work, images: &[Image]) -> Result<()> {
        work.run(&work.kubectl("wait --for=condition=Ready nodes --all --timeout=180s"), START)?;
        for node in containers(work)? {
            for image in images {
                work.run(&import(&node, &image.archive), LOAD)?;
            }
        }
        Ok(())
    }

    fn delete(&self, work: &Work) -> Result<()> {
        let nodes = containers(work)?;
        if !nodes.is_empty() {
            work.run(&remove(&nodes), LOAD)?;
        }
        let networks = work.ask(&networks(work.spec))?;
        for network in networks.lines().filter(|line| !line.is_empty()) {
            work.run(&Line::new("docker network rm").args([network]), LOAD)?;
        }
        Ok(())
    }

    fn faults(&self) -> &'static [Fault] {
        FAULTS
    }
}

fn containers(work: &Work) -> Result<Vec<String>> {
    let names = work.ask(&list(work.spec))?;
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

fn network(spec: &Spec) -> Line {
    Line::new("docker network create").flag("--label", label(spec)).args([network_name(spec)])
}

fn node(spec: &Spec, name: String, token: &str) -> Line {
    Line::new("docker run --detach --privileged --tmpfs /run --tmpfs /var/run")
        .flag("--name", &name)
        .flag("--hostname", &name)
        .flag("--network", network_name(spec))
        .flag("--label", label(spec))
        // Its value is taken from docker's environment: command lines can be read by everybody.
        .flag("--env", "K3S_TOKEN")
        .secret("K3S_TOKEN", token)
}

fn server(spec: &Spec, token: &str, traefik: &Path) -> Line {
    let manifest = "/var/lib/rancher/k3s/server/manifests/traefik-config.yaml";
    node(spec, server_name(spec), token)
        .flag("--publish", "127.0.0.1::6443")
        .flag("--volume", format!("{}:{manifest}:ro", traefik.display()))
        .args(spec.image.clone())
        .args(["server", "--tls-san=127.0.0.1", "--disable=metrics-server"])
        .args([format!("--node-label={BALANCES}=true")])
}

fn agent(spec: &Spec, number: u8, token: &str) -> Line {
    let pool = (number == AGENTS).then(|| format!("--node-label={POOL}=ingress"));
    node(spec, agent_name(spec, number), token)
        .flag("--env", format!("K3S_URL=https://{}:6443", server_name(spec)))
        .args(spec.image.clone())
        .args(["agent".into(), format!("--node-label={BALANCES}=true")])
        .args(pool)
}

fn port(spec: &Spec) -> Line {
    Line::new("docker port").args([server_name(spec), "6443/tcp".into()])
}

fn config(spec: &Spec) -> Line {
    Line::new("docker exec")
        .args([server_name(spec)])
        .args(["cat", "/etc/rancher/k3s/k3s.yaml"])
        .answering_in_private()
}

fn list(spec: &Spec) -> Line {
    Line::new("docker ps --all --format {{.Names}}")
        .flag("--filter", format!("label={}", label(spec)))
}

fn networks(spec: &Spec) -> Line {
    Line::new("docker network ls --format {{.Name}}")
        .flag("--filter", format!("label={}", label(spec)))
}

fn import(node: &str, archive: &Path) -> Line {
    Line::new("docker exec --interactive")
        .args([node])
        .args(["ctr", "--namespace=k8s.io", "images", "import", "-"])
        .reading(archive)
}

fn remove(nodes: &[String]) -> Line {
    Line::new("docker rm --force --volumes").args(nodes)
}

/// The kubeconfig for who is outside the containers.
fn at(config: &str, address: &str) -> String {
    config.replace("https://127.0.0.1:6443", &format!("https://{address}"))
}

fn token() -> Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("cannot read /dev/urandom")?;
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
    fn every_command_line() {
        let asked =
            Asked { name: Some("n".into()), image: Some("oldest".into()), ..Asked::default() };
        let spec = K3s.spec(&asked).unwrap();
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
                     traefik-config.yaml:ro {OLDEST} server --tls-san=127.0.0.1 \
                     --disable=metrics-server {balances}"
                ),
            ),
            (
                agent(&spec, 1, "secret"),
                format!(
                    "{run} n-k3s-agent-1 --hostname n-k3s-agent-1 {common} \
                     --env K3S_URL=https://n-k3s-server:6443 {OLDEST} agent {balances}"
                ),
            ),
            (
                agent(&spec, 2, "secret"),
                format!(
                    "{run} n-k3s-agent-2 --hostname n-k3s-agent-2 {common} \
                     --env K3S_URL=https://n-k3s-server:6443 {OLDEST} agent \
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
            at("server: https://127.0.0.1:6443\n", "127.0.0.1:32768"),
            "server: https://127.0.0.1:32768\n"
        );
    }
}
