//! The one file, packed as `cargo xtask package` packs it, in a home of its own.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a helper that fails is a failure of its test"
)]

mod book;
mod fixture;

use fixture::Participant;
use std::fs;

#[test]
fn one_file_runs_a_lab_in_an_empty_home_and_names_itself() {
    let Some(participant) = Participant::new("lab") else { return };
    let (code, text) = participant.run(&["lab", "4"]);
    assert!(code == Some(0) && text.contains("every claim holds: 10 hold"), "{text}");
    for (arguments, expected) in [
        (&["--help"][..], "Usage: canary-labs <COMMAND>"),
        (&["status"], "`canary-labs up` starts one"),
        (&["explain", "0"], "$ canary-labs up"),
        (&["lab", "phase9"], "unknown phase `phase9`"),
        (&["ci"], "needs a checkout"),
        (&["package"], "needs a checkout"),
        (&["verify", "none.json", "--key", "00"], "none.json"),
        (&["keygen", "k"], ": canary-labs verify run.json --key k.pub"),
        (&["keygen", "k"], "k exists already"),
        (&["lab", "--help"], "of `keygen`"),
    ] {
        let (_, text) = participant.run(arguments);
        assert!(text.contains(expected) && !text.contains("cargo xtask"), "{arguments:?}: {text}");
    }
    // Its help has all of its commands, and none that needs a checkout; so do what is made of the help.
    let (_, help) = participant.run(&["--help"]);
    let (_, completions) = participant.run(&["completions", "bash"]);
    assert_eq!(participant.run(&["man", "man"]), (Some(0), String::new()));
    let man = |page: &str| fs::read_to_string(participant.home.join("man").join(page));
    let page = man("canary-labs.1").expect("the man page");
    for (name, is_shown) in [
        ("room", true),
        ("keygen", true),
        ("verify", true),
        ("manifests", true),
        ("book", true),
        ("prefetch", false),
        ("package", false),
        ("conformance", false),
    ] {
        assert_eq!(help.contains(&format!("\n  {name} ")), is_shown, "{name}: {help}");
        assert!(!is_shown || completions.contains(&format!("canary__labs,{name})")), "{name}");
        assert_eq!(
            page.contains(&format!("canary\\-labs\\-{name}(1)")),
            is_shown,
            "{name}: {page}"
        );
        assert_eq!(man(&format!("canary-labs-{name}.1")).is_ok(), is_shown, "{name}");
    }
    for text in [&help, &completions, &page, &man("canary-labs-env.1").expect("a page")] {
        assert!(!text.contains("cargo") && !text.contains("target/"), "{text}");
    }
    // The exercises are those in the file, and not those of a checkout that happens to be here.
    let (code, text) = participant.run(&["broken"]);
    assert!(code == Some(0) && text.lines().count() >= 16, "{text}");
    let installed = fs::read_dir(participant.home.join(".local/share/canary-labs"));
    let installed =
        installed.expect("a folder").next().expect("an installation").expect("it").path();
    fs::rename(installed.join("broken"), installed.join("away")).expect("renamed");
    let (code, text) = participant.run(&["broken"]);
    assert!(code == Some(3) && text.contains(".local/share/canary-labs"), "{text}");
    fs::rename(installed.join("away"), installed.join("broken")).expect("renamed");
    // Copies to work with, which replace nothing.
    for (copy, file) in [("manifests", "lb/app-lb.yml"), ("book", "canary.md")] {
        assert_eq!(participant.run(&[copy]), (Some(0), String::new()));
        assert!(participant.home.join(copy).join(file).is_file(), "{file}");
        let (code, text) = participant.run(&[copy]);
        let expected = format!("{copy} exists already; name another directory");
        assert!(code == Some(3) && text.contains(&expected), "{text}");
        assert_eq!(participant.run(&[copy, &format!("{copy}-2")]).0, Some(0));
    }
    // A file that was moved still finds its other names.
    participant.move_program();
    let (code, text) = participant.run(&["up"]);
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = participant.run(&["check", "3"]);
    assert!(code == Some(3) && text.contains("no namespace"), "{text}");
    let (code, text) = participant.run(&["broken", "1"]);
    assert!(code == Some(0) && text.contains("canary-labs broken 1 --check"), "{text}");
    let (code, text) = participant.run(&["broken", "1", "--check"]);
    assert!(code == Some(1) && text.contains("lb-finds-pods: "), "{text}");
    // Claims of an exercise may hold in another.
    let (code, text) = participant.run(&["broken", "2", "--check"]);
    assert!(code == Some(3) && text.contains("has the exercise 01-selector"), "{text}");
    let (code, text) = participant.run(&["broken", "1", "--hint", "4"]);
    assert!(code == Some(2) && text.contains("1..=3"), "{text}");
    let (code, text) = participant.run(&["down", "--yes"]);
    assert!(code == Some(0) && text.contains("down"), "{text}");
}

#[test]
fn program_without_an_installation_says_how_to_make_one() {
    let program = env!("CARGO_BIN_EXE_canary-labs");
    let output = std::process::Command::new(program).arg("up").output().expect("canary-labs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("carries no images; `cargo xtask package`"), "{text}");
}
