//! Parsing, and snapshots of the help and the lists.

use super::*;
use clap::error::ErrorKind;
use std::path::Path;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    let words = std::iter::once("labs").chain(line.split_whitespace());
    Cli::try_parse_from(words).map_err(with_suggestion)
}

fn run_flags(line: &str) -> RunFlags {
    match parse(line).unwrap().command {
        Some(Command::Run(flags)) => flags,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn definition_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn misspelled_word_gets_a_suggestion() {
    for (line, suggestion) in [
        ("run phase44 --environment e", "phase4"),
        ("run fase3 --environment e", "phase3"),
        ("run al --environment e", "all"),
        ("explain pahse2", "phase2"),
        ("rnu phase4", "run"),
        ("run phase4 --enviroment e", "--environment"),
        ("run phase4/quater-to-canary --environment e", "quarter-to-canary"),
        ("run pahse4/quarter-to-canary --environment e", "phase4"),
        ("run all/scales --environment e", "all"),
    ] {
        let error = parse(line).unwrap_err().to_string();
        assert!(error.contains(&format!("'{suggestion}'")), "{line}: {error}");
    }
    let error = parse("run phase4/x --environment e").unwrap_err().to_string();
    assert!(error.contains("[possible values: canary-differs-by-env, "), "{error}");
    let error = parse("run something-else --environment e").unwrap_err().to_string();
    assert!(error.contains("phase0, phase1"), "{error}");
}

#[test]
fn selected_labs_are_ordered_and_unique() {
    let names =
        |flags: &RunFlags| -> Vec<_> { flags.selected().iter().map(|lab| lab.name).collect() };
    let flags = run_flags("run phase4 phase3 phase4 --environment e --json");
    assert_eq!(names(&flags), ["phase3", "phase4"]);
    assert!(flags.json && !flags.keep);
    assert_eq!(flags.failures, Path::new("lab-failures"));
    let flags = run_flags("run all --environment e --keep --failures f --exit-with-stdin");
    assert_eq!(names(&flags).len(), phases::ALL.len());
    assert!(flags.keep && flags.exit_with_stdin);
    assert_eq!(flags.failures, Path::new("f"));
}

#[test]
fn missing_argument_is_named() {
    for (line, part) in [
        ("run phase4", "--environment <FILE>"),
        ("run --environment e", "<LAB>"),
        ("run phase4 --environment", "a value is required"),
        ("explain", "<LAB>"),
        ("list --yaml", "--yaml"),
        ("bench-sampler x", "<SECONDS>"),
    ] {
        let error = parse(line).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line}");
        assert!(error.to_string().contains(part), "{line}: {error}");
    }
}

#[test]
fn help_and_version_exit_successfully() {
    for line in ["--help", "-h", "help", "help run", "run --help", "--version", "-V"] {
        let error = parse(line).unwrap_err();
        assert_eq!(error.exit_code(), 0, "{line}");
    }
    let error = parse("--version").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DisplayVersion);
    assert_eq!(error.to_string(), format!("labs {}\n", env!("CARGO_PKG_VERSION")));
    assert!(parse("").unwrap().command.is_none());
}

#[test]
fn help_matches_snapshot() {
    let mut command = Cli::command().term_width(100);
    insta::assert_snapshot!("help", command.render_help().to_string());
    command.build();
    let run = command.find_subcommand_mut("run").unwrap();
    insta::assert_snapshot!("help_run", run.render_long_help().to_string());
}

#[test]
fn list_matches_snapshot() {
    insta::assert_snapshot!("list", list::as_text(None));
}

#[test]
fn every_lab_is_explained_with_its_claims() {
    for lab in phases::ALL {
        let text = list::explanation(lab, TARGET, None);
        assert!(text.contains(lab.summary) && text.contains(lab.article));
        assert!(help_footer().contains(lab.title));
        for claim in lab.claims {
            assert!(text.contains(claim.sentence) && list::as_json().contains(claim.id));
        }
    }
}
