//! What events tell of a Deployment's past.

use k8s_openapi::api::core::v1::Event;
use std::collections::BTreeMap;

/// A change of the number of pods of a ReplicaSet.
#[derive(Debug, PartialEq)]
struct Scaling<'a> {
    set: &'a str,
    from: i64,
    to: i64,
}

/// Parses `Scaled up replica set NAME from 3 to 5`, the message of the Deployment controller.
fn scaling(message: &str) -> Option<Scaling<'_>> {
    let rest = message.strip_prefix("Scaled ")?;
    let rest = rest.strip_prefix("up ").or_else(|| rest.strip_prefix("down "))?;
    let (set, numbers) = rest.strip_prefix("replica set ")?.split_once(" from ")?;
    let (from, to) = numbers.split_once(" to ")?;
    Some(Scaling { set, from: from.parse().ok()?, to: to.parse().ok()? })
}

fn of<'a>(
    events: &'a [Event],
    reason: &'a str,
    kind: &'a str,
    name: &'a str,
) -> impl Iterator<Item = &'a Event> {
    events.iter().filter(move |event| {
        let object = &event.involved_object;
        event.reason.as_deref() == Some(reason)
            && object.kind.as_deref() == Some(kind)
            && object.name.as_deref() == Some(name)
    })
}

fn count(event: &Event) -> i64 {
    event.count.unwrap_or(1).max(1).into()
}

/// Returns the largest number of pods above `wanted` that one ReplicaSet of the Deployment had before it was scaled
/// back to it. A rollout goes no higher than `wanted`.
pub(super) fn scaled_up_and_back(events: &[Event], deployment: &str, wanted: i32) -> Option<i64> {
    let wanted = i64::from(wanted);
    let of = of(events, "ScalingReplicaSet", "Deployment", deployment);
    let all: Vec<_> = of.filter_map(|event| scaling(event.message.as_deref()?)).collect();
    let up = all.iter().filter(|s| s.to > wanted && (1..s.to).contains(&s.from));
    let back = |up: &&Scaling| {
        all.iter().any(|s| s.set == up.set && s.from >= up.to && (1..=wanted).contains(&s.to))
    };
    up.filter(back).map(|up| up.to).max()
}

/// Returns the number of pods that the Deployment's ReplicaSets created in place of others, not to grow.
pub(super) fn replaced(events: &[Event], deployment: &str) -> i64 {
    let mut wanted: BTreeMap<&str, i64> = BTreeMap::new();
    for event in of(events, "ScalingReplicaSet", "Deployment", deployment) {
        if let Some(Scaling { set, from, to }) = event.message.as_deref().and_then(scaling) {
            *wanted.entry(set).or_default() += (to - from).max(0) * count(event);
        }
    }
    let created =
        |set: &str| of(events, "SuccessfulCreate", "ReplicaSet", set).map(count).sum::<i64>();
    wanted.iter().map(|(set, wanted)| (created(set) - wanted).max(0)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(reason: &str, kind: &str, name: &str, message: &str) -> Event {
        let object = json!({"kind": kind, "name": name});
        let event =
            json!({"reason": reason, "message": message, "involvedObject": object, "metadata": {}});
        serde_json::from_value(event).unwrap()
    }

    fn scaled(messages: &[&str]) -> Vec<Event> {
        messages
            .iter()
            .map(|message| event("ScalingReplicaSet", "Deployment", "d", message))
            .collect()
    }

    #[test]
    fn scaling_by_hand_is_told_from_rollouts() {
        let start = "Scaled up replica set d-1 from 0 to 3";
        let up = "Scaled up replica set d-1 from 3 to 5";
        let down = "Scaled down replica set d-1 from 5 to 3";
        for (messages, expected) in [
            (&[start][..], None),
            (&[start, up], None),
            (&[start, down], None),
            (&[start, up, down], Some(5)),
            (
                &[
                    start,
                    "Scaled up replica set d-1 from 2 to 3",
                    "Scaled down replica set d-1 from 3 to 2",
                ],
                None,
            ),
            (
                &[
                    "Scaled up replica set d-1 from 3 to 5",
                    "Scaled down replica set d-2 from 5 to 3",
                ],
                None,
            ),
            (&["something else"], None),
        ] {
            assert_eq!(scaled_up_and_back(&scaled(messages), "d", 3), expected, "{messages:?}");
        }
        assert_eq!(scaled_up_and_back(&scaled(&[start, up, down]), "other", 3), None);
    }

    #[test]
    fn pod_beyond_what_scaling_asked_for_replaces_another() {
        let mut events = scaled(&["Scaled up replica set d-1 from 0 to 2"]);
        let create = |n: i32| {
            let message = format!("Created pod: d-1-{n}");
            event("SuccessfulCreate", "ReplicaSet", "d-1", &message)
        };
        events.extend([create(1), create(2)]);
        assert_eq!(replaced(&events, "d"), 0);
        events.push(create(3));
        assert_eq!((replaced(&events, "d"), replaced(&events, "other")), (1, 0));
        events.extend(scaled(&["Scaled up replica set d-1 from 2 to 3"]));
        assert_eq!(replaced(&events, "d"), 0, "it was created to grow");
    }
}
