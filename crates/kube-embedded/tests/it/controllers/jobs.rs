//! Jobs, with pods that end when a test says so.

use super::fixture::{NAMESPACE, World};
use crate::fixture::ask;
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
    let mut whole = json!({ "template": { "spec": {
        "containers": [{ "name": "c", "image": "kubeapp:1.0" }], "restartPolicy": "Never",
    } } });
    json_patch::merge(&mut whole, &spec);
    serde_json::from_value(json!({ "metadata": { "name": name }, "spec": whole })).unwrap()
}

fn is(job: &Job, kind: &str) -> bool {
    let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == kind && condition.status == "True")
}

fn runs(pod: &Pod) -> bool {
    pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running"))
}

fn tracked(pod: &Pod) -> bool {
    pod.finalizers().iter().any(|known| known == FINALIZER)
}

async fn end(world: &World, pod: &Pod, phase: &str) {
    let patch = Patch::Merge(json!({ "status": { "phase": phase } }));
    let api: Api<Pod> = world.api();
    api.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_succeed_until_there_are_enough() {
    let world = World::new().await;
    world.create(&job("pi", json!({ "completions": 3, "parallelism": 2 }))).await;
    for done in 0..3 {
        let running = std::cmp::min(2, 3 - done);
        let pods = world
            .until_all::<Pod>(|all| {
                all.iter().filter(|pod| runs(pod)).count() == running && all.len() == done + running
            })
            .await;
        let pod = pods.iter().find(|pod| runs(pod)).unwrap();
        assert!(tracked(pod));
        assert_eq!(pod.labels()["job-name"], "pi");
        end(&world, pod, "Succeeded").await;
    }
    let over = world.until::<Job>("pi", |job| is(job, "Complete")).await;
    let status = over.status.unwrap();
    assert_eq!((status.succeeded, status.failed, status.active), (Some(3), None, None));
    assert_eq!((status.ready, status.terminating), (Some(0), Some(0)));
    assert!(status.start_time.is_some() && status.completion_time.is_some());
    let types: Vec<String> =
        status.conditions.unwrap().into_iter().map(|condition| condition.type_).collect();
    assert_eq!(types, ["SuccessCriteriaMet", "Complete"]);
    let pods = world.list::<Pod>().await;
    assert!(pods.len() == 3 && !pods.iter().any(tracked), "{pods:?}");
    world.until_any::<Event>(|event| event.reason.as_deref() == Some("Completed")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_failures_end_a_job() {
    let world = World::new().await;
    world
        .create(&job("bad", json!({ "backoffLimit": 0, "parallelism": 2, "completions": 2 })))
        .await;
    let two = |all: &[Pod]| all.iter().filter(|pod| runs(pod)).count() == 2;
    let pods = world.until_all::<Pod>(two).await;
    end(&world, &pods[0], "Failed").await;
    // The other one is stopped, and counts as failed too.
    let over = world.until::<Job>("bad", |job| is(job, "Failed")).await;
    let status = over.status.unwrap();
    assert_eq!(
        (status.failed, status.terminating, status.completion_time),
        (Some(2), Some(0), None)
    );
    let reasons: Vec<Option<String>> =
        status.conditions.unwrap().into_iter().map(|condition| condition.reason).collect();
    assert_eq!(reasons, vec![Some("BackoffLimitExceeded".to_owned()); 2]);
    world.until_all::<Pod>(|all| all.len() == 1 && !tracked(&all[0])).await;
    let warning = |event: &Event| event.reason.as_deref() == Some("BackoffLimitExceeded");
    world.until_any::<Event>(warning).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_job_has_no_pods_and_loses_none_to_failure() {
    let world = World::new().await;
    world.create(&job("calm", json!({ "suspend": true }))).await;
    let asleep = world.until::<Job>("calm", |job| is(job, "Suspended")).await;
    assert_eq!(asleep.status.unwrap().start_time, None);
    world.patch::<Job>("calm", json!({ "spec": { "suspend": false } })).await;
    world.until_any::<Pod>(runs).await;
    world.patch::<Job>("calm", json!({ "spec": { "suspend": true } })).await;
    world.until_all::<Pod>(<[Pod]>::is_empty).await;
    let asleep = world.until::<Job>("calm", |job| is(job, "Suspended")).await;
    assert_eq!(asleep.status.unwrap().failed, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_over_goes_after_its_time_and_its_pods_with_it() {
    let world = World::new().await;
    world.create(&job("brief", json!({ "ttlSecondsAfterFinished": 0 }))).await;
    let pod = world.until_any::<Pod>(runs).await;
    end(&world, &pod, "Succeeded").await;
    world.until_gone(&world.api::<Job>(), "brief").await;
    world.until_gone(&world.api::<Pod>(), &pod.name_any()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_job_keeps_pods_only_where_asked_or_not_said() {
    let world = World::new().await;
    for (policy, stays) in [
        (None, true),
        (Some(PropagationPolicy::Orphan), true),
        (Some(PropagationPolicy::Background), false),
        (Some(PropagationPolicy::Foreground), false),
    ] {
        world.create(&job("j", json!({}))).await;
        let pod = world.until_any::<Pod>(runs).await;
        let parameters = DeleteParams { propagation_policy: policy.clone(), ..Default::default() };
        world.api::<Job>().delete("j", &parameters).await.unwrap();
        world.until_gone(&world.api::<Job>(), "j").await;
        if stays {
            // Nobody counts it any more, so nothing may hold it.
            let free = |pod: &Pod| pod.owner_references().is_empty() && !tracked(pod);
            world.until::<Pod>(&pod.name_any(), free).await;
            world.api::<Pod>().delete(&pod.name_any(), &DeleteParams::default()).await.unwrap();
        }
        world.until_gone(&world.api::<Pod>(), &pod.name_any()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_with_jobs_can_be_emptied() {
    let world = World::new().await;
    world.create(&job("j", json!({ "parallelism": 3, "completions": 3 }))).await;
    world.until_all::<Pod>(|all| all.iter().filter(|pod| runs(pod)).count() == 3).await;
    let namespaces: Api<Namespace> = Api::all(world.client());
    namespaces.delete(NAMESPACE, &DeleteParams::default()).await.unwrap();
    world.until_gone(&namespaces, NAMESPACE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_deletes_a_job_without_a_word_is_warned() {
    let cluster = crate::fixture::cluster().await;
    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    let made = serde_json::to_value(job("j", json!({ "suspend": true }))).unwrap();
    for (query, warned) in [("", true), ("?propagationPolicy=Background", false)] {
        assert_eq!(crate::fixture::post(&cluster, jobs, &made).await.code, 201);
        let answer = ask(&cluster, "DELETE", &format!("{jobs}/j{query}"), &[], "").await;
        assert_eq!(answer.code, 200);
        let told = answer.warnings.iter().any(|warning| warning.contains("preserved by default"));
        assert_eq!(told, warned, "{:?}", answer.warnings);
        world_without(&cluster, &format!("{jobs}/j")).await;
    }
}

async fn world_without(cluster: &kube_embedded::Cluster, path: &str) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while crate::fixture::get(cluster, path).await.code != 404 {
        assert!(std::time::Instant::now() < deadline, "{path} stays");
        tokio::task::yield_now().await;
    }
}
