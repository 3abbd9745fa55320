//! Rules of this repository that no compiler checks: pinned actions, versions that two files name, links of the
//! documentation and the tests that it names.

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

/// Returns all files with that extension but what was built or fetched.
fn sources(extension: &str) -> Vec<PathBuf> {
    let (mut all, mut folders) = (Vec::new(), vec![repository()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().as_encoded_bytes();
            let is_skipped =
                [&b"target"[..], b"node_modules"].contains(&name) || name.starts_with(b".");
            match path.is_dir() {
                true if is_skipped => {}
                true => folders.push(path),
                false if path.extension().is_some_and(|found| found == extension) => all.push(path),
                false => {}
            }
        }
    }
    all
}

/// Returns what a link to a heading has behind its `#`.
fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || " -_".contains(*c);
    heading.trim().to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")
}

#[test]
fn links_of_the_docs_lead_to_files_and_headings() {
    let mut links = 0;
    for file in sources("md") {
        let text = fs::read_to_string(&file).unwrap();
        let targets = text.split("](").skip(1).filter_map(|part| part.split_once(')'));
        for (target, _) in targets.filter(|(target, _)| !target.contains(':')) {
            let (path, heading) = target.split_once('#').unwrap_or((target, ""));
            let to = match path {
                "" => file.clone(),
                path => file.parent().unwrap().join(path),
            };
            assert!(to.exists(), "{}: {target}", file.display());
            links += 1;
            if !heading.is_empty() {
                let text = fs::read_to_string(&to).unwrap();
                let headings = text.lines().filter(|line| line.starts_with('#'));
                let found = headings.map(|line| anchor(line.trim_start_matches('#')));
                assert!(found.into_iter().any(|a| a == heading), "{}: {target}", file.display());
            }
        }
    }
    assert!(links > 50, "{links}");
}

#[test]
fn tests_that_the_docs_name_exist() {
    let functions: BTreeSet<String> = sources("rs")
        .iter()
        .flat_map(|file| {
            let text = fs::read_to_string(file).unwrap();
            let named = text.split("fn ").skip(1).filter_map(|part| part.split_once('('));
            named.map(|(name, _)| name.to_owned()).collect::<Vec<_>>()
        })
        .collect();
    let text = fs::read_to_string(repository().join("SECURITY.md")).unwrap();
    let is_test = |name: &&str| {
        let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_…".contains(c);
        name.matches('_').count() > 2 && name.chars().all(known)
    };
    let named: Vec<&str> = text.split('`').skip(1).step_by(2).filter(is_test).collect();
    assert!(named.len() > 40, "{named:?}");
    for name in named {
        let exists = match name.strip_suffix('…') {
            Some(start) => functions.iter().any(|function| function.starts_with(start)),
            None => functions.contains(name),
        };
        assert!(exists, "SECURITY.md names the test {name}");
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
