//! Registry credentials: which objects contain them, and that nothing prints them.

use crate::{fault_injection, fixture::Fixture};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{Api, Client};
use labs::{event::Events, phases, run::Runner, selection::Selection};
use serde_json::json;
use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
};

const CONFIG: &str =
    r#"{"auths":{"registry.example":{"username":"somebody","password":"sesame-open"}}}"#;
/// The forms in which the password would show.
const PASSWORD_FORMS: [&str; 2] = ["sesame-open", "c2VzYW1lLW9wZW4"];

/// Asserts that the pods of a lab use the pull secret, and that the Secret exists while it runs.
async fn assert_pods_use_pull_secret(lab: &'static str) {
    let mut fixture = Fixture::new();
    fixture.environment.pull_secret = Some(file(&fixture));
    let found = Arc::new(Mutex::new(None));
    let put = found.clone();
    let run = fixture
        .run_with_fault(lab, |client| {
            fault_injection::once(
                client,
                |_: &Pod| true,
                async move |client: Client| {
                    let secrets: Api<Secret> = Api::namespaced(client.clone(), "production");
                    let secret = secrets.get("kubeapp-registry").await.expect("the Secret");
                    let pods: Api<Pod> = Api::namespaced(client, "production");
                    let pods = pods.list(&Default::default()).await.expect("pods").items;
                    let mut found = put.lock().expect("an unpoisoned lock");
                    *found = Some((secret, pods));
                },
            )
        })
        .await;
    // With a pull secret, the lab does not try whether the nodes can do without.
    let skipped: &[&str] = if lab == "phase2" { &["image-reachable"] } else { &[] };
    run.assert_outcomes(&[], skipped);
    let (secret, pods) = found.lock().expect("an unpoisoned lock").take().expect("pods ran");
    assert_eq!(secret.type_.as_deref(), Some("kubernetes.io/dockerconfigjson"));
    assert_eq!(secret.data.expect("data")[".dockerconfigjson"].0, CONFIG.as_bytes());
    for pod in pods {
        let spec = serde_json::to_value(pod.spec).expect("JSON");
        assert_eq!(spec["imagePullSecrets"], json!([{"name": "kubeapp-registry"}]), "{spec}");
    }
    if lab == "phase2" {
        let evidence = run.evidence("image-reachable");
        assert!(
            evidence.contains("the pull secret kubeapp-registry; with it, both started on"),
            "{evidence}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_manifests_use_the_pull_secret() {
    assert_pods_use_pull_secret("phase4").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_phase2_use_the_pull_secret() {
    assert_pods_use_pull_secret("phase2").await;
}

/// Neither events nor diagnostics may contain the credentials.
#[tokio::test(flavor = "multi_thread")]
async fn pull_secret_is_deleted_with_the_namespace_and_never_printed() {
    let path = "/spec/template/spec/containers/0/readinessProbe/httpGet/path";
    let mut fixture =
        Fixture::new().with_timeouts(3).set("lb/app-production.yml", path, json!("/nowhere"));
    fixture.environment.pull_secret = Some(file(&fixture));
    let cluster = fixture.cluster().await;
    let secrets: Api<Secret> = Api::namespaced(cluster.client(), "production");
    let failures = fixture.environment.kubeconfig.with_file_name("failures");
    let (mut printed, mut files) = (String::new(), String::new());
    for secret in [fixture.environment.pull_secret.clone(), None] {
        let (events, receiver) = Events::channel();
        fixture.environment.pull_secret = secret.clone();
        let runner = Runner {
            selection: Selection::default(),
            environment: Arc::new(fixture.environment.clone()),
            events,
            failures: Some(failures.clone()),
            keep: true,
            observe: false,
        };
        let lab = phases::find("phase4").expect("phase 4");
        runner.run(&[lab], std::future::pending()).await;
        drop(runner);
        for event in receiver.iter() {
            printed += &serde_json::to_string(&event).expect("JSON");
        }
        files += &read(&failures);
        let found = secrets.get_opt("kubeapp-registry").await.expect("a response");
        assert_eq!(found.is_some(), secret.is_some());
    }
    cluster.stop().await;
    assert!(files.contains("kubeapp-production"), "diagnostics were written");
    assert!(files.contains("kubeapp-registry"), "pods refer to the Secret");
    for word in PASSWORD_FORMS {
        assert!(!printed.contains(word) && !files.contains(word), "{word} is printed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn file_without_credentials_is_an_environment_error() {
    let mut fixture = Fixture::new();
    let file = file(&fixture);
    fs::write(&file, "sesame-open").expect("a file");
    fixture.environment.pull_secret = Some(file);
    let run = fixture.run_without_cluster("phase4").await;
    run.assert_environment_error("holds no registry's credentials");
}

fn file(fixture: &Fixture) -> std::path::PathBuf {
    let file = fixture.environment.kubeconfig.with_file_name("pull-secret.json");
    fs::write(&file, CONFIG).expect("a file");
    file
}

/// Reads all files below a folder.
fn read(folder: &Path) -> String {
    let entries = fs::read_dir(folder).expect("a folder").flatten().map(|entry| entry.path());
    let texts = entries.map(|path| {
        if path.is_dir() { read(&path) } else { fs::read_to_string(path).unwrap_or_default() }
    });
    texts.collect()
}
