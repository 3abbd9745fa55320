//! Tools that some tests need; see `test_support` for what happens without them.

use super::provider_fixture::which;
use std::path::Path;

/// Returns true if the tool is available: a program on the PATH, a program of this workspace, or
/// `images`, the app's own. Else the calling test has to return.
pub(crate) fn require(tool: &str) -> bool {
    let binaries = Path::new(env!("CARGO_BIN_EXE_xtask")).parent().unwrap();
    let available = match tool {
        "labs" | "kube-embedded" => binaries.join(tool).exists(),
        "images" => {
            images().join("kubeapp-2.0.tar").exists() && images().join("stamp.json").exists()
        }
        program => which(program).is_some(),
    };
    if !available {
        skip(tool);
    }
    available
}

/// Reports that the calling test is skipped, as this machine lacks the tool.
pub(crate) fn skip(tool: &str) {
    test_support::missing(tool, "see `cargo xtask doctor`");
}

/// Returns the directory of the app's own images.
pub(crate) fn images() -> std::path::PathBuf {
    Path::new(env!("CARGO_BIN_EXE_xtask")).parent().unwrap().with_file_name("images")
}
