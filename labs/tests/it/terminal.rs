//! What commands print on a terminal of 80, 120 and 200 columns.

use crate::fixture::Fixture;
use std::io::Write as _;
use std::process::{Command, Stdio};

const WIDTHS: [usize; 3] = [80, 120, 200];

/// Runs `labs` on a pseudo-terminal of that width, with these keys, and returns the lines that stay.
fn terminal(columns: usize, arguments: &str, keys: &str) -> String {
    let labs = env!("CARGO_BIN_EXE_labs");
    let command = format!("stty cols {columns} rows 24 -echo; exec {labs} {arguments}");
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &command, "/dev/null"]);
    script.env("TERM", "xterm").env("NO_COLOR", "1").env("SHELL", "/bin/sh");
    let script = script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut script = script.expect("script");
    script.stdin.take().expect("standard input").write_all(keys.as_bytes()).expect("keys");
    let output = script.wait_with_output().expect("its output");
    let text = String::from_utf8(output.stdout).expect("UTF-8").replace("\r\n", "\n");
    // A line that is redrawn begins with a return, and those that stay erase it.
    let lines = text.split('\n').map(|line| line.rsplit("\x1b[K").next().unwrap_or(line));
    let lines = lines.filter(|line| !line.contains('\x1b'));
    lines.collect::<Vec<_>>().join("\n")
}

/// Asserts that lines fit, but for commands, which are not wrapped, and addresses.
fn assert_fits(text: &str, columns: usize) {
    // A key that is typed ahead may be echoed before the prompt that it is for.
    let text = text.replace("Ctrl-C to stop. ", "Ctrl-C to stop.\n");
    for line in
        text.lines().filter(|line| !line.contains(['$', '/']) && !line.starts_with("kubectl "))
    {
        assert!(line.chars().count() <= columns, "{columns}: {line}");
    }
}

fn script_is_missing() -> bool {
    let found = test_support::runs("script", &["--version"]);
    if !found {
        test_support::missing("script", "install util-linux");
    }
    !found
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_fit_a_terminal_of_any_width() {
    if script_is_missing() {
        return;
    }
    let fixture = Fixture::new().with_embedded_timeouts();
    let cluster = fixture.cluster().await;
    let environment = fixture.write_environment();
    let environment = format!("--environment {}", environment.display());
    let folder = environment_folder(&fixture);
    for columns in WIDTHS {
        let mut all = String::new();
        for (arguments, keys) in [
            ("list".to_owned(), ""),
            ("explain phase4".to_owned(), ""),
            ("broken".to_owned(), ""),
            (format!("broken 23 {environment}"), ""),
            (format!("broken 23 --hint 1 {environment}"), ""),
            (format!("broken 23 --solution {environment}"), ""),
            // Not created yet, and then empty.
            (format!("check phase4 --namespace none {environment}"), ""),
            (format!("check phase4 --namespace default {environment}"), ""),
            (format!("watch phase4 --namespace default {environment}"), "hhhnq"),
        ] {
            let text = terminal(columns, &arguments, keys);
            assert_fits(&text, columns);
            let shown = arguments.replace(&environment, "--environment FILE");
            all += &format!("$ labs {shown}\n{}\n\n", text.trim_end().replace(&folder, "FOLDER"));
        }
        insta::assert_snapshot!(format!("terminal_{columns}"), all);
    }
    cluster.stop().await;
}

fn environment_folder(fixture: &Fixture) -> String {
    fixture.environment.manifests.parent().expect("a folder").display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_fit_a_terminal_of_any_width() {
    if script_is_missing() {
        return;
    }
    let fixture = Fixture::new().with_embedded_timeouts();
    let cluster = fixture.cluster().await;
    let environment = fixture.write_environment();
    for columns in WIDTHS {
        // Enter before each step; what is left of them is read at the end.
        for (step, keys) in [("", ""), ("--step", "\n\n\n\n\n\n\n\n")] {
            let arguments = format!("run phase0 {step} --environment {}", environment.display());
            let text = terminal(columns, &arguments, keys);
            assert_fits(&text, columns);
            assert!(text.contains("every claim holds"), "{text}");
            assert_eq!(text.contains("Look at: "), !step.is_empty(), "{text}");
        }
    }
    cluster.stop().await;
}
