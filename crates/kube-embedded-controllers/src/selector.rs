//! Label selectors.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use std::collections::BTreeMap;

/// Labels or annotations.
pub(crate) type Labels = BTreeMap<String, String>;

/// Returns `true` if the selector matches these labels. An empty selector matches everything, as in
/// Kubernetes; an unknown operator nothing.
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

/// Returns `true` if a Service's selector matches these labels. A missing or empty one matches
/// nothing.
pub(crate) fn service_matches(selector: Option<&Labels>, labels: Option<&Labels>) -> bool {
    selector.is_some_and(|selector| {
        !selector.is_empty()
            && selector
                .iter()
                .all(|(key, wanted)| labels.and_then(|labels| labels.get(key)) == Some(wanted))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()
    }

    #[test]
    fn selector_with_each_operator_matches_as_in_kubernetes() {
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
        assert!(!service_matches(None, Some(&have)));
        assert!(!service_matches(Some(&labels(&[])), Some(&have)));
        assert!(service_matches(Some(&labels(&[("app", "web")])), Some(&have)));
    }
}
