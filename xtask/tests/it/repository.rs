//! Rules of this repository that no compiler checks: pinned actions, and versions that two files name.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
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

/// The feature sets with which a selection of packages compiles each dependency.
type Features = BTreeMap<String, BTreeSet<String>>;

fn features(selection: &[&str]) -> Features {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "--edges", "normal,build", "--prefix", "none"])
        .args(["--format", "{p}|{f}"])
        .args(selection)
        .current_dir(repository())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut all = Features::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let Some((package, features)) = line.split_once('|') else { continue };
        let package = package.trim_end_matches(" (proc-macro)");
        // Our own crates are named with their path, and may differ.
        if !package.contains('/') {
            all.entry(package.to_owned()).or_default().insert(features.replace(" (*)", ""));
        }
    }
    all
}

/// Holds the lists "not used here" of xtask's and labs' manifests to their purpose: the first command of a
/// newcomer builds xtask, then the labs and the cluster, and a dependency with other features in one of
/// them would be compiled twice.
#[test]
fn dependencies_have_the_same_features_in_every_build() {
    let labs = features(&["-p", "kube-embedded", "-p", "labs"]);
    for (name, other) in [
        ("xtask", features(&["-p", "xtask"])),
        ("docker", features(&["-p", "kube-embedded", "-p", "labs", "-F", "labs/docker"])),
    ] {
        for (package, sets) in other {
            let Some(expected) = labs.get(&package) else { continue };
            let shared = sets.intersection(expected).next().is_some();
            assert!(shared, "{package}: {sets:?} for {name}, {expected:?} for the labs");
        }
    }
}
