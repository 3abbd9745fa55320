//! Rules of this repository that no compiler checks: pinned actions, and versions that two files name.

use std::{
    fs,
    path::{Path, PathBuf},
};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn files(folder: &Path, all: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, all) } else { all.push(path) }
    }
}

#[test]
fn actions_are_pinned_by_commit_with_their_version() {
    let mut all = Vec::new();
    files(&repository().join(".github"), &mut all);
    let mut pinned = 0;
    for file in all {
        let text = fs::read_to_string(&file).unwrap();
        for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
            let Some((_, action)) = line.split_once("uses: ") else { continue };
            if action.starts_with("./") {
                continue;
            }
            let (_, pin) = action.split_once('@').unwrap_or_default();
            let (commit, version) = pin.split_once(" # v").unwrap_or_default();
            let is_commit = commit.len() == 40 && commit.bytes().all(|b| b.is_ascii_hexdigit());
            assert!(is_commit && !version.is_empty(), "{}: {line}", file.display());
            pinned += 1;
        }
        if file.parent().is_some_and(|folder| folder.ends_with("workflows")) {
            let least = text.contains("\npermissions:\n  contents: read\n");
            assert!(least, "{}: no least permissions", file.display());
        }
    }
    assert!(pinned > 5);
}

#[test]
fn docs_name_the_pinned_versions() {
    let read = |path: &str| fs::read_to_string(repository().join(path)).unwrap();
    let page = read("docs/providers.md");
    let mut found = 0;
    for file in ["kind", "k3s"] {
        for line in read(&format!("xtask/src/providers/{file}.rs")).lines() {
            let Some((_, version)) = line.split_once(":v1.") else { continue };
            let version = version.split(['-', '@', '"']).next().unwrap_or_default();
            assert!(page.contains(&format!("v1.{version}")), "v1.{version} of {file}");
            found += 1;
        }
    }
    assert!(found >= 4);
    for provider in ["embedded", "kind", "k3s", "minikube", "gke", "current"] {
        assert!(page.contains(&format!("| `{provider}` |")), "{provider}");
    }
}
