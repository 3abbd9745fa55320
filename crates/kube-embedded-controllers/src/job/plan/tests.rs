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
    assert_eq!((names(&plan.delete_uncounted), plan.create.len()), (vec!["p2", "p0"], 0));
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
    let started = job(json!({ "suspend": true }), json!({ "startTime": time(9) }));
    assert_eq!(record(&started, &[], &plan, now()).start_time, None);
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

/// Returns the reason and the message of the job's end.
fn ended(plan: &Plan) -> (&str, &str) {
    plan.outcome
        .as_ref()
        .map_or(("", ""), |outcome| (outcome.reason.as_str(), outcome.message.as_str()))
}

fn exit_code(mut pod: Arc<Pod>, code: i32) -> Arc<Pod> {
    let status = Arc::make_mut(&mut pod).status.as_mut().unwrap();
    let container = &mut status.container_statuses.as_mut().unwrap()[0];
    container.state.as_mut().unwrap().terminated.as_mut().unwrap().exit_code = code;
    pod
}

fn after_failures(mut pod: Arc<Pod>, counted: &str) -> Arc<Pod> {
    let annotations = &mut Arc::make_mut(&mut pod).metadata.annotations;
    let name = "batch.kubernetes.io/job-index-failure-count";
    annotations.get_or_insert_default().insert(name.into(), counted.into());
    pod
}

#[test]
fn pod_failure_policy_ignores_failures_or_fails_the_job() {
    let rules = json!([
        { "action": "Ignore", "onExitCodes": { "operator": "In", "values": [3] } },
        { "action": "FailJob", "onExitCodes": { "operator": "In", "values": [4] } },
    ]);
    let spec = json!({
        "backoffLimit": 0, "podReplacementPolicy": "Failed", "podFailurePolicy": { "rules": rules },
    });
    let job = job(spec, json!({ "startTime": time(9) }));
    let mut ignored = [exit_code(pod("p", "Failed"), 3)];
    let plan = planned(&job, &ignored);
    assert_eq!((plan.outcome.as_ref(), plan.failures.count), (None, 1));
    let (recorded, finished) = executed(&job, &mut ignored, &plan);
    assert_eq!(recorded.uncounted_terminated_pods, Some(Default::default()));
    assert_eq!((finished.failed, ignored[0].metadata.finalizers.as_ref()), (None, None));

    let mut fatal = [exit_code(pod("p", "Failed"), 4), pod("q", "Running")];
    let plan = planned(&job, &fatal);
    let message =
        "Container c for pod n/p failed with exit code 4 matching FailJob rule at index 1";
    assert_eq!(ended(&plan), ("PodFailurePolicy", message));
    assert_eq!(names(&plan.delete), ["q"]);
    let (recorded, _) = executed(&job, &mut fatal, &plan);
    assert_eq!(conditions(&recorded), ["FailureTarget=True PodFailurePolicy"]);
    assert_eq!(recorded.uncounted_terminated_pods.unwrap().failed.unwrap(), ["p", "q"]);

    // One that failed after the plan was made is kept for the next plan.
    let before = planned(&job, &[pod("p", "Running")]);
    let late = [exit_code(pod("p", "Failed"), 4)];
    assert_eq!(names(&recorded_pods(&job, &late, &before)), [""; 0]);
    let uncounted = record(&job, &late, &before, now()).uncounted_terminated_pods.unwrap();
    assert_eq!(uncounted.failed, None);
}

#[test]
fn success_policy_ends_the_job_before_all_indexes_complete() {
    for (rules, completed, matched) in [
        (json!([{ "succeededIndexes": "0,2" }]), "0", ""),
        (json!([{ "succeededIndexes": "0,2" }]), "0-2", "Matched rules at index 0"),
        (
            json!([{ "succeededIndexes": "0-3", "succeededCount": 2 }]),
            "1,3",
            "Matched rules at index 0",
        ),
        (json!([{ "succeededIndexes": "0-3", "succeededCount": 2 }]), "3,4", ""),
        (json!([{ "succeededCount": 3 }]), "0,4", ""),
        (
            json!([{ "succeededIndexes": "0" }, { "succeededCount": 2 }]),
            "3,4",
            "Matched rules at index 1",
        ),
        (json!([{ "succeededCount": 0 }]), "", ""),
    ] {
        let spec = json!({ "completionMode": "Indexed", "completions": 5, "parallelism": 5,
            "successPolicy": { "rules": rules } });
        let job = job(spec, json!({ "completedIndexes": completed }));
        let mut running = [pod("p", "Running#1")];
        let plan = planned(&job, &running);
        let expected = if matched.is_empty() { "" } else { "SuccessPolicy" };
        assert_eq!(ended(&plan), (expected, matched), "{rules} {completed}");
        if !matched.is_empty() {
            // The pods that are still running are deleted, and do not count as failed.
            running = [pod("p", "-Running#1")];
            let (recorded, _) = executed(&job, &mut running, &plan);
            assert_eq!(conditions(&recorded), ["SuccessCriteriaMet=True SuccessPolicy"]);
            assert_eq!(recorded.uncounted_terminated_pods, Some(Default::default()));
        }
    }
}

#[test]
fn each_index_has_its_own_backoff_limit() {
    let spec = json!({ "completionMode": "Indexed", "completions": 3, "parallelism": 3,
        "backoffLimit": i32::MAX, "backoffLimitPerIndex": 1 });
    let status = json!({ "startTime": time(30), "completedIndexes": "2", "succeeded": 1 });
    let job = job(spec.clone(), status.clone());
    let first = [pod("a", "Failed#0"), pod("b", "Running#1")];
    // Its index waits 10 s from its end, and until then it keeps its finalizer.
    let plan = planned(&job, &first);
    assert_eq!((plan.create.len(), plan.requeue_after), (0, Some(Duration::from_secs(6))));
    assert_eq!(names(&recorded_pods(&job, &first, &plan)), [""; 0]);
    let later = now().checked_add(SignedDuration::from_secs(7)).unwrap();
    let plan = super::plan(&job, &first, PodFailures::default(), later);
    let annotations = plan.create[0].metadata.annotations.as_ref().unwrap();
    assert_eq!(annotations["batch.kubernetes.io/job-index-failure-count"], "1");
    assert_eq!(annotations["batch.kubernetes.io/job-completion-index"], "0");
    // Once its successor exists, it is counted.
    let mut replaced = first.to_vec();
    replaced.push(after_failures(pod("c", "Running#0"), "1"));
    assert_eq!(names(&recorded_pods(&job, &replaced, &plan)), ["a"]);
    // The second failure is beyond the limit: the index is not tried again.
    let mut failed = [after_failures(pod("c", "Failed#0"), "1"), pod("b", "Running#1")];
    let plan = planned(&job, &failed);
    assert_eq!((plan.create.len(), plan.outcome.as_ref(), plan.requeue_after), (0, None, None));
    let (_, status) = executed(&job, &mut failed, &plan);
    assert_eq!((status.failed_indexes.as_deref(), status.failed), (Some("0"), Some(1)));
    // With the last index settled, the job has failed.
    let last = [pod("b", "Succeeded#1")];
    let failing = Job { status: Some(status), ..job.clone() };
    assert_eq!(ended(&planned(&failing, &last)), ("FailedIndexes", "Job has failed indexes"));
    // Or earlier, if too many indexes have failed.
    let mut limited = failing;
    limited.spec.as_mut().unwrap().max_failed_indexes = Some(0);
    assert_eq!(ended(&planned(&limited, &[])).0, "MaxFailedIndexesExceeded");
}

#[test]
fn pod_failure_policy_fails_an_index_at_once() {
    let rules = json!([
        { "action": "FailIndex", "onExitCodes": { "operator": "In", "values": [3] } },
        { "action": "Ignore", "onExitCodes": { "operator": "In", "values": [4] } },
    ]);
    let spec = json!({ "completionMode": "Indexed", "completions": 4, "parallelism": 1,
        "backoffLimit": i32::MAX, "backoffLimitPerIndex": 0, "podReplacementPolicy": "Failed",
        "podFailurePolicy": { "rules": rules } });
    let job = job(spec, json!({ "startTime": time(30) }));
    let failed = [
        exit_code(pod("a", "Failed#0"), 3),
        exit_code(pod("b", "Failed#1"), 4),
        pod("c", "Failed#2"),
    ];
    let plan = planned(&job, &failed);
    let status = record(&job, &failed, &plan, now());
    assert_eq!(status.failed_indexes.as_deref(), Some("0,2"));
    let later = now().checked_add(SignedDuration::from_secs(60)).unwrap();
    let plan = super::plan(&job, &failed, PodFailures::default(), later);
    let annotations = plan.create[0].metadata.annotations.as_ref().unwrap();
    assert_eq!(annotations["batch.kubernetes.io/job-completion-index"], "1");
    assert_eq!(annotations["batch.kubernetes.io/job-index-failure-count"], "0");
    assert_eq!(annotations["batch.kubernetes.io/job-index-ignored-failure-count"], "1");
}

#[test]
fn terminating_pods_keep_their_index_until_they_end() {
    let spec = |policy: &str| {
        json!({ "completionMode": "Indexed", "completions": 3, "parallelism": 2,
            "podReplacementPolicy": policy })
    };
    let terminating = pods(&["-Running#0"]);
    let later = now().checked_add(SignedDuration::from_secs(60)).unwrap();
    for (policy, expected) in
        [("Failed", &["j-1-"][..]), ("TerminatingOrFailed", &["j-0-", "j-1-"])]
    {
        let plan = plan(&job(spec(policy), json!({})), &terminating, PodFailures::default(), later);
        let created: Vec<_> =
            plan.create.iter().map(|pod| pod.metadata.generate_name.as_deref().unwrap()).collect();
        assert_eq!(created, expected, "{policy}");
    }
}
