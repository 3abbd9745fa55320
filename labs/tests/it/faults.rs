//! Faults of the world rather than of what it claims: what the labs say then, and that they leave
//! nothing behind and take nothing that is not theirs.

use crate::{meddle, world::World};
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
use labs::{namespace::Production, run::Exit};
use serde_json::{Value, json};
use std::{fmt::Debug, fs, pin::pin, time::Duration};

const PATIENCE: Duration = Duration::from_secs(20);

/// A run that finds another one at work leaves it alone and says who it is.
#[tokio::test(flavor = "multi_thread")]
async fn second_run() {
    let world = World::new();
    let cluster = world.cluster().await;
    let client = cluster.client();
    let other = Production::default();
    other.own(&client, PATIENCE).await.expect("the first run's namespace");
    let lease: Api<Lease> = Api::namespaced(client.clone(), "default");
    let lease = lease.get("canary-labs").await.expect("the first run's lease");
    let holder = lease.spec.and_then(|spec| spec.holder_identity).expect("a holder");

    let played = world.run("phase4", std::future::pending()).await;
    played.failed_for_the_environment(&format!("other labs run on this cluster: {holder}"));
    assert_eq!(left(&client).await, (1, 1), "what the first run has is still there");
    other.release(&client, false, PATIENCE).await.expect("the first run's end");
    assert_eq!(left(&client).await, (0, 0));
    cluster.stop().await;
}

/// A namespace of the article's name that somebody else made is not for the labs.
#[tokio::test(flavor = "multi_thread")]
async fn foreign_namespace() {
    let world = World::new();
    let cluster = world.cluster().await;
    let client = cluster.client();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    create(&namespaces, json!({"metadata": {"name": "production"}})).await;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "production");
    create(&maps, json!({"metadata": {"name": "dear"}, "data": {"to": "somebody"}})).await;

    let played = world.run("phase4", std::future::pending()).await;
    played.failed_for_the_environment("was not made by these labs, so they leave it alone");
    let found = maps.get("dear").await.expect("what was in the namespace");
    assert_eq!(found.data.unwrap_or_default()["to"], "somebody");
    assert_eq!(left(&client).await, (1, 0), "the namespace stays, the lease goes");
    cluster.stop().await;
}

/// A run that was away for so long that another has begun touches nothing of what that one made, though
/// the labels are the same.
#[tokio::test(flavor = "multi_thread")]
async fn another_runs_namespace() {
    let world = World::new();
    let cluster = world.cluster().await;
    let client = cluster.client();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let pods: Api<Pod> = Api::namespaced(client.clone(), "production");
    for taken in [true, false] {
        let run = Production::default();
        run.own(&client, PATIENCE).await.expect("a namespace of this run");
        namespaces.delete("production", &Default::default()).await.expect("its end");
        await_condition(namespaces.clone(), "production", |found: Option<&Namespace>| {
            found.is_none()
        })
        .await
        .expect("no namespace");
        let labels = json!({"app.kubernetes.io/managed-by": "canary-labs"});
        create(&namespaces, json!({"metadata": {"name": "production", "labels": labels}})).await;
        let idle = json!([{"name": "idle", "image": "kubeapp:1.0"}]);
        create(&pods, json!({"metadata": {"name": "dear"}, "spec": {"containers": idle}})).await;
        if taken {
            take_over(&client).await;
        }
        let released = run.release(&client, false, PATIENCE).await.map_err(|e| e.to_string());
        let pod = pods.get("dear").await.expect("the other run's pod");
        assert_eq!(pod.metadata.deletion_timestamp, None);
        assert_eq!(released.is_err_and(|why| why.contains("nothing was deleted")), taken);
        assert_eq!(left(&client).await, (1, usize::from(taken)), "a lease of another's stays");
        let leases: Api<Lease> = Api::namespaced(client.clone(), "default");
        _ = leases.delete("canary-labs", &Default::default()).await;
    }
    cluster.stop().await;
}

/// The same in the middle of a phase: what fails from then on is no claim's failure.
#[tokio::test(flavor = "multi_thread")]
async fn taken_over_in_mid_phase() {
    let world = World::new().impatient(5);
    let cluster = world.cluster().await;
    let canary = |pod: &Pod| pod.metadata.labels.as_ref().is_some_and(|l| l["env"] == "canary");
    let overtaking = meddle::once(cluster.client(), canary, async |client: Client| {
        take_over(&client).await;
        meddle::delete_pods_now(client, "app=kubeapp").await;
    });
    let played = tokio::select! {
        played = world.run("phase4", std::future::pending()) => played,
        () = overtaking => unreachable!("it waits for ever"),
    };
    played.failed_for_the_environment("another run has taken over this cluster");
    played.failed_for_the_environment("nothing was deleted");
    assert_eq!(left(&cluster.client()).await, (1, 1));
    cluster.stop().await;
}

/// As another run does it once the Lease has expired.
async fn take_over(client: &Client) {
    let leases: Api<Lease> = Api::namespaced(client.clone(), "default");
    let patch = Patch::Merge(json!({"spec": {"holderIdentity": "another"}}));
    leases.patch("canary-labs", &PatchParams::default(), &patch).await.expect("the lease");
}

/// Waits that can only end in vain end as soon as that is clear: here each may take an hour.
#[tokio::test(flavor = "multi_thread")]
async fn missing_image() {
    let image = "/spec/template/spec/containers/0/image";
    let world = World::new().impatient(3600).set("lb/app-canary.yml", image, json!("kubeapp:3.0"));
    let played = fails_cleanly(&world).await;
    for said in ["waits for image", "kubeapp:3.0", "is not loaded", "kubeapp:1.0", "--images"] {
        played.failed_for_the_environment(said);
    }
    played.blames("image: ");
}

/// A program that ends as soon as it starts is told with what it wrote last.
#[tokio::test(flavor = "multi_thread")]
async fn crashing_pod() {
    let port = json!([{"name": "PORT", "value": "eighty"}]);
    let env = "/spec/template/spec/containers/0/env";
    let world = World::new().impatient(3600).set("lb/app-production.yml", env, port);
    let played = fails_cleanly(&world).await;
    for said in ["does not stay up", "exit code 1", "last wrote: kubeapp 1.0: PORT=eighty"] {
        played.failed_for_the_environment(said);
    }
    played.blames("pod: ");
}

/// A canary that crashes fails its claim and ends the lab: what follows would measure nothing.
#[tokio::test(flavor = "multi_thread")]
async fn crashing_canary() {
    let port = json!([{"name": "PORT", "value": "eighty"}]);
    let env = "/spec/template/spec/containers/0/env";
    let world = World::new().impatient(3600).set("lb/app-canary.yml", env, port);
    let played = fails_cleanly(&world).await;
    assert_eq!(played.exit(), Exit::Fails);
    let evidence = played.evidence("canary-joins-untouched");
    assert!(evidence.contains("last wrote: kubeapp 2.0: PORT=eighty"), "{evidence}");
    assert_eq!(played.evidence("promotion-by-image"), "not reached");
}

/// The same for one that cannot be started.
#[tokio::test(flavor = "multi_thread")]
async fn program_not_there() {
    let command = "/spec/template/spec/containers/0/command";
    let world = World::new().impatient(3600).set("lb/app-production.yml", command, json!(["/ap"]));
    let played = fails_cleanly(&world).await;
    for said in ["could not be started", "\"/ap\""] {
        played.failed_for_the_environment(said);
    }
    played.blames("pod: ");
}

/// And for one that waits for a Secret that nobody made.
#[tokio::test(flavor = "multi_thread")]
async fn missing_secret() {
    let from = json!([{"secretRef": {"name": "keys"}}]);
    let env = "/spec/template/spec/containers/0/envFrom";
    let world = World::new().impatient(3600).set("lb/app-production.yml", env, from);
    let played = fails_cleanly(&world).await;
    for said in ["CreateContainerConfigError", "keys"] {
        played.failed_for_the_environment(said);
    }
    played.blames("pod: ");
}

/// An Ingress whose rule leads to a Service that is not there is named as what is at fault.
#[tokio::test(flavor = "multi_thread")]
async fn ingress_to_nowhere() {
    let service = "/spec/rules/0/http/paths/0/backend/service/name";
    let world =
        World::new().impatient(4).set("ingress/app-ingress-canary.yml", service, json!("nobody"));
    let played = world.play("phase5").await;
    played.fails(&["vhost-canary", "sessions-hold", "ingress-promotes"]);
    played.blames("ingress: app-ingress names what is not there: nobody:80 for canary.foo.bar/");
}

/// A class that the cluster does not know is told at once, with those that it knows; one that nobody
/// serves once there should have been an address.
#[tokio::test(flavor = "multi_thread")]
async fn class_of_nobody() {
    let world = World::new().impatient(3600).of_class(IngressClass::Field("nginx".into()));
    let played = world.play("phase5").await;
    played.failed_for_the_environment(
        "nobody serves the Ingress class `nginx`: `kubectl get ingressclass` lists `edge`",
    );

    let world = World::new().impatient(4).of_class(IngressClass::Annotation("gce".into()));
    let played = world.play("phase5").await;
    for said in [
        "<pending>",
        "perhaps nobody serves the Ingress class `gce` of the annotation kubernetes.io/ingress.class",
        "`edge`",
    ] {
        played.failed_for_the_environment(said);
    }

    let world = World::new().impatient(4).of_class(IngressClass::Field("nginx".into()));
    let cluster = world.cluster().await;
    let classes: Api<Listed> = Api::all(cluster.client());
    let class =
        json!({"metadata": {"name": "nginx"}, "spec": {"controller": "k8s.io/ingress-nginx"}});
    let class: Listed = serde_json::from_value(class).expect("a class");
    classes.create(&PostParams::default(), &class).await.expect("a class of nobody's");
    // Its controller is there, and says what it lacks.
    let complains = meddle::once(
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
    let played = tokio::select! {
        played = world.run("phase5", std::future::pending()) => played,
        () = complains => unreachable!("it waits for ever"),
    };
    played.failed_for_the_environment("last word on it: Sync: quota; perhaps nobody serves");
    played.failed_for_the_environment("`nginx`, though there is one of that name");

    // An address that leads nowhere was given by somebody.
    let named = meddle::once(
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
    let played = tokio::select! {
        played = world.run("phase5", std::future::pending()) => played,
        () = named => unreachable!("it waits for ever"),
    };
    let errors = played.errors();
    assert!(errors.contains("nowhere.invalid cannot be resolved"), "{errors}");
    assert!(!errors.contains("nobody serves"), "{errors}");
    assert_eq!(left(&cluster.client()).await, (0, 0));
    cluster.stop().await;
}

/// A node that cannot run the images' program is told before anything is made.
#[tokio::test(flavor = "multi_thread")]
async fn node_of_another_kind() {
    let mut world = World::new().impatient(3600);
    let cluster = world.cluster().await;
    let nodes: Api<Node> = Api::all(cluster.client());
    let info = |node: Node| node.status.and_then(|status| status.node_info).expect("node info");
    let own = info(nodes.get("node-2").await.expect("a node")).architecture;
    let patch = json!({"status": {"nodeInfo": {"architecture": "riscv64"}}});
    nodes
        .patch_status("node-2", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .expect("a changed node");
    world.environment.architecture = Some(own.clone());
    for lab in ["phase2", "phase3", "phase4", "phase5"] {
        let played = world.run(lab, std::future::pending()).await;
        played.failed_for_the_environment(&format!("the images are for {own}, and their program"));
        played.failed_for_the_environment("cannot run on the nodes node-2 (riscv64)");
        assert_eq!(left(&cluster.client()).await, (0, 0));
    }
    world.environment.architecture = None;
    let played = world.run("phase4", std::future::pending()).await;
    played.fails(&[]);
    cluster.stop().await;
}

/// A pod may get ready at any time, so this takes all the time there is; then the probe's words are
/// told.
#[tokio::test(flavor = "multi_thread")]
async fn never_ready() {
    let path = "/spec/template/spec/containers/0/readinessProbe/httpGet/path";
    let world = World::new().impatient(4).set("lb/app-production.yml", path, json!("/nowhere"));
    let played = fails_cleanly(&world).await;
    for said in
        ["no rollout of kubeapp-production within 4 s", "0 of 3", "Readiness probe failed", "404"]
    {
        played.failed_for_the_environment(said);
    }
    played.blames("readiness: ");
}

/// What is wrong with a manifest is told with file, line and field, and in the API's words.
#[tokio::test(flavor = "multi_thread")]
async fn malformed_manifests() {
    for (right, wrong, said) in [
        ("  replicas: 1", "  replicas: one", "replicas"),
        ("  replicas: 1", "  replica: 1", "unknown field \"spec.replica\""),
        ("kind: Deployment", "kind: Deploymend", "the cluster does not know Deploymend in apps/v1"),
        ("spec:", "spec: ]", "not valid YAML"),
    ] {
        let world = World::new();
        let path = world.environment.manifests.join("lb/app-canary.yml");
        let text = fs::read_to_string(&path).expect("our manifest");
        let line = 1 + text.lines().position(|line| line == right).expect("the line");
        fs::write(&path, text.replacen(right, wrong, 1)).expect("the changed manifest");
        let played = fails_cleanly(&world).await;
        played.failed_for_the_environment(&format!("app-canary.yml:{line}:"));
        played.failed_for_the_environment(said);
    }
}

/// Whenever a run is interrupted, it takes its namespace and its lease away.
#[tokio::test(flavor = "multi_thread")]
async fn interrupted() {
    let world = World::new();
    let cluster = world.cluster().await;
    let client = cluster.client();
    let canary = |pod: &Pod| pod.metadata.labels.as_ref().is_some_and(|l| l["env"] == "canary");
    for at in 0..3 {
        let (told, seen) = tokio::sync::oneshot::channel();
        let seen = async move { seen.await.expect("the moment") };
        let client = client.clone();
        let moment = async move {
            let tell = |_| async move { _ = told.send(()) };
            match at {
                // At once, when pods start, and when there is traffic.
                0 => tell(client).await,
                1 => meddle::once(client, |_: &Pod| true, tell).await,
                _ => meddle::once(client, canary, tell).await,
            }
            std::future::pending::<()>().await
        };
        let mut moment = pin!(moment);
        let played = tokio::select! {
            played = world.run("phase4", seen) => played,
            () = &mut moment => unreachable!("it waits for ever"),
        };
        assert_eq!(played.exit(), Exit::Interrupted, "at {at}");
        assert_eq!(left(&cluster.client()).await, (0, 0), "at {at}");
    }
    cluster.stop().await;
}

/// Plays phase 4 on a cluster of its own and demands that nothing is left on it.
async fn fails_cleanly(world: &World) -> crate::world::Played {
    let cluster = world.cluster().await;
    let played = world.run("phase4", std::future::pending()).await;
    assert_eq!(left(&cluster.client()).await, (0, 0), "a namespace or a lease is left");
    cluster.stop().await;
    played
}

/// How many namespaces of the labs' name, and how many leases of theirs, there are.
async fn left(client: &Client) -> (usize, usize) {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let leases: Api<Lease> = Api::namespaced(client.clone(), "default");
    let namespace = namespaces.get_opt("production").await.expect("an answer");
    let lease = leases.get_opt("canary-labs").await.expect("an answer");
    (usize::from(namespace.is_some()), usize::from(lease.is_some()))
}

async fn create<K>(api: &Api<K>, object: Value)
where
    K: serde::Serialize + serde::de::DeserializeOwned + Clone + Debug,
{
    let object = serde_json::from_value(object).expect("an object");
    api.create(&PostParams::default(), &object).await.expect("a created object");
}
