//! The version of Kubernetes that `kube-embedded` follows: what `GET /version`, nodes and probes report.
//!
//! To change it, also change the `k8s-openapi` feature in the workspace's `Cargo.toml`.

/// `1.36`, as a literal for `concat!`; elsewhere use the constants of [`version`](crate::version).
#[macro_export]
macro_rules! kubernetes_minor_version {
    () => {
        "1.36"
    };
}

/// `1`.
pub const MAJOR: &str = "1";
/// `36`.
pub const MINOR: &str = "36";
/// The oldest minor version that clients may expect to be emulated.
pub const MIN_COMPATIBILITY_MINOR: &str = "35";
/// `v1.36.2`.
pub const KUBERNETES_VERSION: &str = concat!("v", kubernetes_minor_version!(), ".2");
/// `1.36`.
pub const MINOR_VERSION: &str = kubernetes_minor_version!();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_agree_with_the_version() {
        assert_eq!(MINOR_VERSION, format!("{MAJOR}.{MINOR}"));
        assert!(KUBERNETES_VERSION.starts_with(&format!("v{MINOR_VERSION}.")));
        let oldest: u32 = MIN_COMPATIBILITY_MINOR.parse().unwrap();
        assert_eq!(oldest + 1, MINOR.parse::<u32>().unwrap());
    }
}
