//! The wrong worlds of phase 5, and the right one.

use super::interrupt;
use crate::{meddle, world::World};
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

worlds! {
    right_phase5: "phase5" fails [], in World::new();

    /// The Ingress names its class as it was done before there was a field for it.
    class_in_annotation: "phase5" fails [],
        in World::new().of_class(IngressClass::Annotation("edge".into())),
        while |client| as_named(client, json!({"kubernetes.io/ingress.class": "edge"}), json!(null));

    class_in_field: "phase5" fails [],
        in World::new().of_class(IngressClass::Field("edge".into())),
        while |client| as_named(client, json!({}), json!("edge"));

    /// Production's Service is for the inside alone.
    no_node_port: "phase5" fails ["nodeport-in-range"],
        in World::new()
            .set("ingress/app-production.yml#Service", "/spec/type", json!("ClusterIP"));

    /// The canary's Service has no address of its own.
    headless: "phase5" fails ["service-internal-address"],
        in World::new()
            .set("ingress/app-canary.yml#Service", "/spec/type", json!("ClusterIP"))
            .set("ingress/app-canary.yml#Service", "/spec/clusterIP", json!("None"));

    /// Production's Service selects the canary's pod, too, as the load balancer does.
    service_of_both: "phase5"
        fails ["service-internal-address", "vhost-stable", "vhost-default", "sessions-hold",
            "stable-unaffected", "fanout-paths", "tls-terminates"],
        in World::new()
            .impatient(4)
            .set("ingress/app-production.yml#Service", "/spec/selector", json!({"app": "kubeapp"}));

    /// The Ingress has a rule in the place of a default backend.
    no_default_at_first: "phase5" fails ["default-backend-takes-all"],
        in World::new().set("ingress/app-ingress-production.yml", "/spec", json!({"rules": [{
            "host": "foo.bar",
            "http": {"paths": [{
                "path": "/", "pathType": "Prefix", "backend": backend(PRODUCTION_SERVICE),
            }]},
        }]}));

    /// The rules come without a default backend.
    no_default_beside_rules: "phase5" fails ["vhost-default"],
        in World::new().edit("ingress/app-ingress-canary.yml", |ingress| {
            ingress["spec"].as_object_mut().expect("a spec").remove("defaultBackend");
        });

    /// Readiness ignored, as long as nobody is ready.
    unready_published_phase5: "phase5" fails ["backends-healthy-first"],
        in World::new().set(
            "ingress/app-production.yml#Service",
            "/spec/publishNotReadyAddresses",
            json!(true),
        ), while |client| meddle::once(client, mended, |client| async {
            let patch = json!({"spec": {"publishNotReadyAddresses": false}});
            meddle::patch_service(client, PRODUCTION_SERVICE, patch).await;
        });

    /// Each host has the other's rule.
    hosts_swapped: "phase5"
        fails ["vhost-canary", "vhost-stable", "stable-unaffected", "ingress-promotes"],
        in World::new().impatient(4).edit("ingress/app-ingress-canary.yml", |ingress| {
            ingress["spec"]["rules"][0]["host"] = json!("foo.bar");
            ingress["spec"]["rules"][1]["host"] = json!("canary.foo.bar");
        });

    /// The canary's host is misspelt.
    canary_host_missing: "phase5" fails ["vhost-canary", "ingress-promotes"],
        in World::new()
            .impatient(4)
            .set("ingress/app-ingress-canary.yml", "/spec/rules/0/host", json!("canary.foo.baz"));

    /// The canary's rules touch stable.
    stable_host_to_canary: "phase5" fails ["vhost-stable", "stable-unaffected"],
        in World::new().impatient(4).set(
            "ingress/app-ingress-canary.yml",
            "/spec/rules/1/http/paths/0/backend",
            backend(CANARY_SERVICE),
        );

    /// Stable is gone for a moment when the rules come.
    rules_drop: "phase5" fails ["stable-unaffected"], in World::new(), while |client| {
        meddle::once(
            client,
            |ingress: &Ingress| {
                let rules = ingress.spec.as_ref().and_then(|spec| spec.rules.as_ref());
                rules.is_some_and(|rules| rules.len() == 2)
            },
            |client| interrupt(client, PRODUCTION_SERVICE),
        )
    };

    /// All of production goes before anything new comes.
    promotion_recreates_phase5: "phase5" fails ["ingress-promotes"],
        in World::new()
            .set("ingress/app-production.yml", "/spec/strategy", json!({"type": "Recreate"}));

    /// Somebody gives the canary's host all pods while production is promoted.
    canary_host_shared: "phase5" fails ["ingress-promotes"], in World::new(), while |client| {
        meddle::once(client, meddle::promoted, |client| async {
            let patch = json!({"spec": {"selector": {"app": "kubeapp", "env": null}}});
            meddle::patch_service(client, CANARY_SERVICE, patch).await;
        })
    };

    /// Each path leads to the other version.
    paths_swapped: "phase5" fails ["fanout-paths"],
        in World::new().impatient(4).edit("ingress/app-ingress-fanout.yml", |ingress| {
            let paths = &mut ingress["spec"]["rules"][0]["http"]["paths"];
            paths[0]["path"] = json!("/canary");
            paths[1]["path"] = json!("/stable");
        });

    /// The Ingress names a Secret that is not there.
    no_certificate: "phase5" fails ["tls-terminates"],
        in World::new()
            .impatient(4)
            .set("ingress/app-ingress-tls.yml", "/spec/tls/0/secretName", json!("nobodys"));

    /// Somebody puts another certificate for the same names into the Secret.
    other_certificate: "phase5" fails ["tls-terminates"],
        in World::new().impatient(4), while |client| {
            meddle::once(client, |secret: &Secret| secret.name_any() == "app-tls", |client| async {
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

fn backend(service: &str) -> Value {
    json!({"service": {"name": service, "port": {"number": 80}}})
}

/// Whether production's readiness probe asks for a page that is there.
fn mended(deployment: &Deployment) -> bool {
    let path = "/spec/template/spec/containers/0/readinessProbe/httpGet/path";
    meddle::production(deployment, |d| d.pointer(path) == Some(&json!("/health")))
}

/// Demands that the Ingress names its class like that whenever it is seen.
async fn as_named(client: kube::Client, annotations: Value, field: Value) {
    let named = |ingress: &Ingress| {
        let ingress = serde_json::to_value(ingress).expect("JSON");
        let found = ingress["metadata"]["annotations"].get("kubernetes.io/ingress.class");
        assert_eq!(found, annotations.get("kubernetes.io/ingress.class"), "{ingress}");
        assert_eq!(ingress["spec"]["ingressClassName"], field, "{ingress}");
        false
    };
    meddle::once(client, named, |_| std::future::pending()).await;
}
