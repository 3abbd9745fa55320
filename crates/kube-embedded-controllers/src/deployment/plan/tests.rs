//! Steps of deployments.

use super::*;
use k8s_openapi::{
    api::apps::v1::{DeploymentSpec, ReplicaSetStatus},
    api::core::v1::PodTemplateSpec,
};

fn deployment(image: &str, replicas: i32) -> Deployment {
    let mut deployment = Deployment::default();
    deployment.metadata.name = Some("web".into());
    deployment.metadata.generation = Some(1);
    let mut template = PodTemplateSpec::default();
    template.metadata.get_or_insert_default().annotations =
        Some([("image".to_owned(), image.to_owned())].into());
    deployment.spec = Some(DeploymentSpec {
        replicas: Some(replicas),
        template,
        progress_deadline_seconds: Some(600),
        ..Default::default()
    });
    deployment
}

/// A set of this image with its numbers of desired, existing and available pods.
fn set(
    image: &str,
    revision: i64,
    (desired, existing, available): (i32, i32, i32),
) -> Arc<ReplicaSet> {
    let mut set = history::new_replica_set(&deployment(image, 3), desired, revision, 4);
    set.metadata.uid = set.metadata.name.clone();
    set.status = Some(ReplicaSetStatus {
        replicas: existing,
        available_replicas: Some(available),
        ..Default::default()
    });
    Arc::new(set)
}

fn now() -> Timestamp {
    Timestamp::from_second(1_763_000_000).unwrap()
}

/// The size that the plan gives to each set; `None` where it does not change.
fn sizes(sets: &[Arc<ReplicaSet>]) -> Vec<Option<i32>> {
    let plan = plan(&deployment("2", 3), sets, &[], now());
    sets.iter()
        .map(|set| {
            plan.actions.iter().find_map(|action| match action {
                Action::Update { old, new } if Arc::ptr_eq(old, set) && size(old) != size(new) => {
                    Some(size(new))
                }
                _ => None,
            })
        })
        .collect()
}

#[test]
fn first_replica_set_is_created_in_full_size_with_event() {
    let plan = plan(&deployment("1", 3), &[], &[], now());
    let Some(Action::Create(set)) = plan.actions.first() else { panic!("{plan:?}") };
    let name = set.metadata.name.clone().unwrap();
    assert_eq!(size(set), 3);
    assert!(
        plan.actions.contains(&Action::Event(format!("Scaled up replica set {name} from 0 to 3")))
    );
}

#[test]
fn rolling_update_respects_surge_and_availability_at_each_step() {
    // Three replicas, maxSurge 1, maxUnavailable 0.
    let cases = [
        ((3, 3, 3), (0, 0, 0), [None, Some(1)]),
        ((3, 3, 3), (1, 1, 0), [None, None]),
        ((3, 3, 3), (1, 1, 1), [Some(2), None]),
        // The old set has not deleted its pod yet.
        ((2, 3, 3), (1, 1, 1), [None, None]),
        ((2, 2, 2), (1, 1, 1), [None, Some(2)]),
        ((1, 1, 1), (3, 3, 3), [Some(0), None]),
        // An unavailable pod of the old set may be deleted.
        ((3, 3, 2), (1, 1, 1), [Some(2), None]),
    ];
    for (old, new, expected) in cases {
        let found = sizes(&[set("1", 1, old), set("2", 2, new)]);
        assert_eq!(found, expected, "{old:?} {new:?}");
    }
}

#[test]
fn scaling_during_rollout_is_proportional() {
    let deployment = deployment("2", 12);
    let sets = [set("1", 1, (3, 3, 3)), set("2", 2, (1, 1, 0))];
    let plan = plan(&deployment, &sets, &[], now());
    let resized: i32 = plan
        .actions
        .iter()
        .filter_map(|action| match action {
            Action::Update { new, .. } => Some(size(new)),
            _ => None,
        })
        .sum();
    // maxSurge is 25% of 12.
    assert_eq!(resized, 15);
}

#[test]
fn rollout_without_progress_exceeds_its_deadline() {
    let mut deployment = deployment("2", 3);
    let sets = [set("2", 1, (3, 3, 0))];
    for action in plan(&deployment, &sets, &[], now()).actions {
        if let Action::UpdateStatus(status) = action {
            deployment.status = Some(*status);
        }
    }
    let later = now() + jiff::SignedDuration::from_secs(601);
    let plan = plan(&deployment, &sets, &[], later);
    let late = plan.actions.iter().any(|action| match action {
        Action::UpdateStatus(status) => status::find(status, status::PROGRESSING)
            .is_some_and(|c| c.reason.as_deref() == Some("ProgressDeadlineExceeded")),
        _ => false,
    });
    assert!(late, "{plan:?}");
}
