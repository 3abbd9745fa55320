//! The layers of this workspace: which crate may depend on which, and that no files of a crate import
//! each other in a circle. Cargo forbids circles between crates, and this test forbids them within one.

mod accepted;
mod graph;
mod source;

use accepted::ACCEPTED_CIRCLES;
use graph::{Edge, circles};
use source::Crate;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The workspace crates that each crate may depend on, tests aside.
const ALLOWED_DEPENDENCIES: &[(&str, &[&str])] = &[
    ("kubeapp", &[]),
    ("oci-archive", &[]),
    ("lab-environment", &[]),
    ("test-support", &[]),
    ("kube-embedded-core", &[]),
    ("kube-embedded-apiserver", &["kube-embedded-core"]),
    // These see the API through `kube::Client` alone.
    ("kube-embedded-controllers", &["kube-embedded-core"]),
    ("kube-embedded-kubelet", &["kube-embedded-core", "oci-archive"]),
    ("kube-embedded-proxy", &["kube-embedded-core"]),
    (
        "kube-embedded",
        &[
            "kube-embedded-core",
            "kube-embedded-apiserver",
            "kube-embedded-controllers",
            "kube-embedded-kubelet",
            "kube-embedded-proxy",
        ],
    ),
    ("labs", &["lab-environment", "oci-archive"]),
    ("xtask", &["lab-environment", "oci-archive"]),
    // One file of all programs.
    ("canary-labs", &["kube-embedded", "labs", "xtask"]),
    // Benchmarks measure the parts by themselves.
    ("bench", &["kube-embedded", "kube-embedded-core", "kube-embedded-proxy"]),
];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Returns the directories of the workspace's members; `*` stands for each directory with a manifest.
fn members() -> Vec<PathBuf> {
    let manifest = fs::read_to_string(repository().join("Cargo.toml")).unwrap();
    let (_, list) = manifest.split_once("members = [").unwrap();
    let (list, _) = list.split_once(']').unwrap();
    let mut members = Vec::new();
    for member in list.split(',').map(|member| member.trim().trim_matches('"')) {
        match member.strip_suffix("/*") {
            _ if member.is_empty() => {}
            None => members.push(repository().join(member)),
            Some(parent) => {
                let entries = fs::read_dir(repository().join(parent)).unwrap();
                let folders = entries.map(|entry| entry.unwrap().path());
                members.extend(folders.filter(|folder| folder.join("Cargo.toml").exists()));
            }
        }
    }
    members.sort();
    members
}

/// Returns a package's name and its dependencies, those of tests and build scripts aside.
fn package(member: &Path) -> (String, Vec<String>) {
    let manifest = fs::read_to_string(member.join("Cargo.toml")).unwrap();
    let (mut section, mut name, mut dependencies) = ("", String::new(), Vec::new());
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
        }
        let key = line.split(['=', '.', ' ']).next().unwrap_or_default();
        match section {
            "[package]" if key == "name" => {
                name = line.split('"').nth(1).unwrap_or_default().to_owned();
            }
            _ if line.starts_with(['[', '#']) || line.is_empty() => {}
            _ if section.ends_with("dependencies]")
                && !section.contains("dev-")
                && !section.contains("build-") =>
            {
                dependencies.push(key.to_owned());
            }
            _ => {}
        }
    }
    (name, dependencies)
}

#[test]
fn crates_depend_only_on_the_layers_below() {
    let packages: Vec<_> = members().iter().map(|member| package(member)).collect();
    let names: BTreeSet<&str> = packages.iter().map(|(name, _)| &**name).collect();
    let allowed: BTreeMap<_, _> = ALLOWED_DEPENDENCIES.iter().copied().collect();
    assert!(names.contains("xtask") && names.contains("kube-embedded-core"), "{names:?}");
    for (name, dependencies) in &packages {
        let allowed = allowed.get(&**name);
        let allowed = allowed.unwrap_or_else(|| panic!("add {name} to ALLOWED_DEPENDENCIES"));
        for dependency in dependencies.iter().filter(|dependency| names.contains(&***dependency)) {
            assert!(allowed.contains(&&**dependency), "{name} must not depend on {dependency}");
        }
    }
}

#[test]
fn files_of_a_crate_do_not_import_each_other_in_circles() {
    let (mut problems, mut list) = (Vec::new(), Vec::new());
    for member in members() {
        let (name, _) = package(&member);
        let edges = Crate::read(&member).edges();
        let mut accepted: BTreeMap<&str, &str> = BTreeMap::new();
        for (_, files, reason) in ACCEPTED_CIRCLES.iter().filter(|(of, ..)| *of == name) {
            assert!(!reason.is_empty(), "{name}: no reason for {files}");
            accepted.extend(files.split(' ').map(|file| (file, *reason)));
        }
        for circle in circles(&edges) {
            let reason =
                circle.iter().map(|file| accepted.get(&**file)).collect::<Option<Vec<_>>>();
            match reason.as_deref() {
                Some([reason, ..]) => list.push(entry(&name, &circle, reason)),
                _ => problems.push(format!("{name}: a circle of {}", describe(&circle, &edges))),
            }
            accepted.retain(|file, _| !circle.contains(*file));
        }
        let stale: Vec<&str> = accepted.into_keys().collect();
        if !stale.is_empty() {
            problems.push(format!("{name}: no longer in a circle: {}", stale.join(" ")));
        }
    }
    let (problems, list) = (problems.join("\n"), list.concat());
    assert!(problems.is_empty(), "{problems}\nThe list without what no longer exists:\n{list}");
}

fn entry(name: &str, circle: &BTreeSet<String>, reason: &str) -> String {
    let files = circle.iter().cloned().collect::<Vec<_>>().join(" ");
    format!("    (\"{name}\", \"{files}\", \"{reason}\"),\n")
}

/// Describes a circle by what each file uses of the others.
fn describe(circle: &BTreeSet<String>, edges: &[Edge]) -> String {
    let inside =
        edges.iter().filter(|edge| circle.contains(&edge.from) && circle.contains(&edge.to));
    let lines = inside.map(|Edge { from, to, item }| format!("    {from} -> {to} ({item})"));
    format!("{} files:\n{}", circle.len(), lines.collect::<Vec<_>>().join("\n"))
}
