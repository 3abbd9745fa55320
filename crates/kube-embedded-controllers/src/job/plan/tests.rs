//! Plans and statuses of jobs.

use super::{
    super::{
        condition::remaining_ttl,
        status::{finish, record, recorded_pods},
        template::FINALIZER,
    },
    *,
};
use k8s_openapi::api::batch::v1::JobStatus;
use serde_json::{Value, json};

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

/// Creates a pod. `-` before the phase makes it terminating; a number after `#` is its index.
fn pod(name: &str, phase: &str) -> Arc<Pod> {
    let (terminating, phase) = phase.strip_prefix('-').map_or((false, phase), |rest| (true, rest));
    let (phase, index) =
        phase.split_once('#').map_or((phase, None), |(phase, index)| (phase, Some(index)));
    let mut pod = json!({
        "metadata": { "name": name, "namespace": "n", "uid": name, "finalizers": [FINALIZER] },
        "status": { "phase": phase, "containerStatuses": [{
            "name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": {},
        }] },
    });
    if terminating {
        pod["metadata"]["deletionTimestamp"] = time(1).into();
    }
    if let Some(index) = index {
        let key = "batch.kubernetes.io/job-completion-index";
        pod["metadata"]["annotations"] = json!({ key: index });
    }
    if matches!(phase, "Succeeded" | "Failed") {
        let end = json!({ "exitCode": 0, "finishedAt": time(4) });
        pod["status"]["containerStatuses"][0]["state"] = json!({ "terminated": end });
    }
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn pods(phases: &[&str]) -> Vec<Arc<Pod>> {
    phases.iter().enumerate().map(|(at, phase)| pod(&format!("p{at}"), phase)).collect()
}

fn names(pods: &[Arc<Pod>]) -> Vec<&str> {
    pods.iter().map(|pod| pod.metadata.name.as_deref().unwrap()).collect()
}

fn planned(job: &Job, pods: &[Arc<Pod>]) -> Plan {
    plan(job, pods, PodFailures::default(), now())
}

#[test]
fn missing_pods_are_created_and_surplus_ones_deleted() {
    for (spec, status, phases, created, removed) in [
        (json!({}), json!({}), &[][..], 1, 0),
        (json!({ "completions": 5, "parallelism": 3 }), json!({}), &["Running"], 2, 0),
        (json!({ "completions": 5, "parallelism": 3 }), json!({ "succeeded": 4 }), &[], 1, 0),
        (json!({ "completions": 5, "parallelism": 3 }), json!({}), &["Succeeded"; 4], 1, 0),
        (json!({ "completions": 0 }), json!({}), &[], 0, 0),
        (json!({ "parallelism": 0 }), json!({}), &["Running"], 0, 1),
        (json!({ "suspend": true }), json!({}), &["Running", "Pending"], 0, 2),
        // Without completions, one success is enough, and the running pods may end.
        (json!({ "completions": null, "parallelism": 2 }), json!({}), &["Running"], 1, 0),
        (
            json!({ "completions": null, "parallelism": 2 }),
            json!({ "succeeded": 1 }),
            &["Running"],
            0,
            0,
        ),
        // A terminating pod counts as failed, so there is a delay; or it must end first.
        (json!({}), json!({}), &["-Running"], 0, 0),
        (json!({ "podReplacementPolicy": "Failed" }), json!({}), &["-Running"], 0, 0),
    ] {
        let job = job(spec.clone(), status);
        let plan = planned(&job, &pods(phases));
        let counts = (plan.create.len(), plan.delete_uncounted.len());
        assert_eq!(counts, (created, removed), "{spec} {phases:?}");
    }
}

#[test]
fn created_pod_has_name_prefix_finalizer_and_owner() {
    let plan = planned(&job(json!({}), json!({})), &[]);
    let meta = &plan.create[0].metadata;
    assert_eq!(meta.generate_name.as_deref(), Some("j-"));
    assert_eq!(meta.finalizers.as_deref(), Some(&[FINALIZER.to_owned()][..]));
    assert_eq!(meta.owner_references.as_ref().unwrap()[0].uid, "j-uid");
}

#[test]
fn indexed_pods_get_distinct_open_indexes() {
    let spec = json!({ "completionMode": "Indexed", "completions": 5, "parallelism": 3 });
    let job = job(spec, json!({ "completedIndexes": "1", "succeeded": 1 }));
    let existing = pods(&["Running#0", "Running#0", "Running#7"]);
    let plan = planned(&job, &existing);
    assert_eq!((names(&plan.delete_uncounted), plan.create.len()), (vec!["p1", "p2"], 0));
    let plan = planned(&job, &existing[..1]);
    let created: Vec<_> =
        plan.create.iter().map(|pod| pod.metadata.generate_name.clone()).collect();
    assert_eq!(created, [Some("j-2-".into()), Some("j-3-".into())]);
    let spec = plan.create[0].spec.as_ref().unwrap();
    assert_eq!(spec.hostname.as_deref(), Some("j-2"));
    assert_eq!(spec.containers[0].env.as_ref().unwrap()[0].name, "JOB_COMPLETION_INDEX");
}

/// Does what the controller does with a plan, except for creating and deleting pods.
fn executed(job: &Job, pods: &mut [Arc<Pod>], plan: &Plan) -> (JobStatus, JobStatus) {
    let first = record(job, pods, plan, now());
    let job = Job { status: Some(first.clone()), ..job.clone() };
    let recorded = recorded_pods(&job, pods, plan);
    for pod in pods.iter_mut() {
        if recorded.iter().any(|recorded| recorded.metadata.uid == pod.metadata.uid) {
            Arc::make_mut(pod).metadata.finalizers = None;
        }
    }
    let second = finish(&job, pods, plan, now());
    (first, second)
}

fn conditions(status: &JobStatus) -> Vec<String> {
    let all = status.conditions.iter().flatten();
    all.map(|c| format!("{}={} {}", c.type_, c.status, c.reason.as_deref().unwrap())).collect()
}

#[test]
fn succeeded_pod_is_recorded_then_counted_then_job_completes() {
    let job = job(json!({}), json!({ "startTime": time(9) }));
    let mut existing = pods(&["Succeeded"]);
    let plan = planned(&job, &existing);
    let (first, second) = executed(&job, &mut existing, &plan);
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
fn recorded_pod_is_counted_once_after_its_finalizer() {
    // The finalizer of p0 is removed already, that of p1 is not.
    let recorded = json!({ "failed": 1, "uncountedTerminatedPods": { "failed": ["p0", "p1"] } });
    let job = job(json!({}), recorded);
    let existing = pods(&["Failed", "Failed"]);
    let existing = &existing[1..];
    let plan = planned(&job, existing);
    let first = record(&job, existing, &plan, now());
    assert_eq!(first.failed, Some(2));
    assert_eq!(first.uncounted_terminated_pods.unwrap().failed, Some(vec!["p1".into()]));
}

#[test]
fn unrecorded_pod_keeps_its_finalizer() {
    let job = job(json!({ "parallelism": 2, "completions": 2 }), json!({}));
    let observed = pods(&["Failed", "Running"]);
    let plan = planned(&job, &observed);
    assert_eq!(names(&recorded_pods(&job, &observed, &plan)), ["p0"]);
}

#[test]
fn failures_delay_replacement_and_exceed_backoff_limit() {
    let failing = job(json!({ "backoffLimit": 1 }), json!({}));
    let first = planned(&failing, &pods(&["Failed"]));
    assert_eq!((first.create.len(), first.requeue_after), (0, Some(Duration::from_secs(6))));
    assert_eq!(first.failures.count, 1);
    let later = now().checked_add(SignedDuration::from_secs(7)).unwrap();
    let counted = job(json!({ "backoffLimit": 1 }), json!({ "failed": 1 }));
    assert_eq!(plan(&counted, &[], first.failures, later).create.len(), 1);
    let mut existing = pods(&["Failed"]);
    let last = plan(&counted, &existing, first.failures, later);
    assert_eq!(last.failures.count, 2);
    let (recorded, finished) = executed(&counted, &mut existing, &last);
    assert_eq!(conditions(&recorded), ["FailureTarget=True BackoffLimitExceeded"]);
    assert_eq!(conditions(&finished)[1..], ["Failed=True BackoffLimitExceeded"]);
    assert_eq!((finished.failed, finished.completion_time), (Some(2), None));
    // A success resets them.
    let mixed = [pod("good", "Succeeded"), pod("later", "Running")];
    let plan = plan(&counted, &mixed, first.failures, later);
    assert_eq!(plan.failures.count, 0);
}

#[test]
fn restarts_in_place_count_towards_backoff_limit() {
    for (limit, restarts, fails) in [(0, 0, false), (0, 1, true), (3, 2, false), (3, 3, true)] {
        let policy = json!({ "backoffLimit": limit,
            "template": { "spec": { "restartPolicy": "OnFailure" } } });
        let mut existing = pods(&["Running"]);
        let status = Arc::make_mut(&mut existing[0]).status.as_mut().unwrap();
        status.container_statuses.as_mut().unwrap()[0].restart_count = restarts;
        let plan = planned(&job(policy, json!({})), &existing);
        assert_eq!(plan.outcome.is_some(), fails, "{limit} {restarts}");
        assert_eq!(plan.delete.len(), usize::from(fails));
    }
}

#[test]
fn exceeded_deadline_fails_job_after_its_pods_ended() {
    let spec = json!({ "activeDeadlineSeconds": 10 });
    let early = job(spec.clone(), json!({ "startTime": time(4) }));
    assert_eq!(planned(&early, &pods(&["Running"])).requeue_after, Some(Duration::from_secs(6)));
    let late = job(spec, json!({ "startTime": time(10) }));
    let plan = planned(&late, &pods(&["Running"]));
    assert_eq!(plan.outcome.as_ref().unwrap().reason, "DeadlineExceeded");
    assert_eq!(names(&plan.delete), ["p0"]);
    // Deleted, but still terminating.
    let mut terminating = pods(&["-Running"]);
    let (recorded, finished) = executed(&late, &mut terminating, &plan);
    assert_eq!(conditions(&recorded), ["FailureTarget=True DeadlineExceeded"]);
    assert_eq!((finished.failed, finished.terminating), (Some(1), Some(1)));
    assert_eq!(conditions(&finished).len(), 1, "not finished while a pod runs");
    let waiting = Job { status: Some(finished), ..late };
    let plan = planned(&waiting, &[]);
    let (_, last) = executed(&waiting, &mut [], &plan);
    assert_eq!(conditions(&last)[1..], ["Failed=True DeadlineExceeded"]);
}

#[test]
fn resumed_job_gets_new_start_time() {
    let suspended = job(json!({ "suspend": true }), json!({}));
    let plan = planned(&suspended, &[]);
    let status = record(&suspended, &[], &plan, now());
    assert_eq!(conditions(&status), ["Suspended=True JobSuspended"]);
    assert_eq!(status.start_time, None);
    let resumed = job(json!({}), serde_json::to_value(status).unwrap());
    let plan = planned(&resumed, &[]);
    let status = record(&resumed, &[], &plan, now());
    assert_eq!(conditions(&status), ["Suspended=False JobResumed"]);
    assert!(status.start_time.is_some());
}

#[test]
fn completed_indexes_are_recorded_in_short_form() {
    let spec = json!({ "completionMode": "Indexed", "completions": 4, "parallelism": 4 });
    let job = job(spec, json!({ "completedIndexes": "0", "succeeded": 1 }));
    let mut existing = pods(&["Succeeded#1", "Succeeded#2", "Succeeded#9", "Running#3"]);
    let plan = planned(&job, &existing);
    let (_, status) = executed(&job, &mut existing, &plan);
    assert_eq!(status.completed_indexes.as_deref(), Some("0-2"));
    assert_eq!((status.succeeded, status.active), (Some(3), Some(1)));
}

#[test]
fn finished_job_has_remaining_ttl() {
    let finished = |type_: &str| {
        json!({ "conditions": [{
        "type": type_, "status": "True", "lastTransitionTime": time(5),
    }] })
    };
    for (ttl, status, left) in [
        (json!(null), finished("Complete"), None),
        (json!(8), json!({}), None),
        (json!(8), finished("Suspended"), None),
        (json!(8), finished("Failed"), Some(3)),
        (json!(5), finished("Complete"), Some(0)),
    ] {
        let job = job(json!({ "ttlSecondsAfterFinished": ttl }), status);
        assert_eq!(remaining_ttl(&job, now()), left.map(Duration::from_secs));
    }
}
