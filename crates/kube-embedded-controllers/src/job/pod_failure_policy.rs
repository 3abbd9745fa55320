//! The pod failure policy: how each failure of a pod counts (Kubernetes' `matchPodFailurePolicy`).

use k8s_openapi::api::{
    batch::v1::{
        Job, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern,
        PodFailurePolicyRule,
    },
    core::v1::{ContainerStatus, Pod, PodStatus},
};

/// What follows from the failure of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// It counts towards the backoff limits.
    Count,
    /// It does not count.
    Ignore,
    /// Its index fails, whatever the limit.
    FailIndex,
    /// The job fails, with this message.
    FailJob(String),
}

/// Returns the action of the first rule that matches a failed pod. Without a match its failure counts.
pub(crate) fn action(job: &Job, pod: &Pod) -> Action {
    let policy = job.spec.as_ref().and_then(|spec| spec.pod_failure_policy.as_ref());
    let rules = policy.map(|policy| policy.rules.as_slice()).unwrap_or_default();
    let mut matches = rules.iter().enumerate().filter_map(|(at, rule)| {
        let cause = matched(rule, pod)?;
        match rule.action.as_str() {
            "Ignore" => Some(Action::Ignore),
            "FailIndex" => Some(Action::FailIndex),
            "Count" => Some(Action::Count),
            "FailJob" => {
                Some(Action::FailJob(format!("{cause} matching FailJob rule at index {at}")))
            }
            _ => None,
        }
    });
    matches.next().unwrap_or(Action::Count)
}

/// Returns what of a pod matches a rule, in the words of the job's condition.
fn matched(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let metadata = &pod.metadata;
    let name = format!(
        "{}/{}",
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.name.as_deref().unwrap_or_default()
    );
    if let Some(requirement) = &rule.on_exit_codes {
        let (container, code) = container_with_exit_code(status, requirement)?;
        return Some(format!("Container {container} for pod {name} failed with exit code {code}"));
    }
    let patterns = rule.on_pod_conditions.as_deref().unwrap_or_default();
    let matching = status.conditions.iter().flatten().find(|condition| {
        patterns.iter().any(|pattern| {
            pattern.type_ == condition.type_ && wanted_status(pattern) == condition.status
        })
    })?;
    Some(format!("Pod {name} has condition {}", matching.type_))
}

#[expect(clippy::useless_conversion, reason = "the status is no Option before Kubernetes 1.35")]
fn wanted_status(pattern: &PodFailurePolicyOnPodConditionsPattern) -> String {
    let status: Option<String> = pattern.status.clone().into();
    status.filter(|status| !status.is_empty()).unwrap_or_else(|| "True".to_owned())
}

/// Returns the first container, init containers last, that failed as required, with its exit code.
fn container_with_exit_code<'a>(
    status: &'a PodStatus,
    requirement: &PodFailurePolicyOnExitCodesRequirement,
) -> Option<(&'a str, i32)> {
    let failed = |container: &'a ContainerStatus| {
        let code = container.state.as_ref()?.terminated.as_ref()?.exit_code;
        let name = requirement.container_name.as_ref();
        let is_meant = name.is_none_or(|name| *name == container.name);
        let is_listed = requirement.values.contains(&code);
        let matches = match requirement.operator.as_str() {
            "In" => is_listed,
            "NotIn" => !is_listed,
            _ => false,
        };
        (is_meant && code != 0 && matches).then_some((container.name.as_str(), code))
    };
    let containers = status.container_statuses.iter().chain(&status.init_container_statuses);
    containers.flatten().find_map(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn job(rules: &Value) -> Job {
        let template = json!({ "spec": { "containers": [] } });
        let spec = json!({ "template": template, "podFailurePolicy": { "rules": rules } });
        serde_json::from_value(json!({ "spec": spec })).unwrap()
    }

    fn terminated(name: &str, code: i32) -> Value {
        json!({ "name": name, "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": { "terminated": { "exitCode": code } } })
    }

    fn codes(action: &str, operator: &str, values: &[i32], container: Option<&str>) -> Value {
        json!({ "action": action, "onExitCodes": {
            "containerName": container, "operator": operator, "values": values,
        } })
    }

    #[test]
    fn first_matching_rule_decides() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": "p", "namespace": "n" },
            "status": {
                "phase": "Failed",
                "containerStatuses": [terminated("done", 0), terminated("main", 3)],
                "initContainerStatuses": [terminated("sidecar", 7)],
                "conditions": [{ "type": "DisruptionTarget", "status": "True" }],
            },
        }))
        .unwrap();
        let condition = |action: &str, status: &str| {
            json!({ "action": action,
                "onPodConditions": [{ "type": "DisruptionTarget", "status": status }] })
        };
        let container_3 = Action::FailJob(
            "Container main for pod n/p failed with exit code 3 matching FailJob rule at index 1"
                .into(),
        );
        let disrupted = Action::FailJob(
            "Pod n/p has condition DisruptionTarget matching FailJob rule at index 0".into(),
        );
        let table = [
            (json!([]), Action::Count),
            (json!([codes("Ignore", "In", &[3], None)]), Action::Ignore),
            (json!([codes("FailIndex", "In", &[3, 4], Some("main"))]), Action::FailIndex),
            (json!([codes("Ignore", "In", &[3], Some("done"))]), Action::Count),
            (json!([codes("Ignore", "In", &[4], None)]), Action::Count),
            (json!([codes("Ignore", "In", &[7], None)]), Action::Ignore),
            // A container that exits with 0 has not failed, so no operator matches it.
            (json!([codes("Ignore", "NotIn", &[3, 7], None)]), Action::Count),
            (json!([codes("Ignore", "NotIn", &[4], Some("main"))]), Action::Ignore),
            (json!([codes("Count", "In", &[3], None), condition("Ignore", "True")]), Action::Count),
            (
                json!([condition("Ignore", "False"), codes("FailJob", "In", &[3], None)]),
                container_3,
            ),
            (json!([condition("FailJob", "True")]), disrupted),
        ];
        for (rules, expected) in table {
            assert_eq!(action(&job(&rules), &pod), expected, "{rules}");
        }
        let running = Pod { status: None, ..pod };
        assert_eq!(action(&job(&json!([condition("Ignore", "True")])), &running), Action::Count);
    }
}
