//! The mutants of phase 5, and the unmodified phase.

use crate::{fault_injection, fixture::Fixture};
use k8s_openapi::{
    ByteString,
    api::{apps::v1::Deployment, core::v1::Secret, networking::v1::Ingress},
};
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams},
};
use lab_environment::IngressClass;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const PRODUCTION_SERVICE: &str = "kubeapp-production-service";
const CANARY_SERVICE: &str = "kubeapp-canary-service";

mutants! {
    unmodified_phase5: "phase5" fails [], in Fixture::new();

    /// The Ingress names its class by annotation.
    class_in_annotation: "phase5" fails [],
        in Fixture::new().with_ingress_class(IngressClass::Annotation("edge".into())),
        while |client| assert_class(client, json!({"kubernetes.io/ingress.class": "edge"}), json!(null));

    class_in_field: "phase5" fails [],
        in Fixture::new().with_ingress_class(IngressClass::Field("edge".into())),
        while |client| assert_class(client, json!({}), json!("edge"));

    /// Production's Service has no node port.
    no_node_port: "phase5" fails ["nodeport-in-range"],
        in Fixture::new()
            .set("ingress/app-production.yml#Service", "/spec/type", json!("ClusterIP"));

    /// The canary's Service has no cluster IP.
    headless: "phase5" fails ["service-internal-address"],
        in Fixture::new()
            .set("ingress/app-canary.yml#Service", "/spec/type", json!("ClusterIP"))
            .set("ingress/app-canary.yml#Service", "/spec/clusterIP", json!("None"));

    /// Production's Service also selects the canary's pod, as the load balancer does.
    service_of_both: "phase5"
        fails ["service-internal-address"],
        in Fixture::new()
            .with_timeouts(12)
            .set("ingress/app-production.yml#Service", "/spec/selector", json!({"app": "kubeapp"}));

    /// The first Ingress has a rule instead of a default backend.
    no_default_at_first: "phase5" fails ["default-backend-takes-all"],
        in Fixture::new().set("ingress/app-ingress-production.yml", "/spec", json!({"rules": [{
            "host": "foo.bar",
            "http": {"paths": [{
                "path": "/", "pathType": "Prefix", "backend": backend(PRODUCTION_SERVICE),
            }]},
        }]}));

    /// The Ingress with rules has no default backend.
    no_default_beside_rules: "phase5" fails ["vhost-default"],
        in Fixture::new().edit("ingress/app-ingress-canary.yml", |ingress| {
            ingress["spec"].as_object_mut().expect("a spec").remove("defaultBackend");
        });

    /// The Service ignores readiness until the probe is fixed.
    unready_published_phase5: "phase5" fails ["backends-healthy-first"],
        in Fixture::new().set(
            "ingress/app-production.yml#Service",
            "/spec/publishNotReadyAddresses",
            json!(true),
        ), while |client| fault_injection::once(client, probe_is_fixed, |client| async {
            let patch = json!({"spec": {"publishNotReadyAddresses": false}});
            fault_injection::patch_service(client, PRODUCTION_SERVICE, patch).await;
        });

    /// The hosts are swapped.
    hosts_swapped: "phase5"
        fails ["stable-unaffected"],
        in Fixture::new().with_timeouts(12).edit("ingress/app-ingress-canary.yml", |ingress| {
            ingress["spec"]["rules"][0]["host"] = json!("foo.bar");
            ingress["spec"]["rules"][1]["host"] = json!("canary.foo.bar");
        });

    /// The canary's host is misspelled.
    canary_host_missing: "phase5" fails ["vhost-canary"],
        in Fixture::new()
            .with_timeouts(12)
            .set("ingress/app-ingress-canary.yml", "/spec/rules/0/host", json!("canary.foo.baz"));

    /// The rule of stable's host routes to the canary.
    stable_host_to_canary: "phase5" fails ["stable-unaffected"],
        in Fixture::new().with_timeouts(12).set(
            "ingress/app-ingress-canary.yml",
            "/spec/rules/1/http/paths/0/backend",
            backend(CANARY_SERVICE),
        );

    /// Stable's Service selects the canary's pod, too, while the hosts are sampled.
    stable_shared: "phase5" fails ["vhost-stable"], in Fixture::new().with_timeouts(12),
        during "send 500 requests to each host" |client, started| {
            share_pods(client, PRODUCTION_SERVICE, "production", started)
        };

    /// The canary's Service selects all pods while one client stays.
    session_shared: "phase5" fails ["sessions-hold"], in Fixture::new(),
        during "stay on each host" |client, started| {
            share_pods(client, CANARY_SERVICE, "canary", started)
        };

    /// Stable is interrupted briefly when the rules are added.
    rules_drop: "phase5" fails ["stable-unaffected"], in Fixture::new(), while |client| {
        fault_injection::once(
            client,
            |ingress: &Ingress| {
                let rules = ingress.spec.as_ref().and_then(|spec| spec.rules.as_ref());
                rules.is_some_and(|rules| rules.len() == 2)
            },
            |client| fault_injection::interrupt(client, PRODUCTION_SERVICE),
        )
    };

    /// All of production is deleted before new pods are created.
    promotion_recreates_phase5: "phase5" fails ["ingress-promotes"],
        in Fixture::new()
            .set("ingress/app-production.yml", "/spec/strategy", json!({"type": "Recreate"}));

    /// The canary's Service selects all pods while production is promoted.
    canary_host_shared: "phase5" fails ["ingress-promotes"], in Fixture::new(), while |client| {
        fault_injection::once(client, fault_injection::promoted, |client| async {
            let patch = json!({"spec": {"selector": {"app": "kubeapp", "env": null}}});
            fault_injection::patch_service(client, CANARY_SERVICE, patch).await;
        })
    };

    /// The paths are swapped.
    paths_swapped: "phase5" fails ["fanout-paths"],
        in Fixture::new().with_timeouts(12).edit("ingress/app-ingress-fanout.yml", |ingress| {
            let paths = &mut ingress["spec"]["rules"][0]["http"]["paths"];
            paths[0]["path"] = json!("/canary");
            paths[1]["path"] = json!("/stable");
        });

    /// The Ingress refers to a missing Secret.
    no_certificate: "phase5" fails ["tls-terminates"],
        in Fixture::new()
            .with_timeouts(12)
            .set("ingress/app-ingress-tls.yml", "/spec/tls/0/secretName", json!("nobodys"));

    /// The Secret's certificate is replaced by another for the same names.
    other_certificate: "phase5" fails ["tls-terminates"],
        in Fixture::new().with_timeouts(12), while |client| {
            fault_injection::once(client, |secret: &Secret| secret.name_any() == "app-tls", |client| async {
                let names = ["foo.bar", "canary.foo.bar"].map(str::to_owned);
                let other = rcgen::generate_simple_self_signed(names).expect("a certificate");
                let bytes = |pem: String| ByteString(pem.into_bytes());
                let data = json!({
                    "tls.crt": bytes(other.cert.pem()),
                    "tls.key": bytes(other.signing_key.serialize_pem()),
                });
                let api: Api<Secret> = Api::namespaced(client, "production");
                let patch = Patch::Merge(json!({"data": data}));
                let patched = api.patch("app-tls", &PatchParams::default(), &patch).await;
                patched.expect("a patched Secret");
            })
        };
}

/// Makes a Service select all pods, or again those of its version alone.
async fn share_pods(client: kube::Client, service: &str, env: &str, shared: bool) {
    let env = if shared { json!(null) } else { json!(env) };
    let patch = json!({"spec": {"selector": {"app": "kubeapp", "env": env}}});
    fault_injection::patch_service(client, service, patch).await;
}

fn backend(service: &str) -> Value {
    json!({"service": {"name": service, "port": {"number": 80}}})
}

/// Returns true if production's readiness probe has the right path.
fn probe_is_fixed(deployment: &Deployment) -> bool {
    let path = "/spec/template/spec/containers/0/readinessProbe/httpGet/path";
    fault_injection::production(deployment, |d| d.pointer(path) == Some(&json!("/health")))
}

/// Asserts that the Ingress names its class in this way whenever it changes.
async fn assert_class(client: kube::Client, annotations: Value, field: Value) {
    let check = |ingress: &Ingress| {
        let ingress = serde_json::to_value(ingress).expect("JSON");
        let found = ingress["metadata"]["annotations"].get("kubernetes.io/ingress.class");
        assert_eq!(found, annotations.get("kubernetes.io/ingress.class"), "{ingress}");
        assert_eq!(ingress["spec"]["ingressClassName"], field, "{ingress}");
        false
    };
    fault_injection::once(client, check, |_| std::future::pending()).await;
}
