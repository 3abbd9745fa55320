//! Names by which the labs' objects are recognized on a cluster, and that of the program that people type.

use std::borrow::Cow;
use std::sync::OnceLock;

/// The namespace of the article, which every lab works in.
pub(crate) const NAMESPACE: &str = "production";
/// Label and value of everything that the labs create outside of manifests.
pub(crate) const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "canary-labs");
/// The field manager of the labs' writes, as `metadata.managedFields` shows it.
pub(crate) const FIELD_MANAGER: &str = "canary-labs";

static PROGRAM: OnceLock<&str> = OnceLock::new();

/// Names the command that people type in place of `cargo xtask`, where there is no checkout. The first call counts.
pub fn set_program(name: &'static str) {
    _ = PROGRAM.set(name);
}

/// Returns true if the labs are those of an installation, without a checkout.
pub(crate) fn is_installation() -> bool {
    PROGRAM.get().is_some()
}

/// Names the program that the user typed. Every text names `cargo xtask`, which is the program unless this is an
/// installation.
pub(crate) fn in_terms_of_program(text: &str) -> Cow<'_, str> {
    match PROGRAM.get() {
        Some(program) => text.replace("cargo xtask", program).into(),
        None => text.into(),
    }
}
