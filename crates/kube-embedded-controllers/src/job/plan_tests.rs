use super::plan::*;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    batch::v1::{Job, JobStatus},
    core::v1::Pod,
};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

const NOW: i64 = 1_763_000_000;

fn now() -> Timestamp {
    Timestamp::from_second(NOW).unwrap()
}

fn time(seconds_ago: i64) -> String {
    Timestamp::from_second(NOW - seconds_ago).unwrap().to_string()
}

fn job(spec: Value, status: Value) -> Job {
    let mut whole = json!({
        "completions": 1, "parallelism": 1, "backoffLimit": 6, "completionMode": "NonIndexed",
        "suspend": false, "podReplacementPolicy": "TerminatingOrFailed", "selector": {},
        "template": { "spec": {
            "containers": [{ "name": "c", "image": "i" }], "restartPolicy": "Never",
        } },
    });
    json_patch::merge(&mut whole, &spec);
    let metadata = json!({ "name": "j", "namespace": "n", "uid": "j-uid" });
    serde_json::from_value(json!({ "metadata": metadata, "spec": whole, "status": status }))
        .unwrap()
}

/// `phase` with a `-` before it for a pod on its way out; a number after `#` is its index.
fn pod(name: &str, phase: &str) -> Arc<Pod> {
    let (leaving, phase) = phase.strip_prefix('-').map_or((false, phase), |rest| (true, rest));
    let (phase, index) =
        phase.split_once('#').map_or((phase, None), |(phase, index)| (phase, Some(index)));
    let mut made = json!({
        "metadata": { "name": name, "namespace": "n", "uid": name, "finalizers": [FINALIZER] },
        "status": { "phase": phase, "containerStatuses": [{
            "name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": {},
        }] },
    });
    if leaving {
        made["metadata"]["deletionTimestamp"] = time(1).into();
    }
    if let Some(index) = index {
        let key = "batch.kubernetes.io/job-completion-index";
        made["metadata"]["annotations"] = json!({ key: index });
    }
    if matches!(phase, "Succeeded" | "Failed") {
        let end = json!({ "exitCode": 0, "finishedAt": time(4) });
        made["status"]["containerStatuses"][0]["state"] = json!({ "terminated": end });
    }
    Arc::new(serde_json::from_value(made).unwrap())
}

fn pods(phases: &[&str]) -> Vec<Arc<Pod>> {
    phases.iter().enumerate().map(|(at, phase)| pod(&format!("p{at}"), phase)).collect()
}

fn names(pods: &[Arc<Pod>]) -> Vec<&str> {
    pods.iter().map(|pod| pod.metadata.name.as_deref().unwrap()).collect()
}

fn planned(job: &Job, pods: &[Arc<Pod>]) -> Plan {
    plan(job, pods, Backoff::default(), now())
}

#[test]
fn as_many_pods_as_are_missing() {
    for (spec, status, phases, created, removed) in [
        (json!({}), json!({}), &[][..], 1, 0),
        (json!({ "completions": 5, "parallelism": 3 }), json!({}), &["Running"], 2, 0),
        (json!({ "completions": 5, "parallelism": 3 }), json!({ "succeeded": 4 }), &[], 1, 0),
        (json!({ "completions": 5, "parallelism": 3 }), json!({}), &["Succeeded"; 4], 1, 0),
        (json!({ "completions": 0 }), json!({}), &[], 0, 0),
        (json!({ "parallelism": 0 }), json!({}), &["Running"], 0, 1),
        (json!({ "suspend": true }), json!({}), &["Running", "Pending"], 0, 2),
        // Without a number: one success is enough, and those that run may end.
        (json!({ "completions": null, "parallelism": 2 }), json!({}), &["Running"], 1, 0),
        (
            json!({ "completions": null, "parallelism": 2 }),
            json!({ "succeeded": 1 }),
            &["Running"],
            0,
            0,
        ),
        // One on its way out has failed, so there is a pause; or it must end first.
        (json!({}), json!({}), &["-Running"], 0, 0),
        (json!({ "podReplacementPolicy": "Failed" }), json!({}), &["-Running"], 0, 0),
    ] {
        let job = job(spec.clone(), status);
        let plan = planned(&job, &pods(phases));
        let counts = (plan.create.len(), plan.remove.len());
        assert_eq!(counts, (created, removed), "{spec} {phases:?}");
    }
}

#[test]
fn a_pod_has_what_tells_whose_it_is() {
    let plan = planned(&job(json!({}), json!({})), &[]);
    let meta = &plan.create[0].metadata;
    assert_eq!(meta.generate_name.as_deref(), Some("j-"));
    assert_eq!(meta.finalizers.as_deref(), Some(&[FINALIZER.to_owned()][..]));
    assert_eq!(meta.owner_references.as_ref().unwrap()[0].uid, "j-uid");
}

#[test]
fn each_pod_of_an_indexed_job_has_an_index_of_its_own() {
    let spec = json!({ "completionMode": "Indexed", "completions": 5, "parallelism": 3 });
    let job = job(spec, json!({ "completedIndexes": "1", "succeeded": 1 }));
    let there = pods(&["Running#0", "Running#0", "Running#7"]);
    let plan = planned(&job, &there);
    assert_eq!((names(&plan.remove), plan.create.len()), (vec!["p1", "p2"], 0));
    let plan = planned(&job, &there[..1]);
    let made: Vec<_> = plan.create.iter().map(|pod| pod.metadata.generate_name.clone()).collect();
    assert_eq!(made, [Some("j-2-".into()), Some("j-3-".into())]);
    let spec = plan.create[0].spec.as_ref().unwrap();
    assert_eq!(spec.hostname.as_deref(), Some("j-2"));
    assert_eq!(spec.containers[0].env.as_ref().unwrap()[0].name, "JOB_COMPLETION_INDEX");
}

/// Plays what the controller does with a plan, but for the pods.
fn played(job: &Job, pods: &mut [Arc<Pod>], plan: &Plan) -> (JobStatus, JobStatus) {
    let first = tracked(job, pods, plan, now());
    let job = Job { status: Some(first.clone()), ..job.clone() };
    let release = countable(&job, pods, plan);
    for pod in pods.iter_mut() {
        if release.iter().any(|released| released.metadata.uid == pod.metadata.uid) {
            Arc::make_mut(pod).metadata.finalizers = None;
        }
    }
    let second = settled(&job, pods, plan, now());
    (first, second)
}

fn conditions(status: &JobStatus) -> Vec<String> {
    let all = status.conditions.iter().flatten();
    all.map(|c| format!("{}={} {}", c.type_, c.status, c.reason.as_deref().unwrap())).collect()
}

#[test]
fn a_success_is_named_then_counted_then_the_end() {
    let job = job(json!({}), json!({ "startTime": time(9) }));
    let mut there = pods(&["Succeeded"]);
    let plan = planned(&job, &there);
    let (first, second) = played(&job, &mut there, &plan);
    let uncounted = first.uncounted_terminated_pods.clone().unwrap();
    assert_eq!((first.succeeded, uncounted.succeeded), (None, Some(vec!["p0".into()])));
    assert_eq!(conditions(&first), ["SuccessCriteriaMet=True CompletionsReached"]);
    assert_eq!(first.completion_time, None);
    assert_eq!((second.succeeded, second.active, second.ready), (Some(1), None, Some(0)));
    assert_eq!(second.uncounted_terminated_pods, Some(Default::default()));
    assert_eq!(conditions(&second)[1..], ["Complete=True CompletionsReached"]);
    assert_eq!(second.completion_time.unwrap().0, now());
}

#[test]
fn nothing_is_counted_twice() {
    // The finalizer of p0 is gone already, that of p1 not yet.
    let named = json!({ "failed": 1, "uncountedTerminatedPods": { "failed": ["p0", "p1"] } });
    let job = job(json!({}), named);
    let there = pods(&["Failed", "Failed"]);
    let there = &there[1..];
    let plan = planned(&job, there);
    let first = tracked(&job, there, &plan, now());
    assert_eq!(first.failed, Some(2));
    assert_eq!(first.uncounted_terminated_pods.unwrap().failed, Some(vec!["p1".into()]));
}

#[test]
fn a_pod_that_ended_meanwhile_keeps_its_finalizer_until_it_is_named() {
    let job = job(json!({ "parallelism": 2, "completions": 2 }), json!({}));
    let seen = pods(&["Failed", "Running"]);
    let plan = planned(&job, &seen);
    assert_eq!(names(&countable(&job, &seen, &plan)), ["p0"]);
}

#[test]
fn failures_wait_longer_and_end_the_job_at_last() {
    let failing = job(json!({ "backoffLimit": 1 }), json!({}));
    let first = planned(&failing, &pods(&["Failed"]));
    assert_eq!((first.create.len(), first.again), (0, Some(Duration::from_secs(6))));
    assert_eq!(first.backoff.failures, 1);
    let later = now().checked_add(SignedDuration::from_secs(7)).unwrap();
    let counted = job(json!({ "backoffLimit": 1 }), json!({ "failed": 1 }));
    assert_eq!(plan(&counted, &[], first.backoff, later).create.len(), 1);
    let mut there = pods(&["Failed"]);
    let last = plan(&counted, &there, first.backoff, later);
    assert_eq!(last.backoff.failures, 2);
    let (named, settled) = played(&counted, &mut there, &last);
    assert_eq!(conditions(&named), ["FailureTarget=True BackoffLimitExceeded"]);
    assert_eq!(conditions(&settled)[1..], ["Failed=True BackoffLimitExceeded"]);
    assert_eq!((settled.failed, settled.completion_time), (Some(2), None));
    // A success in between forgets them.
    let mixed = [pod("good", "Succeeded"), pod("later", "Running")];
    let plan = plan(&counted, &mixed, first.backoff, later);
    assert_eq!(plan.backoff.failures, 0);
}

#[test]
fn who_restarts_in_place_counts_by_restarts() {
    for (limit, restarts, fails) in [(0, 0, false), (0, 1, true), (3, 2, false), (3, 3, true)] {
        let policy = json!({ "backoffLimit": limit,
            "template": { "spec": { "restartPolicy": "OnFailure" } } });
        let mut there = pods(&["Running"]);
        let status = Arc::make_mut(&mut there[0]).status.as_mut().unwrap();
        status.container_statuses.as_mut().unwrap()[0].restart_count = restarts;
        let plan = planned(&job(policy, json!({})), &there);
        assert_eq!(plan.outcome.is_some(), fails, "{limit} {restarts}");
        assert_eq!(plan.end.len(), usize::from(fails));
    }
}

#[test]
fn deadlines_end_jobs_and_wait_for_their_pods() {
    let spec = json!({ "activeDeadlineSeconds": 10 });
    let early = job(spec.clone(), json!({ "startTime": time(4) }));
    assert_eq!(planned(&early, &pods(&["Running"])).again, Some(Duration::from_secs(6)));
    let late = job(spec, json!({ "startTime": time(10) }));
    let plan = planned(&late, &pods(&["Running"]));
    assert_eq!(plan.outcome.as_ref().unwrap().reason, "DeadlineExceeded");
    assert_eq!(names(&plan.end), ["p0"]);
    // Deleted by now, and on its way out.
    let mut leaving = pods(&["-Running"]);
    let (named, settled) = played(&late, &mut leaving, &plan);
    assert_eq!(conditions(&named), ["FailureTarget=True DeadlineExceeded"]);
    assert_eq!((settled.failed, settled.terminating), (Some(1), Some(1)));
    assert_eq!(conditions(&settled).len(), 1, "not over while a pod is");
    let waiting = Job { status: Some(settled), ..late };
    let plan = planned(&waiting, &[]);
    let (_, last) = played(&waiting, &mut [], &plan);
    assert_eq!(conditions(&last)[1..], ["Failed=True DeadlineExceeded"]);
}

#[test]
fn suspended_jobs_start_anew() {
    let asleep = job(json!({ "suspend": true }), json!({}));
    let plan = planned(&asleep, &[]);
    let status = tracked(&asleep, &[], &plan, now());
    assert_eq!(conditions(&status), ["Suspended=True JobSuspended"]);
    assert_eq!(status.start_time, None);
    let awake = job(json!({}), serde_json::to_value(status).unwrap());
    let plan = planned(&awake, &[]);
    let status = tracked(&awake, &[], &plan, now());
    assert_eq!(conditions(&status), ["Suspended=False JobResumed"]);
    assert!(status.start_time.is_some());
}

#[test]
fn indexes_done_are_told_in_short() {
    let spec = json!({ "completionMode": "Indexed", "completions": 4, "parallelism": 4 });
    let job = job(spec, json!({ "completedIndexes": "0", "succeeded": 1 }));
    let mut there = pods(&["Succeeded#1", "Succeeded#2", "Succeeded#9", "Running#3"]);
    let plan = planned(&job, &there);
    let (_, status) = played(&job, &mut there, &plan);
    assert_eq!(status.completed_indexes.as_deref(), Some("0-2"));
    assert_eq!((status.succeeded, status.active), (Some(3), Some(1)));
}

#[test]
fn a_job_that_is_over_stays_as_long_as_it_says() {
    let over = |kind: &str| {
        json!({ "conditions": [{
        "type": kind, "status": "True", "lastTransitionTime": time(5),
    }] })
    };
    for (ttl, status, left) in [
        (json!(null), over("Complete"), None),
        (json!(8), json!({}), None),
        (json!(8), over("Suspended"), None),
        (json!(8), over("Failed"), Some(3)),
        (json!(5), over("Complete"), Some(0)),
    ] {
        let job = job(json!({ "ttlSecondsAfterFinished": ttl }), status);
        assert_eq!(stays_for(&job, now()), left.map(Duration::from_secs));
    }
}
