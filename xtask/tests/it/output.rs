//! Output that cannot be written: a closed pipe is quiet, a full disk is an error, and neither skips the
//! cleanup.

use super::{Fixture, exit};
use std::{
    fs::File,
    io::{self, Read},
    os::unix::ffi::OsStrExt,
    path::Path,
    process::{Command, Stdio},
};

const COMMANDS: [(&str, i32); 9] = [
    ("--help", 0),
    ("lab --help", 0),
    ("--version", 0),
    ("doctor --on embedded", 0),
    ("doctor --on embedded --json", 0),
    ("completions bash", 0),
    ("up", 0),
    ("status", 0),
    ("down", 0),
];

/// Returns a pipe that nobody reads.
fn closed_pipe() -> Stdio {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    writer.into()
}

#[test]
fn closed_pipes_are_no_error_and_no_panic() {
    let fixture = Fixture::new("closed-pipe");
    for (line, expected) in COMMANDS {
        let output = fixture.command(line).stdout(closed_pipe()).output().unwrap();
        let (code, text) = exit(output);
        assert_eq!((code, text.contains("panicked")), (expected, false), "{line}: {text}");
        // Both, as with `2>&1 | head -1`. The commands are in an order in which they can be repeated.
        let mut command = fixture.command(line);
        let status = command.stdout(closed_pipe()).stderr(closed_pipe()).status().unwrap();
        assert_eq!(status.code(), Some(expected), "{line}");
    }
    let mut command = fixture.command("lab phase4");
    command.env("FAKE_CLUSTER", "crash").env("FAKE_LABS", "wait");
    let status = command.stdout(closed_pipe()).stderr(closed_pipe()).status().unwrap();
    assert_eq!((status.code(), fixture.run_dirs()), (Some(3), 0));
    assert_eq!((fixture.alive("clusters"), fixture.alive("labs")), (0, 0));
}

#[test]
fn full_disk_is_an_error() {
    let fixture = Fixture::new("full-disk");
    for (line, _) in COMMANDS {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let (code, text) = exit(fixture.command(line).stdout(full).output().unwrap());
        assert_eq!(code, 3, "{line}: {text}");
        assert!(text.contains("failed to write to standard output: No space left"), "{text}");
    }
    assert_eq!(fixture.alive("clusters"), 0, "`down` did its work");
}

/// What `up` prints is a command.
#[test]
fn printed_command_works_in_a_shell_whatever_the_path() {
    let fixture = Fixture::new("quoting");
    let home = fixture.folder.join("it's a $HOME; `x` \"y\"");
    let run = |line: &str| fixture.command(line).env("CANARY_HOME", &home).output().unwrap();
    let printed = String::from_utf8(run("up").stdout).unwrap();
    let script = format!("{printed}printf %s \"$KUBECONFIG\"");
    let output = Command::new("sh").arg("-c").arg(script).output().unwrap();
    let expected = home.canonicalize().unwrap().join("clusters/embedded/kubeconfig");
    assert_eq!(Path::new(std::str::from_utf8(&output.stdout).unwrap()), expected);
    assert!(run("down").status.success());
}

#[test]
fn path_that_is_not_utf_8_is_rejected_with_what_to_do() {
    let fixture = Fixture::new("latin-1");
    let home = fixture.folder.join(std::ffi::OsStr::from_bytes(b"caf\xe9"));
    for line in ["up", "lab phase0", "status"] {
        let (code, text) = exit(fixture.command(line).env("CANARY_HOME", &home).output().unwrap());
        assert_eq!(code, 3, "{line}: {text}");
        assert!(text.contains(r#"caf\xE9" is not UTF-8; set CANARY_HOME"#), "{line}: {text}");
    }
}

/// Everything fits on a terminal of 80 columns.
#[test]
fn help_and_doctor_fit_80_columns() {
    let fixture = Fixture::new("columns");
    for line in
        ["--help", "lab --help", "up --help", "images --help", "env --help", "doctor --on kind"]
    {
        let mut output = String::new();
        let mut child = fixture.command(line).spawn().unwrap();
        child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
        child.wait().unwrap();
        // Paths and commands are not broken.
        let long = output.lines().filter(|line| line.chars().count() > 80);
        let long: Vec<&str> = long.filter(|line| !line.contains(['/', '`'])).collect();
        assert!(long.is_empty() && output.lines().count() > 3, "{line}: {long:#?}");
    }
}
