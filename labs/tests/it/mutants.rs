//! The mutants of phases 0 to 4, each with the claims that must fail, and unmodified phases.

use crate::{
    archives::{self, mistagged},
    fake_app,
    fault_injection::{self, CANARY, PRODUCTION},
    fixture::Fixture,
};
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::{Pod, Service},
};
use kube::{Api, ResourceExt as _, api::PostParams};
use lab_environment::Image;
use labs::phases;
use serde_json::json;
use std::collections::BTreeSet;

mod gateway;
mod ingress;

mutants! {
    unmodified_phase3: "phase3" fails [], in Fixture::new();

    unmodified_phase4: "phase4" fails [], in Fixture::new();

    /// A cluster of a single node.
    single_node: "phase0" fails ["cluster-has-workers"], in Fixture::new().with_nodes(1);

    /// The binary built as 2.0 is 1.0.
    stale_build: "phase1" fails ["app-front-page", "app-version"],
        in Fixture::new().with_image(1, |canary, _| {
            let stable = archives::image("1.0");
            Image { binary: stable.binary, ..canary.clone() }
        });

    /// A script that responds as the app does but is never healthy.
    unhealthy_script: "phase1" fails ["app-health", "app-static"],
        in Fixture::new().with_image(1, |canary, folder| {
            Image { binary: fake_app::script(folder, &canary.version), ..canary.clone() }
        });

    /// The versions are built with different inputs.
    other_input_phase1: "phase1" fails ["app-differs-by-version"],
        in Fixture::new().with_image(1, |canary, _| {
            Image { build_input: "OTHER=2.0".into(), ..canary.clone() }
        });

    other_input_phase2: "phase2" fails ["image-version-argument"],
        in Fixture::new().with_image(1, |canary, _| {
            Image { build_input: "OTHER=2.0".into(), ..canary.clone() }
        });

    /// The image contains another file than the one built.
    other_binary: "phase2" fails ["image-entrypoint"],
        in Fixture::new().with_image(1, |canary, _| {
            let stable = archives::image("1.0");
            Image { binary: stable.binary, ..canary.clone() }
        });

    /// A second build that differs.
    not_reproducible: "phase2" fails ["image-reproducible"],
        in Fixture::new().with_image(1, |canary, _| {
            let stable = archives::image("1.0");
            Image { rebuilt: stable.archive, ..canary.clone() }
        });

    /// Both images contain an extra file.
    image_with_extra_file: "phase2" fails ["image-small"],
        in Fixture::new()
            .with_image(0, archives::with_extra_file)
            .with_image(1, archives::with_extra_file);

    /// The wrong build under the right name, in both builds.
    image_of_stable: "phase2" fails ["image-runs"],
        in Fixture::new().with_image(1, |canary, folder| {
            let stable = archives::image("1.0");
            let wrong = mistagged(canary, &stable, folder);
            Image { binary: stable.binary, rebuilt: wrong.archive.clone(), ..wrong }
        });

    /// An image that was never loaded.
    image_not_loaded: "phase2" fails ["image-reachable"],
        in Fixture::new().with_timeouts(12).with_image(1, |canary, _| {
            Image { name: "kubeapp:9.9".into(), ..canary.clone() }
        });

    /// Two replicas where the article has three.
    two_replicas: "phase3"
        fails ["rollout-completes"],
        in Fixture::new().with_timeouts(12).set("lb/app-production.yml", "/spec/replicas", json!(2));

    /// Another client changes the template while it rolls out, so that there are two replica sets.
    changed_while_rolling: "phase3" fails ["deployment-owns-replicaset"],
        // So that it still rolls when the change arrives.
        in Fixture::new().set("lb/app-production.yml", "/spec/minReadySeconds", json!(1)),
        while |client| fault_injection::once(
            client,
            |_: &ReplicaSet| true,
            |client| async {
                let mark = json!({"metadata": {"annotations": {"changed": "by another"}}});
                let patch = json!({"spec": {"template": mark}});
                fault_injection::patch_deployment(client, PRODUCTION, patch).await;
            },
        );

    /// Pods with a `nodeName` are not spread, and there is no scheduling event.
    one_node: "phase3" fails ["pods-spread", "events-tell"],
        in Fixture::new()
            .with_timeouts(12)
            .set("lb/app-production.yml", "/spec/template/spec/nodeName", json!("node-2"));

    /// The Service selects no pods.
    selector_misses: "phase3"
        fails ["lb-finds-pods"],
        in Fixture::new().with_timeouts(12).set("lb/app-lb.yml", "/spec/selector/app", json!("kubeap"));

    /// The target port is closed.
    wrong_port: "phase3"
        fails ["lb-gets-address"],
        in Fixture::new().with_timeouts(12).set("lb/app-lb.yml", "/spec/ports/0/targetPort", json!(9090));

    /// Session affinity keeps one client on one pod.
    pinned_phase3: "phase3" fails ["load-spreads"],
        in Fixture::new().with_timeouts(12).set("lb/app-lb.yml", "/spec/sessionAffinity", json!("ClientIP"));

    /// The Service ignores readiness.
    unready_published_phase3: "phase3" fails ["readiness-gates"],
        in Fixture::new()
            .with_timeouts(12)
            .set("lb/app-lb.yml", "/spec/publishNotReadyAddresses", json!(true));

    /// Production runs the canary's version.
    stable_is_canary: "phase3" fails ["stable-serves-all"],
        in Fixture::new().set(
            "lb/app-production.yml",
            "/spec/template/spec/containers/0/image",
            json!("kubeapp:2.0"),
        );

    /// An object of the same name exists in `default`.
    service_in_default: "phase3" fails ["namespace-holds"], in Fixture::new(), while |client| async move {
        let service = json!({
            "metadata": {"name": "app-lb"},
            "spec": {"ports": [{"port": 80}], "selector": {"app": "kubeapp"}},
        });
        let service: Service = serde_json::from_value(service).expect("a Service");
        let api: Api<Service> = Api::namespaced(client, "default");
        api.create(&PostParams::default(), &service).await.expect("a Service in default");
        std::future::pending().await
    };

    /// The replica count is lowered when a pod is deleted.
    not_healed: "phase3" fails ["self-heals"], in Fixture::new().with_timeouts(12), while |client| {
        fault_injection::once(
            client,
            |pod: &Pod| {
                pod.metadata.deletion_timestamp.is_some()
                    && pod.labels().get("env").is_some_and(|env| env == "production")
            },
            |client| async {
                let patch = json!({"spec": {"replicas": 2}});
                fault_injection::patch_deployment(client, PRODUCTION, patch).await;
            },
        )
    };

    /// Another controller, such as an autoscaler, sets the replicas.
    not_scaled: "phase3" fails ["scales"], in Fixture::new().with_timeouts(12), while |client| {
        fault_injection::once(
            client,
            |deployment: &Deployment| {
                fault_injection::production(deployment, |d| d.pointer("/spec/replicas") == Some(&json!(5)))
            },
            |client| async {
                let patch = json!({"spec": {"replicas": 4}});
                fault_injection::patch_deployment(client, PRODUCTION, patch).await;
            },
        )
    };

    /// Pods are replaced when their template is about to change.
    not_a_cutter: "phase3" fails ["template-is-a-cutter"], in Fixture::new(), while |client| {
        fault_injection::once(client, paused, |client| {
            fault_injection::delete_pods_now(client, "env=production")
        })
    };

    /// The selector matches the pods of one template only.
    selector_of_one_template: "phase3" fails ["service-outlives-pods"],
        in Fixture::new().with_timeouts(12), while |client| {
            fault_injection::once(client, paused, |client| async {
                let pods: Api<Pod> = Api::namespaced(client.clone(), "production");
                let pods = pods.list(&Default::default()).await.expect("pods");
                let hash = pods.items[0].labels()["pod-template-hash"].clone();
                let patch = json!({"spec": {"selector": {"pod-template-hash": hash}}});
                fault_injection::patch_service(client, "app-lb", patch).await;
            })
        };

    /// 2:1.
    two_to_one: "phase4" fails ["quarter-to-canary"],
        in Fixture::new()
            .with_precise_samples()
            .set("lb/app-production.yml", "/spec/replicas", json!(2));

    /// 4:1.
    four_to_one: "phase4" fails ["quarter-to-canary"],
        in Fixture::new()
            .with_precise_samples()
            .set("lb/app-production.yml", "/spec/replicas", json!(4));

    /// The canary is scaled along with production.
    canary_scaled_along: "phase4" fails ["ratio-follows-replicas"],
        in Fixture::new().with_precise_samples().with_timeouts(12), while |client| {
            fault_injection::once(
                client,
                |deployment: &Deployment| {
                    fault_injection::production(deployment, |d| {
                        d.pointer("/spec/replicas") == Some(&json!(9))
                    })
                },
                |client| fault_injection::insist_on_replicas(client, CANARY, 3),
            )
        };

    /// Session affinity keeps one client on one pod.
    pinned_phase4: "phase4"
        fails ["sessions-flip"],
        in Fixture::new().with_timeouts(12).set("lb/app-lb.yml", "/spec/sessionAffinity", json!("ClientIP"));

    /// The Service ignores readiness.
    unready_published_phase4: "phase4" fails ["bad-canary-contained"],
        in Fixture::new()
            .with_timeouts(12)
            .set("lb/app-lb.yml", "/spec/publishNotReadyAddresses", json!(true));

    /// The canary responds with 1.0: the wrong build under the right name.
    canary_of_stable_version: "phase4"
        fails ["sessions-flip"],
        in {
            let fixture = Fixture::new();
            let stable = fixture.environment.images[0].clone();
            fixture.with_image(1, |canary, folder| mistagged(canary, &stable, folder))
        };

    /// Two canaries: of five endpoints, not of four.
    two_canaries: "phase4" fails ["canary-joins-untouched"],
        in Fixture::new().set("lb/app-canary.yml", "/spec/replicas", json!(2));

    /// The Service is edited when the canary joins.
    service_edited: "phase4" fails ["canary-joins-untouched"],
        in Fixture::new(), while |client| fault_injection::once(
            client,
            |deployment: &Deployment| deployment.name_any() == CANARY,
            |client| async {
                let patch = json!({"spec": {"externalTrafficPolicy": "Local"}});
                fault_injection::patch_service(client, "app-lb", patch).await;
            },
        );

    /// Traffic is interrupted briefly while production is promoted.
    promotion_drops: "phase4" fails ["promotion-drops-nothing"], in Fixture::new(), while |client| {
        fault_injection::once(client, fault_injection::promoted, |client| {
            fault_injection::interrupt(client, "app-lb")
        })
    };

    /// The image is reverted when the canary is deleted for good.
    reverted_late: "phase4" fails ["canary-retires"], in Fixture::new().with_timeouts(12),
        during "delete the canary for good" |client, started| async move {
            if started {
                let containers = json!([{"name": "kubeapp", "image": "kubeapp:1.0"}]);
                let patch = json!({"spec": {"template": {"spec": {"containers": containers}}}});
                fault_injection::strategic_patch_deployment(client, PRODUCTION, patch).await;
            }
        };

    /// The canary has another `app` label, so the load balancer does not select it.
    canary_of_another_app: "phase4"
        fails ["canary-differs-by-env"],
        in Fixture::new()
            .with_timeouts(12)
            .set("lb/app-canary.yml", "/spec/selector/matchLabels/app", json!("canary"))
            .set("lb/app-canary.yml", "/spec/template/metadata/labels/app", json!("canary"));

    /// Traffic is interrupted briefly when the canary is deleted.
    ditch_drops: "phase4" fails ["canary-can-be-ditched"], in Fixture::new(), while |client| {
        fault_injection::interrupt_while_canary_ends(client)
    };

    /// All of production is deleted before new pods are created, and the canary is scaled to 0.
    promotion_recreates: "phase4"
        fails ["promotion-by-image"],
        in Fixture::new().set("lb/app-production.yml", "/spec/strategy", json!({"type": "Recreate"})),
        while |client| {
            fault_injection::once(client, fault_injection::promoted, |client| async {
                let patch = json!({"spec": {"replicas": 0}});
                fault_injection::patch_deployment(client, CANARY, patch).await;
            })
        };

    /// The image is reverted.
    promotion_reverted: "phase4" fails ["promotion-by-image"],
        in Fixture::new(), while |client| {
            fault_injection::once(client, fault_injection::promoted, |client| async {
                let containers = json!([{"name": "kubeapp", "image": "kubeapp:1.0"}]);
                let patch = json!({"spec": {"template": {"spec": {"containers": containers}}}});
                fault_injection::strategic_patch_deployment(client, PRODUCTION, patch).await;
            })
        };
}

/// Returns true if production's rollout is paused, which phase 3 does before it changes the template.
fn paused(deployment: &Deployment) -> bool {
    fault_injection::production(deployment, |d| d.pointer("/spec/paused") == Some(&json!(true)))
}

/// A program that does not listen ends the lab: the remaining claims cannot be checked.
#[tokio::test(flavor = "multi_thread")]
async fn program_that_exits_fails_only_app_port() {
    let fixture = Fixture::new().with_image(1, |canary, folder| {
        let binary = fake_app::executable(folder, "silent", "#!/bin/sh\nexit 1\n");
        Image { binary, ..canary.clone() }
    });
    let rest =
        ["app-front-page", "app-health", "app-version", "app-static", "app-differs-by-version"];
    let run = fixture.run_alone("phase1").await;
    run.assert_outcomes(&["app-port"], &rest);
    run.assert_fails(&["app-port"]);
}

/// An unreachable cluster yields no verdict but an exit code of its own.
#[tokio::test(flavor = "multi_thread")]
async fn unreachable_cluster_is_an_environment_error() {
    let fixture = Fixture::new().with_timeouts(2);
    let run = fixture.run_without_cluster("phase0").await;
    run.assert_outcomes(&[], &["cluster-answers", "cluster-has-workers"]);
    run.assert_environment_error("does not respond");
}

/// Claims that no mutant of the tables makes fail: the failure is one of the environment
/// (`unreachable_cluster_…`), or needs a test of another form (`program_that_exits_…`).
const WITHOUT_MUTANT: &[&str] = &["cluster-answers", "app-port"];

/// A claim that cannot fail is no evidence, so each needs a mutant that makes it fail.
#[test]
fn every_claim_is_failed_by_some_mutant() {
    let killed = &(&killed_claims() | &ingress::killed_claims()) | &gateway::killed_claims();
    let all = phases::ALL.iter().flat_map(|lab| lab.claims).map(|claim| claim.id);
    let missing: Vec<&str> = all.clone().filter(|id| !killed.contains(id)).collect();
    assert_eq!(missing, WITHOUT_MUTANT, "claims without a mutant");
    let all: BTreeSet<&str> = all.collect();
    let unknown: Vec<_> = killed.difference(&all).collect();
    assert!(unknown.is_empty(), "mutants name claims that no lab has: {unknown:?}");
}
