//! Laws that hold for every object and patch.

use jiff::Timestamp;
use proptest::{collection::btree_map, option, prelude::*, sample::subsequence};
use serde_json::{Map, Value, json};

use super::*;
use crate::resources::{registry, resource_type::ResourceType};

fn deployments() -> &'static ResourceType<'static> {
    registry::find("apps", "v1", "deployments").unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + seconds).unwrap()
}

/// The object as it is stored, but for `managedFields`: the pipeline removes empty lists.
fn stored_content(object: &Value) -> Value {
    let mut object = object.clone();
    deployments().object_schema().normalize(&mut object);
    object["metadata"].as_object_mut().unwrap().remove("managedFields");
    object
}

/// Any JSON with scalars of a strategy.
fn json_of(leaf: impl Strategy<Value = Value> + 'static) -> impl Strategy<Value = Value> {
    let object = |inner: BoxedStrategy<Value>| {
        btree_map("[a-d]", inner, 0..4)
            .prop_map(|fields| Value::Object(fields.into_iter().collect()))
    };
    let any = leaf.prop_recursive(3, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            object(inner.boxed()),
        ]
    });
    object(any.boxed())
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<bool>().prop_map(Value::from),
        (-3..3).prop_map(Value::from),
        "[a-c]{0,2}".prop_map(Value::from),
    ]
}

/// An object without nulls: a merge patch cannot set a field to null.
fn any_object() -> impl Strategy<Value = Value> {
    json_of(scalar())
}

/// A merge patch, in which null removes a field.
fn any_patch() -> impl Strategy<Value = Value> {
    json_of(prop_oneof![3 => scalar(), 1 => Just(Value::Null)])
}

/// A deployment of all that differs in merging: a map, a keyed list, an atomic list, a set and
/// scalars.
fn deployment() -> impl Strategy<Value = Value> {
    let small = || (0..3).prop_map(|n: i32| n.to_string());
    let container = (small(), option::of(small()), option::of(small()));
    (
        btree_map("[a-c]", small(), 0..3),
        subsequence(vec!["x/1", "x/2", "x/3"], 0..=3),
        0..4,
        subsequence(vec!["a", "b", "c"], 1..=3).prop_shuffle(),
        prop::collection::vec(container, 3),
    )
        .prop_map(|(labels, finalizers, replicas, names, containers)| {
            let containers: Vec<Value> = names
                .iter()
                .zip(containers)
                .map(|(name, (image, arg, env))| {
                    let mut container = json!({ "name": name, "image": image });
                    if let Some(arg) = arg {
                        container["args"] = json!([arg]);
                    }
                    if let Some(env) = env {
                        container["env"] = json!([{ "name": "X", "value": env }, { "name": "Y" }]);
                    }
                    container
                })
                .collect();
            json!({
                "metadata": { "name": "d", "labels": labels, "finalizers": finalizers },
                "spec": {
                    "replicas": replicas,
                    "template": { "spec": { "containers": containers } },
                },
            })
        })
}

/// The merge patch that makes one object of another (RFC 7386 in reverse).
fn difference(from: &Value, to: &Value) -> Value {
    let (Value::Object(from), Value::Object(to)) = (from, to) else { return to.clone() };
    let mut patch = Map::new();
    for name in from.keys().filter(|name| !to.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    for (name, value) in to {
        match from.get(name) {
            Some(old) if old == value => {}
            Some(old) => {
                patch.insert(name.clone(), difference(old, value));
            }
            None => {
                patch.insert(name.clone(), value.clone());
            }
        }
    }
    Value::Object(patch)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn merge_patch_of_the_difference_yields_the_other_object(
        one in any_object(),
        two in any_object(),
    ) {
        let mut merged = one.clone();
        merge(&mut merged, &difference(&one, &two));
        prop_assert_eq!(merged, two);
    }

    #[test]
    fn merge_patch_is_idempotent(target in any_object(), patch in any_patch()) {
        let mut once = target;
        merge(&mut once, &patch);
        let mut twice = once.clone();
        merge(&mut twice, &patch);
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn json_patch_of_the_difference_yields_the_other_object(
        one in any_object(),
        two in any_object(),
    ) {
        let patch = serde_json::to_value(json_patch::diff(&one, &two)).unwrap();
        let mut patched = one;
        prop_assert_eq!(json(&mut patched, &patch), Ok(()));
        prop_assert_eq!(patched, two);
    }

    #[test]
    fn empty_strategic_merge_patch_changes_nothing(object in deployment()) {
        let mut patched = object.clone();
        strategic(deployments(), &mut patched, &json!({})).unwrap();
        prop_assert_eq!(patched, object);
    }

    #[test]
    fn strategic_merge_patch_of_an_object_with_itself_changes_nothing(object in deployment()) {
        let mut patched = object.clone();
        strategic(deployments(), &mut patched, &object).unwrap();
        prop_assert_eq!(patched, object);
    }

    #[test]
    fn strategic_merge_patch_is_idempotent(target in deployment(), patch in deployment()) {
        let mut once = target;
        strategic(deployments(), &mut once, &patch).unwrap();
        let mut twice = once.clone();
        strategic(deployments(), &mut twice, &patch).unwrap();
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn second_apply_of_the_same_object_is_a_noop(live in deployment(), applied in deployment()) {
        let resource = deployments();
        let first = apply(resource, None, &live, "one", false, "", at(0)).unwrap();
        prop_assert_eq!(&apply(resource, Some(&first), &live, "one", false, "", at(9)).unwrap(), &first);
        // Also on top of another manager's fields.
        let taken = apply(resource, Some(&first), &applied, "two", true, "", at(1)).unwrap();
        let again = apply(resource, Some(&taken), &applied, "two", false, "", at(9)).unwrap();
        prop_assert_eq!(again, taken);
    }

    #[test]
    fn only_manager_gets_exactly_the_object_it_applies(one in deployment(), two in deployment()) {
        let resource = deployments();
        let live = apply(resource, None, &one, "one", false, "", at(0)).unwrap();
        let changed = apply(resource, Some(&live), &two, "one", false, "", at(1)).unwrap();
        let created = apply(resource, None, &two, "one", false, "", at(1)).unwrap();
        prop_assert_eq!(stored_content(&changed), stored_content(&created));
    }

    #[test]
    fn update_without_a_change_keeps_managed_fields(object in deployment()) {
        let resource = deployments();
        let mut stored = object;
        track_update(resource, None, &mut stored, "one", Operation::Update, "", at(0));
        let mut written = stored.clone();
        track_update(resource, Some(&stored), &mut written, "two", Operation::Update, "", at(1));
        prop_assert_eq!(written, stored);
    }
}
