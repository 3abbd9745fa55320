//! The time that a pod may stay on a tainted node.

use crate::taints::tolerates;
use k8s_openapi::api::core::v1::{Taint, Toleration};
use std::time::Duration;

/// Returns how long a pod with these tolerations stays on a node with these `NoExecute` taints; `None` if it may stay
/// for good. Of several tolerations that have a time, the shortest counts (`getMinTolerationTime`).
pub(super) fn toleration_time(taints: &[Taint], tolerations: &[Toleration]) -> Option<Duration> {
    let of = |taint: &Taint| tolerations.iter().filter(|t| tolerates(t, taint)).cloned().collect();
    let used: Vec<Vec<Toleration>> = taints.iter().map(of).collect();
    if used.iter().any(Vec::is_empty) {
        return Some(Duration::ZERO);
    }
    // For each taint the first that matches, as in `GetMatchingTolerations`.
    let seconds = used.iter().filter_map(|used| used.first()?.toleration_seconds).min()?;
    Some(Duration::from_secs(seconds.try_into().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_that_of_the_shortest_toleration() {
        let taint =
            |key: &str| Taint { key: key.into(), effect: "NoExecute".into(), ..Default::default() };
        let tolerates = |key: &str, seconds: Option<i64>| Toleration {
            key: Some(key.into()),
            operator: Some("Exists".into()),
            toleration_seconds: seconds,
            ..Default::default()
        };
        let cases: [(&[&str], &[(&str, Option<i64>)], Option<u64>); 7] = [
            (&[], &[], None),
            (&["a"], &[], Some(0)),
            (&["a"], &[("b", None)], Some(0)),
            (&["a"], &[("a", None)], None),
            (&["a"], &[("a", Some(-5))], Some(0)),
            (&["a", "b"], &[("a", Some(9)), ("b", Some(5))], Some(5)),
            (&["a", "b"], &[("a", Some(9)), ("b", None)], Some(9)),
        ];
        for (taints, tolerations, expected) in cases {
            let all: Vec<Taint> = taints.iter().map(|key| taint(key)).collect();
            let tolerations: Vec<Toleration> =
                tolerations.iter().map(|(key, seconds)| tolerates(key, *seconds)).collect();
            let expected = expected.map(Duration::from_secs);
            assert_eq!(toleration_time(&all, &tolerations), expected, "{taints:?} {tolerations:?}");
        }
    }
}
