//! The wrong worlds, each with the claims that must fail in it, and the right one.

use crate::{
    archives::{self, mistagged},
    fake,
    meddle::{self, CANARY, PRODUCTION},
    world::World,
};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, Service},
};
use kube::{Api, Client, ResourceExt as _, api::PostParams};
use lab_environment::Image;
use labs::lab::LABS;
use serde_json::json;
use std::collections::BTreeSet;

/// A test for each world, and the table of what fails where.
macro_rules! worlds {
    ($($(#[doc = $doc:literal])* $name:ident: $lab:literal fails $fails:expr,
        in $world:expr $(, while $meddle:expr)?;)*) => {
        $(
            $(#[doc = $doc])*
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let fails: &[&str] = &$fails;
                let world: World = $world;
                worlds!(@play world, $lab $(, $meddle)?).await.fails(fails);
            }
        )*

        /// Each claim that some world makes fail.
        pub(super) fn proved() -> BTreeSet<&'static str> {
            let mut proved = BTreeSet::new();
            $(proved.extend::<&[&str]>(&$fails);)*
            proved
        }
    };
    (@play $world:ident, $lab:literal) => { $world.play($lab) };
    (@play $world:ident, $lab:literal, $meddle:expr) => { $world.play_while($lab, $meddle) };
}

// Below the macro, which it uses.
mod ingress;

worlds! {
    right_phase3: "phase3" fails [], in World::new();

    right_phase4: "phase4" fails [], in World::new();

    /// A cluster of a single node.
    single_node: "phase0" fails ["cluster-has-workers"], in World::new().nodes(1);

    /// The program that was built as 2.0 is 1.0.
    stale_build: "phase1" fails ["app-front-page", "app-version"],
        in World::new().with_image(1, |canary, _| {
            let stable = archives::image("1.0");
            Image { binary: stable.binary, ..canary.clone() }
        });

    /// A program that answers as the app does, except that it is never healthy, and that is a script.
    unhealthy_script: "phase1" fails ["app-health", "app-static"],
        in World::new().with_image(1, |canary, folder| {
            Image { binary: fake::script(folder, &canary.version), ..canary.clone() }
        });

    /// The versions are built with different inputs.
    other_input_phase1: "phase1" fails ["app-differs-by-version"],
        in World::new().with_image(1, |canary, _| {
            Image { build_input: "OTHER=2.0".into(), ..canary.clone() }
        });

    other_input_phase2: "phase2" fails ["image-version-argument"],
        in World::new().with_image(1, |canary, _| {
            Image { build_input: "OTHER=2.0".into(), ..canary.clone() }
        });

    /// The image holds another file than was built.
    other_binary: "phase2" fails ["image-entrypoint"],
        in World::new().with_image(1, |canary, _| {
            let stable = archives::image("1.0");
            Image { binary: stable.binary, ..canary.clone() }
        });

    /// A second build that differs.
    not_reproducible: "phase2" fails ["image-reproducible"],
        in World::new().with_image(1, |canary, _| {
            let stable = archives::image("1.0");
            Image { rebuilt: stable.archive, ..canary.clone() }
        });

    /// Both images hold another file beside the app.
    image_with_more: "phase2" fails ["image-small"],
        in World::new()
            .with_image(0, archives::with_more)
            .with_image(1, archives::with_more);

    /// The wrong build under the right name, both times.
    image_of_stable: "phase2" fails ["image-runs", "image-version-argument"],
        in World::new().with_image(1, |canary, folder| {
            let stable = archives::image("1.0");
            let wrong = mistagged(canary, &stable, folder);
            Image { binary: stable.binary, rebuilt: wrong.archive.clone(), ..wrong }
        });

    /// An image that was never loaded.
    image_not_loaded: "phase2" fails ["image-reachable", "image-runs", "image-version-argument"],
        in World::new().impatient(8).with_image(1, |canary, _| {
            Image { name: "kubeapp:9.9".into(), ..canary.clone() }
        });

    /// Two replicas where the article has three.
    two_replicas: "phase3"
        fails ["rollout-completes", "deployment-owns-replicaset", "self-heals"],
        in World::new().impatient(5).set("lb/app-production.yml", "/spec/replicas", json!(2));

    /// Pods that choose their node themselves are not spread, and nobody scheduled them.
    one_node: "phase3" fails ["pods-spread", "events-tell"],
        in World::new()
            .impatient(5)
            .set("lb/app-production.yml", "/spec/template/spec/nodeName", json!("node-2"));

    /// A selector that misses.
    selector_misses: "phase3"
        fails ["lb-gets-address", "lb-finds-pods", "stable-serves-all", "load-spreads",
            "readiness-gates", "service-outlives-pods"],
        in World::new().impatient(4).set("lb/app-lb.yml", "/spec/selector/app", json!("kubeap"));

    /// A target port at which nobody listens.
    wrong_port: "phase3"
        fails ["lb-gets-address", "stable-serves-all", "load-spreads", "readiness-gates",
            "service-outlives-pods"],
        in World::new().impatient(4).set("lb/app-lb.yml", "/spec/ports/0/targetPort", json!(9090));

    /// One client stays with one pod, as with keep-alive.
    pinned_phase3: "phase3" fails ["load-spreads"],
        in World::new().impatient(5).set("lb/app-lb.yml", "/spec/sessionAffinity", json!("ClientIP"));

    /// Readiness ignored.
    unready_published_phase3: "phase3" fails ["readiness-gates"],
        in World::new()
            .impatient(5)
            .set("lb/app-lb.yml", "/spec/publishNotReadyAddresses", json!(true));

    /// Production runs the canary's version.
    stable_is_canary: "phase3" fails ["stable-serves-all"],
        in World::new().set(
            "lb/app-production.yml",
            "/spec/template/spec/containers/0/image",
            json!("kubeapp:2.0"),
        );

    /// Something of the same name is in `default`.
    leaked: "phase3" fails ["namespace-holds"], in World::new(), while |client| async move {
        let service = json!({
            "metadata": {"name": "app-lb"},
            "spec": {"ports": [{"port": 80}], "selector": {"app": "kubeapp"}},
        });
        let service: Service = serde_json::from_value(service).expect("a Service");
        let api: Api<Service> = Api::namespaced(client, "default");
        api.create(&PostParams::default(), &service).await.expect("a Service in default");
        std::future::pending().await
    };

    /// Whoever deletes a pod also takes its place away.
    not_healed: "phase3" fails ["self-heals"], in World::new().impatient(5), while |client| {
        meddle::once(
            client,
            |pod: &Pod| {
                pod.metadata.deletion_timestamp.is_some()
                    && pod.labels().get("env").is_some_and(|env| env == "production")
            },
            |client| async {
                let patch = json!({"spec": {"replicas": 2}});
                meddle::patch_deployment(client, PRODUCTION, patch).await;
            },
        )
    };

    /// Something else decides on replicas, an autoscaler say.
    not_scaled: "phase3" fails ["scales"], in World::new().impatient(5), while |client| {
        meddle::once(
            client,
            |deployment: &Deployment| {
                meddle::production(deployment, |d| d.pointer("/spec/replicas") == Some(&json!(5)))
            },
            |client| async {
                let patch = json!({"spec": {"replicas": 4}});
                meddle::patch_deployment(client, PRODUCTION, patch).await;
            },
        )
    };

    /// Pods go when their template is about to change.
    not_a_cutter: "phase3" fails ["template-is-a-cutter"], in World::new(), while |client| {
        meddle::once(client, paused, |client| {
            meddle::delete_pods_now(client, "env=production")
        })
    };

    /// A selector that knows the pods of one template only.
    selector_of_one_template: "phase3" fails ["service-outlives-pods"],
        in World::new().impatient(5), while |client| {
            meddle::once(client, paused, |client| async {
                let pods: Api<Pod> = Api::namespaced(client.clone(), "production");
                let pods = pods.list(&Default::default()).await.expect("pods");
                let hash = pods.items[0].labels()["pod-template-hash"].clone();
                let patch = json!({"spec": {"selector": {"pod-template-hash": hash}}});
                meddle::patch_service(client, "app-lb", patch).await;
            })
        };

    /// 2:1.
    two_to_one: "phase4" fails ["quarter-to-canary"],
        in World::new()
            .telling_replicas_apart()
            .set("lb/app-production.yml", "/spec/replicas", json!(2));

    /// 4:1.
    four_to_one: "phase4" fails ["quarter-to-canary"],
        in World::new()
            .telling_replicas_apart()
            .set("lb/app-production.yml", "/spec/replicas", json!(4));

    /// Somebody scales the canary along with production.
    canary_scaled_along: "phase4" fails ["ratio-follows-replicas"],
        in World::new().telling_replicas_apart().impatient(5), while |client| {
            meddle::once(
                client,
                |deployment: &Deployment| {
                    meddle::production(deployment, |d| {
                        d.pointer("/spec/replicas") == Some(&json!(9))
                    })
                },
                |client| meddle::insist_on_replicas(client, CANARY, 3),
            )
        };

    /// One client stays with one pod, as with keep-alive.
    pinned_phase4: "phase4"
        fails ["quarter-to-canary", "ratio-follows-replicas", "sessions-flip"],
        in World::new().impatient(4).set("lb/app-lb.yml", "/spec/sessionAffinity", json!("ClientIP"));

    /// Readiness ignored.
    unready_published_phase4: "phase4" fails ["bad-canary-contained"],
        in World::new()
            .impatient(5)
            .set("lb/app-lb.yml", "/spec/publishNotReadyAddresses", json!(true));

    /// A canary that answers 1.0: the wrong build under the right name.
    canary_answers_stable: "phase4"
        fails ["quarter-to-canary", "ratio-follows-replicas", "sessions-flip", "canary-retires"],
        in {
            let world = World::new();
            let stable = world.environment.images[0].clone();
            world.with_image(1, |canary, folder| mistagged(canary, &stable, folder))
        };

    /// The canary goes by another name, so the load balancer does not know it.
    canary_of_another_app: "phase4"
        fails ["canary-differs-by-env", "canary-joins-untouched", "quarter-to-canary",
            "ratio-follows-replicas", "sessions-flip", "bad-canary-contained"],
        in World::new()
            .impatient(4)
            .set("lb/app-canary.yml", "/spec/selector/matchLabels/app", json!("canary"))
            .set("lb/app-canary.yml", "/spec/template/metadata/labels/app", json!("canary"));

    /// Traffic stops for a moment when the canary goes.
    ditch_drops: "phase4" fails ["canary-can-be-ditched"], in World::new(), while |client| {
        meddle::once(
            client,
            |pod: &Pod| {
                pod.metadata.deletion_timestamp.is_some()
                    && pod.labels().get("env").is_some_and(|env| env == "canary")
            },
            |client| interrupt(client, "app-lb"),
        )
    };

    /// All of production goes before anything new comes, and the canary does not stand in.
    promotion_recreates: "phase4"
        fails ["promotion-by-image", "promotion-drops-nothing"],
        in World::new().set("lb/app-production.yml", "/spec/strategy", json!({"type": "Recreate"})),
        while |client| {
            meddle::once(client, meddle::promoted, |client| async {
                let patch = json!({"spec": {"replicas": 0}});
                meddle::patch_deployment(client, CANARY, patch).await;
            })
        };

    /// Somebody sets the image back.
    promotion_reverted: "phase4" fails ["promotion-by-image", "canary-retires"],
        in World::new(), while |client| {
            meddle::once(client, meddle::promoted, |client| async {
                let containers = json!([{"name": "kubeapp", "image": "kubeapp:1.0"}]);
                let patch = json!({"spec": {"template": {"spec": {"containers": containers}}}});
                meddle::strategic_patch_deployment(client, PRODUCTION, patch).await;
            })
        };
}

/// Whether production's rollout is paused, as phase 3 does before it changes the template.
fn paused(deployment: &Deployment) -> bool {
    meddle::production(deployment, |d| d.pointer("/spec/paused") == Some(&json!(true)))
}

/// Takes every pod from a Service until load balancers have noticed, and gives them back.
async fn interrupt(client: Client, service: &str) {
    let selector = |app: &str| json!({"spec": {"selector": {"app": app}}});
    meddle::patch_service(client.clone(), service, selector("nobody")).await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    meddle::patch_service(client, service, selector("kubeapp")).await;
}

/// A program that does not listen leaves nothing to ask, so the lab ends there.
#[tokio::test(flavor = "multi_thread")]
async fn silent_program() {
    let world = World::new().with_image(1, |canary, folder| {
        let binary = fake::executable(folder, "silent", "#!/bin/sh\nexit 1\n");
        Image { binary, ..canary.clone() }
    });
    let rest =
        ["app-front-page", "app-health", "app-version", "app-static", "app-differs-by-version"];
    world.play("phase1").await.ends(&["app-port"], &rest);
}

/// A cluster that is not there is no verdict on anything: the run says so, with an exit code of its
/// own.
#[tokio::test(flavor = "multi_thread")]
async fn no_cluster() {
    let world = World::new().impatient(2);
    let played = world.play_without_cluster("phase0").await;
    played.ends(&[], &["cluster-answers", "cluster-has-workers"]);
    played.failed_for_the_environment("does not answer");
}

/// Claims that no world makes fail: their failure is one of the environment (`no_cluster`), or is
/// proved by a test of another form (`silent_program`).
const UNPROVED: &[&str] = &["cluster-answers", "app-port"];

/// A claim that cannot fail proves nothing, so none may be added without a world that breaks it.
#[test]
fn every_claim_fails_somewhere() {
    let proved: BTreeSet<&str> = &proved() | &ingress::proved();
    let all = LABS.iter().flat_map(|lab| lab.claims).map(|claim| claim.id);
    let unproved: Vec<&str> = all.clone().filter(|id| !proved.contains(id)).collect();
    assert_eq!(unproved, UNPROVED, "claims that no world makes fail");
    let all: BTreeSet<&str> = all.collect();
    let unknown: Vec<_> = proved.difference(&all).collect();
    assert!(unknown.is_empty(), "worlds break claims that no lab makes: {unknown:?}");
}
