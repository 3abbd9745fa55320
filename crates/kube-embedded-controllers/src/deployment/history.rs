//! Revisions: the newest replica set, and the annotations that record revisions and sizes.

use crate::{controller_ref::controller_ref, selector::Labels};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet},
        core::v1::PodTemplateSpec,
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use sha2::{Digest, Sha256};
use std::sync::Arc;

pub(crate) const HASH_LABEL: &str = "pod-template-hash";
const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAXIMUM: &str = "deployment.kubernetes.io/max-replicas";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The alphabet of generated names in Kubernetes: without vowels, it spells no words.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
/// The maximum length of the revision history annotation, as in Kubernetes.
const HISTORY_LENGTH: usize = 2000;

/// Returns the replica set with the deployment's current template; the oldest if there are several.
pub(crate) fn newest<'a>(
    deployment: &Deployment,
    sets: &'a [Arc<ReplicaSet>],
) -> Option<&'a Arc<ReplicaSet>> {
    let template = &deployment.spec.as_ref()?.template;
    sets.iter()
        .filter(|set| {
            let made_from = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
            made_from.is_some_and(|made_from| same_template(made_from, template))
        })
        .min_by_key(|set| age_order(&set.metadata))
}

/// Returns a sort key that orders objects by age, oldest first, and then by name.
pub(crate) fn age_order(meta: &ObjectMeta) -> (Option<Timestamp>, Option<&str>) {
    (meta.creation_timestamp.as_ref().map(|time| time.0), meta.name.as_deref())
}

/// Returns `true` if two templates are equal except for the hash label.
fn same_template(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    let plain = |template: &PodTemplateSpec| {
        let meta = template.metadata.clone().unwrap_or_default();
        let mut labels = meta.labels.unwrap_or_default();
        labels.remove(HASH_LABEL);
        (labels, meta.annotations.unwrap_or_default())
    };
    a.spec == b.spec && plain(a) == plain(b)
}

/// Computes the hash for names and labels. `collisions` counts the hashes that were taken already.
pub(crate) fn hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    let mut hasher = Sha256::new();
    // Cannot fail: the template was decoded from JSON.
    hasher.update(serde_json::to_vec(template).unwrap_or_default());
    if let Some(collisions) = collisions {
        hasher.update(collisions.to_le_bytes());
    }
    let digest = hasher.finalize();
    let number = digest.iter().take(4).fold(0u32, |number, byte| number << 8 | u32::from(*byte));
    number.to_string().bytes().map(letter).collect()
}

fn letter(byte: u8) -> char {
    ALPHABET.get(usize::from(byte) % ALPHABET.len()).copied().unwrap_or(b'b').into()
}

/// Creates a replica set for the deployment's current template.
pub(crate) fn new_replica_set(
    deployment: &Deployment,
    replicas: i32,
    revision: i64,
    maximum: i32,
) -> ReplicaSet {
    let spec = deployment.spec.clone().unwrap_or_default();
    let status = deployment.status.as_ref();
    let hash = hash(&spec.template, status.and_then(|status| status.collision_count));
    let name = deployment.metadata.name.as_deref().unwrap_or_default();
    let mut template = spec.template;
    let mut labels = template.metadata.get_or_insert_default().labels.clone().unwrap_or_default();
    labels.insert(HASH_LABEL.into(), hash.clone());
    template.metadata.get_or_insert_default().labels = Some(labels.clone());
    let mut match_labels = spec.selector.match_labels.unwrap_or_default();
    match_labels.insert(HASH_LABEL.into(), hash.clone());
    let mut set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{hash}")),
            namespace: deployment.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![controller_ref(deployment)]),
            ..Default::default()
        },
        spec: Some(k8s_openapi::api::apps::v1::ReplicaSetSpec {
            replicas: Some(replicas),
            min_ready_seconds: spec.min_ready_seconds.filter(|seconds| *seconds != 0),
            selector: LabelSelector {
                match_labels: Some(match_labels),
                match_expressions: spec.selector.match_expressions,
            },
            template: Some(template),
        }),
        status: None,
    };
    annotate(deployment, &mut set, revision);
    note_sizes(&mut set, deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1), maximum);
    set
}

/// Copies the deployment's annotations (the change cause is one) and sets the revision, which moves
/// the previous one to the history.
pub(crate) fn annotate(deployment: &Deployment, set: &mut ReplicaSet, revision: i64) {
    let known = revision_of(&set.metadata);
    let annotations = set.metadata.annotations.get_or_insert_default();
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if ![REVISION, HISTORY, DESIRED, MAXIMUM, LAST_APPLIED].contains(&key.as_str()) {
            annotations.insert(key.clone(), value.clone());
        }
    }
    if known.is_none_or(|known| known < revision) {
        annotations.insert(REVISION.into(), revision.to_string());
        if let Some(known) = known {
            append_to_history(annotations, known);
        }
    }
}

/// Appends a revision to the history; drops the oldest ones beyond the maximum length.
fn append_to_history(annotations: &mut Labels, revision: i64) {
    let mut history: Vec<String> = annotations
        .get(HISTORY)
        .map(|history| history.split(',').map(str::to_owned).collect())
        .unwrap_or_default();
    history.push(revision.to_string());
    while history.iter().map(|entry| entry.len() + 1).sum::<usize>() > HISTORY_LENGTH {
        history.remove(0);
    }
    annotations.insert(HISTORY.into(), history.join(","));
}

/// Records the sizes that proportional scaling compares with.
pub(crate) fn note_sizes(set: &mut ReplicaSet, desired: i32, maximum: i32) {
    let annotations = set.metadata.annotations.get_or_insert_default();
    annotations.insert(DESIRED.into(), desired.to_string());
    annotations.insert(MAXIMUM.into(), maximum.to_string());
}

/// Returns the revision of a deployment or replica set.
pub(crate) fn revision_of(meta: &ObjectMeta) -> Option<i64> {
    number(meta, REVISION)
}

/// Returns the deployment's number of replicas when it last sized the set.
pub(crate) fn desired_noted(set: &ReplicaSet) -> Option<i32> {
    number(&set.metadata, DESIRED)
}

/// Returns the deployment's maximum number of replicas when it last sized the set.
pub(crate) fn maximum_noted(set: &ReplicaSet) -> Option<i32> {
    number(&set.metadata, MAXIMUM)
}

fn number<N: std::str::FromStr>(meta: &ObjectMeta, annotation: &str) -> Option<N> {
    meta.annotations.as_ref()?.get(annotation)?.parse().ok()
}

/// Sets the deployment's revision to that of its newest replica set.
pub(crate) fn set_revision(deployment: &mut Deployment, revision: i64) {
    let annotations = deployment.metadata.annotations.get_or_insert_default();
    annotations.insert(REVISION.into(), revision.to_string());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_uses_safe_alphabet_and_depends_on_template_and_collisions() {
        let mut template = PodTemplateSpec::default();
        let plain = hash(&template, None);
        assert!(plain.bytes().all(|b| ALPHABET.contains(&b)), "{plain}");
        assert!((1..=10).contains(&plain.len()));
        assert_ne!(plain, hash(&template, Some(1)));
        template.metadata.get_or_insert_default().name = Some("other".into());
        assert_ne!(plain, hash(&template, None));
        assert_eq!("0123456789".bytes().map(letter).collect::<String>(), "456789bcdf");
    }

    #[test]
    fn reused_set_records_its_previous_revisions() {
        let deployment = Deployment::default();
        let mut set = new_replica_set(&deployment, 1, 1, 2);
        annotate(&deployment, &mut set, 3);
        annotate(&deployment, &mut set, 3);
        annotate(&deployment, &mut set, 5);
        let annotations = set.metadata.annotations.unwrap();
        assert_eq!(annotations[REVISION], "5");
        assert_eq!(annotations[HISTORY], "1,3");
    }
}
