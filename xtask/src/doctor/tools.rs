//! Checks of programs: installed, and which version.

use super::check::{CheckContext, Depth, Finding};
use crate::exec::install;
use std::{
    env,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Stdio},
};

/// Checks kubectl.
pub(crate) fn kubectl(context: &CheckContext) -> Finding {
    version(context, "kubectl", &["version", "--client"])
}

/// Checks the `docker` command.
pub(crate) fn docker(context: &CheckContext) -> Finding {
    version(context, "docker", &["--version"])
}

/// Checks curl.
pub(crate) fn curl(context: &CheckContext) -> Finding {
    version(context, "curl", &["--version"])
}

/// Checks that a program is installed and reports its version.
pub(crate) fn version(context: &CheckContext, program: &str, arguments: &[&str]) -> Finding {
    if !is_installed(program) {
        return Finding::bad(format!("{program} is not installed"))
            .with_fix(install::hint(program));
    }
    match context.depth {
        Depth::Preflight => Finding::ok("installed"),
        Depth::Full => match first_line(program, arguments) {
            // curl lists all its libraries; the name and the version are enough.
            Some(text) if !text.is_empty() => Finding::ok(text.split(" (").next().unwrap_or(&text)),
            _ => Finding::note(format!("{program} is installed but reports no version")),
        },
    }
}

/// Returns the first line that a program prints, if it succeeds.
pub(crate) fn first_line(program: &str, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    let output =
        command.args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    output.status.success().then(|| text.lines().next().unwrap_or_default().trim().to_owned())
}

/// Returns true if a shell would find the program.
pub(crate) fn is_installed(program: &str) -> bool {
    let folders = env::var_os("PATH").unwrap_or_default();
    let is_program = |file: PathBuf| {
        file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    env::split_paths(&folders).any(|folder| is_program(folder.join(program)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_looked_up_like_a_shell_does() {
        assert!(is_installed("sh"));
        assert!(!is_installed("canary-labs-no-such-program") && !is_installed(""));
        assert_eq!(first_line("sh", &["-c", "echo one; echo two"]).as_deref(), Some("one"));
        assert_eq!(first_line("sh", &["-c", "exit 1"]), None);
    }
}
