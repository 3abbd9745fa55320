//! Builds the app's two versions as images, without Docker.
//!
//! The app is compiled once per version (its dependencies once in all), statically and small, and
//! packed as an OCI image archive. A stamp records a digest of all inputs, so that a warm run does not
//! even start cargo.

use super::{Image, VERSIONS, archive};
use crate::{
    cargo::{self, Progress},
    lock::Lock,
    output::errln,
    project::Project,
};
use anyhow::{Context, Result, ensure};
use oci_archive::Digest;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    env,
    ffi::OsString,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Instant,
};
use xshell::{Shell, cmd};

/// The content of `target/images/stamp.json`.
#[derive(Serialize, Deserialize)]
struct Stamp {
    inputs: String,
    images: Vec<Image>,
}

/// Returns the images of the current sources and builds them if necessary.
pub(crate) fn build(project: &Project, progress: Progress) -> Result<Vec<Image>> {
    let folder = project.images();
    let rebuilt = folder.join("rebuilt");
    let stamp = folder.join("stamp.json");
    if cargo::prebuilt() {
        return prebuilt(&folder, &stamp);
    }
    let inputs = inputs(project)?;
    if let Some(images) = up_to_date(&stamp, &inputs) {
        return Ok(images);
    }
    fs::create_dir_all(&rebuilt).with_context(|| {
        format!("failed to create {}: images need a writable target directory", rebuilt.display())
    })?;
    // Both versions leave cargo under the same name, so concurrent builds would mix them up.
    let _lock = Lock::wait(&folder.join(".lock"))?;
    // Another run may have built them while this one waited.
    if let Some(images) = up_to_date(&stamp, &inputs) {
        return Ok(images);
    }
    let began = Instant::now();
    errln!(
        "building the images kubeapp:{} (the first time takes about a minute)…",
        VERSIONS.join(" and ")
    );
    let mut images = Vec::new();
    for version in VERSIONS {
        let built = compile(project, version, progress)?;
        let binary = folder.join(format!("kubeapp-{version}"));
        let program = read(&built)?;
        replace(&binary, &program)?;
        fs::set_permissions(&binary, PermissionsExt::from_mode(0o755))
            .with_context(|| format!("failed to make {} executable", binary.display()))?;
        images.push(pack(&folder, version, &binary)?);
    }
    errln!("built the images in {:.0} s", began.elapsed().as_secs_f64());
    replace(&stamp, &serde_json::to_vec_pretty(&Stamp { inputs, images: images.clone() })?)?;
    Ok(images)
}

/// Packs a binary twice: the archive, and a second one for the claim that builds are reproducible.
fn pack(folder: &Path, version: &str, binary: &Path) -> Result<Image> {
    let file = format!("kubeapp-{version}.tar");
    let (archive, rebuilt) = (folder.join(&file), folder.join("rebuilt").join(&file));
    let packed = archive::pack(&read(binary)?, version)?;
    replace(&archive, &packed.bytes)?;
    replace(&rebuilt, &archive::pack(&read(binary)?, version)?.bytes)?;
    Ok(Image {
        version: version.into(),
        name: format!("kubeapp:{version}"),
        digest: packed.digest.to_string(),
        archive,
        size: packed.bytes.len() as u64,
        rebuilt,
        binary: binary.to_owned(),
        build_input: format!("KUBEAPP_VERSION={version}"),
    })
}

fn up_to_date(stamp: &Path, inputs: &str) -> Option<Vec<Image>> {
    let stamp: Stamp = serde_json::from_slice(&fs::read(stamp).ok()?).ok()?;
    let complete = |image: &Image| {
        [&image.archive, &image.rebuilt]
            .iter()
            .all(|file| fs::metadata(file).is_ok_and(|m| m.len() == image.size))
            && image.binary.is_file()
    };
    (stamp.inputs == inputs && stamp.images.iter().all(complete)).then_some(stamp.images)
}

/// Returns the images of a folder that may have been copied from another machine.
fn prebuilt(folder: &Path, stamp: &Path) -> Result<Vec<Image>> {
    let read: Stamp = serde_json::from_slice(&read(stamp)?)
        .with_context(|| format!("{} is damaged", stamp.display()))?;
    // The stamp names where they were built.
    let here = |recorded: PathBuf, name: String| {
        let copied = folder.join(name);
        if copied.is_file() { copied } else { recorded }
    };
    let here = |image: Image| Image {
        archive: here(image.archive, format!("kubeapp-{}.tar", image.version)),
        rebuilt: here(image.rebuilt, format!("rebuilt/kubeapp-{}.tar", image.version)),
        binary: here(image.binary, format!("kubeapp-{}", image.version)),
        ..image
    };
    let images: Vec<Image> = read.images.into_iter().map(here).collect();
    for file in images.iter().flat_map(|image| [&image.archive, &image.rebuilt, &image.binary]) {
        ensure!(file.is_file(), "{} is missing", file.display());
    }
    Ok(images)
}

/// Compiles the app and returns the path of its binary.
fn compile(project: &Project, version: &str, progress: Progress) -> Result<PathBuf> {
    let host = host()?;
    let mut command = cargo::command(project);
    command
        .args(["build", "--package", "kubeapp", "--profile", "image", "--target", &host])
        .arg("--target-dir")
        .arg(&project.target)
        .env("CARGO_ENCODED_RUSTFLAGS", static_flags(project))
        .env("KUBEAPP_VERSION", version);
    cargo::run(command, progress, &format!("kubeapp {version}"))?;
    Ok(project.target.join(host).join("image/kubeapp"))
}

/// Returns the flags of static programs. Encoded flags take precedence over the caller's RUSTFLAGS, which would
/// change the binary. Paths of this machine are remapped, or two checkouts would not produce the same digest.
pub(crate) fn static_flags(project: &Project) -> OsString {
    let cargo_home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cargo")))
        .unwrap_or_default();
    let mut rustflags = OsString::from("-C\x1ftarget-feature=+crt-static");
    for (from, to) in [(&cargo_home, "/cargo"), (&project.root, "/src")] {
        rustflags.push("\x1f--remap-path-prefix=");
        rustflags.push(from);
        rustflags.push("=");
        rustflags.push(to);
    }
    rustflags
}

/// Returns the compiler's own target: the only one with a standard library for certain.
pub(crate) fn host() -> Result<String> {
    let shell = Shell::new()?;
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let text = cmd!(shell, "{rustc} -vV").read().context("failed to run rustc")?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("`rustc -vV` does not name its host")?.to_owned();
    ensure!(
        host.contains("-linux-"),
        "the images contain a Linux program, and this compiler builds for {host}; use Linux or WSL2"
    );
    Ok(host)
}

/// Returns one digest of all inputs that determine the images.
fn inputs(project: &Project) -> Result<String> {
    let mut files = vec![];
    for file in ["Cargo.toml", "rust-toolchain.toml", "app/Cargo.toml"] {
        files.push(project.root.join(file));
    }
    list(&project.root.join("app/src"), &mut files)?;
    files.sort();
    let mut all = Vec::new();
    for file in files.iter().filter(|file| file.is_file()) {
        all.extend_from_slice(file.as_os_str().as_encoded_bytes());
        all.extend_from_slice(Digest::of(read(file)?).to_string().as_bytes());
    }
    let lock = String::from_utf8_lossy(&read(&project.root.join("Cargo.lock"))?).into_owned();
    all.extend_from_slice(locked(&lock, "kubeapp").join("\n").as_bytes());
    // This file decides how they are compiled, and a packed sample shows how they are packed.
    all.extend_from_slice(include_bytes!("build.rs"));
    all.extend_from_slice(&archive::pack(b"sample", "0")?.bytes);
    // The compiler is identified by size and time: hashing it takes longer than all of a warm start.
    if let Some(cargo) = env::var_os("CARGO") {
        let metadata = fs::metadata(&cargo).with_context(|| format!("failed to stat {cargo:?}"))?;
        all.extend_from_slice(
            format!("{cargo:?} {} {:?}", metadata.len(), metadata.modified()?).as_bytes(),
        );
    }
    Ok(Digest::of(all).to_string())
}

/// Returns the entries of `Cargo.lock` that a package depends on, its own included: most changes of that
/// file concern other programs.
fn locked<'a>(lock: &'a str, package: &'a str) -> Vec<&'a str> {
    let entries: Vec<&str> = lock.split("[[package]]").skip(1).map(str::trim).collect();
    let (mut found, mut open) = (BTreeSet::new(), vec![package]);
    while let Some(dependency) = open.pop() {
        // `name`, or `name version` where there are several.
        let (name, version) = dependency.split_once(' ').unwrap_or((dependency, ""));
        let wanted = |entry: &&&str| {
            field(entry, "name") == Some(name)
                && (version.is_empty() || field(entry, "version") == Some(version))
        };
        for entry in entries.iter().filter(wanted) {
            if found.insert(*entry) {
                let lines = entry.lines().filter_map(|line| line.strip_prefix(" \""));
                open.extend(lines.map(|line| line.trim_end_matches(',').trim_end_matches('"')));
            }
        }
    }
    found.into_iter().collect()
}

/// Returns the value of a field of an entry.
fn field<'a>(entry: &'a str, name: &str) -> Option<&'a str> {
    let value = entry.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = \""));
    value.map(|value| value.trim_end_matches('"'))
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("failed to list {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() { list(&path, files)? } else { files.push(path) }
    }
    Ok(())
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("failed to read {}", file.display()))
}

/// Replaces a file atomically, so that no reader ever sees half of it.
fn replace(file: &Path, bytes: &[u8]) -> Result<()> {
    let part = file.with_added_extension("part");
    fs::write(&part, bytes)
        .and_then(|()| fs::rename(&part, file))
        .with_context(|| format!("failed to write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_locked_versions_of_dependencies_are_inputs() {
        let lock = |tokio: &str, other: &str| {
            format!(
                "version = 4\n\n[[package]]\nname = \"kubeapp\"\nversion = \"1\"\ndependencies = [\n \
                 \"tokio\",\n \"syn 2\",\n]\n\n[[package]]\nname = \"other\"\nversion = \
                 \"{other}\"\n\n[[package]]\nname = \"syn\"\nversion = \"1\"\n\n[[package]]\nname = \
                 \"syn\"\nversion = \"2\"\n\n[[package]]\nname = \"tokio\"\nversion = \
                 \"{tokio}\"\ndependencies = [\n \"kubeapp\",\n]\n"
            )
        };
        let (one, other, two) = (lock("1.0", "1"), lock("1.0", "2"), lock("1.1", "1"));
        let of = |lock| locked(lock, "kubeapp");
        assert_eq!(of(&one).len(), 3, "{:?}", of(&one));
        assert_eq!(of(&one), of(&other));
        assert_ne!(of(&one), of(&two));
    }

    #[test]
    fn missing_binary_is_named_in_the_error() {
        let missing = Path::new("/nonexistent/kubeapp");
        let error = pack(Path::new("/nonexistent"), "1.0", missing).unwrap_err();
        assert!(
            format!("{error:#}").starts_with("failed to read /nonexistent/kubeapp: "),
            "{error:#}"
        );
    }
}
