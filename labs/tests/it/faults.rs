//! Faults of the environment rather than of a claim: the errors that the labs report, and that they leave
//! nothing behind and touch no foreign objects.

use crate::{fault_injection, fixture::Fixture};
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{ConfigMap, Event, Namespace, Node, Pod},
    networking::v1::{Ingress, IngressClass as Listed},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
    runtime::wait::await_condition,
};
use lab_environment::IngressClass;
use labs::{claim::Outcome, namespace::OwnedNamespace, run::Exit};
use serde_json::{Value, json};
use std::{fmt::Debug, fs, pin::pin, time::Duration};

const TIMEOUT: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_run_is_rejected_with_the_holder() {
    let fixture = Fixture::new();
    let cluster = fixture.cluster().await;
    let client = cluster.client();
    let other = OwnedNamespace::default();
    other.ensure(&client, TIMEOUT).await.expect("the first run's namespace");
    let lease: Api<Lease> = Api::namespaced(client.clone(), "default");
    let lease = lease.get("canary-labs").await.expect("the first run's lease");
    let holder = lease.spec.and_then(|spec| spec.holder_identity).expect("a holder");

    let run = fixture.run("phase4", std::future::pending()).await;
    run.assert_environment_error(&format!("other labs run on this cluster: {holder}"));
    assert_eq!(left(&client).await, (1, 1), "the objects of the first run still exist");
    other.release(&client, false, TIMEOUT).await.expect("the first run's end");
    assert_eq!(left(&client).await, (0, 0));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_namespace_is_not_touched() {
    let fixture = Fixture::new();
    let cluster = fixture.cluster().await;
    let client = cluster.client();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    create(&namespaces, json!({"metadata": {"name": "production"}})).await;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "production");
    create(&maps, json!({"metadata": {"name": "foreign"}, "data": {"to": "the user"}})).await;

    let run = fixture.run("phase4", std::future::pending()).await;
    run.assert_environment_error("exists and was not created by these labs");
    run.assert_environment_error("kubectl delete namespace production");
    assert!(run.claims(Outcome::Skipped).is_empty(), "one line says it all");
    assert!(!run.events().iter().any(|event| event.contains("lab-started")), "nothing was tried");
    let found = maps.get("foreign").await.expect("the object in the namespace");
    assert_eq!(found.data.unwrap_or_default()["to"], "the user");
    assert_eq!(left(&client).await, (1, 0), "the namespace stays, the lease is released");
    cluster.stop().await;
}

/// A suspended run must not delete the namespace that a later run has created, although the labels are the
/// same.
#[tokio::test(flavor = "multi_thread")]
async fn namespace_of_another_run_is_not_deleted() {
    let fixture = Fixture::new();
    let cluster = fixture.cluster().await;
    let client = cluster.client();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let pods: Api<Pod> = Api::namespaced(client.clone(), "production");
    for taken in [true, false] {
        let owned = OwnedNamespace::default();
        owned.ensure(&client, TIMEOUT).await.expect("a namespace of this run");
        namespaces.delete("production", &Default::default()).await.expect("its end");
        await_condition(namespaces.clone(), "production", |found: Option<&Namespace>| {
            found.is_none()
        })
        .await
        .expect("no namespace");
        let labels = json!({"app.kubernetes.io/managed-by": "canary-labs"});
        create(&namespaces, json!({"metadata": {"name": "production", "labels": labels}})).await;
        let idle = json!([{"name": "idle", "image": "kubeapp:1.0"}]);
        create(&pods, json!({"metadata": {"name": "foreign"}, "spec": {"containers": idle}})).await;
        if taken {
            take_over(&client).await;
        }
        let released = owned.release(&client, false, TIMEOUT).await.map_err(|e| e.to_string());
        let pod = pods.get("foreign").await.expect("the other run's pod");
        assert_eq!(pod.metadata.deletion_timestamp, None);
        assert_eq!(released.is_err_and(|why| why.contains("nothing was deleted")), taken);
        assert_eq!(left(&client).await, (1, usize::from(taken)), "the lease of another run stays");
        let leases: Api<Lease> = Api::namespaced(client.clone(), "default");
        _ = leases.delete("canary-labs", &Default::default()).await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn takeover_in_mid_phase_is_an_environment_error() {
    let fixture = Fixture::new().with_timeouts(5);
    let cluster = fixture.cluster().await;
    let canary = |pod: &Pod| pod.metadata.labels.as_ref().is_some_and(|l| l["env"] == "canary");
    let overtaking = fault_injection::once(cluster.client(), canary, async |client: Client| {
        take_over(&client).await;
        fault_injection::delete_pods_now(client, "app=kubeapp").await;
    });
    let run = tokio::select! {
        run = fixture.run("phase4", std::future::pending()) => run,
        () = overtaking => unreachable!("a fault must not end"),
    };
    run.assert_environment_error("another run has taken over this cluster");
    run.assert_environment_error("nothing was deleted");
    assert_eq!(left(&cluster.client()).await, (1, 1));
    cluster.stop().await;
}

/// Takes over the Lease, as another run does once it has expired.
async fn take_over(client: &Client) {
    let leases: Api<Lease> = Api::namespaced(client.clone(), "default");
    let patch = Patch::Merge(json!({"spec": {"holderIdentity": "another"}}));
    leases.patch("canary-labs", &PatchParams::default(), &patch).await.expect("the lease");
}

/// Waits that cannot succeed end early: here each has a timeout of an hour.
#[tokio::test(flavor = "multi_thread")]
async fn missing_image_ends_the_lab_early() {
    let image = "/spec/template/spec/containers/0/image";
    let fixture =
        Fixture::new().with_timeouts(3600).set("lb/app-canary.yml", image, json!("kubeapp:3.0"));
    let run = run_phase4_cleanly(&fixture).await;
    let evidence = run.evidence("canary-differs-by-env");
    assert!(evidence.contains("kubeapp:3.0"), "{evidence}");
    assert_eq!(run.exit(), Exit::Fails, "{}", run.errors());
    for text in ["waits for image", "kubeapp:3.0", "is not loaded", "kubeapp:1.0", "--images"] {
        run.assert_diagnosis("image", text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn crashing_pod_is_reported_with_its_last_log_line() {
    let port = json!([{"name": "PORT", "value": "eighty"}]);
    let env = "/spec/template/spec/containers/0/env";
    let fixture = Fixture::new().with_timeouts(3600).set("lb/app-production.yml", env, port);
    let run = run_phase4_cleanly(&fixture).await;
    run.assert_mistake(&[
        "does not stay up",
        "exit code 1",
        "last wrote: kubeapp 1.0: PORT=eighty",
    ]);
    run.assert_diagnosis("pod", "does not stay up");
}

/// The remaining claims could not be measured, so the lab ends.
#[tokio::test(flavor = "multi_thread")]
async fn crashing_canary_fails_its_claim_and_ends_the_lab() {
    let port = json!([{"name": "PORT", "value": "eighty"}]);
    let env = "/spec/template/spec/containers/0/env";
    let fixture = Fixture::new().with_timeouts(3600).set("lb/app-canary.yml", env, port);
    let run = run_phase4_cleanly(&fixture).await;
    assert_eq!(run.exit(), Exit::Fails);
    let evidence = run.evidence("canary-joins-untouched");
    assert!(evidence.contains("last wrote: kubeapp 2.0: PORT=eighty"), "{evidence}");
    assert_eq!(run.evidence("promotion-by-image"), "follows from canary-joins-untouched");
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_program_is_reported() {
    let command = "/spec/template/spec/containers/0/command";
    let fixture =
        Fixture::new().with_timeouts(3600).set("lb/app-production.yml", command, json!(["/ap"]));
    let run = run_phase4_cleanly(&fixture).await;
    run.assert_mistake(&["could not be started", "\"/ap\""]);
    run.assert_diagnosis("pod", "could not be started");
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_secret_is_reported() {
    let from = json!([{"secretRef": {"name": "keys"}}]);
    let env = "/spec/template/spec/containers/0/envFrom";
    let fixture = Fixture::new().with_timeouts(3600).set("lb/app-production.yml", env, from);
    let run = run_phase4_cleanly(&fixture).await;
    run.assert_mistake(&["CreateContainerConfigError", "keys"]);
    run.assert_diagnosis("pod", "keys");
}

#[tokio::test(flavor = "multi_thread")]
async fn ingress_rule_without_service_is_diagnosed() {
    let service = "/spec/rules/0/http/paths/0/backend/service/name";
    let fixture = Fixture::new().with_timeouts(12).set(
        "ingress/app-ingress-canary.yml",
        service,
        json!("missing"),
    );
    let run = fixture.run_alone("phase5").await;
    run.assert_fails(&["vhost-canary"]);
    let why = "app-ingress refers to a missing object: missing:80 for canary.foo.bar/";
    run.assert_diagnosis("route", why);
}

/// A missing class is reported at once, with the existing ones; an unserved class after the timeout.
#[tokio::test(flavor = "multi_thread")]
async fn unserved_ingress_class_is_an_environment_error() {
    let fixture =
        Fixture::new().with_timeouts(3600).with_ingress_class(IngressClass::Field("nginx".into()));
    let run = fixture.run_alone("phase5").await;
    run.assert_environment_error(
        "no controller serves the Ingress class `nginx`: `kubectl get ingressclass` lists `edge`",
    );

    let fixture =
        Fixture::new().with_timeouts(4).with_ingress_class(IngressClass::Annotation("gce".into()));
    let run = fixture.run_alone("phase5").await;
    for text in [
        "<pending>",
        "perhaps no controller serves the Ingress class `gce` of the annotation kubernetes.io/ingress.class",
        "`edge`",
    ] {
        run.assert_environment_error(text);
    }

    let fixture =
        Fixture::new().with_timeouts(4).with_ingress_class(IngressClass::Field("nginx".into()));
    let cluster = fixture.cluster().await;
    let classes: Api<Listed> = Api::all(cluster.client());
    let class =
        json!({"metadata": {"name": "nginx"}, "spec": {"controller": "k8s.io/ingress-nginx"}});
    let class: Listed = serde_json::from_value(class).expect("a class");
    classes.create(&PostParams::default(), &class).await.expect("an unserved class");
    // Its controller runs, and reports a warning.
    let warning = fault_injection::once(
        cluster.client(),
        |_: &Ingress| true,
        async |client: Client| {
            let events: Api<Event> = Api::namespaced(client, "production");
            let about =
                json!({"kind": "Ingress", "name": "app-ingress", "namespace": "production"});
            for (name, time, message) in
                [("a", "2026-01-02T00:00:00Z", "quota"), ("b", "2026-01-01T00:00:00Z", "old")]
            {
                let event = json!({"metadata": {"name": name}, "involvedObject": about, "type": "Warning",
                "reason": "Sync", "message": message, "lastTimestamp": time});
                create(&events, event).await;
            }
        },
    );
    let run = tokio::select! {
        run = fixture.run("phase5", std::future::pending()) => run,
        () = warning => unreachable!("a fault must not end"),
    };
    run.assert_environment_error("last warning event: Sync: quota; perhaps no controller serves");
    run.assert_environment_error("`nginx`, although it exists");

    // An address shows that the class is served, even if it does not resolve.
    let address = fault_injection::once(
        cluster.client(),
        |_: &Ingress| true,
        async |client: Client| {
            let ingresses: Api<Ingress> = Api::namespaced(client, "production");
            let status = json!({"loadBalancer": {"ingress": [{"hostname": "nowhere.invalid"}]}});
            let patch = Patch::Merge(json!({"status": status}));
            let params = PatchParams::default();
            ingresses.patch_status("app-ingress", &params, &patch).await.expect("an address");
        },
    );
    let run = tokio::select! {
        run = fixture.run("phase5", std::future::pending()) => run,
        () = address => unreachable!("a fault must not end"),
    };
    let errors = run.errors();
    assert!(errors.contains("nowhere.invalid cannot be resolved"), "{errors}");
    assert!(!errors.contains("no controller serves"), "{errors}");
    assert_eq!(left(&cluster.client()).await, (0, 0));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_of_another_architecture_is_rejected_before_anything_is_created() {
    let mut fixture = Fixture::new().with_timeouts(3600);
    let cluster = fixture.cluster().await;
    let nodes: Api<Node> = Api::all(cluster.client());
    let info = |node: Node| node.status.and_then(|status| status.node_info).expect("node info");
    let own = info(nodes.get("node-2").await.expect("a node")).architecture;
    let patch = json!({"status": {"nodeInfo": {"architecture": "riscv64"}}});
    nodes
        .patch_status("node-2", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .expect("a changed node");
    fixture.environment.architecture = Some(own.clone());
    for lab in ["phase2", "phase3", "phase4", "phase5"] {
        let run = fixture.run(lab, std::future::pending()).await;
        run.assert_environment_error(&format!("the images are for {own}, and their program"));
        run.assert_environment_error("cannot run on the nodes node-2 (riscv64)");
        assert_eq!(left(&cluster.client()).await, (0, 0));
    }
    fixture.environment.architecture = None;
    let run = fixture.run("phase4", std::future::pending()).await;
    run.assert_fails(&[]);
    cluster.stop().await;
}

/// The wait ends once the probe has failed conclusively for some time, or at its timeout.
#[tokio::test(flavor = "multi_thread")]
async fn unready_pod_is_reported_with_its_probe_failure() {
    let path = "/spec/template/spec/containers/0/readinessProbe/httpGet/path";
    let fixture =
        Fixture::new().with_timeouts(60).set("lb/app-production.yml", path, json!("/nowhere"));
    let run = run_phase4_cleanly(&fixture).await;
    run.assert_mistake(&["no rollout of kubeapp-production", "Readiness probe failed", "404"]);
    run.assert_diagnosis("readiness", "404");
    let fixture =
        Fixture::new().with_timeouts(4).set("lb/app-production.yml", path, json!("/nowhere"));
    let run = run_phase4_cleanly(&fixture).await;
    run.assert_mistake(&["no rollout of kubeapp-production within 4 s", "0 of 3", "404"]);
}

/// A wait of an hour ends when a node with pods of the lab is lost, and says which one.
#[tokio::test(flavor = "multi_thread")]
async fn lost_node_is_named_and_no_claim_fails_for_it() {
    let fixture = Fixture::new().with_timeouts(3600);
    let run = fixture
        .run_with_fault("phase4", |client| {
            let canary =
                |pod: &Pod| pod.metadata.labels.as_ref().is_some_and(|l| l["env"] == "canary");
            fault_injection::once(client, canary, async |client: Client| {
                let nodes: Api<Node> = Api::all(client.clone());
                create(&nodes, json!({"metadata": {"name": "node-x"}})).await;
                let containers = json!([{"name": "app", "image": "kubeapp:1.0"}]);
                let labels = json!({"app": "kubeapp", "env": "production"});
                let pod = json!({"metadata": {"name": "lost", "labels": labels},
                    "spec": {"nodeName": "node-x", "containers": containers}});
                create(&Api::<Pod>::namespaced(client, "production"), pod).await;
            })
        })
        .await;
    run.assert_environment_error("node node-x is not ready");
    assert!(run.claims(Outcome::Fails).is_empty());
}

/// A node that is ready and creates no sandbox ends a wait of an hour at the kubelet's second attempt.
#[tokio::test(flavor = "multi_thread")]
async fn node_that_creates_no_sandbox_is_named_and_no_claim_fails_for_it() {
    let name = "/spec/template/spec/nodeName";
    for lab in ["phase2", "phase3"] {
        let mut fixture = Fixture::new().with_timeouts(3600);
        if lab == "phase3" {
            fixture = fixture.set("lb/app-production.yml", name, json!("node-x"));
        }
        let cluster = fixture.cluster().await;
        let client = cluster.client();
        let nodes: Api<Node> = Api::all(client.clone());
        create(&nodes, json!({"metadata": {"name": "node-x"}})).await;
        let status = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let patch = Patch::Merge(&status);
        nodes.patch_status("node-x", &PatchParams::default(), &patch).await.expect("a node");
        let run = tokio::select! {
            run = fixture.run(lab, std::future::pending()) => run,
            () = fault_injection::broken_kubelet(client, "node-x") => unreachable!("a fault must not end"),
        };
        let why = "node node-x cannot create the sandbox of pod ";
        run.assert_environment_error(why);
        run.assert_environment_error("FailedCreatePodSandBox: no cgroup");
        run.assert_diagnosis("node", why);
        assert!(run.claims(Outcome::Fails).is_empty());
        cluster.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_manifest_is_reported_with_file_line_and_field() {
    for (right, wrong, text) in [
        ("  replicas: 1", "  replicas: one", "replicas"),
        ("  replicas: 1", "  replica: 1", "spec.replica: "),
        (
            "kind: Deployment",
            "kind: Deploymend",
            "kind: `Deploymend`, where the lab needs Deployment",
        ),
        ("spec:", "spec: ]", "not valid YAML"),
    ] {
        let fixture = Fixture::new();
        let path = fixture.environment.manifests.join("lb/app-canary.yml");
        let content = fs::read_to_string(&path).expect("the manifest");
        let line = 1 + content.lines().position(|line| line == right).expect("the line");
        fs::write(&path, content.replacen(right, wrong, 1)).expect("the changed manifest");
        let run = run_phase4_cleanly(&fixture).await;
        run.assert_mistake(&[&format!("app-canary.yml:{line}:"), text]);
        run.assert_diagnosis("manifest", text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupted_run_removes_namespace_and_lease() {
    let fixture = Fixture::new();
    let cluster = fixture.cluster().await;
    let client = cluster.client();
    let canary = |pod: &Pod| pod.metadata.labels.as_ref().is_some_and(|l| l["env"] == "canary");
    for at in 0..3 {
        let (interrupt, interrupted) = tokio::sync::oneshot::channel();
        let interrupted = async move { interrupted.await.expect("the moment") };
        let client = client.clone();
        let moment = async move {
            let act = |_| async move { _ = interrupt.send(()) };
            match at {
                // At once, when pods start, and during traffic.
                0 => act(client).await,
                1 => fault_injection::once(client, |_: &Pod| true, act).await,
                _ => fault_injection::once(client, canary, act).await,
            }
            std::future::pending::<()>().await
        };
        let mut moment = pin!(moment);
        let run = tokio::select! {
            run = fixture.run("phase4", interrupted) => run,
            () = &mut moment => unreachable!("a fault must not end"),
        };
        assert_eq!(run.exit(), Exit::Interrupted, "at {at}");
        let last = run.events().last().expect("events");
        assert!(last.contains("\"event\":\"run-ended\""), "{last}");
        assert_eq!(left(&cluster.client()).await, (0, 0), "at {at}");
    }
    cluster.stop().await;
}

/// Runs phase 4 on a cluster of its own and asserts that nothing is left on it.
async fn run_phase4_cleanly(fixture: &Fixture) -> crate::fixture::LabRun {
    let cluster = fixture.cluster().await;
    let run = fixture.run("phase4", std::future::pending()).await;
    assert_eq!(left(&cluster.client()).await, (0, 0), "a namespace or a lease is left");
    cluster.stop().await;
    run
}

/// Counts the labs' namespaces and Leases.
async fn left(client: &Client) -> (usize, usize) {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let leases: Api<Lease> = Api::namespaced(client.clone(), "default");
    let namespace = namespaces.get_opt("production").await.expect("a response");
    let lease = leases.get_opt("canary-labs").await.expect("a response");
    (usize::from(namespace.is_some()), usize::from(lease.is_some()))
}

async fn create<K>(api: &Api<K>, object: Value)
where
    K: serde::Serialize + serde::de::DeserializeOwned + Clone + Debug,
{
    let object = serde_json::from_value(object).expect("an object");
    api.create(&PostParams::default(), &object).await.expect("a created object");
}
