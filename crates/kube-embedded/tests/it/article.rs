//! The commands of the article as it types them, and those that one tries beside them, by the
//! kubectl of this machine on nodes that run pods.

use crate::kubectl::Kubectl;
use kube_embedded::{Cluster, Config};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const PATIENCE: Duration = Duration::from_secs(60);
/// Both versions answer within so many requests, or not at all: with a quarter of the requests for
/// one of them, a fair balancer misses it once in 10^37 runs.
const MANY: usize = 300;

/// A cluster that has the images, and its kubectl; `None`, with the reason printed, where there is
/// no kubectl or nobody built the images.
pub(crate) async fn lab() -> Option<(Cluster, Kubectl)> {
    let folder = std::env::var_os("CANARY_IMAGES").map(PathBuf::from).or_else(|| {
        // A test lies in TARGET/PROFILE/deps.
        Some(std::env::current_exe().ok()?.ancestors().nth(3)?.join("images"))
    });
    let archives: Vec<PathBuf> = ["kubeapp-1.0.tar", "kubeapp-2.0.tar"]
        .iter()
        .filter_map(|name| Some(folder.as_ref()?.join(name)))
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

/// A line as typed in a shell, without the quotes that it would need there. Manifests are those of
/// this repository.
async fn typed(kubectl: &Kubectl, line: &str) -> Result<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let manifest = |word: &str| root.join(word).to_string_lossy().into_owned();
    let words: Vec<String> = line
        .split_whitespace()
        .map(|word| if word.starts_with("manifests/") { manifest(word) } else { word.to_owned() })
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let run = tokio::time::timeout(PATIENCE, kubectl.run(&words, "")).await;
    run.unwrap_or_else(|_| panic!("kubectl {line} did not end"))
}

pub(crate) async fn say(kubectl: &Kubectl, line: &str) -> String {
    typed(kubectl, line).await.unwrap_or_else(|error| panic!("kubectl {line}: {error}"))
}

/// `curl http://IP/`.
async fn curl(ip: &str) -> String {
    let mut stream = TcpStream::connect((ip, 80)).await.unwrap();
    let request = format!("GET / HTTP/1.1\r\nHost: {ip}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn the_article_works_as_typed() {
    let Some((_cluster, kubectl)) = lab().await else { return };
    let kubectl = &kubectl;
    assert_eq!(say(kubectl, "create namespace production").await, "namespace/production created\n");
    let stable = "--namespace=production apply -f manifests/lb/app-production.yml";
    assert_eq!(say(kubectl, stable).await, "deployment.apps/kubeapp-production created\n");
    let rolled = "--namespace=production rollout status deployment/kubeapp-production";
    let done = "deployment \"kubeapp-production\" successfully rolled out\n";
    assert!(say(kubectl, rolled).await.ends_with(done));
    let pods = say(kubectl, "--namespace=production get pods -o wide --no-headers").await;
    let rows: Vec<Vec<&str>> = pods.lines().map(|line| line.split_whitespace().collect()).collect();
    assert!(rows.iter().all(|row| row[1..4] == ["1/1", "Running", "0"]), "{pods}");
    let nodes: BTreeSet<&str> = rows.iter().map(|row| row[6]).collect();
    assert_eq!((rows.len(), nodes.len()), (3, 3), "{pods}");
    let events = say(kubectl, "--namespace=production get events").await;
    for reason in ["ScalingReplicaSet", "SuccessfulCreate", "Scheduled", "Pulled", "Started"] {
        assert!(events.contains(reason), "{reason}: {events}");
    }
    let applied = say(kubectl, "--namespace=production apply -f manifests/lb/app-lb.yml").await;
    assert_eq!(applied, "service/app-lb created\n");
    let address = "jsonpath={.status.loadBalancer.ingress[0].ip}";
    let there = format!("--namespace=production wait --for={address} --timeout=60s svc/app-lb");
    say(kubectl, &there).await;
    let ip = say(kubectl, &format!("--namespace=production get svc app-lb -o {address}")).await;
    let services = say(kubectl, "--namespace=production get svc").await;
    assert!(services.contains("LoadBalancer") && services.contains(&ip), "{services}");
    assert!(curl(&ip).await.contains("Version 1.0"));

    say(kubectl, "--namespace=production apply -f manifests/lb/app-canary.yml").await;
    say(kubectl, "--namespace=production rollout status deployment/kubeapp-canary").await;
    let mut seen = BTreeSet::new();
    for _ in 0..MANY {
        let answer = curl(&ip).await;
        let version = answer.split("Version ").nth(1).and_then(|rest| rest.get(..3));
        seen.insert(version.unwrap_or_else(|| panic!("{answer}")).to_owned());
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["1.0", "2.0"]);

    let promote = "--namespace=production set image deployment/kubeapp-production \
                   kubeapp=kubeapp:2.0";
    assert_eq!(say(kubectl, promote).await, "deployment.apps/kubeapp-production image updated\n");
    assert!(say(kubectl, rolled).await.ends_with(done));
    let delete = "--namespace=production delete deployment/kubeapp-canary";
    assert!(say(kubectl, delete).await.contains("deployment.apps \"kubeapp-canary\" deleted"));
    for _ in 0..20 {
        assert!(curl(&ip).await.contains("Version 2.0"));
    }
    assert!(say(kubectl, "delete namespace production").await.contains("\"production\" deleted"));
    assert_eq!(say(kubectl, "create namespace production").await, "namespace/production created\n");
    let empty = typed(kubectl, "--namespace=production get deploy,rs,pods,svc -o name").await;
    assert_eq!(empty.as_deref(), Ok(""));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_beside_it_work_too() {
    let Some((_cluster, kubectl)) = lab().await else { return };
    let kubectl = &kubectl;
    say(kubectl, "apply -f manifests/lb").await;
    for deployment in ["kubeapp-production", "kubeapp-canary"] {
        say(kubectl, &format!("rollout status deployment/{deployment}")).await;
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
        let said = say(kubectl, line).await;
        assert!(said.contains(expected), "kubectl {line}: {said}");
    }
}

/// With kubectl 1.33 and later, these are sent in protobuf.
#[tokio::test(flavor = "multi_thread")]
async fn create_makes_every_kind_it_knows() {
    let cluster = crate::fixture::cluster().await;
    let Some(kubectl) = Kubectl::new(&cluster).await else { return };
    for (line, made) in [
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
        assert_eq!(say(&kubectl, line).await, format!("{made} created\n"), "kubectl {line}");
    }
    let secret = say(&kubectl, "get secret keys -o jsonpath={.type},{.data.a}").await;
    assert_eq!(secret, "Opaque,Yg==");
    let ports = say(&kubectl, "get svc lb -o jsonpath={.spec.ports[0].targetPort}").await;
    assert_eq!(ports, "8080");
}
