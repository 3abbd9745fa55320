//! Credentials for a registry: where they are on the cluster, and where they are not.

use crate::{meddle, world::World};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{Api, Client};
use labs::{event::Events, lab::LABS, run::Runner};
use serde_json::json;
use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
};

const CONFIG: &str =
    r#"{"auths":{"registry.example":{"username":"somebody","password":"sesame-open"}}}"#;
/// Forms in which the password would show.
const TELLING: [&str; 2] = ["sesame-open", "c2VzYW1lLW9wZW4"];

/// What a pod is allowed to pull with, and the Secret that holds it, as seen while a phase runs.
async fn seen(lab: &'static str) {
    let mut world = World::new();
    world.environment.pull_secret = Some(file(&world));
    let found = Arc::new(Mutex::new(None));
    let put = found.clone();
    let played = world
        .play_while(lab, |client| {
            meddle::once(
                client,
                |_: &Pod| true,
                async move |client: Client| {
                    let secrets: Api<Secret> = Api::namespaced(client.clone(), "production");
                    let secret = secrets.get("kubeapp-registry").await.expect("the Secret");
                    let pods: Api<Pod> = Api::namespaced(client, "production");
                    let pods = pods.list(&Default::default()).await.expect("pods").items;
                    let mut found = put.lock().expect("nobody panicked");
                    *found = Some((secret, pods));
                },
            )
        })
        .await;
    // What the nodes can do without is not tried then.
    let skipped: &[&str] = if lab == "phase2" { &["image-reachable"] } else { &[] };
    played.ends(&[], skipped);
    let (secret, pods) = found.lock().expect("nobody panicked").take().expect("pods ran");
    assert_eq!(secret.type_.as_deref(), Some("kubernetes.io/dockerconfigjson"));
    assert_eq!(secret.data.expect("data")[".dockerconfigjson"].0, CONFIG.as_bytes());
    for pod in pods {
        let spec = serde_json::to_value(pod.spec).expect("JSON");
        assert_eq!(spec["imagePullSecrets"], json!([{"name": "kubeapp-registry"}]), "{spec}");
    }
    if lab == "phase2" {
        let evidence = played.evidence("image-reachable");
        assert!(
            evidence.contains("the pull secret kubeapp-registry; with it, both started on"),
            "{evidence}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_manifests_pull_with_it() {
    seen("phase4").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_phase2_pull_with_it() {
    seen("phase2").await;
}

/// The namespace of an earlier run goes with the Secret that was in it, and nothing tells of it: no
/// event, and no file of a lab that went wrong.
#[tokio::test(flavor = "multi_thread")]
async fn it_goes_with_the_namespace_and_is_never_told() {
    let path = "/spec/template/spec/containers/0/readinessProbe/httpGet/path";
    let mut world = World::new().impatient(3).set("lb/app-production.yml", path, json!("/nowhere"));
    world.environment.pull_secret = Some(file(&world));
    let cluster = world.cluster().await;
    let secrets: Api<Secret> = Api::namespaced(cluster.client(), "production");
    let failures = world.environment.kubeconfig.with_file_name("failures");
    let (mut told, mut files) = (String::new(), String::new());
    for secret in [world.environment.pull_secret.clone(), None] {
        let (events, receiver) = Events::channel();
        world.environment.pull_secret = secret.clone();
        let runner = Runner {
            environment: Arc::new(world.environment.clone()),
            events,
            failures: Some(failures.clone()),
            keep: true,
        };
        let lab = LABS.iter().find(|lab| lab.name == "phase4").expect("phase 4");
        runner.run(&[lab], std::future::pending()).await;
        drop(runner);
        for event in receiver.iter() {
            told += &serde_json::to_string(&event).expect("JSON");
        }
        files += &read(&failures);
        let found = secrets.get_opt("kubeapp-registry").await.expect("an answer");
        assert_eq!(found.is_some(), secret.is_some());
    }
    cluster.stop().await;
    assert!(files.contains("kubeapp-production"), "the folder is there, or this proves nothing");
    assert!(files.contains("kubeapp-registry"), "pods name it");
    for word in TELLING {
        assert!(!told.contains(word) && !files.contains(word), "{word} is told");
    }
}

/// A file that is none is named, with what should be in it, and not shown.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_without_credentials_ends_the_run() {
    let mut world = World::new();
    let file = file(&world);
    fs::write(&file, "sesame-open").expect("a file");
    world.environment.pull_secret = Some(file);
    let played = world.play_without_cluster("phase4").await;
    played.failed_for_the_environment("holds no registry's credentials");
}

fn file(world: &World) -> std::path::PathBuf {
    let file = world.environment.kubeconfig.with_file_name("pull-secret.json");
    fs::write(&file, CONFIG).expect("a file");
    file
}

/// All that is below a folder.
fn read(folder: &Path) -> String {
    let entries = fs::read_dir(folder).expect("a folder").flatten().map(|entry| entry.path());
    let texts = entries.map(|path| {
        if path.is_dir() { read(&path) } else { fs::read_to_string(path).unwrap_or_default() }
    });
    texts.collect()
}
