//! Where things are: the repository, what cargo built, and the folder that outlives a run.

use anyhow::{Context, Result};
use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// The folders of this checkout.
pub(crate) struct Project {
    /// The repository.
    pub(crate) root: PathBuf,
    /// Where cargo put this program, and puts `labs` and `kube-embedded` beside it.
    pub(crate) binaries: PathBuf,
    /// Cargo's target folder, wherever it was configured to be.
    pub(crate) target: PathBuf,
}

impl Project {
    /// Finds the folders of the checkout that this program was built from.
    pub(crate) fn find() -> Result<Self> {
        let manifest = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest.parent().context("xtask has no folder above it")?.to_owned();
        let program = env::current_exe().context("cannot find this program's own file")?;
        let binaries = program.parent().context("this program lies in no folder")?.to_owned();
        let target = binaries.parent().unwrap_or(&binaries).to_owned();
        Ok(Self { root, binaries, target })
    }

    /// The folder of the cluster that `up` starts, made if need be: `$CANARY_HOME`, else
    /// `target/canary`, else, where that cannot be written, the user's state folder.
    pub(crate) fn home(&self) -> Result<PathBuf> {
        if let Some(home) = set("CANARY_HOME") {
            return usable(&home).with_context(|| format!("CANARY_HOME={}", home.display()));
        }
        let near = self.target.join("canary");
        let user = set("XDG_STATE_HOME")
            .or_else(|| set("HOME").map(|home| home.join(".local/state")))
            .map(|state| state.join("canary-labs"));
        usable(&near).or_else(|near| match user {
            Some(user) => usable(&user).with_context(|| format!("after {near:#}")),
            None => Err(near),
        })
    }

    /// Failure folders of the labs.
    pub(crate) fn failures(&self) -> Result<PathBuf> {
        Ok(self.home()?.join("failures"))
    }
}

fn set(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Makes the folder and writes to it: permission bits alone do not tell of a read-only mount.
fn usable(folder: &Path) -> Result<PathBuf> {
    let problem = || {
        format!(
            "the folder {} cannot be written; set CANARY_HOME to one that can",
            folder.display()
        )
    };
    fs::create_dir_all(folder).with_context(problem)?;
    let probe = folder.join(format!(".writable-{}", std::process::id()));
    fs::write(&probe, "").with_context(problem)?;
    fs::remove_file(&probe).with_context(problem)?;
    folder.canonicalize().with_context(problem)
}
