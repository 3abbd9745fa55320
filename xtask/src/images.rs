//! `cargo xtask images`: the app's two versions as images, built without Docker.
//!
//! The app is compiled once a version (its dependencies once in all), statically and small, and
//! packed as [`archive`] says. What was built is remembered with a digest of everything that went
//! in, so that a warm run does not even ask cargo.

pub(crate) mod archive;
pub(crate) mod credentials;
pub(crate) mod pull_secret;
pub(crate) mod push;

use crate::{
    cargo::{self, Docker, Progress},
    cluster::{self, outside::House},
    flags,
    lock::Lock,
    process::Signals,
    project::Project,
    tool::Tools,
};
use anyhow::{Context, Result, ensure};
use oci_archive::Digest;
use serde::{Deserialize, Serialize};
use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Stable first.
pub(crate) const VERSIONS: [&str; 2] = ["1.0", "2.0"];

/// One image on disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Image {
    /// `1.0`.
    pub(crate) version: String,
    /// `kubeapp:1.0`.
    pub(crate) name: String,
    /// Of the image's manifest.
    pub(crate) digest: String,
    /// The archive.
    pub(crate) archive: PathBuf,
    /// Bytes of the archive.
    pub(crate) size: u64,
    /// The archive, made a second time.
    pub(crate) rebuilt: PathBuf,
    /// The program inside.
    pub(crate) binary: PathBuf,
    /// The one input in which the versions differ.
    pub(crate) build_input: String,
}

/// What `target/images/stamp.json` remembers.
#[derive(Serialize, Deserialize)]
struct Stamp {
    inputs: String,
    images: Vec<Image>,
}

pub(crate) fn run(flags: &flags::Images) -> Result<()> {
    match &flags.subcommand {
        flags::ImagesCmd::Build(flags) => run_build(flags),
        flags::ImagesCmd::Load(flags) => load(flags),
        flags::ImagesCmd::Push(flags) => {
            let registry = push::Registry::of(&flags.registry)?;
            let images = build(&Project::find()?, Progress::Shown)?;
            let signals = Signals::block()?;
            let tools = Tools::new(&signals, None);
            images.iter().try_for_each(|image| push::push(&registry, image, &tools))
        }
    }
}

fn run_build(flags: &flags::Build) -> Result<()> {
    let project = Project::find()?;
    let images = build(&project, Progress::Shown)?;
    for image in &images {
        println!("{}  {}  {}", image.name, image.digest, bytes(image.size));
    }
    let Some(folder) = &flags.out else {
        println!("in {}", folder(&project).display());
        return Ok(());
    };
    fs::create_dir_all(folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    for image in &images {
        let to = folder.join(image.archive.file_name().unwrap_or_default());
        fs::copy(&image.archive, &to).with_context(|| format!("cannot write {}", to.display()))?;
        println!("{}", to.display());
    }
    Ok(())
}

/// Hands the images to a cluster of `up`.
fn load(flags: &flags::Load) -> Result<()> {
    let provider = cluster::provider(flags.on.as_deref())?;
    let project = Project::find()?;
    let images = build(&project, Progress::Shown)?;
    match provider {
        cluster::Provider::Embedded => {
            // It reads the archives' folder when it starts.
            println!("the embedded cluster has them from its next start on");
            Ok(())
        }
        cluster::Provider::Outside(provider) => {
            let signals = Signals::block()?;
            // It may have an edge to be started again.
            cargo::binaries(&project, Docker::Without)?;
            House::of(&project.home()?, provider)?.supply(&project, &images, &signals)
        }
    }
}

/// Where the archives lie: a folder that a cluster can be pointed at.
pub(crate) fn folder(project: &Project) -> PathBuf {
    project.target.join("images")
}

/// The images of the sources as they are now, built if need be.
pub(crate) fn build(project: &Project, progress: Progress) -> Result<Vec<Image>> {
    let folder = folder(project);
    let second = folder.join("rebuilt");
    let stamp = folder.join("stamp.json");
    let inputs = inputs(project)?;
    if let Some(images) = remembered(&stamp, &inputs) {
        return Ok(images);
    }
    fs::create_dir_all(&second).with_context(|| {
        format!(
            "cannot make the folder {}: images need a target folder that can be written",
            second.display()
        )
    })?;
    // Both versions leave cargo under one name: two builds at a time would mix them up.
    let _lock = Lock::wait(&folder.join(".lock"))?;
    // Another run may have built them meanwhile.
    if let Some(images) = remembered(&stamp, &inputs) {
        return Ok(images);
    }
    let mut images = Vec::new();
    for version in VERSIONS {
        let built = compile(project, version, progress)?;
        let binary = folder.join(format!("kubeapp-{version}"));
        let program = read(&built)?;
        replace(&binary, &program)?;
        fs::set_permissions(&binary, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .with_context(|| format!("cannot make {} executable", binary.display()))?;
        images.push(image(&folder, version, &binary)?);
    }
    replace(&stamp, &serde_json::to_vec_pretty(&Stamp { inputs, images: images.clone() })?)?;
    Ok(images)
}

/// Packs a binary twice, for the archive and for the claim that this is reproducible.
fn image(folder: &Path, version: &str, binary: &Path) -> Result<Image> {
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

fn remembered(stamp: &Path, inputs: &str) -> Option<Vec<Image>> {
    let stamp: Stamp = serde_json::from_slice(&fs::read(stamp).ok()?).ok()?;
    let whole = |image: &Image| {
        [&image.archive, &image.rebuilt]
            .iter()
            .all(|file| fs::metadata(file).is_ok_and(|m| m.len() == image.size))
            && image.binary.is_file()
    };
    let current = stamp.inputs == inputs || cargo::prebuilt();
    (current && stamp.images.iter().all(whole)).then_some(stamp.images)
}

/// Compiles the app and answers where the binary is.
fn compile(project: &Project, version: &str, progress: Progress) -> Result<PathBuf> {
    let host = host()?;
    // Encoded flags win over RUSTFLAGS of the caller, which would change the binary. The paths of
    // this machine do not belong into it, or two checkouts would not give the same digest.
    let cargo_home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".cargo")))
        .unwrap_or_default();
    let mut rustflags = OsString::from("-C\x1ftarget-feature=+crt-static");
    for (from, to) in [(&cargo_home, "/cargo"), (&project.root, "/src")] {
        rustflags.push("\x1f--remap-path-prefix=");
        rustflags.push(from);
        rustflags.push("=");
        rustflags.push(to);
    }
    let mut command = cargo::command(project);
    command
        .args(["build", "--package", "kubeapp", "--profile", "image", "--target", &host])
        .arg("--target-dir")
        .arg(&project.target)
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags)
        .env("KUBEAPP_VERSION", version);
    cargo::run(command, progress, &format!("kubeapp {version}"))?;
    Ok(project.target.join(host).join("image/kubeapp"))
}

/// The compiler's own target, for which alone a toolchain surely has a standard library.
fn host() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(&rustc).arg("-vV").output().context("cannot run rustc")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("`rustc -vV` does not name its host")?.to_owned();
    ensure!(
        host.contains("-linux-"),
        "the images hold a Linux program, and this compiler builds for {host}: run on Linux or WSL2"
    );
    Ok(host)
}

/// One digest of all that decides what the images are.
fn inputs(project: &Project) -> Result<String> {
    let mut files = vec![];
    for file in ["Cargo.toml", "Cargo.lock", "rust-toolchain.toml", "app/Cargo.toml"] {
        files.push(project.root.join(file));
    }
    list(&project.root.join("app/src"), &mut files)?;
    files.sort();
    let mut all = Vec::new();
    for file in files.iter().filter(|file| file.is_file()) {
        all.extend_from_slice(file.as_os_str().as_encoded_bytes());
        all.extend_from_slice(Digest::of(read(file)?).to_string().as_bytes());
    }
    // How it is compiled, by this file, and packed, by a sample.
    all.extend_from_slice(include_bytes!("images.rs"));
    all.extend_from_slice(&archive::pack(b"sample", "0")?.bytes);
    // The compiler is told by size and time: to read it takes longer than all of a warm start.
    if let Some(cargo) = std::env::var_os("CARGO") {
        let about = fs::metadata(&cargo).with_context(|| format!("cannot look at {cargo:?}"))?;
        all.extend_from_slice(
            format!("{cargo:?} {} {:?}", about.len(), about.modified()?).as_bytes(),
        );
    }
    Ok(Digest::of(all).to_string())
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder)
        .with_context(|| format!("cannot read the folder {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() { list(&path, files)? } else { files.push(path) }
    }
    Ok(())
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

/// Writes a file so that nobody ever reads half of it.
fn replace(file: &Path, bytes: &[u8]) -> Result<()> {
    let part = file.with_added_extension("part");
    fs::write(&part, bytes)
        .and_then(|()| fs::rename(&part, file))
        .with_context(|| format!("cannot write {}", file.display()))
}

/// `1.41 MB`, as registries count.
fn bytes(n: u64) -> String {
    format!("{:.2} MB", n as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_binary_is_named() {
        let missing = Path::new("/nonexistent/kubeapp");
        let error = image(Path::new("/nonexistent"), "1.0", missing).unwrap_err();
        assert!(
            format!("{error:#}").starts_with("cannot read /nonexistent/kubeapp: "),
            "{error:#}"
        );
    }
}
