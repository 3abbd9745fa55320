//! Names by which the labs' objects are recognized on a cluster, and that of the program that people type.

use std::borrow::Cow;
use std::sync::OnceLock;

/// The namespace of the article, which every lab works in.
pub(crate) const NAMESPACE: &str = "production";
/// Label and value of everything that the labs create outside of manifests.
pub(crate) const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "canary-labs");
/// The field manager of the labs' writes, as `metadata.managedFields` shows it.
pub(crate) const FIELD_MANAGER: &str = "canary-labs";

/// The commands that `cargo xtask` leaves to the labs, since they need no cluster.
pub const WITHOUT_CLUSTER: [&str; 3] = ["room", "keygen", "verify"];

static PROGRAM: OnceLock<&str> = OnceLock::new();

/// Names the command that people type in place of `cargo xtask`, where there is no checkout. The first call counts.
pub fn set_program(name: &'static str) {
    _ = PROGRAM.set(name);
}

/// Returns true if the labs are those of an installation, without a checkout.
pub(crate) fn is_installation() -> bool {
    PROGRAM.get().is_some()
}

/// Names the program that the user typed. Every text names `cargo xtask`, or `labs` with a command that needs no cluster,
/// which are the programs unless this is an installation.
pub(crate) fn in_terms_of_program(text: &str) -> Cow<'_, str> {
    match PROGRAM.get() {
        Some(program) => in_terms_of(program, text).into(),
        None => text.into(),
    }
}

fn in_terms_of(program: &str, text: &str) -> String {
    let mut text = text.replace("cargo xtask", program);
    for command in WITHOUT_CLUSTER {
        // Not the end of a name such as `canary-labs`.
        for before in [' ', '`'] {
            let (from, to) =
                (format!("{before}labs {command}"), format!("{before}{program} {command}"));
            text = text.replace(&from, &to);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_of_a_checkout_is_that_of_the_installation() {
        for (text, expected) in [
            ("`cargo xtask up` starts one", "`canary-labs up` starts one"),
            ("as `labs keygen` prints", "as `canary-labs keygen` prints"),
            ("with k: labs verify run.json", "with k: canary-labs verify run.json"),
            ("canary-labs verify; the labs keep", "canary-labs verify; the labs keep"),
        ] {
            assert_eq!(in_terms_of("canary-labs", text), expected);
        }
    }
}
