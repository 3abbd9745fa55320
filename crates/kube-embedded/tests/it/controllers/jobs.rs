//! Jobs, with pods whose phase the test sets.

use crate::fixture::{
    self,
    controllers::{ControllerFixture, NAMESPACE},
    delete, post, wait_for_deletion,
};
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Event, Namespace, Pod},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PropagationPolicy},
};
use serde_json::{Value, json};

const FINALIZER: &str = "batch.kubernetes.io/job-tracking";

fn job(name: &str, spec: Value) -> Job {
    let mut merged = json!({ "template": { "spec": {
        "containers": [{ "name": "c", "image": "kubeapp:1.0" }], "restartPolicy": "Never",
    } } });
    json_patch::merge(&mut merged, &spec);
    serde_json::from_value(json!({ "metadata": { "name": name }, "spec": merged })).unwrap()
}

fn has_condition(job: &Job, type_: &str) -> bool {
    let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == type_ && condition.status == "True")
}

fn is_running(pod: &Pod) -> bool {
    pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running"))
}

fn is_tracked(pod: &Pod) -> bool {
    pod.finalizers().iter().any(|known| known == FINALIZER)
}

async fn set_phase(fixture: &ControllerFixture, pod: &Pod, phase: &str) {
    let patch = Patch::Merge(json!({ "status": { "phase": phase } }));
    let api: Api<Pod> = fixture.api();
    api.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn job_completes_after_the_requested_completions() {
    let fixture = ControllerFixture::new().await;
    fixture.create(&job("pi", json!({ "completions": 3, "parallelism": 2 }))).await;
    for done in 0..3 {
        let running = std::cmp::min(2, 3 - done);
        let pods = fixture
            .wait_for_all::<Pod>(|all| {
                all.iter().filter(|pod| is_running(pod)).count() == running
                    && all.len() == done + running
            })
            .await;
        let pod = pods.iter().find(|pod| is_running(pod)).unwrap();
        assert!(is_tracked(pod));
        assert_eq!(pod.labels()["job-name"], "pi");
        set_phase(&fixture, pod, "Succeeded").await;
    }
    let finished = fixture.wait_for::<Job>("pi", |job| has_condition(job, "Complete")).await;
    let status = finished.status.unwrap();
    assert_eq!((status.succeeded, status.failed, status.active), (Some(3), None, None));
    assert_eq!((status.ready, status.terminating), (Some(0), Some(0)));
    assert!(status.start_time.is_some() && status.completion_time.is_some());
    let types: Vec<String> =
        status.conditions.unwrap().into_iter().map(|condition| condition.type_).collect();
    assert_eq!(types, ["SuccessCriteriaMet", "Complete"]);
    let pods = fixture.list::<Pod>().await;
    assert!(pods.len() == 3 && !pods.iter().any(is_tracked), "{pods:?}");
    fixture.wait_for_any::<Event>(|event| event.reason.as_deref() == Some("Completed")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn job_fails_beyond_its_backoff_limit() {
    let fixture = ControllerFixture::new().await;
    fixture
        .create(&job("bad", json!({ "backoffLimit": 0, "parallelism": 2, "completions": 2 })))
        .await;
    let two = |all: &[Pod]| all.iter().filter(|pod| is_running(pod)).count() == 2;
    let pods = fixture.wait_for_all::<Pod>(two).await;
    set_phase(&fixture, &pods[0], "Failed").await;
    // The other pod is stopped, and counts as failed as well.
    let finished = fixture.wait_for::<Job>("bad", |job| has_condition(job, "Failed")).await;
    let status = finished.status.unwrap();
    assert_eq!(
        (status.failed, status.terminating, status.completion_time),
        (Some(2), Some(0), None)
    );
    let reasons: Vec<Option<String>> =
        status.conditions.unwrap().into_iter().map(|condition| condition.reason).collect();
    assert_eq!(reasons, vec![Some("BackoffLimitExceeded".to_owned()); 2]);
    fixture.wait_for_all::<Pod>(|all| all.len() == 1 && !is_tracked(&all[0])).await;
    let warning = |event: &Event| event.reason.as_deref() == Some("BackoffLimitExceeded");
    fixture.wait_for_any::<Event>(warning).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn suspended_job_has_no_pods_and_counts_no_failures() {
    let fixture = ControllerFixture::new().await;
    fixture.create(&job("suspended", json!({ "suspend": true }))).await;
    let suspended =
        fixture.wait_for::<Job>("suspended", |job| has_condition(job, "Suspended")).await;
    assert_eq!(suspended.status.unwrap().start_time, None);
    fixture.patch::<Job>("suspended", json!({ "spec": { "suspend": false } })).await;
    fixture.wait_for_any::<Pod>(is_running).await;
    fixture.patch::<Job>("suspended", json!({ "spec": { "suspend": true } })).await;
    fixture.wait_for_all::<Pod>(<[Pod]>::is_empty).await;
    let suspended =
        fixture.wait_for::<Job>("suspended", |job| has_condition(job, "Suspended")).await;
    assert_eq!(suspended.status.unwrap().failed, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn ttl_after_finished_deletes_job_and_pods() {
    let fixture = ControllerFixture::new().await;
    fixture.create(&job("brief", json!({ "ttlSecondsAfterFinished": 0 }))).await;
    let pod = fixture.wait_for_any::<Pod>(is_running).await;
    set_phase(&fixture, &pod, "Succeeded").await;
    fixture.wait_for_deletion(&fixture.api::<Job>(), "brief").await;
    fixture.wait_for_deletion(&fixture.api::<Pod>(), &pod.name_any()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn job_deletion_orphans_pods_by_default() {
    let fixture = ControllerFixture::new().await;
    for (policy, orphaned) in [
        (None, true),
        (Some(PropagationPolicy::Orphan), true),
        (Some(PropagationPolicy::Background), false),
        (Some(PropagationPolicy::Foreground), false),
    ] {
        fixture.create(&job("j", json!({}))).await;
        let pod = fixture.wait_for_any::<Pod>(is_running).await;
        let parameters = DeleteParams { propagation_policy: policy.clone(), ..Default::default() };
        fixture.api::<Job>().delete("j", &parameters).await.unwrap();
        fixture.wait_for_deletion(&fixture.api::<Job>(), "j").await;
        if orphaned {
            // No controller counts it any more, so no finalizer may keep it.
            let released = |pod: &Pod| pod.owner_references().is_empty() && !is_tracked(pod);
            fixture.wait_for::<Pod>(&pod.name_any(), released).await;
            fixture.api::<Pod>().delete(&pod.name_any(), &DeleteParams::default()).await.unwrap();
        }
        fixture.wait_for_deletion(&fixture.api::<Pod>(), &pod.name_any()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn namespace_with_jobs_is_deleted() {
    let fixture = ControllerFixture::new().await;
    fixture.create(&job("j", json!({ "parallelism": 3, "completions": 3 }))).await;
    fixture.wait_for_all::<Pod>(|all| all.iter().filter(|pod| is_running(pod)).count() == 3).await;
    let namespaces: Api<Namespace> = Api::all(fixture.client());
    namespaces.delete(NAMESPACE, &DeleteParams::default()).await.unwrap();
    fixture.wait_for_deletion(&namespaces, NAMESPACE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn job_deletion_without_propagation_policy_warns() {
    let cluster = fixture::cluster().await;
    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    let object = serde_json::to_value(job("j", json!({ "suspend": true }))).unwrap();
    for (query, expected) in [("", true), ("?propagationPolicy=Background", false)] {
        assert_eq!(post(&cluster, jobs, &object).await.code, 201);
        let response = delete(&cluster, &format!("{jobs}/j{query}")).await;
        assert_eq!(response.code, 200);
        let warns =
            response.warnings.iter().any(|warning| warning.contains("preserved by default"));
        assert_eq!(warns, expected, "{:?}", response.warnings);
        wait_for_deletion(&cluster, &format!("{jobs}/j")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn job_releases_pods_that_no_longer_match_and_adopts_orphans() {
    let fixture = ControllerFixture::new().await;
    fixture.create(&job("j", json!({ "parallelism": 2, "completions": 4 }))).await;
    let two = |all: &[Pod]| all.iter().filter(|pod| is_running(pod)).count() == 2;
    let pods = fixture.wait_for_all::<Pod>(two).await;
    let uid = pods[0].owner_references()[0].uid.clone();
    let is_adopted = |pod: &Pod| pod.owner_references().iter().any(|owner| owner.uid == uid);
    let (orphan, released) = (pods[0].name_any(), pods[1].name_any());
    fixture.patch::<Pod>(&orphan, json!({ "metadata": { "ownerReferences": null } })).await;
    fixture.wait_for::<Pod>(&orphan, |pod| is_adopted(pod) && is_tracked(pod)).await;
    let labels = json!({ "metadata": { "labels": {
        "batch.kubernetes.io/controller-uid": null, "batch.kubernetes.io/job-name": null,
        "controller-uid": null, "job-name": null,
    } } });
    fixture.patch::<Pod>(&released, labels).await;
    fixture.wait_for::<Pod>(&released, |pod| !is_adopted(pod) && !is_tracked(pod)).await;
    // Another takes its place.
    fixture.wait_for_all::<Pod>(|all| all.iter().filter(|pod| is_adopted(pod)).count() == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_failure_policy_ignores_disruptions_and_fails_the_job() {
    let fixture = ControllerFixture::new().await;
    let rules = json!([
        { "action": "Ignore", "onPodConditions": [{ "type": "DisruptionTarget" }] },
        { "action": "FailJob", "onPodConditions": [{ "type": "example.com/Fatal" }] },
    ]);
    let policy = json!({ "backoffLimit": 0, "podFailurePolicy": { "rules": rules } });
    fixture.create(&job("j", policy)).await;
    let pod = fixture.wait_for_any::<Pod>(is_running).await;
    let fail = async |pod: &Pod, condition: &str| {
        let status = json!({ "status": { "phase": "Failed",
            "conditions": [{ "type": condition, "status": "True" }] } });
        let api: Api<Pod> = fixture.api();
        let patch = Patch::Merge(&status);
        api.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await.unwrap();
    };
    fail(&pod, "DisruptionTarget").await;
    // Its failure does not count, though the limit is 0.
    fixture.wait_for::<Pod>(&pod.name_any(), |pod| !is_tracked(pod)).await;
    let next = fixture.wait_for_any::<Pod>(is_running).await;
    let status = fixture.api::<Job>().get("j").await.unwrap().status.unwrap();
    assert_eq!(status.failed, None);
    fail(&next, "example.com/Fatal").await;
    let finished = fixture.wait_for::<Job>("j", |job| has_condition(job, "Failed")).await;
    let conditions = finished.status.unwrap().conditions.unwrap();
    let failed = conditions.iter().find(|condition| condition.type_ == "Failed").unwrap();
    assert_eq!(failed.reason.as_deref(), Some("PodFailurePolicy"));
    let message = format!(
        "Pod {NAMESPACE}/{} has condition example.com/Fatal matching FailJob rule at index 1",
        next.name_any()
    );
    assert_eq!(failed.message.as_ref(), Some(&message));
}

#[tokio::test(flavor = "multi_thread")]
async fn success_policy_stops_the_pods_that_remain() {
    let fixture = ControllerFixture::new().await;
    let policy = json!({ "completionMode": "Indexed", "completions": 3, "parallelism": 3,
        "successPolicy": { "rules": [{ "succeededIndexes": "1" }] } });
    fixture.create(&job("j", policy)).await;
    let all = |all: &[Pod]| all.iter().filter(|pod| is_running(pod)).count() == 3;
    let pods = fixture.wait_for_all::<Pod>(all).await;
    let index = "batch.kubernetes.io/job-completion-index";
    let second = pods.iter().find(|pod| pod.annotations()[index] == "1").unwrap();
    set_phase(&fixture, second, "Succeeded").await;
    let finished = fixture.wait_for::<Job>("j", |job| has_condition(job, "Complete")).await;
    let status = finished.status.unwrap();
    assert_eq!((status.completed_indexes.as_deref(), status.failed), (Some("1"), None));
    fixture.wait_for_all::<Pod>(|all| all.len() == 1 && !is_tracked(&all[0])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn job_of_another_controller_is_left_alone_and_its_status_is_validated() {
    let fixture = ControllerFixture::new().await;
    fixture.create(&job("other", json!({ "managedBy": "example.com/queue" }))).await;
    fixture.create(&job("own", json!({}))).await;
    fixture.wait_for_any::<Pod>(is_running).await;
    let other = fixture.api::<Job>().get("other").await.unwrap();
    assert_eq!(other.status.unwrap_or_default(), Default::default());
    assert_eq!(fixture.list::<Pod>().await.len(), 1);
    let patch = Patch::Merge(json!({ "status": { "ready": 2, "active": 1 } }));
    let refused = fixture.api::<Job>().patch_status("other", &PatchParams::default(), &patch).await;
    let message = refused.unwrap_err().to_string();
    assert!(message.contains("cannot set more ready pods than active"), "{message}");
}
