//! The order of a group's versions
//! (`k8s.io/apimachinery/pkg/version.CompareKubeAwareVersionStrings`).

/// Returns a key by which versions sort in the order of Kubernetes' preference: `v2`, `v1`,
/// `v1beta2`, `v1alpha1`, others.
pub(crate) fn precedence(version: &str) -> (u8, std::cmp::Reverse<(u64, u64)>, String) {
    let number = |text: &str| text.parse::<u64>().ok().filter(|_| !text.starts_with('+'));
    let parsed = version.strip_prefix('v').and_then(|rest| {
        for (class, word) in [(1, "beta"), (2, "alpha")] {
            if let Some((major, minor)) = rest.split_once(word) {
                return Some((class, number(major)?, number(minor)?));
            }
        }
        Some((0, number(rest)?, 0))
    });
    match parsed {
        Some((class, major, minor)) => (class, std::cmp::Reverse((major, minor)), String::new()),
        None => (3, std::cmp::Reverse((0, 0)), version.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_sort_by_kubernetes_preference() {
        let mut versions =
            ["foo1", "v1alpha1", "v10", "v2", "v1beta2", "v11beta2", "v3beta1", "v1"];
        versions.sort_by_cached_key(|version| precedence(version));
        assert_eq!(
            versions,
            ["v10", "v2", "v1", "v11beta2", "v3beta1", "v1beta2", "v1alpha1", "foo1"]
        );
    }
}
