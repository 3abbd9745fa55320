//! The kubectl commands of the article, and related ones, on nodes that run pods.

use crate::fixture::{self, in_time, kubectl::Kubectl};
use kube_embedded::{Cluster, Config};
use std::{collections::BTreeSet, path::PathBuf};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// The number of requests in which both versions respond: where one of them has a quarter of the pods, a
/// random choice misses it in one of 10^37 runs.
const REQUESTS: usize = 300;

/// Starts a cluster with the app's images, and returns it with its kubectl. Returns `None`, and reports the
/// test as skipped, where there is no kubectl or the images were not built.
pub(crate) async fn app_cluster() -> Option<(Cluster, Kubectl)> {
    let directory = std::env::var_os("CANARY_IMAGES").map(PathBuf::from).or_else(|| {
        // A test program is in TARGET/PROFILE/deps.
        Some(std::env::current_exe().ok()?.ancestors().nth(3)?.join("images"))
    });
    let archives: Vec<PathBuf> = ["kubeapp-1.0.tar", "kubeapp-2.0.tar"]
        .iter()
        .filter_map(|name| Some(directory.as_ref()?.join(name)))
        .filter(|archive| archive.is_file())
        .collect();
    if archives.len() < 2 {
        test_support::missing(
            "app-images",
            "run `cargo xtask images`, or set CANARY_IMAGES to their directory",
        );
        return None;
    }
    let cluster = Cluster::start(Config { images: archives, ..Config::default() }).await.unwrap();
    let kubectl = Kubectl::new(&cluster).await?;
    Some((cluster, kubectl))
}

/// Sends the request of `curl http://IP/`.
async fn curl(ip: &str) -> String {
    in_time(async {
        let mut stream = TcpStream::connect((ip, 80)).await.unwrap();
        let request = format!("GET / HTTP/1.1\r\nHost: {ip}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        response
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_of_the_article_succeed() {
    let Some((_cluster, kubectl)) = app_cluster().await else { return };
    assert_eq!(kubectl.line("create namespace production").await, "namespace/production created\n");
    let stable = "--namespace=production apply -f manifests/lb/app-production.yml";
    assert_eq!(kubectl.line(stable).await, "deployment.apps/kubeapp-production created\n");
    let rollout = "--namespace=production rollout status deployment/kubeapp-production";
    let success = "deployment \"kubeapp-production\" successfully rolled out\n";
    assert!(kubectl.line(rollout).await.ends_with(success));
    let pods = kubectl.line("--namespace=production get pods -o wide --no-headers").await;
    let rows: Vec<Vec<&str>> = pods.lines().map(|line| line.split_whitespace().collect()).collect();
    assert!(rows.iter().all(|row| row[1..4] == ["1/1", "Running", "0"]), "{pods}");
    let nodes: BTreeSet<&str> = rows.iter().map(|row| row[6]).collect();
    assert_eq!((rows.len(), nodes.len()), (3, 3), "{pods}");
    let events = kubectl.line("--namespace=production get events").await;
    for reason in ["ScalingReplicaSet", "SuccessfulCreate", "Scheduled", "Pulled", "Started"] {
        assert!(events.contains(reason), "{reason}: {events}");
    }
    let applied = kubectl.line("--namespace=production apply -f manifests/lb/app-lb.yml").await;
    assert_eq!(applied, "service/app-lb created\n");
    let address = "jsonpath={.status.loadBalancer.ingress[0].ip}";
    let wait = format!("--namespace=production wait --for={address} --timeout=60s svc/app-lb");
    kubectl.line(&wait).await;
    let ip = kubectl.line(&format!("--namespace=production get svc app-lb -o {address}")).await;
    let services = kubectl.line("--namespace=production get svc").await;
    assert!(services.contains("LoadBalancer") && services.contains(&ip), "{services}");
    assert!(curl(&ip).await.contains("Version 1.0"));

    kubectl.line("--namespace=production apply -f manifests/lb/app-canary.yml").await;
    kubectl.line("--namespace=production rollout status deployment/kubeapp-canary").await;
    let mut seen = BTreeSet::new();
    for _ in 0..REQUESTS {
        let response = curl(&ip).await;
        let version = response.split("Version ").nth(1).and_then(|rest| rest.get(..3));
        seen.insert(version.unwrap_or_else(|| panic!("{response}")).to_owned());
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["1.0", "2.0"]);

    let promote = "--namespace=production set image deployment/kubeapp-production \
                   kubeapp=kubeapp:2.0";
    assert_eq!(kubectl.line(promote).await, "deployment.apps/kubeapp-production image updated\n");
    assert!(kubectl.line(rollout).await.ends_with(success));
    let delete = "--namespace=production delete deployment/kubeapp-canary";
    assert!(kubectl.line(delete).await.contains("deployment.apps \"kubeapp-canary\" deleted"));
    for _ in 0..20 {
        assert!(curl(&ip).await.contains("Version 2.0"));
    }
    assert!(kubectl.line("delete namespace production").await.contains("\"production\" deleted"));
    assert_eq!(kubectl.line("create namespace production").await, "namespace/production created\n");
    let empty = kubectl.try_line("--namespace=production get deploy,rs,pods,svc -o name", "").await;
    assert_eq!(empty.as_deref(), Ok(""));
}

#[tokio::test(flavor = "multi_thread")]
async fn related_kubectl_commands_succeed() {
    let Some((_cluster, kubectl)) = app_cluster().await else { return };
    kubectl.line("apply -f manifests/lb").await;
    for deployment in ["kubeapp-production", "kubeapp-canary"] {
        kubectl.line(&format!("rollout status deployment/{deployment}")).await;
    }
    for (line, expected) in [
        ("describe pod -l env=canary", "Started container kubeapp"),
        ("describe deployment kubeapp-production", "3 desired | 3 updated | 3 total | 3 available"),
        ("describe svc app-lb", "LoadBalancer Ingress:"),
        ("describe node node-1", "kubernetes.io/hostname=node-1"),
        ("logs deployment/kubeapp-canary", "kubeapp 2.0 listens"),
        ("diff -f manifests/lb/app-production.yml", ""),
        ("get all", "deployment.apps/kubeapp-production   3/3"),
        ("get deploy -o wide", "app=kubeapp,env=canary"),
        ("get deploy kubeapp-canary -o yaml", "image: kubeapp:2.0"),
        ("events", "Scaled up replica set"),
        ("wait --for=condition=Available deployment/kubeapp-canary", "condition met"),
        ("explain deployment.spec.replicas", "Number of desired pods."),
        ("explain deployment.spec.strategy.rollingUpdate", "maxSurge\t<IntOrString>"),
        ("api-resources", "deployments"),
        ("label deployment kubeapp-canary a=b", "labeled"),
        ("annotate deployment kubeapp-canary kubernetes.io/change-cause=why", "annotated"),
        ("rollout history deployment/kubeapp-canary", "why"),
        ("scale deployment/kubeapp-canary --replicas=2", "scaled"),
        ("rollout status deployment/kubeapp-canary", "successfully rolled out"),
        ("rollout restart deployment/kubeapp-canary", "restarted"),
        ("rollout status deployment/kubeapp-canary", "successfully rolled out"),
        ("set image deployment/kubeapp-canary kubeapp=kubeapp:1.0", "image updated"),
        ("rollout status deployment/kubeapp-canary", "successfully rolled out"),
        ("rollout undo deployment/kubeapp-canary", "rolled back"),
        ("rollout status deployment/kubeapp-canary", "successfully rolled out"),
        ("get deploy kubeapp-canary -o jsonpath={..image}", "kubeapp:2.0"),
        ("auth whoami", "kubernetes-admin"),
        ("auth can-i create deployments", "yes"),
        ("drain node-2 --force --ignore-daemonsets --timeout=60s", "node/node-2 drained"),
        ("uncordon node-2", "uncordoned"),
    ] {
        let output = kubectl.line(line).await;
        assert!(output.contains(expected), "kubectl {line}: {output}");
    }
}

/// kubectl 1.33 and later sends these in protobuf.
#[tokio::test(flavor = "multi_thread")]
async fn kubectl_create_creates_each_kind() {
    let cluster = fixture::cluster().await;
    let Some(kubectl) = Kubectl::new(&cluster).await else { return };
    for (line, created) in [
        ("create namespace shop", "namespace/shop"),
        ("create configmap settings --from-literal=a=b", "configmap/settings"),
        ("create secret generic keys --from-literal=a=b", "secret/keys"),
        ("create serviceaccount robot", "serviceaccount/robot"),
        ("create service loadbalancer lb --tcp=80:8080", "service/lb"),
        ("create deployment web --image=kubeapp:1.0 --replicas=0", "deployment.apps/web"),
        ("create ingress web --rule=foo.bar/*=web:80", "ingress.networking.k8s.io/web"),
        ("create job once --image=kubeapp:1.0", "job.batch/once"),
        ("run one --image=kubeapp:1.0", "pod/one"),
    ] {
        assert_eq!(kubectl.line(line).await, format!("{created} created\n"), "kubectl {line}");
    }
    let secret = kubectl.line("get secret keys -o jsonpath={.type},{.data.a}").await;
    assert_eq!(secret, "Opaque,Yg==");
    let ports = kubectl.line("get svc lb -o jsonpath={.spec.ports[0].targetPort}").await;
    assert_eq!(ports, "8080");
}
