//! Defaults, validation and columns of Jobs.

use super::*;

fn created(spec: Value) -> Value {
    let mut whole = json!({ "template": { "spec": {
        "containers": [{ "name": "c", "image": "i" }], "restartPolicy": "Never",
    } } });
    json_patch::merge(&mut whole, &spec);
    let mut job = json!({ "metadata": { "name": "j", "uid": "u" }, "spec": whole });
    defaults(&mut job);
    prepare_create(&mut job);
    job
}

fn messages(job: &Value, old: Option<&Value>) -> Vec<String> {
    let errors = validate(job, old).into_iter();
    errors.map(|error| format!("{}: {}", error.field, error.message)).collect()
}

#[test]
fn defaults_depend_on_parallelism_and_policies() {
    for (spec, completions, parallelism, limit, replaced) in [
        (json!({}), json!(1), 1, 6, "TerminatingOrFailed"),
        (json!({ "parallelism": 3 }), json!(null), 3, 6, "TerminatingOrFailed"),
        (json!({ "completions": 4 }), json!(4), 1, 6, "TerminatingOrFailed"),
        (
            json!({ "backoffLimitPerIndex": 1, "podFailurePolicy": { "rules": [] } }),
            json!(1),
            1,
            i32::MAX,
            "Failed",
        ),
    ] {
        let spec = &created(spec)["spec"];
        assert_eq!(spec["completions"], completions);
        assert_eq!(spec["parallelism"], parallelism);
        assert_eq!(spec["backoffLimit"], limit);
        assert_eq!(spec["podReplacementPolicy"], replaced);
    }
}

#[test]
fn labels_and_selector_are_generated_and_validated() {
    let labels = json!({ "controller-uid": "u", "batch.kubernetes.io/controller-uid": "u",
        "job-name": "j", "batch.kubernetes.io/job-name": "j" });
    let job = created(json!({}));
    assert_eq!(job["spec"]["template"]["metadata"]["labels"], labels);
    assert_eq!(job["metadata"]["labels"], labels);
    let selected = json!({ "batch.kubernetes.io/controller-uid": "u" });
    assert_eq!(job["spec"]["selector"]["matchLabels"], selected);
    assert_eq!(validate(&job, None), []);
    let taken = json!({ "template": { "metadata": { "labels": { "job-name": "x" } } } });
    let errors = messages(&created(taken), None);
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].starts_with("spec.template.metadata.labels[job-name]: Invalid value: {"));
    assert!(errors[0].ends_with(": must be 'j'"), "{errors:?}");
    let manual = json!({ "manualSelector": true, "selector": { "matchLabels": { "a": "b" } },
        "template": { "metadata": { "labels": { "a": "b" } } } });
    let job = created(manual);
    assert_eq!(job["metadata"]["labels"], json!({ "a": "b" }));
    assert_eq!(validate(&job, None), []);
}

#[test]
fn invalid_field_is_one_error() {
    for (spec, message) in [
        (
            json!({ "parallelism": -1 }),
            "spec.parallelism: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            json!({ "template": { "spec": { "restartPolicy": null } } }),
            "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \
             \"Never\"",
        ),
        (
            json!({ "completionMode": "Indexed", "parallelism": 1 }),
            "spec.completions: Required value: when completion mode is Indexed",
        ),
        (
            json!({ "completionMode": "Indexed", "completions": 100_001,
                "backoffLimitPerIndex": 1 }),
            "spec.maxFailedIndexes: Required value: must be specified when completions is above \
             100000",
        ),
        (
            json!({ "completionMode": "Indexed", "completions": 100_001, "parallelism": 10_001,
                "backoffLimitPerIndex": 1, "maxFailedIndexes": 1 }),
            "spec.parallelism: Invalid value: 10001: must be less than or equal to 10000 when \
             completions are above 100000 and used with backoff limit per index",
        ),
        (
            json!({ "completionMode": "Sorted" }),
            "spec.completionMode: Unsupported value: \"Sorted\": supported values: \
             \"NonIndexed\", \"Indexed\"",
        ),
        (
            json!({ "backoffLimitPerIndex": 1 }),
            "spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode",
        ),
        (
            json!({ "successPolicy": { "rules": [] } }),
            "spec.successPolicy: Invalid value: {\"rules\":[]}: requires indexed completion mode",
        ),
        (
            json!({ "podReplacementPolicy": "Never" }),
            "spec.podReplacementPolicy: Unsupported value: \"Never\": supported values: \
             \"Failed\", \"TerminatingOrFailed\"",
        ),
        (
            json!({ "podFailurePolicy": { "rules": [{ "action": "Ignore" }] } }),
            "spec.podFailurePolicy.rules[0]: Invalid value: specifying one of OnExitCodes and \
             OnPodConditions is required",
        ),
        (
            json!({ "podFailurePolicy": { "rules": [{ "action": "FailJob",
                "onExitCodes": { "operator": "In", "values": [0] } }] } }),
            "spec.podFailurePolicy.rules[0].onExitCodes.values[0]: Invalid value: 0: must not be \
             0 for the In operator",
        ),
    ] {
        assert_eq!(messages(&created(spec), None), [message]);
    }
    let mut long = created(json!({ "completionMode": "Indexed", "completions": 11 }));
    let name = "x".repeat(61);
    long["metadata"]["name"] = name.as_str().into();
    for label in NAME_LABELS {
        long["spec"]["template"]["metadata"]["labels"][label] = name.as_str().into();
    }
    let errors = messages(&long, None);
    assert!(errors[0].ends_with(&format!("with invalid DNS label: {name}-10")), "{errors:?}");
}

#[test]
fn update_may_change_only_mutable_fields() {
    let elastic = json!({ "completionMode": "Indexed", "completions": 3, "parallelism": 3 });
    let suspended = json!({ "suspend": true });
    for (old, change, immutable) in [
        (json!({}), json!({ "parallelism": 5, "suspend": true, "backoffLimit": 1 }), None),
        (json!({}), json!({ "completions": 2 }), Some("spec.completions")),
        (json!({}), json!({ "template": { "spec": { "hostname": "h" } } }), Some("spec.template")),
        (elastic.clone(), json!({ "completions": 2, "parallelism": 2 }), None),
        (elastic, json!({ "completions": 2 }), Some("spec.completions")),
        (
            suspended.clone(),
            json!({ "template": { "spec": { "nodeSelector": { "a": "b" },
                "affinity": { "nodeAffinity": {} } } } }),
            None,
        ),
        (
            suspended,
            json!({ "template": { "spec": { "affinity": { "podAffinity": {} } } } }),
            Some("spec.template.spec"),
        ),
        (
            json!({ "suspend": true }),
            json!({ "template": { "spec": { "containers": [
                { "resources": { "limits": { "cpu": "1" } } },
            ] } } }),
            None,
        ),
    ] {
        let old = created(old);
        let mut new = old.clone();
        if let Some(containers) = change.pointer("/template/spec/containers") {
            json_patch::merge(
                &mut new["spec"]["template"]["spec"]["containers"][0],
                &containers[0],
            );
        } else {
            json_patch::merge(&mut new["spec"], &change);
        }
        let fields: Vec<String> =
            validate(&new, Some(&old)).into_iter().map(|error| error.field).collect();
        assert_eq!(fields, immutable.into_iter().collect::<Vec<_>>(), "{change}");
    }
}

#[test]
fn status_and_completions_columns_follow_status() {
    let with = |name: &str| {
        let conditions = json!([
            { "type": "Failed", "status": "False" },
            { "type": name, "status": "True" },
        ]);
        json!({ "status": { "conditions": conditions } })
    };
    for (job, shown) in [
        (json!({}), "Running"),
        (with("Complete"), "Complete"),
        (with("Suspended"), "Suspended"),
        (with("FailureTarget"), "FailureTarget"),
        (json!({ "metadata": { "deletionTimestamp": "t" } }), "Terminating"),
    ] {
        assert_eq!(state(&job), shown);
    }
    for (spec, shown) in [
        (json!({ "completions": 4, "parallelism": 2 }), "1/4"),
        (json!({ "parallelism": 2 }), "1/1 of 2"),
        (json!({ "parallelism": 1 }), "1/1"),
    ] {
        assert_eq!(completions(&json!({ "spec": spec, "status": { "succeeded": 1 } })), shown);
    }
}

#[test]
fn template_of_a_job_that_was_started_changes_only_once_it_is_suspended() {
    let change = json!({ "template": { "spec": { "nodeSelector": { "a": "b" } } } });
    let suspended = json!([{ "type": "Suspended", "status": "True" }]);
    for (status, allowed) in [
        (json!({}), true),
        (json!({ "startTime": "2026-01-01T00:00:00Z" }), false),
        (json!({ "startTime": "2026-01-01T00:00:00Z", "conditions": suspended }), true),
        (json!({ "active": 1, "conditions": suspended }), false),
    ] {
        let mut old = created(json!({ "suspend": true }));
        old["status"] = status;
        let mut new = old.clone();
        json_patch::merge(&mut new["spec"], &change);
        assert_eq!(validate(&new, Some(&old)).is_empty(), allowed, "{}", old["status"]);
    }
}

#[test]
fn indexes_of_a_success_policy_are_validated() {
    for (rule, expected) in [
        (json!({ "succeededIndexes": "0-2" }), None),
        (
            json!({ "succeededIndexes": "0-9" }),
            Some("error parsing succeededIndexes: too large index: \"9\""),
        ),
        (
            json!({ "succeededIndexes": "0,2", "succeededCount": 3 }),
            Some(
                "must be less than or equal to 2 (the number of indexes in the specified succeededIndexes field)",
            ),
        ),
    ] {
        let job = created(json!({ "completionMode": "Indexed", "completions": 4,
            "successPolicy": { "rules": [rule] } }));
        let errors = messages(&job, None);
        assert_eq!(errors.len(), usize::from(expected.is_some()), "{errors:?}");
        assert!(expected.is_none_or(|expected| errors[0].ends_with(expected)), "{errors:?}");
    }
}

#[test]
fn status_of_another_controller_is_validated() {
    let condition = |name: &str| json!({ "type": name, "status": "True" });
    let start = "2026-01-01T00:00:05Z";
    let complete = json!({ "startTime": start, "completionTime": "2026-01-01T00:00:06Z",
        "conditions": [condition("SuccessCriteriaMet"), condition("Complete")] });
    let table = [
        (json!({}), json!({ "active": 1, "startTime": start }), None),
        (json!({}), complete.clone(), None),
        (json!({}), json!({ "active": -1 }), Some("status.active")),
        (json!({}), json!({ "ready": 2, "active": 1 }), Some("status.ready")),
        (json!({ "failed": 2 }), json!({ "failed": 1 }), Some("status.failed")),
        (json!({ "succeeded": 2 }), json!({}), Some("status.succeeded")),
        (
            complete.clone(),
            json!({ "startTime": start, "conditions": [condition("SuccessCriteriaMet")] }),
            Some("status.conditions"),
        ),
        (
            json!({}),
            json!({ "startTime": start, "conditions": [condition("Failed")] }),
            Some("status.conditions"),
        ),
        (
            json!({}),
            json!({ "conditions": [condition("FailureTarget"), condition("SuccessCriteriaMet")] }),
            Some("status.conditions"),
        ),
        (json!({}), json!({ "completionTime": start }), Some("status.completionTime")),
        (
            json!({ "startTime": start }),
            json!({ "startTime": "2026-01-02T00:00:00Z" }),
            Some("status.startTime"),
        ),
        (json!({}), json!({ "completedIndexes": "1" }), Some("status.completedIndexes")),
        (json!({}), json!({ "failedIndexes": "" }), Some("status.failedIndexes")),
        (
            json!({}),
            json!({ "uncountedTerminatedPods": { "failed": ["a"], "succeeded": ["a"] } }),
            Some("status.uncountedTerminatedPods.failed[0]"),
        ),
        // What does not change is not judged.
        (json!({ "completedIndexes": "1" }), json!({ "completedIndexes": "1" }), None),
    ];
    for (old, new, expected) in table {
        let with = |status: &Value| json!({ "spec": { "completions": 2 }, "status": status });
        let errors = super::status::validate(&with(&new), &with(&old));
        let fields: Vec<&str> = errors.iter().map(|error| &*error.field).collect();
        assert_eq!(fields, expected.into_iter().collect::<Vec<_>>(), "{old} {new} {errors:?}");
    }
    let indexed = |completed: &str, failed: &str| {
        json!({ "spec": { "completionMode": "Indexed", "completions": 4, "backoffLimitPerIndex": 1 },
            "status": { "completedIndexes": completed, "failedIndexes": failed } })
    };
    for (completed, failed, expected) in [
        ("0-1", "2", None),
        ("0-4", "2", Some("error parsing completedIndexes: too large index: \"4\"")),
        ("0-2", "2,3", Some("failedIndexes and completedIndexes overlap at index: 2")),
    ] {
        let errors = super::status::validate(&indexed(completed, failed), &indexed("", ""));
        assert_eq!(errors.len(), usize::from(expected.is_some()), "{errors:?}");
        assert!(
            expected.is_none_or(|expected| errors[0].message.ends_with(expected)),
            "{errors:?}"
        );
    }
}
