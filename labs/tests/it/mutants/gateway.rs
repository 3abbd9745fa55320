//! The mutants of phases 6 and 7, the unmodified phases, and a cluster without the Gateway API.

use crate::{fault_injection, fixture::Fixture};
use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt as _;
use labs::{claim::Outcome, phases, run::Exit};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const PRODUCTION_SERVICE: &str = "kubeapp-production-service";
const CANARY_SERVICE: &str = "kubeapp-canary-service";

mutants! {
    unmodified_phase6: "phase6" fails [], in Fixture::new();

    unmodified_phase7: "phase7" fails [], in Fixture::new();

    /// The listener has a protocol that no implementation knows.
    listener_of_another_protocol: "phase6" fails ["gateway-gets-address"],
        in Fixture::new()
            .with_timeouts(12)
            .set("gateway/gateway.yml", "/spec/listeners/0/protocol", json!("example.com/none"));

    /// The canary's weight is 10 where it should be 0.
    zero_is_ten: "phase6" fails ["weight-zero-gets-nothing"],
        in Fixture::new().edit("gateway/route-0.yml", |route| set_weights(route, 90, 10));

    weights_swapped: "phase6" fails ["weights-set-share"],
        in Fixture::new().edit("gateway/route-10.yml", |route| set_weights(route, 10, 90));

    /// 4% where it should be 1%: only a precise sample tells them apart.
    four_for_one: "phase6" fails ["weights-set-share"],
        in Fixture::new()
            .with_precise_samples()
            .edit("gateway/route-1.yml", |route| set_weights(route, 96, 4));

    /// Stable has no pod for a short time while the weights change.
    weight_change_drops: "phase6" fails ["weight-change-loses-nothing"], in Fixture::new(),
        during "change the weights" |client, started| async move {
            if started {
                fault_injection::interrupt(client, PRODUCTION_SERVICE).await;
            }
        };

    /// Testers' requests have another header.
    header_misspelled: "phase6" fails ["header-selects-testers"],
        in Fixture::new().set(
            "gateway/route-header.yml",
            "/spec/rules/0/matches/0/headers/0/name",
            json!("x-kanary"),
        );

    /// The canary's rule matches every request.
    header_of_everyone: "phase6" fails ["header-selects-testers"],
        in Fixture::new().edit("gateway/route-header.yml", remove_matches);

    /// The cookie has to be the only one.
    cookie_alone: "phase6" fails ["cookie-selects-testers"],
        in Fixture::new().set(
            "gateway/route-cookie.yml",
            "/spec/rules/0/matches/0/headers/0/value",
            json!("canary=always"),
        );

    /// A cookie whose name ends in the same word counts as well.
    cookie_of_others: "phase6" fails ["cookie-selects-testers"],
        in Fixture::new().set(
            "gateway/route-cookie.yml",
            "/spec/rules/0/matches/0/headers/0/value",
            json!(".*canary=always(;.*)?"),
        );

    /// No request is mirrored.
    mirror_missing: "phase6" fails ["mirror-is-silent"],
        in Fixture::new().edit("gateway/route-mirror.yml", |route| {
            route["spec"]["rules"][0]["filters"].as_array_mut().expect("filters").remove(1);
        });

    /// Half of the requests are mirrored.
    mirror_of_half: "phase6" fails ["mirror-is-silent"],
        in Fixture::new().set(
            "gateway/route-mirror.yml",
            "/spec/rules/0/filters/1/requestMirror/percent",
            json!(50),
        );

    /// The mirror responds to clients.
    mirror_responds: "phase6" fails ["mirror-is-silent"],
        in Fixture::new().edit("gateway/route-mirror.yml", |route| {
            let backends = route["spec"]["rules"][0]["backendRefs"].as_array_mut();
            backends.expect("backends").push(json!({"name": CANARY_SERVICE, "port": 80}));
        });

    /// All requests get the same version.
    pages_of_one_version: "phase6" fails ["pages-mix-versions"],
        in Fixture::new().edit("gateway/route-25.yml", |route| set_weights(route, 100, 0));

    /// The canary's cookie leads nowhere.
    drift_without_cookie: "phase6" fails ["one-way-sessions-drift"],
        in Fixture::new().edit("gateway/route-one-way.yml", remove_first_rule);

    /// The canary's users alone stay.
    sticky_one_way: "phase6" fails ["sessions-stick"],
        in Fixture::new().edit("gateway/route-sticky.yml", |route| {
            route["spec"]["rules"].as_array_mut().expect("rules").remove(1);
        });

    /// Everyone stays with stable.
    sticky_without_canary: "phase6" fails ["sessions-stick"],
        in Fixture::new().edit("gateway/route-sticky.yml", |route| {
            route["spec"]["rules"][2]["backendRefs"].as_array_mut().expect("backends").remove(1);
        });

    /// The canary fails as often as stable.
    errors_as_stable: "phase7" fails ["doubled-errors-roll-back"], in Fixture::new(),
        while |client| heal(client, "FAIL_PERCENT", "5");

    not_slow: "phase7" fails ["slow-tail-rolls-back"], in Fixture::new(),
        while |client| heal(client, "DELAY_PERCENT", "0");

    no_crash: "phase7" fails ["crash-rolls-back"], in Fixture::new(),
        while |client| heal(client, "CRASH_AFTER", "3600");

    right_answer: "phase7" fails ["wrong-answer-rolls-back"], in Fixture::new(),
        while |client| heal(client, "WRONG_PAGE", "");

    /// The rollback takes no traffic from the canary, so that its users go on meeting the fault.
    no_rollback: "phase7"
        fails [
            "doubled-errors-roll-back",
            "slow-tail-rolls-back",
            "crash-rolls-back",
            "wrong-answer-rolls-back",
            "few-users-meet-it",
            "good-release-promoted",
        ],
        in Fixture::new().edit("gateway/route-0.yml", |route| set_weights(route, 50, 50));

    /// In the third stage, three of four requests go to the canary.
    stage_swapped: "phase7" fails ["stages-set-share"],
        in Fixture::new().edit("gateway/route-25.yml", |route| set_weights(route, 25, 75));

    /// The release is as bad as one can be.
    good_release_fails: "phase7" fails ["good-release-promoted"], in Fixture::new(),
        during "release a canary that is as good" |client, started| async move {
            if started {
                set_canary(client, "FAIL_PERCENT", "90").await;
            }
        };

    /// The canary has no pod for a short time while it has all traffic.
    stages_drop: "phase7" fails ["stages-lose-nothing"], in Fixture::new(), while |client| {
        fault_injection::once(client, fault_injection::promoted, |client| {
            fault_injection::interrupt(client, CANARY_SERVICE)
        })
    };
}

fn set_weights(route: &mut Value, stable: u8, canary: u8) {
    let backends = &mut route["spec"]["rules"][0]["backendRefs"];
    backends[0]["weight"] = json!(stable);
    backends[1]["weight"] = json!(canary);
}

fn remove_matches(route: &mut Value) {
    route["spec"]["rules"][0].as_object_mut().expect("a rule").remove("matches");
}

fn remove_first_rule(route: &mut Value) {
    route["spec"]["rules"].as_array_mut().expect("rules").remove(0);
}

/// Sets a variable of the canary as soon as the lab has set it.
async fn heal(client: kube::Client, variable: &'static str, value: &'static str) {
    let is_set = |deployment: &Deployment| {
        let json = serde_json::to_value(deployment).expect("JSON");
        let env = json.pointer("/spec/template/spec/containers/0/env").and_then(Value::as_array);
        deployment.name_any() == fault_injection::CANARY
            && env.is_some_and(|env| env.iter().any(|one| one["name"] == variable))
    };
    fault_injection::once(client, is_set, |client| set_canary(client, variable, value)).await;
}

async fn set_canary(client: kube::Client, variable: &str, value: &str) {
    let env = json!([{"name": variable, "value": value}]);
    let containers = json!([{"name": "kubeapp", "env": env}]);
    let patch = json!({"spec": {"template": {"spec": {"containers": containers}}}});
    fault_injection::strategic_patch_deployment(client, fault_injection::CANARY, patch).await;
}

/// Nothing is claimed, and nothing created, where the Gateway API is not served.
#[tokio::test(flavor = "multi_thread")]
async fn phases_are_skipped_without_the_gateway_api() {
    let fixture = Fixture::new().without_gateway_api();
    for name in ["phase6", "phase7"] {
        let run = fixture.run_alone(name).await;
        assert_eq!(run.exit(), Exit::Holds, "{}", run.errors());
        for claim in phases::find(name).expect("a lab").claims {
            assert!(run.claims(Outcome::Skipped).contains(claim.id), "{}", claim.id);
            let evidence = run.evidence(claim.id);
            assert!(evidence.contains("does not serve the Gateway API"), "{evidence}");
        }
    }
}

/// A class that nothing serves is named, with those that are.
#[tokio::test(flavor = "multi_thread")]
async fn phase_is_skipped_without_its_gateway_class() {
    let mut fixture = Fixture::new().with_timeouts(2);
    fixture.environment.gateway_class = Some("eg".into());
    let run = fixture.run_alone("phase6").await;
    let evidence = run.evidence("weights-set-share");
    assert!(evidence.contains("`eg`; those served: kube-embedded"), "{evidence}");
}
