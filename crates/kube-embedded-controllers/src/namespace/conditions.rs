//! The conditions of a namespace that is being deleted, which say why it is still there
//! (`pkg/controller/namespace/deletion/status_condition_utils.go`).

use k8s_openapi::{
    api::core::v1::NamespaceCondition, apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp,
};
use std::collections::BTreeMap;

/// What a namespace still contains.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Remaining {
    /// The number of objects by resource, `configmaps.` or `deployments.apps`.
    pub(super) resources: BTreeMap<String, usize>,
    /// The number of objects by the finalizer that they have.
    pub(super) finalizers: BTreeMap<String, usize>,
    /// Errors of deletions.
    pub(super) failures: Vec<String>,
}

impl Remaining {
    pub(super) fn is_empty(&self) -> bool {
        self.resources.is_empty() && self.failures.is_empty()
    }

    /// Counts an object.
    pub(super) fn add(&mut self, resource: &str, finalizers: &[String]) {
        *self.resources.entry(resource.to_owned()).or_default() += 1;
        for finalizer in finalizers {
            *self.finalizers.entry(finalizer.clone()).or_default() += 1;
        }
    }
}

/// Type, whether it holds, reason and message.
type Desired = (&'static str, bool, &'static str, String);

fn desired(remaining: &Remaining) -> [Desired; 5] {
    let list = |counts: &BTreeMap<String, usize>, verb: &str| {
        let shown =
            counts.iter().map(|(name, count)| format!("{name} {verb} {count} resource instances"));
        shown.collect::<Vec<_>>().join(", ")
    };
    let of = |kind, ok: (&'static str, &str), failing: Option<(&'static str, String)>| match failing
    {
        None => (kind, false, ok.0, ok.1.to_owned()),
        Some((reason, message)) => (kind, true, reason, message),
    };
    let failures = &remaining.failures;
    [
        of(
            "NamespaceDeletionDiscoveryFailure",
            ("ResourcesDiscovered", "All resources successfully discovered"),
            None,
        ),
        of(
            "NamespaceDeletionGroupVersionParsingFailure",
            ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
            None,
        ),
        of(
            "NamespaceDeletionContentFailure",
            ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
            (!failures.is_empty()).then(|| {
                let (count, all) = (failures.len(), failures.join(", "));
                let message =
                    format!("Failed to delete all resource types, {count} remaining: {all}");
                ("ContentDeletionFailed", message)
            }),
        ),
        of(
            "NamespaceContentRemaining",
            ("ContentRemoved", "All content successfully removed"),
            (!remaining.resources.is_empty()).then(|| {
                let all = list(&remaining.resources, "has");
                ("SomeResourcesRemain", format!("Some resources are remaining: {all}"))
            }),
        ),
        of(
            "NamespaceFinalizersRemaining",
            ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
            (!remaining.finalizers.is_empty()).then(|| {
                let all = list(&remaining.finalizers, "in");
                let message =
                    format!("Some content in the namespace has finalizers remaining: {all}");
                ("SomeFinalizersRemain", message)
            }),
        ),
    ]
}

/// Returns the conditions to store; those that do not change keep their time.
pub(super) fn plan(
    old: &[NamespaceCondition],
    remaining: &Remaining,
    now: Timestamp,
) -> Vec<NamespaceCondition> {
    let mut conditions = old.to_vec();
    for (kind, holds, reason, message) in desired(remaining) {
        let status = if holds { "True" } else { "False" };
        let found = conditions.iter_mut().find(|condition| condition.type_ == kind);
        let changed = found.as_ref().is_none_or(|condition| condition.status != status);
        let since = found.as_ref().and_then(|condition| condition.last_transition_time.clone());
        let condition = NamespaceCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: if changed { Some(Time(now)) } else { since },
        };
        match found {
            Some(found) => *found = condition,
            None => conditions.push(condition),
        }
    }
    conditions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_name_what_remains_and_its_finalizers() {
        let mut remaining = Remaining::default();
        remaining.add("configmaps.", &["example.com/hold".to_owned()]);
        remaining.add("deployments.apps", &[]);
        let (start, later) = (Timestamp::UNIX_EPOCH, Timestamp::from_second(9).unwrap());
        let held = plan(&[], &remaining, start);
        let shown = |conditions: &[NamespaceCondition]| -> Vec<String> {
            let shown = conditions.iter();
            shown
                .filter(|condition| condition.status == "True")
                .map(|condition| {
                    format!("{} {}", condition.type_, condition.message.clone().unwrap())
                })
                .collect()
        };
        assert_eq!(held.len(), 5);
        assert_eq!(
            shown(&held),
            [
                "NamespaceContentRemaining Some resources are remaining: configmaps. has 1 resource instances, \
                 deployments.apps has 1 resource instances",
                "NamespaceFinalizersRemaining Some content in the namespace has finalizers remaining: example.com/hold \
                 in 1 resource instances",
            ]
        );
        assert_eq!(plan(&held, &remaining, later), held);
        let ended = plan(&held, &Remaining::default(), later);
        assert_eq!(shown(&ended), [""; 0]);
        let times: Vec<i64> = ended
            .iter()
            .map(|condition| condition.last_transition_time.as_ref().unwrap().0.as_second())
            .collect();
        assert_eq!(times, [0, 0, 0, 9, 9]);
    }
}
