//! Mistakes that people make in manifests: for each, the layer at fault is named, the claim that it breaks
//! fails and the others follow from it, and the exit code is that of a failed claim. Each test prints the
//! time it took, with the timeouts of the embedded cluster.

use crate::fixture::Fixture;
use labs::{claim::Outcome, run::Exit};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Instant;

/// Defines a test for each mistake: a lab, the layer, a part of the reason, the claims that fail, and the
/// edit.
macro_rules! mistakes {
    ($($name:ident: $lab:literal $layer:literal $reason:literal fails $fails:expr, $edit:expr;)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let fixture: Fixture = ($edit)(Fixture::new().with_embedded_timeouts());
                check(stringify!($name), &fixture, $lab, ($layer, $reason), &$fails).await;
            }
        )*
    };
}

const PRODUCTION: &str = "lb/app-production.yml";
const CANARY: &str = "lb/app-canary.yml";
const BALANCER: &str = "lb/app-lb.yml";
const STABLE: &str = "ingress/app-production.yml";
const STABLE_SERVICE: &str = "ingress/app-production.yml#Service";
const CANARY_SERVICE: &str = "ingress/app-canary.yml#Service";
const RULES: &str = "ingress/app-ingress-canary.yml";
const FANOUT: &str = "ingress/app-ingress-fanout.yml";
const FIRST: &str = "ingress/app-ingress-production.yml";
const CONTAINER: &str = "/spec/template/spec/containers/0";

mistakes! {
    two_stable: "phase3" "replicas" "replicas: 2" fails ["rollout-completes"],
        |f: Fixture| f.set(PRODUCTION, "/spec/replicas", json!(2));
    two_stable_with_canary: "phase4" "replicas" "replicas: 2" fails ["quarter-to-canary"],
        |f: Fixture| f.with_precise_samples().set(PRODUCTION, "/spec/replicas", json!(2));
    two_canaries: "phase4" "replicas" "kubeapp-canary has `replicas: 2`" fails ["canary-joins-untouched"],
        |f: Fixture| f.set(CANARY, "/spec/replicas", json!(2));
    target_port: "phase3" "port" "target port 8081" fails ["lb-gets-address"],
        |f: Fixture| f.set(BALANCER, "/spec/ports/0/targetPort", json!(8081));
    target_port_with_canary: "phase4" "port" "target port 8081" fails ["canary-joins-untouched"],
        |f: Fixture| f.set(BALANCER, "/spec/ports/0/targetPort", json!(8081));
    target_port_by_unknown_name: "phase3" "port" "`web`" fails ["lb-gets-address"],
        |f: Fixture| f.set(BALANCER, "/spec/ports/0/targetPort", json!("web"));
    container_port_that_is_named: "phase3" "port" "8081" fails ["lb-gets-address"],
        |f: Fixture| f.set(PRODUCTION, &format!("{CONTAINER}/ports/0/containerPort"), json!(8081))
            .set(BALANCER, "/spec/ports/0/targetPort", json!("kubeapp"));
    service_port: "phase3" "port" "has no TCP port 80" fails ["lb-gets-address"],
        |f: Fixture| f.set(BALANCER, "/spec/ports/0/port", json!(8080));
    host: "phase5" "route" "canary.foo.baz" fails ["vhost-canary"],
        |f: Fixture| f.set(RULES, "/spec/rules/0/host", json!("canary.foo.baz"));
    surge_0_unavailable_3: "phase4" "strategy" "maxUnavailable: 3" fails ["promotion-by-image"],
        |f: Fixture| f.set(PRODUCTION, "/spec/strategy/rollingUpdate",
            json!({"maxSurge": 0, "maxUnavailable": 3}));
    recreate: "phase4" "strategy" "Recreate" fails ["promotion-by-image"],
        |f: Fixture| f.set(PRODUCTION, "/spec/strategy", json!({"type": "Recreate"}));
    canary_of_stable_image: "phase4" "image" "runs kubeapp:1.0" fails ["canary-differs-by-env"],
        |f: Fixture| f.set(CANARY, &format!("{CONTAINER}/image"), json!("kubeapp:1.0"));
    missing_image: "phase3" "image" "kubeapp:9.9" fails ["rollout-completes"],
        |f: Fixture| f.set(PRODUCTION, &format!("{CONTAINER}/image"), json!("kubeapp:9.9"));
    invalid_image_name: "phase3" "image" "KubeApp" fails ["rollout-completes"],
        |f: Fixture| f.set(PRODUCTION, &format!("{CONTAINER}/image"), json!("KubeApp:1.0"));
    canary_label: "phase4" "selector" "app=canary" fails ["canary-differs-by-env"],
        |f: Fixture| f.set(CANARY, "/spec/selector/matchLabels/app", json!("canary"))
            .set(CANARY, "/spec/template/metadata/labels/app", json!("canary"));
    canary_env: "phase4" "selector" "env=kanary" fails ["canary-joins-untouched"],
        |f: Fixture| f.set(CANARY, "/spec/selector/matchLabels/env", json!("kanary"))
            .set(CANARY, "/spec/template/metadata/labels/env", json!("kanary"));
    label_beside_the_selector: "phase3" "manifest" "selector" fails ["rollout-completes"],
        |f: Fixture| f.set(PRODUCTION, "/spec/template/metadata/labels/app", json!("kubeap"));
    unknown_field: "phase3" "manifest" "replica" fails ["rollout-completes"],
        |f: Fixture| f.replace(PRODUCTION, "  replicas: 3", "  replica: 3");
    indentation: "phase3" "manifest" "app-production.yml:" fails ["rollout-completes"],
        |f: Fixture| f.replace(PRODUCTION, "  replicas: 3", "   replicas: 3");
    indented_one_level_less: "phase4" "manifest" "app-canary.yml:" fails ["canary-differs-by-env"],
        |f: Fixture| f.replace(CANARY, "          readinessProbe:", "        readinessProbe:");
    tab: "phase3" "manifest" "app-lb.yml:" fails ["lb-finds-pods"],
        |f: Fixture| f.replace(BALANCER, "    app: kubeapp\n  ports", "\tapp: kubeapp\n  ports");
    other_name: "phase3" "manifest" "kubeapp-prod" fails ["rollout-completes"],
        |f: Fixture| f.set(PRODUCTION, "/metadata/name", json!("kubeapp-prod"));
    other_namespace: "phase3" "manifest" "namespace" fails ["rollout-completes"],
        |f: Fixture| f.set(PRODUCTION, "/metadata/namespace", json!("prod"));
    old_api_version: "phase5" "manifest" "extensions/v1beta1" fails ["backends-healthy-first"],
        |f: Fixture| f.set(FIRST, "/apiVersion", json!("extensions/v1beta1"));
    selector: "phase3" "selector" "app=kubeap`" fails ["lb-finds-pods"],
        |f: Fixture| f.set(BALANCER, "/spec/selector/app", json!("kubeap"));
    selector_of_stable_alone: "phase4" "selector" "env=production" fails ["canary-joins-untouched"],
        |f: Fixture| f.set(BALANCER, "/spec/selector/env", json!("production"));
    readiness_path: "phase3" "readiness" "404" fails ["rollout-completes"],
        |f: Fixture| f.set(PRODUCTION, &format!("{CONTAINER}/readinessProbe/httpGet/path"), json!("/healthz"));
    readiness_port: "phase3" "readiness" "refused" fails ["rollout-completes"],
        |f: Fixture| f.set(PRODUCTION, &format!("{CONTAINER}/readinessProbe/httpGet/port"), json!(8081));
    port_of_the_app: "phase3" "readiness" "refused" fails ["rollout-completes"],
        |f: Fixture| f.set(PRODUCTION, &format!("{CONTAINER}/env"), json!([{"name": "PORT", "value": "9090"}]));
    resources: "phase3" "schedule" "cpu" fails ["rollout-completes"],
        |f: Fixture| f.set(PRODUCTION, &format!("{CONTAINER}/resources"), json!({"requests": {"cpu": "500"}}));
    node_selector: "phase3" "schedule" "no node" fails ["rollout-completes"],
        |f: Fixture| f.set(PRODUCTION, "/spec/template/spec/nodeSelector", json!({"disk": "ssd"}));
    node_that_does_not_exist: "phase3" "schedule" "node-9" fails ["rollout-completes"],
        |f: Fixture| f.set(PRODUCTION, "/spec/template/spec/nodeName", json!("node-9"));
    one_node: "phase3" "schedule" "nodeName: node-2" fails ["pods-spread", "events-tell"],
        |f: Fixture| f.set(PRODUCTION, "/spec/template/spec/nodeName", json!("node-2"));
    command: "phase3" "pod" "/ap" fails ["rollout-completes"],
        |f: Fixture| f.set(PRODUCTION, &format!("{CONTAINER}/command"), json!(["/ap"]));
    service_account: "phase3" "pod" "nobody" fails ["rollout-completes"],
        |f: Fixture| f.set(PRODUCTION, "/spec/template/spec/serviceAccountName", json!("nobody"));
    config_map: "phase3" "pod" "missing-settings" fails ["rollout-completes"],
        |f: Fixture| f
            .set(PRODUCTION, "/spec/template/spec/volumes",
                json!([{"name": "v", "configMap": {"name": "missing-settings"}}]))
            .set(PRODUCTION, &format!("{CONTAINER}/volumeMounts"), json!([{"name": "v", "mountPath": "/v"}]));
    cluster_ip: "phase3" "load-balancer" "ClusterIP" fails ["lb-gets-address"],
        |f: Fixture| f.set(BALANCER, "/spec/type", json!("ClusterIP"));
    affinity: "phase4" "load-balancer" "ClientIP" fails ["sessions-flip"],
        |f: Fixture| f.set(BALANCER, "/spec/sessionAffinity", json!("ClientIP"));
    unready_endpoints: "phase3" "endpoints" "publishNotReadyAddresses" fails ["readiness-gates"],
        |f: Fixture| f.set(BALANCER, "/spec/publishNotReadyAddresses", json!(true));
    stable_selector: "phase5" "selector" "kubeap`" fails ["backends-healthy-first"],
        |f: Fixture| f.set(STABLE_SERVICE, "/spec/selector", json!({"app": "kubeap"}));
    canary_selector: "phase5" "selector" "kubeapp-canary-service" fails ["service-internal-address"],
        |f: Fixture| f.set(CANARY_SERVICE, "/spec/selector/env", json!("canari"));
    canary_target_port: "phase5" "port" "8081" fails ["vhost-canary"],
        |f: Fixture| f.set(CANARY_SERVICE, "/spec/ports/0/targetPort", json!(8081));
    readiness_behind_the_ingress: "phase5" "readiness" "404" fails ["backends-healthy-first"],
        |f: Fixture| f.set(STABLE, &format!("{CONTAINER}/readinessProbe/httpGet/path"), json!("/up"));
    ingress_class: "phase5" "route" "`egde`" fails ["backends-healthy-first"],
        |f: Fixture| f.set(FIRST, "/spec/ingressClassName", json!("egde"));
    backend_name: "phase5" "route" "kubeapp-canari-service:80" fails ["vhost-canary"],
        |f: Fixture| f.set(RULES, "/spec/rules/0/http/paths/0/backend/service/name",
            json!("kubeapp-canari-service"));
    backend_port: "phase5" "route" "kubeapp-canary-service:81" fails ["vhost-canary"],
        |f: Fixture| f.set(RULES, "/spec/rules/0/http/paths/0/backend/service/port/number", json!(81));
    exact_path: "phase5" "route" "(Exact)" fails ["fanout-paths"],
        |f: Fixture| f.set(FANOUT, "/spec/rules/0/http/paths/1/pathType", json!("Exact"));
    swapped_paths: "phase5" "route" "not to kubeapp" fails ["fanout-paths"],
        |f: Fixture| f.edit(FANOUT, |ingress| {
            ingress["spec"]["rules"][0]["http"]["paths"][0]["path"] = json!("/canary");
            ingress["spec"]["rules"][0]["http"]["paths"][1]["path"] = json!("/stable");
        });
    no_default_backend: "phase5" "route" "no default backend" fails ["vhost-default"],
        |f: Fixture| f.edit(RULES, |ingress| {
            ingress["spec"].as_object_mut().expect("a spec").remove("defaultBackend");
        });
    tls_secret: "phase5" "route" "Secret" fails ["tls-terminates"],
        |f: Fixture| f.set("ingress/app-ingress-tls.yml", "/spec/tls/0/secretName", json!("other"));
}

async fn check(
    name: &str,
    fixture: &Fixture,
    lab: &'static str,
    (layer, reason): (&str, &str),
    fails: &[&str],
) {
    let cluster = fixture.cluster().await;
    let started = Instant::now();
    let run = fixture.run(lab, std::future::pending()).await;
    let seconds = started.elapsed().as_secs_f64();
    cluster.stop().await;
    let first = run.events().iter().find_map(|event| {
        let event: Value = serde_json::from_str(event).expect("JSON");
        (event["event"] == "diagnosis").then(|| event["at"].as_f64().unwrap_or_default())
    });
    println!(
        "mistake {name}: named after {:.1} s, run of {seconds:.1} s",
        first.unwrap_or(f64::NAN)
    );
    run.assert_fails(fails);
    assert_eq!(run.exit(), Exit::Fails);
    run.assert_diagnosis(layer, reason);
    // The layer is named before the first claim that fails for it.
    let position = |text: &str| run.events().iter().position(|event| event.contains(text));
    assert!(position("\"diagnosis\"") < position("\"outcome\":\"fails\""));
    let failed: BTreeSet<&str> = run.claims(Outcome::Fails);
    assert_eq!(failed, fails.iter().copied().collect());
}
