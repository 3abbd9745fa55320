//! Tools that some tests need. In CI a missing tool fails the test, unless `CANARY_TESTS_WITHOUT` lists
//! it (comma separated). Elsewhere the test is skipped, which is printed and appended to the file that
//! `CANARY_TESTS_SKIPPED_FILE` names.

use super::provider_fixture::which;
use std::{env, fs::OpenOptions, io::Write as _, path::Path, thread};

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
    let thread = thread::current();
    let line = format!("skipped: {} needs {tool}", thread.name().unwrap_or("a test"));
    let without = env::var("CANARY_TESTS_WITHOUT").unwrap_or_default();
    let excused = without.split(',').any(|listed| listed.trim() == tool);
    assert!(excused || env::var_os("CI").is_none(), "{line}, or list it in CANARY_TESTS_WITHOUT");
    eprintln!("{line}");
    if let Some(file) = env::var_os("CANARY_TESTS_SKIPPED_FILE") {
        let mut file = OpenOptions::new().create(true).append(true).open(file).unwrap();
        writeln!(file, "{line}").unwrap();
    }
}

/// Returns the directory of the app's own images.
pub(crate) fn images() -> std::path::PathBuf {
    Path::new(env!("CARGO_BIN_EXE_xtask")).parent().unwrap().with_file_name("images")
}
