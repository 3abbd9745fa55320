//! The directories of this checkout: the repository, what cargo built, and the state that outlives a
//! run. Or those of an installation, which has the same without a repository.

use crate::files;
use anyhow::{Context, Result, ensure};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process,
    sync::OnceLock,
};

/// A folder with `bin/labs`, `bin/kube-embedded`, `images/`, `manifests/`, `app/`, `broken/` and `book/`, in place of a checkout.
#[derive(Debug)]
pub struct Installation {
    /// The folder.
    pub folder: PathBuf,
    /// The command that a person types, in place of `cargo xtask`.
    pub program: &'static str,
    /// Its commands besides those here, for help, completions and man pages.
    pub commands: Vec<clap::Command>,
}

static INSTALLATION: OnceLock<Installation> = OnceLock::new();

impl Installation {
    /// Lets the commands of this process work on the installation. The first call counts.
    pub fn select(self) {
        _ = INSTALLATION.set(self);
    }

    /// Returns the one that was selected.
    pub(crate) fn selected() -> Option<&'static Self> {
        INSTALLATION.get()
    }
}

/// The directories of this checkout.
pub(crate) struct Project {
    /// The repository.
    pub(crate) root: PathBuf,
    /// Where cargo put this program, and puts `labs` and `kube-embedded` next to it.
    pub(crate) binaries: PathBuf,
    /// Cargo's target directory, wherever it is configured to be.
    pub(crate) target: PathBuf,
}

impl Project {
    /// Finds the checkout that this program was built from.
    pub(crate) fn find() -> Result<Self> {
        if let Some(Installation { folder, .. }) = Installation::selected() {
            ensure_text(folder, "set CANARY_HOME to another directory")?;
            let (root, target) = (folder.clone(), folder.clone());
            return Ok(Self { root, binaries: folder.join("bin"), target });
        }
        let manifest = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest.parent().context("xtask has no parent directory")?.to_owned();
        let program = env::current_exe().context("failed to find this program's own file")?;
        let binaries = program.parent().context("this program is in no directory")?.to_owned();
        let target = binaries.parent().unwrap_or(&binaries).to_owned();
        ensure_text(&root, "move the checkout")?;
        ensure_text(&target, "set CARGO_TARGET_DIR to another directory")?;
        Ok(Self { root, binaries, target })
    }

    /// Returns the state directory and creates it: `$CANARY_HOME`, else `target/canary`, else, where
    /// that is not writable, the user's state directory.
    pub(crate) fn home(&self) -> Result<PathBuf> {
        if let Some(home) = env_path("CANARY_HOME") {
            ensure_text(&home, "set CANARY_HOME to another directory")?;
            return writable(&home).with_context(|| format!("CANARY_HOME={}", home.display()));
        }
        let local = Installation::selected().is_none().then(|| self.target.join("canary"));
        let user = env_path("XDG_STATE_HOME")
            .or_else(|| env_path("HOME").map(|home| home.join(".local/state")))
            .map(|state| state.join("canary-labs"))
            .filter(|state| state.to_str().is_some());
        let local = local.context("there is no checkout").and_then(|local| writable(&local));
        local.or_else(|first| match user {
            Some(user) => writable(&user).with_context(|| format!("after {first:#}")),
            None => Err(first.context("set CANARY_HOME to a writable directory")),
        })
    }

    /// Returns the directory for the diagnostics of failed labs, which contain logs and objects.
    pub(crate) fn failures(&self) -> Result<PathBuf> {
        let failures = self.home()?.join("failures");
        files::private_directory(&failures)?;
        Ok(failures)
    }

    /// Returns the directory of the image archives, which a cluster can be pointed at.
    pub(crate) fn images(&self) -> PathBuf {
        self.target.join("images")
    }

    /// Returns the path of a program of this workspace.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.binaries.join(name)
    }
}

/// Rejects a path that is not UTF-8: JSON, YAML and image references cannot contain it.
fn ensure_text(path: &Path, hint: &str) -> Result<()> {
    ensure!(path.to_str().is_some(), "the path {path:?} is not UTF-8; {hint}");
    Ok(())
}

fn env_path(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Creates the directory and writes to it: permission bits alone do not reveal a read-only mount.
fn writable(directory: &Path) -> Result<PathBuf> {
    let problem = || {
        format!(
            "failed to write to {}; set CANARY_HOME to a writable directory",
            directory.display()
        )
    };
    fs::create_dir_all(directory).with_context(problem)?;
    let probe = directory.join(format!(".writable-{}", process::id()));
    fs::write(&probe, "").with_context(problem)?;
    fs::remove_file(&probe).with_context(problem)?;
    directory.canonicalize().with_context(problem)
}
