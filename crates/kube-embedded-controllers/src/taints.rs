//! Taints of nodes and the tolerations of pods.

use k8s_openapi::api::core::v1::{Taint, Toleration};

/// Compares a toleration with a taint (`Toleration.ToleratesTaint`). An empty effect or key matches any.
pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let some = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let effect = some(&toleration.effect).is_none_or(|effect| effect == taint.effect);
    let key = some(&toleration.key);
    let value = match toleration.operator.as_deref() {
        Some("Exists") => true,
        None | Some("" | "Equal") => {
            key.is_some()
                && toleration.value.as_deref().unwrap_or_default()
                    == taint.value.as_deref().unwrap_or_default()
        }
        _ => false,
    };
    effect && value && key.is_none_or(|key| key == taint.key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toleration_matches_by_key_operator_value_and_effect() {
        let taint = |key: &str, value: &str, effect: &str| Taint {
            key: key.into(),
            value: Some(value.into()),
            effect: effect.into(),
            ..Default::default()
        };
        let toleration = |key: &str, operator: &str, value: &str, effect: &str| Toleration {
            key: (!key.is_empty()).then(|| key.into()),
            operator: Some(operator.into()),
            value: Some(value.into()),
            effect: (!effect.is_empty()).then(|| effect.into()),
            ..Default::default()
        };
        let cases = [
            (toleration("", "Exists", "", ""), true),
            (toleration("gpu", "Exists", "", "NoSchedule"), true),
            (toleration("gpu", "Equal", "yes", ""), true),
            (toleration("gpu", "Equal", "no", ""), false),
            (toleration("gpu", "Exists", "", "NoExecute"), false),
            (toleration("cpu", "Exists", "", ""), false),
            (toleration("", "Equal", "yes", ""), false),
        ];
        for (toleration, expected) in cases {
            let taint = taint("gpu", "yes", "NoSchedule");
            assert_eq!(tolerates(&toleration, &taint), expected, "{toleration:?}");
        }
    }
}
