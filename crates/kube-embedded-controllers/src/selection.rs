//! Who belongs to whom: label selectors and controller references.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::Resource;
use std::collections::BTreeMap;

/// Labels or annotations.
pub(crate) type Labels = BTreeMap<String, String>;

/// Whether a selector takes these labels. An empty selector takes everything, as in Kubernetes; an
/// unknown operator nothing.
pub(crate) fn matches(selector: &LabelSelector, labels: Option<&Labels>) -> bool {
    let value = |key: &str| labels.and_then(|labels| labels.get(key));
    let mut pairs = selector.match_labels.iter().flatten();
    let mut expressions = selector.match_expressions.iter().flatten();
    pairs.all(|(key, wanted)| value(key) == Some(wanted))
        && expressions.all(|e| {
            let listed = |v: &String| e.values.iter().flatten().any(|wanted| wanted == v);
            match e.operator.as_str() {
                "In" => value(&e.key).is_some_and(listed),
                "NotIn" => !value(&e.key).is_some_and(listed),
                "Exists" => value(&e.key).is_some(),
                "DoesNotExist" => value(&e.key).is_none(),
                _ => false,
            }
        })
}

/// Whether a Service's selector takes these labels; one without any takes none.
pub(crate) fn matches_all(selector: Option<&Labels>, labels: Option<&Labels>) -> bool {
    selector.is_some_and(|selector| {
        !selector.is_empty()
            && selector
                .iter()
                .all(|(key, wanted)| labels.and_then(|labels| labels.get(key)) == Some(wanted))
    })
}

/// The reference to the one owner that controls an object.
pub(crate) fn controller(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// The name of the controlling owner, where it is of this kind.
pub(crate) fn controller_named<'a>(meta: &'a ObjectMeta, kind: &str) -> Option<&'a str> {
    controller(meta).filter(|owner| owner.kind == kind).map(|owner| owner.name.as_str())
}

/// Whether this uid controls an object.
pub(crate) fn is_controlled_by(meta: &ObjectMeta, uid: Option<&str>) -> bool {
    controller(meta).is_some_and(|owner| Some(owner.uid.as_str()) == uid)
}

/// The reference that makes `owner` control an object.
pub(crate) fn controlled_by<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.meta().name.clone().unwrap_or_default(),
        uid: owner.meta().uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// What a controller does about an object that it owns or might own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// It is ours.
    Ours,
    /// Nobody controls it and the selector takes it: make it ours.
    Adopt,
    /// It is ours, but the selector no longer takes it: let go of it.
    Release,
    /// It is none of our business.
    Foreign,
}

/// Kubernetes' `ControllerRefManager`: an owner on its way out adopts nothing, and neither owner nor
/// object is touched where the object is on its way out.
pub(crate) fn claim(owner: &ObjectMeta, selector: &LabelSelector, object: &ObjectMeta) -> Claim {
    let takes = matches(selector, object.labels.as_ref());
    let leaving = owner.deletion_timestamp.is_some() || object.deletion_timestamp.is_some();
    match controller(object) {
        Some(reference) if Some(&reference.uid) != owner.uid.as_ref() => Claim::Foreign,
        Some(_) if takes => Claim::Ours,
        Some(_) if owner.deletion_timestamp.is_some() => Claim::Foreign,
        Some(_) => Claim::Release,
        None if takes && !leaving => Claim::Adopt,
        None => Claim::Foreign,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()
    }

    #[test]
    fn selectors_take_what_they_say() {
        let have = labels(&[("app", "web"), ("env", "canary")]);
        let expression = |key: &str, operator: &str, values: &[&str]| LabelSelector {
            match_expressions: Some(vec![LabelSelectorRequirement {
                key: key.into(),
                operator: operator.into(),
                values: Some(values.iter().map(|v| (*v).to_owned()).collect()),
            }]),
            ..Default::default()
        };
        let pairs =
            |pairs| LabelSelector { match_labels: Some(labels(pairs)), ..Default::default() };
        let cases = [
            (LabelSelector::default(), true),
            (pairs(&[("app", "web")]), true),
            (pairs(&[("app", "web"), ("env", "production")]), false),
            (expression("env", "In", &["canary", "test"]), true),
            (expression("env", "NotIn", &["canary"]), false),
            (expression("tier", "NotIn", &["canary"]), true),
            (expression("app", "Exists", &[]), true),
            (expression("app", "DoesNotExist", &[]), false),
            (expression("app", "Near", &["web"]), false),
        ];
        for (selector, expected) in cases {
            assert_eq!(matches(&selector, Some(&have)), expected, "{selector:?}");
        }
        assert!(!matches_all(None, Some(&have)));
        assert!(!matches_all(Some(&labels(&[])), Some(&have)));
        assert!(matches_all(Some(&labels(&[("app", "web")])), Some(&have)));
    }

    #[test]
    fn claims() {
        let selector =
            LabelSelector { match_labels: Some(labels(&[("app", "web")])), ..Default::default() };
        let owner = ObjectMeta { uid: Some("me".into()), ..Default::default() };
        let object = |label: &str, controller: Option<&str>| ObjectMeta {
            labels: Some(labels(&[("app", label)])),
            owner_references: controller.map(|uid| {
                vec![OwnerReference {
                    uid: uid.into(),
                    controller: Some(true),
                    ..Default::default()
                }]
            }),
            ..Default::default()
        };
        let cases = [
            ("web", Some("me"), Claim::Ours),
            ("other", Some("me"), Claim::Release),
            ("web", Some("you"), Claim::Foreign),
            ("web", None, Claim::Adopt),
            ("other", None, Claim::Foreign),
        ];
        for (label, controller, expected) in cases {
            assert_eq!(claim(&owner, &selector, &object(label, controller)), expected);
        }
    }
}
