//! Names by which the labs' objects are recognized on a cluster.

/// The namespace of the article, which every lab works in.
pub(crate) const NAMESPACE: &str = "production";
/// Label and value of everything that the labs create outside of manifests.
pub(crate) const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "canary-labs");
/// The field manager of the labs' writes, as `metadata.managedFields` shows it.
pub(crate) const FIELD_MANAGER: &str = "canary-labs";
