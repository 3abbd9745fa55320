//! Tools that a test needs and that a machine may lack.

use std::{fs::OpenOptions, io::Write as _, process::Command};

/// Returns true if the tool is available. Otherwise the test is skipped with a line on standard error
/// and in the file that `CANARY_TESTS_SKIPPED_FILE` names.
///
/// # Panics
/// If the tool is missing, `CI` is set, and `CANARY_TESTS_WITHOUT` (comma separated) does not list it.
pub(crate) fn require(tool: &str) -> bool {
    if is_available(tool) {
        return true;
    }
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let without = variable("CANARY_TESTS_WITHOUT").unwrap_or_default();
    let expected = without.split(',').any(|name| name.trim() == tool);
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    assert!(
        variable("CI").is_none() || expected,
        "{test} needs {tool}; install it, or list it in CANARY_TESTS_WITHOUT"
    );
    let line = format!("skipped: {test} needs {tool}");
    eprintln!("{line}");
    if let Some(file) = variable("CANARY_TESTS_SKIPPED_FILE") {
        let file = OpenOptions::new().create(true).append(true).open(file);
        writeln!(file.expect("the file for skipped tests"), "{line}").expect("a written line");
    }
    false
}

fn is_available(tool: &str) -> bool {
    let mut command = Command::new(tool);
    match tool {
        // The client alone is not enough: the engine has to respond.
        "docker" => command.args(["version", "--format", "{{.Server.Version}}"]),
        _ => command.arg("--version"),
    };
    command.output().is_ok_and(|output| output.status.success())
}
